from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from shrinkserve.artifact import Card
from shrinkserve.benchmark import tuning
from shrinkserve.benchmark.load.histogram import LatencyHistogram
from shrinkserve.benchmark.load.recorder import Window
from shrinkserve.benchmark.load.resources import Resources
from shrinkserve.benchmark.load.run import Load
from shrinkserve.benchmark.load.triton_stats import BatchTime, Phases, ServerTime
from shrinkserve.benchmark.timing import Timing
from shrinkserve.benchmark.tuning import Choice, Trial, Tuning, tune_serving
from shrinkserve.benchmark.tuning_report import HEADINGS, explain_batching, trial_table
from shrinkserve.config import ServingConfig
from shrinkserve.errors import GateError
from shrinkserve.serving.repository import serving_options
from shrinkserve.serving.repository.writer import Repository

MakeModel = Callable[..., tuple[Path, Card]]
QUICK = Timing(warmup=0.1, window=0.1, agree=1, most=1)


def load(images: int, latency: float, workers: int = 1, batches: dict[str, BatchTime] | None = None) -> Load:
    histogram = LatencyHistogram()
    for _ in range(images):
        histogram.record(latency)
    window = Window(images, images, 0, histogram)
    server = ServerTime(images, 0, Phases(0, 0, 1, 0), 1.0, 1.0, batches or {})
    return Load("x", 1, workers, None, None, 1.0, [window], histogram, 0, server, Resources(0.1), [])


def trial(*loads: Load, instances: int = 1) -> Trial:
    return Trial(Choice(ServingConfig(instances=instances)), list(loads))


def test_score_is_the_highest_throughput_within_the_limit() -> None:
    tried = trial(load(100, 0.005), load(180, 0.010, 2), load(200, 0.050, 8))
    assert tried.score(0.020) == 180
    assert tried.score(0.100) == 200
    assert tried.score(0.001) == 0


def test_later_choice_must_be_clearly_better() -> None:
    trials = [trial(load(100, 0.01)), trial(load(102, 0.01), instances=2), trial(load(120, 0.01), instances=3)]
    assert Tuning(0.02, trials[:2]).best is trials[0]
    assert Tuning(0.02, trials).best is trials[2]
    refused = Trial(trials[0].choice, error="does not load")
    assert Tuning(0.02, [refused, trials[0]]).best is trials[0]


def test_best_choice_must_win_the_duel() -> None:
    trials = [trial(load(100, 0.01)), trial(load(150, 0.01), instances=2)]
    assert Tuning(0.02, trials, [(100.0, 140.0), (90.0, 150.0)]).chosen == trials[1].choice
    assert Tuning(0.02, trials, [(100.0, 90.0), (90.0, 80.0)]).chosen == trials[0].choice
    assert Tuning(0.02, trials, [(0.0, 90.0)]).chosen == trials[1].choice
    noise = [(88.0, 94.0), (0.0, 88.0), (90.0, 0.0)]
    assert Tuning(0.02, trials, noise).chosen == trials[0].choice
    assert Tuning(0.02, trials[:1]).chosen == trials[0].choice


def test_explain_batching_compares_an_image_alone_and_in_a_batch() -> None:
    batches = {"1": BatchTime(100, 10.0), "4": BatchTime(50, 20.0)}
    text = explain_batching(Tuning(1.0, [trial(load(100, 0.01, batches=batches))]))
    assert "batching helps" in text
    assert all(part in text for part in ("10.00 ms alone", "5.00 ms in a batch of 4", "50% less"))


def test_explain_batching_needs_enough_executions() -> None:
    few = {"1": BatchTime(100, 10.0), "4": BatchTime(3, 20.0)}
    assert "too few" in explain_batching(Tuning(1.0, [trial(load(100, 0.01, batches=few))]))


def test_table_has_a_row_for_each_trial_and_marks_the_chosen_one() -> None:
    lost = Trial(Choice(ServingConfig(), "tensorrt"), error="needs a GPU")
    slow = trial(load(50, 0.5), instances=4)
    tuned = Tuning(0.02, [trial(load(100, 0.01)), trial(load(150, 0.01, 2), instances=2), slow, lost], [(90.0, 150.0)])
    rows = [[str(cell) for cell in row] for row in trial_table(tuned)]
    assert [row[0] for row in rows] == ["default", "*default", "default", "tensorrt"]
    assert rows[1][1:] == ["2 x all", "32", "0", "150", "2", "10.0", "10.0", "1.00"]
    assert all(len(row) == len(HEADINGS) for row in rows[2:])
    assert "needs a GPU" in rows[3][-1]


@pytest.fixture
def repository(make_model: MakeModel, tmp_path: Path) -> Repository:
    """A repository with one model, which takes pixels and encoded images."""
    repository = Repository(tmp_path / "models")
    repository.add("tiny_classifier", *make_model(), encoded=True)
    return repository


def test_best_choice_is_written(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs real servers. The load tests are too short for valid figures."""
    monkeypatch.setattr(tuning, "DELAYS_US", (500,))
    monkeypatch.setattr(tuning, "BATCHES", (1,))
    monkeypatch.setattr(tuning, "DUELS", 1)
    lines: list[str] = []
    result = tune_serving(
        repository, "tiny_classifier", limit=60.0, timing=QUICK, concurrencies=(1, 2), say=lines.append
    )
    assert len(lines) == len(result.trials) >= 3
    assert all(len(t.loads) == 2 for t in result.trials)
    written = serving_options.options_of(repository.config("tiny_classifier"))
    assert written == result.chosen.options
    record = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert record["chosen"]["engine"] is None
    assert [trial["fault"] for trial in record["trials"]] == [None] * len(result.trials)


def test_nothing_is_written_if_no_choice_is_within_the_limit(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "DELAYS_US", ())
    monkeypatch.setattr(tuning, "BATCHES", ())
    before = repository.config("tiny_classifier")
    with pytest.raises(GateError, match=r"tiny: .*0\.001 ms"):
        tune_serving(repository, "tiny", limit=1e-6, timing=QUICK, concurrencies=(1,))
    assert repository.config("tiny_classifier") == before
