"""The step to int8.

Calibrates, chooses the best method, keeps sensitive layers in float32, and rejects results that are not accurate enough
or not faster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from shrinkserve.errors import ConfigError, GateError
from shrinkserve.exporting import graph
from shrinkserve.exporting.parity import Tolerance, predict_all
from shrinkserve.exporting.quantise.calibration import METHODS, ActivationHistogram, Method, clip, observe
from shrinkserve.exporting.quantise.sensitivity import rank, relative_error
from shrinkserve.exporting.quantise.static import QDQ_OPSET, SCHEMES, QuantiseTarget, quantise
from shrinkserve.exporting.records import StepDetails
from shrinkserve.exporting.samples import Samples
from shrinkserve.exporting.steps import ONNX, StepState
from shrinkserve.exporting.timing import interleaved
from shrinkserve.runtimes.predictor import Images, Logits, Predictor

INT8 = StepState("onnx", "int8")
DIFFERENCE, FLIPS = 0.25, 0.05
"""Single logits may differ by a quarter of the largest one; the gate on top-1 decides. Predictions that change from
wrong to right, or back, do not lower top-1, but many of them are an error all the same."""
BATCH = 32
RANKED_IMAGES = 16
"""Images that rank the layers; the error of logits is smooth, so that a few images order the layers well."""
ROUNDS = 15
"""Turns of each graph in the comparison of their speed."""
LEAST = 16
"""Fewest calibration images."""


@dataclass(frozen=True)
class Int8:
    """Static post-training quantisation.

    Args:
        target: runtime of the result.
        calibration: uint8 [N, S, S, 3], training images; the last quarter chooses among the methods.
        max_top1_drop: largest loss of top-1 on the validation images, in percentage points.
        demand_faster: reject a graph that is not faster than float32 on this machine.
        validation: images for top-1; None for the samples of the other checks.
    """

    target: QuantiseTarget
    calibration: Images = field(repr=False)
    max_top1_drop: float = 0.5
    demand_faster: bool = True
    validation: Samples | None = field(default=None, repr=False)
    requires: StepState = ONNX
    ensures: StepState = INT8

    @property
    def name(self) -> str:
        return f"int8-{self.target}"

    @property
    def tolerance(self) -> Tolerance:
        """Return the tolerance; the allowed fraction of changed predictions grows with `max_top1_drop`."""
        return Tolerance(DIFFERENCE, flips=FLIPS + self.max_top1_drop / 100)

    def parameters(self) -> dict[str, object]:
        return {
            "target": self.target,
            "calibration_images": len(self.calibration),
            "max_top1_drop": self.max_top1_drop,
            "activations": "int8 symmetric" if SCHEMES[self.target].symmetric else "uint8 with zero point",
        }

    def run(self, source: Path, target: Path, samples: Samples, /) -> StepDetails:
        """Write the eight-bit graph.

        Raises:
            GateError: not accurate enough with half of the layers in float32, or not faster.
            ConfigError: too few calibration images.
        """
        if len(self.calibration) < LEAST:
            raise ConfigError("int8", expected=f"at least {LEAST} calibration images", found=len(self.calibration))
        trial = _Trial(graph.load(source), source, self.target, self.calibration, target.parent)
        method, errors = trial.choose()
        judges = self.validation or samples
        kept, drop = self._choose_float_layers(trial, method, judges)
        target.write_bytes(trial.build(method, kept).SerializeToString())
        speed = self._measure_speed(source, target)
        return {
            "method": method,
            "errors": errors,
            "float_layers": kept,
            "top1_drop": drop,
            "judged_by": _describe(judges),
            "resolves": _resolution(judges),
            **speed,
        }

    def _choose_float_layers(self, trial: _Trial, method: Method, samples: Samples) -> tuple[list[str], float]:
        """Return the layers that must stay in float32, the most sensitive first, and the loss of top-1 in points.

        Doubles the number of layers until top-1 is good enough.

        Raises:
            GateError: not good enough with half of the layers in float32.
        """
        right = trial.predict_float(samples.images)
        kept: list[str] = []
        ranked: list[str] = []  # only if it is needed: this takes longer than all else
        while (drop := _drop(right, trial.predict(samples.images, method, kept), samples)) > self.max_top1_drop:
            ranked = ranked or [name for name, _ in trial.rank(method)]
            count = max(1, 2 * len(kept))
            if count > len(ranked) // 2:
                raise GateError(
                    f"int8 for {self.target} is not accurate enough, even with its {len(kept)} worst layers in float32",
                    expected=f"top-1 at most {self.max_top1_drop:g} points below float32",
                    found=f"{drop:.2f} points below on {_describe(samples)}; worst layers: {', '.join(ranked[:3])}",
                    hint=f"nothing was written; {self._advice(samples)}",
                )
            kept = ranked[:count]
        return kept, round(drop, 3)

    def _advice(self, samples: Samples) -> str:
        if 0 < self.max_top1_drop < (step := _resolution(samples)):
            needed = math.ceil(100 / self.max_top1_drop)
            return f"{len(samples)} images resolve {step:.2g} points: give --data with at least {needed}"
        return "allow more with --max-top1-drop or use float16 or bfloat16"

    def _measure_speed(self, source: Path, target: Path) -> StepDetails:
        """Return the times of both graphs on this machine; remove the result if it has to be faster and is not."""
        if self.target == "tensorrt":
            return {"speed": "measured with the engine, if the GPU is on this machine"}
        whole, eight = open_graph(source, self.target, ONNX), open_graph(target, self.target, INT8)
        before, after = timed(whole, eight, self.calibration)
        if self.demand_faster and after >= before:
            target.unlink()
            raise GateError(
                f"int8 for {self.target} is accurate but not faster on this machine",
                expected=f"below {before * 1e3:.2f} ms an image (float32)",
                found=f"{after * 1e3:.2f} ms",
                hint="nothing was written; use float32 or bfloat16 on this machine",
            )
        return {"float32_ms": round(before * 1e3, 3), "int8_ms": round(after * 1e3, 3)}


class _Trial:
    """Quantised forms of one graph and their predictions."""

    def __init__(self, model: ir.Model, path: Path, target: QuantiseTarget, calibration: Images, folder: Path) -> None:
        graph.raise_opset(model, QDQ_OPSET)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        self.model, self.path, self.target, self.folder = model, path, target, folder
        cut = len(calibration) * 3 // 4
        self.held_out = calibration[cut:]
        self.seen: dict[str, ActivationHistogram] = observe(model, calibration[:cut])

    def build(self, method: Method, kept: Sequence[str] = ()) -> onnx.ModelProto:
        ranges = clip(self.seen, method, SCHEMES[self.target].levels)
        return quantise(self.model, ranges, self.target, keep_float=kept)

    def predict_float(self, images: Images) -> Logits:
        return predict_all(open_graph(self.path, self.target, ONNX), images, BATCH)

    def predict(self, images: Images, method: Method, kept: Sequence[str] = ()) -> Logits:
        with TemporaryDirectory(prefix="int8-", dir=self.folder) as folder:
            path = Path(folder) / "int8.onnx"
            path.write_bytes(self.build(method, kept).SerializeToString())
            return predict_all(open_graph(path, self.target, INT8), images, BATCH)

    def choose(self) -> tuple[Method, dict[str, float]]:
        """Return the calibration method with the smallest error of logits on held-out images, and each error."""
        right = self.predict_float(self.held_out)
        errors = {method: relative_error(right, self.predict(self.held_out, method)) for method in METHODS}
        return min(METHODS, key=lambda method: errors[method]), {m: round(e, 5) for m, e in errors.items()}

    def rank(self, method: Method) -> list[tuple[str, float]]:
        """Return the layers with the error that each causes alone, the worst first."""
        scheme = SCHEMES[self.target]
        return rank(self.model, clip(self.seen, method, scheme.levels), scheme, self.held_out[:RANKED_IMAGES])


def _drop(right: Logits, found: Logits, samples: Samples) -> float:
    """Return the points of top-1 lost; without labels, the percentage of predictions that changed."""
    truth = samples.labels if samples.labels is not None else right.argmax(1)
    return 100 * float(np.mean(right.argmax(1) == truth) - np.mean(found.argmax(1) == truth))


def _describe(samples: Samples) -> str:
    """Return what top-1 is measured on."""
    truth = "images with labels" if samples.labels is not None else "images without labels, compared with float32"
    return f"{len(samples)} {truth}"


def _resolution(samples: Samples) -> float:
    """Return the points of top-1 that one image is worth."""
    return round(100 / len(samples), 3)


def open_graph(path: Path, target: QuantiseTarget, state: StepState) -> Predictor:
    """Open a graph in the runtime that serves it; for TensorRT in ONNX Runtime, which has the same operators."""
    if target == "openvino":
        from shrinkserve.runtimes.openvino import HINTS, OpenVinoModel

        return OpenVinoModel(path, precision=HINTS[state.precision])
    from shrinkserve.runtimes.onnx import OnnxModel

    return OnnxModel(path)


def timed(before: Predictor, after: Predictor, images: Images, batch: int = 8) -> tuple[float, float]:
    """Return the median seconds an image of both, timed in turns after a warm-up."""
    part = np.resize(images, (batch, *images.shape[1:]))
    seconds = interleaved({"before": before, "after": after}, part, ROUNDS, burst=1)
    return seconds["before"] / batch, seconds["after"] / batch
