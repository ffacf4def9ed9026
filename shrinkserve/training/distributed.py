"""The processes of a run: one or many, the same code path.

A single process is a group of one, so that nothing in the loop asks how many there are.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore, HashStore, Store

from shrinkserve.errors import ConfigError, ShrinkServeError
from shrinkserve.machine import cores_each

SILENCE = timedelta(minutes=30)
"""How long a rank waits for another one: longer than any evaluation, shorter than a queue's patience."""

OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""Environment variable of torchrun: with "1" processes that are started again meet in a store of their own."""

STORE = "SHRINKSERVE_STORE"
"""Environment variable of `launch`: path prefix of the file through which the processes of one machine connect."""

SOCKETS = {"GLOO_SOCKET_IFNAME": "{}", "NCCL_SOCKET_IFNAME": "={}"}
"""Environment variables that name the network interface of gloo and NCCL ("=" asks NCCL for an exact match)."""

OPEN_PORTS = (
    "warning: training on several machines opens ports without authentication; "
    "let only the training nodes reach them (docs/training.md)"
)
"""Printed once at the start of a run on several machines."""


@dataclass(frozen=True)
class DistContext:
    """This process among those of the run.

    Attributes:
        rank: counts from 0; rank 0 writes the files.
        world: number of processes.
        device: where this process computes.
        control: a group for what the host decides, over gloo, so that it never waits for a GPU's queue.
    """

    rank: int
    world: int
    device: torch.device
    control: dist.ProcessGroup

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum over all ranks; every rank must call it."""
        total = values.to(self.device, copy=True)
        dist.all_reduce(total)
        return total

    def highest(self, value: int) -> int:
        """The largest of the ranks' values; every rank must call it."""
        values = torch.tensor([value])
        dist.all_reduce(values, dist.ReduceOp.MAX, group=self.control)
        return int(values)

    def gather(self, state: Tensor) -> list[Tensor]:
        """Every rank's tensor (of one shape, on the CPU), in the order of the ranks."""
        parts = [torch.empty_like(state) for _ in range(self.world)]
        dist.all_gather(parts, state, group=self.control)
        return parts

    def texts(self, text: str) -> list[str]:
        """Every rank's text, in the order of the ranks; every rank must call it."""
        mine = torch.frombuffer(bytearray(text.encode() + b"\0"), dtype=torch.uint8)  # a tensor that is never empty
        padded = torch.zeros(self.highest(len(mine)), dtype=torch.uint8)
        padded[: len(mine)] = mine
        return [bytes(part.tolist()).rstrip(b"\0").decode() for part in self.gather(padded)]

    def wait(self) -> None:
        """Return when every rank has come here."""
        dist.barrier(group=self.control)


@contextmanager
def join(threads: int | None = None) -> Iterator[DistContext]:
    """Join the processes that torchrun started, or be a group of one.

    Args:
        threads: of torch on a CPU; None for an even share of the cores.

    Raises:
        ConfigError: more processes on this machine than GPUs, where there are GPUs; or a torchrun whose restarts hang.
        ShrinkServeError: another process ended in the middle of an exchange.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    threads_before = torch.get_num_threads()
    device = _device(int(os.environ.get("LOCAL_RANK", "0")), threads)
    store: Store | None = None
    if "MASTER_ADDR" in os.environ and world > 1:
        _refuse_stale_store()
        _die_with_parent()
        if prefix := os.environ.get(STORE):  # a new file after each restart: the old one has the lost ranks' addresses
            store = FileStore(f"{prefix}-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", world)
        if rank == 0 and int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1:
            print(OPEN_PORTS, file=sys.stderr)
    else:
        rank, world, store = 0, 1, HashStore()
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=SILENCE)
    try:
        yield DistContext(rank, world, device, dist.new_group(backend="gloo", timeout=SILENCE))
    except RuntimeError as exc:
        if world > 1 and _peer_lost(exc):
            raise ShrinkServeError("another training process was lost", hint="give --resume to go on") from exc
        raise
    finally:
        dist.destroy_process_group()
        torch.set_num_threads(threads_before)


@contextmanager
def one_machine() -> Iterator[None]:
    """Restrict the sockets of gloo and NCCL to loopback, for processes that are started in the block."""
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    before = {name: os.environ.get(name) for name in SOCKETS}
    os.environ |= {name: form.format(loopback) for name, form in SOCKETS.items()}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _peer_lost(error: RuntimeError) -> bool:
    """Whether an exchange ended because its other side did; gloo says so in words only."""
    words = ("closed by peer", "reset by peer", "Broken pipe")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


def _device(local_rank: int, threads: int | None) -> torch.device:
    if not torch.cuda.is_available():
        # torchrun gives each process one OpenMP thread; the cores of this machine are shared evenly instead.
        torch.set_num_threads(threads or cores_each(int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            "more processes than GPUs on this machine",
            expected=f"at most {torch.cuda.device_count()}",
            found=os.environ.get("LOCAL_WORLD_SIZE"),
            hint="start fewer processes a machine",
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _refuse_stale_store() -> None:
    """Refuse restarts that would hang, before one is needed.

    torchrun by default keeps one store for all its restarts, and the processes that are started again look for one
    another at the addresses that the lost ones left there (pytorch/pytorch issue 135712).
    """
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if shared and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")):
        raise ConfigError(
            "torchrun --max-restarts: processes that are started again would wait for lost ones",
            hint=f"export {OWN_STORE}=1 before torchrun",
        )


def _die_with_parent() -> None:
    """Have Linux end this process when the launcher dies, which a killed launcher cannot do itself."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


class StopRequest:
    """Notes SIGTERM and SIGINT, so that the loop can end at a step; a second signal ends the process at once.

    Attributes:
        signal: the number of the signal that came, or 0.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL)
