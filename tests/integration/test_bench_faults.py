"""What goes wrong in a measurement: typed as a user would, one clear line each, and nothing that looks finished."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from shrinkserve.cli import main
from shrinkserve.serving.server.server import TritonServer


def bench(*words: object) -> int:
    return main(["bench", *map(str, words), "--window", "0.1"])


def test_a_damaged_record_is_named_and_the_report_is_partial(
    digits: Path, smoke_run: Path, tmp_path: Path, error_line
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(digits, data)
    shard = sorted((data / "val_tfrecord").glob("validation-*"))[1]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(bytes(content))
    assert bench("--data", data, "--checkpoint", smoke_run, "--repository", tmp_path, "--out", out) == 2
    line = error_line()
    assert shard.name in line
    record = json.loads((out / "bench.json").read_text())
    assert record["partial"] in line
    assert 0 < record["accuracy"]["images"] < record["accuracy"]["planned"] == 364
    assert (out / "report.md").read_text().startswith("# smoke: PARTIAL\n")
    assert '<span class="badge PARTIAL">PARTIAL</span>' in (out / "report.html").read_text()
    shutil.copytree(digits, data, dirs_exist_ok=True)  # mended: the same command goes on and ends well
    assert bench("--data", data, "--checkpoint", smoke_run, "--repository", tmp_path, "--out", out) == 0
    assert json.loads((out / "bench.json").read_text())["accuracy"]["images"] == 364


def test_a_folder_without_validation_images_and_one_with_a_broken_one(
    smoke_run: Path, digits: Path, tmp_path: Path, error_line
) -> None:
    run = shutil.copytree(smoke_run, tmp_path / "run")
    words = ("--checkpoint", run, "--repository", tmp_path / "none")
    for name in (digits / "labels.txt").read_text().split():
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "val" / name / "1.jpg")
    (tmp_path / "empty" / "val").mkdir(parents=True)
    assert bench("--data", tmp_path / "empty", *words) == 2
    assert str(tmp_path / "empty") in error_line()
    assert bench("--data", tmp_path, *words) == 2  # the folders' names in order are not those of the shards
    assert "not the classes of model smoke: expected class 0 to be 'background', found '0'" in error_line()
    card = json.loads((run / "card.json").read_text())
    synsets = [f"n{number:08}" for number in range(len(card["classes"]))]  # names of another kind tell no order
    (run / "card.json").write_text(json.dumps({**card, "classes": synsets}))
    broken = tmp_path / "val" / "7" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    assert bench("--data", tmp_path, *words) == 2
    assert str(broken.relative_to(tmp_path)) in error_line()


def test_a_promise_that_cannot_be_met(
    server: TritonServer, digits: Path, smoke_run: Path, tmp_path: Path, capsys
) -> None:
    words = ("--data", digits, "--checkpoint", smoke_run, "--url", server.grpc_url, "--payload", "tensor", "--limit", 8)
    assert bench(*words, "--concurrency", 1, "--slo", "p99=1us", "--out", tmp_path) == 1
    captured = capsys.readouterr()
    (line,) = [line for line in captured.err.splitlines() if line.startswith("MISSED")]
    assert "server grpc: p99=0.001ms cannot be met: p99 is " in line
    assert "cannot be met" in (tmp_path / "report.html").read_text()
    assert "cannot be met" in (tmp_path / "report.md").read_text()


def test_a_release_is_compared_with_the_one_before(
    server: TritonServer, digits: Path, smoke_run: Path, tmp_path: Path, capsys, error_line
) -> None:
    words = ("--data", digits, "--checkpoint", smoke_run, "--url", server.grpc_url, "--payload", "tensor")
    words = (*words, "--concurrency", 1, "--repository", tmp_path / "none")
    old = tmp_path / "old.json"
    assert bench(*words, "--limit", 32, "--json", old) == 0
    record = json.loads(old.read_text())
    capsys.readouterr()
    assert bench(*words, "--limit", 31, "--baseline", old, "--json", tmp_path / "new.json") == 2
    assert "baseline: measured on other images: expected the 31 images of" in error_line()

    for load in record["loads"]:  # as if the release before had been much faster
        load["valid"] = True
        for percentile in load["latency"]["percentiles"].values():
            percentile.update(value=1e-3, low=1e-3, high=1e-3)
    old.write_text(json.dumps(record))
    code = bench(*words, "--limit", 32, "--baseline", old, "--out", tmp_path / "out")
    new = json.loads((tmp_path / "out" / "bench.json").read_text())
    figures = {figure["figure"]: figure["verdict"] for figure in new["baseline"]["figures"]}
    assert figures["server grpc: top-1"] == "same within the intervals"
    if new["loads"][0]["valid"]:  # a machine that is too restless for a valid figure has none to compare
        assert code == 1
        assert figures["server grpc, concurrency 1: p50"] == "regression"
        assert "beyond both intervals" in capsys.readouterr().err
    assert f"Against {old}" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--baseline", "{tmp}/absent.json"], "not a record of `bench`"),
        (["--gates", "{tmp}/gates.toml"], "min_top: unknown key, did you mean min_top1?; speed: unknown key"),
        (["--slo", "20ms"], "--slo: expected a promise such as p99=20ms"),
        (["--payload", "pigeon"], "--payload: expected one of tensor, jpeg, shm"),
        (["--arrivals", "sometimes"], "--arrivals: expected poisson or constant"),
    ],
)
def test_mistakes_are_said_before_anything_is_measured(
    digits: Path, smoke_run: Path, tmp_path: Path, error_line, words: list[str], message: str
) -> None:
    (tmp_path / "gates.toml").write_text("min_top = 0.9\nspeed = 9\n")
    given = [word.format(tmp=tmp_path) for word in words]
    assert bench("--data", digits, "--checkpoint", smoke_run, "--out", tmp_path / "out", *given) == 2
    assert message in error_line()
    assert not (tmp_path / "out").exists()


def test_a_batch_that_the_server_refuses_is_said_before_anything_is_measured(
    server: TritonServer, digits: Path, smoke_run: Path, tmp_path: Path, error_line
) -> None:
    words = ("--data", digits, "--checkpoint", smoke_run, "--url", server.grpc_url, "--out", tmp_path / "out")
    assert bench(*words, "--batch", 500) == 2
    assert "--batch: expected at most 32 images, the server's largest, found 500" in error_line()
    assert not (tmp_path / "out").exists()


def test_a_plan_from_measured_times_and_one_without(
    server: TritonServer, digits: Path, smoke_run: Path, tmp_path: Path, capsys, error_line
) -> None:
    record, plan = tmp_path / "bench.json", tmp_path / "plan.json"
    words = ("--data", digits, "--checkpoint", smoke_run, "--url", server.grpc_url, "--payload", "tensor", "--limit", 8)
    assert bench(*words, "--concurrency", 1, "--batch", 8, "--json", record) == 0
    ask = ["bench", "plan", str(record), "--rate", "50000"]
    check = ["--check", server.grpc_url, "--data", str(digits), "--json", str(plan)]
    code = main([*ask, "--slo", "p99=1s", *check])
    told, made = capsys.readouterr(), json.loads(plan.read_text())
    assert "replicas of server grpc answer 50000 requests/s" in told.out
    assert made["requests_per_second_each"] > made["measured_each"] > 0
    assert f"a replica was measured up to {made['measured_each']:.1f} requests/s: beyond is simulated" in told.out
    assert made["replicas"] * made["highest_each"] >= 50000 > (made["replicas"] - 1) * made["highest_each"]
    assert len(made["check"]) == 5
    assert made["check"][-1]["requests_per_second"] == made["requests_per_second_each"]
    assert code == (0 if made["check"][-1]["holds"] else 1)  # a busy machine may not reach it
    assert code == 0 or "this replica does not keep p99=1000ms at the planned" in told.err
    assert all(row["predicted_p99_ms"] > 0 and row["measured_p99_ms"] > 0 for row in made["check"])
    assert main(["bench", "plan", str(record), "--rate", "20", "--slo", "p99=1s"]) == 0
    assert "1 replica of server grpc answers 20 requests/s" in (calm := capsys.readouterr().out)
    assert "was measured up to" not in calm
    assert main([*ask, "--slo", "p99=1s", "--check", server.grpc_url]) == 2
    assert "--check: expected --data with the dataset" in error_line()
    assert main([*ask, "--slo", "p99=1us"]) == 2
    assert "cannot be met by any number of replicas" in error_line()
    assert bench(*words, "--concurrency", 2, "--json", record) == 0
    assert main([*ask, "--slo", "p99=1s"]) == 2
    assert "no load test of a server at concurrency 1 and batch 1" in error_line()
