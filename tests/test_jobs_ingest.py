"""Ingest and preprocess: whole rows, once; bad files are listed and nothing stored is lost."""

import shutil

import numpy as np
import pytest
from PIL import Image

from busistore import pixels
from busistore.errors import BusistoreError
from busistore.jobs.executors import EXECUTORS
from busistore.jobs.ingest import ingest, mask_row
from busistore.jobs.preprocess import preprocess
from busistore.preprocess import recipes
from busistore.schema import IMAGES, MASKS, PREPROCESSED
from tests.fakes import busi_folder, save_mask, speckle


def failures(store) -> dict[str, str]:
    rows = store.read("failures").to_pylist()
    return {r["key"]: r["reason"] for r in rows}


def counts(report) -> tuple[int, int, int, int]:
    return report.planned, report.skipped, report.written, report.failed


def test_everything_is_stored_as_it_was(store, folder):
    assert counts(ingest(store, "busi", folder)) == (18, 0, 18, 0)
    data = (folder / "benign" / "benign (1).png").read_bytes()
    assert store.files(IMAGES)["busi/benign-0001"] == data
    row = store.read("images", where="image_id = 'busi/benign-0001'").to_pylist()[0]
    assert (row["label"], row["width_px"], row["height_px"], row["mode"]) == ("benign", 96, 72, "L")
    merged = np.zeros((72, 96), bool)
    merged[20:41, 30:61] = merged[60:72, 0:10] = True
    assert (pixels.mask(store.files(MASKS)["busi/benign-0001"]) == merged).all()
    mask = store.read("masks", where="image_id = 'busi/benign-0001'").to_pylist()[0]
    assert (mask["area_px"], mask["bbox_px"]) == (21 * 31 + 12 * 10, [0, 20, 61, 72])
    assert (mask["n_masks"], mask["n_lesions"], mask["touches_edge"], mask["is_empty"]) == (2, 2, True, False)


def test_an_empty_mask_has_no_box():
    row = mask_row(np.zeros((40, 40), bool), "truth", 1)
    assert (row["area_px"], row["bbox_px"], row["n_lesions"], row["is_empty"]) == (0, None, 0, True)


def test_slips_of_the_pen_are_no_lesions():
    mask = np.zeros((60, 60), bool)
    mask[5:20, 5:20] = mask[40:44, 40:44] = True
    mask[50, 10:25] = True  # 15 px: one less than the smallest lesion
    assert mask_row(mask, "truth", 1)["n_lesions"] == 2
    assert mask_row(mask, "truth", 1)["area_px"] == 15 * 15 + 16 + 15


def test_again_writes_nothing(store, folder):
    ingest(store, "busi", folder)
    versions = {t: store.version(t) for t in store.names()}
    assert counts(ingest(store, "busi", folder)) == (18, 18, 0, 0)
    assert {t: store.version(t) for t in store.names()} == versions


@pytest.mark.parametrize("executor", sorted(EXECUTORS))
def test_every_executor_gives_the_same_store(store, folder, executor):
    if executor == "ray":
        pytest.importorskip("ray")
    (folder / "normal" / "normal (4).png").write_bytes(b"broken")
    assert counts(ingest(store, "busi", folder, executor=executor)) == (18, 0, 17, 1)
    preprocess(store, executor=executor)
    ids = sorted(i for (i,) in store.keys(IMAGES))
    pictures = store.files(PREPROCESSED)
    for image_id, data in store.files(IMAGES).stream(ids):
        wanted = recipes.apply(recipes.recipe("pad224"), pixels.grey(data)).pixels
        assert (pixels.grey(pictures[image_id]) == wanted).all()


