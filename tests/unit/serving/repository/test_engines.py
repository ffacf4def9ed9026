from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shrinkserve.artifact import Card, CardDetails, sha256_file
from shrinkserve.cli import main
from shrinkserve.config import ServingConfig
from shrinkserve.containers import CONTAINERS
from shrinkserve.engines import Engine, engines_of
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.serving import config_text, doctor, model_config
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.publish.publish import publish_version
from shrinkserve.serving.repository.verify import problems
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.server import ServerOptions, TritonServer

MakeModel = Callable[..., tuple[Path, Card]]
INT8 = Engine("int8", "onnxruntime", "model.int8.onnx", "int8", record={"top1_drop": 0.001})
HINT = {"INFERENCE_PRECISION_HINT": "v"}
PLANS = Engine("tensorrt", "tensorrt", "model.plan", "float16", {"8.9": "model.sm89.plan"}, HINT)


@pytest.fixture
def repository(tmp_path: Path, make_model: MakeModel) -> Repository:
    repository = Repository(tmp_path / "models")
    repository.add("tiny", *make_model(0), options=ServingConfig(instances=2, warmup=False))
    return repository


def add_engine(repository: Repository, engine: Engine, built: Path) -> Path:
    """Add an engine to the model `tiny` and return the path of its configuration."""
    repository.add_engines("tiny", [engine], built)
    return repository.root / "tiny" / "configs" / f"{engine.name}.pbtxt"


@pytest.fixture
def built(tmp_path: Path, make_model: MakeModel) -> Path:
    """A folder of engines' files."""
    folder = tmp_path / "built"
    folder.mkdir()
    shutil.copyfile(make_model(7)[0], folder / "model.int8.onnx")
    for name in PLANS.files:
        (folder / name).write_text(name)
    return folder


def test_add_engines_writes_configuration(repository: Repository, built: Path) -> None:
    path = add_engine(repository, PLANS, built)
    config = config_text.read_config(path)
    assert (config.backend, config.default_model_filename) == ("tensorrt", "model.plan")
    assert dict(config.cc_model_filenames) == {"8.9": "model.sm89.plan"}
    base = repository.config("tiny")
    assert (config.input, config.output, config.version_policy) == (base.input, base.output, base.version_policy)
    assert model_config.parameters(config)["precision"] == "float16"
    assert config.parameters["INFERENCE_PRECISION_HINT"].string_value == "v"
    assert "intra_op_thread_count" not in config.parameters
    assert engines_of(repository.card("tiny", 1)) == [PLANS]
    assert list(problems(repository, "tiny")) == []


def test_add_engines_accepts_public_and_classifier_name(tmp_path: Path, make_model: MakeModel, built: Path) -> None:
    repository = Repository(tmp_path / "models")
    repository.add("small_classifier", *make_model(0))
    for name in ("small", "small_classifier"):
        place = repository.root / "small_classifier" / "configs" / "tensorrt.pbtxt"
        repository.add_engines(name, [PLANS], built)
        assert place.is_file()
    with pytest.raises(ConfigError, match="no such model"):
        repository.add_engines("other", [PLANS], built)


def test_server_runs_engine_under_the_models_name(repository: Repository, built: Path, tmp_path: Path) -> None:
    repository.add_engines("tiny", [INT8], built)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    options = ServerOptions(log_file=tmp_path / "log", arguments=("--model-config-name=int8",))
    with TritonServer(repository.root, options) as server, Client(server.grpc_url) as client:
        expected = OnnxModel(built / "model.int8.onnx").predict(images)
        np.testing.assert_allclose(client.infer("tiny", images)[0], expected, rtol=1e-5)
        assert client.model_info("tiny").precision == "int8"
        assert client.model_info("tiny").classes == repository.card("tiny", 1).classes


