"""Make a model repository with ShrinkCNN-A at 224 in several precisions, for the benchmarks of serving.

    python bench/published.py FOLDER [--run RUN]     # FOLDER/models

With a trained run, `shrinkserve export` decides which precisions are accurate enough. Without one the weights are
random, which does not change the times. Their accuracy has no meaning, so no gate is applied, and a note says so.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from network import FULL, Scale, calibrated
from safetensors.torch import save_file

import shrinkserve as ss
from shrinkserve.arch.serialise import to_dict
from shrinkserve.artifact import Card, sha256_file, tensors_sha256
from shrinkserve.engines import Engine
from shrinkserve.errors import ShrinkServeError
from shrinkserve.exporting.quantise.step import Int8
from shrinkserve.exporting.samples import synthetic
from shrinkserve.runtimes.checkpoint import weights
from shrinkserve.runtimes.openvino import HINTS
from shrinkserve.serving.repository.writer import Repository

NAME = "net"
CLASSIFIER = f"{NAME}_classifier"
HINT = "INFERENCE_PRECISION_HINT"
"""Parameter of Triton's OpenVINO backend."""
GATED = ("bf16,int8", "bf16", "int8", "fp32")
"""Options of export for a trained run; the first set that passes is used."""


def published(folder: Path, run: Path | None, notes: list[str], scale: Scale = FULL) -> Path:
    """Return the repository `folder`/models; it is made if it does not exist.

    Args:
        folder: may have the result of an earlier call.
        run: run folder of a trained network; None for random weights.
        notes: receives notes for the readers of the figures.
        scale: scale of the network with random weights.
    """
    models = folder / "models"
    if run is None:
        notes.append(
            "random weights with calibrated batch norms are as fast as trained ones; no accuracy gate was applied"
        )
    if models.is_dir():
        return models
    if run is None:
        error = _export(random_run(folder / "run", scale), models, "fp32")
        if error:
            raise SystemExit(error)
        return models
    for kinds in GATED:
        error = _export(run, models, kinds)
        if not error:
            return models
        notes.append(f"export --to {kinds}: {error}")
    raise SystemExit(notes[-1])


def _export(run: Path, models: Path, kinds: str) -> str:
    """Export and return the error; empty if it succeeds."""
    try:
        ss.export(run, repository=models, name=NAME, to=kinds)
    except ShrinkServeError as exc:
        return str(exc)
    return ""


def random_run(run: Path, scale: Scale) -> Path:
    """Write a run folder of random weights."""
    state, spec = weights(calibrated(scale)), scale.spec
    run.mkdir(parents=True)
    for name in ("ema", "raw"):
        save_file(state, run / f"{name}.safetensors")
    Card(
        "checkpoint",
        NAME,
        weights_sha256=tensors_sha256({name: tensor.numpy() for name, tensor in state.items()}),
        files={f"{name}.safetensors": sha256_file(run / f"{name}.safetensors") for name in ("ema", "raw")},
        preprocess=scale.preprocess.to_dict(),
        classes=[str(number) for number in range(1001)],
        spec=to_dict(spec),
    ).write(run)
    return run


def add_precisions(models: Path, scale: Scale = FULL) -> None:
    """Add the engines of `export --to bf16,int8` for OpenVINO to random weights, without gates."""
    repository = Repository(models)
    if repository.engines(CLASSIFIER):
        return
    version = repository.active(CLASSIFIER)
    with tempfile.TemporaryDirectory() as staging:
        step = Int8("openvino", scale.images(32), max_top1_drop=100, demand_faster=False)
        target = Path(staging) / "model.int8.onnx"
        record = step.run(models / CLASSIFIER / str(version) / "model.onnx", target, synthetic(scale.size, 16))
        int8 = Engine("int8", "openvino", target.name, "int8", record=record, parameters={HINT: HINTS["int8"]})
        repository.add_engines(CLASSIFIER, [int8], Path(staging), version=version)
        bfloat16 = Engine("bfloat16", "openvino", "model.onnx", "bfloat16", parameters={HINT: HINTS["bfloat16"]})
        repository.add_engines(CLASSIFIER, [bfloat16], models / CLASSIFIER / str(version), version=version)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run", type=Path)
    lines: list[str] = []
    chosen = parser.parse_args()
    print(made := published(chosen.folder, chosen.run, lines))
    if chosen.run is None:
        add_precisions(made)
    print("\n".join(lines))
