"""Snapshots of the training state: everything that the next update depends on."""

from __future__ import annotations

import torch
from torch import Tensor

from shrinkserve.config import Recipe
from shrinkserve.errors import ArtifactError, ConfigError
from shrinkserve.training.processes.distributed import DistContext
from shrinkserve.training.update.optim import state_names
from shrinkserve.training.update.train_state import TrainState

COUNTER = ".num_batches_tracked"
OWNERS = ("model", "ema", "optimizer", "random", "figures")


def take(state: TrainState, ranks: DistContext) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint. Collective.

    Names begin with ``model.``, ``ema.``, ``optimizer.KEY.``, ``random.RANK`` or ``figures.``.
    """
    tensors = {f"model.{name}": value for name, value in state.network.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in state.ema.network.state_dict().items()}
    names = {parameter: name for name, parameter in state.network.named_parameters()}
    for parameter, values in state.optimizer.state.items():
        tensors |= {f"optimizer.{key}.{names[parameter]}": torch.as_tensor(v) for key, v in values.items()}
    for rank, random in enumerate(ranks.gather(_random_state(ranks.device))):
        tensors[f"random.{rank}"] = random
    tensors["figures.sums"] = ranks.total(state.running.sums)
    return tensors


@torch.no_grad()
def restore(state: TrainState, tensors: dict[str, Tensor], ranks: DistContext) -> None:
    """Restore what `take` returned.

    Args:
        state: its network and optimiser fit the tensors, see `check`.
        tensors: of a checkpoint.
        ranks: the processes of the run.
    """
    parts = by_owner(tensors)
    # Not load_state_dict: it adds the counters of batch norms, which the networks do not have.
    for network, values in ((state.network, parts["model"]), (state.ema.network, parts["ema"])):
        for name, value in network.state_dict().items():
            value.copy_(values[name])
    parameters = dict(state.network.named_parameters())
    for name, value in parts["optimizer"].items():
        key, _, of = name.partition(".")
        like = parameters[of]
        # State per weight is laid out in memory as its weight is; a counter such as AdamW's is a scalar.
        found = torch.empty_like(like).copy_(value) if value.dim() else value.clone()
        state.optimizer.state[like][key] = found.to(like.device) if like.is_cuda else found
    if (sums := parts["figures"].get("sums")) is not None and ranks.first:  # sums over all ranks: count them once
        state.running.sums.copy_(sums)
    if (random := parts["random"].get(str(ranks.rank))) is not None:
        _set_random_state(random, ranks.device)


def check(tensors: dict[str, Tensor], state: TrainState, recipe: Recipe, where: str) -> None:
    """Check that a checkpoint fits a recipe, without changing anything.

    Raises:
        ConfigError: the weights or the optimiser's state do not fit; lists the first differences.
    """
    parts = by_owner(tensors)
    expected = {name: tuple(value.shape) for name, value in state.network.state_dict().items()}
    for owner in ("model", "ema"):
        found = {name: tuple(value.shape) for name, value in parts[owner].items()}
        differences = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        if differences:
            first = differences[0]
            raise ConfigError(
                f"{where}: the recipe describes another network ({len(differences)} tensors differ)",
                expected=f"{first} {found.get(first, 'absent')}",
                found=expected.get(first, "absent"),
                hint="keep the model section, or start a new run in another --out",
            )
    kept = {name.partition(".")[0] for name in parts["optimizer"]}
    wanted = state_names(recipe.optimizer)
    if kept and not wanted <= kept:
        raise ConfigError(
            f"{where}: the optimiser's state does not fit optimizer.name={recipe.optimizer.name}",
            expected=", ".join(sorted(wanted)),
            found=", ".join(sorted(kept)),
            hint="keep optimizer.name, or start a new run in another --out",
        )


def by_owner(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors by owner. Counters of batch norms, which older versions wrote, are left out."""
    parts: dict[str, dict[str, Tensor]] = {owner: {} for owner in OWNERS}
    for name, value in tensors.items():
        owner, _, rest = name.partition(".")
        if not name.endswith(COUNTER):
            parts.setdefault(owner, {})[rest] = value
    return parts


def load_scaler(state: TrainState, saved: dict[str, int | float], where: str) -> None:
    """Restore the loss scaler; a checkpoint of another precision has none."""
    if saved and state.scaler.is_enabled():
        try:
            state.scaler.load_state_dict(saved)
        except (RuntimeError, KeyError) as exc:
            raise ArtifactError(f"{where}: not the state of a loss scaler ({exc})") from exc


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
