"""The map is ridge regression; and what is mapped never depends on an image outside the training part."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from busistore import captions, models
from busistore.alignment import Alignment
from busistore.errors import BusistoreError
from busistore.jobs import alignment
from busistore.jobs.encode import encode
from busistore.jobs.episodes import load_split
from busistore.jobs.ingest import ingest
from busistore.jobs.models import find
from busistore.jobs.runs import load_vectors
from busistore.jobs.split import split
from busistore.models import TextTower
from busistore.schema import MASKS, embeddings_table
from busistore.store import Store
from tests.fakes import FAKE_DIM, busi_folder, register_model

TEXT_DIM = 5


def drawn(n: int, d: int, t: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) + 1, rng.normal(size=(n, t))


def test_two_images_by_hand():
    """Images (2, 0) and (0, 5) become the unit vectors; with alpha 1, W = Y / 2; texts 1 and 3 have mean 2."""
    fitted = Alignment.fit(np.array([[2.0, 0.0], [0.0, 5.0]]), np.array([[1.0], [3.0]]), alpha=1.0)
    assert fitted.centre.tolist() == [2.0]
    assert fitted.weights.tolist() == [[-0.5], [0.5]]
    assert fitted.map(np.array([[7.0, 0.0], [3.0, 4.0]]))[:, 0] == pytest.approx([1.5, 2.0 - 0.3 + 0.4])


@pytest.mark.parametrize(("n", "d"), [(7, 20), (20, 7), (9, 9), (1, 4)])
@pytest.mark.parametrize("alpha", [0.01, 1.0, 300.0])
def test_agrees_with_scikit_learn(n, d, alpha):
    images, texts = drawn(n, d, 3)
    unit = images / np.linalg.norm(images, axis=1, keepdims=True)
    other = Ridge(alpha=alpha, fit_intercept=False, solver="svd").fit(unit, texts - texts.mean(axis=0))
    queries = drawn(6, d, 3, seed=1)[0]
    wanted = other.predict(queries / np.linalg.norm(queries, axis=1, keepdims=True)).reshape(6, 3) + texts.mean(axis=0)
    mapped = Alignment.fit(images, texts, alpha).map(queries)
    assert mapped.dtype == np.float64
    assert mapped == pytest.approx(wanted, abs=1e-9)


def test_the_weights_are_where_the_penalised_error_is_least():
    images, texts = drawn(12, 6, 2)
    fitted, alpha = Alignment.fit(images, texts, 0.5), 0.5
    unit, y = images / np.linalg.norm(images, axis=1, keepdims=True), texts - texts.mean(axis=0)

    def loss(w):
        return ((unit @ w - y) ** 2).sum() + alpha * (w**2).sum()

    step = 1e-4 * np.random.default_rng(2).normal(size=(50, *fitted.weights.shape))
    assert all(loss(fitted.weights + s) > loss(fitted.weights) for s in step)


def test_the_length_of_an_image_vector_does_not_matter():
    images, texts = drawn(8, 30, 3)
    scaled = images * np.arange(1, 9)[:, None]
    one, other = Alignment.fit(images, texts, 0.1), Alignment.fit(scaled, texts, 0.1)
    assert other.map(scaled) == pytest.approx(one.map(images), abs=1e-12)


def test_a_large_alpha_gives_everything_the_mean_text():
    images, texts = drawn(8, 4, 3)
    assert Alignment.fit(images, texts, 1e12).map(images) == pytest.approx(np.tile(texts.mean(axis=0), (8, 1)))


@pytest.mark.parametrize("alpha", [0.0, -1.0, np.inf, np.nan])
def test_alpha_is_positive(alpha):
    with pytest.raises(BusistoreError, match="a ridge needs a finite number above 0"):
        Alignment.fit(*drawn(3, 4, 2), alpha)


def test_what_cannot_be_learned_from():
    images, texts = drawn(3, 4, 2)
    with pytest.raises(BusistoreError, match="no image to learn a map from"):
        Alignment.fit(images[:0], texts[:0], 1.0)
    with pytest.raises(BusistoreError, match="1 of 3 training vectors are zero"):
        Alignment.fit(images * [[0], [1], [1]], texts, 1.0)
    with pytest.raises(ValueError, match="3 images, 2 texts"):
        Alignment.fit(images, texts[:2], 1.0)


def read_text(text: str) -> np.ndarray:
    """(TEXT_DIM,) of a sentence: another for another sentence."""
    return np.random.default_rng(list(text.encode())).normal(size=TEXT_DIM).astype(np.float32)


def register_pair(patch, folder, seen: list[str] | None = None, name: str = "pair") -> str:
    """A model whose towers share no space; what its text tower reads is put into `seen`."""
    register_model(patch, folder / f"{name}.pt", name)
    patch.setitem(models.MODELS, name, replace(models.MODELS[name], text=TextTower(77, TEXT_DIM, aligned=False)))
    seen = [] if seen is None else seen

    def read(texts):
        seen.extend(texts)
        return np.stack([read_text(t) for t in texts])

    patch.setattr(models, "load_text", lambda located, device="cpu", **_: SimpleNamespace(encode=read, logit_scale=9.0))
    return name


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store with vectors and a split, made once; tests work on copies."""
    root = tmp_path_factory.mktemp("alignment")
    with pytest.MonkeyPatch.context() as patch:
        store = Store.create(root / "store")
        ingest(store, "busi", busi_folder(root / "busi", 12))
        encode(store, register_pair(patch, root))
        split(store, "busi", seed=3)
    return root


