"""Do cost and memory stay linear and flat at real size? Prints times, peaks and ratios, each from one run.

    python benchmarks/scale.py --fashion DIR       # all parts, 30 minutes on two cores; DIR holds the idx files
    python benchmarks/scale.py rows hashes         # some parts; these two need no data

- whole: the recipe fashion.toml on all 70,000 images from nothing to the report, against the sum of what cannot be
  avoided: decoding every image once, and plain Keras fitting the same network for as many epochs in memory.
- images: 10,000, 30,000 and 100,000 PNGs in a zip, one epoch each: seconds per further image and peak memory. Images
  beyond the 70,000 are others upside down.
- stream: 10,000 and 70,000 PNGs in a zip, two epochs of a MobileNet (0.25) whose features are not kept, so that every
  epoch reads all images and sends them through the frozen side: seconds per further image and peak memory.
- cluster: 20,000 and 200,000 rows predicted on Ray, in parts; peak memory of the driver.
- rows: a million rows with 60 labels, no images: read, checked and divided.
- hashes: a million hashes with a thousand pairs that differ in up to 10 bits: how many pairs are found, and what else.

Every measurement is a process of its own; memory is its peak.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import pandas as pd

RECIPE = ROOT / "model_training/recipes/fashion.toml"
IMAGES = "*-images-idx3-ubyte.gz"
COUNTS = (10_000, 30_000, 100_000)
STREAMED = (10_000, 70_000)
PREDICTED = (20_000, 200_000)
ROWS, LABELS = 1_000_000, 60
HASHES, PAIRS = 1_000_000, 1_000


def main() -> None:
    """Measure the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["whole", "images", "stream", "cluster", "rows", "hashes"])
    parser.add_argument("--fashion", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(CHILDREN[arguments.parts[0]]()))
        return
    for part in arguments.parts:
        with tempfile.TemporaryDirectory() as name:
            if part in ("rows", "hashes"):
                _print_child(part, Path(name))
            elif arguments.fashion is None or not list(arguments.fashion.glob(IMAGES)):
                print(f"{part}: skipped, no {IMAGES} in --fashion {arguments.fashion}")
            else:
                OF_FASHION[part](arguments.fashion.resolve(), Path(name))


def _whole(fashion: Path, folder: Path) -> None:
    data = ["--labels", str(fashion), "--images", str(fashion / IMAGES)]
    ours = _run(["-m", "multitask.train", "--config", str(RECIPE), *data, "--name", "whole"], folder)
    run = folder / "model_training/runs/whole"
    epochs, figures = len(pd.read_csv(run / "history.csv")), json.loads((run / "metrics.json").read_text())
    bare = _run([__file__, "--child", "bare"], folder)
    found = json.loads((folder / "out.txt").read_text().splitlines()[-1])
    print(f"whole: 70,000 images, {epochs} epochs of {RECIPE.name}")
    print(f"  from nothing to the report:  {ours['seconds']:8.1f} s, peak {ours['mb']:,.0f} MB")
    print(f"  decoding once:               {found['decode']:8.1f} s")
    print(f"  plain Keras fit in memory:   {found['fit']:8.1f} s, peak with the images {bare['mb']:,.0f} MB")
    print(f"  ratio:                       {ours['seconds'] / (found['decode'] + found['fit']):8.2f}")
    print(f"  test figures: {json.dumps(figures)[:300]}")


def _bare() -> dict[str, float]:
    """Decode all images of the run `whole` once, then fit its network on them as plain Keras does."""
    import keras
    import tensorflow as tf
    from PIL import Image

    from multitask.data.archives import open_archive
    from multitask.network.model import build_network
    from multitask.runs import open_run

    run = open_run("whole")
    frame = pd.read_parquet(run.folder / "splits.parquet")
    frame = frame[frame["split"] != "test"]
    archive = open_archive(*run.config.data.archives)
    size = (run.spec.image.width, run.spec.image.height)
    files = [archive[name] for name in archive]
    started = time.monotonic()
    for data in files:
        Image.open(io.BytesIO(data)).convert("RGB").resize(size)
    decode = time.monotonic() - started
    opened = (Image.open(io.BytesIO(archive[name])).convert("RGB").resize(size) for name in frame["id"])
    images = np.stack([np.asarray(picture) for picture in opened])
    labels = frame[run.spec.tasks[0].label_columns[0]].to_numpy(np.int64)
    training = (frame["split"] == "train").to_numpy()
    model = build_network(run.spec, run.folder.read_json("manifest.json")["precision"]).trainable
    model.compile("adam", {run.spec.tasks[0].name: keras.losses.SparseCategoricalCrossentropy(from_logits=True)})
    started = time.monotonic()
    model.fit(
        tf.convert_to_tensor(images[training]),
        labels[training],
        validation_data=(images[~training], labels[~training]),
        batch_size=run.config.fit.batch_size,
        epochs=len(pd.read_csv(run.folder / "history.csv")),
        verbose=0,
    )
    return {"decode": decode, "fit": time.monotonic() - started}


