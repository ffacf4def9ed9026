"""Every way in which a server fails to answer, as a `RequestError` of one line."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from tritonclient.utils import InferenceServerException

from shrinkserve.errors import RequestError
from shrinkserve.serving.names import public_names

_UNKNOWN = ("unknown model", "is not found", "is not available")
_EXPIRED = ("Request timeout expired", "Deadline Exceeded", "DEADLINE_EXCEEDED")
_FULL = "maximum queue size"
_BETWEEN = ("in ensemble", "unexpected shape for input", "for model")
"""Of an ensemble, some of whose parts are of the next version already."""
_CROWDED = ", max allowed is"
_LIBRARIES = {"geventhttpclient", "_parser", "gevent", "aiohttp", "json", "rapidjson"}
"""Whose faults mean that what answered, if anything did, is no Triton: another service has the port."""
_FORGOTTEN = "Unable to find shared memory region"


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn what the protocols' libraries raise into one line that names the server."""
    try:
        yield
    except InferenceServerException as exc:
        _raise(url, str(exc.message() or ""), str(exc.status() or ""), exc)
    except (TimeoutError, asyncio.TimeoutError) as exc:  # two classes before Python 3.11
        _raise(url, "", "DEADLINE_EXCEEDED", exc)
    except OSError as exc:
        _raise(url, exc.strerror or str(exc), "UNAVAILABLE", exc)
    except Exception as exc:
        if type(exc).__module__.partition(".")[0] not in _LIBRARIES:
            raise
        _raise(url, _first_line(exc), "UNAVAILABLE", exc)


def _first_line(error: Exception) -> str:
    """What a library says, without the bytes that it quotes."""
    said = getattr(error, "message", "") or (error.args[0] if error.args else "")
    return next(iter(str(said).strip().splitlines()), type(error).__name__).rstrip(":")


class UnknownModelError(RequestError):
    """The server has no such model, or none that is ready."""


class RefusedError(RequestError):
    """The server looked at the request and does not answer it."""


class UnavailableError(RequestError):
    """No answer came: the server is not there, went away, or took too long to accept the connection."""


def _raise(url: str, message: str, status: str, error: Exception) -> NoReturn:
    message = message.rstrip(".")
    if any(words in message for words in _UNKNOWN):
        raise UnknownModelError(f"{url}: {message}") from error
    if all(words in message for words in _BETWEEN):
        raise UnavailableError(f"{url}: the model's parts are being replaced ({message})", hint="try again") from error
    if any(words in f"{status} {message}" for words in _EXPIRED):
        raise RequestError(
            f"{url}: no answer in time", hint="give more time (--timeout) or look at the load"
        ) from error
    if "is restricted" in message:
        raise RequestError(
            f"{url}: the server keeps this to those who know its token ({message})",
            hint="give the token (--token or SHRINKSERVE_TOKEN)",
        ) from error
    if _FULL in message:
        raise UnavailableError(f"{url}: the queue is full ({message})", hint="send fewer requests at once") from error
    if _CROWDED in message:  # of a batch: a request that is too large itself is refused in other words
        raise UnavailableError(f"{url}: refused with the others of its batch ({message})", hint="ask again") from error
    if _FORGOTTEN in message:
        raise UnavailableError(f"{url}: the server started anew meanwhile ({message})", hint="ask again") from error
    if "certificate verify failed" in message.lower().replace("_", " "):
        variable = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH" if url.startswith("grpc") else "SSL_CERT_FILE"
        raise UnavailableError(
            f"{url}: its certificate is not trusted", hint=f"name the file that vouches for it: {variable}=FILE"
        ) from error
    if "UNAVAILABLE" in status:
        raise UnavailableError(
            f"{url}: no server answers ({message})", hint="start one with `shrinkserve serve`, or check the URL"
        ) from error
    raise RefusedError(f"{url}: the request was refused ({message})") from error


def unknown(url: str, served: Sequence[Mapping[str, Any]], model: str, version: str = "") -> RequestError:
    """The fault of a model or version that the server does not have, given the statistics of what it has."""
    versions = ", ".join(one["version"] for one in served if one["name"] == model)
    if versions:
        return RequestError(f"{url}: no such version of {model} is ready", expected=versions, found=version or "none")
    names = ", ".join(public_names({one["name"] for one in served})) or "none"
    return RequestError(f"{url}: no such model is ready", expected=f"one of {names}", found=model)


def no_encoded(url: str, model: str) -> RequestError:
    """The fault of a model without the parts that decode images."""
    return RequestError(f"{url}: {model} takes no encoded images", hint=f"shrinkserve repo add-jpeg {model}")


def unsteady(url: str, model: str) -> RequestError:
    """The fault of a model whose versions come and go too fast to be asked."""
    return RequestError(f"{url}: model {model} changes faster than it can be asked", hint="try again")


def only(url: str, models: Sequence[str]) -> str:
    """The one model that is served.

    Raises:
        RequestError: there are several, or none.
    """
    if len(models) != 1:
        known = ", ".join(models) or "none"
        raise RequestError(f"{url}: which model?", expected=f"one of {known}", hint="name one (--model)")
    return models[0]
