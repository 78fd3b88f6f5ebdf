"""Segmenters in the store: trained once, going on where they stopped, masks and metrics beside the truth."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("torch")

from busistore import checkpoint, pixels, sql
from busistore.cli import app
from busistore.errors import BusistoreError, UnknownName
from busistore.ids import sha256
from busistore.jobs import lesions
from busistore.jobs.asked import ask, prompt_of
from busistore.jobs.ingest import ingest, mask_row
from busistore.jobs.segment import segment
from busistore.jobs.segmenters import WEIGHTS, folder_of, trained
from busistore.jobs.split import split
from busistore.jobs.train_segmenter import train_segmenter
from busistore.jobs.verify import verify
from busistore.metrics.masks import mask_metrics
from busistore.schema import MASKS
from busistore.segmenters import answers, training
from busistore.segmenters.baseline import Unet
from busistore.store import Store
from tests.fakes import busi_folder, loaded, part, rows
from tests.test_jobs_ingest import counts

SMALL = {"width": "8", "depth": "2", "epochs": "2", "batch_size": "4", "warm_up": "2", "rate": "3e-3"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A store of 30 images in a split, and nothing trained."""
    root = tmp_path_factory.mktemp("prepared")
    made = Store.create(root / "store")
    ingest(made, "busi", busi_folder(root / "busi", 10))
    split(made, "busi")
    return made


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    """That store with a trained U-Net and its masks of the test part; nothing writes to it."""
    path = shutil.copytree(prepared.path, tmp_path_factory.mktemp("whole") / "store")
    made = Store.open(path)
    train_segmenter(made, "unet", parameters=SMALL)
    segment(made, "unet")
    return made


@pytest.fixture
def world(prepared, tmp_path):
    return Store.open(shutil.copytree(prepared.path, tmp_path / "store"))


def weights(store) -> bytes:
    """Of the only segmenter, to the last bit; those of a file also tell in which order it was written."""
    *_, network = loaded(store, rows(store, "segmenters")[0])
    return b"".join(p.detach().numpy().tobytes() for p in network.parameters())


def test_only_lesions_of_the_training_part_are_trained_on(whole):
    (row,) = rows(whole, "segmenters")
    lesion = {r["image_id"] for r in rows(whole, "masks", "source_id = 'truth' AND NOT is_empty")}
    assert row["n_train"] == len(lesion & set(part(whole, "train"))) > 0
    assert row["n_val"] == len(lesion & set(part(whole, "val"))) > 0
    assert json.loads(row["parameters"])["width"] == 8
    *_, network = loaded(whole, row)
    assert row["n_trained"] == sum(p.numel() for p in network.parameters())


def test_each_epoch_is_a_metric(whole):
    (row,) = rows(whole, "segmenters")
    curves = rows(whole, "metrics", f"run_id = '{row['segmenter_id']}'")
    assert {(r["subject"], r["metric"]) for r in curves} == {
        (f"epoch:00{k}", name) for k in (1, 2) for name in ("train_loss", "val_dice", "learning_rate")
    }  # fmt: skip
    assert row["val_dice"] == max(r["value"] for r in curves if r["metric"] == "val_dice")
    assert not (folder_of(whole, row["segmenter_id"]) / ".partial").exists()


def test_masks_are_what_the_network_says_in_original_pixels(whole):
    (row,), (made,) = rows(whole, "segmenters"), rows(whole, "segmentations")
    segmenter, _, network = loaded(whole, row)
    ids = part(whole, "test")
    given = lesions.lesions(whole, ids)
    files = dict(whole.files(MASKS, f"source_id = '{made['source_id']}'").stream(ids))
    given_answers = answers.answers(segmenter, network, given)
    for k, (image_id, (_, logits)) in enumerate(zip(ids, given_answers, strict=True)):
        mask = pixels.mask(files[image_id])
        assert mask.shape == given.masks[k].shape == (72, 96)
        assert np.array_equal(mask, answers.enlarged(logits, (72, 96)) > 0)
        stored = {r["metric"]: r["value"] for r in rows(whole, "metrics", f"subject = '{image_id}'")}
        assert stored == {n: v for n, v in mask_metrics(mask, given.masks[k]).items() if not np.isnan(v)}


