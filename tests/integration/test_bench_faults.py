"""Errors of a measurement: one clear line each, and no report that looks complete."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import shrinkserve as ss
from shrinkserve.cli import main
from shrinkserve.serving.server.server import TritonServer

Bench = Callable[..., int]


@pytest.fixture
def local(digits: Path, smoke_run: Path, tmp_path: Path) -> Bench:
    """Return a function that runs `bench` on the checkpoint alone, with further options."""

    def run(*words: object, data: Path = digits, checkpoint: Path = smoke_run) -> int:
        first = ("--data", data, "--checkpoint", checkpoint, "--repository", tmp_path / "none", "--window", 0.1)
        return main(["bench", *map(str, (*first, *words))])

    return run


@pytest.fixture
def served(local: Bench, server: TritonServer) -> Bench:
    """Return a function that runs `bench` on the checkpoint and the server."""
    return lambda *words: local("--url", server.grpc_url, "--payload", "tensor", *words)


@pytest.fixture
def damaged(digits: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the digits with one damaged shard: the folder and the shard."""
    data = shutil.copytree(digits, tmp_path / "data")
    shard = sorted((data / "val_tfrecord").glob("validation-*"))[1]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(bytes(content))
    return data, shard


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_damaged_shard_is_named_and_the_report_is_partial(
    local: Bench, damaged: tuple[Path, Path], tmp_path: Path, error_line
) -> None:
    data, shard = damaged
    assert local("--out", tmp_path / "out", data=data) == 2
    line = error_line()
    assert shard.name in line
    record = read(tmp_path / "out" / "bench.json")
    assert record["partial"] in line
    assert 0 < record["accuracy"]["images"] < record["accuracy"]["planned"] == 364
    assert (tmp_path / "out" / "report.md").read_text().startswith("# smoke: PARTIAL\n")
    assert '<span class="badge PARTIAL">PARTIAL</span>' in (tmp_path / "out" / "report.html").read_text()


def test_measurement_is_resumed_when_the_shard_is_repaired(
    local: Bench, damaged: tuple[Path, Path], digits: Path, tmp_path: Path
) -> None:
    data, _ = damaged
    assert local("--out", tmp_path / "out", data=data) == 2
    shutil.copytree(digits, data, dirs_exist_ok=True)
    assert local("--out", tmp_path / "out", data=data) == 0
    assert read(tmp_path / "out" / "bench.json")["accuracy"]["images"] == 364


@pytest.fixture
def folder(digits: Path, tmp_path: Path) -> Path:
    """A folder of images with the classes of the digits, in the order of their names."""
    root = tmp_path / "folder"
    for name in (digits / "labels.txt").read_text().split():
        (root / "val" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(root / "val" / name / "1.jpg")
    return root


def test_folder_without_validation_images_is_named(local: Bench, tmp_path: Path, error_line) -> None:
    (tmp_path / "empty" / "val").mkdir(parents=True)
    assert local(data=tmp_path / "empty") == 2
    assert str(tmp_path / "empty") in error_line()


def test_classes_in_another_order_are_refused(local: Bench, folder: Path, error_line) -> None:
    assert local(data=folder) == 2
    assert "expected class 0 to be 'background', found '0'" in error_line()


def test_damaged_image_in_a_folder_is_named(
    local: Bench, folder: Path, smoke_run: Path, tmp_path: Path, error_line
) -> None:
    run = shutil.copytree(smoke_run, tmp_path / "run")
    card = read(run / "card.json")
    synsets = [f"n{number:08}" for number in range(len(card["classes"]))]  # names without an order
    (run / "card.json").write_text(json.dumps({**card, "classes": synsets}))
    broken = folder / "val" / "7" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    assert local(data=folder, checkpoint=run) == 2
    assert str(broken.relative_to(folder)) in error_line()


def test_objective_that_cannot_be_met_fails(served: Bench, tmp_path: Path, capsys) -> None:
    assert served("--limit", 8, "--concurrency", 1, "--slo", "p99=1us", "--out", tmp_path) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("FAILED")]
    assert "server grpc: p99=0.001ms" in line
    assert "cannot be met" in (tmp_path / "report.html").read_text()
    assert "cannot be met" in (tmp_path / "report.md").read_text()


@pytest.fixture
def baseline(served: Bench, tmp_path: Path) -> Path:
    """The record of a release with 32 images."""
    old = tmp_path / "old.json"
    assert served("--concurrency", 1, "--limit", 32, "--json", old) == 0
    return old


def test_baseline_of_other_images_is_refused(served: Bench, baseline: Path, tmp_path: Path, error_line) -> None:
    assert served("--limit", 31, "--baseline", baseline, "--json", tmp_path / "new.json") == 2
    assert "expected 31 images" in error_line()


