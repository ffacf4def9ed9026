"""Artifacts: folders of files with a card that records their hashes and where they come from."""

from shrinkserve.artifact.card import CARD, MAX_CARD_BYTES, Card, CardDetails, EngineDetails, Json, Precision, read_card
from shrinkserve.artifact.files import copy_file, safe_join, sha256_file, tensors_sha256, verify_file
from shrinkserve.artifact.names import INPUT, LOGITS, MODEL, MODEL_NAME, PROBABILITIES, check_name
from shrinkserve.artifact.provenance import open_recorded, recorded_command, recorded_path, utc_now, versions

__all__ = [
    "CARD",
    "INPUT",
    "LOGITS",
    "MAX_CARD_BYTES",
    "MODEL",
    "MODEL_NAME",
    "PROBABILITIES",
    "Card",
    "CardDetails",
    "EngineDetails",
    "Json",
    "Precision",
    "check_name",
    "copy_file",
    "open_recorded",
    "read_card",
    "recorded_command",
    "recorded_path",
    "safe_join",
    "sha256_file",
    "tensors_sha256",
    "utc_now",
    "verify_file",
    "versions",
]
