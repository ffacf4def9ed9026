from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest

from shrinkserve.config import Recipe
from shrinkserve.training.display import Display, duration, epoch_line
from shrinkserve.training.events import EventKind, StepFigures, TrainEvent
from shrinkserve.training.run_folder.metrics_log import METRICS, read_metrics
from shrinkserve.training.train import train


def test_callback_gets_each_update_and_epoch_and_nothing_is_printed(
    tmp_path: Path, colours: Path, tiny: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    events: list[TrainEvent] = []
    train(tiny(train={"batch_size": 4}), colours, tmp_path / "run", callback=events.append)
    assert capsys.readouterr().out == ""
    steps = [(event.epoch, event.step) for event in events if event.kind is EventKind.STEP]
    assert steps == [(epoch, step) for epoch in (0, 1) for step in range(1, 13)]
    epochs = [event for event in events if event.kind is EventKind.EPOCH]
    assert [(event.epoch, event.epochs, event.steps) for event in epochs] == [(1, 2, 12), (2, 2, 12)]
    assert all(event.figures is not None and event.evaluation is not None for event in epochs)
    assert epochs[-1].seconds_left == 0


def test_figures_of_an_epoch_are_means_over_the_epoch(
    tmp_path: Path, colours: Path, tiny: Callable[..., Recipe]
) -> None:
    """12 updates are reported after 10 and 12, so the epoch's mean is 10/12 of the one and 2/12 of the other."""
    train(tiny(train={"batch_size": 4}), colours, tmp_path / "run", callback=lambda _: None)
    records = read_metrics(tmp_path / "run" / METRICS)
    for _, group in groupby(records, key=lambda record: record["epoch"]):
        by_kind = {(r["kind"], r["step"] % 12): r for r in group}
        first, second, epoch = by_kind["train", 10], by_kind["train", 0], by_kind["epoch", 0]
        for name in ("loss", "top1"):
            expected = (10 * first[name] + 2 * second[name]) / 12  # type: ignore[literal-required]
            assert epoch[name] == pytest.approx(expected)  # type: ignore[literal-required]


def test_figures_of_an_epoch_survive_a_resume(tmp_path: Path, colours: Path, tiny: Callable[..., Recipe]) -> None:
    recipe = tiny(train={"batch_size": 4, "checkpoint_steps": 5}, schedule={"epochs": 1})
    train(recipe, colours, tmp_path / "whole", callback=lambda _: None)

    def stop(event: TrainEvent) -> None:
        if event.kind is EventKind.STEP and event.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, colours, tmp_path / "broken", callback=stop)
    train(recipe, colours, tmp_path / "broken", resume=True, callback=lambda _: None)
    found = [
        next(r["loss"] for r in read_metrics(tmp_path / name / METRICS) if r["kind"] == "epoch")
        for name in ("whole", "broken")
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-9)


def test_display_prints_one_line_per_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    figures = StepFigures(0.5, 0.25, 0.1, 1234.0)
    event = TrainEvent(EventKind.EPOCH, epoch=1, epochs=3, steps=7, figures=figures, seconds_left=125)
    with Display() as display:
        display(TrainEvent(EventKind.STEP, epoch=0, epochs=3, step=1, steps=7))
        display(event)
        display(TrainEvent(EventKind.MESSAGE, message="careful \x1b[31m"))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [epoch_line(event), "careful \\x1b[31m"]
    assert all(part in lines[0] for part in ("1/3", "0.500", "25.0%", "1,234", "2:05"))


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (125, "2:05"), (111725, "31:02:05"), (59.6, "1:00")])
def test_duration_shows_minutes_and_hours(seconds: float, text: str) -> None:
    assert duration(seconds) == text
