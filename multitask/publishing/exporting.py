"""From a finished run to a proven SavedModel."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pandas as pd

from multitask.data.archives import open_archive, read_image
from multitask.demo.probe import probe_images
from multitask.errors import ConfigError, MultitaskError
from multitask.network.model import load_network
from multitask.prediction.trained import KerasPredictor
from multitask.progress import Progress, Quiet
from multitask.publishing.proving import PROOF_FILE, TOLERANCE, Proof, prove
from multitask.publishing.saved_model import write_saved_model
from multitask.runs import Run
from multitask.storage import locked, replace_directory, sync

# Photos of the test split that take part in the proof, beside the drawn ones.
PROOF_PHOTOS = 16
# An export of a large network takes minutes; another one of the same run waits for it.
EXPORT_PATIENCE_S = 600.0


def export_run(
    run: Run,
    out: Path | None = None,
    precision: str = "float32",
    progress: Progress = Quiet(),  # noqa: B008
) -> tuple[Path, Proof]:
    """Write the SavedModel of a run, prove it, and put it in its place.

    Args:
        run: a finished one.
        out: directory to write; by default `export` in the run folder. An earlier export there is replaced.
        precision: float32 runs everywhere; bfloat16 is for processors and GPUs with units for it.
        progress: where to report.

    Returns:
        The directory and the proof, which also lies in it as `assets.extra/proof.json`.

    Raises:
        ProofError: the exported model does not answer like the trained one; nothing is written.
        ConfigError: `out` is something else than an export.
    """
    out = out or run.folder / "export"
    if out.exists() and not (out / "saved_model.pb").is_file():
        raise ConfigError("is there and is no export", where=str(out), fix="Choose another --out.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with locked(out.parent, EXPORT_PATIENCE_S):
        # Only who was killed leaves a folder of this name: the lock is ours.
        for litter in out.parent.glob(f".{out.name}-*"):
            shutil.rmtree(litter)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
            written = Path(folder) / "export"
            proof = _write_proven(run, written, precision, progress)
            sync(written)
            replace_directory(written, out)
    return out, proof


def _write_proven(run: Run, written: Path, precision: str, progress: Progress) -> Proof:
    weights = run.folder / "model.keras"
    progress.say(f"exporting run {run.folder.name} in {precision}")
    images = list(probe_images().values())
    write_saved_model(load_network(weights, run.spec, precision, heads="float64"), written, images[0])
    trained = KerasPredictor(load_network(weights, run.spec))
    proof = prove(trained, written, [*images, *_photos(run, progress)], TOLERANCE[precision], progress)
    facts = {"run": run.folder.name, "spec": run.spec.fingerprint(), "precision": precision, **proof.as_dict()}
    (written / PROOF_FILE).write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return proof


def _photos(run: Run, progress: Progress) -> list[bytes]:
    """Read some photos of the test split; none if the archive has gone since."""
    frame = pd.read_parquet(run.folder / "splits.parquet", columns=["id", "split"])
    names = list(frame["id"][frame["split"] == "test"][:PROOF_PHOTOS])
    try:
        with open_archive(*run.config.data.archives) as archive:
            return [data for data, reason in (read_image(archive, name) for name in names) if not reason]
    except MultitaskError as error:
        progress.say(f"proof without photos of the test split: {error}")
        return []
