"""Every named query answers, on a full store and an empty one; the values of each are worked by hand from filled.py."""

from __future__ import annotations

import json
import math
import re
import shutil

import numpy as np
import pytest
from polars.testing import assert_frame_equal
from scipy import stats

from busistore import queries, schema, sql
from busistore.errors import BusistoreError
from busistore.metrics import ece
from busistore.store import Store
from tests import crowded
from tests.filled import (
    CLASSES,
    MODEL_IDS,
    NAIVE_SPLIT,
    NOW,
    OUTCOMES,
    SPLIT,
    add_naive_split,
    filled_store,
    put_runs,
)
from tests.segmented import segmented_store

OF_RUNS = ("leaderboard", "few_shot_curve", "per_class", "paired_difference", "calibration", "confusion",
           "hardest_images", "run_cost", "outcomes", "compared_runs", "stability", "leakage_delta")  # fmt: skip
OF_PROMPTS = ("prompt_ranking", "report_apart")  # answered by `prompted`
OF_LEAKAGE = ("leakage_delta",)  # answered by `leaky`
OF_INK = ("burned_in", "decision_flips")  # answered in tests of their own
OF_MASKS = ("segmentation", "segmentation_strata", "segmenter_curves", "trained_segmenters", "mask_scores",
            "report_masks", "annotation_ceiling", "two_stage")  # fmt: skip  # answered by `segmented`
EXAMPLES = {"a": "alpha", "b": "beta", "run_id": "run-alpha-1-0"}  # values for parameters that are required


@pytest.fixture(scope="module")
def backwards(filled, tmp_path_factory):
    """The filled store with the rows of every table written in the opposite order, and no files."""
    store = Store.create(tmp_path_factory.mktemp("backwards") / "store")
    for name in filled.names():
        dim = len(filled.read(name)["vector"][0]) if name.startswith("embeddings") else 1
        table = schema.TABLES.get(name) or schema.embeddings_table(*name.split(".")[1:], dim)
        rows = reversed(filled.read(name).to_pylist())
        store.put(table, [{**row, "png": b""} if "png" in table.schema.names else row for row in rows])
    return sql.connect(store)


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    return sql.connect(Store.create(tmp_path_factory.mktemp("empty") / "store"))


SET = "toy-words-00000000000d"
ALONE = {"benign/00": 0.5, "benign/01": 0.75, "benign/02": 0.75, "malignant/00": 1.0}  # AUROC of each prompt alone
LOST = {"benign/00": 0.1, "benign/01": -0.2}  # macro-F1 that the set loses without it: of .6 with all
CHOSEN = ["benign/01", "malignant/00"]


def _put_prompted(store: Store, backwards: bool = False) -> None:
    """Two zero-shot runs of `alpha` with four prompts, the second of which chose two on val images, and a read-out."""
    texts = {f"{SET}/{p}": p for p in ALONE}
    rows = [
        {"prompt_id": i, "set_id": SET, "prompt_set": "toy-words", "class": p[:-3], "rank": int(p[-2:]),
         "text": "about " + p, "source": "", "details": "{}", "added_at": NOW}
        for i, p in texts.items()
    ]  # fmt: skip
    zero = {"method": "zero-shot", "episode_id": "0shot-seed0-000000000000", "n_labelled": 0}
    parameters = {rank: json.dumps({"prompts": SET, "rank": rank}) for rank in ("none", "val")}
    chosen = {"none": list(texts), "val": [f"{SET}/{p}" for p in CHOSEN]}
    for rank, parts in (("none", ["test"]), ("val", ["test", "val"])):
        details = json.dumps({"prompts": chosen[rank]})
        told = zero | {"parameters": parameters[rank], "details": details}
        (run_id,) = put_runs(store, [("alpha", 0, 0, "SUW" if rank == "none" else "SSS")], prefix=rank, **told)
        scores = [(f"{part}:{SET}/{p}", *of) for part in parts for p in ALONE for of in _scores(part, p)]
        scores += [(f"{part}:set-00", "auroc", "", 0.9) for part in parts]
        found = [{"run_id": run_id, "subject": s, "metric": m, "class": c, "value": v, "n_used": 3}
                 for s, m, c, v in scores]  # fmt: skip
        store.put(schema.METRICS, found[::-1] if backwards else found)
    store.put(schema.PROMPTS, rows[::-1] if backwards else rows)
    put_runs(store, [("alpha", 0, 0, "SSS")], prefix="read", **zero | {"method": "text-readout", "shots": None})


