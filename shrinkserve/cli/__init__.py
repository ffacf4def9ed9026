"""The command line: parse, build a config, call one function. Nothing heavy is imported at module level."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, cast

import typer

from shrinkserve import __version__
from shrinkserve.cli import bench, compare, data, describe, export, predict, quickstart, recipe, repo, serve, train
from shrinkserve.errors import ShrinkServeError
from shrinkserve.text import printable

# typer carries click inside or beside itself, by version; its public names lead to the classes either way.
ClickError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[2])

# Modules that not every installation has -> the extra that brings them.
EXTRAS = dict.fromkeys(
    (
        *("crc32c", "matplotlib", "safetensors", "simplejpeg", "sklearn", "tensorboard", "torch"),
        *("hdrh", "jinja2", "onnx", "onnx_ir", "onnxscript", "pynvml", "scipy"),
    ),
    "cpu",
) | {"nvidia": "dali", "onnxruntime": "serve", "openvino": "openvino", "tensorrt": "tensorrt"}

# What the machine lacks is no bug of ours, wherever in a stage it is met; stages leave nothing half-made then.
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}

app = typer.Typer(
    name="shrinkserve",
    help="Train a compact image classifier, ship it to NVIDIA Triton, prove that production answers as training did.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (quickstart, describe, recipe, data, train, export, compare, repo, serve, predict, bench):
    module.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"shrinkserve {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a user error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,  # noqa: ARG001
) -> None:
    if debug:
        os.environ["SHRINKSERVE_DEBUG"] = "1"  # the environment, so that launched worker processes see it too
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 1 for a missed gate, 2 for a user's mistake, 130 for Ctrl-C."""
    try:
        result = app(argv, prog_name="shrinkserve", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except BrokenPipeError:  # the reader of a pipe, e.g. head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except ClickError as exc:
        return _explain_usage(exc, sys.argv[1:] if argv is None else argv)
    except (ShrinkServeError, ModuleNotFoundError, OSError) as exc:
        message = _explain(exc)
        if message is None or os.environ.get("SHRINKSERVE_DEBUG"):
            raise
        return _fail(message, getattr(exc, "exit_code", 2))


def _explain(error: Exception) -> str | None:
    """What a person can do about it; None for a bug."""
    if isinstance(error, ShrinkServeError):
        return str(error)
    if isinstance(error, OSError):
        place = error.filename or "what was to be written"
        room = f"{place}: {error.strerror}; free some room, or choose another place"
        return room if error.errno in NO_ROOM else None
    lacking = str(getattr(error, "name", "")).partition(".")[0]
    how = f"this needs {lacking}, which is not installed; pip install 'shrinkserve[{EXTRAS.get(lacking)}]'"
    return how if lacking in EXTRAS else None


def _explain_usage(error: typer.BadParameter, argv: list[str]) -> int:
    """One line for a misspelt command line; a group alone is answered with its commands."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else _named(argv)
    message = error.format_message()
    if context and message == context.get_help():
        typer.echo(message, err=True)
        return 2
    # typer has pydantic read the values and passes on its words, but not what was typed.
    if refused := getattr(error.__cause__, "errors", None):
        found = repr(refused()[0]["input"])
        message = message.replace("Value error, ", "")
        message = message if found in message else f"{message}, found {found}"
    return _fail(f"{message.rstrip('.')}; see `{command} --help`", 2)


def _named(argv: list[str]) -> str:
    """The command that a command line begins with, where its fault does not know it."""
    path, group = ["shrinkserve"], typer.main.get_command(app)
    for word in argv:
        if (command := getattr(group, "commands", {}).get(word)) is None:
            break
        path, group = [*path, word], command
    return " ".join(path)


def _fail(message: str, code: int) -> int:
    print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


def run() -> None:
    """The console script."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # it writes what a fault's one line says again, in its own way
    sys.exit(main())
