"""`shrinkserve serve` and `shrinkserve doctor`."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Annotated

import typer

from shrinkserve.containers import CURRENT
from shrinkserve.terminal import print_line


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    app.command(help="Serve a model repository with a real tritonserver. Ctrl-C stops it.")(serve)
    app.command(help="Check this machine, a repository and a running server.")(doctor)


def serve(  # noqa: PLR0913 - the options of a server
    *,
    repository: Annotated[Path, typer.Option(help="The model repository.")] = Path("model_repository"),
    model: Annotated[list[str] | None, typer.Option(help="A model to load; all by default. Can be repeated.")] = None,
    config: Annotated[str | None, typer.Option(help="Engine to serve, where a model has configs/NAME.pbtxt.")] = None,
    host: Annotated[str, typer.Option(help="Address or host name to listen on.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="HTTP; 0 chooses a free port.")] = 8000,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC; 0 chooses a free port.")] = 8001,
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="Metrics; 0 chooses a free port.")] = 8002,
    tls: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="CERTIFICATE KEY", help="TLS for gRPC (PEM files); HTTP and metrics stay on loopback."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="SHRINKSERVE_TOKEN",
            help="Secret that clients need for model control, shared memory, trace and logging. Without it, no model "
            "can be loaded or unloaded.",
        ),
    ] = None,
    max_request: Annotated[
        int, typer.Option(min=1, help="Largest HTTP request in MiB; the server from PyPI has no limit.")
    ] = 64,
    log_file: Annotated[
        Path | None, typer.Option(help="The server's log; by default in the user's log folder.")
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="Folder for Triton's trace of every request.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow the server from PyPI to listen on any address.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object when ready.")] = False,
) -> None:
    """Start the server, print its URLs, and stop it at Ctrl-C or SIGTERM."""
    import secrets

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
        trace=trace,
    )
    try:
        server = TritonServer(repository, options)
        for name, reason in server.skipped.items():
            print_line(f"skipped {name}: {reason}", err=True)
        if token:
            print_line("warning: users of this machine can read the token from tritonserver's command line", err=True)
        with server:
            urls = {"http": server.http_url, "grpc": server.grpc_url, "metrics": server.metrics_url}
            if as_json:
                typer.echo(json.dumps({"models": server.public_names, **urls, "log": str(server.log_file)}))
            else:
                print_line(f"serving {', '.join(server.public_names)}; Ctrl-C stops it; log: {server.log_file}")
                typer.echo("\n".join(urls.values()))
            server.wait()
    except KeyboardInterrupt:
        if not as_json:
            typer.echo("stopped")


def doctor(
    repository: Annotated[Path | None, typer.Option(help="Model repository to check.")] = None,
    url: Annotated[str | None, typer.Option(help="Running server to check: http://HOST:PORT.")] = None,
    grpc_url: Annotated[str | None, typer.Option(help="gRPC of the same server: grpc://HOST:PORT.")] = None,
    container: Annotated[
        str, typer.Option(help="Tag of the NVIDIA container that has to load the repository.")
    ] = CURRENT.tag,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """Print the findings; exit code 1 if one of them is an error."""
    from dataclasses import asdict

    from shrinkserve.serving import doctor as checks

    findings = checks.doctor(repository, url, grpc_url, container=container)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            hint = f"; {finding.hint}" if finding.hint else ""
            print_line(f"{finding.level:6}{finding.subject}: {finding.what}{hint}")
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)
