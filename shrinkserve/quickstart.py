"""The whole path on this machine: every stage a command that a reader can repeat."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from shrinkserve.data import open_dataset
from shrinkserve.errors import ServerError, ShrinkServeError
from shrinkserve.serving.server import supervisor

STOP_SECONDS = 30
"""How long the server may take to end in order."""


@dataclass(frozen=True)
class Settings:
    """What the quickstart does.

    Attributes:
        folder: where everything goes.
        recipe: name of a shipped recipe for the digits.
        min_top1: what the served model must reach on the validation images, as a fraction.
        window: seconds of one window of the load tests.
    """

    folder: Path
    recipe: str = "digits"
    min_top1: float = 0.97
    window: float = 1.0


@dataclass
class Summary:
    """What happened.

    Attributes:
        stages: the words of each command and its seconds.
        paths: what was made, by name.
    """

    stages: list[tuple[str, float]] = field(default_factory=list)
    paths: dict[str, Path] = field(default_factory=dict)


def run_quickstart(settings: Settings, say: Callable[[str], None]) -> Summary:
    """Data, training, export, server, prediction, proof.

    Args:
        settings: where and what.
        say: prints a line.

    Raises:
        ShrinkServeError: a stage failed; it has said why itself. The server is stopped in every case.
    """
    summary, folder = Summary(), settings.folder
    data, run, repository = folder / "data", folder / "runs" / settings.recipe, folder / "model_repository"
    images, report, log = folder / "images", folder / "report", folder / "tritonserver.log"
    stages = Stages(summary, say)
    stages.run("data", "digits", data)
    stages.run("train", settings.recipe, "--data", data, "--out", run, "--overwrite")
    stages.run("export", run, "--data", data, "--repository", repository)
    with stages.serve("--repository", repository, "--model", settings.recipe, "--log-file", log) as urls:
        http, grpc = urls
        _write_images(data, images)
        stages.run("predict", images, "--url", grpc, "--top", 3)
        stages.run(
            *("bench", "--data", data, "--url", http, "--url", grpc, "--checkpoint", run, "--repository", repository),
            *("--min-top1", settings.min_top1, "--window", settings.window, "--out", report),
        )
    summary.paths = {"data": data, "run": run, "model repository": repository, "server log": log}
    summary.paths["report"] = report / "report.html"
    return summary


class Stages:
    """Runs commands of this package as processes of their own, as a reader would."""

    def __init__(self, summary: Summary, say: Callable[[str], None]) -> None:
        self._summary, self._say = summary, say

    def run(self, *words: object) -> None:
        """Run a command to its end."""
        command = self._announce(words)
        started = time.perf_counter()
        code = subprocess.run([sys.executable, "-m", "shrinkserve", *command], check=False).returncode
        if code:
            error = ShrinkServeError(f"quickstart: `shrinkserve {command[0]}` ended with exit code {code}", hint=_AFTER)
            error.exit_code = code if code > 0 else 2
            raise error
        self._summary.stages.append((command[0], time.perf_counter() - started))

    @contextmanager
    def serve(self, *words: object) -> Iterator[list[str]]:
        """Run `shrinkserve serve` while the block runs; gives its HTTP and its gRPC URL."""
        command = self._announce(("serve", *words, "--http-port", 0, "--grpc-port", 0, "--metrics-port", 0))
        started = time.perf_counter()
        # The guard ends the server when this process dies, however that happens; the folder is what it removes then.
        scratch = tempfile.mkdtemp(prefix="shrinkserve-quickstart-")
        guarded = [sys.executable, "-I", supervisor.__file__, str(os.getpid()), scratch]
        guarded += [sys.executable, "-m", "shrinkserve", *command]
        server = subprocess.Popen(guarded, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            urls = self._urls(server)
            self._summary.stages.append(("serve", time.perf_counter() - started))
            yield urls
        finally:
            server.terminate()
            try:
                server.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()

    def _urls(self, server: subprocess.Popen[str]) -> list[str]:
        assert server.stdout is not None
        found: dict[str, str] = {}
        for line in server.stdout:
            self._say(line.rstrip())
            found.setdefault(line.partition(":")[0], line.strip())
            if {"http", "grpc"} <= found.keys():
                return [found["http"], found["grpc"]]
        raise ServerError("quickstart: the server ended before it was ready", hint=_AFTER)

    def _announce(self, words: tuple[object, ...]) -> list[str]:
        command = [str(word) for word in words]
        self._say("")
        self._say(f"$ shrinkserve {shlex.join(command)}")
        return command


_AFTER = "its own message is above"


def _write_images(data: Path, folder: Path) -> None:
    """One validation image a class, as files that `predict` can be given."""
    dataset = open_dataset(data, "validation")
    folder.mkdir(parents=True, exist_ok=True)
    wanted = set(range(len(dataset.classes)))
    for index in range(len(dataset)):
        record = dataset.record(index)
        if record.label in wanted:
            wanted.discard(record.label)
            (folder / f"{dataset.classes[record.label]}.jpg").write_bytes(record.encoded)