def test_means_over_the_part_have_their_counts(whole):
    (made,) = rows(whole, "segmentations")
    ids = part(whole, "test")
    dice = [r["value"] for r in rows(whole, "metrics", "metric = 'dice'") if r["subject"] in ids]
    (mean,) = rows(whole, "metrics", "metric = 'dice' AND subject = 'test'")
    assert mean["value"] == pytest.approx(np.mean(dice))
    assert mean["n_used"] == len(dice)
    found = sql.run(whole, "segmentation").to_dicts()
    assert [(r["segmenter"], r["prompt"], r["n_images"], r["n_dice"]) for r in found] == [
        ("unet", "auto", len(ids), len(dice))
    ]  # fmt: skip
    assert found[0]["dice"] == round(mean["value"], 4)
    empty = {r["image_id"] for r in rows(whole, "masks", "source_id = 'truth' AND is_empty")}
    marked = {r["image_id"] for r in rows(whole, "masks", "source_id <> 'truth' AND NOT is_empty")}
    assert made["n_false_positive"] == len(empty & marked)


def test_nothing_is_done_twice(whole):
    before = whole.version("masks") if hasattr(whole, "version") else None
    assert counts(train_segmenter(whole, "unet", parameters=SMALL)) == (1, 1, 0, 0)
    n = len(part(whole, "test"))
    assert counts(segment(whole, "unet")) == (n, n, 0, 0)
    assert before is None or whole.version("masks") == before


def test_a_dry_run_only_counts(world):
    assert counts(train_segmenter(world, "unet", parameters=SMALL, dry_run=True)) == (1, 0, 0, 0)
    assert not rows(world, "segmenters")


