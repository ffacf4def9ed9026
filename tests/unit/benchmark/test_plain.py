from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from shrinkserve.benchmark.plain import OPTIONAL, plain, to_json


@dataclass(frozen=True)
class Inner:
    value: float
    note: str | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class Outer:
    one: Inner
    many: list[Inner]
    named: dict[str, Inner]
    absent: Inner | None = None


def test_plain_converts_dataclasses_at_any_depth() -> None:
    inner = {"value": 1.0}
    value = Outer(Inner(1.0), [Inner(1.0, "x")], {"a": Inner(1.0)})
    assert plain(value) == {"one": inner, "many": [{"value": 1.0, "note": "x"}], "named": {"a": inner}, "absent": None}
    assert json.loads(to_json(value)) == plain(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_to_json_refuses_numbers_that_are_not_finite(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_json(Inner(value))
