"""Images handed to a server on the same machine through system shared memory instead of a socket."""

from __future__ import annotations

import threading
import uuid
from contextlib import suppress
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException, shared_memory

from shrinkserve.errors import ConfigError

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Regions:
    """One region a thread, as large as its largest request so far; all are removed by `close`.

    The server has to allow its shared-memory API to this client.

    Args:
        host: of the server; only this machine's loopback can share its memory.
        url: of the server, for the message.

    Raises:
        ConfigError: another machine's.
    """

    def __init__(self, host: str | None, url: str) -> None:
        if host not in LOOPBACK:
            raise ConfigError("shared memory", expected="a server on this machine's loopback", found=url)
        self._local = threading.local()
        self._all: list[Region] = []

    def place(self, client: Any, call: dict[str, Any], images: np.ndarray[Any, Any]) -> tuple[str, int]:
        """Put images where the server reads them; returns the region's name and the number of bytes.

        Raises:
            InferenceServerException: the server does not take the region.
        """
        region: Region | None = getattr(self._local, "region", None)
        if region is None or region.size < images.nbytes:
            if region is not None:
                region.close(client, call)
                self._all.remove(region)
            region = self._local.region = Region(client, call, images.nbytes)
            self._all.append(region)
        region.write(images)
        return region.name, images.nbytes

    def close(self, client: Any, call: dict[str, Any]) -> None:
        """Remove every region, through the closing thread's client. No request may be under way."""
        while self._all:
            self._all.pop().close(client, call)
        self._local = threading.local()


class Region:
    """A region of system shared memory that a server knows."""

    def __init__(self, client: Any, call: dict[str, Any], size: int) -> None:
        self.name = f"shrinkserve-{uuid.uuid4().hex}"
        self.size = size
        self._handle = shared_memory.create_shared_memory_region(self.name, self.name, size, create_only=True)
        try:
            client.register_system_shared_memory(self.name, f"/{self.name}", size, **call)
        except BaseException:
            shared_memory.destroy_shared_memory_region(self._handle)
            raise

    def write(self, images: np.ndarray[Any, Any]) -> None:
        """Copy images to the region's start."""
        shared_memory.set_shared_memory_region(self._handle, [images])

    def close(self, client: Any, call: dict[str, Any]) -> None:
        """Have the server forget the region, and remove it."""
        with suppress(InferenceServerException, OSError):  # a server that is gone has forgotten it
            client.unregister_system_shared_memory(self.name, **call)
        shared_memory.destroy_shared_memory_region(self._handle)
