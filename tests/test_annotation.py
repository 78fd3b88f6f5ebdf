"""The agreement of true masks of near-duplicates: the map between two pictures, hand-worked Dice, and what is kept."""

import shutil

import numpy as np
import pytest
from PIL import Image

from busistore import sql
from busistore.jobs import annotation
from busistore.jobs.annotation import agreement, comparable, compared, transform
from busistore.jobs.group import group
from busistore.jobs.ingest import TRUTH, ingest, mask_row
from busistore.metrics.masks import mask_metrics
from busistore.registration import Registration, features
from busistore.schema import MASKS, METRICS, PAIRS
from busistore.store import Store
from tests.fakes import save_mask, speckle

SETTINGS = Registration()
TALL, WIDE = 240, 320
CUT = slice(40, 220), slice(30, 300)


def box(y0: int, y1: int, x0: int, x1: int, shape=(TALL, WIDE)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Frame 1 with its crop, 2 with a byte-identical twin, 3 with a normal crop, 4 alone; nothing compared yet."""
    root = tmp_path_factory.mktemp("annotation")
    frames = [speckle(k, TALL, WIDE) for k in range(1, 5)]
    pictures = {"benign": [frames[0], frames[0][CUT], frames[1], frames[1], frames[2], frames[3]],
                "normal": [frames[2][CUT]]}  # fmt: skip
    lesions = {
        "benign": [box(80, 160, 100, 200), box(80, 160, 100, 180)[CUT], box(60, 100, 60, 100), box(60, 100, 80, 120),
                   box(50, 90, 50, 90), box(50, 90, 50, 90)],
        "normal": [np.zeros_like(frames[2][CUT], bool)],
    }  # fmt: skip
    for label, some in pictures.items():
        (root / "busi" / label).mkdir(parents=True)
        for k, picture in enumerate(some, 1):
            Image.fromarray(picture).save(root / "busi" / label / f"{label} ({k}).png")
            save_mask(root / "busi" / label / f"{label} ({k})_mask.png", lesions[label][k - 1])
    store = Store.create(root / "store")
    ingest(store, "busi", root / "busi")
    group(store, "busi")
    return store


@pytest.fixture(scope="module")
def whole(made):
    agreement(made)
    return made


CROP, TWIN = ("busi/benign-0001", "busi/benign-0002"), ("busi/benign-0003", "busi/benign-0004")


def values(store, metric: str) -> dict[str, float]:
    rows = store.read("metrics", where=f"starts_with(run_id, 'annotation-') AND metric = '{metric}'").to_pylist()
    return {r["subject"]: r["value"] for r in rows}


def test_only_pairs_with_a_lesion_on_either_side_are_compared(made):
    found = {tuple(sorted(key[1:])) for key in made.keys(PAIRS)}
    assert ("busi/benign-0005", "busi/normal-0001") in found
    assert comparable(made, "busi") == [CROP, TWIN]
    assert comparable(made, "elsewhere") == []


def test_dice_of_masks_laid_over_each_other(whole):
    """The crop's mask is 80 of 100 columns: 2 * 80 / 180. Identical pictures: 20 of 40 columns are shared, 1 / 2."""
    found = values(whole, "dice")
    assert found["|".join(CROP)] == pytest.approx(8 / 9, abs=1e-3)
    assert found["|".join(TWIN)] == 0.5
    assert values(whole, "hd95")["|".join(CROP)] == pytest.approx(20, abs=1)


def test_the_query_tells_identical_from_similar(whole):
    rows = {r["pairs"]: r for r in sql.run(whole, "annotation_ceiling", {"dataset": "busi"}).to_dicts()}
    assert [(k, r["n_pairs"], r["n_groups"]) for k, r in rows.items()] == [
        ("all", 2, 2), ("identical", 1, 1), ("similar", 1, 1)
    ]  # fmt: skip
    assert rows["identical"]["dice_median"] == 0.5
    assert rows["all"]["dice_mean"] == pytest.approx((8 / 9 + 1 / 2) / 2, abs=1e-3)
    assert rows["all"]["dice_q1"] == pytest.approx(0.5 + (8 / 9 - 0.5) / 4, abs=1e-3)
    assert (rows["all"]["n_equal"], rows["all"]["n_apart"]) == (0, 0)


def test_nothing_is_computed_twice(whole, monkeypatch):
    monkeypatch.setattr(annotation, "compared", None)
    before = whole.version("metrics")
    report = agreement(whole, "busi")
    assert (report.planned, report.skipped, report.written) == (2, 2, 0)
    assert whole.version("metrics") == before


def test_another_mask_is_compared_anew_and_the_old_agreement_goes(whole, tmp_path):
    store = Store.open(shutil.copytree(whole.path, tmp_path / "store"))
    other = "annotation-busi-toy-0123456789ab"
    row = store.read("metrics", where="metric = 'dice'").to_pylist()[0]
    store.put(METRICS, [row | {"run_id": other}])
    mask = store.read(MASKS.name, where=f"image_id = '{TWIN[1]}'").to_pylist()[0]
    same = box(60, 100, 60, 100)
    store.put(MASKS, [mask | mask_row(same, TRUTH, 1)], replace=True)
    assert agreement(store).written == 2
    runs = {r["run_id"] for r in store.read("metrics", ["run_id"], "metric = 'dice'").to_pylist()}
    assert len(runs) == 2
    assert other in runs  # of a data set whose name only begins alike
    assert values(store, "dice")["|".join(TWIN)] == 1
    assert sql.run(store, "annotation_ceiling").filter(pairs="all")["n_equal"].to_list() == [1]


def test_a_data_set_without_groups_or_pairs_has_no_agreement(store, folder):
    ingest(store, "busi", folder)
    assert agreement(store).planned == 0
    assert store.count("metrics") == 0


def test_pictures_that_do_not_align_are_told(made, tmp_path, monkeypatch):
    store = Store.open(shutil.copytree(made.path, tmp_path / "store"))
    store.delete("metrics", "true")
    monkeypatch.setattr(annotation.registration, "align", lambda *_: None)
    report = agreement(store)
    assert report.written == 1  # identical pixels need no alignment
    assert report.notes == ["1 of 2 pairs of busi share no lesion that can be laid over another"]
    assert values(store, "dice") == {"|".join(TWIN): 0.5}


@pytest.mark.parametrize("scale", [0.7, 1.0, 1.6])
def test_the_map_between_a_picture_and_its_resized_crop(scale):
    """By hand: pixel centres (x, y) of the frame lie at scale * (x + 1/2 - 30) - 1/2 in the crop."""
    frame = speckle(7, 640, 800)  # larger than the working image, so that both scalings count
    y, x = slice(80, 560), slice(60, 740)
    size = round(680 * scale), round(480 * scale)
    crop = np.asarray(Image.fromarray(frame[y, x]).resize(size, Image.Resampling.BILINEAR))
    found = transform(features(frame, SETTINGS), frame, crop, SETTINGS)
    points = np.array([[100.0, 100, 1], [700, 120, 1], [400, 500, 1]])
    wanted = [[size[0] / 680 * (a + 0.5 - 60) - 0.5, size[1] / 480 * (b + 0.5 - 80) - 0.5] for a, b, _ in points]
    assert points @ found.T == pytest.approx(np.array(wanted), abs=1.0)


def test_pictures_of_different_frames_have_no_map():
    a, b = speckle(1, TALL, WIDE), speckle(2, TALL, WIDE)
    assert transform(features(a, SETTINGS), a, b, SETTINGS) is None


def test_identical_pictures_are_not_moved():
    a = np.zeros((40, 50), np.uint8)  # nothing stands out
    assert np.array_equal(transform(features(a, SETTINGS), a, a.copy(), SETTINGS), np.eye(3)[:2])


def test_masks_are_compared_where_both_have_pixels():
    """The other begins 10 columns later: of the first mask's columns 0 to 19, ten are shared, and all of them agree."""
    true, mask = box(0, 10, 0, 20, (30, 40)), box(0, 10, 0, 10, (30, 30))
    shift = np.array([[1.0, 0, -10], [0, 1, 0]])
    assert compared(true, mask, shift)["dice"] == 1
    assert compared(true, mask, shift) == mask_metrics(box(0, 10, 10, 20, (30, 40)), box(0, 10, 10, 20, (30, 40)))


def test_a_lesion_that_only_one_has_is_a_miss_and_none_at_all_is_no_value():
    true, nothing, same = box(0, 10, 0, 20, (30, 40)), np.zeros((30, 40), bool), np.eye(3)[:2]
    assert compared(true, nothing, same)["dice"] == 0
    assert compared(nothing, nothing, same) == {}
    assert compared(true, true, np.array([[1.0, 0, 100], [0, 1, 0]])) == {}


def test_the_id_says_what_was_compared(made):
    pairs = comparable(made, "busi")
    found = annotation.run_of(made, "busi", pairs)
    assert found.startswith("annotation-busi-")
    assert found != annotation.run_of(made, "busi", pairs[:1])
    assert found == annotation.run_of(made, "busi", pairs)
