"""Other precisions and engines of one exported model, each made and checked from its float32 graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from shrinkserve.data import evaluation_batches, open_dataset
from shrinkserve.errors import ConfigError
from shrinkserve.exporting.engine.build import (
    EngineOptions,
    EngineStep,
    Library,
    built_record,
    check_builder,
    import_library,
)
from shrinkserve.exporting.parity import assert_parity, compare_outputs
from shrinkserve.exporting.precision import TOLERANCES, Lower
from shrinkserve.exporting.quantise.static import QuantiseTarget
from shrinkserve.exporting.quantise.step import Int8, open_graph
from shrinkserve.exporting.samples import Samples, load_samples, synthetic
from shrinkserve.exporting.steps import ONNX, Opener, Precision, Product, Step, StepState, run_steps
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.predictor import Images, Predictor
from shrinkserve.runtimes.tensorrt import BUILT, TensorRtModel, gpu

Kind = Literal["fp16", "bf16", "int8", "tensorrt", "tensorrt-int8"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CALIBRATION_IMAGES = 256
JUDGING_IMAGES = 2000
"""Images that int8's top-1 is judged by. Half a point is ten of them; where one answer in fifty changes, a third of a
point of the difference is chance."""


@dataclass(frozen=True)
class Variant:
    """Another way to run a version, with the fields of `serving.engines.Engine`.

    Attributes:
        name: of its configuration.
        backend: Triton's.
        file: name of the file that it loads.
        precision: of its arithmetic.
        record: how it was made and checked.
        parameters: of the backend.
        capabilities: compute capability -> file, for plans.
    """

    name: str
    backend: str
    file: str
    precision: Precision
    record: dict[str, Any]
    parameters: Mapping[str, str] = field(default_factory=dict)
    capabilities: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class VariantOptions:
    """What variants are asked for.

    Attributes:
        data_root: dataset whose training images calibrate and whose validation images judge; None for synthetic ones.
        runtime: what runs the int8 graph.
        max_top1_drop: see `quantise_step.Int8`.
        engine: see `engine.EngineOptions`.
        library: whose builder makes the plans.
        timing_cache: see `engine.Engine`.
        log: see `engine.Engine`.
    """

    data_root: Path | None
    runtime: QuantiseTarget = "onnxruntime"
    max_top1_drop: float = 0.5
    engine: EngineOptions = EngineOptions()  # noqa: RUF009 - frozen
    library: Library = "tensorrt"
    timing_cache: Path | None = None
    log: Path | None = None


def parse_kinds(text: str) -> list[Kind]:
    """``"fp32,int8"`` -> ``["int8"]``; float32 is what every export has.

    Raises:
        ConfigError: a name that is not known.
    """
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    unknown = sorted({name for name in wanted if name not in {"fp32", *KINDS}})
    if unknown or not wanted:
        found = ", ".join(unknown) or repr(text)
        raise ConfigError("--to", expected=f"names out of fp32, {', '.join(KINDS)}", found=found)
    return [kind for kind in KINDS if kind in wanted]


def check_runtimes(kinds: Sequence[Kind], options: VariantOptions) -> None:
    """That what makes these variants is here, which is asked before the work.

    Raises:
        ConfigError: TensorRT is not installed, or has no GPU to build for.
        ModuleNotFoundError: OpenVINO is not installed.
    """
    if "tensorrt" in kinds or "tensorrt-int8" in kinds:
        check_builder(options.library, options.engine)
    if "bf16" in kinds or ("int8" in kinds and options.runtime == "openvino"):
        import_module("openvino")


def make_variants(
    model: Path, kinds: Sequence[Kind], folder: Path, preprocess: Preprocess, options: VariantOptions
) -> list[Variant]:
    """Make every variant beside `model`; one that fails its checks fails all.

    Args:
        model: the float32 graph.
        kinds: which variants.
        folder: gets their files.
        preprocess: of the model.
        options: see `VariantOptions`.

    Raises:
        ParityError: a variant that answers otherwise.
        GateError: int8 that is not accurate enough or not faster.
        ConfigError: TensorRT is asked for and not installed.
    """
    if not kinds:
        return []
    classes = OnnxModel(model).classes
    samples = load_samples(options.data_root, preprocess, classes)
    calibration = _calibration(options.data_root, preprocess)

    def int8(target: QuantiseTarget) -> Int8:
        judges = load_samples(options.data_root, preprocess, classes, limit=JUDGING_IMAGES)
        return Int8(target, calibration, options.max_top1_drop, validation=judges)

    makers = {
        "fp16": lambda: _lowered(model, folder, samples, calibration),
        "bf16": lambda: _hinted(model, samples),
        "int8": lambda: _quantised(model, folder, samples, int8(options.runtime), options),
        "tensorrt": lambda: _plan(model, folder, samples, options, Lower("float16", calibration)),
        "tensorrt-int8": lambda: _plan(model, folder, samples, options, int8("tensorrt")),
    }
    return [makers[kind]() for kind in kinds]


def _calibration(root: Path | None, preprocess: Preprocess) -> Images:
    if root is None:
        return synthetic(preprocess.size, 64).images
    batches = evaluation_batches(open_dataset(root, "train"), preprocess, 64, limit=CALIBRATION_IMAGES)
    images: Images = np.concatenate([batch.images for batch in batches])
    return images


def _lowered(model: Path, folder: Path, samples: Samples, calibration: Images) -> Variant:
    record, file = _run([Lower("float16", calibration)], model, folder, samples)
    return Variant("float16", "onnxruntime", file, "float16", record)


def _hinted(model: Path, samples: Samples) -> Variant:
    """OpenVINO casts the float32 graph itself and keeps what it knows to be delicate, so the file is shared."""
    from shrinkserve.runtimes.openvino import HINTS, OpenVinoModel

    right, found = OnnxModel(model), OpenVinoModel(model, precision=HINTS["bfloat16"])
    outcome = compare_outputs(right, found, samples, TOLERANCES["bfloat16"])
    assert_parity(outcome, "bfloat16", right, found, samples)
    record = {"steps": [], "parity": outcome.to_dict()}
    return Variant("bfloat16", "openvino", model.name, "bfloat16", record, hint("bfloat16"))


def _quantised(model: Path, folder: Path, samples: Samples, step: Int8, options: VariantOptions) -> Variant:
    record, file = _run([step], model, folder, samples, lambda path, state: open_graph(path, options.runtime, state))
    parameters = hint("int8") if options.runtime == "openvino" else {}
    return Variant("int8", options.runtime, file, "int8", record, parameters)


def hint(precision: str) -> dict[str, str]:
    """What tells Triton's OpenVINO backends, ours and NVIDIA's, how to compute a graph of a precision."""
    from shrinkserve.runtimes.openvino import HINTS

    return {"INFERENCE_PRECISION_HINT": HINTS[precision]}


def _plan(model: Path, folder: Path, samples: Samples, options: VariantOptions, first: Step) -> Variant:
    precision = first.ensures.precision
    cache, log, library = options.timing_cache, options.log, options.library
    engine = EngineStep(precision, options.engine, timing_cache=cache, log=log, library=library)
    record, file = _run([first, engine], model, folder, samples, _opener(options))
    built = record["steps"][-1]["built"]
    record[BUILT] = {file: built}
    capabilities = {built["compute_capability"]: file}
    name = f"{library.replace('_', '-')}-{precision}"
    return Variant(name, "tensorrt", file, precision, record, capabilities=capabilities)


def _run(
    steps: Sequence[Step], model: Path, folder: Path, samples: Samples, opener: Opener = lambda path, _: OnnxModel(path)
) -> tuple[dict[str, Any], str]:
    product = run_steps(steps, Product(model, ONNX), folder, samples, opener=opener)
    return {"steps": list(product.records)}, product.path.name


def _opener(options: VariantOptions) -> Opener:
    """Opens graphs, and plans where the GPU that they are built for is here; elsewhere `compare` asks them later."""

    def opener(path: Path, state: StepState) -> Predictor | None:
        if state.format != "plan":
            return OnnxModel(path)
        here = gpu()["compute_capability"]
        if here is None or (options.engine.compute_capability or here) != here:
            return None
        return TensorRtModel(path, built_record(import_library(options.library), options.engine))

    return opener
