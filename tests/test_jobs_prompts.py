"""Sets are stored once and found by name; a text tower reads each prompt once; the key of an LLM is stored nowhere."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from busistore import models, prompts
from busistore.cli import app
from busistore.datasets import CLASSES
from busistore.errors import BadInput, BusistoreError, StoreError, UnknownName
from busistore.jobs.prompts import add, embed, generate, known, listed, read_in, stored
from busistore.jobs.verify import verify
from busistore.models.spec import Located, ModelSpec, TextTower, Weights
from busistore.prompts import PromptSet
from busistore.schema import PROMPTS, TEXT_EMBEDDINGS
from tests import llm
from tests.llm import KEY, fails, says, serving, texts

DIM = 6
MINE = PromptSet("mine", "two a class", "me", {"a": ("a one", "a two"), "b": ("b one", "b two")})


def located(name: str = "reader", sha256: str = "0" * 64, precision: str = "fp32") -> Located:
    spec = ModelSpec(name, "open_clip", "tests/none", DIM, Weights("w.pt", 0.1, "none"), text=TextTower(77, DIM))
    return Located(spec, sha256, precision)


class Tower:
    """Reads a text as the hash of it, moved a little by what is read beside it, and remembers what it read."""

    logit_scale = 50.0

    def __init__(self) -> None:
        self.read: list[str] = []

    def encode(self, some: list[str]) -> np.ndarray:
        self.read += some
        return np.stack([vector_of(text) for text in some]) * np.float32(1 + 1e-6 * len(some))


def vector_of(text: str) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(text.encode())).normal(size=DIM).astype(np.float32)


@pytest.fixture
def tower(monkeypatch) -> Tower:
    made = Tower()
    monkeypatch.setattr(models, "load_text", lambda located, device="cpu": made)
    return made


def versions(store) -> dict[str, int]:
    return {name: store.version(name) for name in store.names()}


def saved(tmp_path, prompt_set: PromptSet, file: str = "mine.json") -> Path:
    path = tmp_path / file
    path.write_text(json.dumps({k: getattr(prompt_set, k) for k in ("name", "summary", "source", "classes")}))
    return path


def test_a_set_comes_back_as_it_was(store):
    full = PromptSet("mine", "two a class", "me", MINE.classes, {"llm": "writer", "usage": {"total_tokens": 3}})
    assert add(store, full) == full.set_id
    assert stored(store) == [full]
    assert known(store, "mine") == known(store, full.set_id) == full
    rows = store.read("prompts").to_pylist()
    assert {row["prompt_id"]: (row["class"], row["text"]) for row in rows} == full.prompt_ids()
    assert [(row["set_id"], row["rank"]) for row in rows if row["text"] == "b two"] == [(full.set_id, 1)]


def test_adding_again_writes_nothing(store):
    add(store, MINE)
    before = versions(store)
    add(store, MINE)
    assert versions(store) == before


def test_more_than_a_hundred_texts_keep_their_order(store):
    long = PromptSet("long", "", "", {"a": tuple(f"text {k}" for k in range(120))})
    add(store, long)
    assert known(store, "long") == long


def test_a_name_means_the_set_that_was_added_last(store):
    other = PromptSet("mine", "another", "me", {"a": ("x",)})
    add(store, MINE)
    add(store, other)
    assert known(store, "mine") == other
    assert known(store, MINE.set_id) == MINE
    add(store, MINE)
    assert known(store, "mine") == MINE
    assert store.count("prompts") == 5


def test_new_words_about_old_texts_are_taken(store):
    add(store, MINE)
    add(store, PromptSet("mine", "better said", "me", MINE.classes))
    assert [s.summary for s in stored(store)] == ["better said"]


def test_built_in_names_stay_built_in(store, tmp_path):
    false = PromptSet("plain", "not it", "me", {"a": ("x",)})
    for refused in (lambda: add(store, false), lambda: read_in(store, saved(tmp_path, false)),
                    lambda: known(store, str(saved(tmp_path, false)))):  # fmt: skip
        with pytest.raises(BusistoreError, match="'plain' is built in; give the set another name"):
            refused()
    assert store.names() == []


def test_where_a_name_is_looked_for(store, tmp_path):
    add(store, MINE)
    path = str(saved(tmp_path, PromptSet("filed", "", "", {"a": ("x",)})))
    assert known(store, "plain") == known(None, "plain") == prompts.load("plain")
    assert known(None, prompts.load("plain").set_id).name == "plain"
    assert known(store, path).name == known(None, path).name == "filed"
    with pytest.raises(UnknownName, match=r"'mone'; did you mean 'mine'\? \(known: bi-rads, mine, plain\)"):
        known(store, "mone")
    with pytest.raises(UnknownName, match=r"'mine' \(known: bi-rads, plain\)"):
        known(None, "mine")
    with pytest.raises(BadInput, match="No such file"):
        known(store, "none.json")


def test_a_changed_text_is_noticed_and_mended(store, tmp_path):
    add(store, MINE)
    row = store.read("prompts", where="rank = 1").to_pylist()[0]
    store.put(PROMPTS, [dict(row, text="other words")], replace=True)
    with pytest.raises(StoreError, match=f"'{MINE.set_id}' is damaged; `busistore prompts import FILE` mends it"):
        known(store, "mine")
    read_in(store, saved(tmp_path, MINE))
    assert known(store, "mine") == MINE


def test_vectors_are_those_of_the_tower(store, tower):
    found = embed(store, located(), MINE)
    assert found.ids == list(MINE.prompt_ids())
    assert found.classes == ["a", "a", "b", "b"]
    assert found.vectors.dtype == np.float32
    assert np.allclose(found.vectors, [vector_of(text) for _, text in MINE.prompt_ids().values()], atol=1e-4)
    assert found.logit_scale == 50.0
    assert tower.read == ["a one", "a two", "b one", "b two"]
    assert known(store, "mine") == MINE


def test_a_second_time_nothing_is_loaded_read_or_written(store, tower, monkeypatch):
    first, before = embed(store, located(), MINE), versions(store)
    monkeypatch.setattr(models, "load_text", lambda *_: pytest.fail("the text tower was loaded for nothing"))
    again = embed(store, located(), MINE)
    assert (again.vectors == first.vectors).all()
    assert (again.ids, again.classes, again.logit_scale) == (first.ids, first.classes, first.logit_scale)
    assert versions(store) == before


def test_image_precision_does_not_make_another_reader(store, tower):
    embed(store, located(), MINE)
    embed(store, located(precision="bf16"), MINE)
    assert len(tower.read) == 4


def test_other_weights_and_other_sets_are_read_anew(store, tower):
    embed(store, located(), MINE)
    embed(store, located(sha256="1" * 64), MINE)
    embed(store, located(), PromptSet("mine", "", "", {"a": ("a one",)}))
    embed(store, located(), PromptSet("mine-2", "", "", {"a": ("a one",)}))  # begins as another set's name
    assert tower.read.count("a one") == 4
    assert store.count("text_embeddings") == 10


def test_what_is_lost_is_made_again_to_the_last_bit(store, tower):
    """Its batch is read again, and no other; of it only what is missing is written."""
    long = PromptSet("long", "", "", {"a": tuple(f"text {k}" for k in range(40)), "b": ("other",)})
    first = embed(store, located(), long)
    assert len(tower.read) == len(set(tower.read)) == 41
    store.delete("text_embeddings", f"prompt_id = '{first.ids[35]}'")
    tower.read.clear()
    assert (embed(store, located(), long).vectors == first.vectors).all()
    assert tower.read == [*(f"text {k}" for k in range(32, 40)), "other"]
    assert store.count("text_embeddings") == 41


@pytest.mark.parametrize("spoilt", ["vector", "scale"])
def test_a_vector_that_is_not_finite_stores_nothing(store, tower, monkeypatch, spoilt):
    if spoilt == "scale":
        tower.logit_scale = np.inf
    else:
        monkeypatch.setattr(tower, "encode", lambda some: np.full((len(some), DIM), np.nan, np.float32))
    with pytest.raises(BusistoreError, match="'reader' gave a vector for 'a one' that is not finite"):
        embed(store, located(), MINE)
    assert store.names() == []


@pytest.mark.parametrize("column", ["vector", "logit_scale", "crc32"])
def test_a_damaged_vector_is_noticed_and_made_again(store, tower, column):
    first = embed(store, located(), MINE)
    assert not verify(store).damaged
    row = store.read("text_embeddings", where=f"prompt_id = '{first.ids[1]}'").to_pylist()[0]
    wrong = {"vector": [0.0] * DIM, "logit_scale": 49.0, "crc32": 1}[column]
    store.put(TEXT_EMBEDDINGS, [row | {column: wrong}], replace=True)
    with pytest.raises(StoreError, match="is damaged; `busistore verify --repair` takes it out"):
        embed(store, located(), MINE)
    assert [(d.table, d.image_id) for d in verify(store).damaged] == [("text_embeddings", first.ids[1])]
    assert len(verify(store, repair=True).taken_out) == 1
    assert (embed(store, located(), MINE).vectors == first.vectors).all()
    assert len(tower.read) == 8
    assert not verify(store).damaged


def test_a_model_without_a_text_tower(store):
    seer = Located(ModelSpec("seer", "timm", "tests/none", DIM, Weights("w.pt", 0.1, "none")), "0" * 64)
    with pytest.raises(BusistoreError, match=r"'seer' has no text tower; those that have one: .*biomedclip"):
        embed(store, seer, MINE)
    assert store.names() == []


def test_progress_counts_prompts(store, tower):
    import contextlib

    seen = []

    @contextlib.contextmanager
    def track(description, total):
        seen.append((description, total))
        yield seen.append

    embed(store, located(), MINE, track=track)
    assert seen == [("read prompts reader", 4), 4]


# The command line.


@pytest.fixture
def here(store, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BUSISTORE", str(store.path))
    monkeypatch.setenv("BUSISTORE_LLM_KEY", KEY)
    return tmp_path


def run(*arguments: str):
    return CliRunner().invoke(app, ["prompts", *arguments], catch_exceptions=False)


def rows(*arguments: str) -> list[dict]:
    done = run(*arguments, "--format", "json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_sets_are_listed_with_and_without_a_store(here, store, tower):
    for row, name in zip(rows("list", "--store", "none"), ("bi-rads", "plain"), strict=True):
        assert (row["name"], row["kept"], row["set_id"]) == (name, "built in", prompts.load(name).set_id)
        assert row["classes"] == ", ".join(CLASSES)
    embed(store, located(), prompts.load("plain"))  # puts its prompts into the store: it is listed once all the same
    add(store, PromptSet("mine", "said", "me", {"a": ("x",), "b": ("y", "z")}))
    assert [row["name"] for row in rows("list")] == ["bi-rads", "plain", "mine"]
    last = rows("list")[-1]
    assert (last["kept"], last["classes"], last["prompts_per_class"]) == ("stored", "a, b", "1, 2")
    assert (last["summary"], last["source"]) == ("said", "me")
    assert not (here / "none").exists()


def test_listing_tells_apart_sets_of_one_name(here, store):
    add(store, MINE)
    add(store, PromptSet("mine", "", "", {"a": ("x",)}))
    assert [kept for kept, _ in listed(store)] == ["built in", "built in", "stored", "stored"]


def test_show_prints_every_text(here, store, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # wide enough for the longest
    add(store, MINE)
    shown = [(row["class"], row["rank"], row["text"]) for row in rows("show", "mine")]
    assert shown == [("a", 0, "a one"), ("a", 1, "a two"), ("b", 0, "b one"), ("b", 1, "b two")]
    table = run("show", "bi-rads", "--store", "none").stdout
    for texts_of in prompts.load("bi-rads").classes.values():
        assert all(text in table for text in texts_of)


def test_import_prints_the_set_id(here, store):
    done = run("import", str(saved(here, MINE)))
    assert (done.exit_code, done.stdout) == (0, f"{MINE.set_id}\n")
    assert known(store, "mine") == MINE


def write(url: str, *more: str):
    return run("generate", "--name", "written", "--n", "2", "--llm", "writer", "--endpoint", url, *more)


def test_generate_stores_the_set_and_how_it_was_made(here, store):
    with serving(fails(429, Retry_After="0"), says("no"), says(texts())) as endpoint:
        done = write(endpoint.url)
    assert done.exit_code == 0, done.output
    written = known(store, "written")
    assert done.stdout == f"{written.set_id}\n"
    assert [line.split(" (")[0] for line in done.stderr.splitlines()] == [
        f"{written.details['endpoint']} is busy", 'asking again: it was not JSON: "no"',
    ]  # fmt: skip
    assert written.classes == {label: tuple(some) for label, some in texts().items()}
    assert written.details["llm"] == "writer-2026-01-01"
    assert written.details["request"] == endpoint.asked[-1].body
    assert written.source == f"generated by writer-2026-01-01 at {written.details['endpoint']}"
    details = {json.dumps(json.loads(row["details"]), sort_keys=True) for row in store.read("prompts").to_pylist()}
    assert len(details) == 1


def test_generate_takes_its_options(here, store):
    with serving(says(texts(1, ("cyst", "solid")))) as endpoint:
        url = endpoint.url.removesuffix("/v1")
        done = run(
            "generate", "--name", "two", "--n", "1", "--classes", "cyst, solid", "--llm", "writer", "--endpoint", url,
            "--azure", "--api-version", "7", "--instruction", "Speak of cysts.", "--timeout", "5", "-q",
        )  # fmt: skip
    assert (done.exit_code, done.stderr) == (0, "")
    (asked,) = endpoint.asked
    assert asked.path.endswith("/writer/chat/completions?api-version=7")
    assert asked.body["messages"][1]["content"] == "Speak of cysts."
    assert list(known(store, "two").classes) == ["cyst", "solid"]


def in_files(folder: Path) -> bool:
    """Whether the key is in any byte of any file below a folder."""
    return any(KEY.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_the_key_is_told_to_nobody(here, store):
    """Not in the store's files, nor in its values, stdout, stderr: whether it went well, badly, or was echoed."""
    echo = f"no such key {KEY}"
    good = says(texts() | {"benign": [f"with the {KEY}", "b"]})
    for answers, code in (((good,), 0), ((says(echo), good), 0), ((says(echo),), 1), ((fails(401, echo),), 1),
                          ((fails(429, echo, Retry_After="0"),), 1), ((fails(500, echo),), 1)):  # fmt: skip
        with serving(*answers) as endpoint:
            done = write(endpoint.url)
        assert done.exit_code == code
        assert endpoint.asked[0].headers["authorization"] == f"Bearer {KEY}"
        assert KEY not in done.output
        assert "Traceback" not in done.output
    assert store.count("prompts") == 6
    assert not in_files(here)
    assert KEY not in repr([store.read(name).to_pylist() for name in store.names()])


