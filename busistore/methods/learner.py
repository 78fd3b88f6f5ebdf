"""A network with a linear head in training: its optimiser, its learning rates, and which epoch counts.

This module imports torch as it loads; import it inside functions.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from busistore.checkpoint import Checkpoint
from busistore.methods.dropout import generator

if TYPE_CHECKING:
    from busistore.methods.tuning import TowerTuning


@dataclass
class Progress:
    """How far a training is; `best_epoch` is the one that counts, `curves` are (epoch, name, value).

    Seconds, of the clock and of the CPU, are summed over attempts.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_score: float | None = None
    cpu_seconds: float = 0.0
    seconds: float = 0.0
    curves: list[tuple[int, str, float]] = field(default_factory=list)


class Classifier(nn.Module):
    """A linear head on the L2-normalised vectors of a network; it starts uniform within 1 / sqrt(D)."""

    def __init__(self, network: nn.Module, dim: int, n_classes: int, init_seed: int):
        super().__init__()
        self.network, self.head = network, nn.Linear(dim, n_classes, device=next(network.parameters()).device)
        rng = generator(init_seed, 0)
        with torch.no_grad():
            for parameter in self.head.parameters():
                parameter.copy_(torch.from_numpy(rng.uniform(-1, 1, tuple(parameter.shape)) / dim**0.5))

    def forward(self, states: Tensor) -> Tensor:
        """(N, T, W) to (N, C) logits."""
        return self.head(F.normalize(self.network(states)))


class Learner:
    """A classifier with its optimiser, and the best that it has been."""

    def __init__(self, model: Classifier, tuning: TowerTuning):
        self.model, self.tuning, self.progress = model, tuning, Progress()
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        head, tower = list(model.head.parameters()), [p for p in model.network.parameters() if p.requires_grad]
        decays = ((head, tuning.head_decay), (tower, tuning.adapter_decay))
        groups = [{"params": parameters, "weight_decay": decay} for parameters, decay in decays]
        self.optimiser = torch.optim.AdamW(groups, betas=(tuning.beta_1, tuning.beta_2))
        self.best = self._copy()

    def set_rates(self, epoch: int) -> float:
        """Learning rates of an epoch; the one of the tower is returned."""
        share = (1 + math.cos(math.pi * (epoch - 1) / self.tuning.epochs)) / 2
        for group, top in zip(self.optimiser.param_groups, (self.tuning.head_rate, self.tuning.adapter_rate)):
            group["lr"] = self.tuning.least_rate + (top - self.tuning.least_rate) * share
        return self.optimiser.param_groups[1]["lr"]

    def ended(self, epoch: int, score: float | None) -> None:
        """Tell that an epoch is over, with its macro-F1 on validation if there is a validation part."""
        progress, progress.epoch = self.progress, epoch
        if score is None or progress.best_score is None or score > progress.best_score:
            progress.best_epoch, progress.best_score, self.best = epoch, score, self._copy()

    def is_over(self) -> bool:
        """Whether all epochs are run, or too many without a better one."""
        progress = self.progress
        waited = progress.epoch - progress.best_epoch
        return progress.epoch >= self.tuning.epochs or waited >= self.tuning.patience

    def take_best(self) -> None:
        """What is trained becomes what it was at the end of the epoch that counts."""
        with torch.no_grad():
            for name, tensor in self.best.items():
                self.trained[name].copy_(tensor)

    def state(self) -> Checkpoint:
        """All that a fresh learner of the same making needs to go on."""
        tensors = {f"now.{name}": p.detach().contiguous() for name, p in self.trained.items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        moments = self.optimiser.state_dict()["state"]
        tensors |= {f"optimiser.{k}.{name}": t for k, own in moments.items() for name, t in own.items()}
        return Checkpoint(tensors, dataclasses.asdict(self.progress))

    def resume(self, found: Checkpoint) -> None:
        """Go on from `state` of another."""
        now, best, moments = {}, {}, {}
        for name, tensor in found.tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimiser":
                number, _, moment = rest.partition(".")
                moments.setdefault(int(number), {})[moment] = tensor
            else:
                {"now": now, "best": best}[kind][rest] = tensor.to(self.trained[rest].device)
        self.best = now
        self.take_best()
        self.best = best
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": moments})
        curves = [(epoch, name, value) for epoch, name, value in found.story["curves"]]
        self.progress = Progress(**found.story | {"curves": curves})

    def _copy(self) -> dict[str, Tensor]:
        return {name: p.detach().clone(memory_format=torch.contiguous_format) for name, p in self.trained.items()}
