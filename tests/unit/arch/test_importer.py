from __future__ import annotations

import contextlib
from pathlib import Path

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkserve.arch import load_network, zoo
from shrinkserve.arch.importer import import_network, read_network
from shrinkserve.arch.shapes import node_shapes
from shrinkserve.arch.spec import Spec, add
from shrinkserve.errors import SpecError

SMALL = Path(__file__).parent / "small.prototxt"
LINES = SMALL.read_bytes().split(b"\n")
REFERENCE = Path(__file__).parents[4] / "shared" / "reference"


def same(one: Spec, other: Spec) -> bool:
    return nx.is_isomorphic(one, other, node_match=dict.__eq__, edge_match=dict.__eq__)


def small_by_hand() -> Spec:
    """Return the network of `small.prototxt`, written out by hand."""
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


def test_read_network_gives_network_written_by_hand() -> None:
    network = read_network(SMALL)
    assert same(network.spec, small_by_hand())
    assert (network.name, network.classes, network.input_size) == ("small-relu", 7, 32)
    assert (network.dropout, network.l2, network.label_smoothing) == (0.25, 1e-4, 0.05)


def test_read_network_names_nodes_after_layers() -> None:
    names = set(read_network(SMALL).spec)
    assert {"picture", "first.conv", "stage2.cell1.wide.depthwise_norm", "stage2.cell1.out", "logits"} <= names


def test_load_network_applies_options_to_file() -> None:
    spec = load_network(SMALL, classes=3, input_size=49, dropout=0.5, batch_norm_decay=0.9)
    assert node_shapes(spec)["stage2.cell1.out"] == (14, 13, 13)
    assert (spec.nodes["logits"]["units"], spec.nodes["drop"]["rate"]) == (3, 0.5)
    assert spec.nodes["first.norm"]["decay"] == 0.9
    assert same(load_network(SMALL), small_by_hand())


def test_load_network_rejects_width_for_file() -> None:
    with pytest.raises(SpecError, match=r"width 1, found 0\.5"):
        load_network(SMALL, width=0.5)


def test_load_network_names_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"absent\.prototxt: .*No such file"):
        load_network(tmp_path / "absent.prototxt")


@pytest.mark.parametrize("variant", ["a", "b"])
def test_published_file_equals_network_of_zoo(variant: str) -> None:
    path = REFERENCE / f"shrinkCNN-{variant.upper()}-release-repro.prototxt"
    if not path.is_file():
        pytest.skip("the published network files are not next to this checkout")
    assert same(load_network(path), zoo.build_network(f"shrinkcnn-{variant}"))
    assert not same(load_network(path), zoo.build_network(f"shrinkcnn-{'ab'.replace(variant, '')}"))


@pytest.mark.parametrize(
    ("old", "new", "offset", "says"),  # offset: lines from the change to the line that the message names
    [
        ("[MaxPool]", "[MaxPol]", 0, r"\[Model\].*found '\[MaxPol\]'"),
        ("[MaxPool]", "[MaxPool", 0, "section"),
        ("filters=8", "filters=many", 0, "filters: .* 1..65536, found 'many'"),
        ("filters=8", "filters=0", 0, "filters: .*found '0'"),
        ("filters=8", "filters=8\nfilters=8", 1, "duplicate key filters"),
        ("filters=8\n", "", -3, r"\[Convolutional\].* also filters"),
        ("filters=8", "filtres=8", 0, "filters, .*found 'filtres=8'"),
        ("filters=8", "filters", 0, "key=value.*found 'filters'"),
        ("padding=SAME", "padding=VALID", 0, "padding: .*SAME"),
        ("activation=relu", "activation=tanh", 0, "activation: .*linear, relu, swish, found 'tanh'"),
        ("input=first", "input=last", 0, "found 'last'"),
        ("name=DAG_2_1/wide", "name=DAG_2_1/pooled", 0, "name.* found 'DAG_2_1/pooled'"),
        ("['first', 'DAG_2_1/both']", "['first']", 0, "input: "),
        ("['first', 'DAG_2_1/both']", "['first', 'first']", -2, "out: .*twice"),
        ("['first', 'DAG_2_1/both']", "['first', 'first', 'DAG_2_1/both']", -2, "out: .*expected 2, found 3"),
        ("['DAG_2_1/pooled', 'DAG_2_1/wide']", "['first', 'DAG_2_1/wide']", -2, "both: .*8x16x16 and 6x8x8"),
        ("input=drop\n", "input=DAG_2_1/out\n", -2, "logits: .*global_avg_pool"),
        ("[32, 32, 3]", "[32, 30, 3]", 0, "square"),
        ("[32, 32, 3]", "[32, 32]", 0, r"input_shape: .*\[height, width, channels\]"),
        ("labels=class\nk", "labels=first\nk", 0, "found 'first'"),
        ("strength=1e-04\nuse_bias=True", "strength=1\nuse_bias=True", 0, "strength.* 0.0001 as in line"),
        (
            "[Flatten]",
            "[Flatten]\nname=x\ninput=mean\n[Dropout]\nname=y\ninput=x\ndropout=0\n[Flatten]",
            3,
            "y: .*output",
        ),
    ],
)
def test_import_network_names_invalid_line(old: str, new: str, offset: int, says: str) -> None:
    text = SMALL.read_text()
    line = text[: text.index(old)].count("\n") + 1 + offset
    with pytest.raises(SpecError, match=f"^line {line}: .*{says}"):
        import_network(text.replace(old, new, 1).encode())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "^line 1: "),
        (b"name=x", "^line 1: "),
        (b"[Model]\nname=x\npretrain=\xff", "^line 3: .*UTF-8"),
        (b"[Model]\nname=x\npretrain=y", "^line 1: .*Dense"),
        (b"#\n" * 600_000, "^line 524289: .*at most"),
    ],
)
def test_import_network_rejects_other_files(content: bytes, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        import_network(content)


@given(st.binary(max_size=300))
def test_import_network_names_line_for_any_bytes(content: bytes) -> None:
    with pytest.raises(SpecError, match=r"^line \d+: "):
        import_network(content)


@given(
    st.lists(
        st.tuples(st.integers(0, len(LINES) - 1), st.one_of(st.binary(max_size=20), st.sampled_from(LINES))),
        min_size=1,
        max_size=4,
    )
)
def test_import_network_gives_network_or_line_after_any_change(changes: list[tuple[int, bytes]]) -> None:
    lines = list(LINES)
    for index, line in changes:
        lines[index] = line
    with contextlib.suppress(SpecError):
        network = import_network(b"\n".join(lines))
        assert node_shapes(network.spec)["logits"] == (network.classes,)
        return
    with pytest.raises(SpecError, match=r"^line \d+: "):
        import_network(b"\n".join(lines))
