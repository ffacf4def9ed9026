"""The names of what one published model is made of.

```
NAME              encoded images in: the ensemble of the next two
NAME_preprocess   encoded images in, pixels out: a DALI pipeline
NAME_classifier   pixels in: the classifier, with its versions and engines
```

People say NAME, whatever of it there is: without DALI only the classifier. A classifier of another name is a model of
its own, which takes pixels only.
"""

from __future__ import annotations

from collections.abc import Collection

PREPROCESS, CLASSIFIER = "_preprocess", "_classifier"
CANDIDATE = ".candidate"
"""What is added to a model's name for the version that a live server tries out."""

RESTRICTED_KEY = "shrinkserve-token"
"""The key of the APIs that a server restricts."""


def public_name(model: str) -> str:
    """What people call the classifier of a name."""
    return model.removesuffix(CLASSIFIER)


def classifier_name(name: str) -> str:
    """The name of the classifier that people call `name`; may be given itself."""
    return f"{public_name(name)}{CLASSIFIER}"


def model_names(name: str) -> list[str]:
    """All names that belong to what people call `name`, in the order in which they can be loaded."""
    return [classifier_name(name), f"{public_name(name)}{PREPROCESS}", public_name(name)]


def names_of_ensemble(model: str) -> list[str]:
    """`parts` of a classifier that has such a name; a model of another name is its only part."""
    return model_names(model) if model.endswith(CLASSIFIER) else [model]


def resolve_classifier(name: str, known: Collection[str]) -> str:
    """Which of the names `known` is the classifier that people call `name`; `name` itself when none is."""
    return classifier_name(name) if classifier_name(name) in known else name


def public_names(known: Collection[str]) -> list[str]:
    """Return the public names of the models that Triton knows as `known`, sorted. Candidates are left out."""
    known = {model for model in known if not model.endswith(CANDIDATE)}
    families = {public_name(model) for model in known if model.endswith(CLASSIFIER)}
    belonging = {part for name in families for part in model_names(name)}
    return sorted(families | (set(known) - belonging))