def _scores(part: str, p: str):
    """(metric, class, value) of a prompt; on test images every prompt is worth a tenth less."""
    yield "auroc", p[:-3], ALONE[p] - (0.1 if part == "test" else 0)
    if p in LOST:
        yield from (("macro_f1_without", "", 0.6 - LOST[p]), ("macro_f1_added", "", LOST[p]))


@pytest.fixture(scope="module")
def prompted(tmp_path_factory):
    """The filled store with runs that read prompts."""
    store = filled_store(tmp_path_factory.mktemp("prompted") / "store")
    _put_prompted(store)
    return sql.connect(store)


@pytest.fixture(scope="module")
def leaky_store(tmp_path_factory):
    """The filled store with a naive split and runs on it that are right everywhere."""
    store = filled_store(tmp_path_factory.mktemp("leaky") / "store")
    add_naive_split(store)
    return store


@pytest.fixture(scope="module")
def leaky(leaky_store):
    return sql.connect(leaky_store)


@pytest.fixture(scope="module")
def segmented(tmp_path_factory):
    return sql.connect(segmented_store(tmp_path_factory.mktemp("segmented") / "store"))


def _required(name: str) -> dict[str, str]:
    return {p: EXAMPLES[p] for p, about in queries.load(name).parameters.items() if about.required}


def _rows(con, name: str, columns: str, **parameters) -> list[tuple]:
    return sql.ask(con, name, parameters).select(columns.split()).rows()


@pytest.mark.parametrize("name", queries.names())
def test_query_says_what_it_asks_and_answers(con, prompted, leaky, segmented, empty, name):
    query = queries.load(name)
    assert re.fullmatch(r"[A-Z].{20,119}[.?]", query.description)
    assert set(re.findall(r"\$(\w+)", re.sub("--.*", "", query.text))) == set(query.parameters)
    others = ((prompted, OF_PROMPTS), (leaky, OF_LEAKAGE), (segmented, OF_MASKS))
    asked = next((other for other, of in others if name in of), con)
    answer = sql.ask(asked, name, _required(name))
    assert answer.columns == sql.ask(empty, name, _required(name)).columns
    assert answer.height or name in ("stale", "two_stage", *OF_INK)  # each answered in a test of its own


@pytest.mark.parametrize("name", queries.names())
def test_answer_does_not_depend_on_the_order_of_rows(con, backwards, name):
    answers = (sql.ask(c, name, _required(name)) for c in (con, backwards))
    assert_frame_equal(*answers, abs_tol=1e-12)


@pytest.mark.parametrize("name", [n for n in queries.names() if "dataset" in queries.load(n).parameters])
def test_query_of_another_data_set_finds_nothing(con, name):
    answer = sql.ask(con, name, {**_required(name), "dataset": "elsewhere"})
    counts = [c for c in answer.columns if answer[c].dtype.is_integer()]
    assert not answer.height or all(not any(answer[c].to_list()) for c in counts)


@pytest.mark.parametrize("name", [n for n in queries.names() if "shots" in queries.load(n).parameters])
def test_shots_may_be_text_or_number(con, name):
    answer = sql.ask(con, name, {**_required(name), "shots": "2"})
    assert answer.equals(sql.ask(con, name, {**_required(name), "shots": 2}))
    assert "shots" not in answer.columns or set(answer["shots"]) <= {2}


