from __future__ import annotations

import pytest

from shrinkserve.benchmark.timing import parse_duration
from shrinkserve.errors import ConfigError


@pytest.mark.parametrize(("text", "seconds"), [("20ms", 0.02), ("1.5s", 1.5), ("800us", 0.0008), (" 3 s ", 3.0)])
def test_parse_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["20", "ms", "-1ms", "0ms", "20 min", "1e3ms", ""])
def test_parse_duration_refuses_other_text(text: str) -> None:
    with pytest.raises(ConfigError, match="20ms"):
        parse_duration(text)
