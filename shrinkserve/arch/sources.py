"""Where a network comes from: a name of the zoo or a file."""

from __future__ import annotations

from shrinkserve.arch import zoo
from shrinkserve.arch.spec import Spec
from shrinkserve.config import ModelConfig


def load(
    source: str,
    *,
    classes: int = 1001,
    input_size: int = 224,
    width: float = 1.0,
    dropout: float = 0.0,
    batch_norm_decay: float = 0.999,
) -> Spec:
    """The network that `source` names; the arguments are those of `zoo.build`.

    Raises:
        SpecError: an unknown name, or a network that does not hold together.
    """
    return zoo.build(
        source,
        classes=classes,
        input_size=input_size,
        width=width,
        dropout=dropout,
        batch_norm_decay=batch_norm_decay,
    )


def from_recipe(model: ModelConfig, classes: int) -> Spec:
    """The network of a recipe.

    Args:
        model: the recipe's ``[model]`` section.
        classes: number of logits, which the data decides where the recipe does not.

    Raises:
        SpecError: an unknown name, or a network that does not hold together.
    """
    return load(
        model.network,
        classes=classes,
        input_size=model.input_size,
        width=model.width,
        dropout=model.dropout,
        batch_norm_decay=model.batch_norm_decay,
    )