@pytest.mark.parametrize("name", OF_PROMPTS)
def test_answers_on_prompts_do_not_depend_on_the_order_of_rows(prompted, tmp_path, name):
    other = filled_store(tmp_path / "store")
    _put_prompted(other, backwards=True)
    assert_frame_equal(sql.ask(prompted, name), sql.run(other, name))


def test_declared_parameters_are_read_from_the_text():
    query = queries.load("paired-difference")
    assert query.name == "paired_difference"
    assert [p for p, about in query.parameters.items() if about.required] == ["a", "b"]
    assert query.parameters["metric"].description == "name of the metric (default: macro_f1)"
    with pytest.raises(BusistoreError, match="needs -p b=VALUE: another of the same kind"):
        query.bind({"a": "alpha"})


def test_leaderboard(con):
    rows = _rows(con, "leaderboard", "model shots n_seeds mean sd worst best", metric="accuracy")
    third = 1 / 3
    assert rows == [
        ("alpha", 1, 3, pytest.approx(7 / 9), pytest.approx(third / math.sqrt(3)), pytest.approx(2 / 3), 1.0),
        ("beta", 1, 3, pytest.approx(5 / 9), pytest.approx(third / math.sqrt(3)), pytest.approx(third), 2 * third),
        ("alpha", 2, 3, 1.0, 0.0, 1.0, 1.0),
        ("beta", 2, 3, pytest.approx(7 / 9), pytest.approx(third / math.sqrt(3)), pytest.approx(2 / 3), 1.0),
    ]
    assert _rows(con, "leaderboard", "model metric", shots=2) == [("alpha", "macro_f1"), ("beta", "macro_f1")]


def test_leaderboard_never_pools_two_settings_of_a_method(tmp_path):
    store = Store.create(tmp_path / "store")
    put_runs(store, [("alpha", 1, 0, "SSS"), ("alpha", 1, 1, "SSS")])
    runs = store.read("runs").to_pylist()
    store.put(schema.RUNS, [{**runs[1], "parameters": '{"k": 2}'}], replace=True)
    assert sql.run(store, "leaderboard")["n_seeds"].to_list() == [1, 1]


def test_no_number_of_shots_is_not_0_and_hides_nothing(prompted):
    """Zero-shot runs come before the drawn ones, what took every label after them; neither is pooled with another."""
    rows = _rows(prompted, "leaderboard", "shots method model n_seeds mean", metric="accuracy", dataset="toy")
    mean = pytest.approx(2 / 3)
    assert rows[:2] == [(0, "zero-shot", "alpha", 1, 1.0), (0, "zero-shot", "alpha", 1, mean)]
    assert rows[2:-1] == [(shots, "linear-probe", model, 3, pytest.approx(m)) for shots, model, m in
                          ((1, "alpha", 7 / 9), (1, "beta", 5 / 9), (2, "alpha", 1), (2, "beta", 7 / 9))]  # fmt: skip
    assert rows[-1] == (None, "text-readout", "alpha", 1, 1.0)
    assert len(_rows(prompted, "leaderboard", "method", metric="accuracy", shots=0)) == 2
    curve = _rows(prompted, "few_shot_curve", "method shots", metric="accuracy")
    assert curve[-3:] == [("text-readout", None), ("zero-shot", 0), ("zero-shot", 0)]
    for name in ("per_class", "calibration", "confusion", "run_cost"):
        found = set(_rows(prompted, name, "method shots"))
        assert {("zero-shot", 0), ("text-readout", None)} <= found
        assert ("text-readout", 0) not in found


def test_report_apart(prompted):
    columns = "shots method n_runs n_labelled n_test macro_f1 recall_malignant"
    assert _rows(prompted, "report_apart", columns) == [
        (0, "zero-shot", 1, 0, 3, 1.0, 1.0),
        (0, "zero-shot", 1, 0, 3, pytest.approx(5 / 9), 1.0),
        (None, "text-readout", 1, 0, 3, 1.0, 1.0),
    ]
    assert _rows(prompted, "report_apart", columns, protocol="strict") == []


