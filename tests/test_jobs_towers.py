"""Methods that train the tower: the states they are given, what is kept of a run, what fails alone, and --like."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from busistore import comparison, models, sql
from busistore.cli import app
from busistore.errors import BusistoreError, RunFailed, UnknownName
from busistore.jobs import towers
from busistore.jobs.encode import encode
from busistore.jobs.evaluate import evaluate
from busistore.jobs.ingest import ingest
from busistore.jobs.layers import Layer, tokens
from busistore.jobs.like import like
from busistore.jobs.models import find
from busistore.jobs.pictures import batches
from busistore.jobs.preprocess import preprocess
from busistore.jobs.split import split
from busistore.jobs.towers import PARTIAL, States, folder_of, sweep
from busistore.jobs.verify import verify
from busistore.methods import METHODS, Outcome
from busistore.models import states as computing
from busistore.preprocess import recipes
from busistore.store import Store
from tests import tiny
from tests.fakes import busi_folder, rows, speckle
from tests.fakes import part as part_ids
from tests.test_jobs_ingest import counts

pytest.importorskip("torch")

RECIPE = recipes.recipe("pad224").recipe_id
N_BLOCKS = 7  # of the small tower
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Nearest:
    """The class of the nearest mean, of vectors that the tower makes of states; it spoils the tower that it is given.

    `calls` has what each call was given; those of a number (from 0) among `fails` end in that error.
    """

    name: ClassVar[str] = "nearest"
    protocols: ClassVar[tuple[str, ...]] = ("val-tuned", "strict")
    code: ClassVar[int] = 1
    needs_tower: ClassVar[bool] = True
    calls: ClassVar[list] = []
    fails: ClassVar[dict[int, BaseException]] = {}
    blocks: int | None = None
    precision: str = "fp32"
    tokens: str = "float32"
    sharpness: float = 5.0

    def fit_predict(self, support, val, queries, n_classes, protocol, *, tower, folder=None, on_epoch=None):
        network = tower()
        self.calls.append({"support": support, "val": val, "queries": queries, "network": network})
        (folder / PARTIAL).mkdir(parents=True, exist_ok=True)
        (folder / PARTIAL / "checkpoint").write_text("half")
        if len(self.calls) - 1 in self.fails:
            raise self.fails[len(self.calls) - 1]
        (folder / "adapter").write_text("whole")
        known, asked = (vectors(network, np.asarray(x)) for x in (support.features, queries))
        for parameter in network.parameters():
            parameter.data.zero_()
        means = np.stack([known[support.labels == c].mean(axis=0) for c in range(n_classes)])
        logits = self.sharpness * asked @ means.T
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        curves = [(e, "train_loss", 1 / e) for e in (1, 2)] + [(2, "val_macro_f1", 0.5), (2, "val_loss", float("inf"))]
        return Outcome(odds / odds.sum(axis=1, keepdims=True), {}, len(support.labels), val is not None, curves=curves)


def vectors(network, given: np.ndarray) -> np.ndarray:
    """(N, D) of length 1."""
    import torch

    with torch.no_grad():
        made = network(torch.from_numpy(given)).numpy()
    return made / np.linalg.norm(made, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def vit():
    return tiny.clip()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A store of 42 pictures and their split, of which nothing is encoded."""
    root = tmp_path_factory.mktemp("prepared")
    made = Store.create(root / "store")
    ingest(made, "busi", busi_folder(root / "busi", 14))
    preprocess(made)
    split(made, "busi")
    return made


@pytest.fixture
def world(prepared, vit, tmp_path, monkeypatch):
    """A copy of that store; a small CLIP called 'clip'."""
    monkeypatch.setitem(models.MODELS, "clip", vit.spec)
    monkeypatch.setitem(METHODS, "nearest", Nearest)
    monkeypatch.setattr(Nearest, "calls", [])
    monkeypatch.setattr(Nearest, "fails", {})
    (tmp_path / "weights").mkdir()
    for name, data in vit.files().items():
        (tmp_path / "weights" / name).write_bytes(data)
    shutil.copytree(prepared.path.parent, tmp_path, dirs_exist_ok=True)
    return Store.open(tmp_path / "store")


@pytest.fixture
def weights(tmp_path):
    return tmp_path / "weights"


@pytest.fixture
def grid(world, weights):
    """Runs a grid of the method; `-p` as keywords."""

    def run(methods=("nearest",), shots=(1, 2), seeds=range(2), vectors="fp32", dry_run=False, only=None,
            layer="pooled", protocol="val-tuned", **parameters):  # fmt: skip
        return evaluate(
            world, list(methods), ["clip"], shots, seeds, weights=weights, protocol=protocol, precision=vectors,
            parameters={k: str(v) for k, v in parameters.items()}, dry_run=dry_run, only=only, layer=layer,
        )  # fmt: skip

    return run


