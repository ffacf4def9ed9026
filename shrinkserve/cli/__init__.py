"""Command line. A command parses its options, calls one public function and prints the result.

Heavy libraries are imported inside the commands, so that `--help` is fast.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Annotated

import typer

from shrinkserve import __version__
from shrinkserve.cli import (
    bench,
    compare,
    data,
    describe,
    export,
    imports,
    predict,
    quickstart,
    recipe,
    repo,
    serve,
    train,
)
from shrinkserve.errors import ShrinkServeError
from shrinkserve.garbage import collect_rarely
from shrinkserve.text import printable

# Optional module -> the extra of this package that installs it.
EXTRAS = dict.fromkeys(
    (
        *("crc32c", "matplotlib", "safetensors", "simplejpeg", "sklearn", "tensorboard", "torch"),
        *("hdrh", "jinja2", "onnx", "onnx_ir", "onnxscript", "pynvml", "scipy"),
    ),
    "cpu",
) | {"nvidia": "dali", "onnxruntime": "serve", "openvino": "openvino", "tensorrt": "tensorrt"}

# Errors of the disk, which can occur anywhere. Stages leave no incomplete files.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}

RUNTIMES = (
    *("numpy", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt"),
    *("nvidia-dali-cuda120", "nvidia-dali-cuda130", "tritonclient"),
)

INTERRUPTED = 130
"""Exit code after Ctrl-C, as of a shell."""

app = typer.Typer(
    name="shrinkserve",
    help="Train a compact image classifier, deploy it to NVIDIA Triton, and verify its predictions.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (quickstart, describe, recipe, data, imports, train, export, compare, repo, serve, predict, bench):
    module.register(app)


def _print_version(wanted: bool) -> None:
    """Print the versions of this package, of Python and of the installed runtimes."""
    if wanted:
        from shrinkserve.artifact import versions

        for name, version in {"shrinkserve": __version__, **versions(RUNTIMES)}.items():
            typer.echo(f"{name} {version}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if debug:
        os.environ["SHRINKSERVE_DEBUG"] = "1"  # worker processes inherit it
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 1 for a missed gate, 2 for an error, 130 for Ctrl-C."""
    try:
        result = app(argv, prog_name="shrinkserve", standalone_mode=False)
        if result == INTERRUPTED:  # typer turns Ctrl-C into this exit code
            return _fail("interrupted", INTERRUPTED)
        return result if isinstance(result, int) else 0
    except SystemExit as exc:
        if not isinstance(exc.__context__, BrokenPipeError):
            raise
        # The reader of the output has ended, e.g. `| head`. typer exits with 1 then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED)
    except typer.TyperException as exc:
        return _explain_usage(exc, sys.argv[1:] if argv is None else argv)
    except (ShrinkServeError, ModuleNotFoundError, OSError, MemoryError) as exc:
        message = _explain(exc)
        if message is None or os.environ.get("SHRINKSERVE_DEBUG"):
            raise
        code = _fail(message, getattr(exc, "exit_code", 2))
        for note in getattr(exc, "__notes__", ()):
            print(f"note: {printable(' '.join(note.split()))}", file=sys.stderr)
        return code


def _explain(error: Exception) -> str | None:
    """Return the message for the user; None if the error is a bug."""
    if isinstance(error, ShrinkServeError):
        return str(error)
    if isinstance(error, MemoryError):
        return "out of memory; give this process more memory, or smaller batches"
    if isinstance(error, OSError):
        place = error.filename or "output file"
        message = f"{place}: {error.strerror}; free some space or choose another path"
        return message if error.errno in DISK_ERRORS else None
    missing = str(getattr(error, "name", "")).partition(".")[0]
    message = f"{missing} is not installed; pip install 'shrinkserve[{EXTRAS.get(missing)}]'"
    return message if missing in EXTRAS else None


def _explain_usage(error: typer.TyperException, argv: list[str]) -> int:
    """Print one line for an invalid command line, or the commands of a group that was given without one."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else _command_path(argv)
    message = error.format_message()
    if context and message == context.get_help():
        typer.echo(message, err=True)
        return 2
    # typer parses values with pydantic; its message may lack the value.
    if errors := getattr(error.__cause__, "errors", None):
        found = repr(errors()[0]["input"])
        message = message.replace("Value error, ", "")
        message = message if found in message else f"{message}, found {found}"
    return _fail(f"{message.rstrip('.')}; see `{command} --help`", 2)


def _command_path(argv: list[str]) -> str:
    """Return the command that a command line starts with."""
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
    """Run the console script."""
    collect_rarely()
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # it would repeat our error messages
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None if it is closed
            stream.reconfigure(errors="backslashreplace")  # names of files may contain any bytes
    sys.exit(main())
