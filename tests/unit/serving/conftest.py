"""A repository of small models, and a server of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shrinkserve.artifact import Card
from shrinkserve.config import ServingConfig
from shrinkserve.serving.repository.writer import Repository
from shrinkserve.serving.server.server import ServerOptions, TritonServer

MakeModel = Callable[..., tuple[Path, Card]]


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory, make_model: MakeModel) -> Repository:
    """Models `tiny` (8x8, 4 classes) and `wide` (16x16, 300 classes). Read only."""
    repository = Repository(tmp_path_factory.mktemp("tiny") / "models")
    repository.add("tiny", *make_model(), options=ServingConfig(max_batch_size=4))
    repository.add("wide", *make_model(size=16, classes=300))
    return repository


@pytest.fixture(scope="session")
def tiny_server(tiny_repository: Repository, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A real Triton with the models of `tiny_repository`."""
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with TritonServer(tiny_repository.root, ServerOptions(log_file=log)) as server:
        yield server
