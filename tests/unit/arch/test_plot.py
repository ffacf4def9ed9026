from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree as Xml

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import rc_context
from PIL import Image

from shrinkserve.arch import load_network
from shrinkserve.arch.counts import block_name, count
from shrinkserve.arch.plot import arrange, collapse, save_plot
from shrinkserve.errors import ConfigError

SMALL = Path(__file__).parent / "small.prototxt"
TIMES = "\N{MULTIPLICATION SIGN}"


def save(network: str | Path, path: Path, *, whole: bool = False, cell: str | None = None) -> None:
    spec = load_network(network)
    save_plot(spec, count(spec), path, Path(network).stem, whole=whole, cell=cell)


def words(path: Path) -> set[str]:
    root = Xml.fromstring(path.read_text())
    return {text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text")}


@pytest.fixture(autouse=True)
def text_as_text() -> Iterator[None]:
    with rc_context({"svg.fonttype": "none"}):
        yield


@st.composite
def graphs(draw: st.DrawFn) -> nx.DiGraph:
    names = [str(index) for index in range(draw(st.integers(1, 9)))]
    graph: nx.DiGraph = nx.DiGraph()
    graph.add_nodes_from(names)
    if names[1:]:
        graph.add_edges_from(draw(st.lists(st.sampled_from(list(combinations(names, 2))), max_size=14)))
    return graph


@settings(max_examples=40)
@given(graphs())
def test_arrange_separates_boxes_and_follows_edges(graph: nx.DiGraph) -> None:
    places = arrange(graph)
    assert set(places) == set(graph)
    for one, other in combinations(places.values(), 2):
        assert max(abs(one[0] - other[0]), abs(one[1] - other[1])) >= 1
    assert all(places[source][0] < places[target][0] for source, target in graph.edges)


def test_collapse_gives_chain_of_cells() -> None:
    spec = load_network("shrinkcnn-b")
    blocks = collapse(spec, block_name)
    assert len(blocks) == 21
    assert list(blocks.edges) == list(zip(blocks, list(blocks)[1:], strict=False))
    assert sum(len(members) for _, members in blocks.nodes(data="members")) == len(spec)


def test_plot_of_cell_shows_its_blocks(tmp_path: Path) -> None:
    path = tmp_path / "cell.svg"
    save("shrinkcnn-a", path)
    expected = {"shrinkcnn-a, stage 2 cell 1", "stage 1 cell 1", f"112{TIMES}112{TIMES}24", f"max pool 2{TIMES}2 / 2"}
    expected |= {f"sep 3{TIMES}3, ReLU", f"sep 3{TIMES}3", f"conv 1{TIMES}1 / 2", "concat", "+"}
    assert expected <= words(path)


def test_plot_of_network_shows_its_cells(tmp_path: Path) -> None:
    path = tmp_path / "whole.svg"
    save("shrinkcnn-a", path, whole=True)
    shown = words(path)
    assert {"stem", "stage 5 cell 4", "stage 4 cell 6", "head"} <= shown
    assert any("384 M multiply-accumulates, 3.64 M parameters" in line for line in shown)


@pytest.mark.parametrize("whole", [False, True])
def test_plot_of_file_is_a_picture(tmp_path: Path, whole: bool) -> None:
    path = tmp_path / "deep" / "small.png"
    save(SMALL, path, whole=whole)
    with Image.open(path) as picture:
        colours = picture.convert("RGB").getcolors(1 << 20)
        assert min(picture.size) > 300
    assert colours is not None
    assert len(colours) > 50


def test_plot_draws_each_block(tmp_path: Path) -> None:
    for cell in ("images", "stem", "stage1.cell1", "head"):
        save("shrinkcnn-b", tmp_path / f"{cell}.svg", cell=cell)
    assert len(list(tmp_path.iterdir())) == 4


def test_plot_is_reproducible(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        save("shrinkcnn-a", tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize(("name", "cell", "found"), [("cell.gif", None, "cell.gif"), ("cell.svg", "stage9", "stage9")])
def test_plot_rejects_unknown_format_and_cell(tmp_path: Path, name: str, cell: str | None, found: str) -> None:
    with pytest.raises(ConfigError, match=found) as caught:
        save("shrinkcnn-a", tmp_path / name, cell=cell)
    assert caught.value.expected
    assert not list(tmp_path.iterdir())
