"""Curves of a run as a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shrinkserve.atomic import write_atomic
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.paths import StrPath
from shrinkserve.text import printable
from shrinkserve.training.evaluation import EvaluationResult
from shrinkserve.training.run_folder.metrics_log import METRICS, MetricsRecord, read_metrics

Curve = Literal["loss", "top1", "learning_rate", "images_per_second"]


def plot_run(run: StrPath, out: StrPath | None = None) -> Path:
    """Draw loss, top-1, learning rate and speed over the updates: ``shrinkserve train plot``.

    Args:
        run: the run's folder. The run need not be complete.
        out: path of the picture; its suffix gives the format. Default: ``RUN/curves.png``.

    Returns:
        The path of the picture.

    Raises:
        ArtifactError: no run there, no record yet, or a place that cannot be written.
        ConfigError: not the suffix of a picture.

    Example:
        >>> import shrinkserve as ss
        >>> ss.plot_run("runs/digits", "curves.svg")  # doctest: +SKIP
        PosixPath('curves.svg')
    """
    run = Path(run)
    target = run / "curves.png" if out is None else Path(out)
    check_picture(target)
    records = read_metrics(run / METRICS)
    training = [record for record in records if record["kind"] == "train"]
    validation = [record for record in records if record["kind"] == "validation"]
    if not training:
        raise ArtifactError(f"{run / METRICS}: no record yet", hint="wait for the run's first steps")
    # Figure instead of pyplot: needs no window system, and leaves nothing open.
    figure = Figure(figsize=(10, 6), layout="constrained")
    (loss, top1), (rate, speed) = figure.subplots(2, 2, sharex=True)
    _curves(loss, "loss", training, validation)
    _curves(top1, "top1", training, validation)
    _curves(rate, "learning_rate", training, [])
    _curves(speed, "images_per_second", training, [])
    loss.set_ylabel("loss")
    top1.set_ylabel("top-1")
    top1.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    rate.set_ylabel("learning rate")
    speed.set_ylabel("images/s")
    speed.set_ylim(bottom=0)
    for axes in (rate, speed):
        axes.set_xlabel("updates")
    loss.legend(frameon=False)
    figure.suptitle(run.resolve().name)
    return _save(figure, target)


def _curves(axes: Axes, key: Curve, training: list[MetricsRecord], validation: list[MetricsRecord]) -> None:
    axes.plot([r["step"] for r in training], [r[key] for r in training], linewidth=1, label="training")
    if validation:
        axes.plot(
            [r["step"] for r in validation], [r[key] for r in validation], marker=".", label="validation, EMA weights"
        )
    axes.grid(visible=True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


MAX_NAMES = 60
"""Classes up to which a confusion matrix has names at its axes."""


def plot_confusion(found: EvaluationResult, out: StrPath) -> Path:
    """Draw a confusion matrix: ``shrinkserve eval --confusion FILE``. Each row sums to 100 %.

    Args:
        found: the result of `evaluate`.
        out: path of the picture; its suffix gives the format.

    Returns:
        The path of the picture.

    Raises:
        ConfigError: not the suffix of a picture.
        ArtifactError: the place cannot be written.

    Example:
        >>> import shrinkserve as ss
        >>> ss.plot_confusion(ss.evaluate("runs/digits", "data"), "confusion.png")  # doctest: +SKIP
        PosixPath('confusion.png')
    """
    target = Path(out)
    check_picture(target)
    count = len(found.classes)
    side = min(16.0, 3 + 0.35 * count)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    parts = found.confusion.double() / found.confusion.sum(1, keepdim=True).clamp(min=1)
    image = axes.imshow(parts.numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("prediction")
    axes.set_ylabel("class")
    if count <= MAX_NAMES:
        # A $ would begin a formula.
        names = [printable(name).replace("$", r"\$") for name in found.classes]
        axes.set_xticks(range(count), names, rotation=90)
        axes.set_yticks(range(count), names)
    figure.colorbar(image, ax=axes, shrink=0.8, format=lambda value, _: f"{value:.0%}")
    axes.set_title(f"{found.images} images, top-1 {found.top1:.2%}")
    return _save(figure, target)


def check_picture(target: Path) -> None:
    """Check the suffix of a picture's name.

    Raises:
        ConfigError: matplotlib cannot write such a picture.
    """
    if target.suffix.lower() not in {".png", ".svg", ".pdf"}:
        what = f"{target}: not the name of a picture"
        raise ConfigError(what, expected=".png, .svg or .pdf", found=repr(target.suffix))


def _save(figure: Figure, target: Path) -> Path:
    picture = io.BytesIO()
    figure.savefig(picture, dpi=150, format=target.suffix[1:].lower())
    write_atomic(target, picture.getvalue())
    return target
