from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from shrinkserve.config import Recipe
from shrinkserve.errors import ConfigError
from shrinkserve.training.train import train
from shrinkserve.training.update.freezing import freeze

Make = Callable[..., Recipe]


def test_freeze_excludes_layers_and_keeps_their_statistics(
    tmp_path: Path, colours: Path, tiny: Make, run: Path
) -> None:
    recipe = tiny(schedule={"epochs": 1}, train={"freeze": ["stem", "stage1"]})
    train(recipe, colours, tmp_path / "run", init=run)
    before, after = load_file(run / "ema.safetensors"), load_file(tmp_path / "run" / "raw.safetensors")
    frozen = [name for name in before if name.startswith(("stem.", "stage1."))]
    assert any("running_mean" in name for name in frozen)
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not any(torch.equal(before[name], after[name]) for name in before if name.startswith("stage3.cell1.left"))


@pytest.mark.parametrize(("prefixes", "part"), [(["stage9"], "stage9"), (["ste"], "ste"), (["0", "1"], "to train")])
def test_freeze_rejects_unknown_and_all_layers(prefixes: list[str], part: str) -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    with pytest.raises(ConfigError, match=part):
        freeze(network, prefixes)
