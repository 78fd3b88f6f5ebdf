"""No answer counts a thing twice because of what else is in the store."""

from __future__ import annotations

import shutil

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from busistore import queries, sql
from busistore.store import Store
from tests import crowded
from tests.filled import GROUPING, MODEL_IDS, RECIPE_ID, SPLIT

GIVEN = {"a": "alpha", "b": "beta", "dataset": "toy", "run_id": "run-alpha-1-0"}
NARROW = GIVEN | {"split_id": SPLIT, "protocol": "val-tuned"}
# Queries that sum up over settings, where more runs are rightly counted.
POOLED = {"hardest_images", "stability", "report_arms", "report_counts", "report_cost", "report_settings",
          "report_leakage"}  # fmt: skip
NARROWED = [n for n in queries.names() if {"split_id", "protocol"} <= set(queries.load(n).parameters)]


@pytest.fixture(scope="module")
def crowd(filled, tmp_path_factory):
    """A session over the filled store and one addition, or all of them."""
    made = {}

    def session(*additions):
        if additions not in made:
            path = tmp_path_factory.mktemp("crowded") / "store"
            shutil.copytree(filled.path, path)
            for add in additions:
                add(Store.open(path))
            made[additions] = sql.connect(Store.open(path))
        return made[additions]

    return session


def _answer(con, name: str, given: dict[str, str] = GIVEN) -> pl.DataFrame:
    """The answer about `toy`, asked with as many of the given parameters as the query takes."""
    answer = sql.ask(con, name, {p: v for p, v in given.items() if p in queries.load(name).parameters})
    whose = next((pl.col(c) for c in ("dataset", "key") if c in answer.columns), None)
    return answer if whose is None else answer.filter(whose.str.starts_with("toy"))


@pytest.mark.parametrize("add", crowded.HARMLESS, ids=lambda add: add.__name__)
@pytest.mark.parametrize("name", queries.names())
def test_what_is_older_replaced_or_elsewhere_changes_no_answer(con, crowd, name, add):
    assert_frame_equal(_answer(crowd(add), name), _answer(con, name), abs_tol=1e-12)


@pytest.mark.parametrize("add", crowded.SETTINGS, ids=lambda add: add.__name__)
@pytest.mark.parametrize("name", sorted(set(queries.names()) - POOLED))
def test_another_setting_adds_rows_and_changes_none(con, crowd, name, add):
    before, after = (_answer(c, name).to_dicts() for c in (con, crowd(add)))
    assert [row for row in before if row not in after] == []


@pytest.mark.parametrize("add", [crowded.second_split, crowded.second_protocol], ids=lambda add: add.__name__)
@pytest.mark.parametrize("name", NARROWED)
def test_an_answer_on_one_split_and_protocol_knows_no_other(con, crowd, name, add):
    assert_frame_equal(_answer(crowd(add), name, NARROW), _answer(con, name, NARROW), abs_tol=1e-12)


@pytest.mark.parametrize("name", ["leaderboard", "report_leaderboard", "few_shot_curve", "run_cost"])
def test_every_setting_is_one_row_for_each_number_of_shots(crowd, name):
    """alpha and beta, and alpha again with each of five other settings; the other data set has alpha and beta."""
    answer = sql.ask(crowd(*crowded.HARMLESS, *crowded.SETTINGS), name)
    counts = answer["n_seeds" if "n_seeds" in answer.columns else "n_runs"]
    assert set(counts) == {3}
    per_shots = 1 if name == "report_leaderboard" else 2  # of each setting, the largest number of shots
    assert answer.group_by("dataset").len().sort("dataset").rows() == [("other", 2 * per_shots), ("toy", 7 * per_shots)]


def test_each_of_two_weights_of_a_model_is_compared_on_its_own(crowd):
    """beta's accuracies at one shot are 1/3, 2/3 and 2/3; the weights that are wrong everywhere lose to all."""
    con = crowd(crowded.second_weights)
    asked = {"a": "alpha", "b": "beta", "metric": "accuracy"}
    rows = sql.ask(con, "paired_difference", asked).filter(pl.col("shots") == 1)
    found = rows.select("model_id_a", "model_id_b", "n_pairs", "mean", "b_wins").rows()
    beta = MODEL_IDS["beta"]
    assert found == [
        (MODEL_IDS["alpha"], beta, 3, pytest.approx(2 / 9), 0),
        (crowded.OTHER_WEIGHTS, beta, 3, pytest.approx(-5 / 9), 3),
    ]
    of_one_name = sql.ask(con, "paired_difference", asked | {"a": MODEL_IDS["alpha"], "b": crowded.OTHER_WEIGHTS})
    assert of_one_name.select("shots", "n_pairs", "mean").rows() == [(1, 3, pytest.approx(7 / 9)), (2, 3, 1.0)]


def test_costs_of_two_weights_and_two_recipes_stand_apart(crowd):
    """alpha's six runs take 3 * 0.5 + 3 * 1.0 seconds, under each."""
    rows = sql.ask(crowd(crowded.second_weights, crowded.second_recipe), "report_cost")
    assert rows.select("model_id", "recipe_id", "n_runs", "total_s").rows() == [
        (MODEL_IDS["alpha"], crowded.OTHER_RECIPE_ID, 6, 4.5),
        (MODEL_IDS["alpha"], RECIPE_ID, 6, 4.5),
        (crowded.OTHER_WEIGHTS, RECIPE_ID, 6, 4.5),
        (MODEL_IDS["beta"], RECIPE_ID, 6, 18.0),
    ]


def test_the_older_grouping_is_shown_when_it_is_named(crowd):
    con = crowd(crowded.older_grouping)
    pairs = sql.ask(con, "near_duplicates", {"grouping": crowded.OLDER})
    assert pairs.select("image_id", "other_id", "group_size").rows() == [("toy/benign-0003", "toy/normal-0002", 12)]
    for grouping, groups, twins in ((None, 9, 5), (GROUPING, 9, 5), (crowded.OLDER, 1, 12)):
        row = sql.ask(con, "report_table1", {"grouping": grouping}).filter(pl.col("label") == "all")
        assert row.select("groups", "images_with_twin").rows() == [(groups, twins)]
        counted = sql.ask(con, "report_counts", {"grouping": grouping}).filter(pl.col("stage") == "groups")
        assert counted["n"].to_list() == [groups, 1 if grouping == crowded.OLDER else 2]


def test_counts_name_the_split_they_are_of(crowd):
    counted = sql.ask(crowd(crowded.second_split), "report_counts").filter(pl.col("stage") == "parts")
    assert counted.select("part", "of", "n").rows() == [
        ("test", SPLIT, 3), ("test", crowded.OTHER_SPLIT, 3), ("train", SPLIT, 6), ("train", crowded.OTHER_SPLIT, 3),
        ("val", SPLIT, 3), ("val", crowded.OTHER_SPLIT, 6),
    ]  # fmt: skip
    table = sql.ask(crowd(crowded.second_split), "report_table1").filter(pl.col("label") == "all")
    assert table.select("split_id", "images", "train", "val", "test").rows() == [
        (SPLIT, 12, 6, 3, 3), (crowded.OTHER_SPLIT, 12, 3, 6, 3)
    ]  # fmt: skip
