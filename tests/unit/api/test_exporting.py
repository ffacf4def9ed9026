from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import shrinkserve as ss
from shrinkserve import artifact
from shrinkserve.api import artifacts, exporting
from shrinkserve.arch import module
from shrinkserve.artifact import Card, read_card
from shrinkserve.cli import main
from shrinkserve.errors import ConfigError, GateError
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.names import model_names
from shrinkserve.serving.repository import transaction
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.server import ServerOptions, TritonServer

sys.path.insert(0, str(Path(__file__).parents[1] / "exporting"))
from conftest import write_run

from shrinkserve.preprocess import Preprocess


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with random weights; read only."""
    return write_run(tmp_path_factory.mktemp("runs") / "tiny", Preprocess(size=32), "relu")


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> exporting.ExportResult:
    """The exported run with a float16 engine; read only."""
    return exporting.export(run, repository=tmp_path_factory.mktemp("exported"), to="fp16", max_batch=4)


def count_calls(monkeypatch: pytest.MonkeyPatch, function: Callable, key: Callable[..., str]) -> Counter[str]:
    """Count the calls of a function in every module that imported it."""
    counts: Counter[str] = Counter()

    def counted(*args: object, **kwargs: object) -> object:
        counts[key(*args)] += 1
        return function(*args, **kwargs)

    for loaded in list(sys.modules.values()):
        name = getattr(function, "__name__", "")
        if getattr(loaded, "__name__", "").startswith("shrinkserve") and getattr(loaded, name, None) is function:
            monkeypatch.setattr(loaded, name, counted)
    return counts


@pytest.mark.usefixtures("exported")  # an export imports all modules
def test_export_opens_hashes_and_writes_once(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = count_calls(monkeypatch, artifact.sha256_file, lambda path: path.name)
    compiled = count_calls(monkeypatch, module.compile_spec, lambda *_: "compile")
    commits = Counter[str]()
    commit = transaction.Change.commit

    def counted(change: transaction.Change, **options: object) -> None:
        commits["commit"] += 1
        commit(change, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(transaction.Change, "commit", counted)
    version = exporting.export(run, repository=tmp_path / "models", to="fp16", max_batch=2)
    assert hashed["ema.safetensors"] == 1
    assert hashed["raw.safetensors"] == 0
    assert hashed["model.onnx"] <= 1, "after its copy into the repository"
    assert hashed["passes.onnx"] == 1
    assert compiled == {"compile": 1}
    assert commits == {"commit": 1}
    assert [engine.name for engine in version.engines] == ["float16"]


def test_export_out_writes_version_that_publish_accepts(run: Path, tmp_path: Path) -> None:
    version = exporting.export(run, out=tmp_path / "version", to=["fp16"], max_batch=2)
    card = read_card(version.folder, "onnx")
    assert set(card.files) == {"model.onnx", "float16.onnx"}
    assert {path.name for path in version.folder.iterdir()} == {"model.onnx", "float16.onnx", "card.json"}
    place = ss.publish(version.folder, tmp_path / "models", scratch=False)
    assert read_card(place).files == card.files


def test_export_out_rejects_existing_folder(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exists"):
        exporting.export(run, out=tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"onnx": "x.onnx", "run": "run"},
        {"run": "run", "labels": "labels.txt"},
        {"onnx": "x.onnx", "weights": "raw"},
        {"run": "run", "out": "new", "url": "grpc://localhost:1"},
        {"run": "run", "to": "fp8"},
    ],
)
def test_export_rejects_options_before_work(run: Path, tmp_path: Path, options: dict[str, str]) -> None:
    given = {
        key: run if value == "run" else tmp_path / value if key == "out" else value for key, value in options.items()
    }
    with pytest.raises(ConfigError):
        exporting.export(**given)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option",
    [
        {"out": "new"},
        {"url": "grpc://localhost:1"},
        {"name": "other"},
        {"version": 7},
        {"weights": "raw"},
        {"tune": True},
        {"calibrate": True},
    ],
    ids=lambda option: next(iter(option)),
)
def test_export_rejects_options_that_a_published_version_cannot_follow(
    exported: exporting.ExportResult, option: dict[str, object]
) -> None:
    before = read_card(exported.folder)
    with pytest.raises(ConfigError, match=f"--{next(iter(option))}"):
        exporting.export(exported.folder, to="fp16", **option)  # type: ignore[arg-type]
    assert read_card(exported.folder) == before


def test_compare_and_load_accept_every_artifact(run: Path, exported: exporting.ExportResult) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    right = artifacts.load(run).predict(images)
    for source in (exported.folder, f"{exported.folder}@float16", exported.folder / "model.onnx"):
        np.testing.assert_allclose(artifacts.load(source).predict(images), right, atol=0.02 * np.abs(right).max())
    outcome = artifacts.compare(run, exported.folder)
    assert (outcome.violations, outcome.flips, outcome.images) == ([], 0, 64)
    artifacts.check_parity(outcome)
    raw = artifacts.compare(run, f"{run}@raw")
    with pytest.raises(GateError):
        artifacts.check_parity(raw)


def test_inspect_returns_contents_and_differences(run: Path, exported: exporting.ExportResult) -> None:
    found = artifacts.inspect(exported.folder)
    assert found["kind"] == "onnx"
    changed = artifacts.inspect(run, exported.folder)
    assert changed["kind"] == ("checkpoint", "onnx")
    assert (
        hashlib.sha256((exported.folder / "model.onnx").read_bytes()).hexdigest()
        == (read_card(exported.folder).files["model.onnx"])
    )


def test_exported_file_alone_is_enough(exported: exporting.ExportResult, tmp_path: Path) -> None:
    alone = tmp_path / "alone.onnx"
    alone.write_bytes((exported.folder / "model.onnx").read_bytes())
    assert artifacts.load(alone).classes == exported.card.classes
    again = exporting.export(onnx=alone, repository=tmp_path / "models", max_batch=2)
    assert (again.card.classes, again.card.preprocess) == (exported.card.classes, exported.card.preprocess)
    assert artifacts.compare(exported.folder, again.folder).violations == []


def test_export_measures_the_decoder_and_approximates_it_on_request(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    run = write_run(tmp_path / "run", Preprocess(size=32, interpolation="bicubic_tf1"), "relu")
    models = tmp_path / "models"
    assert main(["export", str(run), "--data", str(digits), "--repository", str(models), "--max-batch", "2"]) == 0
    printed = capsys.readouterr().out
    assert "DALI's pixels differ" in printed
    assert printed.count("takes pixels only") == 1
    assert len(list(models.glob("*/config.pbtxt"))) == 1
    graph = next(models.glob("*/1/model.onnx"))  # takes less time than the run
    options = {"name": "tiny", "data": digits, "repository": models, "max_batch": 2}
    exporting.export(onnx=graph, approximate_decoder=True, **options)
    assert len(list(models.glob("*/config.pbtxt"))) == len(model_names("tiny"))


def test_export_publishes_to_a_live_server_with_an_approximate_decoder(
    tmp_path: Path, make_model: Callable[..., tuple[Path, Card]]
) -> None:
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    run, models = write_run(tmp_path / "run", Preprocess(size=32, interpolation="bicubic_tf1"), "relu"), tmp_path / "m"
    Repository(models).add("other", *make_model())
    with TritonServer(models, ServerOptions(log_file=tmp_path / "triton.log")) as server:
        url, printed = server.grpc_url, []
        pixels = exporting.export(run, name="pixels", repository=models, url=url, max_batch=2, say=printed.append)
        graph = pixels.folder / "model.onnx"  # takes less time than the run
        options = {"name": "jpeg", "repository": models, "url": url, "max_batch": 2}
        jpeg = exporting.export(onnx=graph, approximate_decoder=True, **options)
        with Client(url) as client:
            assert set(client.models()) == {"other", "pixels_classifier", *model_names("jpeg")}
    assert any("takes pixels only" in line for line in printed)
    assert (pixels.folder.name, jpeg.folder.name) == ("1", "1")
