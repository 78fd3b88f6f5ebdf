"""What segmenters are trained with: clicks, augmentation against torchvision, losses and rates by hand, and a U-Net."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage, stats

from busistore.errors import BadInput, BusistoreError
from busistore.methods import with_parameters
from busistore.segmenters import prompts
from busistore.segmenters.augment import Augment, Draw, generator, plain
from busistore.segmenters.losses import click_loss, soft_dice_loss
from busistore.segmenters.prompts import Click, box_of, centre_click, random_click
from busistore.segmenters.schedule import rate
from busistore.segmenters.unet import UNet
from tests.fakes import speckle

masks = st.integers(0, 2**32).map(lambda seed: np.random.default_rng(seed).random((6, 9)) < 0.2)


def ellipse(height, width, y=0.5, x=0.5, ry=0.2, rx=0.3):
    """A lesion; lengths are shares of the height and of the width."""
    rows, columns = np.mgrid[:height, :width]
    return ((rows / height - y) / ry) ** 2 + ((columns / width - x) / rx) ** 2 <= 1


# Prompts


def slow_middle(mask):
    """The published click as a list of pixels."""
    found = [(x, y) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]]
    return found[len(found) // 2]


@given(masks.filter(np.any))
def test_centre_click_is_the_middle_of_the_list(mask):
    assert centre_click(mask) == (slow_middle(mask), 1)


def test_centre_click_is_no_centroid():
    # a bar 100 wide over a column: the middle of the list is at the bar's far end, not under its middle
    mask = np.zeros((80, 120), bool)
    mask[10, 10:110] = True
    mask[11:80, 10] = True
    assert centre_click(mask) == ((10 + 169 // 2, 10), 1)


@pytest.mark.parametrize("click", [centre_click, lambda mask: random_click(mask, generator(0, 0, 0))])
def test_without_a_lesion_the_click_says_background(click):
    (x, y), label = click(np.zeros((4, 6), bool))
    assert label == prompts.BACKGROUND
    assert x in range(6)
    assert y in range(4)


def test_without_a_lesion_the_middle_is_that_of_all_pixels():
    assert centre_click(np.zeros((256, 256), bool)) == ((0, 128), 0)


def test_random_click_takes_every_pixel_alike():
    mask = ellipse(8, 8)
    rng = generator(3, 0, 0)
    drawn = [random_click(mask, rng) for _ in range(3000)]
    counts = np.zeros(mask.shape, int)
    for (x, y), label in drawn:
        assert label == prompts.LESION
        counts[y, x] += 1
    assert not counts[~mask].any()
    assert stats.chisquare(counts[mask]).pvalue > 1e-3


def test_random_click_draws_as_much_from_any_mask():
    rngs = [generator(5, 1, 2) for _ in range(2)]
    random_click(np.zeros((5, 5), bool), rngs[0])
    random_click(ellipse(64, 64), rngs[1])
    assert rngs[0].random() == rngs[1].random()


@given(masks.filter(np.any), st.integers(0, 12))
def test_box_holds_the_lesion_and_no_less(mask, margin):
    rows, columns = np.nonzero(mask)
    x0, y0, x1, y1 = box_of(mask)
    assert (x0, y0, x1, y1) == (columns.min(), rows.min(), columns.max(), rows.max())
    wide = box_of(mask, margin)
    assert wide == (max(x0 - margin, 0), max(y0 - margin, 0), min(x1 + margin, 8), min(y1 + margin, 5))
    assert all(type(side) is int for side in wide)


def test_no_lesion_no_box():
    with pytest.raises(BadInput, match="no box"):
        box_of(np.zeros((3, 3), bool))


def test_prompts_load_no_network():
    code = "import sys, busistore.segmenters.prompts; assert 'torch' not in sys.modules and 'cv2' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.realdata
def test_published_click_of_a_real_lesion(busi_dir):
    path = next(busi_dir.rglob("malignant (1)_mask.png"), None)
    if path is None:
        pytest.skip("malignant (1) is not among the images")
    mask = np.asarray(Image.open(path).convert("L")) > 1
    resized = plain(np.zeros(mask.shape, np.uint8), mask).mask
    assert centre_click(resized) == Click((240, 117), 1)
    assert box_of(resized)[::2] == (5, 250)


# Augmentation

NEVER = Augment(p_gamma=0, p_rotate=0, p_scale=0, p_contrast=0)
ALWAYS = Augment(p_gamma=1, p_flip=1, p_rotate=1, p_scale=1, p_contrast=1)


def published(image, mask, draw, size=256):
    """The published steps one after the other, each by torchvision or as the formula stands."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as tv

    near, smooth = InterpolationMode.NEAREST, InterpolationMode.BILINEAR
    if draw.gamma is not None:
        image = (np.power(image / 255.0, 1 / draw.gamma) * 255).astype(np.uint8)
    grey, lesion = Image.fromarray(image), Image.fromarray(mask.astype(np.uint8))
    if draw.flip:
        grey, lesion = tv.hflip(grey), tv.hflip(lesion)
    if draw.angle_deg is not None:
        grey, lesion = tv.rotate(grey, draw.angle_deg), tv.rotate(lesion, draw.angle_deg)
    if draw.scale is not None:
        side = int(size * draw.scale)
        grey, lesion = tv.resize(grey, [side, side], smooth), tv.resize(lesion, [side, side], near)
        left, top = (int(share * (side - size + 1)) for share in draw.offset)
        grey, lesion = tv.crop(grey, top, left, size, size), tv.crop(lesion, top, left, size, size)
    if draw.contrast is not None:
        grey = tv.adjust_contrast(grey, draw.contrast)
    grey, lesion = tv.resize(grey, [size, size], smooth), tv.resize(lesion, [size, size], near)
    low = tv.resize(lesion, [size // 2, size // 2], near)
    return np.asarray(grey), np.asarray(lesion), np.asarray(low)


# Two steps together where they would give another picture the other way round; at last all of them.
DRAWS = [
    Draw(), Draw(gamma=2.4), Draw(gamma=1.0), Draw(flip=True), Draw(angle_deg=-23.7), Draw(contrast=1.9),
    Draw(scale=1.27, offset=(0.999, 0.31)), Draw(scale=1.001), Draw(gamma=1.7, contrast=0.8),
    Draw(flip=True, angle_deg=14.0), Draw(angle_deg=29.0, scale=1.3, offset=(0.2, 0.8)),
    Draw(scale=1.2, offset=(0.5, 0.0), contrast=2.0),
    Draw(1.3, True, 11.0, 1.15, (0.7, 0.4), 1.4),
]  # fmt: skip


@pytest.mark.parametrize("draw", DRAWS, ids=range(len(DRAWS)))
@pytest.mark.parametrize("shape", [(449, 598), (300, 210)], ids=str)
def test_each_draw_is_the_published_pipeline(draw, shape):
    image, mask = speckle(4, *shape), ellipse(*shape, x=0.35)
    ours, theirs = Augment().carry_out(draw, image, mask), published(image, mask, draw)
    assert [a.dtype for a in ours] == [np.uint8, bool, bool]
    assert [a.shape for a in ours] == [(256, 256), (256, 256), (128, 128)]
    assert all((a == b).all() for a, b in zip(ours, theirs))


def test_the_order_of_steps_is_told_apart_by_these_draws():
    image, mask = speckle(4, 300, 210), ellipse(300, 210, x=0.35)
    augment = Augment()
    for first, then in (
        (Draw(gamma=1.7), Draw(contrast=0.8)),
        (Draw(flip=True), Draw(angle_deg=14.0)),
        (Draw(angle_deg=29.0), Draw(scale=1.3, offset=(0.2, 0.8))),
        (Draw(scale=1.2, offset=(0.5, 0.0)), Draw(contrast=2.0)),
    ):
        blank = dataclasses.asdict(Draw())
        both = Draw(**{k: a if a != blank[k] else b for (k, a), b in zip(vars(first).items(), vars(then).values())})
        later = augment.carry_out(then, image, mask)
        swapped = augment.carry_out(first, later.image, later.mask)
        assert (swapped.image != augment.carry_out(both, image, mask).image).any()


def test_gamma_by_hand():
    # 255 (64/255) ** (1/2) = 127.7 is cut to 127; black and white stay
    image = np.array([[0, 64, 255]], np.uint8)
    augment = Augment(size_px=3, low_px=1)
    made = augment.carry_out(Draw(gamma=2.0), np.repeat(image, 3, axis=0), np.zeros((3, 3), bool))
    assert made.image.tolist() == [[0, 127, 255]] * 3


def test_chances_and_ranges_over_2000_draws():
    n, rng, augment = 2000, generator(1234, 0, 0), Augment(p_flip=0.25)
    draws = [augment.draw(rng) for _ in range(n)]
    for name, p in (("gamma", 0.5), ("angle_deg", 0.5), ("scale", 0.5), ("contrast", 0.5), ("flip", 0.25)):
        count = sum(getattr(d, name) not in (None, False) for d in draws)
        assert stats.binomtest(count, n, p).pvalue > 1e-3, name
    spans = (("angle_deg", -30, 30), ("scale", 1, 1.3), ("contrast", 0.8, 2))
    for name, least, greatest in spans:
        values = [v for d in draws if (v := getattr(d, name)) is not None]
        assert stats.kstest(values, "uniform", (least, greatest - least)).pvalue > 1e-3, name
    gammas = [d.gamma for d in draws if d.gamma is not None]
    levels, counts = np.unique(gammas, return_counts=True)
    assert levels.tolist() == [k / 10 for k in range(10, 25)]
    assert stats.chisquare(counts).pvalue > 1e-3
    fired = np.array([[d.gamma is None, d.angle_deg is None, d.scale is None, d.contrast is None] for d in draws])
    assert np.abs(np.corrcoef(fired.T) - np.eye(4)).max() < 0.1  # coins of their own


def test_windows_are_anywhere_in_the_stretched_image():
    augment = Augment(size_px=4, low_px=2)
    corners = {augment._window(6, (x, y))[:2] for x in np.linspace(0, 1, 40) for y in np.linspace(0, 1, 40)}
    assert corners == {(x, y) for x in range(3) for y in range(3)}


def test_published_defaults():
    assert vars(Augment()) == {
        "p_gamma": 0.5, "gamma": (1.0, 2.4), "gamma_step": 0.1, "p_flip": 0.0, "p_rotate": 0.5, "rotate_deg": 30.0,
        "p_scale": 0.5, "scale": (1.0, 1.3), "p_contrast": 0.5, "contrast": (0.8, 2.0), "size_px": 256, "low_px": 128,
    }  # fmt: skip
    assert not any(Augment().draw(generator(0, 0, k)).flip for k in range(100))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(256, 500), st.integers(256, 600))
def test_an_image_of_the_mask_stays_on_the_mask(seed, height, width):
    mask = ellipse(height, width)
    image, made_mask, low = ALWAYS.apply(mask.astype(np.uint8) * 255, mask, generator(seed, 0, 0))
    shown = image > 127
    assert not (shown & ~ndimage.binary_dilation(made_mask, np.ones((3, 3)))).any()
    assert not (ndimage.binary_erosion(made_mask, np.ones((3, 3)), border_value=1) & ~shown).any()
    assert (low == made_mask[1::2, 1::2]).all()
    assert made_mask.any()


def test_turned_in_corners_are_black_and_no_lesion():
    made = Augment().carry_out(Draw(angle_deg=30.0), np.full((256, 256), 200, np.uint8), np.ones((256, 256), bool))
    assert not made.image[0, 0]
    assert not made.mask[0, 0]
    assert set(np.unique(made.image)) == {0, 200}


def test_one_state_one_sample():
    image, mask = speckle(1, 280, 320), ellipse(280, 320)

    def of(seed, epoch, number):
        rng = generator(seed, epoch, number)
        sample = ALWAYS.apply(image, mask, rng)
        return [a.tobytes() for a in sample], random_click(sample.mask, rng)

    assert of(1, 2, 3) == of(1, 2, 3)
    keys = [(1, 2, 3), (1, 3, 2), (2, 1, 3), (1, 0, 0), (1, 0, 1), (1, 1, 0), (0, 1, 0), (2**32, 0, 0), (0, 0, 1)]
    assert len({generator(*key).random() for key in keys}) == len(keys)


def test_chances_do_not_move_one_another():
    plain_draw, other = Augment().draw(generator(7, 0, 0)), Augment(p_gamma=1.0, p_flip=1.0).draw(generator(7, 0, 0))
    assert dataclasses.replace(other, gamma=plain_draw.gamma, flip=False) == plain_draw
    rngs = generator(7, 0, 0), generator(7, 0, 0)
    NEVER.draw(rngs[0]), ALWAYS.draw(rngs[1])
    assert rngs[0].random() == rngs[1].random()


def test_streams_never_drift():
    assert generator(1234, 5, 6).integers(0, 1000, 4).tolist() == [613, 295, 447, 314]
    drawn = Augment().draw(generator(1234, 0, 4))
    assert drawn == Draw(angle_deg=drawn.angle_deg, contrast=drawn.contrast)
    assert (drawn.angle_deg, drawn.contrast) == pytest.approx((25.277644273145775, 1.7478652757627404))


def test_plain_is_the_augmentation_that_does_nothing():
    image, mask = speckle(2, 333, 257), ellipse(333, 257)
    for a, b in zip(plain(image, mask), NEVER.apply(image, mask, generator(0, 0, 0))):
        assert (a == b).all()
    assert plain(image, mask).image.flags.writeable  # torch.from_numpy warns of one that is not


def test_masks_of_0_and_255_are_masks():
    mask = ellipse(50, 60)
    assert (plain(speckle(1, 50, 60), mask.astype(np.uint8) * 255).mask == plain(speckle(1, 50, 60), mask).mask).all()


@pytest.mark.parametrize("shape", [(40, 50), (50, 40, 3)], ids=str)
def test_a_mask_of_another_shape_is_refused(shape):
    with pytest.raises(BadInput, match=r"a mask \(50, 40\)"):
        plain(np.zeros(shape, np.uint8), np.zeros((50, 40), bool))


@pytest.mark.parametrize(
    "field", ["p_gamma=1.5", "p_flip=-1", "gamma=2,1", "gamma=0,1", "scale=0.9,1.2", "contrast=1", "gamma_step=0",
              "rotate_deg=-1", "size_px=0"],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(field):
    name, _, text = field.partition("=")
    with pytest.raises(BusistoreError, match=f"augmentation: .*{name}"):
        with_parameters(Augment, {name: text})


# Losses


def slow_loss(logits, target):
    """The published loss in plain numbers, pixel by pixel."""
    bce, overlap, squares = [], 0.0, 0.0
    for z, t in zip(logits.flatten().tolist(), target.flatten().tolist()):
        p = 1 / (1 + math.exp(-z))
        bce.append(-(2 * t * math.log(p) + (1 - t) * math.log(1 - p)))
        overlap, squares = overlap + p * t, squares + p * p + t * t
    return 0.2 * sum(bce) / len(bce) + 0.8 * (1 - (2 * overlap + 1e-5) / (squares + 1e-5))


def test_loss_by_hand():
    # p = 1/2 everywhere, one of two pixels in the lesion: BCE (2 + 1)/2 log 2; Dice 1 - 2 (1/2) / (1/2 + 1) = 1/3
    logits, target = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 0.0]]]])
    assert click_loss(logits, target).item() == pytest.approx(0.2 * 1.5 * math.log(2) + 0.8 / 3, abs=1e-5)
    assert click_loss(logits, target, 1, 0, pos_weight=1).item() == pytest.approx(math.log(2))
    assert click_loss(logits, target, 0, 1).item() == pytest.approx(1 / 3, abs=1e-5)


