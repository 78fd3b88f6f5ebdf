"""Comparisons against numbers worked by hand and plain rewrites; what cannot be compared is one line."""

from __future__ import annotations

import json
import re

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from scipy import stats as scipy_stats

from busistore import comparison, schema, sql
from busistore.cli import app, sizes
from busistore.cli import compare as verb
from busistore.comparison import Outcomes, compare
from busistore.errors import BusistoreError, UnknownName
from busistore.metrics import classification_metrics
from busistore.report import forest
from busistore.store import Store
from tests import crowded
from tests.filled import IMAGE_IDS, MODEL_IDS, OUTCOMES, SPLIT, filled_store, put_runs, put_vectors

CLASSES = ["benign", "malignant", "normal"]


def said(seed: int, n_runs: int = 6, episodes: list[str] | None = None, better: float = 0.0) -> Outcomes:
    """Runs on 24 images in pairs of near-duplicates; `better` is added to the logit of the truth."""
    rng = np.random.default_rng(seed)
    true = np.repeat([0, 1, 2], 8)
    logits = rng.normal(size=(n_runs, 24, 3))
    logits[:, np.arange(24), true] += 1 + better
    probs = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    groups = [f"g{k // 2}" for k in range(24)]
    return Outcomes(true, groups, CLASSES, probs, episodes or [f"e{k}" for k in range(n_runs)], "images")


def value(metric: str, o: Outcomes, run: int) -> float:
    rows = classification_metrics([CLASSES[k] for k in o.true], o.probs[run], CLASSES)
    return next(r.value for r in rows if (r.metric, r.class_) == (metric, ""))


@pytest.mark.parametrize("metric", ["macro_f1", "auroc", "auroc_malignant_vs_benign", "brier", "log_loss"])
def test_difference_is_that_of_the_metrics_run_by_run(metric):
    a, b = said(1, better=0.5), said(2)
    found = comparison.difference(metric, a, b)
    each = np.array([value(metric, a, k) - value(metric, b, k) for k in range(6)])
    np.testing.assert_allclose(found.values, each, atol=1e-12)
    assert found.both.estimate == pytest.approx(each.mean(), abs=1e-12)
    assert found.mean_a - found.mean_b == pytest.approx(each.mean(), abs=1e-12)
    assert found.p_seeds == pytest.approx(scipy_stats.wilcoxon(each).pvalue)
    assert (found.both.n_seeds, found.both.n_groups) == (6, 12)
    assert (found.both.p < 0.05) == (found.both.low > 0 or found.both.high < 0)


def test_difference_pairs_runs_by_their_support_sets():
    """The runs of b in another order, one of them without a partner: paired by name, not by place."""
    a, b = said(1), said(2)
    order = [5, 3, 0, 1]
    shuffled = b._replace(probs=b.probs[order], episodes=[b.episodes[k] for k in order])
    some = [0, 1, 3, 5]
    wanted = comparison.difference("macro_f1", a._replace(probs=a.probs[some], episodes=[a.episodes[k] for k in some]),
                                   b._replace(probs=b.probs[some], episodes=[b.episodes[k] for k in some]))  # fmt: skip
    found = comparison.difference("macro_f1", a, shuffled)
    np.testing.assert_array_equal(found.values, wanted.values)
    assert found.both == wanted.both


def test_no_difference_without_common_support_sets_or_images():
    a = said(1)
    assert comparison.difference("macro_f1", a, said(2, episodes=[f"f{k}" for k in range(6)])) is None
    assert comparison.difference("macro_f1", a, said(2)._replace(images="others")) is None


def test_difference_of_a_and_b_is_that_of_b_and_a_with_the_other_sign():
    one, other = (comparison.difference("auroc", *pair) for pair in ((said(1), said(2)), (said(2), said(1))))
    assert one.both.estimate == pytest.approx(-other.both.estimate)
    assert (one.both.low, one.both.high) == pytest.approx((-other.both.high, -other.both.low), abs=1e-9)
    assert one.p_seeds == pytest.approx(other.p_seeds)


@pytest.mark.parametrize(("n_runs", "n"), [(0, 2000), (1, 2000), (200, 2000), (400, 1000), (10_000, 400)])
def test_many_runs_take_fewer_resamples(n_runs, n):
    assert comparison.n_resamples(n_runs) == n


def test_holm_skips_what_has_no_p():
    """Two of three are known: the lesser is doubled, the greater stays."""
    assert comparison.adjust([0.04, None, 0.01]) == [pytest.approx(0.04), None, pytest.approx(0.02)]
    assert comparison.adjust([None]) == [None]
    assert comparison.adjust([]) == []


