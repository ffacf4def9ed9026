"""All stages on this machine: the function of the command `quickstart`.

Stages run as commands in processes of their own, so that a reader can repeat each of them. Only the server runs in
this process.
"""

from __future__ import annotations

import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from shrinkserve.data import open_dataset
from shrinkserve.errors import ShrinkServeError, check_range
from shrinkserve.paths import StrPath
from shrinkserve.serving.names import public_names
from shrinkserve.serving.server.server import ServerOptions, TritonServer


@dataclass
class QuickstartSummary:
    """Result of the quickstart.

    Attributes:
        stages: name and seconds of each command.
        paths: created files and folders by their meaning.
    """

    stages: list[tuple[str, float]] = field(default_factory=list)
    paths: dict[str, Path] = field(default_factory=dict)


def quickstart(
    folder: StrPath = "quickstart",
    *,
    recipe: str = "digits",
    min_top1: float = 0.95,
    window: float = 1.0,
    say: Callable[[str], None] = print,
) -> QuickstartSummary:
    """Create a dataset of digits, train, export, serve, predict, and verify the served model.

    Args:
        folder: receives all files.
        recipe: name of a recipe of the package for the digits.
        min_top1: required top-1 of the served model on the validation images, as a fraction.
        window: seconds of one measurement window of the load tests.
        say: prints a line. The commands print their output themselves.

    Returns:
        The time of each stage, and the created files.

    Raises:
        ConfigError: an option is out of range.
        ShrinkServeError: a stage failed and printed its own message. The server is stopped in any case.

    Example:
        >>> summary = quickstart("quickstart", recipe="smoke", min_top1=0.05)  # doctest: +SKIP
        >>> summary.paths["report"]  # doctest: +SKIP
        PosixPath('quickstart/report/report.html')
    """
    check_range(0, 1, min_top1=min_top1)
    check_range(0.1, window=window)
    folder = Path(folder)
    data, run, repository = folder / "data", folder / "runs" / recipe, folder / "model_repository"
    images, report, log = folder / "images", folder / "report", folder / "tritonserver.log"
    stages = Stages(say)
    stages.run("data", "digits", data)
    stages.run("train", recipe, "--data", data, "--out", run, "--overwrite")
    stages.run("export", run, "--data", data, "--repository", repository)
    with stages.serve(repository, recipe, log) as server:
        _write_images(data, images)
        stages.run("predict", images, "--url", server.grpc_url, "--top", 3)
        urls = ("--url", server.http_url, "--url", server.grpc_url)
        stages.run(
            *("bench", "--data", data, *urls, "--checkpoint", run, "--repository", repository),
            *("--min-top1", min_top1, "--window", window, "--out", report),
        )
    paths = {"data": data, "run": run, "model repository": repository, "server log": log}
    return QuickstartSummary(stages.seconds, {**paths, "report": report / "report.html"})


class Stages:
    """Runs commands of this package and measures their time.

    Attributes:
        seconds: name and seconds of each command.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.seconds: list[tuple[str, float]] = []
        self._say = say

    def run(self, *words: object) -> None:
        """Run a command to its end.

        Raises:
            ShrinkServeError: the command failed.
        """
        command = self._show(words)
        started = time.perf_counter()
        code = subprocess.run([sys.executable, "-m", "shrinkserve", *command], check=False).returncode
        if code:
            what = f"quickstart: `shrinkserve {command[0]}` ended with exit code {code}"
            error = ShrinkServeError(what, hint="see its message above")
            error.exit_code = code if code > 0 else 2
            raise error
        self.seconds.append((command[0], time.perf_counter() - started))

    @contextmanager
    def serve(self, repository: Path, model: str, log: Path) -> Iterator[TritonServer]:
        """Serve one model on free ports while the block runs."""
        ports = (word for service in ("http", "grpc", "metrics") for word in (f"--{service}-port", 0))
        self._show(("serve", "--repository", repository, "--model", model, "--log-file", log, *ports))
        started = time.perf_counter()
        options = ServerOptions(models=[model], log_file=log, fixed=True, token=secrets.token_urlsafe())
        with TritonServer(repository, options) as server:
            self._say(f"serving {', '.join(public_names(server.models))}; log: {server.log_file}")
            for url in (server.http_url, server.grpc_url, server.metrics_url):
                self._say(url)
            self.seconds.append(("serve", time.perf_counter() - started))
            yield server

    def _show(self, words: tuple[object, ...]) -> list[str]:
        command = [str(word) for word in words]
        self._say("")
        self._say(f"$ shrinkserve {shlex.join(command)}")
        return command


def _write_images(data: Path, folder: Path) -> None:
    """Write one validation image of each class as a file."""
    dataset = open_dataset(data, "validation")
    folder.mkdir(parents=True, exist_ok=True)
    missing = set(range(len(dataset.classes)))
    for index in range(len(dataset)):
        record = dataset.record(index)
        if record.label in missing:
            missing.discard(record.label)
            (folder / f"{dataset.classes[record.label]}.jpg").write_bytes(record.encoded)
