"""Networks of timm: contract, pretrained weights, training, exact resume, export, bench."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import shrinkserve as ss
from shrinkserve.arch.code import CodeNetwork, head_prefixes
from shrinkserve.arch.timm_networks import create_timm
from shrinkserve.benchmark.targets.discover import Wanted, find_stages
from shrinkserve.config import Recipe, load_recipe
from shrinkserve.errors import ArtifactError, ConfigError, SpecError
from shrinkserve.runtimes.checkpoint import Checkpoint
from shrinkserve.training.initial import InitialWeights, apply_initial
from shrinkserve.training.plan import plan_training
from shrinkserve.training.train import train

timm = pytest.importorskip("timm")
Make = Callable[..., Recipe]
NAME = "timm:test_resnet"


def recipe_of(tiny: Make, name: str = NAME, **model: object) -> Recipe:
    keys = {"network": name, "width": 1.0, "pretrained": False, "stochastic_depth": 0.3, "dropout": 0.2}
    optimizer = {"name": "sgd", "lr": 0.5}
    return tiny(model={**keys, **model}, schedule={"epochs": 3}, optimizer=optimizer)


@pytest.fixture(scope="module")
def run(colours: Path, tiny: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(recipe_of(tiny), colours, tmp_path_factory.mktemp("runs") / "timm").folder


def test_timm_network_resumes_exactly(run: Path, tmp_path: Path, colours: Path, tiny: Make) -> None:
    def stop(event: ss.TrainEvent) -> None:
        if event.step == 3 and event.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe_of(tiny), colours, tmp_path / "run", callback=stop)
    resumed = train(recipe_of(tiny), colours, tmp_path / "run", resume=True)
    whole = ss.evaluate(run, colours)
    assert (resumed.card.weights_sha256, resumed.top1) == (
        Checkpoint(run, run_code=True).card.weights_sha256,
        whole.top1,
    )


def test_timm_network_is_exported_and_measured_by_its_graph(run: Path, tmp_path: Path, colours: Path) -> None:
    with pytest.raises(ArtifactError, match="Python code"):
        find_stages(Wanted(run=run))
    ss.export(run, data=colours, repository=tmp_path / "models", to=["fp16"])
    (model,) = (tmp_path / "models").glob("*_classifier/1/model.onnx")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    expected = Checkpoint(run, run_code=True).predict(images)
    np.testing.assert_allclose(ss.load(model).predict(images), expected, atol=1e-4)
    stages = find_stages(Wanted(run=run, repository=tmp_path / "models"))
    assert [target.kind for target in stages.targets] == ["onnx", "onnx"]
    assert any("Python code" in line for line in stages.left_out)


def test_recipe_takes_its_contract_from_timm() -> None:
    config = timm.models.get_pretrained_cfg("test_resnet")
    found = load_recipe("finetune", {"model.network": NAME}).preprocess
    assert (found.size, found.crop_fraction) == (config.input_size[1], config.crop_pct)
    assert (found.mean, found.std, found.interpolation) == (config.mean, config.std, config.interpolation)
    own = load_recipe("finetune", {"model.network": NAME, "model.input_size": 64, "input.mean": [0.1, 0.2, 0.3]})
    assert own.preprocess == replace(found, size=64, mean=(0.1, 0.2, 0.3))


@pytest.fixture
def pretrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Let timm find pretrained weights of test_resnet in a file; return them."""
    weights = timm.create_model("test_resnet").state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    known, name = timm.models._registry._model_pretrained_cfgs, "test_resnet"
    monkeypatch.setitem(known, name, replace(known[name], file=str(tmp_path / "weights.safetensors")))
    return weights


@pytest.mark.parametrize("source", ["pretrained", "file"])
def test_training_begins_with_pretrained_weights(
    tmp_path: Path, colours: Path, tiny: Make, pretrained: dict[str, torch.Tensor], source: str
) -> None:
    lines: list[str] = []
    recipe = replace(recipe_of(tiny, pretrained=True), train=replace(recipe_of(tiny).train, head_epochs=3))
    init = tmp_path / "weights.safetensors" if source == "file" else None
    result = train(recipe, colours, tmp_path / "run", init=init, callback=lambda event: lines.append(event.message))
    found = Checkpoint(result.folder, "raw", run_code=True).module.state_dict()
    assert torch.equal(found["conv1.0.weight"], pretrained["conv1.0.weight"])
    assert not torch.equal(found["conv1.0.weight"], create_timm(NAME, 2, 32).state_dict()["conv1.0.weight"])
    assert any("2 are new" in line for line in lines)
    assert len(result.card.parents) == 1


def test_new_classifier_has_small_weights() -> None:
    """timm's own have a deviation of 0.4 for two classes, whose gradients spoil the other layers."""
    networks = [create_timm("timm:test_efficientnet", 2, 32) for _ in range(2)]
    assert float(networks[0].classifier.weight.std()) > 0.3
    body = {name: value for name, value in networks[1].state_dict().items() if not name.startswith("classifier.")}
    spec = CodeNetwork("timm:test_efficientnet", 2, 32)
    apply_initial(networks, spec, InitialWeights(body, None, {}), ["a", "b"], "source", 3)
    first, second = (network.classifier for network in networks)
    assert float(first.weight.std()) == pytest.approx(0.01, rel=0.2)
    assert not first.bias.any()
    assert torch.equal(first.weight, second.weight)


def test_train_reports_pretrained_weights_that_cannot_be_loaded(tmp_path: Path, colours: Path, tiny: Make) -> None:
    with pytest.raises(SpecError, match="pretrained weights") as caught:
        train(recipe_of(tiny, pretrained=True), colours, tmp_path / "run")
    assert "--init" in str(caught.value.hint)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name", ["timm:", "timm:no_such_net", "timm:hf-hub:timm/resnet18", "timm:test_resnet.no_such_tag"]
)
def test_train_rejects_unknown_timm_network(tmp_path: Path, colours: Path, tiny: Make, name: str) -> None:
    with pytest.raises(SpecError, match="no such network"):
        train(recipe_of(tiny, name), colours, tmp_path / "run")
    with pytest.raises(ConfigError, match="no such network"):
        load_recipe("digits", {"model.network": name})
    assert not (tmp_path / "run").exists()


def test_train_rejects_growing_sizes_for_network_of_fixed_size(tmp_path: Path, colours: Path, tiny: Make) -> None:
    recipe = recipe_of(tiny, "timm:test_vit3", input_size=64)
    with pytest.raises(SpecError, match="48x48"):
        train(replace(recipe, schedule=replace(recipe.schedule, sizes=(48, 64))), colours, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_plan_counts_a_timm_network(colours: Path, tiny: Make) -> None:
    found = plan_training(recipe_of(tiny), colours)
    assert found.parameters == sum(value.numel() for value in create_timm(NAME, 2, 32).parameters())
    assert found.activation_bytes > 0


@pytest.mark.parametrize(("name", "prefixes"), [("test_resnet", ("fc.",)), ("test_vit", ("head.",))])
def test_head_prefixes_are_those_of_the_timm_classifier(name: str, prefixes: tuple[str, ...]) -> None:
    module = CodeNetwork(f"timm:{name}", 3, 64).build()
    assert head_prefixes(CodeNetwork(f"timm:{name}", 3, 64), module) == prefixes
