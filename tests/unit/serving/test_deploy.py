"""Check every file of deploy/ against its schema, and the names in it. Nothing is deployed."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import subprocess
import sys
import threading
import time
import types
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml

from shrinkserve.containers import CONTAINERS, CURRENT, FLOOR
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.names import RESTRICTED_KEY
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.server import GUARDED, ServerOptions, TritonServer

DEPLOY = Path(__file__).parents[3] / "deploy"
KUBERNETES = sorted(set((DEPLOY / "kubernetes").glob("*.yaml")) - {DEPLOY / "kubernetes" / "prometheus-adapter.yaml"})
OBJECTS = [path for path in KUBERNETES if path.name != "kustomization.yaml"]
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "shrinkserve.json"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_compose_files_follow_the_compose_specification() -> None:
    pytest.importorskip("check_jsonschema", reason="needs check-jsonschema, which carries the schema")
    files = [str(DEPLOY / name) for name in ("compose.yaml", "compose.gpu.yaml", "compose.tracing.yaml")]
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", *files]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_compose_exposes_nothing_beyond_the_machine() -> None:
    services = load(DEPLOY / "compose.yaml")["services"]
    ports = [port for service in services.values() for port in service["ports"]]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    mounted = [volume.split(":")[0] for name in ("prometheus", "grafana") for volume in services[name]["volumes"]]
    assert all((DEPLOY / path).exists() for path in mounted if path.startswith("./"))


def test_compose_has_no_default_login_and_limits_every_service() -> None:
    services = load(DEPLOY / "compose.yaml")["services"]
    assert services["grafana"]["environment"]["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert all({"mem_limit", "pids_limit"} <= service.keys() for service in services.values())
    assert all(service["read_only"] for service in services.values())


def deserialise(data: Any, kind: str, models: types.ModuleType) -> Any:
    """An object of the official client's classes and back: a missing or unknown field, or a wrong type, shows."""
    client = pytest.importorskip("kubernetes.client", reason="needs the Kubernetes client")
    api = client.ApiClient()
    built = api._ApiClient__deserialize(data, getattr(models, kind))
    return api.sanitize_for_serialization(built)


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.stem)
def test_kubernetes_objects_have_only_known_fields(path: Path) -> None:
    models = pytest.importorskip("kubernetes.client.models", reason="needs the Kubernetes client")
    data = load(path)
    version = data["apiVersion"].rpartition("/")[2]
    kind = f"{version[0].upper()}{version[1:]}{data['kind']}"
    assert deserialise(data, kind, models) == data


