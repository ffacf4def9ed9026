"""Networks that are Python code instead of a description: ``python:package.module:function`` and ``timm:NAME``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from shrinkserve.arch.counts import count
from shrinkserve.arch.module import compile_spec
from shrinkserve.arch.serialise import from_dict, to_dict
from shrinkserve.arch.sources import CODE, PYTHON, is_code
from shrinkserve.arch.spec import Spec
from shrinkserve.arch.timm_networks import create_timm
from shrinkserve.config import ModelConfig
from shrinkserve.errors import SpecError
from shrinkserve.preprocess.timm_config import TIMM


@dataclass(frozen=True)
class CodeNetwork:
    """A network that a Python function returns.

    Attributes:
        source: ``python:package.module:function`` or ``timm:NAME``.
        classes: number of logits.
        input_size: height and width of the images.
        dropout: for timm's networks, see `ModelConfig`.
        stochastic_depth: for timm's networks, see `ModelConfig`.
    """

    source: str
    classes: int
    input_size: int
    dropout: float = 0.0
    stochastic_depth: float = 0.0

    def build(self, sizes: Sequence[int] = ()) -> nn.Module:
        """Import the code, call it, and check that it maps images [N, 3, S, S] to logits [N, classes].

        Args:
            sizes: further sizes of images to check.

        Raises:
            SpecError: it cannot be imported, fails, or returns something else.
        """
        size = self.input_size
        try:
            module = self._create()
            module.eval()
            with torch.no_grad():
                for size in (*sizes, self.input_size):
                    logits = module(torch.zeros(2, 3, size, size))
        except SpecError:
            raise
        except Exception as exc:  # the code is the user's
            hint = "the module must be importable (PYTHONPATH), and its function take the number of classes"
            reason = " ".join(f"{type(exc).__name__}: {exc}".split())[:300]
            where = f"{self.source} at {size}x{size}"
            raise SpecError(f"{where}: cannot make the network ({reason})", hint=hint) from exc
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if shape != (2, self.classes):
            raise SpecError(f"{self.source}: wrong output", expected=f"logits {(2, self.classes)}", found=shape)
        return module.train()

    def _create(self) -> nn.Module:
        if self.source.startswith(TIMM):
            size, depth = self.input_size, self.stochastic_depth
            return create_timm(self.source, self.classes, size, dropout=self.dropout, stochastic_depth=depth)
        name, _, function = self.source.removeprefix(PYTHON).partition(":")
        call: Callable[..., nn.Module] = getattr(importlib.import_module(name), function)
        module = call(self.classes) if inspect.signature(call).parameters else call()
        if not isinstance(module, nn.Module):
            raise TypeError(f"expected a torch.nn.Module, found {type(module).__name__}")
        return module


Description: TypeAlias = "Spec | CodeNetwork"


def is_timm(network: str) -> bool:
    """Return True if a recipe's `model.network` is one of timm."""
    return network.startswith(TIMM)


def code_from_recipe(model: ModelConfig, classes: int) -> CodeNetwork:
    """Return the network of a recipe whose `model.network` names code."""
    return CodeNetwork(model.network, classes, model.input_size, model.dropout, model.stochastic_depth)


def build(network: Description) -> nn.Module:
    """Return the network with random weights, in training mode."""
    return network.build() if isinstance(network, CodeNetwork) else compile_spec(network)


def describe_network(network: Description) -> dict[str, object]:
    """Return plain data for cards and checkpoints."""
    if isinstance(network, CodeNetwork):
        return {CODE: network.source, "classes": network.classes, "input_size": network.input_size}
    return to_dict(network)


def is_code_data(raw: Mapping[str, object]) -> bool:
    """Return True if the result of `describe_network` is of a network that is code."""
    return CODE in raw


def read_network_data(raw: Mapping[str, object], *, run_code: bool) -> Description:
    """Read the result of `describe_network`.

    Args:
        raw: plain data.
        run_code: accept a network that is code, which building it runs. Only for one's own run, never because a card,
            a repository or a server names it.

    Raises:
        SpecError: not a network, or code without `run_code`.
    """
    if not is_code_data(raw):
        return from_dict(dict(raw))
    source, classes, size = raw[CODE], raw.get("classes"), raw.get("input_size")
    if not isinstance(source, str) or not is_code(source) or not isinstance(classes, int) or not isinstance(size, int):
        raise SpecError("network data: expected code, classes and input_size", found=ascii(dict(raw))[:100])
    if not run_code:
        raise SpecError(
            f"the network is Python code ({source}), which this command does not run",
            hint="export the run, and use the exported version",
        )
    return CodeNetwork(source, classes, size)


def head_prefixes(network: Description, module: nn.Module) -> tuple[str, ...]:
    """Return the prefixes of the classifier's tensors.

    These are the dense layers of a spec, the layers that timm names, or the last linear layer of other code.
    """
    if not isinstance(network, CodeNetwork):
        return tuple(f"{name}." for name, attributes in network.nodes(data=True) if attributes["op"] == "dense")
    named = getattr(module, "pretrained_cfg", {}).get("classifier") if network.source.startswith(TIMM) else None
    if not named:
        named = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)][-1:]
    return tuple(f"{name}." for name in ([named] if isinstance(named, str) else named))


def smallest_batch(network: Description) -> int:
    """Return how many images batch norm needs: 2 if one of its maps has a single pixel, else 1. For code 2."""
    if isinstance(network, CodeNetwork):
        return 2
    maps = [operation.shape for operation in count(network).operations if operation.kind == "batch_norm"]
    return 2 if any(height * width == 1 for _, height, width in (tuple(shape) for shape in maps)) else 1
