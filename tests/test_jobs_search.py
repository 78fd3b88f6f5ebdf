"""Search gives the images that a plain comparison of stored vectors gives, and says what kind of answer it is."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from busistore import models, pixels, sheet
from busistore.cli import app
from busistore.errors import BadInput, BusistoreError, MissingWeights, UnknownName
from busistore.jobs.alignment import text_space
from busistore.jobs.encode import encode, vectors
from busistore.jobs.episodes import load_split
from busistore.jobs.group import newest
from busistore.jobs.ingest import ingest
from busistore.jobs.models import find
from busistore.jobs.search import save_sheet, search
from busistore.jobs.split import split
from busistore.models import TextTower
from busistore.preprocess import recipes
from busistore.schema import PREPROCESSED
from busistore.sheet import SIDE_PX
from busistore.store import Store
from tests.fakes import FAKE_DIM, busi_folder, register_model, speckle

TEXT_DIM = 5
QUERY = "busi/benign-0002"
MODELS = {"fake": TextTower(77, FAKE_DIM), "pair": TextTower(77, TEXT_DIM, aligned=False), "blind": None}


def read_text(text: str, dim: int) -> np.ndarray:
    """(dim,) of a sentence: another for another sentence."""
    return np.random.default_rng(list(text.encode())).normal(size=dim).astype(np.float32)


def register(patch, folder) -> None:
    """`fake` reads text in the space of its images, `pair` in another, `blind` not at all."""
    for name, text in MODELS.items():
        register_model(patch, folder / f"{name}.pt", name)
        patch.setitem(models.MODELS, name, replace(models.MODELS[name], text=text))

    def load_text(located, device="cpu", **_):
        dim = located.spec.text.dim
        return SimpleNamespace(encode=lambda texts: np.stack([read_text(t, dim) for t in texts]), logit_scale=9.0)

    patch.setattr(models, "load_text", load_text)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder in which malignant (3) is a copy of benign (2), and a store of it that is ready to be searched."""
    root = tmp_path_factory.mktemp("search")
    folder = busi_folder(root / "busi", 12)
    shutil.copy(folder / "benign" / "benign (2).png", folder / "malignant" / "malignant (3).png")
    with pytest.MonkeyPatch.context() as patch:
        register(patch, root)
        store = Store.create(root / "store")
        ingest(store, "busi", folder)
        for name in MODELS:
            encode(store, name)
        split(store, "busi", seed=3)
    return root


@pytest.fixture
def ready(world, tmp_path, monkeypatch) -> Store:
    register(monkeypatch, world)
    shutil.copytree(world / "store", tmp_path / "store")
    shutil.copytree(world / "busi", tmp_path / "busi")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BUSISTORE", "store")
    return Store.open(tmp_path / "store")


def ask(store: Store, query: str, model: str = "fake", **rest):
    return search(store, query, model=model, **rest)


def stored(store: Store, model: str = "fake") -> dict[str, np.ndarray]:
    _, ids, values = vectors(store, find(store, model).model_id, recipes.recipe("pad224").recipe_id)
    return dict(zip(ids, values.astype(np.float64), strict=True))


def plainly(held: dict[str, np.ndarray], vector: np.ndarray, k: int, gone=()) -> dict[str, float]:
    """The k best by the cosine's definition, best first."""
    q = np.asarray(vector, np.float64)
    cosine = {i: v @ q / np.linalg.norm(v) / np.linalg.norm(q) for i, v in held.items() if i not in gone}
    return dict(sorted(cosine.items(), key=lambda hit: (-round(hit[1], 12), hit[0]))[:k])


def answer(found) -> dict[str, float]:
    assert [hit.rank for hit in found.hits] == list(range(1, len(found.hits) + 1))
    return {hit.image_id: hit.similarity for hit in found.hits}


def same(found, wanted: dict[str, float], within: float = 1e-9) -> None:
    assert list(answer(found)) == list(wanted)
    assert answer(found) == pytest.approx(wanted, abs=within)


def run(*arguments: str):
    return CliRunner().invoke(app, ["search", *arguments], catch_exceptions=False)


