"""The network, its optimiser and average, and one update."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from shrinkserve.arch.code import Description, head_prefixes
from shrinkserve.config import Recipe
from shrinkserve.data import TrainBatch
from shrinkserve.errors import DataError
from shrinkserve.runtimes.checkpoint import normalise
from shrinkserve.training.processes.distributed import DistContext
from shrinkserve.training.update.cuda_graph import GraphedPass, captures
from shrinkserve.training.update.ema import Ema
from shrinkserve.training.update.freezing import freeze
from shrinkserve.training.update.metrics import RunningFigures
from shrinkserve.training.update.mixing import mix
from shrinkserve.training.update.network import build_network, least_batch, precision_of
from shrinkserve.training.update.optim import build_optimizer
from shrinkserve.training.update.prefetch import DeviceBatch, transferred
from shrinkserve.training.update.teacher import distillation_loss


class TrainState:
    """Everything that an update reads or changes on one rank.

    Args:
        spec: the network.
        recipe: the run.
        ranks: the processes of the run.
        class_weights: of the loss; None for equal ones.

    Raises:
        ConfigError: the recipe does not fit the network or the processes.

    Attributes:
        network: the trained weights, without wrappers.
        ema: their average.
        optimizer: as the recipe names it.
        scaler: of the loss; enabled for float16.
        running: loss and accuracy since the last report.
        backbone_factor: on the learning rate of all layers but the classifier.
    """

    def __init__(
        self, spec: Description, recipe: Recipe, ranks: DistContext, *, class_weights: Sequence[float] | None = None
    ) -> None:
        self._recipe, self._ranks = recipe, ranks
        self.backbone_factor = recipe.optimizer.backbone_lr
        self._class_weights = None if class_weights is None else torch.tensor(class_weights, device=ranks.device)
        self._smallest_batch = least_batch(spec, recipe)
        torch.manual_seed(recipe.train.seed)  # the same initial weights on every rank
        network = build_network(spec, recipe, ranks)
        self._layout = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
        self.network = network.to(ranks.device, memory_format=self._layout).train()  # type: ignore[call-overload]
        freeze(self.network, recipe.train.freeze)
        decay = recipe.train.ema_decay
        self.ema = Ema(self.network, 0.999 if decay == "auto" else decay, buffers=recipe.train.ema_buffers)
        self.running = RunningFigures(ranks.device)
        self.optimizer = build_optimizer(self.network, recipe.optimizer, head_prefixes(spec, self.network))
        self._precision = precision_of(recipe, ranks.device)
        # float16 gradients underflow, so the loss is scaled up; bfloat16 has float32's range.
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=self._precision is torch.float16)
        self._parallel = self._distribute() if ranks.world > 1 else None
        self._forward: nn.Module = self._parallel or self.network
        if mode := recipe.train.compile:
            self._forward = torch.compile(self._forward, mode=None if mode is True else mode)  # type: ignore[assignment]
        captured = captures(recipe, ranks, spec)
        self._graphed = GraphedPass(self._gradients, self.network, recipe.train.batch_size) if captured else None
        if ranks.world > 2:
            self._rehearse()
        torch.manual_seed(recipe.train.seed + 1 + ranks.rank)  # different random numbers on each rank from here on

    def _distribute(self) -> DistributedDataParallel:
        # Buffers are not exchanged in an update: `averaged` broadcasts those of rank 0 before they are used.
        names = inspect.signature(DistributedDataParallel).parameters  # torch 2.13 has renamed the option
        no_buffers = {"forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers": False}
        return DistributedDataParallel(
            self.network,
            device_ids=[self._ranks.device.index] if self._ranks.on_gpu else None,
            gradient_as_bucket_view=True,
            static_graph=self._ranks.on_gpu and self._recipe.train.accumulate == 1,
            **no_buffers,  # type: ignore[arg-type]
        )

    def _rehearse(self) -> None:
        """Run one pass and discard its gradients.

        DDP rearranges its buckets after the first pass. From three ranks on the order in which gradients are summed
        depends on them, and a resumed run must not differ from an unbroken one.
        """
        kept = [buffer.clone() for buffer in self.network.buffers()]
        size = self._recipe.model.input_size
        images = torch.zeros(self._recipe.train.batch_size, 3, size, size, device=self._ranks.device)
        self._logits(images.contiguous(memory_format=self._layout)).sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, value in zip(self.network.buffers(), kept, strict=True):
                buffer.copy_(value)

    def update(self, batches: Sequence[TrainBatch | DeviceBatch], step: int, rate: float) -> None:
        """Update the weights once.

        Args:
            batches: images of this rank. The gradient is the mean over them and over all ranks.
            step: number of the update, from 1.
            rate: learning rate.

        Raises:
            DataError: bad images leave a batch that is too small for batch norm.
        """
        for number, batch in enumerate(batches, start=1):
            placed = self.place(batch)
            images, labels, teacher = placed.images, placed.labels, placed.teacher
            if self._graphed is not None and teacher is None and self._graphed.fits(images):
                self.running.add(step, *self._graphed(images, labels), labels)
                continue
            if self._graphed is not None:  # a smaller batch; the captured gradients stay where they are
                self.optimizer.zero_grad(set_to_none=False)
            # Only the last backward pass exchanges gradients; the earlier ones accumulate on each rank.
            with nullcontext() if number == len(batches) else self.alone():
                loss, logits = self.loss(images, labels, teacher)
                self.backward(loss / len(batches))
            self.running.add(step, loss.detach(), logits.detach(), labels)
        self.apply(rate)

    def loss(self, images: Tensor, labels: Tensor, teacher: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mean loss and logits of a batch.

        Args:
            images: uint8 [N, S, S, 3] on this rank's device.
            labels: int64 [N] there.
            teacher: logits for the same images, or None.
        """
        pixels = self.normalised(images)
        if (mixed := mix(pixels, labels, self._recipe.augment)) is None:
            logits = self._logits(pixels)
            return self._compare(logits, labels, teacher), logits
        logits = self._logits(mixed.images)
        first = self._compare(logits, mixed.labels, teacher)
        second = self._compare(logits, mixed.others, None if teacher is None else teacher.flip(0))
        return mixed.share * first + (1 - mixed.share) * second, logits

    def _compare(self, logits: Tensor, labels: Tensor, teacher: Tensor | None) -> Tensor:
        loss, distill = self._cross_entropy(logits, labels), self._recipe.distill
        if teacher is None:
            return loss
        soft = distillation_loss(logits, teacher, distill.temperature)
        return (1 - distill.weight) * loss + distill.weight * soft

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing = self._recipe.train.label_smoothing
        return cross_entropy(logits, labels, self._class_weights, label_smoothing=smoothing)

    def _gradients(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        loss, logits = self.loss(images, labels)
        self.backward(loss)
        return loss, logits

    def _logits(self, images: Tensor) -> Tensor:
        """Return float32 logits, computed in the recipe's precision."""
        with torch.autocast(images.device.type, self._precision, enabled=self._precision is not torch.float32):
            return self._forward(images).float()  # type: ignore[no-any-return]

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss; outside of `alone` the mean over the ranks."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def alone(self) -> AbstractContextManager[None]:
        """Return a context in which gradients are not exchanged."""
        return nullcontext() if self._parallel is None else self._parallel.no_sync()

    def apply(self, rate: float) -> None:
        """Change weights and average by the gradients, and clear the gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * (1.0 if group["head"] else self.backbone_factor)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self._graphed is None:
            self.optimizer.zero_grad(set_to_none=True)
        self.ema.update()

    def place(self, batch: TrainBatch | DeviceBatch) -> DeviceBatch:
        """Return a batch on this rank's device.

        Raises:
            DataError: too few images for batch norm.
        """
        if len(batch) < self._smallest_batch:
            raise DataError(
                "bad images leave too few good ones in a batch",
                expected=f"at least {self._smallest_batch}",
                found=len(batch),
                hint="exclude bad images with `shrinkserve data verify --quarantine`",
            )
        return batch if isinstance(batch, DeviceBatch) else transferred(batch, self._ranks.device)

    def normalised(self, images: Tensor) -> Tensor:
        """Return the input of the network, float32 [N, 3, S, S]."""
        return normalise(images, self._recipe.preprocess).contiguous(memory_format=self._layout)

    def averaged(self) -> nn.Module:
        """Return the EMA network, the same on every rank. Collective."""
        network = self.ema.with_statistics()
        if self._ranks.world > 1:
            for buffer in network.buffers():
                torch.distributed.broadcast(buffer, 0)  # running statistics differ between ranks
        return network

    def all_finite(self) -> bool:
        """Return True if all trained and averaged weights of rank 0 are finite. Collective."""
        tensors = [*self.network.state_dict().values(), *self.ema.network.state_dict().values()]
        finite = torch.stack([tensor.isfinite().all() for tensor in tensors]).all()
        return not self._ranks.highest(int(not finite) if self._ranks.first else 0)
