from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from shrinkserve.benchmark.targets.target import local_target, parse_payloads, server_target
from shrinkserve.errors import ConfigError


def test_parse_payloads_returns_each_once() -> None:
    assert parse_payloads(["shm", "tensor", "shm"]) == ["tensor", "shm"]
    assert parse_payloads([]) == []


def test_parse_payloads_refuses_other_names() -> None:
    with pytest.raises(ConfigError, match="pigeon"):
        parse_payloads(["tensor", "pigeon"])


@pytest.mark.parametrize(
    ("precision", "payload", "name", "exact"),
    [
        ("float32", "tensor", "server grpc", True),
        ("float32", "shm", "server grpc shm", True),
        ("float32", "jpeg", "server grpc jpeg", False),
        ("bfloat16", "tensor", "server grpc", False),
    ],
)
def test_server_is_exact_with_the_same_pixels_in_float32(precision: str, payload: str, name: str, exact: bool) -> None:
    target = server_target("grpc://127.0.0.1:1", "digits", precision, payload)
    assert (target.name, target.exact, target.remote, target.encoded) == (name, exact, True, payload == "jpeg")


def test_local_target_calls_the_predictor() -> None:
    predictor = SimpleNamespace(predict=lambda images: np.full((len(images), 2), 7, np.float32))
    target = local_target("onnx", predictor, "onnx", "float32", "sha")
    with target.open() as predict:
        assert predict(np.zeros((3, 8, 8, 3), np.uint8)).tolist() == [[7, 7]] * 3
    assert not target.remote
