"""LoRA and its kin on micro towers: against a plain rewrite of the training, peft's own loading, and stops anywhere."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from busistore import checkpoint as checkpoint_module
from busistore.errors import BusistoreError, RunFailed, StoreError, UnknownName
from busistore.ids import canonical_json
from busistore.jobs.towers import sweep
from busistore.methods import Labelled, with_parameters
from busistore.methods import training as training_module
from busistore.methods.base import macro_f1, needs_tower, softmax
from busistore.methods.dropout import Dropout, Noise
from busistore.methods.full_tuning import BitFit, FullTuning
from busistore.methods.learner import Classifier, Learner
from busistore.methods.lora import Lora
from busistore.methods.training import in_order
from busistore.models import InputTransform
from busistore.models.trainable import of_tower

WIDTH, DIM, N_BLOCKS = 32, 16, 3
GIVEN = InputTransform(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
FAST = {"head_rate": 2e-2, "epochs": 12, "patience": 50}
METHODS = {"lora": (Lora, 5e-3), "full-tuning": (FullTuning, 1e-3), "bitfit": (BitFit, 2e-2)}


@cache
def stock():
    """A vision transformer of open_clip, in small, all of it random."""
    from open_clip.transformer import VisionTransformer

    with torch.random.fork_rng():
        torch.manual_seed(3)
        visual = VisionTransformer(
            image_size=32, patch_size=16, width=WIDTH, layers=N_BLOCKS, heads=2, mlp_ratio=2.0, output_dim=DIM
        ).eval()
        for parameter in visual.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape)
    return visual


def tower(blocks=2, qkv="split", precision="fp32"):
    return of_tower(stock(), GIVEN, blocks, qkv, precision)


@cache
def pictures(n_per_class, seed, blocks=2):
    """States of noisy pictures with stripes whose width tells their class."""
    rng, labels = np.random.default_rng(seed), np.repeat(np.arange(3), n_per_class)
    stripes = 60 * (1 + np.sin((labels[:, None] + 1) * 2 * np.linspace(0, np.pi, 32)))
    grey = (rng.uniform(0, 120, (len(labels), 32, 32)) + stripes[:, :, None]).astype(np.uint8)
    return Labelled(tower(blocks).states(torch.from_numpy(grey)).numpy(), labels)


SUPPORT, VAL, TEST = pictures(8, 1), pictures(6, 2), pictures(12, 3)


def made(name="lora", **fields):
    kind, rate = METHODS[name]
    return kind(**{"adapter_rate": rate, **FAST} | fields)


def answer(method, support=SUPPORT, val=None, queries=TEST.features, n_classes=3, make=tower, folder=None):
    """Under "strict" where no validation part is given."""
    protocol = "strict" if val is None else "val-tuned"
    return method.fit_predict(support, val, queries, n_classes, protocol, tower=make, folder=folder)


def told(outcome):
    return {name: value for name, value in outcome.chosen.items() if name not in ("cpu_seconds", "kept")}


def same(one, other):
    assert np.array_equal(one.probabilities, other.probabilities)
    assert told(one) == told(other)
    assert one.curves == other.curves


# What each of them keeps to


@pytest.mark.parametrize("val", [None, VAL], ids=["strict", "val-tuned"])
@pytest.mark.parametrize("name", METHODS)
def test_a_task_that_can_be_learned_is_learned(name, val):
    outcome = answer(made(name, epochs=25), val=val)
    assert outcome.probabilities.shape == (36, 3)
    assert outcome.probabilities.dtype == np.float64
    assert np.abs(outcome.probabilities.sum(axis=1) - 1).max() < 1e-12
    assert (outcome.probabilities.argmax(axis=1) == TEST.labels).mean() > 0.8
    assert (outcome.n_labelled, outcome.saw_val) == ((24, False) if val is None else (42, True))
    assert needs_tower(METHODS[name][0])
    canonical_json(outcome.chosen)
    losses = [value for _, what, value in outcome.curves if what == "train_loss"]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", METHODS)
def test_the_same_run_gives_the_same_bits_whatever_was_drawn_before(name):
    one = answer(made(name, batch_size=4, accumulate=2), val=VAL)
    torch.manual_seed(99)
    np.random.seed(99)
    same(one, answer(made(name, batch_size=4, accumulate=2), val=VAL))
    other = answer(made(name, batch_size=4, accumulate=2, init_seed=1), val=VAL)
    assert not np.array_equal(one.probabilities, other.probabilities)


def test_the_order_of_the_support_set_does_not_count():
    order = np.random.default_rng(0).permutation(24)
    method = made(batch_size=4, accumulate=2)
    same(answer(method), answer(method, Labelled(SUPPORT.features[order], SUPPORT.labels[order])))


def test_states_that_differ_by_rounding_are_taken_in_the_same_order():
    order = np.random.default_rng(0).permutation(24)
    noise = 1e-6 * np.random.default_rng(1).normal(size=SUPPORT.features.shape).astype(np.float32)
    other = in_order(Labelled((SUPPORT.features + noise)[order], SUPPORT.labels[order]))
    first = in_order(SUPPORT)
    assert np.array_equal(other.labels, first.labels)
    assert np.abs(other.features[np.arange(24)] - first.features[np.arange(24)]).max() < 1e-5
    assert np.abs(np.diff(first.features[np.arange(24)], axis=0)).max(axis=(1, 2)).min() > 0.1


class Lazy:
    """Rows that are made when they are asked for; nothing else is offered."""

    def __init__(self, states, rows=None):
        self._states, self._rows, self.n_made = states, rows, 0

    def __len__(self):
        return len(self._states)

    def __getitem__(self, rows):
        return Lazy(self._states, rows)

    def __array__(self, dtype=None, copy=None):
        return self._states[self._rows].astype(dtype)


def test_states_may_be_made_when_they_are_asked_for():
    method = made(batch_size=4, accumulate=2, epochs=3)
    lazy = [Labelled(Lazy(part.features), part.labels) for part in (SUPPORT, VAL)]
    same(answer(method, val=VAL), answer(method, lazy[0], lazy[1], Lazy(TEST.features)))


def test_half_precision_states_and_towers_work():
    method = made(precision="bf16", tokens="float16")
    halves = [Labelled(part.features.astype(np.float16), part.labels) for part in (SUPPORT, VAL)]
    outcome = answer(method, *halves, TEST.features.astype(np.float16), make=lambda: tower(precision="bf16"))
    full = answer(made(), val=VAL)
    assert np.abs(outcome.probabilities - full.probabilities).max() < 0.1


def test_all_blocks_may_be_trained():
    support, test = pictures(8, 1, N_BLOCKS), pictures(12, 3, N_BLOCKS)
    outcome = answer(made(blocks=None), support, queries=test.features, make=lambda: tower(None))
    assert outcome.chosen["n_trainable"] == N_BLOCKS * 4 * 16 * 2 * WIDTH
    assert (outcome.probabilities.argmax(axis=1) == test.labels).mean() > 0.6


# What may be looked at


class Untouchable:
    def __len__(self):
        return 18

    def __getitem__(self, rows):
        raise AssertionError("looked at")


@pytest.mark.parametrize("name", METHODS)
def test_strict_never_looks_at_validation_images(name):
    method = made(name, epochs=3)
    without = answer(method)
    for val in (None, Labelled(Untouchable(), VAL.labels[::-1])):
        outcome = method.fit_predict(SUPPORT, val, TEST.features, 3, "strict", tower=tower)
        same(without, outcome)
    assert without.chosen["epoch"] == without.chosen["n_epochs"] == 3
    assert {what for _, what, _ in without.curves} == {"train_loss", "learning_rate"}


def test_test_images_do_not_influence_one_another():
    both = answer(made(epochs=3))
    half = answer(made(epochs=3), queries=TEST.features[:7])
    assert np.abs(both.probabilities[:7] - half.probabilities).max() < 1e-6


# Training against a plain rewrite


def plain_training(method, support, n_classes, epochs):
    """LoRA without dropout and with one step an epoch, from the definitions; returns a function of states."""
    adapted = method.open(tower(), Noise())
    start = Classifier(adapted, DIM, n_classes, method.init_seed)
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    network = tower()
    values, rates, decays = [], [], []
    for parameter in start.head.parameters():
        values.append(parameter.detach().clone())
    for block in adapted.base_model.model.blocks.values():
        for name in names:
            layer = getattr(block.attn, name)
            values += [layer.lora_A["default"].weight.detach().clone(), layer.lora_B["default"].weight.detach().clone()]
    n_tower = len(values) - 2
    rates, decays = [method.head_rate] * 2 + [method.adapter_rate] * n_tower, [method.head_decay] * 2
    decays += [method.adapter_decay] * n_tower

    def logits(values, states):
        head_weight, head_bias, *pairs = values
        weights, k = {}, 0
        for number, block in network.blocks.items():
            for name in names:
                base = getattr(block.attn, name).weight
                weights[f"blocks.{number}.attn.{name}.weight"] = (
                    base + method.alpha / method.rank * pairs[k + 1] @ pairs[k]
                )
                k += 2
        vectors = torch.func.functional_call(network, weights, (states,))
        return vectors / vectors.norm(dim=1, keepdim=True) @ head_weight.T + head_bias

    states, labels = torch.from_numpy(support.features), torch.from_numpy(support.labels)
    first, second = [torch.zeros_like(v) for v in values], [torch.zeros_like(v) for v in values]
    losses = []
    for epoch in range(epochs):
        leaves = [v.requires_grad_() for v in values]
        chances = logits(leaves, states).log_softmax(1)
        loss = -chances[torch.arange(len(labels)), labels].mean()
        losses.append(loss.item())
        slopes = torch.autograd.grad(loss, leaves)
        length = math.sqrt(sum(float((g.double() ** 2).sum()) for g in slopes))
        share = (1 + math.cos(math.pi * epoch / method.epochs)) / 2
        for k, (value, slope) in enumerate(zip(values, slopes)):
            value, slope = value.detach(), slope * min(1, method.clip / length)
            rate = method.least_rate + (rates[k] - method.least_rate) * share
            first[k] = method.beta_1 * first[k] + (1 - method.beta_1) * slope
            second[k] = method.beta_2 * second[k] + (1 - method.beta_2) * slope**2
            step = first[k] / (1 - method.beta_1 ** (epoch + 1))
            width = (second[k] / (1 - method.beta_2 ** (epoch + 1))).sqrt() + 1e-8
            values[k] = value * (1 - rate * decays[k]) - rate * step / width
    return losses, lambda x: logits(values, torch.from_numpy(x)).detach().double().numpy()


@pytest.mark.parametrize(
    "fields", [{}, {"clip": 0.05}, {"batch_size": 5, "accumulate": 5}, {"rank": 4, "alpha": 24, "adapter_decay": 0.3}],
    ids=str,
)  # fmt: skip
def test_training_is_what_the_definitions_say(fields):
    method = made(**{"dropout": 0.0, "epochs": 6, "head_decay": 0.1} | fields)
    outcome = answer(method)
    losses, logits = plain_training(method, SUPPORT, 3, 6)
    assert [v for _, what, v in outcome.curves if what == "train_loss"] == pytest.approx(losses, abs=2e-5)
    assert np.abs(outcome.probabilities - softmax(logits(TEST.features))).max() < 2e-4
    assert losses[-1] < losses[0]


def test_learning_rates_are_those_of_pytorchs_cosine():
    outcome = answer(made(epochs=7, least_rate=1e-5))
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 7, eta_min=1e-5)
    rates = []
    for _ in range(7):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert [v for _, what, v in outcome.curves if what == "learning_rate"] == pytest.approx(rates, rel=1e-12)


def test_batch_size_is_a_matter_of_memory_alone():
    one, other = (
        answer(made(dropout=0.0, batch_size=b, accumulate=a, epochs=5)).probabilities for b, a in ((12, 1), (3, 4))
    )
    assert np.abs(one - other).max() < 1e-4
    steps_differ = answer(made(dropout=0.0, batch_size=3, accumulate=1, epochs=5)).probabilities
    assert np.abs(one - steps_differ).max() > 1e-2


# Which epoch counts


@pytest.mark.parametrize(
    ("scores", "patience", "best", "run"),
    [
        ([0.2, 0.5, 0.5, 0.4, 0.5, 0.6], 3, 2, 5),  # an equal one is no better one
        ([0.2, 0.5, 0.4, 0.6, 0.5, 0.5], 3, 4, 6),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 2, 1, 3),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 1, 6, 6),
    ],
)
def test_the_first_best_epoch_is_restored_and_patience_ends_the_run(scores, patience, best, run, monkeypatch, tmp_path):
    from safetensors.torch import load_file

    heads = []

    def scripted(learner, val, n_classes, epoch):
        heads.append(learner.model.head.weight.detach().clone())
        return {"val_loss": 1.0, "val_macro_f1": scores[epoch - 1]}

    monkeypatch.setattr(training_module, "_validate", scripted)
    outcome = answer(made(epochs=6, patience=patience), val=VAL, folder=tmp_path)
    assert (outcome.chosen["epoch"], outcome.chosen["n_epochs"], len(heads)) == (best, run, run)
    assert outcome.chosen["val_macro_f1"] == scores[best - 1]
    assert torch.equal(load_file(tmp_path / "head.safetensors")["weight"], heads[best - 1])
    assert not any(torch.equal(heads[best - 1], head) for k, head in enumerate(heads) if k != best - 1)


def test_validation_is_scored_as_the_metrics_are():
    method, network = made(), tower()
    learner = Learner(Classifier(method.open(network, Noise()), DIM, 3, 0), method)
    found = training_module._validate(learner, VAL, 3, 1)
    with torch.no_grad():
        logits = learner.model.eval()(torch.from_numpy(VAL.features))
    assert found["val_loss"] == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(VAL.labels))), abs=1e-6
    )
    assert found["val_macro_f1"] == macro_f1(VAL.labels, logits.argmax(1).numpy(), 3)


# What is trained, and what is not


@pytest.mark.parametrize("qkv", ["split", "fused"])
def test_gradients_reach_every_adapter_and_nothing_else(qkv):
    method, network = made(qkv=qkv, rank=4), tower(qkv=qkv)
    before = {name: p.clone() for name, p in network.named_parameters()}
    learner = Learner(Classifier(method.open(network, Noise()), DIM, 3, 0), method)
    per_block = {"split": 4, "fused": 2}[qkv]
    assert len(learner.trained) == 2 + 2 * per_block * 2
    for epoch in (1, 2):  # B starts at 0, so A has no gradient in the first
        learner.set_rates(epoch)
        training_module._train(learner, SUPPORT, np.random.default_rng(0), epoch)
        still = {name for name, p in learner.trained.items() if not p.grad.abs().max() > 0}
        assert still == ({name for name in learner.trained if "lora_A" in name} if epoch == 1 else set())
    after = {name.replace(".base_layer", ""): p for name, p in network.named_parameters() if "lora_" not in name}
    assert after.keys() == before.keys()
    assert all(torch.equal(before[name], p) for name, p in after.items())
    held = sum(t.numel() for own in learner.optimiser.state.values() for what, t in own.items() if what != "step")
    assert held == 2 * sum(p.numel() for p in learner.trained.values())


@pytest.mark.parametrize(
    ("name", "fields", "n"),
    [
        ("lora", {}, 2 * 4 * 16 * 2 * WIDTH),
        ("lora", {"rank": 3}, 2 * 4 * 3 * 2 * WIDTH),
        ("lora", {"qkv": "fused"}, 2 * 16 * (4 + 2) * WIDTH),
        ("full-tuning", {}, 2 * (8 * WIDTH**2 + 11 * WIDTH) + 2 * WIDTH + WIDTH * DIM),
        ("bitfit", {}, 2 * 9 * WIDTH + WIDTH),
    ],
)
def test_trained_numbers_are_counted(name, fields, n):
    """A block has 4 W^2 in attention and 4 W^2 in an MLP twice as wide; 7 W biases, and two norms of W and W."""
    outcome = answer(made(name, epochs=1, **fields), make=lambda: tower(qkv=fields.get("qkv", "split")))
    assert (outcome.chosen["n_trainable"], outcome.chosen["n_head"]) == (n, 3 * DIM + 3)


def test_bitfit_moves_biases_only_and_full_tuning_every_weight_behind_the_stem():
    for name, moves in (("bitfit", lambda n: n.endswith(".bias")), ("full-tuning", lambda n: True)):
        networks = []
        answer(made(name, epochs=2), make=lambda kept=networks: kept.append(tower()) or kept[-1])
        before = dict(tower().named_parameters())
        for which, p in networks[0].named_parameters():
            behind = which.startswith(("blocks.", "stem.norm.", "stem.project."))
            assert torch.equal(p, before[which]) == (not (behind and moves(which))), which


# Dropout


@given(p=st.floats(0, 0.9), n=st.integers(1, 50), seed=st.integers(0, 9))
def test_dropout_hides_or_grows_and_passes_the_same_on_to_gradients(p, n, seed):
    noise = Noise()
    layer = Dropout(p, noise)
    x = torch.rand(n, 3) + 1
    x.requires_grad_()
    noise.start(seed, 1)
    y = layer(x)
    y.sum().backward()
    factor = 65536 / (65536 - round(p * 65536))
    assert (y / x)[y != 0].tolist() == pytest.approx([factor] * int((y != 0).sum()), rel=1e-6)
    assert torch.equal(x.grad != 0, y != 0)
    noise.start(seed, 1)
    assert torch.equal(layer(x), y)
    assert layer.eval()(x) is x


def test_dropout_hides_its_share_and_keeps_the_mean():
    noise = Noise()
    x = torch.ones(1001, 999)
    y = Dropout(0.1, noise)(x)
    assert float((y == 0).float().mean()) == pytest.approx(0.1, abs=0.002)
    assert float(y.mean()) == pytest.approx(1, abs=0.002)
    assert not torch.equal(y, Dropout(0.1, noise)(x))
    streams = [noise.start(*seeds).integers(0, 2**32, 4).tolist() for seeds in ((0, 1), (0, 2), (1, 1))]
    assert len({str(s) for s in streams}) == 3


def test_dropout_acts_while_training():
    without, little, much = (answer(made(dropout=p, epochs=3)).curves for p in (0.0, 0.1, 0.5))
    assert without != little != much != without


# What is kept, and stops


@pytest.mark.parametrize("qkv", ["split", "fused"])
def test_peft_loads_what_was_kept_and_it_predicts_the_same_bits(qkv, tmp_path):
    from peft import PeftModel
    from safetensors.torch import load_file

    outcome = answer(made(qkv=qkv), val=VAL, make=lambda: tower(qkv=qkv), folder=tmp_path)
    files = {p.name for p in tmp_path.iterdir()}
    assert files == {"adapter_model.safetensors", "adapter_config.json", "head.safetensors", "curves.json", ".partial"}
    network, head = PeftModel.from_pretrained(tower(qkv=qkv), tmp_path), load_file(tmp_path / "head.safetensors")
    with torch.no_grad():
        vectors = [network(torch.from_numpy(x)) for x in np.split(TEST.features, [32])]  # as many at once as `scores`
        units = [torch.nn.functional.normalize(v) for v in vectors]
        logits = torch.cat([torch.nn.functional.linear(u, head["weight"], head["bias"]) for u in units])
        merged = network.merge_and_unload()(torch.from_numpy(TEST.features))
    assert np.array_equal(softmax(logits.double().numpy()), outcome.probabilities)
    assert (merged - torch.cat(vectors)).abs().max() < 1e-5
    epochs = json.loads((tmp_path / "curves.json").read_text())
    assert [(e["epoch"], k, v) for e in epochs for k, v in e.items() if k != "epoch"] == outcome.curves
    assert set(epochs[0]) == {"epoch", "learning_rate", "train_loss", "val_loss", "val_macro_f1"}


@pytest.mark.parametrize("name", ["full-tuning", "bitfit"])
def test_weights_that_were_trained_are_kept_under_their_names(name, tmp_path):
    from safetensors.torch import load_file

    outcome = answer(made(name), folder=tmp_path)
    network, head = tower(), load_file(tmp_path / "head.safetensors")
    found = network.load_state_dict(load_file(tmp_path / "tower.safetensors"), strict=False)
    assert found.unexpected_keys == []
    with torch.no_grad():
        vectors = torch.nn.functional.normalize(network(torch.from_numpy(TEST.features)))
        logits = vectors @ head["weight"].T + head["bias"]
    assert np.abs(softmax(logits.double().numpy()) - outcome.probabilities).max() < 1e-6


class Stopped(Exception):
    pass


def stop_in(epochs, monkeypatch, log=None):
    """Whoever trains one of those epochs is stopped in it, once each, after a step was taken."""
    real, left = training_module._train, list(epochs)

    def train(learner, support, rng, epoch):
        loss = real(learner, support, rng, epoch)
        if log is not None:
            log.append(epoch)
        if epoch in left:
            left.remove(epoch)
            raise Stopped
        return loss

    monkeypatch.setattr(training_module, "_train", train)


def finish(method, folder, val=VAL):
    while True:
        try:
            return answer(method, val=val, folder=folder)
        except Stopped:
            pass


@cache
def unstopped(name, patience=50):
    return answer(made(name, epochs=8, batch_size=4, accumulate=2, checkpoint_every=2, patience=patience), val=VAL)


@settings(max_examples=8, deadline=None)
@given(name=st.sampled_from([*METHODS]), epochs=st.lists(st.integers(1, 8), min_size=1, max_size=4))
def test_a_run_that_was_stopped_anywhere_ends_in_the_same_bits(name, epochs, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        stop_in(epochs, patch)
        method = made(name, epochs=8, batch_size=4, accumulate=2, checkpoint_every=2)
        outcome = finish(method, tmp_path_factory.mktemp("run"))
    same(outcome, unstopped(name))


def test_what_a_checkpoint_has_is_not_done_again(monkeypatch, tmp_path):
    log = []
    stop_in([6], monkeypatch, log)
    finish(made(epochs=8, checkpoint_every=3), tmp_path)
    assert log == [1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8]


def test_a_stop_keeps_what_patience_has_waited_and_what_was_spent(monkeypatch, tmp_path):
    scores = [0.5, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    monkeypatch.setattr(training_module, "_validate", lambda *a: {"val_loss": 1.0, "val_macro_f1": scores[a[-1] - 1]})
    monkeypatch.setattr(training_module.time, "process_time", iter(range(0, 10_000, 10)).__next__)
    stop_in([5], monkeypatch)
    outcome = finish(made(epochs=8, checkpoint_every=2, patience=4), tmp_path)
    assert (outcome.chosen["epoch"], outcome.chosen["n_epochs"]) == (2, 6)
    assert outcome.chosen["cpu_seconds"] == 70  # ten by epoch and ten for the test part; the lost epoch is lost


@pytest.mark.parametrize("harm", ["cut", "noise", "empty", "other", "flipped"])
def test_a_checkpoint_that_cannot_be_used_is_left_aside(harm, monkeypatch, tmp_path):
    method = made(epochs=8, batch_size=4, accumulate=2, checkpoint_every=2)
    stop_in([5], monkeypatch)
    with pytest.raises(Stopped):
        answer(method if harm != "other" else made(epochs=8, checkpoint_every=2), val=VAL, folder=tmp_path)
    file = tmp_path / ".partial" / "checkpoint.safetensors"
    whole = file.read_bytes()
    harmed = {"cut": whole[: len(whole) // 2], "noise": b"\xff" * 999, "empty": b"", "other": whole}.get(harm)
    if harm == "flipped":
        harmed = whole[:-400] + bytes(255 - b for b in whole[-400:-300]) + whole[-300:]
    file.write_bytes(harmed)
    (file.parent / "checkpoint.1.new").write_bytes(whole[:99])  # of a writer that was killed
    same(finish(method, tmp_path), unstopped("lora"))


@pytest.mark.parametrize("which", ["support", "val", "queries", "network"])
def test_a_checkpoint_of_other_images_or_another_network_is_never_taken(which, monkeypatch, tmp_path):
    method, log = made(epochs=4, checkpoint_every=1), []
    given = {"support": SUPPORT, "val": VAL, "queries": TEST.features, "make": tower}
    stop_in([3], monkeypatch, log)
    with pytest.raises(Stopped):
        answer(method, folder=tmp_path, **given)
    other = {"support": pictures(8, 5), "val": pictures(6, 6), "queries": pictures(12, 7).features}

    def changed():
        network = tower()
        with torch.no_grad():
            next(network.blocks.parameters()).mul_(1.01)
        return network

    answer(method, folder=tmp_path, **given | ({"make": changed} if which == "network" else {which: other[which]}))
    assert log == [1, 2, 3, 1, 2, 3, 4]


FULL = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("module", [checkpoint_module, training_module], ids=["checkpoint", "kept"])
def test_a_full_disk_is_told_in_one_line_and_leaves_nothing_behind(module, monkeypatch, tmp_path):
    def save(tensors, path, metadata=None):
        path.write_bytes(b"half")
        raise FULL

    method = made(epochs=4, checkpoint_every=2)
    with monkeypatch.context() as patch:
        patch.setattr(module, "save_file", save)
        with pytest.raises(StoreError, match=r"^the disk is full: no.* can be written to '.*'; free some space"):
            answer(method, val=VAL, folder=tmp_path)
    left = {p.name for p in tmp_path.rglob("*")}
    assert left == ({".partial"} if module is checkpoint_module else {".partial", "checkpoint.safetensors"})
    same(answer(method, val=VAL, folder=tmp_path), answer(method, val=VAL))


def test_a_folder_cannot_be_made_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"^no checkpoint can be written to '.*' "):
        answer(made(epochs=1, checkpoint_every=1), folder=tmp_path / "file")


def test_kept_files_appear_together_and_the_head_last(monkeypatch, tmp_path):
    moved, real = [], training_module.os.replace

    def replace(source, target):
        if target.parent == tmp_path:
            moved.append(target.name)
            if target.name == "head.safetensors":
                assert not target.exists()
                raise Stopped
        real(source, target)

    (tmp_path / "head.safetensors").write_text("of a run before")
    monkeypatch.setattr(training_module.os, "replace", replace)
    with monkeypatch.context() as patch:
        patch.setattr(training_module, "save_file", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            answer(made(epochs=1), folder=tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"head.safetensors", ".partial"}
    with pytest.raises(Stopped):
        answer(made(epochs=1), folder=tmp_path)
    assert moved == ["adapter_config.json", "adapter_model.safetensors", "curves.json", "head.safetensors"]
    assert not (tmp_path / "head.safetensors").exists()


def test_seconds_are_of_all_attempts(monkeypatch, tmp_path):
    monkeypatch.setattr(training_module.time, "perf_counter", iter(range(0, 10_000, 10)).__next__)
    stop_in([5], monkeypatch)
    assert finish(made(epochs=8, checkpoint_every=2), tmp_path).seconds == 90


def test_two_processes_may_write_the_same_checkpoint(tmp_path):
    code = (
        "import sys, torch; from pathlib import Path; from busistore import checkpoint as c\n"
        "for k in range(60): c.write(Path(sys.argv[1]), c.Checkpoint({'x': torch.full((999,), k)}, {'k': k}), 'key')"
    )
    path = tmp_path / "checkpoint.safetensors"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(2)]
    assert [w.wait() for w in writers] == [0, 0]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert checkpoint_module.read(path, "key").story == {"k": 59}


def test_sweeping_takes_kept_files_of_runs_that_are_not_stored(tmp_path):
    week_ago = time.time() - 8 * 86400
    for name in ("stored", "old", "new"):
        folder = tmp_path / "adapters" / name
        folder.mkdir(parents=True)
        for file in ("adapter_model.safetensors", "curves.json"):
            (folder / file).write_text("")
            os.utime(folder / file, (week_ago, week_ago))
    os.utime(folder / "curves.json")
    store = SimpleNamespace(path=tmp_path, keys=lambda *_: [("stored",)])
    assert sweep(store) == 1
    assert {p.name for p in (tmp_path / "adapters").iterdir()} == {"stored", "new"}


def test_half_precision_states_that_overflow_name_their_remedy():
    bad = SUPPORT._replace(features=np.where(SUPPORT.features > 1, np.inf, SUPPORT.features))
    with pytest.raises(BusistoreError, match=r"is not finite; take tokens=float32$"):
        answer(made(tokens="float16"), bad)


# What fails


def test_a_loss_that_is_not_finite_ends_the_run_and_names_epoch_and_remedy():
    with pytest.raises(RunFailed, match=r"lora: .* not finite in epoch [12]; lower adapter_rate=1e\+30 and head_rate"):
        answer(made(adapter_rate=1e30, epochs=9), val=VAL)
    with pytest.raises(RunFailed, match="not finite in epoch 1;"):  # seen by nobody but the test images
        answer(made(adapter_rate=1e30, epochs=1))
    with pytest.raises(RunFailed, match="or take precision=fp32"):
        answer(made(adapter_rate=1e30, precision="bf16"), make=lambda: tower(precision="bf16"))


@pytest.mark.parametrize("which", ["support", "val", "queries"])
def test_states_that_are_not_finite_are_refused(which):
    given = {"support": SUPPORT, "val": VAL, "queries": TEST.features}
    bad = np.array(getattr(given[which], "features", given[which]))
    bad[3, 1, 2] = np.nan
    given[which] = bad if which == "queries" else given[which]._replace(features=bad)
    with pytest.raises(BusistoreError, match="not finite; encode those images again"):
        answer(made(epochs=2), **given)


@pytest.mark.parametrize("error", [
    MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
], ids=lambda e: type(e).__name__)  # fmt: skip
def test_the_end_of_memory_names_the_knobs(error, monkeypatch):
    def fails(*_):
        raise error

    monkeypatch.setattr(Classifier, "forward", fails)
    with pytest.raises(RunFailed, match="out of memory at batch_size=8 and all blocks; lower batch_size"):
        answer(made())
    with pytest.raises(RunFailed, match="and blocks=2;"):
        answer(made(blocks=2))


def test_other_errors_stay_what_they_are(monkeypatch):
    def fails(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Classifier, "forward", fails)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        answer(made())


def test_wrong_inputs_are_refused_before_a_tower_is_made():
    def never():
        raise AssertionError("made")

    with pytest.raises(BusistoreError, match="no image of class 2 of 3"):
        answer(made(), Labelled(SUPPORT.features[:16], SUPPORT.labels[:16]), make=never)
    with pytest.raises(BusistoreError, match="no validation images to choose on; use --protocol strict"):
        made().fit_predict(SUPPORT, None, TEST.features, 3, "val-tuned", tower=never)
    with pytest.raises(UnknownName, match="did you mean 'strict'"):
        made().fit_predict(SUPPORT, VAL, TEST.features, 3, "stric", tower=never)


@pytest.mark.parametrize(("name", "fields", "why"), [
    ("lora", {"rank": "0"}, "rank must be at least 1"), ("lora", {"alpha": "0"}, "alpha above 0"),
    ("lora", {"dropout": "1"}, "dropout must be at least 0 and below 1"), ("lora", {"qkv": "joint"}, "qkv is split or"),
    ("lora", {"blocks": "0"}, "blocks must be at least 1, or none"), ("lora", {"batch_size": "0"}, "batch_size must"),
    ("lora", {"adapter_rate": "-1"}, "neither head_rate nor adapter_rate"), ("lora", {"clip": "0"}, "clip must"),
    ("lora", {"beta_2": "1"}, r"in \[0, 1\)"), ("lora", {"precision": "fp16"}, "precision is fp32 or bf16, not 'fp16'"),
    ("lora", {"tokens": "int8"}, "tokens are float32 or float16"), ("lora", {"patience": "0"}, "patience must be"),
    ("lora", {"head_decay": "-0.1"}, "head_decay and adapter_decay"), ("lora", {"init_seed": "-1"}, "init_seed must"),
    ("lora", {"head_rate": "0", "adapter_rate": "0", "least_rate": "0"}, "one of the rates must be above 0"),
    ("full-tuning", {"precision": "bf16"}, "need precision=fp32"), ("bitfit", {"epochs": "0"}, "epochs must be"),
    ("lora", {"rang": "4"}, "did you mean 'rank'"),
])  # fmt: skip
def test_parameters_that_cannot_be_are_refused_in_one_line(name, fields, why):
    with pytest.raises(BusistoreError, match=why) as error:
        with_parameters(METHODS[name][0], fields)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith((name, "no parameter"))


def test_defaults_are_the_published_protocol():
    lora = with_parameters(Lora, {"blocks": "4"})
    assert (lora.blocks, with_parameters(Lora, {"blocks": "none"})) == (4, Lora())
    published = {
        "rank": 16, "alpha": 32, "dropout": 0.1, "head_rate": 1e-3, "adapter_rate": 1e-4, "beta_1": 0.9, "beta_2": 0.95,
        "batch_size": 8, "accumulate": 4, "epochs": 100, "least_rate": 1e-7, "clip": 1.0, "patience": 18,
        "head_decay": 1e-3, "adapter_decay": 1e-5, "blocks": None,
    }  # fmt: skip
    assert {name: getattr(Lora(), name) for name in published} == published


def test_the_methods_load_nothing_heavy_before_they_train():
    code = (
        "import sys; from busistore.methods import lora, full_tuning; lora.Lora(), full_tuning.BitFit()\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'peft', 'safetensors', 'sklearn'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