def test_outcomes_are_read_in_the_order_of_images_and_classes(con):
    rows = sql.ask(con, "outcomes", {"model_id": "alpha-00000000000a", "shots": "1"})
    tested = sql.ask(con, "tested_images", {"run_id": rows["run_id"][0]})
    found = comparison.outcomes(rows, tested)
    assert found.episodes == [f"episode-1-{seed}" for seed in range(3)]
    assert found.probs.argmax(axis=-1).tolist() == [[0, 1, 2], [0, 1, 1 - 1], [0, 2, 2]]  # SSS, SUW, UWS
    np.testing.assert_allclose(found.probs[1, 2], [0.7, 0.1, 0.2])  # normal, called benign: next after normal
    assert found.true.tolist() == [0, 1, 2]
    assert comparison.outcomes(rows, tested.with_columns(label=pl.lit("cyst"))) is None
    assert comparison.outcomes(rows.with_columns(images_md5=pl.col("run_id")), tested) is None


def test_compare_models_by_hand(filled):
    """Accuracy: alpha 1, 2/3, 2/3 and beta 1/3, 2/3, 2/3 at one shot; one group a class leaves the interval unknown."""
    one, two = compare(filled, "alpha", "beta", "accuracy")
    assert [r.support for r in (one, two)] == ["1 shot", "2 shots"]
    assert (one.difference.mean_a, one.difference.mean_b) == (pytest.approx(7 / 9), pytest.approx(5 / 9))
    np.testing.assert_allclose(one.difference.values, [2 / 3, 0, 0], atol=1e-12)
    np.testing.assert_allclose(two.difference.values, [1 / 3, 0, 1 / 3], atol=1e-12)
    assert (one.difference.both.low, one.difference.both.p, one.p_holm) == (None, None, None)
    assert one.difference.p_seeds == 1
    assert one.what["held"] == "linear-probe"
    only = compare(filled, "alpha", "beta", "accuracy", supports=[(2, None)])
    assert [r.support for r in only] == ["2 shots"]


def test_compare_agrees_with_the_query(filled, con):
    rows = sql.ask(con, "paired_difference", {"a": "alpha", "b": "beta", "metric": "log_loss"})
    found = comparison.frame(compare(filled, "alpha", "beta", "log_loss"))
    assert found["difference"].to_list() == pytest.approx(rows["mean"].to_list())
    assert found["n_seeds"].to_list() == rows["n_pairs"].to_list()


@pytest.fixture(scope="module")
def two_methods(tmp_path_factory) -> Store:
    """alpha and beta under linear-probe, and knn on alpha, with a share of the training part too."""
    store = filled_store(tmp_path_factory.mktemp("methods") / "store")
    for seed in range(3):
        put_runs(store, [("alpha", 1, seed, "SSS")], prefix="knn", method="knn", parameters='{"k":5}')
        for prefix, method in (("share", "linear-probe"), ("knn-share", "knn")):
            at = {"shots": None, "ratio": 0.05, "episode_id": f"episode-5%-{seed}", "method": method}
            put_runs(store, [("alpha", 0, seed, "SUS" if method == "knn" else "SSW")], prefix=prefix, **at)
    return store


def test_compare_methods_on_a_model_at_shots_and_at_a_share(two_methods):
    rows = compare(two_methods, "knn", "linear-probe", "accuracy")
    assert [(r.support, r.what["held"], r.difference.both.n_seeds) for r in rows] == [
        ("1 shot", "alpha", 3), ("5%", "alpha", 3),
    ]  # fmt: skip
    assert rows[0].difference.both.estimate == pytest.approx(1 - 7 / 9)
    assert rows[1].difference.both.estimate == pytest.approx(1 / 3)
    assert [r.support for r in compare(two_methods, "knn", "linear-probe", supports=[(None, 0.05)])] == ["5%"]


