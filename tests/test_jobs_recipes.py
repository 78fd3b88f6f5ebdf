"""Recipes that look for ink or are given the true mask, from the files of a store to its rows and sheets."""

import json
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from busistore import pixels
from busistore.cli import app
from busistore.errors import BusistoreError
from busistore.jobs import preprocess as job
from busistore.jobs.ingest import ingest
from busistore.jobs.preprocess import preprocess
from busistore.preprocess import cleaning, recipes, text
from busistore.schema import IMAGES, MASKS, PREPROCESSED
from tests.fakes import save_mask
from tests.test_cleaning import measured, tissue

INKED, PLAIN = "busi/benign-0001", "busi/normal-0002"
KEYS = {"kind", "box", "polygon", "score", "centre", "area_px", "filled"}


@pytest.fixture
def inked(store, folder):
    """The six images of each class; one is larger and carries yellow calipers, one is larger and carries none."""
    image, ink = measured(1, (255, 255, 0))
    Image.fromarray(image).save(folder / "benign" / "benign (1).png")
    lesion = np.zeros(ink.shape, bool)
    lesion[80:170, 80:180] = True
    for name, mask in (("benign (1)_mask", lesion), ("benign (1)_mask_1", np.zeros(ink.shape, bool))):
        save_mask(folder / "benign" / f"{name}.png", mask)
    Image.fromarray(tissue(2)).save(folder / "normal" / "normal (2).png")
    save_mask(folder / "normal" / "normal (2)_mask.png", np.zeros(tissue(2).shape, bool))
    assert ingest(store, "busi", folder).failed == 0
    return store


def stored(store, name: str, image_id: str) -> np.ndarray:
    where = f"recipe_id = '{recipes.recipe(name).recipe_id}'"
    return pixels.grey(store.files(PREPROCESSED, where)[image_id])


def test_findings_are_rows_in_original_pixels(inked):
    preprocess(inked, "clean224", only={INKED, PLAIN})
    rows = {r["image_id"]: json.loads(r["artefacts"]) for r in inked.read("preprocessed").to_pylist()}
    assert rows[PLAIN] == []
    marks = [r for r in rows[INKED] if r["kind"] == "caliper+"]
    for x, y in ((60, 120), (200, 120), (130, 60), (130, 190)):
        (mark,) = [m for m in marks if np.hypot(m["centre"][0] - x, m["centre"][1] - y) < 3]
        x0, y0, x1, y1 = mark["box"]
        assert x0 <= x < x1
        assert y0 <= y < y1
    assert all(r["filled"] and set(r) == KEYS for r in rows[INKED])


def test_the_job_makes_what_the_recipes_make(inked):
    image, lesion = measured(1, (255, 255, 0))[0], pixels.mask(inked.files(MASKS)[INKED])
    for name, of in recipes.RECIPES.items():
        if of.ocr:
            continue
        preprocess(inked, name, only={INKED})
        made = recipes.apply(of, image, lesion if of.needs_lesion else None)
        assert (stored(inked, name, INKED) == made.pixels).all()


def test_the_detector_is_given_pixels_alone(inked, monkeypatch):
    """No mask, label or name reaches it, and no mask is even read for recipes that do not need one."""
    seen = []
    real = cleaning.detect

    def spy(*arguments, **named):
        seen.append((arguments, named))
        return real(*arguments, **named)

    monkeypatch.setattr(cleaning, "detect", spy)
    monkeypatch.setattr(recipes, "lesion_only", None)  # would fail when called
    opened = []
    files = inked.files
    monkeypatch.setattr(inked, "files", lambda table, where=None: opened.append(table.name) or files(table, where))
    preprocess(inked, "clean224", only={INKED, PLAIN}, executor="serial")
    assert opened == [IMAGES.name]
    first, last = (np.asarray(pixels.open_image(files(IMAGES)[i], i)) for i in (INKED, PLAIN))
    shown = [first, cleaning.clean(first).pixels, last]  # what was filled is looked at again
    del seen[3:]
    for ((image, settings, ocr), named), wanted, again in zip(seen, shown, (False, True, False), strict=True):
        assert (image == wanted).all()
        assert (settings, ocr, named) == (cleaning.DEFAULTS, False, {"inked": True} if again else {})


def test_lesion_recipes_again_write_only_what_differs(inked, folder):
    name, only = "lesion-only224", {INKED, PLAIN}
    first = preprocess(inked, name, only=only)
    assert (first.written, first.skipped) == (2, 0)
    again = preprocess(inked, name, only=only)
    assert (again.planned, again.written, again.skipped) == (2, 0, 2)
    before = stored(inked, name, INKED)
    lesion = np.zeros((240, 300), bool)
    lesion[20:60, 20:90] = True
    save_mask(folder / "benign" / "benign (1)_mask.png", lesion)
    ingest(inked, "busi", folder, replace=True)
    changed = preprocess(inked, name, only=only)
    assert (changed.written, changed.skipped) == (1, 1)
    assert (stored(inked, name, INKED) != before).any()
    assert not stored(inked, name, PLAIN).any()


