"""The phantom data set: layout, truth, physics, and that it is the same every time."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from busistore.datasets import phantom, phantom_anatomy, phantom_lesions
from busistore.datasets.phantom_frames import _place, _sample_lesions, draw_frame, recropped, resized, sample_size
from busistore.datasets.phantom_overlays import Overlay, add_calipers, axes_of
from busistore.datasets.phantom_speckle import (
    Noise,
    Scanner,
    beamform,
    compound,
    compress,
    envelope,
    lateral_widths,
)
from busistore.errors import BadInput

N_DRAWN = 20


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "set"
    phantom.draw(folder, N_DRAWN, seed=3)
    return folder


@pytest.fixture(scope="module")
def truth(drawn: Path) -> list[dict]:
    with (drawn / "truth.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _read(folder: Path, row: dict, suffix: str = "", flag: int = cv2.IMREAD_GRAYSCALE) -> np.ndarray:
    return cv2.imread(str(folder / row["label"] / f"{row['image']}{suffix}.png"), flag)


def _masks(folder: Path, row: dict) -> list[np.ndarray]:
    return [_read(folder, row, f"_mask{f'_{i}' if i else ''}") for i in range(int(row["n_masks"]))]


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.slow
def test_same_seed_same_bytes_and_longer_begins_with_shorter(drawn, tmp_path):
    phantom.draw(tmp_path / "short", 5, seed=3)
    short, full = _bytes(tmp_path / "short"), _bytes(drawn)
    images = {name: data for name, data in short.items() if name.endswith(".png")}
    assert images == {name: full[name] for name in images}
    phantom.draw(tmp_path / "again", 5, seed=3)
    assert _bytes(tmp_path / "again") == short


def test_another_seed_draws_other_pixels():
    first, second = (phantom.render(phantom.plan(1, s), 0, s).pixels for s in (0, 1))
    assert first.shape != second.shape or not np.array_equal(first, second)


def test_layout_is_that_of_busi(drawn, truth):
    assert sorted(p.name for p in drawn.iterdir()) == ["benign", "malignant", "normal", "truth.csv"]
    expected = set()
    for row in truth:
        names = [""] + [f"_mask{f'_{i}' if i else ''}" for i in range(int(row["n_masks"]))]
        expected |= {f"{row['label']}/{row['image']}{n}.png" for n in names}
    assert {p.relative_to(drawn).as_posix() for p in drawn.glob("*/*")} == expected
    for label in phantom.SHARES:
        n = sum(r["label"] == label for r in truth)
        assert {r["image"] for r in truth if r["label"] == label} == {f"{label} ({i + 1})" for i in range(n)}


def test_truth_agrees_with_the_files(drawn, truth):
    assert list(truth[0]) == list(phantom.COLUMNS)
    for row in truth:
        image, masks = _read(drawn, row, flag=cv2.IMREAD_UNCHANGED), _masks(drawn, row)
        assert (image.shape[1], image.shape[0]) == (int(row["width_px"]), int(row["height_px"]))
        assert (image.ndim == 2) == (row["mode"] == "L")
        assert all(m.shape == image.shape[:2] and set(np.unique(m)) <= {0, 255} for m in masks)
        union = np.any(np.array(masks) > 0, axis=0)
        assert union.sum() == int(row["union_mask_area_px"])
        border = np.concatenate([union[0], union[-1], union[:, 0], union[:, -1]])
        assert border.any() == (row["touches_edge"] == "1")
        lesions = json.loads(row["lesions"])
        assert len(lesions) == int(row["n_lesions"]) == (0 if row["label"] == "normal" else int(row["n_masks"]))
        for lesion, mask in zip(lesions, masks):
            ys, xs = np.nonzero(mask)
            assert lesion["area_px"] == len(xs) > 0
            assert lesion["box"] == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_masks_of_one_image_do_not_overlap():
    several = 0
    for k in range(60):
        rng = np.random.default_rng(k)
        size = sample_size(rng)
        lesions, masks = _place(_sample_lesions(rng, "benign", size), size)
        assert len(lesions) == len(masks) >= 1
        several += len(masks) > 1
        assert np.sum(masks, axis=0).max() == 1
    assert several >= 2


def test_classes_have_the_shares_of_busi():
    counts = Counter(p.label for p in phantom.plan(200, 1))
    assert counts["benign"] == pytest.approx(112, abs=8)
    assert counts["malignant"] == pytest.approx(54, abs=6)
    assert counts["normal"] == pytest.approx(34, abs=6)
    assert len(Counter(p.label for p in phantom.plan(4, 0))) == 3


def test_calipers_are_on_lesion_images_only_and_where_truth_says(drawn, truth):
    assert any(row["has_caliper"] == "1" for row in truth)
    for row in truth:
        marks = [m for m in json.loads(row["marks"]) if m["kind"] in ("+", "x", "gap")]
        assert bool(marks) == (row["has_caliper"] == "1")
        assert not (marks and row["label"] == "normal")
        image = _read(drawn, row)
        for mark in (m for m in marks if m["kind"] == "+"):
            arm = image[mark["y"], mark["x"] - 3 : mark["x"] + 4]
            assert arm.min() >= 150


def test_calipers_span_the_lesion():
    mask = np.zeros((200, 300), np.uint8)
    cv2.ellipse(mask, (150, 100), (80, 40), 0, 0, 360, 1, -1)
    overlay = Overlay.empty(mask.shape)
    add_calipers(overlay, mask.astype(bool), np.random.default_rng(0))
    first = [m for m in overlay.marks if m.get("pair") == 1 and "x" in m]
    assert np.hypot(first[0]["x"] - first[1]["x"], first[0]["y"] - first[1]["y"]) == pytest.approx(165, rel=0.12)
    centre, axis, along, across = axes_of(mask.astype(bool))
    assert (tuple(centre), along, across) == ((150, 100), pytest.approx(80, abs=1), pytest.approx(40, abs=1))
    assert abs(axis[0]) == pytest.approx(1, abs=1e-3)


def test_twins_are_byte_identical_across_classes(tmp_path):
    plans = phantom.plan(60, 0)
    twin = plans[phantom.TWIN_AT]
    parent = plans[twin.parent]
    assert (twin.label, parent.label) == ("malignant", "benign")
    for entry in (twin, parent):
        (tmp_path / entry.label).mkdir()
        phantom._save(tmp_path / entry.label, phantom.render(plans, entry.index, 0))
    for suffix in ("", "_mask"):
        a, b = (tmp_path / e.label / f"{e.name}{suffix}.png" for e in (twin, parent))
        assert a.read_bytes() == b.read_bytes()
    groups = phantom._grouped(plans)
    assert groups[twin.index]["spans_classes"] == groups[parent.index]["spans_classes"] == 1
    assert sum(g["spans_classes"] for g in groups) >= 2
    assert groups[twin.index]["same_frame_group"] == groups[parent.index]["same_frame_group"] != ""


def test_groups_keep_adjacent_frames_apart_from_same_frames():
    plans = phantom.plan(120, 0)
    for entry, group in zip(plans, phantom._grouped(plans)):
        parent = phantom._grouped(plans)[entry.parent]
        assert group["leak_group"] == parent["leak_group"]
        if entry.variant == "adjacent":
            assert group["same_frame_group"] == ""
        elif entry.variant:
            assert group["same_frame_group"] == parent["same_frame_group"] != ""
    assert Counter(p.variant for p in plans)["adjacent"] >= 4


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of fine detail: speckle agrees only where the frame is the same."""
    a, b = (x.astype(np.float32) - cv2.GaussianBlur(x.astype(np.float32), (0, 0), 6) for x in (a, b))
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_copies_match_in_detail_adjacent_frames_in_part_strangers_not():
    seeds = np.random.SeedSequence(11)
    frame, other = draw_frame("benign", seeds), draw_frame("benign", np.random.SeedSequence(12))
    near = draw_frame("benign", np.random.SeedSequence(11), np.random.SeedSequence(99))
    back = cv2.resize(resized(frame, 0.8).grey, frame.grey.shape[::-1], interpolation=cv2.INTER_CUBIC)
    assert _correlation(frame.grey, back) > 0.9
    template = near.grey[40:-40, 40:-40].astype(np.float32)
    best = cv2.matchTemplate(frame.grey.astype(np.float32), template, cv2.TM_CCOEFF_NORMED)
    stranger = cv2.resize(other.grey, frame.grey.shape[::-1])[40:-40, 40:-40].astype(np.float32)
    assert best.max() > cv2.matchTemplate(frame.grey.astype(np.float32), stranger, cv2.TM_CCOEFF_NORMED).max() + 0.15
    y, x = np.unravel_index(best.argmax(), best.shape)
    assert 0.1 < _correlation(frame.grey[y : y + template.shape[0], x : x + template.shape[1]], template) < 0.9


