"""Diagnose: the classifier is the stored run, the mask is the segmenter's, and every doubt is said."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("torch")

from busistore import models, pixels
from busistore.cli import app
from busistore.errors import BusistoreError, MissingWeights
from busistore.jobs import diagnose as jobs
from busistore.jobs import seen
from busistore.jobs.asked import ask as named
from busistore.jobs.diagnose import LESIONS, NOTICE, diagnose, save
from busistore.jobs.encode import encode
from busistore.jobs.evaluate import evaluate
from busistore.jobs.ingest import ingest
from busistore.jobs.proposals import Chosen
from busistore.jobs.refit import classifier
from busistore.jobs.segment import mask_of, segment
from busistore.jobs.segmenters import trained
from busistore.jobs.split import split
from busistore.jobs.train_segmenter import train_segmenter
from busistore.lesion_shape import lesion_shapes
from busistore.methods import Labelled, LinearProbe
from busistore.models import TextTower
from busistore.preprocess import recipes
from busistore.schema import IMAGES, MASKS, RUNS
from busistore.store import Store
from tests.fakes import FAKE_DIM, busi_folder, part, register_model, rows, speckle
from tests.speckle import speckle as real_speckle

SMALL = {"width": "8", "depth": "2", "epochs": "1", "batch_size": "4", "warm_up": "2", "rate": "3e-3"}
READERS = ("zero-shot", "tip-adapter", "ss-text")


class Reads:
    """A text tower: another vector for another sentence."""

    logit_scale = 9.0

    def encode(self, texts):
        return np.stack([np.random.default_rng(list(t.encode())).normal(size=FAKE_DIM) for t in texts]).astype("f4")


def register(patch, folder: Path) -> None:
    register_model(patch, folder / "weights.pt")
    register_model(patch, folder / "other.pt", "idle")
    patch.setitem(models.MODELS, "fake", replace(models.MODELS["fake"], text=TextTower(77, FAKE_DIM)))
    patch.setattr(models, "load_text", lambda *_, **__: Reads())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder of images, and a store of them with runs of several methods and a segmenter."""
    root = tmp_path_factory.mktemp("diagnose")
    folder = busi_folder(root / "busi", 14)
    with pytest.MonkeyPatch.context() as patch:
        register(patch, root)
        store = Store.create(root / "store")
        ingest(store, "busi", folder)
        encode(store, "fake")
        split(store, "busi")
        evaluate(store, ["linear-probe", "knn"], ["fake"], [1, 2], range(2), ratios=[0.5])
        evaluate(store, ["linear-probe"], ["fake"], [2], range(1), protocol="strict")
        evaluate(store, [*READERS, "transclip"], ["fake"], [2], range(1), prompts=["plain"])
        train_segmenter(store, "unet", parameters=SMALL)
    return root


@pytest.fixture
def store(world, monkeypatch) -> Store:
    """Nothing writes to it."""
    register(monkeypatch, world)
    return Store.open(world / "store")


@pytest.fixture
def copied(world, tmp_path, monkeypatch) -> Store:
    """A store of one's own, in a working directory with some files to ask about."""
    register(monkeypatch, world)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BUSISTORE", "store")
    Image.fromarray(speckle(999)).save("scan.png")
    return Store.open(shutil.copytree(world / "store", tmp_path / "store"))


@pytest.fixture
def marked(monkeypatch):
    """Every mask is of two squares, and of a speck too small for a lesion."""
    monkeypatch.setattr(jobs, "mask_of", lambda held, image: two_squares(image.shape))