def forget(store) -> None:
    """Everything that runs left in tables."""
    for table in ("runs", "predictions", "metrics"):
        store.delete(table, "true")


def redrawn(folder, image_id: str, seed: int = 999) -> None:
    """Another picture in the place of an image's."""
    label, number = image_id.removeprefix("busi/").split("-")
    Image.fromarray(speckle(seed)).save(folder / "busi" / label / f"{label} ({int(number)}).png")


def predictions(store) -> dict:
    found = {(r["run_id"], r["image_id"]): r["probabilities"] for r in rows(store, "predictions")}
    return dict(sorted(found.items()))


def support_ids(store, shots: int, seed: int) -> list[str]:
    return sorted(r["image_id"] for r in rows(store, "episodes", f"shots = {shots} AND seed = {seed}"))


def squares(store, ids: list[str]) -> np.ndarray:
    return next(batches(store, RECIPE, ids, len(ids))).squares


def layer(store, weights, ids: list[str], block: int) -> np.ndarray:
    """What the encoder itself leaves after a block, in full precision."""
    return models.load(find(store, "clip", weights, "fp32")).outputs(squares(store, ids), [f"h{block}"])[f"h{block}"]


def test_states_are_those_of_the_images_of_each_part(world, weights, grid):
    assert counts(grid(blocks=2)) == (4, 0, 4, 0)
    labels = {r["image_id"]: r["label"] for r in rows(world, "images")}
    for call, (shots, seed) in zip(Nearest.calls, [(1, 0), (1, 1), (2, 0), (2, 1)], strict=True):
        for images, ids in (
            (call["support"], support_ids(world, shots, seed)), (call["val"], part_ids(world, "val")),
        ):  # fmt: skip
            assert np.allclose(images.features, layer(world, weights, ids, N_BLOCKS - 3), atol=1e-5)
            assert [sorted(set(labels.values()))[k] for k in images.labels] == [labels[i] for i in ids]
        wanted = layer(world, weights, part_ids(world, "test"), N_BLOCKS - 3)
        assert np.allclose(call["queries"], wanted, atol=1e-5)
        assert call["network"].first == N_BLOCKS - 2


@pytest.mark.parametrize("blocks", [1, 3, N_BLOCKS, None])
def test_predictions_do_not_depend_on_how_many_blocks_are_open_while_nothing_is_trained(world, weights, grid, blocks):
    """Then they are those of the method on the encoder's own vectors."""
    grid(blocks=blocks, shots=[2], seeds=[0])
    encoder = models.load(find(world, "clip", weights, "fp32"))
    known, asked = (encoder.encode(squares(world, ids)) for ids in (support_ids(world, 2, 0), part_ids(world, "test")))
    known, asked = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (known, asked))
    labels = np.array([i.split("/")[1].split("-")[0] for i in support_ids(world, 2, 0)])
    means = np.stack([known[labels == c].mean(axis=0) for c in ("benign", "malignant", "normal")])
    odds = np.exp(5 * asked @ means.T)
    found = np.array([r["probabilities"] for r in sorted(rows(world, "predictions"), key=lambda r: r["image_id"])])
    assert np.allclose(found, odds / odds.sum(axis=1, keepdims=True), atol=1e-5)


def test_each_run_is_given_a_tower_that_no_other_has_touched(world, grid):
    grid(blocks=1)
    together = predictions(world)
    forget(world)
    for shots in (2, 1):
        for seed in (1, 0):
            grid(blocks=1, shots=[shots], seeds=[seed])
    assert predictions(world).keys() == together.keys()
    assert all(np.allclose(p, together[k], atol=1e-6) for k, p in predictions(world).items())


def test_stored_states_are_read_and_not_computed(world, weights, grid, monkeypatch):
    encode(world, "clip", weights=weights, precision="fp32", layers=["4"], token_dtype="float32")
    assert len(grid(blocks=3).notes) == 1  # block 3 is not what is stored
    n_computed = len(predictions(world))
    monkeypatch.setattr(computing, "states", None)
    report = grid(blocks=2)
    assert (counts(report), report.notes) == ((4, 0, 4, 0), [])
    kept = Layer("h4", find(world, "clip", weights, "fp32").model_id, RECIPE, "float32")
    assert (Nearest.calls[-1]["queries"] == tokens(world, kept, part_ids(world, "test"))).all()
    assert len(predictions(world)) == 2 * n_computed


