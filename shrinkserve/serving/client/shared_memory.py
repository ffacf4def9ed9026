"""Images for a server on the same machine in system shared memory instead of a socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from tritonclient.utils import shared_memory

from shrinkserve.errors import RequestError
from shrinkserve.serving.client.operations import InferRequest, RegisterRegion, UnregisterRegion
from shrinkserve.serving.client.transport import Transport


class Regions:
    """Pool of shared-memory regions, one for each request at the same time; `close` removes them.

    The server must allow its shared-memory API to this client.

    Args:
        transport: sends the registrations.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._free: list[Region] = []

    @contextmanager
    def filled(self, request: InferRequest) -> Iterator[str]:
        """Copy the images of a request to a region and yield its name.

        Raises:
            RequestError: the server does not accept the region.
        """
        pixels = request.pixels
        region = self._take(pixels.nbytes)
        try:
            shared_memory.set_shared_memory_region(region.handle, [pixels])
            yield region.name
        except Exception:
            region.close()  # a restarted server may not know it, or a late one may still read it
            raise
        except BaseException:  # an interrupt does not wait for the server
            region.remove()
            raise
        self._free.append(region)

    def close(self) -> None:
        """Remove every region, and make the server forget them as long as it replies."""
        replies = True
        while self._free:
            region = self._free.pop()
            if replies:
                replies = region.close()
            else:
                region.remove()

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
