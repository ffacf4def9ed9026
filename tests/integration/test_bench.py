"""`shrinkserve bench` against a real tritonserver."""

from __future__ import annotations

import json
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import replace
from math import ceil
from pathlib import Path

import psutil
import pytest
from safetensors.numpy import load_file, save_file

from shrinkserve.artifact import read_card, sha256_file, tensors_sha256
from shrinkserve.cli import main
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.server import ServerOptions, TritonServer

QUICK = ("--window", "0.1", "--payload", "tensor")


@pytest.fixture(scope="module")
def other_run(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of the same network with other weights."""
    folder = tmp_path_factory.mktemp("runs") / "other"
    shutil.copytree(smoke_run, folder)
    card = read_card(folder, "checkpoint")
    files = dict(card.files)
    for name in ("ema.safetensors", "raw.safetensors"):
        tensors = {key: value * 0.9 for key, value in load_file(folder / name).items()}
        save_file(tensors, folder / name)
        files[name] = sha256_file(folder / name)
    sha256 = tensors_sha256(load_file(folder / "ema.safetensors"))
    replace(card, files=files, weights_sha256=sha256).write(folder)
    return folder


def bench(*words: object) -> int:
    return main(["bench", *QUICK, *map(str, words)])  # the options of a test come last and take precedence


def urls(server: TritonServer) -> list[str]:
    return ["--url", server.http_url, "--url", server.grpc_url]


def test_bench_compares_every_stage_and_measures_the_server(
    server: TritonServer, digits: Path, smoke_run: Path, smoke_repository: Path, tmp_path: Path, capsys
) -> None:
    record_file = tmp_path / "bench.json"
    words = ("--data", digits, "--runs", smoke_run.parent, "--repository", smoke_repository, "--json", record_file)
    assert bench(*words, *urls(server)) == 0
    record = json.loads(record_file.read_text())
    assert record["partial"] is None
    assert record["misses"] == []
    scores = {score["stage"]: score for score in record["accuracy"]["stages"]}
    assert list(scores) == ["checkpoint raw", "checkpoint ema", "onnx float32 v1", "server http", "server grpc"]
    assert all(score["images"] == 364 for score in scores.values())
    trained = read_card(smoke_run).metrics["top1"]
    assert scores["server grpc"]["top1"]["value"] == pytest.approx(trained)  # measured by training
    against = {c["after"]: c for c in record["accuracy"]["comparisons"] if c["before"] == "checkpoint ema"}
    for stage in ("server http", "server grpc"):
        assert against[stage]["flips"] == 0
        assert 0 < against[stage]["worst"] < 1e-4  # float32 sums in another order
    loads = {(load["target"], load["concurrency"]): load for load in record["loads"]}
    assert set(loads) == {(stage, n) for stage in ("server http", "server grpc") for n in (1, 4)}
    for load in loads.values():
        percentiles = load["latency"]["percentiles"]
        assert 0 < percentiles["p50"]["value"] <= percentiles["p90"]["value"] <= percentiles["p99"]["value"]
        assert load["server"]["failed"] == 0
        assert load["server"]["mean_ms"]["compute_infer"] < load["latency"]["mean"]
    assert record["environment"]["versions"]["tritonclient"]
    out = capsys.readouterr().out
    assert "server http and server grpc predict the same classes as the checkpoint" in out
    assert "server grpc, concurrency 4" in out


def test_bench_refuses_another_checkpoint(server: TritonServer, digits: Path, other_run: Path, capsys) -> None:
    assert bench("--data", digits, "--checkpoint", other_run, *urls(server)) == 2
    assert "not the checkpoint of the served model" in one_line(capsys)
    assert bench("--data", digits, "--runs", other_run.parent, *urls(server)) == 2
    assert "no run with the served weights" in one_line(capsys)


def test_bench_finds_a_model_with_a_forged_hash(
    digits: Path, smoke_run: Path, other_run: Path, tmp_path: Path, shrinkserve, capsys
) -> None:
    """The file of one run has the hash of another in its card, so only its predictions differ."""
    made, forged = tmp_path / "made", tmp_path / "forged"
    shrinkserve("export", other_run, "--data", digits, "--repository", made)
    card = replace(read_card(made / "smoke_classifier" / "1"), weights_sha256=read_card(smoke_run).weights_sha256)
    Repository(forged).add("smoke", made / "smoke_classifier" / "1" / "model.onnx", card)
    with TritonServer(forged, ServerOptions(log_file=tmp_path / "triton.log")) as server:
        words = ("--data", digits, "--checkpoint", smoke_run, "--repository", tmp_path / "none", "--limit", 200)
        assert bench(*words, "--url", server.grpc_url, "--concurrency", 1) == 1
    error = capsys.readouterr().err
    assert "FAILED: server grpc: " in error
    assert "differ from checkpoint ema, at most 0 allowed" in error


def test_failed_gates_give_exit_code_1_and_a_line_each(
    server: TritonServer, digits: Path, smoke_run: Path, tmp_path: Path, capsys
) -> None:
    gates = tmp_path / "gates.toml"
    gates.write_text('min_top1 = 0.999\nmax_p99 = "1us"\n')
    words = ("--data", digits, "--checkpoint", smoke_run, "--gates", gates, "--concurrency", 1)
    assert bench(*words, "--url", server.grpc_url) == 1
    top1, p99 = [line for line in capsys.readouterr().err.splitlines() if line.startswith("FAILED")]
    assert "99.90%" in top1
    assert "p99" in p99


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--url", "http://127.0.0.1:1"], "not reachable"),
        (["--url", "ftp://127.0.0.1:1"], "http://HOST:PORT"),
        (["--url", "{grpc}", "--model", "absent"], "absent"),
        (["--url", "{grpc}", "--data", "{tmp}/absent"], "no such folder"),
        (["--url", "{grpc}", "--checkpoint", "{tmp}"], "card"),
        (["--url", "{grpc}", "--gates", "{tmp}/absent.toml"], "absent.toml"),
        (["--url", "{grpc}", "--max-p99", "20"], "a duration such as 20ms"),
        (["--url", "{grpc}", "--json", "/proc/absent/bench.json"], "/proc/absent/bench.json"),
    ],
)
def test_bench_reports_a_mistake_in_one_line(
    server: TritonServer, digits: Path, smoke_run: Path, tmp_path: Path, capsys, words: list[str], message: str
) -> None:
    given = [word.format(grpc=server.grpc_url, tmp=tmp_path) for word in words]
    defaults = ["--data", digits, "--runs", smoke_run.parent, "--limit", 8, "--concurrency", 1]
    assert bench(*defaults, *given) == 2
    assert message in one_line(capsys)


def test_bench_refuses_data_with_other_classes(server: TritonServer, smoke_run: Path, tmp_path: Path, capsys) -> None:
    from PIL import Image

    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (9, 9)).save(tmp_path / split / name / "1.png")
    assert bench("--data", tmp_path, "--checkpoint", smoke_run, "--url", server.grpc_url) == 2
    assert "expected 11 classes, found 2" in one_line(capsys)


def test_advice_for_a_folder_without_the_background_class_works(
    server: TritonServer, smoke_run: Path, tmp_path: Path, capsys
) -> None:
    from PIL import Image

    for name in map(str, range(10)):
        (tmp_path / "folder" / "val" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "folder" / "val" / name / "1.png")
    words = ("--checkpoint", smoke_run, "--url", server.grpc_url, "--window", 0.1, "--concurrency", 1)
    assert bench("--data", tmp_path / "folder", *words) == 2
    command = f"shrinkserve data pack {tmp_path / 'folder'} DIR"
    assert f"`{command}`" in one_line(capsys)
    assert main([*command.split()[1:-1], str(tmp_path / "records")]) == 0
    assert bench("--data", tmp_path / "records", *words, "--json", tmp_path / "bench.json") == 0
    assert json.loads((tmp_path / "bench.json").read_text())["accuracy"]["images"] == 10


def test_dying_server_leaves_a_partial_record_and_one_line(
    smoke_repository: Path, digits: Path, smoke_run: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "report"
    with TritonServer(smoke_repository, ServerOptions(log_file=tmp_path / "triton.log")) as server:
        processes = psutil.Process(server.pid).children(recursive=True)

        def kill_when_loaded() -> None:
            journal = out / "accuracy.jsonl"
            while not journal.exists() or len(journal.read_text().splitlines()) < 1 + ceil(364 / 32):
                time.sleep(0.01)  # a line with the identity, one for each batch; then the load test starts
            time.sleep(1.0)
            for process in processes:
                with suppress(psutil.NoSuchProcess):  # a stub process ends with its server
                    process.kill()

        killer = threading.Thread(target=kill_when_loaded)
        killer.start()
        words = ("--data", digits, "--checkpoint", smoke_run, "--url", server.http_url, "--out", out)
        assert bench(*words, "--concurrency", 2, "--window", 5) == 2
        killer.join()
    assert "server http: " in one_line(capsys)
    record = json.loads((out / "bench.json").read_text())
    assert record["partial"].startswith("server http: ")
    assert (out / "accuracy.jsonl").exists()  # the measured part is not lost


def one_line(capsys) -> str:
    """Return the error, the last line after those of the progress."""
    errors = capsys.readouterr().err.splitlines()
    assert [line for line in errors if line.startswith("error:")] == errors[-1:]
    assert all(line.startswith(("accuracy:", "load:", "error:")) for line in errors)
    return errors[-1]
