"""The functions behind `shrinkserve repo`, without a server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import shrinkserve
from shrinkserve.api import maintenance
from shrinkserve.api import repository as api
from shrinkserve.artifact import Card
from shrinkserve.config import ServingConfig
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.serving.repository.version import write_version
from shrinkserve.serving.repository.writer import Repository

MakeModel = Callable[..., tuple[Path, Card]]


@pytest.fixture
def root(tmp_path: Path, make_model: MakeModel) -> Path:
    """A repository with the model `tiny`, versions 1 to 4; 4 is active."""
    repository = Repository(tmp_path / "models")
    for seed in range(4):
        repository.add("tiny_classifier", *make_model(seed))
    return repository.root


def test_publish_makes_an_exported_folder_the_active_version(tmp_path: Path, make_model: MakeModel) -> None:
    model_file, card = make_model(0)
    exported = tmp_path / "exported"
    write_version(exported, model_file, card)
    printed: list[str] = []
    root = tmp_path / "models"
    initial = ServingConfig(instances=3)
    place = shrinkserve.publish(exported, root, scratch=False, initial=initial, say=printed.append)
    assert place == root / "tiny_classifier" / "1"
    assert printed[-1] == f"published {place}"
    assert Repository(root).config("tiny_classifier").instance_group[0].count == 3
    again = shrinkserve.publish(exported, root, scratch=False, initial=ServingConfig(instances=9))
    assert again.name == "2"
    assert Repository(root).config("tiny_classifier").instance_group[0].count == 3


def test_rollback_returns_the_active_version(root: Path) -> None:
    assert shrinkserve.rollback("tiny", root) == 3
    assert shrinkserve.rollback("tiny", root, to=1) == 1
    with pytest.raises(ConfigError, match="no version before 1"):
        shrinkserve.rollback("tiny", root)


def test_list_models_returns_typed_summaries(root: Path) -> None:
    (model,) = api.list_models(root)
    assert (model.name, model.active, model.versions, model.size, model.classes) == ("tiny", 4, [1, 2, 3, 4], 8, 4)
    assert (model.precision, model.top1) == ("float32", None)
    assert "pixels" in model.takes


def test_show_returns_card_and_configuration(root: Path) -> None:
    card, config = api.show_version("tiny", root, version=2)
    assert card == Repository(root).card("tiny", 2)
    assert "versions: 4" in config
    with pytest.raises(ConfigError, match="found 0"):
        api.show_version("tiny", root, version=0)


def test_verify_returns_problems_and_warnings(root: Path) -> None:
    (result,) = api.verify_repository(repository=root)
    assert (result.name, result.versions, result.problems, result.warning) == ("tiny", [1, 2, 3, 4], [], "")
    (root / "tiny_classifier/3/model.onnx").write_bytes(b"damaged")
    (root / "foreign").mkdir()
    (root / "foreign/config.pbtxt").write_text('backend: "python"\n')
    damaged, foreign = api.verify_repository(repository=root)
    assert len(damaged.problems) == 1
    assert "backend python" in foreign.warning
    with pytest.raises(ArtifactError, match="no such model repository"):
        api.verify_repository(repository=root / "nowhere")


def test_gc_keeps_the_active_and_the_newest_versions(root: Path) -> None:
    shrinkserve.rollback("tiny", root, to=2)
    (planned,) = maintenance.remove_old_versions(repository=root, keep=1, dry_run=True)
    assert (planned.removed, planned.active) == ([1, 3], 2)
    assert Repository(root).versions("tiny") == [1, 2, 3, 4]
    assert maintenance.remove_old_versions(root, name="tiny", keep=1) == [planned]
    assert Repository(root).versions("tiny") == [2, 4]
    with pytest.raises(ArtifactError, match="no such model repository"):
        maintenance.remove_old_versions(repository=root / "nowhere")
    assert not (root / "nowhere").exists()


def test_add_jpeg_returns_the_folders_that_it_wrote(root: Path) -> None:
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    folders = maintenance.add_jpeg("tiny", root)
    assert folders == [root / part for part in ("tiny_preprocess", "tiny", "tiny_lines", "tiny_text")]
    assert api.list_models(root)[0].takes == ["JPEG", "pixels"]
    assert api.verify_repository(root, name="tiny")[0].problems == []


def test_tune_rejects_a_limit_that_is_none(root: Path) -> None:
    with pytest.raises(ConfigError, match="p99=DURATION"):
        maintenance.tune_model("tiny", root, slo="p50=20ms")


def test_publish_checks_its_options_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--shadow"):
        shrinkserve.publish(tmp_path, shadow=3)
    for limit in ({"max_flips": 0.0}, {"max_slowdown": 1.5}):  # they would limit nothing
        with pytest.raises(ConfigError, match="--shadow"):
            shrinkserve.publish(tmp_path, **limit)


def test_failed_write_version_leaves_no_folder(tmp_path: Path, make_model: MakeModel) -> None:
    model_file, card = make_model(0)
    model_file.write_bytes(b"changed")
    with pytest.raises(ArtifactError, match="sha256 does not match"):
        write_version(tmp_path / "out", model_file, card)
    assert not (tmp_path / "out").exists()
