"""Pictures: readable files that say what the network is, and refusals."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest
from matplotlib import rc_context
from PIL import Image

from shrinkserve.arch import load
from shrinkserve.arch.plot import save
from shrinkserve.errors import ConfigError

SMALL = Path(__file__).parent / "small.prototxt"


def words(path: Path) -> set[str]:
    root = Xml.fromstring(path.read_text())
    return {text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text")}


@pytest.fixture(autouse=True)
def text_as_text():
    with rc_context({"svg.fonttype": "none"}):
        yield


def test_cell_shows_its_blocks(tmp_path: Path) -> None:
    path = tmp_path / "cell.svg"
    save(load("shrinkcnn-a"), path, "shrinkcnn-a")
    times = "\N{MULTIPLICATION SIGN}"
    expected = {"shrinkcnn-a, stage 2 cell 1", "stage 1 cell 1", f"112{times}112{times}24", f"max pool 2{times}2 / 2"}
    assert words(path) >= expected | {f"sep 3{times}3, ReLU", f"sep 3{times}3", f"conv 1{times}1 / 2", "concat", "+"}


def test_whole_shows_stages_and_cells(tmp_path: Path) -> None:
    path = tmp_path / "whole.svg"
    save(load("shrinkcnn-a"), path, "shrinkcnn-a", whole=True)
    assert words(path) >= {
        "stem",
        "stage 5",
        "cell 6",
        "head",
        "1001",
        "384 M multiply-accumulates · 3.64 M parameters",
    }


@pytest.mark.parametrize("whole", [False, True])
def test_any_network_is_drawn(tmp_path: Path, whole: bool) -> None:
    path = tmp_path / "deep" / "small.png"
    save(load(SMALL), path, "small", whole=whole)
    with Image.open(path) as picture:
        colours = picture.convert("RGB").getcolors(1 << 20)
        assert min(picture.size) > 300
    assert colours is not None
    assert len(colours) > 50


def test_every_block_can_be_drawn(tmp_path: Path) -> None:
    for cell in ("images", "stem", "stage1.cell1", "head"):
        save(load("shrinkcnn-b"), tmp_path / f"{cell}.svg", "b", cell=cell)
    assert len(list(tmp_path.iterdir())) == 4


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        save(load("shrinkcnn-a"), tmp_path / name, "a")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize(
    ("name", "cell", "says"),
    [
        ("cell.gif", None, r"expected \.pdf or \.png or \.svg"),
        ("cell.svg", "stage9.cell9", "stage9.cell9: no such cell"),
    ],
)
def test_refusals_leave_nothing(tmp_path: Path, name: str, cell: str | None, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        save(load("shrinkcnn-a"), tmp_path / name, "a", cell=cell)
    assert not list(tmp_path.iterdir())
