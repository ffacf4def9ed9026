"""Import of AutoShrink's checkpoints, against golden values that its own code made (see autoshrink/README.md)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from shrinkserve.arch.importer import read_network
from shrinkserve.arch.module import compile_spec
from shrinkserve.artifact import read_card
from shrinkserve.cli import main
from shrinkserve.config import load_recipe, parse_recipe
from shrinkserve.data import TrainBatch
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.runtimes.checkpoint import Checkpoint, load_weights, weights
from shrinkserve.training.processes.distributed import join
from shrinkserve.training.processes.torch_settings import torch_settings
from shrinkserve.training.tensorflow_checkpoint import RAW, ImportedWeights, convert, read_checkpoint, variables_of
from shrinkserve.training.tensorflow_import import import_tensorflow
from shrinkserve.training.update.train_state import TrainState

GOLDEN = Path(__file__).with_name("autoshrink")
PROTO = GOLDEN / "small.prototxt"
tensorflow = pytest.mark.skipif(find_spec("tensorflow") is None, reason="the extra tensorflow is not installed")
Variables = dict[str, np.ndarray]
DATA, INDEX = "model.ckpt.data-00000-of-00001", "model.ckpt.index"


def copied(folder: Path) -> Path:
    """Return a copy of the golden checkpoint."""
    source = folder / "source"
    source.mkdir()
    for name in ("checkpoint", DATA, INDEX):
        shutil.copy(GOLDEN / name, source)
    return source


def cut(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


def flip(path: Path, position: int) -> None:
    """Change one byte."""
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)


def refusal(folder: Path, checkpoint: Path, capfd: pytest.CaptureFixture[str], proto: Path = PROTO) -> str:
    """Return the only line that the command prints when it refuses a checkpoint."""
    capfd.readouterr()
    out = folder / "run"
    assert main(["import", "tensorflow", str(checkpoint), "--proto", str(proto), "--out", str(out)]) == 2
    assert not out.exists()
    printed, complaint = capfd.readouterr()
    assert (printed, complaint.count("\n")) == ("", 1)
    return complaint


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
        found = {"raw": state.network.state_dict(), "ema": state.ema.with_statistics().state_dict()}
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
@pytest.mark.parametrize("prefix", ["", "model.ckpt"])
@pytest.mark.parametrize(
    "damage",
    {
        "absent": shutil.rmtree,
        "empty folder": lambda folder: [path.unlink() for path in folder.iterdir()],
        "no data": lambda folder: (folder / DATA).unlink(),
        "data cut": lambda folder: cut(folder / DATA, 5000),
        "data empty": lambda folder: cut(folder / DATA, 0),
        "data edited": lambda folder: flip(folder / DATA, 100_000),
        "no index": lambda folder: (folder / INDEX).unlink(),
        "index cut": lambda folder: cut(folder / INDEX, 9000),
        "index edited": lambda folder: flip(folder / INDEX, 1000),
        "index of text": lambda folder: (folder / INDEX).write_text("this is no index\n" * 2000),
        "index is a folder": lambda folder: [(folder / INDEX).unlink(), (folder / INDEX).mkdir()],
    }.items(),
    ids=lambda damage: damage[0],
)
def test_import_of_a_damaged_checkpoint_prints_one_line_and_leaves_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], damage: tuple[str, Callable[[Path], object]], prefix: str
) -> None:
    source = copied(tmp_path)
    damage[1](source)
    assert refusal(tmp_path, source / prefix, capfd).startswith("error: ")
    assert list(tmp_path.iterdir()) == [source] * source.exists()


@tensorflow
@pytest.mark.parametrize("content", [b"no state {", b"\xff\xfe\x00", b'model_checkpoint_path: "/nowhere/x"', b""])
def test_folder_without_a_readable_state_has_no_checkpoint(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes
) -> None:
    source = copied(tmp_path)
    (source / "checkpoint").write_bytes(content)
    assert "no TensorFlow checkpoint" in refusal(tmp_path, source, capfd)


@tensorflow
@pytest.mark.parametrize("value", [np.array([b"text"], object), np.zeros((3, 3, 3, 8), np.complex64), np.float32(1)])
def test_checkpoint_of_another_network_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], value: np.ndarray
) -> None:
    """Its variables have the names of the network's, but one has another type or shape."""
    import tensorflow as tf

    found = {**read_checkpoint(GOLDEN), "conv_pre1/conv/kernel": value}
    names, prefix = list(found), str(tmp_path / "model.ckpt")
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=list(map(tf.constant, found.values())),
    )
    assert "conv_pre1/conv/kernel" in refusal(tmp_path, Path(prefix), capfd)


@tensorflow
def test_import_of_another_network_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.prototxt"
    other.write_text(PROTO.read_text().replace("filters=8", "filters=16", 1))
    assert "not a checkpoint of this network" in refusal(tmp_path, GOLDEN, capfd, other)


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
