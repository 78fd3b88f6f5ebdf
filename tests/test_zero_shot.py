"""Zero-shot against hand-worked numbers, plain loops and scikit-learn; what prompts are worth; who may look at what."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score

from busistore.errors import BusistoreError, UnknownName
from busistore.ids import canonical_json
from busistore.methods import METHODS, Labelled, TextPrompts, with_parameters
from busistore.methods import prompt_scores as scores
from busistore.methods.zero_shot import TextReadout, ZeroShot
from busistore.metrics import METRICS, classification_metrics
from tests.test_methods import GARBLED, TEST, VAL, clouds

CLASSES = ["benign", "malignant", "normal"]
DIM = 12


def prompts_of(n_per_class=4, seed=7, scale=20.0, spread=1.2, n_classes=3) -> TextPrompts:
    """Prompts around the centres of `clouds`, of differing length; the ids are those of a set."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(n_classes, DIM))
    labels = np.repeat(np.arange(n_classes), n_per_class)
    vectors = (centres[labels] + spread * rng.normal(size=(len(labels), DIM))) * rng.uniform(1, 9, (len(labels), 1))
    ids = [f"toy-0/{CLASSES[c]}/{k:02d}" for c in range(n_classes) for k in range(n_per_class)]
    return TextPrompts(vectors.astype(np.float32), labels, ids, scale)


def picked(text: TextPrompts, among) -> TextPrompts:
    among = list(among)
    return TextPrompts(text.vectors[among], text.labels[among], [text.ids[p] for p in among], text.logit_scale)


TEXT = prompts_of()


def answer(text=TEXT, images=TEST, val=VAL, protocol="val-tuned", **fields):
    method = fields.pop("method", ZeroShot)(**fields)
    return method.fit_predict(None, val, images.features, 3, protocol, text=text)


def unit(v):
    v = np.asarray(v, np.float64)
    return v / np.sqrt((v * v).sum())


def slowly(text: TextPrompts, images: np.ndarray, n_classes: int) -> np.ndarray:
    """The published protocol, one image and one class at a time."""
    rows = []
    for image in images:
        logits = []
        for c in range(n_classes):
            mean = np.mean([unit(v) for v, label in zip(text.vectors, text.labels) if label == c], axis=0)
            logits.append(text.logit_scale * float(unit(image) @ unit(mean)))
        odds = np.exp(np.array(logits) - max(logits))
        rows.append(odds / odds.sum())
    return np.array(rows)


def macro(probs, truth):
    """Macro AUROC and macro-F1 by scikit-learn."""
    truth = np.asarray(truth)
    area = np.mean([roc_auc_score(truth == c, probs[:, c]) for c in range(probs.shape[1])])
    return area, f1_score(truth, probs.argmax(axis=1), average="macro")


def test_by_hand():
    """Prompts (1, 0) and (0, 5) point to (1, 1), the other class's to (0, -1); the query's cosines are .99 and -.8."""
    text = TextPrompts(np.array([[1.0, 0], [0, 5], [0, -2]]), np.array([0, 0, 1]), ["a", "b", "c"], 10.0)
    got = ZeroShot().fit_predict(None, None, np.array([[6.0, 8.0]]), 2, "strict", text=text)
    assert got.probabilities[0, 0] == pytest.approx(1 / (1 + np.exp(-10 * (1.4 / np.sqrt(2) + 0.8))), abs=1e-15)
    assert got.chosen == {"prompts": ["a", "b", "c"], "logit_scale": 10.0}
    assert (got.n_labelled, got.saw_val) == (0, False)


@pytest.mark.parametrize("n_per_class", [1, 2, 10])
def test_equals_the_formula_spelt_out(n_per_class):
    text = prompts_of(n_per_class)
    got = answer(text).probabilities
    assert got == pytest.approx(slowly(text, TEST.features, 3), abs=1e-12)
    assert np.abs(got.sum(axis=1) - 1).max() < 1e-12
    assert (got.argmax(axis=1) == TEST.labels).mean() > 0.5