def broken_folder(folder) -> dict[str, str]:
    """Spoil a folder in every way that happens; the failure expected for each image."""
    benign = folder / "benign"
    whole = (benign / "benign (2).png").read_bytes()
    (benign / "benign (2).png").write_bytes(whole[: len(whole) // 2])
    Image.new("L", (1, 1)).save(benign / "benign (3).png")
    Image.fromarray(speckle(3).astype(np.uint16) * 256).save(benign / "benign (4).png")
    transparent = Image.fromarray(speckle(4)).convert("RGBA")
    transparent.putalpha(128)
    transparent.save(benign / "benign (5).png")
    save_mask(benign / "benign (6)_mask.png", np.ones((40, 40), bool))
    return {
        "busi/benign-0002": "damaged or truncated", "busi/benign-0003": "is 1 x 1 px",
        "busi/benign-0004": "has 16 bits a sample", "busi/benign-0005": "transparent pixels",
        "busi/benign-0006": "'benign (6)_mask.png' is 40 x 40 px, its image 'benign (6).png' 96 x 72",
    }  # fmt: skip


def test_bad_files_fail_alone(store, folder):
    expected = broken_folder(folder)
    assert counts(ingest(store, "busi", folder)) == (18, 0, 13, 5)
    found = failures(store)
    assert found.keys() == expected.keys()
    assert all(words in found[key] for key, words in expected.items())


def test_mended_files_leave_the_failures(store, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "whole")
    broken_folder(folder)
    (folder / "benign" / "stray.png").write_bytes(b"x")
    ingest(store, "busi", folder)
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "whole", folder)
    assert counts(ingest(store, "busi", folder)) == (18, 13, 5, 0)
    assert failures(store) == {}


def test_failures_of_one_folder_outlive_another(store, folder, tmp_path):
    other = busi_folder(tmp_path / "other", 1, ("benign",))
    (folder / "malignant" / "malignant (3)_mask.png").unlink()
    (folder / "malignant" / "malignant (2).png").write_bytes(b"broken")
    ingest(store, "busi", folder)
    ingest(store, "busi", other)
    assert failures(store).keys() == {"busi/malignant-0002", "busi/malignant/malignant (3).png"}
    for name in ("malignant (2).png", "malignant (2)_mask.png", "malignant (3).png"):
        (folder / "malignant" / name).unlink()  # taken out of the folder, as the messages advise
    ingest(store, "busi", folder)
    assert failures(store) == {}


def test_folders_that_differ_in_case_alone(store, folder):
    (folder / "benign").rename(folder / "Benign")
    assert ingest(store, "busi", folder).written == 18
    (folder / "benign").mkdir()
    with pytest.raises(BusistoreError, match="holds both 'Benign' and 'benign'"):
        ingest(store, "busi", folder)


def test_a_changed_file_is_not_taken_silently(store, folder):
    ingest(store, "busi", folder)
    preprocess(store)
    Image.fromarray(speckle(77)).save(folder / "normal" / "normal (2).png")
    before = store.files(IMAGES)["busi/normal-0002"]
    assert counts(ingest(store, "busi", folder)) == (18, 17, 0, 1)
    assert "differs from what is stored; --replace" in failures(store)["busi/normal-0002"]
    assert store.files(IMAGES)["busi/normal-0002"] == before
    assert counts(ingest(store, "busi", folder, replace=True)) == (18, 17, 1, 0)
    assert failures(store) == {}
    assert counts(preprocess(store)) == (18, 17, 1, 0)  # only the picture of the changed image is made again


def test_a_changed_mask_counts_as_a_change(store, folder):
    ingest(store, "busi", folder)
    save_mask(folder / "normal" / "normal (2)_mask.png", np.ones((72, 96), bool))
    assert ingest(store, "busi", folder).failed == 1


def test_two_files_of_one_picture_are_two_images(store, folder):
    shutil.copy(folder / "benign" / "benign (3).png", folder / "malignant" / "malignant (5).png")
    ingest(store, "busi", folder)
    where = "image_id IN ('busi/benign-0003', 'busi/malignant-0005')"
    rows = store.read("images", ["label", "file_sha256", "pixels_sha256"], where).to_pylist()
    assert sorted(r["label"] for r in rows) == ["benign", "malignant"]
    assert len({(r["file_sha256"], r["pixels_sha256"]) for r in rows}) == 1


def test_rgb_of_a_grey_picture_has_the_same_pixels(store, folder):
    Image.open(folder / "normal" / "normal (1).png").convert("RGB").save(folder / "normal" / "normal (2).png")
    ingest(store, "busi", folder)
    columns = ["mode", "file_sha256", "pixels_sha256"]
    rows = store.read("images", columns, "image_id LIKE 'busi/normal-000_'").to_pylist()
    assert {r["mode"] for r in rows} == {"L", "RGB"}
    assert len({r["pixels_sha256"] for r in rows}) == 5


def test_preprocess_only_some(store, folder):
    ingest(store, "busi", folder)
    only = {"busi/benign-0001", "busi/normal-0003"}
    assert counts(preprocess(store, only=only)) == (2, 0, 2, 0)
    assert counts(preprocess(store, only_errors=True)) == (0, 0, 0, 0)
    assert counts(preprocess(store, dry_run=True)) == (18, 2, 0, 0)
    assert store.count("preprocessed") == 2


def test_recipes_lie_side_by_side(store, folder):
    ingest(store, "busi", folder)
    names = [name for name, recipe in recipes.RECIPES.items() if not recipe.ocr]  # which needs an extra
    for name in names:
        preprocess(store, name)
    assert store.count("preprocessed") == 18 * len(names)
    padded, stretched = (
        pixels.grey(store.files(PREPROCESSED, f"recipe_id = '{recipes.recipe(name).recipe_id}'")["busi/benign-0001"])
        for name in ("pad224", "stretch224")
    )
    assert not padded[:28].any()  # a 4 : 3 picture leaves 28 black rows above and below
    assert stretched[:28].any()
