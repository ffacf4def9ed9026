"""Import of AutoShrink's checkpoints, against golden values that its own code made (see autoshrink/README.md)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from shrinkserve.arch.importer import read_network
from shrinkserve.arch.module import compile_spec
from shrinkserve.artifact import read_card
from shrinkserve.config import load_recipe, parse_recipe
from shrinkserve.data import TrainBatch
from shrinkserve.errors import ArtifactError, ConfigError, SpecError
from shrinkserve.runtimes.checkpoint import Checkpoint, load_weights, weights
from shrinkserve.training.distributed import join
from shrinkserve.training.tensorflow_checkpoint import RAW, ImportedWeights, convert, read_checkpoint, variables_of
from shrinkserve.training.tensorflow_import import import_tensorflow
from shrinkserve.training.torch_settings import torch_settings
from shrinkserve.training.train_state import TrainState

GOLDEN = Path(__file__).with_name("autoshrink")
PROTO = GOLDEN / "small.prototxt"
tensorflow = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("tensorflow") is None, reason="the extra tensorflow is not installed"
)
Variables = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def updates() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "updates.npz") as found:
        return dict(found)


@pytest.fixture
def variables(updates: dict[str, np.ndarray]) -> Variables:
    """Return variables as a checkpoint has them: averages under the plain names."""
    after = {name.removeprefix("after/"): value for name, value in updates.items() if name.startswith("after/")}
    swapped = {name: after.get(f"{name}{RAW}", value) for name, value in after.items() if not name.endswith(RAW)}
    return {**swapped, **{name: after[name.removesuffix(RAW)] for name in after if name.endswith(RAW)}}


def shapes() -> dict[str, tuple[int, ...]]:
    module = compile_spec(read_network(PROTO).spec)
    return {name: tuple(tensor.shape) for name, tensor in weights(module).items()}


def converted(found: Variables) -> ImportedWeights:
    return convert(found, variables_of(PROTO), shapes(), "test")


def test_convert_reads_every_tensor_of_the_network(variables: Variables) -> None:
    found = converted(variables)
    assert found.averaged
    assert found.ema.keys() == found.raw.keys() == shapes().keys()
    kernel = variables["conv_pre1/conv/kernel"]
    assert found.ema["conv_pre1.conv.weight"][5, 2, 0, 1] == kernel[0, 1, 2, 5]
    assert not np.array_equal(found.ema["conv_pre1.conv.weight"], found.raw["conv_pre1.conv.weight"])


def test_convert_accepts_a_checkpoint_without_averages(variables: Variables) -> None:
    plain = {name: value for name, value in variables.items() if not name.endswith(RAW)}
    found = converted({**plain, "global_step": np.array(3)})
    assert not found.averaged
    assert {"global_step", "logits/dense/bias/RMSProp", "logits/dense/bias/RMSProp_1"} <= {*found.ignored}
    assert all(np.array_equal(found.ema[name], found.raw[name]) for name in found.ema)


def without(variables: Variables, name: str) -> Variables:
    return {key: value for key, value in variables.items() if key != name}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda v: without(v, "conv_pre1/bn/gamma"), "missing: conv_pre1/bn/gamma"),
        (lambda v: without(v, f"conv_pre1/bn/gamma{RAW}"), f"missing: conv_pre1/bn/gamma{RAW}"),
        (lambda v: {**v, "extra/kernel": np.ones(3)}, "left over: extra/kernel"),
        (lambda v: {**v, "logits/dense/bias": np.ones(12)}, "shape of logits/dense/bias"),
        (lambda v: {**v, "logits/dense/bias": np.full(11, np.nan)}, "not finite: logits/dense/bias"),
    ],
)
def test_convert_names_what_does_not_fit(
    variables: Variables, change: Callable[[Variables], Variables], part: str
) -> None:
    with pytest.raises(ArtifactError, match=part):
        converted(change(variables))


def test_twelve_updates_match_autoshrink(updates: dict[str, np.ndarray]) -> None:
    """The trainer from the same weights on the same images, against the TensorFlow graph of AutoShrink's trainer."""
    network = read_network(PROTO)
    model = {"network": str(PROTO), "classes": 11, "input_size": 64}
    train = {"batch_size": 8, "precision": "float32", "threads": 1}
    recipe = parse_recipe({"name": "golden", "model": model, "train": train})
    before = {name.removeprefix("before/"): value for name, value in updates.items() if name.startswith("before/")}
    start = converted({name: value for name, value in before.items() if not name.endswith(RAW)})
    with torch_settings(deterministic=True), join(1) as ranks:
        state = TrainState(network.spec, recipe, ranks)
        for module in (state.network, state.ema.network):
            values = {name: torch.from_numpy(value) for name, value in start.raw.items()}
            with torch.no_grad():
                for name, tensor in module.state_dict().items():
                    tensor.copy_(values[name])
        losses = []
        for number, (images, labels) in enumerate(zip(updates["images"], updates["labels"], strict=True), start=1):
            state.update([TrainBatch(images, labels.astype(np.int64), np.arange(8))], number, rate=0.05)
            losses.append(state.running.report(ranks)[0])
        found = {"raw": state.network.state_dict(), "ema": state.ema.settle().state_dict()}
    assert losses == pytest.approx(updates["losses"][:, 0].tolist(), abs=1e-4)
    after = {name.removeprefix("after/"): value for name, value in updates.items() if name.startswith("after/")}
    names = variables_of(PROTO)
    for weights_, suffix in (("raw", ""), ("ema", RAW)):
        # Float32 sums in another order drift apart: compare the difference with the distance that the weights moved.
        moved = apart = 0.0
        for ours, tensor in found[weights_].items():
            theirs = names[ours]
            expected = converted_one(after.get(f"{theirs}{suffix}", after[theirs]), ours).astype(np.float64)
            moved += float(np.square(expected - converted_one(before[theirs], ours)).sum())
            apart += float(np.square(expected - tensor.numpy()).sum())
        assert apart**0.5 < 0.01 * moved**0.5, weights_


