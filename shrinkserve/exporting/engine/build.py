"""Build TensorRT engines with `tensorrt` 10 and 11 and `tensorrt_rtx`.

The network is strongly typed: the graph gives the precision, without the precision flags and calibrators that version
11 has removed. TensorRT-RTX builds ahead of time for a compute capability, on a machine without a GPU.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from shrinkserve.artifact import INPUT, Precision, sha256_file
from shrinkserve.atomic import write_atomic
from shrinkserve.containers import tags_for_plan
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.exporting.engine.progress import monitor
from shrinkserve.exporting.parity import Tolerance
from shrinkserve.exporting.records import StepDetails
from shrinkserve.exporting.samples import Samples
from shrinkserve.exporting.steps import StepState
from shrinkserve.runtimes.tensorrt import BuildInfo, gpu

MODULES = {"tensorrt": ("tensorrt",), "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
TOLERANCES: dict[Precision, Tolerance] = {
    "float32": Tolerance(0.005),  # TensorRT may use TF32, whose mantissa has 10 bits
    "float16": Tolerance(0.02),
    "bfloat16": Tolerance(0.1),
    "int8": Tolerance(0.25, flips=0.05),
}

TrtObject = Any
"""Object of TensorRT's API, whose packages have no types."""
Library = Literal["tensorrt", "tensorrt_rtx"]
Compatibility = Literal["none", "ampere+", "same_compute_capability"]


@dataclass(frozen=True)
class EngineOptions:
    """Options of the builder.

    Attributes:
        min_batch: smallest batch of the engine.
        opt_batch: batch that the engine is optimised for.
        max_batch: largest batch of the engine.
        workspace_mib: GPU memory for kernels while they run; None for all of it.
        level: builder effort, 0 (fast build) to 5 (fast engine).
        compatibility: other GPUs that may load the engine; this costs speed.
        compute_capability: the GPU to build for, e.g. "8.9"; for TensorRT-RTX only. None for the GPU of this machine.
    """

    min_batch: int = 1
    opt_batch: int = 8
    max_batch: int = 32
    workspace_mib: int | None = None
    level: int = 3
    compatibility: Compatibility = "none"
    compute_capability: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.min_batch <= self.opt_batch <= self.max_batch:
            found = f"{self.min_batch}, {self.opt_batch}, {self.max_batch}"
            raise ConfigError("engine batches", expected="1 <= min <= opt <= max", found=found)
        if not 0 <= self.level <= 5:
            raise ConfigError("builder level", expected="0 to 5", found=self.level)


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
        capability = self.options.compute_capability or gpu()["compute_capability"]
        suffix = "" if capability is None else f"-sm{_digits(capability)}"  # plans for several GPUs share a folder
        return f"{self.library}-{self.precision}{suffix}"

    @property
    def requires(self) -> StepState:
        return StepState("onnx", self.precision)

    @property
    def ensures(self) -> StepState:
        return StepState("plan", self.precision)

    @property
    def tolerance(self) -> Tolerance:
        return TOLERANCES[self.precision]

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
        return {"built": {**build_info(trt, self.options)}, "graph_sha256": sha256_file(source)}


def import_library(library: Library) -> ModuleType:
    """Return the Python module of a TensorRT library.

    Raises:
        ConfigError: it is not installed, or its libraries cannot be loaded.
    """
    reason = ""
    for name in MODULES[library]:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as exc:  # a wheel without its libraries raises either
            reason = str(exc)
    hint = {
        "tensorrt": "pip install tensorrt on the machine with the GPU, or use --builder tensorrt_rtx without a GPU",
        "tensorrt_rtx": "pip install tensorrt-rtx-cu12",
    }[library]
    raise ConfigError(f"cannot import {library} ({reason})", hint=hint)


def check_builder(library: Library, options: EngineOptions) -> None:
    """Check that this machine can build a plan, before the minutes of work that come first.

    Raises:
        ConfigError: the library is not installed, or there is no GPU to build for.
    """
    trt, ahead = import_library(library), options.compute_capability
    if ahead is not None:
        _capability(trt, ahead)
    elif gpu()["compute_capability"] is None:
        hint = "build on the machine with the GPU, or name the GPU: --builder tensorrt_rtx --gpu 8.9"
        raise ConfigError(f"no GPU for {library} to build for", hint=hint)


def _capability(trt: ModuleType, wanted: str) -> TrtObject:
    """Return the builder's constant for a compute capability."""
    if not hasattr(trt, "ComputeCapability"):
        what = f"{trt.__name__} builds only for the GPU of this machine"
        raise ConfigError(what, hint="leave the compute capability out, or build with tensorrt_rtx")
    known = {name: value for name, value in trt.ComputeCapability.__members__.items() if name.startswith("SM")}
    if f"SM{_digits(wanted)}" not in known:
        expected = f"one of {', '.join(f'{name[2:-1]}.{name[-1]}' for name in known)}"
        raise ConfigError("compute capability", expected=expected, found=wanted)
    return known[f"SM{_digits(wanted)}"]


