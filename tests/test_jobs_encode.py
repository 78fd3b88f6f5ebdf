"""Each image is encoded exactly once; what changed is encoded again; a bad vector is never stored."""

import numpy as np
import pytest
from PIL import Image

from busistore import models, pixels
from busistore.errors import BusistoreError, UnknownName
from busistore.jobs.encode import encode, vectors
from busistore.jobs.ingest import ingest
from busistore.jobs.verify import verify
from busistore.jobs.why import why
from busistore.models import encoder
from busistore.preprocess import recipes
from busistore.schema import IMAGES, embeddings_name
from tests.fakes import register_model, speckle
from tests.test_jobs_ingest import counts, failures


@pytest.fixture
def filled(store, folder):
    ingest(store, "busi", folder)
    return store


def stored(store, model: str, recipe: str = "pad224"):
    return vectors(store, models.locate(model).model_id, recipes.recipe(recipe).recipe_id)


def test_vectors_are_those_of_the_network(filled, fake_model):
    assert counts(encode(filled, fake_model, batch_size=5)) == (18, 0, 18, 0)
    _, ids, values = stored(filled, fake_model)
    assert ids == sorted(i for (i,) in filled.keys(IMAGES))
    encoder, recipe = models.load(models.locate(fake_model)), recipes.recipe("pad224")
    for (_, data), vector in zip(filled.files(IMAGES).stream(ids), values, strict=True):
        square = recipes.apply(recipe, pixels.grey(data)).pixels
        assert np.allclose(encoder.encode(square[None])[0], vector, atol=1e-5)


def test_second_encode_writes_nothing_and_loads_nothing(filled, fake_model, monkeypatch):
    encode(filled, fake_model)
    versions = {t: filled.version(t) for t in filled.names()}
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("the network was loaded for nothing"))
    assert counts(encode(filled, fake_model)) == (18, 18, 0, 0)
    assert {t: filled.version(t) for t in filled.names()} == versions


def test_only_some_then_the_rest(filled, fake_model):
    assert counts(encode(filled, fake_model, only={"busi/benign-0002"})) == (1, 0, 1, 0)
    assert counts(encode(filled, fake_model, dry_run=True)) == (18, 1, 0, 0)
    assert counts(encode(filled, fake_model)) == (18, 1, 17, 0)


def test_a_changed_image_is_encoded_again(filled, folder, fake_model):
    encode(filled, fake_model)
    before = dict(zip(*stored(filled, fake_model)[1:]))
    Image.fromarray(speckle(99)).save(folder / "benign" / "benign (2).png")
    ingest(filled, "busi", folder, replace=True)
    assert ("encode", "stored") not in [s[:2] for s in why(filled, "busi/benign-0002", fake_model)][1:2]
    assert counts(encode(filled, fake_model)) == (18, 17, 1, 0)
    after = dict(zip(*stored(filled, fake_model)[1:]))
    assert [i for i in after if not (after[i] == before[i]).all()] == ["busi/benign-0002"]


def test_a_dry_run_foresees_a_changed_image(filled, folder, fake_model):
    encode(filled, fake_model)
    Image.fromarray(speckle(99)).save(folder / "benign" / "benign (2).png")
    ingest(filled, "busi", folder, replace=True)
    assert counts(encode(filled, fake_model, dry_run=True)) == (18, 17, 0, 0)
    assert counts(encode(filled, fake_model)) == (18, 17, 1, 0)


def test_only_errors_goes_through_both_steps(filled, folder, fake_model):
    row = filled.read("images", where="image_id = 'busi/benign-0001'").to_pylist()[0]
    data = filled.files(IMAGES)["busi/benign-0001"]
    filled.put(IMAGES, [dict(row, png=data, png_crc32=1)], replace=True)
    assert encode(filled, fake_model).failed == 1
    verify(filled, repair=True)
    ingest(filled, "busi", folder)
    assert counts(encode(filled, fake_model, only_errors=True)) == (1, 0, 1, 0)
    assert failures(filled) == {}
    assert counts(encode(filled, fake_model, only_errors=True)) == (0, 0, 0, 0)


