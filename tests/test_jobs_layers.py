"""One pass, several tables: vectors, grids and hidden states as the network makes them; a tower goes on from them."""

import numpy as np
import pytest
from PIL import Image

from busistore import models, sql
from busistore.errors import BusistoreError
from busistore.jobs import encode as job
from busistore.jobs.encode import encode, vectors
from busistore.jobs.ingest import ingest
from busistore.jobs.layers import Layer, layers_of, tokens
from busistore.jobs.models import find, model_row
from busistore.jobs.pictures import batches, sample
from busistore.jobs.verify import verify
from busistore.models import encoder
from busistore.preprocess import recipes
from busistore.schema import MODELS, PREPROCESSED
from tests import tiny
from tests.fakes import speckle
from tests.test_jobs_ingest import counts

RECIPE = recipes.recipe("pad224").recipe_id


@pytest.fixture(scope="module")
def vit():
    return tiny.clip()


@pytest.fixture
def world(store, folder, vit, tmp_path, monkeypatch):
    """A store of 18 images, and the folder of a small CLIP that is called 'clip'."""
    monkeypatch.setitem(models.MODELS, "clip", vit.spec)
    for name, data in vit.files().items():
        (tmp_path / name).write_bytes(data)
    ingest(store, "busi", folder)
    return store


@pytest.fixture
def weights(tmp_path):
    return tmp_path


def squares(store, ids):
    return next(batches(store, RECIPE, ids, len(ids))).squares


def test_one_pass_keeps_every_layer_as_the_network_makes_it(world, weights):
    layers = ["unprojected", "grid", "0", "h5"]
    assert counts(encode(world, "clip", weights=weights, precision="fp32", layers=layers)) == (18, 0, 18, 0)
    located = find(world, "clip", weights, "fp32")
    _, ids, pooled = vectors(world, located.model_id, RECIPE)
    made = models.load(located).outputs(squares(world, ids), ["unprojected", "grid", "h0", "h5"])
    assert np.allclose(pooled, made["pooled"], atol=1e-5)
    unprojected = vectors(world, find(world, "clip", weights, "fp32", "unprojected").model_id, RECIPE)[2]
    assert np.allclose(unprojected, made["unprojected"], atol=1e-5)
    for layer in layers_of(located, RECIPE, ["grid", "h0", "h5"])[:-1]:
        kept = tokens(world, layer, ids[::-1])[::-1]
        assert kept.dtype == np.float16
        assert kept.shape == made[layer.output].shape
        assert np.allclose(kept, made[layer.output], rtol=2e-3, atol=2e-3)


def test_a_tower_goes_on_from_stored_states_exactly_in_fp32(world, weights):
    encode(world, "clip", weights=weights, precision="fp32", layers=["2"], token_dtype="float32", batch_size=18)
    located = find(world, "clip", weights, "fp32")
    _, ids, pooled = vectors(world, located.model_id, RECIPE)
    states = tokens(world, Layer("h2", located.model_id, RECIPE, "float32"), ids)
    assert (models.load(located).resume(states, after=2) == pooled).all()


def test_a_layer_is_added_later_and_only_once(world, weights):
    encode(world, "clip", weights=weights, precision="fp32")
    assert counts(encode(world, "clip", weights=weights, layers=["grid"], dry_run=True)) == (18, 0, 0, 0)
    assert counts(encode(world, "clip", weights=weights, layers=["grid"])) == (18, 0, 18, 0)
    assert counts(encode(world, "clip", weights=weights, layers=["grid"])) == (18, 18, 0, 0)
    one = {"busi/benign-0001"}
    before = vectors(world, find(world, "clip", weights).model_id, RECIPE)[2]
    assert counts(encode(world, "clip", weights=weights, layers=["grid", "1"], only=one)) == (1, 0, 1, 0)
    assert (vectors(world, find(world, "clip", weights).model_id, RECIPE)[2] == before).all()
    assert not verify(world).damaged
    told = sql.run(world, "SELECT layer, dtype, shape, n_images FROM token_tables ORDER BY layer")
    assert told.rows() == [("grid", "float16", f"7,7,{tiny.DIM}", 18), ("h1", "float16", "50,64", 1)]


