"""The number that the release of BUSSAM calls a Hausdorff distance, to compare with published tables and for no more.

It is no distance between outlines: a mask against itself scores about 9, and an empty prediction scores best of all.
"""

from __future__ import annotations

import numpy as np

from busistore.metrics.overlap import check_masks

SIDE_PX = 256  # the release compares masks at this size only, whatever their aspect


def hd_bussam_compat(pred: np.ndarray, true: np.ndarray) -> float:
    """Mean over true rows of the greatest root of the number of pixels in which a predicted row differs.

    With p_i and t_j the rows of both masks at 256 x 256, mean_j max_i sqrt(sum_x |p_i(x) - t_j(x)|), 0 to 16: the
    release takes rows for points and reduces the wrong axes. It cuts its own output at 256 x 256, where this takes a
    mask that was enlarged to the image: that moves the number by hundredths.

    Args:
        pred, true: (H, W) bool of any size; resized by the nearest pixel.

    Source: the evaluation released with Tu et al. (2024), arXiv 2404.14837.
    """
    check_masks(pred, true)
    p, t = (nearest(mask, SIDE_PX).astype(np.float32) for mask in (pred, true))
    differing = p.sum(axis=1)[:, None] + t.sum(axis=1) - 2 * (p @ t.T)  # exact: whole numbers far below 2**24
    return float(np.sqrt(differing.max(axis=0), dtype=np.float64).mean())


def nearest(mask: np.ndarray, side_px: int) -> np.ndarray:
    """(side_px, side_px) of the pixels of an (H, W) mask under the new centres, as Pillow's NEAREST takes them."""
    rows, columns = (((np.arange(side_px) + 0.5) * n / side_px).astype(np.int64) for n in mask.shape)
    return mask[np.ix_(rows, columns)]
