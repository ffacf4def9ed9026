"""ONNX Runtime's CUDA provider, which NVIDIA's container uses, with equal and mixed batch sizes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

PROVIDERS: dict[str, dict[str, str]] = {
    "HEURISTIC": {"cudnn_conv_algo_search": "HEURISTIC"},
    "HEURISTIC, no TF32": {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"},
    "EXHAUSTIVE": {"cudnn_conv_algo_search": "EXHAUSTIVE"},
}
SECONDS = 20
"""Time for the batches of mixed sizes: each new size is a new search in each of 190 convolutions."""
BATCHES = (1, 2, 5, 32)
TOLERANCE = 0.005
"""Largest difference from the CPU, in multiples of the largest logit: TF32 keeps 10 bits of the mantissa."""


def measure_onnxruntime(*, smoke: bool, keep: Callable[[dict[str, Any]], None]) -> None:
    """Measure each set of provider options, and call `keep` after each. A batch size that does not run is a failure."""
    import onnxruntime

    gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if not gpu and not smoke:
        keep({"rows": [], "failures": ["onnxruntime-gpu is not installed"]})
        return
    if gpu and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA's and cuDNN's libraries from torch's wheels
    with tempfile.TemporaryDirectory() as folder:
        path = random_model(Path(folder), size=32 if smoke else 224)
        rows: list[dict[str, Any]] = []
        failures: list[str] = []
        for name, options in (PROVIDERS if gpu else {"CPU": {}}).items():
            row: dict[str, Any] = {"providers": name}
            rows.append(row)
            for step in measure(path, name, options, gpu=gpu):
                failures += step.pop("failures", [])
                row |= step
                keep({"rows": rows, "failures": failures})


def random_model(folder: Path, size: int) -> Path:
    """Export ShrinkCNN-A with random weights."""
    import torch
    from safetensors.torch import save_file

    from shrinkserve.arch import load_network
    from shrinkserve.arch.module import compile_spec
    from shrinkserve.arch.serialise import to_dict
    from shrinkserve.artifact import Card, sha256_file
    from shrinkserve.exporting.samples import synthetic
    from shrinkserve.exporting.to_onnx import OnnxFromCheckpoint
    from shrinkserve.preprocess import Preprocess
    from shrinkserve.runtimes.checkpoint import Checkpoint, weights

    spec = load_network("shrinkcnn-a", classes=1001, input_size=size)
    torch.manual_seed(0)
    save_file(weights(compile_spec(spec)), folder / "ema.safetensors")
    classes = [str(index) for index in range(1001)]
    preprocess = Preprocess(size=size).to_dict()
    files = {"ema.safetensors": sha256_file(folder / "ema.safetensors")}
    card = Card("checkpoint", "net", files=files, preprocess=preprocess, classes=classes, spec=to_dict(spec))
    card.write(folder)
    OnnxFromCheckpoint(Checkpoint(folder)).run(folder, folder / "model.onnx", synthetic(size, 4))
    return folder / "model.onnx"


def measure(path: Path, name: str, options: dict[str, str], *, gpu: bool) -> Iterator[dict[str, Any]]:
    """Yield the columns of a row as they are measured: each batch size, then equal and mixed sizes."""
    import onnxruntime

    plain = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = plain.get_inputs()[0]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (max(BATCHES), *given.shape[1:]), dtype=np.uint8)
    expected = plain.run(["logits"], {given.name: images})[0]
    providers: list[Any] = [("CUDAExecutionProvider", options)] if gpu else []
    session = onnxruntime.InferenceSession(str(path), providers=[*providers, "CPUExecutionProvider"])
    works = True
    for batch in BATCHES:
        feed, times = {given.name: images[:batch]}, []
        try:
            for _ in range(2):
                began = time.perf_counter()
                logits = session.run(["logits"], feed)[0]
                times.append(round(1e3 * (time.perf_counter() - began), 2))
        except Exception as exc:  # noqa: BLE001 - the error is the result
            works = False
            yield {"failures": [f"{name}, batch {batch}: {str(exc)[:500]}"]}
            continue
        difference = float(np.abs(logits - expected[:batch]).max() / np.abs(expected).max())
        found = f"{times[0]:.1f}, {times[1]:.1f}, {difference:.1e}"
        bad = f"{name}, batch {batch}: logits differ by {difference:.2g} of the largest"
        failures = [] if difference <= TOLERANCE else [bad]
        yield {f"batch {batch}: first ms, second ms, difference": found, "failures": failures}
    if works:
        sizes = {"equal": [max(BATCHES)] * 20, "mixed": rng.integers(1, max(BATCHES) + 1, 40).tolist()}
        for what, each in sizes.items():
            began, done = time.perf_counter(), 0
            for size in each:
                session.run(["logits"], {given.name: images[:size]})
                done += size
                if time.perf_counter() - began > SECONDS:
                    break
            yield {f"{what} batch sizes, images/s": round(done / (time.perf_counter() - began))}
