"""HTML and Markdown report; the page is shown in a real browser, on a desktop and on a phone, light and dark."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from shrinkserve.benchmark.load.record import LoadRecord
from shrinkserve.benchmark.load.slo import SearchRecord
from shrinkserve.benchmark.load.triton_stats import Phases, ServerTime
from shrinkserve.benchmark.plain import to_json
from shrinkserve.benchmark.report.baseline import compare_with_baseline
from shrinkserve.benchmark.report.html import to_html
from shrinkserve.benchmark.report.markdown import to_markdown
from shrinkserve.benchmark.report.record import BaselineRecord, BenchRecord, read_record
from shrinkserve.benchmark.stats import Estimate
from shrinkserve.data import open_dataset
from shrinkserve.toml import validate


@pytest.fixture(scope="module")
def report(smoke_run: Path, smoke_repository: Path, digits: Path, shrinkserve, tmp_path_factory) -> Path:
    """Report of the local stages and their load tests. Predictions of raw and EMA weights differ."""
    out = tmp_path_factory.mktemp("report")
    words = ("--data", digits, "--checkpoint", smoke_run, "--repository", smoke_repository, "--everywhere")
    loads = ("--concurrency", 1, "--batch", 4, "--rate", 40, "--window", 0.1, "--limit", 120)
    shrinkserve("bench", *words, *loads, "--out", out)
    return out


class Page(HTMLParser):
    """Parser that collects the tags and resources of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.resources: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.resources += [value for key, value in attrs if key in {"src", "href"} and value]


def test_page_has_no_external_resources_and_no_scripts(report: Path) -> None:
    page = Page((report / "report.html").read_text())
    assert page.resources
    assert all(resource.startswith("data:") for resource in page.resources)
    assert not [tag for tag, _ in page.tags if tag in {"script", "iframe", "object"}]
    assert not re.search(r"url\((?!#)", (report / "report.html").read_text())


def test_page_is_accessible(report: Path) -> None:
    page = Page((report / "report.html").read_text())
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all(attributes.get("aria-label") for tag, attributes in page.tags if tag == "svg")
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
    assert ("html", {"lang": "en"}) in page.tags


@pytest.fixture
def record(report: Path) -> BenchRecord:
    return read_record(report / "bench.json")


def test_reports_have_the_figures_of_the_record(report: Path, record: BenchRecord) -> None:
    html, markdown = (report / "report.html").read_text(), (report / "report.md").read_text()
    flips = record.accuracy.against("checkpoint raw")["checkpoint ema"].flips
    assert flips > 0
    assert html.count(f">{flips} flip") == 1
    assert html.count("<figure>") == min(flips, 12)
    for stage in record.stages:
        assert stage.name in html
        assert f"| {stage.name} |" in markdown
    assert record.environment.command in markdown


def test_reports_have_the_searched_rate(record: BenchRecord, digits: Path) -> None:
    record.slo = [SearchRecord("server grpc", "p99=20ms", 99.0, 20.0, 61.5, 61.5, 80.0, record.loads)]
    assert "61.5 requests/s" in to_html(record, open_dataset(digits, "validation"))
    assert "p99=20ms is met up to 61.5 requests/s" in to_markdown(record)


def test_names_from_outside_are_no_markup(record: BenchRecord, digits: Path) -> None:
    evil = "<script>alert(1)</script>"
    text = to_json(record)
    for name in ("checkpoint raw", record.model, record.dataset.root, record.loads[0].target):
        text = text.replace(json.dumps(name), json.dumps(evil))
    changed = validate(BenchRecord, json.loads(text), "test")
    comparisons = [
        replace(one, listed=[replace(flip, name=evil) for flip in one.listed]) for one in changed.accuracy.comparisons
    ]
    changed.accuracy = replace(changed.accuracy, comparisons=comparisons)
    changed.misses = changed.left_out = [evil]
    assert evil not in to_html(changed, open_dataset(digits, "validation"))
    assert evil not in to_markdown(changed)


def test_control_characters_are_shown_as_escapes(record: BenchRecord, digits: Path) -> None:
    record.misses = ["\x1b[31mred\u202e"]
    assert r"\x1b[31mred\u202e" in to_html(record, open_dataset(digits, "validation"))
    assert "\x1b" not in to_markdown(record)


def test_partial_measurement_is_marked(record: BenchRecord, digits: Path) -> None:
    record.partial, record.accuracy, record.loads = "server http: no response", None, []
    assert "PARTIAL" in to_html(record, open_dataset(digits, "validation"))
    title, _, text, *_ = to_markdown(record).splitlines()
    assert (title, text) == (f"# {record.model}: PARTIAL", "PARTIAL: server http: no response")


