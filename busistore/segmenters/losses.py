"""What training makes small: cross-entropy of pixels and soft Dice of a batch.

This module imports torch as it loads; import it inside functions.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

SMOOTH = 1e-5  # keeps Dice defined where neither mask has a pixel


def soft_dice_loss(probs: Tensor, target: Tensor, smooth: float = SMOOTH) -> Tensor:
    """1 - (2 sum pt + smooth) / (sum pp + sum tt + smooth), with sums over the WHOLE batch.

    A large lesion so counts for more than a small one, and an image without a lesion only by its false positives.

    Args:
        probs, target: of the same shape, from 0 to 1.

    Source: Milletari et al. (2016), 3DV, section 3, with sums over the batch.
    """
    overlap = (probs * target).sum()
    return 1 - (2 * overlap + smooth) / (probs.square().sum() + target.square().sum() + smooth)


def click_loss(
    logits: Tensor,
    target: Tensor,
    bce_weight: float = 0.2,
    dice_weight: float = 0.8,
    pos_weight: float = 2.0,
    smooth: float = SMOOTH,
) -> Tensor:
    """The published loss of BUSSAM: `bce_weight` times the mean cross-entropy, and `dice_weight` times soft Dice.

    Args:
        logits: (B, 1, H, W) of any floating type; the loss is float32 whatever it is.
        target: the same shape, 1 in the lesion and 0 outside, bool or a number.
        pos_weight: how much more a pixel of a lesion counts in the cross-entropy.

    Raises:
        ValueError: the shapes differ, which soft Dice alone would broadcast.

    Source: Tu et al. (2024), arXiv 2404.14837, as released: on logits of 128 x 128 pixels, a quarter of the image.
    """
    logits, target = logits.float(), target.float()
    if logits.shape != target.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and target {tuple(target.shape)}")
    bce = binary_cross_entropy_with_logits(logits, target, pos_weight=logits.new_tensor(pos_weight))
    return bce_weight * bce + dice_weight * soft_dice_loss(logits.sigmoid(), target, smooth)
