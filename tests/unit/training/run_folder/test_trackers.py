"""Weights & Biases offline and MLflow with a local folder: both run without a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from shrinkserve.config import Recipe
from shrinkserve.errors import ConfigError, ShrinkServeError
from shrinkserve.training.events import EventKind, TrainEvent
from shrinkserve.training.run_folder.metrics_log import METRICS, read_metrics
from shrinkserve.training.run_folder.trackers import Tracker, check_logger
from shrinkserve.training.train import train

Curves = dict[str, dict[int, float]]


def curves(run: Path) -> Curves:
    """Return the values of a run's metrics.jsonl, by name and step."""
    found: Curves = {}
    for record in read_metrics(run / METRICS):
        for name in record.keys() - {"kind", "step", "epoch"}:
            found.setdefault(f"{record['kind']}/{name}", {})[record["step"]] = record[name]  # type: ignore[literal-required]
    return found


def stop_at(update: int) -> Callable[[TrainEvent], None]:
    """Return a callback that interrupts the first epoch after an update."""

    def stop(event: TrainEvent) -> None:
        if event.kind is EventKind.STEP and (event.epoch, event.step) == (0, update):
            raise KeyboardInterrupt

    return stop


def test_mlflow_run_has_all_figures_also_after_a_resume(
    tmp_path: Path, colours: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "mlruns"))
    recipe, out = tiny(train={"batch_size": 4, "checkpoint_steps": 2}), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(recipe, colours, out, callback=stop_at(11), logger="mlflow")
    client = mlflow.MlflowClient(str(tmp_path / "mlruns"))
    (experiment,) = client.search_experiments(filter_string="name = 'tiny'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    train(recipe, colours, out, resume=True, callback=lambda _: None, logger="mlflow")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["train.batch_size"] == "4"
    logged = {
        name: {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, name)}
        for name in run.data.metrics
    }
    assert logged.keys() >= {"train/loss", "epoch/top1", "validation/top5"}
    assert logged == curves(out)


def test_offline_wandb_run_has_all_figures(
    tmp_path: Path, colours: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = tmp_path / "run"
    train(tiny(), colours, out, callback=lambda _: None, logger="wandb")
    (log,) = out.glob("logger/wandb/offline-run-*/*.wandb")
    content = log.read_bytes()  # protobuf, with each value as JSON
    for name, values in curves(out).items():
        assert name.encode() in content
        assert all(json.dumps(value).encode() in content for value in values.values())


@pytest.mark.parametrize("uri", ["nosuch://store", "http://127.0.0.1:9"])
def test_run_that_cannot_be_logged_leaves_nothing(
    tmp_path: Path, colours: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ShrinkServeError, match="mlflow"):
        train(tiny(), colours, tmp_path / "run", callback=lambda _: None, logger="mlflow")
    assert list(tmp_path.iterdir()) == []


def test_tracker_that_fails_later_says_so_once(
    tmp_path: Path, tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "mlruns"))
    messages: list[str] = []
    tracker = Tracker("mlflow", tmp_path, tiny(), messages.append)
    tracker.write({"a name that MLflow refuses: *": 1.0}, 1)
    tracker.write({"train/loss": 1.0}, 2)
    tracker.close(failed=False)
    assert len(messages) == 1
    assert "metrics.jsonl" in messages[0]


def test_unknown_logger_is_refused() -> None:
    with pytest.raises(ConfigError, match="wandb or mlflow"):
        check_logger("tensorboard")