def test_slower_release_is_a_regression(served: Bench, baseline: Path, tmp_path: Path, capsys) -> None:
    record = read(baseline)
    for load in record["loads"]:  # the earlier release was much faster
        load["valid"] = True
        for percentile in load["latency"]["percentiles"].values():
            percentile.update(value=1e-3, low=1e-3, high=1e-3)
    baseline.write_text(json.dumps(record))
    code = served("--concurrency", 1, "--limit", 32, "--baseline", baseline, "--out", tmp_path / "out")
    new = read(tmp_path / "out" / "bench.json")
    figures = {figure["figure"]: figure["verdict"] for figure in new["baseline"]["figures"]}
    assert figures["server grpc: top-1"] == "same within the intervals"
    if new["loads"][0]["valid"]:  # a busy machine may have no valid figures to compare
        assert code == 1
        assert figures["server grpc, concurrency 1: p50"] == "regression"
        assert "FAILED: server grpc, concurrency 1: p50" in capsys.readouterr().err
    assert str(baseline) in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--baseline", "{tmp}/absent.json"], ["absent.json", "not a bench record"]),
        (["--gates", "{tmp}/gates.toml"], ["min_top: unknown key, did you mean min_top1?", "speed: unknown key"]),
        (["--slo", "20ms"], ["--slo", "p99=20ms"]),
        (["--payload", "pigeon"], ["--payload", "tensor, jpeg, shm"]),
        (["--arrivals", "sometimes"], ["--arrivals", "poisson or constant"]),
    ],
)
def test_mistake_is_reported_before_the_measurement(
    local: Bench, tmp_path: Path, error_line, words: list[str], parts: list[str]
) -> None:
    (tmp_path / "gates.toml").write_text("min_top = 0.9\nspeed = 9\n")
    assert local("--out", tmp_path / "out", *(word.format(tmp=tmp_path) for word in words)) == 2
    line = error_line()
    assert all(part in line for part in parts)
    assert not (tmp_path / "out").exists()


def test_password_in_a_url_is_refused_and_printed_nowhere(local: Bench, tmp_path: Path, capsys) -> None:
    assert local("--url", "http://me:SECRETPW@127.0.0.1:1", "--out", tmp_path / "out") == 2
    assert "SECRETPW" not in "".join(capsys.readouterr())
    assert not (tmp_path / "out").exists()


def test_batch_that_the_server_refuses_is_reported_before_the_measurement(
    served: Bench, tmp_path: Path, error_line
) -> None:
    assert served("--batch", 500, "--out", tmp_path / "out") == 2
    assert "--batch: expected at most 32 images" in error_line()
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def measured(server: TritonServer, digits: Path, smoke_run: Path, tmp_path_factory) -> Path:
    """A record with the load tests that a plan needs."""
    record = tmp_path_factory.mktemp("plan") / "bench.json"
    words = ["--data", digits, "--checkpoint", smoke_run, "--url", server.grpc_url, "--payload", "tensor"]
    words += ["--limit", 8, "--concurrency", 1, "--batch", 8, "--window", 0.1, "--json", record]
    assert main(["bench", *map(str, words)]) == 0
    return record


def test_plan_computes_the_replicas_and_checks_one(
    measured: Path, server: TritonServer, digits: Path, tmp_path: Path, capsys
) -> None:
    check = ["--check", server.grpc_url, "--data", str(digits), "--json", str(tmp_path / "plan.json")]
    words = ["--rate", "50000", "--slo", "p99=1s", "--window", "0.1"]
    code = main(["bench", "plan", str(measured), *words, *check])
    out, plan = capsys.readouterr().out, read(tmp_path / "plan.json")
    assert f"{plan['replicas']} replicas of server grpc for 50000 requests/s" in out
    assert plan["requests_per_second_each"] > plan["measured_each"] > 0
    assert f"the highest measured rate is {plan['measured_each']:.1f} requests/s" in out
    assert plan["replicas"] * plan["highest_each"] >= 50000 > (plan["replicas"] - 1) * plan["highest_each"]
    assert len(plan["check"]) == 5
    assert plan["check"][-1]["requests_per_second"] == plan["requests_per_second_each"]
    assert code == (0 if plan["check"][-1]["holds"] else 1)  # a busy machine may not reach it
    assert all(row["predicted_p99_ms"] > 0 and row["measured_p99_ms"] > 0 for row in plan["check"])


def test_plan_through_the_python_api(measured: Path) -> None:
    plan = ss.plan(measured, rate=20, slo="p99=1s")
    assert (plan.replicas, plan.target) == (1, "server grpc")
    assert not plan.extrapolated


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--slo", "p99=1s", "--check", "grpc://127.0.0.1:1"], "--data"),
        (["--slo", "p99=1us"], "cannot be met"),
        (["--slo", "p99=1s", "--target", "server http"], "concurrency 1 and batch 1"),
    ],
)
def test_plan_reports_a_mistake_in_one_line(measured: Path, error_line, words: list[str], message: str) -> None:
    assert main(["bench", "plan", str(measured), "--rate", "50000", *words]) == 2
    assert message in error_line()


def test_bench_through_the_python_api(digits: Path, smoke_run: Path, tmp_path: Path) -> None:
    record = ss.bench(digits, checkpoint=smoke_run, repository=None, limit=32, min_top1=1.0, out=tmp_path)
    assert [score.stage for score in record.accuracy.stages] == ["checkpoint raw", "checkpoint ema"]
    assert record.accuracy.images == 32
    assert len(record.misses) == (record.accuracy.stages[-1].top1.value < 1)
    assert (tmp_path / "report.html").exists()
