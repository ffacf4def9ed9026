"""Images handed to a server on the same machine through system shared memory instead of a socket."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException, shared_memory

from shrinkserve.errors import ConfigError

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Regions:
    """As many regions as there are requests under way at once; all are removed by `close`.

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
        self._free: list[Region] = []

    @contextmanager
    def holding(self, client: Any, call: dict[str, Any], images: np.ndarray[Any, Any]) -> Iterator[tuple[str, int]]:
        """Put images where the server reads them; gives the region's name and the number of bytes.

        Raises:
            InferenceServerException: the server does not take the region.
        """
        region = self._take(client, call, images.nbytes)
        try:
            region.write(images)
            yield region.name, images.nbytes
        except BaseException:
            region.close(client, call)  # it may be unknown to a server that started anew, or still be read by it
            raise
        self._free.append(region)

    def close(self, client: Any, call: dict[str, Any]) -> None:
        """Remove every region, through the closing thread's client. No request may be under way."""
        while self._free:
            self._free.pop().close(client, call)

    def _take(self, client: Any, call: dict[str, Any], size: int) -> Region:
        try:
            region = self._free.pop()
        except IndexError:
            return Region(client, call, size)
        if region.size >= size:
            return region
        region.close(client, call)
        return Region(client, call, size)


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