def test_order_and_length_of_prompts_do_not_count():
    order = np.random.default_rng(3).permutation(len(TEXT.ids))
    assert answer(picked(TEXT, order)).probabilities == pytest.approx(answer().probabilities, abs=1e-12)
    longer = TEXT._replace(vectors=TEXT.vectors * np.random.default_rng(1).uniform(1, 50, (len(TEXT.ids), 1)))
    assert answer(longer).probabilities == pytest.approx(answer().probabilities, abs=1e-6)
    thrice = picked(TEXT, np.repeat(order, 3))
    assert answer(thrice).probabilities == pytest.approx(answer().probabilities, abs=1e-12)


def test_scale_moves_the_probabilities_and_never_the_class():
    soft, hard = (answer(TEXT._replace(logit_scale=s)).probabilities for s in (1.0, 100.0))
    assert np.array_equal(soft.argmax(axis=1), hard.argmax(axis=1))
    assert soft.max(axis=1).mean() < 0.7 < hard.max(axis=1).mean()


@pytest.mark.parametrize("protocol", ["val-tuned", "strict"])
@pytest.mark.parametrize("val", GARBLED.values(), ids=GARBLED)
@pytest.mark.parametrize("method", [ZeroShot, TextReadout])
def test_without_ranking_no_label_is_looked_at(method, val, protocol):
    one, other = (answer(val=v, protocol=protocol, method=method) for v in (VAL, val))
    assert np.array_equal(one.probabilities, other.probabilities)
    assert one == type(one)(one.probabilities, other.chosen, 0, False)


def test_ranking_looks_at_validation_labels_and_counts_them():
    seen = {what: answer(val=GARBLED[what], rank="val") for what in ("permuted", "the answers", "noise")}
    assert len({canonical_json(s.chosen) for s in seen.values()}) == 3
    for what, outcome in seen.items():
        n = len(GARBLED[what].labels)
        assert (outcome.n_labelled, outcome.saw_val, outcome.chosen["n_val"]) == (n, True, n)


def test_ranking_under_strict_is_refused():
    with pytest.raises(BusistoreError, match="chooses on validation images, which protocol 'strict' forbids"):
        answer(protocol="strict", rank="val")
    with pytest.raises(UnknownName, match="no protocol of 'zero-shot' 'stict'; did you mean 'strict'"):
        answer(protocol="stict")


@pytest.mark.parametrize(("given", "message"), [
    ({"val": None, "rank": "val"}, "no validation images to rank prompts on; use rank=none"),
    ({"val": Labelled(np.empty((0, DIM)), np.empty(0, int)), "rank": "val"}, "no validation images"),
    ({"val": GARBLED["all one class"], "rank": "val"}, "cannot be ranked on validation images of one class"),
    ({"val": GARBLED["not finite"], "rank": "val"}, "30 of 30 validation vectors are zero or not finite"),
    ({"text": picked(TEXT, range(8))}, "class 2 of 3 has no prompt"),
    ({"text": picked(TEXT, range(8)), "rank": "val"}, "class 2 of 3 has no prompt"),
    ({"text": TEXT._replace(vectors=TEXT.vectors * 0)}, "zero or not finite"),
    ({"images": Labelled(TEST.features * 0, TEST.labels)}, "36 of 36 test vectors are zero or not finite"),
])  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(given, message):
    with pytest.raises(BusistoreError, match=message) as caught:
        answer(**given)
    assert "\n" not in str(caught.value)


def test_rank_is_a_parameter():
    assert with_parameters(ZeroShot, {"rank": "val"}) == ZeroShot("val")
    assert with_parameters(TextReadout, {}) == TextReadout("none")
    with pytest.raises(BusistoreError, match="zero-shot: rank is none or val, not 'test'"):
        with_parameters(ZeroShot, {"rank": "test"})
    assert METHODS["zero-shot"] is ZeroShot
    assert METHODS["text-readout"] is TextReadout


