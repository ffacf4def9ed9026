"""Networks that `bench/export.py` compares: ours and a peer of the same size, as files and in torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lite0
import onnx
import torch
from network import Scale
from torch import nn

from shrinkserve.exporting import graph
from shrinkserve.exporting.foreign.adapt import AdaptedOnnx
from shrinkserve.exporting.foreign.description import read_labels, read_preprocess
from shrinkserve.exporting.foreign.reference import ForeignModel
from shrinkserve.exporting.foreign.signature import read_signature
from shrinkserve.exporting.optimise import SHIPPED, PassPlan, PassTarget, optimise
from shrinkserve.exporting.quantise.calibration import clip, observe
from shrinkserve.exporting.quantise.static import SCHEMES, quantise
from shrinkserve.exporting.samples import Samples, synthetic
from shrinkserve.exporting.steps import ONNX
from shrinkserve.exporting.to_onnx import from_network
from shrinkserve.runtimes.checkpoint import normalise
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.openvino import HINTS, OpenVinoModel, shared_core
from shrinkserve.runtimes.predictor import Images, Logits

Ask = Callable[[Images], Logits]
RUNTIMES: dict[str, PassTarget] = {"onnxruntime": "onnxruntime-cpu", "openvino": "openvino"}


@dataclass(frozen=True)
class Contestant:
    """Network, runtime and precision.

    Attributes:
        what: ``"plain"``, ``"ours"`` or ``"EfficientNet-Lite0"``.
        runtime: name of the runtime.
        precision: precision of the arithmetic.
        open: returns an instance with this number of threads; None if threads belong to the process.
    """

    what: str
    runtime: str
    precision: str
    open: Callable[[int], Ask]

    @property
    def name(self) -> str:
        return f"{self.what}, {self.runtime} {self.precision}"


def contestants(network: nn.Module, scale: Scale, folder: Path, *, compiled: bool) -> Iterator[Contestant]:
    """Return all contestants; their files are written to `folder`."""
    plain, peer = plain_files(network, scale, folder)
    samples = synthetic(scale.size, 16)
    yield Contestant("plain", "onnxruntime", "float32", _opener(plain, "onnxruntime", "float32"))
    for what, source in (("ours", plain), ("EfficientNet-Lite0", peer)):
        for runtime, target in RUNTIMES.items():
            float32, int8 = folder / f"{what}-{runtime}.onnx", folder / f"{what}-{runtime}-int8.onnx"
            optimised(source, float32, SHIPPED[target])
            quantised(float32, int8, runtime, samples)
            for precision, file in (("float32", float32), ("int8", int8), ("bfloat16", float32)):
                if (runtime, precision) != ("onnxruntime", "bfloat16"):  # it has no such kernels
                    yield Contestant(what, runtime, precision, _opener(file, runtime, precision))
            if runtime == "openvino" and what == "ours":
                yield Contestant("ours with a dynamic batch", runtime, "int8", _dynamic(int8))
    ask = partial(eager, network, scale)
    yield Contestant("ours", "torch", "float32", partial(ask, torch.float32))
    yield Contestant("ours", "torch", "bfloat16", partial(ask, torch.bfloat16))
    if compiled:
        yield Contestant("ours", "torch compiled", "float32", partial(ask, torch.float32, compiled=True))


def plain_files(network: nn.Module, scale: Scale, folder: Path) -> tuple[Path, Path]:
    """Write the ONNX files of the network as torch exports it, and of EfficientNet-Lite0 with our interface."""
    plain, peer = folder / "plain.onnx", folder / "peer.onnx"
    graph.save(from_network(network, scale.preprocess), plain)
    foreign = lite0.write(folder, scale.size)
    preprocess, samples = read_preprocess(folder / "lite0.toml"), synthetic(scale.size, 4)
    classes = read_labels(folder / "labels.txt")
    signature = read_signature(graph.load(foreign), foreign, preprocess, classes)
    AdaptedOnnx(ForeignModel(foreign, signature, preprocess, classes, samples), ONNX).run(foreign, peer, samples)
    return plain, peer


def optimised(source: Path, target: Path, plan: PassPlan) -> None:
    """Apply the graph passes of a plan."""
    model = graph.load(source)
    optimise(model, plan)
    graph.save(model, target)


def quantised(source: Path, target: Path, runtime: Any, samples: Samples) -> None:
    """Quantise to int8 with synthetic images: correct for speed, not for accuracy."""
    model = graph.load(source)
    ranges = clip(observe(model, samples.images), "percentile", SCHEMES[runtime].levels)
    onnx.save(quantise(model, ranges, runtime), target)


def eager(network: nn.Module, scale: Scale, dtype: torch.dtype, threads: int, *, compiled: bool = False) -> Ask:
    """Return the network in torch with channels last."""
    torch.set_num_threads(threads)
    run, preprocess = network.to(memory_format=torch.channels_last), scale.preprocess
    if compiled:
        run = torch.compile(run, dynamic=True)  # one compilation for all batches

    def ask(images: Images) -> Logits:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits: Logits = run(normalise(torch.from_numpy(images), preprocess)).float().numpy()
        return logits

    return ask


def _opener(path: Path, runtime: str, precision: str) -> Callable[[int], Ask]:
    if runtime == "onnxruntime":
        return lambda threads: OnnxModel(path, threads).predict
    return lambda threads: OpenVinoModel(path, threads, HINTS[precision]).predict


def _dynamic(path: Path) -> Callable[[int], Ask]:
    """Open the file in OpenVINO without `FixedBatches`, to measure its gain."""

    def opener(threads: int) -> Ask:
        properties = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": HINTS["int8"],
            "ENABLE_CPU_PINNING": "NO",
        }
        compiled = shared_core().compile_model(str(path), "CPU", {**properties, "INFERENCE_NUM_THREADS": threads})
        request = compiled.create_infer_request()
        return lambda images: request.infer({"images": images})["logits"]

    return opener