def test_an_image_is_compared_by_its_stored_vector_without_a_network(ready, monkeypatch):
    for loader in ("load", "load_text"):
        monkeypatch.setattr(models, loader, lambda *_, **__: pytest.fail("a network was loaded for nothing"))
    held = stored(ready)
    found = ask(ready, QUERY, k=7)
    same(found, plainly(held, held[QUERY], 7, gone=[QUERY]))
    assert (found.label, found.n_searched, found.notes) == ("benign", 35, [])


def test_the_twin_under_another_label_is_told_with_its_group(ready):
    first = ask(ready, QUERY).hits[0]
    assert (first.image_id, first.similarity, first.label) == ("busi/malignant-0003", 1.0, "malignant")
    group_of = newest(ready, "busi").group_of
    assert first.group_id == group_of[QUERY] == ask(ready, QUERY).group_id
    assert all(hit.group_id == group_of[hit.image_id] and hit.dataset == "busi" for hit in ask(ready, QUERY).hits)


def test_a_file_is_put_through_recipe_and_network(ready, tmp_path):
    Image.fromarray(speckle(4711)).save(tmp_path / "new.png")
    square = recipes.apply(recipes.recipe("pad224"), speckle(4711)).pixels
    (vector,) = models.load(find(ready, "fake")).encode(square[None])
    found = ask(ready, str(tmp_path / "new.png"), k=36)
    same(found, plainly(stored(ready), vector, 36))
    assert (found.picture == square).all()
    assert (found.query, found.label, found.notes) == ("new.png", None, [])


def test_a_file_that_is_stored_is_left_out_and_named(ready):
    found = ask(ready, "busi/benign/benign (5).png", k=36)
    wanted = plainly(stored(ready), stored(ready)["busi/benign-0005"], 36, gone=["busi/benign-0005"])
    same(found, wanted, within=1e-6)  # in a batch of another size a network's last bits differ
    assert found.notes == ["'benign (5).png' is stored as busi/benign-0005, which is left out"]


def test_a_sentence_is_compared_by_the_text_tower(ready):
    found = ask(ready, "an oval mass w/ smooth margins", k=5)
    same(found, plainly(stored(ready), read_text("an oval mass w/ smooth margins", FAKE_DIM), 5))
    assert (found.picture, found.notes, {hit.part for hit in found.hits}) == (None, [], {None})


def test_towers_that_share_no_space_are_joined_by_the_training_part_and_that_is_said(ready):
    chosen = load_split(ready, None, None)
    mapped = text_space(ready, find(ready, "pair"), "pad224", chosen)
    found = ask(ready, "a large mass", "pair", k=36)
    same(found, plainly(dict(zip(mapped.ids, mapped.vectors)), read_text("a large mass", TEXT_DIM), 36))
    part_of = {i: part for part, ids in chosen.parts.items() for i in ids}
    assert {hit.image_id: hit.part for hit in found.hits} == part_of
    n = len(chosen.parts["train"])
    told = f"{n} training labels of '{chosen.split_id}' (supervised), not zero-shot"
    assert found.notes == [f"similarities come from a map learned from {told}"]


def test_images_are_compared_with_images_without_the_map(ready):
    found = ask(ready, QUERY, "pair")
    same(found, plainly(stored(ready, "pair"), stored(ready, "pair")[QUERY], 10, gone=[QUERY]))
    assert (found.notes, {hit.part for hit in found.hits}) == ([], {None})


def test_the_split_may_be_named(ready):
    other = split(ready, "busi", seed=8)
    with pytest.raises(BusistoreError, match="2 splits are stored; name one with --split"):
        ask(ready, "a large mass", "pair")
    mapped = text_space(ready, find(ready, "pair"), "pad224", load_split(ready, other, None))
    found = ask(ready, "a large mass", "pair", split=other)
    same(found, plainly(dict(zip(mapped.ids, mapped.vectors)), read_text("a large mass", TEXT_DIM), 10))


@pytest.mark.parametrize("query", [QUERY, "busi/benign/benign (5).png", "a mass"])
@pytest.mark.parametrize("model", ["fake", "pair"])
def test_only_some_images_may_be_asked_for(ready, query, model):
    only = {f"busi/benign-{k:04d}" for k in range(1, 9)} | {"busi/none"}
    everything = answer(ask(ready, query, model, k=36))
    found = ask(ready, query, model, k=36, only=only)
    same(found, {i: cosine for i, cosine in everything.items() if i in only})
    assert found.n_searched == len(found.hits)


