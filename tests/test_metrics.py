"""Every metric against scikit-learn to 1e-12, ties included, and against numbers worked by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busistore import metrics
from busistore.metrics import METRICS, classification_metrics

CLASSES = ["benign", "malignant", "normal"]
WORST = 1e-12


def run(n, n_classes, seed, n_levels=None, classes_in_truth=None):
    """Labels and probabilities; with few levels the scores are full of ties (and of ties for the top class)."""
    rng = np.random.default_rng(seed)
    true = rng.integers(classes_in_truth or n_classes, size=n)
    weights = rng.gamma(0.5, size=(n, n_classes)) if n_levels is None else rng.integers(1, n_levels, (n, n_classes))
    weights = weights + 1.5 * np.eye(n_classes)[true] * rng.integers(2, size=(n, 1))
    return true, weights / weights.sum(axis=1, keepdims=True)


def values(true, probs, classes=CLASSES):
    rows = classification_metrics([classes[i] for i in true], probs, classes)
    assert len({row[:2] for row in rows}) == len(rows)
    return {(row.metric, row.class_): row.value for row in rows}


def oracle(true, probs, classes=CLASSES):
    """The same numbers by scikit-learn."""
    from sklearn import metrics as sk

    predicted, n = probs.argmax(axis=1), len(classes)
    out = {
        ("accuracy", ""): sk.accuracy_score(true, predicted),
        ("balanced_accuracy", ""): sk.balanced_accuracy_score(true, predicted),
        ("weighted_f1", ""): sk.f1_score(true, predicted, average="weighted", zero_division=0),
        ("mcc", ""): sk.matthews_corrcoef(true, predicted),
        ("log_loss", ""): sk.log_loss(true, probs, labels=range(n)),
        ("brier", ""): sk.brier_score_loss(np.eye(n)[true], probs, scale_by_half=False),
    }
    per_class = {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}
    for name, score in per_class.items():
        out["macro_" + name, ""] = score(true, predicted, average="macro", zero_division=0)
        each = score(true, predicted, labels=range(n), average=None, zero_division=0)
        out |= {(name, label): value for label, value in zip(classes, each)}
    ranking = {"auroc": sk.roc_auc_score, "average_precision": sk.average_precision_score}
    for name, score in ranking.items():
        each = [score(true == i, probs[:, i]) for i in range(n) if 0 < (true == i).sum() < len(true)]
        out |= {(name, classes[i]): value for i, value in zip(np.unique(true), each)} | {(name, ""): np.mean(each)}
    return out


@pytest.mark.parametrize("n_levels", [None, 4])
@pytest.mark.parametrize(("n", "classes"), [(95, CLASSES), (40, CLASSES[:2]), (300, [*CLASSES, "cyst", "scar"])])
@pytest.mark.parametrize("seed", range(5))
def test_every_metric_equals_scikit_learn(n, classes, n_levels, seed):
    true, probs = run(n, len(classes), seed, n_levels)
    ours, theirs = values(true, probs, classes), oracle(true, probs, classes)
    assert {key: ours[key] for key in theirs} == pytest.approx(theirs, abs=WORST, rel=0)
    others = {"support", "ece", "auroc_malignant_vs_benign"}
    assert {name for name, _ in ours} == {name for name, _ in theirs} | others


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.integers(1, 3), st.integers(2, 5), st.integers(0, 10**6))
def test_metrics_equal_scikit_learn_where_classes_are_missing(n, in_truth, n_levels, seed):
    true, probs = run(n, 3, seed, n_levels, in_truth)
    if len(np.unique(true)) < 2:
        return
    ours = values(true, probs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = oracle(true, probs)
    shared = {key: value for key, value in theirs.items() if key in ours}
    assert {key: ours[key] for key in shared} == pytest.approx(shared, abs=WORST, rel=0)
    absent = {CLASSES[i] for i in range(3) if i not in true}
    assert {label for name, label in set(theirs) - set(ours)} <= absent


def test_numbers_worked_by_hand():
    """Six images; confusion rows: benign 2 1 0, malignant 0 1 1, normal 0 0 1."""
    labels = ["benign"] * 3 + ["malignant"] * 2 + ["normal"]
    probs = np.array([[8, 1, 1], [5, 4, 1], [3, 6, 1], [2, 7, 1], [1, 3, 6], [0, 1, 9]]) / 10
    rows = {(m.metric, m.class_): m for m in classification_metrics(labels, probs, CLASSES)}
    got = {key: m.value for key, m in rows.items()}
    assert got["accuracy", ""] == pytest.approx(4 / 6)
    assert got["balanced_accuracy", ""] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert got["precision", "malignant"] == got["precision", "normal"] == 0.5
    assert [got["f1", c] for c in CLASSES] == pytest.approx([4 / 5, 1 / 2, 2 / 3])
    assert got["macro_f1", ""] == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)
    assert got["weighted_f1", ""] == pytest.approx((3 * 4 / 5 + 2 * 1 / 2 + 2 / 3) / 6)
    assert [got["support", c] for c in CLASSES] == [3, 2, 1]
    # (4*6 - (3*2 + 2*2 + 1*2)) / sqrt((36 - 14) (36 - 12))
    assert got["mcc", ""] == pytest.approx(12 / np.sqrt(22 * 24))
    # squared errors summed over classes, in hundredths: 6, 42, 86, 14, 86, 2
    assert got["brier", ""] == pytest.approx(2.36 / 6)
    assert got["log_loss", ""] == pytest.approx(-np.log([0.8, 0.5, 0.3, 0.7, 0.3, 0.9]).mean())
    # malignant against benign, p_mal/(p_mal+p_ben): 1/9 4/9 6/9 | 7/9 3/4 -> every pair right
    assert got["auroc_malignant_vs_benign", ""] == 1.0
    assert rows["auroc_malignant_vs_benign", ""].n_used == 5
    # normal: 9 against 6 and four ones; malignant .7 above all, .3 above .1 .1 only of .1 .4 .6 .1
    assert got["auroc", "normal"] == 1.0
    assert got["auroc", "malignant"] == pytest.approx((4 + 2) / 8)
    assert got["average_precision", "malignant"] == pytest.approx((1 + 2 / 4) / 2)
    # top confidences .8 r, .5 r, .6 w, .7 r, .6 w, .9 r; bins of 1/15: .6 and .6 share one
    assert got["ece", ""] == pytest.approx((0.2 + 0.5 + 1.2 + 0.3 + 0.1) / 6)


def test_ranking_metrics_equal_slow_plain_ones():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(4, size=30) / 7, rng.integers(2, size=30) == 1
    pairs = [(p > q) + 0.5 * (p == q) for p in scores[positive] for q in scores[~positive]]
    assert metrics.auroc(positive, scores) == pytest.approx(np.mean(pairs), abs=WORST)
    area, found = 0.0, 0
    for threshold in sorted(set(scores), reverse=True):
        called = scores >= threshold
        area += ((called & positive).sum() - found) / positive.sum() * (called & positive).sum() / called.sum()
        found = (called & positive).sum()
    assert metrics.average_precision(positive, scores) == pytest.approx(area, abs=WORST)


def test_ece_equals_a_plain_loop():
    true, probs = run(200, 3, seed=1)
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == true
    total = 0.0
    for i in range(15):
        held = [(c, r) for c, r in zip(confidence, right) if i / 15 < c <= (i + 1) / 15]
        if held:
            total += len(held) / 200 * abs(np.mean([c for c, _ in held]) - np.mean([r for _, r in held]))
    assert metrics.ece(true, probs) == pytest.approx(total, abs=WORST)


def test_many_runs_are_one_call():
    runs = [run(50, 3, seed, n_levels=5) for seed in range(8)]
    counts = np.stack([metrics.confusion(t, p.argmax(axis=1), 3) for t, p in runs])
    for name, of in metrics.CONFUSION_METRICS.items():
        assert of(counts) == pytest.approx([values(t, p)[name, ""] for t, p in runs], abs=WORST)
    scores, positive = np.stack([p[:, 1] for _, p in runs]), np.stack([t == 1 for t, _ in runs])
    assert metrics.auroc(positive, scores) == pytest.approx([values(t, p)["auroc", "malignant"] for t, p in runs])


def test_what_is_undefined_is_left_out():
    got = values(np.zeros(4, int), np.tile([0.6, 0.3, 0.1], (4, 1)))
    assert got["accuracy", ""] == got["macro_f1", ""] == 1
    names = {name for name, _ in got}
    assert names.isdisjoint({"auroc", "average_precision", "mcc", "auroc_malignant_vs_benign"})
    assert ("recall", "normal") not in got
    assert got["support", "normal"] == 0
    assert classification_metrics([], np.empty((0, 3)), CLASSES) == []


def test_a_class_never_called_has_precision_zero_and_constant_predictions_mcc_zero():
    got = values(np.array([0, 1, 1, 2]), np.tile([0.6, 0.3, 0.1], (4, 1)))
    assert got["precision", "malignant"] == got["mcc", ""] == 0
    assert got["auroc", "malignant"] == 0.5


def test_certain_and_wrong_is_the_worst():
    got = values(np.array([1, 0]), np.array([[1.0, 0, 0], [0, 1.0, 0]]))
    assert got["brier", ""] == 2
    assert got["ece", ""] == 1
    assert got["log_loss", ""] == pytest.approx(-np.log(np.finfo(float).eps))


def test_no_probability_for_either_of_two_classes_is_a_tie():
    got = values(np.array([0, 1]), np.array([[0, 0, 1.0], [0, 0, 1.0]]))
    assert got["auroc_malignant_vs_benign", ""] == 0.5


def test_other_classes_name_their_own_pair():
    rows = classification_metrics(["a", "b"], np.eye(2), ["a", "b"], positive="a", negative="b")
    assert "auroc_a_vs_b" in {row.metric for row in rows}
    assert not [row for row in classification_metrics(["a", "b"], np.eye(2), ["a", "b"]) if "_vs_" in row.metric]


@pytest.mark.parametrize("probs", [[[0.5, 0.6, 0.1]], [[1.5, -0.5, 0]], [[np.nan, 0.5, 0.5]]])
def test_rows_that_are_no_probabilities_are_bugs(probs):
    with pytest.raises(ValueError, match="sum to 1"):
        classification_metrics(["benign"], np.array(probs), CLASSES)
    with pytest.raises(ValueError, match="cyst"):
        classification_metrics(["cyst"], np.array([[1.0, 0, 0]]), CLASSES)


def test_every_metric_is_described_and_stored_under_its_scope():
    true, probs = run(60, 3, seed=3)
    rows = classification_metrics([CLASSES[i] for i in true], probs, CLASSES)
    elsewhere = {name for name, kind in METRICS.items() if kind.scope in ("prompt", "epoch", "mask")}
    assert {row.metric for row in rows} == METRICS.keys() - elsewhere
    for name, kind in METRICS.items():
        assert "\n" not in kind.description
        if name in elsewhere:
            continue
        labels = {row.class_ for row in rows if row.metric == name}
        assert labels == {"overall": {""}, "class": set(CLASSES), "both": {"", *CLASSES}}[kind.scope]
