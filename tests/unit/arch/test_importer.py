"""Network files: a small one of our own, the published ones where they are, and files that are wrong."""

from __future__ import annotations

import contextlib
from pathlib import Path

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkserve.arch import load, zoo
from shrinkserve.arch.importer import import_network, read_network
from shrinkserve.arch.shapes import infer
from shrinkserve.arch.spec import Spec, add
from shrinkserve.errors import SpecError

SMALL = Path(__file__).parent / "small.prototxt"
LINES = SMALL.read_bytes().split(b"\n")
REFERENCE = Path(__file__).parents[4] / "shared" / "reference"


def same(one: Spec, other: Spec) -> bool:
    return nx.is_isomorphic(one, other, node_match=dict.__eq__, edge_match=dict.__eq__)


def small_by_hand() -> Spec:
    """What `small.prototxt` means, operation by operation."""
    spec: Spec = nx.DiGraph()
    norm = {"epsilon": 1e-3, "decay": 0.999}

    def conv(name: str, x: str, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> str:
        a = {"channels": channels, "kernel": kernel, "stride": stride, "groups": groups}
        return add(spec, f"{name}n", "batch_norm", add(spec, name, "conv", x, bias=False, **a), **norm)

    image = add(spec, "i", "input", channels=3, size=32)
    first = add(spec, "r", "activation", conv("c", image, 8, kernel=3, stride=2), function="relu")
    pooled = add(spec, "p", "max_pool", first, kernel=2, stride=2)
    deep = add(spec, "m", "activation", conv("d", pooled, 8, kernel=5, groups=8), function="relu")
    both = add(spec, "b", "concat", pooled, conv("w", deep, 6))
    out = add(spec, "a", "add", conv("s", first, 14, stride=2), both)
    drop = add(spec, "o", "dropout", add(spec, "g", "global_avg_pool", out), rate=0.25)
    add(spec, "l", "dense", drop, units=7, bias=True)
    return spec


def test_small_file_means_the_network_written_by_hand() -> None:
    network = read_network(SMALL)
    assert same(network.spec, small_by_hand())
    assert (network.name, network.classes, network.input_size) == ("small-relu", 7, 32)
    assert (network.dropout, network.l2, network.label_smoothing) == (0.25, 1e-4, 0.05)


def test_nodes_are_named_after_the_layers() -> None:
    names = set(read_network(SMALL).spec)
    assert {"picture", "first.conv", "stage2.cell1.wide.depthwise_norm", "stage2.cell1.out", "logits"} <= names


def test_load_changes_what_the_caller_decides() -> None:
    spec = load(SMALL, classes=3, input_size=49, dropout=0.5, batch_norm_decay=0.9)
    assert infer(spec)["stage2.cell1.out"] == (14, 13, 13)
    assert (spec.nodes["logits"]["units"], spec.nodes["drop"]["rate"]) == (3, 0.5)
    assert spec.nodes["first.norm"]["decay"] == 0.9
    assert same(load(SMALL), small_by_hand())


def test_a_file_is_not_scaled() -> None:
    with pytest.raises(SpecError, match=r"expected width 1, found 0\.5"):
        load(SMALL, width=0.5)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"absent\.prototxt: cannot be read"):
        load(tmp_path / "absent.prototxt")


@pytest.mark.parametrize("variant", ["a", "b"])
def test_published_file_is_the_network_of_the_zoo(variant: str) -> None:
    path = REFERENCE / f"shrinkCNN-{variant.upper()}-release-repro.prototxt"
    if not path.is_file():
        pytest.skip("the published network files are not beside this checkout")
    assert same(load(path), zoo.build_network(f"shrinkcnn-{variant}"))
    assert not same(load(path), zoo.build_network(f"shrinkcnn-{'ab'.replace(variant, '')}"))


