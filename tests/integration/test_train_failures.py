"""Runs that fail: nothing lost, nothing hung, one line and exit code 2."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from shrinkserve.artifact import read_card
from shrinkserve.cli import main

COLOURS = {"a": (220, 40, 40), "b": (40, 220, 40), "c": (40, 40, 220)}
SMOKE = ("train", "smoke", "--set", "train.batch_size=16")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image folder of three classes, 24 training and 8 validation images each. Read only."""
    root, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8)):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.array(colour) + rng.integers(-40, 40, (48, 48, 3))
                image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
                image.save(root / split / name / f"{number:03d}.jpg")
    return root


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, colours: Path) -> Path:
    """Return a complete run on `colours`. Read only."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert main([*SMOKE, "--data", str(colours), "--out", str(out)]) == 0
    return out


@pytest.fixture
def copied(tmp_path: Path, finished: Path) -> Path:
    """Return a copy of the complete run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def command() -> Iterator[Run]:
    """Return a function that runs a command line in a process with a time limit."""

    def run(*words: object, seconds: float = 60, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        line = [*prefix, sys.executable, "-m", "shrinkserve", *map(str, words)]
        return subprocess.run(line, capture_output=True, text=True, timeout=seconds, check=False)

    before = set(psutil.Process().children(recursive=True))  # e.g. multiprocessing's resource tracker of other tests
    yield run
    after = [p for p in psutil.Process().children(recursive=True) if p not in before]
    assert not [p for p in after if p.status() != psutil.STATUS_ZOMBIE]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line on stderr of a command that failed as users should see it."""
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        (["model.width=0.5"], "describes another network"),  # case 20
        (["optimizer.name=adamw", "schedule.epochs=2"], "optimizer.name=adamw"),  # case 21
    ],
)
def test_resume_that_is_refused_changes_nothing(
    copied: Path, colours: Path, capsys: pytest.CaptureFixture[str], settings: list[str], part: str
) -> None:
    before = content(copied)
    words = [*SMOKE, "--data", str(colours), "--out", str(copied), "--resume", "--allow-recipe-change"]
    assert main([*words, *(word for setting in settings for word in ("--set", setting))]) == 2
    assert part in capsys.readouterr().err
    assert content(copied) == before


def test_resume_of_a_complete_run_says_so(copied: Path, colours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(copied)
    assert main([*SMOKE, "--data", str(colours), "--out", str(copied), "--resume"]) == 0
    printed = capsys.readouterr().out
    assert "nothing to train" in printed
    assert "wrote" not in printed
    assert content(copied) == before


def test_overwrite_with_a_bad_image_keeps_the_old_run(
    tmp_path: Path, copied: Path, colours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(colours, tmp_path / "data"))
    for path in (data / "train").rglob("*.jpg"):
        path.write_text("no image")
    before = content(copied)
    assert main([*SMOKE, "--data", str(data), "--out", str(copied), "--overwrite"]) == 2
    assert content(copied) == before
    assert read_card(copied).kind == "checkpoint"


def test_diverged_run_is_an_error(tmp_path: Path, colours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Case 26: training losses are finite, the averaged weights are not."""
    out = tmp_path / "run"
    words = [*SMOKE, "--data", str(colours), "--out", str(out)]
    assert main([*words, "--set", "optimizer.lr=1e8", "--set", "schedule.epochs=3"]) == 2
    assert "not finite" in capsys.readouterr().err
    assert not (out / "card.json").exists()
    for line in (out / "metrics.jsonl").read_text().splitlines() if out.exists() else []:
        json.loads(line, parse_constant=pytest.fail)


def test_run_goes_on_without_a_reader_of_its_output(tmp_path: Path, colours: Path) -> None:
    words = [*SMOKE, "--data", str(colours), "--out", str(tmp_path / "run"), "--set", "schedule.epochs=2"]
    with subprocess.Popen([sys.executable, "-m", "shrinkserve", *words], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=60) == 0
    assert read_card(tmp_path / "run").metrics["epochs"] == 2


def test_batch_of_one_is_refused_where_batch_norm_cannot_work(
    tmp_path: Path, colours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Case 27: at 32x32 the last maps of a complete ShrinkCNN have one pixel."""
    words = [*SMOKE, "--data", str(colours), "--out", str(tmp_path / "run"), "--set", "model.network=shrinkcnn-a"]
    assert main([*words, "--set", "train.batch_size=1"]) == 2
    assert "train.batch_size: expected at least 2" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_batch_that_bad_images_shrink_to_one_is_an_error(
    tmp_path: Path, colours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(colours, tmp_path / "data"))
    for path in sorted((data / "train").rglob("*.jpg"))[::2]:
        path.write_text("no image")
    words = [*SMOKE, "--data", str(data), "--out", str(tmp_path / "run"), "--set", "data.max_bad_fraction=1"]
    assert main([*words, "--set", "model.network=shrinkcnn-a", "--set", "train.batch_size=2"]) == 2
    assert "batch" in capsys.readouterr().err


@pytest.mark.parametrize("setting", ["train.seed=-1", "augment.crop_aspect=[0,1]"])
def test_values_out_of_range_are_refused_before_training(
    tmp_path: Path, colours: Path, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    """Cases 25 and 28."""
    assert main([*SMOKE, "--data", str(colours), "--out", str(tmp_path / "run"), "--set", setting]) == 2
    assert setting.partition("=")[0] in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_second_run_in_the_same_folder_is_refused(
    tmp_path: Path, colours: Path, command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = [*SMOKE, "--data", str(colours), "--out", str(out), "--set", "schedule.epochs=500"]
    first = subprocess.Popen([sys.executable, "-m", "shrinkserve", *words], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: (out / "checkpoints").is_dir() and any((out / "checkpoints").iterdir()), first)
        assert main([*words, "--resume"]) == 2
        assert "another process is training here" in capsys.readouterr().err
    finally:
        first.kill()
        first.wait()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)


def test_run_continues_when_a_missing_image_is_restored(
    tmp_path: Path, colours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = Path(shutil.copytree(colours, tmp_path / "data")), tmp_path / "run"
    words = [*SMOKE, "--data", str(data), "--out", str(out), "--set", "schedule.epochs=4"]
    line = [sys.executable, "-m", "shrinkserve", *words]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until((out / "checkpoints").is_dir, process)  # type: ignore[arg-type]
    image = data / "train" / "a" / "000.jpg"
    image.rename(tmp_path / "000.jpg")
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert "000.jpg: file not found; restore a missing image and give --resume" in errors
    (tmp_path / "000.jpg").rename(image)
    assert main([*words, "--resume"]) == 0


@pytest.mark.parametrize("nproc", [1, 2])
def test_killed_loader_process_ends_the_run(tmp_path: Path, colours: Path, nproc: int) -> None:
    out = tmp_path / "run"
    words = [*SMOKE, "--data", str(colours), "--out", str(out), "--set", "schedule.epochs=5000"]
    words += ["--nproc", str(nproc), "--set", "data.workers=1", "--set", "train.batch_size=8"]
    line = [sys.executable, "-m", "shrinkserve", *words]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until((out / "checkpoints").is_dir, process)  # type: ignore[arg-type]
    kill_a_loader(process, nproc)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 2, errors
    (error,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "loader" in error or "worker" in error


def kill_a_loader(process: subprocess.Popen[str], nproc: int) -> None:
    """Kill a loader process: a child of a training process. There is a new one in each epoch."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        trainers = [psutil.Process(process.pid)] if nproc == 1 else psutil.Process(process.pid).children()
        loaders = [child for trainer in trainers for child in trainer.children()]
        if loaders:
            loaders[0].send_signal(signal.SIGKILL)
            return
        time.sleep(0.01)
    raise AssertionError("no loader process")


def test_nproc_restarts_after_a_killed_loader_process(tmp_path: Path, colours: Path) -> None:
    out = tmp_path / "run"
    words = [*SMOKE, "--data", str(colours), "--out", str(out), "--set", "schedule.epochs=4", "--nproc", "2"]
    words += ["--max-restarts", "2", "--set", "data.workers=1", "--set", "train.batch_size=8"]
    line = [sys.executable, "-m", "shrinkserve", *words]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until((out / "checkpoints").is_dir, process)  # type: ignore[arg-type]
    kill_a_loader(process, 2)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "resuming" in output
    assert read_card(out).metrics["epochs"] == 4
