from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shrinkserve.errors import ArtifactError, ConfigError, ServerError
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.loadable import Skip, scan
from shrinkserve.serving.server.selection import select, shown_names

RIGHTS = "-dac_override,-dac_read_search"
OURS = 'parameters { key: "shrinkserve.preprocess" value { string_value: "{}" } }'
WITHOUT_ROOT = ["setpriv", f"--bounding-set={RIGHTS}", f"--inh-caps={RIGHTS}"] if os.geteuid() == 0 else []
"""Runs a program without root's right to read everything."""


@pytest.fixture
def root(tiny_repository: Repository, tmp_path: Path) -> Path:
    """A copy of `tiny_repository`, to be damaged."""
    return Path(shutil.copytree(tiny_repository.root, tmp_path / "models"))


def lacks(*backends: str) -> Callable[[str], str | None]:
    return lambda backend: "install it" if backend in backends else None


def kinds(root: Path, engine: str | None = None, *lacking: str) -> dict[str, Skip]:
    return {name: reason.kind for name, reason in scan(root, engine, lacks(*lacking)).skipped.items()}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_complete_models_are_loaded(root: Path) -> None:
    assert (scan(root).models, scan(root).skipped) == (["tiny", "wide"], {})
    assert select(root, ["wide"]).models == ["wide"]


def test_incomplete_models_are_skipped_with_the_command_that_completes_them(root: Path) -> None:
    (root / "tiny/config.pbtxt").unlink()
    (root / "notes").mkdir()
    found = select(root)
    assert found.models == ["wide"]
    assert found.skipped["tiny"].kind is Skip.NO_CONFIG
    assert found.skipped["tiny"].hint == f"run: shrinkserve export RUN --name tiny --repository {root}"
    (root / "wide/1/model.onnx").unlink()
    assert kinds(root) == {"tiny": Skip.NO_CONFIG, "wide": Skip.NO_FILE}
    with pytest.raises(ServerError, match=r"tiny: incomplete: config\.pbtxt"):
        select(root)


def test_chosen_incomplete_model_is_an_error(root: Path) -> None:
    shutil.rmtree(root / "tiny/1")
    with pytest.raises(ServerError, match="tiny: incomplete"):
        select(root, ["tiny"])
    assert select(root, ["wide"]).skipped == {}


def test_select_requires_the_file_of_an_engine(root: Path) -> None:
    (root / "tiny/configs").mkdir()
    text = (root / "tiny/config.pbtxt").read_text()
    (root / "tiny/configs/other.pbtxt").write_text(text.replace("model.onnx", "other.onnx"))
    assert scan(root).models == ["tiny", "wide"]
    assert kinds(root, "other") == {"tiny": Skip.NO_FILE}
    shutil.copy(root / "tiny/1/model.onnx", root / "tiny/1/other.onnx")
    assert select(root, engine="other").models == ["tiny", "wide"]
    with pytest.raises(ConfigError) as caught:
        select(root, engine="another")
    assert (caught.value.expected, caught.value.found) == ("other", "another")


def test_ensembles_need_no_file(root: Path) -> None:
    (root / "both/1").mkdir(parents=True)
    (root / "both/config.pbtxt").write_text('name: "both" platform: "ensemble"')
    assert scan(root).models == ["both", "tiny", "wide"]
    text = 'name: "both" platform: "ensemble" ensemble_scheduling { step { model_name: "gone" } }'
    (root / "both/config.pbtxt").write_text(text)
    assert kinds(root) == {"both": Skip.NO_MODEL}


def test_ensemble_that_contains_itself_ends(root: Path) -> None:
    (root / "loop/1").mkdir(parents=True)
    text = 'name: "loop" platform: "ensemble" ensemble_scheduling { step { model_name: "loop" } }'
    (root / "loop/config.pbtxt").write_text(text)
    assert scan(root).models == ["loop", "tiny", "wide"]


def test_select_skips_models_without_backend(root: Path) -> None:
    assert kinds(root, None, "onnxruntime") == {"tiny": Skip.NO_BACKEND, "wide": Skip.NO_BACKEND}
    with pytest.raises(ServerError) as caught:
        select(root, ["tiny"], how_to_get=lacks("onnxruntime"))
    assert caught.value.hint == "install it"


def test_configuration_without_a_backend_is_for_servers_that_derive_it(root: Path) -> None:
    (root / "tiny/config.pbtxt").write_text("")
    assert kinds(root) == {}
    assert kinds(root, None, "") == {"tiny": Skip.NO_BACKEND}


def test_older_platform_names_mean_a_backend(root: Path) -> None:
    edit(root / "tiny/config.pbtxt", 'backend: "onnxruntime"', 'platform: "tensorrt_plan"')
    assert kinds(root, None, "tensorrt") == {"tiny": Skip.NO_BACKEND}