def test_prompt_ranking(prompted):
    """On val images where the run consulted them: equal prompts in the order of the set; chosen as the run tells."""
    columns = "part class rank text auroc macro_f1_without macro_f1_added chosen n_images"
    answer = sql.ask(prompted, "prompt_ranking")
    ranked = answer.filter(answer["parameters"].str.contains("val")).select(columns.split()).rows()
    assert ranked == [
        ("val", "benign", 1, "about benign/01", 0.75, pytest.approx(0.8), -0.2, True, 3),
        ("val", "benign", 2, "about benign/02", 0.75, None, None, False, 3),
        ("val", "benign", 3, "about benign/00", 0.5, pytest.approx(0.5), 0.1, False, 3),
        ("val", "malignant", 1, "about malignant/00", 1.0, None, None, True, 3),
    ]
    plain = answer.filter(answer["parameters"].str.contains("none"))
    assert plain["part"].to_list() == ["test"] * 4
    assert plain["auroc"].to_list() == pytest.approx([0.65, 0.65, 0.4, 0.9])
    assert all(plain["chosen"])


@pytest.mark.parametrize(("asked", "n"), [
    ({"part": "test"}, 8), ({"part": "val"}, 4), ({"prompt_set": "toy-words"}, 8), ({"prompt_set": SET}, 8),
    ({"prompt_set": "toy"}, 0), ({"model": "alpha"}, 8), ({"model": "beta"}, 0), ({"dataset": "elsewhere"}, 0),
    ({"split_id": SPLIT}, 8),
])  # fmt: skip
def test_prompt_ranking_may_be_narrowed(prompted, asked, n):
    answer = sql.ask(prompted, "prompt_ranking", asked)
    assert answer.height == n
    assert "part" not in asked or set(answer["part"]) == {asked["part"]}


def test_prompt_ranking_says_what_a_ranking_on_test_images_is_for():
    assert queries.load("prompt_ranking").description.endswith("ranked on test for looking, not for choosing.")


def test_few_shot_curve(con):
    rows = _rows(con, "few_shot_curve", "shots mean se low high", metric="accuracy", model="beta")
    se, t = 1 / 9, stats.t.ppf(0.975, 2)
    assert rows[0] == (1, pytest.approx(5 / 9), pytest.approx(se), pytest.approx(5 / 9 - t * se, abs=1e-5),
                       pytest.approx(5 / 9 + t * se, abs=1e-5))  # fmt: skip
    assert [row[0] for row in rows] == [1, 2]


@pytest.mark.parametrize("n_seeds", [2, 10, 31, 32, 60, 1000])
@pytest.mark.parametrize("name", ["few_shot_curve", "leakage_delta"])
def test_intervals_of_the_queries_are_students(con, name, n_seeds):
    assert "student_975(df)" in queries.load(name).text
    value = sql.ask(con, f"SELECT student_975({n_seeds - 1})").item()
    assert value == pytest.approx(stats.t.ppf(0.975, n_seeds - 1), abs=1e-4)


def test_one_seed_has_no_interval(tmp_path):
    store = Store.create(tmp_path / "store")
    put_runs(store, [("alpha", 1, 0, "SSS")])
    assert sql.run(store, "few_shot_curve").select("n_seeds", "mean", "low", "sd").rows() == [(1, 1.0, None, None)]


def test_per_class(con):
    """alpha at one shot said SSS, SUW, UWS: malignant was right twice and called normal once, normal called benign."""
    rows = _rows(con, "per_class", "class n_seeds precision recall f1", shots=1, model="alpha")
    assert rows == [
        ("benign", 3, pytest.approx(5 / 6), 1.0, pytest.approx(8 / 9)),
        ("malignant", 3, pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(2 / 3)),
        ("normal", 3, 0.5, pytest.approx(2 / 3), pytest.approx(5 / 9)),
    ]