def test_recrop_keeps_every_lesion_pixel():
    frame = draw_frame("malignant", np.random.SeedSequence(4))
    for k in range(5):
        part = recropped(frame, np.random.default_rng(k))
        assert [m.sum() for m in part.masks] == [m.sum() for m in frame.masks]
        assert part.grey.size < frame.grey.size


def test_envelope_of_uniform_tissue_is_rayleigh():
    scanner = Scanner(axial_px=1.4, lateral_px=2.0)
    noise = Noise(np.random.default_rng(0))
    echo = envelope(np.ones((512, 512), np.float32), noise, scanner)[16:-16, 24:-24].ravel()
    assert echo.mean() / echo.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.03)
    assert np.mean(echo**2) == pytest.approx(1.0, rel=0.04)
    for level in (0.5, 1.0, 1.5):  # P(E < e) = 1 - exp(-e^2) at unit power
        assert np.mean(echo < level) == pytest.approx(1 - np.exp(-(level**2)), abs=0.02)


def test_point_spread_function_has_the_stated_width_at_each_depth():
    scanner = Scanner(axial_px=1.5, lateral_px=3.0, focus=0.25, spread=2.0)
    points = np.zeros((401, 201), np.complex64)
    rows = (100, 380)
    for y in rows:
        points[y, 100] = 1
    image = np.abs(beamform(points, scanner))
    across = np.arange(201) - 100
    for y in rows:
        profile = image[y] / image[y].sum()
        assert np.sqrt((profile * across**2).sum()) == pytest.approx(lateral_widths(401, scanner)[y], rel=0.02)
    column = image[80:121, 100] / image[80:121, 100].sum()
    assert np.sqrt((column * (np.arange(41) - 20) ** 2).sum()) == pytest.approx(1.5, rel=0.03)
    assert lateral_widths(401, scanner)[380] > 1.5 * lateral_widths(401, scanner)[100]


