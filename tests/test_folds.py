"""Folds within a support set: by hand, and by the properties that they promise."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from busistore.methods import Labelled
from busistore.methods.folds import folds


def test_folds_keep_every_class_in_what_is_left():
    support = Labelled(np.eye(10), np.array([2, 0, 0, 1, 2, 1, 0, 2, 0, 0]))
    assert folds(support, 3, 8).tolist() == [0, 0, 1, 0, 1, 1, 0, 0, 1, 0]
    one_group_each = support._replace(groups=np.arange(10)[::-1] * 7)
    assert folds(one_group_each, 3, 8).tolist() == folds(support, 3, 8).tolist()


def test_folds_of_groups_by_hand():
    """Class 0: twins 5, 5, then 1, 8, 9 alone; class 1: 2, 2, then 3, 3; the largest first, to the emptiest fold."""
    support = Labelled(np.eye(9), np.array([0, 0, 0, 0, 0, 1, 1, 1, 1]), np.array([1, 5, 8, 5, 9, 2, 3, 2, 3]))
    assert folds(support, 2, 8).tolist() == [1, 0, 1, 0, 0, 0, 1, 0, 1]
    assert folds(support._replace(groups=np.array([1, 5, 8, 5, 9, 2, 2, 2, 2])), 2, 8) is None
    mixed = support._replace(groups=np.array([4, 5, 8, 5, 9, 4, 3, 2, 3]))  # 4 spans both classes and goes first
    assert folds(mixed, 2, 8).tolist() == [0, 1, 2, 1, 0, 0, 1, 2, 1]
    last = Labelled(np.eye(7), np.array([0, 0, 1, 1, 1, 0, 1]), np.array([0, 1, 2, 2, 3, 9, 9]))  # 9 is mixed and last
    assert folds(last, 2, 2).tolist() == [1, 0, 1, 1, 0, 0, 0]
    stuck = Labelled(np.eye(4), np.array([0, 1, 0, 1]), np.array([0, 0, 0, 0]))
    assert folds(stuck, 2, 8) is None


@st.composite
def supports(draw):
    """Labels of two to four classes with groups, some of which may span classes."""
    n = draw(st.integers(4, 30))
    labels = draw(st.lists(st.integers(0, draw(st.integers(1, 3))), min_size=n, max_size=n))
    groups = draw(st.lists(st.integers(0, draw(st.integers(1, 20))), min_size=n, max_size=n))
    n_classes = len(set(labels))
    labels = np.unique(labels, return_inverse=True)[1]
    pure = draw(st.booleans())
    return Labelled(np.zeros((n, 2)), labels, np.array(groups) + (100 * labels if pure else 0)), n_classes, pure


@settings(max_examples=300, deadline=None)
@given(supports(), st.integers(2, 8))
def test_folds_part_no_group_and_stay_even(drawn, at_most):
    support, n_classes, pure = drawn
    fold = folds(support, n_classes, at_most)
    held = [len(set(support.groups[support.labels == c].tolist())) for c in range(n_classes)]
    if fold is None:
        assert min(held) < 2 or not pure
        return
    assert len(set(fold.tolist())) <= min(at_most, *held)
    for g in set(support.groups.tolist()):
        assert len(set(fold[support.groups == g].tolist())) == 1
    for i in set(fold.tolist()):
        assert set(support.labels[fold != i].tolist()) == set(range(n_classes))
    if pure:
        assert len(set(fold.tolist())) == min(at_most, *held)
        for c in range(n_classes):
            sizes = np.bincount(fold[support.labels == c], minlength=fold.max() + 1)
            largest = max(np.bincount(support.groups[support.labels == c]))
            assert np.ptp(sizes) <= largest