def test_engine_options_are_kept_until_a_version_lacks_the_engine(
    repository: Repository, built: Path, make_model: MakeModel
) -> None:
    path = add_engine(repository, INT8, built)
    path.write_text(path.read_text().replace("count: 2", "count: 5"))
    model_file, card = make_model(1)
    shutil.copyfile(built / "model.int8.onnx", model_file.parent / "model.int8.onnx")
    first = repository.card("tiny", 1)
    files = {**card.files, "model.int8.onnx": first.files["model.int8.onnx"]}
    repository.add("tiny", model_file, replace(card, files=files, details=first.details))
    config = config_text.read_config(path)
    assert model_config.active_version(config) == 2
    assert config.instance_group[0].count == 5
    assert (repository.root / "tiny" / "2" / "model.int8.onnx").is_file()
    repository.add("tiny", *make_model(2))
    assert not path.exists(), "version 3 has no such engine"
    repository.activate("tiny", 2)
    assert path.exists()
    assert list(problems(repository, "tiny")) == []


def test_add_engines_replaces_engine_of_same_name(repository: Repository, built: Path, make_model: MakeModel) -> None:
    repository.add_engines("tiny", [INT8], built)
    before = repository.root / "tiny" / "1" / "model.int8.onnx"
    shutil.copyfile(before, built / "kept")
    shutil.copyfile(make_model(8)[0], built / "model.int8.onnx")
    repository.add_engines("tiny", [INT8], built)
    assert before.read_bytes() == (built / "model.int8.onnx").read_bytes() != (built / "kept").read_bytes()
    assert list(problems(repository, "tiny")) == []


def test_add_engines_rejects_bad_names_files_and_versions(repository: Repository, built: Path) -> None:
    with pytest.raises(ConfigError, match="model name"):
        repository.add_engines("tiny", [replace(INT8, name="../up")], built)
    with pytest.raises(ArtifactError, match=r"nothing\.plan: no such file"):
        repository.add_engines("tiny", [replace(PLANS, file="nothing.plan")], built)
    with pytest.raises(ArtifactError, match="names a file outside itself"):
        repository.add_engines("tiny", [replace(PLANS, file="../model.plan")], built)
    with pytest.raises(ConfigError, match="no such version"):
        repository.add_engines("tiny", [INT8], built, version=4)
    assert not (repository.root / "tiny" / "configs").exists()


def test_problems_reports_changed_or_missing_engine_config(repository: Repository, built: Path) -> None:
    path = add_engine(repository, INT8, built)
    path.write_text(path.read_text().replace("dims: 8", "dims: 9", 1))
    (due, real) = problems(repository, "tiny")
    assert due.endswith("input.0.dims: the active version has ['8', '8', '3'], the config ['9', '8', '3']")
    assert real.endswith("input images: the file has TYPE_UINT8 [8, 8, 3], the config TYPE_UINT8 [9, 8, 3]")
    path.unlink()
    (line,) = problems(repository, "tiny")
    assert "not a readable configuration" in line


def test_problems_reports_engine_graph_of_another_network(
    repository: Repository, built: Path, make_model: MakeModel
) -> None:
    # Its card and its configuration agree.
    shutil.copyfile(make_model(7, classes=9)[0], built / "model.int8.onnx")
    repository.add_engines("tiny", [INT8], built)
    lines = list(problems(repository, "tiny"))
    assert [line.partition("pbtxt: ")[2] for line in lines] == [
        "output logits: the file has TYPE_FP32 [9], the config TYPE_FP32 [4]",
        "output probabilities: the file has TYPE_FP32 [9], the config TYPE_FP32 [4]",
    ]


def test_problems_reports_plan_with_smaller_batches(repository: Repository, built: Path) -> None:
    record = {"built": {"model.plan": {"batches": [1, 4, 8]}}}
    path = add_engine(repository, replace(PLANS, record=record), built)
    assert list(problems(repository, "tiny")) == []
    assert "max_batch_size: 8" in path.read_text()
    path.write_text(path.read_text().replace("max_batch_size: 8", "max_batch_size: 32"))
    (line,) = problems(repository, "tiny")
    assert line.endswith("tensorrt.pbtxt: batch: model.plan takes up to 8, the config up to 32")


