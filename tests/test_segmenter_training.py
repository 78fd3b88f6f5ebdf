"""Training a segmenter: it learns, it may be stopped anywhere, and how it is held in memory changes nothing."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from busistore.errors import BusistoreError, RunFailed
from busistore.segmenters import training
from busistore.segmenters.base import Batch, Lesions, Segmenter
from busistore.segmenters.baseline import Unet
from busistore.segmenters.training import Training, train

FAST = {"width": 8, "depth": 3, "batch_size": 4, "warm_up": 2, "rate": 3e-3}


def lesions(n: int, seed: int, size: tuple[int, int] = (90, 120)) -> Lesions:
    """Dark ellipses in grey noise."""
    rng, images, masks = np.random.default_rng(seed), [], []
    y, x = np.mgrid[: size[0], : size[1]]
    for _ in range(n):
        (cy, cx), (a, b) = rng.uniform((30, 35), (60, 85)), rng.uniform(12, 26, 2)
        mask = ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1
        images.append((rng.uniform(90, 200, size) * np.where(mask, 0.35, 1)).astype(np.uint8))
        masks.append(mask)
    return Lesions(images, masks)


TRAIN, VAL = lesions(8, 1), lesions(4, 2)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@dataclass(frozen=True)
class Dots(Segmenter):
    """A network of 3 x 3 = 9 weights and a bias, whose gradients may be made by hand; at half size, with a click."""

    name: ClassVar[str] = "dots"
    prompted: ClassVar[bool] = True
    seen: ClassVar[list] = []

    def network(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Conv2d(1, 1, 3, padding=1, stride=2)

    def logits(self, network, batch):
        self.seen.append(batch)
        return network(batch.images) + batch.points.mean() * 0


@pytest.fixture(scope="module")
def learned():
    return train(Unet(**FAST, epochs=8, augment=False), TRAIN, VAL)


def test_a_segmenter_learns(learned):
    _, progress = learned
    dice = [value for _, name, value in progress.curves if name == "val_dice"]
    assert max(dice) > 0.8
    assert progress.best_dice == max(dice)
    assert progress.best_epoch == 1 + dice.index(max(dice))


def test_the_best_epoch_is_what_is_given(learned):
    network, progress = learned
    found = training.dices(Unet(**FAST), network, VAL)
    assert float(found.mean()) == progress.best_dice


@pytest.mark.parametrize("stopped_after", [1, 3])
def test_a_training_that_was_stopped_ends_in_the_same_bits(tmp_path, stopped_after):
    method = Dots(epochs=4, batch_size=3, at_once=2, warm_up=2)
    whole, told = train(method, TRAIN, VAL)

    def stop(progress):
        if progress.epoch == stopped_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(method, TRAIN, VAL, tmp_path, "key", on_epoch=stop)
    epochs = []
    network, again = train(method, TRAIN, VAL, tmp_path, "key", on_epoch=lambda p: epochs.append(p.epoch))
    assert epochs == list(range(stopped_after + 1, 5))
    assert torch.equal(weights(network), weights(whole))
    assert again.curves == told.curves
    assert (again.best_epoch, again.best_dice) == (told.best_epoch, told.best_dice)


def test_a_checkpoint_of_another_training_is_not_gone_on_from(tmp_path):
    train(Dots(epochs=1), TRAIN, VAL, tmp_path, "one")
    epochs = []
    train(Dots(epochs=2), TRAIN, VAL, tmp_path, "other", on_epoch=lambda p: epochs.append(p.epoch))
    assert epochs == [1, 2]


def test_a_step_in_parts_has_the_gradient_of_the_whole_batch():
    """The loss is no mean over images: soft Dice sums over the batch."""
    found = {}
    for at_once in (4, 3, 1):
        method = Dots(batch_size=4, at_once=at_once, augment=False)
        held = Training(method, method.network(), 100)
        samples, clicks = zip(*(training._sample(method, TRAIN, k, 1) for k in range(4)))
        training._step(held, training.batch(samples, clicks, TRAIN, np.arange(4)), samples, 1)
        found[at_once] = torch.cat([p.grad.flatten() for p in held.network.parameters()])
    assert torch.allclose(found[4], found[3], rtol=1e-5, atol=1e-9)
    assert torch.allclose(found[4], found[1], rtol=1e-5, atol=1e-9)


def test_clicks_lie_in_the_lesion_and_differ_between_epochs():
    Dots.seen.clear()
    train(Dots(epochs=2, batch_size=8, augment=False), TRAIN, VAL)
    first, val, second, val_again = Dots.seen
    assert not torch.equal(first.points, second.points)
    assert torch.equal(val.points, val_again.points)
    assert first.labels.eq(1).all()
    for image, (x, y) in zip(val.images[:, 0], val.points[:, 0].long()):
        assert image[y, x] < 0.4


def test_each_epoch_sees_each_image_once_in_another_order():
    Dots.seen.clear()
    train(Dots(epochs=2, batch_size=3, augment=False), TRAIN, VAL)
    steps = [b.images for b in Dots.seen if len(b.images) in (3, 2)]
    epochs = [torch.cat(steps[:3]).flatten(1).sum(dim=1), torch.cat(steps[3:]).flatten(1).sum(dim=1)]
    assert torch.equal(epochs[0].sort().values, epochs[1].sort().values)
    assert not torch.equal(epochs[0], epochs[1])


def test_tokens_are_asked_for_by_row():
    asked = []

    def tokens(rows):
        asked.extend(rows.tolist())
        return np.zeros((len(rows), 2), np.float16)

    Dots.seen.clear()
    train(Dots(epochs=1, batch_size=8, augment=False), replace(TRAIN, tokens=tokens), VAL)
    assert sorted(asked) == list(range(8))
    assert Dots.seen[0].tokens.shape == (8, 2)
    assert Dots.seen[1].tokens is None


def test_patience_ends_a_training_that_gets_no_better():
    @dataclass(frozen=True)
    class Stuck(Dots):
        def logits(self, network, batch):
            return super().logits(network, batch) * 0 - 1

    _, progress = train(Stuck(epochs=9, patience=2), TRAIN, VAL)
    assert (progress.epoch, progress.best_epoch) == (3, 1)


def test_rates_are_those_of_the_schedule():
    _, progress = train(Dots(epochs=2, batch_size=8, warm_up=4, rate=4e-3), TRAIN, VAL)
    assert [v for _, name, v in progress.curves if name == "learning_rate"] == [1e-3, 1e-3]


def test_a_loss_that_is_not_finite_ends_the_run():
    @dataclass(frozen=True)
    class Broken(Dots):
        def logits(self, network, batch):
            return super().logits(network, batch) / 0

    with pytest.raises(RunFailed, match=r"dots: the loss is not finite in epoch 1; lower rate=0.0005$"):
        train(Broken(), TRAIN, VAL)


def test_weights_that_are_not_finite_end_the_run(monkeypatch):
    """A mask of NaN is an empty one, whose Dice would be taken for a poor network's."""

    def spoil(held, *given):
        held.network.bias.data.fill_(torch.inf)
        return 0.5

    monkeypatch.setattr(training, "_train", spoil)
    with pytest.raises(RunFailed, match="dots: a weight is not finite after epoch 1; lower rate"):
        train(Dots(), TRAIN, VAL)


