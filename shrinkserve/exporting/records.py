"""Records of an export in ``card.json``: steps, checks and timings."""

from __future__ import annotations

from typing import Literal, TypedDict

from typing_extensions import NotRequired

from shrinkserve.runtimes.tensorrt import BuildInfo


class ToleranceRecord(TypedDict):
    """See `parity.Tolerance`."""

    absolute: float
    flips: float | None


class FlipRecord(TypedDict):
    """See `parity.OutputFlip`."""

    image: int
    right: int
    found: int
    margin: float


class ParityRecord(TypedDict):
    """A comparison of two artifacts, see `parity.Parity`; `passed` is None if it could not run on this machine."""

    check: Literal["parity"]
    passed: bool | None
    step: NotRequired[str]
    skipped: NotRequired[str]
    reference: NotRequired[str]
    candidate: NotRequired[str]
    images: NotRequired[int]
    source: NotRequired[str]
    tolerance: NotRequired[ToleranceRecord]
    batches: NotRequired[dict[str, float]]
    same_image: NotRequired[float]
    permuted: NotRequired[float]
    worst: NotRequired[float]
    scale: NotRequired[float]
    flips: NotRequired[int]
    flipped: NotRequired[list[FlipRecord]]


class FileRecord(TypedDict):
    """The ONNX checker's result."""

    check: Literal["onnx"]
    passed: bool
    opset: dict[str, int]
    ir_version: int


class DifferenceRecord(TypedDict):
    """A largest difference within its tolerance."""

    check: Literal["probabilities", "unoptimised"]
    passed: bool
    worst_difference: float
    tolerance: float


CheckRecord = ParityRecord | FileRecord | DifferenceRecord


class StepDetails(TypedDict, total=False):
    """Details that a step reports about its result.

    Attributes:
        weights_sha256: of the network's weights (first step).
        operators: operator -> number of nodes.
        passes: names of the graph passes that changed something.
        float32_nodes: node -> reason why it stayed in float32 (float16, bfloat16).
        method: calibration method (int8).
        errors: calibration method -> error of the logits (int8).
        float_layers: names of the layers that stayed in float32 (int8).
        top1_drop: points of top-1 lost (int8).
        judged_by: the images that top-1 was measured on (int8).
        resolves: points of top-1 that one image is worth (int8).
        float32_ms: milliseconds an image of the float32 graph (int8).
        int8_ms: milliseconds an image of the int8 graph (int8).
        speed: why no time was measured (int8).
        built: what the plan was built by and for (TensorRT).
        graph_sha256: of the graph that the plan was built from (TensorRT).
    """

    weights_sha256: str
    operators: dict[str, int]
    passes: list[str]
    float32_nodes: dict[str, str]
    method: str
    errors: dict[str, float]
    float_layers: list[str]
    top1_drop: float
    judged_by: str
    resolves: float
    float32_ms: float
    int8_ms: float
    speed: str
    built: BuildInfo
    graph_sha256: str


_Ends = TypedDict("_Ends", {"from": str, "to": str})


class StepRecord(StepDetails, _Ends, total=False):
    """A step of an export: what it made from what, with which parameters, and the check of the result."""

    step: str
    input_sha256: str
    output_sha256: str
    parameters: dict[str, object]
    seconds: float
    parity: ParityRecord


class Comparison(TypedDict):
    """Milliseconds of several graphs in the target runtime, and the name of the one that was kept."""

    what: str
    milliseconds: dict[str, float]
    kept: str


class EngineRecord(TypedDict, total=False):
    """Steps and checks of an engine.

    Attributes:
        steps: one record for each step.
        parity: the comparison, for an engine that shares the float32 file.
        built: plan file -> what it was built by and for (TensorRT).
        speed: milliseconds an image (int8 plans).
    """

    steps: list[StepRecord]
    parity: ParityRecord
    built: dict[str, BuildInfo]
    speed: dict[str, float]
