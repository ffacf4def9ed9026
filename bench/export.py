"""ShrinkCNN-A at 224: plain export, ours, EfficientNet-Lite0 and torch, side by side in one interleaved run.

    python bench/export.py --out bench/results/export.json [--quick] [--threads 2] [--run RUN]

Without --run the weights are random, which changes no time: batch norms are calibrated on synthetic images, so that
activations are as large as a trained network's. Every candidate is asked in turns; the first answer of a turn is not
timed, as the threads of the candidate before may still spin. Figures are medians over the turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
import lite0

from shrinkserve.arch import load
from shrinkserve.arch.module import compile_spec
from shrinkserve.benchmark.environment import environment
from shrinkserve.export import graph
from shrinkserve.export.foreign import AdaptedOnnx, read_preprocess
from shrinkserve.export.optimise import SHIPPED, optimise
from shrinkserve.export.samples import synthetic
from shrinkserve.export.to_onnx import from_network
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.answerer import Images, Logits
from shrinkserve.runtimes.checkpoint import Checkpoint, normalise
from shrinkserve.runtimes.onnx import OnnxModel
from shrinkserve.runtimes.openvino import OpenVinoModel

Ask = Callable[[Images], Logits]
PREPROCESS = Preprocess()


def calibrated() -> nn.Module:
    """ShrinkCNN-A with random weights and batch norms that know the activations."""
    torch.manual_seed(0)
    network = compile_spec(load("shrinkcnn-a"))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    nn.init.normal_(network.get_parameter("head.logits.weight"), std=0.1)
    with torch.no_grad():
        network.train()(normalise(torch.from_numpy(synthetic(224, 16).images), PREPROCESS))
    return network.eval()


def eager(network: nn.Module) -> Ask:
    """The network in torch, channels-last."""
    network = network.to(memory_format=torch.channels_last)

    def ask(images: Images) -> Logits:
        with torch.inference_mode():
            return network(normalise(torch.from_numpy(images), PREPROCESS)).numpy()

    return ask


def candidates(network: nn.Module, folder: Path, threads: int) -> tuple[dict[str, Ask], dict[str, float]]:
    """What is timed, and how far each of ours is from torch (worst logit difference over 32 images)."""
    graph.save(from_network(network, PREPROCESS), folder / "plain.onnx")
    for target in ("onnxruntime-cpu", "openvino"):
        model = graph.load(folder / "plain.onnx")
        optimise(model, SHIPPED[target])
        graph.save(model, folder / f"{target}.onnx")
    foreign = lite0.write(folder)
    AdaptedOnnx(read_preprocess(folder / "lite0.toml")).run(foreign, folder / "peer.onnx", synthetic(224, 1))
    ours, vino, peer = folder / "onnxruntime-cpu.onnx", folder / "openvino.onnx", folder / "peer.onnx"
    found: dict[str, Ask] = {
        "plain, ONNX Runtime float32": OnnxModel(folder / "plain.onnx", threads).answer,
        "ours, ONNX Runtime float32": OnnxModel(ours, threads).answer,
        "EfficientNet-Lite0, ONNX Runtime float32": OnnxModel(peer, threads).answer,
        "ours, OpenVINO float32": OpenVinoModel(vino, threads).answer,
        "EfficientNet-Lite0, OpenVINO float32": OpenVinoModel(peer, threads).answer,
        "ours, OpenVINO bfloat16": OpenVinoModel(vino, threads, "bf16").answer,
        "EfficientNet-Lite0, OpenVINO bfloat16": OpenVinoModel(peer, threads, "bf16").answer,
        "torch eager, channels-last float32": eager(network),
    }
    images = synthetic(224, 32).images
    right = found["torch eager, channels-last float32"](images)
    ours_only = [name for name in found if "Lite0" not in name]
    return found, {name: float(np.abs(found[name](images) - right).max()) for name in ours_only}


def timed(found: dict[str, Ask], images: Images, turns: int) -> dict[str, list[float]]:
    """Milliseconds an image, one figure a turn."""
    taken: dict[str, list[float]] = {name: [] for name in found}
    answers = max(1, 8 // len(images))
    for turn in range(turns + 1):
        for name, ask in found.items():
            ask(images)
            started = time.perf_counter()
            for _ in range(answers):
                ask(images)
            if turn:  # the first turn warms up
                taken[name].append(1e3 * (time.perf_counter() - started) / answers / len(images))
    return taken


def peak(threads: int) -> float:
    """GFLOP/s of a float32 matrix product in ONNX Runtime: what the convolutions' own library reaches at best."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    n = 1024
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [n, n]) for name in "aby"]
    product = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["y"])], "product", values[:2], values[2:])
    model = helper.make_model(product, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    a = np.random.default_rng(0).normal(size=(n, n)).astype(np.float32)
    taken = []
    for _ in range(20):
        started = time.perf_counter()
        session.run(None, {"a": a, "b": a})
        taken.append(time.perf_counter() - started)
    return 2 * n**3 / min(taken) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="batch 1 and 8 only, few turns")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--run", type=Path, help="a trained ShrinkCNN-A at 224")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    network = Checkpoint(arguments.run).module if arguments.run else calibrated()
    sizes, turns = ((1, 8), 8) if arguments.quick else ((1, 8, 32), 20)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        found, differences = candidates(network, Path(folder), arguments.threads)
        for size in sizes:
            taken = timed(found, synthetic(224, size).images, turns if size < 32 else turns // 2)
            plain = statistics.median(taken["plain, ONNX Runtime float32"])
            for name, times in taken.items():
                middle = statistics.median(times)
                row = {"what": name, "batch": size, "threads": arguments.threads, "ms_per_image": round(middle, 3)}
                row |= {"fastest_turn_ms": round(min(times), 3), "times_plain": round(plain / middle, 3)}
                rows.append(row | {"worst_logit_difference": differences.get(name)})
                print("  ".join(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
    report = {
        "title": "Export: ShrinkCNN-A at 224 against plain export, EfficientNet-Lite0 and torch",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": f"python bench/export.py {' '.join(sys.argv[1:])}",
        "environment": environment(),
        "rows": rows,
        "notes": [
            f"float32 matrix product, ONNX Runtime, {arguments.threads} threads: {peak(arguments.threads):.0f} GFLOP/s",
            "ShrinkCNN-A is 384 M, EfficientNet-Lite0 407 M multiply-accumulates",
        ],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print("\n".join(report["notes"]))


if __name__ == "__main__":
    main()