def _images(fashion: Path, folder: Path) -> None:
    rates: list[float] = []
    before = (0, 0.0)
    for count in COUNTS:
        _write_zip(fashion, folder, count)
        command = ["-m", "multitask.train", "--config", str(RECIPE), "--labels", str(folder / "t.parquet")]
        command += ["--images", str(folder / "a.zip"), "--epochs", "1", "--name", f"n{count}"]
        found = _run([*command, "--data.features", str(folder / f"f{count}/features")], folder)
        # The start of the process is in the first rate, and in no other.
        rates.append((found["seconds"] - before[1]) / (count - before[0]))
        before = (count, found["seconds"])
        print(f"images: {count:9,}  {1000 * rates[-1]:6.2f} ms per further image  peak {found['mb']:,.0f} MB")
    print(f"  ratio of time per further image, last to second: {rates[-1] / rates[1]:.2f}")


def _stream(fashion: Path, folder: Path) -> None:
    network = ["--backbone", "mobilenet", "--model.backbone-options", "alpha", "0.25", "--weights", "random"]
    network += ["--freeze", "conv_pw_3_relu", "--data.features-gb", "1e-6"]
    found = []
    for count in STREAMED:
        _write_zip(fashion, folder, count)
        command = ["-m", "multitask.train", "--config", str(RECIPE), "--labels", str(folder / "t.parquet"), *network]
        command += ["--images", str(folder / "a.zip"), "--epochs", "2", "--name", f"s{count}"]
        found.append(_run(command, folder))
        print(f"stream: {count:9,}  {found[-1]['seconds']:.0f} s in all  peak {found[-1]['mb']:,.0f} MB", flush=True)
    few, many = found
    further = (many["seconds"] - few["seconds"]) / (STREAMED[1] - STREAMED[0])
    print(f"  {1000 * further:.2f} ms per further image; ratio of peaks {many['mb'] / few['mb']:.2f}")


def _cluster(fashion: Path, folder: Path) -> None:
    _write_zip(fashion, folder, 10_000)
    command = ["-m", "multitask.train", "--config", str(RECIPE), "--labels", str(folder / "t.parquet")]
    _run([*command, "--images", str(folder / "a.zip"), "--epochs", "1", "--name", "c"], folder)
    peaks = []
    for count in PREDICTED:
        ids = (np.arange(count) % 10_000).astype(str)
        pd.DataFrame({"uuid": ids}).to_parquet(folder / "rows.parquet")
        command = ["-m", "multitask.predict", "rows.parquet", "--run", "c", "--on", "ray", "--out", f"p{count}/"]
        found = _run(command, folder)
        told = pd.read_parquet(folder / f"p{count}", columns=["uuid"])["uuid"]
        peaks.append(found["mb"])
        print(f"cluster: {count:9,}  {found['seconds']:.0f} s  peak of the driver {found['mb']:,.0f} MB", flush=True)
        print(f"  every row once, in order: {told.tolist() == ids.tolist()}")
    print(f"  ratio of peaks {peaks[1] / peaks[0]:.2f}")


def _write_zip(fashion: Path, folder: Path, count: int) -> None:
    from PIL import Image

    from multitask.data.idx import read_idx

    images = np.concatenate([read_idx(fashion / f"{part}-images-idx3-ubyte.gz") for part in ("train", "t10k")])
    labels = np.concatenate([read_idx(fashion / f"{part}-labels-idx1-ubyte.gz") for part in ("train", "t10k")])
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for number in range(count):
            pixels = images[number % len(images)]
            stream = io.BytesIO()
            Image.fromarray(pixels if number < len(images) else pixels[::-1]).save(stream, "PNG", compress_level=1)
            archive.writestr(f"{number}.png", stream.getvalue())
    numbers = np.arange(count)
    split = np.where(numbers % 7 == 6, "test", "train")
    table = pd.DataFrame(
        {"uuid": numbers.astype(str), "label": labels[numbers % len(images)].astype(int), "split": split}
    )
    table.to_parquet(folder / "t.parquet")


