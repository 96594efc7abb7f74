"""MODEL_CARD.md: what a model is for and what it was measured to do.

In the order of https://huggingface.co/docs/hub/model-cards. Nothing in it is written by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from multitask.config import Config
from multitask.evaluation.tasks import Evaluation
from multitask.privacy import hide_secrets
from multitask.spec import ModelSpec, Task
from multitask.storage import replacing

# Of more answers than these a card names the number only.
_NAMED = 30


def write_model_card(
    path: Path,
    spec: ModelSpec,
    config: Config,
    evaluation: Evaluation,
    manifest: Mapping[str, Any],
    rows: Mapping[str, int],
    notes: Sequence[str],
) -> None:
    """Write the card.

    Args:
        path: the file.
        spec, config: of the run.
        evaluation: on the test split.
        manifest: how the run was made.
        rows: per split.
        notes: what a reader should keep in mind.
    """
    height, width = spec.image.height, spec.image.width
    split = ", ".join(f"{count:,} {part}" for part, count in rows.items())
    frozen = {"all": "frozen", "none": "trained"}.get(spec.freeze, f"frozen up to {spec.freeze}")
    sections = {
        "Model details": [
            f"- {spec.backbone}, weights {Path(spec.weights).name}, {frozen}; images of {height} x {width} pixels",
            f"- {spec.members} networks on one frozen side, their scores averaged" if spec.members > 1 else "",
            f"- trained in {manifest['seconds']:,.0f} seconds, seed {manifest['seed']}, {manifest['precision']}",
            "- " + ", ".join(f"{name} {version}" for name, version in manifest["versions"].items()),
        ],
        "Uses": ["It answers of one photo:\n", *_questions(spec.tasks)],
        "Training data": [
            f"- labels {hide_secrets(config.data.labels)}, images {hide_secrets(', '.join(config.data.images))}",
            f"- rows: {split}; {manifest['rows_in_quarantine']:,} rows were not used, see quarantine.parquet",
            f"- rows of one {' or '.join(config.data.group_columns)} are in one split"
            * bool(config.data.group_columns),
            f"- digest of rows, images and split: `{manifest['data'][:16]}`",
        ],
        "Training procedure": [
            f"- {config.fit.optimizer}, learning rate {config.fit.learning_rate:g}, batches of {config.fit.batch_size}",
            f"- {manifest['epochs']} epochs, of which {manifest['best_epoch']} was best; then calibrated",
            ("- augmentation: " + ", ".join(operation.op for operation in config.augment)) * bool(config.augment),
        ],
        "Evaluation": [
            "On the test split, which took no part in training or choices; 95% intervals. The baseline never looks at",
            "the image.\n",
            *_table(["task", "figure", "value", "interval", "baseline"], evaluation.table()),
        ],
        "Thresholds": _thresholds(spec.tasks),
        "Bias, risks and limitations": [
            *(f"- {note}" for note in notes),
            "- Figures hold for photos like those it was tested on; of others nothing is known.",
            "- It always answers with one of its own classes, also of a photo that shows none of them.",
        ],
    }
    lines = [f"# {path.parent.name}", ""]
    for heading, text in sections.items():
        if any(text):
            lines += [f"## {heading}", "", *filter(None, text), ""]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


def _questions(tasks: Iterable[Task]) -> list[str]:
    words = {"multiclass": "one of", "multilabel": "each of, there or not:", "regression": "the numbers"}
    lines = []
    for task in tasks:
        named = (
            ", ".join(task.classes) if len(task.classes) <= _NAMED else f"{len(task.classes)} answers, see spec.json"
        )
        lines.append(f"- **{task.name}**: {words[task.kind]} {named}")
    return lines


def _thresholds(tasks: Iterable[Task]) -> list[str]:
    rows = [
        [task.name, tag, f"{threshold:.4f}", task.threshold_by if task.threshold is None else "given"]
        for task in tasks
        if task.thresholds or task.threshold
        for tag, threshold in zip(task.classes, task.settled_thresholds(), strict=True)
    ]
    return _table(["task", "tag", "threshold", "by"], rows) if rows and len(rows) <= _NAMED else []


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
