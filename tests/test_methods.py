"""Methods against scikit-learn, plain loops and hand-worked votes; what protocols may look at; parameters from text."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass

import numpy as np
import pytest

from busistore.errors import BusistoreError, UnknownName
from busistore.ids import canonical_json
from busistore.methods import (
    METHODS,
    PROTOCOLS,
    Labelled,
    n_groups,
    needs_support,
    needs_text,
    needs_tower,
    with_parameters,
)
from busistore.methods.knn import KNearest
from busistore.methods.linear_probe import LinearProbe
from busistore.methods.prototype import Prototype
from tests.clouds import clouds

SUPPORT, VAL, TEST = clouds(4, 1), clouds(10, 2), clouds(12, 3)
LEARNERS = [n for n, m in METHODS.items() if needs_support(m) and not needs_text(m) and not needs_tower(m)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", LEARNERS)
def test_every_method_keeps_the_agreement(name, protocol):
    method = METHODS[name]()
    assert protocol in method.protocols
    outcome = method.fit_predict(SUPPORT, VAL, TEST.features, 3, protocol)
    assert outcome.probabilities.shape == (36, 3)
    assert outcome.probabilities.dtype == np.float64
    assert np.abs(outcome.probabilities.sum(axis=1) - 1).max() < 1e-12
    assert outcome.probabilities.min() >= 0
    assert (outcome.probabilities.argmax(axis=1) == TEST.labels).mean() > 0.6
    canonical_json(outcome.chosen)
    again = METHODS[name]().fit_predict(SUPPORT, VAL, TEST.features, 3, protocol)
    assert np.array_equal(again.probabilities, outcome.probabilities)
    assert again.chosen == outcome.chosen


GARBLED = {
    "permuted": Labelled(VAL.features, np.random.default_rng(0).permutation(VAL.labels)),
    "all one class": Labelled(VAL.features, np.zeros_like(VAL.labels)),
    "the answers": TEST,
    "noise": Labelled(np.random.default_rng(1).normal(size=VAL.features.shape), VAL.labels),
    "not finite": Labelled(np.full_like(VAL.features, np.nan), VAL.labels),
    "no image": Labelled(np.empty((0, 12)), np.empty(0, int)),
    "not given": None,
}


def blind(name):
    """The (method, protocol) that must not look at validation images; what chooses nothing never may."""
    return [(name, "strict"), *([(name, "val-tuned")] if name == "prototype" else [])]


@pytest.mark.parametrize(("name", "protocol"), [pair for name in LEARNERS for pair in blind(name)])
@pytest.mark.parametrize("val", GARBLED.values(), ids=GARBLED)
def test_validation_images_change_nothing_where_they_must_not_be_seen(name, protocol, val):
    """A support that classifies badly, so that a choice made on other images would differ."""
    support = clouds(4, 8, spread=6)
    one, other = (METHODS[name]().fit_predict(support, v, TEST.features, 3, protocol) for v in (VAL, val))
    assert np.array_equal(one.probabilities, other.probabilities)
    assert one.chosen == other.chosen
    assert (one.n_labelled, one.saw_val) == (other.n_labelled, other.saw_val) == (12, False)


@pytest.mark.parametrize("name", sorted({*LEARNERS} - {"prototype"}))
def test_the_same_garbling_does_change_what_is_chosen_on_validation_images(name):
    """Else the test above could not fail."""
    support = clouds(4, 8, spread=6)
    seen = {what: METHODS[name]().fit_predict(support, val, TEST.features, 3, "val-tuned")
            for what, val in GARBLED.items() if what in ("permuted", "the answers", "noise")}  # fmt: skip
    assert all(outcome.saw_val for outcome in seen.values())
    assert len({canonical_json(outcome.chosen) for outcome in seen.values()}) > 1
    assert len({outcome.probabilities.tobytes() for outcome in seen.values()}) > 1


@pytest.mark.parametrize(("name", "n"), [("linear-probe", 42), ("knn", 42), ("prototype", 12)])
def test_labelled_images_consulted_are_counted(name, n):
    outcome = METHODS[name]().fit_predict(SUPPORT, VAL, TEST.features, 3, "val-tuned")
    assert (outcome.n_labelled, outcome.saw_val) == (n, n > 12)


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_shot_two_classes_and_repeated_images_work(name, protocol):
    one = clouds(1, 5, n_classes=2)
    twice = Labelled(np.repeat(one.features, 2, axis=0), np.repeat(one.labels, 2))
    for support in (one, twice):
        outcome = METHODS[name]().fit_predict(support, clouds(5, 6, n_classes=2), one.features, 2, protocol)
        assert outcome.probabilities.argmax(axis=1).tolist() == [0, 1]


@pytest.mark.parametrize("name", LEARNERS)
def test_scale_of_the_vectors_does_not_count(name):
    one = METHODS[name]().fit_predict(SUPPORT, None, TEST.features, 3, "strict")
    scaled = Labelled(SUPPORT.features * 1024, SUPPORT.labels)
    other = METHODS[name]().fit_predict(scaled, None, TEST.features / 64, 3, "strict")
    assert np.array_equal(one.probabilities, other.probabilities)


@pytest.mark.parametrize("name", LEARNERS)
def test_what_a_method_cannot_use_is_said_in_one_line(name):
    def fit(support=SUPPORT, val=VAL, queries=TEST.features, protocol="val-tuned"):
        METHODS[name]().fit_predict(support, val, queries, 3, protocol)

    with pytest.raises(BusistoreError, match="no image of class 2 of 3"):
        fit(Labelled(SUPPORT.features[:8], SUPPORT.labels[:8]))
    with pytest.raises(BusistoreError, match="1 of 12 support vectors are zero or not finite"):
        fit(Labelled(SUPPORT.features * (np.arange(12) != 3)[:, None], SUPPORT.labels))
    with pytest.raises(BusistoreError, match="2 of 36 test vectors are zero or not finite"):
        fit(queries=np.where((np.arange(36) < 2)[:, None], np.nan, TEST.features))
    with pytest.raises(UnknownName, match=f"no protocol of {name} 'stict'; did you mean 'strict'"):
        fit(protocol="stict")
    if name != "prototype":
        for nothing in (None, Labelled(np.empty((0, 12)), np.empty(0, int))):
            with pytest.raises(BusistoreError, match="no validation images to choose on; use --protocol strict"):
                fit(val=nothing)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", LEARNERS)
def test_groups_number_what_is_independent_and_change_no_fit_by_their_names(name, protocol):
    groups = np.array([0, 0, 1, 2, 3, 4, 5, 5, 6, 6, 7, 8])
    one = METHODS[name]().fit_predict(SUPPORT._replace(groups=groups), VAL, TEST.features, 3, protocol)
    other = METHODS[name]().fit_predict(SUPPORT._replace(groups=90 - groups), VAL, TEST.features, 3, protocol)
    assert np.array_equal(one.probabilities, other.probabilities)
    assert n_groups(SUPPORT) == 12
    assert n_groups(SUPPORT._replace(groups=groups)) == 9
    with pytest.raises(ValueError, match=r"12 support images, groups of shape \(3,\)"):
        METHODS[name]().fit_predict(SUPPORT._replace(groups=groups[:3]), VAL, TEST.features, 3, protocol)


@pytest.mark.parametrize("k", [1, 3, 5, 12])
def test_knn_equals_scikit_learn(k):
    from sklearn.neighbors import KNeighborsClassifier

    theirs = KNeighborsClassifier(k, weights="distance", metric="cosine", algorithm="brute")
    theirs.fit(SUPPORT.features.astype(float), SUPPORT.labels)
    got = KNearest(default_k=k).fit_predict(SUPPORT, None, TEST.features, 3, "strict")
    assert got.probabilities == pytest.approx(theirs.predict_proba(TEST.features.astype(float)), abs=1e-9)


def test_knn_votes_by_hand():
    """Cosine distances 0.2, 0.4 and 1.0 to classes 0, 1, 1: weights 5, 2.5, 1."""
    support = Labelled(np.array([[0.8, 0.6], [0.6, 0.8], [0.0, 3.0]]), np.array([0, 1, 1]))
    queries = np.array([[2.0, 0.0], [0.0, 1.0]])
    got = KNearest(default_k=3).fit_predict(support, None, queries, 2, "strict")
    assert got.probabilities[0] == pytest.approx([5 / 8.5, 3.5 / 8.5])
    assert got.probabilities[1].tolist() == [0, 1]  # equal to a support vector
    assert KNearest(default_k=50).fit_predict(support, None, queries, 2, "strict").chosen == {"k": 3}


def test_knn_takes_the_first_best_k_on_validation():
    got = KNearest().fit_predict(SUPPORT, VAL, TEST.features, 3, "val-tuned")
    scores = {}
    for k in (1, 3, 5, 7, 9, 12):  # 15 and 25 are more than the support holds
        one = KNearest(k_grid=(k,)).fit_predict(SUPPORT, VAL, TEST.features, 3, "val-tuned")
        scores[k] = one.chosen["val_macro_f1"]
    assert got.chosen == {"k": max(scores, key=scores.get), "val_macro_f1": max(scores.values())}


def test_prototype_by_hand():
    """Means (1, 0) and (0, 1); the query's cosines are 0.8 and 0.6."""
    root = np.sqrt(0.5)
    support = Labelled(np.array([[root, root], [9 * root, -9 * root], [0.0, 2.0]]), np.array([0, 0, 1]))
    got = Prototype(scale=10).fit_predict(support, None, np.array([[4.0, 3.0]]), 2, "strict").probabilities
    assert got[0, 0] == pytest.approx(1 / (1 + np.exp(-10 * (0.8 - 0.6))))