def test_deserialise_finds_misspelt_field() -> None:
    models = pytest.importorskip("kubernetes.client.models", reason="needs the Kubernetes client")
    data = load(DEPLOY / "kubernetes" / "deployment.yaml")
    data["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    assert deserialise(data, "V1Deployment", models) != data


def test_kustomization_names_every_object() -> None:
    named = load(DEPLOY / "kubernetes" / "kustomization.yaml")["resources"]
    assert sorted(named) == [path.name for path in OBJECTS]


def test_kubernetes_objects_fit_each_other() -> None:
    deployment, service, hpa = (load(DEPLOY / "kubernetes" / f"{n}.yaml") for n in ("deployment", "service", "hpa"))
    pod = deployment["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert hpa["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    named = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= named
    (rule,) = load(DEPLOY / "kubernetes" / "prometheus-adapter.yaml")["rules"]["custom"]
    assert hpa["spec"]["metrics"][0]["pods"]["metric"]["name"] == rule["name"]["as"]


def misfits(data: Any, kind: str, models: types.ModuleType, where: str = "") -> list[str]:
    """Return where data differs from KServe's classes, which are made from its OpenAPI document."""
    if kind.startswith("list["):
        items = enumerate(data) if isinstance(data, list) else [(0, None)]
        return [error for index, item in items for error in misfits(item, kind[5:-1], models, f"{where}[{index}]")]
    if kind in {"str", "int", "bool"}:
        return [] if type(data).__name__ == kind else [f"{where}: {data!r} is no {kind}"]
    if not hasattr(models, kind):  # of Kubernetes itself
        official = importlib.import_module("kubernetes.client.models")
        return [] if deserialise(data, kind, official) == data else [f"{where}: no {kind}"]
    described = getattr(models, kind)
    types_of = {described.attribute_map[name]: kind for name, kind in described.openapi_types.items()}
    return [
        error
        for key, value in data.items()
        for error in (
            misfits(value, types_of[key], models, f"{where}.{key}") if key in types_of else [f"{where}.{key}: unknown"]
        )
    ]


def test_kserve_inference_service() -> None:
    pytest.importorskip("kubernetes", reason="needs the Kubernetes client")
    found = importlib.util.find_spec("kserve")
    if found is None:
        pytest.skip("needs kserve, which carries the schema")
    package = types.ModuleType("kserve")  # without its __init__, which wants a web server's libraries
    package.__path__ = list(found.submodule_search_locations or ())
    sys.modules.setdefault("kserve", package)
    models = importlib.import_module("kserve.models")
    data = load(DEPLOY / "kserve" / "inferenceservice.yaml")
    assert misfits(data, "V1beta1InferenceService", models) == []
    data["spec"]["predictor"]["model"]["storageUrl"] = "pvc://models/"
    data["spec"]["predictor"]["minReplicas"] = "2"
    assert sorted(misfits(data, "V1beta1InferenceService", models)) == [
        ".spec.predictor.minReplicas: '2' is no int",
        ".spec.predictor.model.storageUrl: unknown",
    ]


def test_kserve_writes_nowhere_but_in_its_own_volumes() -> None:
    predictor = load(DEPLOY / "kserve" / "inferenceservice.yaml")["spec"]["predictor"]
    assert predictor["automountServiceAccountToken"] is False
    assert predictor["model"]["securityContext"]["readOnlyRootFilesystem"] is True
    mounted = {mount["name"] for mount in predictor["model"]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in predictor["volumes"]} == {"shm", "tmp"}


def arguments() -> dict[str, list[str]]:
    """Return the arguments of tritonserver by deployment."""
    (pod,) = load(DEPLOY / "kubernetes" / "deployment.yaml")["spec"]["template"]["spec"]["containers"]
    return {
        "compose": load(DEPLOY / "compose.yaml")["services"]["triton"]["command"],
        "kubernetes": pod["args"],
        "kserve": load(DEPLOY / "kserve" / "inferenceservice.yaml")["spec"]["predictor"]["model"]["args"],
    }


@pytest.mark.parametrize("where", ["compose", "kubernetes", "kserve"])
def test_apis_that_change_a_server_need_the_token(where: str) -> None:
    guarded = dict(one.removeprefix("--").split("=", 1) for one in arguments()[where] if "-restricted-" in one)
    assert guarded.keys() == {"http-restricted-api", "grpc-restricted-protocol"}
    for setting in guarded.values():
        groups, _, secret = setting.partition(":")
        assert tuple(groups.split(",")) == GUARDED
        assert re.fullmatch(rf"{RESTRICTED_KEY}=\$[({{](SHRINKSERVE_)?TOKEN\b.*", secret), (
            "the token comes from outside"
        )


def test_documents_and_manifests_name_one_container() -> None:
    release = CURRENT.tag
    root = DEPLOY.parent
    places = [
        *DEPLOY.rglob("*.*ml"),
        *root.glob("*.md"),
        *root.glob("docs/**/*.md"),
        root / "model_repository/README.md",
    ]
    found = {path: set(re.findall(r"\b\d\d\.\d\d-py3\b", path.read_text())) for path in {*places} if path.is_file()}
    named = {str(path.relative_to(root)) for path, releases in found.items() if releases}
    assert {release} == set().union(*found.values())
    assert named >= {
        "README.md",
        "model_repository/README.md",
        "deploy/compose.yaml",
        "deploy/kubernetes/deployment.yaml",
        "deploy/kserve/inferenceservice.yaml",
    }


def test_container_has_no_published_critical_vulnerabilities() -> None:
    assert CURRENT.triton >= FLOOR
    assert [one.triton for one in CONTAINERS] == sorted(one.triton for one in CONTAINERS)
    year, month = map(int, re.findall(r"\d\d", CURRENT.tag)[:2])
    assert (year, month) >= (26, 7)


def tracing_arguments() -> list[str]:
    (patch, _) = load(DEPLOY / "kubernetes-tracing/kustomization.yaml")["patches"]
    return [operation["value"] for operation in yaml.safe_load(patch["patch"])]


def test_compose_with_tracing_only_adds_arguments() -> None:
    base = load(DEPLOY / "compose.yaml")["services"]["triton"]["command"]
    traced = load(DEPLOY / "compose.tracing.yaml")["services"]["triton"]["command"]
    assert traced[: len(base)] == base
    added = [re.sub(r"url=.*", "url=", argument) for argument in traced[len(base) :]]
    assert added == [re.sub(r"url=.*", "url=", argument) for argument in tracing_arguments()]


class Collector(BaseHTTPRequestHandler):
    """An OpenTelemetry collector that notes the paths of what it gets."""

    paths: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.paths.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_server_sends_traces_to_collector(tiny_repository: Repository, tmp_path: Path) -> None:
    """A real server with the arguments of the deployment, but for the address and the rate."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        url = f"url=http://127.0.0.1:{collector.server_port}/v1/traces"
        arguments = [re.sub(r"url=.*", url, one).replace("rate=100", "rate=1") for one in tracing_arguments()]
        arguments.append("--trace-config=opentelemetry,bsp_schedule_delay=200")
        options = ServerOptions(models=["tiny"], log_file=tmp_path / "log", arguments=arguments)
        with TritonServer(tiny_repository.root, options) as server, Client(server.grpc_url) as client:
            client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))
            deadline = time.monotonic() + 20
            while not Collector.paths and time.monotonic() < deadline:
                time.sleep(0.05)
        collector.shutdown()
    assert set(Collector.paths) == {"/v1/traces"}


def expressions() -> Iterator[tuple[str, str]]:
    for rule in load(ALERTS)["groups"][0]["rules"]:
        yield rule["alert"], rule["expr"]
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m")
    (rule,) = load(DEPLOY / "kubernetes" / "prometheus-adapter.yaml")["rules"]["custom"]
    yield "adapter", rule["metricsQuery"].replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'pod="a"')


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_expressions_are_promql(where: str, expression: str) -> None:
    promql_parser = pytest.importorskip("promql_parser", reason="needs promql-parser")
    assert promql_parser.parse(expression), where


def test_alert_rules_have_what_prometheus_wants() -> None:
    (group,) = load(ALERTS)["groups"]
    assert group.keys() <= {"name", "interval", "rules"}
    assert len({rule["alert"] for rule in group["rules"]}) == len(group["rules"])
    for rule in group["rules"]:
        assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[smhd]", rule["for"])
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"].keys() == {"summary", "description"}
    assert load(DEPLOY / "prometheus" / "prometheus.yml")["rule_files"] == [ALERTS.name]


def test_dashboard_follows_grafanas_schema() -> None:
    dashboard = pytest.importorskip("grafana_foundation_sdk.models.dashboard", reason="needs grafana-foundation-sdk")
    sdk = importlib.import_module("grafana_foundation_sdk.cog.encoder")
    data = json.loads(DASHBOARD.read_text())
    built = json.loads(sdk.JSONEncoder().encode(dashboard.Dashboard.from_json(data)))
    assert [panel["title"] for panel in built["panels"]] == [panel["title"] for panel in data["panels"]]
    assert unknown(data, built) == []


def unknown(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Keys of ours that a round trip through the schema's classes lost, as they are not of the schema."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            error
            for key, value in ours.items()
            for error in (
                [f"{where}.{key}"]
                if key not in theirs and value is not None
                else unknown(value, theirs.get(key), f"{where}.{key}")
            )
        ]
    if isinstance(ours, list) and isinstance(theirs, list):
        return [
            error
            for index, pair in enumerate(zip(ours, theirs, strict=True))
            for error in unknown(*pair, f"{where}[{index}]")
        ]
    return []


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        grid = panel["gridPos"]
        cells = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells


def test_metrics_are_those_of_a_real_server(tiny_repository: Repository, tmp_path: Path) -> None:
    """With the arguments of the deployment; GPU metrics exist on machines with a GPU only."""
    (container,) = load(DEPLOY / "kubernetes" / "deployment.yaml")["spec"]["template"]["spec"]["containers"]
    arguments = tuple(argument for argument in container["args"] if argument.startswith("--metrics-config"))
    assert len(arguments) == 2
    options = ServerOptions(models=["tiny"], log_file=tmp_path / "log", arguments=arguments)
    with TritonServer(tiny_repository.root, options) as server:
        with Client(server.grpc_url) as client:
            client.infer("tiny", np.zeros((1, 8, 8, 3), np.uint8))
        with urllib.request.urlopen(server.metrics_url) as response:
            text = response.read().decode()
    page = (DEPLOY.parent / "docs" / "howto" / "monitoring.md").read_text(encoding="utf-8")
    wanted = set(re.findall(r"\bnv_\w+", " ".join([page, *(expression for _, expression in expressions())])))
    assert "nv_inference_queue_duration_us" in wanted
    families = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    assert {name for name in wanted if not name.startswith("nv_gpu_")} <= families
    assert 'quantile="0.99"' in text