@pytest.mark.parametrize(
    ("old", "new", "offset", "says"),  # offset: lines from the change to the line that the message names
    [
        ("[MaxPool]", "[MaxPol]", 0, r"not a section: expected one of \[Model\].*found '\[MaxPol\]'"),
        ("[MaxPool]", "[MaxPool", 0, "not a section"),
        ("filters=8", "filters=many", 0, "filters: expected a whole number in 1..65536, found 'many'"),
        ("filters=8", "filters=0", 0, "filters: expected a whole number"),
        ("filters=8", "filters=8\nfilters=8", 1, "filters is given twice: expected once, as in line"),
        ("filters=8\n", "", -3, r"\[Convolutional\] is not complete: expected also filters"),
        ("filters=8", "filtres=8", 0, "not a line of this section: expected key=value.*filters"),
        ("filters=8", "filters", 0, "not a line of this section"),
        ("padding=SAME", "padding=VALID", 0, "padding: expected SAME"),
        ("activation=relu", "activation=tanh", 0, "activation: expected one of linear, relu, swish, found 'tanh'"),
        ("input=first", "input=last", 0, "reads from a layer that is not there: .*found 'last'"),
        ("name=DAG_2_1/wide", "name=DAG_2_1/pooled", 0, "another layer has this name"),
        ("['first', 'DAG_2_1/both']", "['first']", 0, "input: expected layers' names"),
        ("['first', 'DAG_2_1/both']", "['first', 'first']", -2, "out: reads the same tensor twice"),
        ("['first', 'DAG_2_1/both']", "['first', 'first', 'DAG_2_1/both']", -2, "out: adds another number"),
        ("['DAG_2_1/pooled', 'DAG_2_1/wide']", "['first', 'DAG_2_1/wide']", -2, "both: concatenates different sizes"),
        ("input=drop\n", "input=DAG_2_1/out\n", -2, "logits: cannot read this shape.*global_avg_pool"),
        ("[32, 32, 3]", "[32, 30, 3]", 0, "not a square image"),
        ("[32, 32, 3]", "[32, 32]", 0, r"input_shape: expected \[height, width, channels\]"),
        ("labels=class\nk", "labels=first\nk", 0, "reads from a layer that is not there"),
        ("strength=1e-04\nuse_bias=True", "strength=1\nuse_bias=True", 0, "another strength.*expected 0.0001 as in"),
        (
            "[Flatten]",
            "[Flatten]\nname=x\ninput=mean\n[Dropout]\nname=y\ninput=x\ndropout=0\n[Flatten]",
            3,
            "y: its answer",
        ),
    ],
)
def test_wrong_line_is_named_with_what_was_expected(old: str, new: str, offset: int, says: str) -> None:
    text = SMALL.read_text()
    line = text[: text.index(old)].count("\n") + 1 + offset
    with pytest.raises(SpecError, match=f"^line {line}: .*{says}"):
        import_network(text.replace(old, new, 1).encode())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "line 1: no section in the file"),
        (b"name=x", "line 1: outside any section"),
        (b"[Model]\nname=x\npretrain=\xff", "line 3: not text"),
        (b"[Model]\nname=x\npretrain=y", "line 1: the network is not complete"),
        (b"#\n" * 600_000, "line 524289: the file is too long"),
    ],
)
def test_file_that_is_no_network_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        import_network(content)


@given(st.binary(max_size=300))
def test_any_bytes_give_a_line_number(content: bytes) -> None:
    with pytest.raises(SpecError, match=r"^line \d+: "):
        import_network(content)


@given(
    st.lists(
        st.tuples(st.integers(0, len(LINES) - 1), st.one_of(st.binary(max_size=20), st.sampled_from(LINES))),
        min_size=1,
        max_size=4,
    )
)
def test_any_change_of_lines_gives_a_network_or_a_line_number(changes: list[tuple[int, bytes]]) -> None:
    lines = list(LINES)
    for index, line in changes:
        lines[index] = line
    with contextlib.suppress(SpecError):
        network = import_network(b"\n".join(lines))
        assert infer(network.spec)["logits"] == (network.classes,)
        return
    with pytest.raises(SpecError, match=r"^line \d+: "):
        import_network(b"\n".join(lines))
