"""`shrinkserve predict` against the model of a real training, on a real server."""

from __future__ import annotations

import csv
import io
import json
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from shrinkserve.cli import main
from shrinkserve.data import open_dataset
from shrinkserve.runtimes.checkpoint import Checkpoint
from shrinkserve.serving.server.server import ServerOptions, TritonServer


@pytest.fixture(scope="module")
def photos(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The first validation images, as files."""
    folder = tmp_path_factory.mktemp("photos")
    dataset = open_dataset(digits, "validation")
    for index in range(40):
        (folder / f"{index:02}.jpg").write_bytes(dataset.record(index).encoded)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_compare_accepts_a_server(
    server: TritonServer, digits: Path, smoke_run: Path, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url, asked = getattr(server, f"{protocol}_url"), ["--data", str(digits), "--limit", "40"]
    assert main(["compare", str(smoke_run), url, *asked, "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert (outcome["candidate"], outcome["images"], outcome["flips"]) == (url, 40, 0)
    assert 0 < outcome["worst"] < 1e-4
    assert main(["compare", url, str(smoke_run), *asked, "--tolerance", "0"]) == 1
    assert "expected within 0" in capsys.readouterr().err
    assert main(["compare", str(smoke_run), url, *asked, "--model", "absent"]) == 2
    assert "no such model is ready" in capsys.readouterr().err


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_predict_json_equals_checkpoint(
    server: TritonServer, photos: list[Path], smoke_run: Path, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = getattr(server, f"{protocol}_url")
    assert main(["predict", str(photos[0].parent), "--url", url, "--top", "3", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    checkpoint = Checkpoint(smoke_run)
    images = np.stack([checkpoint.preprocess.evaluate_bytes(path.read_bytes()) for path in photos])
    best = checkpoint.predict(images).argmax(axis=1)
    assert [record["image"] for record in records] == [str(path) for path in photos]
    assert [record["top"][0]["label"] for record in records] == [checkpoint.classes[index] for index in best]
    assert {(record["model"], record["version"], len(record["top"])) for record in records} == {("smoke", 1, 3)}


def test_predict_prints_sorted_classes(
    server: TritonServer, photos: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(photos[0]), str(photos[1]), "--url", server.grpc_url, "--model", "smoke"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[6]] == [str(photos[0]), str(photos[1])]
    shares = [float(line.split("%")[0]) for line in lines[1:6]]
    assert shares == sorted(shares, reverse=True)


def test_predict_pattern_equals_list_on_standard_input(server: TritonServer, photos: list[Path]) -> None:
    command = [sys.executable, "-m", "shrinkserve", "predict", "--csv", "--url", server.http_url, "--top", "1"]
    pattern = subprocess.run(
        [*command, str(photos[0].parent / "0*.jpg")], capture_output=True, text=True, check=True
    ).stdout
    rows = list(csv.DictReader(io.StringIO(pattern)))
    assert [row["image"] for row in rows] == [str(path) for path in photos[:10]]
    names = "".join(f"{path}\n" for path in photos[:10])
    piped = subprocess.run([*command, "-"], input=names, capture_output=True, text=True, check=True).stdout
    assert piped == pattern


def test_predict_lists_errors_at_the_end(
    server: TritonServer, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.jpg", "b.png"):
        (tmp_path / name).write_bytes(b"this is text")
    words = [str(photos[0]), str(tmp_path), str(photos[1])]
    assert main(["predict", *words, "--url", server.grpc_url, "--json"]) == 2
    captured = capsys.readouterr()
    assert ["error" in record for record in json.loads(captured.out)] == [False, True, True, False]
    *listed, last = captured.err.splitlines()
    assert ["a.jpg" in listed[0], "b.png" in listed[1]] == [True, True]
    assert "2 images" in last


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.jpg"], "missing.jpg: no such file or folder"),
        (["empty"], "empty: no image in this folder"),
        (["*.nothing"], "*.nothing: no file matches"),
        (["text.jpg"], "text.jpg: cannot decode image: unknown format"),
        (["text.jpg", "--json", "--csv"], "--json and --csv: expected one of them"),
        (["text.jpg", "--model", "cats"], "no such model is ready: expected one of smoke, found cats"),
        (["text.jpg", "--url", "localhost"], "server URL: expected http://HOST:PORT"),
    ],
)
def test_predict_reports_mistakes_in_one_line(
    server: TritonServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("text.jpg").write_text("this is text")
    url = [] if "--url" in words else ["--url", server.grpc_url]
    assert main(["predict", *words, *url]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_predict_prints_complete_json_when_server_dies(
    smoke_repository: Path, photos: list[Path], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "shrinkserve", "predict", "-", "--json", "--top", "1", "--url"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with TritonServer(smoke_repository, ServerOptions(log_file=tmp_path / "log")) as server:
        process = subprocess.Popen([*command, server.grpc_url], text=True, **pipes)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(f"{photos[0]}\n" * 200)
        process.stdin.flush()
        begun = process.stdout.readline() + process.stdout.readline()
        started = psutil.Process(server.pid)
        next(p for p in (started, *started.children(recursive=True)) if p.name() == "tritonserver").kill()
        with suppress(BrokenPipeError):  # it may have ended already
            process.stdin.write(f"{photos[0]}\n" * 200)
            process.stdin.close()
        rest, errors = process.stdout.read(), process.stderr.read()  # communicate() would pass by what readline took in
        process.wait(60)
    assert (process.returncode, errors.count("\n")) == (2, 1)
    assert errors.startswith(f"error: {server.grpc_url}: ")
    found = json.loads(begun + rest)
    assert 0 < len(found) < 400


def test_predict_fails_when_server_is_not_reachable(photos: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"grpc://127.0.0.1:{listener.getsockname()[1]}"
    assert main(["predict", str(photos[0]), "--url", url]) == 2
    assert f"error: {url}: the server is not reachable" in capsys.readouterr().err
