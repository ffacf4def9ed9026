"""Load tests of a plan and their requests."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shrinkserve.benchmark.load.plan import REQUESTS, LoadPlan, Requests, run_loads
from shrinkserve.benchmark.targets.target import Target
from shrinkserve.benchmark.timing import Timing
from shrinkserve.data import open_dataset
from shrinkserve.preprocess import Preprocess

BRIEF = Timing(warmup=0.0, window=0.05, agree=9, most=1)


@pytest.fixture
def requests(tmp_path: Path) -> Requests:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(12):
                Image.new("RGB", (9, 9), (10 * number, 0, 0)).save(tmp_path / split / name / f"{number}.png")
    return Requests(open_dataset(tmp_path, "validation"), Preprocess(size=8))


def recording(name: str, seen: list, kind: str = "server") -> Target:
    @contextmanager
    def session():
        def answer(images):
            seen.append(images)
            return np.zeros((len(images), 2), np.float32)

        yield answer

    return Target(name, kind, "float32", name, session)


def test_requests_have_the_form_that_the_target_takes(requests: Requests) -> None:
    pixels, encoded = recording("server grpc", []), replace(recording("server grpc jpeg", []), payload="jpeg")
    tensors = requests.of(pixels, 3)
    assert {tensor.shape for tensor in tensors} == {(3, 8, 8, 3)}
    images = requests.of(encoded)
    assert len(images) == REQUESTS
    assert all(one.startswith(b"\x89PNG") for (one,) in images)
    assert len({bytes(one) for (one,) in images}) > 8  # different images, so that a cache does not help


def test_run_loads_runs_every_test_once_and_targets_take_turns(requests: Requests) -> None:
    seen: list = []
    pixels = recording("server grpc", seen)
    encoded = replace(recording("server grpc jpeg", []), payload="jpeg")
    named_twice = {"concurrency": (1, 2, 1), "batches": (1, 4, 4), "rates": (40.0, 40.0)}  # each is measured once
    plan = LoadPlan(**named_twice, arrivals="constant", in_flight=2, timing=BRIEF)
    loads = list(run_loads(plan, [pixels, encoded], requests, lambda _: None))
    assert [(load.target, load.workers, load.batch, load.rate) for load in loads] == [
        ("server grpc", 1, 1, None), ("server grpc jpeg", 1, 1, None),
        ("server grpc", 2, 1, None), ("server grpc jpeg", 2, 1, None),
        ("server grpc", 1, 4, None),  # encoded images are sent one in a request
        ("server grpc", 2, 1, 40.0), ("server grpc jpeg", 2, 1, 40.0),
    ]  # fmt: skip
    assert set(Counter(len(images) for images in seen)) == {1, 4}
    assert {load.arrivals for load in loads} == {None, "constant"}


def test_local_stages_are_tested_only_everywhere() -> None:
    stages = [recording("onnx", [], kind="onnx"), recording("server http", [])]
    assert [one.name for one in LoadPlan().targets(stages)] == ["server http"]
    assert len(LoadPlan(everywhere=True).targets(stages)) == 2