@given(st.integers(0, 2**32))
def test_loss_is_the_formula(seed):
    rng = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(3, 1, 4, 5, generator=rng)
    target = torch.rand(3, 1, 4, 5, generator=rng) < 0.3
    assert click_loss(logits, target).item() == pytest.approx(slow_loss(logits, target), rel=1e-5)


def test_dice_is_of_the_batch_and_not_its_mean():
    target = torch.zeros(2, 1, 10, 10)
    target[0, 0, :9], target[1, 0, 0, :1] = 1, 1
    probs = target.clone()
    probs[1] = 0  # the small lesion of one pixel is missed: 2 * 90 / (90 + 91), where a mean would be 1/2
    assert soft_dice_loss(probs, target).item() == pytest.approx(1 / 181, rel=1e-4)


def test_nothing_found_where_nothing_is_costs_nothing():
    empty = torch.zeros(2, 1, 8, 8)
    assert soft_dice_loss(empty, empty).item() == 0
    assert click_loss(torch.full_like(empty, -40), empty).item() == pytest.approx(0, abs=1e-6)


def test_loss_falls_along_its_gradient_in_half_precision():
    logits = torch.zeros(2, 1, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    target = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.4
    loss = click_loss(logits, target)
    loss.backward()
    assert loss.dtype == torch.float32
    assert ((logits.grad < 0) == target).all()


def test_loss_refuses_to_broadcast():
    with pytest.raises(ValueError, match=r"\(2, 1, 4, 4\) and target \(2, 4, 4\)"):
        click_loss(torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4))


