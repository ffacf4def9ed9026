"""Which graph passes run where: a plan for each target, and the step that carries it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import onnx_ir as ir

from shrinkserve.errors import ConfigError
from shrinkserve.exporting import graph, parity
from shrinkserve.exporting.passes import (
    ChainSums,
    ConcatToSum,
    ConvBesideConcat,
    ConvOverConcat,
    DepthwiseOverConcat,
    ElementwiseOverConcat,
    FoldBatchNorm,
    GlobalPool,
    MergeSiblings,
    MergeSums,
    PadChannels,
)
from shrinkserve.exporting.passes.editing import GraphPass
from shrinkserve.exporting.samples import Samples
from shrinkserve.exporting.steps import ONNX, StepState

PassTarget = Literal["onnxruntime-cpu", "openvino", "tensorrt"]
TARGETS: tuple[PassTarget, ...] = get_args(PassTarget)

_OVER_CONCAT = (DepthwiseOverConcat, ElementwiseOverConcat, ConvOverConcat)
_SUMS = tuple(partial(one, alone=True) for one in _OVER_CONCAT)
FORMS: Mapping[str, Sequence[Callable[[str], GraphPass]]] = {
    "as-is": (),
    "sums": (*_SUMS, MergeSums),
    "chains": (*_SUMS, ConvBesideConcat, MergeSums, ChainSums),
    "wide": (*_SUMS, ConcatToSum, MergeSums),
    "halves": (*_OVER_CONCAT, ConvBesideConcat, MergeSums),
    "siblings": (MergeSiblings,),
}
"""What can be done with a stage's concats, as passes that are repeated until none fits.

`sums`: concats that one convolution reads are never made. `chains`: and a cell's halves are summed up, the shortcut
included, inside convolutions before they are joined. `wide`: and halves are never joined, but summed up in filters as
wide as both. `halves`: tensors stay in halves through the whole stage. `siblings`: branches of a tensor as one branch.
"""


@dataclass(frozen=True)
class PassPlan:
    """Passes for a graph.

    Attributes:
        form: one of `FORMS`, for stages that `stages` does not name.
        stages: the first part of nodes' names, e.g. ``"stage2"``, -> one of `FORMS`.
        block: pad channels to multiples of it; 0 leaves them.
    """

    form: str = "as-is"
    stages: dict[str, str] = field(default_factory=dict)
    block: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON data for a card."""
        return asdict(self)


SHIPPED: Mapping[PassTarget, PassPlan] = {
    # 16 is ONNX Runtime's block with AVX-512 and two of its blocks without; stage 2's halves of 24 would need padding.
    "onnxruntime-cpu": PassPlan("chains", {"stage2": "wide"}, block=16),
    # OpenVINO's kernels take any number of channels; padding would only add work, a twentieth of the time in int8.
    "openvino": PassPlan("chains"),
    # Not measured: TensorRT's builder fuses and times on the GPU itself, and pads nothing that it need not.
    "tensorrt": PassPlan(),
}


def check_target(name: str) -> PassTarget:
    """The target that `name` is.

    Raises:
        ConfigError: an unknown target.
    """
    for target in TARGETS:
        if target == name:
            return target
    raise ConfigError("target", expected=" or ".join(TARGETS), found=repr(name))


def stages(model: ir.Model) -> list[str]:
    """The parts of a graph that can be given forms of their own: first parts of names that have a concat in them."""
    return list(dict.fromkeys((node.name or "").split(".")[0] for node in model.graph if node.op_type == "Concat"))


def optimise(model: ir.Model, plan: PassPlan) -> list[str]:
    """Run a plan's passes on a model in place; returns the names of those that changed it."""
    always: list[GraphPass] = [FoldBatchNorm(), GlobalPool()]
    changed = [one for one in always if one(model).modified]
    for stage in stages(model):
        changed += _until_settled(model, [make(f"{stage}.") for make in FORMS[plan.stages.get(stage, plan.form)]])
    if plan.block and (pad := PadChannels(plan.block))(model).modified:
        changed.append(pad)
    return [f"{one.scope}{type(one).__name__}" for one in changed]


def _until_settled(model: ir.Model, passes: Sequence[GraphPass]) -> list[GraphPass]:
    changed: dict[GraphPass, None] = {}
    while fitting := [one for one in passes if one(model).modified]:
        changed.update(dict.fromkeys(fitting))
    return list(changed)


@dataclass(frozen=True)
class OptimisedOnnx:
    """Graph passes for one target; the same answers up to the order of sums."""

    target: PassTarget
    plan: PassPlan
    name: str = "passes"
    requires: StepState = ONNX
    ensures: StepState = ONNX
    tolerance: parity.Tolerance = parity.FLOAT32

    def parameters(self) -> dict[str, Any]:
        return {"target": self.target, "plan": self.plan.to_dict()}

    def run(self, source: Path, target: Path, _samples: Samples, /) -> dict[str, Any]:
        model = graph.load(source)
        changed = optimise(model, self.plan)
        graph.save(model, target)
        return {"passes": changed, "operators": graph.operators(model)}