def test_damaged_tokens_are_found_and_made_again(world, weights):
    encode(world, "clip", weights=weights, precision="fp32", layers=["grid"])
    located = find(world, "clip", weights, "fp32")
    layer = layers_of(located, RECIPE, ["grid"])[0]
    row = world.read(layer.name, where="image_id = 'busi/benign-0003'").to_pylist()[0]
    shape = tokens(world, layer, ["busi/benign-0003"]).shape[1:]
    world.put(layer.table(shape), [dict(row, vector=np.ones(np.prod(shape), np.float16))], replace=True)
    assert [d.image_id for d in verify(world).damaged] == ["busi/benign-0003"]
    verify(world, repair=True)
    with pytest.raises(BusistoreError, match="1 images, such as 'busi/benign-0003', have no tokens of layer 'grid'"):
        tokens(world, layer, ["busi/benign-0003"])
    assert counts(encode(world, "clip", weights=weights, layers=["grid"])) == (18, 17, 1, 0)


def test_states_too_large_for_16_bits_are_refused_and_fit_32(world, weights, monkeypatch):
    real = encoder.Encoder.submit

    def loud(self, given, layers):
        made = real(self, given, layers)()
        made["h1"] *= 1e6
        return lambda: made

    monkeypatch.setattr(encoder.Encoder, "submit", loud)
    report = encode(world, "clip", weights=weights, precision="fp32", layers=["1"])
    assert counts(report) == (18, 0, 0, 18)
    assert all("--token-dtype float32" in reason for reason in report.failures.values())
    wide = {"precision": "fp32", "layers": ["1"], "token_dtype": "float32"}
    assert counts(encode(world, "clip", weights=weights, **wide)) == (18, 0, 18, 0)


@pytest.mark.parametrize(
    ("layers", "words"),
    [(["99"], "has no layer '99'; blocks 0 to 6"), (["top"], "no layer 'top'; name blocks by their numbers"),
     (["-1"], "no layer '-1'")],
)  # fmt: skip
def test_a_layer_that_does_not_exist(world, weights, layers, words):
    with pytest.raises(BusistoreError, match=words):
        encode(world, "clip", weights=weights, layers=layers)
    assert not [n for n in world.names() if n.startswith(("tokens.", "embeddings."))]


def test_a_network_without_blocks_says_so(world, fake_model):
    with pytest.raises(BusistoreError, match="only plain vision transformers have"):
        encode(world, fake_model, layers=["3"])


def test_another_type_of_tokens(world, weights):
    with pytest.raises(BusistoreError, match="float16 or float32, not 'int8'"):
        encode(world, "clip", weights=weights, layers=["1"], token_dtype="int8")


def test_a_grid_of_a_convolutional_network_is_its_feature_map(tmp_path):
    made = tiny.LAYOUTS["timm ResNet"]()
    file = tmp_path / made.spec.weights.file
    file.write_bytes(made.files()[file.name])
    located = models.Located(made.spec, "0" * 64, files={file.name: file})
    size = made.spec.input.size_px
    given = np.stack([speckle(k, size, size) for k in range(2)])
    out = models.load(located).outputs(given, ["grid"])
    assert out["grid"].shape == (2, size // 32, size // 32, made.spec.dim)
    assert np.allclose(out["grid"].mean(axis=(1, 2)), out["pooled"], atol=1e-4)  # its pooling is the mean of the map
    assert np.allclose(out["pooled"], made.images(given), atol=1e-4)


def able(monkeypatch, yes: bool):
    monkeypatch.setattr("busistore.models.precision.has_bf16", lambda: yes)


def test_auto_is_what_the_processor_does_fast_and_the_store_keeps_to_it(world, weights, monkeypatch):
    able(monkeypatch, True)
    assert find(world, "clip", weights).precision == "bf16"
    encode(world, "clip", weights=weights)
    able(monkeypatch, False)  # the store has moved to another machine
    assert find(world, "clip", weights).precision == "bf16"
    assert counts(encode(world, "clip", weights=weights)) == (18, 18, 0, 0)
    encode(world, "clip", weights=weights, precision="fp32")
    assert find(world, "clip", weights).precision == "fp32"  # of two that are stored, the more exact one
    exact, rounded = (vectors(world, find(world, "clip", weights, p).model_id, RECIPE)[2] for p in ("fp32", "bf16"))
    cosine = (exact * rounded).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rounded, axis=1)
    assert 1 - 1e-3 < cosine.min() < 1


