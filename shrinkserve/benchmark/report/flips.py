"""Images with different predictions, as shown in the HTML report."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from shrinkserve.benchmark.accuracy.agreement import ComparisonRecord, Flip
from shrinkserve.benchmark.report.record import BenchRecord
from shrinkserve.data import Dataset
from shrinkserve.errors import DataError
from shrinkserve.preprocess import decode

SHOWN = 12
"""Most images shown for a pair of stages."""
SIDE = 160
"""Longest side of a thumbnail in pixels; smaller images are not enlarged."""


@dataclass(frozen=True)
class StagePrediction:
    """Prediction of one stage."""

    who: str
    label: str
    margin: float | None
    right: bool


@dataclass(frozen=True)
class FlipFigure:
    """Image with its thumbnail (a data URL; empty if the image cannot be read), label and both predictions."""

    name: str
    picture: str
    label: str
    predictions: tuple[StagePrediction, StagePrediction]


@dataclass(frozen=True)
class FlipGroup:
    """Flips between a stage and its parent."""

    comparison: ComparisonRecord
    figures: list[FlipFigure]


def flip_groups(record: BenchRecord, dataset: Dataset) -> list[FlipGroup]:
    """Return the flips between each stage and its parent, with the first `SHOWN` as figures."""
    stages = record.stages
    pairs = {(stages[one.parent].name, one.name) for one in stages if one.parent is not None}
    return [
        FlipGroup(one, [_figure(flip, record.classes, dataset) for flip in one.listed[:SHOWN]])
        for one in (record.accuracy.comparisons if record.accuracy else ())
        if one.flips and (one.before, one.after) in pairs
    ]


def _figure(flip: Flip, classes: list[str], dataset: Dataset) -> FlipFigure:
    predictions = (
        StagePrediction("before", classes[flip.before], flip.margin_before, flip.before == flip.label),
        StagePrediction("after", classes[flip.after], flip.margin_after, flip.after == flip.label),
    )
    return FlipFigure(flip.name, _thumbnail(dataset, flip.index), classes[flip.label], predictions)


def _thumbnail(dataset: Dataset, index: int) -> str:
    """Return the image as a data URL; empty if it cannot be read any more."""
    try:
        image = decode(dataset.record(index).encoded)
    except DataError:
        return ""
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
