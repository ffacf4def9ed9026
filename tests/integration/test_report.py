"""The report as a reader gets it: a page that a real browser shows, on a desk and on a phone, light and dark."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from shrinkserve.benchmark.report.baseline import compare_with_baseline
from shrinkserve.benchmark.report.html import to_html
from shrinkserve.benchmark.report.markdown import to_markdown
from shrinkserve.data import open_dataset


@pytest.fixture(scope="module")
def report(smoke_run: Path, smoke_repository: Path, digits: Path, shrinkserve, tmp_path_factory) -> Path:
    """The chain without a server, its local stages under load; between raw and EMA weights answers do flip."""
    out = tmp_path_factory.mktemp("report")
    words = ("--data", digits, "--checkpoint", smoke_run, "--repository", smoke_repository, "--everywhere")
    loads = ("--concurrency", 1, "--batch", 4, "--rate", 40, "--window", 0.1, "--limit", 120)
    shrinkserve("bench", *words, *loads, "--out", out)
    return out


class Page(HTMLParser):
    """Collects what the page refers to and what its tables and pictures are called."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.resources: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.resources += [value for key, value in attrs if key in {"src", "href"} and value]


def test_it_is_one_file_that_fetches_and_runs_nothing(report: Path) -> None:
    page = Page((report / "report.html").read_text())
    assert page.resources
    assert all(resource.startswith("data:") for resource in page.resources)
    assert not [tag for tag, _ in page.tags if tag in {"script", "iframe", "object"}]
    assert not re.search(r"url\((?!#)", (report / "report.html").read_text())


def test_it_can_be_read_without_seeing_it(report: Path) -> None:
    page = Page((report / "report.html").read_text())
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all(attributes.get("aria-label") for tag, attributes in page.tags if tag == "svg")
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
    assert ("html", {"lang": "en"}) in page.tags


def test_it_says_what_the_record_says(report: Path, digits: Path) -> None:
    record = json.loads((report / "bench.json").read_text())
    html, markdown = (report / "report.html").read_text(), (report / "report.md").read_text()
    flips = next(c["flips"] for c in record["accuracy"]["comparisons"] if c["before"] == "checkpoint raw")
    assert flips > 0
    assert html.count(f">{flips} flip") == 2  # on the arrow, drawn for a desk and for a phone
    assert html.count("<figure>") == min(flips, 12)
    for stage in record["stages"]:
        assert stage["name"] in html
        assert f"| {stage['name']} |" in markdown
    search = {"target": "server grpc", "slo": "p99=20ms", "requests_per_second": 61.5, "trials": record["loads"]}
    record["slo"] = [search]
    assert "61.5 requests/s" in to_html(record, open_dataset(digits, "validation"))
    assert "p99=20ms holds up to 61.5 requests/s" in to_markdown(record)
    assert record["environment"]["command"] in markdown


def test_names_from_outside_cannot_become_markup(report: Path, digits: Path) -> None:
    record = json.loads((report / "bench.json").read_text())
    evil = "<script>alert(1)</script>"
    record["model"] = record["dataset"]["root"] = record["stages"][0]["name"] = evil
    record["accuracy"]["stages"][0]["stage"] = record["loads"][0]["target"] = evil
    for comparison in record["accuracy"]["comparisons"]:
        if comparison["before"] == "checkpoint raw":
            comparison["before"] = evil
        for flip in comparison["listed"]:
            flip["name"] = evil
    assert evil not in to_html(record, open_dataset(digits, "validation"))


def test_a_partial_measurement_says_so_first(report: Path, digits: Path) -> None:
    record = json.loads((report / "bench.json").read_text())
    record |= {"partial": "server http: no server answers", "accuracy": None, "loads": [], "slo": []}
    assert "PARTIAL" in to_html(record, open_dataset(digits, "validation"))
    assert to_markdown(record).splitlines()[:3] == [
        f"# {record['model']}: PARTIAL", "", "PARTIAL: server http: no server answers",
    ]  # fmt: skip


WIDTHS = {"phone": 390, "small phone": 320, "desk": 1200}


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_a_browser_shows_it_light_and_dark_without_a_complaint(report: Path, browser, width: int) -> None:
    pictures = {}
    for scheme in ("light", "dark"):
        browser.show(report / "report.html", width, scheme)
        pictures[scheme] = browser.picture().astype(np.float32)
        assert browser.complaints == []
        fetched = [url for url in browser.requests if not url.startswith("data:")]
        assert fetched == [(report / "report.html").as_uri()]
        assert browser.value("document.documentElement.scrollWidth") <= width  # nobody has to scroll sideways
        shown = browser.value(
            "[...document.querySelectorAll('svg')].filter(e => e.checkVisibility()).map(e => e.ariaLabel)"
        )
        assert shown.count("Chain of stages with flips on each arrow") == 1  # the drawing for this width, and no other
        assert shown.count("Distributions of latency") == 1
    assert pictures["light"].mean() > 200  # dark ink on light paper ...
    assert pictures["dark"].mean() < 70  # ... and the other way round
    assert pictures["light"].std() > 10


