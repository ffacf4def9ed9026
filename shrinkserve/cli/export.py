"""`shrinkserve export`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from shrinkserve.errors import ConfigError

if TYPE_CHECKING:
    from shrinkserve.artifact import Card
    from shrinkserve.config import ServingConfig
    from shrinkserve.exporting.exporter import ExportOptions
    from shrinkserve.exporting.variants import Kind, Variant, VariantOptions

Weights = Literal["ema", "raw"]
Compatibility = Literal["none", "ampere+", "same_compute_capability"]
Builder = Literal["tensorrt", "tensorrt_rtx"]


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    app.command()(export)


def export(  # noqa: PLR0913, PLR0917 - a command's options are its arguments
    run: Annotated[
        Path | None, typer.Argument(help="Run folder that `train` wrote; or a version's folder, to add engines to it.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Dataset whose validation images judge; the run's own.")] = None,
    repository: Annotated[Path, typer.Option(help="Triton model repository.")] = Path("model_repository"),
    name: Annotated[str | None, typer.Option(help="Model name; the run's by default.")] = None,
    version: Annotated[int | None, typer.Option(help="Model version; the next free one by default.")] = None,
    weights: Annotated[Weights, typer.Option(help="The EMA weights are those that were evaluated.")] = "ema",
    target: Annotated[str, typer.Option(help="onnxruntime-cpu, openvino or tensorrt: decides the graph passes.")] = (
        "onnxruntime-cpu"
    ),
    tune: Annotated[
        bool, typer.Option("--tune", help="Time graph passes here, stage by stage; keep the best.")
    ] = False,
    max_batch: Annotated[int, typer.Option(min=1, help="Largest batch that is checked and served.")] = 32,
    to: Annotated[str, typer.Option(help="Also fp16, bf16, int8, tensorrt, tensorrt-int8; comma-separated.")] = "fp32",
    max_top1_drop: Annotated[float, typer.Option(min=0, help="Points of top-1 that int8 may lose.")] = 0.5,
    level: Annotated[int, typer.Option(min=0, max=5, help="TensorRT builder: 0 builds fast, 5 runs fast.")] = 3,
    opt_batch: Annotated[int, typer.Option(min=1, help="TensorRT: the batch it is fastest at.")] = 8,
    workspace: Annotated[int | None, typer.Option(min=1, help="TensorRT: MiB of GPU memory for kernels.")] = None,
    compatibility: Annotated[Compatibility, typer.Option(help="TensorRT: which other GPUs may load it.")] = "none",
    builder: Annotated[
        Builder, typer.Option(help="tensorrt_rtx builds without a GPU, for a Triton that has TensorRT-RTX.")
    ] = "tensorrt",
    gpu: Annotated[str | None, typer.Option(help="tensorrt_rtx: compute capability to build for, e.g. 8.9.")] = None,
    build_log: Annotated[Path | None, typer.Option(help="TensorRT: file for the builder's whole log.")] = None,
    onnx: Annotated[Path | None, typer.Option(help="Export this ONNX classifier and not a run.")] = None,
    preprocess: Annotated[Path | None, typer.Option(help="With --onnx: TOML file of its preprocessing.")] = None,
    labels: Annotated[Path | None, typer.Option(help="With --onnx: class names, one a line.")] = None,
) -> None:
    """Export a run, or any ONNX file, to a model repository. Its answers are checked against those of its source."""
    from shrinkserve.exporting.engine.build import EngineOptions
    from shrinkserve.exporting.exporter import MODEL, ExportOptions, serving_options
    from shrinkserve.exporting.optimise import check_target
    from shrinkserve.exporting.samples import is_version, trained_on
    from shrinkserve.exporting.variants import VariantOptions, check_runtimes, parse_kinds
    from shrinkserve.serving.repository.writer import Repository

    if (run is None) == (onnx is None):
        raise ConfigError("export", expected="a run folder or --onnx FILE", found="both" if run else "neither")
    if run and (preprocess or labels):
        raise ConfigError("--preprocess and --labels", expected="only with --onnx", found="a run, which has its own")
    passes, kinds = check_target(target), parse_kinds(to)
    data = trained_on(run) if run and not data else data
    options = ExportOptions(data, passes, tune, max_batch, typer.echo)
    # Resolved, as "." has no name.
    beside = run.resolve().parents[1] if run and is_version(run) else repository.resolve()
    cache = beside.parent / f"{beside.name}.timing-cache"
    engine = EngineOptions(1, min(opt_batch, max_batch), max_batch, workspace, level, compatibility, gpu)
    runtime: Any = "openvino" if target == "openvino" else "onnxruntime"
    wanted = VariantOptions(data, runtime, max_top1_drop, engine, builder, cache, build_log)
    check_runtimes(kinds, wanted)
    if run and is_version(run):
        _add_engines(run, kinds, wanted)
        return
    Repository(repository).check_place(name, version)
    with tempfile.TemporaryDirectory(prefix="shrinkserve-export-") as folder:
        staging = Path(folder)
        card = _run(run, staging, options, weights) if run else _foreign(onnx, preprocess, labels, staging, options)
        variants = _variants(staging / MODEL, staging, card, kinds, wanted)
        serving = serving_options(run, max_batch) if run else None
        place = _publish(staging, repository, name or card.name, card, variants, version, serving)
    for check in card.checks:
        report(check)
    if card.metrics:
        typer.echo(f"top-1 {card.metrics['top1']:.2%} on {card.metrics['source']}")
    for variant in variants:
        _report_variant(variant)
    typer.echo(f"wrote {place}")
    _report_inputs(place.parent)


def _report_inputs(folder: Path) -> None:
    """What may be sent to the model."""
    from shrinkserve.serving.names import public_name
    from shrinkserve.serving.repository.ensemble import takes_encoded

    name = public_name(folder.name)
    if takes_encoded(folder.parent, folder.name):
        typer.echo(f"{name} takes JPEG, {folder.name} pixels")
    else:
        hint = f"pip install 'shrinkserve[dali]' and `shrinkserve repo add-jpeg {name}` for JPEG"
        typer.echo(f"{folder.name} takes pixels only, as DALI is not installed; {hint}")


def _run(run: Path, staging: Path, options: ExportOptions, weights: Weights) -> Card:
    from shrinkserve.exporting.exporter import export_onnx

    if weights == "raw":
        typer.secho("WARNING: exporting the RAW weights, not the EMA weights that were evaluated", err=True, bold=True)
    return export_onnx(run, staging, options, weights=weights)


def _foreign(
    onnx: Path | None, preprocess: Path | None, labels: Path | None, staging: Path, options: ExportOptions
) -> Card:
    from shrinkserve.exporting.exporter import export_foreign
    from shrinkserve.exporting.foreign import read_labels, read_preprocess

    if onnx is None or preprocess is None or labels is None:
        raise ConfigError("--onnx", expected="--preprocess FILE and --labels FILE with it", found="not both")
    return export_foreign(onnx, read_preprocess(preprocess), read_labels(labels), staging, options, name=onnx.stem)


def _variants(model: Path, staging: Path, card: Card, kinds: Sequence[Kind], options: VariantOptions) -> list[Variant]:
    from shrinkserve.exporting.variants import make_variants
    from shrinkserve.preprocess import Preprocess

    return list(make_variants(model, kinds, staging, Preprocess.from_dict(card.preprocess), options))


def _add_engines(place: Path, kinds: Sequence[Kind], options: VariantOptions) -> None:
    """Build engines of a published version, e.g. on a machine with another GPU, and add them to it."""
    from shrinkserve.artifact import read_card
    from shrinkserve.engines import Engine
    from shrinkserve.exporting.exporter import MODEL
    from shrinkserve.serving.repository.writer import Repository

    if not kinds:
        raise ConfigError(
            f"export {place}", expected="engines to add to this version, e.g. --to tensorrt", found="none"
        )
    place = place.resolve()
    with tempfile.TemporaryDirectory(prefix="shrinkserve-export-") as folder:
        card = read_card(place, "onnx")
        variants = _variants(place / MODEL, Path(folder), card, kinds, options)
        repository = Repository(place.parent.parent, say=typer.echo)
        with repository.locked():
            engines = [Engine(**vars(variant)) for variant in variants]
            repository.add_engines(place.parent.name, engines, Path(folder), version=int(place.name))
    for variant in variants:
        _report_variant(variant)
    typer.echo(f"added to {place}")


def _publish(
    staging: Path,
    root: Path,
    model: str,
    card: Card,
    variants: Sequence[Variant],
    version: int | None,
    serving: ServingConfig | None,
) -> Path:
    from shrinkserve.engines import Engine
    from shrinkserve.exporting.exporter import MODEL
    from shrinkserve.serving.names import classifier_name
    from shrinkserve.serving.repository.writer import Repository
    from shrinkserve.serving.server.launch import importable

    repository, model = Repository(root, say=typer.echo), classifier_name(model)
    engines, encoded = [Engine(**vars(variant)) for variant in variants], importable("nvidia.dali")
    return repository.add(
        model, staging / MODEL, card, engines=engines, version=version, initial=serving, encoded=encoded
    )


def _report_variant(variant: Variant) -> None:
    for step in variant.record["steps"]:
        report({**step["parity"], "step": step["step"]})
        if "top1_drop" in step:
            typer.echo(f"{step['step']}: {_top1(step)}")
        if "float32_ms" in step:
            typer.echo(
                f"{step['step']}: {step['int8_ms']} ms an image at batch 8, float32 {step['float32_ms']} ms; "
                f"{step['method']} ranges; float layers: {', '.join(step['float_layers']) or 'none'}"
            )
    if "parity" in variant.record:
        report({**variant.record["parity"], "step": variant.name})
    typer.echo(f"{variant.name}: serve it with `shrinkserve serve --config {variant.name}`")


def _top1(step: dict[str, Any]) -> str:
    """What eight bits cost in accuracy, and by how many images that is known."""
    drop, allowed = step["top1_drop"], step["parameters"]["max_top1_drop"]
    change = f"{abs(drop):g} points {'lower' if drop > 0 else 'higher'} than" if drop else "the same as"
    said = f"top-1 {change} in float32 on {step['judged_by']}"
    if step["resolves"] > allowed:
        return f"{said}; these resolve {step['resolves']:.2g} points only, --max-top1-drop is {allowed:g}"
    return said


def report(check: dict[str, Any]) -> None:
    """Print the record of a parity check; others have nothing that a person would read."""
    if check["check"] != "parity":
        return
    if check["passed"] is None:
        typer.echo(f"{check['step']}: not checked, {check['skipped']}")
        return
    sizes = ", ".join(map(str, check["batches"]))
    typer.echo(
        f"{check['step']}: worst logit difference {check['worst']:.2e} (tolerance {check['tolerance']['absolute']:g} "
        f"of {max(1.0, check['scale']):.3g}), {check['flips']} of {check['images']} top-1 changed{_margin(check)}; "
        f"batch {sizes}; {check['source']}"
    )


def _margin(check: dict[str, Any]) -> str:
    """How far apart the reference had the answers that changed."""
    return f", of classes at most {check['flipped'][0]['margin']:.2g} apart" if check["flipped"] else ""
