"""`shrinkserve train`, `train plot` and `eval` from the command line."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from safetensors.numpy import load_file

import shrinkserve as ss
from shrinkserve.artifact import read_card, tensors_sha256
from shrinkserve.cli import main
from shrinkserve.training.run_folder import checkpoints

SMOKE = ("--set", "train.deterministic=true", "--set", "train.checkpoint_steps=2")


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "shrinkserve", *map(str, words)]


def descendants(process: subprocess.Popen[str], count: int, seconds: float = 60) -> list[psutil.Process]:
    """Return the training processes, once all have started."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        children = [
            p
            for p in psutil.Process(process.pid).children(recursive=True)
            if "shrinkserve.training.worker" in p.cmdline()
        ]
        if len(children) == count:
            return children
        time.sleep(0.05)
    raise AssertionError(f"no {count} training processes; exit code {process.poll()}")


def wait_for_checkpoint(run: Path, process: subprocess.Popen[str], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not checkpoints.listed(run / "checkpoints"):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def test_train_writes_card_of_its_weights(smoke_run: Path) -> None:
    card = read_card(smoke_run, "checkpoint")
    assert card.name == "smoke"
    assert card.metrics["images"] == 364
    assert tensors_sha256(load_file(smoke_run / "ema.safetensors")) == card.weights_sha256


def test_auto_measures_the_loaders_and_a_resumed_run_keeps_its_own(tmp_path: Path, digits: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    words = command("train", "run", "smoke", "--data", digits, "--out", tmp_path / "run", "--set", "data.loader=auto")

    def loader_line(*more: str) -> str:
        done = subprocess.run([*words, *more], capture_output=True, text=True, check=True, timeout=250, env=environment)
        (line,) = (line for line in done.stdout.splitlines() if line.startswith("loader: "))
        return line

    name = loader_line("--nproc", "2").split()[1]
    assert name in {"portable", "dali"}
    (begun,) = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert begun["loader"] == name
    resumed = loader_line("--resume", "--allow-recipe-change", "--set", "schedule.epochs=2")
    assert resumed == f"loader: {name} (as before)"


def process_state() -> list[object]:
    """Return what a launch in this process might leave changed."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)]
    return [handlers, dict(os.environ), logging.getLogger("torch.distributed.elastic").level]


def test_nproc_restarts_after_a_lost_process(tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is that of a run that lost none, which the Python function trains."""
    whole, lost = tmp_path / "whole", tmp_path / "lost"
    before = process_state()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    found = ss.train("smoke", digits, whole, overrides=SMOKE[1::2], nproc=2)
    assert process_state() == before
    assert list((tmp_path / "temporary").iterdir()) == []
    assert found.top1 == ss.evaluate(found, digits).top1
    with pytest.raises(ss.errors.ConfigError, match="has a run"):
        ss.train("smoke", digits, whole, overrides=SMOKE[1::2], nproc=2)
    words = ("train", "smoke", "--data", digits, "--out", lost, "--nproc", 2, "--max-restarts", 3, *SMOKE)
    process = subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    workers = descendants(process, 2)
    wait_for_checkpoint(lost, process)
    workers[1].kill()
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    assert "resuming" in output
    assert "wrote" in output
    assert (lost / "ema.safetensors").read_bytes() == (whole / "ema.safetensors").read_bytes()


def test_nproc_listens_on_loopback_and_stops_at_a_checkpoint(tmp_path: Path, digits: Path) -> None:
    out = tmp_path / "run"
    words = ("train", "smoke", "--data", digits, "--out", out, "--nproc", 2, "--set", "schedule.epochs=500", *SMOKE)
    process = subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    workers = descendants(process, 2)
    wait_for_checkpoint(out, process)
    found = [c for p in (psutil.Process(process.pid), *workers) for c in p.net_connections("inet")]
    assert found  # gloo's connections between the processes
    assert not [c.laddr for c in found if c.laddr.ip not in {"127.0.0.1", "::1"}]
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "SIGTERM: stopped after step" in output
    assert "Traceback" not in errors
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)


def test_nproc_processes_end_with_a_killed_launcher(tmp_path: Path, digits: Path) -> None:
    out = tmp_path / "run"
    words = ("train", "smoke", "--data", digits, "--out", out, "--nproc", 2, "--set", "schedule.epochs=500", *SMOKE)
    with subprocess.Popen(command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True) as process:
        workers = descendants(process, 2)
        wait_for_checkpoint(out, process)
        process.kill()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE]


