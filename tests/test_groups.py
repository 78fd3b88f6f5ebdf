from __future__ import annotations

import csv

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from busistore.candidates import Search
from busistore.groups import Grouping, Pair, components, find_pairs
from busistore.ids import content_id
from tests.speckle import cropped, speckle


def brighter(gray: np.ndarray) -> np.ndarray:
    return np.clip(gray * 0.8 + 40, 0, 255).astype(np.uint8)


def album() -> list[np.ndarray]:
    """Six unrelated frames; 6 to 9 are copies of 0, 1, 2 and 3, and 10 has the pixels of 4."""
    copies = [
        cropped(speckle(0), 0.6),
        cv2.resize(speckle(1), None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA),
        brighter(speckle(2)),
        brighter(cropped(speckle(3), 0.7)),
    ]
    return [speckle(k) for k in range(6)] + copies + [speckle(4).copy()]


def test_copies_are_found_and_unrelated_speckle_stays_apart():
    pairs = find_pairs(album())
    assert [(p.a, p.b) for p in pairs] == [(0, 6), (1, 7), (2, 8), (3, 9), (4, 10)]
    assert all(0.8 < p.similarity <= 1 for p in pairs)
    assert pairs[-1] == Pair(4, 10, 1.0, "identical")
    assert pairs[0].reason == "local", "a crop this small escapes the hashes"
    assert "phash" in pairs[2].reason
    assert components(11, pairs).tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4]


def test_the_order_of_the_images_changes_nothing():
    images = album()
    expected = {(frozenset((p.a, p.b)), p.similarity, p.reason) for p in find_pairs(images)}
    order = np.random.default_rng(2).permutation(len(images))
    moved = find_pairs([images[k] for k in order])
    assert {(frozenset((order[p.a], order[p.b])), p.similarity, p.reason) for p in moved} == expected


def test_a_function_of_the_number_serves_as_well_as_a_list():
    images = album()[:8]
    assert find_pairs(images.__getitem__, n_images=8) == find_pairs(images)
    with pytest.raises(TypeError, match="n_images"):
        find_pairs(images.__getitem__)


def test_images_without_content_are_pairs_only_when_identical():
    blank = [np.zeros((60, 80), np.uint8), np.full((60, 80), 9, np.uint8), np.zeros((60, 80), np.uint8)]
    tiny = [np.zeros((1, 1), np.uint8), np.ones((1, 1), np.uint8), np.zeros((1, 70), np.uint8)]
    pairs = find_pairs(blank + tiny + [np.ones((1, 1), np.uint8)])
    assert pairs == [Pair(0, 2, 1.0, "identical"), Pair(4, 6, 1.0, "identical")]


def test_a_copy_of_a_copy_is_listed_with_every_original():
    images = [speckle(0), brighter(speckle(0)), speckle(0)]
    assert [(p.a, p.b, p.reason == "identical") for p in find_pairs(images)] == [
        (0, 1, False), (0, 2, True), (1, 2, False),
    ]  # fmt: skip


def test_very_many_identical_images_make_one_group_from_a_bounded_number_of_pairs():
    pairs = find_pairs([np.zeros((8, 8), np.uint8)] * 200)
    assert len(pairs) < 200 * Search().n_neighbours
    assert set(components(200, pairs)) == {0}


def test_embeddings_propose_but_registration_decides():
    images = [speckle(0), cropped(speckle(0), 0.6), speckle(1)]
    rules = Grouping(search=Search(min_votes=10**6))
    assert find_pairs(images, settings=rules) == []
    (pair,) = find_pairs(images, embeddings=np.ones((3, 5)), settings=rules)
    assert (pair.a, pair.b, pair.reason) == (0, 1, "cosine")


def test_embeddings_must_be_as_many_as_the_images():
    with pytest.raises(ValueError, match="2 embeddings for 1 images"):
        find_pairs([speckle(0)], embeddings=np.ones((2, 5)))


def test_progress_counts_both_stages_to_their_end():
    calls = []
    find_pairs(album()[:7], progress=lambda *call: calls.append(call))
    assert calls[6] == ("signatures", 7, 7)
    stage, done, total = calls[-1]
    assert stage == "registration"
    assert done == total > 0


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4)), np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4), np.uint8)], ids=["float", "rgb", "empty"]
)
def test_other_arrays_than_grey_bytes_are_refused(bad):
    with pytest.raises(ValueError, match="image 1 is"):
        find_pairs([speckle(0), bad])


def test_nothing_in_nothing_out():
    assert find_pairs([]) == []
    assert find_pairs([speckle(0)]) == []
    assert components(0, []).tolist() == []


def test_every_setting_is_part_of_the_grouping_id():
    plain = content_id("frames", Grouping())
    assert plain == content_id("frames", Grouping())
    assert plain != content_id("frames", Grouping(code=2))
    assert plain != content_id("frames", Grouping(search=Search(min_votes=9)))


def flood(n: int, edges: list[tuple[int, int]]) -> list[int]:
    """Components by spreading the lowest number until nothing changes."""
    lowest = list(range(n))
    changed = True
    while changed:
        changed = False
        for a, b in edges:
            if lowest[a] != lowest[b]:
                lowest[a] = lowest[b] = min(lowest[a], lowest[b])
                changed = True
    return [sorted(set(lowest)).index(k) for k in lowest]


@settings(deadline=None)
@given(st.data())
def test_components_are_those_of_a_plain_flood(data):
    n = data.draw(st.integers(1, 25))
    edges = data.draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda e: e[0] != e[1])))
    patients = data.draw(st.lists(st.sampled_from([None, "", "p1", "p2", "p3"]), min_size=n, max_size=n))
    pairs = [Pair(min(e), max(e), 0.9, "local") for e in edges]
    same = [(a, b) for a in range(n) for b in range(n) if a < b and patients[a] and patients[a] == patients[b]]
    assert components(n, pairs, patients).tolist() == flood(n, edges + same)
    assert components(n, pairs).tolist() == flood(n, edges)


@pytest.mark.slow
@pytest.mark.realdata
def test_real_frames_are_found_and_unrelated_ones_never_join(busi_dir):
    truth = list(csv.DictReader((busi_dir.parent / "truth.csv").open()))
    paths = [busi_dir / row["label"] / f"{row['image']}.png" for row in truth]
    pairs = find_pairs(lambda k: np.asarray(Image.open(paths[k]).convert("L")), n_images=len(paths))
    group = components(len(paths), pairs)
    found = {(p.a, p.b) for p in pairs}
    frame, leak = ([row[c] or row["image"] for row in truth] for c in ("same_frame_group", "leak_group"))
    same = [(a, b) for a in range(len(truth)) for b in range(a + 1, len(truth)) if frame[a] == frame[b]]
    assert len(found & set(same)) >= 0.97 * len(same) > 0
    assert not [(a, b) for a, b in found if leak[a] != leak[b]]
    assert all(leak[a] == leak[b] for a in range(len(truth)) for b in range(a) if group[a] == group[b])
