"""What enters the open blocks of a trainable tower, as arrays, for callers that keep it or hand it on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from busistore.models.trainable import TrainableViT

BATCH = 16  # as the encoder's own, so that states kept and states computed have the same bits where batches agree


def states(network: TrainableViT, squares: np.ndarray) -> np.ndarray:
    """(N, S, S) uint8 grey pictures to (N, T, W) float32: what enters block `network.first`."""
    import torch

    made, device = np.empty((len(squares), *shape(network)), np.float32), next(network.parameters()).device
    for k in range(0, len(squares), BATCH):
        batch = torch.from_numpy(np.ascontiguousarray(squares[k : k + BATCH])).to(device)
        made[k : k + BATCH] = network.states(batch).cpu().numpy()
    return made


def shape(network: TrainableViT) -> tuple[int, int]:
    """(T, W): tokens of one picture and their width."""
    return network.n_tokens, network.width


def use_threads(n: int) -> None:
    """Compute in no more than `n` threads from now on: this process shares the cores with others."""
    import torch

    torch.set_num_threads(n)
