"""Layers that are not trained (`train.freeze` of the recipe)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from shrinkserve.errors import ConfigError


def freeze(network: nn.Module, prefixes: Sequence[str]) -> None:
    """Exclude layers from training; their batch norms keep their statistics.

    Args:
        network: in training mode.
        prefixes: names of layers or groups of layers, for example ``stem`` or ``stage1.cell1``.

    Raises:
        ConfigError: a prefix that no layer has, or nothing is left to train.
    """
    for prefix in prefixes:
        frozen = [value for name, value in network.named_parameters() if f"{name}.".startswith(f"{prefix}.")]
        if not frozen:
            groups = list(dict.fromkeys(name.partition(".")[0] for name, _ in network.named_parameters()))
            raise ConfigError("train.freeze: no layer has this prefix", expected=", ".join(groups), found=prefix)
        for parameter in frozen:
            parameter.requires_grad = False
        for name, module in network.named_modules():
            if f"{name}.".startswith(f"{prefix}."):
                module.eval()
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError("train.freeze", expected="at least one layer to train", found=", ".join(prefixes))