def test_nproc_reports_a_lost_process_in_one_line(tmp_path: Path, digits: Path) -> None:
    out = tmp_path / "run"
    words = ("train", "smoke", "--data", digits, "--out", out, "--nproc", 2, "--set", "schedule.epochs=500", *SMOKE)
    process = subprocess.Popen(command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    workers = descendants(process, 2)
    wait_for_checkpoint(out, process)
    workers[0].kill()
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert errors.startswith("error: training process 0 was killed by signal 9"), errors
    assert len(errors.splitlines()) == 1, errors


def test_nproc_reports_an_error_once(tmp_path: Path, digits: Path) -> None:
    words = ("train", "smoke", "--data", digits, "--out", tmp_path / "run", "--nproc", 2)
    done = subprocess.run(
        command(*words, "--set", "model.classes=5"), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: model.classes: expected 11"), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["smok", "--data", "."], "smok: no such recipe; did you mean smoke?"),
        (["smoke", "--data", "absent"], "absent: no such folder"),
        (["smoke", "--data", "DIGITS", "--set", "train.batchsize=3"], "train.batchsize: unknown key, did you mean"),
        (["smoke", "--data", "DIGITS", "--set", "train.precision=int4"], "train.precision"),
        (["smoke", "--data", "DIGITS", "--set", "model.network=resnet"], "resnet: unknown network"),
        (["smoke", "--data", "DIGITS", "--resume", "--overwrite"], "--resume and --overwrite exclude each other"),
        (["smoke", "--data", "DIGITS", "--out", "FILE"], "is a file"),
        (["smoke"], "Missing option"),
    ],
)
def test_train_reports_a_mistake_in_one_line(
    tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    (tmp_path / "file").write_text("")
    places = {"DIGITS": str(digits), "FILE": str(tmp_path / "file")}
    out = [] if "FILE" in words else ["--out", str(tmp_path / "run")]
    assert main(["train", *(places.get(word, word) for word in words), *out]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_train_reports_a_place_that_cannot_be_written(
    tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["train", "smoke", "--data", str(digits), "--out", str(tmp_path / "file" / "run")]) == 2
    printed = capsys.readouterr().err
    assert "cannot be written" in printed
    assert len(printed.splitlines()) == 1


def test_train_names_a_truncated_shard(tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in digits.rglob("*"):
        if path.is_file():
            target = tmp_path / "data" / path.relative_to(digits)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    shard = sorted((tmp_path / "data" / "train_tfrecord").glob("train-*"))[-1]
    shard.write_bytes(shard.read_bytes()[:-20])
    assert main(["train", "smoke", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr().err
    assert shard.name in printed
    assert len(printed.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_eval_prints_the_figures_of_the_card(smoke_run: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(smoke_run), "--data", str(digits), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["top1"] == read_card(smoke_run).metrics["top1"]
    assert sum(map(sum, found["confusion"])) == found["images"] == 364
    newest = checkpoints.listed(smoke_run / "checkpoints")[-1]
    assert main(["eval", str(newest), "--data", str(digits), "--weights", "raw"]) == 0
    assert "top-1" in capsys.readouterr().out


@pytest.mark.parametrize(("suffix", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_plot_draws_curves(tmp_path: Path, smoke_run: Path, suffix: str, begins: bytes) -> None:
    target = tmp_path / f"curves.{suffix}"
    assert main(["train", "plot", str(smoke_run), "--out", str(target)]) == 0
    assert target.read_bytes().startswith(begins)


def test_plot_rejects_other_folders_and_suffixes(
    tmp_path: Path, smoke_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "plot", str(tmp_path), "--out", str(tmp_path / "x.png")]) == 2
    assert main(["train", "plot", str(smoke_run), "--out", str(tmp_path / "x.docx")]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert "no curves" in printed[0]
    assert "expected .png, .svg or .pdf" in printed[1]


def test_plan_prints_updates(digits: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["train", "digits", "--data", str(digits), "--nproc", "2", "--plan", "--images-per-second", "100"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if " batch" not in line)
    assert lines["images"].startswith("1,433 train, 364 validation; 11 classes")
    assert lines["updates"] == "352 = 22 per epoch x 16 epochs"
    assert not (tmp_path / "run").exists()


def test_profile_of_two_processes(digits: Path) -> None:
    profile = ss.profile_training(ss.load_recipe("smoke"), digits, nproc=2)
    assert (profile.processes, profile.images_per_second > 0) == (2, True)


def test_profile_prints_each_part(
    digits: Path, capsys: pytest.CaptureFixture[str], shrinkserve: Callable[..., None]
) -> None:
    shrinkserve("train", "smoke", "--data", digits, "--profile")
    printed = capsys.readouterr().out
    for part in ("wait for data", "forward", "backward", "all-reduce", "optimiser, EMA", "complete update"):
        assert part in printed
