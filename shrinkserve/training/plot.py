"""The curves of a run as a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shrinkserve.atomic import write_atomic
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.training.logs import METRICS, read_metrics

Records = list[dict[str, Any]]


def plot(run: Path, target: Path) -> Path:
    """Draw loss, top-1, learning rate and speed over the updates.

    Args:
        run: the run's folder; the run may still be going on.
        target: where to write the picture; its suffix says the format.

    Returns:
        `target`.

    Raises:
        ArtifactError: no run there, one without a record yet, or a place that cannot be written.
        ConfigError: not the suffix of a picture.
    """
    if target.suffix.lower() not in {".png", ".svg", ".pdf"}:
        raise ConfigError(f"{target}: not a picture's name", expected=".png, .svg or .pdf", found=repr(target.suffix))
    records = read_metrics(run / METRICS)
    training = [record for record in records if record["kind"] == "train"]
    validation = [record for record in records if record["kind"] == "validation"]
    if not training:
        raise ArtifactError(f"{run / METRICS}: no record yet", hint="wait for the run's first steps")
    # Figure itself rather than pyplot: no window system is looked for, nothing is left open.
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
    picture = io.BytesIO()
    figure.savefig(picture, dpi=150, format=target.suffix[1:].lower())
    write_atomic(target, picture.getvalue())
    return target


def _curves(axes: Axes, key: str, training: Records, validation: Records) -> None:
    axes.plot([r["step"] for r in training], [r[key] for r in training], linewidth=1, label="training")
    if validation:
        axes.plot(
            [r["step"] for r in validation], [r[key] for r in validation], marker=".", label="validation, EMA weights"
        )
    axes.grid(visible=True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
