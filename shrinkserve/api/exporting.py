"""Export as a function."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from shrinkserve.api.arguments import REPOSITORY, ExportTarget, Say, Weights, silent
from shrinkserve.api.destination import Destination, ExportResult
from shrinkserve.api.export_source import RunSource, find_source
from shrinkserve.errors import ConfigError, ShrinkServeError, check_range
from shrinkserve.exporting.engine.library import Compatibility, Library
from shrinkserve.paths import StrPath, optional_path

if TYPE_CHECKING:
    from shrinkserve.engines import Engine
    from shrinkserve.exporting.exporter import Exported
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
    target: ExportTarget = "onnxruntime-cpu",
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
        DataError: `data` has no validation images, or `labels` cannot be read.
        ParityError: the outputs of a result differ from those of its source.
        GateError: int8 is not accurate enough or not faster.
        ServerError: with `url`, the scratch server cannot load the version.
        RequestError: with `url`, the live server cannot load it.

    Example::

        version = shrinkserve.export("runs/digits", repository="models", to=["fp16"])
        print(version.folder, [engine.name for engine in version.engines])
    """
    from shrinkserve.exporting.engine.build import EngineOptions
    from shrinkserve.exporting.exporter import ExportOptions
    from shrinkserve.exporting.optimise import check_target
    from shrinkserve.exporting.samples import is_version, trained_on
    from shrinkserve.exporting.variants import VariantOptions, check_runtimes, parse_kinds

    check_range(1, max_batch=max_batch, opt_batch=opt_batch, workspace=workspace)
    check_range(0, max_top1_drop=max_top1_drop)
    check_range(0, 5, level=level)
    source = find_source(run, onnx, weights=weights, preprocess=preprocess, labels=labels, checkpoint=checkpoint)
    passes, kinds = check_target(target), parse_kinds(to)
    place = source.folder if isinstance(source, RunSource) else None
    version_place = place if place and is_version(place) else None
    if version_place:
        raw = weights == "raw"
        _reject(
            version_place, out=out, url=url, name=name, version=version, weights=raw, tune=tune, calibrate=calibrate
        )
    root = optional_path(data) or (trained_on(place) if place else None)
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
    caches = version_place.resolve().parents[1] if version_place else destination.root.resolve()
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
    if version_place:
        return _add_engines(version_place, kinds, wanted, say)
    destination.check(source.default_name if name is None else name)
    options = ExportOptions(root, passes, tuned=tune, max_batch=max_batch, report=say, calibrate=calibrate)
    with _scratch(str(source)) as folder:
        made = source.export(folder, options)
        return destination.write(made, name, _engines(made, kinds, folder, wanted))


def _reject(place: Path, **options: object) -> None:
    """Reject options of a new version for one that exists."""
    if given := [f"--{option}" for option, value in options.items() if value]:
        found = f"the version {place}, which only gets engines"
        raise ConfigError(", ".join(given), expected="a run, timm:NAME or --onnx with it", found=found)


@contextmanager
def _scratch(source: str) -> Iterator[Path]:
    """Yield a temporary folder; messages of errors name the source instead of files in it."""
    with tempfile.TemporaryDirectory(prefix="shrinkserve-export-") as name:
        scratch = Path(name)
        try:
            yield scratch
        except ShrinkServeError as exc:
            if name not in str(exc):
                raise
            texts = (exc.expected, exc.found, exc.hint)
            expected, found, hint = (None if t is None else _renamed(str(t), scratch, source) for t in texts)
            raise type(exc)(_renamed(exc.what, scratch, source), expected=expected, found=found, hint=hint) from exc


def _renamed(text: str, scratch: Path, source: str) -> str:
    """Return `text` with paths in `scratch` replaced, e.g. ``net.onnx (after step passes)``."""
    return re.sub(rf"{re.escape(str(scratch))}/(?:[^\s:/]+/)*([^\s:/]+)\.\w+", rf"{source} (after step \1)", text)


def _engines(made: Exported, kinds: Sequence[Kind], folder: Path, options: VariantOptions) -> list[Engine]:
    from shrinkserve.exporting.variants import VariantSource, make_variants
    from shrinkserve.preprocess import Preprocess

    card = made.card
    source = VariantSource(made.graph, made.plain, Preprocess.from_dict(card.preprocess), card.classes, made.samples)
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
    with _scratch(str(place)) as folder:
        engines = make_variants(published_source(place, kinds, folder, options.data_root), kinds, folder, options)
        repository = Repository(place.parent.parent, say=say)
        repository.add_engines(place.parent.name, engines, folder, version=int(place.name))
    return ExportResult(place, read_card(place, verify=False), engines, added=True)