def test_a_note_says_how_to_keep_states_and_the_command_does(world, weights, grid, tmp_path, monkeypatch):
    (note,) = grid(blocks=2).notes
    command = re.search(r"`busistore (encode .+)`", note)[1].split()
    done = CliRunner().invoke(app, [*command, "--weights", str(weights), "--store", str(world.path)])
    assert done.exit_code == 0, done.output
    forget(world)
    monkeypatch.setattr(computing, "states", None)
    assert grid(blocks=2).notes == []


@pytest.mark.parametrize("vectors", ["fp32", "bf16"])
@pytest.mark.parametrize("trained", ["fp32", "bf16"])
@pytest.mark.parametrize("stored", [True, False])
def test_states_are_in_the_precision_of_the_model(world, weights, grid, vectors, trained, stored):
    """And its blocks in that of the method: runs of one model are paired, whatever they train in."""
    if stored:
        encode(world, "clip", weights=weights, precision=vectors, layers=["4"], token_dtype="float32")
    grid(blocks=2, vectors=vectors, precision=trained, shots=[1], seeds=[0])
    call, located = Nearest.calls[-1], find(world, "clip", weights, vectors)
    wanted = models.load(located).outputs(squares(world, part_ids(world, "test")), ["h4"])["h4"]
    assert np.abs(call["queries"] - wanted).max() < 1e-5
    exact = layer(world, weights, part_ids(world, "test"), 4)
    assert (np.abs(wanted - exact).max() > 1e-4) == (vectors == "bf16")  # so that the line above can fail
    assert str(call["network"].blocks["6"].up.weight.dtype) == f"torch.{DTYPES[trained]}"
    assert {r["model_id"] for r in rows(world, "runs")} == {located.model_id}


def test_keeping_states_changes_no_key(world, weights, grid, tmp_path):
    """As the note has it, whatever precision "auto" was when nothing was encoded yet."""
    (note,) = grid(blocks=2, vectors="auto").notes
    command = re.search(r"`busistore (encode .+)`", note)[1].split()
    CliRunner().invoke(app, [*command, "--weights", str(weights), "--store", str(world.path)])
    assert counts(grid(blocks=2, vectors="auto")) == (4, 4, 0, 0)


def test_states_of_other_pixels_are_computed_anew(world, weights, grid, tmp_path):
    encode(world, "clip", weights=weights, precision="fp32", layers=["4"], token_dtype="float32")
    redrawn(tmp_path, part_ids(world, "test")[0])
    ingest(world, "busi", tmp_path / "busi", replace=True)
    with pytest.raises(BusistoreError, match=r"1 images .* have no picture under 'pad224'; `busistore preprocess"):
        grid(blocks=2)
    preprocess(world)
    assert len(grid(blocks=2).notes) == 1
    wanted = layer(world, weights, part_ids(world, "test"), 4)
    assert np.allclose(Nearest.calls[-1]["queries"], wanted, atol=1e-5)


def test_16_bit_states_are_the_same_stored_or_not_and_never_the_default(world, weights, grid, monkeypatch):
    encode(world, "clip", weights=weights, precision="fp32", layers=["4"])
    assert len(grid(blocks=2, shots=[1], seeds=[0]).notes) == 1  # a table of 16 bits does not do
    exact = Nearest.calls[-1]["queries"]
    assert (exact != exact.astype(np.float16)).any()
    grid(blocks=2, shots=[1], seeds=[0], tokens="float16")
    stored = Nearest.calls[-1]["queries"]
    world.delete(Layer("h4", find(world, "clip", weights, "fp32").model_id, RECIPE, "float16").name, "true")
    world.delete("runs", "true")
    grid(blocks=2, shots=[1], seeds=[0], tokens="float16")
    for found in (stored, Nearest.calls[-1]["queries"]):
        assert (found == found.astype(np.float16)).all()
        assert np.allclose(found, exact, rtol=1e-3, atol=1e-4)
    with pytest.raises(BusistoreError, match="tokens are float16 or float32, not 'int8'"):
        grid(blocks=2, tokens="int8")


@pytest.mark.parametrize("stored", [True, False])
def test_states_too_large_for_memory_are_made_for_each_batch(world, weights, grid, monkeypatch, stored):
    if stored:
        encode(world, "clip", weights=weights, precision="fp32", layers=["4"], token_dtype="float32")
    grid(blocks=2)
    held = predictions(world)
    assert isinstance(Nearest.calls[-1]["queries"], np.ndarray)
    forget(world)
    monkeypatch.setattr(towers, "HELD_BYTES", 0)
    grid(blocks=2)
    assert isinstance(Nearest.calls[-1]["queries"], States)
    assert predictions(world).keys() == held.keys()
    assert all(np.allclose(p, held[k], atol=1e-6) for k, p in predictions(world).items())


