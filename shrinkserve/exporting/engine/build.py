"""Build TensorRT engines with `tensorrt` 10 and 11 and `tensorrt_rtx`.

The network is strongly typed: the graph gives the precision, without the precision flags and calibrators that version
11 has removed. TensorRT-RTX builds ahead of time for a compute capability, on a machine without a GPU.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from shrinkserve.artifact import INPUT
from shrinkserve.atomic import write_atomic
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.exporting.engine.library import Compatibility, TrtObject, capability
from shrinkserve.exporting.engine.progress import monitor


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
        # Version 11 has strongly typed networks only and ignores the flag.
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
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
            hint = "add --build-log FILE" if log is None else f"see the builder's log in {log}"
            raise ArtifactError(f"TensorRT cannot build the graph ({logger.last_error})", hint=hint)
        if cache is not None and timing_cache is not None:
            write_atomic(timing_cache, bytes(cache.serialize()))
        return bytes(plan)


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
        config.num_compute_capabilities = 1
        config.set_compute_capability(capability(trt, options.compute_capability), 0)


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
