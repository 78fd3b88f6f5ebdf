"""How far the borders of two masks lie apart, in pixels.

The border is the mask less its erosion by the four neighbours; what lies outside the image is background. Distances go
from centre to centre of border pixels. These are the conventions of MONAI.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from busistore.metrics.overlap import check_masks

TOLERANCES_PX = (1, 2, 3, 5)


class Distances(NamedTuple):
    """Of each border pixel the distance to the nearest of the other mask, (P,) and (T,) float64, in no order."""

    pred_to_true: np.ndarray
    true_to_pred: np.ndarray


def border(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels of the mask with one of four neighbours outside of it, or outside the image."""
    wide = np.pad(mask, 1)
    return mask & ~(wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:])


def border_distances(pred: np.ndarray, true: np.ndarray) -> Distances:
    """The distances between the borders of two (H, W) bool masks.

    Raises:
        ValueError: an empty mask, which has no border.
    """
    from scipy.spatial import KDTree  # as exact as distance transforms; faster for outlines, slower for noise

    check_masks(pred, true)
    if not (pred.any() and true.any()):
        raise ValueError("an empty mask has no border to measure from")
    here, there = np.argwhere(border(pred)), np.argwhere(border(true))
    return Distances(KDTree(there).query(here)[0], KDTree(here).query(there)[0])


def hausdorff(distances: Distances) -> float:
    """The greatest distance from a border pixel of either mask to the other border."""
    return float(max(part.max() for part in distances))


def hd95(distances: Distances) -> float:
    """The greater of the two directed 95th percentiles, each interpolated between its neighbours.

    Pooling both directions before the percentile, as some packages do, gives another and mostly smaller number.
    """
    return float(max(np.percentile(part, 95) for part in distances))


def assd(distances: Distances) -> float:
    """Average symmetric surface distance: the mean over the border pixels of both masks together."""
    return float(np.concatenate(distances).mean())


def nsd(distances: Distances, tolerance_px: float) -> float:
    """Normalised surface Dice: the share of all border pixels within a distance of the other border, that included.

    Source: Nikolov et al. (2021), JMIR 23(7), e26151; borders counted in pixels, not by their length.
    """
    return float(np.mean(np.concatenate(distances) <= tolerance_px))


def surface_metrics(pred: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Every metric of borders of one image, from two (H, W) bool masks, empty ones included.

    A missed lesion (only the prediction is empty) has the diagonal of the image for each distance, so that missing
    never scores better than a bad outline. Where the truth is empty there is nothing to be near to: distances are NaN.
    The NSD is a share like Dice: 0 where one mask is empty, NaN where both are.
    """
    check_masks(pred, true)
    if pred.any() and true.any():
        distances = border_distances(pred, true)
        far = {"hausdorff": hausdorff(distances), "hd95": hd95(distances), "assd": assd(distances)}
        return far | {f"nsd_{t}px": nsd(distances, t) for t in TOLERANCES_PX}
    worst = float(np.hypot(*true.shape)) if true.any() else np.nan
    share = 0.0 if pred.any() or true.any() else np.nan
    return dict.fromkeys(("hausdorff", "hd95", "assd"), worst) | {f"nsd_{t}px": share for t in TOLERANCES_PX}
