"""`shrinkserve bench` with every payload, with a server that stalls, and after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from shrinkserve.benchmark.load import perf_analyzer
from shrinkserve.benchmark.load.run import closed_loop, open_loop
from shrinkserve.benchmark.load.schedule import OpenSchedule
from shrinkserve.benchmark.load.triton_stats import TritonStatistics
from shrinkserve.benchmark.targets.target import server_target
from shrinkserve.benchmark.timing import Timing
from shrinkserve.cli import main
from shrinkserve.data import open_dataset
from shrinkserve.engines import Engine
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.server import ServerOptions, TritonServer

TOKEN = "no-secret-in-a-test"


@pytest.fixture(scope="module")
def repository(smoke_run: Path, digits: Path, shrinkserve, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Repository of the tiny network in three precisions, with the ensemble for encoded images."""
    pytest.importorskip("nvidia.dali")
    folder = tmp_path_factory.mktemp("repository")
    shrinkserve("export", smoke_run, "--data", digits, "--repository", folder, "--to", "fp16")
    hint = {"INFERENCE_PRECISION_HINT": "bf16"}  # `export` would refuse it: the tiny network has too many close calls
    engine = Engine("bfloat16", "openvino", "model.onnx", "bfloat16", parameters=hint)
    Repository(folder).add_engines("smoke_classifier", [engine], folder / "smoke_classifier" / "1")
    return folder


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with TritonServer(repository, ServerOptions(log_file=log, token=TOKEN)) as running:
        yield running


def test_every_precision_and_every_payload_is_a_stage(
    server: TritonServer, repository: Path, smoke_run: Path, digits: Path, tmp_path: Path
) -> None:
    file = tmp_path / "bench.json"
    words = ["--data", digits, "--checkpoint", smoke_run, "--repository", repository, "--model", "smoke"]
    words += ["--url", server.http_url, "--url", server.grpc_url, "--token", TOKEN, "--json", file]
    words += ["--payload", "tensor", "--payload", "jpeg", "--payload", "shm", "--concurrency", 1, "--window", 0.1]
    assert main(["bench", *map(str, words)]) == 0
    record = json.loads(file.read_text())
    ways = [f"server {protocol}{way}" for protocol in ("http", "grpc") for way in ("", " jpeg", " shm")]
    graphs = ["onnx float32 v1", "openvino bfloat16 v1", "onnx float16 v1"]
    assert [stage["name"] for stage in record["stages"]] == ["checkpoint raw", "checkpoint ema", *graphs, *ways]
    assert record["left_out"] == []
    against = {c["after"]: c for c in record["accuracy"]["comparisons"] if c["before"] == "checkpoint ema"}
    for way in ways:
        assert against[way]["images"] == 364
        # Another decoder rounds differently; otherwise the pixels are the same.
        assert against[way]["gated"] == (not way.endswith("jpeg"))
        assert (against[way]["worst"] < 1e-4) == (not way.endswith("jpeg"))
        assert against[way]["flips"] <= (11 if way.endswith("jpeg") else 0)  # 3 %: many close calls
    assert 1e-5 < against["onnx float16 v1"]["worst"] < against["openvino bfloat16 v1"]["worst"] < 1.0
    assert sorted(load["target"] for load in record["loads"]) == sorted(ways)
    assert all(load["server"]["requests"] > 0 and load["errors"] == 0 for load in record["loads"])


def test_perf_analyzer_measures_the_same_server(server: TritonServer) -> None:
    """The number of requests agrees with the statistics of the server."""
    program = perf_analyzer.program()
    if program is None:
        pytest.skip("no perf_analyzer on PATH (pip install perf-analyzer; needs glibc 2.38)")
    tried = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"perf_analyzer does not start: {tried.stderr.strip()[-200:]}")
    with Client(server.grpc_url) as client:
        before = TritonStatistics(lambda: client.statistics("smoke_classifier"))
        before.begin()
        (row,) = perf_analyzer.measure(server.grpc_url, "smoke_classifier", [2])
        before.end()
    if "stable measurement" in (row.error or ""):
        pytest.skip(f"this machine is too busy for it: {row.error}")
    assert row.target == "server grpc"
    assert 0 < row.p50_ms <= row.p90_ms <= row.p95_ms <= row.p99_ms
    assert before.difference("inference_count") > row.images_per_second  # it measures for seconds


def test_payload_that_the_server_does_not_take_is_an_error(
    server: TritonServer, smoke_run: Path, digits: Path, capsys
) -> None:
    words = ["bench", "--data", str(digits), "--checkpoint", str(smoke_run), "--model", "smoke", "--window", "0.1"]
    assert main([*words, "--url", server.grpc_url, "--payload", "shm"]) == 2  # without the token
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert "server grpc shm" in error
    assert main([*words, "--url", server.grpc_url, "--payload", "pigeon"]) == 2
    assert "--payload" in capsys.readouterr().err


def test_open_loop_shows_a_stall_of_a_real_server(server: TritonServer, digits: Path) -> None:
    """A signal stops the server for half a second. An open loop counts the wait of its users."""
    timing = Timing(warmup=0.3, window=0.5, agree=5, most=4)  # never steady: always two seconds
    with Client(server.grpc_url) as client:
        served = client.model_info("smoke")
    images = [np.zeros((1, served.preprocess.size, served.preprocess.size, 3), np.uint8)]
    target = server_target(server.grpc_url, served.model, served.precision)
    parent = psutil.Process(server.pid)
    processes = [parent, *parent.children(recursive=True)]

    def pause() -> None:
        time.sleep(1.0)
        for process in processes:
            process.suspend()
        time.sleep(0.5)
        for process in reversed(processes):
            process.resume()

    longest = {}
    for name, run in (
        ("open", lambda: open_loop(target, images, OpenSchedule(60.0), 64, timing)),
        ("closed", lambda: closed_loop(target, images, 1, timing)),
    ):
        stall = threading.Thread(target=pause)
        stall.start()
        load = run()
        stall.join()
        assert load.latency.longest > 0.4
        longest[name] = load.latency.percentile(99)
        if name == "open":  # 30 of 120 requests were due while it paused, and waited 250 ms on average
            assert load.unsent == 0
            assert load.latency.percentile(90) > 0.1
    assert longest["open"] > 0.35


def test_killed_measurement_is_resumed(
    smoke_run: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "--data", str(digits), "--checkpoint", str(smoke_run)]
    words += ["--repository", str(tmp_path / "none"), "--out"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "shrinkserve", *words, str(killed)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    journal = killed / "accuracy.jsonl"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 3:
        assert process.poll() is None
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    batches = journal.read_bytes().count(b"\n") - 1
    assert main([*words, str(killed)]) == 0
    assert f"resuming after {min(32 * batches, 364)} of 364 images" in capsys.readouterr().err
    assert main([*words, str(whole)]) == 0
    one, other = (json.loads((folder / "bench.json").read_text())["accuracy"] for folder in (killed, whole))
    assert one == other
    assert one["images"] == len(open_dataset(digits, "validation"))
    assert not journal.exists()  # the measurement is complete