def test_a_training_that_was_stopped_ends_in_the_same_bits(world, whole, monkeypatch):
    real, epochs = training._epoch, []

    def stopped(held, *given):
        epochs.append(held.progress.epoch + 1)
        if epochs == [1, 2]:
            raise KeyboardInterrupt
        real(held, *given)

    monkeypatch.setattr(training, "_epoch", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_segmenter(world, "unet", parameters=SMALL)
    assert not rows(world, "segmenters")
    train_segmenter(world, "unet", parameters=SMALL)
    assert epochs == [1, 2, 2]
    (here,), (there,) = rows(world, "segmenters"), rows(whole, "segmenters")
    assert here["segmenter_id"] == there["segmenter_id"]
    assert weights(world) == weights(whole)


def test_segmenting_that_was_stopped_goes_on(whole, tmp_path, monkeypatch):
    store = Store.open(shutil.copytree(whole.path, tmp_path / "store"))
    (made,) = rows(store, "segmentations")
    ids = part(store, "test")
    store.delete("segmentations", "true")
    store.delete("masks", f"source_id <> 'truth' AND image_id <> '{ids[0]}'")
    assert counts(segment(store, "unet")) == (len(ids), 1, len(ids) - 1, 0)
    (again,) = rows(store, "segmentations")
    told = ("source_id", "n_images", "n_missed", "n_false_positive")
    assert {k: again[k] for k in told} == {k: made[k] for k in told}
    assert rows(store, "masks", f"image_id = '{ids[1]}'") == rows(whole, "masks", f"image_id = '{ids[1]}'")


def test_weights_that_are_damaged_are_told_and_trained_again(whole, tmp_path):
    store = Store.open(shutil.copytree(whole.path, tmp_path / "store"))
    (row,) = rows(store, "segmenters")
    path = folder_of(store, row["segmenter_id"]) / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    again = r"is not what was written; `busistore train-segmenter unet --split .* -p width=8` trains"
    with pytest.raises(BusistoreError, match=again):
        loaded(store, row)
    path.unlink()
    with pytest.raises(BusistoreError, match="is gone"):
        loaded(store, row)
    assert train_segmenter(store, "unet", parameters=SMALL).written == 1
    assert weights(store) == weights(whole)


def test_altered_weights_are_found_by_verify_and_taken_out(whole, tmp_path):
    store = Store.open(shutil.copytree(whole.path, tmp_path / "store"))
    assert verify(store).damaged == []
    (row,) = rows(store, "segmenters")
    path = folder_of(store, row["segmenter_id"]) / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    (damage,) = verify(store, repair=True).damaged
    assert "`busistore train-segmenter unet --split" in damage.reason
    assert rows(store, "segmenters") == []


def test_other_parameters_are_other_segmenters(world, whole):
    (row,) = rows(whole, "segmenters")
    report = train_segmenter(world, "unet", parameters=SMALL | {"epochs": "1"})
    assert report.written == 1
    assert rows(world, "segmenters")[0]["segmenter_id"] != row["segmenter_id"]
    assert trained(whole, row["segmenter_id"]) == row


def test_what_is_not_there(world, whole):
    with pytest.raises(BusistoreError, match="no 'unet' is trained; `busistore train-segmenter unet` does it"):
        segment(world, "unet")
    with pytest.raises(UnknownName, match="did you mean 'unet'"):
        segment(world, "unets")
    with pytest.raises(UnknownName, match="no segmenter 'u-net'"):
        train_segmenter(world, "u-net")
    with pytest.raises(BusistoreError, match="'unet' takes no prompt: it is 'auto', not 'oracle-box'"):
        segment(whole, "unet", prompt="oracle-box")
    with pytest.raises(UnknownName, match="no part to segment 'train'"):
        segment(whole, "unet", part="train")


def test_images_without_masks_are_named(world):
    world.delete("masks", "true")
    with pytest.raises(BusistoreError, match="have no true mask; `busistore ingest` brings"):
        train_segmenter(world, "unet", parameters=SMALL)


def test_images_that_are_gone_are_named(world):
    world.delete("images", f"image_id = '{part(world, 'train')[0]}'")
    with pytest.raises(BusistoreError, match=r"1 images, such as .* are gone; `busistore ingest` brings them again"):
        train_segmenter(world, "unet", parameters=SMALL)


def test_masks_of_other_weights_are_another_source(whole):
    asked = ask(whole, "unet")
    ids = {replace(asked, row=asked.row | {"file_sha256": sha}).source_id("test", "x") for sha in ("a", "b")}
    assert len(ids) == 2


def test_a_mean_is_of_the_masks_that_are_there(whole, tmp_path):
    store = Store.open(shutil.copytree(whole.path, tmp_path / "store"))
    lost = part(store, "test")[0]
    store.delete("masks", f"source_id <> 'truth' AND image_id = '{lost}'")
    store.delete("metrics", "subject = 'test' AND metric = 'specificity'")
    segment(store, "unet")
    (mean,) = rows(store, "metrics", "subject = 'test' AND metric = 'specificity'")
    assert mean["n_used"] == len(part(store, "test"))


def test_a_proposer_is_for_a_segmenter_that_takes_its_prompts(whole, monkeypatch):
    (row,) = rows(whole, "segmenters")
    with pytest.raises(BusistoreError, match="'unet' takes no prompt: it is 'auto', not 'patch-probe'"):
        prompt_of(row, None, "patch-probe")
    monkeypatch.setattr(Unet, "prompted", True)
    assert (prompt_of(row, None), prompt_of(row, None, "patch-probe")) == ("oracle-click", "auto")
    with pytest.raises(BusistoreError, match="'oracle-box' is taken from the truth; --proposer is for 'auto'"):
        prompt_of(row, "oracle-box", "patch-probe")


def test_the_commands(world):
    common = ["--store", str(world.path)]
    options = [text for name, value in SMALL.items() for text in ("-p", f"{name}={value}")]
    done = CliRunner().invoke(app, ["train-segmenter", "unet", *options, *common])
    assert done.exit_code == 0, done.output
    assert "the segmenter is 'unet-" in done.output
    done = CliRunner().invoke(app, ["segment", "--segmenter", "unet", "--part", "val", *common])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["query", "segmentation", "--format", "csv", *common])
    assert "unet,auto,val" in done.output
    refused = CliRunner().invoke(app, ["segment", "--segmenter", "unet", "--prompt", "oracle-click", *common])
    assert refused.exit_code == 1
    assert refused.output.startswith("Error: 'unet' takes no prompt")
    assert "unet" in CliRunner().invoke(app, ["list", "segmenters"]).output


