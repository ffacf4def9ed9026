"""The processes of a run. A single process is a group of one, so one code path serves both."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore, HashStore, Store

from shrinkserve.errors import ConfigError, ShrinkServeError
from shrinkserve.machine import cores_each

TIMEOUT = timedelta(minutes=30)
"""Time limit of a collective: longer than any evaluation takes on one rank more than on another."""

OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""Set to "1" so that workers restarted by torchrun rendezvous through a new store."""

STORE = "SHRINKSERVE_STORE"
"""Environment variable of `launch`: path prefix of the file through which the processes of one machine connect."""

SOCKETS = {"GLOO_SOCKET_IFNAME": "{}", "NCCL_SOCKET_IFNAME": "={}"}
"""Environment variables that name the network interface of gloo and NCCL ("=" asks NCCL for an exact match)."""

OPEN_PORTS = (
    "warning: training on several machines opens ports without authentication; "
    "let only the training nodes reach them (docs/training.md)"
)
"""Printed once at the start of a run on several machines."""

PEER_LOST = ("closed by peer", "reset by peer", "Broken pipe", "NCCL error", "Watchdog caught collective")
"""Parts of the messages of gloo and NCCL when another process has ended; they raise a plain RuntimeError."""


@dataclass(frozen=True)
class DistContext:
    """This process and its group.

    Attributes:
        rank: number of this process, from 0; rank 0 writes the files.
        world: number of processes.
        device: where this process computes.
        control: gloo group for values on the host, which never waits for a GPU.
    """

    rank: int
    world: int
    device: torch.device
    control: dist.ProcessGroup

    @property
    def first(self) -> bool:
        """True for the process that writes and prints."""
        return self.rank == 0

    @property
    def on_gpu(self) -> bool:
        """True if this process computes on a GPU."""
        return self.device.type == "cuda"

    @property
    def device_name(self) -> str:
        """Model of the GPU, or ``CPU``."""
        return torch.cuda.get_device_name(self.device) if self.on_gpu else "CPU"

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over all ranks. Collective."""
        total = values.to(self.device, copy=True)
        if self.world > 1:
            dist.all_reduce(total)
        return total

    def highest(self, value: int) -> int:
        """Return the largest value of all ranks. Collective."""
        if self.world == 1:
            return value
        values = torch.tensor([value])
        dist.all_reduce(values, dist.ReduceOp.MAX, group=self.control)
        return int(values)

    def agree(self, value: int) -> bool:
        """Return True if all ranks give the same value. Collective."""
        return self.highest(value) == -self.highest(-value)

    def gather(self, state: Tensor) -> list[Tensor]:
        """Return the tensors of all ranks (CPU, equal shapes) in the order of the ranks. Collective."""
        parts = [torch.empty_like(state) for _ in range(self.world)]
        dist.all_gather(parts, state, group=self.control)
        return parts

    def texts(self, text: str) -> list[str]:
        """Return the texts of all ranks in the order of the ranks. Collective."""
        mine = torch.frombuffer(bytearray(text.encode() + b"\0"), dtype=torch.uint8)  # a tensor that is never empty
        padded = torch.zeros(self.highest(len(mine)), dtype=torch.uint8)
        padded[: len(mine)] = mine
        return [bytes(part.tolist()).rstrip(b"\0").decode() for part in self.gather(padded)]

    def wait(self) -> None:
        """Return when all ranks have called it."""
        dist.barrier(group=self.control)


@contextmanager
def join(threads: int | None = None) -> Iterator[DistContext]:
    """Join the processes that torchrun has started, or form a group of one.

    Args:
        threads: CPU threads of torch. Default: an even share of the cores.

    Raises:
        ConfigError: more processes on this machine than GPUs, or a torchrun whose restarts would hang.
        ShrinkServeError: another process ended, or a loader process was killed.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if dist.is_initialized():
        hint = "wait for its end, or use another process"
        raise ShrinkServeError("this process has a group of torch.distributed, for example of another run", hint=hint)
    threads_before, hook_before = torch.get_num_threads(), sys.excepthook
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
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=TIMEOUT)
    try:
        yield DistContext(rank, world, device, dist.new_group(backend="gloo", timeout=TIMEOUT))
    except RuntimeError as exc:
        if (explained := _explain(exc, world)) is None:
            raise
        raise explained from exc
    finally:
        dist.destroy_process_group()
        torch.set_num_threads(threads_before)
        if world == 1:  # of several, the hook of torch names the rank that ends with an error
            sys.excepthook = hook_before


@contextmanager
def one_machine() -> Iterator[None]:
    """Restrict the sockets of gloo and NCCL to loopback, for processes that are started in the block."""
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    with set_environment({name: form.format(loopback) for name, form in SOCKETS.items()}):
        yield


@contextmanager
def set_environment(names: dict[str, str]) -> Iterator[None]:
    """Set environment variables, and restore them at the end of the block."""
    before = {name: os.environ.get(name) for name in names}
    os.environ |= names
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _explain(error: RuntimeError, world: int) -> ShrinkServeError | None:
    """Return the error for a lost process; None for any other RuntimeError."""
    text = str(error)
    if world > 1 and (isinstance(error, dist.DistError) or any(part in text for part in PEER_LOST)):
        return ShrinkServeError("another training process was lost", hint="give --resume to continue")
    if "DataLoader worker" in text:
        hint = "check memory and /dev/shm (containers: --shm-size), or lower data.workers; then give --resume"
        return ShrinkServeError(f"a loader process ended ({' '.join(text.split())[:200]})", hint=hint)
    if isinstance(error, torch.OutOfMemoryError):
        hint = "lower train.batch_size (and raise train.accumulate), or set train.precision=bfloat16"
        return ShrinkServeError("the GPU has too little memory", hint=hint)
    return None


def _device(local_rank: int, threads: int | None) -> torch.device:
    if not torch.cuda.is_available():
        # torchrun gives each process one OpenMP thread; share the cores of this machine instead.
        torch.set_num_threads(threads or cores_each(int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            "more processes than GPUs on this machine",
            expected=f"at most {torch.cuda.device_count()}",
            found=os.environ.get("LOCAL_WORLD_SIZE"),
            hint="start fewer processes per machine",
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _refuse_stale_store() -> None:
    """Refuse restarts that would hang, before one is needed.

    By default torchrun keeps one store for all its restarts. Restarted processes then look for each other at the
    addresses that the lost ones left there (pytorch/pytorch issue 135712).
    """
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if shared and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")):
        raise ConfigError(
            "torchrun --max-restarts: restarted processes would wait for lost ones",
            hint=f"export {OWN_STORE}=1 before torchrun",
        )


def _die_with_parent() -> None:
    """Ask Linux to end this process when the launcher dies, because a killed launcher cannot do it."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