def test_logits_that_are_not_finite_are_marked(record: BenchRecord, digits: Path) -> None:
    comparisons = [replace(one, worst=None) for one in record.accuracy.comparisons]
    record.accuracy = replace(record.accuracy, comparisons=comparisons)
    assert "not finite" in to_html(record, open_dataset(digits, "validation"))
    json.loads(to_json(record), parse_constant=pytest.fail)


WIDTHS = {"phone": 390, "small phone": 320, "desktop": 1280}


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_browser_shows_the_page_in_both_colour_schemes(report: Path, browser, width: int) -> None:
    pictures = {}
    for scheme in ("light", "dark"):
        browser.show(report / "report.html", width, scheme)
        pictures[scheme] = browser.picture().astype(np.float32)
        assert browser.complaints == []
        fetched = [url for url in browser.requests if not url.startswith("data:")]
        assert fetched == [(report / "report.html").as_uri()]
        assert (
            browser.value("document.documentElement.scrollWidth") <= width
        )  # the page does not scroll sideways; a chart may
        shown = browser.value(
            "[...document.querySelectorAll('svg')].filter(e => e.checkVisibility()).map(e => e.ariaLabel)"
        )
        assert shown.count("Stages with the flips on each arrow") == 1
        assert shown.count("Distributions of latency") == 1
    assert pictures["light"].mean() > 200
    assert pictures["dark"].mean() < 70
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
"""Labels of the load curves that leave the picture or overlap; the boxes of lines have space above and below."""


def trials(load: LoadRecord, count: int) -> list[LoadRecord]:
    """Return load tests as of a search: ever closer to one rate."""
    p99 = load.percentile("p99")
    found = []
    for number in range(count):
        rate, factor = 250 + 240 * 0.6**number * (-1) ** number, 1 + number % 3
        tail = Estimate(p99.low * factor, p99.high * factor, p99.value * factor)
        latency = replace(load.latency, percentiles={**load.latency.percentiles, "p99": tail})
        found.append(replace(load, offered_requests_per_second=rate, images_per_second=rate, latency=latency, unsent=0))
    return found


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_labels_of_load_curves_do_not_overlap(
    record: BenchRecord, digits: Path, browser, tmp_path: Path, width: int
) -> None:
    opened = next(load for load in record.loads if load.mode == "open")
    record.loads += trials(opened, 9)
    record.slo = [
        SearchRecord(name, "p99=20ms", 99.0, 20.0, 250.0, 250.0, 300.0, trials(opened, 9))
        for name in ("server grpc", "server grpc jpeg")
    ]
    record.baseline = BaselineRecord("old/bench.json", compare_with_baseline(record, record))
    page = tmp_path / "report.html"
    page.write_text(to_html(record, open_dataset(digits, "validation")))
    browser.show(page, width, "light")
    assert browser.complaints == []
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value(OVERLAPS) == []
    assert re.search(r">\d+/s</text>", page.read_text())


def test_queue_of_an_ensemble_is_the_rest_of_the_time_in_the_server(record: BenchRecord, digits: Path) -> None:
    """Triton's statistics of an ensemble have the compute times of its models, but no queue."""
    server = ServerTime(9, 0, Phases(0.0, 0.25, 4.0, 0.75), 7.5, 1.0, {})
    load = replace(record.loads[0], server=server, latency=replace(record.loads[0].latency, mean=9.0))
    html = to_html(replace(record, loads=[load]), open_dataset(digits, "validation"))
    assert '<td role="cell" data-label="queue">2.50</td>' in html
    assert '<td role="cell" data-label="client">1.50</td>' in html


def test_text_is_readable_on_a_phone(report: Path, browser) -> None:
    browser.show(report / "report.html", 390, "light")
    smallest = browser.value(
        "Math.min(...[...document.querySelectorAll('text')].filter(e => e.checkVisibility())"
        ".map(e => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a))"
    )
    assert smallest > 11
    on_tables = browser.value("Math.min(...[...document.querySelectorAll('td, th')].filter(e => e.checkVisibility())"
                              ".map(e => parseFloat(getComputedStyle(e).fontSize)))")  # fmt: skip
    assert on_tables > 12


def test_tables_are_accessible_on_a_phone(report: Path, browser) -> None:
    """Rows are shown as cards there; for a screen reader they are still rows with headers."""
    browser.show(report / "report.html", 390, "light")
    browser.send("Accessibility.enable")
    tree = browser.send("Accessibility.getFullAXTree")["nodes"]
    roles = Counter(node["role"]["value"] for node in tree if not node["ignored"])
    rows = browser.value("[...document.querySelectorAll('tr')].filter(e => e.checkVisibility()).length")
    assert roles["row"] == rows > 10
    assert roles["rowheader"] > 10
    assert roles["cell"] > 40
    assert roles["image"] >= 3
