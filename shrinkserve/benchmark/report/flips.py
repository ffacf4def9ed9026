"""The images on which answers differ, as the page shows them."""

from __future__ import annotations

import base64
import io
from typing import Any

from shrinkserve.data import Dataset
from shrinkserve.errors import DataError
from shrinkserve.preprocess import decode

SHOWN = 12
"""How many flipped images an arrow shows."""
SIDE = 160
"""Longest side of a thumbnail in pixels; smaller images stay as they are."""


def flip_groups(record: dict[str, Any], dataset: Dataset) -> list[dict[str, Any]]:
    """For each arrow of the chain with flips: its two stages, how many there are, and the first `SHOWN` as figures."""
    stages = record["stages"]
    arrows = {(stages[one["parent"]]["name"], one["name"]) for one in stages if one["parent"] is not None}
    return [
        {
            "before": comparison["before"],
            "after": comparison["after"],
            "flips": comparison["flips"],
            "lost": comparison["lost"],
            "gained": comparison["gained"],
            "figures": [_figure(flip, record["classes"], dataset) for flip in comparison["listed"][:SHOWN]],
        }
        for comparison in (record["accuracy"] or {"comparisons": []})["comparisons"]
        if comparison["flips"] and (comparison["before"], comparison["after"]) in arrows
    ]


def _figure(flip: dict[str, Any], classes: list[str], dataset: Dataset) -> dict[str, Any]:
    return {
        "name": flip["name"],
        "picture": _thumbnail(dataset, flip["index"]),
        "label": classes[flip["label"]],
        "answers": [_answer(flip, who, classes) for who in ("before", "after")],
    }


def _answer(flip: dict[str, Any], who: str, classes: list[str]) -> dict[str, Any]:
    right = flip[who] == flip["label"]
    return {"who": who, "class": classes[flip[who]], "margin": flip[f"margin_{who}"], "right": right}


def _thumbnail(dataset: Dataset, index: int) -> str:
    """The image as a data URL; empty when it cannot be read any more."""
    try:
        image = decode(dataset.record(index).encoded)
    except DataError:
        return ""
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
