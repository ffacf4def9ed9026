from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from shrinkserve.errors import ConfigError, ServerError
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.loadable import scan, select


@pytest.fixture
def root(tiny_repository: Repository, tmp_path: Path) -> Path:
    """A copy of `tiny_repository`, to be damaged."""
    return Path(shutil.copytree(tiny_repository.root, tmp_path / "models"))


def test_whole_models(root: Path) -> None:
    assert (scan(root).whole, scan(root).skipped) == (["tiny", "wide"], {})
    assert select(root, ["wide"]).whole == ["wide"]


def test_half_made_models_are_left_out_with_the_command_that_completes_them(root: Path) -> None:
    (root / "tiny/config.pbtxt").unlink()
    (root / "notes").mkdir()
    found = select(root)
    lack = f"half made, no config.pbtxt; complete it with: shrinkserve export RUN --name tiny --repository {root}"
    assert (found.whole, found.skipped) == (["wide"], {"tiny": lack})
    (root / "wide/1/model.onnx").unlink()
    assert scan(root).skipped["wide"].startswith("half made, no 1/model.onnx; ")
    with pytest.raises(ServerError, match=r"tiny: half made, no config\.pbtxt"):
        select(root)


def test_chosen_half_made_model_is_an_error(root: Path) -> None:
    shutil.rmtree(root / "tiny/1")
    with pytest.raises(ServerError, match=r"tiny: half made, no version|tiny: half made, no 1/model\.onnx"):
        select(root, ["tiny"])
    assert select(root, ["wide"]).skipped == {}


def test_engine_of_its_own_files(root: Path) -> None:
    (root / "tiny/configs").mkdir()
    text = (root / "tiny/config.pbtxt").read_text()
    (root / "tiny/configs/other.pbtxt").write_text(text.replace("model.onnx", "other.onnx"))
    assert scan(root).whole == ["tiny", "wide"]
    assert scan(root, "other").skipped["tiny"].startswith("half made, no 1/other.onnx; ")
    shutil.copy(root / "tiny/1/model.onnx", root / "tiny/1/other.onnx")
    assert select(root, engine="other").whole == ["tiny", "wide"]
    with pytest.raises(ConfigError, match="no such engine: expected other, found another; leave --config out"):
        select(root, engine="another")


def test_ensembles_need_no_file(root: Path) -> None:
    (root / "both/1").mkdir(parents=True)
    (root / "both/config.pbtxt").write_text('name: "both" platform: "ensemble"')
    assert scan(root).whole == ["both", "tiny", "wide"]
    text = 'name: "both" platform: "ensemble" ensemble_scheduling { step { model_name: "gone" } }'
    (root / "both/config.pbtxt").write_text(text)
    assert scan(root).skipped["both"].startswith("half made, no gone; ")


def test_backends_that_are_not_there(root: Path) -> None:
    found = scan(root, unavailable={"onnxruntime": "pip install it"})
    assert (found.whole, found.skipped["tiny"]) == ([], "needs onnxruntime, which is not installed; pip install it")
    with pytest.raises(ServerError, match="tiny: needs onnxruntime, which is not installed; pip install it"):
        select(root, ["tiny"], unavailable={"onnxruntime": "pip install it"})


def test_an_engine_whose_backend_is_not_there(root: Path) -> None:
    """It is known, and the reason is the server's lack; a part that decodes for it does not run alone."""
    for name, config in {
        "cat": 'platform: "ensemble" ensemble_scheduling { step { model_name: "cat_classifier" } }',
        "cat_preprocess": 'backend: "python" default_model_filename: "model.py"',
    }.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(f'name: "{name}" {config}')
    (root / "cat_preprocess/1/model.py").touch()
    shutil.copytree(root / "tiny", root / "cat_classifier")
    text = (root / "cat_classifier/config.pbtxt").read_text().replace('"tiny"', '"cat_classifier"')
    (root / "cat_classifier/config.pbtxt").write_text(text)
    (root / "cat_classifier/configs").mkdir()
    (root / "cat_classifier/configs/fast.pbtxt").write_text(text.replace('"onnxruntime"', '"tensorrt"'))
    lack = {"tensorrt": "use the container"}
    found = scan(root, "fast", lack)
    reason = "needs tensorrt, which is not installed; use the container"
    assert (found.whole, found.skipped["cat_classifier"]) == (["tiny", "wide"], reason)
    assert found.skipped["cat_preprocess"] == "needs cat_classifier, which is skipped"
    with pytest.raises(ServerError, match=f"cat_classifier: {reason}"):
        select(root, ["cat"], "fast", lack)
    assert select(root, engine="fast", unavailable=lack).whole == ["tiny", "wide"]
