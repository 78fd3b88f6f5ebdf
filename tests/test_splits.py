"""Splits: what they promise, checked on drawn data sets and by hand."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busistore import splits
from busistore.errors import BadInput, BusistoreError, Leakage

CLASSES = ("benign", "malignant", "normal")


@st.composite
def data_sets(draw, max_size=6):
    """(ids, labels, groups): per class a list of group sizes; some groups then span two classes."""
    ids, labels, groups = [], [], []
    for label in CLASSES:
        for g, size in enumerate(draw(st.lists(st.integers(1, max_size), max_size=25))):
            for _ in range(size):
                ids.append(f"set/{label}-{len(ids):04d}")
                labels.append(label)
                groups.append(f"{label}{g}" if draw(st.integers(0, 9)) else f"any{g}")
    return ids, labels, groups


def shares(ids, labels, groups, parts, label):
    """Counts per part, group sizes and total of one class, over the groups of that class alone."""
    classes = {}
    for group, name in zip(groups, labels):
        classes.setdefault(group, set()).add(name)
    mine = [i for i, g in zip(ids, groups) if classes[g] == {label}]
    group_of = dict(zip(ids, groups))
    sizes = [sum(group_of[i] == g for i in mine) for g in {group_of[i] for i in mine}]
    return {p: sum(parts[i] == p for i in mine) for p in splits.PARTS}, sizes, len(mine)


@settings(max_examples=150, deadline=None)
@given(data_sets(), st.integers(0, 2**40))
def test_grouped_split_keeps_its_promises(data, seed):
    ids, labels, groups = data
    parts = splits.grouped_split(ids, labels, groups, seed)
    assert set(parts) == set(ids)
    group_of = dict(zip(ids, groups))
    assert splits.cut_groups(parts, group_of) == []
    label_of = dict(zip(ids, labels))
    for group in set(groups):
        members = [i for i in ids if group_of[i] == group]
        spans = len({label_of[i] for i in members}) > 1
        assert {parts[i] == "excluded" for i in members} == {spans}
    for label in CLASSES:
        counts, sizes, n = shares(ids, labels, groups, parts, label)
        if len(sizes) >= 3:
            assert min(counts.values()) > 0
        if sizes and max(sizes) <= 0.15 * n:
            for part, fraction in zip(splits.PARTS, splits.FRACTIONS):
                assert abs(counts[part] - fraction * n) <= max(sizes) + 1e-9


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.sampled_from([(0.7, 0.15, 0.15), (0.1, 0.8, 0.1)]))
def test_large_groups_cost_at_most_one_more_group_per_part_filled(sizes, fractions):
    parts = splits._cut_line(sizes, fractions)
    n_filled = max(0, min(2, len(sizes) - 1))
    for part, fraction in zip(splits.PARTS, fractions):
        count = sum(s for s, p in zip(sizes, parts) if p == part)
        if len(sizes) >= 3:
            assert count > 0
            assert abs(count - fraction * sum(sizes)) <= (1 + n_filled) * max(sizes) + 1e-9


@settings(max_examples=50, deadline=None)
@given(data_sets(), st.integers(0, 99), st.randoms(use_true_random=False))
def test_order_and_group_names_change_nothing(data, seed, rng):
    ids, labels, groups = data
    order = list(range(len(ids)))
    rng.shuffle(order)
    renamed = {groups[i]: k for k, i in enumerate(order)}
    again = splits.grouped_split([ids[i] for i in order], [labels[i] for i in order],
                                 [renamed[groups[i]] for i in order], seed)  # fmt: skip
    assert list(again.items()) == list(splits.grouped_split(ids, labels, groups, seed).items())


def test_a_split_by_hand():
    """Ten groups of one image: hash order by a plain rewrite; middles .5 to 9.5 against cuts at 1.5 and 8.5."""
    ids = [f"busi/benign-{i:04d}" for i in range(1, 11)]
    line = sorted(ids, key=lambda i: hashlib.sha256(f"split/42/{i}".encode()).hexdigest())
    expected = dict(zip(line, ["test"] * 2 + ["train"] * 6 + ["val"] * 2))
    assert splits.naive_split(ids, ["benign"] * 10, seed=42) == expected
    assert [i[-2:] for i in line] == ["10", "09", "05", "04", "07", "06", "08", "03", "02", "01"]


def test_seeds_differ_and_every_image_can_be_in_the_test_part():
    ids = [f"a-{i}" for i in range(20)]
    tested = set()
    for seed in range(60):
        parts = splits.naive_split(ids, ["x"] * 20, seed)
        tested |= {i for i, p in parts.items() if p == "test"}
    assert tested == set(ids)


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5)])
def test_fractions_that_are_no_shares_are_refused(fractions):
    with pytest.raises(BusistoreError, match="three shares that sum to 1"):
        splits.grouped_split(["a"], ["x"], ["g"], 0, fractions)


def test_a_part_with_no_share_stays_empty():
    ids = [f"a-{i}" for i in range(9)]
    assert set(splits.naive_split(ids, ["x"] * 9, 1, (0.8, 0.0, 0.2)).values()) == {"train", "test"}
    assert set(splits.naive_split(ids, ["x"] * 9, 1, (0.0, 0.5, 0.5)).values()) == {"val", "test"}


def test_a_class_of_mixed_groups_alone_is_left_out():
    assert splits.grouped_split(["a", "b", "c"], ["x", "y", "x"], ["g", "g", "h"], 0) == {
        "a": "excluded", "b": "excluded", "c": "train",
    }  # fmt: skip
    assert splits.grouped_split([], [], [], 0) == {}


def test_repeated_ids_and_unequal_lengths_are_bugs():
    with pytest.raises(ValueError, match="unique"):
        splits.grouped_split(["a", "a"], ["x", "x"], ["g", "h"], 0)
    with pytest.raises(ValueError, match="unique"):
        splits.grouped_split(["a", "b"], ["x"], ["g", "h"], 0)


PARTS = {"a": "train", "b": "test", "c": "test", "d": "val", "e": "excluded", "f": "train"}
GROUPS = {"a": "g1", "b": "g1", "c": "g2", "d": "g3", "e": "g2", "f": "g3"}


def test_cut_groups_names_those_on_both_sides():
    assert splits.cut_groups(PARTS, GROUPS) == ["g1", "g3"]  # g2 touches test and excluded, which is no cut
    assert splits.cut_groups(PARTS, {}) == []


def test_a_leaky_split_is_refused_with_an_example():
    with pytest.raises(Leakage, match=r"cuts 2 of 3 .* such as g1 \(a in train, b in test\).*--allow-leakage"):
        splits.check_leakage(PARTS, GROUPS)
    splits.check_leakage({"a": "train", "c": "test"}, GROUPS)


CLASS_OF = {"a": "benign", "b": "benign", "c": "benign", "d": "normal", "e": "malignant", "f": "normal"}


def test_mixed_groups_name_their_classes():
    assert splits.mixed_groups(GROUPS, CLASS_OF) == {"g2": ["benign", "malignant"]}
    assert splits.mixed_groups(GROUPS, {}) == splits.mixed_groups({}, CLASS_OF) == {}


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_published_split_may_not_judge_on_a_group_of_several_classes(part):
    """g2 spans benign (c) and malignant (e); cutting nothing does not make it fit to be judged on."""
    parts = {"a": "train", "b": "train", "c": part, "e": part, "d": "val", "f": "val"}
    with pytest.raises(Leakage, match=rf"^2 val and test .* c in {part} \(g2: benign, malignant\).*excluded") as caught:
        splits.check_leakage(parts, GROUPS, CLASS_OF)
    assert "\n" not in str(caught.value)
    with pytest.raises(Leakage, match=r"^1 val and test .* such as c in"):  # e is in no part, yet in the data set
        splits.check_leakage(parts | {"e": "excluded"}, GROUPS, CLASS_OF)
    splits.check_leakage(parts, GROUPS)
    splits.check_leakage(parts | {"c": "train", "e": "train"}, GROUPS, CLASS_OF)
    splits.check_leakage(parts | {"c": "excluded", "e": "excluded"}, GROUPS, CLASS_OF)
    with pytest.raises(Leakage, match="cuts 1 of 3"):
        splits.check_leakage(parts | {"a": "test"}, GROUPS, CLASS_OF)


@settings(max_examples=50, deadline=None)
@given(data_sets(), st.integers(0, 99))
def test_a_drawn_split_is_never_refused(data, seed):
    ids, labels, groups = data
    parts = splits.grouped_split(ids, labels, groups, seed)
    splits.check_leakage(parts, dict(zip(ids, groups)), dict(zip(ids, labels)))


def test_exposure_counts_test_images():
    assert splits.exposure(["g1", "g1", "g2", "g3"], ["g1", "g9", "g1"]) == 0.5
    assert splits.exposure(["g1"], []) == 0
    with pytest.raises(ValueError, match="no test images"):
        splits.exposure([], ["g1"])


KNOWN = {"busi/benign-0012": "benign", "busi/benign-0001": "benign", "busi/malignant-0012": "malignant"}


def read(tmp_path, text, known=KNOWN):
    path = tmp_path / "published.csv"
    path.write_text(text, encoding="utf-8")
    return splits.read_split_csv(path, known.keys(), known.values())


@pytest.mark.parametrize("text", [
    "image,part\nbenign (12).png,train\nbenign (1),val\nmalignant (12).png,test\n",
    "image_id,split\nbusi/benign-0012,Training\nbusi/benign-0001,validation\nbusi/malignant-0012,TEST\n",
    "\ufefflabel;filename;split\nBenign;benign/benign (12).png;train\nbenign;benign-1;valid\n\n;malignant (012);test\n",
    "image\tpart\nbenign\\benign (12).png\ttrain\nbenign (1)\tval\nmalignant (12).JPG\ttesting\n",
])  # fmt: skip
def test_a_published_split_is_read_by_id_or_file_name(tmp_path, text):
    assert read(tmp_path, text) == {
        "busi/benign-0001": "val", "busi/benign-0012": "train", "busi/malignant-0012": "test",
    }  # fmt: skip


@pytest.mark.parametrize(("text", "message"), [
    ("image,part\nbenign (13),train\n", r"published.csv line 2: no image 'benign \(13\)'.*ingest it, or drop the line"),
    ("image,part\nbenign (1),train\nbenign (12),fold1\n", r"line 3: no part 'fold1' \(known: train, val, test, exc"),
    ("image,part\nbenign (1),train\nbusi/benign-0001,test\n", "line 3: 'busi/benign-0001' is named a second time"),
    ("image,part,label\nbenign (1),train,malignant\n", r"'benign \(1\)' is labelled malignant here and benign in"),
    ("image,part\nbenign (1)\n", "line 2: no part ''"),
    ("image,fold\nbenign (1),train\n", r"no column 'part' or 'split' in its first line \(image, fold\)"),
    ("", "no column 'image_id' or 'image'"),
])  # fmt: skip
def test_what_is_wrong_with_a_published_split_is_said_with_its_line(tmp_path, text, message):
    with pytest.raises(BadInput, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_name_that_two_data_sets_share_must_be_written_in_full(tmp_path):
    known = {"busi/benign-0001": "benign", "phantom/benign-0001": "benign"}
    with pytest.raises(BadInput, match=r"could be busi/benign-0001 or phantom/benign-0001; write the full image id"):
        read(tmp_path, "image,part\nbenign (1),train\n", known)
    assert read(tmp_path, "image,part\nbusi/benign-0001,train\n", known) == {"busi/benign-0001": "train"}


def test_a_split_that_cannot_be_read(tmp_path):
    with pytest.raises(BadInput, match=r"cannot read the split '.*none.csv': No such file"):
        splits.read_split_csv(tmp_path / "none.csv", [], [])
    (tmp_path / "latin.csv").write_bytes(b"image,part\n\xe9,train\n")
    with pytest.raises(BadInput, match="cannot read the split"):
        splits.read_split_csv(tmp_path / "latin.csv", [], [])


def test_split_id_depends_on_membership_and_grouping_alone():
    one = splits.split_id("busi-grouped-42", {"a": "train", "b": "test"}, "frames-1")
    assert one == splits.split_id("busi-grouped-42", {"b": "test", "a": "train"}, "frames-1")
    assert one.startswith("busi-grouped-42-")
    assert one != splits.split_id("busi-grouped-42", {"a": "train", "b": "val"}, "frames-1")
    assert one != splits.split_id("busi-grouped-42", {"a": "train", "b": "test"}, "frames-2")
