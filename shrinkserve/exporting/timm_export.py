"""Export a network of timm with its weights, without training; the reference is the network behind timm's transform."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from shrinkserve.arch.timm_networks import create_timm, import_timm
from shrinkserve.artifact import Card, recorded_path, sha256_file
from shrinkserve.errors import ArtifactError, ConfigError, ParityError
from shrinkserve.exporting.exporter import Conversion, Exported, ExportOptions, export_checked
from shrinkserve.exporting.parity import FLOAT32, Parity, difference, find_flips
from shrinkserve.exporting.records import CheckRecord
from shrinkserve.exporting.samples import EncodedSamples, load_encoded, load_samples
from shrinkserve.exporting.steps import CHECKPOINT, Product
from shrinkserve.exporting.to_onnx import OnnxFromCheckpoint, module_sha256
from shrinkserve.preprocess.timm_config import TIMM, timm_preprocess
from shrinkserve.runtimes.checkpoint import TorchClassifier
from shrinkserve.runtimes.predictor import Predictor
from shrinkserve.text import check_class_names

PLAIN_MODES = ("RGB", "L")
"""Pillow's modes of images that timm's data pipeline decodes as the decoding policy does."""


def export_timm(
    source: str, checkpoint: Path | None, classes: Sequence[str], folder: Path, options: ExportOptions
) -> Exported:
    """Export a network of timm, and check it against timm.

    The graph is compared with the network on pixels. Then the graph behind the contract's preprocessing is compared
    with the network behind timm's own transform, both on encoded images.

    Args:
        source: ``timm:NAME``.
        checkpoint: safetensors file of its weights; None for timm's pretrained ones.
        classes: class names in the order of the logits.
        folder: an existing folder that gets `model.onnx`, `card.json` and intermediate files.
        options: see `ExportOptions`.

    Raises:
        SpecError: no timm, no such network, or no weights.
        ConfigError: the number of classes differs, or timm's preprocessing cannot be expressed.
        ArtifactError: `checkpoint` is damaged or of another network.
        ParityError: the outputs of a step differ from those of its source; there is no `model.onnx`.
    """
    check_class_names(list(classes), ArtifactError)
    import_timm(source)
    preprocess = timm_preprocess(source)
    network = TorchClassifier(
        name=source.removeprefix(TIMM),
        classes=list(classes),
        preprocess=preprocess,
        weights="as given" if checkpoint else "pretrained",
        module=_load(source, checkpoint, len(classes), preprocess.size),
    )
    digest = module_sha256(network.module)
    card = Card(
        kind="onnx",
        name=network.name,
        weights=network.weights,
        parents={recorded_path(checkpoint): sha256_file(checkpoint)} if checkpoint else {source: digest},
        preprocess=preprocess.to_dict(),
        classes=list(classes),
    )
    samples = load_samples(options.data_root, preprocess, classes)
    encoded = load_encoded(options.data_root, PLAIN_MODES)

    def final(model: Predictor) -> list[CheckRecord]:
        return [check_transform(network, model, encoded)]

    start = Product(Path(source), CHECKPOINT, digest)
    conversion = Conversion(start, OnnxFromCheckpoint(network), network, final=final)
    return export_checked(conversion, card, samples, folder, options)


def _load(source: str, checkpoint: Path | None, classes: int, size: int) -> nn.Module:
    if checkpoint is None:
        module = create_timm(source, None, size, pretrained=True).eval()
        with torch.no_grad():
            found = module(torch.zeros(1, 3, size, size)).shape[1]
        if found != classes:
            raise ConfigError("--labels", expected=f"{found} names, the classes of {source}", found=classes)
        return module
    module = create_timm(source, classes, size).eval()
    hint = "give a .safetensors file: safetensors.torch.save_file(state_dict, FILE) writes one"
    try:
        module.load_state_dict(load_file(checkpoint), strict=True)
    except (OSError, SafetensorError) as exc:
        raise ArtifactError(f"{checkpoint}: not readable weights ({exc})", hint=hint) from exc
    except RuntimeError as exc:
        reason = str(exc).splitlines()[-1].strip()[:200]
        what = f"{checkpoint}: not the weights of {source} with {classes} classes ({reason})"
        raise ArtifactError(what, hint="check the network's name and --labels") from exc
    return module


def check_transform(network: TorchClassifier, model: Predictor, encoded: EncodedSamples) -> CheckRecord:
    """Compare a graph behind the preprocessing with a network behind timm's transform, on encoded images.

    Raises:
        ParityError: the logits differ.
    """
    from timm.data import create_transform, resolve_data_config

    transform: Callable[[Image.Image], Tensor] = create_transform(**resolve_data_config({}, model=network.module))
    rows, found_rows = [], []
    for image in encoded.images:
        tensor = transform(Image.open(io.BytesIO(image)).convert("RGB"))
        with torch.inference_mode():
            rows.append(network.module(tensor[None]).numpy())
        found_rows.append(model.predict(network.preprocess.evaluate_bytes(image, encoded.source)[None]))
    right, found = np.concatenate(rows), np.concatenate(found_rows)
    worst, flips = difference(found, right), find_flips(right, found)
    parity = Parity(
        reference="timm's transform and network",
        candidate="preprocessing and graph",
        images=len(right),
        source=encoded.source,
        tolerance=FLOAT32,
        batches={1: worst},
        same_image=0.0,  # every image runs alone
        permuted=0.0,
        worst=worst,
        scale=float(np.abs(right).max()),
        flips=len(flips),
        flipped=flips[:20],
        classes=network.classes,
    )
    if parity.violations:
        expected = f"logits within {parity.limit:.3g} of timm's"
        hint = "nothing was written; the preprocessing differs from timm's, please report it"
        raise ParityError("step transform", expected=expected, found=", ".join(parity.violations), hint=hint)
    return {**parity.to_dict(), "step": "transform"}
