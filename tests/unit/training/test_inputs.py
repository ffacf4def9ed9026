from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from shrinkserve.config import Recipe
from shrinkserve.training.inputs import open_inputs


def test_loader_has_each_size_for_an_equal_part_of_the_epochs(colours: Path, tiny: Callable[..., Recipe]) -> None:
    inputs = open_inputs(tiny(schedule={"epochs": 8, "sizes": [32, 32, 48, 32]}), colours)
    sizes = [size for epoch in range(8) for size, loader in inputs.loaders.items() if loader is inputs.loader(epoch)]
    assert sizes == [32, 32, 32, 32, 48, 48, 32, 32]
