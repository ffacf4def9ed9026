from __future__ import annotations

import pytest

from shrinkserve import errors


def test_message_has_expected_found_and_hint() -> None:
    error = errors.DataError("shard-3: wrong label", expected="1..10", found=11, hint="pack the data again")
    assert str(error) == "shard-3: wrong label: expected 1..10, found 11; pack the data again"


def test_message_without_optional_parts() -> None:
    assert str(errors.DataError("gone")) == "gone"
    assert str(errors.DataError("gone", found=0)) == "gone: found 0"


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_check_range_names_the_argument(value: float) -> None:
    errors.check_range(1, limit=None, batch=1)
    with pytest.raises(errors.ConfigError, match="batch: expected at least 1"):
        errors.check_range(1, limit=2, batch=value)


def test_check_range_names_both_limits() -> None:
    errors.check_range(0, 1, fraction=1, other=0)
    with pytest.raises(errors.ConfigError, match="fraction: expected 0 to 1, found 2"):
        errors.check_range(0, 1, fraction=2)


@pytest.mark.parametrize("kind", errors.ShrinkServeError.__subclasses__())
def test_every_class_is_documented_in_tree(kind: type[errors.ShrinkServeError]) -> None:
    assert errors.__doc__ is not None
    assert kind.__name__ in errors.__doc__
    assert kind.exit_code == (1 if kind is errors.GateError else 2)