def test_other_weights_are_another_model(filled, fake_model, tmp_path, monkeypatch):
    import torch

    encode(filled, fake_model)
    torch.save({"weight": torch.ones(12, 64)}, tmp_path / "other.pt")
    assert counts(encode(filled, fake_model, weights=tmp_path / "other.pt")) == (18, 0, 18, 0)
    assert sum(n.startswith("embeddings.") for n in filled.names()) == 2
    step = why(filled, "busi/benign-0001", fake_model, weights=tmp_path / "other.pt")[2]
    assert step[:2] == ("encode", "stored")


def test_why_names_the_field_that_differs(filled, folder, fake_model, tmp_path):
    import torch

    image = "busi/benign-0002"
    assert [s[1] for s in why(filled, image, fake_model)] == ["stored", "missing", "missing"]
    encode(filled, fake_model)
    assert [s[1] for s in why(filled, image, fake_model)] == ["stored", "stored", "stored"]
    torch.save({"weight": torch.ones(12, 64)}, tmp_path / "other.pt")
    state, told = why(filled, image, fake_model, weights=tmp_path / "other.pt")[2][1:]
    assert state == "missing"
    assert told.endswith("differs in weights_sha256")
    Image.fromarray(speckle(99)).save(folder / "benign" / "benign (2).png")
    ingest(filled, "busi", folder, replace=True)
    step, state, told = why(filled, image, fake_model)[1]
    assert (step, state) == ("preprocess", "stale")
    assert told.startswith("source_sha256 differs")
    with pytest.raises(UnknownName, match="did you mean 'busi/benign-0002'"):
        why(filled, "busi/benign-002", fake_model)


def test_why_tells_of_a_file_that_failed(store, folder, fake_model):
    (folder / "benign" / "benign (2).png").write_bytes(b"x")
    ingest(store, "busi", folder)
    assert why(store, "busi/benign-0002", fake_model)[0] == ("ingest", "failed", failures(store)["busi/benign-0002"])


def test_a_vector_that_is_not_finite_fails_alone(filled, fake_model, monkeypatch):
    real = encoder.Encoder.submit

    def spoiled(self, squares, layers):
        out = real(self, squares, layers)()
        out["pooled"][0, 3] = np.nan
        return lambda: out

    monkeypatch.setattr(encoder.Encoder, "submit", spoiled)
    assert counts(encode(filled, fake_model, batch_size=9)) == (18, 0, 16, 2)
    assert all("not finite" in reason for reason in failures(filled).values())
    monkeypatch.setattr(encoder.Encoder, "submit", real)
    assert counts(encode(filled, fake_model, only_errors=True)) == (2, 0, 2, 0)
    assert failures(filled) == {}


