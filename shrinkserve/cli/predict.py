"""`shrinkserve predict`."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from shrinkserve.errors import ConfigError, DataError
from shrinkserve.terminal import print_line
from shrinkserve.text import printable, spreadsheet_cell

if TYPE_CHECKING:
    from shrinkserve.serving.client.prediction import ClassifyResult

SHOWN = 100
"""Most errors of images that are listed."""
UNSURE = "unsure"
"""Label of an image whose best class is less probable than required."""


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    app.command()(predict)


def predict(  # noqa: PLR0913, PLR0917 - a command's options
    images: Annotated[
        list[str],
        typer.Argument(help="Images, folders, patterns such as 'photos/*.jpg'; - reads a list from standard input."),
    ],
    url: Annotated[
        str | None, typer.Option(help="grpc://HOST:PORT or http://HOST:PORT; by default grpc://127.0.0.1:8001.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Name of a served model; may be omitted when one is served. "
            "A run folder, version folder or ONNX file is run without a server."
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes per image.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one line per class.")] = False,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds that one request may take.")] = 60.0,
    priority: Annotated[int, typer.Option(min=0, help="1 is served first; 0: the model's default.")] = 0,
    encoded: Annotated[bool, typer.Option("--encoded", help="Let the server decode the images.")] = False,
    min_confidence: Annotated[
        float, typer.Option(min=0, max=1, help="Print 'unsure' if the best class has a lower probability.")
    ] = 0.0,
) -> None:
    """Classify images with a running server or a local model."""
    from shrinkserve.api.image_paths import expand_images
    from shrinkserve.api.predict import predict as classify

    if as_json and as_csv:
        raise ConfigError("--json and --csv", expected="one of them")
    if sys.stdout is None:
        raise ConfigError("standard output is closed", hint="redirect it to a file")
    found = expand_images(images)
    write = _write_json if as_json else _write_csv if as_csv else _write_table
    results = classify(
        found.paths,
        url=url,
        model=model,
        top=top,
        timeout=timeout,
        priority=priority,
        encoded=encoded,
        min_confidence=min_confidence,
    )
    errors: list[DataError] = []
    write(_collecting_errors(results, errors))
    if found.skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(found.skipped.items()))
        print_line(f"skipped {found.skipped.total()} files: {reasons}", err=True)
    _report(errors)


def _collecting_errors(results: Iterable[ClassifyResult], errors: list[DataError]) -> Iterator[ClassifyResult]:
    for result in results:
        if result.error is not None:
            errors.append(result.error)
        yield result


def _report(errors: list[DataError]) -> None:
    """Raise the only error, or list the errors and raise their number."""
    if len(errors) == 1:
        raise errors[0]
    for error in errors[:SHOWN]:
        print_line(f"error: {' '.join(str(error).split())}", err=True)
    if errors:
        hint = "see the lines above" if len(errors) <= SHOWN else f"see the first {SHOWN} above"
        raise DataError(f"{len(errors)} images could not be classified", hint=hint)


def _write_table(results: Iterable[ClassifyResult]) -> None:
    for result in results:
        if result.predictions:
            print_line(printable(result.name) + ("  unsure" if result.unsure else ""))
        for label, probability in result.predictions:
            print_line(f"  {probability:8.2%}  {printable(label)}")


def _write_csv(results: Iterable[ClassifyResult]) -> None:
    def print_row(*cells: object) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(cells)
        print_line(line.getvalue())

    print_row("image", "model", "version", "rank", "label", "probability")
    for result in results:
        rows = [(UNSURE, result.predictions[0].probability)] if result.unsure else result.predictions
        for rank, (label, probability) in enumerate(rows, 1):
            name, model, shown = (spreadsheet_cell(printable(text)) for text in (result.name, result.model, label))
            print_row(name, model, result.version, rank, shown, f"{probability:.8g}")


def _write_json(results: Iterable[ClassifyResult]) -> None:
    """Print one array with an element per line as the results come; it is complete also after an error."""
    ascii_only = "utf" not in (sys.stdout.encoding or "").lower()
    separator = "["
    try:
        for result in results:
            record: dict[str, object] = {"image": result.name, "model": result.model}
            if result.error is not None:
                record["error"] = str(result.error)
            else:
                record["version"] = result.version
                if result.unsure:
                    record["unsure"] = True
                record["top"] = [{"label": label, "probability": value} for label, value in result.predictions]
            text = printable(f"{separator}\n {json.dumps(record, ensure_ascii=ascii_only)}", keep="\n\t")
            try:
                sys.stdout.write(text)
                sys.stdout.flush()
            finally:  # Ctrl-C may come while it prints
                separator = ","
    finally:
        if separator == ",":
            print_line("\n]")
    if separator == "[":
        print_line("[]")
