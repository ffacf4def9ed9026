"""`shrinkserve repo` from the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from shrinkserve.cli import main
from shrinkserve.data import open_dataset
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.server import ServerOptions, TritonServer


@pytest.fixture
def root(smoke_repository: Path, tmp_path: Path) -> Path:
    """A copy of the repository of a real export, to change."""
    return shutil.copytree(smoke_repository, tmp_path / "models")


@pytest.fixture
def server(root: Path, tmp_path: Path) -> Iterator[TritonServer]:
    with TritonServer(root, ServerOptions(log_file=tmp_path / "log")) as server:
        yield server


def test_list_accepts_damaged_metrics(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = root.glob("smoke*/1/card.json")
    card = json.loads(path.read_text())
    for top1 in ("0.9", [], {}):
        path.write_text(json.dumps({**card, "metrics": {"top1": top1}}))
        assert main(["repo", "list", "--repository", str(root)]) == 0
        assert "top-1 not measured" in capsys.readouterr().out


def test_repo_list_and_show_print_the_model(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repo", "list", "--repository", str(root)]) == 0
    assert capsys.readouterr().out.startswith("smoke: version 1 is active (others: none); ")
    assert main(["repo", "list", "--repository", str(root), "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert (record["name"], record["active"], record["versions"]) == ("smoke", 1, [1])
    assert main(["repo", "show", "smoke", "--repository", str(root)]) == 0
    shown = capsys.readouterr().out
    assert '"kind": "onnx"' in shown
    assert 'backend: "onnxruntime"' in shown


def test_publish_roll_back_and_gc_on_live_server(
    root: Path, server: TritonServer, smoke_repository: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = smoke_repository / "smoke_classifier" / "1"
    live = ["--repository", str(root), "--url", server.grpc_url]
    shadow = ["--data", str(digits), "--shadow", "20", "--max-flips", "0"]
    assert main(["repo", "publish", str(source), *live, *shadow]) == 0
    printed = capsys.readouterr().out
    assert "scratch server: loads it and predicts as the file does" in printed
    assert "compared on 20 requests: 0 predictions differ" in printed
    with Client(server.http_url) as client:
        assert client.model_info("smoke").version == 2
        assert main(["repo", "rollback", "smoke", *live]) == 0
        assert client.model_info("smoke").version == 1
    assert main(["repo", "gc", "smoke", "--keep", "0", "--dry-run", "--repository", str(root)]) == 0
    assert Repository(root).versions("smoke_classifier") == [1, 2]
    assert main(["repo", "gc", "--keep", "0", "--repository", str(root)]) == 0
    assert Repository(root).versions("smoke_classifier") == [1]
    assert main(["repo", "verify", "--repository", str(root)]) == 0


def test_verify_lists_problems(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "smoke_classifier" / "1" / "model.onnx").write_bytes(b"")
    assert main(["repo", "verify", "--repository", str(root)]) == 2
    *lines, last = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "model.onnx: sha256 does not match its card" in lines[0]
    assert last.startswith(f"error: {root}: 1 problem")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["list", "--repository", "nowhere"], "nowhere: no such model repository"),
        (["list", "--repository", "."], "no model in this repository; make one with `shrinkserve export`"),
        (["verify", "--repository", "."], "no model in this repository; make one with `shrinkserve export`"),
        (["show", "cats"], "no such model: expected one of smoke, found cats"),
        (["show", "../smoke"], "model name: expected"),
        (["rollback", "smoke"], "no version before 1"),
        (["rollback", "smoke", "--to", "9"], "no such version: expected one of 1, found 9"),
        (["publish", "nowhere"], "card.json: no such card"),
        (["publish", "nowhere", "--shadow", "5"], "--shadow: expected --url"),
        (["tune", "smoke", "--slo", "p50=20ms"], "--slo: expected p99=DURATION such as p99=20ms"),
        (["tune", "smoke", "--slo", "p99=20"], "--slo: expected a duration such as 20ms, found '20'"),
        (["tune", "cats", "--slo", "p99=20ms"], "no such model: expected one of smoke, found cats"),
        (["verify", "cats"], "no such model: expected one of smoke, found cats"),
    ],
)
def test_repo_prints_mistakes_on_one_line(
    smoke_repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    where = [] if "--repository" in words else ["--repository", str(smoke_repository)]
    assert main(["repo", *words, *where]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_encoded_images_are_served_like_prepared_ones(
    root: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The DALI ensemble predicts the same from files as the classifier from pixels that the client prepared."""
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    folder = tmp_path / "photos"
    folder.mkdir()
    dataset = open_dataset(digits, "validation")
    for index in range(40):
        (folder / f"{index:02}.jpg").write_bytes(dataset.record(index).encoded)
    with TritonServer(root, ServerOptions(log_file=tmp_path / "log")) as server:
        records = []
        for encoded in ([], ["--encoded"]):
            capsys.readouterr()
            words = ["predict", str(folder), "--url", server.grpc_url, "--model", "smoke", "--json", *encoded]
            assert main(words) == 0
            records.append(json.loads(capsys.readouterr().out))
        part = ["predict", str(folder), "--url", server.grpc_url, "--model", "smoke_preprocess"]
        assert main(part) == 2
        refused = capsys.readouterr().err
    assert "model smoke_preprocess is not a classifier" in refused
    prepared, encoded_ones = records
    assert [one["image"] for one in encoded_ones] == [one["image"] for one in prepared]
    for one, two in zip(prepared, encoded_ones, strict=True):
        first, second = ({top["label"]: top["probability"] for top in record["top"]} for record in (one, two))
        common = first.keys() & second.keys()  # another decoder rounds differently, and the network has close calls
        assert len(common) >= len(first) - 1
        assert {k: first[k] for k in common} == pytest.approx({k: second[k] for k in common}, abs=0.01)
    capsys.readouterr()
    assert main(["repo", "list", "--repository", str(root)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "takes JPEG and pixels" in line, "the pipeline and the ensemble of a model are not listed"


def test_add_jpeg_restores_removed_ensemble(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    shutil.rmtree(root / "smoke")
    assert main(["repo", "verify", "--repository", str(root)]) == 2
    assert "run `shrinkserve repo add-jpeg smoke`" in capsys.readouterr().err
    assert main(["repo", "add-jpeg", "smoke", "--repository", str(root)]) == 0
    assert capsys.readouterr().out == "".join(
        f"wrote {root}/smoke{suffix}\n" for suffix in ("_preprocess", "", "_lines", "_text")
    )
    assert main(["repo", "verify", "--repository", str(root)]) == 0