def test_engine_whose_backend_is_missing_skips_its_preprocessing_too(root: Path) -> None:
    for name, config in {
        "cat": 'platform: "ensemble" ensemble_scheduling { step { model_name: "cat_classifier" } }',
        "cat_preprocess": 'backend: "dali" default_model_filename: "model.dali" ' + OURS,
    }.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(f'name: "{name}" {config}')
    (root / "cat_preprocess/1/model.dali").touch()
    shutil.copytree(root / "tiny", root / "cat_classifier")
    edit(root / "cat_classifier/config.pbtxt", '"tiny"', '"cat_classifier"')
    (root / "cat_classifier/configs").mkdir()
    text = (root / "cat_classifier/config.pbtxt").read_text()
    (root / "cat_classifier/configs/fast.pbtxt").write_text(text.replace('"onnxruntime"', '"tensorrt"'))
    found = scan(root, "fast", lacks("tensorrt"))
    assert found.models == ["tiny", "wide"]
    assert kinds(root, "fast", "tensorrt") == {
        "cat": Skip.DEPENDS,
        "cat_classifier": Skip.NO_BACKEND,
        "cat_preprocess": Skip.DEPENDS,
    }
    with pytest.raises(ServerError, match="cat_classifier: needs the backend tensorrt"):
        select(root, ["cat"], "fast", lacks("tensorrt"))
    assert select(root, engine="fast", how_to_get=lacks("tensorrt")).models == ["tiny", "wide"]


def test_damaged_preprocessing_skips_the_ensemble_only(root: Path) -> None:
    shutil.copytree(root / "tiny", root / "cat_classifier")
    edit(root / "cat_classifier/config.pbtxt", '"tiny"', '"cat_classifier"')
    for name in ("cat", "cat_preprocess"):
        (root / name / "1").mkdir(parents=True)
    text = 'name: "cat" platform: "ensemble" ensemble_scheduling { step { model_name: "cat_preprocess" } } '
    (root / "cat/config.pbtxt").write_text(text + OURS)
    (root / "cat_preprocess/config.pbtxt").write_text("damaged {")
    assert scan(root).models == ["cat_classifier", "tiny", "wide"]
    assert kinds(root) == {"cat": Skip.DEPENDS, "cat_preprocess": Skip.BAD_CONFIG}


def test_users_own_ensemble_with_the_name_of_ours_is_loaded(root: Path) -> None:
    shutil.copytree(root / "tiny", root / "cat_classifier")
    edit(root / "cat_classifier/config.pbtxt", '"tiny"', '"cat_classifier"')
    (root / "cat/1").mkdir(parents=True)
    text = 'name: "cat" platform: "ensemble" ensemble_scheduling { step { model_name: "cat_classifier" } }'
    (root / "cat/config.pbtxt").write_text(text)
    assert scan(root).skipped == {}


def test_configuration_of_another_name_is_skipped(root: Path) -> None:
    """A copy of a model's folder has the name of the original. Triton would then load no model at all."""
    (root / "other").symlink_to(root / "tiny", target_is_directory=True)
    assert kinds(root) == {"other": Skip.OTHER_NAME}
    assert scan(root).models == ["tiny", "wide"]


def test_configuration_that_cannot_be_parsed_is_skipped(root: Path) -> None:
    with (root / "tiny/config.pbtxt").open("a") as config:
        config.write("field_of_a_newer_release: 3\n")
    assert kinds(root) == {"tiny": Skip.BAD_CONFIG}
    assert select(root, ["wide"]).models == ["wide"]


@pytest.mark.parametrize("name", ["x$(touch${IFS}pwned).onnx", "a b.onnx", "../wide/model.onnx", "a;b.onnx"])
def test_file_names_with_special_characters_are_skipped(root: Path, name: str) -> None:
    """Triton's Python backend starts its processes by a shell command that contains the name."""
    if "/" not in name:
        shutil.copy(root / "tiny/1/model.onnx", root / "tiny/1" / name)
    edit(root / "tiny/config.pbtxt", '"model.onnx"', f'"{name}"')
    assert kinds(root) == {"tiny": Skip.BAD_FILE}


@pytest.mark.parametrize("place", ["lost+found", "tiny", "tiny/1", "tiny/config.pbtxt"])
def test_unreadable_places_are_skipped(root: Path, place: str) -> None:
    (root / "lost+found").mkdir()
    script = (
        "import json, pathlib, sys; from shrinkserve.serving.server.loadable import scan; "
        "found = scan(pathlib.Path(sys.argv[1])); "
        "print(json.dumps([found.models, {name: reason.kind.name for name, reason in found.skipped.items()}]))"
    )
    (root / place).chmod(0)
    try:
        command = [*WITHOUT_ROOT, sys.executable, "-c", script, str(root)]
        models, skipped = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    finally:
        (root / place).chmod(0o700)
    assert models == (["tiny", "wide"] if place == "lost+found" else ["wide"])
    assert skipped == ({} if place == "lost+found" else {"tiny": "BAD_CONFIG" if "." in place else "UNREADABLE"})


def test_scan_rejects_missing_repository(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such model repository"):
        scan(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="cannot be listed"):
        scan(tmp_path / "file")


def test_public_name_is_shown_only_if_its_ensemble_is_loaded(root: Path) -> None:
    shutil.copytree(root / "tiny", root / "cat_classifier")
    edit(root / "cat_classifier/config.pbtxt", '"tiny"', '"cat_classifier"')
    assert shown_names(scan(root)) == ["cat", "tiny", "wide"]
    (root / "cat/1").mkdir(parents=True)
    text = 'name: "cat" platform: "ensemble" ensemble_scheduling { step { model_name: "cat_preprocess" } }'
    (root / "cat/config.pbtxt").write_text(text)
    assert shown_names(scan(root)) == ["cat_classifier", "tiny", "wide"]
