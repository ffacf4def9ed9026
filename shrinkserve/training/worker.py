"""Training process of a launch: ``python -m shrinkserve.training.worker FOLDER``.

Results and errors go through files in FOLDER, so that the launcher reports an error once.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from shrinkserve.config import parse_recipe
from shrinkserve.errors import ShrinkServeError
from shrinkserve.garbage import collect_rarely
from shrinkserve.toml import validate
from shrinkserve.training.options import TrainOptions

if TYPE_CHECKING:
    from shrinkserve.training.profile import StepProfile

JOB, PROFILE, ERRORS = "job.json", "profile.json", "error-*.json"


@dataclass(frozen=True)
class Job:
    """Work of all processes of a launch.

    Attributes:
        command: command line of the launcher, for the record.
        recipe: `Recipe.to_dict`.
        data: root of the dataset.
        out: the run's folder.
        options: of the start of a run; a profile uses the teacher only.
        profile: profile updates instead of training.
    """

    command: list[str]
    recipe: dict[str, object]
    data: str
    out: str
    options: TrainOptions
    profile: bool = False


class ErrorRecord(TypedDict):
    """An error of a process: class name in `shrinkserve.errors`, and message."""

    kind: str
    message: str


def read_error(folder: Path) -> ErrorRecord | None:
    """Return the error that a process reported first."""
    files = sorted(folder.glob(ERRORS), key=lambda path: path.stat().st_mtime_ns)
    return json.loads(files[0].read_text(encoding="utf-8")) if files else None


def read_profile(folder: Path) -> StepProfile:
    """Return the profile that rank 0 measured."""
    from shrinkserve.training.profile import StepProfile

    return validate(StepProfile, json.loads((folder / PROFILE).read_text(encoding="utf-8")), PROFILE)


def main(folder: Path) -> int:
    """Run the job in `folder`; return the exit code."""
    from shrinkserve.training.loop import Stopped

    try:
        _run(folder)
    except Stopped as exc:
        return 128 + exc.signal
    except ShrinkServeError as exc:
        _write(folder / ERRORS.replace("*", _rank()), {"kind": type(exc).__name__, "message": str(exc)})
        return exc.exit_code
    return 0


def _run(folder: Path) -> None:
    job = validate(Job, json.loads((folder / JOB).read_text(encoding="utf-8")), JOB)
    sys.argv = job.command
    recipe = parse_recipe(job.recipe, "the launcher's recipe")
    if job.profile:
        from shrinkserve.training.profile import profile_here

        profile = profile_here(recipe, Path(job.data), job.options.teacher)
        if _rank() == "0":
            _write(folder / PROFILE, asdict(profile))
        return
    from shrinkserve.training.session import train_here

    train_here(recipe, Path(job.data), Path(job.out), job.options)


def _rank() -> str:
    return os.environ.get("RANK", "0")


def _write(path: Path, content: object) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content), encoding="utf-8")
    part.rename(path)


if __name__ == "__main__":
    collect_rarely()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is loaded, see `train`
    try:
        code = main(Path(sys.argv[1]))
    except BaseException:  # noqa: BLE001 - a bug; the launcher must see the end of this process in any case
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    from shrinkserve.training.processes.signals import kill_children

    kill_children()
    os._exit(code)  # threads or loader processes that do not end must not delay a restart