# Schedule


def test_rates_of_the_published_training():
    assert [rate(s, 4700) for s in (0, 1, 2, 249, 250, 251)] == pytest.approx(
        [2e-6, 2e-6, 4e-6, 4.98e-4, 5e-4, 5e-4], rel=1e-12
    )
    assert rate(4699, 4700) == pytest.approx(3.592e-5, rel=1e-4)


def test_rates_are_set_after_each_step():
    """The released loop, written out."""
    total, used, current = 600, [], 5e-4 / 250
    for it in range(total):
        used.append(current)
        current = 5e-4 * (it + 1) / 250 if it < 250 else 5e-4 * (1 - (it - 250) / total) ** 0.9
    assert [rate(s, total) for s in range(total)] == used


@given(st.integers(1, 400), st.integers(0, 300))
def test_rates_stay_above_0_and_below_base(total, warm_up):
    rates = [rate(s, total, 1.0, warm_up) for s in range(total)]
    assert all(0 < r <= 1 for r in rates)
    peak = rates.index(max(rates))
    assert rates == sorted(rates[:peak]) + sorted(rates[peak:], reverse=True)


@pytest.mark.parametrize("step", [-1, 10])
def test_steps_outside_the_training_are_bugs(step):
    with pytest.raises(ValueError, match="of 10"):
        rate(step, 10)