def test_log_compression_by_hand():
    scanner = Scanner(dynamic_range_db=60, gamma=1.0, smoothing_px=0.0)
    echo = np.array([[1.0, 10**-0.75, 1e-3, 1e-5, 2.0]], np.float32)  # 0, -15, -60, -100, +6 dB
    assert compress(echo, scanner).tolist() == [[255, 191, 0, 0, 255]]


def test_drifted_noise_keeps_variance_and_shares_the_cosine():
    def noise(angle):
        drift = np.random.default_rng(2) if angle else None
        return Noise(np.random.default_rng(1), drift, angle).normal((300, 300))

    assert noise(1.0).std() == pytest.approx(1.0, abs=0.01)
    assert np.corrcoef(noise(0.0).ravel(), noise(1.0).ravel())[0, 1] == pytest.approx(np.cos(1.0), abs=0.02)


def _sampled(label: str, n: int = 400) -> list[phantom_lesions.Lesion]:
    rng = np.random.default_rng(8)
    return [phantom_lesions.sample_lesion(rng, label, (470, 560)) for _ in range(n)]


def test_benign_lesions_are_wider_than_tall_malignant_ones_less_so():
    benign, malignant = _sampled("benign"), _sampled("malignant")

    def ratio(lesions):
        return np.mean([les.half_height / les.half_width for les in lesions])

    assert ratio(benign) < 0.8 < ratio(malignant)
    taller = np.mean([les.half_height > les.half_width for les in malignant])
    assert taller == pytest.approx(0.34, abs=0.07)  # 40 % of those neither round nor atypical
    assert all((les.half_height > les.half_width) == (les.orientation == "not parallel") for les in benign + malignant)


def test_classes_overlap_in_every_descriptor():
    benign, malignant = _sampled("benign"), _sampled("malignant")
    for word in ("shape", "margin", "orientation", "posterior", "pattern", "halo", "calcified"):
        assert {getattr(les, word) for les in benign} == {getattr(les, word) for les in malignant}


def test_mask_is_the_area_inside_the_outline():
    for lesion in _sampled("malignant", 20):
        x, y = phantom_lesions.outline(lesion).T
        area = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))  # the surveyor's formula
        inside = (x.min() > 1) and (x.max() < 558) and (y.min() > 1) and (y.max() < 468)
        if inside:
            assert phantom_lesions.mask_of(lesion, (470, 560)).sum() == pytest.approx(area, rel=0.05)


def test_signed_distance_by_hand():
    mask = np.zeros((9, 9), bool)
    mask[3:6, 3:6] = True
    distance = phantom_lesions.signed_distance(mask)
    assert distance[4, 4] == pytest.approx(1.5, abs=0.1)
    assert distance[4, 3] == pytest.approx(0.5, abs=0.1)
    assert distance[4, 2] == pytest.approx(-0.5, abs=0.1)


