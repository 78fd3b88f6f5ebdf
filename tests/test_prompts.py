"""Prompt sets say each thing once, a bad file is one clear line, and an ensemble is the mean of unit vectors."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from busistore import prompts
from busistore.datasets import CLASSES
from busistore.errors import BadInput, BusistoreError, UnknownName
from busistore.ids import content_id

GOOD = {"name": "mine", "summary": "two a class", "source": "me", "classes": {"b": ["b one", "b two"], "a": ["a one"]}}


def saved(tmp_path, document, name: str = "mine.json") -> str:
    path = tmp_path / name
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", prompts.names())
def test_built_in_sets_are_sound(name):
    found = prompts.load(name)
    assert found.name == name
    assert found.summary
    assert found.source
    assert tuple(found.classes) == CLASSES
    assert len({len(texts) for texts in found.classes.values()}) == 1
    assert prompts.fault(found.classes) is None
    assert all(len(text) <= 110 and text.isascii() for texts in found.classes.values() for text in texts)
    for label, texts in found.classes.items():
        others = set(CLASSES) - {label}
        assert not any(other in text for text in texts for other in others), "a text names another class"


def test_there_are_the_published_sets():
    assert prompts.names() == ["bi-rads", "plain"]
    assert {len(texts) for texts in prompts.load("bi-rads").classes.values()} == {10}


def test_plain_fills_templates():
    """The i-th texts belong together: they begin alike."""
    classes = prompts.load("plain").classes
    for row in zip(*classes.values()):
        assert len({" ".join(re.split(r"\W+", text)[:2]) for text in row}) == 1


LEXICON = (
    "oval", "round", "irregular", "parallel", "not parallel", "circumscribed", "indistinct", "angular",
    "microlobulated", "spiculated", "anechoic", "hyperechoic", "complex cystic and solid", "hypoechoic", "isoechoic",
    "heterogeneous", "no posterior features", "enhancement", "shadowing", "combined", "calcifications",
    "architectural distortion", "skin retraction", "echotexture of fat", "echotexture of fibroglandular",
    "heterogeneous background echotexture",
)  # fmt: skip


@pytest.mark.parametrize("term", LEXICON)
def test_bi_rads_speaks_the_lexicon(term):
    classes = prompts.load("bi-rads").classes
    assert any(re.search(rf"\b{term}\b", text) for texts in classes.values() for text in texts)


def test_ids_name_class_and_rank(tmp_path):
    found = prompts.load(saved(tmp_path, GOOD))
    assert found.set_id == content_id("mine", {"a": ["a one"], "b": ["b one", "b two"]})
    assert found.prompt_ids() == {
        f"{found.set_id}/a/00": ("a", "a one"), f"{found.set_id}/b/00": ("b", "b one"),
        f"{found.set_id}/b/01": ("b", "b two"),
    }  # fmt: skip


def test_an_id_changes_with_the_texts_and_their_order_alone(tmp_path):
    first = prompts.load(saved(tmp_path, GOOD))
    same = {"name": "mine", "classes": {"a": ["  a\n one "], "b": ["b one", "b two"]}, "summary": "other words"}
    assert prompts.load(saved(tmp_path, same)).set_id == first.set_id
    for classes in ({"a": ["a one"], "b": ["b two", "b one"]}, {"a": ["a One"], "b": ["b one", "b two"]}):
        assert prompts.load(saved(tmp_path, GOOD | {"classes": classes})).set_id != first.set_id


def test_a_file_from_another_editor(tmp_path):
    assert prompts.load(saved(tmp_path, "\ufeff" + json.dumps(GOOD))).name == "mine"


BAD = {
    "not JSON": ("{'a': 1}", "is not JSON"),
    "nothing": ("", "is not JSON"),
    "too deep": ("[" * 100_000, "is not JSON"),
    "a list": ([1], "is not a JSON object"),
    "no name": ({"classes": {"a": ["x"]}}, 'its "name" is null'),
    "a name with a separator": (GOOD | {"name": "a/b"}, 'its "name" is "a/b"'),
    "a name like a file": (GOOD | {"name": "a.json"}, 'its "name" is "a.json"'),
    "no classes": ({"name": "mine"}, 'it has no "classes"'),
    "empty classes": (GOOD | {"classes": {}}, 'it has no "classes"'),
    "a class without a name": (GOOD | {"classes": {" ": ["x"]}}, '" " is no name of a class'),
    "an empty class": (GOOD | {"classes": {"a": []}}, "class 'a' has no list of texts"),
    "a text for a list": (GOOD | {"classes": {"a": "text"}}, "class 'a' has no list of texts"),
    "a number": (GOOD | {"classes": {"a": [3]}}, "class 'a' holds 3 in place of a text"),
    "nothing said": (GOOD | {"classes": {"a": [" \n"]}}, "in place of a text"),
    "a control character": (GOOD | {"classes": {"a": ["x\u001b[31m"]}}, "in place of a text that can be printed"),
    "half a character": (GOOD | {"classes": {"a": ["x\ud800"]}}, "in place of a text that can be printed"),
    "too long": (GOOD | {"classes": {"a": ["x" * 2001]}}, "a text of 2,001 characters; at most 2,000"),
    "twice": (GOOD | {"classes": {"a": ["One text", "one  TEXT"]}}, "class 'a' holds \"one TEXT\" twice"),
    "in two classes": (GOOD | {"classes": {"a": ["x"], "b": ["X "]}}, "classes 'a' and 'b' both hold \"X\""),
    "a class twice": ('{"name": "mine", "classes": {"a": ["x"], "a": ["y"]}}', 'it has "a" twice'),
    "a summary that is none": (GOOD | {"summary": 3}, 'its "summary" is not a line of text'),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_clear_line(tmp_path, case):
    document, words = BAD[case]
    path = saved(tmp_path, document)
    with pytest.raises(BadInput) as caught:
        prompts.load(path)
    said = str(caught.value)
    assert words in said
    assert path in said
    assert said.isprintable()
    assert len(said) < len(path) + 300


def test_the_longest_text_is_taken(tmp_path):
    assert prompts.load(saved(tmp_path, GOOD | {"classes": {"a": ["x" * 2000]}}))


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.json").write_bytes(b'{"name": "\xe9"}')
    for path, words in ((tmp_path / "none.json", "No such file"), (tmp_path / ".", "Is a directory"),
                        (tmp_path / "latin.json", "is not JSON")):  # fmt: skip
        with pytest.raises(BadInput, match=words):
            prompts.load(f"{path}/" if path == tmp_path else str(path))


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="no prompt set 'birads'; did you mean 'bi-rads'"):
        prompts.load("birads")


def test_ensemble_by_hand():
    """Class 0: (1, 0) and (0, 1) average to (.5, .5). Class 1: one prompt, whatever its length."""
    found = prompts.ensemble(np.array([[3, 0], [0, 0.1], [-6, 8]], np.float32), np.array([0, 0, 1]), 2)
    assert found.dtype == np.float64
    assert np.allclose(found, [[0.5**0.5, 0.5**0.5], [-0.6, 0.8]], atol=1e-7)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(2, 8))
def test_ensemble_is_the_plain_loop(seed, n_classes, dim):
    draw = np.random.default_rng(seed)
    classes = draw.permutation(np.concatenate([np.arange(n_classes), draw.integers(0, n_classes, 7)]))
    vectors = draw.normal(size=(len(classes), dim)) + 2
    expected = []
    for c in range(n_classes):
        total = np.zeros(dim)
        for vector, label in zip(vectors, classes):
            if label == c:
                total += vector / np.sqrt((vector**2).sum())
        expected.append(total / np.sqrt((total**2).sum()))
    found = prompts.ensemble(vectors, classes, n_classes)
    assert np.allclose(found, expected, atol=1e-12)
    longer = vectors * draw.uniform(0.1, 9, size=(len(classes), 1))
    assert np.allclose(prompts.ensemble(longer, classes, n_classes), found, atol=1e-12)


@pytest.mark.parametrize(
    ("vectors", "classes", "words"),
    [
        ([[1, 0]], [0], "class 1 of 2 has no prompt"),
        ([[1, 0], [0, 0]], [0, 1], "prompt 1 is zero or not finite"),
        ([[1, 0], [0, np.nan]], [0, 1], "prompt 1 is zero or not finite"),
        ([[np.inf, 0], [0, 1]], [0, 1], "prompt 0 is zero or not finite"),
        ([[1, 0], [3, 4], [-6, -8]], [0, 1, 1], "prompts of class 1 cancel out"),
    ],
)  # fmt: skip
def test_an_ensemble_without_a_direction_is_refused(vectors, classes, words):
    with pytest.raises(BusistoreError, match=words):
        prompts.ensemble(np.array(vectors, np.float32), np.array(classes), 2)
