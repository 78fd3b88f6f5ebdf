"""Labelled vectors around class centres, as an encoder might emit them."""

from __future__ import annotations

import numpy as np

from busistore.methods import Labelled


def clouds(n_per_class, seed=0, dim=12, n_classes=3, spread=1.5):
    """Features of differing length around class centres, as an encoder might emit them."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(n_classes, dim))
    labels = np.repeat(np.arange(n_classes), n_per_class)
    features = (centres[labels] + spread * rng.normal(size=(len(labels), dim))) * rng.uniform(1, 9, (len(labels), 1))
    return Labelled(features.astype(np.float32), labels)