def test_the_search_for_the_key_would_find_it(here, store):
    add(store, PromptSet("loud", "", KEY, {"a": (f"it is {KEY}",)}))
    assert in_files(here)


REFUSED = {
    "unknown set": (["show", "biradds"], "did you mean 'bi-rads'"),
    "no file": (["show", "none.json"], "cannot read the prompt set 'none.json' (No such file or directory)"),
    "import of no file": (["import", "none.json"], "cannot read the prompt set 'none.json'"),
    "import of a folder": (["import", "."], "cannot read the prompt set '.' (Is a directory)"),
    "import of a built-in name": (["import", "plain.json"], "'plain' is built in; give the set another name"),
    "import without a store": (["import", "mine.json", "--store", "none"], "no store at 'none'"),
    "unknown format": (["list", "--format", "xls"], "no format 'xls'"),
    "a built-in name": (["generate", "--name", "plain", "--llm", "x"], "'plain' is built in"),
    "a name like a path": (["generate", "--name", "a/b", "--llm", "x"], 'its "name" is "a/b"'),
    "no classes": (["generate", "--name", "a", "--llm", "x", "--classes", ","], 'it has no "classes"'),
    "in the clear": (["generate", "--name", "a", "--llm", "x", "--endpoint", "http://llm.invalid"], "not encrypted"),
    "azure without a version": (
        ["generate", "--name", "a", "--llm", "x", "--endpoint", "https://llm.invalid", "--azure"], "--api-version"
    ),
    "generate without a store": (["generate", "--name", "a", "--llm", "x", "--store", "none"], "no store at 'none'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_one_clear_line(here, store, case):
    saved(here, MINE)
    saved(here, PromptSet("plain", "", "", {"a": ("x",)}), "plain.json")
    arguments, words = REFUSED[case]
    done = run(*arguments)
    assert done.exit_code == 1
    assert words in done.stderr
    assert done.stderr.startswith("Error: ")
    assert (done.stderr.count("\n"), done.stdout) == (1, "")
    assert store.names() == []


def test_without_a_key_or_an_endpoint_it_is_said(here, store, monkeypatch):
    monkeypatch.delenv("BUSISTORE_LLM_KEY")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    done = run("generate", "--name", "a", "--llm", "x")
    said = "Error: no key for api.openai.com: set the environment variable BUSISTORE_LLM_KEY or OPENAI_API_KEY\n"
    assert (done.exit_code, done.stderr) == (1, said)


@pytest.mark.parametrize("arguments", [["generate"], ["generate", "--name", "a"], ["import"], ["show"], ["no"]])
def test_wrong_usage_exits_with_2(here, arguments):
    assert run(*arguments).exit_code == 2


def test_generate_from_python(store):
    from busistore.chat import Endpoint
    from busistore.generation import Request

    with serving(says(texts())) as endpoint:
        request = Request("written", Endpoint("writer", endpoint.url), llm.CLASSES, 2)
        assert generate(store, request, {"OPENAI_API_KEY": KEY}) == known(store, "written")
    with pytest.raises(BusistoreError, match="is built in"):
        generate(store, Request("plain", Endpoint("writer"), llm.CLASSES), {"OPENAI_API_KEY": KEY})
