"""`shrinkserve serve`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    app.command(help="Serve a model repository with a real tritonserver until Ctrl-C.")(serve)


def serve(
    repository: Annotated[Path, typer.Option(help="The model repository.")] = Path("model_repository"),
    model: Annotated[list[str] | None, typer.Option(help="A model to load; all by default. Can be repeated.")] = None,
    host: Annotated[str, typer.Option(help="The address to bind.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="HTTP; 0: a free one is chosen.")] = 8000,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC; 0: a free one is chosen.")] = 8001,
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="Metrics; 0: a free one is chosen.")] = 8002,
    log_file: Annotated[
        Path | None, typer.Option(help="The server's log, rotating; the user's log folder by default.")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let the server from PyPI bind any address.")] = False,
) -> None:
    """Start the server, say where it is, and stop it at Ctrl-C or SIGTERM."""
    from shrinkserve.serving.server import ServerOptions, TritonServer

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, signal.default_int_handler)
    options = ServerOptions(
        models=model or (),
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        log_file=log_file,
        insecure=insecure,
    )
    try:
        with TritonServer(repository, options) as server:
            typer.echo(f"serving {', '.join(server.models)}; Ctrl-C stops it; log: {server.log_file}")
            for url in (server.http_url, server.grpc_url, server.metrics_url):
                typer.echo(url)
            server.wait()
    except KeyboardInterrupt:
        typer.echo("stopped")
