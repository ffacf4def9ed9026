from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
AUTOSHRINK = Path(__file__).parents[1] / "unit" / "training" / "autoshrink"
SERVER = "shrinkserve serve"
PORTS = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]


def commands(page: Path) -> list[str]:
    """Return the commands of a tutorial in their order."""
    blocks = re.findall(r"(?ms)^```console\n(.*?)^```", page.read_text(encoding="utf-8"))
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@contextmanager
def serving(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """Run the tutorial's server on free ports and yield its gRPC URL."""
    command = [*SERVER.split(), *PORTS, "--log-file", "triton.log"]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield next(line.strip() for line in server.stdout if line.startswith("grpc://"))
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)


def follow(page: str, folder: Path) -> list[str]:
    """Run the commands of a tutorial in `folder`, with short load tests, and return the output of each."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    outputs = []
    with ExitStack() as stack:
        url = "grpc://127.0.0.1:8001"
        for command in commands(TUTORIALS / page):
            if command.startswith("export "):
                name, _, value = command.removeprefix("export ").partition("=")
                environment[name] = value
                continue
            if command == SERVER:
                url = stack.enter_context(serving(folder, environment))
                continue
            words = command.replace("grpc://127.0.0.1:8001", url).replace("--window 0.5", "--window 0.1").split()
            done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            outputs.append(done.stdout)
    return outputs


def test_tutorial_onnx_runs(tmp_path: Path) -> None:
    for name in ("make_model.py", "preprocess.toml", "labels.txt"):
        shutil.copy(TUTORIALS / name, tmp_path)
    *_, listed, predicted, compared = follow("onnx.md", tmp_path)
    assert listed.startswith("colours: ")
    assert predicted.split()[0::5] == ["photos/val/red/0.jpg", "photos/val/blue/0.jpg"]
    assert predicted.split()[2::5] == ["red", "blue"]
    assert "0 of 16 top-1 changed" in compared


def test_tutorial_photos_runs(tmp_path: Path) -> None:
    """The tiny network learns the materials in four epochs."""
    shutil.copy(TUTORIALS / "make_photos.py", tmp_path)
    recipe = (TUTORIALS / "photos.toml").read_text()
    for long, short in (("shrinkcnn-a", "shrinkcnn-tiny"), ("\nepochs = 10", "\nepochs = 4")):
        assert long in recipe
        recipe = recipe.replace(long, short)
    (tmp_path / "photos.toml").write_text(recipe)
    follow("photos.md", tmp_path)
    assert (tmp_path / "report" / "report.html").is_file()


def test_tutorial_publish_runs(tmp_path: Path) -> None:
    outputs = follow("publish.md", tmp_path)
    before, published, back = (text for text in outputs if text.startswith("digits: version"))
    assert before.startswith("digits: version 1 ")
    assert published.startswith("digits: version 2 ")
    assert back.startswith("digits: version 1 ")


@pytest.mark.skipif(find_spec("tensorflow") is None, reason="the extra tensorflow is not installed")
def test_tutorial_autoshrink_runs(tmp_path: Path) -> None:
    for file in (*AUTOSHRINK.glob("model.ckpt.*"), AUTOSHRINK / "small.prototxt"):
        shutil.copy(file, tmp_path)
    *_, compared = follow("autoshrink.md", tmp_path)
    assert "0 of 64 top-1 changed" in compared
