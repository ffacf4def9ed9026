"""Networks of timm: ``timm:NAME``."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor, nn

from shrinkserve.errors import SpecError
from shrinkserve.preprocess.timm_config import INSTALL, TIMM

OWN_WEIGHTS = (
    "give a file with weights (train: --init, export: --checkpoint), or --set model.pretrained=false to train from "
    "random ones"
)


def import_timm(source: str) -> ModuleType:
    """Return the package timm.

    Args:
        source: network that needs it, for the message.

    Raises:
        SpecError: it is not installed, or cannot be imported.
    """
    try:
        return import_module("timm")
    except (ImportError, RuntimeError) as exc:  # a torchvision for another torch raises RuntimeError
        raise SpecError(f"{source}: cannot import timm ({exc})", hint=INSTALL) from exc


def create_timm(
    source: str,
    classes: int | None,
    input_size: int,
    *,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    pretrained: bool = False,
) -> nn.Module:
    """Return a network of timm, in training mode.

    Args:
        source: ``timm:NAME``, a name that timm has registered.
        classes: number of logits; None for that of the pretrained weights.
        input_size: height and width of the images.
        dropout: probability that a value before the classifier is set to zero.
        stochastic_depth: probability that the last residual branch is left out.
        pretrained: load timm's pretrained weights, from its cache or from the internet.

    Raises:
        SpecError: no timm, no such network, or no weights.
    """
    timm, name = import_timm(source), source.removeprefix(TIMM)
    # Other names, such as hf-hub:NAME, would run what a server describes.
    if not timm.is_model(name) or ("." in name and name not in timm.list_pretrained()):
        near = difflib.get_close_matches(name, timm.list_models(), n=1)
        raise SpecError(f"{source}: timm has no such network", hint=f"did you mean {near[0]}?" if near else None)
    options: dict[str, object] = {} if classes is None else {"num_classes": classes}
    options |= {"drop_rate": dropout} if dropout else {}
    options |= {"drop_path_rate": stochastic_depth} if stochastic_depth else {}
    if getattr(timm.models.get_pretrained_cfg(name), "fixed_input_size", False):
        options["img_size"] = input_size
    create: Callable[..., nn.Module] = timm.create_model
    if not pretrained:
        return create(name, pretrained=False, **options)
    try:
        return create(name, pretrained=True, **options)
    except Exception as exc:  # the client of the hub raises exceptions of several libraries
        reason = " ".join(str(exc).split())[:200]
        raise SpecError(f"{source}: cannot load the pretrained weights ({reason})", hint=OWN_WEIGHTS) from exc


def pretrained_weights(source: str, input_size: int) -> dict[str, Tensor]:
    """Return timm's pretrained weights by name, with the classifier of the classes that they were trained on.

    Raises:
        SpecError: see `create_timm`.
    """
    with torch.random.fork_rng(devices=[]):
        return create_timm(source, None, input_size, pretrained=True).state_dict()