def test_with_all_blocks_open_pictures_alone_stay_in_memory(world, grid):
    grid(blocks=None)
    grid(blocks=N_BLOCKS)  # another parameter, and the same states
    assert all(isinstance(c["support"].features, States) for c in Nearest.calls)
    assert all(c["network"].first == 0 for c in Nearest.calls)
    first, *_, last = (np.asarray(c["queries"]) for c in Nearest.calls)
    assert (first == last).all()


def test_lazy_states_pick_rows_as_an_array_does():
    whole = np.random.default_rng(0).normal(size=(9, 4, 3)).astype(np.float32)
    asked = []

    def make(rows):
        asked.append(len(rows))
        return whole[rows]

    given = States(make, np.arange(9), (4, 3))
    assert (given.shape, len(given), given.dtype, given.ndim) == ((9, 4, 3), 9, np.float32, 3)
    picks = [[3, 3, 0], slice(2, 5), np.arange(9) % 2 == 0, np.array([], int), slice(None)]
    for pick in picks:
        assert np.asarray(given[pick]).shape == whole[pick].shape
        assert (np.asarray(given[pick]) == whole[pick]).all()
    assert asked == [3, 3, 3, 3, 5, 5, 0, 0, 9, 9]
    assert (given[-1] == whole[-1]).all()
    assert (np.asarray(given[[4, 2, 7]][[2, 0]]) == whole[[7, 4]]).all()
    assert np.asarray(given[:2], np.float64).dtype == np.float64


def test_a_run_needs_no_vectors_and_is_of_the_same_pictures_as_one_that_has(world, weights, grid):
    grid(blocks=1)
    assert not [name for name in world.names() if name.startswith(("embeddings.", "tokens."))]
    before = rows(world, "runs")
    encode(world, "clip", weights=weights, precision="fp32")
    assert counts(grid(blocks=1)) == (4, 4, 0, 0)  # the key is the same
    grid(methods=["knn"])
    of_knn = rows(world, "runs", "method = 'knn'")
    assert {r["inputs_sha256"] for r in before} == {r["inputs_sha256"] for r in of_knn}
    assert {r["model_id"] for r in before} == {r["model_id"] for r in of_knn}
    assert {r["episode_id"] for r in before} == {r["episode_id"] for r in of_knn}
    current = sql.run(world, "leaderboard")
    assert set(current["method"]) == {"nearest", "knn"}
    found = comparison.compare(world, "nearest", "knn", model="clip", supports=[(2, None)])
    assert [row.difference.both.n_seeds for row in found] == [2]


def test_other_pixels_are_other_runs_though_nothing_is_encoded(world, grid, tmp_path):
    grid(blocks=1)
    before = {r["run_id"] for r in rows(world, "runs")}
    redrawn(tmp_path, part_ids(world, "test")[0])
    ingest(world, "busi", tmp_path / "busi", replace=True)
    preprocess(world)
    assert counts(grid(blocks=1)) == (4, 0, 4, 0)
    found = {r for (r,) in sql.connect(world).execute("SELECT run_id FROM current_runs").fetchall()}
    assert (len(found), found & before) == (4, set())


def test_one_grid_of_both_kinds(world, weights, grid):
    encode(world, "clip", weights=weights, precision="fp32")
    assert counts(grid(methods=["knn", "nearest"])) == (8, 0, 8, 0)
    assert [len(c["support"].labels) for c in Nearest.calls] == [3, 3, 6, 6]


def test_runs_without_vectors_are_not_stale_until_a_picture_changes(world, grid):
    """No encoder has seen the images: what the runs were made from is the pictures."""
    grid()
    assert sql.run(world, "stale").height == 0
    one = world.read("preprocessed").to_pylist()[0]
    world.delete("preprocessed", f"image_id = '{one['image_id']}'")
    assert set(sql.run(world, "stale")["stage"]) == {"run"}


def test_training_is_followed_epoch_by_epoch(world, grid):
    grid(blocks=1, shots=[2], seeds=[0])
    found = {(r["subject"], r["metric"]): (r["value"], r["n_used"]) for r in rows(world, "metrics")
             if r["subject"] != "test"}  # fmt: skip
    n_val = len(part_ids(world, "val"))
    assert found == {
        ("epoch:001", "train_loss"): (1.0, 6), ("epoch:002", "train_loss"): (0.5, 6),
        ("epoch:002", "val_macro_f1"): (0.5, n_val),
    }  # fmt: skip
    assert "epoch" not in str(sql.run(world, "leaderboard"))


def test_strict_is_given_no_validation_images(world, grid):
    grid(blocks=1, protocol="strict", shots=[1], seeds=[0])
    assert [c["val"] for c in Nearest.calls] == [None]
    assert [(r["n_labelled"], r["exposure_val"]) for r in rows(world, "runs")] == [(3, None)]


