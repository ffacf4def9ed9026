from __future__ import annotations

from dataclasses import replace

from shrinkserve.benchmark.report.terminal import print_record


def test_text_from_a_server_is_printed_as_it_is(make_record, make_load, capsys) -> None:
    load = make_load(valid=False, reasons=["errors: [/red] shape [1,2] \x1b[31m"])
    print_record(make_record({"server grpc": 0}, loads=[load], left_out=["tensorrt: no GPU [x]"]))
    out = capsys.readouterr().out
    assert r"errors: [/red] shape [1,2] \x1b[31m" in out
    assert "left out: tensorrt: no GPU [x]" in out


def test_logits_that_are_not_finite_are_named(make_record, capsys) -> None:
    record = make_record({"server grpc": 0})
    (comparison,) = record.accuracy.comparisons
    accuracy = replace(record.accuracy, comparisons=[replace(comparison, worst=None)])
    print_record(replace(record, accuracy=accuracy))
    assert "not finite" in capsys.readouterr().out
