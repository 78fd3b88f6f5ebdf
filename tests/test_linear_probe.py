"""The probe against scikit-learn at a tight tolerance, against its own gradient, and against itself one by one."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busistore import metrics
from busistore.errors import BusistoreError
from busistore.methods import Labelled, fit_predict_many, logistic
from busistore.methods.base import normalise, softmax
from busistore.methods.blocks import in_threads, of_one_size
from busistore.methods.linear_probe import LinearProbe
from tests.clouds import clouds

SUPPORT, VAL, TEST = clouds(4, 1), clouds(10, 2), clouds(12, 3)
GRID = (0.01, 0.1, 1.0, 10.0, 100.0)


def sklearn_probe(support, c, tol=1e-10, solver="lbfgs"):
    from sklearn.linear_model import LogisticRegression

    probe = LogisticRegression(C=c, max_iter=20_000, class_weight="balanced", tol=tol, solver=solver)
    return probe.fit(normalise(support.features), support.labels)


def plain_loop(support, val, queries, tol=1e-10):
    """C, probabilities of the queries and the smallest lead of that C, by scikit-learn, one fit after another."""
    from sklearn.metrics import f1_score

    probes = {c: sklearn_probe(support, c, tol) for c in GRID}
    unit = normalise(val.features)
    scores = {c: f1_score(val.labels, p.predict(unit), average="macro") for c, p in probes.items()}
    best = max(scores, key=scores.get)
    return best, probes[best].predict_proba(normalise(queries)), scores[best]


def separable(seed):
    return clouds(8, seed, dim=40, spread=0.05)


def repeated(seed):
    one = clouds(3, seed, dim=40)
    return Labelled(np.repeat(one.features, 3, axis=0), np.repeat(one.labels, 3))


def nearly_parallel(seed):
    """All vectors within 1e-4 of one direction: what tells them apart is lost in their products unless centred."""
    one = clouds(6, seed, dim=40)
    return Labelled((one.features + 1e5 * np.ones(40)).astype(np.float64), one.labels)


def one_dimension_rules(seed):
    one = clouds(6, seed, dim=40)
    return Labelled(one.features * np.where(np.arange(40) == 0, 1e4, 1), one.labels)


def uneven(seed):
    one = clouds(9, seed, dim=40)
    kept = np.sort(np.random.default_rng(seed).permutation(27)[:20])
    return Labelled(one.features[kept], one.labels[kept])


KINDS = {
    "separable": separable, "repeated": repeated, "nearly parallel": nearly_parallel, "uneven": uneven,
    "one dimension rules": one_dimension_rules, "one shot": lambda seed: clouds(1, seed, dim=40),
    "two classes": lambda seed: clouds(7, seed, dim=40, n_classes=2),
    "five classes": lambda seed: clouds(4, seed, dim=40, n_classes=5),
    "more images than dimensions": lambda seed: clouds(16, seed, dim=40),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_scikit_learns_at_every_c(kind):
    for seed in range(3):
        support = KINDS[kind](seed)
        queries = np.concatenate([support.features, clouds(5, 50, dim=40).features])
        n_classes = len(set(support.labels))
        for c in (*GRID, 1e4):
            outcome = LinearProbe(c_grid=(c,)).fit_predict(support, support, queries, n_classes, "val-tuned")
            assert outcome.chosen["n_fell_back"] == 0
            solver = "lbfgs" if c < 10 else "newton-cholesky"  # lbfgs stops 1e-6 short of the optimum at large C
            wanted = sklearn_probe(support, c, solver=solver).predict_proba(normalise(queries))
            assert np.abs(outcome.probabilities - wanted).max() < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_vanishes_in_the_space_of_features(kind):
    """C sum_i w_i (p_i - y_i) x_i + W = 0 and sum_i w_i (p_i - y_i) = 0; of two classes one vector W is penalised."""
    support, grid = KINDS[kind](7), (*GRID, 1e6)
    x, n_classes = normalise(support.features), len(set(support.labels))
    weight = (len(x) / (n_classes * np.bincount(support.labels)))[support.labels]
    fits = logistic.fit(x[None], support.labels[None], weight[None], n_classes, grid)
    assert fits.converged.all()
    for k, c in enumerate(grid):
        w, b = fits.weights[0, k], fits.intercepts[0, k]
        miss = weight[:, None] * (softmax(x @ w + b) - np.eye(n_classes)[support.labels])
        penalty = (1 if n_classes > 2 else 2) / (c * len(x))
        near = 50 * max(logistic.TOLERANCE * penalty, logistic.FLOOR)
        assert np.abs(x.T @ miss / len(x) + penalty * w).max() < near
        assert np.abs(miss.sum(axis=0)).max() / len(x) < near


@pytest.mark.parametrize("seed", range(12))
def test_the_same_c_and_metrics_as_a_plain_loop(seed):
    support, val, test = clouds(1 + seed, seed, dim=30), clouds(10, 20 + seed, dim=30), clouds(12, 40 + seed, dim=30)
    c, probabilities, score = plain_loop(support, val, test.features)
    got = LinearProbe().fit_predict(support, val, test.features, 3, "val-tuned")
    assert got.chosen["C"] == c
    assert got.chosen["val_macro_f1"] == pytest.approx(score, abs=1e-12)
    assert same_metrics(test.labels, got.probabilities, probabilities)


def same_metrics(labels, mine, theirs):
    names = ["a", "b", "c"]
    found = [metrics.classification_metrics([names[k] for k in labels], p, names) for p in (mine, theirs)]
    smooth = {"brier", "log_loss", "ece"}  # of the probabilities themselves, which agree to 1e-6
    return all(abs(a.value - b.value) < (1e-5 if a.metric in smooth else 1e-12) for a, b in zip(*found))


@pytest.mark.slow
@pytest.mark.realdata
def test_every_episode_of_a_grid_on_real_images_is_the_plain_loops(real_vectors):
    """Vectors of the pretrained offline encoder: shots 1, 4 and 16, five seeds, chosen on the rest."""
    rng = np.random.default_rng(0)
    parts = {"train": 24, "val": 10, "test": 10}
    rows = {part: [] for part in parts}
    for label in range(3):
        line = rng.permutation(np.flatnonzero(real_vectors.labels == label))
        for (part, n), start in zip(parts.items(), (0, 24, 34)):
            rows[part] += sorted(line[start : start + n])
    train, val, test = (Labelled(real_vectors.features[r], real_vectors.labels[r]) for r in rows.values())
    draws = [
        np.sort(np.concatenate([rng.permutation(np.flatnonzero(train.labels == c))[:n] for c in range(3)]))
        for n in (1, 4, 16) for _ in range(5)
    ]  # fmt: skip
    outcomes = fit_predict_many(LinearProbe(), train, draws, val, test.features, 3, "val-tuned")
    for picked, got in zip(draws, outcomes, strict=True):
        support = Labelled(train.features[picked], train.labels[picked])
        c, probabilities, score = plain_loop(support, val, test.features)
        assert (got.chosen["C"], got.chosen["n_fell_back"]) == (c, 0)
        assert got.chosen["val_macro_f1"] == pytest.approx(score, abs=1e-12)
        assert np.abs(got.probabilities - probabilities).max() < 1e-6
        assert same_metrics(test.labels, got.probabilities, probabilities)


@pytest.mark.parametrize("seed", range(6))
def test_probe_is_the_published_protocol_spelt_out(seed):
    from sklearn.metrics import f1_score

    support, val, test = clouds(1 + seed, seed), clouds(10, 20 + seed), clouds(12, 40 + seed)
    unit = [x.features / np.linalg.norm(x.features.astype(np.float64), axis=1, keepdims=True) for x in (val, test)]
    best, expected = -1.0, None
    for c in (0.01, 0.1, 1, 10, 100):
        probe = sklearn_probe(support, c, tol=1e-4)
        score = f1_score(val.labels, probe.predict(unit[0]), average="macro")
        if score > best:
            best, chosen, expected = score, c, probe.predict_proba(unit[1])
    got = LinearProbe(solver="lbfgs").fit_predict(support, val, test.features, 3, "val-tuned")
    assert got.chosen == {"C": chosen, "converged": True, "val_macro_f1": pytest.approx(best, abs=1e-12)}
    assert got.probabilities == pytest.approx(expected, abs=1e-9)


def test_strict_probe_of_one_shot_takes_the_default():
    got = LinearProbe().fit_predict(clouds(1, 1), None, TEST.features, 3, "strict")
    assert got.chosen == {"C": 1.0, "converged": True, "n_fell_back": 0}


def test_strict_probe_leaves_each_shot_out_in_turn():
    """The loop spelt out: with 4 shots, fold i is the i-th image of every class."""
    from sklearn.metrics import f1_score

    got = LinearProbe().fit_predict(SUPPORT, None, TEST.features, 3, "strict")
    unit = Labelled(normalise(SUPPORT.features), SUPPORT.labels)
    scores = {}
    for c in (0.01, 0.1, 1.0, 10.0, 100.0):
        called = np.empty(12, int)
        for i in range(4):
            out = [i, 4 + i, 8 + i]
            rest = Labelled(np.delete(unit.features, out, axis=0), np.delete(unit.labels, out))
            called[out] = sklearn_probe(rest, c).predict(unit.features[out])
        scores[c] = f1_score(unit.labels, called, average="macro")
    assert got.chosen["C"] == max(scores, key=scores.get)
    assert got.chosen["held_out_macro_f1"] == pytest.approx(max(scores.values()), abs=1e-12)


def test_strict_probe_is_fooled_by_twins_unless_it_is_told_their_groups():
    """Labels are chance and each image is there twice: held out alone it is found again, held out with its twin not."""
    rng = np.random.default_rng(4)
    features, labels = rng.normal(size=(24, 60)), np.repeat([0, 1], 12)
    twins = Labelled(np.repeat(features, 2, axis=0), np.repeat(labels, 2))
    grouped = twins._replace(groups=np.repeat(np.arange(24), 2))
    fooled, honest = (LinearProbe().fit_predict(s, None, features, 2, "strict").chosen for s in (twins, grouped))
    assert fooled["held_out_macro_f1"] == 1
    assert honest["held_out_macro_f1"] < 0.75


@pytest.mark.parametrize("protocol", ["val-tuned", "strict"])
def test_together_they_are_what_they_are_alone(protocol):
    """Bit for bit, whatever other support sets are solved with them, and in the order asked for."""
    train = clouds(40, 5, dim=60)._replace(groups=np.arange(120) // 2)
    rng = np.random.default_rng(0)
    sizes = [1, 9, 2, 2, 9, 4, 4, 4, 1, 3]
    draws = [np.sort(np.concatenate([40 * c + rng.permutation(40)[:n] for c in range(3)])) for n in sizes]
    val, queries = clouds(10, 6, dim=60), clouds(9, 7, dim=60).features
    together = list(fit_predict_many(LinearProbe(), train, draws, val, queries, 3, protocol))
    for rows, outcome in zip(draws, together, strict=True):
        support = Labelled(train.features[rows], train.labels[rows], train.groups[rows])
        alone = LinearProbe().fit_predict(support, val, queries, 3, protocol)
        assert alone.chosen == outcome.chosen
        assert (alone.n_labelled, alone.saw_val) == (outcome.n_labelled, outcome.saw_val)
        assert np.array_equal(alone.probabilities, outcome.probabilities)


def test_what_does_not_converge_falls_to_scikit_learn_and_is_counted(monkeypatch):
    wanted = LinearProbe().fit_predict(SUPPORT, VAL, TEST.features, 3, "val-tuned")
    monkeypatch.setattr(logistic, "MOST_STEPS", 3)  # enough for strong penalties alone
    got = LinearProbe().fit_predict(SUPPORT, VAL, TEST.features, 3, "val-tuned")
    assert 0 < got.chosen["n_fell_back"] < 5
    assert got.chosen["converged"] is True
    assert got.chosen["C"] == wanted.chosen["C"]
    assert np.abs(got.probabilities - wanted.probabilities).max() < 1e-6


def test_every_fit_within_the_support_is_counted_too(monkeypatch):
    monkeypatch.setattr(logistic, "MOST_STEPS", 0)
    got = LinearProbe().fit_predict(SUPPORT, None, TEST.features, 3, "strict")
    assert got.chosen["n_fell_back"] == 4 * 5 + 6  # four folds at five C, then those and the default on all images


@pytest.mark.parametrize(("grid", "max_iter"), [((100.0,), 1), ((0.01, 1e4), 8)])
def test_lbfgs_that_stops_early_says_so(grid, max_iter):
    """Also where it is not the chosen C that did: the choice rests on all."""
    probe = LinearProbe(solver="lbfgs", max_iter=max_iter, c_grid=grid)
    assert probe.fit_predict(SUPPORT, VAL, TEST.features, 3, "val-tuned").chosen["converged"] is False


def test_a_step_that_would_go_up_is_shortened():
    """From far off, at a weak penalty, whole steps overshoot; no step may raise the objective."""
    x = normalise(SUPPORT.features)[None]
    batch = logistic._batch(x, SUPPORT.labels[None], np.ones((1, 12)), 3)
    here = logistic._state(batch, 40 * np.random.default_rng(0).normal(size=(1, 13, 2)), np.array([1e-6]))
    values = [float(here.value[0])]
    for _ in range(25):
        gradient = logistic._gradient(batch, here, np.array([1e-6]))
        here = logistic._step(batch, here, np.array([1e-6]), gradient)
        values.append(float(here.value[0]))
    assert all(b <= a * (1 + 1e-9) for a, b in itertools.pairwise(values))
    assert values[-1] < 0.1 * values[0]


def test_a_gradient_that_is_no_number_is_no_optimum():
    batch = logistic._batch(np.full((1, 4, 2), np.nan), np.array([[0, 1, 2, 0]]), np.ones((1, 4)), 3)
    start = logistic._state(batch, np.zeros((1, 3, 2)), np.ones(1))
    assert logistic._newton(batch, start, np.ones(1))[1].tolist() == [False]


def test_two_classes_by_lbfgs_and_by_newton_agree():
    support, queries = clouds(7, 3, n_classes=2), clouds(9, 4, n_classes=2).features
    one, other = (
        LinearProbe(solver=solver, tol=1e-10).fit_predict(support, None, queries, 2, "strict")
        for solver in ("newton", "lbfgs")
    )
    assert one.chosen["C"] == other.chosen["C"]
    assert np.abs(one.probabilities - other.probabilities).max() < 1e-6


@pytest.mark.parametrize("c", [1e-320, 1e9])
def test_a_c_beyond_rounding_is_refused(c):
    with pytest.raises(BusistoreError, match=r"every C must be from 1e-08 to 1e\+08"):
        LinearProbe(c_grid=(1.0, c))


def test_an_unknown_solver_is_refused():
    with pytest.raises(BusistoreError, match="linear-probe: solver is newton or lbfgs, not 'adam'"):
        LinearProbe(solver="adam")


@given(st.integers(2, 7))
def test_contrasts_are_orthonormal_and_sum_to_nothing(n_classes):
    basis = logistic.contrasts(n_classes)
    assert basis.T @ basis == pytest.approx(np.eye(n_classes - 1), abs=1e-12)
    assert basis.sum(axis=0) == pytest.approx(0, abs=1e-12)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 2), min_size=3, max_size=20).filter(lambda labels: len(set(labels)) == 3))
def test_balanced_weights_are_scikit_learns(labels):
    from sklearn.utils.class_weight import compute_sample_weight

    kept = np.append(np.ones(len(labels), bool), False)  # one image left out, which counts for nothing
    got = logistic.balanced(np.array([[*labels, 0]]), kept[None], 3)[0]
    assert got[:-1] == pytest.approx(compute_sample_weight("balanced", labels))
    assert got[-1] == 0


@settings(max_examples=60)
@given(st.lists(st.integers(1, 5), max_size=40), st.integers(1, 60), st.integers(1, 6))
def test_blocks_hold_everything_once_in_order_and_one_size_each(sizes, n_cells, most):
    blocks = of_one_size(sizes, n_cells, most)
    assert [k for block in blocks for k in block] == list(range(len(sizes)))
    for block in blocks:
        assert len({sizes[k] for k in block}) == 1
        assert len(block) == 1 or len(block) <= min(most, n_cells // sizes[block[0]] ** 2)


def test_threads_keep_the_order_and_hand_on_what_goes_wrong():
    assert list(in_threads(lambda n: n * n, range(20))) == [n * n for n in range(20)]

    def fragile(n):
        if n == 3:
            raise BusistoreError("no image of class 2")
        return n

    with pytest.raises(BusistoreError, match="class 2"):
        list(in_threads(fragile, range(2000)))


def test_threads_run_no_more_than_a_little_ahead():
    begun = []
    results = in_threads(begun.append, range(1000))
    next(results)
    assert len(begun) < 100
    results.close()
    assert len(begun) < 100


def test_results_are_the_same_bits_on_one_thread_and_on_two():
    code = (
        "import hashlib, numpy as np; from tests.clouds import clouds; from busistore.methods import *\n"
        "train, val = clouds(40, 5, dim=60), clouds(10, 6, dim=60)\n"
        "draws = [np.sort(np.concatenate([40 * c + np.random.default_rng(s).permutation(40)[:n] for c in range(3)]))"
        " for n in (2, 16, 32) for s in range(6)]\n"
        "found = fit_predict_many(METHODS['linear-probe'](), train, draws, val, val.features, 3, 'val-tuned')\n"
        "print(hashlib.sha256(b''.join(o.probabilities.tobytes() for o in found)).hexdigest())"
    )
    root = Path(__file__).parents[1]
    hashes = {
        subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True,
                       env=os.environ | {"OPENBLAS_NUM_THREADS": n, "OMP_NUM_THREADS": n}).stdout
        for n in ("1", "2")
    }  # fmt: skip
    assert len(hashes) == 1
