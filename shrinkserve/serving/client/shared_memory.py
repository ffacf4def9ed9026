"""Images for a server on the same machine in system shared memory instead of a socket."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar, cast
from uuid import uuid4

from tritonclient.utils import shared_memory

from shrinkserve.errors import RequestError
from shrinkserve.serving.client.operations import InferRequest, Operation, RegisterRegion, UnregisterRegion
from shrinkserve.serving.client.transport import Transport

T = TypeVar("T")


class SharedMemoryTransport:
    """Transport that passes images in shared memory: a pool of regions, one for each request at the same time.

    The server must allow its shared-memory API to this client.

    Args:
        transport: sends the requests without the images. It is closed with this one.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._free: list[Region] = []

    def send(self, operation: Operation[T]) -> T:
        if not isinstance(operation, InferRequest):
            return self._transport.send(operation)
        pixels = operation.pixels
        region = self._take(pixels.nbytes)
        try:
            shared_memory.set_shared_memory_region(region.handle, [pixels])
            result = self._transport.send(replace(operation, region=region.name))
        except Exception:
            region.close()  # a restarted server may not know it, or a late one may still read it
            raise
        except BaseException:  # an interrupt does not wait for the server
            region.remove()
            raise
        self._free.append(region)
        return cast("T", result)

    def close(self) -> None:
        replies = True  # after one request without a reply, the other regions are removed without a request
        while self._free:
            region = self._free.pop()
            if replies:
                replies = region.close()
            else:
                region.remove()
        self._transport.close()

    def _take(self, size: int) -> Region:
        try:
            region = self._free.pop()
        except IndexError:
            return Region(self._transport, size)
        if region.size >= size:
            return region
        region.close()
        return Region(self._transport, size)


class Region:
    """A region of system shared memory that a server knows."""

    def __init__(self, transport: Transport, size: int) -> None:
        self._transport = transport
        self.name, self.size = f"shrinkserve-{uuid4().hex}", size
        self.handle = shared_memory.create_shared_memory_region(self.name, self.name, size, create_only=True)
        try:
            transport.send(RegisterRegion(self.name, size))
        except BaseException:
            shared_memory.destroy_shared_memory_region(self.handle)
            raise

    def close(self) -> bool:
        """Make the server forget the region, and remove it; return True if the server replied."""
        try:
            self._transport.send(UnregisterRegion(self.name))
        except RequestError:  # a server that is gone has forgotten it
            return False
        else:
            return True
        finally:
            self.remove()

    def remove(self) -> None:
        """Remove the region without a request."""
        shared_memory.destroy_shared_memory_region(self.handle)