def test_each_run_is_told_its_own_seconds(world, grid, monkeypatch):
    real = Nearest.fit_predict

    def slow(self, support, *given, **more):
        time.sleep(0.2 if len(support.labels) == 6 else 0)
        return real(self, support, *given, **more)

    monkeypatch.setattr(Nearest, "fit_predict", slow)
    grid(blocks=1, seeds=[0])
    seconds = {r["shots"]: r["seconds"] for r in rows(world, "runs")}
    assert seconds[2] >= 0.2
    assert seconds[1] != seconds[2]


def test_a_run_that_fails_is_told_and_the_grid_goes_on(world, grid):
    Nearest.fails[1] = RunFailed("nearest: the loss is not finite in epoch 7; lower the rate")
    report = grid(blocks=1)
    assert counts(report) == (4, 0, 3, 1)
    (failure,) = rows(world, "failures")
    assert (failure["job"], failure["key"] in report.failures) == ("evaluate", True)
    assert failure["reason"] == "clip, shots 1, seed 1: nearest: the loss is not finite in epoch 7; lower the rate"
    assert failure["key"] not in {r["run_id"] for r in rows(world, "runs")}
    assert (folder_of(world, failure["key"]) / PARTIAL).exists()


def test_a_failed_run_is_tried_again_and_forgotten_when_it_is_done(world, grid):
    Nearest.fails[0] = RunFailed("out of memory; lower batch_size")
    grid(blocks=1, shots=[1], seeds=[0])
    assert len(rows(world, "failures")) == 1
    assert counts(grid(blocks=1, shots=[1], seeds=[0])) == (1, 0, 1, 0)
    assert rows(world, "failures") == []


def test_what_is_kept_of_a_run_lies_under_its_id(world, grid):
    grid(blocks=1)
    for run in rows(world, "runs"):
        folder = folder_of(world, run["run_id"])
        assert folder == world.path / "adapters" / run["run_id"]
        assert [p.name for p in folder.iterdir()] == ["adapter"]  # what it would go on from is gone


def test_ctrl_c_keeps_finished_runs_and_the_checkpoint_of_the_one_at_work(world, grid):
    Nearest.fails[2] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        grid(blocks=1)
    done = {r["run_id"] for r in rows(world, "runs")}
    assert len(done) == 2
    (left,) = (world.path / "adapters").glob(f"*/{PARTIAL}/checkpoint")
    assert left.parent.parent.name not in done


def test_sweeping_takes_what_no_run_will_go_on_from(world, grid):
    Nearest.fails[2] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        grid(blocks=1)
    (left,) = (world.path / "adapters").glob(f"*/{PARTIAL}")
    stored = folder_of(world, rows(world, "runs")[0]["run_id"])
    (stored / PARTIAL).mkdir()  # as a kill between commit and removal leaves it
    assert sweep(world) == 1
    assert not (stored / PARTIAL).exists()
    assert (stored / "adapter").exists()
    week_ago = time.time() - 8 * 86400
    os.utime(left / "checkpoint", (week_ago, week_ago))
    assert sweep(world) == 0  # the folder itself was touched
    os.utime(left, (week_ago, week_ago))
    assert sweep(world) == 1
    assert not left.parent.exists()


def test_sweeping_a_store_without_adapters(store):
    assert sweep(store) == 0


def test_a_tower_without_attention_stops_the_grid_before_anything_is_written(world, weights, monkeypatch, tmp_path):
    small = tiny.LAYOUTS["timm ResNet"]()
    spec = replace(small.spec, input=replace(small.spec.input, size_px=224))
    monkeypatch.setitem(models.MODELS, "resnet50", spec)
    for name, data in small.files().items():
        (weights / name).write_bytes(data)
    before = world.names()
    with pytest.raises(BusistoreError, match="'resnet50' has no plain attention"):
        evaluate(world, ["nearest"], ["clip", "resnet50"], [1], [0], weights=weights)
    assert world.names() == before
    assert Nearest.calls == []


@pytest.mark.parametrize(("blocks", "words"), [(0, "0 cannot"), (8, "has 7 blocks, 8 cannot be adapted; take 1 to 7")])
def test_blocks_that_are_not_there(world, grid, blocks, words):
    with pytest.raises(BusistoreError, match=words):
        grid(blocks=blocks)
    assert world.count("episodes") == 0


def test_pictures_of_another_size(world, grid, vit, monkeypatch):
    spec = replace(vit.spec, input=replace(vit.spec.input, size_px=160))
    monkeypatch.setitem(models.MODELS, "clip", spec)
    with pytest.raises(BusistoreError, match="'clip' takes 160 x 160 px, not \\(224, 224\\); choose another recipe"):
        grid(blocks=1)


