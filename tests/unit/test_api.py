from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import shrinkserve


def test_import_is_light_and_submodules_are_attributes() -> None:
    script = "import sys, shrinkserve as ss; print(*sys.modules); print(ss.errors.DataError.__name__)"
    loaded, name = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    ours = {module for module in loaded.split() if module.startswith("shrinkserve")}
    assert ours == {"shrinkserve"}
    assert {"numpy", "pydantic", "typer"}.isdisjoint(loaded.split())
    assert name == "DataError"


@pytest.mark.parametrize("name", sorted(shrinkserve.__all__))
def test_public_name_exists(name: str) -> None:
    assert getattr(shrinkserve, name) is not None
    assert name in dir(shrinkserve)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        shrinkserve.nonsense  # noqa: B018


def test_table_and_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(shrinkserve.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    typed = {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    submodules = {name for name, place in typed.items() if place == f"shrinkserve:{name}"}
    assert {name: place for name, place in typed.items() if name not in submodules} == shrinkserve._PUBLIC
    assert set(shrinkserve.__all__) == {*typed, "__version__"}