# U-Net


def test_unet_by_its_published_sizes():
    # width 64: 31.03 million weights of the published network, less its bias before each norm, plus the norms
    with torch.device("meta"):
        net = UNet(64)
    convs = sum(m.weight.numel() for m in net.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d))
    sizes = [1, 64, 128, 256, 512, 1024]
    down = sum(9 * (i * o + o * o) for i, o in pairwise(sizes))
    up = sum(4 * 2 * w * w + 9 * (2 * w * w + w * w) for w in sizes[1:-1])
    assert convs == down + up + 64
    assert 31.0e6 < convs < 31.04e6


@torch.no_grad()
def test_unet_keeps_size_and_images_apart():
    net, images = UNet(8, depth=3, seed=1).eval(), torch.rand(3, 1, 64, 32)
    out = net(images)
    assert out.shape == images.shape
    assert torch.allclose(out[1:2], net(images[1:2]), atol=1e-5)
    with pytest.raises(ValueError, match="multiple of 8"):
        net(images[..., :20])


def test_unet_sees_details_and_surroundings():
    net, images = UNet(8, depth=2), torch.rand(1, 1, 64, 64, requires_grad=True)
    net(images)[0, 0, 32, 32].backward()
    reach = (images.grad[0, 0] != 0).nonzero()
    assert (reach.min().item(), reach.max().item()) == (0, 63)  # the norms carry something from everywhere
    near = images.grad[0, 0, 28:37, 28:37].abs().mean()
    assert near > 10 * images.grad[0, 0, :8, :8].abs().mean()


