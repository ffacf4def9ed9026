from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from shrinkserve.errors import ServerError
from shrinkserve.serving.server import workspace
from shrinkserve.serving.server.workspace import link_models, linked, temporary_folder


def test_paths_without_special_characters_are_used_as_they_are(tmp_path: Path) -> None:
    assert linked(Path("/srv/models-1.0_a"), tmp_path, "link") == Path("/srv/models-1.0_a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["my models", "a;b", "$(touch x)", "\u00fc", "a:b", "a\nb"])
def test_linked_replaces_paths_with_special_characters(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    link = linked(tmp_path / name, tmp_path, "link")
    assert link == tmp_path / "link"
    assert link.samefile(tmp_path / name)


def test_folder_of_links_has_the_chosen_models_only(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / "models" / name).mkdir(parents=True)
    (tmp_path / "folder").mkdir()
    chosen = link_models(tmp_path / "models", ["a", "c"], tmp_path / "folder")
    assert sorted(path.name for path in chosen.iterdir()) == ["a", "c"]
    assert (chosen / "a").samefile(tmp_path / "models/a")


def test_unsuitable_place_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t mp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t mp"))
    with temporary_folder() as folder:
        assert " " not in folder
        assert Path(folder).is_dir()
    assert not Path(folder).exists()


def test_no_suitable_place_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_places", lambda: [tmp_path / "a b", tmp_path / "none"])
    with pytest.raises(ServerError, match=r"special character.*cannot be written"):
        temporary_folder()


@pytest.mark.parametrize(
    ("limits", "reason"),
    [("size=1m", "is full"), ("noexec", "noexec"), ("ro", "cannot be written")],
)
def test_temporary_folder_rejects_unsuitable_places(tmp_path: Path, limits: str, reason: str) -> None:
    """The message names the reason for each place. Needs the right to mount."""
    script = (
        "import os; from shrinkserve.serving.server import workspace; from pathlib import Path; "
        "workspace._places = lambda: [Path(os.environ['PLACE'])]; workspace.temporary_folder()"
    )
    place = tmp_path / "mounted"
    place.mkdir()
    mount = f'mount -t tmpfs -o {limits} tmpfs {place} || exit 77; PLACE={place} exec {sys.executable} -c "{script}"'
    run = subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, text=True, check=False)
    if run.returncode == 77 or "unshare failed" in run.stderr:
        pytest.skip("needs the right to mount")
    assert "ServerError: no folder for the server's temporary files" in run.stderr
    assert reason in run.stderr
