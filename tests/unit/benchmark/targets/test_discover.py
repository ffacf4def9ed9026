from __future__ import annotations

from pathlib import Path

import pytest

from shrinkserve.benchmark.targets.discover import BenchStages, Stage, Wanted, _with_unique_names, find_stages
from shrinkserve.benchmark.targets.target import server_target
from shrinkserve.errors import ConfigError
from shrinkserve.preprocess import Preprocess


def test_links_are_with_the_parent_and_with_the_reference(make_target) -> None:
    names = ["raw", "ema", "onnx", "int8", "server"]
    parents = [None, 0, 1, 2, 2]
    stages = [
        Stage(make_target(name, lambda images: images), parent) for name, parent in zip(names, parents, strict=True)
    ]
    found = BenchStages("digits", stages, 1, Preprocess(size=8), ["a"], 32, "w" * 64)
    assert found.links == [(0, 1), (1, 2), (2, 3), (2, 4), (1, 3), (1, 4)]
    assert [target.name for target in found.targets] == names
    assert found.served_identity == ""


def test_targets_of_one_protocol_are_numbered() -> None:
    urls = ["grpc://a:1", "http://a:2", "grpc://b:1", "grpc://c:1"]
    named = _with_unique_names([server_target(url, "digits", "float32") for url in urls])
    assert [target.name for target in named] == ["server grpc", "server http", "server grpc 2", "server grpc 3"]
    assert [target.identity for target in named] == urls


def test_nothing_to_measure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--checkpoint"):
        find_stages(Wanted(runs=tmp_path))
