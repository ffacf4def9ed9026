"""Check a machine, a model repository and a running server: what would fail or is exposed, and what to do about it."""

from __future__ import annotations

from pathlib import Path

from shrinkserve.containers import CURRENT, find_container
from shrinkserve.errors import ConfigError
from shrinkserve.paths import StrPath
from shrinkserve.serving.doctor.finding import Finding, Level
from shrinkserve.serving.doctor.machine import check_machine
from shrinkserve.serving.doctor.repository import check_repository
from shrinkserve.serving.doctor.running import check_server

__all__ = ["Finding", "Level", "check_machine", "check_repository", "check_server", "doctor"]


def doctor(
    repository: StrPath | None = None,
    url: str | None = None,
    grpc_url: str | None = None,
    *,
    container: str = CURRENT.tag,
) -> list[Finding]:
    """Check this machine and, if given, a model repository and a running server.

    Args:
        repository: the model repository.
        url: the server, ``http://HOST:PORT``.
        grpc_url: the same server's gRPC, ``grpc://HOST:PORT``. Its APIs are restricted by their own options.
        container: tag of the NVIDIA container that has to load the repository, e.g. ``"26.06"``.

    Returns:
        All findings, in the order of the checks. The machine can serve the repository if none is an error.

    Raises:
        ConfigError: `url` or `grpc_url` has another form, `grpc_url` without `url`, or an unknown `container`.

    Example:
        for finding in doctor("model_repository"):
            if finding.level == "error":
                print(finding.subject, finding.what, finding.hint)
    """
    if grpc_url is not None and url is None:
        raise ConfigError("grpc_url", expected="url with it, the HTTP address of the same server", found=grpc_url)
    chosen = find_container(container)
    findings = [*check_machine()]
    findings += check_repository(Path(repository), container=chosen) if repository is not None else []
    findings += check_server(url, grpc_url) if url is not None else []
    return findings
