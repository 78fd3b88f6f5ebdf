"""The draw of support sets: balanced, nested, uniform, and a pure function of names and a seed."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busistore import sampling
from busistore.errors import BusistoreError

CLASSES = ("benign", "malignant", "normal")

LABELS = {f"busi/{label}-{i:04d}": label for label, n in zip(CLASSES, (40, 20, 9)) for i in range(1, n + 1)}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(-5, 2**64), st.randoms(use_true_random=False))
def test_an_episode_is_balanced_and_knows_no_row_order(shots, seed, rng):
    rows = list(LABELS.items())
    rng.shuffle(rows)
    support = sampling.sample_episode(dict(rows), shots, seed)
    assert support == sampling.sample_episode(LABELS, shots, seed)
    assert list(support) == sorted(CLASSES)
    for label, ids in support.items():
        assert len(ids) == len(set(ids)) == shots
        assert {LABELS[i] for i in ids} == {label}


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(0, 1000))
def test_more_shots_extend_the_draw_of_fewer(shots, seed):
    few, more = sampling.sample_episode(LABELS, shots, seed), sampling.sample_episode(LABELS, shots + 1, seed)
    assert all(more[label][:shots] == few[label] for label in CLASSES)


def test_the_draw_of_a_class_knows_no_other_class():
    alone = {i: label for i, label in LABELS.items() if label == "benign"}
    assert sampling.sample_episode(alone, 5, 3)["benign"] == sampling.sample_episode(LABELS, 5, 3)["benign"]


def test_an_episode_is_the_shuffle_that_the_hash_dictates():
    """A plain Fisher-Yates shuffle of the sorted ids, and the ids it gave when it was first run."""
    ids = sorted(i for i, label in LABELS.items() if label == "normal")
    for i in range(len(ids)):
        j = i + int(hashlib.sha256(f"episode/7/normal/{i}".encode()).hexdigest(), 16) % (len(ids) - i)
        ids[i], ids[j] = ids[j], ids[i]
    assert list(sampling.sample_episode(LABELS, 9, 7)["normal"]) == ids
    assert "".join(i[-1] for i in ids) == "293614578"


def test_draws_are_uniform():
    """Each of 9 images is in the support of 3 with chance 1/3: 3,000 seeds, 5 standard deviations."""
    hits = dict.fromkeys((i for i, label in LABELS.items() if label == "normal"), 0)
    for _, _, _, support in sampling.sample_episodes(dict.fromkeys(hits, "normal"), [3], range(3000)):
        for image_id in support["normal"]:
            hits[image_id] += 1
    assert max(abs(n - 1000) for n in hits.values()) < 5 * (3000 * 2 / 9) ** 0.5


def test_a_grid_is_its_episodes_one_by_one():
    grid = list(sampling.sample_episodes(LABELS, [1, 2, 8], range(3)))
    assert [(shots, seed) for shots, _, seed, _ in grid] == [(n, s) for s in range(3) for n in (1, 2, 8)]
    assert all(support == sampling.sample_episode(LABELS, shots, seed) for shots, _, seed, support in grid)


@pytest.mark.parametrize(("shots", "message"), [
    (10, "10 shots, but class 'normal' has 9 training images; ask for at most 9 shots"),
    (0, "0 shots: at least 1"),
])  # fmt: skip
def test_impossible_shots_are_refused(shots, message):
    with pytest.raises(BusistoreError, match=message):
        sampling.sample_episode(LABELS, shots, 0)
    with pytest.raises(BusistoreError, match="no training images"):
        sampling.sample_episode({}, 1, 0)


def test_episode_id_names_the_exact_support():
    support = sampling.sample_episode(LABELS, 2, 0)
    one = sampling.episode_id("busi-grouped-42-abc", 2, 0, support)
    assert one.startswith("2shot-seed0-")
    turned = {label: list(reversed(ids)) for label, ids in reversed(support.items())}
    assert one == sampling.episode_id("busi-grouped-42-abc", 2, 0, turned)
    assert one != sampling.episode_id("busi-grouped-42-abd", 2, 0, support)
    other = support | {"normal": random.Random(0).sample(sorted(LABELS), 2)}
    assert one != sampling.episode_id("busi-grouped-42-abc", 2, 0, other)


@pytest.mark.parametrize(("ratio", "sizes"), [
    (0.01, (1, 1, 1)), (0.1, (4, 2, 1)), (0.5, (20, 10, 4)), (1.0, (40, 20, 9)),
])  # fmt: skip
def test_a_ratio_takes_its_share_of_each_class_and_one_image_at_least(ratio, sizes):
    support = sampling.sample_episode(LABELS, None, 3, ratio)
    assert tuple(len(support[label]) for label in CLASSES) == sizes


def test_ratios_and_shots_of_a_seed_are_nested():
    grid = {(d.shots, d.ratio): d.support for d in sampling.sample_episodes(LABELS, [1, 8], [5], [0.1, 0.5])}
    assert list(grid) == [(1, None), (8, None), (None, 0.1), (None, 0.5)]
    for label in CLASSES:
        lines = sorted((support[label] for support in grid.values()), key=len)
        assert all(lines[-1][: len(line)] == line for line in lines)
    assert grid[1, None] == sampling.sample_episode(LABELS, 1, 5)


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.01, float("nan")])
def test_what_is_no_share_is_refused(ratio):
    with pytest.raises(BusistoreError, match="of the training part: give a share above 0 and up to 100 %"):
        sampling.sample_episode(LABELS, None, 0, ratio)


def test_a_ratio_has_ids_of_its_own():
    support = sampling.sample_episode(LABELS, None, 0, 1 / 9)
    one = sampling.episode_id("busi-abc", None, 0, support, 1 / 9)
    assert one.startswith("11.1111pct-seed0-")
    assert one != sampling.episode_id("busi-abc", None, 0, support, 0.111)


def test_everything_is_drawn_once_whatever_the_seeds():
    grid = list(sampling.sample_episodes(LABELS, [3], range(7, 12), [0.5, 1.0]))
    whole = [d for d in grid if d.ratio == 1.0]
    assert [(d.seed, sum(map(len, d.support.values()))) for d in whole] == [(0, len(LABELS))]
    assert len(grid) == 1 + 5 * 2
    even = {i: label for i, label in LABELS.items() if int(i[-4:]) <= 9}
    assert len(list(sampling.sample_episodes(even, [9], range(5)))) == 1
