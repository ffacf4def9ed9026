from __future__ import annotations

import doctest
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Le

from shrinkserve import toml
from shrinkserve.errors import ArtifactError, ConfigError


@dataclass(frozen=True)
class Section:
    size: Annotated[int, Ge(1), Le(10)] = 1
    mode: Literal["fast", "exact"] = "fast"
    bounds: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Settings:
    name: str
    section: Section = field(default_factory=Section)
    flag: bool | None = None


def errors(raw: dict[str, object]) -> str:
    with pytest.raises(ConfigError) as caught:
        toml.validate(Settings, raw, "source")
    return str(caught.value)


def test_examples_of_toml_run() -> None:
    assert doctest.testmod(toml).failed == 0
    assert doctest.testmod(toml).attempted > 5


def test_validate_accepts_lists_as_tuples() -> None:
    found = toml.validate(Settings, {"name": "a", "section": {"bounds": [0, 2.5]}}, "source")
    assert found == Settings("a", Section(bounds=(0.0, 2.5)))


def test_validate_reports_all_errors_at_once() -> None:
    message = errors({"flag": 1, "nmae": "x", "section": {"sise": 3, "size": 11, "mode": "slow"}})
    for key in ("name: missing", "flag: ", "nmae: ", "section.sise: ", "section.size: ", "section.mode: "):
        assert key in message


@pytest.mark.parametrize(
    ("raw", "near"), [({"name": "a", "sektion": {}}, "section"), ({"name": "a", "section": {"sise": 3}}, "size")]
)
def test_validate_suggests_the_nearest_key(raw: dict[str, object], near: str) -> None:
    assert f"did you mean {near}?" in errors(raw)


def test_validate_lists_known_keys_when_none_is_near() -> None:
    assert all(key in errors({"name": "a", "section": {"zzz": 3}}) for key in ("size", "mode", "bounds"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), "1", True, 10**400])
def test_validate_rejects_what_is_not_a_finite_number(value: object) -> None:
    assert "section.bounds.1" in errors({"name": "a", "section": {"bounds": [0.0, value]}})


@dataclass(frozen=True)
class Choice:
    mode: bool | Literal["fast", "small"] = False
    sizes: tuple[int, ...] = ()


def test_validate_describes_a_union_once() -> None:
    with pytest.raises(ConfigError) as info:
        toml.validate(Choice, {"mode": "slow", "sizes": [1, "2"]}, "source")
    found, sizes = info.value.what.removeprefix("source: ").split("; ")
    assert found == "mode: expected a valid boolean or 'fast' or 'small', found 'slow'"
    assert sizes.startswith("sizes.1: ")


def test_validate_cuts_long_values() -> None:
    assert len(errors({"name": ["x" * 100_000]})) < 300


def test_validate_raises_the_given_error() -> None:
    with pytest.raises(ArtifactError, match="make it again"):
        toml.validate(Settings, {}, "source", error=ArtifactError, hint="make it again")


def test_validate_calls_check_with_valid_data_only() -> None:
    with pytest.raises(ConfigError, match="source: too short"):
        toml.validate(Settings, {"name": "a"}, "source", check=lambda found: ["too short"] if found.name == "a" else [])
    with pytest.raises(ConfigError, match="missing"):
        toml.validate(Settings, {}, "source", check=lambda found: [found.name])


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"[a\n", b"a = 1\na = 2", b"x = " + b"[" * 100_000])
def test_read_toml_rejects_other_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.toml: not valid TOML"):
        toml.read_toml(path)


def test_read_toml_accepts_a_byte_order_mark_and_crlf(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbf[section]\r\nsize = 3\r\n")
    assert toml.read_toml(path) == {"section": {"size": 3}}


def test_read_toml_rejects_missing_and_large_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        toml.read_toml(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot read"):
        toml.read_toml(tmp_path)
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (toml.MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="too large"):
        toml.read_toml(large)