def test_ctrl_c_keeps_what_is_done(filled, fake_model, monkeypatch):
    real, calls = encoder.Encoder.submit, []

    def interrupted(self, squares, layers):
        calls.append(len(squares))
        if len(calls) == 5:  # the first is the one picture that tells the shapes
            raise KeyboardInterrupt
        return real(self, squares, layers)

    monkeypatch.setattr(encoder.Encoder, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode(filled, fake_model, batch_size=4)
    monkeypatch.setattr(encoder.Encoder, "submit", real)
    assert calls == [1, 4, 4, 4, 4]
    assert counts(encode(filled, fake_model, batch_size=4)) == (18, 8, 10, 0)


def test_nothing_is_encoded_from_an_empty_store(store, fake_model):
    with pytest.raises(BusistoreError, match="`busistore ingest DATASET PATH` brings them"):
        encode(store, fake_model)
    with pytest.raises(BusistoreError, match="nothing is encoded"):
        stored(store, fake_model)


def test_verify_finds_a_changed_vector_and_repairs(filled, fake_model):
    encode(filled, fake_model)
    assert not verify(filled).damaged
    table = embeddings_name(models.locate(fake_model).model_id, recipes.recipe("pad224").recipe_id)
    rows = filled.read(table, where="image_id = 'busi/benign-0003'").to_pylist()
    from busistore.schema import embeddings_table

    spec = embeddings_table(models.locate(fake_model).model_id, recipes.recipe("pad224").recipe_id, 12)
    filled.put(spec, [dict(rows[0], vector=[0.0] * 12)], replace=True)
    assert [(d.table, d.image_id) for d in verify(filled).damaged] == [(table, "busi/benign-0003")]
    assert len(verify(filled, repair=True).taken_out) == 1
    assert counts(encode(filled, fake_model)) == (18, 17, 1, 0)
    assert not verify(filled).damaged


@pytest.mark.parametrize("table", ["images", "masks", "preprocessed"])
def test_a_damaged_file_fails_alone_and_is_made_again(filled, folder, fake_model, table):
    """A changed checksum stands for a changed byte: either way the two disagree."""
    from busistore.schema import TABLES

    encode(filled, fake_model, only={"busi/benign-0001"})
    row = filled.read(table, where="image_id = 'busi/benign-0001'").to_pylist()[0]
    files = filled.files(TABLES[table])
    filled.put(TABLES[table], [dict(row, png=files["busi/benign-0001"], png_crc32=1)], replace=True)
    if table == "images":  # other images are preprocessed and encoded all the same
        filled.delete("preprocessed", "image_id = 'busi/benign-0001'")
        report = encode(filled, fake_model)
        assert (report.written, report.failed) == (17, 1)
        assert "damaged" in report.failures["busi/benign-0001"]
    assert [(d.table, d.image_id) for d in verify(filled).damaged] == [(table, "busi/benign-0001")]
    verify(filled, repair=True)
    ingest(filled, "busi", folder)
    encode(filled, fake_model)
    assert not verify(filled).damaged
    assert filled.count("images") == filled.count("masks") == filled.count("preprocessed") == 18


def test_a_lost_mask_is_noticed_and_brought_again(filled, folder):
    filled.delete("masks", "image_id = 'busi/benign-0001'")
    assert [d.reason for d in verify(filled).damaged] == ["its mask is lost; `ingest` brings it again"]
    assert verify(filled, repair=True).taken_out == []  # the image is sound: nothing may take it out
    assert filled.count("images") == 18
    assert counts(ingest(filled, "busi", folder)) == (18, 17, 1, 0)
    assert not verify(filled).damaged


def test_a_table_that_cannot_be_read_is_named(filled):
    for data in (filled.path / "masks.lance" / "data").rglob("*.lance"):
        data.write_bytes(data.read_bytes()[:50])
    damaged = verify(filled).damaged
    assert {d.table for d in damaged} == {"masks"}
    assert "cannot be read" in damaged[0].reason


def test_what_a_killed_creation_left_is_no_table(filled, fake_model):
    located, recipe_id = models.locate(fake_model), recipes.recipe("pad224").recipe_id
    (filled.path / f"{embeddings_name(located.model_id, recipe_id)}.lance" / "data").mkdir(parents=True)
    assert not verify(filled).damaged
    assert counts(encode(filled, fake_model)) == (18, 0, 18, 0)


@pytest.mark.parametrize("shard_rows", [3, 6, 9, 18])
def test_a_shard_may_end_with_the_last_image(filled, fake_model, shard_rows):
    assert counts(encode(filled, fake_model, batch_size=3, shard_rows=shard_rows)) == (18, 0, 18, 0)


def test_all_vectors_may_be_refused(filled, fake_model, monkeypatch):
    nothing = lambda self, squares, layers: lambda: {"pooled": np.full((len(squares), 12), np.nan, np.float32)}  # noqa: E731
    monkeypatch.setattr(encoder.Encoder, "submit", nothing)
    assert counts(encode(filled, fake_model)) == (18, 0, 0, 18)


def test_two_models_do_not_mix(filled, fake_model, tmp_path, monkeypatch):
    other = register_model(monkeypatch, tmp_path / "weights.pt", "other")
    encode(filled, other)
    with pytest.raises(BusistoreError, match="nothing is encoded"):
        stored(filled, "efficientnet-lite0")
