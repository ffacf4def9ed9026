"""A published version as the source of further engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shrinkserve.arch.code import is_code_data
from shrinkserve.artifact import CARD, MODEL, Card, open_recorded, read_card, sha256_file
from shrinkserve.exporting import graph
from shrinkserve.exporting.calibrate import scale_probabilities
from shrinkserve.exporting.samples import load_samples, synthetic
from shrinkserve.exporting.steps import ONNX, Product, StepState
from shrinkserve.exporting.to_onnx import OnnxFromCheckpoint
from shrinkserve.exporting.variants import FOR_GPUS, Kind, VariantSource
from shrinkserve.preprocess import Preprocess
from shrinkserve.runtimes.checkpoint import Checkpoint


def published_source(place: Path, kinds: Sequence[Kind], folder: Path, data_root: Path | None) -> VariantSource:
    """Return a published version as the source of engines.

    Args:
        place: the version's folder.
        kinds: the engines.
        folder: an existing folder for intermediate files.
        data_root: dataset whose validation images check the engines; None for synthetic images.

    Raises:
        ArtifactError: a damaged version.
        DataError: no dataset there, or an image cannot be read.
    """
    card = read_card(place, "onnx")
    preprocess = Preprocess.from_dict(card.preprocess)
    state = StepState("onnx", card.details.get("precision", "float32"))
    model = Product(place / MODEL, state, card.files[MODEL])
    plain = export_plain(card, folder) if FOR_GPUS.intersection(kinds) else None
    return VariantSource(
        model, plain or model, preprocess, card.classes, load_samples(data_root, preprocess, card.classes)
    )


def export_plain(card: Card, folder: Path) -> Product | None:
    """Export the run of a version again, without graph passes.

    The result is None if the run is no longer there, or if its network is Python code: a card must not run code.

    Args:
        card: of the version.
        folder: gets the file.
    """
    source = next((open_recorded(path) for path in card.parents), None)
    if source is None or source.suffix != ".safetensors" or not source.is_file():
        return None
    run = source.parent
    if not (run / CARD).is_file() or is_code_data(read_card(run, verify=False).spec):  # or weights without a run
        return None
    checkpoint = Checkpoint(run, source.stem)
    step, target = OnnxFromCheckpoint(checkpoint), folder / "plain.onnx"
    if step.run(source, target, synthetic(checkpoint.size, 1))["weights_sha256"] != card.weights_sha256:
        return None
    if temperature := card.details.get("temperature"):
        model = graph.load(target)
        scale_probabilities(model, temperature)
        graph.save(model, target)
    return Product(target, ONNX, sha256_file(target))
