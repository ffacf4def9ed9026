"""`shrinkserve bench`."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shrinkserve.cli.groups import RunByDefault

if TYPE_CHECKING:
    from shrinkserve.benchmark.capacity import Replica
    from shrinkserve.benchmark.load.slo import Slo

CHECKED_LOADS = (0.2, 0.4, 0.6, 0.8)
SPINS = "20000"
"""How long torch's threads wait for the next operator by spinning: long enough to be there (0.1 ms), too short to take
the cores from the server beside them. Read when torch is loaded."""
TRITON_URLS = ["http://127.0.0.1:8000", "grpc://127.0.0.1:8001"]


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    group = typer.Typer(
        name="bench",
        cls=RunByDefault,
        help="Prove that a server answers as the checkpoint does. `bench run --help` lists the options.",
    )
    group.command("run")(bench)
    group.command("plan")(plan)
    app.add_typer(group)


def bench(  # noqa: PLR0913, PLR0917 - one parameter an option
    data: Annotated[Path, typer.Option(help="Dataset whose validation images are sent.")],
    url: Annotated[
        list[str] | None, typer.Option(help="Server, http://HOST:PORT or grpc://HOST:PORT; may be repeated.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model on the server; needed when it serves several.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Run folder the model was made from; found in --runs by its weights otherwise.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Where run folders are.")] = Path("runs"),
    repository: Annotated[
        Path, typer.Option(help="Model repository whose files of the same weights are compared too.")
    ] = Path("model_repository"),
    concurrency: Annotated[
        list[int] | None, typer.Option(min=1, help="Closed-loop load; may be repeated; 1 and 4 by default.")
    ] = None,
    min_top1: Annotated[float | None, typer.Option(min=0, max=1, help="Gate: least top-1, as a fraction.")] = None,
    max_flips: Annotated[
        int | None, typer.Option(min=0, help="Gate: most answers unlike the checkpoint's; 0 in float32 by default.")
    ] = None,
    max_p99: Annotated[str | None, typer.Option(help="Gate: longest 99th percentile, e.g. 20ms.")] = None,
    min_throughput: Annotated[float | None, typer.Option(min=0, help="Gate: least images/s.")] = None,
    gates: Annotated[Path | None, typer.Option(help="Gates as a TOML file; options come before it.")] = None,
    payload: Annotated[
        list[str] | None,
        typer.Option(help="tensor, jpeg or shm; may be repeated; tensor, and jpeg where the server takes it."),
    ] = None,
    token: Annotated[
        str | None, typer.Option(envvar="SHRINKSERVE_TOKEN", help="The server's token, for its shared memory.")
    ] = None,
    rate: Annotated[
        list[float] | None, typer.Option(min=0.1, help="Open-loop load, requests/s; may be repeated.")
    ] = None,
    arrivals: Annotated[str, typer.Option(help="Of open loops: 'poisson' or 'constant'.")] = "poisson",
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Images a request; may be repeated.")] = None,
    slo: Annotated[str | None, typer.Option(help="Find the highest rate that holds it, e.g. p99=20ms.")] = None,
    everywhere: Annotated[bool, typer.Option("--everywhere", help="Load the local stages too.")] = False,
    baseline: Annotated[Path | None, typer.Option(help="bench.json of an earlier release to compare with.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many images, spread evenly.")] = None,
    window: Annotated[float, typer.Option(min=0.1, help="Seconds of one load window; three must agree.")] = 2.0,
    out: Annotated[Path | None, typer.Option(help="Folder for the report; continues a measurement cut off.")] = None,
    json: Annotated[Path | None, typer.Option(help="File for the record alone.")] = None,
) -> None:
    """Prove that a server answers as the checkpoint does. And how fast."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    from shrinkserve.benchmark.bench import BenchOptions, run_bench
    from shrinkserve.benchmark.load.plan import LoadPlan
    from shrinkserve.benchmark.load.slo import Slo
    from shrinkserve.benchmark.report.gates import Gates, read_gates
    from shrinkserve.benchmark.targets.discover import Wanted
    from shrinkserve.benchmark.targets.target import parse_payloads
    from shrinkserve.benchmark.timing import Timing, parse_duration
    from shrinkserve.errors import ConfigError

    if arrivals not in {"poisson", "constant"}:
        raise ConfigError("--arrivals", expected="poisson or constant", found=repr(arrivals))

    named = Gates(min_top1, max_flips, parse_duration(max_p99, "--max-p99") if max_p99 else None, min_throughput)
    options = BenchOptions(
        data=data,
        wanted=Wanted(
            url or ([] if checkpoint else TRITON_URLS),
            model,
            checkpoint,
            runs,
            repository,
            payloads=parse_payloads(payload or ()),
            token=token,
        ),
        gates=read_gates(gates).override(named) if gates else named,
        loads=LoadPlan(
            concurrency=concurrency or (1, 4),
            rates=rate or (),
            arrivals="constant" if arrivals == "constant" else "poisson",
            batches=batch or (),
            everywhere=everywhere,
            timing=Timing(warmup=min(1.0, window), window=window),
        ),
        slo=Slo.parse(slo) if slo else None,
        baseline=baseline,
        limit=limit,
        out=out,
        json=json,
    )
    with _Progress() as progress:
        record = run_bench(options, progress)
    _tell(record, out)


