"""Segmenters that are prompted: BUSSAM on kept tokens, SAM as published, and prompts without a true mask."""

import shutil
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("segment_anything")

import torch
from segment_anything import SamPredictor

from busistore import pixels, sql
from busistore.cli import app
from busistore.errors import BusistoreError, MissingWeights
from busistore.jobs import kept_tokens, lesions, proposals
from busistore.jobs.asked import Held, ask
from busistore.jobs.ingest import ingest, mask_row
from busistore.jobs.segment import _prompts, mask_of, segment
from busistore.jobs.segmenters import published, trained
from busistore.jobs.split import split
from busistore.jobs.train_segmenter import train_segmenter
from busistore.schema import IMAGES, MASKS, SEGMENTATIONS
from busistore.schema import SEGMENTERS as SEGMENTER_ROWS
from busistore.segmenters import SEGMENTERS, Lesions, Start, answers, bussam, bussam_groups, sam, training
from busistore.segmenters.augment import plain
from busistore.segmenters.bussam_encoder import TINY
from busistore.segmenters.bussam_segmenter import BussamSegmenter
from busistore.segmenters.prompts import centre_click
from busistore.segmenters.sam_segmenter import SamSegmenter
from busistore.store import Store
from tests.fakes import busi_folder, loaded, part, rows

