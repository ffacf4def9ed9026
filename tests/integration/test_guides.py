"""Run the commands of the how-to pages against a real server."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from shrinkserve.data import open_dataset
from shrinkserve.engines import PARAMETERS
from shrinkserve.runtimes.checkpoint import Checkpoint
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.config_text import read_config
from shrinkserve.serving.repository.ensemble import APPROXIMATE
from shrinkserve.serving.server.server import ServerOptions, TritonServer

GUIDES = Path(__file__).parents[2] / "docs" / "howto"


def blocks(page: str, language: str, server: TritonServer) -> list[str]:
    """Return the code blocks of a page, with the test's server and model in place of those of the page."""
    text = (GUIDES / page).read_text(encoding="utf-8")
    text = text.replace("127.0.0.1:8000", server.http_url.removeprefix("http://")).replace("photos", "smoke")
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", text)


@pytest.fixture
def folder(digits: Path, tmp_path: Path) -> Path:
    """A folder with a photograph, `cat.jpg`."""
    (tmp_path / "cat.jpg").write_bytes(open_dataset(digits, "validation").record(0).encoded)
    return tmp_path


@pytest.fixture
def expected(folder: Path, smoke_run: Path) -> dict[str, float]:
    """The probability of each class of `cat.jpg`, by the checkpoint."""
    checkpoint = Checkpoint(smoke_run)
    pixels = checkpoint.preprocess.evaluate_bytes((folder / "cat.jpg").read_bytes())
    logits = checkpoint.predict(np.stack([pixels]))[0]
    powers = np.exp(logits - logits.max())
    return dict(zip(checkpoint.classes, (powers / powers.sum()).tolist(), strict=True))


def assert_best(found: list[tuple[str, float]], expected: dict[str, float]) -> None:
    """Check the three best classes. DALI decodes to slightly other pixels than the checkpoint's evaluation."""
    assert len(found) == 3
    assert found == sorted(found, key=lambda one: -one[1])
    assert dict(found) == pytest.approx({name: expected[name] for name, _ in found}, abs=1e-2)
    assert found[0][1] == pytest.approx(max(expected.values()), abs=1e-2)


def classes(output: bytes) -> list[tuple[str, float]]:
    """Return the names and probabilities in a reply with Triton's classifications."""
    (tensor,) = json.loads(output)["outputs"]
    return [(name, float(value)) for value, _, name in (text.split(":", 2) for text in tensor["data"])]


def free_ports(count: int) -> list[int]:
    """Return ports that no program of this machine listens on."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]


def run(script: str, folder: Path) -> bytes:
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on PATH (apt-get install curl)")
def test_curl_prints_names_and_probabilities(server: TritonServer, folder: Path, expected: dict[str, float]) -> None:
    bare, _, named, *_ = blocks("clients.md", "bash", server)
    tensor, *lines = map(json.loads, run(bare, folder).splitlines())
    assert tensor["model_name"] == "smoke_text"
    with Client(server.grpc_url) as client:
        (result,) = client.stream_encoded([folder / "cat.jpg"], "smoke", top=5)
    served = {one.label: one.probability for one in result.predictions}
    assert [line["name"] for line in lines] == list(served)
    assert [line["probability"] for line in lines] == pytest.approx(list(served.values()), abs=5.1e-5)
    assert [list(expected)[line["index"]] for line in lines] == list(served)
    assert_best(classes(run(named, folder)), expected)


@pytest.mark.skipif(shutil.which("jq") is None, reason="no jq on PATH (apt-get install jq)")
def test_jq_reads_the_text_of_a_reply(server: TritonServer, folder: Path, expected: dict[str, float]) -> None:
    _, table, *_ = blocks("clients.md", "bash", server)
    found = [line.split("\t") for line in run(table, folder).decode().splitlines()]
    assert_best([(name, float(probability)) for probability, name in found[:3]], expected)
    assert len(found) == 5


def test_tritonclient_prints_names_and_probabilities(
    server: TritonServer, folder: Path, expected: dict[str, float]
) -> None:
    (program,) = blocks("clients.md", "python", server)
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = [line.rsplit(maxsplit=1) for line in done.stdout.splitlines()]
    assert_best([(name, float(value)) for name, value in words], expected)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on PATH (apt-get install curl)")
def test_cloud_endpoints_take_the_request_of_curl(
    smoke_repository: Path,
    folder: Path,
    tmp_path: Path,
    expected: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SAGEMAKER_TRITON_DEFAULT_MODEL_NAME", "smoke")
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/predict")
    monkeypatch.setenv("AIP_HEALTH_ROUTE", "/health")
    sagemaker, vertex = free_ports(2)
    arguments = [
        *("--allow-sagemaker=true", f"--sagemaker-port={sagemaker}"),
        *("--allow-vertex-ai=true", f"--vertex-ai-port={vertex}", "--vertex-ai-default-model=smoke"),
    ]
    options = ServerOptions(log_file=tmp_path / "triton.log", arguments=arguments)
    with TritonServer(smoke_repository, options) as server:
        _, _, request, *_ = blocks("clients.md", "bash", server)
        size = 'json-header-size=$(wc -c <request.json)"'
        for cloud, url in (("sagemaker", f"{sagemaker}/invocations"), ("vertex-ai", f"{vertex}/predict")):
            header = f'"Content-Type: application/vnd.{cloud}-triton.binary+json;{size}'
            assert header.split('"')[1].partition("$")[0] in (GUIDES / "clouds.md").read_text(encoding="utf-8")
            script = re.sub(r'"Inference-Header-Content-Length: .*?"(?= )', header, request)
            script = re.sub(r"(?m)^url=.*$", f"url=http://127.0.0.1:{url}", script)
            assert_best(classes(run(script, folder)), expected)


def test_configurations_lists_every_parameter(smoke_repository: Path) -> None:
    page = (GUIDES.parent / "reference" / "configs.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"(?m)^\| `([\w.]+)` \|", page))
    written = {key for path in smoke_repository.glob("*/config.pbtxt") for key in read_config(path).parameters}
    assert len(written) > 5
    assert listed == written | {APPROXIMATE} | PARAMETERS
