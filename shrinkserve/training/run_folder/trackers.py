"""Copies of a run's metrics in Weights & Biases or MLflow."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from shrinkserve.atomic import unwritable, write_atomic
from shrinkserve.config import Recipe
from shrinkserve.config.keys import flatten
from shrinkserve.errors import ConfigError, ShrinkServeError
from shrinkserve.text import printable

LoggerName = Literal["wandb", "mlflow"]
STATUS = {False: "FINISHED", True: "FAILED"}
"""MLflow's words, by whether the run failed."""
HINTS: dict[LoggerName, str] = {
    "wandb": "run `wandb login`, or set WANDB_MODE=offline",
    "mlflow": "set MLFLOW_TRACKING_URI to the URL of a tracking server",
}
FOLDER, RUN_ID = "logger", "{}-id"
"""Folder in the run's folder; it has the tracker's id of the run, so that a resumed run continues there."""


@dataclass(frozen=True)
class _Session:
    """A run of a tracker: its id, and functions that log figures at a step and end the run."""

    id: str
    log: Callable[[dict[str, float], int], object]
    finish: Callable[[bool], object]


class Tracker:
    """Copy metrics to a tracker. If it fails later, a message says so and the training goes on.

    Args:
        name: of the tracker.
        out: the run's folder.
        recipe: logged as the run's parameters.
        say: called with a message.

    Raises:
        ShrinkServeError: the tracker cannot begin, for example without a login or a connection.
    """

    def __init__(self, name: LoggerName, out: Path, recipe: Recipe, say: Callable[[str], None]) -> None:
        self._name, self._say = name, say
        known = out / FOLDER / RUN_ID.format(name)
        with unwritable(known):
            known.parent.mkdir(exist_ok=True)
        saved = known.read_text(encoding="utf-8") if known.is_file() else None
        try:
            self._session: _Session | None = {"wandb": _wandb, "mlflow": _mlflow}[name](out, recipe, saved)
        except Exception as exc:
            raise ShrinkServeError(f"{name}: cannot log the run ({_line(exc)})", hint=HINTS[name]) from exc
        write_atomic(known, self._session.id.encode())

    def write(self, figures: dict[str, float], step: int) -> None:
        """Log figures at a step."""
        self._call(lambda session: session.log(figures, step))

    def close(self, *, failed: bool) -> None:
        """End the tracker's run."""
        self._call(lambda session: session.finish(failed))

    def _call(self, work: Callable[[_Session], object]) -> None:
        if self._session is None:
            return
        try:
            work(self._session)
        except Exception as exc:  # noqa: BLE001 - a tracker must not end the training
            self._session = None
            self._say(
                f"{self._name}: logging stopped ({_line(exc)}); metrics.jsonl in the run's folder has all figures"
            )


def check_logger(name: str | None) -> None:
    """Check that a tracker can be imported.

    Raises:
        ConfigError: no such tracker, or it is not installed.
    """
    if name is not None and name not in get_args(LoggerName):
        raise ConfigError("logger", expected=" or ".join(get_args(LoggerName)), found=name)
    if name is not None and find_spec(name) is None:
        raise ConfigError(f"{name} is not installed", hint=f"pip install 'shrinkserve[{name}]'")


def _line(error: Exception) -> str:
    return printable(" ".join(str(error).split()))[:300]


def _wandb(out: Path, recipe: Recipe, saved: str | None) -> _Session:
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", recipe.name),
        name=os.environ.get("WANDB_NAME", out.resolve().name),
        config=recipe.to_dict(),
        dir=out / FOLDER,
        id=saved,
        resume="allow",
        settings=wandb.Settings(console="off"),
    )
    return _Session(run.id, run.log, lambda failed: run.finish(exit_code=int(failed)))


def _mlflow(out: Path, recipe: Recipe, saved: str | None) -> _Session:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    # By default a server that is gone stops the training for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    client = MlflowClient()
    if saved is None:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", recipe.name)
        found = client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else client.create_experiment(experiment)
        saved = client.create_run(number, run_name=out.resolve().name).info.run_id
        client.log_batch(saved, params=[Param(key, str(value)) for key, value in flatten(recipe.to_dict()).items()])
    else:
        client.update_run(saved, "RUNNING")

    def log(run: str, figures: dict[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        client.log_batch(run, metrics=[Metric(key, value, now, step) for key, value in figures.items()])

    return _Session(saved, partial(log, saved), lambda failed: client.set_terminated(saved, STATUS[failed]))
