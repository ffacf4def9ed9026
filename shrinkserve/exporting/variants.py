"""Engines of an exported model: other precisions and runtimes, made from its graph and checked against it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from shrinkserve.artifact import MODEL
from shrinkserve.data import evaluation_batches, open_dataset
from shrinkserve.engines import BUILT, Engine
from shrinkserve.errors import ConfigError, GateError
from shrinkserve.exporting.engine.build import EngineOptions
from shrinkserve.exporting.engine.library import Library, import_library
from shrinkserve.exporting.engine.step import EngineStep, build_info, check_builder
from shrinkserve.exporting.optimise import OptimisedOnnx, PassPlan
from shrinkserve.exporting.parity import TOLERANCES, assert_parity, compare_outputs
from shrinkserve.exporting.precision import Lower
from shrinkserve.exporting.quantise.static import QuantiseTarget
from shrinkserve.exporting.quantise.step import Int8, open_graph, timed
from shrinkserve.exporting.records import EngineRecord
from shrinkserve.exporting.samples import Samples, load_samples, synthetic
from shrinkserve.exporting.steps import ONNX, Opener, Product, Step, StepState, open_onnx, run_steps
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.predictor import Images, Predictor
from shrinkserve.runtimes.tensorrt import TensorRtModel, gpu

Kind = Literal["fp16", "bf16", "int8", "tensorrt", "tensorrt-int8"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FOR_GPUS: frozenset[Kind] = frozenset({"fp16", "tensorrt", "tensorrt-int8"})
"""Engines that are made from the graph without the passes for CPUs, `VariantSource.plain`."""
CALIBRATION_IMAGES = 256
GPU_PASSES = OptimisedOnnx("tensorrt", PassPlan(), name="gpu")
"""First step of engines for GPUs: the passes that every target has."""
JUDGING_IMAGES = 2000
"""Images for the top-1 of int8. Half a point is ten of them. If one prediction in fifty changes, a third of a point of
the difference is chance."""


@dataclass(frozen=True)
class VariantSource:
    """The model that engines are made from.

    Attributes:
        graph: the float32 file that is published, with the graph passes of its target.
        plain: the same network without them, for engines of other targets; `graph` if it is not known.
        preprocess: of the model.
        classes: class names in the order of the logits.
        samples: images of the checks.
    """

    graph: Product
    plain: Product
    preprocess: Preprocess
    classes: Sequence[str]
    samples: Samples


@dataclass(frozen=True)
class VariantOptions:
    """Options of the engines.

    Attributes:
        data_root: dataset whose training images calibrate and whose validation images check; None for synthetic images.
        runtime: runtime of the int8 graph.
        max_top1_drop: see `quantise.step.Int8`.
        engine: see `engine.build.EngineOptions`.
        library: the library that builds plans.
        timing_cache: see `engine.step.EngineStep`.
        log: see `engine.step.EngineStep`.
    """

    data_root: Path | None
    runtime: QuantiseTarget = "onnxruntime"
    max_top1_drop: float = 0.5
    engine: EngineOptions = EngineOptions()  # noqa: RUF009 - frozen
    library: Library = "tensorrt"
    timing_cache: Path | None = None
    log: Path | None = None


def parse_kinds(text: str | Sequence[str]) -> list[Kind]:
    """Return the engines of ``"fp32,int8"`` or ``["fp32", "int8"]``: ``["int8"]``. Every export has float32.

    Raises:
        ConfigError: an unknown name.
    """
    parts = text.split(",") if isinstance(text, str) else text
    wanted = [part.strip() for part in parts if part.strip()]
    unknown = sorted({name for name in wanted if name not in {"fp32", *KINDS}})
    if unknown or not wanted:
        found = ", ".join(unknown) or repr(text)
        raise ConfigError("--to", expected=f"one or more of fp32, {', '.join(KINDS)}", found=found)
    return [kind for kind in KINDS if kind in wanted]


def check_runtimes(kinds: Sequence[Kind], options: VariantOptions) -> None:
    """Check that this machine can make these engines, before the work.

    Raises:
        ConfigError: TensorRT is not installed, or has no GPU to build for.
        ModuleNotFoundError: OpenVINO is not installed.
    """
    if "tensorrt" in kinds or "tensorrt-int8" in kinds:
        check_builder(options.library, options.engine)
    if "bf16" in kinds or ("int8" in kinds and options.runtime == "openvino"):
        import_module("openvino")


def make_variants(source: VariantSource, kinds: Sequence[Kind], folder: Path, options: VariantOptions) -> list[Engine]:
    """Make engines of a model; if one fails its checks, all fail.

    Args:
        source: the model.
        kinds: which engines.
        folder: gets their files.
        options: see `VariantOptions`.

    Raises:
        ConfigError: the model is not in float32, or TensorRT is not installed.
        ParityError: the outputs of an engine differ from those of the model.
        GateError: int8 is not accurate enough or not faster.
    """
    if not kinds:
        return []
    if source.graph.state != ONNX:
        found = source.graph.state.precision
        hint = "export the float32 network, or leave --to out"
        raise ConfigError(f"--to {','.join(kinds)}", expected="a model in float32", found=found, hint=hint)
    maker = _Maker(source, folder, options)
    makers: dict[Kind, Callable[[], Engine]] = {
        "fp16": maker.float16,
        "bf16": maker.bfloat16,
        "int8": maker.int8,
        "tensorrt": lambda: maker.float16_plan,
        "tensorrt-int8": maker.int8_plan,
    }
    return [makers[kind]() for kind in kinds]


class _Maker:
    """Makes the engines of one model. What several of them need is made once, for the first of them."""

    def __init__(self, source: VariantSource, folder: Path, options: VariantOptions) -> None:
        self.source, self.folder, self.options = source, folder, options

    @cached_property
    def calibration(self) -> Images:
        """Images whose activations give the ranges."""
        return _calibration(self.options.data_root, self.source.preprocess)

    @cached_property
    def judges(self) -> Samples:
        """Images for the top-1 of int8."""
        source = self.source
        return load_samples(self.options.data_root, source.preprocess, source.classes, limit=JUDGING_IMAGES)

    @cached_property
    def gpu_graph(self) -> Product:
        """Graph without the passes for CPUs: these pad channels for the CPU's blocks."""
        return self._run(GPU_PASSES, replace(self.source.plain, records=()))

    @cached_property
    def float16_graph(self) -> Product:
        """Graph in float16. It is for GPUs: no CPU is faster in float16."""
        return self._run(Lower("float16", self.calibration), self.gpu_graph)

    @cached_property
    def float16_plan(self) -> Engine:
        """Plan in float16, which is also the reference for the speed of the int8 plan; a build takes minutes."""
        return self._plan(self.float16_graph)

    def float16(self) -> Engine:
        product = self.float16_graph
        return Engine("float16", "onnxruntime", product.path.name, "float16", record=_record(product))

    def bfloat16(self) -> Engine:
        """Return an engine that shares the float32 file: OpenVINO converts it, and keeps sensitive layers itself."""
        from shrinkserve.runtimes.openvino import HINTS, OpenVinoModel

        path = self.source.graph.path
        right, found = OnnxModel(path), OpenVinoModel(path, precision=HINTS["bfloat16"])
        outcome = compare_outputs(right, found, self.source.samples, TOLERANCES["bfloat16"])
        assert_parity(outcome, "bfloat16", right, found, self.source.samples)
        record: EngineRecord = {"steps": [], "parity": outcome.to_dict()}
        return Engine("bfloat16", "openvino", MODEL, "bfloat16", parameters=_hint("bfloat16"), record={**record})

    def int8(self) -> Engine:
        runtime = self.options.runtime

        def opener(path: Path, state: StepState) -> Predictor:
            return open_graph(path, runtime, state)

        product = self._run(self._int8_step(runtime), replace(self.source.graph, records=()), opener)
        parameters = _hint("int8") if runtime == "openvino" else {}
        return Engine("int8", runtime, product.path.name, "int8", parameters=parameters, record=_record(product))

    def int8_plan(self) -> Engine:
        """Return the int8 plan; if its GPU is on this machine, only if it is faster than the float16 plan."""
        engine = self._plan(self._run(self._int8_step("tensorrt"), self.gpu_graph))
        opener = _plan_opener(self.options)
        eight = opener(self.folder / engine.file, StepState("plan", "int8"))
        if eight is None:
            return engine
        sixteen = opener(self.folder / self.float16_plan.file, StepState("plan", "float16"))
        assert sixteen is not None
        before, after = timed(sixteen, eight, self.calibration)
        if after >= before:
            raise GateError(
                "int8 for TensorRT is accurate but not faster than float16 on this GPU",
                expected=f"below {before * 1e3:.3f} ms an image",
                found=f"{after * 1e3:.3f} ms",
                hint="nothing was written; use --to tensorrt",
            )
        speed = {"float16_ms": round(before * 1e3, 4), "int8_ms": round(after * 1e3, 4)}
        return replace(engine, record={**engine.record, "speed": speed})

    def _int8_step(self, target: QuantiseTarget) -> Int8:
        return Int8(target, self.calibration, self.options.max_top1_drop, validation=self.judges)

    def _plan(self, graph: Product) -> Engine:
        precision, options = graph.state.precision, self.options
        cache, log, library = options.timing_cache, options.log, options.library
        step = EngineStep(precision, options.engine, timing_cache=cache, log=log, library=library)
        product = self._run(step, graph, _plan_opener(options))
        file, built = product.path.name, product.records[-1]["built"]
        record = {**_record(product), BUILT: {file: built}}
        capabilities = {built["compute_capability"] or "": file}
        name = f"{library.replace('_', '-')}-{precision}"
        return Engine(name, "tensorrt", file, precision, capabilities=capabilities, record=record)

    def _run(self, step: Step, start: Product, opener: Opener = open_onnx) -> Product:
        return run_steps([step], start, self.folder, self.source.samples, opener=opener)


def _record(product: Product) -> dict[str, object]:
    record: EngineRecord = {"steps": list(product.records)}
    return {**record}


def _calibration(root: Path | None, preprocess: Preprocess) -> Images:
    if root is None:
        return synthetic(preprocess.size, 64, preprocess.channels).images
    batches = evaluation_batches(open_dataset(root, "train"), preprocess, 64, limit=CALIBRATION_IMAGES)
    images: Images = np.concatenate([batch.images for batch in batches])
    return images


def _hint(precision: str) -> dict[str, str]:
    """Return the parameters with which Triton's OpenVINO backend computes a graph of a precision."""
    from shrinkserve.runtimes.openvino import HINTS

    return {"INFERENCE_PRECISION_HINT": HINTS[precision]}


def _plan_opener(options: VariantOptions) -> Opener:
    """Return an opener for graphs, and for plans if their GPU is on this machine."""

    def opener(path: Path, state: StepState) -> Predictor | None:
        if state.format != "plan":
            return OnnxModel(path)
        here = gpu()["compute_capability"]
        if here is None or (options.engine.compute_capability or here) != here:
            return None
        return TensorRtModel(path, build_info(import_library(options.library), options.engine))

    return opener
