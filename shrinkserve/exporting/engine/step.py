"""The step from a graph to a TensorRT engine."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType

from shrinkserve.artifact import Precision, sha256_file
from shrinkserve.atomic import write_atomic
from shrinkserve.containers import tags_for_plan
from shrinkserve.errors import ConfigError
from shrinkserve.exporting.engine.build import EngineOptions, build_engine
from shrinkserve.exporting.engine.library import Library, capability, import_library, sm_number
from shrinkserve.exporting.parity import Tolerance
from shrinkserve.exporting.records import StepDetails
from shrinkserve.exporting.samples import Samples
from shrinkserve.exporting.steps import StepState
from shrinkserve.runtimes.tensorrt import BuildInfo, gpu

PLAN_TOLERANCES: dict[Precision, Tolerance] = {
    "float32": Tolerance(0.005),  # TensorRT may use TF32, whose mantissa has 10 bits
    "float16": Tolerance(0.02),
    "bfloat16": Tolerance(0.1),
    "int8": Tolerance(0.25, flips=0.05),
}


@dataclass(frozen=True)
class EngineStep:
    """The step from a graph to a plan.

    Args:
        precision: of the graph.
        options: of the builder.
        timing_cache: path and prefix of files with the kernel timings of earlier builds, one for each GPU and library.
        log: file for the builder's verbose log.
        library: the builder's library.
        progress: show progress bars.
    """

    precision: Precision
    options: EngineOptions
    timing_cache: Path | None = None
    log: Path | None = None
    library: Library = "tensorrt"
    progress: bool = field(default=True, compare=False)

    @property
    def name(self) -> str:
        built_for = self.options.compute_capability or gpu()["compute_capability"]
        suffix = "" if built_for is None else f"-sm{sm_number(built_for)}"  # plans for several GPUs share a folder
        return f"{self.library}-{self.precision}{suffix}"

    @property
    def requires(self) -> StepState:
        return StepState("onnx", self.precision)

    @property
    def ensures(self) -> StepState:
        return StepState("plan", self.precision)

    @property
    def tolerance(self) -> Tolerance:
        return PLAN_TOLERANCES[self.precision]

    def parameters(self) -> dict[str, object]:
        return {"library": self.library, **asdict(self.options)}

    def run(self, source: Path, target: Path, _samples: Samples, /) -> StepDetails:
        """Build the plan; report what it was built by and for."""
        trt = import_library(self.library)
        timings = self.timing_cache
        if timings is not None:
            timings = timings.with_name(f"{timings.name}.{cache_name(trt, self.options)}")
        plan = build_engine(trt, source, self.options, timing_cache=timings, log=self.log, progress=self.progress)
        write_atomic(target, plan)
        return {"built": build_info(trt, self.options), "graph_sha256": sha256_file(source)}


def check_builder(library: Library, options: EngineOptions) -> None:
    """Check that this machine can build a plan, before the minutes of work that come first.

    Raises:
        ConfigError: the library is not installed, or there is no GPU to build for.
    """
    trt, ahead = import_library(library), options.compute_capability
    if ahead is not None:
        capability(trt, ahead)
    elif gpu()["compute_capability"] is None:
        hint = "build on the machine with the GPU, or name the GPU: --builder tensorrt_rtx --gpu 8.9"
        raise ConfigError(f"no GPU for {library} to build for", hint=hint)


def cache_name(trt: ModuleType, options: EngineOptions) -> str:
    """Return the file name of the timing cache for a GPU: TensorRT rejects the timings of others."""
    machine = gpu()
    device = f"sm{sm_number(options.compute_capability)}" if options.compute_capability else machine["gpu"] or "none"
    name = f"{trt.__name__.removesuffix('_bindings')}-{trt.__version__}-{device}"
    return f"{re.sub(r'[^A-Za-z0-9.]+', '_', name)}.timing-cache"


def build_info(trt: ModuleType, options: EngineOptions) -> BuildInfo:
    """Return what a plan is built by and for, for its card."""
    here, library = gpu(), trt.__name__.removesuffix("_bindings")
    ahead = options.compute_capability
    return {
        "library": library,
        "version": trt.__version__,
        "containers": tags_for_plan(trt.__version__) if library == "tensorrt" else [],
        "gpu": here["gpu"] if ahead is None else None,
        "compute_capability": ahead or here["compute_capability"],
        "hardware_compatibility": options.compatibility,
        "batches": [options.min_batch, options.opt_batch, options.max_batch],
    }
