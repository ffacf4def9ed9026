"""Every fault of a description is reported at once, by the name of its node."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shrinkserve.arch import load
from shrinkserve.arch.checks import check, problems
from shrinkserve.arch.spec import Spec, add
from shrinkserve.errors import SpecError


@pytest.fixture
def spec() -> Spec:
    return load("shrinkcnn-a", width=0.25, input_size=32, classes=10)


def rename(old: str, new: str) -> Callable[[Spec], None]:
    def apply(spec: Spec) -> None:
        attributes, read, readers = dict(spec.nodes[old]), dict(spec.pred[old]), dict(spec.succ[old])
        spec.remove_node(old)
        spec.add_node(new, **attributes)
        spec.add_edges_from((source, new, edge) for source, edge in read.items())
        spec.add_edges_from((new, target, edge) for target, edge in readers.items())

    return apply


def change(node: str, **attributes: object) -> Callable[[Spec], None]:
    return lambda spec: spec.nodes[node].update(attributes)


def add_end(spec: Spec) -> None:
    add(spec, "extra", "max_pool", "stem.activation", kernel=2, stride=2)


def add_second_input(spec: Spec) -> None:
    add(spec, "depth", "input", channels=1, size=32)
    spec.add_edge("depth", "stage1.cell1.concat_left", slot=2)


def add_cycle(spec: Spec) -> None:
    spec.add_edge("stage1.cell1.left.norm", "stage1.cell1.concat_left", slot=2)


def add_island(spec: Spec) -> None:
    spec.add_node("island", op="concat")
    spec.add_edge("island", "stage1.cell1.concat_left", slot=2)


CASES: list[tuple[Callable[[Spec], object], str]] = [
    (change("stem.conv", op="convolve"), r"stem\.conv: unknown op 'convolve', known: input, conv"),
    (change("stem.conv", op=None), r"stem\.conv: unknown op None"),
    (change("stem.conv", dilation=2), r"stem\.conv: conv has no attribute 'dilation', known: channels, kernel"),
    (lambda s: s.nodes["stem.conv"].pop("stride"), r"stem\.conv: conv needs the attribute stride, expected a whole"),
    (change("stem.conv", stride=0), r"stem\.conv: stride: expected a whole number in 1\.\.64, found 0"),
    (change("stem.conv", bias=0), r"stem\.conv: bias: expected true or false, found 0"),
    (change("stem.conv", channels=True), r"stem\.conv: channels: expected a whole number in 1\.\.65536, found True"),
    (change("stem.norm", decay=1.5), r"stem\.norm: decay: expected a number in 0\.\.1, found 1\.5"),
    (change("stem.activation", function="gelu"), r"stem\.activation: function: expected one of relu, silu"),
    (rename("stem.norm", "stem norm"), "'stem norm': not a name"),
    (rename("stem.norm", ".norm"), r"'\.norm': not a name"),
    (rename("stem.norm", "stem"), r"stem\.conv: stem is another operation, expected a name that only groups"),
    (add_end, "extra: its answer is read by no operation"),
    (add_second_input, "expected one input operation, found images, depth"),
    (add_cycle, r"stage1\.cell1\.\w+(\.\w+)?: lies on a cycle: .*concat_left -> "),
    (add_island, "island: not reached from images"),
    (add_island, r"island: concat reads 0 tensors, expected 2\.\.64"),
    (lambda s: s.remove_node("images"), "expected one input operation, found none"),
    (lambda s: s.remove_node("head.logits"), "expected one dense operation at the end, for the logits, found none"),
    (lambda s: s.remove_node("head.logits"), r"head\.dropout: its answer is read by no operation"),
    (lambda s: s.remove_edge("images", "stem.conv"), r"stem\.conv: conv reads 0 tensors, expected 1"),
    (lambda s: s.edges["images", "stem.conv"].update(slot=1), r"stem\.conv: expected its inputs in slots 0\.\.0"),
    (lambda s: s.edges["images", "stem.conv"].clear(), r"stem\.conv: expected its inputs in slots 0\.\.0, found None"),
    (change("stage1.cell1.right.conv", channels=8), r"stage1\.cell1\.add: adds tensors of different shapes"),
    (change("stage2.cell1.pool", stride=3), r"stage2\.cell1\.add: adds tensors of different shapes"),
    (change("stage2.cell1.pool", stride=1), r"stage2\.cell1\.pool: cannot pool at stride 1 with this kernel"),
    (change("stage1.cell1.left.depthwise", groups=7), r"stage1\.cell1\.left\.depthwise: groups do not fit"),
    (
        change("head.pool", op="max_pool", kernel=2, stride=2),
        r"head\.logits: cannot read this shape: expected channels",
    ),
]


@pytest.mark.parametrize(("damage", "says"), CASES)
def test_a_fault_names_its_node(spec: Spec, damage: Callable[[Spec], object], says: str) -> None:
    damage(spec)
    with pytest.raises(SpecError, match=says):
        check(spec)


def test_all_faults_at_once(spec: Spec) -> None:
    spec.nodes["stem.conv"]["stride"] = 0
    spec.nodes["head.logits"]["units"] = "many"
    add_end(spec)
    assert [error.node for error in problems(spec)] == ["stem.conv", "head.logits", "extra"]


def test_all_faults_of_shape_at_once_and_no_consequences(spec: Spec) -> None:
    spec.nodes["stage1.cell1.right.conv"]["channels"] = 8
    assert [error.node for error in problems(spec)] == ["stage1.cell1.add"]
    spec.nodes["stage1.cell1.left.depthwise"]["groups"] = 7
    assert [error.node for error in problems(spec)] == ["stage1.cell1.left.depthwise"]


def test_a_message_shows_the_first_faults_and_counts_the_rest(spec: Spec) -> None:
    for name in spec:
        spec.nodes[name]["colour"] = "red"
    with pytest.raises(SpecError, match=rf"images: .*; and {len(spec) - 20} more$"):
        check(spec)


def test_a_network_that_holds_together_passes(spec: Spec) -> None:
    assert problems(spec) == []
