"""`shrinkserve predict` with a server that replies the same to every image."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shrinkserve.api.predict import predict
from shrinkserve.artifact import Card
from shrinkserve.cli import main
from shrinkserve.cli.predict import _write_json
from shrinkserve.errors import DataError, RequestError, ShrinkServeError
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.serving.client.prediction import ClassifyResult

COMMAND = [sys.executable, "-m", "shrinkserve", "predict", "--top", "1"]


@pytest.fixture
def fake_url(fake: Any) -> Iterator[str]:
    with fake.serve_http() as url:
        yield url


@pytest.fixture(autouse=True)
def photos(fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake.config.max_batch_size = 0  # one image per request
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        Image.new("RGB", (10, 10), (50, 100, 150)).save(folder / name)
    return folder


def run(*words: object, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, **environment}
    return subprocess.run(
        [*COMMAND, *map(str, words)], input=stdin, capture_output=True, timeout=60, env=env, check=False
    )


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii"])
@pytest.mark.parametrize("output", ["--csv", "--json", None])
def test_names_that_are_not_utf8_are_escaped(
    photos: Path, fake: Any, fake_url: str, encoding: str, output: str | None
) -> None:
    classes = ["a", "größe", "c"]
    fake.config.parameters["shrinkserve.classes"].string_value = json.dumps(classes)
    Image.new("RGB", (10, 10)).save(photos / "x.png")
    os.rename(photos / "x.png", os.fsencode(photos) + b"/b\xff.png")
    ended = run("photos", "--url", fake_url, *([output] if output else []), PYTHONIOENCODING=encoding)
    assert (ended.returncode, ended.stderr) == (0, b"")
    text = ended.stdout.decode(encoding.partition(":")[0])
    if output == "--json":
        found = json.loads(text)
        assert [record["image"] for record in found] == ["photos/a.png", "photos/b\udcff.png", "photos/c.png"]
        assert {record["top"][0]["label"] for record in found} == {"größe"}
    elif output == "--csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [row["image"] for row in rows] == ["photos/a.png", "photos/b\\udcff.png", "photos/c.png"]
    else:
        assert "photos/c.png" in text


def test_predict_reads_lists_in_every_format(photos: Path, fake_url: str) -> None:
    for text in (
        b"photos/a.png\r\nphotos/c.png\r\n",
        b"\xef\xbb\xbfphotos/a.png\nphotos/c.png",
        b"photos/a.png\0photos/c.png\0",
    ):
        ended = run("-", "--url", fake_url, "--csv", stdin=text)
        assert [row["image"] for row in csv.DictReader(io.StringIO(ended.stdout.decode()))] == [
            "photos/a.png",
            "photos/c.png",
        ]


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_closed_standard_streams_are_one_error(fake_url: str, closed: str) -> None:
    words = f"{' '.join(COMMAND)} {'-' if '<' in closed else 'photos'} --csv --url {fake_url} {closed}"
    ended = subprocess.run(["bash", "-c", words], stderr=subprocess.PIPE, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith(b"error: ")
    assert ended.stderr.count(b"\n") == 1


def test_skipped_files_are_counted(photos: Path, fake_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "d.gif").write_bytes(b"")
    (photos / "e.tif").write_bytes(b"")
    assert main(["predict", "photos", "--url", fake_url]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("photos/") == 2
    assert ".gif" in captured.err
    assert ".tif" in captured.err


def test_named_pipe_is_read(photos: Path, fake_url: str) -> None:
    words = f"{' '.join(COMMAND)} <(cat photos/a.png) --url {fake_url}"
    ended = subprocess.run(["bash", "-c", words], capture_output=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_interrupt_ends_at_once_with_complete_json(photos: Path, fake: Any, fake_url: str) -> None:
    stalled, release = threading.Event(), threading.Event()
    requests = 0

    def stall(path: str) -> None:
        nonlocal requests
        requests += "infer" in path.lower()
        if requests > 1:
            stalled.set()
            release.wait(60)

    fake.before = stall
    process = subprocess.Popen(
        [*COMMAND, *["photos"] * 20, "--json", "--timeout", "600", "--url", fake_url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert stalled.wait(30)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    release.set()
    assert process.returncode == 130, errors
    assert isinstance(json.loads(output or b"[]"), list)


def test_json_is_complete_when_the_interrupt_comes_while_it_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    class Output(io.StringIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed += 1
            if self.flushed == 1:
                raise KeyboardInterrupt

    output = Output()
    monkeypatch.setattr(sys, "stdout", output)
    result = ClassifyResult("a.png", error=DataError("a.png: bad"))
    with pytest.raises(KeyboardInterrupt):
        _write_json([result, result])
    assert [record["image"] for record in json.loads(output.getvalue())] == ["a.png"]


@pytest.fixture
def version(make_model: Callable[..., tuple[Path, Card]]) -> Path:
    path, card = make_model()
    card.write(path.parent)
    return path.parent


def test_model_in_this_process_equals_its_session(
    photos: Path, version: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "photos", "--model", str(version), "--json", "--top", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    pixels = Preprocess(size=8).evaluate_bytes((photos / "a.png").read_bytes())
    (row,) = OnnxModel(version / "model.onnx").infer(pixels[None])["probabilities"]
    best = int(row.argmax())
    assert [record["image"] for record in found] == ["photos/a.png", "photos/c.png"]
    assert found[0]["top"][0] == {"label": f"class {best}: a name", "probability": pytest.approx(float(row[best]))}
    assert [found[0]["top"]] == [record["top"] for record in found[1:]]


def test_folder_with_the_name_of_a_served_model_is_not_a_model(photos: Path, fake_url: str) -> None:
    (photos.parent / "cats").mkdir()
    with pytest.raises(RequestError):  # no server at the default address, or one without such a model
        list(predict([photos / "a.png"], model="cats"))
    assert [result.model for result in predict([photos / "a.png"], model="cats", url=fake_url)] == ["cats"]


def test_model_in_this_process_takes_few_images_ahead(photos: Path, version: Path) -> None:
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield photos / "a.png"

    results = predict(endless(), model=version / "model.onnx")
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert taken < 100


def test_model_in_this_process_continues_after_bad_image(photos: Path, version: Path) -> None:
    results = list(predict([b"junk", photos / "a.png", np.zeros((4, 4, 3), np.uint8)], model=version))
    assert [result.error is None for result in results] == [False, True, True]


@pytest.mark.parametrize(
    "words", [["--model", "absent/model.onnx"], ["--model", "./photos"], ["--model", "VERSION", "--encoded"]]
)
def test_model_that_cannot_run_here_is_one_error(
    version: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "photos", *(word.replace("VERSION", str(version)) for word in words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1


def test_predict_is_public() -> None:
    import shrinkserve

    with pytest.raises(ShrinkServeError):
        next(shrinkserve.predict(["photos/a.png"], url="grpc://127.0.0.1:1"))


@pytest.mark.parametrize(("least", "unsure"), [(0.0, False), (1.0, True)])
def test_results_below_the_least_confidence_are_unsure(
    photos: Path, fake_url: str, least: float, unsure: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    (result, *_) = predict([photos / "a.png"], url=fake_url, min_confidence=least)
    assert 0 < result.predictions[0].probability < 1
    assert result.unsure == unsure
    words = ["predict", str(photos / "a.png"), "--url", fake_url, "--min-confidence", str(least)]
    outputs = {}
    for output in ("--json", "--csv"):
        assert main([*words, output]) == 0
        outputs[output] = capsys.readouterr().out
    assert json.loads(outputs["--json"])[0].get("unsure", False) == unsure
    (first, *_) = csv.DictReader(io.StringIO(outputs["--csv"]))
    assert (first["label"] == "unsure") == unsure
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("unsure") == unsure