def test_a_damaged_picture_is_named(world, grid):
    image_id = part_ids(world, "test")[0]
    bad = world.read("preprocessed", where=f"image_id = '{image_id}'").to_pylist()[0]
    from busistore.schema import PREPROCESSED

    png = world.files(PREPROCESSED)[image_id]
    world.put(PREPROCESSED, [bad | {"png": png, "png_crc32": bad["png_crc32"] ^ 1}], replace=True)
    with pytest.raises(BusistoreError, match=f"'preprocessed' file of '{image_id}' is damaged; `busistore verify"):
        grid(blocks=1)


def test_a_dry_run_builds_no_network(world, grid, monkeypatch):
    monkeypatch.setattr(towers, "_built", None)
    assert counts(grid(blocks=1, dry_run=True)) == (4, 0, 0, 0)
    assert world.count("runs") == world.count("episodes") == 0


def test_a_network_is_built_once_for_a_grid(world, grid, monkeypatch):
    real, built = towers._built, []
    monkeypatch.setattr(towers, "_built", lambda *given: built.append(given) or real(*given))
    grid(blocks=2)
    assert len(built) == 1
    assert counts(grid(blocks=2)) == (4, 4, 0, 0)
    assert len(built) == 1


# --like


@pytest.fixture
def repeatable(world, weights, grid):
    """Runs of knn: 1 shot with seeds 0 to 2, 2 shots with seeds 0 and 1, a tenth with seed 0; and others."""
    encode(world, "clip", weights=weights, precision="fp32")
    evaluate(world, ["knn"], ["clip"], [1], range(3), weights=weights, protocol="strict")
    evaluate(world, ["knn"], ["clip"], [2], range(2), weights=weights, protocol="strict")
    evaluate(world, ["knn"], ["clip"], [], [0], ratios=[0.2], weights=weights, protocol="strict")
    evaluate(world, ["knn"], ["clip"], [4], [7], weights=weights, protocol="strict", parameters={"k_grid": "3"})
    evaluate(world, ["prototype"], ["clip"], [1], [9], weights=weights, protocol="strict")
    return next(r["run_id"] for r in rows(world, "runs", "method = 'knn' AND shots = 2"))


def episodes_of(store, method: str) -> set[tuple]:
    return {(r["shots"], r["ratio"], r["seed"], r["episode_id"], r["protocol"])
            for r in rows(store, "runs", f"method = '{method}'") if r["shots"] != 4}  # fmt: skip


def cli(*arguments: str):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_like_repeats_the_support_sets_of_a_setting(world, weights, repeatable):
    done = cli("evaluate", "--method", "nearest", "--like", repeatable, "--weights", str(weights), "-p", "blocks=1",
               "--store", str(world.path))  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "evaluate: 6 planned, 0 skipped, 6 written, 0 failed" in done.output
    assert episodes_of(world, "nearest") == episodes_of(world, "knn")
    assert len(episodes_of(world, "nearest")) == 6


def test_like_is_narrowed_by_sizes_and_seeds(world, weights, repeatable):
    common = ["--like", repeatable, "--weights", str(weights), "--store", str(world.path), "--method", "prototype"]
    assert "evaluate: 3 planned" in cli("evaluate", *common, "--shots", "1", "--seeds", "3").output
    assert "evaluate: 2 planned" in cli("evaluate", *common, "--seeds", "1", "--shots", "1,20%").output
    assert "evaluate: 3 planned" in cli("evaluate", *common, "--seeds", "1", "--model", "clip").output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--shots", "1,16"], "--shots asks for 16, which the runs like"),
        (["--shots", "5%"], r"asks for 5%, which .* \(they have 1, 2, 20%\); leave --shots out"),
        (["--seeds", "4"], r"--seeds asks for 3, which .* \(they have 0, 1, 2\)"),
        (["--protocol", "val-tuned"], "has protocol 'strict', not 'val-tuned'; leave --protocol out"),
        (["--recipe", "stretch224"], "has recipe 'pad224', not 'stretch224'"),
        (["--split", "other"], "not 'other'; leave --split out"),
        (["--dataset", "phantom"], "has dataset 'busi', not 'phantom'"),
        (["--layer", "unprojected"], "has layer 'pooled', not 'unprojected'; leave --layer out"),
        (["--precision", "bf16"], "has precision 'fp32', not 'bf16'; leave --precision out"),
        (["--model", "clip,other", "--precision", "bf16"], "has precision 'fp32', not 'bf16'"),
    ],
)
def test_like_and_options_that_contradict_it(world, weights, repeatable, options, words):
    done = cli("evaluate", "--like", repeatable, "--weights", str(weights), "--store", str(world.path), *options)
    assert done.exit_code == 1
    assert re.search(words, done.output), done.output


