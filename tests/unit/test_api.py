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
from typing import Any, get_type_hints

import pytest
import typer

import shrinkserve
from shrinkserve.cli import app


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
        getattr(shrinkserve, "nonsense")  # noqa: B009


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
def test_public_function_documents_each_parameter(name: str) -> None:
    function = getattr(shrinkserve, name)
    block = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", inspect.getdoc(function) or "", re.DOTALL | re.MULTILINE)
    documented = re.findall(r"^    (\w+):", block[1], re.MULTILINE) if block else []
    assert documented == list(inspect.signature(function).parameters)


@pytest.mark.parametrize("name", [*FUNCTIONS, "Server"])
def test_public_function_takes_paths_and_results(name: str) -> None:
    annotations = [str(one.annotation) for one in inspect.signature(getattr(shrinkserve, name)).parameters.values()]
    assert [one for one in annotations if re.search(r"\bPath\b", one)] == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_example_of_public_function_fits_its_signature(name: str) -> None:
    calls = list(example_calls(name))
    assert calls
    for call in calls:
        keywords = {str(keyword.arg): None for keyword in call.keywords}
        inspect.signature(getattr(shrinkserve, name)).bind(*call.args, **keywords)


COMMANDS = {
    "bench plan": ["plan"],
    "bench run": ["bench"],
    "compare": ["compare"],
    "data digits": ["write_digits"],
    "data index": ["index_dataset"],
    "data info": ["describe_dataset"],
    "data pack": ["pack_dataset"],
    "data split": ["split_dataset"],
    "data verify": ["verify_dataset"],
    "describe": ["describe"],
    "doctor": ["doctor"],
    "eval": ["evaluate"],
    "export": ["export"],
    "import tensorflow": ["import_tensorflow"],
    "inspect": ["inspect"],
    "predict": ["predict"],
    "quickstart": ["quickstart"],
    "recipe import": ["import_recipe"],
    "recipe list": ["recipe_names"],
    "recipe show": ["document_recipe", "load_recipe"],
    "repo add-jpeg": ["add_jpeg"],
    "repo gc": ["remove_old_versions"],
    "repo list": ["list_models"],
    "repo publish": ["publish"],
    "repo rollback": ["rollback"],
    "repo show": ["show_version"],
    "repo tune": ["tune_model"],
    "repo verify": ["verify_repository"],
    "serve": ["Server", "ServerOptions"],
    "train plot": ["plot_run"],
    "train run": ["train", "plan_training", "profile_training"],
}
"""Command -> what it calls."""
OTHER_NAMES = {
    "settings": "overrides",  # --set
    "recipe show recipe": "source",
    "serve config": "engine",
    "serve model": "models",
}
"""Option of all commands or of one -> parameter, where the names differ."""
OUTPUT = {
    *("as_csv", "as_json", "eval confusion"),
    *("recipe show defaults", "train run plan", "train run profile"),  # these choose the function
}
"""Options that choose what is printed or drawn."""
ONLY_FROM_PYTHON = {
    "callback",
    "container",
    "progress",
    "say",
    "document_recipe recipe",
    "publish initial",
    "publish options",
    "ServerOptions arguments",
    "ServerOptions fixed",
    "ServerOptions ready_seconds",
    "Server options",
}
"""Parameters of all functions or of one that are no options."""
OTHER_DEFAULTS = {
    "train run stall_timeout": "a program may be ended, a notebook's process is the user's",
    "serve http_port": "a program listens on Triton's ports, tests and notebooks on free ones",
    "serve grpc_port": "as http_port",
    "serve metrics_port": "as http_port",
    "serve max_request": "in MiB on the command line",
    "bench run concurrency": "a list of typer has no other default than None",
}
"""Options whose default differs, with the reason."""


def commands(command: Any, path: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Yield each command with its parameters."""
    if children := getattr(command, "commands", None):
        for name, child in children.items():
            yield from commands(child, f"{path} {name}".strip())
    else:
        yield path, [one for one in command.params if one.name != "help"]


LEAVES = dict(commands(typer.main.get_command(app)))


def ranges(application: typer.Typer, path: str = "") -> Iterator[tuple[str, str, object]]:
    """Yield command, option and a value below or above its range."""
    for group in application.registered_groups:
        assert group.typer_instance is not None
        name = group.name or group.typer_instance.info.name
        yield from ranges(group.typer_instance, f"{path} {name}".strip())
    for command in application.registered_commands:
        assert command.callback is not None
        name = f"{path} {command.name or command.callback.__name__}".strip()
        for option, hint in get_type_hints(command.callback, include_extras=True).items():
            for info in getattr(hint, "__metadata__", ()):
                for limit, step in ((info.min, -1), (info.max, 1)):
                    if limit is not None:
                        yield name, option, [limit + step] if "list" in str(hint) else limit + step


def test_each_command_is_a_public_function() -> None:
    assert set(LEAVES) == set(COMMANDS)
    assert {name for names in COMMANDS.values() for name in names} <= set(shrinkserve.__all__)


def signature_of(path: str) -> dict[str, inspect.Parameter]:
    """Return the parameters of the functions of a command."""
    functions = [getattr(shrinkserve, name) for name in COMMANDS[path]]
    return {
        name: one for function in reversed(functions) for name, one in inspect.signature(function).parameters.items()
    }


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_options_of_command_are_parameters_of_function(path: str) -> None:
    parameters = signature_of(path)
    for option in LEAVES[path]:
        if {option.name, f"{path} {option.name}"} & OUTPUT:
            continue
        name = OTHER_NAMES.get(f"{path} {option.name}", OTHER_NAMES.get(option.name, option.name))
        assert name in parameters, f"{path}: {option.name}"
        default = parameters[name].default
        if f"{path} {option.name}" not in OTHER_DEFAULTS and default not in {None, (), inspect.Parameter.empty}:
            assert str(option.default) == str(default), f"{path}: {option.name}"


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_parameters_of_function_are_options_of_command(path: str) -> None:
    taken = {OTHER_NAMES.get(f"{path} {one.name}", OTHER_NAMES.get(one.name, one.name)) for one in LEAVES[path]}
    for function in COMMANDS[path]:
        for name in inspect.signature(getattr(shrinkserve, function)).parameters:
            assert name in taken or {name, f"{function} {name}"} & ONLY_FROM_PYTHON, f"{function}: {name}"


@pytest.mark.parametrize(("path", "option", "value"), list(ranges(app)))
def test_function_refuses_what_the_command_refuses(path: str, option: str, value: object) -> None:
    """The range of an option is checked before anything else, so the other arguments may be nonsense."""
    for name in COMMANDS[path]:
        function = getattr(shrinkserve, name)
        signature = inspect.signature(function)
        if option in signature.parameters:
            needed = [key for key, one in signature.parameters.items() if one.default is one.empty]
            arguments = {**dict.fromkeys(needed, "absent"), option: value}
            with pytest.raises(shrinkserve.errors.ConfigError, match=f"^{option}: "):
                list(function(**arguments))  # predict is a generator
            return
    raise AssertionError(f"{path} {option}")


def test_every_token_can_come_from_the_environment() -> None:
    tokens = {path: one.envvar for path, options in LEAVES.items() for one in options if one.name == "token"}
    assert set(tokens) >= {"bench run", "export", "repo publish", "repo rollback", "serve"}
    assert {str(name) for name in tokens.values()} == {"SHRINKSERVE_TOKEN"}
