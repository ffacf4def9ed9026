"""`shrinkserve repo`: what a model repository holds, and changing it safely."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shrinkserve.cli.output import say
from shrinkserve.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from shrinkserve.serving.publish.publish import Live
    from shrinkserve.serving.repository.writer import Repository

Root = Annotated[Path, typer.Option("--repository", help="The model repository.")]
Name = Annotated[str, typer.Argument(help="The model's name.")]
Url = Annotated[str | None, typer.Option(help="The server that answers from it: grpc://HOST:PORT or http://HOST:PORT.")]
Token = Annotated[
    str | None, typer.Option(envvar="SHRINKSERVE_TOKEN", help="The server's token for changing its models.")
]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait for another publisher.")]
DEFAULT = Path("model_repository")


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    group = typer.Typer(help="Publish, roll back, verify and tune models of a repository.", no_args_is_help=True)
    group.command("list")(list_models)
    group.command("add-jpeg")(add_jpeg)
    for command in (show, publish, rollback, verify, gc, tune):
        group.command()(command)
    app.add_typer(group, name="repo")


def list_models(
    repository: Root = DEFAULT, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """List the models, with the version that answers and the others."""
    from shrinkserve.serving.repository.writer import Repository

    held = Repository(repository)
    rows = [_summary(held, name) for name in (held.classifiers() if as_json else _chosen(held, None))]
    if as_json:
        say(json.dumps(rows, indent=1))
        return
    for row in rows:
        others = ", ".join(str(v) for v in row["versions"] if v != row["active"]) or "none"
        say(
            f"{row['name']}: version {row['active']} answers (others: {others}); takes {' and '.join(row['takes'])}; "
            f"{row['size']}x{row['size']}, {row['classes']} classes, {row['precision']}, top-1 {row['top1']}, "
            f"made {row['created']}"
        )


def _chosen(held: Repository, name: str | None) -> list[str]:
    """Triton's name of a model's classifier, or of all; a folder without any is not the one that was meant."""
    found = held.classifiers() if name is None else [held.classifier(name)]
    if not found:
        raise ArtifactError(f"{held.root}: no model in this repository", hint="make one with `shrinkserve export`")
    return found


def _summary(repository: Repository, name: str) -> dict[str, Any]:
    from shrinkserve.serving import model_config, names
    from shrinkserve.serving.repository import ensemble

    config = repository.config(name)
    active = model_config.active_version(config)
    card = repository.card(name, active, verify=False)
    top1 = card.metrics.get("top1")
    return {
        "name": names.public_name(name),
        "takes": ["JPEG", "pixels"] if ensemble.takes_encoded(repository.root, name) else ["pixels"],
        "active": active,
        "versions": repository.versions(name),
        "size": card.preprocess.get("size"),
        "classes": len(card.classes),
        "precision": model_config.parameters(config).get("precision", "unknown"),
        "top1": f"{top1:.2%}" if isinstance(top1, int | float) else "not measured",
        "created": card.created or "at an unknown time",
    }


def show(
    name: Name,
    repository: Root = DEFAULT,
    version: Annotated[int | None, typer.Option(help="The version; the one that answers by default.")] = None,
) -> None:
    """Print a version's card and the model's configuration."""
    from dataclasses import asdict

    from shrinkserve.serving import model_config
    from shrinkserve.serving.repository.writer import Repository

    held = Repository(repository)
    name = held.classifier(name)
    card = asdict(held.card(name, version or held.active(name)))
    if len(card["classes"]) > 20:
        card["classes"] = [*card["classes"][:20], f"... {len(card['classes'])} in all"]
    say(json.dumps(card, indent=1, ensure_ascii=False))
    say(model_config.to_text(held.config(name)), nl=False)


def publish(  # noqa: PLR0913, PLR0917 - a command's options
    source: Annotated[Path, typer.Argument(help="Folder with model.onnx and card.json, as `export` wrote it.")],
    repository: Root = DEFAULT,
    name: Annotated[str | None, typer.Option(help="Model name; that of the card by default.")] = None,
    url: Url = None,
    token: Token = None,
    data: Annotated[Path | None, typer.Option(help="Dataset whose validation images --shadow sends.")] = None,
    shadow: Annotated[int, typer.Option(min=0, help="Requests on which it is compared with the one before.")] = 0,
    max_flips: Annotated[
        float | None, typer.Option(min=0, max=1, help="Refuse it when a larger part of the answers differ.")
    ] = None,
    max_slowdown: Annotated[
        float | None, typer.Option(min=0, help="Refuse it when it takes more times as long.")
    ] = None,
    scratch: Annotated[bool, typer.Option(help="Load it in a server of its own first.")] = True,
    allow_gap: Annotated[
        bool,
        typer.Option("--allow-gap", help="Also when --url then refuses JPEG for a moment: another size or classes."),
    ] = False,
    wait: Wait = 600,
) -> None:
    """Publish a version, once verified and tried out. A failure changes nothing."""
    from shrinkserve.artifact import read_card
    from shrinkserve.serving.names import classifier_name
    from shrinkserve.serving.publish import publish as publishing
    from shrinkserve.serving.publish.shadow import ShadowLimits
    from shrinkserve.serving.repository.writer import Repository
    from shrinkserve.serving.server.launch import importable

    if shadow and (url is None or data is None):
        raise ConfigError("--shadow", expected="--url of the server and --data with the images to send")
    model = classifier_name(name or read_card(source, "onnx", verify=False).name)
    encoded = importable("nvidia.dali")
    images = _validation_images(data, shadow) if data is not None else []
    with _live(url, token, images=images, limits=ShadowLimits(max_flips, max_slowdown), allow_gap=allow_gap) as live:
        publishing.publish(
            Repository(repository, wait=wait),
            source,
            name=model,
            encoded=encoded,
            scratch=scratch,
            live=live,
            say=say,
        )


def add_jpeg(name: Name, repository: Root = DEFAULT, wait: Wait = 600) -> None:
    """Have a model take JPEG bytes too. NAME_preprocess is a DALI pipeline, NAME the ensemble with the classifier."""
    from shrinkserve.serving.names import model_names
    from shrinkserve.serving.repository.writer import Repository

    held = Repository(repository, say=_to_stderr, wait=wait)
    model = held.classifier(name)
    held.add_jpeg(model)
    for part in model_names(model)[1:]:
        say(f"wrote {repository / part}")


def rollback(
    name: Name,
    repository: Root = DEFAULT,
    to: Annotated[int | None, typer.Option(help="The version; the one before by default.")] = None,
    url: Url = None,
    token: Token = None,
    wait: Wait = 600,
) -> None:
    """Make an older version the one that answers."""
    from shrinkserve.serving.publish.publish import roll_back
    from shrinkserve.serving.repository.writer import Repository

    held = Repository(repository, say=_to_stderr, wait=wait)
    with _live(url, token) as live:
        version = roll_back(held, name, to, live, say=say)
    say(f"version {version} of {name} answers")


def verify(
    name: Annotated[str | None, typer.Argument(help="The model's name; all models by default.")] = None,
    repository: Root = DEFAULT,
) -> None:
    """Check files against cards, configurations against graphs. Their real inputs, outputs and batches are asked."""
    from shrinkserve.serving.names import names_of_ensemble, public_name
    from shrinkserve.serving.repository.trust import runs_code
    from shrinkserve.serving.repository.verify import problems
    from shrinkserve.serving.repository.writer import Repository

    held = Repository(repository)
    found = 0
    for model in _chosen(held, name):
        lines = list(problems(held, model))
        for line in lines:
            say(f"error: {line}", err=True)
        if not lines:
            say(f"{public_name(model)}: whole; versions {', '.join(map(str, held.versions(model)))}")
        found += len(lines)
    for model in (
        set() if name else sorted(set(held.models()) - {p for c in held.classifiers() for p in names_of_ensemble(c)})
    ):
        if why := runs_code(repository / model):
            typer.echo(f"warning: {model}: runs code ({why}); serve it only if you trust who wrote it", err=True)
    if found:
        raise ArtifactError(
            f"{repository}: {found} problems", hint="publish again, or `repo rollback` to a whole version"
        )


def gc(
    name: Annotated[str | None, typer.Argument(help="The model's name; all models by default.")] = None,
    repository: Root = DEFAULT,
    keep: Annotated[int, typer.Option(min=0, help="Versions to keep besides the one that answers.")] = 2,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    wait: Wait = 600,
) -> None:
    """Remove old versions. The one that answers and the newest others stay."""
    from shrinkserve.serving.names import public_name
    from shrinkserve.serving.repository.writer import Repository

    held = Repository(repository, say=_to_stderr, wait=wait)
    held.models()  # none is made where none was
    with held.locked():
        for model in _chosen(held, name):
            active = held.active(model)
            others = [version for version in held.versions(model) if version != active]
            surplus = others[: len(others) - keep] if keep < len(others) else []
            if surplus and not dry_run:
                held.remove(model, surplus)
            verb = "would remove" if dry_run else "removed"
            say(f"{public_name(model)}: {verb} {', '.join(map(str, surplus)) or 'nothing'}; {active} answers")


def tune(
    name: Name,
    slo: Annotated[str, typer.Option(help="What must hold, e.g. p99=20ms, as a client on this machine sees it.")],
    repository: Root = DEFAULT,
    as_json: Annotated[bool, typer.Option("--json", help="Print every load as JSON.")] = False,
    wait: Wait = 600,
) -> None:
    """Find what serves best on this machine. Instances, threads, batching, engines; written into the configuration."""
    from shrinkserve.benchmark.timing import parse_duration
    from shrinkserve.benchmark.tuning import explain_batching, table
    from shrinkserve.benchmark.tuning import tune_serving as measure
    from shrinkserve.serving.repository.writer import Repository

    quantity, _, duration = slo.partition("=")
    if quantity != "p99":
        raise ConfigError("--slo", expected="p99=DURATION such as p99=20ms", found=repr(slo))
    limit = parse_duration(duration, "--slo")
    report = (lambda _: None) if as_json else say
    tuning = measure(Repository(repository, say=_to_stderr, wait=wait), name, limit, say=report)
    if as_json:
        say(json.dumps(tuning.to_dict(), indent=1))
        return
    say(table(tuning))
    say(explain_batching(tuning))
    if tuning.duel:
        rounds = ", ".join(f"{before:.0f} -> {after:.0f}" for before, after in tuning.duel)
        say(f"within the limit, measured in turns, configured -> best: {rounds} images/s")
    kept = tuning.chosen == tuning.trials[0].choice
    say(f"kept, as nothing else is clearly better: {tuning.chosen}" if kept else f"written: {tuning.chosen}")
    if tuning.chosen.engine is not None:
        say(f"start the server with --config {tuning.chosen.engine} to run it")


def _to_stderr(line: str) -> None:
    say(line, err=True)


@contextmanager
def _live(url: str | None, token: str | None, **trial: Any) -> Iterator[Live | None]:
    """The server of a URL, if one was given, and how a version is tried there."""
    from shrinkserve.serving.client.client import Client
    from shrinkserve.serving.publish.publish import Live

    if url is None:
        yield None
    else:
        with Client(url, token=token, timeout=LOAD_SECONDS) as client:
            yield Live(client, **trial)


LOAD_SECONDS = 600.0
"""A large engine with a warm-up for each batch size takes minutes to load."""


def _validation_images(data: Path, count: int) -> list[bytes]:
    from shrinkserve.data import open_dataset

    dataset = open_dataset(data, "validation")
    return [dataset.record(index).encoded for index in range(min(count, len(dataset)))]