OVERLAPS = """
[...document.querySelectorAll('svg[aria-label^="Load curves"]')].filter(e => e.checkVisibility()).flatMap(svg => {
  const page = svg.getBoundingClientRect()
  const found = [...svg.querySelectorAll('text')].map(e => [e, e.getBoundingClientRect()])
  const over = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 4 && b.top < a.bottom - 4
  return found.filter(([_, a], n) => a.left < page.left - 1 || a.right > page.right + 1
    || found.some(([_, b], m) => m < n && over(a, b))).map(([e]) => e.textContent)
})
"""
"""Labels of the load curves that run out of the picture or over another one; line boxes have air above and below."""


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_a_search_crowds_the_load_curves_and_their_labels_stay_apart(
    report: Path, digits: Path, browser, tmp_path: Path, width: int
) -> None:
    record = json.loads((report / "bench.json").read_text())
    (opened, *_) = [load for load in record["loads"] if load["mode"] == "open"]
    p99 = opened["latency"]["percentiles"]["p99"]
    trials = []
    for number in range(9):  # as a search does, ever closer to the rate that just holds
        rate = 250 + 1500 * 0.6**number * (-1) ** number
        tail = {key: value * (1 + number % 3) for key, value in p99.items()}
        latency = {**opened["latency"], "percentiles": {**opened["latency"]["percentiles"], "p99": tail}}
        rates = {"offered_requests_per_second": rate, "images_per_second": rate}
        trials.append({**opened, **rates, "latency": latency, "unsent": 0, "batch": 1})
    record["slo"] = [
        {"target": name, "slo": "p99=20ms", "requests_per_second": 250.0, "trials": trials[start:]}
        for name, start in (("server grpc", 0), ("server grpc jpeg", 3))
    ]
    record["baseline"] = {"file": "old/bench.json", "figures": compare_with_baseline(record, record)}
    page = tmp_path / "report.html"
    page.write_text(to_html(record, open_dataset(digits, "validation")))
    browser.show(page, width, "light")
    assert browser.complaints == []
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value(OVERLAPS) == []
    assert re.search(r">\d+/s</text>", page.read_text())


def test_an_ensembles_account_has_its_models_queues(report: Path, digits: Path) -> None:
    """Triton adds up what an ensemble's models compute and tells no queue: that is the rest of the server's time."""
    record = json.loads((report / "bench.json").read_text())
    phases = {"queue": 0.0, "compute_input": 0.25, "compute_infer": 4.0, "compute_output": 0.75}
    load = {**record["loads"][0], "server": {"mean_ms": phases, "total_mean_ms": 7.5, "images_per_execution": 1.0}}
    load["latency"] = {**load["latency"], "mean": 9.0}
    record["loads"] = [load]
    html = to_html(record, open_dataset(digits, "validation"))
    assert '<td role="cell" data-label="queue">2.50</td>' in html
    assert '<td role="cell" data-label="client">1.50</td>' in html


def test_what_is_small_can_be_read(report: Path, browser) -> None:
    """Text in pictures is scaled with them: on a phone it must still be of a readable size."""
    browser.show(report / "report.html", 390, "light")
    smallest = browser.value(
        "Math.min(...[...document.querySelectorAll('text')].filter(e => e.checkVisibility())"
        ".map(e => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a))"
    )
    assert smallest > 11
    on_tables = browser.value("Math.min(...[...document.querySelectorAll('td, th')].filter(e => e.checkVisibility())"
                              ".map(e => parseFloat(getComputedStyle(e).fontSize)))")  # fmt: skip
    assert on_tables > 12


def test_its_tables_stay_tables_on_a_phone(report: Path, browser) -> None:
    """Rows are shown as cards there; to a screen reader they are rows with headers all the same."""
    browser.show(report / "report.html", 390, "light")
    browser.send("Accessibility.enable")
    tree = browser.send("Accessibility.getFullAXTree")["nodes"]
    roles = Counter(node["role"]["value"] for node in tree if not node["ignored"])
    rows = browser.value("[...document.querySelectorAll('tr')].filter(e => e.checkVisibility()).length")
    assert roles["row"] == rows > 10
    assert roles["rowheader"] > 10
    assert roles["cell"] > 40
    assert roles["image"] >= 3
