from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkserve.cli import main, predict
from shrinkserve.errors import ArtifactError, ConfigError, DataError
from shrinkserve.serving.client.prediction import ClassifyResult
from shrinkserve.text import MAX_TEXT, check_class_names, printable, read_text, spreadsheet_cell

EVIL = "\x1b[31mRED\x1b]0;owned\x07\x9b2J\u202e\x7f"


@given(st.text())
def test_printable_leaves_no_control_characters(text: str) -> None:
    shown = printable(text)
    assert printable(shown) == shown
    assert len(shown.splitlines()) <= 1
    shown.encode()


def test_printable_keeps_ordinary_text() -> None:
    assert printable("grüne Äpfel, 日本語 👩‍🔬\xa0x") == "grüne Äpfel, 日本語 👩‍🔬\xa0x"
    assert printable("a\nb\tc\x1b", keep="\n\t") == "a\nb\tc\\x1b"


@given(st.text())
def test_printable_json_has_the_same_content(text: str) -> None:
    assert json.loads(printable(json.dumps([text], ensure_ascii=False))) == [text]


@pytest.mark.parametrize("name", ["a\nb", "a\u2028b", "a\x85b", "\x1b[1m", "\u202eabc", "tab\t", "\udcff", "\x00"])
def test_check_class_names_rejects(name: str) -> None:
    with pytest.raises(ArtifactError, match="class names: expected one line each") as caught:
        check_class_names(["fine", name], ArtifactError)
    assert str(caught.value).isprintable()


def outcomes(label: str, name: str) -> list[ClassifyResult]:
    return [ClassifyResult(name, [(label, 0.5)], "1")]  # type: ignore[list-item]


def test_predict_escapes_labels_and_file_names(capsys: pytest.CaptureFixture[str]) -> None:
    predict._write_table(outcomes(EVIL, f"{EVIL}\n.jpg"))
    predict._write_json(outcomes(EVIL, EVIL))
    predict._write_csv(outcomes(EVIL, EVIL))
    shown = capsys.readouterr().out
    assert all(line.isprintable() for line in shown.splitlines())
    assert r"\x1b[31mRED" in shown


@pytest.mark.parametrize("text", ['=HYPERLINK("http:evil")', "-rf", "+1", "@x", "\t=1", "\r=1"])
def test_predict_csv_has_no_formulas(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert spreadsheet_cell(text) == f"'{text}"
    predict._write_csv(outcomes(text, text))
    cells = next(iter(list(csv.reader(io.StringIO(capsys.readouterr().out)))[1:]))
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


@pytest.mark.parametrize("kind", [ConfigError, DataError])
def test_main_escapes_errors(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise kind(EVIL)

    monkeypatch.setattr("shrinkserve.cli.app", fail)
    assert main([]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()


def test_read_text_rejects_endless_file(tmp_path: Path) -> None:
    with (tmp_path / "labels.txt").open("wb") as stream:
        stream.truncate(8 << 30)
    with pytest.raises(OSError, match=f"more than {MAX_TEXT}"):
        read_text(tmp_path / "labels.txt")


def test_read_text_ignores_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(b"\xef\xbb\xbfcat\r\ndog")
    assert read_text(tmp_path / "labels.txt") == "cat\ndog"
