"""`shrinkserve serve`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from shrinkserve.cli.output import say


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    app.command(help="Serve a model repository with a real tritonserver. Ctrl-C stops it.")(serve)
    app.command(help="Audit this machine, a repository, a running server. Says what to do.")(doctor)


def serve(  # noqa: PLR0913 - the options of a server
    *,
    repository: Annotated[Path, typer.Option(help="The model repository.")] = Path("model_repository"),
    model: Annotated[list[str] | None, typer.Option(help="A model to load; all by default. Can be repeated.")] = None,
    config: Annotated[str | None, typer.Option(help="The engine of models that have it: configs/NAME.pbtxt.")] = None,
    host: Annotated[str, typer.Option(help="The address to bind.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="HTTP; 0: a free one is chosen.")] = 8000,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC; 0: a free one is chosen.")] = 8001,
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="Metrics; 0: a free one is chosen.")] = 8002,
    tls: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="CERTIFICATE KEY", help="TLS for gRPC (PEM files); HTTP and metrics stay on loopback."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="SHRINKSERVE_TOKEN",
            help="What clients must know for model control, shared memory, trace and logging. Without it, no model can "
            "be loaded or unloaded.",
        ),
    ] = None,
    max_request: Annotated[
        int, typer.Option(min=1, help="Most MiB of a request over HTTP; the server from PyPI knows no limit.")
    ] = 64,
    log_file: Annotated[
        Path | None, typer.Option(help="The server's log; by default in the user's log folder.")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let the server from PyPI bind any address.")] = False,
) -> None:
    """Start the server, say where it is, and stop it at Ctrl-C or SIGTERM."""
    import secrets

    from shrinkserve.serving.names import public_names
    from shrinkserve.serving.server.server import ServerOptions, TritonServer

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, signal.default_int_handler)
    options = ServerOptions(
        models=model or (),
        engine=config,
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        log_file=log_file,
        insecure=insecure,
        fixed=not token,
        token=token or secrets.token_urlsafe(),
        tls=tls,
        max_request=max_request << 20,
    )
    try:
        server = TritonServer(repository, options)
        for name, lack in server.skipped.items():
            say(f"skipped {name}: {lack}", err=True)
        if token:
            say("warning: users of this machine can read the token from tritonserver's command line", err=True)
        with server:
            typer.echo(f"serving {', '.join(public_names(server.models))}; Ctrl-C stops it; log: {server.log_file}")
            for url in (server.http_url, server.grpc_url, server.metrics_url):
                typer.echo(url)
            server.wait()
    except KeyboardInterrupt:
        typer.echo("stopped")


def doctor(
    repository: Annotated[Path | None, typer.Option(help="A model repository to look at too.")] = None,
    url: Annotated[str | None, typer.Option(help="A running server to look at too: http://HOST:PORT.")] = None,
    grpc_url: Annotated[str | None, typer.Option(help="The same server's gRPC: grpc://HOST:PORT.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list.")] = False,
) -> None:
    """Print the findings; exit code 1 when one of them is a fault."""
    import json
    from dataclasses import asdict

    from shrinkserve.serving import doctor as doctors

    findings = [*doctors.examine_machine()]
    findings += doctors.examine_repository(repository) if repository else []
    findings += doctors.examine_server(url, grpc_url) if url else []
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            hint = f"; {finding.hint}" if finding.hint else ""
            say(f"{finding.level:6}{finding.subject}: {finding.what}{hint}")
    if any(finding.level == "fault" for finding in findings):
        raise typer.Exit(1)
