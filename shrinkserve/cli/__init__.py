"""The command line: parse, build a config, call one function. Nothing heavy is imported at module level."""

from __future__ import annotations

import os
import sys
from typing import Annotated, cast

import typer

from shrinkserve import __version__
from shrinkserve.cli import bench, data, describe, export, predict, quickstart, recipe, repo, serve, train
from shrinkserve.errors import ShrinkServeError

# typer carries click inside or beside itself, by version; its public names lead to the classes either way.
ClickError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[2])

app = typer.Typer(
    name="shrinkserve",
    help="Train a compact image classifier, ship it to NVIDIA Triton, prove that production answers as training did.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (quickstart, describe, recipe, data, train, export, repo, serve, predict, bench):
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
        result = app(argv, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except ShrinkServeError as fault:
        if os.environ.get("SHRINKSERVE_DEBUG"):
            raise
        return _fail(str(fault), fault.exit_code)
    except ClickError as fault:
        context = getattr(fault, "ctx", None)
        command = context.command_path if context else "shrinkserve"
        return _fail(f"{fault.format_message().rstrip('.')}; see `{command} --help`", 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of a pipe, e.g. head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _fail(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


def run() -> None:
    """The console script."""
    sys.exit(main())
