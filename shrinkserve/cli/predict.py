"""`shrinkserve predict`."""

from __future__ import annotations

import csv
import glob
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shrinkserve.cli.output import say
from shrinkserve.errors import ConfigError, DataError
from shrinkserve.text import printable, spreadsheet_cell

if TYPE_CHECKING:
    from shrinkserve.serving.client.prediction import ClassifyResult


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    app.command()(predict)


def predict(  # noqa: PLR0913, PLR0917 - a command's options
    images: Annotated[
        list[str], typer.Argument(help="Images, folders of images, patterns such as 'photos/*.jpg'; - reads paths.")
    ],
    url: Annotated[str, typer.Option(help="grpc://HOST:PORT or http://HOST:PORT.")] = "grpc://127.0.0.1:8001",
    model: Annotated[str | None, typer.Option(help="Model name; may be left out when one is served.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes an image.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a line a class.")] = False,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds that one request may take.")] = 60.0,
    priority: Annotated[int, typer.Option(min=0, help="1 is served first; 0: the model's default.")] = 0,
    encoded: Annotated[bool, typer.Option("--encoded", help="Have the server decode the images.")] = False,
) -> None:
    """Classify images with a running server. They are prepared as the model's contract says."""
    from shrinkserve.serving.client.client import Client

    if as_json and as_csv:
        raise ConfigError("--json and --csv", expected="one of them")
    paths = _expand(images)
    write = _write_json if as_json else _write_csv if as_csv else _write_table
    faults: list[DataError] = []
    with Client(url, timeout=timeout) as client:
        name = model or client.only_model()
        stream = client.stream_encoded if encoded else client.stream
        write(_noting_faults(stream(paths, name, top=top, priority=priority), faults), name)
    _report(faults)


def _expand(words: list[str]) -> Iterator[Path]:
    """Paths of images: each word a file, a folder, a pattern, or - for paths on standard input, a line each.

    Raises:
        DataError: a file or folder that is not there, or a pattern that nothing matches: before any work is done.
    """
    return chain.from_iterable([_expand_one(word) for word in words])


def _expand_one(word: str) -> Iterable[Path]:
    from shrinkserve.preprocess import find_images

    if word == "-":
        return (Path(line.rstrip("\n")) for line in sys.stdin if line.strip())
    if not glob.has_magic(word) or Path(word).exists():
        return find_images([Path(word)])
    matches = sorted(glob.glob(word, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    if not matches:
        raise DataError(f"{word}: no file matches", hint="check the pattern")
    return find_images(map(Path, matches))


def _noting_faults(outcomes: Iterable[ClassifyResult], faults: list[DataError]) -> Iterator[ClassifyResult]:
    for outcome in outcomes:
        if outcome.error is not None:
            faults.append(outcome.error)
        yield outcome


def _report(faults: list[DataError]) -> None:
    """Fail with the one fault, or list them and fail with their number."""
    if len(faults) == 1:
        raise faults[0]
    for error in faults:
        say(f"error: {' '.join(str(error).split())}", err=True)
    if faults:
        raise DataError(f"{len(faults)} images could not be classified", hint="see the lines above")


def _write_table(outcomes: Iterable[ClassifyResult], model: str) -> None:  # noqa: ARG001
    for outcome in outcomes:
        if outcome.predictions:
            say(printable(outcome.name))
        for label, probability in outcome.predictions:
            say(f"  {probability:8.2%}  {printable(label)}")


def _write_csv(outcomes: Iterable[ClassifyResult], model: str) -> None:
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["image", "model", "version", "rank", "label", "probability"])
    for outcome in outcomes:
        for rank, (label, probability) in enumerate(outcome.predictions, 1):
            texts = [spreadsheet_cell(printable(text)) for text in (outcome.name, model, label)]
            rows.writerow([*texts[:2], outcome.version, rank, texts[2], f"{probability:.8g}"])


def _write_json(outcomes: Iterable[ClassifyResult], model: str) -> None:
    """One array, an element a line, written as the answers come; whole also where a server dies on the way."""
    separator = "[\n"
    try:
        for outcome in outcomes:
            record: dict[str, object] = {"image": outcome.name, "model": model}
            if outcome.error is not None:
                record["error"] = str(outcome.error)
            else:
                record["version"] = outcome.version
                record["top"] = [{"label": label, "probability": value} for label, value in outcome.predictions]
            say(f"{separator} {json.dumps(record, ensure_ascii=False)}", nl=False)
            separator = ",\n"
    finally:
        if separator == ",\n":
            typer.echo("\n]")
    if separator == "[\n":
        typer.echo("[]")