# What prompts are worth


def bank(images=VAL, text=TEXT) -> scores.Bank:
    return scores.bank(images, text, 3)


def test_a_prompt_alone_is_ranked_as_by_scikit_learn():
    x = VAL.features.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    wanted = [roc_auc_score(VAL.labels == c, x @ unit(v)) for v, c in zip(TEXT.vectors, TEXT.labels)]
    assert bank().alone() == pytest.approx(wanted, abs=1e-12)
    assert scores.ranking(bank()) == sorted(range(12), key=lambda p: (-wanted[p], p))


def test_a_prompt_alone_by_hand():
    """Cosines of the prompt (1, 0) to images of its class: 1, .6; to others: .8, 0. Of four pairs three are right."""
    images = Labelled(np.array([[2.0, 0], [3, 4], [4, 3], [0, 1]]), np.array([0, 0, 1, 1]))
    text = TextPrompts(np.array([[1.0, 0], [0, 1]]), np.array([0, 1]), ["a", "b"], 1.0)
    assert scores.bank(images, text, 2).alone().tolist() == [0.75, 0.75]


@pytest.mark.parametrize("seed", range(5))
def test_scores_of_many_ensembles_at_once_are_those_of_each(seed):
    rng = np.random.default_rng(seed)
    members = rng.random((20, 12)) < 0.6
    members[:, [0, 4, 8]] = True
    areas, f1s = bank().scores(members)
    for row, area, f1 in zip(members, areas, f1s):
        probs = slowly(picked(TEXT, np.flatnonzero(row)), VAL.features, 3)
        assert (area, f1) == pytest.approx(macro(probs, VAL.labels), abs=1e-12)


def test_an_ensemble_without_a_class_has_no_score():
    members = np.ones((3, 12), bool)
    members[0, :4] = members[1, 8:] = False
    areas, f1s = bank().scores(members)
    assert np.isnan(areas).tolist() == np.isnan(f1s).tolist() == [True, True, False]


def test_prompts_that_cancel_out_are_no_ensemble():
    text = TextPrompts(np.array([[1.0, 0], [-1, 0], [0, 1]]), np.array([0, 0, 1]), ["a", "b", "c"], 9.0)
    images = Labelled(np.array([[2.0, 1], [1, 1], [0, 3], [1, 9]]), np.array([0, 0, 1, 1]))
    seen = scores.bank(images, text, 2)
    assert np.isnan(seen.scores(np.array([[1, 1, 1]], bool))).all()
    taken, told = scores.choose(seen)
    assert (taken, told["n_candidates"]) == ([0, 2], 2)


def stored(images=VAL, text=TEXT, part_classes=CLASSES) -> dict:
    found = list(ZeroShot().prompt_metrics(images, text, part_classes))
    assert len({(s, m.metric, m.class_) for s, m in found}) == len(found)
    assert {m.metric for _, m in found} <= METRICS.keys()
    assert {m.n_used for _, m in found} == {len(images.labels)}
    return {(subject, m.metric, m.class_): m.value for subject, m in found}


def named(probs, labels=VAL.labels) -> dict:
    rows = classification_metrics([CLASSES[c] for c in labels], probs, CLASSES)
    return {m.metric: m.value for m in rows if m.class_ == ""}


def test_scores_without_each_prompt_are_those_of_the_set_without_it():
    got, whole = stored(), named(slowly(TEXT, VAL.features, 3))
    for p, prompt_id in enumerate(TEXT.ids):
        rest = named(slowly(picked(TEXT, [q for q in range(12) if q != p]), VAL.features, 3))
        for metric in ("auroc", "macro_f1"):
            assert got[prompt_id, f"{metric}_without", ""] == pytest.approx(rest[metric], abs=1e-12)
            assert got[prompt_id, f"{metric}_added", ""] == pytest.approx(whole[metric] - rest[metric], abs=1e-12)
        assert got[prompt_id, "auroc", CLASSES[TEXT.labels[p]]] == bank().alone()[p]