def test_auto_is_settled_by_vectors_and_for_each_recipe(world, weights, monkeypatch):
    """A killed or partial run in another precision hides nothing that is stored."""
    able(monkeypatch, True)
    encode(world, "clip", weights=weights)
    exact = find(world, "clip", weights, "fp32")
    world.put(MODELS, [model_row(exact, tiny.DIM)])  # all that a run killed at its beginning leaves
    encode(world, "clip", weights=weights, precision="fp32", only={"busi/benign-0001"})
    encode(world, "clip", "stretch224", weights=weights, precision="fp32")
    assert find(world, "clip", weights).precision == "bf16"
    assert find(world, "clip", weights, recipe="stretch224").precision == "fp32"
    assert counts(encode(world, "clip", weights=weights)) == (18, 18, 0, 0)
    assert counts(encode(world, "clip", "stretch224", weights=weights)) == (18, 18, 0, 0)


def test_weights_are_needed_only_where_something_is_missing(world, weights, folder):
    encode(world, "clip", weights=weights)
    (weights / "open_clip_model.safetensors").unlink()
    assert counts(encode(world, "clip")) == (18, 18, 0, 0)
    Image.fromarray(speckle(99)).save(folder / "benign" / "benign (2).png")
    ingest(world, "busi", folder, replace=True)
    with pytest.raises(BusistoreError, match="weights"):
        encode(world, "clip")


def test_tokens_of_another_picture_are_not_given(world, weights, folder):
    encode(world, "clip", weights=weights, precision="fp32", layers=["grid"])
    layer = layers_of(find(world, "clip", weights), RECIPE, ["grid"])[0]
    Image.fromarray(speckle(99)).save(folder / "benign" / "benign (2).png")
    ingest(world, "busi", folder, replace=True)
    encode(world, "clip", weights=weights)
    assert len(tokens(world, layer, ["busi/benign-0001"])) == 1
    with pytest.raises(BusistoreError, match="'busi/benign-0002', have no tokens"):
        tokens(world, layer, ["busi/benign-0001", "busi/benign-0002"])


def test_auto_is_fp32_without_circuits_for_bf16(world, weights, monkeypatch):
    able(monkeypatch, False)
    assert find(world, "clip", weights).precision == "fp32"


@pytest.mark.parametrize("turned", [8, 1])
def test_auto_falls_back_and_says_so(world, weights, monkeypatch, turned):
    """Of the first sample, or of one picture that is looked at later, the direction is lost."""
    able(monkeypatch, True)
    monkeypatch.setattr(job, "AUDIT_EVERY", 6)
    real = encoder.Encoder.least_cosine
    monkeypatch.setattr(
        encoder.Encoder, "least_cosine", lambda self, s: 0.9 if len(s) == turned else real(self, s)
    )
    report = encode(world, "clip", weights=weights, batch_size=5)
    assert counts(report) == (18, 0, 18, 0)
    assert report.notes == ["'clip' loses its direction in bf16 (cosine 0.90000 to fp32); encoded in fp32"]
    assert find(world, "clip", weights).precision == "fp32"
    assert vectors(world, find(world, "clip", weights, "fp32").model_id, RECIPE)[2].shape == (18, tiny.DIM)


def test_bf16_by_name_is_taken_at_its_word(world, weights, monkeypatch):
    monkeypatch.setattr(encoder.Encoder, "least_cosine", lambda self, s: pytest.fail("nobody asked"))
    assert counts(encode(world, "clip", weights=weights, precision="bf16")) == (18, 0, 18, 0)


def test_a_store_is_read_without_the_weights(world, weights):
    encode(world, "clip", weights=weights)
    stored = find(world, "clip", weights)
    known = find(world, "clip")  # no file is named, and the hub's cache holds none
    assert known.model_id == stored.model_id
    assert not known.files
    with pytest.raises(BusistoreError, match="its weights are not on this machine"):
        models.load(known)


def test_pictures_come_whole_in_order_and_few_at_a_time(world, weights):
    from busistore.jobs.preprocess import preprocess

    preprocess(world)
    ids = sorted(i for i, _ in world.keys(PREPROCESSED))
    parts = list(batches(world, RECIPE, ids, 7))
    assert [len(part.ids) for part in parts] == [7, 7, 4]
    assert [i for part in parts for i in part.whole] == ids
    whole = np.concatenate([part.squares for part in parts])
    assert (whole == squares(world, ids)).all()
    assert (sample(world, RECIPE, ids, 3) == whole[[0, 8, 17]]).all()
