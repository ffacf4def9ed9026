"""Export as a function."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from shrinkserve.api.arguments import REPOSITORY, Say, Target, Weights, silent
from shrinkserve.api.destination import Destination, ExportResult
from shrinkserve.errors import ConfigError
from shrinkserve.exporting.engine.library import Compatibility, Library
from shrinkserve.paths import StrPath, optional_path
from shrinkserve.preprocess.timm_config import TIMM

if TYPE_CHECKING:
    from shrinkserve.config import ServingConfig
    from shrinkserve.engines import Engine
    from shrinkserve.exporting.exporter import Exported, ExportOptions
    from shrinkserve.exporting.variants import Kind, VariantOptions


def export(  # noqa: PLR0913 - the options of the command
    run: StrPath | None = None,
    *,
    data: StrPath | None = None,
    repository: StrPath = REPOSITORY,
    out: StrPath | None = None,
    url: str | None = None,
    token: str | None = None,
    name: str | None = None,
    version: int | None = None,
    weights: Weights = "ema",
    target: Target = "onnxruntime-cpu",
    tune: bool = False,
    max_batch: int = 32,
    to: str | Sequence[str] = "fp32",
    max_top1_drop: float = 0.5,
    level: int = 3,
    opt_batch: int = 8,
    workspace: int | None = None,
    compatibility: Compatibility = "none",
    builder: Library = "tensorrt",
    gpu: str | None = None,
    build_log: StrPath | None = None,
    checkpoint: StrPath | None = None,
    onnx: StrPath | None = None,
    preprocess: StrPath | None = None,
    labels: StrPath | None = None,
    approximate_decoder: bool = False,
    calibrate: bool = False,
    say: Say = silent,
) -> ExportResult:
    """Export a run, or an ONNX classifier of another tool, and compare its outputs with those of its source.

    Adds a version with all its engines to a model repository in one transaction. A failure writes nothing.

    Args:
        run: run folder that `train` wrote; a version's folder, to add engines to it; or ``timm:NAME``, a network of
            timm with its pretrained weights or those of `checkpoint`.
        data: dataset whose validation images check the result; that of the run by default.
        repository: model repository that gets the version.
        out: write a version into this new folder instead; `publish` accepts it.
        url: publish the version to the live server of the repository, as `publish` does.
        token: of the server's model control, with `url`.
        name: model name; that of the run or the file by default.
        version: number of the version; the next free one by default.
        weights: "ema", the weights that were evaluated, or "raw".
        target: runtime of the float32 file, which decides the graph passes.
        tune: time graph passes on this machine, stage by stage.
        max_batch: largest batch that is checked and served.
        to: further engines: fp16, bf16, int8, tensorrt, tensorrt-int8.
        max_top1_drop: points of top-1 that int8 may lose.
        level: TensorRT builder effort, 0 (fast build) to 5 (fast engine).
        opt_batch: batch that TensorRT optimises for.
        workspace: MiB of GPU memory for TensorRT's kernels.
        compatibility: other GPUs that may load the TensorRT engine.
        builder: "tensorrt_rtx" builds without a GPU. NVIDIA publishes no Triton container with TensorRT-RTX: such a
            plan runs in `shrinkserve.load` and in a Triton that was built with it.
        gpu: compute capability to build for, e.g. "8.9"; for tensorrt_rtx.
        build_log: file for TensorRT's log.
        checkpoint: with ``timm:NAME``: safetensors file of its weights.
        onnx: export this ONNX file instead of a run.
        preprocess: with `onnx`: its preprocessing, a TOML file, "timm:NAME", "torchvision:NAME" or a .json file of
            Hugging Face. Not needed for files of ShrinkServe.
        labels: with `onnx` or ``timm:NAME``: file of class names, one a line. Not needed for files with names in their
            metadata.
        approximate_decoder: let the server decode JPEG by DALI's nearest filter if DALI lacks the filter of the
            preprocessing; otherwise such a model takes pixels only.
        calibrate: fit a temperature on the validation images, so that probabilities equal the accuracy.
        say: is called with each line of progress.

    Returns:
        The version's folder, its card and the new engines.

    Raises:
        ConfigError: options that exclude each other, an invalid name, or a version that exists.
        ArtifactError: the source is damaged or does not fit, or the result cannot be written.
        ParityError: the outputs of a result differ from those of its source.
        GateError: int8 is not accurate enough or not faster.

    Example::

        version = shrinkserve.export("runs/digits", repository="models", to=["fp16"])
        print(version.folder, [engine.name for engine in version.engines])
    """
    from shrinkserve.exporting.engine.build import EngineOptions
    from shrinkserve.exporting.exporter import ExportOptions
    from shrinkserve.exporting.optimise import check_target
    from shrinkserve.exporting.samples import is_version, trained_on
    from shrinkserve.exporting.variants import VariantOptions, check_runtimes, parse_kinds

    source = "" if run is None else os.fspath(run)
    timm = source if source.startswith(TIMM) else None
    run, onnx = None if timm else optional_path(run), optional_path(onnx)
    checkpoint, labels = optional_path(checkpoint), optional_path(labels)
    _check_source(timm, run, onnx, preprocess, labels, checkpoint)
    passes, kinds = check_target(target), parse_kinds(to)
    extends = run is not None and is_version(run)
    root = optional_path(data) or (trained_on(run) if run else None)
    destination = Destination(
        Path(repository),
        optional_path(out),
        url=url,
        token=token,
        version=version,
        approximate_decoder=approximate_decoder,
        data=root,
        say=say,
    )
    # Files with TensorRT's timings stand next to the repository, with its name as their prefix: later builds use them.
    caches = run.resolve().parents[1] if run and extends else destination.root.resolve()
    wanted = VariantOptions(
        root,
        runtime="openvino" if target == "openvino" else "onnxruntime",
        max_top1_drop=max_top1_drop,
        engine=EngineOptions(
            opt_batch=min(opt_batch, max_batch),
            max_batch=max_batch,
            workspace_mib=workspace,
            level=level,
            compatibility=compatibility,
            compute_capability=gpu,
        ),
        library=builder,
        timing_cache=caches,
        log=optional_path(build_log),
    )
    check_runtimes(kinds, wanted)
    if run and extends:
        return _add_engines(run, kinds, wanted, say)
    default_name = timm.removeprefix(TIMM) if timm else onnx.stem if onnx else None
    destination.check(default_name if name is None else name)
    options = ExportOptions(root, passes, tuned=tune, max_batch=max_batch, report=say, calibrate=calibrate)
    with tempfile.TemporaryDirectory(prefix="shrinkserve-export-") as folder, _named(timm or run or onnx, Path(folder)):
        if timm:
            made, serving = _export_timm(timm, checkpoint, labels, Path(folder), options), None
        elif onnx:
            made, serving = _export_file(onnx, preprocess, labels, Path(folder), options), None
        else:
            assert run is not None
            made, serving = _export_run(run, weights, Path(folder), options)
        return destination.write(made, name, _engines(made, kinds, Path(folder), wanted), serving)


def _check_source(
    timm: str | None,
    run: Path | None,
    onnx: Path | None,
    preprocess: StrPath | None,
    labels: Path | None,
    checkpoint: Path | None,
) -> None:
    if sum(source is not None for source in (timm, run, onnx)) != 1:
        found = "both" if onnx else "neither"
        raise ConfigError("export", expected="a run folder, timm:NAME or --onnx FILE", found=found)
    if run and (preprocess or labels):
        raise ConfigError("--preprocess and --labels", expected="only with --onnx", found="a run, which has its own")
    if timm and preprocess:
        raise ConfigError("--preprocess", expected="only with --onnx", found=f"{timm}, which has its own")
    if timm and not labels:
        raise ConfigError(timm, expected="--labels FILE with it: class names, one a line", found="no --labels")
    if checkpoint and not timm:
        raise ConfigError("--checkpoint", expected="only with timm:NAME")


@contextmanager
def _named(source: Path | str | None, scratch: Path) -> Iterator[None]:
    """Replace the paths of temporary files by the source in messages of errors."""
    from shrinkserve.errors import ShrinkServeError

    try:
        yield
    except ShrinkServeError as exc:
        if str(scratch) not in str(exc):
            raise
        texts = [None if t is None else _renamed(str(t), scratch, source) for t in (exc.expected, exc.found, exc.hint)]
        what = _renamed(exc.what, scratch, source)
        raise type(exc)(what, expected=texts[0], found=texts[1], hint=texts[2]) from exc


def _renamed(text: str, scratch: Path, source: Path | str | None) -> str:
    """Return `text` with paths in `scratch` replaced, e.g. ``net.onnx (after step passes)``."""
    return re.sub(rf"{re.escape(str(scratch))}/(?:[^\s:/]+/)*([^\s:/]+)\.\w+", rf"{source} (after step \1)", text)


def _export_run(run: Path, weights: Weights, folder: Path, options: ExportOptions) -> tuple[Exported, ServingConfig]:
    from shrinkserve.exporting.run_export import export_onnx, serving_options
    from shrinkserve.runtimes.checkpoint import Checkpoint

    checkpoint = Checkpoint(run, weights, run_code=True)
    made = export_onnx(checkpoint, folder, options)
    return made, serving_options(checkpoint, options.max_batch)


def _export_file(
    onnx: Path, preprocess: StrPath | None, labels: Path | None, folder: Path, options: ExportOptions
) -> Exported:
    from shrinkserve.exporting import graph
    from shrinkserve.exporting.foreign.description import WAYS, read_labels, read_preprocess
    from shrinkserve.exporting.foreign.export import export_foreign
    from shrinkserve.runtimes.metadata import read_description

    own = read_description(graph.load(onnx).metadata_props, str(onnx))
    described = read_preprocess(preprocess) if preprocess else own.preprocess
    classes = read_labels(labels) if labels else own.classes
    if described is None:
        raise ConfigError("--onnx", expected=f"--preprocess with it: {WAYS}", found="no --preprocess")
    if classes is None:
        raise ConfigError("--onnx", expected="--labels FILE with it: class names, one a line", found="no --labels")
    own.check(described, classes, onnx)
    return export_foreign(onnx, described, classes, folder, options, name=onnx.stem)


def _export_timm(
    source: str, checkpoint: Path | None, labels: Path | None, folder: Path, options: ExportOptions
) -> Exported:
    from shrinkserve.exporting.foreign.description import read_labels
    from shrinkserve.exporting.timm_export import export_timm

    assert labels is not None
    return export_timm(source, checkpoint, read_labels(labels), folder, options)


def _engines(made: Exported, kinds: Sequence[Kind], folder: Path, options: VariantOptions) -> list[Engine]:
    from shrinkserve.exporting.variants import Source, make_variants
    from shrinkserve.preprocess import Preprocess

    card = made.card
    source = Source(made.graph, made.plain, Preprocess.from_dict(card.preprocess), card.classes, made.samples)
    return make_variants(source, kinds, folder, options)


def _add_engines(place: Path, kinds: Sequence[Kind], options: VariantOptions, say: Say) -> ExportResult:
    """Make engines of a published version, e.g. on a machine with another GPU, and add them to it."""
    from shrinkserve.artifact import read_card
    from shrinkserve.exporting.published import published_source
    from shrinkserve.exporting.variants import make_variants
    from shrinkserve.serving.repository.writer import Repository

    if not kinds:
        expected = "engines to add to this version, e.g. --to tensorrt"
        raise ConfigError(f"export {place}", expected=expected, found="none")
    place = place.resolve()
    with tempfile.TemporaryDirectory(prefix="shrinkserve-export-") as name, _named(place, Path(name)):
        folder = Path(name)
        engines = make_variants(published_source(place, kinds, folder, options.data_root), kinds, folder, options)
        repository = Repository(place.parent.parent, say=say)
        repository.add_engines(place.parent.name, engines, folder, version=int(place.name))
    return ExportResult(place, read_card(place, verify=False), engines, added=True)
