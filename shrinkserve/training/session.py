"""A run in this process, from its checks to its result."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from shrinkserve.config import Recipe
from shrinkserve.runtimes.predictor import Predictor
from shrinkserve.training.display import Display
from shrinkserve.training.events import Callback
from shrinkserve.training.inputs import usage_lines
from shrinkserve.training.loop import TrainingLoop
from shrinkserve.training.options import TrainOptions
from shrinkserve.training.processes.distributed import DistContext, join
from shrinkserve.training.processes.signals import StopRequest, Watchdog
from shrinkserve.training.processes.torch_settings import torch_settings
from shrinkserve.training.recipe_checks import warnings_of
from shrinkserve.training.run import Run
from shrinkserve.training.run_folder.folder import RunFolder, Start
from shrinkserve.training.run_folder.result import TrainResult, read_result, result_of
from shrinkserve.training.run_folder.trackers import Tracker


def train_here(
    recipe: Recipe,
    data: Path,
    out: Path,
    options: TrainOptions,
    callback: Callback | None = None,
    teacher: Predictor | None = None,
) -> TrainResult:
    """Train in this process, which may be one of several that torchrun has started. See `train`."""
    with ExitStack() as stack:
        stack.enter_context(torch_settings(deterministic=recipe.train.deterministic))
        ranks = stack.enter_context(join(recipe.train.threads))
        stop = stack.enter_context(StopRequest())
        watchdog = stack.enter_context(Watchdog(options.stall_timeout, stop))
        if callback is None:
            callback = stack.enter_context(Display()) if ranks.first else lambda _: None
        folder = RunFolder(out)
        # Everything that can refuse the run comes before `folder.begin`, so that the folder stays as it was.
        run = Run(recipe, data, folder, ranks, callback)
        if ranks.first:
            stack.enter_context(folder)  # locks it, and undoes what a killed start has left
        start = _decide(folder, recipe, options, ranks)
        if start is Start.COMPLETE:
            run.say(f"{out}: the run is complete, nothing to train")
            return read_result(out, trained=False, verify=ranks.first)
        if (source := teacher or options.teacher) is not None:
            run.learn_from(source)
        resumed = start is Start.RESUME and run.resume()
        if not resumed:
            run.initialise(options.init)
        run.choose_loader()
        updates, gpu = run.steps * recipe.schedule.epochs, ranks.on_gpu
        for warning in [*usage_lines(run.inputs), *warnings_of(recipe, updates, gpu=gpu)]:
            run.say(warning)
        if ranks.first:
            folder.begin(recipe, start)
        tracker = Tracker(options.logger, out, recipe, run.say) if options.logger and ranks.first else None
        ranks.wait()  # no rank trains before rank 0 has prepared the folder
        card = TrainingLoop(run, stop, watchdog, tracker).train()
        return result_of(out, card, trained=True) if card else read_result(out, trained=True, verify=False)


def _decide(folder: RunFolder, recipe: Recipe, options: TrainOptions, ranks: DistContext) -> Start:
    """Return how the run begins, the same on all ranks. Collective."""
    found = 0
    if ranks.first:
        resume, overwrite = options.resume, options.overwrite
        if restarted() and (resume or overwrite or folder.out.is_dir()):
            # All processes start again: continue what this launch has begun, else do what was asked for.
            begun = folder.started_by_this_launch()
            resume, overwrite = resume or begun, overwrite and not begun
        allow = options.allow_recipe_change
        found = folder.check(recipe, resume=resume, overwrite=overwrite, allow_recipe_change=allow).value
    return Start(ranks.highest(found))


def restarted() -> bool:
    """Return True if torchrun has started this process again after one was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