def test_paired_difference(con):
    """Accuracy, alpha minus beta: 2/3, 0, 0 at one shot and 1/3, 0, 1/3 at two."""
    columns = "shots held n_pairs mean sd worst best a_wins b_wins ties"
    mean, sds = pytest.approx(2 / 9), [pytest.approx(math.sqrt(n) / 9) for n in (12, 3)]
    assert _rows(con, "paired_difference", columns, a="alpha", b="beta", metric="accuracy") == [
        (1, "linear-probe", 3, mean, sds[0], 0.0, pytest.approx(2 / 3), 1, 0, 2),
        (2, "linear-probe", 3, mean, sds[1], 0.0, pytest.approx(1 / 3), 2, 0, 1),
    ]
    swapped = _rows(con, "paired_difference", "mean a_wins b_wins", a="beta", b="alpha", metric="accuracy")
    assert swapped == [(pytest.approx(-2 / 9), 0, 1), (pytest.approx(-2 / 9), 0, 2)]


def test_paired_difference_of_methods_holds_the_model(tmp_path):
    store = Store.create(tmp_path / "store")
    put_runs(store, [("alpha", 1, 0, "SSS"), ("beta", 1, 0, "SSS")])
    runs = {r["model"]: r for r in store.read("runs").to_pylist()}
    store.put(schema.RUNS, [{**runs["beta"], "model": "alpha", "model_id": MODEL_IDS["alpha"], "method": "knn",
                             "parameters": '{"k": 2}'}], replace=True)  # fmt: skip
    answer = sql.run(store, "paired_difference", {"a": "linear-probe", "b": "knn"})
    assert answer.select("compared", "held", "n_pairs", "ties").rows() == [("method", "alpha", 1, 1)]


def test_calibration_bins(con):
    """alpha at one shot: five sure and right, two unsure and right, two at 0.7 and wrong."""
    columns = "bin above up_to n confidence accuracy gap ece"
    error = pytest.approx((2 * 0.5 + 2 * 0.7 + 5 * 0.2) / 9)
    assert _rows(con, "calibration", columns, shots=1, model="alpha") == [
        (5, 0.4, 0.5, 2, 0.5, 1.0, 0.5, error),
        (7, 0.6, 0.7, 2, pytest.approx(0.7), 0.0, pytest.approx(-0.7), error),
        (8, 0.7, 0.8, 5, pytest.approx(0.8), 1.0, pytest.approx(0.2), error),
    ]


def test_calibration_agrees_with_the_metric(con):
    for model, shots in OUTCOMES:
        asked = sql.ask(con, "calibration", {"model": model, "shots": shots, "bins": "15"})
        runs = f"starts_with(run_id, 'run-{model}-{shots}')"
        said = sql.ask(con, f"SELECT label, probabilities FROM predictions WHERE {runs}")
        true = np.array([CLASSES.index(label) for label in said["label"]])
        assert asked["ece"][0] == pytest.approx(ece(true, np.array(said["probabilities"].to_list()), 15))


def test_confusion(con):
    answer = sql.ask(con, "confusion", {"shots": 1, "model": "beta"})
    matrix = answer.pivot("predicted", index="label", values="share").select(CLASSES).to_numpy()
    np.testing.assert_allclose(matrix, np.array([[2, 1, 0], [0, 1, 2], [1, 0, 2]]) / 3)
    assert set(answer["n_seeds"]) == {3}


def test_hardest_images(con):
    """Of 12 runs, malignant was missed by 5, always for normal; normal by 2, benign by 1."""
    rows = _rows(con, "hardest_images", "image_id mostly_said n_runs n_wrong share_wrong p_true lesion_area_px")
    assert rows == [
        ("toy/malignant-0004", "normal", 12, 5, pytest.approx(5 / 12), pytest.approx(5.4 / 12), 197),
        ("toy/normal-0004", "benign", 12, 2, pytest.approx(2 / 12), pytest.approx(7.5 / 12), 0),
        ("toy/benign-0004", "malignant", 12, 1, pytest.approx(1 / 12), pytest.approx(8.1 / 12), 197),
    ]
    assert len(_rows(con, "hardest_images", "image_id", limit="1", method="linear-probe")) == 1