def test_like_a_run_that_is_not_there_or_has_no_support_set(world, repeatable):
    with pytest.raises(UnknownName, match=f"no run '{repeatable}x'; did you mean '{repeatable}'"):
        like(world, repeatable + "x")
    run = rows(world, "runs", f"run_id = '{repeatable}'")[0]
    from busistore.schema import RUNS

    world.put(RUNS, [run | {"run_id": "zero-shot-1", "shots": 0}, run | {"run_id": "text-readout-1", "shots": None}])
    for run_id in ("zero-shot-1", "text-readout-1"):
        with pytest.raises(BusistoreError, match=f"'{run_id}' has no support set to repeat"):
            like(world, run_id)


def made(store, run_id: str, *given, **asked) -> tuple:
    """Layer and precision; None where like() leaves them open."""
    got = like(store, run_id, *given, **asked)
    return got.get("layer"), got.get("precision")


def test_like_goes_on_with_what_made_the_vectors_of_the_run(world, repeatable):
    assert made(world, repeatable) == ("pooled", "fp32")  # the store remembers the weights
    assert made(world, repeatable, layer="pooled", precision="fp32") == ("pooled", "fp32")
    assert made(world, repeatable, precision="auto") == ("pooled", "fp32")
    assert made(world, repeatable, model_names=["clip", "other"]) == ("pooled", "fp32")


def test_like_leaves_the_precision_of_other_models_open(world, repeatable):
    assert made(world, repeatable, model_names=["other"]) == ("pooled", None)
    assert made(world, repeatable, model_names=["other"], layer="unprojected", precision="bf16") == (
        "unprojected", "bf16")  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_like_a_run_that_trained_with_nothing_encoded(world, vit, weights, grid, monkeypatch, precision):
    monkeypatch.setitem(models.MODELS, "clip", replace(vit.spec, precisions=("fp32", "bf16")))
    monkeypatch.setattr("busistore.jobs.models.fastest", lambda *_: {"fp32": "bf16", "bf16": "fp32"}[precision])
    grid(shots=[1], vectors=precision, blocks=1)
    run_id = rows(world, "runs")[0]["run_id"]
    assert world.count("models") == 0
    assert made(world, run_id, weights) == ("pooled", precision)
    assert made(world, run_id) == (None, None)  # no weights at hand
    done = cli("evaluate", "--method", "nearest", "--like", run_id, "--weights", str(weights), "-p", "blocks=2",
               "--store", str(world.path))  # fmt: skip
    assert "evaluate: 2 planned, 0 skipped, 2 written, 0 failed" in done.output
    assert len({r["model_id"] for r in rows(world, "runs")}) == 1


def test_like_a_run_on_unprojected_vectors(world, weights):
    encode(world, "clip", weights=weights, precision="fp32", layers=["pooled", "unprojected"])
    evaluate(world, ["knn"], ["clip"], [1], range(2), weights=weights, layer="unprojected")
    run_id = rows(world, "runs")[0]["run_id"]
    assert made(world, run_id) == made(world, run_id, weights) == ("unprojected", "fp32")
    common = ["evaluate", "--method", "prototype", "--like", run_id, "--store", str(world.path)]
    assert "evaluate: 2 planned, 0 skipped, 2 written, 0 failed" in cli(*common).output
    assert len({r["model_id"] for r in rows(world, "runs")}) == 1
    refused = cli(*common, "--layer", "pooled")
    assert refused.exit_code == 1
    assert "has layer 'unprojected', not 'pooled'; leave --layer out" in refused.output


def test_like_a_run_of_a_model_that_is_gone_has_the_precision_that_the_store_remembers(world, repeatable, monkeypatch):
    # not taken out and put back: the registry would have another order in the tests that follow
    monkeypatch.setattr(models, "MODELS", {name: spec for name, spec in models.MODELS.items() if name != "clip"})
    assert made(world, repeatable) == (None, "fp32")


def test_support_sets_that_are_drawn_otherwise_now(world, grid, repeatable):
    with pytest.raises(BusistoreError, match="1 of 2 support sets are drawn otherwise by this version"):
        grid(only={"elsewhere", rows(world, "runs", f"run_id = '{repeatable}'")[0]["episode_id"]})


def test_a_model_or_a_run_must_be_named(world):
    done = cli("evaluate", "--method", "knn", "--store", str(world.path))
    assert (done.exit_code, "Missing option '--model'" in done.output) == (2, True)