def test_unet_joins_each_level_with_what_was_passed_over():
    net = UNet(8, depth=3)
    net(torch.rand(1, 1, 32, 32)).square().mean().backward()
    for join in net.join:
        gradient = join[0].weight.grad
        passed, from_below = gradient.chunk(2, dim=1)
        assert min(passed.abs().sum(), from_below.abs().sum()) > 0
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())


def test_unet_starts_from_its_seed_alone():
    torch.manual_seed(0)
    one = UNet(8, depth=2, seed=3).state_dict()
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.rand(1) == after  # making a network draws nothing from PyTorch
    two = UNet(8, depth=2, seed=3).state_dict()
    other = UNet(8, depth=2, seed=4).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["out.weight"], other["out.weight"])


def test_unet_starts_even_at_every_depth():
    with torch.no_grad():
        out = UNet(8, depth=4, seed=0)(torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert out.abs().max() < 1  # probabilities near one half
    assert out.std() > 1e-3


def test_unet_weights_go_to_a_file_and_back(tmp_path):
    from safetensors.torch import load_file, save_file

    net, other = UNet(8, depth=2, seed=1), UNet(8, depth=2, seed=2)
    save_file(net.state_dict(), tmp_path / "unet.safetensors")
    other.load_state_dict(load_file(tmp_path / "unet.safetensors"))
    images = torch.rand(1, 1, 32, 32)
    assert torch.equal(net(images), other(images))


PLACES = [(0.3, 0.3), (0.7, 0.6), (0.5, 0.4), (0.4, 0.7), (0.6, 0.3), (0.3, 0.6), (0.6, 0.6), (0.4, 0.4)]


def test_unet_learns_lesions():
    pictures = [(ellipse(32, 32, y, x, 0.2, 0.25), speckle(k, 32, 32)) for k, (y, x) in enumerate(PLACES)]
    target = torch.from_numpy(np.stack([lesion for lesion, _ in pictures]))[:, None]
    dark = np.stack([np.where(lesion, grey // 3, grey) for lesion, grey in pictures])
    images = torch.from_numpy(dark)[:, None].float() / 255
    net = UNet(8, depth=2, seed=0)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(30):
        optimiser.zero_grad()
        click_loss(net(images[:6]), target[:6]).backward()
        optimiser.step()
    found, true = net(images[6:]) > 0, target[6:]
    assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.9  # on images it was not trained on


@pytest.mark.parametrize("sizes", [{"width": 12}, {"width": 0}, {"depth": 0}], ids=str)
def test_unet_of_no_sensible_size(sizes):
    with pytest.raises(ValueError, match="multiple"):
        UNet(**sizes)