def test_new_plan_with_smaller_batches_lowers_the_configuration(repository: Repository, built: Path) -> None:
    def plans(largest: int) -> Engine:
        return replace(PLANS, record={"built": {"model.plan": {"batches": [1, 4, largest]}}})

    path = add_engine(repository, plans(32), built)
    path.write_text(path.read_text() + 'model_warmup { name: "batch 32" batch_size: 32 }\n')
    add_engine(repository, plans(8), built)
    config = config_text.read_config(path)
    assert config.max_batch_size == 8
    assert [sample.batch_size for sample in config.model_warmup] == [8]
    assert list(problems(repository, "tiny")) == []


def test_verify_and_doctor_compare_plans_with_the_chosen_container(
    repository: Repository, built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"built": {"model.plan": {"library": "tensorrt", "version": "10.13.2.6", "containers": ["25.08-py3"]}}}
    add_engine(repository, replace(PLANS, record=record), built)
    root = str(repository.root)
    assert main(["repo", "verify", "--repository", root, "--container", "25.08"]) == 0
    other = {"built": {"model.plan": {"library": "tensorrt", "version": "11.4.0.106", "containers": []}}}
    add_engine(repository, replace(PLANS, record=other), built)
    assert main(["repo", "verify", "--repository", root]) == 0
    assert "note: engine tensorrt of tiny: tensorrt 11.4.0.106 built model.plan" in capsys.readouterr().err
    assert main(["repo", "verify", "--repository", root, "--container", "26.06-py3"]) == 2
    assert "error: engine tensorrt of tiny" in capsys.readouterr().err
    assert main(["repo", "verify", "--repository", root, "--container", "1.0"]) == 2
    found = list(doctor.check_repository(repository.root, container=CONTAINERS[0]))
    assert any("25.08-py3 has TensorRT 10.13.2" in finding.what for finding in found)


SHELL = "x$(touch${IFS}pwned).onnx"
FAST = {"backend": "onnxruntime", "file": "model.onnx", "precision": "float32"}


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("../config", {"backend": "python", "file": "model.py", "precision": "int8"}, "model name"),
        ("../../../../escaped/by_name", FAST, "model name"),
        ("fast", {"backend": "python", "file": "model.py", "precision": "int8"}, "fast.*backend"),
        ("fast", FAST | {"file": "model.py"}, r"file: expected NAME\.onnx"),
        ("fast", FAST | {"file": "../../../x"}, "fast.*file"),
        ("fast", FAST | {"file": SHELL}, "fast.*file"),
        ("fast", FAST | {"file": "absent.onnx"}, "fast.*file"),
        ("fast", FAST | {"file": 7}, "fast.*file"),
        ("fast", FAST | {"precision": "free text"}, "fast.*precision"),
        ("fast", FAST | {"capabilities": {"8.9": "../../x.onnx"}}, "fast.*capabilities"),
        ("fast", FAST | {"capabilities": {"8.9": "absent.onnx"}}, "fast.*file"),
        ("fast", FAST | {"parameters": {"EXECUTION_ENV_PATH": "x.tar.gz"}}, "fast.*parameters: expected keys"),
        ("fast", FAST | {"parameters": {"INFERENCE_PRECISION_HINT": 1}}, "fast.*parameters"),
        ("fast", FAST | {"parameters": []}, "fast.*parameters"),
        ("fast", FAST | {"record": {"built": []}}, "fast.*record"),
        ("fast", {"backend": [], "file": "model.onnx"}, "fast.*backend"),
        ("fast", FAST | {"more": 1}, "fast.more"),
        ("fast", "text", "fast"),
    ],
)
@pytest.mark.parametrize("scratch", [True, False])
def test_publish_rejects_engine_that_export_would_not_write(
    tmp_path: Path, make_model: MakeModel, name: str, raw: Any, message: str, scratch: bool
) -> None:
    source, card = make_model(0)
    for file in ("model.py", SHELL):
        (source.parent / file).write_text("raise SystemExit")
    files = {file: sha256_file(source.with_name(file)) for file in ("model.onnx", "model.py", SHELL)}
    card = replace(card, files=files, details={"engines": {name: raw}})
    card.write(source.parent)
    repository = Repository(tmp_path / "deep" / "models")
    with pytest.raises(ArtifactError, match=message) as caught:
        publish_version(repository, source.parent, scratch=scratch)
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.rglob("*.p*")) == []


