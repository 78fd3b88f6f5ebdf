"""The bench of overlay removal: what is drawn is what the truth says, and each measure against a hand-worked number."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import cleaning
import cleaning_measures as measure
import cleaning_tables as tables
import scanner_ink as ink
import scanner_strokes as strokes
import usual_cleaner

NO_INK = np.zeros((40, 60), bool)
SQUARE = NO_INK.copy()
SQUARE[25:29, 30:34] = True  # 16 px; 64 px once widened


def tissue(seed: int = 0, shape: tuple[int, int] = (240, 320)) -> np.ndarray:
    """Speckle between 20 and 150, no pixel near an overlay's level."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=shape), (0, 0), 2.0)
    return np.clip(80 + 150 * noise, 20, 150).astype(np.uint8)


def a_base(name: str = "one", lesion: bool = True) -> ink.Base:
    mask = np.zeros((240, 320), np.uint8)
    if lesion:
        cv2.ellipse(mask, (160, 110), (60, 35), 0, 0, 360, 1, -1)
    grey = tissue()
    grey[180:215, 30:90] += np.uint8(90)  # what saturates where a case asks for it
    return ink.Base(name, "benign", "g", grey, mask > 0)


@pytest.fixture(scope="module")
def drawn() -> list[ink.Case]:
    return ink.cases([a_base(), a_base("two", lesion=False)], "tune", 60)


def plain(made: list[ink.Case], *not_these: str) -> list[ink.Case]:
    return [c for c in made if not c.tags & {"rescaled", "jpeg", *not_these}]


# What is drawn


def test_the_same_seed_draws_the_same_and_another_does_not(drawn):
    again = ink.cases([a_base(), a_base("two", lesion=False)], "tune", 3)
    assert all(np.array_equal(a.drawn, b.drawn) and a.marks == b.marks for a, b in zip(drawn, again))
    for other in (ink.cases([a_base()], "tune", 1, seed=1), ink.cases([a_base()], "score", 1)):
        assert other[0].drawn.shape != drawn[0].drawn.shape or not np.array_equal(other[0].drawn, drawn[0].drawn)


def test_clean_and_drawn_differ_by_the_mask_alone(drawn):
    for case in plain(drawn):
        clean = case.clean if case.drawn.ndim == 2 else case.clean[:, :, None].repeat(3, axis=2)
        change = np.abs(case.drawn.astype(int) - clean).reshape(*case.clean.shape, -1).max(axis=2)
        assert np.array_equal(change >= ink.MIN_CHANGE, case.mask)
        assert not (change[~case.mask] >= ink.MIN_CHANGE).any()


def test_every_changed_pixel_has_a_layer_and_no_other_has_one(drawn):
    for case in drawn:
        assert np.array_equal(case.layer > 0, case.mask)


