"""Train and profile: the public functions, for one process or several on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from shrinkserve.config import Recipe, load_recipe
from shrinkserve.errors import ConfigError, check_range
from shrinkserve.paths import StrPath
from shrinkserve.runtimes.predictor import Predictor
from shrinkserve.training.events import Callback
from shrinkserve.training.options import TrainOptions
from shrinkserve.training.profile import StepProfile, profile_here
from shrinkserve.training.run_folder.result import TrainResult
from shrinkserve.training.run_folder.trackers import LoggerName, check_logger
from shrinkserve.training.session import train_here


def train(  # noqa: PLR0913 - the options of the command
    recipe: Recipe | StrPath,
    data: StrPath,
    out: StrPath | None = None,
    *,
    overrides: Sequence[str] | Mapping[str, object] = (),
    nproc: int = 1,
    max_restarts: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    allow_recipe_change: bool = False,
    init: StrPath | None = None,
    teacher: StrPath | Predictor | None = None,
    stall_timeout: float = 0.0,
    logger: LoggerName | None = None,
    callback: Callback | None = None,
) -> TrainResult:
    """Train a network and write its run folder: ``shrinkserve train``.

    On a CPU, set the environment variable ``OMP_WAIT_POLICY=passive`` before torch is imported, as the command does:
    otherwise OpenMP's threads spin while they wait and take the cores from the loader.

    Args:
        recipe: a recipe, the path of a recipe file, or the name of a shipped recipe.
        data: root of the dataset: TFRecord shards or an image folder.
        out: the run's folder. Default: ``runs/NAME``.
        overrides: recipe keys to change, see `load_recipe`.
        nproc: processes on this machine, one per GPU.
        max_restarts: with `nproc`, how often all processes start again after one was lost.
        resume: continue the run in `out`, or start one if there is none.
        overwrite: replace the run in `out`. It is removed when the new one has a checkpoint.
        allow_recipe_change: with `resume`, the recipe may differ from the one in `out`.
        init: run folder, checkpoint or safetensors file whose weights a new run begins with. Tensors that do not fit,
            such as the classifier for other classes, stay random.
        teacher: artifact or predictor with the same classes whose logits the network learns to reproduce as well, see
            the section `distill` of the recipe. A predictor works with ``nproc=1`` only.
        stall_timeout: end this process if it makes no progress for so many seconds; 0: never.
        logger: also log the metrics to Weights & Biases or MLflow, with the settings of their environment variables.
        callback: called with a `TrainEvent` for each update, epoch and message. Default: print progress. A callback
            works with ``nproc=1`` only.

    Returns:
        The run, with the figures of the EMA weights on the validation split. It can be passed as a path.

    Raises:
        Stopped: SIGTERM or SIGINT; a checkpoint was written.
        ConfigError: the recipe or the options are not valid, or `out` has another run.
        SpecError: no such network.
        DataError: missing, damaged or unsuitable data.
        ArtifactError: `out` cannot be written, or a checkpoint is damaged.
        ShrinkServeError: the run diverged, or a process was lost.

    Example:
        >>> import shrinkserve as ss
        >>> run = ss.train("digits", data="data", out="runs/digits")  # doctest: +SKIP
        >>> run.top1  # doctest: +SKIP
        0.978
    """
    check_range(1, nproc=nproc)
    check_range(0, max_restarts=max_restarts, stall_timeout=stall_timeout)
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite exclude each other", hint="give one of them")
    check_logger(logger)
    loaded = resolve_recipe(recipe, overrides)
    folder = Path(out) if out is not None else Path("runs") / loaded.name
    several = nproc > 1 and "RANK" not in os.environ
    path, predictor = _split_teacher(teacher, several=several)
    options = TrainOptions(
        resume=resume,
        overwrite=overwrite,
        allow_recipe_change=allow_recipe_change,
        stall_timeout=stall_timeout or None,
        init=None if init is None else os.fspath(init),
        teacher=path,
        logger=logger,
    )
    if several:
        if callback is not None:
            raise ConfigError(
                "callback", expected="nproc=1 with it", found=nproc, hint="leave it out to print progress"
            )
        from shrinkserve.training.launch import launch_training

        return launch_training(loaded, Path(data), folder, options, nproc=nproc, max_restarts=max_restarts)
    return train_here(loaded, Path(data), folder, options, callback, predictor)


def _split_teacher(teacher: StrPath | Predictor | None, *, several: bool) -> tuple[str | None, Predictor | None]:
    """Return a teacher as the path of an artifact or as a predictor; the other one is None.

    Raises:
        ConfigError: a predictor, which several processes cannot share, or a URL.
    """
    if isinstance(teacher, str) and "://" in teacher:
        hint = "open a served model with shrinkserve.load(URL, model=NAME)"
        raise ConfigError("teacher", expected="the path of an artifact, or a predictor", found=teacher, hint=hint)
    if teacher is None or isinstance(teacher, str | os.PathLike):
        return None if teacher is None else os.fspath(teacher), None
    if several:
        raise ConfigError("teacher", expected="the path of an artifact with nproc > 1", found=teacher.name)
    return None, teacher


def resolve_recipe(recipe: Recipe | StrPath, overrides: Sequence[str] | Mapping[str, object] = ()) -> Recipe:
    """Return a recipe with overrides.

    Raises:
        ConfigError: see `load_recipe`.
    """
    if not isinstance(recipe, Recipe):
        return load_recipe(recipe, overrides)
    if not overrides:
        return recipe
    raise ConfigError("overrides", expected="a recipe's name or file", hint="use load_recipe(source, overrides)")


def profile_training(
    recipe: Recipe | StrPath,
    data: StrPath,
    *,
    nproc: int = 1,
    teacher: StrPath | Predictor | None = None,
) -> StepProfile:
    """Profile updates: ``train --profile``. Writes nothing.

    Args:
        recipe: the run, or what `load_recipe` takes.
        data: root of the dataset.
        nproc: processes on this machine.
        teacher: as for `train`. Its part is the time of its logits alone; in training a thread computes them.

    Returns:
        Medians over some updates, single parts and complete updates in turn.

    Raises:
        ConfigError, SpecError, DataError: the run is not possible.

    Example:
        >>> import shrinkserve as ss
        >>> ss.profile_training("digits", "data").images_per_second  # doctest: +SKIP
        415.2
    """
    check_range(1, nproc=nproc)
    loaded = resolve_recipe(recipe)
    several = nproc > 1 and "RANK" not in os.environ
    path, predictor = _split_teacher(teacher, several=several)
    if several:
        from shrinkserve.training.launch import launch_profile

        return launch_profile(loaded, Path(data), nproc=nproc, teacher=path)
    return profile_here(loaded, Path(data), predictor or path)