def build_engine(
    trt: ModuleType,
    source: Path,
    options: EngineOptions,
    *,
    timing_cache: Path | None = None,
    log: Path | None = None,
    progress: bool = False,
) -> bytes:
    """Build a plan from an ONNX file.

    Args:
        trt: `tensorrt` or `tensorrt_rtx`.
        source: the graph; its types are the precision of the engine.
        options: shapes, memory and effort.
        timing_cache: file of kernel timings, read if it exists and written afterwards. TensorRT-RTX times nothing.
        log: file for every message of the builder.
        progress: show progress bars on a terminal.

    Raises:
        ArtifactError: TensorRT rejects the graph (with the node and the reason) or cannot build it.
        ConfigError: the library does not have an option.
    """
    with _logged(trt, log) as logger:
        builder = trt.Builder(logger)
        network = builder.create_network(_creation_flags(trt))
        _parse(trt, network, logger, source)
        config = builder.create_builder_config()
        _configure(trt, config, options)
        config.add_optimization_profile(_profile(builder, network, options))
        cache = _load_cache(config, timing_cache)
        with monitor(trt, enabled=progress) as watcher:
            if watcher is not None:
                config.progress_monitor = watcher
            plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise ArtifactError(
                f"TensorRT cannot build the graph ({logger.last_error})", hint=_see(log, "add --build-log FILE")
            )
        if cache is not None and timing_cache is not None:
            write_atomic(timing_cache, bytes(cache.serialize()))
        return bytes(plan)


def _creation_flags(trt: ModuleType) -> int:
    """Return the flag for a strongly typed network. Version 11 has no other networks and ignores the flag."""
    flags: int = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return flags


def _parse(trt: ModuleType, network: TrtObject, logger: TrtObject, source: Path) -> None:
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(str(source)):
        return
    reasons = [parser.get_error(index) for index in range(parser.num_errors)]
    lines = [line for error in reasons[:1] for line in error.desc().splitlines()]
    shown = ": ".join(lines[:2])  # the node and the reason; the following errors are consequences
    hint = "export int8 with `--to tensorrt-int8`: TensorRT needs symmetric int8 activations and float biases"
    raise ArtifactError(f"{source.name}: TensorRT rejects the graph ({shown or logger.last_error})", hint=hint)


def _configure(trt: ModuleType, config: TrtObject, options: EngineOptions) -> None:
    config.builder_optimization_level = options.level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # layer names for inspection, no cost at run time
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    levels = {"none": "NONE", "ampere+": "AMPERE_PLUS", "same_compute_capability": "SAME_COMPUTE_CAPABILITY"}
    config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, levels[options.compatibility])
    if options.compute_capability is not None:
        capability = _capability(trt, options.compute_capability)
        config.num_compute_capabilities = 1
        config.set_compute_capability(capability, 0)


def _profile(builder: TrtObject, network: TrtObject, options: EngineOptions) -> TrtObject:
    profile = builder.create_optimization_profile()
    image = tuple(network.get_input(0).shape)[1:]
    batches = (options.min_batch, options.opt_batch, options.max_batch)
    profile.set_shape(INPUT, *((batch, *image) for batch in batches))
    return profile


def _load_cache(config: TrtObject, path: Path | None) -> TrtObject:
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or config.set_timing_cache(cache, ignore_mismatch=False) is not False:
        return cache
    empty = config.create_timing_cache(b"")  # the file has timings of another GPU or version
    config.set_timing_cache(empty, ignore_mismatch=False)
    return empty


@contextmanager
def _logged(trt: ModuleType, path: Path | None) -> Iterator[TrtObject]:
    """Return a TensorRT logger that keeps the last error and writes all messages to a file."""
    log = logging.Logger("tensorrt", logging.DEBUG)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        log.addHandler(logging.FileHandler(path, encoding="utf-8"))

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last_error = "no reason given"

        def log(self, severity: TrtObject, message: str) -> None:
            log.info("%s %s", severity, message)
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last_error = message.splitlines()[0]

    try:
        yield Logger()
    finally:
        for handler in log.handlers:
            handler.close()


def cache_name(trt: ModuleType, options: EngineOptions) -> str:
    """Return the file name of the timing cache for a GPU: TensorRT rejects the timings of others."""
    machine = gpu()
    device = f"sm{_digits(options.compute_capability)}" if options.compute_capability else machine["gpu"] or "none"
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


def _digits(capability: str) -> str:
    return capability.replace(".", "")


def _see(log: Path | None, otherwise: str) -> str:
    return otherwise if log is None else f"see the builder's log in {log}"
