"""The run that a model was made from, found by the hash of its weights."""

from __future__ import annotations

from pathlib import Path

from shrinkserve.artifact import CARD, Card, read_card, tensors_sha256
from shrinkserve.errors import ArtifactError
from shrinkserve.runtimes.checkpoint import Checkpoint, Weights, weights


def find_run(named: Path | None, runs: Path, served: str | None) -> tuple[Path, Weights, str]:
    """The run whose weights are served, which of its weights these are, and their hash.

    Args:
        named: the run that a user named; None to look for it.
        runs: where it is looked for.
        served: hash of the weights that a server has; None without a server, when `named` must be given.

    Raises:
        ArtifactError: no such run, a damaged one, or one of other weights.
    """
    if named is not None:
        card = read_card(named, "checkpoint")
        if served is None:
            return named, "ema", card.weights_sha256
        if which := _which(named, card, served):
            return named, which, served
        raise ArtifactError(
            f"{named}: not the checkpoint that the server's model was made from",
            expected=f"weights {served[:12]}",
            found=card.weights_sha256[:12],
            hint="name the run that was exported, or export this one",
        )
    assert served is not None
    for path in sorted(runs.glob(f"*/{CARD}")):
        try:
            which = _which(path.parent, read_card(path.parent, "checkpoint"), served)
        except ArtifactError:  # a folder beside it that is no whole run
            continue
        if which:
            return path.parent, which, served
    raise ArtifactError(
        f"{runs}: no run with the weights that are served",
        expected=f"weights {served[:12]}",
        hint="name the run with --checkpoint",
    )


def _which(run: Path, card: Card, sha256: str) -> Weights | None:
    """Which of a run's weights have this hash."""
    if card.weights_sha256 == sha256:
        return "ema"
    raw = weights(Checkpoint(run, "raw").module)
    return "raw" if tensors_sha256({name: tensor.numpy() for name, tensor in raw.items()}) == sha256 else None