@pytest.mark.parametrize(("asked", "message"), [
    (("alpha", "gamma"), r"no model or method with runs 'gamma'.*known: alpha, beta, linear-probe"),
    (("alpha", "alpha"), "named twice"),
    (("linear-probe", "beta"), "'beta' is a model and 'linear-probe' a method; compare two models, or two methods"),
    (("alpha", "beta", "macro-f1"), r"no metric of a whole run 'macro-f1'; did you mean 'macro_f1'"),
    (("alpha", "beta", "precision"), "no metric of a whole run 'precision'"),
])  # fmt: skip
def test_what_is_no_comparison_is_one_line(filled, asked, message):
    with pytest.raises(BusistoreError, match=message) as caught:
        compare(filled, *asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", ["dataset", "split", "protocol", "method", "model"])
def test_an_option_that_fits_no_run_names_the_known(filled, option):
    with pytest.raises(UnknownName, match=r"no .* with runs 'elsewhere'"):
        compare(filled, "alpha", "beta", **{option: "elsewhere"})


def test_shots_without_runs_name_those_there_are(filled):
    with pytest.raises(BusistoreError, match="no common runs with 8 shots, 5%; there are 1 shot, 2 shots"):
        compare(filled, "alpha", "beta", supports=[(8, None), (None, 0.05)])


@pytest.mark.parametrize(("add", "option"), [
    (crowded.second_split, "--split"), (crowded.other_data_set, "--dataset"), (crowded.second_protocol, "--protocol"),
])  # fmt: skip
def test_several_splits_must_be_narrowed_to_one(tmp_path, add, option):
    store = filled_store(tmp_path / "store")
    add(store)
    beta = [(m, n, s, "SSS") for (m, n), outcomes in OUTCOMES.items() if m == "beta" for s in range(len(outcomes))]
    if add is crowded.second_split:
        for model, shots, seed, outcome in beta:
            run = {"split_id": crowded.OTHER_SPLIT, "episode_id": f"e7episode-{shots}-{seed}"}
            put_runs(store, [(model, shots, seed, outcome)], prefix="b7", **run)
    if add is crowded.second_protocol:
        put_runs(store, beta, prefix="strict", protocol="strict")
    with pytest.raises(BusistoreError, match=f"name one with {option}: "):
        compare(store, "alpha", "beta")
    asked = {"--split": {"split": SPLIT}, "--dataset": {"dataset": "toy"}, "--protocol": {"protocol": "val-tuned"}}
    assert len(compare(store, "alpha", "beta", **asked[option])) == 2


def test_runs_on_other_support_sets_are_not_compared(tmp_path):
    store = filled_store(tmp_path / "store")
    runs = [r for r in store.read("runs").to_pylist() if r["model"] == "beta"]
    store.put(schema.RUNS, [r | {"episode_id": "other-" + r["episode_id"]} for r in runs], replace=True)
    with pytest.raises(BusistoreError, match="on the same support set"):
        compare(store, "alpha", "beta")


def test_runs_without_predictions_are_not_compared(tmp_path):
    store = filled_store(tmp_path / "store")
    store.delete("predictions", "run_id LIKE 'run-beta%'")
    with pytest.raises(BusistoreError, match="'linear-probe' on 'beta' have no predictions"):
        compare(store, "alpha", "beta")


def _change(store: Store, where: str, **columns) -> None:
    rows = [row | columns for row in store.read("runs", where=where).to_pylist()]
    store.put(schema.RUNS, rows, replace=True)


def test_pairs_without_predictions_are_counted(tmp_path):
    store = filled_store(tmp_path / "store")
    store.delete("predictions", "run_id IN ('run-beta-1-0', 'run-beta-1-1')")
    one, two = compare(store, "alpha", "beta", "accuracy")
    assert [(r.what["n_pairs"], r.what["n_unpredicted"], r.difference.both.n_seeds) for r in (one, two)] == [
        (3, 2, 1), (3, 0, 3),
    ]  # fmt: skip
    assert "left out, since a run has no predictions: 2 of 6 pairs of runs; evaluate it here" in comparison.warnings(
        [one, two])  # fmt: skip


def test_stale_pairs_are_those_of_the_query_and_are_counted(tmp_path):
    """beta's runs are stale for a lost vector; once it is back, those alone whose two runs are of older pixels."""
    store = filled_store(tmp_path / "store")
    stale = set(sql.run(store, "stale").filter(stage="run")["run_id"])
    assert stale == {f"run-beta-{shots}-{seed}" for shots in (1, 2) for seed in range(3)}
    rows = compare(store, "alpha", "beta", "accuracy")
    assert [r.what["n_stale"] for r in rows] == [3, 3]
    assert any(said.startswith("stale, since") and "6 of 6 pairs" in said for said in comparison.warnings(rows))
    put_vectors(store, "beta", 6, IMAGE_IDS)
    rows = compare(store, "alpha", "beta", "accuracy")
    assert not any("pairs of runs" in said for said in comparison.warnings(rows))
    _change(store, "shots = 1 AND seed = 2", inputs_sha256="0" * 64)
    rows = compare(store, "alpha", "beta", "accuracy")
    assert [(r.what["n_stale"], r.difference.both.n_seeds) for r in rows] == [(1, 3), (0, 3)]


def test_pairs_of_different_pixels_are_left_out(tmp_path):
    store = filled_store(tmp_path / "store")
    _change(store, "model = 'beta' AND shots = 1 AND seed = 0", inputs_sha256="0" * 64)
    one, two = compare(store, "alpha", "beta", "accuracy")
    np.testing.assert_allclose(one.difference.values, [0, 0], atol=1e-12)  # without the 2/3 of seed 0
    assert (one.what["n_other_pixels"], two.what["n_other_pixels"]) == (1, 0)
    said = run(store, "alpha", "beta").stderr
    assert "the two sides were made from different pixels: 1 of 6 pairs of runs; evaluate both again" in said
    _change(store, "model = 'beta' AND shots = 1", inputs_sha256="0" * 64)
    with pytest.raises(BusistoreError, match="all runs with 1 shot were made from different pixels"):
        compare(store, "alpha", "beta", "accuracy")


@pytest.mark.parametrize(("asked", "given", "message"), [
    (("alpha", "beta"), {"model": "alpha"}, "are models, so --model 'alpha' cannot narrow them.*with --method"),
    (("knn", "linear-probe"), {"method": "knn"}, "are methods, so --method 'knn' cannot narrow them.*with --model"),
])  # fmt: skip
def test_what_is_compared_cannot_be_narrowed(two_methods, asked, given, message):
    with pytest.raises(BusistoreError, match=message):
        compare(two_methods, *asked, **given)


def test_rows_of_several_recipes_weights_parameters_and_texts_are_told_apart(tmp_path):
    store = filled_store(tmp_path / "store")
    beta = [(m, n, s, "SSS") for (m, n), said in OUTCOMES.items() if m == "beta" for s in range(len(said))]
    crowded.second_recipe(store)
    crowded.second_parameters(store)
    put_runs(store, beta, prefix="crop", recipe_id=crowded.OTHER_RECIPE_ID, recipe="crop224")
    put_runs(store, beta, prefix="k2", parameters='{"k":2}')
    assert _held(store) == ["linear-probe k=2 on pad224", "linear-probe k=None on crop224",
                            "linear-probe k=None on pad224"]  # fmt: skip
    crowded.second_weights(store)
    first, other = MODEL_IDS["alpha"], crowded.OTHER_WEIGHTS
    assert _held(store) == [
        f"linear-probe k=2 on pad224 ({first})", f"linear-probe k=None on crop224 ({first})",
        f"linear-probe k=None on pad224 ({first})", f"linear-probe k=None on pad224 ({other})",
    ]  # fmt: skip


def _held(store: Store) -> list[str]:
    """The names of the rows, the same on the page of a terminal and in the figure, one for each size."""
    rows = compare(store, "alpha", "beta", "accuracy")
    on = verb._for_reading(rows, "alpha", "beta")["on"].to_list()
    assert on == [line.group for line in forest.lines(rows)]
    assert len(set(zip(on, (r.support for r in rows)))) == len(rows)
    return sorted(set(on))


def test_methods_with_several_parameters_or_texts_are_told_apart(tmp_path):
    store = filled_store(tmp_path / "store")
    for k in (1, 5):
        put_runs(store, [("alpha", 1, 0, "SUS")], prefix=f"k{k}", method="knn", parameters=f'{{"k":{k}}}')
    for text in ("t1", "t2"):
        put_runs(store, [("alpha", 1, 0, "SUS")], prefix=text, method="tip", details=f'{{"text_id":"{text}"}}')
    names = [line.group for line in forest.lines(compare(store, "knn", "linear-probe", "accuracy"))]
    assert names == ["alpha (knn k=1)", "alpha (knn k=5)"]
    names = [line.group for line in forest.lines(compare(store, "tip", "linear-probe", "accuracy"))]
    assert names == ["alpha (t1)", "alpha (t2)"]
    assert [line.group for line in forest.lines(compare(store, "alpha", "beta", "accuracy"))] == ["", ""]


def test_an_empty_store_names_the_command(store):
    with pytest.raises(BusistoreError, match="busistore evaluate"):
        compare(store, "alpha", "beta")


# The verb


def run(store: Store, *arguments: str):
    asked = ["compare", *arguments, "--store", str(store.path)]
    return CliRunner().invoke(app, asked, catch_exceptions=False)


def test_the_table_says_what_is_compared_and_warns(filled, monkeypatch):
    """Three pairs can never be significant: 2 / 2^3 is above .05."""
    monkeypatch.setenv("COLUMNS", "120")
    done = run(filled, "alpha", "beta", "--metric", "accuracy")
    assert done.exit_code == 0
    assert "compare: accuracy of alpha less that of beta, under linear-probe; toy, split" in done.stderr
    assert "warning: p_seeds, over support sets alone: 3 pairs give no p below 0.25" in done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[:3] for line in lines[-2:]] == [["1", "shot", "3"], ["2", "shots", "3"]]
    assert lines[-2].count("●") == 1
    quiet = run(filled, "alpha", "beta", "--metric", "accuracy", "-q")
    assert "compare:" not in quiet.stderr
    assert "warning:" in quiet.stderr


