"""Search for the training run of a served model by the hash of its weights."""

from __future__ import annotations

from pathlib import Path

from shrinkserve.artifact import CARD, Card, read_card, tensors_sha256
from shrinkserve.errors import ArtifactError
from shrinkserve.runtimes.checkpoint import Weights, read_weights


def find_run(named: Path | None, runs: Path, served: str | None) -> tuple[Path, Weights, str]:
    """Return the run with the served weights, which of its weights these are, and their hash.

    Args:
        named: run folder; None to search `runs`.
        runs: folder of run folders.
        served: hash of the weights on the server; None without a server, then `named` is required.

    Raises:
        ArtifactError: no such run, or a run that is damaged or has other weights.
    """
    if named is not None:
        card = read_card(named, "checkpoint")
        if served is None:
            return named, "ema", card.weights_sha256
        if which := _which(named, card, served):
            return named, which, served
        raise ArtifactError(
            f"{named}: not the checkpoint of the served model",
            expected=f"weights {served[:12]}",
            found=card.weights_sha256[:12],
            hint="name the run that was exported, or export this one",
        )
    assert served is not None
    for path in sorted(runs.glob(f"*/{CARD}")):
        try:
            which = _which(path.parent, read_card(path.parent, "checkpoint"), served)
        except ArtifactError:  # another folder that is not a complete run
            continue
        if which:
            return path.parent, which, served
    raise ArtifactError(
        f"{runs}: no run with the served weights",
        expected=f"weights {served[:12]}",
        hint="name the run with --checkpoint",
    )


def _which(run: Path, card: Card, sha256: str) -> Weights | None:
    """Return which of a run's weights have this hash; None for neither."""
    if card.weights_sha256 == sha256:
        return "ema"
    return "raw" if tensors_sha256(read_weights(run, card, "raw")) == sha256 else None
