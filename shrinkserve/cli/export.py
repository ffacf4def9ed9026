"""`shrinkserve export`, `compare` and `inspect`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from shrinkserve.errors import ArtifactError, ConfigError, GateError

if TYPE_CHECKING:
    from shrinkserve.artifact import Card
    from shrinkserve.config import ServingConfig
    from shrinkserve.export.exporter import Options
    from shrinkserve.export.variants import Kind, Variant, VariantOptions
    from shrinkserve.runtimes import Answerer

Weights = Literal["ema", "raw"]
Compatibility = Literal["none", "ampere+", "same_compute_capability"]


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    app.command()(export)
    app.command()(compare)
    app.command()(inspect)


def export(  # noqa: PLR0913, PLR0917 - a command's options are its arguments
    run: Annotated[Path | None, typer.Argument(help="Run folder that `train` wrote.")] = None,
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
    build_log: Annotated[Path | None, typer.Option(help="TensorRT: file for the builder's whole log.")] = None,
    onnx: Annotated[Path | None, typer.Option(help="Export this ONNX classifier and not a run.")] = None,
    preprocess: Annotated[Path | None, typer.Option(help="With --onnx: TOML file of its preprocessing.")] = None,
    labels: Annotated[Path | None, typer.Option(help="With --onnx: class names, one a line.")] = None,
) -> None:
    """Export a run, or any ONNX file, to a model repository. Its answers are checked against those of its source."""
    from shrinkserve.export.engine import EngineOptions
    from shrinkserve.export.exporter import Options, serving_options
    from shrinkserve.export.optimise import check_target
    from shrinkserve.export.samples import trained_on
    from shrinkserve.export.variants import VariantOptions, parse_kinds
    from shrinkserve.serving.repository import Repository

    if (run is None) == (onnx is None):
        raise ConfigError("export", expected="a run folder or --onnx FILE", found="both" if run else "neither")
    if run and (preprocess or labels):
        raise ConfigError("--preprocess and --labels", expected="only with --onnx", found="a run, which has its own")
    passes, kinds = check_target(target), parse_kinds(to)
    data = trained_on(run) if run and not data else data
    options = Options(data, passes, tune, max_batch, typer.echo)
    beside = repository.resolve()  # which has a name, unlike "."
    cache = beside.parent / f"{beside.name}.timing-cache"
    engine = EngineOptions(1, min(opt_batch, max_batch), max_batch, workspace, level, compatibility)
    runtime: Any = "openvino" if target == "openvino" else "onnxruntime"
    wanted = VariantOptions(data, runtime, max_top1_drop, engine, cache, build_log)
    Repository(repository).check_place(name, version)
    with tempfile.TemporaryDirectory(prefix="shrinkserve-export-") as folder:
        staging = Path(folder)
        card = _run(run, staging, options, weights) if run else _foreign(onnx, preprocess, labels, staging, options)
        variants = _variants(staging, card, kinds, wanted)
        serving = serving_options(run, max_batch) if run else None
        place = _publish(staging, repository, name or card.name, card, variants, version, serving)
    for check in card.checks:
        _report(check)
    if card.metrics:
        typer.echo(f"top-1 {card.metrics['top1']:.2%} on {card.metrics['source']}")
    for variant in variants:
        _report_variant(variant)
    typer.echo(f"wrote {place}")
    _report_inputs(place.parent)


def _report_inputs(folder: Path) -> None:
    """What may be sent to the model."""
    from shrinkserve.serving.family import public
    from shrinkserve.serving.jpeg import takes_encoded

    name = public(folder.name)
    if takes_encoded(folder.parent, folder.name):
        typer.echo(f"{name} takes JPEG, {folder.name} pixels")
    else:
        do = f"pip install 'shrinkserve[dali]' and `shrinkserve repo add-jpeg {name}` for JPEG"
        typer.echo(f"{folder.name} takes pixels only, as DALI is not installed; {do}")


def compare(
    reference: Annotated[str, typer.Argument(help="What is taken as right: run folder, .onnx file or server URL.")],
    candidate: Annotated[str, typer.Argument(help="What is judged: run folder, .onnx file or server URL.")],
    data: Annotated[Path | None, typer.Option(help="Dataset whose validation images are asked.")] = None,
    model: Annotated[str | None, typer.Option(help="Model's name on a server; its only one by default.")] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Of a logit, in units of the largest or of 1.")] = 1e-4,
    limit: Annotated[int, typer.Option(min=1, help="Images, spread evenly over the dataset.")] = 256,
    max_batch: Annotated[int, typer.Option(min=1, help="Largest batch that is asked.")] = 32,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Say how far the answers of two artifacts are apart. Exit code 1 beyond the tolerance."""
    from shrinkserve.export.parity import Tolerance
    from shrinkserve.export.parity import compare as ask
    from shrinkserve.export.samples import load_samples
    from shrinkserve.preprocess import Preprocess

    right, judged = (_open(source, model) for source in (reference, candidate))
    preprocess = getattr(right, "preprocess", None) or getattr(judged, "preprocess", None)
    samples = load_samples(data, preprocess or Preprocess(size=right.size), limit)
    outcome = ask(right, judged, samples, Tolerance(tolerance), max_batch)
    if as_json:
        typer.echo(json.dumps(outcome.to_dict(), indent=1))
    else:
        _report({"step": f"{outcome.candidate} against {outcome.reference}", **outcome.to_dict()})
        if outcome.flipped:
            typer.echo(f"top-1 changed at images {', '.join(map(str, outcome.flipped))}")
    if outcome.faults:
        raise GateError("the answers differ", expected=f"within {outcome.limit:.3g}", found="; ".join(outcome.faults))