@pytest.mark.parametrize("name", ["../config", "../../../../escaped/by_name"])
def test_add_rejects_engine_name_that_is_a_path(tmp_path: Path, make_model: MakeModel, name: str) -> None:
    source, card = make_model(0)
    details: CardDetails = {"engines": {name: {"backend": "onnxruntime", "file": "model.onnx"}}}
    with pytest.raises(ArtifactError, match="model name"):
        Repository(tmp_path / "deep" / "models").add("tiny", source, replace(card, details=details))
    assert list(tmp_path.rglob("*.p*")) == []


@pytest.mark.parametrize("details", [{}, {"engines": []}, {"engines": None}, {"precision": ["int8"]}])
def test_publish_rejects_files_without_engine(tmp_path: Path, make_model: MakeModel, details: Any) -> None:
    source, card = make_model(0)
    (source.parent / "model.py").write_text("raise SystemExit")
    files = {file: sha256_file(source.with_name(file)) for file in ("model.onnx", "model.py")}
    card = replace(card, files=files if not details else card.files, details=details)
    card.write(source.parent)
    with pytest.raises(ArtifactError, match=r"files: expected .* found 'model\.py'|engines|precision"):
        publish_version(Repository(tmp_path / "models"), source.parent, scratch=False)
    assert not (tmp_path / "models").exists()


def test_add_engines_removes_files_of_replaced_engine(repository: Repository, built: Path) -> None:
    repository.add_engines("tiny", [PLANS], built)
    repository.add_engines("tiny", [replace(INT8, name=PLANS.name)], built)
    assert repository.card("tiny", 1).files.keys() == {"model.onnx", "model.int8.onnx"}
    assert not list((repository.root / "tiny/1").glob("*.plan"))
    assert list(problems(repository, "tiny")) == []


def test_doctor_names_file_names_that_a_shell_would_run(repository: Repository) -> None:
    path = repository.root / "tiny" / "config.pbtxt"
    path.write_text(path.read_text().replace('filename: "model.onnx"', f'filename: "{SHELL}"'))
    (repository.root / "tiny/1" / SHELL).write_text("")
    found = {finding.subject: finding for finding in doctor.check_repository(repository.root)}
    assert found["code of tiny"].what == f"runs code (config.pbtxt: file name {SHELL!r})"


@pytest.mark.parametrize("where", ["config.pbtxt", "configs/fast.pbtxt", "1/model.py"])
def test_verify_and_doctor_name_models_that_run_code(
    repository: Repository, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = repository.root / "foreign"
    for path in (repository.root / "tiny" / where, foreign / "config.pbtxt"):
        path.parent.mkdir(exist_ok=True)
        path.write_text('backend: "python"\n' if path.suffix == ".pbtxt" else "")
    (foreign / "1").mkdir()
    (foreign / "1/model.py").write_text("")
    assert any("tiny: runs code (" in line for line in problems(repository, "tiny"))
    assert main(["repo", "verify", "--repository", str(repository.root)]) == 2
    assert "warning: foreign: runs code (1/model.py)" in capsys.readouterr().err
    found = {finding.subject: finding for finding in doctor.check_repository(repository.root)}
    assert found["code of tiny"].level == "error"
    assert (found["code of foreign"].level, found["code of foreign"].what) == ("note", "runs code (1/model.py)")
