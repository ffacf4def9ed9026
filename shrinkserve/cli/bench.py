"""`shrinkserve bench`."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shrinkserve.cli.groups import RunByDefault
from shrinkserve.terminal import Progress, print_line, print_table

if TYPE_CHECKING:
    from shrinkserve.benchmark.capacity import CapacityPlan

SPINS = "20000"
"""Rounds for which torch's threads spin before they sleep (0.1 ms). With fewer they miss the next operator, with more
they take CPU time from a server on this machine. Read when torch is loaded."""


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    group = typer.Typer(
        name="bench",
        cls=RunByDefault,
        help="Verify a server's predictions and measure its latency. `bench run --help` lists the options.",
    )
    group.command("run")(bench)
    group.command("plan")(plan)
    app.add_typer(group)


def bench(  # noqa: PLR0913, PLR0917 - one parameter an option
    data: Annotated[Path, typer.Option(help="Dataset; its validation images are used.")],
    url: Annotated[
        list[str] | None, typer.Option(help="Server, http://HOST:PORT or grpc://HOST:PORT; may be repeated.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model on the server; required if it serves several.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Run folder of the model; by default found in --runs by its weights.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of run folders.")] = Path("runs"),
    repository: Annotated[
        Path, typer.Option(help="Model repository whose files of the same weights are compared too.")
    ] = Path("model_repository"),
    concurrency: Annotated[
        list[int] | None, typer.Option(min=1, help="Closed-loop load test; may be repeated; 1 and 4 by default.")
    ] = None,
    min_top1: Annotated[float | None, typer.Option(min=0, max=1, help="Gate: least top-1, as a fraction.")] = None,
    max_flips: Annotated[
        int | None, typer.Option(min=0, help="Gate: most predictions unlike the checkpoint's; 0 in float32 by default.")
    ] = None,
    max_p99: Annotated[str | None, typer.Option(help="Gate: longest 99th percentile, e.g. 20ms.")] = None,
    min_throughput: Annotated[float | None, typer.Option(min=0, help="Gate: least images/s.")] = None,
    gates: Annotated[Path | None, typer.Option(help="TOML file of gates; the options take precedence.")] = None,
    payload: Annotated[
        list[str] | None,
        typer.Option(help="tensor, jpeg or shm; may be repeated; tensor, and jpeg if the server takes it."),
    ] = None,
    token: Annotated[
        str | None, typer.Option(envvar="SHRINKSERVE_TOKEN", help="The server's token, for shared memory.")
    ] = None,
    rate: Annotated[
        list[float] | None, typer.Option(min=0.1, help="Open-loop load test, requests/s; may be repeated.")
    ] = None,
    arrivals: Annotated[str, typer.Option(help="Arrivals in open loops: 'poisson' or 'constant'.")] = "poisson",
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Images in a request; may be repeated.")] = None,
    slo: Annotated[str | None, typer.Option(help="Find the highest rate that meets it, e.g. p99=20ms.")] = None,
    everywhere: Annotated[bool, typer.Option("--everywhere", help="Also run load tests of the local stages.")] = False,
    baseline: Annotated[Path | None, typer.Option(help="bench.json of an earlier release to compare with.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Number of images, spread evenly; all by default.")] = None,
    window: Annotated[float, typer.Option(min=0.1, help="Seconds of one load window; three must agree.")] = 2.0,
    out: Annotated[Path | None, typer.Option(help="Folder of the report; resumes an interrupted measurement.")] = None,
    json: Annotated[Path | None, typer.Option(help="File of the record alone.")] = None,
) -> None:
    """Verify a server's predictions and measure its latency. The reference is the checkpoint."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    from shrinkserve.benchmark.bench import bench as measure
    from shrinkserve.benchmark.report.files import HTML
    from shrinkserve.benchmark.report.terminal import print_record
    from shrinkserve.errors import GateError

    with Progress() as progress:
        record = measure(
            data,
            url=url or (),
            model=model,
            checkpoint=checkpoint,
            runs=runs,
            repository=repository,
            concurrency=concurrency or (1, 4),
            min_top1=min_top1,
            max_flips=max_flips,
            max_p99=max_p99,
            min_throughput=min_throughput,
            gates=gates,
            payload=payload or (),
            token=token,
            rate=rate or (),
            arrivals=arrivals,  # type: ignore[arg-type] # checked by the function
            batch=batch or (),
            slo=slo,
            everywhere=everywhere,
            baseline=baseline,
            limit=limit,
            window=window,
            out=out,
            json=json,
            progress=progress,
        )
    print_record(record)
    if out:
        print_line(f"report: {out / HTML}")
    for miss in record.misses:
        print_line(f"FAILED: {miss}", err=True)
    if record.misses:
        raise GateError(f"{len(record.misses)} gate{'' if len(record.misses) == 1 else 's'} failed")