def two_squares(shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[10:20, 30:35] = True
    mask[40:44, 50:60] = True
    mask[60, 60] = True
    return mask


def runs(store, **fields):
    return [r for r in rows(store, RUNS.name) if all(r[k] == v for k, v in fields.items())]


def vector(store, image_id):
    (name,) = [n for n in store.names() if n.startswith("embeddings")]
    return store.vectors(name, [image_id])[0]


def ask(store, image, **given):
    return diagnose(store, image, **{"model": "fake", "segmenter": "unet"} | given)


def predicted_as(store, kind) -> str:
    """A test image that the run which is asked by default says a class of `kind` of."""
    run = ask(store, part(store, "test")[0]).run
    said = rows(store, "predictions", f"run_id = '{run['run_id']}'")
    return min(r["image_id"] for r in said if (r["predicted"] in LESIONS) == kind)


@pytest.mark.parametrize("method", ["linear-probe", "knn", *READERS])
def test_a_stored_run_is_asked_again_and_says_what_it_said(store, method):
    for run in runs(store, method=method):
        asked = classifier(store, run_id=run["run_id"])
        for row in rows(store, "predictions", f"run_id = '{run['run_id']}'")[:4]:
            probabilities, of_val = asked.answer(vector(store, row["image_id"]))
            np.testing.assert_allclose(probabilities, row["probabilities"], atol=1e-9)
            assert of_val.shape == (len(part(store, "val")), 3)


def test_a_new_picture_by_hand(copied):
    """Recipe, encoder, probe and threshold, each called on its own."""
    found = ask(copied, "scan.png", method="linear-probe", confidence=0.7)
    squares = recipes.apply(recipes.recipe("pad224"), speckle(999)).pixels[None]
    new = models.load(models.locate("fake")).encode(squares)
    ids = {name: part(copied, name) for name in ("val", "test")}
    support = sorted(r["image_id"] for r in rows(copied, "episodes", f"episode_id = '{found.run['episode_id']}'"))
    label = {r["image_id"]: r["label"] for r in rows(copied, "images")}
    classes = sorted(set(label.values()))

    def labelled(some):
        return Labelled(np.stack([vector(copied, i) for i in some]), np.array([classes.index(label[i]) for i in some]))

    val = labelled(ids["val"])
    queries = np.concatenate([new, val.features])
    p = LinearProbe().fit_predict(labelled(support), val, queries, 3, "val-tuned").probabilities
    np.testing.assert_allclose(list(found.probabilities.values()), p[0], atol=1e-9)
    assert list(found.probabilities) == classes
    scores = sorted(1 - p[1 + k, v] for k, v in enumerate(val.labels))
    threshold = scores[math.ceil((len(scores) + 1) * 0.7) - 1]
    certain = found.certainty
    assert certain.threshold == pytest.approx(threshold)
    assert certain.classes == [c for c, q in zip(classes, p[0]) if 1 - q <= threshold + 1e-12]
    assert (certain.n_val, certain.confidence) == (len(val.labels), 0.7)
    said = rows(copied, "predictions", f"run_id = '{found.run['run_id']}'")
    held = [r["probabilities"][classes.index(r["label"])] >= 1 - threshold - 1e-12 for r in said]
    assert (certain.coverage_test, certain.n_test) == (pytest.approx(np.mean(held)), len(held))


def test_which_run_is_asked(store):
    """By default the most labelled: half of the training part is more than two of each class."""
    (half,) = {r["ratio"] for r in runs(store)} - {None}
    of_half = max(runs(store, method="linear-probe", ratio=half), key=lambda r: (r["finished_at"], r["run_id"]))
    assert classifier(store, "fake").run["run_id"] == of_half["run_id"]
    (knn, *_) = runs(store, method="knn", shots=1)
    assert classifier(store, run_id=knn["run_id"]).run == knn
    for given in ({"method": "linear-probe"}, {"model": "idle"}):
        with pytest.raises(BusistoreError, match=r"has (method 'knn', not 'linear-probe'|model 'fake', not 'idle')"):
            classifier(store, run_id=knn["run_id"], **given)


def test_the_protocol_says_what_the_confidence_is_worth(store):
    (strict,) = runs(store, protocol="strict")
    image = part(store, "test")[0]
    found = ask(store, image, run=strict["run_id"], confidence=0.7)
    tuned = ask(store, image, method="linear-probe", confidence=0.7)
    assert not found.certainty.val_was_tuned_on
    assert tuned.certainty.val_was_tuned_on
    optimistic = "the validation images chose the classifier's parameters too, so the confidence is optimistic"
    assert optimistic in tuned.notes
    assert optimistic not in found.notes


def test_too_few_images_for_a_confidence(store):
    found = ask(store, part(store, "test")[0], confidence=0.999)
    assert found.certainty.classes == list(found.probabilities)
    assert found.certainty.threshold is None
    assert any("are too few for a confidence of 0.999: the prediction set holds every class" in n for n in found.notes)
    json.dumps(found.record(), allow_nan=False)


def test_an_empty_set_is_none_and_not_the_most_probable(store):
    found = ask(store, part(store, "test")[0], confidence=0.01)
    assert found.certainty.classes == []
    assert "none at this confidence" in found.certainty.in_words()


def test_the_mask_is_that_of_segment(copied):
    ids = part(copied, "test")
    segment(copied, "unet")
    (made,) = rows(copied, "segmentations")
    held = named(copied, "unet", split=made["split_id"]).hold(copied)
    files = dict(copied.files(MASKS, f"source_id = '{made['source_id']}'").stream(ids))
    images = dict(copied.files(IMAGES).stream(ids))
    for i in ids[:3]:
        mask = mask_of(held, pixels.grey(images[i]))
        assert (mask == pixels.mask(files[i])).all()
    image = predicted_as(copied, True)
    found = ask(copied, image)
    assert (found.mask == pixels.mask(files[image])).all()
    assert found.lesions == lesion_shapes(found.mask)


def test_lesions_are_listed_in_pixels_of_the_image(store, marked):
    record = ask(store, predicted_as(store, True)).record()
    assert record["lesions"] == [
        {"bbox_px": [30, 10, 35, 20], "area_px": 50, "longest_axis_px": math.hypot(5, 10), "taller_than_wide": True},
        {"bbox_px": [50, 40, 60, 44], "area_px": 40, "longest_axis_px": math.hypot(10, 4), "taller_than_wide": False},
    ]
    assert record["mask_area_px"] == 91
    assert (record["image"]["width_px"], record["image"]["height_px"]) == (96, 72)
    assert record["notice"] == NOTICE
    assert record["class"] == max(record["probabilities"], key=record["probabilities"].get)
    assert record["segmenter"]["segmenter_id"] == trained(store, "unet")["segmenter_id"]
    assert record["segmenter"]["prompt"] == "auto"
    assert record["classifier"]["run_id"] in {r["run_id"] for r in runs(store)}


def test_a_normal_image_is_not_segmented(store, monkeypatch):
    image = predicted_as(store, False)
    monkeypatch.setattr(jobs, "mask_of", None)  # calling it would fail
    found = ask(store, image, confidence=0.999)
    assert found.predicted == "normal"
    assert (found.mask, found.lesions) == (None, [])
    assert found.record()["segmenter"]["is_asked"] is False
    assert any(n.startswith("no mask was made") for n in found.notes)


def test_a_lesion_that_the_segmenter_does_not_see_is_told(store, monkeypatch):
    monkeypatch.setattr(jobs, "mask_of", lambda held, image: np.zeros(image.shape, bool))
    found = ask(store, predicted_as(store, True))
    assert f"the class is {found.predicted}, and the segmenter marks no lesion" in found.notes


def test_random_weights_are_told(store, monkeypatch, marked):
    asked = named(store, "unet")
    monkeypatch.setattr(jobs, "ask", lambda *_, **__: replace(asked, row=asked.row | {"init": "random"}))
    found = ask(store, predicted_as(store, True))
    assert any("RANDOM weights" in n for n in found.notes)
    assert found.record()["segmenter"]["init"] == "random"


def test_what_was_learned_from_is_no_test(store, marked):
    run = ask(store, part(store, "test")[0]).run
    support = {r["image_id"] for r in rows(store, "episodes", f"episode_id = '{run['episode_id']}'")}
    seen = ask(store, min(support))
    assert any(n.startswith(f"the classifier learned from '{min(support)}'") for n in seen.notes)
    assert (seen.parts["classifier"], seen.parts["segmenter"]) == ("train", "train")
    if seen.mask is not None:
        assert any(n.startswith("the segmenter was trained on") for n in seen.notes)
    val = ask(store, part(store, "val")[0])
    assert any("is a validation image: the prediction set was made with it" in n for n in val.notes)
    test = ask(store, part(store, "test")[0])
    assert not any("learned from" in n or "is in" in n or "validation image:" in n for n in test.notes)
    assert test.parts == {"classifier": "test", "segmenter": "test"}


def test_a_copy_of_a_training_image_is_known_by_its_pixels(store, tmp_path):
    run = ask(store, part(store, "test")[0]).run
    image = min(r["image_id"] for r in rows(store, "episodes", f"episode_id = '{run['episode_id']}'"))
    ((_, data),) = store.files(IMAGES).stream([image])
    pixels.open_image(data, "x").save(tmp_path / "another name.bmp")
    found = ask(store, str(tmp_path / "another name.bmp"))
    assert found.record()["image"]["stored_as"] == [image]
    assert any(n.startswith("the classifier learned from 'another name.bmp'") for n in found.notes)
    assert found.probabilities == ask(store, image).probabilities


def test_a_picture_of_the_same_frame_is_known(tmp_path, monkeypatch):
    """Cropped and brightened, a picture has other pixels; the registration that finds near-duplicates knows it."""
    folder = busi_folder(tmp_path / "busi", 4)
    for seed, path in enumerate(sorted(p for p in folder.rglob("*.png") if "mask" not in p.name)):
        Image.fromarray(real_speckle(seed, 150, 200)).save(path)
        Image.new("1", (200, 150)).save(path.with_name(path.stem + "_mask.png"))
    register(monkeypatch, tmp_path)
    store = Store.create(tmp_path / "store")
    ingest(store, "busi", folder)
    encode(store, "fake")
    ids = sorted(r["image_id"] for r in rows(store, "images"))
    grey = pixels.grey(store.files(IMAGES)[ids[5]], ids[5])
    known = models.locate("fake")
    asked = SimpleNamespace(located=known, run={"recipe_id": recipes.recipe("pad224").recipe_id})
    brighter = np.clip(grey[5:, 8:].astype(int) + 9, 0, 255).astype(np.uint8)
    vector = models.load(known).encode(recipes.apply(recipes.recipe("pad224"), brighter).pixels[None])[0]
    cropped = jobs.Picture(brighter, "x.png", "", [])
    assert seen.near(store, asked, cropped, vector) == [ids[5]]
    assert seen.near(store, asked, cropped._replace(ids=[ids[5]]), vector) == []
    assert seen.near(store, asked, cropped._replace(image=real_speckle(99, 150, 200)), vector) == []
    store.put(IMAGES, [row | {"png": b"damaged", "png_crc32": 1} for row in rows(store, "images")[:1]], replace=True)
    damaged = rows(store, "images")[0]["image_id"]
    assert seen.near(store, asked, cropped, vector) == [ids[5]] * (damaged != ids[5])


def test_a_near_duplicate_that_was_learned_from_is_said(store):
    asked = classifier(store, "fake")
    image = min(asked.cell.episode.ids)
    (told,) = seen.of_class(asked, "x.png", [], [image])
    assert told == "the classifier learned from a near-duplicate of 'x.png': its class is no fair test"
    (told,) = seen.of_mask(named(store, "unet"), "x.png", [], [image])
    assert told == "the segmenter learned from a near-duplicate of 'x.png': its mask is no fair test"
    assert seen.of_class(asked, "x.png", [], [part(store, "test")[0]]) == []
    val = part(store, "val")[0]
    assert seen.of_class(asked, "x.png", [], [val]) == ["the prediction set was made with a near-duplicate of 'x.png'"]


def test_what_proposes_the_prompts_is_said_to_have_learned(store):
    """A segmenter used as published has learned from no image here; the probe that proposes its clicks has."""
    asked, image = named(store, "unet"), part(store, "train")[0]
    as_published = replace(asked, row=asked.row | {"n_train": 0})
    assert seen.of_mask(as_published, "x", [image], []) == []
    proposed = replace(as_published, chosen=Chosen("patch-probe-1", None))
    (told,) = seen.of_mask(proposed, "x", [image], [])
    assert told.startswith("what proposes the prompts was trained on the part that 'x' is in")
    assert seen.of_mask(proposed, "x", [part(store, "test")[0]], []) == []
    assert seen.of_mask(proposed, "x", [part(store, "val")[0]], []) == []  # the probe is chosen on nothing
    (told,) = seen.of_mask(proposed, "x", [], [image])
    assert told == "what proposes the prompts learned from a near-duplicate of 'x': its mask is no fair test"


def test_a_stored_image_needs_no_network(store, monkeypatch):
    monkeypatch.setattr(models, "load", None)  # calling it would fail
    ask(store, part(store, "test")[0])


def test_files_stand_beside_the_picture_and_never_over_it(copied, marked):
    before = Path("scan.png").read_bytes()
    found = ask(copied, "scan.png")
    picture, record = save(found, Path())
    assert (picture.name, record.name) == ("scan-diagnosis.png", "scan-diagnosis.json")
    assert Path("scan.png").read_bytes() == before
    assert json.loads(record.read_text()) == found.record()
    with Image.open(picture) as image:
        assert image.format == "PNG"
    picture, _ = save(ask(copied, part(copied, "test")[0]), Path("deep", "folder"))
    assert picture.parent == Path("deep", "folder")
    assert picture.name.startswith("busi-")


def command(*arguments):
    return CliRunner().invoke(app, ["diagnose", *arguments], catch_exceptions=False)


def test_the_command(copied, marked, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    before = {n: copied.dataset(n).version for n in copied.names()}
    done = command("scan.png", "--model", "fake", "--segmenter", "unet", "-o", "out", "--format", "json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads(Path("out/scan-diagnosis.json").read_text())
    assert done.stderr.endswith(NOTICE + "\n")
    image = predicted_as(copied, True)
    done = command(image, "--model", "fake", "--segmenter", "unet")
    assert "lesion 1        50 px, longest axis 11 px, taller than wide, at x 30 to 34, y 10 to 19" in done.stdout
    assert "diagnosis/busi-" in done.stderr
    assert {n: Store.open("store").dataset(n).version for n in copied.names()} == before


def write_bad_files(copied) -> None:
    Path("words.png").write_text("no picture")
    Path("cut.png").write_bytes(Path("scan.png").read_bytes()[:-500])
    Path("empty.png").write_bytes(b"")
    Path("folder.png").mkdir()
    Image.fromarray(speckle(1)[:20, :20]).save("tiny.png")
    Image.fromarray(speckle(1).astype(np.uint16) * 257).save("deep.png")


COMMON = ("scan.png", "--model", "fake", "--segmenter", "unet")
REFUSED = {
    "not a picture": (["words.png", *COMMON[1:]], "'words.png' is not a picture that can be read"),
    "truncated": (["cut.png", *COMMON[1:]], "'cut.png' is damaged or truncated"),
    "empty": (["empty.png", *COMMON[1:]], "'empty.png' is empty"),
    "tiny": (["tiny.png", *COMMON[1:]], "is 20 x 20 px, the least is 32 x 32"),
    "16 bit": (["deep.png", *COMMON[1:]], "16 bits a sample"),
    "no file": (["none.png", *COMMON[1:]], "there is no file 'none.png'"),
    "a folder": (["folder.png", *COMMON[1:]], "there is no file 'folder.png'"),
    "unknown image": (["busi/benign-001", *COMMON[1:]], "did you mean 'busi/benign-00"),
    "unknown segmenter": ([*COMMON[:-1], "unets"], "no segmenter 'unets'; did you mean 'unet'"),
    "unknown model": (["scan.png", "--model", "fakes", "--segmenter", "unet"], "did you mean 'fake'"),
    "no model": (["scan.png", "--segmenter", "unet"], "give --model, or --run"),
    "unknown method": ([*COMMON, "--method", "probe"], "no method 'probe'"),
    "unknown run": ([*COMMON, "--run", "linear-probe-0"], "no run 'linear-probe-0'"),
    "no run": ([*COMMON, "--method", "prototype"], "`busistore evaluate --method prototype --model fake` makes some"),
    "not encoded": (["scan.png", "--model", "idle", "--segmenter", "unet"], "`busistore encode --model idle` does it"),
    "trains a tower": ([*COMMON, "--method", "lora"], "no run of 'lora' on 'fake'"),
    "reads them together": ([*COMMON, "--method", "transclip"], "'transclip' reads all test images together"),
    "confidence": ([*COMMON, "--confidence", "90"], "a share above 0 and below 1, such as 0.9, not 90"),
    "prompt of the truth": ([*COMMON, "--prompt", "oracle-click"], "taken from a true mask"),
    "unknown prompt": ([*COMMON, "--prompt", "click"], "no prompt 'click'"),
    "folder is a file": ([*COMMON, "-o", "scan.png"], "'scan.png' is a file; name a folder with -o"),
    "unknown format": ([*COMMON, "--format", "parquet"], "no format 'parquet'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_one_clear_line(copied, case):
    write_bad_files(copied)
    arguments, words = REFUSED[case]
    done = command(*arguments)
    assert done.exit_code == 1, done.output
    assert words in done.stderr
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) == 1
    assert not Path("diagnosis").exists()


def test_no_segmenter_is_trained(copied):
    copied.delete("segmenters", "true")
    with pytest.raises(BusistoreError, match="`busistore train-segmenter unet` does it"):
        ask(copied, "scan.png")


def test_a_run_of_other_data_is_not_passed_off_as_the_stored_one(copied):
    (run,) = runs(copied, method="knn", shots=2, seed=0)
    changed = {"inputs_sha256": "0" * 64, "run_id": "knn-older", "parameters": run["parameters"]}
    copied.put(RUNS, [run | changed, run | {"run_id": "knn-other", "parameters": '{"no_such_field": 1}'}])
    for run_id in ("knn-older", "knn-other"):
        with pytest.raises(BusistoreError, match="--method knn --model fake` makes it anew, or name another with"):
            classifier(copied, run_id=run_id)
    copied.delete("episodes", f"episode_id = '{run['episode_id']}'")
    with pytest.raises(BusistoreError, match="makes it anew"):
        classifier(copied, run_id=run["run_id"])


def test_vectors_that_are_gone_are_named(copied):
    (name,) = [n for n in copied.names() if n.startswith("embeddings")]
    copied.delete(name, f"image_id = '{part(copied, 'val')[0]}'")
    with pytest.raises(BusistoreError, match=r"1 images of the split, .* are not encoded .*`busistore encode --model"):
        ask(copied, "scan.png")


def test_a_run_of_other_weights_is_told(copied):
    (run,) = runs(copied, method="knn", shots=2, seed=0)
    copied.put(RUNS, [run | {"run_id": "knn-of-others", "model_id": "fake-000000000000"}])
    with pytest.raises(MissingWeights, match=r"is of other weights of 'fake' \(fake-000000000000\)"):
        classifier(copied, run_id="knn-of-others")
