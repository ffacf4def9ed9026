from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from shrinkserve.arch import load_network
from shrinkserve.arch.module import compile_spec
from shrinkserve.arch.serialise import to_dict
from shrinkserve.artifact import Card, sha256_file, tensors_sha256
from shrinkserve.errors import ArtifactError, ConfigError, DataError
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.checkpoint import Checkpoint, normalise, restore_module, weights

PREPROCESS = Preprocess(size=32, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with random weights whose running statistics are not those of a new network. Read only."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(3)
    spec = load_network("shrinkcnn-b", classes=4, input_size=32, width=0.25, batch_norm_decay=0.1)
    files = {}
    for name in ("ema", "raw"):
        network = compile_spec(spec)
        network(torch.randn(8, 3, 32, 32))
        arrays = {key: value.numpy() for key, value in weights(network).items()}
        save_file(arrays, folder / f"{name}.safetensors")
        files[f"{name}.safetensors"] = sha256_file(folder / f"{name}.safetensors")
    Card(
        kind="checkpoint",
        name="four",
        weights_sha256=tensors_sha256(load_file(folder / "ema.safetensors")),
        files=files,
        preprocess=PREPROCESS.to_dict(),
        classes=["a", "b", "c", "d"],
        spec=to_dict(spec),
    ).write(folder)
    return folder


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def test_normalise_equals_formula() -> None:
    pixels = images(3)
    expected = (pixels / 255 - np.array(PREPROCESS.mean)) / np.array(PREPROCESS.std)
    found = normalise(torch.from_numpy(pixels), PREPROCESS)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(found.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-6)


def test_checkpoint_predicts_with_stored_weights(run: Path) -> None:
    checkpoint = Checkpoint(run)
    assert (checkpoint.name, checkpoint.size, checkpoint.classes) == ("four", 32, ["a", "b", "c", "d"])
    network = compile_spec(load_network("shrinkcnn-b", classes=4, input_size=32, width=0.25))
    state = {name: torch.from_numpy(value) for name, value in load_file(run / "ema.safetensors").items()}
    assert not network.load_state_dict(state, strict=False).unexpected_keys
    normalised = (images(5) / 255 - np.array(PREPROCESS.mean)) / np.array(PREPROCESS.std)
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(normalised.transpose(0, 3, 1, 2)).float())
    answer = checkpoint.predict(images(5))
    assert (answer.shape, answer.dtype) == ((5, 4), np.float32)
    np.testing.assert_allclose(answer, expected.numpy(), rtol=1e-4, atol=1e-4)


def test_checkpoint_splits_large_batch(run: Path) -> None:
    checkpoint = Checkpoint(run)
    many = images(70)
    parts = np.concatenate([checkpoint.predict(many[:64]), checkpoint.predict(many[64:])])
    np.testing.assert_array_equal(checkpoint.predict(many), parts)
    assert checkpoint.predict(many[:0]).shape == (0, 4)


def test_checkpoint_rejects_images_of_another_size(run: Path) -> None:
    """The network alone would take any size."""
    with pytest.raises(DataError, match=r"expected uint8 \[N, 32, 32, 3\], found uint8 \[1, 64, 64, 3\]"):
        Checkpoint(run).predict(np.zeros((1, 64, 64, 3), np.uint8))


def test_checkpoint_opens_raw_weights(run: Path) -> None:
    assert not np.allclose(Checkpoint(run, "raw").predict(images(2)), Checkpoint(run).predict(images(2)))
    with pytest.raises(ConfigError, match="weights: expected ema or raw, found 'best'"):
        Checkpoint(run, "best")


@pytest.mark.parametrize("damage", ["changed", "truncated", "missing"])
def test_checkpoint_rejects_damaged_weights(run: Path, tmp_path: Path, damage: str) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    path = copy / "ema.safetensors"
    if damage == "missing":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content if damage == "changed" else content[:100])
    with pytest.raises(ArtifactError, match=r"ema\.safetensors: (no such file|sha256 does not match)"):
        Checkpoint(copy)


def test_restore_rejects_weights_of_other_network(run: Path) -> None:
    spec = to_dict(load_network("shrinkcnn-b", classes=5, input_size=32, width=0.25))
    with pytest.raises(ArtifactError, match="x: weights of another network"):
        restore_module(spec, load_file(run / "ema.safetensors"), "x")


def test_weights_leave_out_batch_counters(run: Path) -> None:
    names = load_file(run / "ema.safetensors")
    assert not [name for name in names if name.endswith("num_batches_tracked")]
    assert "stem.conv.weight" in names
