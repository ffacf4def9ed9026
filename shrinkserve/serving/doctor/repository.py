"""Check a model repository: which models would load, and which run code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from shrinkserve.engines import engines_of
from shrinkserve.errors import ShrinkServeError
from shrinkserve.serving import model_config
from shrinkserve.serving.containers import CURRENT, MIN_DALI, reads_pipeline, runs_plan
from shrinkserve.serving.doctor.finding import Finding
from shrinkserve.serving.names import public_name
from shrinkserve.serving.repository import trust
from shrinkserve.serving.repository.reader import RepositoryReader, labels_problem
from shrinkserve.serving.server import launch, loadable


def check_repository(root: Path, engine: str | None = None) -> Iterator[Finding]:
    """Check every model of a repository.

    Args:
        root: the repository.
        engine: engine to run, for models that have it.
    """
    try:
        found = loadable.scan(root, engine, launch.how_to_get)
    except ShrinkServeError as exc:
        yield Finding("error", "repository", exc.what, exc.hint or "")
        return
    for name in found.models:
        engines = ", ".join(found.engines[name])
        yield Finding("ok", f"model {name}", "complete" + (f"; other engines (--config): {engines}" * bool(engines)))
        if problem := labels_problem(root / name):
            hint = f"publish {public_name(name)} again to write the class names of its card"
            yield Finding("error", f"labels of {name}", problem, hint)
    for name in sorted(found.engines):
        yield from _code(root, name)
        yield from _versions(root, name)
    for name, reason in found.skipped.items():
        yield Finding("error", f"model {name}", reason.what, reason.hint)
    if not found.models and not found.skipped:
        yield Finding("error", str(root), "no model in this repository", "make one with `shrinkserve export`")


def _code(root: Path, name: str) -> Iterator[Finding]:
    """Report a model that runs code. `export` never writes one."""
    try:
        why = trust.runs_code(root / name)
        ours = why is not None and name in RepositoryReader(root).classifiers()
    except (ShrinkServeError, OSError):  # reported as skipped
        return
    if why is not None:
        hint = "remove it unless you trust its author"
        yield Finding("error" if ours else "note", f"code of {name}", f"runs code ({why})", hint)


def _versions(root: Path, name: str) -> Iterator[Finding]:
    """Report files that the libraries of NVIDIA's container cannot load."""
    reader, tag = RepositoryReader(root), CURRENT.tag
    try:
        dali = model_config.parameters(reader.config(name)).get("dali", "")
        engines = (
            engines_of(reader.card(name, reader.active(name), verify=False)) if name in reader.classifiers() else []
        )
    except (ShrinkServeError, OSError):  # reported by other checks
        return
    if dali and not reads_pipeline(CURRENT, dali):
        what = f"DALI {dali} wrote it; NVIDIA's container {tag} cannot load it"
        yield Finding(
            "note", f"model {name}", what, f"install DALI {MIN_DALI} or later and run `shrinkserve repo add-jpeg`"
        )
    for engine in engines:
        for file, record in engine.plans.items():
            version = str(record.get("version", ""))
            if version and not runs_plan(CURRENT, version):
                what = f"TensorRT {version} built {file}; NVIDIA's container {tag} has TensorRT {CURRENT.tensorrt}"
                hint = "export the engine with the container's version of TensorRT"
                yield Finding("note", f"engine {engine.name} of {name}", what, hint)
