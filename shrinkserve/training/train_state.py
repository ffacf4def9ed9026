"""The network, what changes it, and one update."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from shrinkserve.arch.module import compile_spec
from shrinkserve.arch.spec import Spec
from shrinkserve.config import Recipe
from shrinkserve.data import TrainBatch
from shrinkserve.errors import ConfigError
from shrinkserve.runtimes.checkpoint import load_weights, normalise
from shrinkserve.training.checkpoints import TrainingSnapshot
from shrinkserve.training.distributed import DistContext
from shrinkserve.training.ema import Ema
from shrinkserve.training.metrics import Running
from shrinkserve.training.optim import build_optimizer

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TrainState:
    """Everything that an update reads or changes on one rank.

    Args:
        spec: the network.
        recipe: the run.
        ranks: the processes of the run.

    Raises:
        ConfigError: batch norms over many processes without GPUs.

    Attributes:
        network: the weights that are trained, without wrappers.
        ema: their average.
        running: loss and accuracy since the last report.
    """

    def __init__(self, spec: Spec, recipe: Recipe, ranks: DistContext) -> None:
        self._recipe, self._ranks = recipe, ranks
        torch.manual_seed(recipe.train.seed)  # the same first weights on every rank ...
        network: nn.Module = compile_spec(spec)
        if recipe.train.sync_batch_norm and ranks.world > 1:
            if ranks.device.type != "cuda":
                raise ConfigError("train.sync_batch_norm: torch has it for GPUs only", hint="leave the key out")
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        self._layout = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
        self.network = network.to(ranks.device, memory_format=self._layout).train()  # type: ignore[call-overload]
        self.ema = Ema(self.network, recipe.train.ema_decay, buffers=recipe.train.ema_buffers)
        self.running = Running(ranks.device)
        self._optimizer = build_optimizer(self.network, recipe.optimizer)
        self._precision = PRECISIONS[recipe.train.precision]
        # float16 gradients underflow, so the loss is scaled up; bfloat16 has float32's range.
        self._scaler = torch.amp.GradScaler(ranks.device.type, enabled=self._precision is torch.float16)
        # Rank 0's running statistics reach all ranks before each forward pass, as one network is shipped, not many.
        self._parallel = DistributedDataParallel(
            self.network,
            device_ids=[ranks.device.index] if ranks.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )
        self._forward = torch.compile(self._parallel) if recipe.train.compile else self._parallel
        if ranks.world > 2:
            self._rehearse()
        torch.manual_seed(recipe.train.seed + 1 + ranks.rank)  # ... and other random numbers during training

    def _rehearse(self) -> None:
        """One pass whose gradients are thrown away.

        DDP arranges its buckets anew after the first pass, and from three ranks on the order in which gradients are
        summed depends on them. So the first pass must not be one that a resumed run would not have.
        """
        kept = [buffer.clone() for buffer in self.network.buffers()]
        size = self._recipe.model.input_size
        images = torch.zeros(self._recipe.train.batch_size, 3, size, size, device=self._ranks.device)
        self._logits(images.contiguous(memory_format=self._layout)).sum().backward()  # type: ignore[no-untyped-call]
        self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, value in zip(self.network.buffers(), kept, strict=True):
                buffer.copy_(value)

    def update(self, batches: Sequence[TrainBatch], step: int, rate: float) -> None:
        """One update of the weights from the batches that are accumulated for it.

        Args:
            batches: this rank's images; the gradient is the mean over them and over all ranks.
            step: counts from 1.
            rate: learning rate.
        """
        for number, batch in enumerate(batches, start=1):
            # Only the last backward pass exchanges gradients; those before it are added up on each rank.
            with nullcontext() if number == len(batches) else self.alone():
                images, labels = self.place(batch)
                self.backward(self.loss(images, labels, step) / len(batches))
        self.apply(rate)

    def loss(self, images: Tensor, labels: Tensor, step: int) -> Tensor:
        """The batch's mean loss, which is counted in `running`."""
        logits = self._logits(images)
        loss = cross_entropy(logits, labels, label_smoothing=self._recipe.train.label_smoothing)
        self.running.add(step, loss.detach(), logits.detach(), labels)
        return loss

    def _logits(self, images: Tensor) -> Tensor:
        """Float32 logits, computed in the recipe's precision."""
        with torch.autocast(images.device.type, self._precision, enabled=self._precision is not torch.float32):
            return self._forward(images).float()  # type: ignore[no-any-return]

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss; outside of `alone` the mean over the ranks."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def alone(self) -> AbstractContextManager[None]:
        """Within it, forward and backward passes leave the gradients of this rank as they are."""
        return self._parallel.no_sync()

    def apply(self, rate: float) -> None:
        """Change the weights and their average by the gradients, which are used up."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        self.ema.update()

    def place(self, batch: TrainBatch) -> tuple[Tensor, Tensor]:
        """Normalised images [N, 3, S, S] and labels [N] on this rank's device."""
        device = self._ranks.device
        images, labels = (torch.as_tensor(part).to(device, non_blocking=True) for part in (batch.images, batch.labels))
        return normalise(images, self._recipe.preprocess).contiguous(memory_format=self._layout), labels

    def averaged(self) -> nn.Module:
        """The EMA network, the same on every rank; every rank must call it."""
        for buffer in self.network.buffers():
            torch.distributed.broadcast(buffer, 0)  # each rank's own last step has moved them apart
        return self.ema.settle()

    def snapshot(self) -> TrainingSnapshot:
        """All that the next update depends on; every rank must call it."""
        tensors = {f"model.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self.ema.network.state_dict().items()}
        names = {parameter: name for name, parameter in self.network.named_parameters()}
        for parameter, values in self._optimizer.state.items():
            tensors |= {f"optimizer.{key}.{names[parameter]}": torch.as_tensor(v) for key, v in values.items()}
        for rank, state in enumerate(self._ranks.gather(_random_state(self._ranks.device))):
            tensors[f"random.{rank}"] = state
        return TrainingSnapshot(tensors, {"ema_updates": self.ema.updates, "scaler": self._scaler.state_dict()})

    def restore(self, snapshot: TrainingSnapshot, where: str) -> None:
        """Go on from what `snapshot` returned.

        Raises:
            ArtifactError: it is of another network.
        """
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optimizer": {}, "random": {}}
        for name, value in snapshot.tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        load_weights(self.network, parts["model"], where)
        load_weights(self.ema.network, parts["ema"], where)
        parameters = dict(self.network.named_parameters())
        for name, value in parts["optimizer"].items():
            key, _, of = name.partition(".")
            like = parameters[of]
            # Per-weight state lies in memory as its weight does; a counter such as AdamW's stays on the CPU.
            self._optimizer.state[like][key] = torch.empty_like(like).copy_(value) if value.dim() else value
        self.ema.updates = snapshot.state["ema_updates"]
        self._scaler.load_state_dict(snapshot.state["scaler"])
        if (state := parts["random"].get(str(self._ranks.rank))) is not None:
            _set_random_state(state, self._ranks.device)


def _random_state(device: torch.device) -> Tensor:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


def _set_random_state(state: Tensor, device: torch.device) -> None:
    size = len(torch.get_rng_state())
    torch.set_rng_state(state[:size])
    if device.type == "cuda" and len(state) > size:
        torch.cuda.set_rng_state(state[size:], device)


def environment(ranks: DistContext) -> dict[str, Any]:
    """Where this run computes."""
    device = ranks.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {"device": name, "processes": ranks.world, "threads": torch.get_num_threads()}
