"""Train a compact image classifier, ship it to NVIDIA Triton, prove that production answers as training did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shrinkserve.serving.client.async_client import AsyncClient
    from shrinkserve.serving.client.client import Client

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "__version__"]


def __getattr__(name: str) -> Any:
    # On first use, so that `import shrinkserve` loads neither gRPC nor an HTTP library.
    if name == "Client":
        from shrinkserve.serving.client.client import Client

        return Client
    if name == "AsyncClient":
        from shrinkserve.serving.client.async_client import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
