"""Files of a repository that the libraries of one of NVIDIA's containers cannot load."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from shrinkserve.containers import MIN_DALI, Container, reads_pipeline, runs_plan
from shrinkserve.engines import engines_of
from shrinkserve.serving import model_config
from shrinkserve.serving.names import model_names
from shrinkserve.serving.repository.reader import RepositoryReader


class Misfit(NamedTuple):
    """A file that a container cannot load.

    Attributes:
        subject: the model or engine.
        what: the versions on both sides.
        hint: what to do.
    """

    subject: str
    what: str
    hint: str


def pipeline_misfit(reader: RepositoryReader, name: str, container: Container) -> Misfit | None:
    """Return why a container cannot load the DALI pipeline of a model; None if it can, or the model has none.

    Raises:
        ArtifactError: a configuration that cannot be read.
    """
    dali = model_config.parameters(reader.config(name)).get("dali", "")
    if not dali or reads_pipeline(container, dali):
        return None
    what = f"DALI {dali} wrote it; NVIDIA's container {container.tag} cannot load it"
    return Misfit(f"model {name}", what, f"install DALI {MIN_DALI} or later and run `shrinkserve repo add-jpeg`")


def plan_misfits(reader: RepositoryReader, name: str, container: Container) -> Iterator[Misfit]:
    """Yield the TensorRT plans of a classifier's active version that a container cannot load.

    Raises:
        ArtifactError: a card that cannot be read.
    """
    for engine in engines_of(reader.card(name, reader.active(name), verify=False)):
        for file, built in engine.plans.items():
            version = str(built.get("version", ""))
            if version and not runs_plan(container, version):
                tags = ", ".join(map(str, built.get("containers", []))) or "none that is known"
                what = (
                    f"{built.get('library', 'tensorrt')} {version} built {file}; NVIDIA's container {container.tag} "
                    f"has TensorRT {container.tensorrt} (containers with that version: {tags})"
                )
                hint = "export the engine with the container's version of TensorRT"
                yield Misfit(f"engine {engine.name} of {name}", what, hint)


def misfits(reader: RepositoryReader, classifier: str, container: Container) -> Iterator[Misfit]:
    """Yield what a container cannot load of a classifier, its pipeline included.

    Raises:
        ArtifactError: a card or configuration that cannot be read.
    """
    yield from plan_misfits(reader, classifier, container)
    pipeline = model_names(classifier).pipeline
    if pipeline in reader.models() and (found := pipeline_misfit(reader, pipeline, container)):
        yield found
