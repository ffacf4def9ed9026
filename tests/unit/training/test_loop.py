from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo.utils
import torch.distributed as dist
from safetensors.numpy import load_file
from sklearn.metrics import precision_recall_fscore_support

from shrinkserve import arch
from shrinkserve.artifact import read_card, recorded_command, tensors_sha256
from shrinkserve.config import Recipe, load_recipe, parse_recipe
from shrinkserve.data import open_dataset
from shrinkserve.errors import ArtifactError, ConfigError, DataError, ShrinkServeError, SpecError
from shrinkserve.runtimes.checkpoint import Checkpoint
from shrinkserve.training.evaluation import EvaluationResult, evaluate
from shrinkserve.training.events import EventKind
from shrinkserve.training.loop import Stopped
from shrinkserve.training.processes.distributed import DistContext
from shrinkserve.training.run_folder import checkpoints
from shrinkserve.training.run_folder.metrics_log import METRICS, read_metrics
from shrinkserve.training.train import train
from shrinkserve.training.update.train_state import TrainState

Make = Callable[..., Recipe]
SMALL = Path(__file__).parents[1] / "arch" / "small.prototxt"


def test_train_writes_the_run_folder(run: Path, colours: Path) -> None:
    card = read_card(run, "checkpoint")
    assert card.name == "tiny"
    assert card.classes == ["blue", "red"] == open_dataset(colours, "validation").classes
    assert set(card.files) == {"ema.safetensors", "raw.safetensors", "recipe.toml"}
    assert card.weights_sha256 == tensors_sha256(load_file(run / "ema.safetensors"))
    assert card.preprocess["size"] == 32
    assert card.metrics["images"] == 22
    assert card.metrics["epochs"] == 4
    assert load_recipe(run / "recipe.toml") == parse_recipe(card.recipe)
    (environment,) = json.loads((run / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["processes"] == 1
    assert environment["command"] == recorded_command(sys.argv)
    checkout = Path(__file__).parents[3]
    if (checkout / ".git").exists():
        head = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        assert len(environment["git"]["commit"]) == len(head.stdout.strip())
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    assert not [path for path in run.rglob("*") if path.name.startswith(".")]


def test_train_learns(run: Path) -> None:
    assert read_card(run, "checkpoint").metrics["top1"] > 0.9


def test_train_logs_metrics(run: Path) -> None:
    records = read_metrics(run / METRICS)
    validation = [record for record in records if record["kind"] == "validation"]
    training = [record for record in records if record["kind"] == "train"]
    assert [record["step"] for record in validation] == [6, 12, 18, 24]
    assert training[-1]["step"] == 24
    assert training[-1]["loss"] < training[0]["loss"]
    assert all(0 <= record["top1"] <= 1 for record in records)


def test_card_has_the_figures_of_its_weights(run: Path, colours: Path) -> None:
    card = read_card(run, "checkpoint")
    found = evaluate(run, colours)
    assert (found.images, found.top1) == (card.metrics["images"], card.metrics["top1"])
    assert found.loss == pytest.approx(card.metrics["loss"], rel=1e-4)
    raw = evaluate(run, colours, "raw")
    assert raw.loss != found.loss


def test_last_checkpoint_has_the_final_weights(run: Path, colours: Path) -> None:
    last = checkpoints.listed(run / "checkpoints")[-1]
    for weights in ("ema", "raw"):
        found, expected = evaluate(last, colours, weights), evaluate(run, colours, weights)
        assert (found.loss, found.top1, found.images) == (expected.loss, expected.top1, expected.images)
    assert len(checkpoints.listed(run / "checkpoints")) <= 4  # the last 3 and the best


def test_evaluate_per_class_matches_scikit_learn(run: Path, colours: Path) -> None:
    found = evaluate(run, colours)
    labels = [row for row, line in enumerate(found.confusion.tolist()) for n in line for _ in range(n)]
    predictions = [c for line in found.confusion.tolist() for c, n in enumerate(line) for _ in range(n)]
    expected = precision_recall_fscore_support(labels, predictions, labels=[0, 1], zero_division=0)
    figures = [(one.precision, one.recall, one.f1, one.support) for one in found.per_class()]
    for ours, theirs in zip(figures, zip(*expected, strict=True), strict=True):
        assert ours == pytest.approx(theirs)


def test_per_class_counts_absent_and_never_predicted_classes() -> None:
    matrix = torch.tensor([[3, 1, 0], [2, 0, 0], [0, 0, 0]])
    found = EvaluationResult(6, 1.0, 0.5, 1.0, matrix, ["a", "b", "c"])
    figures = [(one.precision, one.recall, one.support) for one in found.per_class()]
    assert figures == [(0.6, 0.75, 4), (0, 0, 2), (0, 0, 0)]


def test_ema_and_raw_weights_differ(run: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    assert not np.allclose(Checkpoint(run, "ema").predict(images), Checkpoint(run, "raw").predict(images))


def test_resume_of_a_complete_run_trains_nothing(run: Path, colours: Path, tiny: Make) -> None:
    before = (run / "ema.safetensors").stat().st_mtime_ns
    found = train(tiny(schedule={"epochs": 4}), colours, run, resume=True)
    assert (found.card, found.trained, Path(found)) == (read_card(run), False, run)
    assert (run / "ema.safetensors").stat().st_mtime_ns == before


def test_train_rejects_a_folder_with_a_run(run: Path, colours: Path, tiny: Make) -> None:
    with pytest.raises(ConfigError, match=r"has a run already; give --resume .* --overwrite"):
        train(tiny(schedule={"epochs": 4}), colours, run)


def test_resume_rejects_another_recipe(tmp_path: Path, colours: Path, tiny: Make) -> None:
    out = tmp_path / "run"
    train(tiny(schedule={"epochs": 1}), colours, out)
    changed = tiny(schedule={"epochs": 2}, optimizer={"lr": 0.05})
    with pytest.raises(ConfigError, match=r"optimizer\.lr \(0\.1 -> 0\.05\), schedule\.epochs \(1 -> 2\)"):
        train(changed, colours, out, resume=True)
    assert read_card(out).metrics["epochs"] == 1
    assert train(changed, colours, out, resume=True, allow_recipe_change=True).card.metrics["epochs"] == 2
    assert load_recipe(out / "recipe.toml").optimizer.lr == 0.05


def test_overwrite_replaces_the_run(tmp_path: Path, colours: Path, tiny: Make) -> None:
    out = tmp_path / "run"
    recipe = tiny(schedule={"epochs": 1})
    first = train(recipe, colours, out).card
    second = train(recipe, colours, out, overwrite=True).card
    assert second.weights_sha256 == first.weights_sha256  # deterministic, from the same seed
    assert len(read_metrics(out / METRICS)) == 3
    assert not list(out.glob(".*"))


def test_train_rejects_a_folder_with_other_files(tmp_path: Path, colours: Path, tiny: Make) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(ConfigError, match="has files but no run"):
            train(tiny(), colours, tmp_path, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_train_begins_where_an_earlier_start_was_killed_while_it_wrote(
    tmp_path: Path, colours: Path, tiny: Make
) -> None:
    for name in (".recipe.toml.0123abcd", ".environment.json.89abcdef"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".thesis.tex.0123abcd").write_text("precious")
    with pytest.raises(ConfigError, match="has files but no run"):
        train(tiny(), colours, tmp_path, resume=True)
    (tmp_path / ".thesis.tex.0123abcd").unlink()
    train(tiny(schedule={"epochs": 1}), colours, tmp_path, resume=True)
    assert not list(tmp_path.glob(".*"))


def test_train_stops_when_the_loss_is_not_finite(tmp_path: Path, colours: Path, tiny: Make) -> None:
    recipe = tiny(model={"network": "shrinkcnn-a"}, optimizer={"name": "sgd", "lr": 1e9}, train={"checkpoint_steps": 1})
    with pytest.raises(ShrinkServeError, match=r"not finite at step \d+ \(epoch 1\); .*step-0000000\d\.safetensors"):
        train(recipe, colours, tmp_path / "run")
    kept = checkpoints.listed(tmp_path / "run" / "checkpoints")
    assert all(tensor.isfinite().all() for tensor in checkpoints.read(kept[-1]).tensors.values())
    assert not (tmp_path / "run" / "card.json").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_at_a_checkpoint_that_can_be_resumed(
    tmp_path: Path, colours: Path, tiny: Make, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    update = TrainState.update

    def interrupted(self: TrainState, batches: Any, step: int, rate: float) -> None:
        update(self, batches, step, rate)
        if step == 4:
            os.kill(os.getpid(), number)

    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    monkeypatch.setattr(TrainState, "update", interrupted)
    with pytest.raises(Stopped) as stopped:
        train(tiny(), colours, tmp_path / "broken")
    assert stopped.value.signal == number
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert [path.name for path in checkpoints.listed(tmp_path / "broken" / "checkpoints")] == [
        "step-00000004.safetensors"
    ]
    monkeypatch.undo()
    resumed = train(tiny(), colours, tmp_path / "broken", resume=True).card
    assert len(json.loads((tmp_path / "broken" / "environment.json").read_text())) == 2
    assert resumed.weights_sha256 == train(tiny(), colours, tmp_path / "whole").card.weights_sha256


@pytest.mark.parametrize(
    "sections",
    [
        pytest.param({"train": {"precision": "bfloat16"}}, id="bfloat16"),
        pytest.param({"train": {"precision": "float16"}}, id="float16"),
        pytest.param({"train": {"channels_last": False}}, id="nchw"),
        pytest.param({"train": {"ema_buffers": True}, "optimizer": {"name": "sgd", "lr": 0.01}}, id="sgd-ema-buffers"),
        pytest.param({"optimizer": {"name": "adamw", "lr": 1e-3, "epsilon": 1e-8}}, id="adamw"),
        pytest.param({"model": {"network": "shrinkcnn-b", "dropout": 0.2}}, id="b-dropout"),
    ],
)
def test_train_learns_with_every_option(tmp_path: Path, colours: Path, tiny: Make, sections: dict[str, Any]) -> None:
    train(tiny(**sections, schedule={"epochs": 1}), colours, tmp_path / "run")
    losses = [record["loss"] for record in read_metrics(tmp_path / "run" / METRICS)]
    assert all(0 < loss < 5 for loss in losses)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_network_trains_alike(tmp_path: Path, colours: Path, tiny: Make) -> None:
    network = {"model": {"network": str(SMALL), "input_size": 32, "width": 1.0}, "schedule": {"epochs": 1}}
    losses = []
    for compiled in (False, True):
        out = tmp_path / f"compiled-{compiled}"
        card = train(tiny(**network, train={"compile": compiled, "accumulate": 2, "batch_size": 4}), colours, out).card
        losses.append((card.metrics["loss"], *(record["loss"] for record in read_metrics(out / METRICS))))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_sync_batch_norm_needs_gpus(tiny: Make) -> None:
    ranks = DistContext(rank=0, world=2, device=torch.device("cpu"), control=dist.GroupMember.NON_GROUP_MEMBER)  # type: ignore[arg-type]
    recipe = tiny(train={"sync_batch_norm": True})
    with pytest.raises(ConfigError, match=r"train\.sync_batch_norm"):
        TrainState(arch.from_recipe(recipe.model, 2), recipe, ranks)


@pytest.mark.parametrize("place", ["evaluate_network", "write_after_evaluation"])
def test_resume_after_the_last_update_of_an_epoch_repeats_none(
    tmp_path: Path, colours: Path, tiny: Make, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    recipe, whole, broken = tiny(train={"batch_size": 16}), tmp_path / "whole", tmp_path / "broken"
    train(recipe, colours, whole)
    with monkeypatch.context() as patch:
        if place == "evaluate_network":
            patch.setattr("shrinkserve.training.loop.evaluate_network", die)
            callback = None
        else:
            callback = lambda event: die() if event.kind is EventKind.EPOCH else None  # noqa: E731
        with pytest.raises(KeyboardInterrupt):
            train(recipe, colours, broken, callback=callback)
    steps: list[int] = []
    update = TrainState.update

    def counted(self: TrainState, batches: Any, step: int, rate: float) -> None:
        steps.append(step)
        update(self, batches, step, rate)

    monkeypatch.setattr(TrainState, "update", counted)
    train(recipe, colours, broken, resume=True)
    assert steps == [4, 5, 6]
    assert (broken / "ema.safetensors").read_bytes() == (whole / "ema.safetensors").read_bytes()
    records = [[(r["kind"], r["step"], r["loss"]) for r in read_metrics(run / METRICS)] for run in (whole, broken)]
    assert records[0] == records[1]


def test_image_sizes_follow_the_schedule(
    tmp_path: Path, colours: Path, tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    update = TrainState.update

    def recorded(self: TrainState, batches: Any, step: int, rate: float) -> None:
        sizes.append(batches[0].images.shape[1])
        update(self, batches, step, rate)

    monkeypatch.setattr(TrainState, "update", recorded)
    recipe = tiny(schedule={"epochs": 3, "sizes": [32, 48]}, train={"batch_size": 16})
    found = train(recipe, colours, tmp_path / "run")
    assert sizes == [32] * 6 + [48] * 3
    assert found.card.preprocess["size"] == 32


def test_accumulated_batches_make_one_update(tmp_path: Path, colours: Path, tiny: Make) -> None:
    """Without batch norm in between, two batches of 4 would be one of 8; with it the gradients are close."""
    recipe = tiny(train={"batch_size": 4, "accumulate": 2}, schedule={"epochs": 1})
    card = train(recipe, colours, tmp_path / "run").card
    records = [record for record in read_metrics(tmp_path / "run" / METRICS) if record["kind"] == "validation"]
    assert [record["step"] for record in records] == [6]
    assert card.metrics["epochs"] == 1


@pytest.mark.parametrize(
    ("sections", "kind", "message"),
    [
        ({"train": {"batch_size": 64}}, DataError, "too few training images"),
        ({"train": {"accumulate": 7}}, ConfigError, "train.accumulate: expected at most 6, found 7"),
        ({"model": {"classes": 5}}, ConfigError, "model.classes: expected 2, as .* has, found 5"),
        ({"model": {"network": "shrinkcnn-c"}}, SpecError, "shrinkcnn-c"),
    ],
)
def test_train_rejects_what_does_not_fit_and_writes_nothing(
    tmp_path: Path, colours: Path, tiny: Make, sections: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        train(tiny(**sections), colours, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"nproc": 0},
        {"max_restarts": -1},
        {"stall_timeout": -1},
        {"nproc": 2, "callback": print},
        {"teacher": "grpc://127.0.0.1:8001"},
    ],
)
def test_train_rejects_options_and_writes_nothing(
    tmp_path: Path, colours: Path, tiny: Make, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=list(options)[-1]):
        train(tiny(), colours, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_evaluate_during_training_is_an_error(run: Path, tmp_path: Path, colours: Path, tiny: Make) -> None:
    with pytest.raises(ShrinkServeError, match=r"group of torch\.distributed"):
        train(tiny(), colours, tmp_path / "run", callback=lambda _: evaluate(run, colours))


def test_resume_rejects_other_data(tmp_path: Path, colours: Path, tiny: Make) -> None:
    out, recipe = tmp_path / "run", tiny(schedule={"epochs": 1})
    train(recipe, colours, out)
    (out / "card.json").unlink()  # as if it had not come to its end
    other = tmp_path / "other"
    for split in ("train", "val"):
        for name in ("green", "red"):
            (other / split / name).mkdir(parents=True)
            for path in (colours / split / "red").iterdir():
                (other / split / name / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ConfigError, match="other training data"):
        train(recipe, other, out, resume=True)


def test_resume_skips_a_damaged_checkpoint(
    tmp_path: Path, colours: Path, tiny: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny(schedule={"epochs": 3})
    whole = train(recipe, colours, tmp_path / "run").card
    newest = checkpoints.listed(tmp_path / "run" / "checkpoints")[-1]
    content = bytearray(newest.read_bytes())
    content[-1] ^= 255
    newest.write_bytes(content)
    (tmp_path / "run" / "card.json").unlink()
    capsys.readouterr()
    card = train(recipe, colours, tmp_path / "run", resume=True).card
    printed = capsys.readouterr().out
    assert f"{newest.name}: damaged" in printed
    assert "resuming" in printed
    assert "step-00000012" in printed
    assert card.weights_sha256 == whole.weights_sha256


def test_bad_images_of_all_processes_are_reported(
    tmp_path: Path, colours: Path, tiny: Make, run_ranks: Callable[..., str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(colours, data)
    spoilt = sorted((data / "train").rglob("*.png"))[::6]  # of 48: enough that each of two ranks has its own
    for path in spoilt:
        path.write_text("no image")
    recipe = tiny(data={"max_bad_fraction": 0.5}, schedule={"epochs": 1})
    output = run_ranks(recipe, data, tmp_path / "run", 2)
    assert f"left out {len(spoilt)} bad images of epoch 1:" in output
    assert all(str(path) in output for path in spoilt)
    records = [record for record in read_metrics(tmp_path / "run" / METRICS) if record["kind"] == "data"]
    assert [record["bad_images"] for record in records] == [len(spoilt)]


def test_evaluate_rejects_other_classes(run: Path, digits: Path) -> None:
    with pytest.raises(DataError, match="other classes"):
        evaluate(run, digits)


def test_evaluate_rejects_what_is_not_a_run(tmp_path: Path, colours: Path) -> None:
    with pytest.raises(ArtifactError, match="no such card"):
        evaluate(tmp_path, colours)
    with pytest.raises(ConfigError, match="weights: expected ema or raw, found 'best'"):
        evaluate(tmp_path, colours, "best")


def test_ema_decay_changes_only_the_ema_weights(tmp_path: Path, colours: Path, tiny: Make) -> None:
    recipe = tiny(schedule={"epochs": 1}, train={"ema_decay": 0.2})
    slow = replace(recipe, train=replace(recipe.train, ema_decay=0.99))
    first, second = train(recipe, colours, tmp_path / "a"), train(slow, colours, tmp_path / "b")
    assert (tmp_path / "a/raw.safetensors").read_bytes() == (tmp_path / "b/raw.safetensors").read_bytes()
    assert first.card.weights_sha256 != second.card.weights_sha256