def test_run_cost(con):
    rows = _rows(con, "run_cost", "model shots n_runs total_s mean_s median_s longest_s per_test_image_ms n_labelled")
    assert rows[:2] == [("alpha", 1, 3, 1.5, 0.5, 0.5, 0.5, pytest.approx(500 / 3), 6),
                        ("alpha", 2, 3, 3.0, 1.0, 1.0, 1.0, pytest.approx(1000 / 3), 9)]  # fmt: skip


def test_an_unfinished_run_is_in_no_answer(tmp_path):
    store = Store.create(tmp_path / "store")
    put_runs(store, [("alpha", 1, 0, "SSS")])
    before = {name: sql.run(store, name, _required(name)) for name in OF_RUNS}
    put_runs(store, [("alpha", 1, 1, "WWW")], status="failed")
    for name, answer in before.items():
        assert sql.run(store, name, _required(name)).equals(answer), name


# Shares of the training part


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The filled store with runs of alpha on 5 % of the training part, two of them right everywhere and one nowhere."""
    store = filled_store(tmp_path_factory.mktemp("shared") / "store")
    for seed, outcome in enumerate(("SSS", "SSS", "WWW")):
        at = {"shots": None, "ratio": 0.05, "episode_id": f"episode-5%-{seed}", "n_labelled": 4}
        put_runs(store, [("alpha", 0, seed, outcome)], prefix="share", **at)
    return sql.connect(store)


def test_a_share_is_no_number_of_shots_and_not_every_label(shared):
    columns = "shots ratio model n_seeds mean n_labelled"
    rows = _rows(shared, "leaderboard", columns, metric="accuracy")
    assert rows[-1] == (None, 0.05, "alpha", 3, pytest.approx(2 / 3), 4)
    assert [row[:3] for row in rows[:2]] == [(1, None, "alpha"), (1, None, "beta")]
    assert _rows(shared, "leaderboard", columns, metric="accuracy", ratio="0.05") == rows[-1:]
    curve = _rows(shared, "few_shot_curve", "shots ratio n_labelled", metric="accuracy", model="alpha")
    assert curve == [(1, None, 6), (2, None, 9), (None, 0.05, 4)]
    assert _rows(shared, "report_apart", "shots") == []


OWN = OF_LEAKAGE + OF_MASKS + OF_INK
BY_RATIO = [n for n in queries.names() if "ratio" in queries.load(n).parameters and n not in OWN]


@pytest.mark.parametrize("name", BY_RATIO)
def test_ratio_may_be_text_or_number_and_leaves_the_rest_out(shared, name):
    answer = sql.ask(shared, name, {**_required(name), "ratio": "0.05"})
    assert_frame_equal(answer, sql.ask(shared, name, {**_required(name), "ratio": 0.05}), abs_tol=1e-12)
    assert answer.height
    assert "ratio" not in answer.columns or set(answer["ratio"]) == {0.05}


@pytest.mark.parametrize("name", [n for n in queries.names() if "shots" in queries.load(n).parameters])
def test_whatever_is_asked_by_shots_is_asked_by_share_too(name):
    assert "ratio" in queries.load(name).parameters or name == "report_leaderboard"


# What feeds comparisons


def test_outcomes_has_one_row_a_run_in_the_order_of_images(con):
    rows = sql.ask(con, "outcomes", {"model_id": MODEL_IDS["beta"], "shots": 1})
    assert rows.select("run_id", "seed", "n_images").rows() == [(f"run-beta-1-{s}", s, 3) for s in range(3)]
    assert rows["probabilities"][0].to_list() == [0.5, 0.3, 0.2, 0.1, 0.2, 0.7, 0.7, 0.1, 0.2]  # U, W, W
    assert rows["images_md5"].n_unique() == 1
    tested = _rows(con, "tested_images", "image_id group_id label", run_id="run-beta-1-0")
    assert tested == [(f"toy/{c}-0004", f"G-toy/{c}-0004", c) for c in CLASSES]


def test_compared_runs_are_those_of_one_support_set(con):
    rows = _rows(con, "compared_runs", "compared held shots seed run_a run_b", a="beta", b="alpha")
    assert rows == [("model", "linear-probe", n, s, f"run-beta-{n}-{s}", f"run-alpha-{n}-{s}")
                    for n in (1, 2) for s in range(3)]  # fmt: skip
    assert _rows(con, "compared_runs", "run_a", a="beta", b="alpha", method="knn") == []


# Stability


def test_stability(con):
    """Share of pairs of runs that differ, by going through the pairs: seeds of one model, models at one seed."""
    said = {(m, seed): OUTCOMES[m, 1][seed] for m in ("alpha", "beta") for seed in range(3)}
    called = {c: {key: _called(k, sure[k]) for key, sure in said.items()} for k, c in enumerate(CLASSES)}
    columns = "label n_runs share_wrong flip_rate_seeds flip_rate_models lesion_area_px n_artefacts group_size"
    found = {row[0]: row[1:] for row in _rows(con, "stability", columns, shots=1)}
    for c in CLASSES:
        seeds = [called[c][m, a] != called[c][m, b] for m in ("alpha", "beta") for a, b in ((0, 1), (0, 2), (1, 2))]
        models = [called[c]["alpha", s] != called[c]["beta", s] for s in range(3)]
        wrong = np.mean([v != c for v in called[c].values()])
        area = 0 if c == "normal" else 197
        expected = (6, wrong, np.mean(seeds), np.mean(models), area, 0, 1)
        assert found[c] == pytest.approx(expected)


def _called(k: int, sure: str) -> str:
    return CLASSES[(k + 1) % 3] if sure == "W" else CLASSES[k]


def test_stability_of_one_run_has_no_flip_rate(tmp_path):
    store = Store.create(tmp_path / "store")
    put_runs(store, [("alpha", 1, 0, "SSW")])
    columns = "label mostly_said n_runs share_wrong flip_rate_seeds flip_rate_models"
    assert sql.run(store, "stability").select(columns.split()).rows()[0] == ("normal", "benign", 1, 1.0, None, None)


def test_stability_counts_artefacts(tmp_path):
    store = filled_store(tmp_path / "store")
    rows = store.read("preprocessed").to_pylist()
    marked = '[{"kind":"caliper"},{"kind":"text"}]'
    changed = [r | {"png": b"", "artefacts": marked} for r in rows if r["image_id"] == "toy/benign-0004"]
    store.put(schema.PREPROCESSED, changed, replace=True)
    found = sql.run(store, "stability", {"shots": 2}).select("label", "n_artefacts").rows()
    assert dict(found) == {"benign": 2, "malignant": 0, "normal": 0}


# Leakage


def test_leakage_delta(leaky):
    """Right everywhere on the naive split; on the grouped one alpha reaches 1, 2/3, 2/3 at one shot and 1 at two."""
    columns = "shots n_split_pairs n_pairs mean_naive mean_grouped difference sd low high spread_over"
    one, two = _rows(leaky, "leakage_delta", columns, metric="accuracy")
    sd = 1 / 3 / math.sqrt(3)
    half = stats.t.ppf(0.975, 2) * sd / math.sqrt(3)
    assert one == (1, 1, 3, 1.0, pytest.approx(7 / 9), pytest.approx(2 / 9), pytest.approx(sd),
                   pytest.approx(2 / 9 - half, abs=1e-4), pytest.approx(2 / 9 + half, abs=1e-4), "seeds")  # fmt: skip
    assert two == (2, 1, 3, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, "seeds")
    columns = "exposure_support_naive exposure_support_grouped n_groups_cut naive grouped"
    assert _rows(leaky, "leakage_delta", columns)[0] == (pytest.approx(1 / 3), 0.0, 1, NAIVE_SPLIT, SPLIT)


@pytest.mark.parametrize(("asked", "n"), [
    ({"naive": NAIVE_SPLIT}, 2), ({"grouped": SPLIT}, 2), ({"naive": NAIVE_SPLIT, "grouped": SPLIT}, 2),
    ({"naive": SPLIT}, 0), ({"grouped": NAIVE_SPLIT}, 0), ({"model": "alpha"}, 2), ({"model": "beta"}, 0),
    ({"method": "linear-probe"}, 2), ({"method": "knn"}, 0), ({"protocol": "strict"}, 0), ({"dataset": "toy"}, 2),
    ({"shots": 1}, 1), ({"ratio": 0.05}, 0),
])  # fmt: skip
def test_leakage_delta_may_be_narrowed(leaky, asked, n):
    assert sql.ask(leaky, "leakage_delta", asked).height == n


def test_leakage_over_several_pairs_of_splits_is_a_mean_of_their_means(tmp_path):
    """Pairs drawn with the seeds 42 and 7: mean differences at one shot 2/9, and -7/9 for runs that are all wrong."""
    store = filled_store(tmp_path / "store")
    add_naive_split(store)
    rows = [r for r in store.read("splits").to_pylist() if r["split_id"] == SPLIT]
    store.put(schema.SPLITS, [r | {"split_id": "toy-7", "seed": 7} for r in rows])
    runs = [r for r in store.read("runs").to_pylist() if r["split_id"] == SPLIT and r["model"] == "alpha"]
    for r in runs:
        outcome = OUTCOMES["alpha", r["shots"]][r["seed"]]
        at = {"split_id": "toy-7", "episode_id": "seven-" + r["episode_id"]}
        put_runs(store, [("alpha", r["shots"], r["seed"], outcome)], prefix="seven", **at)
    add_naive_split(store, "toy-naive-7", seed=7, said="WWW")
    asked = {"metric": "accuracy"}
    row = sql.run(store, "leakage_delta", asked).filter(shots=1).to_dicts()[0]
    means = np.array([2 / 9, -7 / 9])
    assert (row["n_split_pairs"], row["n_pairs"], row["spread_over"]) == (2, 6, "pairs of splits")
    assert (row["difference"], row["sd"]) == pytest.approx((means.mean(), means.std(ddof=1)))
    assert row["naive"] == f"{NAIVE_SPLIT}, toy-naive-7"
    half = stats.t.ppf(0.975, 1) * row["sd"] * math.sqrt(1 / 2 + 3 / 6)  # three test images, six of training
    assert (row["low"], row["high"]) == pytest.approx((means.mean() - half, means.mean() + half), abs=1e-3)
    assert (row["n_images_naive"], row["n_images_grouped"]) == (12, 12)
    crossed = sql.run(store, "leakage_delta", asked | {"naive": "toy-naive-7", "grouped": SPLIT})
    assert crossed["n_split_pairs"].to_list() == [1, 1]


def test_runs_with_another_text_tower_are_no_further_pairs(leaky_store, tmp_path):
    """Of two towers the newest counts in stability; in the others each is a row of its own."""
    shutil.copytree(leaky_store.path, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    before = sql.run(store, "stability"), sql.run(store, "leakage_delta")
    runs = [r for r in store.read("runs").to_pylist() if r["model"] == "alpha" and r["split_id"] == SPLIT]
    said = [("alpha", r["shots"], r["seed"], OUTCOMES["alpha", r["shots"]][r["seed"]]) for r in runs]
    put_runs(store, said, prefix="text", details='{"text_id": "reader-000000000001"}')
    assert sql.run(store, "stability")["n_runs"].to_list() == before[0]["n_runs"].to_list()
    assert_frame_equal(sql.run(store, "leakage_delta"), before[1])


@pytest.mark.parametrize("add", [*crowded.HARMLESS, crowded.second_split], ids=lambda add: add.__name__)
def test_leakage_delta_counts_nothing_twice(leaky, leaky_store, tmp_path, add):
    shutil.copytree(leaky_store.path, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    add(store)
    asked = {"dataset": "toy", "metric": "accuracy"}
    assert_frame_equal(sql.run(store, "leakage_delta", asked), sql.ask(leaky, "leakage_delta", asked))
