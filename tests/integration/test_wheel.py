from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the content of the wheel, as in site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("shrinkserve-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(site: Path, *argv: object) -> subprocess.CompletedProcess[str]:
    script = f"import sys; sys.path.insert(0, {str(site)!r}); from shrinkserve.cli import run; run()"
    command = [sys.executable, "-I", "-c", script, *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=site.parent)


def test_wheel_has_all_files_of_package(installed: Path) -> None:
    package = {p.relative_to(ROOT) for p in (ROOT / "shrinkserve").rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert {p for p in package if not (installed / p).is_file()} == set()
    recipes = {p.name for p in (ROOT / "train").glob("*.toml")}
    assert {p.name for p in (installed / "shrinkserve" / "recipes").iterdir()} == recipes


def test_wheel_works_without_checkout(installed: Path, digits: Path) -> None:
    assert "shrinkserve 0." in run(installed, "--version").stdout
    out = installed.parent / "run"
    done = run(installed, "train", "smoke", "--data", digits, "--out", out)
    assert done.returncode == 0, done.stderr
    assert (out / "card.json").is_file()
    done = run(installed, "train", "smok", "--data", digits, "--out", out)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "did you mean smoke?" in done.stderr