def test_opposite_vectors_have_no_mean():
    support = Labelled(np.array([[1.0, 0], [-1.0, 0], [0, 1.0]]), np.array([0, 0, 1]))
    with pytest.raises(BusistoreError, match="1 of 2 class mean vectors are zero"):
        Prototype().fit_predict(support, None, np.eye(2), 2, "strict")


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_frozen_described_and_fit_for_keys(name):
    method = METHODS[name]()
    assert canonical_json(method)
    assert method.__doc__.splitlines()[0].endswith(".")
    with pytest.raises(FrozenInstanceError):
        method.anything = 1


def test_parameters_are_read_by_type():
    probe = with_parameters(LinearProbe, {"max_iter": "100", "c_grid": "0.1, 1", "tol": "1e-10"})
    assert probe == LinearProbe(max_iter=100, c_grid=(0.1, 1.0), tol=1e-10)
    assert with_parameters(KNearest, {"k_grid": "3"}) == KNearest(k_grid=(3,))
    assert with_parameters(Prototype, {}) == Prototype()


@dataclass(frozen=True)
class Sample:
    rank: int | None = 4
    merge: bool = False
    mode: str = "plain"


def test_parameters_may_be_none_true_or_words():
    got = with_parameters(Sample, {"rank": "none", "merge": "Yes", "mode": "full"})
    assert got == Sample(None, True, "full")
    assert with_parameters(Sample, {"rank": "8", "merge": "0"}) == Sample(8, False)