def replace_truth(store, part_name: str) -> str:
    """The truth of a lesion of that part becomes another; its image."""
    lesion = {r["image_id"] for r in rows(store, "masks", "source_id = 'truth' AND NOT is_empty")}
    image_id = min(lesion & set(part(store, part_name)))
    mask = np.zeros((72, 96), bool)
    mask[30:40, 30:50] = True
    store.put(MASKS, [{"image_id": image_id, **mask_row(mask, "truth", 1)}], replace=True)
    return image_id


def test_masks_of_an_older_truth_are_not_listed_but_told(whole, tmp_path):
    store = Store.open(shutil.copytree(whole.path, tmp_path / "store"))
    (old,) = rows(store, "segmentations")
    before = sql.run(store, "segmentation").to_dicts()
    replace_truth(store, "test")
    for query in ("segmentation", "segmentation_strata", "mask_scores", "report_masks"):
        assert sql.run(store, query).is_empty(), query
    stale = [r for r in sql.run(store, "stale").to_dicts() if r["stage"] == "masks"]
    assert [r["run_id"] for r in stale] == [old["source_id"]]
    segment(store, "unet")
    after = sql.run(store, "segmentation").to_dicts()
    assert [r["source_id"] for r in after] != [r["source_id"] for r in before]
    assert len(after) == len(before) == 1
    assert not [r for r in sql.run(store, "stale").to_dicts() if r["stage"] == "masks"]


def test_a_segmenter_of_an_older_truth_is_told(whole, tmp_path):
    store = Store.open(shutil.copytree(whole.path, tmp_path / "store"))
    assert not any("have changed since" in note for note in segment(store, "unet").notes)
    replace_truth(store, "train")
    (told,) = [note for note in segment(store, "unet", dry_run=True).notes if "have changed since" in note]
    assert "busistore train-segmenter unet --split" in told


def test_tensors_of_another_version_are_refused(whole, tmp_path):
    store = Store.open(shutil.copytree(whole.path, tmp_path / "store"))
    (row,) = rows(store, "segmenters")
    path = folder_of(store, row["segmenter_id"]) / WEIGHTS
    found = checkpoint.read(path, WEIGHTS)
    found.tensors["other"] = found.tensors.pop(min(found.tensors))
    checkpoint.write(path, found, WEIGHTS)
    with pytest.raises(BusistoreError, match=r"remove the folder '.*', and `busistore train-segmenter unet"):
        loaded(store, row | {"file_sha256": sha256(path.read_bytes())})


def test_files_beyond_what_is_held_are_read_anew(whole, monkeypatch):
    ids = part(whole, "train")
    all_held = lesions.lesions(whole, ids)
    monkeypatch.setattr(lesions, "HELD_BYTES", 1)
    monkeypatch.setattr(lesions, "AT_ONCE", 2)
    given = lesions.lesions(whole, ids)
    for k in (3, 0, 5, 3):
        assert np.array_equal(given.images[k], all_held.images[k])
        assert np.array_equal(given.masks[k], all_held.masks[k])
    assert len(given.images._held) == 2
