"""The dashboard: every query has an answer from a real Prometheus, that asks a real server and a real node exporter."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from multitask import monitor
from multitask.data.archives import open_archive
from multitask.prediction.scoring import predict_table
from multitask.prediction.trained import KerasPredictor
from multitask.runs import Run
from tests.conftest import serving

SERVING = Path(__file__).parent.parent.parent / "serving"
BOARD = json.loads((SERVING / "dashboard.json").read_text(encoding="utf-8"))
PROMETHEUS, PROMTOOL, EXPORTER = map(shutil.which, ("prometheus", "promtool", "prometheus-node-exporter"))
needs_prometheus = pytest.mark.skipif(
    not (PROMETHEUS and PROMTOOL and EXPORTER),
    reason="Debian's prometheus or prometheus-node-exporter is not installed",
)


def queries(board: Mapping[str, Any]) -> dict[str, str]:
    """Return every query, by the title of its panel and its letter."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in board["panels"]
        for target in panel.get("targets", ())
    }


def _configured(folder: Path, targets: Mapping[str, str]) -> Path:
    """Write the configuration of serving/, asking other addresses, and oftener."""
    config = yaml.safe_load((SERVING / "prometheus.yaml").read_text(encoding="utf-8"))
    (folder / "token").write_text("none", encoding="utf-8")
    for job in config["scrape_configs"]:
        [job["static_configs"][0]["targets"]] = [[targets[job["job_name"]]]]
        if "authorization" in job:
            job["authorization"]["credentials_file"] = str(folder / "token")
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    shutil.copy(SERVING / "alerts.yaml", folder)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder / "prometheus.yml"


@contextlib.contextmanager
def _running(*command: str, at: str) -> Iterator[str]:
    """Run a program until the block ends; yield its address once it answers."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _until(lambda: _answers(f"http://{at}/metrics"))
        yield f"http://{at}"
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def _free() -> str:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return f"127.0.0.1:{found.getsockname()[1]}"


def _values(url: str, query: str) -> list[float]:
    """Return what a query finds now, without what is no number, as of shares of nothing."""
    found = requests.get(f"{url}/api/v1/query", {"query": query}, timeout=30).json()
    assert found["status"] == "success", (query, found)
    values = [float(series["value"][1]) for series in found["data"]["result"]]
    return [value for value in values if not math.isnan(value)]


def _chosen(url: str, name: str, **others: str) -> list[str]:
    """Return the values of a variable, as Grafana asks for them."""
    [variable] = [found for found in BOARD["templating"]["list"] if found["name"] == name]
    match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
    assert match
    series = _filled(match[1], **others)
    found = requests.get(f"{url}/api/v1/label/{match[2]}/values", {"match[]": series}, timeout=30).json()
    return list(found["data"])


def _filled(text: str, **variables: str) -> str:
    for name, value in variables.items():
        text = text.replace(f"${name}", value)
    return text


@pytest.fixture
def watched(trained: Run, published: Path, tmp_path: Path) -> Iterator[tuple[str, list[bytes], str]]:
    """A server with some photos for it, and the address of the Prometheus that watches it and its monitor."""
    with open_archive(*trained.config.data.images) as archive:
        photos = [archive[name] for name in list(archive)[:40]]
        predict_table(KerasPredictor.of_run(trained), list(archive)[:60], archive, tmp_path / "predictions.parquet")
    figures = tmp_path / "monitor"
    flags = ["--reference", str(trained.folder.directory), "--out", str(figures)]
    monitor.main([str(tmp_path / "predictions.parquet"), *flags])
    at, exporter = _free(), _free()
    flags = ["--collector.disable-defaults", "--collector.textfile", f"--collector.textfile.directory={figures}"]
    with (
        serving(published, "--log", str(tmp_path / "log")) as server,
        _running(str(EXPORTER), *flags, f"--web.listen-address={exporter}", at=exporter),
    ):
        targets = {"multitask": server.removeprefix("http://"), "monitor": exporter, "tensorflow_serving": _free()}
        config = _configured(tmp_path, targets)
        command = [str(PROMETHEUS), f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}"]
        with _running(*command, f"--web.listen-address={at}", at=at) as url:
            yield server, photos, url


@needs_prometheus
def test_prometheus_accepts_its_configuration_and_the_alerts(tmp_path: Path) -> None:
    config = _configured(tmp_path, dict.fromkeys(("multitask", "monitor", "tensorflow_serving"), "127.0.0.1:1"))
    found = subprocess.run([str(PROMTOOL), "check", "config", str(config)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "4 rules found" in found.stdout


@needs_prometheus
@pytest.mark.slow
@pytest.mark.tensor
def test_every_query_of_the_dashboard_has_an_answer(watched: tuple[str, list[bytes], str]) -> None:
    server, photos, url = watched
    end = time.monotonic() + 12
    for number in range(10**6):
        content = b"no photo" if number % 10 == 9 else photos[number % len(photos)]
        requests.post(f"{server}/files", files={"files": ("a.jpg", content)}, timeout=60)
        if time.monotonic() > end:
            break
        time.sleep(0.02)
    [model] = _chosen(url, "model")
    tasks = _chosen(url, "task", model=model)
    assert tasks == ["category"]
    chosen = {"__rate_interval": "10s", "model": model, "task": tasks[0]}
    empty = [title for title, query in queries(BOARD).items() if not _values(url, _filled(query, **chosen))]
    assert not empty
    groups = requests.get(f"{url}/api/v1/rules", timeout=30).json()["data"]["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
    shares = _filled(queries(BOARD)["Which share of the answers to $task does each class have? A"], **chosen)
    assert sum(_values(url, shares)) == pytest.approx(1)
    tags = _filled(queries(BOARD)["Which share of the photos has each tag? A"], **chosen)
    assert all(0 <= value <= 1.2 for value in _values(url, tags))