def inspect(
    artifact: Annotated[Path, typer.Argument(help="Run folder, version folder of a repository, or .onnx file.")],
    other: Annotated[Path | None, typer.Argument(help="Show only what differs from this one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show an artifact's card and graph, or how two differ."""
    from shrinkserve.export.inspection import differences
    from shrinkserve.export.inspection import inspect as look

    found: dict[str, Any] = look(artifact)
    if other is not None:
        found = dict(differences(found, look(other)))
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    for key, value in found.items():
        shown = f"{value[0]}  ->  {value[1]}" if other is not None else value
        typer.echo(f"{key}: {shown}")


def _run(run: Path, staging: Path, options: Options, weights: Weights) -> Card:
    from shrinkserve.export.exporter import export_onnx

    if weights == "raw":
        typer.secho("WARNING: exporting the RAW weights, not the EMA weights that were evaluated", err=True, bold=True)
    return export_onnx(run, staging, options, weights=weights)


def _foreign(onnx: Path | None, preprocess: Path | None, labels: Path | None, staging: Path, options: Options) -> Card:
    from shrinkserve.export.exporter import export_foreign
    from shrinkserve.export.foreign import read_labels, read_preprocess

    if onnx is None or preprocess is None or labels is None:
        raise ConfigError("--onnx", expected="--preprocess FILE and --labels FILE with it", found="not both")
    return export_foreign(onnx, read_preprocess(preprocess), read_labels(labels), staging, options, name=onnx.stem)


def _variants(staging: Path, card: Card, kinds: Sequence[Kind], options: VariantOptions) -> list[Variant]:
    from shrinkserve.export.exporter import MODEL
    from shrinkserve.export.variants import make_variants
    from shrinkserve.preprocess import Preprocess

    return list(make_variants(staging / MODEL, kinds, staging, Preprocess.from_dict(card.preprocess), options))


def _publish(
    staging: Path,
    root: Path,
    model: str,
    card: Card,
    variants: Sequence[Variant],
    version: int | None,
    serving: ServingConfig | None,
) -> Path:
    from shrinkserve.export.exporter import MODEL
    from shrinkserve.serving.engines import Engine
    from shrinkserve.serving.family import classifier
    from shrinkserve.serving.launch import importable
    from shrinkserve.serving.repository import Repository

    repository, model = Repository(root), classifier(model)
    encoded = importable("nvidia.dali")
    with repository.locked():
        place = repository.add(model, staging / MODEL, card, version=version, initial=serving, encoded=encoded)
        for variant in variants:
            repository.add_engine(model, Engine(**vars(variant)), staging, version=int(place.name))
    return place


def _open(source: str, model: str | None) -> Answerer:
    if "://" in source:
        from shrinkserve.serving.served import ServedModel

        return ServedModel(source, model)
    from shrinkserve.runtimes import open_artifact

    if not Path(source).exists():
        raise ArtifactError(f"{source}: no such file or folder", do="name a run folder, an .onnx file or a URL")
    return open_artifact(Path(source))


def _report_variant(variant: Variant) -> None:
    for step in variant.record["steps"]:
        _report({**step["parity"], "step": step["step"]})
        if "float32_ms" in step:
            typer.echo(
                f"{step['step']}: {step['int8_ms']} ms an image at batch 8, float32 {step['float32_ms']} ms; "
                f"top-1 {step['top1_drop']} points lower; {step['method']} ranges; float layers: {step['float_layers']}"
            )
    if "parity" in variant.record:
        _report({**variant.record["parity"], "step": variant.name})
    typer.echo(f"{variant.name}: serve it with `shrinkserve serve --config {variant.name}`")


def _report(check: dict[str, Any]) -> None:
    if check["check"] != "parity":
        return
    if check["passed"] is None:
        typer.echo(f"{check['step']}: not checked, {check['skipped']}")
        return
    sizes = ", ".join(map(str, check["batches"]))
    typer.echo(
        f"{check['step']}: worst logit difference {check['worst']:.2e} (tolerance {check['tolerance']['absolute']:g} "
        f"of {max(1.0, check['scale']):.3g}), {check['flips']} of {check['images']} top-1 changed; "
        f"batch {sizes}; {check['source']}"
    )
