"""Options of the start of a run. Imports no torch: `shrinkserve.training.worker` sets variables before torch loads."""

from __future__ import annotations

from dataclasses import dataclass

from shrinkserve.training.run_folder.trackers import LoggerName


@dataclass(frozen=True)
class TrainOptions:
    """Options of the start of a run.

    Attributes:
        resume: continue the run in the folder, or start one if there is none.
        overwrite: replace the run in the folder. It is removed when the new one has a checkpoint.
        allow_recipe_change: with `resume`, the recipe may differ from the one in the folder.
        init: run, checkpoint or safetensors file whose weights a new run begins with.
        teacher: artifact that the network learns from as well, see `open_artifact`.
        stall_timeout: seconds without progress after which the process ends; None: never.
        logger: tracker that gets a copy of the metrics.
    """

    resume: bool = False
    overwrite: bool = False
    allow_recipe_change: bool = False
    stall_timeout: float | None = None
    init: str | None = None
    teacher: str | None = None
    logger: LoggerName | None = None