def test_the_family_of_p_is_said_as_it_is(tmp_path):
    """At four shots both are right everywhere, so that their difference has no p."""
    store = filled_store(tmp_path / "store")
    put_runs(store, [(model, 4, seed, "SSS") for model in ("alpha", "beta") for seed in range(3)])
    crowded.more_test_images(store)
    rows = compare(store, "alpha", "beta", "accuracy")
    assert [row.p_holm is None for row in rows] == [False, False, True]
    said = run(store, "alpha", "beta", "--metric", "accuracy").stderr
    assert "p_holm is adjusted for 2 comparisons; 1 more without p" in said
    assert "p_holm is adjusted for 1 comparison\n" in run(store, "alpha", "beta", "--shots", "1").stderr


def test_a_figure_says_what_its_marks_are_and_where_it_is_from(filled, tmp_path):
    assert run(filled, "alpha", "beta", "--figure", str(tmp_path / "f.svg")).exit_code == 0
    drawn = " ".join(re.findall(r"<text[^>]*>([^<]*)<", (tmp_path / "f.svg").read_text()))
    assert "mean difference with its 95% interval" in drawn
    assert "ticks: single support sets" in drawn
    assert f"Split {SPLIT}, protocol val-tuned." in drawn


def test_json_has_the_variance_components_and_both_p(filled):
    rows = json.loads(run(filled, "alpha", "beta", "--format", "json").stdout)
    assert {"difference", "low", "high", "p", "p_holm", "p_seeds", "p_seeds_holm", "var_seeds", "var_groups",
            "var_both", "n_seeds", "shots", "ratio"} <= rows[0].keys()  # fmt: skip
    assert [r["shots"] for r in rows] == [1, 2]