def test_memory_that_ends_is_told_with_the_knob():
    @dataclass(frozen=True)
    class Large(Dots):
        def logits(self, network, batch):
            raise MemoryError

    with pytest.raises(RunFailed, match=r"out of memory with 8 images at once; .* -p at_once=4"):
        train(Large(), TRAIN, VAL)
    with pytest.raises(RunFailed, match="precision=bf16"):
        train(Large(at_once=1), TRAIN, VAL)


def test_parts_without_lesions():
    with pytest.raises(BusistoreError, match="no lesions in the training part"):
        train(Dots(), Lesions([], []), VAL)
    with pytest.raises(BusistoreError, match="no lesions in the validation part"):
        train(Dots(), TRAIN, Lesions([], []))


@pytest.mark.parametrize(("fields", "words"), [
    ({"epochs": 0}, "epochs must be at least 1"), ({"width": 12}, "multiple of 8"), ({"rate": 0.0}, "rate must be"),
    ({"rate": 1e39}, "rate must be above 0 and at most 1"), ({"init_seed": 2**64}, "init_seed must be below 2"),
    ({"precision": "fp16"}, "precision is fp32 or bf16"), ({"beta_1": 1.0}, r"in \[0, 1\)"), ({"depth": 9}, "depth"),
    ({"bce_weight": 0.0, "dice_weight": 0.0}, "must be above 0"), ({"patience": -1}, "patience must be at least 0"),
])  # fmt: skip
def test_parameters_that_make_no_sense(fields, words):
    with pytest.raises(BusistoreError, match=words):
        Unet(**fields)


def test_bf16_learns_too():
    _, progress = train(replace(Unet(**FAST), precision="bf16", epochs=1), TRAIN, VAL)
    assert 0 <= progress.best_dice <= 1


def test_a_part_of_a_batch():
    whole = Batch(torch.arange(4), points=torch.arange(4) + 10)
    part = whole.part(slice(1, 3))
    assert part.images.tolist() == [1, 2]
    assert part.points.tolist() == [11, 12]
    assert part.tokens is None


def test_a_network_whose_answers_are_not_finite_is_not_kept(monkeypatch):
    """Its weights may be finite all the same."""
    monkeypatch.setattr(Dots, "logits", lambda self, network, batch: network(batch.images) * float("inf"))
    with pytest.raises(RunFailed, match="an answer to a validation image is not finite; lower the rate"):
        training.dices(Dots(), Dots().network(), VAL)
