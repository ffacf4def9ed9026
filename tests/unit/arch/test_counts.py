from __future__ import annotations

import networkx as nx
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from shrinkserve.arch import load_network
from shrinkserve.arch.counts import block_name, count
from shrinkserve.arch.module import compile_spec
from shrinkserve.arch.spec import Spec, add


@pytest.mark.parametrize("name", ["shrinkcnn-a", "shrinkcnn-b"])
def test_count_equals_published_figures(name: str) -> None:
    counts = count(load_network(name))
    parameters = counts.parameters
    assert parameters["convolution"] + parameters["depthwise"] + parameters["dense"] == 3_600_981
    assert (parameters["batch_norm"], counts.statistics) == (35_320, 35_320)
    assert sum(counts.macs.values()) == 383_677_672
    assert counts.macs["depthwise"] == 44_329_320


def test_block_shapes_equal_published_figures() -> None:
    shapes = {block.name: block.shape for block in count(load_network("shrinkcnn-a")).blocks}
    last = ["stage1.cell1", "stage2.cell3", "stage3.cell4", "stage4.cell6", "stage5.cell4"]
    assert [shapes[name] for name in last] == [(24, 112, 112), (48, 56, 56), (88, 28, 28), (176, 14, 14), (360, 7, 7)]
    assert set(shapes) - {"images", "stem", "head"} >= set(last)
    assert len(shapes) == 18 + 3


@pytest.mark.parametrize("size", [32, 45, 96, 97, 160])
def test_count_equals_torch_flop_counter(size: int) -> None:
    spec = load_network("shrinkcnn-b", width=0.25, classes=10, input_size=size)
    network = compile_spec(spec).eval()
    elements = size * size * 3

    def measure(_module: torch.nn.Module, _args: object, output: torch.Tensor) -> None:
        nonlocal elements
        elements += output.numel()

    for name, module in network.named_modules():
        if name in spec:
            module.register_forward_hook(measure)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        network(torch.zeros(1, 3, size, size))
    counts = count(spec)
    assert 2 * sum(counts.macs.values()) == flops.get_total_flops()
    assert counts.activations == elements
    assert sum(counts.parameters.values()) == sum(p.numel() for p in network.parameters())
    running = [b for name, b in network.named_buffers() if "running" in name]
    assert counts.statistics == sum(b.numel() for b in running)


def test_repr_is_one_line_with_the_sums() -> None:
    counts = count(load_network("shrinkcnn-tiny"))
    assert len(repr(counts)) < 200
    assert f"macs={sum(counts.macs.values())}" in repr(counts)


def test_blocks_sum_to_total() -> None:
    counts = count(load_network("shrinkcnn-a", input_size=160))
    assert counts.input_size == 160
    assert sum(block.parameters for block in counts.blocks) == sum(counts.parameters.values())
    assert sum(block.macs for block in counts.blocks) == sum(counts.macs.values())


def test_count_of_network_counted_by_hand() -> None:
    spec: Spec = nx.DiGraph()
    add(spec, "i", "input", channels=2, size=5)
    add(spec, "c", "conv", "i", channels=4, kernel=3, stride=2, groups=2, bias=True)
    add(spec, "n", "batch_norm", "c", epsilon=1e-3, decay=0.9)
    add(spec, "r", "activation", "n", function="relu")
    add(spec, "s", "activation", "r", function="silu")
    add(spec, "a", "add", "r", "s")
    add(spec, "g", "global_avg_pool", "a")
    add(spec, "d", "dense", "g", units=3, bias=False)
    counts = count(spec)
    # Two groups of 1 -> 2 channels, 3x3 kernels, 3x3 output pixels.
    assert counts.parameters == {"convolution": 0, "depthwise": 4 * 9 + 4, "dense": 12, "batch_norm": 8}
    assert counts.macs == {"convolution": 0, "depthwise": 4 * 9 * 9, "dense": 12}
    assert counts.activations == 50 + 5 * 36 + 4 + 3
    # r has two readers, so s cannot be computed in place; with the sum, three tensors of 36 values are in memory.
    assert counts.peak_activations == 3 * 36


@pytest.mark.parametrize(
    ("name", "block"),
    [("stage2.cell1.left.norm", "stage2.cell1"), ("head.logits", "head"), ("flat", "flat"), ("stage2.x.y", "stage2")],
)
def test_block_name_is_cell_or_first_part(name: str, block: str) -> None:
    assert block_name(name) == block
