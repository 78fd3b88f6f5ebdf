"""The query two_stage on a store whose every number can be worked by hand.

Of the test images, the benign and the malignant one have a lesion, the normal one has none. `alpha` with one shot has
three runs: SSS is right of all three, SUW calls the normal image benign, UWS calls the malignant one normal.
"""

import pytest

from busistore import schema, sql
from busistore.jobs import lesions
from tests.fakes import rows
from tests.filled import NOW, SPLIT, TEST_IDS, filled_store

BENIGN, MALIGNANT, NORMAL = TEST_IDS
DICE = {"seg-a": {BENIGN: 0.9, MALIGNANT: 0.4}, "seg-b": {BENIGN: 0.6, MALIGNANT: 0.5, NORMAL: 0.0}}


def segmentation(store, source_id: str, part: str = "test") -> dict:
    ids = [r["image_id"] for r in rows(store, "splits", f"split_id = '{SPLIT}' AND part = '{part}'")]
    return {
        "source_id": source_id, "segmenter_id": f"unet-{source_id}", "segmenter": "unet", "prompt": "auto",
        "dataset": "toy", "split_id": SPLIT, "part": part, "n_images": 3,
        "inputs_sha256": lesions.inputs_sha256(store, ids), "n_missed": 0,
        "n_false_positive": 0, "versions": "{}", "commit": "", "device": "cpu", "seconds": 1.0, "finished_at": NOW,
    }  # fmt: skip


def put_masks(store, source_id: str, dice: dict[str, float]) -> None:
    """Masks of the test images, with the Dice of those that have one; an image without one is unmarked."""
    store.put(schema.MASKS, [
        {"image_id": i, "source_id": source_id, "area_px": 9, "n_masks": 1, "n_lesions": 1, "is_empty": i not in dice,
         "touches_edge": False, "png_crc32": 0, "png": b""} for i in TEST_IDS
    ])  # fmt: skip
    store.put(schema.METRICS, [
        {"run_id": source_id, "subject": i, "metric": name, "class": "", "value": v, "n_used": 1}
        for i, v in dice.items() for name in ("dice", "iou")
    ])  # fmt: skip
    store.put(schema.SEGMENTATIONS, [segmentation(store, source_id)])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = filled_store(tmp_path_factory.mktemp("filled") / "store")
    for source_id, dice in DICE.items():
        put_masks(made, source_id, dice)
    store_val = segmentation(made, "seg-val", "val")
    made.put(schema.SEGMENTATIONS, [store_val])
    return made


COLUMNS = ("source_id", "n_runs", "n_images", "n_lesion", "right_class", "right_mask", "both_right", "dice_of_right")


def asked(store, **parameters) -> dict[str, tuple]:
    """Source -> the numbers of COLUMNS, of alpha with one shot unless asked otherwise."""
    rows = sql.run(store, "two_stage", {"model": "alpha", "shots": 1} | parameters)
    return {row[0]: row[1:] for row in rows.select(COLUMNS).rows()}


def test_one_run_that_is_right_of_every_class(store):
    """seg-a: the malignant mask is below .5, and the normal image is called normal, so that no mask is made."""
    found = asked(store, run_id="run-alpha-1-0")
    assert found["seg-a"] == (1, 3, 2, 1.0, 0.5, round(2 / 3, 4), 0.65)
    assert found["seg-b"] == (1, 3, 2, 1.0, 1.0, 1.0, 0.55)  # its mask of the normal image is never made


def test_a_wrong_class_spoils_a_right_mask(store):
    """UWS: the malignant image is called normal; benign and normal are right."""
    found = asked(store, run_id="run-alpha-1-2")
    assert found["seg-a"] == (1, 3, 2, round(2 / 3, 4), 0.5, round(2 / 3, 4), 0.45)
    assert found["seg-b"] == (1, 3, 2, round(2 / 3, 4), 1.0, round(2 / 3, 4), 0.3)


def test_means_over_the_runs_of_a_setting(store):
    """SSS, SUW and UWS: of seg-a, benign is right in all three and malignant in none, normal in the first and third."""
    found = asked(store)
    assert found["seg-a"] == (3, 3, 2, round(7 / 9, 4), 0.5, round((2 + 1 + 2) / 9, 4), round((0.65 * 2 + 0.45) / 3, 4))
    assert found["seg-b"] == (3, 3, 2, round(7 / 9, 4), 1.0, round((3 + 2 + 2) / 9, 4), round((0.55 * 2 + 0.3) / 3, 4))


def test_the_bar_is_a_parameter_and_is_met_from_above(store):
    assert asked(store, run_id="run-alpha-1-0", threshold="0.4")["seg-a"][4:6] == (1.0, 1.0)
    assert asked(store, run_id="run-alpha-1-0", threshold="0.41")["seg-a"][4:6] == (0.5, round(2 / 3, 4))
    assert asked(store, run_id="run-alpha-1-0", threshold=0.95)["seg-b"][4:6] == (0.0, round(1 / 3, 4))


def test_a_missed_lesion_counts_as_dice_0(store, tmp_path):
    other = filled_store(tmp_path / "store")
    put_masks(other, "seg-c", {})
    assert asked(other, run_id="run-alpha-1-0")["seg-c"] == (1, 3, 2, 1.0, 0.0, round(1 / 3, 4), 0.0)


def test_what_is_asked_for_alone(store):
    assert set(asked(store)) == {"seg-a", "seg-b"}  # and not the masks of the validation part
    assert set(asked(store, segmenter="unet-seg-b")) == {"seg-b"}
    assert asked(store, segmenter="unet") == asked(store)
    for name, value in {"segmenter": "sam", "method": "knn", "dataset": "busi", "split_id": "x", "ratio": 1}.items():
        assert asked(store, **{name: value}) == {}
    assert sql.run(store, "two_stage").height == 2 * 4  # two models, two numbers of shots
