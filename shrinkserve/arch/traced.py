"""Costs of a network that is code, counted in its traced graph.

The conventions are those of `shrinkserve.arch.counts`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from shrinkserve.arch.code import CodeNetwork
from shrinkserve.arch.counts import Count, Counts, peak_values
from shrinkserve.errors import SpecError

PRODUCTS = ("linear", "mm", "addmm", "matmul", "bmm", "baddbmm")
ATTENTION = "scaled_dot_product_attention"
IN_PLACE = ("batch_norm", "dropout", "relu", "silu", "gelu", "hardswish", "hardtanh", "sigmoid")
VIEWS = ("flatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze")
"""Operations whose output takes the memory of their input, by the beginning of their name."""


def count_code(network: CodeNetwork) -> Counts:
    """Return the costs of a network that is code. Runs the code.

    Products of two activations, as in attention, are of the kind ``matmul``. Parameters that belong to no convolution,
    dense layer or batch norm are of the kind ``other``.

    Raises:
        SpecError: it cannot be made, or `torch.export` cannot trace it.
    """
    module, size = network.build().eval(), network.input_size
    try:
        graph = torch.export.export(module, (torch.zeros(1, 3, size, size),)).module().graph
    except Exception as exc:  # the code is the user's
        reason = " ".join(f"{type(exc).__name__}: {exc}".split())[:300]
        raise SpecError(f"{network.source}: torch.export cannot trace the network ({reason})") from exc
    image = Count("images", "input", (3, size, size))
    calls = [node for node in graph.nodes if node.op == "call_function" and isinstance(node.meta.get("val"), Tensor)]
    counts = [_count(node) for node in calls]
    known = {parameter for node in calls for parameter in _own_tensors(node)}
    others = [
        Count(name, "convolution" if _is_kernel(module, name) else "other", tuple(value.shape), value.numel())
        for name, value in module.named_parameters()
        if name not in known
    ]
    values = {node.name: _value(node).numel() for node in calls}
    sources = {
        node.name: [source.name if source.name in values else image.name for source in _tensors(node)] or [image.name]
        for node in calls
    }
    reused = {node.name for node in calls if _operation(node).startswith((*IN_PLACE, *VIEWS))}
    peak = peak_values(sources, {image.name: math.prod(image.shape), **values}, reused)
    return Counts(size, (image, *others, *counts), math.prod(image.shape) + sum(values.values()), peak)


def _count(node: fx.Node) -> Count:
    """Return the cost of a call."""
    operation, value = _operation(node), _value(node)
    shape = tuple(value.shape[1:] if len(value) == 1 else value.shape)
    stack = list(node.meta.get("nn_module_stack", {}).values())
    found = Count((stack[-1][0] if stack else "") or node.name, operation, shape)
    own = [parameter for parameter in _own_tensors(node).values() if isinstance(parameter, nn.Parameter)]
    weights = sum(parameter.numel() for parameter in own)
    tensors = [_value(source) for source in _tensors(node, weights=True)]
    if operation.startswith("conv"):
        kernel = tensors[1]
        kind = "depthwise" if kernel.shape[1] == 1 < tensors[0].shape[1] else "convolution"
        return replace(found, kind=kind, parameters=weights, macs=value.numel() * math.prod(kernel.shape[1:]))
    if operation in PRODUCTS:
        first = tensors[1 if operation in {"addmm", "baddbmm"} else 0]
        kind = "dense" if own else "matmul"
        return replace(found, kind=kind, parameters=weights, macs=value.numel() * first.shape[-1])
    if operation == ATTENTION:
        query, key = tensors[:2]
        width = query.shape[-1] + value.shape[-1]
        return replace(found, kind="matmul", macs=math.prod(query.shape[:-1]) * key.shape[-2] * width)
    if operation == "batch_norm":
        statistics = sum(tensor.numel() for tensor in _own_tensors(node).values()) - weights
        return replace(found, parameters=weights, statistics=statistics)
    return found


def _own_tensors(node: fx.Node) -> dict[str, Tensor]:
    """Return the parameters and buffers that a convolution, product or batch norm reads, by name."""
    operation = _operation(node)
    if not operation.startswith(("conv", "batch_norm")) and operation not in PRODUCTS:
        return {}
    found = {}
    for source in node.all_input_nodes:
        if source.op == "get_attr":
            owner: object = node.graph.owning_module
            for part in str(source.target).split("."):
                owner = getattr(owner, part)
            if isinstance(owner, Tensor):
                found[str(source.target)] = owner
    return found


def _is_kernel(module: nn.Module, name: str) -> bool:
    """Return True for a parameter of a convolution, whose kernel the network may change before it is used."""
    return isinstance(module.get_submodule(name.rpartition(".")[0]), nn.Conv2d)


def _tensors(node: fx.Node, *, weights: bool = False) -> Iterator[fx.Node]:
    """Yield the tensors that a call reads, in the order of its arguments; without weights by default."""
    for source in node.all_input_nodes:
        if not isinstance(source.meta.get("val"), Tensor):  # several tensors, from a split
            yield from _tensors(source)
        elif weights or source.op != "get_attr":
            yield source


def _operation(node: fx.Node) -> str:
    """Return the name of an operation, such as ``conv2d`` for ``aten.conv2d.default``."""
    return str(node.target).removeprefix("aten.").partition(".")[0].rstrip("_")


def _value(node: fx.Node) -> Tensor:
    value = node.meta["val"]
    assert isinstance(value, Tensor)
    return value