CACHED = {"size": "tiny", "init": "random", "cache": "vit", "epochs": "1", "batch_size": "6", "warm_up": "1"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store with a split of 15 images, a small U-Net and a small BUSSAM on kept tokens."""
    root = tmp_path_factory.mktemp("prompted")
    store = Store.create(root / "store")
    ingest(store, "busi", busi_folder(root / "busi", 5))
    split(store, "busi")
    small = {"width": "8", "depth": "1", "epochs": "1", "batch_size": "6", "warm_up": "1"}
    train_segmenter(store, "unet", parameters=small)
    train_segmenter(store, "bussam", parameters=CACHED)
    for prompt in ("oracle-click", "oracle-box", "auto"):
        segment(store, "bussam", prompt=prompt)
    return store


@pytest.fixture
def copied(whole, tmp_path):
    return Store.open(shutil.copytree(whole.path, tmp_path / "store"))


def tokens_of(store, layer):
    (name,) = [n for n in store.names() if n.startswith("tokens.") and n.endswith(layer)]
    return name


def predicted(store, prompt):
    """Image id to PNG of its mask."""
    (row,) = rows(store, "segmentations", f"prompt = '{prompt}'")
    files = store.files(MASKS, f"source_id = '{row['source_id']}'")
    return {i: pixels.mask(data) for i, data in files.stream(part(store, "test"))}


def test_random_weights_are_said_in_every_row(whole):
    row = trained(whole, "bussam")
    assert (row["init"], row["weights_sha256"], row["weights_source"]) == ("random", "", "")
    assert row["segmenter_id"].startswith("bussam-random-")
    assert {r["init"] for r in rows(whole, "segmentations")} == {"random"}
    report = train_segmenter(whole, "bussam", parameters=CACHED)
    assert "RANDOM weights" in report.notes[0]


def test_tokens_are_what_the_frozen_branch_gives(whole):
    segmenter, _, network = loaded(whole, trained(whole, "bussam"))
    name = tokens_of(whole, ".vit")
    (image_id, *_), files = part(whole, "train"), whole.files(IMAGES)
    wanted = segmenter.tokens(network, [pixels.grey(files[image_id], image_id)])
    got = whole.vectors(name, [image_id]).reshape(wanted.shape)
    assert np.array_equal(got, wanted.numpy().astype(np.float16).astype(np.float32))


@pytest.fixture
def untrained(monkeypatch):
    """Training ends at once, with the network as it began."""
    monkeypatch.setattr(training, "train", lambda *_, network, **__: (network, training.Progress(1, 1, 0.5)))


def test_tokens_are_computed_once_for_all_trainings(copied, untrained):
    name = tokens_of(copied, ".vit")
    before = copied.version(name)
    report = train_segmenter(copied, "bussam", parameters=CACHED | {"rate": "1e-4"})
    assert report.written == 1
    segment(copied, "bussam")
    assert copied.version(name) == before
    assert copied.count(name) == copied.count("images") - sum(
        r["is_empty"] for r in rows(copied, "masks", "source_id = 'truth'") if r["image_id"] not in part(copied, "test")
    )


def test_tokens_that_were_begun_are_gone_on_with(copied, untrained, monkeypatch):
    monkeypatch.setattr(kept_tokens, "SHARD_ROWS", 2)
    name, other = tokens_of(copied, ".vit"), {"init_seed": "7"}
    real, n = BussamSegmenter.tokens, []

    def stopped(self, network, images):
        n.append(1)
        if len(n) == 5:
            raise KeyboardInterrupt
        return real(self, network, images)

    monkeypatch.setattr(BussamSegmenter, "tokens", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_segmenter(copied, "bussam", parameters=CACHED | other)
    (new,) = [t for t in copied.names() if t.startswith("tokens.") and t != name]
    assert copied.count(new) == 4
    train_segmenter(copied, "bussam", parameters=CACHED | other)
    lesion_images = len(lesions.with_lesions(copied, part(copied, "train") + part(copied, "val")))
    assert len(n) == lesion_images + 1


def test_kept_and_computed_tokens_give_one_answer(whole):
    segmenter, _, network = loaded(whole, trained(whole, "bussam"))
    ids = part(whole, "test")
    cached = lesions.lesions(whole, ids, kept_tokens.kept(whole, segmenter, Start("random"), network, ids))
    with_tokens = [one for _, one in answers.answers(segmenter, network, cached)]
    computed = [one for _, one in answers.answers(segmenter, network, lesions.lesions(whole, ids))]
    assert len(ids) == len(computed) > 1
    for a, b in zip(with_tokens, computed, strict=True):
        assert torch.allclose(a, b, atol=2e-2)
        assert not torch.equal(a, b)  # or 16 bits were not what was read


def test_prompts_are_sources_of_their_own(whole):
    made = rows(whole, "segmentations")
    assert len({r["source_id"] for r in made}) == len(made) == 3
    assert {(r["prompt"], bool(r["proposer"])) for r in made} == {
        ("oracle-click", False), ("oracle-box", False), ("auto", True)
    }  # fmt: skip
    shown = sql.run(whole, "segmentation").to_dicts()
    assert sorted(r["prompt"] for r in shown) == ["auto", "oracle-box", "oracle-click"]
    assert {r["init"] for r in shown} == {"random"}


@pytest.fixture
def pointing(monkeypatch):
    """BUSSAM marks a disc around what it is pointed at, and nothing that it has learned."""

    def logits(self, network, batch):
        at = batch.points[:, 0] if batch.boxes is None else (batch.boxes[:, :2] + batch.boxes[:, 2:]) / 2
        x = (torch.arange(128) + 0.5) * 2
        away = (x[None, None] - at[:, 0, None, None]) ** 2 + (x[None, :, None] - at[:, 1, None, None]) ** 2
        return 400 - away[:, None]

    monkeypatch.setattr(BussamSegmenter, "logits", logits)


def again(store, prompt):
    """The masks of the test part, made anew."""
    store.delete("segmentations", "true")
    store.delete("masks", "source_id <> 'truth'")
    segment(store, "bussam", prompt=prompt)
    return predicted(store, prompt)


def test_the_box_of_no_lesion_is_no_mask(copied, pointing):
    empty = {r["image_id"] for r in rows(copied, "masks", "source_id = 'truth' AND is_empty")}
    found = again(copied, "oracle-box")
    assert empty & found.keys()
    assert all(found[i].any() == (i not in empty) for i in found)
    (row,) = rows(copied, "segmentations")
    assert row["n_false_positive"] == 0


def test_masks_without_a_true_prompt_do_not_change_with_the_truth(copied, pointing):
    """The true masks of the test part are turned by half a turn: oracles follow, proposals do not."""
    ids, prompts = part(copied, "test"), ("auto", "auto-box", "oracle-click", "oracle-box")
    before = {prompt: again(copied, prompt) for prompt in prompts}
    for image_id in ids:
        where = f"image_id = '{image_id}' AND source_id = 'truth'"
        (row,) = rows(copied, "masks", where)
        mask = pixels.mask(copied.files(MASKS, where)[image_id])
        copied.put(MASKS, [row | mask_row(mask[::-1, ::-1], "truth", row["n_masks"])], replace=True)
    lesion = lesions.with_lesions(copied, ids)
    for prompt in prompts:
        after = again(copied, prompt)
        same = [np.array_equal(before[prompt][i], after[i]) for i in lesion]
        assert all(same) if prompt.startswith("auto") else not any(same), prompt
    assert any(before["auto"][i].any() for i in ids)


def test_a_network_without_prompts_may_propose(copied):
    segment(copied, "bussam", proposed_by="unet")
    (row,) = rows(copied, "segmentations", "proposer LIKE 'unet-%'")
    assert row["prompt"] == "auto"
    assert row["proposer"].startswith(trained(copied, "unet")["segmenter_id"])
    with pytest.raises(BusistoreError, match="'bussam' needs prompts itself"):
        segment(copied, "bussam", proposed_by="bussam")


@pytest.mark.parametrize("name", ["bussam", "sam"])
def test_a_dry_run_loads_and_writes_nothing(copied, monkeypatch, name):
    given = {} if name == "bussam" else {"size": "tiny", "init": "random"}
    copied.delete("masks", "source_id LIKE 'bussam-auto-%'")
    shutil.rmtree(copied.path / "segmenters" / proposals.PROBES)
    before = {table: copied.version(table) for table in copied.names()}
    monkeypatch.setattr(BussamSegmenter, "network", None)  # calling it would fail
    monkeypatch.setattr(SamSegmenter, "network", None)
    report = segment(copied, name, prompt="auto", parameters=given, dry_run=True)
    assert (report.planned, report.skipped) == (len(part(copied, "test")), 0)
    assert {table: copied.version(table) for table in copied.names()} == before
    assert not (copied.path / "segmenters" / proposals.PROBES).exists()


def test_a_published_segmenter_that_does_not_fit_leaves_no_row(copied, tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"some.weight": torch.zeros(3)}, path)
    before = copied.count("segmenters")
    with pytest.raises(MissingWeights, match=r"missing: .*1 unexpected: some\.weight"):
        segment(copied, "bussam", weights=path, parameters={"size": "tiny"})
    assert copied.count("segmenters") == before


def test_what_was_never_trained_is_refused_by_its_id_too(copied):
    row = trained(copied, "bussam") | {"segmenter_id": "bussam-0123456789ab", "n_train": 0, "file_sha256": ""}
    copied.put(SEGMENTER_ROWS, [row])
    with pytest.raises(BusistoreError, match="'bussam-0123456789ab' with init=random is not trained"):
        ask(copied, "bussam-0123456789ab")


def test_masks_of_two_splits_of_one_part_are_two(copied):
    """A published segmenter is of no split, and two splits may have the very same test part."""
    asked = ask(copied, "sam", parameters={"size": "tiny", "init": "random"})
    other = replace(asked, split=replace(asked.split, split_id="another"))
    assert asked.source_id("test", "x") != other.source_id("test", "x")


@pytest.mark.slow
def test_only_what_had_a_gradient_counts_as_trained(copied):
    """As published, the adapters between the branches are open to training and never run."""
    given = {"size": "tiny", "init": "random", "epochs": "1", "batch_size": "6"}
    segmenter_id = train_segmenter(copied, "bussam", parameters=given).notes[-1].split("'")[1]
    (row,) = rows(copied, "segmenters", f"segmenter_id = '{segmenter_id}'")
    counted = bussam_groups.count(loaded(copied, row)[2])["total"]
    assert row["n_trained"] == counted.effective < counted.trainable


def test_a_proposer_that_was_made_anew_takes_the_place_of_the_old(copied):
    """A patch probe of other training masks, and a retrained network under its id; another network is another."""
    (row,) = rows(copied, "segmentations", "prompt = 'auto'")
    later = [row | {"source_id": f"s{k}", "proposer": name, "finished_at": row["finished_at"] + timedelta(days=k)}
             for k, name in enumerate(["patch-probe-00000000000a", "unet-00000000000a.1", "unet-00000000000a.2",
                                       "unet-00000000000b.1"], 1)]  # fmt: skip
    copied.put(SEGMENTATIONS, later)
    said = sql.run(copied, "SELECT source_id FROM current_segmentations WHERE prompt = 'auto' ORDER BY source_id")
    assert said["source_id"].to_list() == ["s1", "s3", "s4"]


def test_a_proposer_of_another_split_is_refused(copied):
    other = split(copied, "busi", seed=7)
    assert other
    (split_id,) = {r["split_id"] for r in rows(copied, "splits")} - {trained(copied, "unet")["split_id"]}
    unet = trained(copied, "unet")["segmenter_id"]
    with pytest.raises(BusistoreError, match=f"'{unet}' was trained on the split .*, not on '{split_id}'"):
        segment(copied, "sam", proposed_by=unet, split=split_id, parameters={"size": "tiny", "init": "random"})


def test_one_image_of_no_store_gets_the_mask_of_the_store(whole):
    held = ask(whole, "bussam", prompt="auto").hold(whole)
    image_id = part(whole, "test")[0]
    mask = mask_of(held, pixels.grey(whole.files(IMAGES)[image_id], image_id))
    assert np.array_equal(mask, predicted(whole, "auto")[image_id])
    with pytest.raises(BusistoreError, match="'oracle-click' needs the true mask"):
        mask_of(held._replace(prompt="oracle-click"), np.zeros((64, 64), np.uint8))


def test_a_proposer_and_the_network_share_the_tokens_of_an_image(whole, monkeypatch):
    asked = []
    held = ask(whole, "bussam", prompt="auto").hold(whole)
    real = BussamSegmenter.tokens
    monkeypatch.setattr(BussamSegmenter, "tokens", lambda *given: asked.append(1) or real(*given))
    image_id = part(whole, "test")[0]
    mask_of(held, pixels.grey(whole.files(IMAGES)[image_id], image_id))
    assert len(asked) == 1


def test_oracle_prompts_of_sam_see_lesions_that_the_square_loses(whole):
    """One pixel of 1,000 x 1,000 is none of 256 x 256: SAM's own prompt is of the mask as it lies."""
    mask = np.zeros((1000, 1000), bool)
    mask[501, 750] = True
    image = np.full(mask.shape, 90, np.uint8)
    given = Lesions([image], [mask], None)
    sample = plain(image, mask)
    assert not sample.mask.any()
    held = Held(SamSegmenter(size="tiny", init="random"), Start("random"), None, "oracle-click", None)
    (click,) = _prompts(held, given, np.array([0]), (sample,))
    assert click.label == 1
    assert click.xy == pytest.approx((750.5 * 0.256 - 0.5, 501.5 * 0.256 - 0.5))
    (box,) = _prompts(held._replace(prompt="oracle-box"), given, np.array([0]), (sample,))
    assert box == pytest.approx((*click.xy, *click.xy))
    other = held._replace(segmenter=BussamSegmenter(size="tiny", init="random"))
    assert _prompts(other, given, np.array([0]), (sample,))[0].label == 0


def test_sam_answers_as_its_own_predictor(whole):
    made = SamSegmenter(size="tiny", init="random")
    network = made.network()
    image_id = part(whole, "test")[0]
    given = lesions.lesions(whole, [image_id])
    image, (height, width) = given.images[0], given.images[0].shape
    fed = type(given)(given.images, given.masks, lambda rows: made.tokens(network, [image]).numpy())
    ((sample, logits),) = answers.answers(made, network, fed)
    predictor = SamPredictor(network)
    predictor.set_image(np.repeat(image[..., None], 3, axis=2))
    (x, y), label = centre_click(sample.mask)
    tall, wide = sam.inner((height, width))
    in_square = np.array([[(x + 0.5) * wide / 256 - 0.5, (y + 0.5) * tall / 256 - 0.5]])
    at = in_square * [width / wide, height / tall]  # which the predictor scales back
    wanted, _, _ = predictor.predict(at, np.array([label]), multimask_output=False, return_logits=True)
    assert logits.shape == wanted.shape == (1, height, width)
    np.testing.assert_allclose(logits.numpy(), wanted, atol=1e-4)


def test_sam_is_encoded_once_for_all_prompts(copied):
    options = {"parameters": {"size": "tiny", "init": "random"}}
    segment(copied, "sam", prompt="oracle-box", **options)
    name = tokens_of(copied, ".embedding")
    before = copied.version(name)
    segment(copied, "sam", **options)
    assert copied.version(name) == before
    assert {r["prompt"] for r in rows(copied, "segmentations", "segmenter = 'sam'")} == {"oracle-box", "oracle-click"}
    (row,) = rows(copied, "segmenters", "segmenter = 'sam'")
    assert (row["init"], row["n_train"], row["n_trained"]) == ("random", 0, 0)


def test_patches_lie_over_the_image_and_not_over_its_padding():
    tokens = np.zeros((1, 256, 64, 64), np.float32)
    tokens[0, 0] = np.arange(64)  # the column
    tokens[0, 1] = np.arange(64)[:, None]
    made = sam.patches(tokens, [(500, 1000)])  # the lower half of the square is padding
    assert made.shape == (1, 32, 32, 256)
    np.testing.assert_allclose(made[0, 0, :, 0], np.arange(32) * 2 + 0.5)
    np.testing.assert_allclose(made[0, :, 0, 1], np.arange(32), atol=1e-6)


@pytest.fixture
def sam_file(tmp_path):
    """Weights in the layout of SAM, but small."""
    torch.save(sam.drawn(TINY, 5).state_dict(), tmp_path / "own.pth")
    return tmp_path / "own.pth"


def test_weights_are_known_by_their_hash_wherever_they_lie(copied, untrained, sam_file, tmp_path):
    given = CACHED | {"init": "fine-tuned"}
    report = train_segmenter(copied, "bussam", parameters=given, weights=sam_file)
    assert any("tensors are copied, 2 resized" in note for note in report.notes)
    row = trained(copied, report.notes[-1].split("'")[1])
    assert row["init"] == "fine-tuned"
    assert len(row["weights_sha256"]) == 64
    assert row["weights_source"] == str(sam_file)
    moved = sam_file.rename(tmp_path / "moved.pth")
    with pytest.raises(MissingWeights, match=r"began with the weights at '.*own\.pth', where no file is"):
        loaded(copied, row)
    loaded(copied, row, moved)
    torch.save(sam.drawn(TINY, 6).state_dict(), sam_file)
    told = f"name the file of sha256 {row['weights_sha256'][:12]}: --segmenter {row['segmenter_id']}"
    with pytest.raises(MissingWeights, match=told):
        loaded(copied, row)


def test_a_published_checkpoint_needs_no_training(copied, tmp_path):
    path = tmp_path / "bussam.pth"
    torch.save({f"module.{n}": t for n, t in bussam.drawn(TINY, seed=3).state_dict().items()}, path)
    segment(copied, "bussam", weights=path, parameters={"size": "tiny"})
    (row,) = rows(copied, "segmenters", "init = 'bussam'")
    assert row["n_train"] == 0
    assert trained(copied, "bussam")["init"] == "random"  # what is published is not the newest that was trained
    assert published(copied, BussamSegmenter(size="tiny", init="bussam"), path)["segmenter_id"] == row["segmenter_id"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("train-segmenter sam --init random", "'sam' is used as published; `busistore segment --segmenter sam`"),
        ("segment --segmenter sam", "get sam_vit_b_01ec64.pth (375 MB, licence Apache-2.0) from https://"),
        ("train-segmenter bussam", "no weights of SAM at"),
        ("train-segmenter bussam --init bussam", "init=bussam needs a file; name it with --weights"),
        ("train-segmenter bussam --init no", "no init 'no'"),
        ("train-segmenter bussam --init random --weights x.pth", "init=random takes no weights"),
        ("train-segmenter bussam --init random -p cache=vit -p wiring=paper", "cache=vit needs wiring=released"),
        ("train-segmenter bussam --init bussam -p wiring=paper", "init=bussam needs wiring=released"),
        ("train-segmenter bussam --init random -p cache=vit -p train=published", "cache=vit freezes what"),
        ("train-segmenter unet --weights x.pth", "it starts from no weights, and takes no 'x.pth'"),
        ("segment --segmenter unet -p width=3", "-p is for `train-segmenter`"),
        ("segment --segmenter bussam --init sam --weights x.pth", "'bussam' with init=sam is not trained;"),
        ("segment --segmenter bussam --init fine-tuned --weights x.pth", "--init bussam takes a checkpoint"),
        ("segment --segmenter bussam --init random --weights x.pth", "train-segmenter bussam --init random"),
        ("segment --segmenter bussam --proposer sam --prompt auto", "'sam' needs prompts itself; a proposer is"),
        ("segment --segmenter bussam --prompt guess", "no prompt 'guess'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(whole, monkeypatch, tmp_path, command, said):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    done = CliRunner().invoke(app, [*command.split(), "--store", str(whole.path)])
    assert (done.exit_code, done.exception.__class__) == (1, SystemExit)
    assert said in " ".join(done.output.split())
    assert "Traceback" not in done.output


def test_a_probe_needs_tokens_that_are_kept(copied, untrained):
    given = {"size": "tiny", "init": "random", "epochs": "1"}
    segmenter_id = train_segmenter(copied, "bussam", parameters=given).notes[-1].split("'")[1]
    with pytest.raises(BusistoreError, match="'bussam' keeps no tokens that a probe could read"):
        segment(copied, segmenter_id, prompt="auto")


def test_a_damaged_probe_is_fitted_again(copied):
    (path,) = (copied.path / "segmenters" / proposals.PROBES).iterdir()
    whole = dict(np.load(path))
    path.write_bytes(path.read_bytes()[:100])
    copied.delete("masks", "source_id LIKE 'bussam-auto-%'")
    assert segment(copied, "bussam", prompt="auto").written == len(part(copied, "test"))
    again = np.load(path)
    assert all(np.allclose(again[name], value) for name, value in whole.items())


def test_a_segmenter_made_of_nothing_is_not_made_silently():
    with pytest.raises(BusistoreError, match="a network of init=sam is not made from 'nothing'"):
        SEGMENTERS["bussam"]().network()