def test_sets_hold_the_nth_prompt_of_every_class():
    got = stored()
    for k in range(4):
        one = named(slowly(picked(TEXT, [k, 4 + k, 8 + k]), VAL.features, 3))
        assert got[f"set-{k:02d}", "auroc", ""] == pytest.approx(one["auroc"], abs=1e-12)
        assert got[f"set-{k:02d}", "macro_f1", ""] == pytest.approx(one["macro_f1"], abs=1e-12)
    assert len(got) == 12 * 5 + 4 * 2


def test_classes_of_unequal_numbers_make_no_sets_and_a_lone_prompt_has_nothing_without_it():
    got = stored(text=picked(TEXT, [0, 1, 4, 8, 9]))
    assert not [s for s, _, _ in got if s.startswith("set-")]
    assert {metric for s, metric, _ in got if s == TEXT.ids[4]} == {"auroc"}
    assert {metric for s, metric, _ in got if s == TEXT.ids[0]} == {"auroc", "auroc_without", "macro_f1_without",
                                                                    "auroc_added", "macro_f1_added"}  # fmt: skip


def test_a_class_without_images_is_left_out_of_what_is_stored():
    two = Labelled(VAL.features[:20], VAL.labels[:20])
    got = stored(two)
    assert (TEXT.ids[8], "auroc", "normal") not in got
    probs = slowly(picked(TEXT, range(1, 12)), two.features, 3)
    wanted = np.mean([roc_auc_score(two.labels == c, probs[:, c]) for c in (0, 1)])
    assert got[TEXT.ids[0], "auroc_without", ""] == pytest.approx(wanted, abs=1e-12)


# The choice


def greedy(text: TextPrompts, val: Labelled) -> tuple[list[int], int]:
    """The search spelt out with scikit-learn: its prompts in the order taken, and the number of ensembles scored."""
    def score(among):
        return tuple(round(v, 12) for v in macro(slowly(picked(text, sorted(among)), val.features, 3), val.labels))

    x = val.features.astype(np.float64) / np.linalg.norm(val.features.astype(np.float64), axis=1, keepdims=True)
    alone = [round(roc_auc_score(val.labels == c, x @ unit(v)), 12) for v, c in zip(text.vectors, text.labels)]
    order = sorted(range(len(alone)), key=lambda p: (-alone[p], p))
    taken = [next(p for p in order if text.labels[p] == c) for c in range(3)]
    best, n = score(taken), 1
    while len(taken) < len(order):
        left = [(score([*taken, p]), -order.index(p), p) for p in order if p not in taken]
        n += len(left)
        top = max(left)
        if top[0] <= best:
            break
        best, taken = top[0], [*taken, top[2]]
    return taken, n


@pytest.mark.parametrize("seed", range(6))
def test_the_choice_is_the_greedy_search_spelt_out(seed):
    text, val = prompts_of(3, seed, spread=2.0), clouds(8, seed + 50)
    taken, told = scores.choose(bank(val, text))
    assert (taken, told["n_candidates"]) == greedy(text, val)
    probs = slowly(picked(text, sorted(taken)), val.features, 3)
    assert (told["val_auroc"], told["val_macro_f1"]) == pytest.approx(macro(probs, val.labels), abs=1e-11)
    got = answer(text, val=val, rank="val")
    assert got.chosen["prompts"] == [text.ids[p] for p in taken]
    assert got.probabilities == pytest.approx(slowly(picked(text, sorted(taken)), TEST.features, 3), abs=1e-12)


