"""Images of one request are decoded while those of another are classified."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shrinkserve.artifact import Card
from shrinkserve.config import ServingConfig
from shrinkserve.serving.client.client import Client
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.server import ServerOptions, TritonServer

pytest.importorskip("nvidia.dali", reason="DALI is not installed")
MakeModel = Callable[..., tuple[Path, Card]]


def photo() -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def runs(traces: Iterable[Path], model: str) -> dict[int, tuple[int, int]]:
    """Request of the ensemble -> when a model's backend began and ended to work on it, in ns of Triton's clock."""
    parents: dict[int, int] = {}
    times: dict[int, dict[str, int]] = defaultdict(dict)
    for path in traces:
        for record in json.loads(path.read_text()):
            if record.get("model_name") == model:
                parents[record["id"]] = record["parent_id"]
            times[record["id"]] |= {stamp["name"]: stamp["ns"] for stamp in record.get("timestamps", ())}
    return {parent: (times[one]["COMPUTE_START"], times[one]["COMPUTE_END"]) for one, parent in parents.items()}


def test_images_are_decoded_while_others_are_classified(tmp_path: Path, make_model: MakeModel) -> None:
    """By Triton's own trace; with batches of one, each request has its turn in both models."""
    repository = Repository(tmp_path / "models")
    repository.add("tiny_classifier", *make_model(), options=ServingConfig(max_batch_size=1), encoded=True)
    settings = ("rate=1", "level=TIMESTAMPS", f"triton,file={tmp_path / 'trace'}", "triton,log-frequency=20")
    options = ServerOptions(log_file=tmp_path / "log", arguments=[f"--trace-config={one}" for one in settings])
    with TritonServer(repository.root, options) as server, Client(server.grpc_url) as client:
        outcomes = list(client.stream_encoded([photo()] * 120, "tiny", workers=8))
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    traces = sorted(tmp_path.glob("trace.*"))[:5]  # one of 20 requests each; the last may not have been finished
    decoded, classified = runs(traces, "tiny_preprocess"), runs(traces, "tiny_classifier")
    assert len(decoded) == len(classified) == 100
    assert any(
        first < end and begin < last
        for request, (first, last) in decoded.items()
        for other, (begin, end) in classified.items()
        if request != other
    )
