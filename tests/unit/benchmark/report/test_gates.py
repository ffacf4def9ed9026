from __future__ import annotations

from pathlib import Path

import pytest

from shrinkserve.benchmark.report.gates import Gates, read_gates
from shrinkserve.errors import ConfigError


def test_options_override_the_file(tmp_path: Path) -> None:
    path = tmp_path / "gates.toml"
    path.write_text('min_top1 = 0.97\nmax_p99 = "20ms"\nmax_flips = 3\n')
    gates = read_gates(path).override(Gates(max_flips=0))
    assert gates == Gates(min_top1=0.97, max_p99=0.02, max_flips=0)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("min_top = 0.9", ["min_top", "did you mean min_top1?"]),
        ("speed = 9", ["speed: unknown key"]),
        ('min_top1 = "high"', ["min_top1", "'high'"]),
        ("min_top1 = 75.1", ["min_top1", "75.1"]),
        ("max_flips = 0.5", ["max_flips", "0.5"]),
        ("min_throughput = true", ["min_throughput", "True"]),
        ("min_throughput = inf", ["min_throughput"]),
        ("max_flips = -1\nmin_throughput = -1", ["max_flips", "min_throughput", "-1"]),
        ("max_p99 = 20", ["max_p99", '"20ms"', "found 20"]),
        ('max_p99 = "fast"', ["max_p99", "20ms"]),
        ("min_top1 = ", ["TOML"]),
    ],
)
def test_read_gates_refuses(tmp_path: Path, content: str, parts: list[str]) -> None:
    path = tmp_path / "gates.toml"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_gates(path)
    assert all(part in str(caught.value) for part in [str(path), *parts])


def test_read_gates_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent"):
        read_gates(tmp_path / "absent.toml")