def plan(  # noqa: PLR0913, PLR0917 - one parameter an option
    record: Annotated[Path, typer.Argument(help="bench.json with several --concurrency, 1 among them, and --batch.")],
    rate: Annotated[float, typer.Option(min=0.001, help="Requests/s of all replicas together.")],
    slo: Annotated[str, typer.Option(help="Latency objective, e.g. p99=20ms.")],
    target: Annotated[str | None, typer.Option(help="Server of the record, e.g. 'server grpc'.")] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Largest batch of a replica.")] = 32,
    instances: Annotated[int, typer.Option(min=1, help="Number of instances of a replica.")] = 1,
    check: Annotated[str | None, typer.Option(help="URL of a real replica to measure at several rates.")] = None,
    data: Annotated[Path | None, typer.Option(help="With --check: dataset for the requests.")] = None,
    window: Annotated[float, typer.Option(min=0.1, help="With --check: seconds of one load window.")] = 2.0,
    json: Annotated[Path | None, typer.Option(help="File of the plan.")] = None,
) -> None:
    """Compute the number of replicas for a rate and a latency objective. By simulation, from measured service times."""
    from shrinkserve.benchmark.planning import plan as compute
    from shrinkserve.errors import GateError

    say = partial(print_line, err=True)
    found = compute(
        record,
        rate,
        slo,
        target=target,
        max_batch=max_batch,
        instances=instances,
        check=check,
        data=data,
        window=window,
        json=json,
        say=say,
    )
    _print_plan(found)
    if found.check and not found.check[-1].holds:
        each = f"{found.requests_per_second_each:.1f} requests/s"
        raise GateError(f"the replica at {check} does not meet {found.slo} at the planned {each}")


def _print_plan(found: CapacityPlan) -> None:
    each, noun = found.requests_per_second_each, "replica" if found.replicas == 1 else "replicas"
    print_line(
        f"{found.replicas} {noun} of {found.target} for {found.requests_per_second:g} requests/s with {found.slo}"
    )
    print_line(
        f"each: {each:.1f} of at most {found.highest_each:.1f} requests/s, p50 {found.p50_ms:.2f} ms, "
        f"p99 {found.p99_ms:.2f} ms (simulated)"
    )
    if found.extrapolated:
        hint = "see the check" if found.check else "confirm it with --check"
        print_line(f"extrapolated: the highest measured rate is {found.measured_each:.1f} requests/s; {hint}")
    if found.check:
        headings = ("requests/s", "p50 ms", "predicted", "p99 ms", "95 % interval", "predicted", "figures")
        rows = [
            (
                f"{one.requests_per_second:.1f}",
                f"{one.measured_p50_ms:.2f}",
                f"{one.predicted_p50_ms:.2f}",
                f"{one.measured_p99_ms:.2f}",
                f"{one.measured_p99_low_ms:.2f} to {one.measured_p99_high_ms:.2f}",
                f"{one.predicted_p99_ms:.2f}",
                "valid" if one.valid else "; ".join(one.reasons),
            )
            for one in found.check
        ]
        print_table(headings, rows, left=("figures",))