def _tell(record: dict[str, Any], out: Path | None) -> None:
    from shrinkserve.benchmark.report.record import HTML
    from shrinkserve.benchmark.report.terminal import render
    from shrinkserve.errors import GateError

    render(record)
    if out:
        typer.echo(f"report: {out / HTML}")
    for miss in record["misses"]:
        typer.echo(f"MISSED {miss}", err=True)
    if record["misses"]:
        raise GateError(f"{len(record['misses'])} of what was asked does not hold")


def plan(  # noqa: PLR0913, PLR0917 - one parameter an option
    record: Annotated[Path, typer.Argument(help="bench.json with several --concurrency, 1 among them, and --batch.")],
    rate: Annotated[float, typer.Option(min=0.001, help="Requests/s that all replicas together must answer.")],
    slo: Annotated[str, typer.Option(help="What is promised, e.g. p99=20ms.")],
    target: Annotated[str | None, typer.Option(help="Which server of the record, e.g. 'server grpc'.")] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Largest batch that a replica computes.")] = 32,
    instances: Annotated[int, typer.Option(min=1, help="Batches that a replica computes at once.")] = 1,
    check: Annotated[
        str | None, typer.Option(help="URL of a real replica: predicted and measured latency at several loads.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="With --check: dataset whose images are sent.")] = None,
    json: Annotated[Path | None, typer.Option(help="File for the plan.")] = None,
) -> None:
    """Size replicas for a rate and a promised latency. By simulation, from measured service times."""
    from json import dumps

    from shrinkserve.atomic import write_atomic
    from shrinkserve.benchmark import capacity
    from shrinkserve.benchmark.load.slo import Slo
    from shrinkserve.benchmark.report.record import read_record
    from shrinkserve.errors import ConfigError, GateError

    if check and data is None:
        raise ConfigError("--check", expected="--data with the dataset whose images are sent", found="none")
    measured = read_record(record)
    replica = capacity.Replica(capacity.read_service(measured, target, instances), max_batch, instances)
    promise = Slo.parse(slo)
    found = capacity.size(replica, rate, promise)
    count, each = found["replicas"], found["requests_per_second_each"]
    who = f"1 replica of {found['target']} answers" if count == 1 else f"{count} replicas of {found['target']} answer"
    typer.echo(
        f"{who} {rate:g} requests/s with {found['slo']}: {'' if count == 1 else 'each '}{each:.1f} of at most "
        f"{found['highest_each']:.1f}, p50 {found['p50_ms']:.2f} ms, p99 {found['p99_ms']:.2f} ms (simulated)"
    )
    found["measured_each"] = capacity.most_measured(measured, found["target"])
    if each > found["measured_each"]:
        hint = "look at the check" if check else "confirm it with --check"
        typer.echo(f"a replica was measured up to {found['measured_each']:.1f} requests/s: beyond is simulated; {hint}")
    if check and data:
        rates = [*(load * replica.unbatched_rate for load in CHECKED_LOADS), each]
        found["check"] = _check(replica, promise, rates, check, data, str(measured["model"]))
    if json:
        write_atomic(json, (dumps(found, indent=1) + "\n").encode())
    if check and not found["check"][-1]["holds"]:
        raise GateError(f"this replica does not keep {promise} at the planned {each:.1f} requests/s, as its line says")


def _check(
    replica: Replica, promise: Slo, rates: list[float], url: str, data: Path, model: str
) -> list[dict[str, Any]]:
    from shrinkserve.benchmark import capacity
    from shrinkserve.benchmark.load.plan import payload
    from shrinkserve.benchmark.targets.target import server
    from shrinkserve.benchmark.timing import Timing
    from shrinkserve.data import open_dataset
    from shrinkserve.serving.client.client import Client

    with Client(url) as client:
        contract = client.model_info(model)
    requests = payload(open_dataset(data, "validation"), contract.preprocess, 1)
    target = server(url, contract.model, contract.precision)
    say = partial(typer.echo, err=True)
    rows = capacity.check(replica, target, requests, rates, Timing(), say, slo=promise)
    for row in rows:
        typer.echo(
            f"{row['requests_per_second']:8.1f} requests/s: p50 predicted {row['predicted_p50_ms']:.2f} ms, measured "
            f"{row['measured_p50_ms']:.2f} ms; p99 predicted {row['predicted_p99_ms']:.2f} ms, measured "
            f"{row['measured_p99_ms']:.2f} ms ({row['measured_p99_low_ms']:.2f} to {row['measured_p99_high_ms']:.2f}); "
            f"{'valid' if row['valid'] else '; '.join(row['reasons'])}"
        )
    return rows


class _Progress:
    """A bar on a terminal, a line a step elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=self._console, transient=True)
        self._task: Any = None

    def __enter__(self) -> _Progress:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def step(self, text: str) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def images(self, done: int, total: int) -> None:
        if self._task is None:
            self._task = self._bars.add_task("images", total=total)
        self._bars.update(self._task, completed=done)
