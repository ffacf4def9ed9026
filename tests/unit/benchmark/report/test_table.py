from __future__ import annotations

import pytest

from shrinkserve.benchmark.report.table import escape, table


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