def _behind_minus_beside(posterior: str, posterior_db: float) -> float:
    """Mean grey level behind a lesion minus beside it, over five breasts."""
    values = []
    for k in range(5):
        rng = np.random.default_rng(k)
        lesion = phantom_lesions.Lesion(140, 90, 40, 28, 0.0, "oval", "circumscribed", "parallel", "hypoechoic",
                                        posterior, False, False, -12.0, posterior_db, 5)
        noise, mask = Noise(rng), phantom_lesions.mask_of(lesion, (240, 280))
        tissue = phantom_anatomy.build(phantom_anatomy.sample_breast(rng), mask.shape, noise)
        phantom_lesions.paint(lesion, mask, tissue, noise)
        grey = compress(compound(*phantom_anatomy.arriving(tissue), noise, Scanner()), Scanner()).astype(float)
        rows = grey[128:160]
        values.append(rows[:, 115:165].mean() - np.r_[rows[:, 60:90].ravel(), rows[:, 190:220].ravel()].mean())
    return float(np.mean(values))


def test_posterior_enhancement_brightens_and_shadowing_darkens():
    enhanced, plain, shadowed = (_behind_minus_beside(*case) for case in
                                 (("enhancement", 8.0), ("none", 0.0), ("shadowing", -12.0)))
    assert enhanced > plain + 20
    assert shadowed < plain - 25


def test_progress_is_called_once_per_image(tmp_path):
    calls = []
    phantom.draw(tmp_path, 2, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


def test_interrupted_drawing_leaves_no_data_set_and_can_be_drawn_again(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        phantom.draw(tmp_path, 2, progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == [".drawing"]
    phantom.draw(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["benign", "malignant", "normal", "truth.csv"]


@pytest.mark.parametrize(("n_images", "seed", "message"), [(0, 0, "cannot draw 0"), (1, -1, "seed -1 is negative")])
def test_numbers_out_of_range_are_refused(tmp_path, n_images, seed, message):
    with pytest.raises(BadInput, match=message):
        phantom.draw(tmp_path, n_images, seed)


def test_drawing_over_a_drawing_or_a_file_is_refused(drawn, tmp_path):
    with pytest.raises(BadInput, match="already holds 'benign'"):
        phantom.draw(drawn, 2)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="is a file"):
        phantom.draw(tmp_path / "file", 2)


def _quiet(images: list[np.ndarray]) -> tuple[float, float, float]:
    """Medians over images: SD of detail in the quietest tissue, and the axial and lateral lag of half correlation."""
    found = []
    for grey in images:
        level = grey.astype(np.float32)
        fine = level - cv2.GaussianBlur(level, (0, 0), 8)
        tiles = [(fine[y : y + 24, x : x + 48], level[y : y + 24, x : x + 48].mean())
                 for y in range(len(grey) // 10, 4 * len(grey) // 10, 12) for x in range(10, grey.shape[1] - 58, 24)]
        tiles = sorted((t - t.mean() for t, mean in tiles if 50 < mean < 170 and t.shape == (24, 48)), key=np.std)
        tiles = tiles[len(tiles) // 10 : len(tiles) // 4]
        if len(tiles) > 1:
            found.append((np.mean([t.std() for t in tiles]), _half_lag(tiles), _half_lag([t.T for t in tiles])))
    return tuple(float(v) for v in np.median(found, axis=0))


def _half_lag(tiles: list[np.ndarray]) -> float:
    """Shift along the rows at which the mean correlation falls to one half, in pixels."""
    rho = [np.mean([(t[k:] * t[: len(t) - k]).mean() / (t * t).mean() for t in tiles]) for k in range(12)]
    k = int(np.argmax(np.array(rho) < 0.5))
    return k - 1 + (rho[k - 1] - 0.5) / (rho[k - 1] - rho[k])


@pytest.mark.realdata
def test_speckle_is_as_wide_and_as_strong_as_in_real_images(drawn, truth, busi_dir):
    real = [p for label in phantom.SHARES for p in sorted((busi_dir / label).glob("*).png"))][::12]
    deviation, axial, lateral = _quiet([cv2.imread(str(p), cv2.IMREAD_GRAYSCALE) for p in real])
    ours = _quiet([_read(drawn, row) for row in truth])
    assert ours[0] == pytest.approx(deviation, rel=0.2)
    assert ours[1] == pytest.approx(axial, rel=0.25)
    assert ours[2] == pytest.approx(lateral, rel=0.3)
