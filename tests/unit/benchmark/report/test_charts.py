"""Charts and figures of the report."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkserve.benchmark.report import charts, numbers, tree
from shrinkserve.benchmark.report.svg import log_ticks, logarithmic, ticks
from shrinkserve.confusion import NO_PREDICTION, ConfusionCell

NAMES = ["checkpoint raw", "checkpoint ema", "onnx float32 v1", "onnx int8 v1", "server http", "server grpc"]
PARENTS = [None, 0, 1, 2, 2, 3]
NODES = [
    tree.Node(name, "top-1 98.00 %", parent, None if parent is None else number, number == 4, number == 1)
    for number, (name, parent) in enumerate(zip(NAMES, PARENTS, strict=True))
]


@given(st.floats(1e-6, 1e9), st.integers(2, 9))
def test_ticks_are_round_and_cover_the_range(high: float, most: int) -> None:
    found = ticks(high, most)
    assert found[0] == 0
    assert found[-1] >= high * (1 - 1e-9)
    assert len(found) <= most + 1
    assert float(f"{found[1]:.1e}") == pytest.approx(found[1])  # two digits


@given(st.floats(1e-3, 1e3), st.floats(1.5, 1e5))
def test_log_ticks_are_inside_the_axis(low: float, ratio: float) -> None:
    high = low * ratio
    scale = logarithmic(low, high, 0, 100)
    places = [scale(value) for value in log_ticks(low, high)]
    assert places == sorted(places)
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in places)


def test_tree_has_a_box_for_each_stage_and_an_arrow_with_the_flips() -> None:
    picture = ElementTree.fromstring(tree.draw(NODES))
    boxes = [tuple(float(box.get(key)) for key in ("x", "y", "width")) for box in picture.iter("rect")]
    assert len(boxes) == len(NODES)
    words = [element.text for element in picture.iter("text")]
    assert set(NAMES) < set(words)
    assert words.count("1 flip") == 1
    assert sum("flip" in word for word in words) == len(NODES) - 1
    assert len({y for _, y, _ in boxes}) == len(boxes)  # no box is over another one
    _, _, width, height = map(float, picture.get("viewBox").split())
    assert all(x >= 0 and x + wide <= width and y + 46 <= height for x, y, wide in boxes)
    assert len([edge for edge in picture.iter("path") if "bad" in edge.get("class")]) == 1


def point(load: float, throughput: float, p99: float, *, valid: bool = True) -> charts.LoadPoint:
    return charts.LoadPoint(load, throughput, p99, 0.9 * p99, 1.2 * p99, valid, f"c{load:g}", f"concurrency {load:g}")


def test_load_curves_show_every_point_inside_the_picture() -> None:
    series = {"server http": [point(1, 50, 20.0), point(4, 90, 60.0, valid=False)], "a <b>": [point(1, 40, 25.0)]}
    picture = ElementTree.fromstring(charts.load_curves(series))
    titles = [title.text for title in picture.iter("title")]
    assert titles[1:] == ["concurrency 1", "concurrency 4", "concurrency 1"]
    _, _, width, height = map(float, picture.get("viewBox").split())
    markers = [path for path in picture.iter("path") if path.get("transform")]
    assert len(markers) == 3
    for marker in markers:
        x, y = map(float, re.findall(r"[\d.]+", marker.get("transform")))
        assert 44 <= x <= width
        assert 20 <= y <= height - 40
    assert sum("hollow" in path.get("class") for path in picture.iter("path")) == 1


def test_load_curves_leave_out_labels_that_would_overlap() -> None:
    near = [point(1, 50.0, 20.0), point(2, 50.1, 20.0), point(3, 90.0, 60.0)]
    picture = ElementTree.fromstring(charts.load_curves({"server http": near}))
    words = [element.text for element in picture.iter("text")]
    assert [word for word in words if word.startswith("c")] == ["c1", "c3"]


def test_ridges_share_an_axis() -> None:
    loads = [
        charts.LatencyRidge("slow", [(10.0, 11.0, 5), (40.0, 44.0, 1)], {"p50": 10.5, "p99": 44.0}),
        charts.LatencyRidge("fast", [(0.5, 0.6, 900)], {"p50": 0.55, "p99": 0.6}),
    ]
    picture = ElementTree.fromstring(charts.ridges(loads))
    words = [element.text for element in picture.iter("text")]
    assert {"slow", "fast", "p50 10.5 · p99 44 ms"} <= set(words)
    marks = [float(mark.get("x1")) for mark in picture.iter("line") if mark.get("class") == "mark"]
    assert marks[2] < marks[3] < marks[0] < marks[1]


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [(0.98901, "fraction", "98.90 %"), (0.7614, "ms", "0.76"), (18.29, "ms", "18.3"), (1240.4, "ms", "1,240"),
     (7104.2, "images/s", "7,104"), (87.66, "images/s", "87.7")],
)  # fmt: skip
def test_figure_has_the_form_of_its_unit(value: float, unit: str, shown: str) -> None:
    assert numbers.figure(value, unit) == shown


def test_confusion_matrix_has_a_square_for_each_pair_of_classes_with_images() -> None:
    cells = [ConfusionCell(1, 1, 3), ConfusionCell(1, 2, 1), ConfusionCell(2, 1, 2), ConfusionCell(2, NO_PREDICTION, 2)]
    drawn = ElementTree.fromstring(
        charts.confusion_matrix(["background", "<cat>", "a very long name of a class"], cells)
    )
    found = {square.findtext("title"): square.get("fill-opacity") for square in drawn.iter("rect")}
    assert found == {
        "<cat> predicted as <cat>: 3 of 4": "0.75",
        "<cat> predicted as a very long name of a class: 1 of 4": "0.25",
        "a very long name of a class predicted as <cat>: 2 of 4": "0.50",
    }
    assert not any("background" in label.text for label in drawn.iter("text"))
