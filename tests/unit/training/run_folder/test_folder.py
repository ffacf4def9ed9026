from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from shrinkserve.artifact import read_card
from shrinkserve.config import Recipe
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.training.run_folder import folder as run_folder
from shrinkserve.training.run_folder.folder import OURS, RunFolder, Start

Make = Callable[..., Recipe]
DEFAULTS = {"resume": False, "overwrite": False, "allow_recipe_change": False}


@pytest.fixture
def copied(tmp_path: Path, run: Path) -> Path:
    """Return a copy of a complete run."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def start_checkpoint(out: Path) -> None:
    (out / "checkpoints").mkdir()
    (out / "checkpoints" / "step-00000001.safetensors").touch()


def test_check_returns_how_a_run_begins(tmp_path: Path, copied: Path, tiny: Make) -> None:
    recipe = tiny(schedule={"epochs": 4})
    assert RunFolder(tmp_path / "new").check(recipe, **DEFAULTS) is Start.NEW
    folder = RunFolder(copied)
    assert folder.check(recipe, **{**DEFAULTS, "resume": True}) is Start.COMPLETE
    assert folder.check(recipe, **{**DEFAULTS, "overwrite": True}) is Start.OVERWRITE
    changed = tiny(schedule={"epochs": 5})
    assert folder.check(changed, resume=True, overwrite=False, allow_recipe_change=True) is Start.RESUME


def test_check_rejects_continuing_a_complete_run_without_checkpoints(copied: Path, tiny: Make) -> None:
    shutil.rmtree(copied / "checkpoints")
    before = content(copied)
    with pytest.raises(ConfigError, match="no checkpoint to continue from"):
        RunFolder(copied).check(tiny(schedule={"epochs": 9}), resume=True, overwrite=False, allow_recipe_change=True)
    assert content(copied) == before


def test_overwrite_comes_back_when_the_new_run_fails_before_a_checkpoint(copied: Path, tiny: Make) -> None:
    before = content(copied)
    with suppress(RuntimeError), RunFolder(copied) as folder:
        folder.begin(tiny(), Start.OVERWRITE)
        assert read_files(copied) == ["recipe.toml"]
        raise RuntimeError
    assert content(copied) == before


def test_overwrite_removes_the_old_run_with_the_first_checkpoint(copied: Path, tiny: Make) -> None:
    with RunFolder(copied) as folder:
        folder.begin(tiny(), Start.OVERWRITE)
        start_checkpoint(copied)
        folder.commit()
    assert read_files(copied) == ["checkpoints", "recipe.toml"]
    assert not list(copied.glob(".*"))


def read_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_overwrite_keeps_targets_of_links(tmp_path: Path, copied: Path, tiny: Make) -> None:
    disk = tmp_path / "disk"
    (copied / "checkpoints").rename(disk)
    (copied / "checkpoints").symlink_to(disk)
    (copied / "raw.safetensors").unlink()
    (copied / "raw.safetensors").symlink_to(tmp_path / "absent")
    before = content(disk)
    with RunFolder(copied) as folder:
        folder.begin(tiny(), Start.OVERWRITE)
        folder.commit()
    assert [path.name for path in copied.iterdir()] == ["recipe.toml"]
    assert content(disk) == before


def test_overwrite_that_cannot_write_keeps_the_old_run(
    copied: Path, tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(copied)

    def full(path: Path, content: bytes) -> None:
        raise ArtifactError(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr(run_folder, "write_atomic", full)
    with pytest.raises(ArtifactError, match="No space left"), RunFolder(copied) as folder:
        folder.begin(tiny(), Start.OVERWRITE)
    assert content(copied) == before
    assert read_card(copied)


@pytest.mark.parametrize("renames", range(2 * len(OURS)))
def test_overwrite_killed_at_any_rename_comes_back(
    copied: Path, tiny: Make, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """The process ends after some renames, of moving aside or of moving back; the next start repairs the folder."""
    before, rename, left = content(copied), Path.rename, renames

    def limited(self: Path, target: Path) -> Path:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        return rename(self, target)

    folder = RunFolder(copied)
    folder.__enter__()
    monkeypatch.setattr(Path, "rename", limited)
    try:
        folder.begin(tiny(), Start.OVERWRITE)
        folder._roll_back()
    except KeyboardInterrupt:
        pass
    monkeypatch.undo()
    assert folder._lock is not None
    run_folder.os.close(folder._lock)
    with RunFolder(copied):
        assert content(copied) == before
    assert not list(copied.glob(".*"))


def test_new_run_that_fails_before_a_checkpoint_leaves_nothing(tmp_path: Path, tiny: Make) -> None:
    out = tmp_path / "a" / "run"
    with suppress(RuntimeError), RunFolder(out) as folder:
        folder.begin(tiny(), Start.NEW)
        raise RuntimeError
    assert not out.exists()


@pytest.mark.parametrize("removals", range(len(OURS)))
def test_new_run_killed_while_it_is_removed_can_begin_again(
    tmp_path: Path, tiny: Make, monkeypatch: pytest.MonkeyPatch, removals: int
) -> None:
    out, remove, left = tmp_path / "run", run_folder._remove, removals

    def limited(path: Path) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        remove(path)

    with suppress(KeyboardInterrupt), RunFolder(out) as folder:
        folder.begin(tiny(), Start.NEW)
        for name in ("environment.json", "metrics.jsonl"):
            (out / name).touch()
        monkeypatch.setattr(run_folder, "_remove", limited)
        raise KeyboardInterrupt
    monkeypatch.undo()
    assert RunFolder(out).check(tiny(), **{**DEFAULTS, "resume": True}) is Start.RESUME


def test_run_with_a_checkpoint_stays_when_it_fails(tmp_path: Path, tiny: Make) -> None:
    out = tmp_path / "run"
    with suppress(RuntimeError), RunFolder(out) as folder:
        folder.begin(tiny(), Start.NEW)
        start_checkpoint(out)
        folder.commit()
        raise RuntimeError
    assert read_files(out) == ["checkpoints", "recipe.toml"]


def enter(out: Path, results: multiprocessing.SimpleQueue[str]) -> None:
    try:
        with RunFolder(out):
            results.put("entered")
    except ConfigError as exc:
        results.put(str(exc))


def test_folder_is_locked_for_other_processes(copied: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    with RunFolder(copied):
        process = context.Process(target=enter, args=(copied, results))
        process.start()
        assert "another process is training here" in results.get()
        process.join()
    process = context.Process(target=enter, args=(copied, results))
    process.start()
    assert results.get() == "entered"
    process.join()
