from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from shrinkserve import arch
from shrinkserve.artifact import read_card
from shrinkserve.config import Recipe
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.training.initial import InitialWeights, apply_initial, head_prefixes, read_initial
from shrinkserve.training.processes.distributed import join
from shrinkserve.training.run_folder import checkpoints
from shrinkserve.training.train import train
from shrinkserve.training.update.train_state import TrainState

Make = Callable[..., Recipe]


@pytest.fixture
def three(tmp_path: Path, colours: Path) -> Path:
    """Return `colours` with a third class."""
    data = Path(shutil.copytree(colours, tmp_path / "three"))
    for split in ("train", "val"):
        shutil.copytree(data / split / "red", data / split / "scarlet")
    return data


def state_of(recipe: Recipe, classes: int) -> TrainState:
    with join(1) as ranks:
        return TrainState(arch.from_recipe(recipe.model, classes), recipe, ranks)


@pytest.mark.parametrize("kind", ["run", "checkpoint", "file"])
def test_read_initial_takes_averaged_weights(run: Path, kind: str) -> None:
    last = checkpoints.listed(run / "checkpoints")[-1]
    source = {"run": run, "checkpoint": last, "file": run / "ema.safetensors"}[kind]
    found, expected = read_initial(source), load_file(run / "ema.safetensors")
    assert all(torch.equal(found.tensors[name], value) for name, value in expected.items())
    assert found.classes == (None if kind == "file" else ["blue", "red"])
    assert len(found.parents) == 1


def test_initialise_takes_all_but_the_classifier_of_other_classes(run: Path, tiny: Make) -> None:
    spec = arch.from_recipe(tiny().model, 3)
    state, initial = state_of(tiny(), 3), read_initial(run)
    report = apply_initial((state.network, state.ema.network), spec, initial, ["a", "b", "c"], "run")
    assert report.new == [
        name for name in state.network.state_dict() if name.startswith(head_prefixes(spec, state.network))
    ]
    assert sorted(report.left_out) == sorted(report.new)
    shown = str(report).partition("left out: ")[2]
    assert all(name in shown for name in report.left_out)
    for network in (state.network, state.ema.network):
        for name in report.loaded:
            assert torch.equal(network.state_dict()[name], initial.tensors[name])


def test_initialise_takes_no_classifier_of_equally_many_other_classes(run: Path, tiny: Make) -> None:
    spec, state = arch.from_recipe(tiny().model, 2), state_of(tiny(), 2)
    assert apply_initial([state.network], spec, read_initial(run), ["cats", "dogs"], "run").new
    assert not apply_initial([state.network], spec, read_initial(run), ["blue", "red"], "run").new


def test_initialise_rejects_another_network(run: Path, tiny: Make) -> None:
    wide = tiny(model={"width": 0.5})
    state = state_of(wide, 2)
    before = {name: value.clone() for name, value in state.network.state_dict().items()}
    with pytest.raises(ConfigError, match="another network"):
        apply_initial([state.network], arch.from_recipe(wide.model, 2), read_initial(run), ["blue", "red"], "run")
    assert all(torch.equal(value, before[name]) for name, value in state.network.state_dict().items())


def test_initialise_rejects_weights_that_are_not_finite(run: Path, tiny: Make) -> None:
    tensors = load_file(run / "ema.safetensors")
    next(iter(tensors.values())).flatten()[0] = float("nan")
    state = state_of(tiny(), 2)
    with pytest.raises(ArtifactError, match="not finite"):
        apply_initial(
            [state.network], arch.from_recipe(tiny().model, 2), InitialWeights(tensors, None, {}), ["a", "b"], "x"
        )


@pytest.mark.parametrize("damage", ["absent", "cut", "text"])
def test_train_with_damaged_initial_weights_leaves_nothing(
    tmp_path: Path, run: Path, colours: Path, tiny: Make, damage: str
) -> None:
    source = tmp_path / "weights.safetensors"
    content = (run / "ema.safetensors").read_bytes()
    if damage != "absent":
        source.write_bytes(content[:1000] if damage == "cut" else b"text")
    with pytest.raises(ArtifactError, match=r"weights\.safetensors"):
        train(tiny(), colours, tmp_path / "run", init=source)
    assert not (tmp_path / "run").exists()


def test_train_init_learns_faster_and_records_its_parent(
    tmp_path: Path, run: Path, three: Path, tiny: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny(schedule={"epochs": 1}, train={"head_epochs": 1})
    found = train(recipe, three, tmp_path / "tuned", init=run)
    assert list(found.card.parents.values()) == [read_card(run).weights_sha256]
    assert "loaded" in capsys.readouterr().out
    body = {name: value for name, value in load_file(run / "ema.safetensors").items() if "conv.weight" in name}
    tuned = load_file(tmp_path / "tuned" / "ema.safetensors")
    assert body
    assert [name for name in body if not torch.equal(tuned[name], body[name])] == []  # only the head was trained


def test_resume_of_a_fine_tuned_run_is_exact(
    tmp_path: Path, run: Path, three: Path, tiny: Make, interrupt_at: Callable[[int], AbstractContextManager[None]]
) -> None:
    recipe = tiny(
        schedule={"epochs": 2},
        train={"head_epochs": 1, "freeze": ["stem"], "class_weights": "balanced", "checkpoint_steps": 2},
        optimizer={"backbone_lr": 0.5},
        augment={"mixup": 0.3, "cutmix": 0.5},
    )
    whole = train(recipe, three, tmp_path / "whole", init=run)
    with interrupt_at(8):
        train(recipe, three, tmp_path / "broken", init=run)
    broken = train(recipe, three, tmp_path / "broken", init=run, resume=True)
    assert broken.card.weights_sha256 == whole.card.weights_sha256
    assert broken.card.parents == whole.card.parents


def test_backbone_learns_slower(colours: Path, tiny: Make) -> None:
    """With plain SGD the first step is proportional to the rate."""
    from shrinkserve.data import TrainBatch

    rng = np.random.default_rng(0)
    batch = TrainBatch(rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8), rng.integers(0, 2, 8), np.arange(8))
    moved = []
    for factor in (1.0, 0.25):
        recipe = tiny(optimizer={"name": "sgd", "momentum": 0.0, "l2": 0.0, "backbone_lr": factor})
        with join(1) as ranks:
            spec = arch.from_recipe(recipe.model, 2)
            state = TrainState(spec, recipe, ranks)
            before = {name: value.detach().clone() for name, value in state.network.named_parameters()}
            state.update([batch], 1, 0.1)
            moved.append({n: (v.detach() - before[n]).norm() for n, v in state.network.named_parameters()})
    for name, distance in moved[0].items():
        factor = 1.0 if name.startswith(head_prefixes(spec, state.network)) else 0.25
        assert moved[1][name] == pytest.approx(float(distance) * factor, rel=1e-2, abs=1e-7)


def test_safetensors_of_another_program_is_accepted(tmp_path: Path, run: Path) -> None:
    save_file(load_file(run / "ema.safetensors"), tmp_path / "x.safetensors")
    assert read_initial(tmp_path / "x.safetensors").classes is None