def test_what_was_encoded_from_other_pixels_is_left_out(ready, tmp_path):
    Image.fromarray(speckle(99)).save(tmp_path / "busi" / "benign" / "benign (2).png")
    ingest(ready, "busi", tmp_path / "busi", replace=True)
    with pytest.raises(BusistoreError, match=f"'{QUERY}' was encoded from other pixels than it has now"):
        ask(ready, QUERY)
    for query in ("busi/malignant-0003", "a mass"):
        assert QUERY not in answer(ask(ready, query, k=40))
    encode(ready, "fake")
    assert QUERY in answer(ask(ready, "a mass", k=40))


def test_an_image_that_is_not_encoded_is_told_how(ready):
    recipe = "stretch224"
    encode(ready, "fake", recipe, only={"busi/benign-0001"})
    told = "'busi/benign-0002' is not encoded, by 'fake' under 'stretch224'; `busistore encode --model fake --recipe"
    with pytest.raises(BusistoreError, match=told):
        ask(ready, QUERY, recipe=recipe)
    with pytest.raises(BusistoreError, match="there is no other image to compare with"):
        ask(ready, "busi/benign-0001", recipe=recipe)


def test_the_model_may_go_unnamed_where_there_is_one(ready):
    with pytest.raises(BusistoreError, match="3 models have encoded images; name one with --model: blind, fake, pair"):
        search(ready, QUERY)
    with pytest.raises(BusistoreError, match="nothing is encoded under 'stretch224'; `busistore encode --model NAME"):
        search(ready, QUERY, recipe="stretch224")
    encode(ready, "blind", "stretch224")
    assert search(ready, QUERY, recipe="stretch224").model == "blind"


