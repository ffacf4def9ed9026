"""Errors of a client. Each is a `RequestError` with a message of one line that names the server."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import NamedTuple

from shrinkserve.errors import RequestError
from shrinkserve.serving.client.operations import ModelStatistics
from shrinkserve.serving.names import public_names
from shrinkserve.text import printable

MAX_MESSAGE = 500
"""Longest part of a server's error message that is shown."""


class Status(Enum):
    """Kinds of failure that HTTP and gRPC report."""

    REFUSED = auto()
    NOT_FOUND = auto()
    FORBIDDEN = auto()
    UNAVAILABLE = auto()
    LATE = auto()
    FAILED = auto()
    INVALID = auto()


class UnknownModelError(RequestError):
    """The server has no such model, or none that is ready."""


class RefusedError(RequestError):
    """The server rejected the content of the request."""


class RestrictedError(RequestError):
    """The request needs the server's token."""


class UnavailableError(RequestError):
    """The server did not process the request; it is safe to send it again."""


class LateError(RequestError):
    """No complete reply came within the timeout."""


class FailedError(RequestError):
    """The server failed to process a request that may be valid."""


class InvalidReplyError(RequestError):
    """The reply is not what Triton's protocol or the model's configuration promises."""


class _Case(NamedTuple):
    """Error for one kind of failure; ``{}`` in the text is replaced by the server's message."""

    kind: type[RequestError]
    text: str
    hint: str | None = None


_UNKNOWN = _Case(UnknownModelError, "{}")
_LATE = _Case(LateError, "no reply in time", "allow more time (--timeout) or check the server's load")
_RESTRICTED = _Case(
    RestrictedError, "the server restricts this request ({})", "give the token (--token or SHRINKSERVE_TOKEN)"
)
_INVALID = _Case(InvalidReplyError, "invalid reply ({})", "check that the URL is that of a Triton")
_UNTRUSTED = _Case(
    UnavailableError,
    "the server's certificate is not trusted",
    "set SSL_CERT_FILE (gRPC: GRPC_DEFAULT_SSL_ROOTS_FILE_PATH) to the file of the issuing certificate",
)
_BY_TEXT = (
    (("unknown model",), _UNKNOWN),
    (("is not found",), _UNKNOWN),
    (("is not available",), _UNKNOWN),
    (
        ("in ensemble", "unexpected shape for input", "for model"),
        _Case(UnavailableError, "the model's ensemble is being replaced ({})", "try again"),
    ),
    (("Request timeout expired",), _LATE),
    (("Deadline Exceeded",), _LATE),
    (("is restricted",), _RESTRICTED),
    (("maximum queue size",), _Case(UnavailableError, "the queue is full ({})", "send fewer requests at once")),
    # A request that is too large itself is refused in other words.
    ((", max allowed is",), _Case(UnavailableError, "refused with other requests of its batch ({})", "try again")),
    (("Unable to find shared memory region",), _Case(UnavailableError, "the server was restarted ({})", "try again")),
    (("certificate verify failed",), _UNTRUSTED),
    (("CERTIFICATE_VERIFY_FAILED",), _UNTRUSTED),
)
"""Texts of Triton and of the TLS libraries that tell apart what has the same status."""
_BY_STATUS = {
    Status.REFUSED: _Case(RefusedError, "the request was refused ({})"),
    Status.NOT_FOUND: _UNKNOWN,
    Status.FORBIDDEN: _RESTRICTED,
    Status.UNAVAILABLE: _Case(
        UnavailableError,
        "the server is not reachable ({})",
        "start it with `shrinkserve serve`, or check the URL: port, http or grpc, TLS",
    ),
    Status.LATE: _LATE,
    Status.FAILED: _Case(
        FailedError, "the server failed ({})", "look at the server's log, or run `shrinkserve doctor --url`"
    ),
    Status.INVALID: _INVALID,
}


def request_error(url: str, status: Status, message: str) -> RequestError:
    """Return the error for a failure that a protocol reported.

    Triton gives the same status to failures that need different actions, so its texts are looked at first.

    Args:
        url: of the server.
        status: kind of failure.
        message: the server's or the library's text.
    """
    found = (case for words, case in _BY_TEXT if all(word in message for word in words))
    case = next(found, _BY_STATUS[status])
    return case.kind(f"{url}: {case.text.format(shown(message))}", hint=case.hint)


def shown(message: str) -> str:
    """Return foreign text on one line, without control characters, and not too long."""
    text = printable(" ".join(message.split())).rstrip(".:")
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."


def invalid_reply(url: str, why: str) -> RequestError:
    """Return the error for a reply that cannot be used."""
    return InvalidReplyError(f"{url}: {_INVALID.text.format(shown(why))}", hint=_INVALID.hint)


def unknown_model(url: str, served: Sequence[ModelStatistics], model: str, version: str = "") -> RequestError:
    """Return the error for a model or version that the server does not have.

    Args:
        url: of the server.
        served: statistics of what it has.
        model: the name that was asked for.
        version: the version that was asked for.
    """
    versions = ", ".join(one["version"] for one in served if one["name"] == model)
    if versions:
        return UnknownModelError(
            f"{url}: no such version of {model} is ready", expected=versions, found=version or "none"
        )
    names = ", ".join(public_names({one["name"] for one in served})) or "none"
    return UnknownModelError(f"{url}: no such model is ready", expected=f"one of {shown(names)}", found=shown(model))


def no_encoded(url: str, model: str) -> RequestError:
    """Return the error for a model that does not decode images."""
    return RequestError(f"{url}: {model} takes no encoded images", hint=f"run `shrinkserve repo add-jpeg {model}`")


def unsteady(url: str, model: str) -> RequestError:
    """Return the error for a model that was replaced during every attempt."""
    return UnavailableError(f"{url}: model {model} was replaced during every attempt", hint="try again")


def only(url: str, models: Sequence[str]) -> str:
    """Return the only name in `models`.

    Raises:
        RequestError: there are several, or none.
    """
    if len(models) != 1:
        known = shown(", ".join(models)) or "none"
        raise RequestError(f"{url}: which model?", expected=f"one of {known}", hint="give its name (--model)")
    return models[0]