def test_every_mark_is_drawn_where_the_truth_says(drawn):
    """The middle of the ink of a mark that nothing covers is the mark's centre."""
    n = 0
    for case in plain(drawn, "doppler", "bright"):
        for mark in case.marks:
            reach, x, y = int(mark.half + 2), int(np.floor(mark.x + 0.5)), int(np.floor(mark.y + 0.5))
            part = case.layer[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            alone = sum(abs(m.x - mark.x) + abs(m.y - mark.y) < 4 * reach for m in case.marks) == 1
            whole = "cut" not in mark.tags and part.shape == (2 * reach + 1,) * 2
            if not whole or not alone or mark.level < 160 or (part == 3).any():
                continue
            if case.clean[y - reach : y + reach + 1, x - reach : x + reach + 1].max() > 150:
                continue
            rows, columns = np.nonzero(part == 1)
            assert x + columns.mean() - reach == pytest.approx(mark.x, abs=0.6)
            assert y + rows.mean() - reach == pytest.approx(mark.y, abs=0.6)
            n += 1
    assert n > 20


def test_the_kinds_of_trouble_all_come(drawn):
    many = [*drawn, *ink.cases([a_base()], "score", 120)]
    tags = set().union(*(c.tags for c in many), *(m.tags | {m.kind} for c in many for m in c.marks))
    assert set(tables.KINDS) <= tags
    assert {"digit", "text", "logo", "leaves"} <= tags


def test_extras_add_one_more_element():
    made = ink.cases([a_base()], "tune", 24, extras=True)
    assert {t for c in made for t in c.tags} >= {"scale", "focus", "bodymark", "frame"}
    assert all((c.layer == 5).any() for c in made)


def test_rescaling_moves_centres_as_it_moves_pixels(drawn):
    case = next(c for c in drawn if "rescaled" in c.tags)
    seed = next(k for k, c in enumerate(drawn) if c is case)
    whole = a_base() if seed % 2 == 0 else a_base("two", lesion=False)
    fx = case.clean.shape[1] / whole.grey.shape[1]
    assert 0.71 < fx < 0.96
    assert case.clean.shape == case.mask.shape == case.drawn.shape[:2]
    assert all(-0.5 <= m.x < case.clean.shape[1] and -0.5 <= m.y < case.clean.shape[0] for m in case.marks)


def test_plus_has_two_bars_and_a_gap_has_none_in_the_middle():
    bars = strokes.plus((21, 21), 10, 10, half=5, thick=1)
    assert bars.sum() == 21
    assert bars[10, 5:16].all()
    assert bars[5:16, 10].all()
    assert strokes.plus((21, 21), 10, 10, 5, 1, gap=True).sum() == 12
    assert strokes.plus((21, 21), 10, 10, 5, 3).sum() == 2 * 3 * 11 - 9


def test_marks_are_cut_by_the_frame_not_wrapped():
    assert strokes.plus((21, 21), 1, 0, 5, 1)[:, 15:].sum() == 0
    assert strokes.plus((21, 21), 1, 0, 5, 1).sum() == 7 + 6 - 1


def test_cross_lies_on_both_diagonals():
    arms = strokes.cross((21, 21), 10, 10, half=8, thick=1, smooth=False)
    assert arms.sum() == 25  # arms of 6 px: 13 and 13, the middle once
    assert np.array_equal(arms, arms[::-1])
    assert np.array_equal(arms, arms.T)


def test_dots_keep_their_period_and_stay_clear_of_the_ends():
    line = np.zeros((5, 60), np.float32)
    strokes.dotted(line, np.array([2, 2]), np.array([52, 2]), period=5, dot=1)
    assert np.flatnonzero(line[2]).tolist() == list(range(10, 44, 5))
    strokes.dotted(none := np.zeros((5, 60), np.float32), np.array([2, 2]), np.array([2, 2]), 5, 1)
    assert not none.any()


def test_jpeg_keeps_red_red():
    red = np.zeros((16, 16, 3), np.uint8)
    red[:, :, 0] = 200
    assert np.abs(ink.jpeg(red, 90).astype(int) - red).max() < 12


def test_parts_share_no_group():
    parts = {f"L{k:03}": ink.part_of(f"L{k:03}") for k in range(200)}
    assert set(parts.values()) == {"tune", "score"}
    assert 70 < list(parts.values()).count("tune") < 130


@pytest.mark.realdata
def test_real_bases_are_split_by_group_and_carry_their_lesions(busi_dir):
    parts = {part: ink.bases(busi_dir.parent, part) for part in ink.PARTS}
    groups = [{b.group for b in found} for found in parts.values()]
    assert not groups[0] & groups[1]
    assert min(len(g) for g in groups) > 50
    for base in parts["tune"]:
        assert base.lesion.shape == base.grey.shape
        assert base.lesion.any() == (base.label != "normal")


# Measures


def test_match_takes_the_nearest_pair_first_and_each_once():
    true, found = [(0, 0), (6, 0)], [(4, 0), (20, 0), (6, 7)]
    assert measure.match(true, found, 7) == [(1, 0)]  # (6,0)-(4,0) at 2 px; (0,0) has only that one within 7
    assert sorted(measure.match([(0, 0), (10, 0)], [(5, 0), (10, 7)], 7)) == [(0, 0), (1, 1)]
    assert measure.match([(0, 0)], [(7, 0.1)], 7) == []
    assert measure.match([], [(1, 1)], 7) == []


def test_masks_by_hand():
    found = np.roll(SQUARE, 2, axis=1)  # 8 of 16 px are shared; all 16 lie in the widened square
    assert measure.mask_recall(found, SQUARE) == 0.5
    assert measure.widened(SQUARE).sum() == 64
    assert measure.iou(found, SQUARE) == 16 / 64
    found[0, 0], found[39, 59] = True, True
    assert measure.iou(found, SQUARE) == 16 / 66
    found[0, 0], found[39, 59] = False, False
    assert np.isnan(measure.mask_recall(found, NO_INK))
    assert measure.iou(found, NO_INK) == 0


def test_far_counts_beyond_six_pixels():
    found = NO_INK.copy()
    found[26, 33 + 6], found[26, 33 + 7] = True, True  # 6 and 7 px from the square
    found[0, 0] = True  # where a vendor signs
    assert measure.far_share(found, SQUARE) == 2 / 2400
    assert measure.far_share(found, NO_INK) == 3 / 2400
    assert measure.masked_share(found) == 2 / 2400
    assert measure.masked_share(found, with_corner=True) == 3 / 2400


def test_errors_inside_by_hand():
    clean = np.full(SQUARE.shape, 100, np.uint8)
    cleaned = clean.copy()
    cleaned[25:27, 30:34], cleaned[27, 30] = 151, 60  # eight of 16 px are 51 off, one 40: not more than 40
    assert measure.residue(cleaned, clean, SQUARE) == 0.5
    assert measure.mae(cleaned, clean, SQUARE) == (8 * 51 + 40) / 16
    assert measure.psnr(clean + np.uint8(51), clean, SQUARE) == pytest.approx(20 * np.log10(255 / 51))
    assert measure.psnr(clean, clean, SQUARE) == measure.MOST_DB
    assert np.isnan(measure.psnr(clean, clean, NO_INK))
    assert np.isnan(measure.residue(clean, clean, NO_INK))


def test_ssim_is_the_formula_pixel_by_pixel():
    clean, cleaned = tissue(1, (40, 60)), tissue(2, (40, 60))
    away = np.arange(-5, 6)
    weight = np.exp(-(away[:, None] ** 2 + away**2) / (2 * 1.5**2))
    weight /= weight.sum()
    values = []
    for y, x in np.argwhere(SQUARE):
        a, b = (i[y - 5 : y + 6, x - 5 : x + 6].astype(float) for i in (cleaned, clean))
        ma, mb = (weight * a).sum(), (weight * b).sum()
        va, vb = (weight * (a - ma) ** 2).sum(), (weight * (b - mb) ** 2).sum()
        both = (weight * (a - ma) * (b - mb)).sum()
        c1, c2 = 2.55**2, 7.65**2
        values.append((2 * ma * mb + c1) * (2 * both + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    assert measure.ssim(cleaned, clean, SQUARE) == pytest.approx(np.mean(values), abs=1e-9)
    assert measure.ssim(clean, clean, SQUARE) == pytest.approx(1)


def test_changed_outside_counts_one_level():
    seen = np.full(SQUARE.shape, 9, np.uint8)
    cleaned = seen.copy()
    cleaned[26, 31], cleaned[35, 50] = 50, 10
    assert measure.changed_outside(cleaned, seen, SQUARE) == 1 / 2400


def test_flags_by_hand():
    assert measure.sensitivity_specificity([1, 1, 0, 0, 0], [1, 0, 0, 0, 1]) == (0.5, 2 / 3)
    assert np.isnan(measure.sensitivity_specificity([1], [1])[1])
    assert measure.mean([1.0, float("nan"), 2.0]) == 1.5
    assert np.isnan(measure.mean([]))


# Sides


def truthful(case: ink.Case) -> usual_cleaner.Answer:
    """The answer of a cleaner that knows the truth."""
    marks = np.array([(m.x, m.y) for m in case.marks]).reshape(-1, 2)
    seen = cleaning.luma(case.drawn)
    flags = frozenset(case.tags & {"doppler"})
    return usual_cleaner.Answer(seen if flags else np.where(case.mask, case.clean, seen), case.mask, marks, True, flags)


def test_a_perfect_cleaner_reaches_the_top_and_none_the_bottom(drawn):
    some = plain(drawn, "colour")
    best = [cleaning.measures(c, truthful(c), 0.0) for c in some]
    none = [cleaning.measures(c, cleaning.nothing(c.drawn), 0.0) for c in some]
    assert tables.recall(best, 7) == tables.precision(best, 4) == 1
    assert tables.recall(none, 7) == 0
    assert np.isnan(tables.precision(none, 7))
    assert set(tables.over(best, "mask_recall")) == {1.0}
    assert max(tables.over(best, "residue")) == 0
    assert min(tables.over(best, "psnr")) > 40
    assert measure.mean(tables.over(none, "psnr")) < 20
    assert max(tables.over(best, "far") + tables.over(best, "outside") + tables.over(none, "far")) == 0
    assert all(tables.over(best, "doppler"))
    assert not any(tables.over(none, "doppler"))


def test_the_usual_way_finds_a_plain_bright_pair():
    grey = tissue()
    for x in (90, 200):
        grey[strokes.plus(grey.shape, x, 120, 8, 3) > 0] = 226
    dots = np.zeros(grey.shape, np.float32)
    strokes.dotted(dots, np.array([90, 120]), np.array([200, 120]), 5, 2, clear=14)
    grey[dots > 0] = 226
    got = usual_cleaner.usual(grey, grey)
    assert len(measure.match([(90, 120), (200, 120)], got.marks, 1)) == len(got.marks) == 2
    assert got.mask[dots > 0].all()
    assert got.pixels.max() < 170
    assert not got.has_text
    assert np.array_equal(got.pixels[~got.mask], grey[~got.mask])


def test_the_usual_way_leaves_plain_tissue_alone():
    got = usual_cleaner.usual(tissue(), tissue())
    assert not got.mask.any()
    assert np.array_equal(got.pixels, tissue())


def test_tables_are_printed_for_every_side(drawn, capsys):
    rows = {"nothing": cleaning.drawn(cleaning.nothing, drawn[:4])}
    rows["usual"] = cleaning.drawn(lambda image: usual_cleaner.usual(image, cleaning.luma(image)), drawn[:4])
    tables.print_measures(rows, {"nothing": [], "usual": []}, {}, "tune")
    tables.print_layers(rows)
    tables.print_kinds(rows)
    told = capsys.readouterr().out
    assert "| mark recall / precision within 7 px | 0.000 / nan |" in told
    assert all(line.count("|") in (4, 5) for line in told.splitlines() if line)