REFUSED = {
    "no k": ({"k": 0}, QUERY, BusistoreError, "k is 0; ask for at least 1 image"),
    "nothing allowed": ({"only": set()}, QUERY, BusistoreError, "none of the 36 images encoded by 'fake' satisfies"),
    "none but itself": ({"only": {QUERY}}, QUERY, BusistoreError, "there is no other image to compare with"),
    "not encoded": ({"recipe": "stretch224"}, QUERY, BusistoreError, "nothing is encoded by 'fake' under 'stretch224'"),
    "no such model": ({"model": "fakes"}, QUERY, UnknownName, "did you mean 'fake'"),
    "no such recipe": ({"recipe": "pad"}, QUERY, UnknownName, "no recipe 'pad'"),
    "no such image": ({}, "busi/benign-002", UnknownName, "no image or file 'busi/benign-002'; did you mean"),
    "no such file": ({}, "new lesion.png", BadInput, "there is no file 'new lesion.png'; name a PNG picture"),
    "no such folder": ({}, "./my scans/lesion", UnknownName, "no image or file 'my scans/lesion'"),
    "a folder": ({}, "busi/benign/", UnknownName, "no image or file"),
    "no words": ({}, "  ", BusistoreError, "there are no words to search with"),
    "blind": ({"model": "blind"}, "a mass", BusistoreError, "'a mass' is neither.*'blind' reads no text; .*clip.*fake"),
    "no split": ({"model": "pair", "split": "busi-9"}, "a mass", UnknownName, "no split 'busi-9'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_searched_is_said(ready, case):
    options, query, kind, told = REFUSED[case]
    with pytest.raises(kind, match=told):
        ask(ready, query, **options)


@pytest.mark.parametrize("options", [["-k", "0"], ["--where", "false"], ["--where", "labell = 1"], ["--model", "none"]])
def test_the_verb_says_what_is_wrong_in_one_line(ready, options):
    done = run(QUERY, "--model", "fake", *options)
    assert (done.exit_code, done.stderr.count("\n"), done.stdout) == (1, 1, "")
    assert done.stderr.startswith("Error: ")


@pytest.mark.parametrize(
    ("data", "told"),
    [(b"\xff\xd8\xff\xe0 a JPEG", "not a PNG picture; save it as one"), (b"", "is empty"),
     (b"\x89PNG\r\n\x1a\n", "not a PNG picture")],
)  # fmt: skip
def test_a_file_that_is_no_picture(ready, tmp_path, data, told):
    (tmp_path / "scan.jpg").write_bytes(data)
    with pytest.raises(BadInput, match=told):
        ask(ready, "scan.jpg")


def test_a_long_sentence_is_no_file_name(ready):
    assert len(ask(ready, "an oval mass " * 500).hits) == 10


def test_a_store_is_searched_by_image_where_the_weights_are_not(ready, tmp_path, monkeypatch):
    from busistore.models import weights

    wanted = answer(ask(ready, QUERY))
    monkeypatch.setattr(weights, "packaged", lambda w: {})
    assert answer(ask(ready, QUERY)) == wanted
    with pytest.raises(MissingWeights, match="its weights are not on this machine"):
        ask(ready, "busi/benign/benign (5).png")


def test_nothing_is_written(ready):
    before = {name: ready.version(name) for name in ready.names()}
    for query in (QUERY, "busi/benign/benign (5).png", "a mass"):
        for model in ("fake", "pair"):
            ask(ready, query, model)
    assert {name: ready.version(name) for name in ready.names()} == before


def test_the_verb_prints_a_row_for_each_image(ready):
    done = run(QUERY, "--model", "fake", "-k", "3", "--format", "json", "--where", "label != 'normal'")
    rows = json.loads(done.stdout)
    assert [list(row) for row in rows] == [["rank", "image_id", "similarity", "label", "dataset", "group_id"]] * 3
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert {row["label"] for row in rows} <= {"benign", "malignant"}
    assert (done.exit_code, done.stderr) == (0, "")


def test_the_verb_says_on_stderr_that_a_map_was_learned(ready, tmp_path):
    done = run("a large mass", "--model", "pair", "--format", "csv", "-o", "found.csv")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.startswith("note: similarities come from a map learned from ")
    assert done.stderr.count("\n") == 1
    header, *rows = (tmp_path / "found.csv").read_text().splitlines()
    assert header.endswith(",group_id,part")
    assert {row.rpartition(",")[2] for row in rows} <= {"train", "val", "test", "excluded"}


def test_a_bad_option_is_refused_before_the_search(ready, monkeypatch):
    monkeypatch.setattr("busistore.jobs.search.search", lambda *_, **__: pytest.fail("it searched first"))
    for options, told in ((["--sheet", "a.jpg"], "a sheet is a PNG file"), (["--format", "xml"], "no format 'xml'"),
                          (["--sheet", "a.png", "-k", "500"], "at most 200 pictures")):  # fmt: skip
        done = run(QUERY, "--model", "fake", *options)
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
        assert told in done.stderr


@pytest.mark.parametrize("query", [QUERY, "busi/benign/benign (5).png", "an oval mass"])
def test_the_sheet_shows_the_stored_pictures(ready, query):
    done = run(query, "--model", "fake", "-k", "6", "--sheet", "found.png", "--format", "json")
    page = np.asarray(Image.open("found.png").convert("L"))
    windows = np.lib.stride_tricks.sliding_window_view(page, (SIDE_PX, SIDE_PX))
    files = ready.files(PREPROCESSED)
    for row in json.loads(done.stdout):
        square = pixels.grey(files[row["image_id"]])
        corners = np.argwhere((windows[..., 0, 0] == square[0, 0]) & (windows[..., 112, 112] == square[112, 112]))
        assert any((windows[y, x] == square).all() for y, x in corners)


def test_the_sheet_is_the_same_every_time(ready, tmp_path):
    made = []
    for name in ("one.png", "two.png"):
        run("a large mass", "--model", "pair", "--sheet", name)
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]


def test_the_sheet_tells_which_pictures_are_of_one_group(ready, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(sheet, "draw", lambda *asked: drawn.append(asked) or Image.new("L", (9, 9)))
    save_sheet(ready, ask(ready, QUERY, k=3), tmp_path / "a.png")
    save_sheet(ready, ask(ready, "a mass", k=36), tmp_path / "b.png")
    (asked, near), (words, everything) = drawn
    assert (asked.label, near[0].name, near[0].remark) == ("benign", "busi/malignant-0003", "group of the query")
    assert (words.label, words.picture) == (None, None)
    first, second = sorted((t for t in everything if t.name in (QUERY, "busi/malignant-0003")), key=lambda t: t.rank)
    assert (first.remark, second.remark) == ("", f"group of no. {first.rank}")
