from __future__ import annotations

from collections import Counter

import pytest

from shrinkserve.arch import zoo
from shrinkserve.arch.spec import output_node
from shrinkserve.errors import SpecError

VARIANTS = ("shrinkcnn-a", "shrinkcnn-b")


@pytest.mark.parametrize("name", VARIANTS)
def test_build_network_has_operations_of_paper(name: str) -> None:
    spec = zoo.build_network(name)
    ops = Counter(op for _, op in spec.nodes(data="op"))
    depthwise = [n for n, a in spec.nodes(data=True) if a["op"] == "conv" and a["groups"] > 1]
    assert (ops["conv"], len(depthwise), ops["batch_norm"], ops["activation"]) == (133, 54, 133, 92)


def test_variants_differ_only_in_activation() -> None:
    a, b = (zoo.build_network(name) for name in VARIANTS)
    assert list(a.edges(data=True)) == list(b.edges(data=True))
    differing = {n for n in a if a.nodes[n] != b.nodes[n]}
    assert {a.nodes[n]["function"] for n in differing} == {"relu"}
    assert {b.nodes[n]["function"] for n in differing} == {"silu"}
    assert len(differing) == 92


def test_tiny_network_has_the_layers_of_the_first_cells() -> None:
    """All its layers are in shrinkcnn-a, except where the head reads another stage."""
    tiny, whole = (zoo.build_network(name) for name in ("shrinkcnn-tiny", "shrinkcnn-a"))
    assert dict(tiny.nodes(data=True)).items() <= dict(whole.nodes(data=True)).items()
    cells = {".".join(name.split(".")[:2]) for name in tiny if name.startswith("stage")}
    assert cells == {"stage1.cell1", "stage2.cell1"}
    assert {op for _, op in tiny.nodes(data="op")} == {op for _, op in whole.nodes(data="op")}


def test_build_network_applies_options() -> None:
    spec = zoo.build_network("shrinkcnn-a", classes=11, input_size=33, dropout=0.2, batch_norm_decay=0.9)
    assert spec.nodes[output_node(spec)]["units"] == 11
    assert spec.nodes["images"]["size"] == 33
    assert spec.nodes["head.dropout"]["rate"] == 0.2
    assert {a["decay"] for _, a in spec.nodes(data=True) if a["op"] == "batch_norm"} == {0.9}


@pytest.mark.parametrize(("width", "channels"), [(1.0, 180), (0.5, 92), (0.25, 44), (0.01, 4), (1.4, 252)])
def test_scaled_rounds_to_multiples_of_four(width: float, channels: int) -> None:
    assert zoo.scaled(180, width) == channels


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("shrinkcnn-c", {}, "did you mean"),
        ("resnet", {}, "prototxt"),
        ("shrinkcnn-a", {"input_size": 31}, "at least 32, found 31"),
        ("shrinkcnn-a", {"classes": 0}, "head.logits: units: .* 1..65536, found 0"),
        ("shrinkcnn-a", {"width": 1e5}, "width: .*at most 32, found 100000.0"),
        ("shrinkcnn-a", {"dropout": float("nan")}, "head.dropout: rate: .* 0..1, found nan"),
    ],
)
def test_build_network_rejects_options_out_of_range(name: str, options: dict[str, float], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        zoo.build_network(name, **options)