@pytest.mark.parametrize(("ending", "start"), [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_a_figure_is_drawn_by_its_ending_and_always_the_same(filled, tmp_path, ending, start):
    files = [tmp_path / f"{k}{ending}" for k in range(2)]
    for file in files:
        assert run(filled, "alpha", "beta", "--figure", str(file)).exit_code == 0
    assert files[0].read_bytes().startswith(start)
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("name", ["forest.gif", "forest", "missing/forest.svg"])
def test_a_figure_that_cannot_be_drawn_is_one_line(filled, tmp_path, name):
    done = run(filled, "alpha", "beta", "--figure", str(tmp_path / name))
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith("Error: no figure can be")


def test_sizes_are_read_from_text():
    assert sizes("1, 2,5%,0.5%") == [(1, None), (2, None), (None, 0.05), (None, 0.005)]
    assert sizes("") == []


@pytest.mark.parametrize("text", ["few", "5 %%", "%", "1.5"])
def test_sizes_that_are_none_are_a_usage_error(filled, text):
    assert run(filled, "alpha", "beta", "--shots", text).exit_code == 2


def test_a_strip_has_its_marks_where_the_numbers_are():
    assert verb.strip(0.0, -1.0, 1.0, 1.0) == "├" + "─" * 9 + "●" + "─" * 9 + "┤"
    assert verb.strip(-0.5, -0.6, -0.4, 1.0) == "····├●┤···│··········"
    assert verb.strip(0.5, None, None, 1.0) == "··········│····●·····"
    assert verb.strip(0.0, None, None, 0.0) == "··········●··········"


@pytest.mark.parametrize(("metric", "left", "right"), [("auroc", "beta", "alpha"), ("brier", "alpha", "beta")])
def test_the_strip_names_whom_each_side_favours(filled, metric, left, right):
    rows = compare(filled, "alpha", "beta", "accuracy")
    for row in rows:
        row.what["metric"] = metric
    (head,) = [name for name in verb._for_reading(rows, "alpha", "beta").columns if "0" in name]
    assert head.split("0") == [f"{left} ←".rjust(verb.HALF), f"→ {right}".ljust(verb.HALF)]
