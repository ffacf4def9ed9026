from __future__ import annotations

from dataclasses import replace

import pytest

from shrinkserve.benchmark.report.markdown import escape, table, to_markdown
from shrinkserve.confusion import ConfusionCell


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("<img src=x>", r"\<img src=x\>"),
        ("[a](http://b)", r"\[a\](http://b)"),
        ("a|b", r"a\|b"),
        ("`*&", r"\`\*\&"),
        ("line\nbreak\x1b", r"line\\x0abreak\\x1b"),
        ("smoke_1: 99.5 %", "smoke_1: 99.5 %"),
    ],
)
def test_escape_of_markdown_characters(text: str, escaped: str) -> None:
    assert escape(text) == escaped


def test_table_keeps_a_cell_on_one_line() -> None:
    assert table(("what", "n"), [("a|b\nc", 1)]) == ["| what | n |", "| --- | ---: |", r"| a\|b c | 1 |"]


def test_names_from_outside_are_no_markup(make_record, make_load) -> None:
    evil = "<script>alert(1)</script>[x](y)\n# z"
    record = make_record({evil: 1}, model=evil, misses=[evil], left_out=[evil], loads=[make_load(evil)])
    record = replace(record, dataset=replace(record.dataset, root=evil))
    text = to_markdown(record)
    assert "<script>" not in text
    assert "[x]" not in text.replace(r"\[x\]", "")
    assert "\n# z" not in text


def test_classes_with_the_lowest_f1_are_in_the_report(make_record) -> None:
    record = make_record({})
    names = [f"class {number}" for number in range(60)]
    cells = [ConfusionCell(number, number, 100 - number) for number in range(60)]
    cells += [ConfusionCell(number, 0, number) for number in range(1, 60)]
    record = replace(record, classes=names, accuracy=replace(record.accuracy, confusion=cells))
    text = to_markdown(record)
    assert "| class 59 | 100.00 % | 41.00 % | 58.16 % | 100 |" in text
    assert "| class 0 |" in text
    assert "| class 1 |" not in text
