from __future__ import annotations

import ast
import doctest
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
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


FUNCTIONS = [name for name in shrinkserve.__all__ if inspect.isfunction(getattr(shrinkserve, name))]
NO_ERRORS = {"document_recipe", "recipe_names"}
"""Functions without an error that a caller could expect."""


def example_calls(name: str) -> Iterator[ast.Call]:
    """Yield the calls of a function in the example of its docstring."""
    text = inspect.getdoc(getattr(shrinkserve, name)) or ""
    examples = [part.source for part in doctest.DocTestParser().get_examples(text)]
    block = re.search(r"^Examples?::?\n(.*?)(?=^\S|\Z)", text, re.DOTALL | re.MULTILINE)
    code = "".join(examples) or textwrap.dedent(block[1] if block else "").replace("```python", "").replace("```", "")
    for node in ast.walk(ast.parse(textwrap.dedent(code))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == name:
            yield node


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_function_documents_arguments_result_and_errors(name: str) -> None:
    function = getattr(shrinkserve, name)
    text = inspect.getdoc(function) or ""
    signature = inspect.signature(function)
    wanted = {"Args:"} if signature.parameters else set()
    wanted |= set() if name in NO_ERRORS else {"Raises:"}
    wanted |= set() if signature.return_annotation == "None" else {"Yields:" if name == "predict" else "Returns:"}
    assert wanted - set(text.splitlines()) == set()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_example_of_public_function_fits_its_signature(name: str) -> None:
    calls = list(example_calls(name))
    assert calls
    for call in calls:
        keywords = {str(keyword.arg): None for keyword in call.keywords}
        inspect.signature(getattr(shrinkserve, name)).bind(*call.args, **keywords)