def test_a_replaced_mask_takes_the_pictures_made_with_it(inked, folder):
    """Nothing that was made with the old one is current, even before the recipe is asked for again."""
    for name in ("lesion-only224", "pad224"):
        preprocess(inked, name, only={INKED, PLAIN})
    lesion = np.zeros((240, 300), bool)
    lesion[20:60, 20:90] = True
    save_mask(folder / "benign" / "benign (1)_mask.png", lesion)
    ingest(inked, "busi", folder, replace=True)
    made = {(r["recipe"], r["image_id"]) for r in inked.read("preprocessed", ["recipe", "image_id"]).to_pylist()}
    assert made == {("lesion-only224", PLAIN), ("pad224", INKED), ("pad224", PLAIN)}
    assert preprocess(inked, "lesion-only224", only={INKED, PLAIN}, dry_run=True).skipped == 1


def test_a_reader_that_is_not_installed_is_one_line(inked, monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    text._engine.cache_clear()
    with pytest.raises(BusistoreError, match=r"needs the extra 'ocr'; pip install 'busistore\[ocr\]'"):
        preprocess(inked, "clean224-ocr")
    assert not inked.count("failures")


def test_an_image_without_a_true_mask_row_fails_alone(inked):
    inked.delete("masks", f"image_id = '{PLAIN}'")
    report = preprocess(inked, "lesion-blacked224", only={INKED, PLAIN})
    assert (report.written, report.failed) == (1, 1)
    assert f"'masks' has no row for '{PLAIN}'" in report.failures[PLAIN]
    assert preprocess(inked, "clean224", only={PLAIN}).written == 1


def test_sheets_are_of_all_chosen_images_stored_or_not(inked, tmp_path):
    preprocess(inked, "clean224", only={INKED})
    report = preprocess(inked, "clean224", only={INKED, PLAIN}, debug=tmp_path / "sheets")
    assert (report.written, report.skipped, report.failed) == (1, 1, 0)
    made = sorted(p.name for p in (tmp_path / "sheets").iterdir())
    assert made == ["busi_benign-0001.png", "busi_normal-0002.png"]
    assert Image.open(tmp_path / "sheets" / made[0]).size == (3 * 12 + 2 * 300, 58 + 2 * (22 + 240 + 12))


def test_a_sheet_of_a_failed_image_is_left_out_and_named_once(inked, tmp_path):
    inked.delete("masks", f"image_id = '{PLAIN}'")
    report = preprocess(inked, "lesion-only224", only={INKED, PLAIN}, debug=tmp_path / "sheets")
    assert (report.failed, len(report.failures)) == (1, 1)
    assert [p.name for p in (tmp_path / "sheets").iterdir()] == ["busi_benign-0001.png"]


def test_sheets_that_cannot_be_are_refused_before_any_work(inked, tmp_path):
    (tmp_path / "file").write_text("")
    for name, folder, words in (
        ("pad224", tmp_path / "a", "looks for nothing"),
        ("clean224", tmp_path / "file", "is a file"),
        ("clean224", tmp_path / "a" / "b", "no folder"),
    ):
        with pytest.raises(BusistoreError, match=words):
            preprocess(inked, name, debug=folder)
    assert inked.count("preprocessed") == 0


def test_on_the_command_line(inked, tmp_path):
    arguments = ["preprocess", "--recipe", "clean224", "--debug", str(tmp_path / "sheets"), "--store", str(inked.path)]
    done = CliRunner().invoke(app, [*arguments, "--where", f"image_id = '{INKED}'"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "sheets" / "busi_benign-0001.png").is_file()


def test_findings_of_a_flagged_image_are_listed_as_not_filled(inked, monkeypatch):
    few = cleaning.Settings(most_share=0.001)
    monkeypatch.setitem(recipes.RECIPES, "clean224", recipes.Recipe("clean224", "", "pad", steps=("clean",),
                                                                    artefacts=few))  # fmt: skip
    preprocess(inked, "clean224", only={INKED})
    (row,) = inked.read("preprocessed").to_pylist()
    found = json.loads(row["artefacts"])
    assert found
    assert not any(f["filled"] for f in found)
    raw = recipes.apply(recipes.recipe("pad224"), pixels.grey(inked.files(IMAGES)[INKED])).pixels
    assert (stored(inked, "clean224", INKED) == raw).all()
    assert job.made_from(inked, row["recipe_id"]) == {INKED: row["source_sha256"]}
