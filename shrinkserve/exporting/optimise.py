"""Plans of graph passes for each target, and the step that runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import onnx_ir as ir

from shrinkserve.errors import ConfigError
from shrinkserve.exporting import graph, passes
from shrinkserve.exporting.passes.editing import GraphPass
from shrinkserve.exporting.records import StepDetails
from shrinkserve.exporting.samples import Samples
from shrinkserve.exporting.steps import ONNX, SameState, StepState

PassTarget = Literal["onnxruntime-cpu", "openvino", "tensorrt"]
TARGETS: tuple[PassTarget, ...] = get_args(PassTarget)

_SUMS = tuple(
    partial(one, alone=True)
    for one in (passes.DepthwiseOverConcat, passes.ElementwiseOverConcat, passes.ConvOverConcat)
)
FORMS: Mapping[str, Sequence[Callable[[str], GraphPass]]] = {
    "as-is": (),
    "sums": (*_SUMS, passes.MergeSums),
    "chains": (*_SUMS, passes.ConvBesideConcat, passes.MergeSums, passes.ChainSums),
    "wide": (*_SUMS, passes.ConcatToSum, passes.MergeSums),
}
"""Name of a form of a stage -> passes to repeat until none applies.

`sums`: a concat that only one convolution reads becomes a sum of convolutions. `chains`: in addition, each half of a
cell, with its shortcut, is summed up inside convolutions before the halves are joined. `wide`: the halves are not
joined, but summed up with filters as wide as both.
"""


@dataclass(frozen=True)
class PassPlan:
    """Graph passes for one graph.

    Attributes:
        form: one of `FORMS`, for stages without an entry in `stages`.
        stages: first part of the node names, e.g. ``"stage2"`` -> one of `FORMS`.
        block: pad channels to multiples of this number; 0 does not pad.
    """

    form: str = "as-is"
    stages: dict[str, str] = field(default_factory=dict)
    block: int = 0

    def to_dict(self) -> dict[str, object]:
        """Return JSON data for a card."""
        return asdict(self)


SHIPPED: Mapping[PassTarget, PassPlan] = {
    # ONNX Runtime's block is 16 with AVX-512 and 8 otherwise. Stage 2's halves of 24 channels would need padding.
    "onnxruntime-cpu": PassPlan("chains", {"stage2": "wide"}, block=16),
    # OpenVINO's kernels take any number of channels; padding costs a twentieth of the time in int8.
    "openvino": PassPlan("chains"),
    # TensorRT's builder fuses and measures on the GPU itself.
    "tensorrt": PassPlan(),
}


def check_target(name: str) -> PassTarget:
    """Return `name` as a target.

    Raises:
        ConfigError: an unknown target.
    """
    for target in TARGETS:
        if target == name:
            return target
    raise ConfigError("target", expected=" or ".join(TARGETS), found=repr(name))


def stages(model: ir.Model) -> list[str]:
    """Return the first parts of the names of all concats: the parts of a graph that can have different forms."""
    return list(dict.fromkeys((node.name or "").split(".")[0] for node in model.graph if node.op_type == "Concat"))


def optimise(model: ir.Model, plan: PassPlan) -> list[str]:
    """Run a plan's passes in place; return the names of the passes that changed the model."""
    always: list[GraphPass] = [passes.FoldBatchNorm(), passes.GlobalPool(), passes.EvenPads()]
    changed = [one for one in always if one(model).modified]
    for stage in stages(model):
        changed += _until_settled(model, [make(f"{stage}.") for make in FORMS[plan.stages.get(stage, plan.form)]])
    if plan.block and (pad := passes.PadChannels(plan.block))(model).modified:
        changed.append(pad)
    return [f"{one.scope}{type(one).__name__}" for one in changed]


def _until_settled(model: ir.Model, repeated: Sequence[GraphPass]) -> list[GraphPass]:
    """Repeat passes until none applies; return those that did. onnx_ir's PassManager does not report them."""
    changed: dict[GraphPass, None] = {}
    while applied := [one for one in repeated if one(model).modified]:
        changed.update(dict.fromkeys(applied))
    return list(changed)


@dataclass(frozen=True)
class OptimisedOnnx(SameState):
    """The step that runs the graph passes of a plan; outputs are equal up to the order of sums.

    Args:
        target: runtime of the result.
        plan: the passes; None copies the graph.
        state: format and precision of the graph.
    """

    target: PassTarget
    plan: PassPlan | None
    state: StepState = ONNX
    name: str = "passes"

    def parameters(self) -> dict[str, object]:
        return {"target": self.target, "plan": None if self.plan is None else self.plan.to_dict()}

    def run(self, source: Path, target: Path, _samples: Samples, /) -> StepDetails:
        """Write the graph after the passes."""
        model = graph.load(source)
        changed = [] if self.plan is None else optimise(model, self.plan)
        graph.save(model, target)
        return {"passes": changed, "operators": graph.operators(model)}
