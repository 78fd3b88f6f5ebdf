from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from busistore.candidates import (
    Search,
    Signatures,
    by_cosine,
    by_hash,
    by_local_features,
    by_ncc,
    candidates,
    nearest,
    similar_rows,
    unit_rows,
)

ALL = Search(n_neighbours=1000)


def as_set(pairs: np.ndarray) -> set[tuple[int, int]]:
    assert len({tuple(p) for p in pairs.tolist()}) == len(pairs)
    return {tuple(p) for p in pairs.tolist()}


def every_pair(n: int, holds) -> set[tuple[int, int]]:
    return {(a, b) for a, b in itertools.combinations(range(n), 2) if holds(a, b)}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(1, 9))
def test_cosine_pairs_are_those_of_the_full_matrix(seed, n, block):
    rows = unit_rows(np.random.default_rng(seed).standard_normal((n, 3)))
    expected = every_pair(n, lambda a, b: rows[a] @ rows[b] >= 0.8)
    assert as_set(by_cosine(rows, 0.8, 1000)) == expected
    blocks = [(i, j) for i, j, _ in similar_rows(rows, 0.8, block)]
    assert as_set(np.concatenate([np.zeros((0, 2), int)] + [np.column_stack(b) for b in blocks])) == expected


@settings(max_examples=25, deadline=None)
@given(arrays(np.uint8, (14, 8), elements=st.sampled_from([0, 1, 3, 255])), st.integers(0, 20))
def test_hash_pairs_are_those_within_the_hamming_distance(hashes, distance):
    bits = np.unpackbits(hashes, axis=1)
    expected = every_pair(14, lambda a, b: (bits[a] != bits[b]).sum() <= distance)
    found = by_hash(hashes, np.ones(14, bool), Search(hash_bits=distance, n_neighbours=1000))
    assert as_set(found) == expected


def test_hashes_of_images_without_content_take_no_part():
    found = by_hash(np.zeros((4, 8), np.uint8), np.array([True, False, True, False]), ALL)
    assert as_set(found) == {(0, 2)}


@pytest.mark.parametrize("smoothness", [0.5, 6.0])
def test_ncc_pairs_are_those_of_the_full_matrix(smoothness):
    """At smoothness 0.5 the low frequencies carry little, and the bound must still let every pair pass."""
    import cv2

    draw = np.random.default_rng(3)
    base = draw.standard_normal((12, 64, 64))
    noisy = np.concatenate([base + draw.uniform(0, 1) * draw.standard_normal(base.shape) for _ in range(4)])
    soft = np.stack([cv2.GaussianBlur(picture, (0, 0), smoothness) for picture in noisy])
    thumbs = np.clip(128 + 40 * soft / soft.std(), 0, 255).astype(np.uint8).reshape(48, -1)
    matrix = np.corrcoef(thumbs.astype(float))
    assert np.abs(matrix - ALL.min_ncc).min() > 1e-6
    expected = every_pair(48, lambda a, b: matrix[a, b] >= ALL.min_ncc)
    assert 5 < len(expected) < 200
    assert as_set(by_ncc(thumbs, ALL)) == expected


def test_constant_thumbnails_correlate_with_nothing():
    assert len(by_ncc(np.full((5, 4096), 9, np.uint8), ALL)) == 0


def test_nearest_keeps_the_best_and_lets_the_lower_number_win_ties():
    i, j = np.array([0, 0, 0, 1]), np.array([3, 2, 1, 2])
    score = np.array([0.9, 0.9, 0.95, 0.1])
    kept = np.column_stack(nearest(i, j, score, 2))
    assert kept.tolist() == [[0, 1], [0, 2], [1, 2]]


def votes_by_hand(descriptors, counts, rules: Search) -> dict[tuple[int, int], int]:
    """Keys each pair of images shares, table by table, as sets of byte strings."""
    draw = np.random.default_rng(rules.seed)
    votes = dict.fromkeys(itertools.combinations(range(len(counts)), 2), 0)
    for _ in range(rules.n_tables):
        part = draw.choice(32, size=rules.n_key_bytes, replace=False)
        keys = [{row[part].tobytes() for row in descriptors[k, : counts[k]]} for k in range(len(counts))]
        for a, b in votes:
            votes[a, b] += len(keys[a] & keys[b])
    return votes


def test_votes_are_the_keys_two_images_share():
    draw = np.random.default_rng(5)
    descriptors = draw.integers(0, 256, (9, 20, 32), dtype=np.uint8)
    counts = draw.integers(10, 21, 9)
    for a, b, n_shared in ((0, 4, 6), (2, 3, 2), (5, 8, 1)):
        descriptors[b, :n_shared] = descriptors[a, :n_shared]
    descriptors[4, :6, draw.integers(0, 32, 4)] ^= 1
    rules = Search(n_neighbours=1000, min_votes=20)
    votes = votes_by_hand(descriptors, counts, rules)
    expected = {pair for pair, n in votes.items() if n >= 20}
    assert expected == {(0, 4), (2, 3)}
    assert as_set(by_local_features(descriptors, counts, rules)) == expected


def test_descriptors_beyond_the_count_do_not_vote():
    assert len(by_local_features(np.zeros((5, 8, 32), np.uint8), np.zeros(5, int), ALL)) == 0
    assert as_set(by_local_features(np.zeros((3, 8, 32), np.uint8), np.array([8, 0, 1]), ALL)) == {(0, 2)}


def test_a_logo_in_every_image_costs_a_bounded_number_of_pairs():
    draw = np.random.default_rng(0)
    descriptors = draw.integers(0, 256, (300, 20, 32), dtype=np.uint8)
    descriptors[:, :5] = descriptors[0, :5]
    found = by_local_features(descriptors, np.full(300, 20), Search(n_neighbours=4))
    assert len(found) == 4 * 300 - (1 + 2 + 3 + 4)


def test_every_route_is_named_and_embeddings_are_optional():
    draw = np.random.default_rng(1)
    signs = Signatures(
        digests=[b""] * 4,
        hashes=draw.integers(0, 256, (2, 4, 8), dtype=np.uint8),
        thumbs=draw.integers(0, 256, (4, 4096), dtype=np.uint8),
        descriptors=draw.integers(0, 256, (4, 256, 32), dtype=np.uint8),
        n_descriptors=np.full(4, 256),
    )
    for rows in (signs.hashes[0], signs.hashes[1], signs.thumbs, signs.descriptors):
        rows[2] = rows[0]
    assert candidates(signs, None, Search()) == {(0, 2): "phash+dhash+ncc+local"}
    embeddings = np.array([[1, 0], [0, 1], [0, -1], [0.1, 9]])
    assert candidates(signs, embeddings, Search()) == {(0, 2): "phash+dhash+ncc+local", (1, 3): "cosine"}
