"""`shrinkserve export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from shrinkserve.api.arguments import REPOSITORY, ExportTarget, Weights
from shrinkserve.exporting.engine.library import Compatibility, Library
from shrinkserve.terminal import print_line

if TYPE_CHECKING:
    from shrinkserve.api.destination import ExportResult
    from shrinkserve.engines import Engine
    from shrinkserve.exporting.records import EngineRecord, ParityRecord, StepRecord


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    app.command()(export)


def export(  # noqa: PLR0913, PLR0917 - a command's options are its arguments
    run: Annotated[
        Path | None,
        typer.Argument(help="Run folder that `train` wrote; version's folder, to add engines; or timm:NAME."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Dataset for the checks; that of the run by default.")] = None,
    repository: Annotated[Path, typer.Option(help="Triton model repository.")] = REPOSITORY,
    out: Annotated[Path | None, typer.Option(help="Write a version for `repo publish` into this new folder.")] = None,
    url: Annotated[str | None, typer.Option(help="Publish to the live server of the repository.")] = None,
    token: Annotated[
        str | None, typer.Option(envvar="SHRINKSERVE_TOKEN", help="Token of the server's model control, with --url.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Model name; the run's by default.")] = None,
    version: Annotated[int | None, typer.Option(help="Model version; the next free one by default.")] = None,
    weights: Annotated[Weights, typer.Option(help="ema: the evaluated weights; raw: the optimiser's last.")] = "ema",
    target: Annotated[
        ExportTarget, typer.Option(help="Runtime of the float32 graph; decides the graph passes.")
    ] = "onnxruntime-cpu",
    tune: Annotated[
        bool, typer.Option("--tune", help="Time graph passes here, stage by stage; keep the best.")
    ] = False,
    max_batch: Annotated[int, typer.Option(min=1, help="Largest batch that is checked and served.")] = 32,
    to: Annotated[str, typer.Option(help="Also fp16, bf16, int8, tensorrt, tensorrt-int8; comma-separated.")] = "fp32",
    max_top1_drop: Annotated[float, typer.Option(min=0, help="Points of top-1 that int8 may lose.")] = 0.5,
    level: Annotated[int, typer.Option(min=0, max=5, help="TensorRT builder: 0 builds fast, 5 runs fast.")] = 3,
    opt_batch: Annotated[int, typer.Option(min=1, help="TensorRT: batch that it optimises for.")] = 8,
    workspace: Annotated[int | None, typer.Option(min=1, help="TensorRT: MiB of GPU memory for kernels.")] = None,
    compatibility: Annotated[Compatibility, typer.Option(help="TensorRT: which other GPUs may load it.")] = "none",
    builder: Annotated[
        Library, typer.Option(help="tensorrt_rtx builds without a GPU, for compute capabilities other than 9.0.")
    ] = "tensorrt",
    gpu: Annotated[str | None, typer.Option(help="tensorrt_rtx: compute capability to build for, e.g. 8.9.")] = None,
    build_log: Annotated[Path | None, typer.Option(help="TensorRT: file for the builder's log.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="With timm:NAME: safetensors file; timm's pretrained weights by default.")
    ] = None,
    onnx: Annotated[Path | None, typer.Option(help="Export this ONNX classifier instead of a run.")] = None,
    preprocess: Annotated[
        str | None, typer.Option(help="With --onnx: TOML file, timm:NAME, torchvision:NAME or Hugging Face's .json.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="With --onnx or timm:NAME: class names, one a line.")] = None,
    approximate_decoder: Annotated[
        bool, typer.Option("--approximate-decoder", help="Take JPEG even if DALI lacks the resize filter.")
    ] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Fit a temperature, so that probabilities agree with the accuracy.")
    ] = False,
) -> None:
    """Export a run or an ONNX classifier to a model repository.

    The outputs of each step are compared with those of its source.
    """
    from shrinkserve.api import exporting

    result = exporting.export(
        run,
        data=data,
        repository=repository,
        out=out,
        url=url,
        token=token,
        name=name,
        version=version,
        weights=weights,
        target=target,
        tune=tune,
        max_batch=max_batch,
        to=to,
        max_top1_drop=max_top1_drop,
        level=level,
        opt_batch=opt_batch,
        workspace=workspace,
        compatibility=compatibility,
        builder=builder,
        gpu=gpu,
        build_log=build_log,
        checkpoint=checkpoint,
        onnx=onnx,
        preprocess=preprocess,
        labels=labels,
        approximate_decoder=approximate_decoder,
        calibrate=calibrate,
        say=print_line,
    )
    _print_result(result, published=out is None and not result.added)


def _print_result(result: ExportResult, *, published: bool) -> None:
    if not result.added:
        if result.card.weights == "raw":
            print_line("warning: exported the raw weights, not the EMA weights that were evaluated", err=True)
        for check in result.card.checks:
            if check["check"] == "parity":
                print_parity(cast("ParityRecord", check))
        _print_speed(result)
        if result.card.metrics:
            print_line(f"top-1 {result.card.metrics['top1']:.2%} on {result.card.metrics['source']}")
        if temperature := result.card.details.get("temperature"):
            print_line(f"calibrated: probabilities with temperature {temperature:g}")
    for engine in result.engines:
        _print_engine(engine)
    print_line(f"{'added to' if result.added else 'wrote'} {result.folder}")
    if published:
        _print_inputs(result.folder.parent)


def _print_speed(result: ExportResult) -> None:
    """Print the timings that chose the graph passes."""
    for comparison in result.card.details.get("tuning", []):
        milliseconds: dict[str, float] = comparison["milliseconds"]
        if "source" in milliseconds:
            kept = milliseconds[comparison["kept"]]
            ratio = milliseconds["source"] / kept
            print_line(f"{comparison['what']}: {kept:g} ms, {ratio:.2f} times as fast as before ({comparison['kept']})")


def _print_inputs(folder: Path) -> None:
    """Print which inputs the model accepts."""
    from shrinkserve.serving.names import public_name
    from shrinkserve.serving.repository.ensemble import takes_encoded, unsupported

    name = public_name(folder.name)
    if takes_encoded(folder.parent, folder.name):
        print_line(f"{name} takes JPEG, {folder.name} pixels")
    elif not unsupported(folder):  # else export has printed the reason
        hint = f"pip install 'shrinkserve[dali]' and `shrinkserve repo add-jpeg {name}` for JPEG"
        print_line(f"{folder.name} takes pixels only, as DALI is not installed; {hint}")


def _print_engine(engine: Engine) -> None:
    record = cast("EngineRecord", engine.record)
    for step in record["steps"]:
        print_parity(step["parity"])
        if "top1_drop" in step:
            print_line(f"{step['step']}: {_top1(step)}")
        if "float32_ms" in step:
            layers = ", ".join(step["float_layers"]) or "none"
            times = f"{step['int8_ms']} ms an image at batch 8, float32 {step['float32_ms']} ms"
            print_line(f"{step['step']}: {times}; {step['method']} ranges; float layers: {layers}")
    if "parity" in record:
        print_parity({**record["parity"], "step": engine.name})
    print_line(f"{engine.name}: serve it with `shrinkserve serve --config {engine.name}`")


def _top1(step: StepRecord) -> str:
    """Return the loss of top-1 of an int8 step, and how well the images resolve it."""
    drop, allowed = step["top1_drop"], step["parameters"]["max_top1_drop"]
    change = f"{abs(drop):g} points {'lower' if drop > 0 else 'higher'} than" if drop else "the same as"
    text = f"top-1 {change} in float32 on {step['judged_by']}"
    if step["resolves"] > cast(float, allowed):
        return f"{text}; these resolve {step['resolves']:.2g} points only, --max-top1-drop is {allowed:g}"
    return text


def print_parity(check: ParityRecord) -> None:
    """Print the record of a comparison."""
    if check["passed"] is None:
        print_line(f"{check['step']}: not checked, {check['skipped']}")
        return
    sizes = ", ".join(check["batches"])
    margin = f", of classes at most {check['flipped'][0]['margin']:.2g} apart" if check["flipped"] else ""
    print_line(
        f"{check['step']}: worst logit difference {check['worst']:.2e} (tolerance {check['tolerance']['absolute']:g} "
        f"of {max(1.0, check['scale']):.3g}), {check['flips']} of {check['images']} top-1 changed{margin}; "
        f"batch {sizes}; {check['source']}"
    )
