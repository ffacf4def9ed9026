"""Names of the Triton models that make up one published model.

```
NAME_classifier   takes pixels: the classifier, with its versions and engines
NAME_preprocess   takes encoded images, returns pixels: a DALI pipeline
NAME              takes encoded images: the ensemble of these two
NAME_lines        takes probabilities, returns the best classes as lines of text
NAME_text         takes encoded images, returns the best classes as lines of text: the ensemble of the other models
```

Commands and the client take the public name NAME for all of them. Without DALI there is only the classifier. A
classifier whose name does not end in ``_classifier`` is a separate model that takes pixels only.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

PREPROCESS, CLASSIFIER, LINES, TEXT = "_preprocess", "_classifier", "_lines", "_text"
CANDIDATE = ".candidate"
"""Suffix of the model that a live server tries out before it is published."""

RESTRICTED_KEY = "shrinkserve-token"
"""Header that holds the token of the APIs that a server restricts."""


class ModelNames(NamedTuple):
    """Names of all models behind a public name, in an order in which they can be loaded."""

    classifier: str
    pipeline: str
    ensemble: str
    lines: str
    text: str

    @property
    def derived(self) -> tuple[str, ...]:
        """Return the names of the models that are derived from the classifier."""
        return self[1:]


def public_name(model: str) -> str:
    """Return the public name of a classifier."""
    return model.removesuffix(CLASSIFIER)


def classifier_name(name: str) -> str:
    """Return the name of the classifier with the public name `name`, which may already be the classifier's."""
    return f"{public_name(name)}{CLASSIFIER}"


def model_names(name: str) -> ModelNames:
    """Return the names of all models behind a public name."""
    public = public_name(name)
    return ModelNames(classifier_name(name), f"{public}{PREPROCESS}", public, f"{public}{LINES}", f"{public}{TEXT}")


def models_behind(model: str) -> list[str]:
    """Return all models behind the public name of a classifier; only `model` itself if it has another name."""
    return list(model_names(model)) if model.endswith(CLASSIFIER) else [model]


def resolve_classifier(name: str, known: Collection[str]) -> str:
    """Return the classifier with the public name `name` out of `known`; `name` itself if there is none."""
    return classifier_name(name) if classifier_name(name) in known else name


def public_names(known: Collection[str]) -> list[str]:
    """Return the public names of the models that Triton knows as `known`, sorted. Candidates are left out."""
    known = {model for model in known if not model.endswith(CANDIDATE)}
    families = {public_name(model) for model in known if model.endswith(CLASSIFIER)}
    belonging = {part for name in families for part in model_names(name)}
    return sorted(families | (set(known) - belonging))
