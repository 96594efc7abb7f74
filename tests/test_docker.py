"""The containers, as far as they can be checked without Docker: the linter, and the real protobuf definitions."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from multitask.publishing.saved_model import WARM_UP_ROWS
from multitask.serving.client import REQUEST_ROWS
from multitask.serving.model_folder import ModelFolder

ROOT = Path(__file__).parent.parent
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_the_linter_has_nothing_to_say(dockerfile: Path) -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert linter, "hadolint is in the dev requirements"
    found = subprocess.run([linter, str(dockerfile)], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_every_copied_file_is_there_and_in_the_build_context(dockerfile: Path) -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for sources in re.findall(r"^COPY (.+) \S+$", dockerfile.read_text(), re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            assert source in allowed, source


def test_the_health_check_is_a_shell_command_that_sees_an_available_version() -> None:
    text = (ROOT / "docker/serving.Dockerfile").read_text()
    command = json.loads(re.search(r"HEALTHCHECK .*\\\n\s*CMD (\[.*\])", text)[1])
    assert command[:2] == ["bash", "-c"]
    subprocess.run(["bash", "-n", "-c", command[2]], check=True)
    grep = command[2].split("&& ")[-1].replace("<&3", "")
    for state, code in (('{"state": "AVAILABLE"}', 0), ('{"state": "END", "error_code": "UNAVAILABLE"}', 1)):
        assert subprocess.run(["bash", "-c", grep], input=state, text=True).returncode == code


def test_compose_names_services_files_and_ports_that_exist() -> None:
    services = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
    watching = {"server", "monitor", "figures", "prometheus", "grafana"}
    assert set(services) == {"serving", "page", "batching", "gateway", *watching}
    assert {name for name, service in services.items() if service.get("profiles") == ["monitoring"]} == watching
    assert services["serving"].get("profiles") is None
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert services["serving"]["volumes"] == ["../serving/models:/models:ro"]
    scraped = yaml.safe_load((ROOT / "serving/prometheus.yaml").read_text())["scrape_configs"]
    targets = {job["static_configs"][0]["targets"][0] for job in scraped}
    assert targets == {"serving:8501", "server:8501", "figures:9100"}


@pytest.mark.parametrize("name", ["compose.yaml", "ray.compose.yaml"])
def test_compose_files_fit_the_schema_and_mount_what_is_here(name: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    found = subprocess.run([*command, str(ROOT / "docker" / name)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    # Made by publishing, serving and comparing.
    made = {"serving/models", "logs", "monitor"}
    for service in _composed(name)["services"].values():
        for volume in service.get("volumes", ()):
            source = (ROOT / "docker" / volume.split(":")[0]).resolve().relative_to(ROOT.resolve())
            assert (ROOT / source).exists() or str(source) in made, volume


def _composed(name: str = "compose.yaml") -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker" / name).read_text(encoding="utf-8"))


def _flags_of(door: str) -> str:
    """Return the help of a door."""
    command = [sys.executable, "-m", f"multitask.{door}", "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_server_writes_its_log_where_the_monitor_reads_and_the_figures_come_from_where_it_writes() -> None:
    services = _composed()["services"]
    mounted = {name: dict(v.split(":")[:2][::-1] for v in services[name].get("volumes", ())) for name in services}
    log = services["server"]["command"][services["server"]["command"].index("--log") + 1]
    loop = services["monitor"]["entrypoint"][2]
    subprocess.run(["bash", "-n", "-c", loop], check=True)
    for flag in ("--days", "--out"):
        assert flag in loop
        assert flag in _flags_of("monitor")
    assert "--log" in _flags_of("serve")
    assert mounted["server"][log] == mounted["monitor"]["/work/logs"] == "../logs"
    folder = re.search(r"textfile.directory=(\S+)", " ".join(services["figures"]["command"]))[1]
    assert mounted["figures"][folder] == mounted["monitor"]["/work/monitor"]


def test_grafana_finds_its_dashboard_and_asks_prometheus() -> None:
    grafana = _composed()["services"]["grafana"]
    inside = dict(volume.split(":")[:2][::-1] for volume in grafana["volumes"])
    files = {place: ROOT / "docker" / source for place, source in inside.items()}
    provisioning = "/etc/grafana/provisioning"
    [source] = yaml.safe_load(files[f"{provisioning}/datasources/datasources.yaml"].read_text())["datasources"]
    assert (source["type"], source["url"], source["isDefault"]) == ("prometheus", "http://prometheus:9090", True)
    [provider] = yaml.safe_load(files[f"{provisioning}/dashboards/dashboards.yaml"].read_text())["providers"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert str(Path(home).parent) == provider["options"]["path"]
    assert json.loads(files[home].read_text())["uid"] == "multitask"
    rules = yaml.safe_load((ROOT / "serving/prometheus.yaml").read_text())["rule_files"]
    mounted = [volume.split(":")[1] for volume in _composed()["services"]["prometheus"]["volumes"]]
    assert {f"/etc/prometheus/{name}" for name in rules} < set(mounted)


def _options_of_ray(*words: str) -> str:
    command = [sys.executable, "-m", "ray.scripts.scripts", *words, "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_cluster_of_ray_starts_with_flags_that_ray_has_behind_a_token_on_this_machine_alone() -> None:
    services = _composed("ray.compose.yaml")["services"]
    assert set(services) == {"head", "worker"}
    known = _options_of_ray("start")
    for service in services.values():
        command, *flags = service["command"]
        assert command == "start"
        assert all(re.search(rf"{flag.split('=')[0]}\b", known) for flag in flags), flags
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert ":?" in service["environment"]["RAY_AUTH_TOKEN"], "there is no default"
        assert service["volumes"] == services["head"]["volumes"], "all see the same files at the same places"
        assert (ROOT / service["build"]["args"]["REQUIREMENTS"]).is_file()
    assert all(port.startswith("127.0.0.1:") for port in services["head"]["ports"])
    assert "ports" not in services["worker"]
    assert "--port=6379" in services["head"]["command"]
    assert "--address=head:6379" in services["worker"]["command"]


def test_the_job_of_kuberay_runs_a_command_that_is_here_on_the_ray_that_is_locked() -> None:
    job = yaml.safe_load((ROOT / "docker/kuberay.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    words = job["spec"]["entrypoint"].split()
    assert words[:3] == ["python", "-m", "multitask.train"]
    usage = _flags_of("train")
    assert all(word in usage for word in words if word.startswith("--"))
    assert (ROOT / words[words.index("--config") + 1].removeprefix("/work/")).is_file()
    cluster = job["spec"]["rayClusterSpec"]
    pinned = (ROOT / "requirements-cluster.txt").read_text(encoding="utf-8")
    assert f"ray=={cluster['rayVersion']} " in pinned
    assert cluster["authOptions"] == {"mode": "token"}
    specs = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert len({json.dumps(spec["template"]["spec"]["volumes"]) for spec in specs}) == 1
    images = yaml.safe_load((ROOT / ".github/workflows/images.yml").read_text(encoding="utf-8"))
    pushed = {entry["image"] for entry in images["jobs"]["push"]["strategy"]["matrix"]["include"]}
    names = [spec["template"]["spec"]["containers"][0]["image"] for spec in specs]
    assert all(re.search(r"/([\w-]+):", name)[1] in pushed for name in names)


def test_a_server_that_batches_is_reached_by_the_validating_gateway_alone() -> None:
    composed = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    services = composed["services"]
    batching = [name for name, service in services.items() if "--enable_batching=true" in service.get("command", ())]
    assert batching == ["batching"]
    assert "enable_batching" not in (ROOT / "docker/serving.Dockerfile").read_text().split("ENTRYPOINT")[1]
    assert "ports" not in services["batching"]
    assert services["batching"]["networks"] == ["inside"]
    assert composed["networks"]["inside"]["internal"]
    near = [name for name, service in services.items() if "inside" in service.get("networks", ())]
    assert near == ["batching", "gateway"]
    assert services["gateway"]["command"][:4] == ["-m", "multitask.serve", "--backend", "http://batching:8501"]


def test_prometheus_bears_the_token_of_our_server() -> None:
    composed = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    [mounted] = composed["services"]["prometheus"]["configs"]
    jobs = yaml.safe_load((ROOT / "serving/prometheus.yaml").read_text())["scrape_configs"]
    [page] = [job for job in jobs if "authorization" in job]
    assert page["authorization"]["credentials_file"] == mounted["target"]
    assert "MULTITASK_TOKEN" in composed["configs"][mounted["source"]]["content"]
    assert "MULTITASK_TOKEN" in composed["services"]["server"]["environment"]


def message(name: str, **fields: str):
    """Return a protobuf class; tensorflow-serving-api does not ship these two definitions, so they are repeated."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    kinds = {"bool": 8, "string": 9, "int64": 3}
    described = file.message_type.add(name=name)
    for number, (field, kind) in enumerate(fields.items(), 1):
        repeated = kind.startswith("repeated ")
        added = described.field.add(name=field, number=number, label=3 if repeated else 1)
        kind = kind.removeprefix("repeated ")
        if kind in kinds:
            added.type = kinds[kind]
        else:
            added.type, added.type_name = 11, f".google.protobuf.{kind}"
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def test_batching_obeys_the_rules_of_the_server_and_fits_client_and_warm_up() -> None:
    from google.protobuf import text_format

    # tensorflow_serving/servables/tensorflow/session_bundle_config.proto
    kind = message(
        "BatchingParameters",
        max_batch_size="Int64Value",
        batch_timeout_micros="Int64Value",
        max_enqueued_batches="Int64Value",
        num_batch_threads="Int64Value",
        thread_pool_name="StringValue",
        allowed_batch_sizes="repeated int64",
        pad_variable_length_inputs="bool",
        enable_large_batch_splitting="BoolValue",
        max_execution_batch_size="Int64Value",
    )
    found = text_format.Parse((ROOT / "serving/batching.config").read_text(), kind())
    assert found.max_batch_size.value >= max(REQUEST_ROWS, *WARM_UP_ROWS)
    assert found.max_execution_batch_size.value <= found.max_batch_size.value
    assert not found.allowed_batch_sizes or found.allowed_batch_sizes[-1] == found.max_batch_size.value


