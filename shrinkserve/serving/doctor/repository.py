"""Check a model repository: which models would load, and which run code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from shrinkserve.containers import CURRENT, Container
from shrinkserve.errors import ShrinkServeError
from shrinkserve.serving.doctor.finding import Finding
from shrinkserve.serving.names import public_name
from shrinkserve.serving.repository import trust
from shrinkserve.serving.repository.container_fit import pipeline_misfit, plan_misfits
from shrinkserve.serving.repository.reader import RepositoryReader, labels_problem
from shrinkserve.serving.server import launch, loadable


def check_repository(root: Path, engine: str | None = None, container: Container = CURRENT) -> Iterator[Finding]:
    """Check every model of a repository.

    Args:
        root: the repository.
        engine: engine to run, for models that have it.
        container: the container of NVIDIA that has to load its files.
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
        yield from _versions(root, name, container)
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


def _versions(root: Path, name: str, container: Container) -> Iterator[Finding]:
    """Report files that the libraries of a container of NVIDIA cannot load."""
    reader = RepositoryReader(root)
    try:
        pipeline = pipeline_misfit(reader, name, container)
        plans = list(plan_misfits(reader, name, container)) if name in reader.classifiers() else []
    except (ShrinkServeError, OSError):  # reported by other checks
        return
    for found in [*plans, *([pipeline] if pipeline else [])]:
        yield Finding("note", *found)
