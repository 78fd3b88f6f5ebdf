"""Few-shot adapters against plain loops, automatic differentiation and hand-worked numbers; what they may look at."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from busistore.errors import BusistoreError, UnknownName
from busistore.ids import canonical_json
from busistore.methods import METHODS, PROTOCOLS, Labelled, TextPrompts, with_parameters
from busistore.methods import clip_adapter as adapter
from busistore.methods.clip_adapter import ClipAdapter
from busistore.methods.descent import AdamW, Sgd, batches, chosen_epoch, cosine, in_order, residuals
from busistore.methods.lp_plus import LpPlus
from busistore.methods.ss_text import SsText
from busistore.methods.tip_adapter import TipAdapter, TipAdapterF
from busistore.methods.tip_adapter import _largest as largest
from busistore.methods.transclip import TransClip
from tests.clouds import clouds
from tests.test_methods import GARBLED
from tests.test_zero_shot import prompts_of, unit

SUPPORT, VAL, TEST = clouds(4, 8), clouds(10, 2), clouds(12, 3)
UNEVEN = Labelled(clouds(6, 8).features[:14], clouds(6, 8).labels[:14])
TEXT = prompts_of()
ADAPTERS = ("tip-adapter", "tip-adapter-f", "lp++", "clip-adapter", "ss-text", "transclip")
CHOOSERS = [name for name in ADAPTERS if name != "ss-text"]
TRAINED = ("tip-adapter-f", "lp++", "clip-adapter")
SMALL = {
    "tip-adapter": {"grid_steps": 25}, "tip-adapter-f": {"grid_steps": 25, "rate": 0.02},
    "clip-adapter": {"epochs": 40, "rate": 0.05, "ratio": 0.6}, "transclip": {"gamma_grid": (1e-4, 0.01, 5.0)},
}  # fmt: skip


def made(name, **fields):
    """The method with faster fields, at which training moves predictions."""
    return METHODS[name](**SMALL.get(name, {}) | fields)


def answer(method, support=SUPPORT, val=None, queries=TEST.features, text=TEXT, n_classes=3):
    """Under "strict" where no validation part is given."""
    protocol = "strict" if val is None else "val-tuned"
    return method.fit_predict(support, val, queries, n_classes, protocol, text=text)


def units(images):
    return np.array([unit(v) for v in images])


def prototypes(text=TEXT, n_classes=3):
    return np.array([unit(np.mean(units(text.vectors[text.labels == c]), axis=0)) for c in range(n_classes)])


def soft(logits):
    odds = np.exp(np.asarray(logits) - np.max(logits, axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)


def score(logits, truth=VAL.labels):
    return f1_score(truth, np.argmax(logits, axis=1), average="macro")


# What every adapter keeps to


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_keeps_the_agreement(name, protocol):
    one, again = (made(name).fit_predict(SUPPORT, VAL, TEST.features, 3, protocol, text=TEXT) for _ in range(2))
    assert one.probabilities.shape == (36, 3)
    assert one.probabilities.dtype == np.float64
    assert np.abs(one.probabilities.sum(axis=1) - 1).max() < 1e-12
    assert one.probabilities.min() >= 0
    assert (one.probabilities.argmax(axis=1) == TEST.labels).mean() > 0.6
    canonical_json(one.chosen)
    assert np.array_equal(one.probabilities, again.probabilities)
    assert one.chosen == again.chosen
    looked = protocol == "val-tuned" and name in CHOOSERS
    assert (one.n_labelled, one.saw_val) == (42 if looked else 12, looked)
    assert one.chosen.get("transductive", False) is (name == "transclip")


@pytest.mark.parametrize(("name", "protocol"), [*((n, "strict") for n in ADAPTERS), ("ss-text", "val-tuned")])
@pytest.mark.parametrize("val", GARBLED.values(), ids=GARBLED)
def test_validation_images_change_nothing_where_they_must_not_be_seen(name, protocol, val):
    one, other = (made(name).fit_predict(SUPPORT, v, TEST.features, 3, protocol, text=TEXT) for v in (VAL, val))
    assert np.array_equal(one.probabilities, other.probabilities)
    assert one.chosen == other.chosen
    assert (other.n_labelled, other.saw_val) == (12, False)


@pytest.mark.parametrize("name", CHOOSERS)
def test_the_same_garbling_does_change_what_is_chosen_on_validation_images(name):
    seen = [answer(made(name), val=GARBLED[what]) for what in ("permuted", "the answers", "noise")]
    assert len({canonical_json(outcome.chosen) for outcome in seen}) > 1
    assert len({outcome.probabilities.tobytes() for outcome in seen}) > 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ADAPTERS)
@settings(max_examples=5, deadline=None)
@given(order=st.permutations(range(12)))
def test_the_order_of_support_images_does_not_count(name, protocol, order):
    mixed = Labelled(SUPPORT.features[list(order)], SUPPORT.labels[list(order)])
    fields = {"batch_size": 5} if name in ("tip-adapter-f", "clip-adapter") else {}
    one, other = (
        made(name, **fields).fit_predict(s, VAL, TEST.features, 3, protocol, text=TEXT) for s in (SUPPORT, mixed)
    )
    assert other.probabilities == pytest.approx(one.probabilities, abs=1e-9)
    assert other.chosen == pytest.approx(one.chosen)


@pytest.mark.parametrize("name", ADAPTERS)
def test_scale_of_the_vectors_does_not_count(name):
    scaled = [Labelled(part.features * 1024, part.labels) for part in (SUPPORT, VAL)]
    texts = TEXT._replace(vectors=TEXT.vectors / 32)
    one, other = answer(made(name), val=VAL), answer(made(name), *scaled, TEST.features / 64, texts)
    assert np.array_equal(one.probabilities, other.probabilities)


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_test_image_does_not_move_another_but_where_all_are_read_together(name, protocol):
    def of(queries):
        return made(name).fit_predict(SUPPORT, VAL, queries, 3, protocol, text=TEXT).probabilities

    together, alone = of(TEST.features), np.vstack([of(row[None]) for row in TEST.features])
    if name == "transclip":
        assert np.abs(together - alone).max() > 0.01
        back = of(TEST.features[::-1])[::-1]
        assert back == pytest.approx(together, abs=1e-9)
    else:
        assert alone == pytest.approx(together, abs=1e-12)


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_shot_two_classes_and_repeated_images_work(name, protocol):
    one, text = clouds(1, 5, n_classes=2), prompts_of(n_classes=2)
    for k in (1, 2):
        support = Labelled(np.repeat(one.features, k, axis=0), np.repeat(one.labels, k))
        outcome = made(name).fit_predict(support, clouds(5, 6, n_classes=2), one.features, 2, protocol, text=text)
        assert outcome.probabilities.argmax(axis=1).tolist() == [0, 1]


@pytest.mark.parametrize("name", ADAPTERS)
def test_prompts_count_and_are_needed(name):
    assert METHODS[name].needs_text
    swapped = TEXT._replace(labels=(TEXT.labels + 1) % 3)
    one, other = answer(made(name)), answer(made(name), text=swapped)
    assert np.abs(one.probabilities - other.probabilities).max() > 0.01
    with pytest.raises(BusistoreError, match="class 2 of 3 has no prompt"):
        answer(made(name), text=TextPrompts(TEXT.vectors[:8], TEXT.labels[:8], TEXT.ids[:8], 20.0))


@pytest.mark.parametrize("name", ADAPTERS)
def test_what_an_adapter_cannot_use_is_said_in_one_line(name):
    with pytest.raises(BusistoreError, match="no image of class 2 of 3"):
        answer(made(name), support=Labelled(SUPPORT.features[:8], SUPPORT.labels[:8]))
    with pytest.raises(BusistoreError, match="2 of 36 test vectors are zero or not finite"):
        answer(made(name), queries=np.where((np.arange(36) < 2)[:, None], np.nan, TEST.features))
    with pytest.raises(UnknownName, match="did you mean 'strict'"):
        made(name).fit_predict(SUPPORT, VAL, TEST.features, 3, "stict", text=TEXT)
    if name in CHOOSERS:
        with pytest.raises(BusistoreError, match="no validation images to choose on; use --protocol strict"):
            made(name).fit_predict(SUPPORT, None, TEST.features, 3, "val-tuned", text=TEXT)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("tip-adapter", "alpha", "-1"), ("tip-adapter", "beta", "0"), ("tip-adapter", "grid_steps", "0"),
        ("tip-adapter", "grid_end", "0.1"), ("tip-adapter-f", "epochs", "0"), ("tip-adapter-f", "beta", "-1"),
        ("tip-adapter-f", "batch_size", "0"), ("tip-adapter-f", "rate", "0"), ("tip-adapter-f", "decay", "-1"),
        ("lp++", "epochs", "0"), ("lp++", "momentum", "1"), ("lp++", "blend_every", "0"),
        ("clip-adapter", "ratio", "1"), ("clip-adapter", "init_seed", "-1"), ("clip-adapter", "rate", "0"),
        ("clip-adapter", "momentum", "-0.1"), ("clip-adapter", "reduction", "0"),
        ("transclip", "gamma_grid", "0,1"), ("transclip", "gamma_grid", ""), ("transclip", "tau", "0"),
        ("transclip", "n_inner", "0"), ("transclip", "n_outer", "-1"), ("transclip", "anchor", "-1"),
    ],
)  # fmt: skip
def test_parameters_that_mean_nothing_are_refused(name, field, value):
    with pytest.raises(BusistoreError, match=f"{name.replace('+', chr(92) + '+')}: .*{field.split('_')[0]}"):
        with_parameters(METHODS[name], {field: value})


# Tip-Adapter


def cached(queries, keys, labels, alpha, beta, text=TEXT):
    """The formula, one image and one key at a time."""
    logits = text.logit_scale * units(queries) @ prototypes(text).T
    for row, q in zip(logits, units(queries)):
        for key, label in zip(keys, labels):
            row[label] += alpha * np.exp(-beta * (1 - q @ key))
    return logits


def test_tip_adapter_equals_the_formula_spelt_out():
    got = answer(TipAdapter(alpha=3, beta=2.5), support=UNEVEN)
    wanted = soft(cached(TEST.features, units(UNEVEN.features), UNEVEN.labels, 3, 2.5))
    assert got.probabilities == pytest.approx(wanted, abs=1e-12)
    assert got.chosen == {"alpha": 3, "beta": 2.5}


def test_tip_adapter_by_hand():
    """Cosines .8 and .6 to keys and prompts alike."""
    support, text = Labelled(np.eye(2), np.arange(2)), TextPrompts(np.eye(2), np.arange(2), ["a", "b"], 2.0)
    got = answer(TipAdapter(alpha=1, beta=5), support, None, np.array([[4.0, 3.0]]), text, 2).probabilities[0, 0]
    margin = 2 * (0.8 - 0.6) + np.exp(-1) - np.exp(-2)
    assert got == pytest.approx(1 / (1 + np.exp(-margin)), abs=1e-15)


@pytest.mark.parametrize("support", [SUPPORT, UNEVEN], ids=["even", "uneven"])
def test_tip_adapter_takes_the_first_best_pair_of_its_grid(support):
    method, best = TipAdapter(grid_steps=9, grid_end=9.1), None
    grid = [0.1 + k for k in range(9)]
    assert method.grid == pytest.approx(grid)
    for beta in grid:
        for alpha in grid:
            found = score(cached(VAL.features, units(support.features), support.labels, alpha, beta))
            if best is None or found > best["val_macro_f1"] + 1e-12:
                best = {"alpha": alpha, "beta": beta, "val_macro_f1": found}
    got = answer(method, support, VAL)
    assert got.chosen == pytest.approx(best)
    wanted = answer(TipAdapter(alpha=got.chosen["alpha"], beta=got.chosen["beta"]), support)
    assert np.array_equal(got.probabilities, wanted.probabilities)


@given(st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=2, max_size=5))
def test_of_equal_logits_the_first_class_is_called_as_numpy_does(rows):
    logits = np.array(rows, np.float64)
    assert np.array_equal(largest(logits), logits.argmax(axis=0))


def test_the_published_grid():
    grid = TipAdapter().grid
    assert (len(grid), grid[0], grid[-1]) == pytest.approx((200, 0.1, 49.7505))


def torch_keys(support, method):
    """Keys after each epoch, by automatic differentiation; one batch an epoch."""
    import torch

    images, labels = torch.tensor(units(support.features)), torch.tensor(support.labels)
    text = torch.tensor(TEXT.logit_scale * prototypes())
    keys = torch.nn.Parameter(images.clone())
    optimiser = torch.optim.AdamW([keys], lr=method.rate, eps=method.epsilon, weight_decay=method.decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, method.epochs)
    for _ in range(method.epochs):
        votes = torch.exp(-method.beta * (1 - images @ keys.T)) @ torch.nn.functional.one_hot(labels).double()
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(images @ text.T + method.alpha * votes, labels).backward()
        optimiser.step()
        schedule.step()
        yield keys.detach().numpy().copy()


@pytest.mark.parametrize("support", [SUPPORT, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("rate", [1e-3, 0.03])
def test_trained_keys_equal_automatic_differentiation(support, rate):
    method = TipAdapterF(rate=rate, alpha=2, beta=3, epochs=15, decay=0.1)
    *_, keys = torch_keys(support, method)
    got = answer(method, support)
    assert got.probabilities == pytest.approx(soft(cached(TEST.features, keys, support.labels, 2, 3)), abs=1e-10)
    assert got.chosen == {"epoch": 15, "alpha": 2, "beta": 3}
    assert np.abs(got.probabilities - answer(TipAdapter(alpha=2, beta=3), support).probabilities).max() > 1e-4


def test_trained_keys_are_those_of_the_first_best_epoch_and_then_searched():
    method = TipAdapterF(rate=0.1, grid_steps=5, alpha=2)
    keys = list(torch_keys(SUPPORT, method))
    scores = [score(cached(VAL.features, k, SUPPORT.labels, 2, method.beta)) for k in keys]
    assert len(set(scores)) > 2
    got = answer(method, val=VAL)
    assert got.chosen["epoch"] == int(np.argmax(scores)) + 1
    best = keys[int(np.argmax(scores))]
    found = {
        (b, a): score(cached(VAL.features, best, SUPPORT.labels, a, b)) for b in method.grid for a in method.grid
    }
    beta, alpha = max(found, key=found.get)
    assert (got.chosen["alpha"], got.chosen["beta"]) == pytest.approx((alpha, beta))
    assert got.chosen["val_macro_f1"] == pytest.approx(found[beta, alpha])
    wanted = soft(cached(TEST.features, best, SUPPORT.labels, alpha, beta))
    assert got.probabilities == pytest.approx(wanted, abs=1e-9)


# LP++


def torch_probes(method):
    """(weights, bias, blend) after each epoch; the gradient of the blend is set to zero where the method says so."""
    import torch

    images, labels = torch.tensor(units(SUPPORT.features)), torch.tensor(SUPPORT.labels)
    text, n = torch.tensor(prototypes()), len(SUPPORT.labels)
    cosines = images @ text.T
    weights = torch.nn.Parameter(torch.stack([images[labels == c].sum(0) for c in range(3)]))
    bias = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    start = method.blend_start * torch.stack([cosines[labels == c, c].mean() for c in range(3)]).mean()
    blend = torch.nn.Parameter(start * torch.ones(3, dtype=torch.float64))
    rate = 4 * n / torch.linalg.eigvalsh(images.T @ images)[-1]
    optimiser = torch.optim.SGD([weights, bias], float(rate), momentum=method.momentum)
    for epoch in range(method.epochs):
        if not method.accumulate:
            blend.grad = None
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(images @ weights.T + bias + blend * cosines, labels).backward()
        optimiser.step()
        if (epoch + 1) % method.blend_every == 0:
            blend.data -= n / (4 * (cosines**2).sum(0).max()) * blend.grad
        yield tuple(p.detach().numpy().copy() for p in (weights, bias, blend))


def probed(queries, weights, bias, blend):
    x = units(queries)
    return x @ weights.T + bias + blend * (x @ prototypes().T)


@pytest.mark.parametrize("accumulate", [True, False])
def test_lp_plus_equals_automatic_differentiation(accumulate):
    method = LpPlus(accumulate=accumulate, blend_start=20, epochs=60)
    states = list(torch_probes(method))
    got = answer(method)
    assert got.probabilities == pytest.approx(soft(probed(TEST.features, *states[-1])), abs=1e-8)
    assert got.chosen == {"epoch": 60}
    scores = [score(probed(VAL.features, *s)) for s in states]
    tuned, best = answer(method, val=VAL), int(np.argmax(scores))
    assert tuned.chosen == pytest.approx({"epoch": best + 1, "val_macro_f1": scores[best]})
    assert tuned.probabilities == pytest.approx(soft(probed(TEST.features, *states[best])), abs=1e-8)


def test_lp_plus_learns_otherwise_where_the_gradient_is_not_summed():
    one, other = (answer(LpPlus(accumulate=on, blend_start=20)).probabilities for on in (True, False))
    assert np.abs(one - other).max() > 1e-4


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_lp_plus_needs_as_many_images_of_each_class(protocol):
    with pytest.raises(BusistoreError, match=r"lp\+\+ needs as many support images of each class, not 6, 6, 2; draw"):
        LpPlus().fit_predict(UNEVEN, VAL, TEST.features, 3, protocol, text=TEXT)


# CLIP-Adapter


def torch_layers(support, method):
    """Both layers after each epoch, by automatic differentiation, from the same start and batches."""
    import torch

    support = in_order(Labelled(units(support.features), support.labels))
    images, labels = torch.tensor(support.features), torch.tensor(support.labels)
    text = torch.tensor(TEXT.logit_scale * prototypes())
    rng = np.random.Generator(np.random.PCG64(method.init_seed))
    first, second = (torch.nn.Parameter(torch.tensor(w)) for w in method.start(images.shape[1], rng))
    optimiser = torch.optim.SGD([first, second], method.rate, momentum=method.momentum, weight_decay=method.decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, method.epochs)
    for _ in range(method.epochs):
        for rows in batches(len(labels), method.batch_size, rng):
            added = torch.relu(torch.relu(images[rows] @ first.T) @ second.T)
            moved = method.ratio * added + (1 - method.ratio) * images[rows]
            optimiser.zero_grad()
            logits = torch.nn.functional.normalize(moved) @ text.T
            torch.nn.functional.cross_entropy(logits, labels[rows]).backward()
            optimiser.step()
        schedule.step()
        yield first.detach().numpy().copy(), second.detach().numpy().copy()


def adapted(queries, first, second, ratio):
    """The formula, one image at a time."""
    rows = []
    for f in units(queries):
        added = np.maximum(second @ np.maximum(first @ f, 0), 0)
        rows.append(TEXT.logit_scale * prototypes() @ unit(ratio * added + (1 - ratio) * f))
    return np.array(rows)


@pytest.mark.parametrize("batch_size", [32, 5])
@pytest.mark.parametrize("support", [SUPPORT, UNEVEN], ids=["even", "uneven"])
def test_clip_adapter_equals_automatic_differentiation(support, batch_size):
    method = ClipAdapter(rate=0.05, epochs=30, ratio=0.6, batch_size=batch_size, decay=0.01, init_seed=3)
    states = list(torch_layers(support, method))
    got = answer(method, support)
    assert got.probabilities == pytest.approx(soft(adapted(TEST.features, *states[-1], 0.6)), abs=1e-9)
    scores = [score(adapted(VAL.features, *s, 0.6)) for s in states]
    assert len(set(scores)) > 2
    tuned, best = answer(method, support, VAL), int(np.argmax(scores))
    assert tuned.chosen == pytest.approx({"epoch": best + 1, "val_macro_f1": scores[best]})
    assert tuned.probabilities == pytest.approx(soft(adapted(TEST.features, *states[best], 0.6)), abs=1e-9)


def test_gradients_of_the_adapter_equal_finite_differences():
    x, labels, scaled = units(SUPPORT.features), SUPPORT.labels, 20 * prototypes()
    layers = ClipAdapter(reduction=2).start(12, np.random.default_rng(0))

    def loss(first, second):
        logits = adapted(x, first, second, 0.4)
        return -np.mean(np.log(soft(logits)[np.arange(len(x)), labels]))

    found = adapter.gradients(layers, x, labels, scaled, 0.4)
    for which, row, column in [(0, 0, 0), (0, 5, 11), (1, 3, 2), (1, 11, 5)]:
        nudge = [np.zeros_like(layer) for layer in layers]
        nudge[which][row, column] = 1e-6
        up, down = (loss(*(w + sign * d for w, d in zip(layers, nudge))) for sign in (1, -1))
        assert found[which][row, column] == pytest.approx((up - down) / 2e-6, abs=1e-7)


def test_the_adapter_starts_within_bounds_and_by_its_seed():
    first, second = ClipAdapter().start(512, np.random.default_rng(0))
    assert (first.shape, second.shape) == ((128, 512), (512, 128))
    assert 0.99 < np.abs(first).max() * np.sqrt(512) <= 1
    assert 0.99 < np.abs(second).max() * np.sqrt(128) <= 1
    one, other = (answer(made("clip-adapter", init_seed=k)).probabilities for k in (0, 1))
    assert not np.array_equal(one, other)


# SS-Text


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("support", [SUPPORT, UNEVEN], ids=["even", "uneven"])
def test_ss_text_equals_the_formula_spelt_out(support, plus):
    x, s, n = units(support.features), TEXT.logit_scale, len(support.labels)
    weights = []
    for c in range(3):
        n_c = int((support.labels == c).sum())
        weights.append((n_c / n if plus else 1) * s * sum(f for f, y in zip(x, support.labels) if y == c))
    weights = np.array(weights) + prototypes()
    if plus:
        weights = np.array([w - unit(2 * w - weights.mean(axis=0)) for w in weights])
    wanted = soft([[s * unit(q) @ unit(w) for w in weights] for q in TEST.features])
    assert answer(SsText(plus=plus), support).probabilities == pytest.approx(wanted, abs=1e-12)


def test_the_pull_of_prompts_stops_falling_at_a_thousand_images():
    """2,000 images of one direction a class: s / (2,000 * .001) * 1,000 of it, not s * 1,000."""
    support = Labelled(np.repeat(np.eye(2), 1000, axis=0), np.repeat([0, 1], 1000))
    text = TextPrompts(np.array([[0.0, 1], [1, 0]]), np.arange(2), ["a", "b"], 0.01)
    got = answer(SsText(), support, None, np.array([[1.0, 0.0]]), text, 2).probabilities[0, 0]
    toward = unit([0.01 / (2000 * 0.001) * 1000, 1])
    assert got == pytest.approx(1 / (1 + np.exp(-0.01 * (toward[0] - toward[1]))), abs=1e-12)


# TransCLIP


def mixture(queries, support, gamma, text=TEXT, near=3, outer=10, inner=5):
    """The published updates, one image and one class at a time."""
    q, x, t = units(queries), units(support.features), prototypes(text)
    m, n, d = len(q), len(x), q.shape[1]
    everyone, members = np.vstack([q, x]), np.eye(3)[support.labels]
    edges = []
    for i, f in enumerate(everyone):
        others = sorted((j for j in range(m) if j != i), key=lambda j: -(f @ q[j]))
        edges += [(i, j, f @ q[j]) for j in others[:near]]
    prior = soft(text.logit_scale * q @ t.T)
    z = np.vstack([prior, members])
    means, variances = np.array([unit(members[:, c] @ x) for c in range(3)]), np.full(d, 1 / d)
    for turn in range(outer + 1):
        density = np.array([[-0.5 * (((f - mu) ** 2) / variances).sum() for mu in means] for f in q])
        for _ in range(inner):
            pull = np.zeros((m, 3))
            for i, j, w in edges:  # an edge pulls at both of its ends; labels are pulled by nothing
                pull[j] += w * z[i]
                if i < m:
                    pull[i] += w * z[j]
            new = prior**0.5 * np.exp((density + 50 / (2 * near) * pull) / 50)
            z = np.vstack([new / new.sum(axis=1, keepdims=True), members])
        if turn == outer:
            return z[:m]
        weight = [z[:m] / m, gamma * 50 / n * members]
        sums = weight[0].T @ q + weight[1].T @ x
        means = np.array([unit(row / (weight[0][:, c].sum() + weight[1][:, c].sum())) for c, row in enumerate(sums)])
        total = np.zeros(d)
        for f, shares in zip(everyone, np.vstack(weight)):
            for c in range(3):
                total += shares[c] * (f - means[c]) ** 2
        variances = total / (1 + gamma * 50)
    raise AssertionError


@pytest.mark.parametrize("support", [SUPPORT, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("gamma", [0.002, 0.2])
def test_transclip_equals_the_updates_spelt_out(support, gamma):
    got = answer(TransClip(default_gamma=gamma), support)
    assert got.probabilities == pytest.approx(mixture(TEST.features, support, gamma), abs=1e-9)
    assert got.chosen == {"gamma": gamma, "transductive": True}


def test_transclip_takes_the_first_best_gamma_by_the_nearest_test_images():
    support, best = clouds(1, 4, spread=5), None
    method = TransClip(gamma_grid=(0.0001, 0.01, 5.0), n_outer=4)
    for gamma in method.gamma_grid:
        shares = mixture(TEST.features, support, gamma, outer=4)
        called = [shares[max(range(36), key=lambda j, v=v: unit(v) @ unit(TEST.features[j]))] for v in VAL.features]
        found = score(called)
        if best is None or found > best["val_macro_f1"] + 1e-12:
            best, wanted = {"gamma": gamma, "val_macro_f1": found}, shares
    got = answer(method, support, VAL)
    assert got.chosen == {"gamma": best["gamma"], "val_macro_f1": pytest.approx(best["val_macro_f1"]),
                          "transductive": True}  # fmt: skip
    assert got.probabilities == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_transclip_works_with_fewer_test_images_than_neighbours(m):
    got = answer(TransClip(), queries=TEST.features[:m]).probabilities
    assert got == pytest.approx(mixture(TEST.features[:m], SUPPORT, 0.01), abs=1e-9)


def test_neighbours_are_the_same_found_in_blocks(monkeypatch):
    whole = answer(TransClip()).probabilities
    monkeypatch.setattr("busistore.methods.transclip._ROWS", 7)
    assert answer(TransClip()).probabilities == pytest.approx(whole, abs=1e-12)


def test_coordinates_without_spread_do_not_divide_by_zero():
    flat = [Labelled(np.hstack([p.features, np.zeros((len(p.labels), 1))]), p.labels) for p in (SUPPORT, TEST)]
    text = TEXT._replace(vectors=np.hstack([TEXT.vectors, np.zeros((len(TEXT.ids), 1))]))
    got = answer(TransClip(), flat[0], None, flat[1].features, text).probabilities
    assert np.isfinite(got).all()
    assert (got.argmax(axis=1) == TEST.labels).mean() > 0.6


# Descent


def test_residuals_are_the_gradient_of_the_mean_cross_entropy():
    got = residuals(np.array([[0.0, np.log(3)], [900.0, 0.0]]), np.array([0, 1]))
    assert got == pytest.approx(np.array([[-0.375, 0.375], [0.5, -0.5]]), abs=1e-15)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_optimisers_equal_those_of_torch_and_leave_what_they_are_given(kind):
    import torch

    rng = np.random.default_rng(0)
    start = (rng.normal(size=(3, 2)), rng.normal(size=4))
    theirs = [torch.nn.Parameter(torch.tensor(p)) for p in start]
    if kind == "sgd":
        ours, other = Sgd(0.9, 0.01), torch.optim.SGD(theirs, 0.1, momentum=0.9, weight_decay=0.01)
    else:
        ours, other = AdamW(0.1, 1e-4), torch.optim.AdamW(theirs, 0.1, eps=1e-4, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(other, 7)
    mine, before = start, [p.copy() for p in start]
    for rate in cosine(0.1, 7):
        slopes = tuple(rng.normal(size=p.shape) for p in start)
        for p, g in zip(theirs, slopes):
            p.grad = torch.tensor(g)
        mine = ours.step(mine, slopes, rate)
        other.step()
        schedule.step()
    for p, q, s, b in zip(mine, theirs, start, before):
        assert p == pytest.approx(q.detach().numpy(), abs=1e-12)
        assert np.array_equal(s, b)


@given(n=st.integers(1, 40), size=st.integers(1, 40))
def test_batches_hold_every_row_once(n, size):
    got = batches(n, size, np.random.default_rng(0))
    assert sorted(np.concatenate(got).tolist()) == list(range(n))
    assert [len(rows) for rows in got[:-1]] == [size] * (len(got) - 1)
    assert 0 < len(got[-1]) <= size


def test_the_first_best_epoch_counts_or_the_last_where_nothing_is_compared():
    val = Labelled(np.eye(2), np.array([0, 1]))
    states = [np.array([[1.0, 0], [1, 0]]), np.eye(2), 2 * np.eye(2), np.array([[0.0, 1], [0, 1]])]
    state, chosen = chosen_epoch(states, lambda s, _: s, val, 2)
    assert state is states[1]
    assert chosen == {"epoch": 2, "val_macro_f1": 1.0}
    state, chosen = chosen_epoch(iter(states), lambda s, _: s, None, 2)
    assert state is states[3]
    assert chosen == {"epoch": 4}
