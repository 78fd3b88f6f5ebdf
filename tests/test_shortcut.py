"""How much of a result was the ink: the query, against hand-worked numbers."""

import re
import shutil
from datetime import timedelta

import pytest

from busistore import queries, sql
from busistore.preprocess.recipes import RECIPES
from busistore.schema import PREPROCESSED, RUNS
from busistore.store import Store
from tests.filled import TEST_IDS, filled_store, put_runs

OF = {  # recipe -> what the two seeds of one shot say; S and U put the true class first, W another one
    "clean224": ("SUW", "SSS"), "artefacts-only224": ("WWW", "WWS"), "lesion-blacked224": ("SSS", "UWW"),
}  # fmt: skip
INK = ('[{"kind":"caliper+","score":80}]', '[{"kind":"text","score":1}]', "[]")  # benign, malignant, normal


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = filled_store(tmp_path_factory.mktemp("shortcut") / "store")
    for name, outcomes in OF.items():
        runs = [("alpha", 1, seed, said) for seed, said in enumerate(outcomes)]
        put_runs(store, runs, prefix=name, recipe=name, recipe_id=f"{name}-000000000002")
    cleaned = {"recipe": "clean224", "recipe_id": "clean224-000000000002", "png": b""}
    row = store.read("preprocessed").to_pylist()[0] | cleaned
    store.put(PREPROCESSED, [row | {"image_id": i, "artefacts": found} for i, found in zip(TEST_IDS, INK, strict=True)])
    put_runs(store, [("alpha", 1, 0, "SSS")], prefix="other", recipe="stretch224", recipe_id="stretch224-00000000000e")
    return store


def value(store, run_id: str, metric: str, of_class: str = "") -> float:
    where = f"run_id = '{run_id}' AND metric = '{metric}' AND class = '{of_class}'"
    (found,) = store.read("metrics", ["value"], where)["value"].to_pylist()
    return found


def test_each_recipe_stands_beside_raw(store):
    """Outcomes of raw are SSS, SUW and UWS. Test images are one of each class, so an AUROC is 0, 1/2 or 1."""
    rows = sql.run(store, "shortcut", {"model": "alpha", "shots": 1}).to_dicts()
    assert {r["recipe"] for r in rows} == {"pad224", *OF}
    for question, metric, of_class in (("malignant or benign", "auroc_malignant_vs_benign", ""),
                                       ("lesion or normal", "auroc", "normal")):  # fmt: skip
        of = {r["recipe"]: r for r in rows if r["question"] == question}
        raw = [value(store, f"run-alpha-1-{k}", metric, of_class) for k in range(3)]
        assert of["pad224"]["auroc"] == pytest.approx(sum(raw) / 3)
        assert (of["pad224"]["over_raw"], of["pad224"]["n_seeds"]) == (0, 3)
        for name in OF:
            own = [value(store, f"{name}-alpha-1-{k}", metric, of_class) for k in range(2)]
            assert of[name]["auroc"] == pytest.approx(sum(own) / 2)
            assert of[name]["over_raw"] == pytest.approx(sum(own) / 2 - sum(raw[:2]) / 2)
            assert (of[name]["n_seeds"], of[name]["n_pairs"]) == (2, 2)
            gaps = [a - b for a, b in zip(own, raw)]
            half = 12.7062 * abs(gaps[0] - gaps[1]) / 2  # t with 1 degree of freedom times sd / sqrt(2)
            assert of[name]["high"] - of[name]["over_raw"] == pytest.approx(half)
    ink = [r["auroc"] for r in rows if r["recipe"] == "artefacts-only224" and r["question"] == "malignant or benign"]
    assert ink == [0.0]  # both seeds put the benign and the malignant test image the wrong way round


def test_of_two_raw_recipes_of_a_name_the_newest_counts(store, tmp_path):
    """An older version of a recipe must not be paired with the cleaned runs as well."""
    copied = Store.open(shutil.copytree(store.path, tmp_path / "store"))
    put_runs(copied, [("alpha", 1, 0, "WWW"), ("alpha", 1, 1, "WWW")], prefix="old", recipe="pad224",
             recipe_id="pad224-0000000000aa")  # fmt: skip
    older = [r | {"finished_at": r["finished_at"] - timedelta(days=9)}
             for r in copied.read("runs", where="recipe_id = 'pad224-0000000000aa'").to_pylist()]  # fmt: skip
    copied.put(RUNS, older, replace=True)
    asked = {"model": "alpha", "shots": 1}
    for name in ("shortcut", "decision_flips"):
        assert sql.run(copied, name, asked).equals(sql.run(store, name, asked)), name
    rows = sql.run(copied, "shortcut", asked | {"raw": "pad224-0000000000aa"}).to_dicts()
    assert {r["n_pairs"] for r in rows if r["recipe"] == "clean224"} == {2}
    assert {r["recipe_id"] for r in rows if r["recipe"] == "pad224"} == {"pad224-0000000000aa"}


def test_raw_comes_first_and_may_be_another(store):
    rows = sql.run(store, "shortcut", {"model": "alpha", "shots": 1, "raw": "stretch224"}).to_dicts()
    assert [r["recipe"] for r in rows[:1]] == ["stretch224"]
    assert {r["recipe"] for r in rows} == {"stretch224", *OF}
    assert {r["n_pairs"] for r in rows if r["recipe"] == "clean224"} == {1}
    assert all(r["low"] is None for r in rows)  # one pair has no spread


def test_a_recipe_without_raw_runs_is_listed_alone(store):
    rows = sql.run(store, "shortcut", {"raw": "none"}).to_dicts()
    assert rows
    assert all(r["over_raw"] is None and r["n_pairs"] == 0 for r in rows)


def test_the_recipes_that_it_names_are_those_with_steps():
    named = set(re.findall(r"'([a-z-]+224(?:-ocr)?)'", queries.load("shortcut").text)) - {"pad224"}
    assert named == {name for name, r in RECIPES.items() if r.steps}


def test_decisions_that_flip_are_counted_by_ink(store):
    """Seed 0: SSS to SUW, where U is right too: the normal image turns wrong. Seed 1: SUW to SSS, it turns right."""
    rows = sql.run(store, "decision_flips", {"model": "alpha", "shots": 1}).to_dicts()
    assert [(r["ink"], r["n_images"], r["n_seeds"], r["n_decisions"]) for r in rows] == [
        ("calipers", 1, 2, 2), ("none", 1, 2, 2), ("other ink", 1, 2, 2)
    ]  # fmt: skip
    assert [(r["flips"], r["to_right"], r["to_wrong"]) for r in rows] == [(0, 0, 0), (1, 0.5, 0.5), (0, 0, 0)]
    assert sql.run(store, "decision_flips", {"cleaned": "sector224"}).is_empty()