def converted_one(value: np.ndarray, ours: str) -> np.ndarray:
    """Return a variable in torch's layout, written out again."""
    if value.ndim == 4:
        return np.einsum("hwco->cohw" if ours.endswith("depthwise.weight") else "hwio->oihw", value)
    return value.T if value.ndim == 2 else value


@tensorflow
def test_import_reproduces_the_logits_of_autoshrink(tmp_path: Path) -> None:
    found = import_tensorflow(GOLDEN, PROTO, tmp_path / "run")
    assert (found.averaged, found.tensors) == (True, len(shapes()))
    with np.load(GOLDEN / "golden.npz") as golden:
        images, expected = golden["images"], {name: golden[f"logits_{name}"] for name in ("ema", "raw")}
    for name, logits in expected.items():
        model = Checkpoint(tmp_path / "run", name)
        np.testing.assert_allclose(model.predict(images), logits, atol=1e-5)
    card = read_card(tmp_path / "run", "checkpoint")
    assert card.classes[:3] == ["background", "1", "2"]
    assert card.preprocess["interpolation"] == "bicubic_tf1"
    assert load_recipe(tmp_path / "run" / "recipe.toml").model.classes == 11


@tensorflow
@pytest.mark.parametrize("damage", ["absent", "index only", "cut", "empty folder"])
def test_import_of_a_damaged_checkpoint_leaves_nothing(tmp_path: Path, damage: str) -> None:
    source = tmp_path / "source"
    shutil.copytree(GOLDEN, source)
    data = source / "model.ckpt.data-00000-of-00001"
    if damage == "absent":
        shutil.rmtree(source)
    elif damage == "index only":
        data.unlink()
    elif damage == "cut":
        data.write_bytes(data.read_bytes()[:5000])
    else:
        for path in source.iterdir():
            path.unlink()
    with pytest.raises(ArtifactError):
        import_tensorflow(source, PROTO, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@tensorflow
def test_import_of_another_network_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.prototxt"
    other.write_text(PROTO.read_text().replace("filters=8", "filters=16", 1))
    with pytest.raises((ArtifactError, SpecError)):
        import_tensorflow(GOLDEN, other, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_import_checks_labels_and_folder_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected 11 class names, found 2"):
        import_tensorflow(tmp_path / "absent", PROTO, tmp_path / "run", labels=["a", "b"])
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="has files"):
        import_tensorflow(tmp_path / "absent", PROTO, tmp_path)


def test_read_checkpoint_without_tensorflow_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorflow", None)
    with pytest.raises(ArtifactError, match="tensorflow"):
        read_checkpoint(GOLDEN)


def test_load_weights_rejects_another_network(variables: Variables) -> None:
    module = compile_spec(read_network(PROTO).spec)
    tensors = {name: torch.from_numpy(value) for name, value in converted(variables).ema.items()}
    tensors.pop("logits.bias")
    with pytest.raises(ArtifactError):
        load_weights(module, tensors, "test")
