from __future__ import annotations

from dataclasses import replace

from shrinkserve.benchmark.report.markdown import to_markdown
from shrinkserve.confusion import ConfusionCell


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
