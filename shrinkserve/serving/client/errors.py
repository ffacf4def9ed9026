"""Errors of a client. Each is a `RequestError` with a message of one line that names the server."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

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


_UNKNOWN = ("unknown model", "is not found", "is not available")
_EXPIRED = ("Request timeout expired", "Deadline Exceeded")
_BETWEEN = ("in ensemble", "unexpected shape for input", "for model")
"""Error text Triton returns while an ensemble's models are being replaced."""


def request_error(url: str, status: Status, message: str) -> RequestError:
    """Return the error for a failure that a protocol reported.

    Triton gives the same status to failures that need different actions, so its texts are looked at first.

    Args:
        url: of the server.
        status: kind of failure.
        message: the server's or the library's text.
    """
    message = shown(message)
    for words, make in _BY_TEXT:
        if all(word in message for word in words):
            return make(url, message)
    return _BY_STATUS[status](url, message)


def shown(message: str) -> str:
    """Return foreign text on one line, without control characters, and not too long."""
    text = printable(" ".join(message.split())).rstrip(".:")
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."


def _unknown(url: str, message: str) -> RequestError:
    return UnknownModelError(f"{url}: {message}")


def _replaced(url: str, message: str) -> RequestError:
    return UnavailableError(f"{url}: the model's ensemble is being replaced ({message})", hint="try again")


def _late(url: str, message: str) -> RequestError:  # noqa: ARG001 - the libraries' texts say no more
    return LateError(f"{url}: no reply in time", hint="allow more time (--timeout) or check the server's load")


def _restricted(url: str, message: str) -> RequestError:
    return RestrictedError(
        f"{url}: the server restricts this request ({message})", hint="give the token (--token or SHRINKSERVE_TOKEN)"
    )


def _full(url: str, message: str) -> RequestError:
    return UnavailableError(f"{url}: the queue is full ({message})", hint="send fewer requests at once")


def _batch_refused(url: str, message: str) -> RequestError:
    return UnavailableError(f"{url}: refused together with other requests of its batch ({message})", hint="try again")


def _region_unknown(url: str, message: str) -> RequestError:
    return UnavailableError(f"{url}: the server was restarted ({message})", hint="try again")


def _untrusted(url: str, message: str) -> RequestError:  # noqa: ARG001 - the hint says what to do
    variable = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH" if url.startswith("grpc") else "SSL_CERT_FILE"
    return UnavailableError(
        f"{url}: the server's certificate is not trusted", hint=f"set {variable} to the file of the issuing certificate"
    )


def _unavailable(url: str, message: str) -> RequestError:
    return UnavailableError(
        f"{url}: no server answers ({message})", hint="start one with `shrinkserve serve`, or check the URL"
    )


def _failed(url: str, message: str) -> RequestError:
    return FailedError(f"{url}: the server failed ({message})", hint="look at its log, or run `shrinkserve doctor`")


def _refused(url: str, message: str) -> RequestError:
    return RefusedError(f"{url}: the request was refused ({message})")


def invalid_reply(url: str, why: str) -> InvalidReplyError:
    """Return the error for a reply that cannot be used."""
    return InvalidReplyError(f"{url}: invalid reply ({shown(why)})", hint="check that the URL is that of a Triton")


_BY_TEXT = (
    *(((words,), _unknown) for words in _UNKNOWN),
    (_BETWEEN, _replaced),
    *(((words,), _late) for words in _EXPIRED),
    (("is restricted",), _restricted),
    (("maximum queue size",), _full),
    ((", max allowed is",), _batch_refused),  # a request that is too large itself is refused in other words
    (("Unable to find shared memory region",), _region_unknown),
    (("certificate verify failed",), _untrusted),
    (("CERTIFICATE_VERIFY_FAILED",), _untrusted),
)
_BY_STATUS = {
    Status.REFUSED: _refused,
    Status.NOT_FOUND: _unknown,
    Status.FORBIDDEN: _restricted,
    Status.UNAVAILABLE: _unavailable,
    Status.LATE: _late,
    Status.FAILED: _failed,
    Status.INVALID: invalid_reply,
}


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
