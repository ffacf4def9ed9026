"""`shrinkserve repo`: list, change and verify the models of a repository."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from shrinkserve.api import maintenance, publishing
from shrinkserve.api import repository as api
from shrinkserve.api.arguments import REPOSITORY, WAIT_SECONDS
from shrinkserve.errors import ArtifactError
from shrinkserve.terminal import print_line, print_table

Root = Annotated[Path, typer.Option("--repository", help="The model repository.")]
Name = Annotated[str, typer.Argument(help="The model's name.")]
AnyName = Annotated[str | None, typer.Argument(help="The model's name; all models by default.")]
Url = Annotated[str | None, typer.Option(help="The server of the repository: grpc://HOST:PORT or http://HOST:PORT.")]
Token = Annotated[str | None, typer.Option(envvar="SHRINKSERVE_TOKEN", help="Token of the server's model control.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Allow sending the token without TLS to another machine.")]
ApproximateDecoder = Annotated[
    bool, typer.Option("--approximate-decoder", help="Accept other pixels where DALI lacks the resize filter.")
]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait for another publisher.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    group = typer.Typer(help="Publish, roll back, verify and tune models of a repository.", no_args_is_help=True)
    group.command("list")(list_models)
    group.command("add-jpeg")(add_jpeg)
    for command in (show, publish, rollback, verify, gc, tune):
        group.command()(command)
    app.add_typer(group, name="repo")


def list_models(
    repository: Root = REPOSITORY, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """List the models with their active and other versions."""
    models = api.list_models(repository)
    if as_json:
        print_line(json.dumps([_as_json(model) for model in models], indent=1))
        return
    if not models:
        raise ArtifactError(f"{repository}: no model in this repository", hint="make one with `shrinkserve export`")
    for model in models:
        others = ", ".join(str(v) for v in model.versions if v != model.active) or "none"
        print_line(
            f"{model.name}: version {model.active} is active (others: {others}); takes {' and '.join(model.takes)}; "
            f"{model.size}x{model.size}, {model.classes} classes, {model.precision}, top-1 {_top1(model)}, "
            f"made {model.created or 'at an unknown time'}"
        )


def _as_json(model: api.ModelSummary) -> dict[str, object]:
    return {**asdict(model), "top1": _top1(model), "created": model.created or "at an unknown time"}


def _top1(model: api.ModelSummary) -> str:
    return "not measured" if model.top1 is None else f"{model.top1:.2%}"


def show(
    name: Name,
    repository: Root = REPOSITORY,
    version: Annotated[int | None, typer.Option(help="The version; the active one by default.")] = None,
) -> None:
    """Print a version's card and the model's configuration."""
    card, config = api.show_version(name, repository, version=version)
    shown = asdict(card)
    if len(card.classes) > 20:
        shown["classes"] = [*card.classes[:20], f"... {len(card.classes)} in all"]
    print_line(json.dumps(shown, indent=1, ensure_ascii=False))
    print_line(config.rstrip("\n"))


def publish(  # noqa: PLR0913, PLR0917 - a command's options
    source: Annotated[Path, typer.Argument(help="Folder with model.onnx and card.json, as `export` wrote it.")],
    repository: Root = REPOSITORY,
    name: Annotated[str | None, typer.Option(help="Model name; that of the card by default.")] = None,
    url: Url = None,
    token: Token = None,
    insecure: Insecure = False,
    data: Annotated[Path | None, typer.Option(help="Dataset whose validation images --shadow sends.")] = None,
    shadow: Annotated[int, typer.Option(min=0, help="Requests on which it is compared with the active version.")] = 0,
    max_flips: Annotated[
        float | None, typer.Option(min=0, max=1, help="Largest fraction of predictions that may differ.")
    ] = None,
    max_slowdown: Annotated[float | None, typer.Option(min=0, help="Largest factor by which it may be slower.")] = None,
    scratch: Annotated[bool, typer.Option(help="Load it in a scratch server first.")] = True,
    allow_gap: Annotated[
        bool,
        typer.Option(
            "--allow-gap",
            help="Publish even if the input size or classes changed; JPEG requests fail briefly while the ensemble "
            "reloads.",
        ),
    ] = False,
    approximate_decoder: ApproximateDecoder = False,
    wait: Wait = WAIT_SECONDS,
) -> None:
    """Verify a version, try it out and make it the active one. A failure changes nothing."""
    publishing.publish(
        source,
        repository,
        name=name,
        url=url,
        token=token,
        insecure=insecure,
        data=data,
        shadow=shadow,
        max_flips=max_flips,
        max_slowdown=max_slowdown,
        scratch=scratch,
        allow_gap=allow_gap,
        approximate_decoder=approximate_decoder,
        wait=wait,
        say=print_line,
    )


def add_jpeg(
    name: Name,
    repository: Root = REPOSITORY,
    approximate_decoder: ApproximateDecoder = False,
    wait: Wait = WAIT_SECONDS,
) -> None:
    """Let a model take JPEG bytes. Writes NAME_preprocess, a DALI pipeline, and the ensembles NAME and NAME_text."""
    for folder in maintenance.add_jpeg(
        name, repository, approximate_decoder=approximate_decoder, wait=wait, say=_to_stderr
    ):
        print_line(f"wrote {folder}")


def rollback(
    name: Name,
    repository: Root = REPOSITORY,
    to: Annotated[int | None, typer.Option(help="The version; the one before by default.")] = None,
    url: Url = None,
    token: Token = None,
    insecure: Insecure = False,
    wait: Wait = WAIT_SECONDS,
) -> None:
    """Make an older version the active one."""
    version = publishing.rollback(
        name, repository, to=to, url=url, token=token, insecure=insecure, wait=wait, say=print_line
    )
    print_line(f"version {version} of {name} is active")


def verify(
    name: AnyName = None,
    repository: Root = REPOSITORY,
    container: Annotated[
        str | None, typer.Option(help="Tag of the NVIDIA container that has to load the files, e.g. 26.06.")
    ] = None,
) -> None:
    """Check files, cards and configurations. The graphs' real inputs, outputs and batches are compared."""
    results = api.verify_repository(repository, name=name, container=container)
    for result in results:
        for line in result.notes:
            print_line(f"note: {line}", err=True)
        for line in result.problems:
            print_line(f"error: {line}", err=True)
        if result.warning:
            why = f"runs code ({result.warning}); serve it only if you trust who wrote it"
            print_line(f"warning: {result.name}: {why}", err=True)
        elif not result.problems:
            print_line(f"{result.name}: valid; versions {', '.join(map(str, result.versions))}")
    if found := sum(len(result.problems) for result in results):
        hint = "publish again, or `repo rollback` to a valid version"
        raise ArtifactError(f"{repository}: {found} problems", hint=hint)