def test_monitoring_is_on_where_prometheus_looks() -> None:
    from google.protobuf import text_format

    # tensorflow_serving/config/monitoring_config.proto
    kind = message("PrometheusConfig", enable="bool", path="string")
    text = (ROOT / "serving/monitoring.config").read_text()
    inner = re.search(r"^prometheus_config \{(.*)\}", text, re.DOTALL | re.MULTILINE)[1]
    found = text_format.Parse(inner, kind())
    jobs = yaml.safe_load((ROOT / "serving/prometheus.yaml").read_text())["scrape_configs"]
    assert found.enable
    assert found.path == jobs[0]["metrics_path"]


def test_the_flags_of_the_server_name_files_of_the_image() -> None:
    text = (ROOT / "docker/serving.Dockerfile").read_text()
    compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]["batching"]["command"]
    text += json.dumps(compose)
    copied = re.search(r"COPY (.+) (/\S+/)", text)
    inside = {copied[2] + Path(name).name for name in copied[1].split()} | {"/models/models.config"}
    assert set(re.findall(r"_file=(\S+?)\"", text)) == inside


def test_the_models_config_that_publishing_writes_is_one(tmp_path: Path) -> None:
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    source = tmp_path / "export"
    source.mkdir()
    folder = ModelFolder(tmp_path / "models/multitask")
    for _ in range(3):
        folder.add(source, {})
    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((tmp_path / "models/models.config").read_text(), config)
    [model] = config.model_config_list.config
    assert (model.name, model.base_path) == ("multitask", "/models/multitask")
    assert dict(model.version_labels) == {"stable": 3, "previous": 2}
    assert model.model_version_policy.latest.num_versions == 3
    folder.roll_back(0)
    after = text_format.Parse(
        (tmp_path / "models/models.config").read_text(), model_server_config_pb2.ModelServerConfig()
    )
    assert dict(after.model_config_list.config[0].version_labels) == {"stable": 2, "previous": 1}
