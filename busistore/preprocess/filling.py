"""Filling: grey for the pixels that a mask names, from those around them. No other pixel changes by a single level."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from busistore.errors import BadInput, lookup
from busistore.preprocess.strokes import wider

LATERAL = 4.0
"""How much more bending along a row costs than along a column: echoes lie level, and a beam blurs sideways."""
REACH_PX = 2  # of the biharmonic stencil
CV2_RADIUS_PX = 3.0


def fill(grey: np.ndarray, mask: np.ndarray, method: str = "biharmonic") -> np.ndarray:
    """The (H, W) uint8 image with the pixels of the (H, W) bool mask filled by one of FILLERS.

    Raises:
        BadInput: image and mask do not fit together, or the mask leaves nothing to fill from.
    """
    filler = lookup("filler", method, FILLERS)
    if grey.dtype != np.uint8 or mask.dtype != bool or grey.ndim != 2 or grey.shape != mask.shape:
        given = f"{grey.dtype} {grey.shape} and a mask of {mask.dtype} {mask.shape}"
        raise BadInput(f"{given}; wanted are uint8 and bool of one (H, W)")
    if not mask.any():
        return grey.copy()
    if mask.all():
        raise BadInput("the mask covers the whole image; nothing is left to fill it from")
    return np.where(mask, filler(grey, mask), grey)


def biharmonic(grey: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The smoothest surface through the pixels around: it bends least, in all, and keeps their slopes.

    With L u = LATERAL u_xx + u_yy and u known outside the mask, L L u = 0 inside it; beyond the frame u continues as a
    mirror would show it. Clipped to the range of the known pixels near each connected part.

    Source: the thin plate of Duchon (1977), Splines minimizing rotation-invariant semi-norms in Sobolev spaces, with
    the two directions weighted apart.
    """
    from scipy.sparse.linalg import spsolve

    near = wider(mask, REACH_PX)
    unknown, known = mask[near], np.where(mask, 0, grey)[near].astype(float)
    laplacian = _laplacian(near)
    rows = laplacian[np.flatnonzero(unknown)] @ laplacian
    values = spsolve(
        rows[:, np.flatnonzero(unknown)].tocsc(), -(rows @ known), permc_spec="MMD_AT_PLUS_A", use_umfpack=False
    )
    low, high = _ranges(grey, mask, near)
    out = grey.copy()
    out[mask] = np.rint(np.clip(values, low, high)).astype(np.uint8)
    return out


def _laplacian(near: np.ndarray):
    """Sparse (N, N) L over the N True pixels, row by row; exact where all neighbours within the frame are True."""
    from scipy import sparse

    number = np.cumsum(near.ravel()).reshape(near.shape) - 1
    weights = sparse.coo_array((near.sum(), near.sum())).tocsr()
    for a, b, weight in ((np.s_[:, :-1], np.s_[:, 1:], LATERAL), (np.s_[:-1], np.s_[1:], 1.0)):
        both = near[a] & near[b]
        pairs = number[a][both], number[b][both]
        weights = weights + sparse.coo_array((np.full(both.sum(), weight), pairs), shape=weights.shape).tocsr()
    weights = weights + weights.T
    return (weights - sparse.diags_array(weights.sum(axis=1))).tocsr()


def _ranges(grey: np.ndarray, mask: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest known level near each masked pixel's part, both (M,) in the order of the mask."""
    import cv2
    from scipy import ndimage

    n, parts = cv2.connectedComponents(near.view(np.uint8), connectivity=8)
    around = np.where(mask, 0, parts)
    low, high = (np.asarray(f(grey, around, np.arange(n)), float) for f in (ndimage.minimum, ndimage.maximum))
    return low[parts[mask]], high[parts[mask]]


def _by_cv2(flag: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def filler(grey: np.ndarray, mask: np.ndarray) -> np.ndarray:
        import cv2

        return cv2.inpaint(grey, mask.view(np.uint8), CV2_RADIUS_PX, getattr(cv2, flag))

    return filler


FILLERS = {
    "biharmonic": biharmonic, "navier-stokes": _by_cv2("INPAINT_NS"), "telea": _by_cv2("INPAINT_TELEA"),
}  # fmt: skip
