"""Names of the Triton models that make up one published model.

```
NAME              takes encoded images: the ensemble of the next two
NAME_preprocess   takes encoded images, returns pixels: a DALI pipeline
NAME_classifier   takes pixels: the classifier, with its versions and engines
```

Commands and the client take the public name NAME for all of them. Without DALI there is only the classifier. A
classifier whose name does not end in ``_classifier`` is a separate model that takes pixels only.
"""

from __future__ import annotations

from collections.abc import Collection

PREPROCESS, CLASSIFIER = "_preprocess", "_classifier"
CANDIDATE = ".candidate"
"""Suffix of the model that a live server tries out before it is published."""

RESTRICTED_KEY = "shrinkserve-token"
"""Header that holds the token of the APIs that a server restricts."""


def public_name(model: str) -> str:
    """Return the public name of a classifier."""
    return model.removesuffix(CLASSIFIER)


def classifier_name(name: str) -> str:
    """Return the name of the classifier with the public name `name`, which may already be the classifier's."""
    return f"{public_name(name)}{CLASSIFIER}"


def model_names(name: str) -> list[str]:
    """Return the names of all models behind a public name, in the order in which they can be loaded."""
    return [classifier_name(name), f"{public_name(name)}{PREPROCESS}", public_name(name)]


def names_of_ensemble(model: str) -> list[str]:
    """Return `model_names` of a classifier; a model of another name stands alone."""
    return model_names(model) if model.endswith(CLASSIFIER) else [model]


def resolve_classifier(name: str, known: Collection[str]) -> str:
    """Return the classifier with the public name `name` out of `known`; `name` itself if there is none."""
    return classifier_name(name) if classifier_name(name) in known else name


def public_names(known: Collection[str]) -> list[str]:
    """Return the public names of the models that Triton knows as `known`, sorted. Candidates are left out."""
    known = {model for model in known if not model.endswith(CANDIDATE)}
    families = {public_name(model) for model in known if model.endswith(CLASSIFIER)}
    belonging = {part for name in families for part in model_names(name)}
    return sorted(families | (set(known) - belonging))