def _rows() -> dict[str, Any]:
    """Write the table, then read, check and divide it."""
    from multitask.audit.division import divide
    from multitask.data.frames import read_frame
    from multitask.data.labels import settle_classes
    from multitask.data.tables import as_table
    from multitask.settings import DataConfig
    from multitask.spec import Task, TaskConfig

    random, path = np.random.default_rng(0), Path("rows.parquet")
    tags = [f"tag {number}" for number in range(LABELS - 20)]
    shares = np.geomspace(0.0005, 0.4, len(tags))
    columns: dict[str, Any] = {"uuid": [f"row{number}" for number in range(ROWS)]}
    columns["kind"] = random.choice([f"class {number}" for number in range(20)], ROWS)
    columns |= {name: (random.random(ROWS) < share).astype(int) for name, share in zip(tags, shares, strict=True)}
    pd.DataFrame(columns).to_parquet(path)
    del columns
    tasks = {
        "kind": TaskConfig(kind="multiclass", columns=("kind",)),
        "tags": TaskConfig(kind="multilabel", columns=tuple(tags)),
    }
    times = [time.process_time()]
    frame = read_frame(str(path))
    times.append(time.process_time())
    classes = settle_classes(frame, tasks, str(path))
    settled = [Task(**{**task.model_dump(), "name": name, "classes": classes[name]}) for name, task in tasks.items()]
    table = as_table(frame, "uuid", settled, str(path))
    del frame
    times.append(time.process_time())
    _, parts = divide(table, settled, table.ids, np.full(len(table), -1), DataConfig(labels=str(path)))
    times.append(time.process_time())
    read, check, split = np.diff(times).round(1).tolist()
    rows = {part: int((parts == part).sum()) for part in ("train", "validation", "test")}
    return {"read CPU s": read, "check CPU s": check, "divide CPU s": split, "rows": rows}


def _hashes() -> dict[str, Any]:
    """Plant pairs among random hashes and look for them."""
    from multitask.audit.duplicates import near_duplicates
    from multitask.audit.looks import THUMBNAIL_BYTES, Looks

    random = np.random.default_rng(0)
    hashes = random.integers(0, 1 << 64, HASHES, np.uint64)
    thumbnails = random.integers(0, 256, (HASHES, THUMBNAIL_BYTES), np.uint8)
    places = random.permutation(HASHES)[: 2 * PAIRS].reshape(2, PAIRS)
    for one, other in places.T:
        bits = random.choice(64, random.integers(0, 11), replace=False)
        hashes[other] = hashes[one] ^ np.uint64(sum(1 << int(bit) for bit in bits))
    thumbnails[places[1]] = thumbnails[places[0]]
    text, side = np.full(HASHES, "", object), np.full(HASHES, 400, np.int32)
    half = np.full(HASHES, 0.5, np.float32)
    turned = np.ones(HASHES, np.int8)
    looks = Looks(text, text, text, side, side, turned, half, half, half, hashes, thumbnails)
    started = time.process_time()
    found = near_duplicates(looks)
    used = time.process_time() - started
    same = (found[places[0]] >= 0) & (found[places[0]] == found[places[1]])
    return {"CPU s": round(used, 1), "pairs found": int(same.sum()), "others": int((found >= 0).sum() - 2 * same.sum())}


def _print_child(name: str, folder: Path) -> None:
    found = _run([__file__, "--child", name], folder)
    print(f"{name}: {(folder / 'out.txt').read_text().splitlines()[-1]}  peak {found['mb']:,.0f} MB")


def _run(command: list[str], folder: Path) -> dict[str, float]:
    """Run Python with these arguments in a folder; return its wall time and its peak of memory."""
    started = time.monotonic()
    with (folder / "out.txt").open("w") as out:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        child = subprocess.Popen([sys.executable, *command], cwd=folder, stdout=out, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return {"seconds": time.monotonic() - started, "mb": usage.ru_maxrss / 1024}


OF_FASHION = {"whole": _whole, "images": _images, "stream": _stream, "cluster": _cluster}
CHILDREN = {"bare": _bare, "rows": _rows, "hashes": _hashes}


if __name__ == "__main__":
    main()