@pytest.mark.parametrize(("kind", "name", "text", "message"), [
    (LinearProbe, "max_itr", "5", "no parameter of linear-probe 'max_itr'; did you mean 'max_iter'"),
    (LinearProbe, "max_iter", "many", "parameter max_iter='many' of linear-probe: a whole number wanted, such as 5000"),
    (LinearProbe, "c_grid", "1;2", "a finite number, or several between commas, wanted, such as 0.01,0.1,1.0,10"),
    (LinearProbe, "tol", "nan", "tol='nan' of linear-probe: a finite number wanted, such as 0.0001"),
    (LinearProbe, "c_grid", "", "linear-probe: every C must be above 0"),
    (LinearProbe, "c_grid", "1,-1", "linear-probe: every C must be above 0"),
    (LinearProbe, "max_iter", "0", "max_iter and tol must be above 0"),
    (LinearProbe, "n_folds", "1", "n_folds must be at least 2"),
    (KNearest, "default_k", "0", "knn: every k must be at least 1"),
    (Prototype, "scale", "0", "prototype: scale must be above 0"),
    (Sample, "merge", "maybe", "parameter merge='maybe' of Sample: true or false wanted, such as false"),
    (Sample, "rank", "x", "a whole number or none wanted, such as 4"),
])  # fmt: skip
def test_parameters_that_cannot_be_are_refused(kind, name, text, message):
    with pytest.raises(BusistoreError, match=message) as caught:
        with_parameters(kind, {name: text})
    assert "\n" not in str(caught.value)


def test_listing_the_methods_imports_nothing_heavy():
    heavy = {"sklearn", "scipy", "torch", "pandas", "threadpoolctl"}
    code = f"import sys; from busistore import methods, splits, stats; sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