def test_the_choice_reaches_the_best_of_all_ensembles_in_a_small_case():
    """Two prompts a class, so 27 ensembles; over many draws the search finds the best of all more often than not."""
    found = []
    for seed in range(12):
        text, val = prompts_of(2, seed, spread=2.0), clouds(6, seed + 70)
        halves = [[[2 * c], [2 * c + 1], [2 * c, 2 * c + 1]] for c in range(3)]
        every = [list(itertools.chain(*parts)) for parts in itertools.product(*halves)]
        best = max(macro(slowly(picked(text, e), val.features, 3), val.labels)[0] for e in every)
        told = scores.choose(bank(val, text))[1]
        assert told["val_auroc"] <= best + 1e-11
        assert told["n_candidates"] <= 1 + 3 + 2 + 1
        found.append(told["val_auroc"] >= best - 1e-11)
    assert sum(found) > 6


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(2, 9))
def test_no_single_prompt_would_raise_the_score_of_what_was_chosen(seed, n_prompts, n_images):
    text, val = prompts_of(n_prompts, seed, spread=2.5), clouds(n_images, seed + 1, spread=2.5)
    seen = bank(val, text)
    taken, told = scores.choose(seen)
    assert len(set(taken)) == len(taken)
    assert set(text.labels[taken]) == {0, 1, 2}
    best = (told["val_auroc"], told["val_macro_f1"])
    assert all(pair <= best for pair in scores._pairs(seen, [[*taken, p] for p in range(len(text.ids))]))
    shuffled = np.random.default_rng(seed).permutation(len(text.ids))
    again, told_again = scores.choose(bank(val, picked(text, shuffled)))
    if len(set(seen.alone().round(12))) == len(text.ids):  # else equal prompts may stand in for one another
        assert ([shuffled[p] for p in again], told_again) == (taken, told)


def test_ties_go_to_macro_f1_then_to_the_ranking():
    """Every image is ranked rightly by the first of each class; a copy of a prompt changes nothing and is not added."""
    images = Labelled(np.eye(3)[[0, 0, 1, 1, 2, 2]], np.array([0, 0, 1, 1, 2, 2]))
    text = TextPrompts(np.repeat(np.eye(3), 2, axis=0), np.array([0, 0, 1, 1, 2, 2]), list("abcdef"), 10.0)
    taken, told = scores.choose(scores.bank(images, text, 3))
    assert taken == [0, 2, 4]
    assert told == {"val_auroc": 1.0, "val_macro_f1": 1.0, "n_candidates": 4}


def test_equal_areas_with_more_f1_are_an_improvement():
    """Directions in degrees: images 6 and 11 against 22 and 27, prompts a -6 against b 17 and c 80.

    c ranks best alone, but halfway from a to c lies 37, so that all images are called a. With b the other class points
    to 48, halfway lies 21, and all are right: the areas were 1 before and are 1 now.
    """
    def toward(*degrees):
        return np.column_stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])

    images = Labelled(toward(6, 11, 22, 27), np.array([0, 0, 1, 1]))
    seen = scores.bank(images, TextPrompts(toward(-6, 17, 80), np.array([0, 1, 1]), ["a", "b", "c"], 50.0), 2)
    assert seen.alone().tolist() == [1, 0.75, 1]
    areas, f1s = seen.scores(np.array([[1, 0, 1], [1, 1, 1]], bool))
    assert areas.tolist() == [1, 1]
    assert f1s.tolist() == [pytest.approx(1 / 3), 1]
    taken, told = scores.choose(seen)
    assert taken == [0, 2, 1]
    assert told == {"val_auroc": 1.0, "val_macro_f1": 1.0, "n_candidates": 2}


def test_the_search_is_bounded(monkeypatch):
    text, val = prompts_of(6, 4, spread=3.0), clouds(8, 54, spread=3.0)
    free = scores.choose(bank(val, text))[0]
    assert len(free) > 4
    monkeypatch.setattr(scores, "MOST_STEPS", 1)
    taken, told = scores.choose(bank(val, text))
    assert taken == free[:4]
    assert told["n_candidates"] == 1 + 15
