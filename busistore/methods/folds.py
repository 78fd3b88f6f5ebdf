"""Folds within a support set, for choices that look at nothing else."""

from __future__ import annotations

import numpy as np

from busistore.methods.base import Labelled


def folds(support: Labelled, n_classes: int, at_most: int) -> np.ndarray | None:
    """(N,) fold of each image, one for all of a group; None unless every class stays wherever a fold is left out.

    Folds are numbered from 0 without a gap.

    Each group goes to the fold that so far has the fewest images of the group's classes, groups of several classes
    first, then the largest. Folds are as even within each class as that makes them: to within the class's largest
    group where no group has several classes. With groups of one image, an image's fold is its rank in its class.
    """
    _, group = np.unique(_groups(support), return_inverse=True)
    counts = np.zeros((int(group.max()) + 1, n_classes), int)  # images by group and class
    np.add.at(counts, (group, support.labels), 1)
    n_folds = min(at_most, int((counts > 0).sum(axis=0).min()))
    first = np.unique(group, return_index=True)[1]
    load = np.zeros((n_folds, n_classes), int)
    fold_of = np.empty(len(counts), int)
    for g in np.lexsort((first, -counts.sum(axis=1), -(counts > 0).sum(axis=1))):
        fold_of[g] = load[:, counts[g] > 0].sum(axis=1).argmin()
        load[fold_of[g]] += counts[g]
    return fold_of[group] if ((load > 0).sum(axis=0) > 1).all() else None


def _groups(support: Labelled) -> np.ndarray:
    return np.arange(len(support.labels)) if support.groups is None else support.groups
