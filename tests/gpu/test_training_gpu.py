"""Training on one GPU, compared with the CPU. Needs no package beyond the extra `train`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from shrinkserve import arch  # noqa: E402
from shrinkserve.cli import main  # noqa: E402
from shrinkserve.config import ModelConfig, Recipe, parse_recipe  # noqa: E402
from shrinkserve.data import TrainBatch, open_dataset, train_loader  # noqa: E402
from shrinkserve.training.processes.distributed import DistContext, join  # noqa: E402
from shrinkserve.training.processes.torch_settings import torch_settings  # noqa: E402
from shrinkserve.training.run_folder import snapshot  # noqa: E402
from shrinkserve.training.update.colour import coloured  # noqa: E402
from shrinkserve.training.update.metrics import evaluate_network  # noqa: E402
from shrinkserve.training.update.prefetch import on_device  # noqa: E402
from shrinkserve.training.update.train_state import TrainState  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can see")]

CLASSES, BATCH, SIZE, RATE = 11, 16, 64, 1e-3
CPU = torch.device("cpu")


def recipe(**train: Any) -> Recipe:
    keys = {"batch_size": BATCH, "deterministic": True, **train}
    return parse_recipe({"name": "gpu", "model": {"input_size": SIZE, "width": 0.25}, "train": keys})


def small(**train: Any) -> Recipe:
    """Return a recipe of a network of two cells, which is compiled in seconds."""
    found = recipe(precision="float32", **train)
    return replace(found, model=ModelConfig("shrinkcnn-tiny", input_size=SIZE))


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Switch TF32 off, so that float32 on the GPU equals float32 on the CPU to rounding."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with torch_settings(deterministic=True):
        yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def ranks() -> Iterator[DistContext]:
    with join() as found:
        yield found


@pytest.fixture(scope="module")
def batches() -> list[TrainBatch]:
    rng = np.random.default_rng(0)
    return [
        TrainBatch(
            rng.integers(0, 256, (BATCH, SIZE, SIZE, 3), dtype=np.uint8),
            rng.integers(0, CLASSES, BATCH),
            np.arange(BATCH),
        )
        for _ in range(6)
    ]


def make(found: Recipe, ranks: DistContext, device: Any = None) -> TrainState:
    place = ranks if device is None else DistContext(0, 1, device, ranks.control)
    return TrainState(arch.from_recipe(found.model, CLASSES), found, place)


def losses(state: TrainState, batches: list[TrainBatch], ranks: DistContext, first: int = 1) -> list[float]:
    found = []
    for step, batch in enumerate(batches, start=first):
        state.update([batch], step, RATE)
        found.append(state.running.report(ranks)[0])
    return found


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.1), ("float16", 0.05)])
def test_updates_match_the_cpu(ranks: DistContext, batches: list[TrainBatch], precision: str, tolerance: float) -> None:
    on_gpu = losses(make(recipe(precision=precision), ranks), batches, ranks)
    on_cpu = losses(make(recipe(), ranks, CPU), batches, ranks)
    assert all(map(math.isfinite, on_gpu))
    assert on_gpu == pytest.approx(on_cpu, rel=tolerance)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("optimizer", ["rmsprop", "sgd", "adamw"])
def test_update_does_not_wait_for_the_gpu(
    ranks: DistContext, batches: list[TrainBatch], precision: str, optimizer: str
) -> None:
    raw = {"name": "gpu", "model": {"input_size": SIZE, "width": 0.25}, "optimizer": {"name": optimizer}}
    found = parse_recipe({**raw, "train": {"batch_size": BATCH, "precision": precision}})
    state = make(found, ranks)
    placed = list(on_device(iter(batches), ranks.device))
    for step in (1, 2, 3):
        state.update([placed[0]], step, RATE)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step, batch in enumerate(placed, start=4):
            state.update([batch], step, RATE)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert math.isfinite(state.running.report(ranks)[0])


@pytest.mark.parametrize("captured", [True, False])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_snapshot_and_restore_are_exact(
    ranks: DistContext, batches: list[TrainBatch], precision: str, captured: bool
) -> None:
    found = recipe(precision=precision, cuda_graph=captured)
    found = replace(found, model=replace(found.model, dropout=0.2))  # draws on the GPU belong to the state
    whole = make(found, ranks)
    losses(whole, batches[:4], ranks)
    first = make(found, ranks)
    losses(first, batches[:2], ranks)
    kept = {name: value.cpu().clone() for name, value in snapshot.take(first, ranks).items()}
    second = make(found, ranks)
    snapshot.restore(second, kept, ranks)
    snapshot.load_scaler(second, first.scaler.state_dict(), "test")
    second.ema.updates = first.ema.updates
    losses(second, batches[2:4], ranks, first=3)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name]), name
    for name, value in whole.ema.network.state_dict().items():
        assert torch.equal(value, second.ema.network.state_dict()[name]), name


OPTIONS: list[dict[str, Any]] = [
    {"cuda_graph": True},
    {"compile": True, "cuda_graph": False},
    {"compile": True, "cuda_graph": True},
    {"compile": "reduce-overhead"},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_compiled_and_captured_updates_match_plain_ones(
    ranks: DistContext, batches: list[TrainBatch], options: dict[str, Any]
) -> None:
    plain = losses(make(small(cuda_graph=False), ranks), batches, ranks)
    fast = losses(make(small(**options), ranks), batches, ranks)
    assert fast == pytest.approx(plain, rel=2e-3)


def test_captured_update_takes_smaller_batches_and_other_image_sizes(
    ranks: DistContext, batches: list[TrainBatch]
) -> None:
    fewer = TrainBatch(batches[1].images[:9], batches[1].labels[:9], batches[1].indices[:9])
    images = batches[2].images[:, :48, :48]
    mixed = [batches[0], fewer, TrainBatch(images, batches[2].labels, batches[2].indices), batches[3], batches[4]]
    plain = losses(make(small(cuda_graph=False), ranks), mixed, ranks)
    captured = losses(make(small(cuda_graph=True), ranks), mixed, ranks)
    assert captured == pytest.approx(plain, rel=2e-3)


def test_transferred_batches_are_the_loaders(ranks: DistContext, batches: list[TrainBatch]) -> None:
    for moved, batch in zip(on_device(iter(batches), ranks.device), batches, strict=True):
        assert moved.images.device == ranks.device
        assert np.array_equal(moved.images.cpu().numpy(), batch.images)
        assert np.array_equal(moved.labels.cpu().numpy(), batch.labels)


@pytest.fixture
def uncoloured(digits: Path) -> tuple[list[TrainBatch], list[TrainBatch]]:
    """Return batches whose colours are left to the device, and the same batches as the workers colour them."""
    raw = {"name": "gpu", "model": {"input_size": SIZE}, "augment": {"erase_probability": 0.8}}
    found = parse_recipe({**raw, "train": {"batch_size": BATCH}, "data": {"loader": "portable", "workers": 0}})
    dataset = open_dataset(digits, "train")
    loaders = [train_loader(dataset, found, colour_on_device=left) for left in (True, False)]
    left, right = (list(islice(loader.epoch(0), 4)) for loader in loaders)
    return left, right


def assert_same_pixels(ours: Any, worker: Any) -> None:
    difference = np.abs(ours.cpu().numpy().astype(int) - worker)
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.999


def test_colours_change_as_in_the_workers_without_a_wait(
    ranks: DistContext, uncoloured: tuple[list[TrainBatch], list[TrainBatch]]
) -> None:
    left, right = uncoloured
    state = make(recipe(), ranks)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        placed = [state.place(batch).images for batch in left]
        ahead = [batch.images for batch in on_device(iter(left), ranks.device)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for ours, theirs, batch in zip(placed, ahead, right, strict=True):
        assert torch.equal(ours, theirs)
        assert_same_pixels(ours, batch.images)


def test_captured_change_of_colour_takes_the_next_batch(
    ranks: DistContext, uncoloured: tuple[list[TrainBatch], list[TrainBatch]]
) -> None:
    left, right = uncoloured
    inputs = [
        [torch.as_tensor(part).to(ranks.device) for part in (batch.images, batch.colour.matrices, batch.colour.erased)]
        for batch in left
        if batch.colour is not None
    ]
    static = [tensor.clone() for tensor in inputs[0]]
    coloured(*static)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = coloured(*static)
    for parts, batch in zip(inputs, right, strict=True):
        for tensor, part in zip(static, parts, strict=True):
            tensor.copy_(part)
        graph.replay()
        assert_same_pixels(found, batch.images)


def test_evaluation_matches_the_cpu(ranks: DistContext, digits: Path) -> None:
    dataset = open_dataset(digits, "validation")
    found = recipe()
    state = make(found, ranks)
    network = state.averaged()
    on_gpu = evaluate_network(network, dataset, found.preprocess, ranks)
    cpu = DistContext(0, 1, CPU, ranks.control)
    on_cpu = evaluate_network(network.to(CPU), dataset, found.preprocess, cpu)
    assert on_gpu.loss == pytest.approx(on_cpu.loss, rel=1e-4)
    assert abs(on_gpu.top1 - on_cpu.top1) <= 1 / len(dataset)


@pytest.mark.parametrize("loader", ["portable", "dali"])
def test_command_trains_evaluates_and_resumes(tmp_path: Path, digits: Path, loader: str) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
    words = ["--data", str(digits), "--out", str(tmp_path / "run"), "--set", f"data.loader={loader}"]
    assert main(["train", "digits", *words, "--set", "schedule.epochs=2"]) == 0
    assert main(["eval", str(tmp_path / "run"), "--data", str(digits)]) == 0
    more = ["--set", "schedule.epochs=3", "--resume", "--allow-recipe-change"]
    assert main(["train", "digits", *words, *more]) == 0
