"""The choice of ``data.loader=auto``: the faster loader, measured once per machine.

Both loaders give the same images up to rounding, so a run keeps its loader: checkpoints record it. The speeds are kept
in the user's cache folder, with all that they depend on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from platformdirs import user_cache_path

from shrinkserve.artifact import utc_now
from shrinkserve.atomic import write_atomic
from shrinkserve.config import Recipe
from shrinkserve.data import Dataset
from shrinkserve.data.loaders import LoaderName, available_workers, dali_installed
from shrinkserve.data.loading.augment import changes_colour
from shrinkserve.errors import ArtifactError, ConfigError, DataError
from shrinkserve.machine import cpu_name, usable_cores
from shrinkserve.toml import validate
from shrinkserve.training.loader_speed import JOB, SPEED, LoaderSpeed, SpeedJob
from shrinkserve.training.processes.distributed import DistContext

LOADERS: tuple[LoaderName, ...] = get_args(LoaderName)
CACHE = user_cache_path("shrinkserve") / "loaders"
LIMIT_SECONDS = 15.0
"""Time for one loader, with the start of its process."""
ADVANTAGE = 1.05
"""DALI must be faster by this factor: a measurement of seconds has noise, and the portable loader is exact."""
SAMPLE = 32
"""Images whose size on disk is looked at."""


@dataclass(frozen=True)
class Conditions:
    """Conditions on which the speeds of the loaders depend.

    Attributes:
        version: of this package.
        dali: version of NVIDIA DALI.
        cpu: model of the processor.
        cores: that this process may use.
        gpu: model of the GPU; empty without one.
        workers: loader processes or threads.
        image_size: of the augmented images.
        batch_size: of a process.
        colour: the augmentation changes colours.
        encoded_bytes: typical size of an image on disk, a power of two.
    """

    version: str
    dali: str
    cpu: str
    cores: int
    gpu: str
    workers: int
    image_size: int
    batch_size: int
    colour: bool
    encoded_bytes: int

    @property
    def file(self) -> Path:
        """File that keeps the speeds under these conditions."""
        return CACHE / f"{hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]}.json"


@dataclass(frozen=True)
class MeasuredSpeeds:
    """Images/s of both loaders on this machine."""

    conditions: Conditions
    portable: float
    dali: float
    measured: str

    @property
    def faster(self) -> LoaderName:
        """The loader to use."""
        return "dali" if self.dali > ADVANTAGE * self.portable else "portable"


@dataclass(frozen=True)
class LoaderChoice:
    """A loader, and why it was chosen."""

    loader: LoaderName
    reason: str

    def __str__(self) -> str:
        return f"{self.loader} ({self.reason})"


def choose_loader(recipe: Recipe, training: Dataset, ranks: DistContext, say: Callable[[str], None]) -> LoaderName:
    """Return the loader of a run, the same on all ranks: rank 0 measures where the recipe says "auto". Collective.

    Args:
        recipe: the run.
        training: training images.
        ranks: the processes of the run.
        say: called on rank 0 with the choice.
    """
    if recipe.data.loader != "auto":
        return recipe.data.loader
    number = 0
    if ranks.first:
        choice = faster_loader(recipe, training)
        say(f"loader: {choice}")
        number = LOADERS.index(choice.loader)
    return LOADERS[ranks.highest(number)]


def faster_loader(recipe: Recipe, training: Dataset) -> LoaderChoice:
    """Choose the faster loader; measure both unless that was done on this machine before. Takes at most 30 seconds."""
    known = known_choice(recipe, training)
    if known is not None:
        return known
    speeds = {name: _measure(recipe, training.root, name) for name in LOADERS}
    failed = [f"{name} failed: {speed.error}" for name, speed in speeds.items() if speed.error]
    if failed:
        return LoaderChoice("portable" if speeds["dali"].error else "dali", "; ".join(failed))
    portable, dali = (speeds[name].images_per_second for name in LOADERS)
    found = MeasuredSpeeds(_conditions(recipe, training), portable, dali, utc_now())
    with suppress(ArtifactError):  # a home that cannot be written: the next run measures again
        write_atomic(found.conditions.file, (json.dumps(asdict(found), indent=1) + "\n").encode())
    return _choice(found, "now")


def known_choice(recipe: Recipe, training: Dataset, workers: int | None = None) -> LoaderChoice | None:
    """Return the choice that needs no measurement; None if one is needed.

    Args:
        recipe: the run.
        training: training images.
        workers: loader processes per training process. Default: as many as this process would use.
    """
    if not dali_installed():
        return LoaderChoice("portable", "NVIDIA DALI is not installed")
    if recipe.augment.rand_augment:
        return LoaderChoice("portable", "DALI's loader has no RandAugment")
    conditions = _conditions(recipe, training, workers)
    try:
        text = conditions.file.read_text(encoding="utf-8")
        found = validate(MeasuredSpeeds, json.loads(text), str(conditions.file))
    except (OSError, ValueError, ConfigError):  # absent, or damaged: it is written again
        return None
    return _choice(found, f"on {found.measured[:10]}") if found.conditions == conditions else None


def _choice(found: MeasuredSpeeds, when: str) -> LoaderChoice:
    reason = f"images/s: portable {found.portable:,.0f}, dali {found.dali:,.0f}; measured {when}"
    return LoaderChoice(found.faster, reason)


def _conditions(recipe: Recipe, training: Dataset, workers: int | None = None) -> Conditions:
    own = available_workers() if workers is None else workers
    return Conditions(
        version=_version("shrinkserve"),
        dali=_version("nvidia-dali-cuda120") + _version("nvidia-dali-cuda130"),
        cpu=cpu_name(),
        cores=usable_cores(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        workers=own if recipe.data.workers is None else recipe.data.workers,
        image_size=recipe.model.input_size,
        batch_size=recipe.train.batch_size,
        colour=changes_colour(recipe.augment),
        encoded_bytes=_typical_bytes(training),
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _typical_bytes(training: Dataset) -> int:
    """Return the mean size of some images on disk, as the nearest power of two."""
    sizes = []
    for index in np.linspace(0, len(training) - 1, SAMPLE).astype(int).tolist():
        with suppress(DataError):  # a run may allow for bad images
            sizes.append(len(training.record(index).encoded))
    return 2 ** round(math.log2(max(1.0, float(np.mean(sizes))))) if sizes else 0


def _measure(recipe: Recipe, data: Path, name: LoaderName) -> LoaderSpeed:
    """Measure a loader in a separate process, which this function ends in any case."""
    measured = replace(recipe, data=replace(recipe.data, loader=name))
    job = SpeedJob(measured.to_dict(), str(data), 2 * LIMIT_SECONDS)
    with tempfile.TemporaryDirectory(prefix="shrinkserve-") as folder:
        (Path(folder) / JOB).write_text(json.dumps(asdict(job)), encoding="utf-8")
        command = [sys.executable, "-m", "shrinkserve.training.loader_speed", folder]
        # A separate session: Ctrl-C stops the run after an update, and must not look like a loader that fails.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(LIMIT_SECONDS)
            return _result(Path(folder) / SPEED, process.returncode)
        except subprocess.TimeoutExpired:
            return LoaderSpeed(error=f"no result after {LIMIT_SECONDS:g} s")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _result(file: Path, code: int) -> LoaderSpeed:
    try:
        return validate(LoaderSpeed, json.loads(file.read_text(encoding="utf-8")), file.name)
    except (OSError, ValueError, ConfigError):
        return LoaderSpeed(error=f"its process ended with exit code {code}")
