"""The report as a reader gets it: a page that a real browser shows, on a desk and on a phone, light and dark."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shrinkserve.benchmark.report.html import to_html
from shrinkserve.benchmark.report.markdown import to_markdown
from shrinkserve.data import open_dataset

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


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
    assert f">{flips} flip" in html
    assert html.count("<figure>") == min(flips, 24)
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


@pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH (apt-get install chromium)")
@pytest.mark.parametrize("width", [500, 1200])
def test_a_browser_shows_it_light_and_dark_without_a_complaint(report: Path, tmp_path: Path, width: int) -> None:
    pictures = {}
    for scheme, code in (("light", 1), ("dark", 0)):
        picture = tmp_path / f"{scheme}.png"
        command = [
            *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *(f"--blink-settings=preferredColorScheme={code}", f"--window-size={width},1600"),
            *(f"--screenshot={picture}", "--enable-logging=stderr", (report / "report.html").as_uri()),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert "CONSOLE" not in done.stderr
        pictures[scheme] = np.asarray(Image.open(picture).convert("L"), np.float32)
    assert pictures["light"].shape == (1600, width)
    assert pictures["light"].mean() > 200  # dark ink on light paper ...
    assert pictures["dark"].mean() < 60  # ... and the other way round
    assert pictures["light"].std() > 10
