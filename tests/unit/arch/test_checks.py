from __future__ import annotations

from collections.abc import Callable

import pytest

from shrinkserve.arch import load_network
from shrinkserve.arch.checks import check_spec, spec_problems
from shrinkserve.arch.spec import Spec, add
from shrinkserve.errors import SpecError


@pytest.fixture
def spec() -> Spec:
    return load_network("shrinkcnn-a", width=0.25, input_size=32, classes=10)


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
    (change("stem.conv", op="convolve"), r"stem\.conv: unknown op 'convolve'"),
    (change("stem.conv", op=None), r"stem\.conv: unknown op None"),
    (change("stem.conv", dilation=2), r"stem\.conv: .*'dilation'"),
    (lambda s: s.nodes["stem.conv"].pop("stride"), r"stem\.conv: .*stride"),
    (change("stem.conv", stride=0), r"stem\.conv: stride: .* 1\.\.64, found 0"),
    (change("stem.conv", bias=0), r"stem\.conv: bias: .*found 0"),
    (change("stem.conv", channels=True), r"stem\.conv: channels: .* 1\.\.65536, found True"),
    (change("stem.norm", decay=1.5), r"stem\.norm: decay: .* 0\.\.1, found 1\.5"),
    (change("stem.activation", function="gelu"), r"stem\.activation: function: .*relu, silu"),
    (rename("stem.norm", "stem norm"), "'stem norm': "),
    (rename("stem.norm", ".norm"), r"'\.norm': "),
    (rename("stem.norm", "stem"), r"stem\.conv: stem is an operation"),
    (add_end, "extra: .*output"),
    (add_second_input, "one input operation, found images, depth"),
    (add_cycle, r"stage1\.cell1\.\w+(\.\w+)?: .*cycle: .*concat_left -> "),
    (add_island, "island: .*images"),
    (add_island, r"island: .* 0 tensors, expected 2\.\.64"),
    (lambda s: s.remove_node("images"), "one input operation, found none"),
    (lambda s: s.remove_node("head.logits"), "one dense operation .*, found none"),
    (lambda s: s.remove_node("head.logits"), r"head\.dropout: .*output"),
    (lambda s: s.remove_edge("images", "stem.conv"), r"stem\.conv: .* 0 tensors, expected 1"),
    (lambda s: s.edges["images", "stem.conv"].update(slot=1), r"stem\.conv: .*slots 0\.\.0, found 1"),
    (lambda s: s.edges["images", "stem.conv"].clear(), r"stem\.conv: .*slots 0\.\.0, found None"),
    (change("stage1.cell1.right.conv", channels=8), r"stage1\.cell1\.add: .*8x16x16 and 12x16x16"),
    (change("stage2.cell1.pool", stride=3), r"stage2\.cell1\.add: .*16x8x8 and 16x6x6"),
    (change("stage2.cell1.pool", stride=1), r"stage2\.cell1\.pool: .*stride 1.* found 2"),
    (change("stage1.cell1.left.depthwise", groups=7), r"stage1\.cell1\.left\.depthwise: .*7 groups for 16 -> 16"),
    (
        change("head.pool", op="max_pool", kernel=2, stride=2),
        r"head\.logits: .*global_avg_pool, found 320x1x1",
    ),
]


@pytest.mark.parametrize(("damage", "says"), CASES)
def test_check_spec_names_node_of_problem(spec: Spec, damage: Callable[[Spec], object], says: str) -> None:
    damage(spec)
    with pytest.raises(SpecError, match=says):
        check_spec(spec)


def test_problems_are_found_all_at_once(spec: Spec) -> None:
    spec.nodes["stem.conv"]["stride"] = 0
    spec.nodes["head.logits"]["units"] = "many"
    add_end(spec)
    assert [problem.node for problem in spec_problems(spec)] == ["stem.conv", "head.logits", "extra"]


def test_problems_of_shape_exclude_consequences(spec: Spec) -> None:
    spec.nodes["stage1.cell1.right.conv"]["channels"] = 8
    assert [problem.node for problem in spec_problems(spec)] == ["stage1.cell1.add"]
    spec.nodes["stage1.cell1.left.depthwise"]["groups"] = 7
    assert [problem.node for problem in spec_problems(spec)] == ["stage1.cell1.left.depthwise"]


def test_check_spec_shows_first_problems_and_counts_rest(spec: Spec) -> None:
    for name in spec:
        spec.nodes[name]["colour"] = "red"
    with pytest.raises(SpecError, match=rf"images: .*; and {len(spec) - 20} more$"):
        check_spec(spec)


def test_problems_of_valid_network_are_none(spec: Spec) -> None:
    assert spec_problems(spec) == []