def gc(
    name: AnyName = None,
    repository: Root = REPOSITORY,
    keep: Annotated[int, typer.Option(min=0, help="Versions to keep besides the active one.")] = 2,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")] = False,
    wait: Wait = WAIT_SECONDS,
) -> None:
    """Remove old versions. The active version and the newest others stay."""
    verb = "would remove" if dry_run else "removed"
    for model in maintenance.remove_old_versions(
        repository, name=name, keep=keep, dry_run=dry_run, wait=wait, say=_to_stderr
    ):
        removed = ", ".join(map(str, model.removed)) or "nothing"
        print_line(f"{model.name}: {verb} {removed}; version {model.active} is active")


def tune(
    name: Name,
    slo: Annotated[str, typer.Option(help="Latency limit, e.g. p99=20ms, as a client on this machine measures it.")],
    repository: Root = REPOSITORY,
    as_json: Annotated[bool, typer.Option("--json", help="Print every load as JSON.")] = False,
    wait: Wait = WAIT_SECONDS,
) -> None:
    """Find the best serving options on this machine. They are measured and written into the configuration."""
    from shrinkserve.benchmark.tuning_report import HEADINGS, explain_batching, trial_table

    tuning = maintenance.tune_model(name, repository, slo=slo, wait=wait, say=_to_stderr if as_json else print_line)
    if as_json:
        print_line(json.dumps(tuning.to_dict(), indent=1))
        return
    print_table(HEADINGS, trial_table(tuning), left=("note",))
    print_line(explain_batching(tuning))
    if tuning.duel:
        rounds = ", ".join(f"{before:.0f} -> {after:.0f}" for before, after in tuning.duel)
        print_line(f"within the limit, measured in turns, configured -> best: {rounds} images/s")
    kept = tuning.chosen == tuning.trials[0].choice
    print_line(f"kept, as nothing else is clearly better: {tuning.chosen}" if kept else f"written: {tuning.chosen}")
    if tuning.chosen.engine is not None:
        print_line(f"start the server with --config {tuning.chosen.engine} to run it")


def _to_stderr(line: str) -> None:
    print_line(line, err=True)
