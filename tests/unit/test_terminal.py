from __future__ import annotations

import io
import re
from types import SimpleNamespace

import pytest

from shrinkserve import terminal as terminal_module
from shrinkserve.terminal import Progress, print_fields, print_line, print_table


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    monkeypatch.setattr(terminal_module, "sys", SimpleNamespace(stdout=stream, stderr=stream))
    return stream


def test_print_line_escapes_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_line("a\x1b[31m b", err=True)
    assert capsys.readouterr().err == "a\\x1b[31m b\n"


def test_print_fields_aligns_values(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields({"a": 1, "longer": "two"})
    assert capsys.readouterr().out.splitlines() == ["a       1", "longer  two"]


def test_print_table_in_a_pipe_wraps_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "count", "note"), [("a" * 300, 1), ("b", 1000, "n" * 300)], title="t" * 300, left=["note"])
    title, header, first, second = capsys.readouterr().out.splitlines()
    assert title == "t" * 300
    assert header.split() == ["name", "count", "note"]
    assert first.split() == ["a" * 300, "1"]
    assert second.split() == ["b", "1000", "n" * 300]
    assert first.rindex("1") == second.rindex("0")  # numbers are aligned to the right


def test_print_table_shows_brackets_and_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("[red]name",), [("[bold]a\x1b[0m",)], title="[x]")
    assert capsys.readouterr().out.split() == ["[x]", "[red]name", "[bold]a\\x1b[0m"]


def test_print_table_fits_terminal(terminal: Terminal) -> None:
    print_table(("name", "count"), [("word " * 30, 1)])
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()
    assert len(lines) > 4
    assert max(map(len, lines)) <= 60


def test_progress_in_a_pipe_prints_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(lines=True) as progress:
        for done in range(1, 41):
            progress.update("images", done, 40)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"{done}/40 images" for done in range(4, 41, 4)]


@pytest.mark.parametrize("options", [{}, {"enabled": False, "lines": True}])
def test_progress_in_a_pipe_is_silent(options: dict[str, bool], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(**options) as progress:
        progress.update("images", 1, 1)
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal_draws_bars_and_lines(terminal: Terminal) -> None:
    with Progress() as progress:
        progress.update("images", 1, 3)
        progress.update("images", 2, 3, label="[images]", figures="9 images/s")
        progress.say("half \x1b way")
        progress.remove("none")
    text = terminal.getvalue()
    assert "half \\x1b way" in text
    assert "[images]" in text
    assert "2/3" in text