def test_failed_runs_end_the_command_with_1_unless_they_may_be_skipped(world, weights):
    common = ["evaluate", "--method", "nearest", "--model", "clip", "--weights", str(weights), "--store",
              str(world.path), "-p", "blocks=1", "--seeds", "1"]  # fmt: skip
    Nearest.fails[0] = RunFailed("the loss is not finite in epoch 1")
    done = cli(*common, "--shots", "1")
    assert done.exit_code == 1
    assert re.search(r"failed: nearest-\w+: clip, shots 1, seed 0: the loss is not finite in epoch 1", done.output)
    Nearest.fails[1] = RunFailed("again")
    assert cli(*common, "--shots", "2", "--skip-errors").exit_code == 0


# the real method


@pytest.fixture
def lora(monkeypatch):
    tuning = pytest.importorskip("busistore.methods.lora")
    pytest.importorskip("peft")
    monkeypatch.setitem(METHODS, "lora", tuning.Lora)
    return {"rank": 2, "epochs": 6, "patience": 6, "batch_size": 3, "accumulate": 1, "checkpoint_every": 1}


@pytest.mark.parametrize("blocks", [2, None])
def test_lora_stopped_at_an_epoch_goes_on_to_the_same_numbers(world, grid, lora, monkeypatch, blocks):
    from busistore.methods import training

    given = {"methods": ["lora"], "shots": [2], "seeds": [0], "blocks": "none" if blocks is None else blocks, **lora}
    grid(**given)
    whole, kept = predictions(world), rows(world, "runs")[0]
    forget(world)
    real, epochs = training._train, []

    def stopped(learner, support, rng, epoch):
        epochs.append(epoch)
        if len(epochs) == 4:
            raise KeyboardInterrupt
        return real(learner, support, rng, epoch)

    monkeypatch.setattr(training, "_train", stopped)
    with pytest.raises(KeyboardInterrupt):
        grid(**given)
    assert world.count("runs") == 0
    assert counts(grid(**given)) == (1, 0, 1, 0)
    assert epochs == [1, 2, 3, 4, 4, 5, 6]
    assert predictions(world) == whole
    found = {k: v for k, v in json.loads(rows(world, "runs")[0]["details"]).items() if k != "cpu_seconds"}
    assert found == {k: v for k, v in json.loads(kept["details"]).items() if k != "cpu_seconds"}
    names = {p.name for p in folder_of(world, kept["run_id"]).iterdir()}
    assert names == {"adapter_model.safetensors", "adapter_config.json", "head.safetensors", "curves.json"}
    curves = {r["metric"] for r in rows(world, "metrics") if r["subject"].startswith("epoch:")}
    assert curves == {"train_loss", "val_loss", "val_macro_f1", "learning_rate"}


def test_kept_adapters_are_verified(world, grid, lora):
    grid(methods=["lora"], shots=[1], seeds=[0, 1], **lora)
    first, second = rows(world, "runs")
    assert set(json.loads(first["details"])["kept"]) == {"adapter_model.safetensors", "head.safetensors"}
    assert verify(world).damaged == []
    head = folder_of(world, first["run_id"]) / "head.safetensors"
    head.write_bytes(head.read_bytes()[:-1] + b"x")
    (folder_of(world, second["run_id"]) / "adapter_model.safetensors").unlink()
    found = verify(world, repair=True)
    assert {(d.image_id, d.reason.split("' ")[1]) for d in found.damaged} == {
        (first["run_id"], "is not what was written; --repair takes the run out"),
        (second["run_id"], "is gone; what the run predicted stands"),
    }
    assert [r["run_id"] for r in rows(world, "runs")] == [second["run_id"]]
    assert grid(methods=["lora"], shots=[1], seeds=[0, 1], **lora).written == 1
    assert len(verify(world).damaged) == 1


def test_lora_from_stored_states_is_lora_from_pictures(world, weights, grid, lora, monkeypatch):
    given = {"methods": ["lora"], "shots": [2], "seeds": [0], "blocks": 2, **lora}
    assert len(grid(**given).notes) == 1
    uncached = predictions(world)
    encode(world, "clip", weights=weights, precision="fp32", layers=["4"], token_dtype="float32")
    forget(world)
    monkeypatch.setattr(computing, "states", None)
    grid(**given)
    assert predictions(world).keys() == uncached.keys()
    assert np.allclose(list(predictions(world).values()), list(uncached.values()), atol=1e-5)


def test_every_curve_of_the_real_method_is_a_metric():
    from busistore.metrics import METRICS

    assert {n for n, kind in METRICS.items() if kind.scope == "epoch"} == {
        "train_loss", "val_loss", "val_macro_f1", "learning_rate", "val_dice",  # the last is of segmenters
    }  # fmt: skip