class Ready:
    """The store, the model, the split, and what the text tower has read."""

    def __init__(self, store, located, seen):
        self.store, self.located, self.seen = store, located, seen
        self.split = load_split(store, None, None)

    def mapped(self, **changed) -> dict[str, np.ndarray]:
        found = alignment.text_space(self.store, self.located, "pad224", replace(self.split, **changed))
        return dict(zip(found.ids, found.vectors, strict=True))

    def args(self):
        return self.store, self.located, "pad224", self.split

    def outside(self) -> list[str]:
        train = set(self.split.parts["train"])
        return sorted(i for ids in self.split.parts.values() for i in ids if i not in train)


@pytest.fixture
def ready(world, tmp_path, monkeypatch) -> Ready:
    seen: list[str] = []
    register_pair(monkeypatch, world, seen)
    shutil.copytree(world / "store", tmp_path / "store")
    store = Store.open(tmp_path / "store")
    return Ready(store, find(store, "pair"), seen)


def test_every_encoded_image_is_mapped_by_the_training_captions(ready):
    """The same numbers from scikit-learn and the stored rows, image by image."""
    stored = load_vectors(ready.store, ready.located, "pad224", ready.split)
    images = {r["image_id"]: r for r in ready.store.read("images").to_pylist()}
    masks = {r["image_id"]: r for r in ready.store.read("masks").to_pylist()}
    train = ready.split.parts["train"]
    texts = np.stack([
        read_text(captions.caption(images[i]["label"], images[i]["width_px"], images[i]["height_px"],
                                   masks[i]["area_px"], masks[i]["bbox_px"]))
        for i in train
    ]).astype(float)  # fmt: skip
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    ids = sorted(images)
    x = {i: v / np.linalg.norm(v) for i, v in zip(ids, stored.of(ids).astype(float), strict=True)}
    fitted = Ridge(alpha=alignment.ALPHA, fit_intercept=False, solver="svd")
    fitted.fit(np.stack([x[i] for i in train]), texts - texts.mean(axis=0))
    wanted = fitted.predict(np.stack([x[i] for i in ids])) + texts.mean(axis=0)
    found = alignment.text_space(ready.store, ready.located, "pad224", ready.split)
    assert found.ids == ids
    assert found.vectors == pytest.approx(wanted, abs=1e-9)


def test_only_captions_of_the_training_part_are_read_and_each_once(ready):
    ready.mapped()
    assert set(ready.seen) == set(alignment.training_captions(ready.store, ready.split, ready.split.parts["train"]))
    assert len(ready.seen) == len(set(ready.seen))


def test_labels_outside_the_training_part_change_nothing(ready):
    before = ready.mapped()
    turned = ready.split.label_of | dict.fromkeys(ready.outside(), "malignant")
    assert turned != ready.split.label_of
    after = ready.mapped(label_of=turned)
    assert all((after[i] == before[i]).all() for i in before)


def test_masks_and_vectors_outside_the_training_part_change_nothing(ready):
    before, outside = ready.mapped(), ready.outside()
    among = f"image_id IN ({', '.join(repr(i) for i in outside)})"
    files = ready.store.files(MASKS)
    masks = ready.store.read("masks", where=among).to_pylist()
    spoiled = [dict(row, png=files[row["image_id"]], area_px=1, bbox_px=[0, 0, 1, 1]) for row in masks]
    ready.store.put(MASKS, spoiled, replace=True)
    table = embeddings_table(ready.located.model_id, load_vectors(*ready.args()).recipe_id, FAKE_DIM)
    rng = np.random.default_rng(0)
    rows = ready.store.read(table.name, where=among).to_pylist()
    assert len(rows) == len(outside) > 0
    ready.store.put(table, [dict(r, vector=rng.normal(size=FAKE_DIM).astype("f4")) for r in rows], replace=True)
    after = ready.mapped()
    assert all((after[i] == before[i]).all() for i in ready.split.parts["train"])
    assert not any((after[i] == before[i]).all() for i in outside)  # their own vectors are others now


def test_a_label_of_the_training_part_changes_the_map(ready):
    before = ready.mapped()
    one = ready.split.parts["train"][0]
    assert ready.split.label_of[one] == "benign"
    after = ready.mapped(label_of=ready.split.label_of | {one: "malignant"})
    assert not any((after[i] == before[i]).all() for i in before)


def test_a_lost_mask_is_named(ready):
    one = ready.split.parts["train"][0]
    ready.store.delete("masks", f"image_id = '{one}'")
    with pytest.raises(BusistoreError, match=f"the mask of '{one}' is lost; `busistore ingest` brings it again"):
        ready.mapped()


def test_details_say_that_labels_were_used(ready):
    found = alignment.text_space(ready.store, ready.located, "pad224", ready.split, alpha=2.0)
    n = len(ready.split.parts["train"])
    assert found.n_train == n
    assert found.details["supervised"] is True
    assert (found.details["n_labelled"], found.details["alpha"]) == (n, 2.0)
    assert alignment.KEY["alpha"] == alignment.ALPHA
