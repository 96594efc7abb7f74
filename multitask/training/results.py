"""What a training leaves behind: scores, thresholds, metrics, the model, plots and the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from multitask.audit import splits
from multitask.config import Config
from multitask.data.cells import as_names
from multitask.errors import command
from multitask.evaluation import plots
from multitask.evaluation.assessment import GROUP_PREFIX, answer_figures, label_counts, write_details
from multitask.evaluation.kinds import EVALUATORS
from multitask.evaluation.report import write_report
from multitask.evaluation.tasks import Evaluation, evaluate_tasks, validation_score, verdict, weak_heads
from multitask.explaining.reasons import explain_answers
from multitask.features.preparation import Prepared
from multitask.monitoring.profile import write_profile
from multitask.network.heads import HEADS
from multitask.network.model import Network, build_network
from multitask.network.weights import set_weights
from multitask.privacy import hide_secrets
from multitask.progress import Progress
from multitask.runs import RunFolder
from multitask.spec import SPLIT_COLUMNS, ModelSpec
from multitask.storage import replacing
from multitask.style import save_plots
from multitask.training.checkpoints import History
from multitask.training.manifest import facts_of, manifest_of, notes_on
from multitask.training.model_card import write_model_card
from multitask.training.scoring import Arrays, Held, score_frame, score_split, sight_of


def write_results(
    prepared: Prepared,
    config: Config,
    constants: Mapping[str, NDArray[np.float32]],
    history: History,
    folder: RunFolder,
    progress: Progress,
    started: float,
    held: Held,
    figures: Mapping[str, Figure] = {},
) -> ModelSpec:
    """Choose thresholds, evaluate, save the model and everything that explains it; return the spec with thresholds.

    A run that has `metrics.json` is finished: model and figures are on disk before anything is drawn.

    Args:
        prepared, config, constants, history, folder, progress, started: of the training.
        held: what the network was calibrated on and thresholds are chosen on.
        figures: to be drawn beside the others.
    """
    test = prepared.rows("test")
    spec = _settled(prepared, constants, held)
    tested = score_split(prepared, "test")
    scores = tested.scores
    train_labels = prepared.labels(prepared.rows("train"))
    groups = prepared.groups[test]
    evaluation = evaluate_tasks(spec, prepared.labels(test), scores, train_labels, config.fit.seed, groups)
    _write_tables(prepared, config, folder)
    _write_scores(prepared, spec, {"validation": held, "test": tested}, folder)
    spec.save(folder / "spec.json")
    network = _save_model(prepared, folder)
    score = validation_score(spec, prepared.labels(held.rows), held.scores)["score"]
    manifest = manifest_of(prepared, config, constants, history, held, score, started)
    folder.write_json("manifest.json", manifest)
    details = write_details(spec, prepared.labels(test), scores, evaluation, folder.directory)
    folder.write_json("metrics.json", evaluation.as_dict())
    progress.say("plots and report")
    try:
        _explain(prepared, network, config, spec, scores, evaluation, details, history, manifest, folder, figures)
        write_profile(folder, spec, prepared.archive, progress, sight_of(prepared))
    except Exception as error:
        # What explains a training must not cost it: a picture that cannot be drawn, or a profile.
        progress.say(f"no report ({type(error).__name__}: {error}); model and figures are whole")
    return spec


def _explain(
    prepared: Prepared,
    network: Network,
    config: Config,
    spec: ModelSpec,
    scores: Arrays,
    evaluation: Evaluation,
    details: pd.DataFrame,
    history: History,
    manifest: Mapping[str, Any],
    folder: RunFolder,
    more: Mapping[str, Figure],
) -> None:
    """Draw the plots and write the report."""
    test = prepared.rows("test")
    ids, labels, train_labels = (
        list(prepared.table.ids[test]),
        prepared.labels(test),
        prepared.labels(prepared.rows("train")),
    )
    columns = pd.concat([_other_columns(prepared, config), prepared.looks], axis=1).iloc[test]
    slices, pictures = explain_answers(
        spec, network, prepared.archive, ids, labels, scores, columns, prepared.groups[test]
    )
    with replacing(folder / "slices.parquet") as path:
        slices.to_parquet(path, index=False)
    figures = {
        **pictures,
        **answer_figures(spec, prepared.archive, ids, labels, scores, train_labels),
        "history": plots.plot_history(pd.DataFrame(history)),
        **more,
        "architecture": plots.plot_architecture(*_stages(prepared)),
    }
    notes = [*weak_heads(spec, evaluation), *notes_on(prepared, history)]
    rows = {part: len(prepared.rows(part)) for part in splits.PARTS}
    found = verdict(spec, evaluation, slices)
    write_model_card(folder / "MODEL_CARD.md", spec, config, evaluation, manifest, rows, [*found, *notes])
    write_report(
        folder / "report.html",
        title=f"Run {folder.name}",
        facts=facts_of(config, manifest),
        evaluation=evaluation,
        rows_name="the test split",
        figures=save_plots(figures, folder / "plots"),
        details=details,
        slices=slices,
        verdict=found,
        notes=notes,
        quarantine=prepared.quarantine,
        split_counts=label_counts(spec, {part: prepared.labels(prepared.rows(part)) for part in splits.PARTS}),
        next_commands=next_commands(folder, config),
    )


def next_commands(folder: RunFolder, config: Config) -> list[str]:
    """Return what a person would type next."""
    test = Path(config.data.labels).parent / "test.parquet"
    table = test if test.exists() else "TEST.parquet"
    images = ("--images", *map(hide_secrets, config.data.images), "--run", folder.name)
    return [
        command("predict", table, *images),
        command("evaluate", "LABELS.parquet", *images),
        command("publish", "--run", folder.name),
    ]


def _settled(prepared: Prepared, constants: Mapping[str, NDArray[np.float32]], held: Held) -> ModelSpec:
    """Return the spec with what the training labels and the scores of held-out rows decide, thresholds among it."""
    labels = prepared.labels(held.rows)
    tasks = []
    for task in prepared.spec.tasks:
        layer = prepared.network.whole.get_layer(task.name)
        known = HEADS[task.kind].settle(task, layer, constants[task.name])
        tasks.append(EVALUATORS[task.kind].settle(known, labels[task.name], held.scores[task.name]))
    return prepared.spec.model_copy(update={"tasks": tuple(tasks)})


def _write_tables(prepared: Prepared, config: Config, folder: RunFolder) -> None:
    """Write which row is in which split, with its labels and groups, and which rows could not be used."""
    facts = (prepared.table.ids, prepared.parts, prepared.groups, prepared.digests)
    frame = pd.DataFrame(dict(zip(SPLIT_COLUMNS, facts, strict=True)))
    for task in prepared.spec.tasks:
        labels = prepared.table.labels[task.name]
        for column, values in zip(task.label_columns, labels.reshape(len(labels), -1).T, strict=True):
            frame[column] = values
    for name in config.data.group_columns:
        frame[GROUP_PREFIX + name] = as_names(prepared.table.extra[name])
    with replacing(folder / "splits.parquet") as path:
        frame.to_parquet(path, index=False)
    with replacing(folder / "quarantine.parquet") as path:
        prepared.quarantine.to_parquet(path, index=False)


def _write_scores(prepared: Prepared, spec: ModelSpec, parts: Mapping[str, Held], folder: RunFolder) -> None:
    """Write the scores of the rows that did not train: id, split, and the score columns of a prediction table."""
    frames = [score_frame(prepared, spec, scored, {"split": part}) for part, scored in parts.items()]
    with replacing(folder / "scores.parquet") as path:
        pd.concat(frames).to_parquet(path, index=False)


def _other_columns(prepared: Prepared, config: Config) -> pd.DataFrame:
    """Return the columns of the label table that say something else of a row than its id, labels and split."""
    data = config.data
    known = {*config.label_columns(), *data.group_columns, data.id_column, data.split_column}
    extra = prepared.table.extra
    return extra[[name for name in extra if name not in known]].reset_index(drop=True)


def _save_model(prepared: Prepared, folder: RunFolder) -> Network:
    """Save the whole network as float32, which loads on any machine; return it."""
    network = prepared.network
    if prepared.precision != "float32":
        network = build_network(prepared.spec, "float32", initialise=False)
        set_weights(network.whole, prepared.network.whole.get_weights())
    with replacing(folder / "model.keras") as path:
        network.whole.save(path)
    lines: list[str] = []
    network.whole.summary(expand_nested=True, line_length=110, print_fn=lambda line, **_: lines.append(line))
    with replacing(folder / "model_summary.txt") as path:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return network


def _stages(prepared: Prepared) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Describe the network as stages of layers with the same output size, and its heads."""
    stages: list[dict[str, Any]] = []
    for side, frozen in ((prepared.network.frozen, True), (prepared.network.members[0].get_layer("rest"), False)):
        for layer in side.layers:
            shape = "x".join(str(size) for size in layer.output.shape[1:])
            size = (frozen, shape.split("x")[:2])
            is_same = stages and (stages[-1]["frozen"], stages[-1]["shape"].split("x")[:2]) == size
            if type(layer).__name__ == "InputLayer":
                continue
            if not is_same:
                stages.append({"name": layer.name, "shape": shape, "params": 0, "frozen": frozen})
            stages[-1] |= {"name": layer.name, "shape": shape, "params": stages[-1]["params"] + layer.count_params()}
    heads = [
        {
            "name": task.name,
            "classes": len(task.classes),
            "activation": HEADS[task.kind].activation,
        }
        for task in prepared.spec.tasks
    ]
    return stages, heads
