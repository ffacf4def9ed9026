"""Networks that are Python functions: trained, resumed, evaluated, exported; never run because a card names them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import shrinkserve as ss
from shrinkserve.arch.code import CodeNetwork, build, describe_network, head_prefixes, read_network_data
from shrinkserve.artifact import read_card
from shrinkserve.config import Recipe
from shrinkserve.errors import SpecError
from shrinkserve.exporting.published import export_plain
from shrinkserve.runtimes.checkpoint import Checkpoint
from shrinkserve.training.train import train

Make = Callable[..., Recipe]
SOURCE = """
from torch import nn

def small(classes):
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(body, nn.Flatten(), nn.Linear(8, classes))

def fixed():
    return small(7)

def broken(classes):
    raise ValueError("no such size")

def other(classes):
    return "text"
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a module with networks that can be imported."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "my_networks_for_a_test.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    return "python:my_networks_for_a_test"


def recipe_of(tiny: Make, name: str, **sections: dict[str, object]) -> Recipe:
    train_keys = {"batch_size": 8, "ema_decay": 0.5, "deterministic": True, "threads": 1}
    optimizer = {"name": "adamw", "lr": 0.3, "epsilon": 1e-8}
    return tiny(**{"model": {"network": name, "width": 1.0}, "train": train_keys, "optimizer": optimizer, **sections})


def test_code_network_trains_resumes_and_evaluates(tmp_path: Path, colours: Path, tiny: Make, code: str) -> None:
    recipe = recipe_of(tiny, f"{code}:small", schedule={"epochs": 4, "warmup_epochs": 0})
    whole = train(recipe, colours, tmp_path / "whole")
    assert whole.top1 > 0.9
    assert ss.evaluate(whole, colours).top1 == whole.top1

    def stop(event: ss.TrainEvent) -> None:
        if event.step == 3 and event.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, colours, tmp_path / "broken", callback=stop)
    assert train(recipe, colours, tmp_path / "broken", resume=True).card.weights_sha256 == whole.card.weights_sha256


def test_load_does_not_run_code_that_a_card_names(tmp_path: Path, colours: Path, tiny: Make, code: str) -> None:
    train(recipe_of(tiny, f"{code}:small", schedule={"epochs": 1, "warmup_epochs": 0}), colours, tmp_path / "run")
    with pytest.raises(SpecError, match="Python code"):
        ss.load(tmp_path / "run")
    with pytest.raises(SpecError, match="Python code"):
        Checkpoint(tmp_path / "run")


def test_code_network_is_fine_tuned_and_frozen(tmp_path: Path, colours: Path, tiny: Make, code: str) -> None:
    recipe = recipe_of(tiny, f"{code}:small", schedule={"epochs": 1, "warmup_epochs": 0})
    first = train(recipe, colours, tmp_path / "first")
    frozen = recipe_of(
        tiny,
        f"{code}:small",
        schedule={"epochs": 1, "warmup_epochs": 0},
        train={"batch_size": 8, "freeze": ["0"], "threads": 1},
    )
    second = train(frozen, colours, tmp_path / "second", init=first)
    weights = [Checkpoint(one.folder, "raw", run_code=True).module.state_dict() for one in (first, second)]
    ema = Checkpoint(first.folder, run_code=True).module.state_dict()
    assert torch.equal(weights[1]["0.0.weight"], ema["0.0.weight"])
    assert not torch.equal(weights[1]["2.weight"], ema["2.weight"])


def test_code_network_is_exported_with_parity(tmp_path: Path, colours: Path, tiny: Make, code: str) -> None:
    run = train(recipe_of(tiny, f"{code}:small", schedule={"epochs": 1, "warmup_epochs": 0}), colours, tmp_path / "run")
    ss.export(run.folder, data=colours, repository=tmp_path / "models")
    (model,) = (tmp_path / "models").glob("*_classifier/1/model.onnx")
    card = read_card(model.parent)
    assert list(card.parents)
    assert export_plain(card, tmp_path) is None  # the card names the run, and must not run its code
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    expected = Checkpoint(run.folder, run_code=True).predict(images)
    np.testing.assert_allclose(ss.load(model).predict(images), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["absent_module:small", "my_networks_for_a_test:absent", "my_networks_for_a_test"])
def test_train_rejects_code_network_that_cannot_be_imported(
    tmp_path: Path, colours: Path, tiny: Make, code: str, name: str
) -> None:
    with pytest.raises(SpecError, match="cannot make the network"):
        train(recipe_of(tiny, f"python:{name}"), colours, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("function", ["fixed", "broken", "other"])
def test_build_rejects_code_network_that_returns_something_else(code: str, function: str) -> None:
    with pytest.raises(SpecError, match=function):
        build(CodeNetwork(f"{code}:{function}", 3, 32))


@pytest.mark.parametrize(
    "raw",
    [
        {"code": "os:abort", "classes": 3, "input_size": 32},
        {"code": 3, "classes": 3, "input_size": 32},
        {"code": "python:a:b", "classes": "3", "input_size": 32},
        {"code": "python:a:b"},
    ],
)
def test_read_network_data_rejects_malformed_data(raw: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        read_network_data(raw, run_code=True)


def test_network_data_round_trip() -> None:
    network = CodeNetwork("python:a:b", 3, 32)
    assert read_network_data(describe_network(network), run_code=True) == network


def test_head_of_a_code_network_is_its_last_linear_layer() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    assert head_prefixes(CodeNetwork("python:a:b", 2, 32), module) == ("1.0.",)
