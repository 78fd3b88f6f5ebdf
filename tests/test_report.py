"""The report: its numbers against the queries, its safety as a page, and its looks in a real browser."""

from __future__ import annotations

import base64
import html
import io
import itertools
import json
import math
import re
import shutil
import subprocess
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from busistore import queries, report, schema, sql, stats
from busistore.comparison import Outcomes
from busistore.errors import BusistoreError
from busistore.report import (
    calibration,
    charts,
    curves,
    decisions,
    flow,
    grids,
    leakage,
    parts,
    pictures,
    points,
    settings,
    style,
)
from busistore.store import Store
from tests import crowded
from tests.filled import GROUPING, NAIVE_SPLIT, NOW, add_naive_split, filled_store, image_row, put_runs

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FIGURES = ("flow", "learning-curves", "differences", "confusion", "roc", "reliability", "decisions", "hardest-images")
TABLES = ("table-1", "audit", "leakage", "leaderboard", "calibration", "run-costs", "models", "settings")
EVIL = '<img src=x onerror="alert(1)">&$x$'


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return filled_store(tmp_path_factory.mktemp("filled") / "store")


@pytest.fixture(scope="module")
def page(store, tmp_path_factory) -> Path:
    return report.build(store, tmp_path_factory.mktemp("report") / "out")


@pytest.fixture(scope="module")
def empty_page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("empty")
    return report.build(Store.create(folder / "store"), folder / "out")


class Outline(HTMLParser):
    """Tags of a page, checked to nest; ids; every attribute that could fetch something; the cells of each table."""

    VOID = frozenset({"meta", "link", "img", "br", "use", "path", "rect"})

    def __init__(self, text: str):
        super().__init__()
        self.open, self.ids, self.fetched, self.tables = [], [], [], {}
        self.table = self.cell = None
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.fetched += [values[a] for a in ("src", "srcset", "xlink:href", "data", "poster") if a in values]
        self.fetched += [values["href"]] if "href" in values and tag != "a" else []
        if tag == "table":
            self.table = self.tables.setdefault(values["id"].removesuffix("-cells"), [])
        if tag == "tr":
            self.table.append([])
        if tag in ("td", "th"):
            self.table[-1].append("")
            self.cell = True
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.cell = None
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.cell:
            self.table[-1][-1] += data


def outline(path: Path) -> Outline:
    return Outline(path.read_text(encoding="utf-8"))


def column(cells: list[list[str]], name: str) -> list[str]:
    return [row[cells[0].index(name)] for row in cells[1:]]


# The page as a whole


@pytest.mark.parametrize("name", FIGURES + TABLES)
def test_page_holds_each_figure_and_table(page, name):
    assert outline(page).ids.count(name) == 1


def test_ids_are_unique(page):
    ids = outline(page).ids
    assert len(ids) == len(set(ids))


def test_internal_references_point_to_ids(page):
    text = page.read_text(encoding="utf-8")
    wanted = set(re.findall(r'(?:href="#|url\(#)([^)"]+)', text))
    assert wanted
    assert wanted <= set(outline(page).ids)


@pytest.mark.parametrize("which", ["page", "empty_page"])
def test_page_fetches_nothing(which, request):
    path = request.getfixturevalue(which)
    text = path.read_text(encoding="utf-8")
    assert all(value.startswith(("data:", "#")) for value in outline(path).fetched)
    assert not re.search(r"https?:|@import|<script|<iframe|<base|url\((?!#)", text)
    assert 'name="viewport" content="width=device-width' in text


def test_empty_store_gives_a_page_that_names_the_commands(empty_page):
    text = html.unescape(empty_page.read_text(encoding="utf-8"))
    for command in ("busistore ingest busi PATH", "busistore split busi", "busistore evaluate --method"):
        assert command in text
    assert "The store is empty" in text


def test_store_without_runs_still_shows_its_images(tmp_path):
    from tests.filled import IMAGE_IDS, _picture

    store = Store.create(tmp_path / "store")
    store.put(schema.IMAGES, [image_row(i, _picture(i)) for i in IMAGE_IDS])
    path = report.build(store, tmp_path / "out")
    cells = outline(path).tables
    assert column(cells["table-1"], "All")[0] == "12"
    assert "leaderboard" not in cells
    assert "no run has been made yet" in path.read_text(encoding="utf-8")


def test_equal_stores_give_equal_files(page, tmp_path):
    again = report.build(filled_store(tmp_path / "store"), tmp_path / "out")
    names = sorted(p.name for p in page.parent.iterdir())
    assert names == sorted(p.name for p in again.parent.iterdir())
    assert all((page.parent / n).read_bytes() == (again.parent / n).read_bytes() for n in names)


def test_progress_and_title(store, tmp_path):
    steps = []
    path = report.build(store, tmp_path, title="My <own> title", progress=steps.append)
    assert steps == ["data", "intervals", "figures", "page"]
    assert "<title>My &lt;own&gt; title</title>" in path.read_text(encoding="utf-8")


def test_folder_that_cannot_be_written_is_one_line(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BusistoreError, match="no report can be written to"):
        report.build(store, tmp_path / "file")


def test_labels_and_names_cannot_become_markup(tmp_path):
    """A label, a file name and a reason that are HTML arrive as text everywhere, in figures too."""
    store = filled_store(tmp_path / "store")
    for table, column_ in ((schema.IMAGES, "label"), (schema.PREDICTIONS, "label"), (schema.FAILURES, "reason"),
                           (schema.RUNS, "method"), (schema.MODELS, "licence")):  # fmt: skip
        _poison(store, table, column_)
    path = report.build(store, tmp_path / "out")
    text = path.read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert {EVIL, html.escape(EVIL)} & set(outline(path).tables["table-1"][0])
    assert outline(path).tables["leaderboard"][1][0] == EVIL
    assert re.search(r"<text[^>]*>&lt;img src=x", text), "a class on a confusion matrix's axis"
    assert not any(value == "x" for value in outline(path).fetched)


def _poison(store: Store, table: schema.Table, column_: str) -> None:
    """Set a text column of every row to EVIL, or of the malignant ones where it is the label."""
    rows = store.read(table.name).to_pylist()
    if table.blobs:
        files = store.files(table)
        rows = [row | {"png": files[row["image_id"]]} for row in rows]
    for row in rows:
        row[column_] = EVIL if column_ != "label" or row["label"] == "malignant" else row["label"]
    store.put(table, rows, replace=True)


def test_second_protocol_and_data_set_have_their_own_sections(tmp_path):
    store = filled_store(tmp_path / "store")
    runs = [r for r in store.read("runs").to_pylist() if r["model"] == "alpha"]
    for table in (schema.PREDICTIONS, schema.METRICS):
        rows = [r for r in store.read(table.name).to_pylist() if "alpha" in r["run_id"]]
        store.put(table, [r | {"run_id": "strict-" + r["run_id"]} for r in rows])
    store.put(schema.RUNS, [r | {"run_id": "strict-" + r["run_id"], "protocol": "strict"} for r in runs])
    first = store.read("images").to_pylist()[0]
    picture = store.files(schema.IMAGES)[first["image_id"]]
    store.put(schema.IMAGES, [first | {"image_id": "other/normal-0001", "dataset": "other", "png": picture}])
    seen = outline(report.build(store, tmp_path / "out"))
    assert len(seen.ids) == len(set(seen.ids))
    assert {f"{name}-2" for name in ("leaderboard", "roc", "learning-curves", "hardest-images")} <= set(seen.ids)
    assert column(seen.tables["leaderboard-2"], "Encoder") == ["alpha"]
    assert column(seen.tables["table-1-2"], "All")[0] == "1"


def test_runs_without_shots_and_without_predictions_give_a_leaderboard(tmp_path):
    """A zero-shot result taken from a paper: metrics alone."""
    store = filled_store(tmp_path / "store")
    runs = [r | {"shots": 0, "seed": None} for r in store.read("runs").to_pylist()]
    store.put(schema.RUNS, runs, replace=True)
    store.delete("predictions", "true")
    seen = outline(report.build(store, tmp_path / "out"))
    assert column(seen.tables["leaderboard"], "Shots") == ["0", "0"]
    assert not {"learning-curves", "roc", "zero-shot", "supervised"} & set(seen.ids)
    assert "without a support set, linear-probe on alpha, reaches" in (tmp_path / "out" / "index.html").read_text()


def add_runs_apart(store: Store) -> None:
    """Beside the grid: zero-shot runs of both encoders, one that chose prompts, and a map from the training labels."""
    zero = {"method": "zero-shot", "shots": 0, "seed": 0, "episode_id": "0shot-seed0-000000000000", "n_labelled": 0}
    plain, ranked = ({"parameters": json.dumps({"prompts": "p-1", "rank": r})} for r in ("none", "val"))
    put_runs(store, [("alpha", 0, 0, "SUW")], prefix="zero", **zero | plain)
    put_runs(store, [("beta", 0, 0, "SSW")], prefix="zero", **zero | plain)
    put_runs(store, [("beta", 0, 0, "SSS")], prefix="ranked", **zero | ranked | {"n_labelled": 3})
    read = {"method": "text-readout", "shots": None, "episode_id": "train-seed0-000000000000", "n_labelled": 6}
    put_runs(store, [("alpha", 0, 0, "SSS")], prefix="read", **zero | plain | read)


def test_runs_without_a_support_set_stand_apart_and_leave_the_comparison_as_it_was(store, page, tmp_path):
    more = filled_store(tmp_path / "store")
    add_runs_apart(more)
    seen = outline(report.build(more, tmp_path / "out"))
    assert seen.tables["leaderboard"] == outline(page).tables["leaderboard"]
    zero, read = seen.tables["zero-shot"], seen.tables["supervised"]
    assert column(zero, "Setting") == ["zero-shot rank=val", "zero-shot rank=none", "zero-shot rank=none"]
    assert column(zero, "Encoder") == ["beta", "alpha", "beta"]
    assert column(zero, "Labelled images") == ["3", "0", "0"]
    assert column(zero, "Balanced accuracy") == ["1.000", "0.667", "0.667"]
    assert [row[:3] for row in read[1:]] == [["text-readout", "alpha", "6"]]
    text = (tmp_path / "out" / "index.html").read_text()
    assert "16 runs: 6 settings" in text
    assert "4 settings without a drawn support set stand apart." in text
    assert "zero-shot rank=none 0.556 without a support set" in text  # in the words beside the curve of alpha
    assert "Support sets of 1 and 2 images per class" in text
    assert "he best of 2 settings at 2 labelled images per class" in html.unescape(text)
    drawn = pl.read_csv(tmp_path / "out" / "learning-curves.points.csv")
    assert set(drawn["Method"]) == {"linear-probe"}


def test_a_store_of_zero_shot_runs_alone_ranks_them(tmp_path):
    store = filled_store(tmp_path / "store")
    add_runs_apart(store)
    store.delete("runs", "method = 'linear-probe'")
    seen = outline(report.build(store, tmp_path / "out"))
    assert column(seen.tables["leaderboard"], "Setting")[0] == "zero-shot rank=val"
    assert column(seen.tables["leaderboard"], "Shots") == ["0", "0", "0"]
    assert "supervised" in seen.tables
    assert {"confusion", "roc", "reliability", "hardest-images"} <= set(seen.ids)
    assert "learning-curves" not in seen.ids
    text = (tmp_path / "out" / "index.html").read_text()
    assert "he best of 3 settings without a support set, zero-shot rank=val on beta, reaches" in text
    assert "No setting learned from an image." in text
    assert "Support sets of" not in text


def test_a_store_of_supervised_read_outs_alone_ranks_nothing(tmp_path):
    store = filled_store(tmp_path / "store")
    add_runs_apart(store)
    store.delete("runs", "method <> 'text-readout'")
    seen = outline(report.build(store, tmp_path / "out"))
    assert "leaderboard" not in seen.tables
    assert [row[0] for row in seen.tables["supervised"][1:]] == ["text-readout"]
    assert "no run has a support set of its own yet" in (tmp_path / "out" / "index.html").read_text()


def add_shares(store: Store) -> None:
    """Runs of alpha on 5 and 20 % of the training part."""
    for ratio, outcomes in ((0.05, ("SUW", "WWW", "SSS")), (0.2, ("SSS", "SSU", "SSW"))):
        for seed, outcome in enumerate(outcomes):
            at = {"shots": None, "ratio": ratio, "episode_id": f"{ratio}-{seed}"}
            put_runs(store, [("alpha", 0, seed, outcome)], prefix=f"share{ratio}", **at)


def test_shares_of_the_training_part_have_a_figure_of_their_own(page, tmp_path):
    store = filled_store(tmp_path / "store")
    add_shares(store)
    path = report.build(store, tmp_path / "out")
    seen = outline(path)
    assert {"share-curves", "learning-curves"} <= set(seen.ids)
    assert seen.tables["leaderboard"] == outline(page).tables["leaderboard"]
    assert not {"supervised", "zero-shot"} & set(seen.tables)
    drawn = pl.read_csv(path.parent / "share-curves.points.csv")
    assert drawn.filter(Metric="Macro-F1").select("Share", "Seeds").rows() == [("5%", 3), ("20%", 3)]
    values = sql.run(store, "report_curves").filter(metric="macro_f1", ratio=0.05)["value"]
    assert drawn.filter(Metric="Macro-F1")["Mean"][0] == pytest.approx(values.mean(), abs=5e-5)
    text = html.unescape(path.read_text(encoding="utf-8"))
    assert "Support sets of 5% and 20% of each class of the training part were drawn too." in text
    assert "by labelled share of the training part: linear-probe from" in text
    assert pl.read_csv(path.parent / "learning-curves.points.csv")["Shots"].unique().sort().to_list() == [1, 2]


def test_a_store_of_shares_alone_draws_them(tmp_path):
    store = filled_store(tmp_path / "store")
    add_shares(store)
    store.delete("runs", "shots IS NOT NULL")
    seen = outline(report.build(store, tmp_path / "out"))
    assert "share-curves" in seen.ids
    assert "leaderboard" not in seen.tables
    assert "learning-curves" not in seen.ids


def test_leakage_is_shown_where_both_splits_are_there(page, tmp_path):
    store = filled_store(tmp_path / "store")
    add_naive_split(store)
    path = report.build(store, tmp_path / "out")
    seen = outline(path)
    assert "leakage-delta" not in outline(page).ids
    assert "leakage-delta" in seen.ids
    wanted = sql.run(store, "leakage_delta")
    shown = [row for row in seen.tables["leakage-deltas"][1:] if row[0] == "Macro-F1"]
    assert [row[2] for row in shown] == ["1 shot", "2 shots"]
    assert [row[6].split(" ")[0] for row in shown] == [f"{v:.3f}" for v in wanted["difference"]]
    assert shown[0][7:] == ["33.3% / 0.0%", "0.0% / 0.0%"]
    text = html.unescape(path.read_text(encoding="utf-8"))
    assert "This split cuts 1 near-duplicate group: these scores are optimistic" in text
    assert "Results: toy, val-tuned, on a split that cuts groups" in text
    assert column(seen.tables["leaderboard"], "Runs") == ["3", "3"], "the grouped split comes first"
    assert column(seen.tables["leaderboard-2"], "Encoder") == ["alpha"]


def test_leakage_of_two_protocols_is_told_apart(tmp_path):
    store = filled_store(tmp_path / "store")
    add_naive_split(store)
    for split_id, prefix, said in ((None, "strict", "SWW"), (NAIVE_SPLIT, "naive-strict", "WWW")):
        for seed in range(3):
            at = {"split_id": split_id, "episode_id": f"{split_id}-1-{seed}"} if split_id else {}
            put_runs(store, [("alpha", 1, seed, said)], prefix=prefix, protocol="strict", **at)
    seen = outline(report.build(store, tmp_path / "out")).tables["leakage-deltas"]
    wanted = sql.run(store, "leakage_delta").select("protocol", "shots", "mean_naive").rows()
    shown = [(row[1].split(", ")[0], int(row[2][0]), float(row[4])) for row in seen[1:] if row[0] == "Macro-F1"]
    assert shown == [(protocol, shots, pytest.approx(v, abs=5e-4)) for protocol, shots, v in wanted]
    assert {protocol for protocol, *_ in shown} == {"strict", "val-tuned"}


def _delta(method: str, shots: int | None, protocol: str = "strict", ratio: float | None = None) -> dict:
    """A row of `leakage_delta`, as far as it is chosen by."""
    return ROW | {"method": method, "shots": shots, "ratio": ratio, "dataset": "toy", "protocol": protocol}


def test_of_many_leakage_rows_every_setting_keeps_its_largest_common_size():
    rows = [_delta(f"m{k}", shots) for k in range(9) for shots in (1, 2, 4) if (k, shots) != (8, 4)]
    shown = leakage._shown(rows)
    assert [(r["method"], r["shots"]) for r in shown] == [(f"m{k}", 2) for k in range(9)]
    assert leakage._shown(rows[:20]) == rows[:20]
    apart = [*rows, *(_delta("m0", s, "val-tuned") for s in (1, 8)), _delta("m1", 1, "val-tuned")]
    assert [r["shots"] for r in leakage._shown(apart)][9:] == [1, 1]
    shares = [_delta("z", None, "val-tuned", ratio) for ratio in (0.05, 0.2)]
    alone = [*rows, *shares, _delta("y", 4, "val-tuned")]
    assert [(r["shots"], r["ratio"]) for r in leakage._shown(alone)][9:] == [(None, 0.2), (4, None)]
    many = [_delta(f"m{k:02}", shots) for k in range(30) for shots in (1, 2)]
    assert [r["shots"] for r in leakage._shown(many)] == [2] * leakage.MOST_ROWS


def test_leakage_rows_of_every_metric_are_shown_and_what_is_not_is_said(tmp_path, monkeypatch):
    store = filled_store(tmp_path / "store")
    add_naive_split(store)
    monkeypatch.setattr(leakage, "MOST_ROWS", 1)
    path = report.build(store, tmp_path / "out")
    assert [row[0::2][:2] for row in outline(path).tables["leakage-deltas"][1:]] == [
        ["Macro-F1", "2 shots"], ["AUROC", "2 shots"],
    ]  # fmt: skip
    text = path.read_text(encoding="utf-8")
    assert text.count("Shown: the largest support sets that all settings have") == 2
    assert "the CSV of a metric holds all 2 rows." in text


def _differences_of(store: Store, out: Path) -> str:
    text = html.unescape(report.build(store, out).read_text(encoding="utf-8"))
    return " ".join(text[text.index('id="differences"') :].split("Data:")[0].split())


def test_differences_are_adjusted_for_those_that_are_drawn_and_say_what_is_left_out(tmp_path):
    """Four settings of which one has no predictions: two differences to the leader, one setting left out."""
    store = filled_store(tmp_path / "store")
    runs = [("alpha", shots, seed, said) for shots in (1, 2) for seed, said in enumerate(("SWW", "SUW", "UWW"))]
    for method in ("knn", "prototype"):
        put_runs(store, runs, prefix=method, method=method)
    crowded.more_test_images(store)
    assert "Holm adjusted for the 3 comparisons of a panel" in _differences_of(store, tmp_path / "all")
    store.delete("predictions", "run_id LIKE 'knn%'")
    said = _differences_of(store, tmp_path / "some")
    assert "Holm adjusted for the 2 comparisons of a panel" in said
    assert "Left out: 1 setting without predictions of the same images." in said
    store.delete("predictions", "run_id LIKE 'prototype%'")
    assert "Holm adjusted for the 1 comparison of a panel" in _differences_of(store, tmp_path / "one")


def test_differences_without_any_p_speak_of_none(page):
    text = html.unescape(page.read_text(encoding="utf-8"))
    assert 'id="differences"' in text
    assert "Holm" not in text[text.index('id="differences"') :].split("Data:")[0]


def test_differences_are_those_of_the_leader(store, page):
    """One group of each class, so no interval and no p; the mean is that of the leaderboard."""
    drawn = pl.read_csv(page.parent / "differences.points.csv").filter(Metric="Macro-F1")
    first, second = sql.run(store, "report_leaderboard")["macro_f1"]
    assert drawn.select("Less", "Low").rows() == [("linear-probe, beta", "–")]
    assert drawn["Difference"][0] == pytest.approx(first - second, abs=5e-5)


def test_settings_on_other_support_sets_are_not_subtracted(tmp_path):
    store = filled_store(tmp_path / "store")
    runs = [r for r in store.read("runs").to_pylist() if r["model"] == "beta"]
    store.put(schema.RUNS, [r | {"episode_id": "other-" + r["episode_id"]} for r in runs], replace=True)
    assert "differences" not in outline(report.build(store, tmp_path / "out")).ids


def test_what_is_too_large_is_not_written_and_what_cannot_be_read_is_left_out(store, page, tmp_path, monkeypatch):
    from busistore.report import arms

    monkeypatch.setattr(arms, "MOST_WRITTEN", 0)
    path = report.build(store, tmp_path / "unwritten")
    assert not (path.parent / "outcomes.csv").exists()
    assert (path.parent / "outcomes.sql").exists()
    assert "too large to stand here" in path.read_text(encoding="utf-8")
    assert outline(path).tables["calibration"] == outline(page).tables["calibration"]
    monkeypatch.setattr(arms, "MOST_OUTCOMES", 6 * 3)  # the runs of one size at a time
    path = report.build(store, tmp_path / "some")
    assert outline(path).tables["calibration"] == outline(page).tables["calibration"]
    monkeypatch.setattr(arms, "MOST_OUTCOMES", 6 * 3 - 1)
    seen = outline(report.build(store, tmp_path / "none"))
    assert not {"roc", "reliability", "decisions", "differences"} & set(seen.ids)
    assert {"learning-curves", "confusion"} <= set(seen.ids)
    assert "there are more than 17 predictions: all lines." in (tmp_path / "none" / "index.html").read_text()
    assert not (tmp_path / "none" / "outcomes.sql").exists()


def noisy_store(path: Path) -> Store:
    """Runs on a grid, at shares and apart, on four groups of test images in each class."""
    store = filled_store(path)
    add_runs_apart(store)
    add_shares(store)
    put_runs(store, [("alpha", 1, 3, "WUS")])
    crowded.more_test_images(store)
    return store


def _measured(store: Store) -> tuple:
    """(points in order, settings whose predictions are kept) of the first comparison."""
    from busistore.report import arms
    from busistore.report.sources import Sources

    with Sources(store) as sources:
        (arm,) = arms.arms(sources)
    return [*arm.points, *arm.levels, *arm.shares], set(arm.said), arm.beyond


def test_intervals_of_a_line_are_of_one_kind_however_large_the_whole(tmp_path, monkeypatch):
    """Read size by size the points are those of all at once; a size that alone is too large takes its whole lines."""
    from busistore.report import arms

    store = noisy_store(tmp_path / "store")
    wanted, kept, beyond = _measured(store)
    assert {p.interval for p in wanted if p.n_seeds > 1} == {points.TWO_WAY}
    assert {(setting[0], shots) for setting, shots, _ in kept} == {("linear-probe", 2)}
    assert not beyond
    monkeypatch.setattr(arms, "MOST_WRITTEN", 0)
    monkeypatch.setattr(arms, "MOST_OUTCOMES", 7 * 12)  # the largest of the sizes, and far from all
    assert _measured(store) == (wanted, kept, beyond)
    monkeypatch.setattr(arms, "MOST_OUTCOMES", 7 * 12 - 1)
    found, still, beyond = _measured(store)
    assert {p.interval for p in found if p.setting in beyond} == {points.STUDENT}
    assert {key[0] for key in beyond} == {"linear-probe"}
    assert {p.interval for p in found if p.setting not in beyond} == {points.ONE_WAY}
    assert still == kept


def test_the_figure_says_which_lines_have_too_many_predictions(tmp_path, monkeypatch):
    from busistore.report import arms

    store = noisy_store(tmp_path / "store")
    monkeypatch.setattr(arms, "MOST_WRITTEN", 0)
    assert "Over seeds alone at every size" not in report.build(store, tmp_path / "a").read_text()
    monkeypatch.setattr(arms, "MOST_OUTCOMES", 7 * 12 - 1)
    text = report.build(store, tmp_path / "b").read_text()
    assert "there are more than 83 predictions: linear-probe, alpha and linear-probe, beta." in text


# Numbers


def test_every_csv_is_the_answer_to_the_sql_beside_it(store, page):
    files = sorted(page.parent.glob("*.sql"))
    assert len(files) >= 13
    for file in files:
        text, _, bound = file.read_text().partition("\n-- bound:\n")
        parameters = dict.fromkeys(re.findall(r"^-- \$(\w+):", text, re.M))
        parameters |= json.loads(bound.removeprefix("-- ")) if bound else {}
        wanted = sql.run(store, text, parameters)
        found = file.with_suffix(".csv").read_text()
        assert found == _as_csv(wanted), file.name


def _as_csv(frame: pl.DataFrame) -> str:
    lists = [c for c, kind in frame.schema.items() if isinstance(kind, pl.List)]
    rows = [r | {c: " ".join(map(str, r[c])) for c in lists} for r in frame.to_dicts()]
    return pl.DataFrame(rows, schema=frame.schema | dict.fromkeys(lists, pl.String)).write_csv()


def test_every_figure_and_table_links_its_csv_and_names_its_data(store, page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r'<a href="([^"#]+)"', text):
        assert (page.parent / link).is_file()
    for name in FIGURES + TABLES:
        block = text[text.index(f'id="{name}"') :].split('class="from"')[1][:4000]
        assert re.search(r"Data: \w[^<]* v\d", block), name
        assert "<summary>SQL</summary>" in block
    assert f"predictions v{store.version('predictions')}, runs v{store.version('runs')}" in text


def test_leaderboard_shows_the_numbers_of_the_query(store, page):
    cells = outline(page).tables["leaderboard"]
    wanted = sql.run(store, "report_leaderboard")
    assert column(cells, "Encoder") == wanted["model"].to_list()
    scores = [c.split(" ")[0] for c in column(cells, "Macro-F1 (95% interval)")]
    assert scores == [f"{v:.3f}" for v in wanted["macro_f1"]]
    assert column(cells, "AUROC M vs B") == [f"{v:.3f}" for v in wanted["auroc_malignant_vs_benign"]]


def test_table1_counts_by_hand(page):
    """Twelve images, four of each class; benign-0002 has two lesions, malignant-0003 touches the edge."""
    rows = {row[0]: row[1:] for row in outline(page).tables["table-1"]}
    assert rows["Characteristic"] == ["Benign", "Malignant", "Normal", "All"]
    assert rows["Images"] == ["4", "4", "4", "12"]
    assert rows["Lesions"] == ["4", "4", "0", "8"]
    assert rows["Several lesions"] == ["1 (25%)", "0 (0%)", "0 (0%)", "1 (8%)"]
    assert rows["Lesion touches the edge"] == ["0 (0%)", "1 (25%)", "0 (0%)", "1 (8%)"]
    assert rows["Near-duplicate groups"] == ["1", "1", "1", "2"]
    assert rows["Images with a near-duplicate"] == ["2 (50%)", "1 (25%)", "2 (50%)", "5 (42%)"]
    assert "add up to more than All" in page.read_text(encoding="utf-8")  # 1 + 1 + 1 groups, of which G0 counts twice
    assert rows["Training part"] == ["2 (50%)", "2 (50%)", "2 (50%)", "6 (50%)"]


def test_learning_curve_points_are_means_over_seeds(store, page):
    drawn = pl.read_csv(page.parent / "learning-curves.points.csv")
    values = sql.run(store, "report_curves").group_by("model", "metric", "shots").agg(pl.col("value").mean())
    for model, metric, shots, mean in values.iter_rows():
        here = drawn.filter(Encoder=model, Metric=points.METRICS[metric], Shots=shots)
        assert here["Mean"].to_list() == [pytest.approx(mean, abs=5e-5)]
    assert set(drawn["Interval"]) == {"–"}, "one group a class says nothing of new images"


ROW = {"method": "m", "model_id": "a", "recipe_id": "r", "parameters": "{}", "metric": "macro_f1", "shots": 1}
SIZE = (("m", "a", "r", "{}"), 1, None)


def _values(*values: float, **changes) -> pl.DataFrame:
    """Rows of `report_curves`, one per seed."""
    rows = [ROW | changes | {"run_id": str(k), "value": v} for k, v in enumerate(values)]
    return pl.DataFrame(rows).with_columns(pl.lit(changes.get("ratio"), pl.Float64).alias("ratio"))


def _said(predicted: list[list[int]], true: list[int], classes: str = "ab") -> Outcomes:
    """Runs that are certain of the classes they predict, each image its own group."""
    probs = np.eye(len(classes))[predicted]
    return Outcomes(np.array(true), list(map(str, range(len(true)))), list(classes), probs,
                    [f"e{k}" for k in range(len(probs))], "images")  # fmt: skip


def _points_of(n_seeds: int, wrong: tuple[int, ...] = (0, 3)) -> list[points.Point]:
    """Points of macro-F1 on six images of two classes, each its own group; with seed s image `wrong[s]` is wrong."""
    true = [0, 0, 0, 1, 1, 1]
    predicted = [[1 - c if k == wrong[s] else c for k, c in enumerate(true)] for s in range(n_seeds)]
    return points.points(_values(*[29 / 35] * n_seeds), {SIZE: _said(predicted, true)})


@pytest.mark.parametrize(("n_seeds", "kind"), [(1, points.ONE_WAY), (2, points.TWO_WAY)])
def test_intervals_of_macro_f1_cover_groups_and_say_whether_seeds(n_seeds, kind):
    (point,) = _points_of(n_seeds)
    assert (point.interval, point.n_seeds) == (kind, n_seeds)
    assert 0 <= point.low < point.mean < point.high <= 1


def test_intervals_fall_back_to_seeds_without_predictions():
    values = _values(0.4, 0.6)
    (point,) = points.points(values, {})
    half = 12.706204736432095 * math.sqrt(0.02) / math.sqrt(2)  # t(0.975, 1 degree of freedom)
    assert (point.mean, point.interval, point.n_seeds) == (pytest.approx(0.5), points.STUDENT, 2)
    assert half > 1, "Student's t alone would leave the range of the metric"
    assert (point.low, point.high) == (0, 1)
    (narrow,) = points.points(values.with_columns(pl.col("value") / 100 + 0.5), {})
    assert (narrow.low, narrow.high) == pytest.approx((0.505 - half / 100, 0.505 + half / 100))


@pytest.mark.parametrize("metric", points.METRICS)
def test_every_metric_has_the_interval_over_seeds_and_groups(metric):
    """On the probabilities, not on what was said: that of the statistics themselves."""
    rng = np.random.default_rng(3)
    probs = rng.dirichlet(np.ones(3), (4, 30))
    true = np.repeat([0, 1, 2], 10)
    said = Outcomes(true, [str(k // 2) for k in range(30)], ["benign", "malignant", "normal"], probs, list("abcd"), "i")
    wanted = stats.two_way(metric, true, probs, said.groups, said.classes)
    (point,) = points.points(_values(0.1, 0.2, 0.3, 0.4, metric=metric), {SIZE: said})
    assert (point.low, point.high) == (wanted.low, wanted.high)
    assert (point.interval, point.values) == (points.TWO_WAY, (0.1, 0.2, 0.3, 0.4))


def test_an_interval_of_other_runs_is_not_taken():
    """Outcomes of two runs for three values: some run predicted nothing, or on other images."""
    (point,) = points.points(_values(0.1, 0.2, 0.3), {SIZE: _said([[0, 1], [1, 1]], [0, 1])})
    assert point.interval == points.STUDENT


@pytest.mark.parametrize(("n", "marks"), [(1, 0), (2, 2), (20, 20), (21, 2)])
def test_seeds_are_marks_and_of_many_the_middle(n, marks):
    values = tuple(k / 100 for k in range(n))
    point = points.Point((), "macro_f1", 1, 0.5, None, None, n, points.STUDENT, values=values)
    drawn = curves._spread(point)
    assert len(drawn) == marks
    if n == 21:
        assert drawn == pytest.approx([0.02, 0.18])


@pytest.mark.parametrize("n", [1, 2, 5, 6, 9, 36])
def test_marks_of_seeds_lie_within_the_axis_and_about_their_size(n):
    places = [curves.nudge(k, n) for k in range(n)]
    assert max(map(abs, places)) < curves.ROOM
    assert sum(places) == pytest.approx(0)
    assert len(set(places)) == n


def test_the_axis_of_a_learning_curve_holds_the_marks_of_every_line(monkeypatch):
    names = {(f"m{k}", "a", "r", "{}"): settings.Setting("clip", f"m{k}") for k in range(9)}
    found = [points.Point(k, "macro_f1", shots, 0.5, 0.4, 0.6, 3, points.TWO_WAY, values=(0.4, 0.5, 0.6))
             for k in names for shots in (1, 2)]  # fmt: skip
    marks, limits, draw = [], [], curves._draw_seeds

    def spy(axes, line, colour, beside):
        draw(axes, line, colour, beside)
        marks.extend(curves._place(p) + beside for p in line)

    def look(figure, alt):
        limits.append(figure.axes[0].get_xlim())
        return style.panel(figure, alt)

    monkeypatch.setattr(curves, "_draw_seeds", spy)
    monkeypatch.setattr(curves, "panel", look)
    curves.panels(found, names, {})
    assert len(marks) == 18
    assert limits[0][0] < min(marks) < max(marks) < limits[0][1]


def test_bands_join_only_intervals_of_one_kind():
    row = {"setting": (), "metric": "macro_f1", "mean": 0.5, "n_seeds": 2}
    known = {"low": 0.4, "high": 0.6, "interval": points.TWO_WAY}
    kinds = [known, known, {"low": None, "high": None, "interval": points.STUDENT}, known,
             known | {"interval": points.ONE_WAY}]  # fmt: skip
    line = [points.Point(**row, **kind, shots=2**k) for k, kind in enumerate(kinds)]
    assert [[p.shots for p in band] for band in curves.bands(line)] == [[1, 2], [8], [16]]


def test_chance_is_the_expected_f1_of_a_uniform_guess():
    """Three classes of equal size: precision and recall are both 1/3. Unequal: worked by hand."""
    assert points.chance({"a": 5, "b": 5, "c": 5}, "macro_f1") == pytest.approx(1 / 3)
    assert points.chance({"a": 3, "b": 1}, "macro_f1") == pytest.approx((0.6 + 1 / 3) / 2)
    assert points.chance({}, "macro_f1") is None
    assert points.chance({"a": 1}, "auroc_malignant_vs_benign") == 0.5


def _scored(p_malignant: list[list[float]], p_benign: list[list[float]], labels: list[str]) -> Outcomes:
    classes = ["benign", "malignant", "normal"]
    benign, malignant = np.array(p_benign), np.array(p_malignant)
    probs = np.stack([benign, malignant, 1 - benign - malignant], axis=-1)
    true = np.array([classes.index(label) for label in labels])
    return Outcomes(true, list(map(str, range(len(labels)))), classes, probs, [f"e{k}" for k in range(len(probs))], "i")


def test_mean_roc_by_hand():
    """Seed 0 separates perfectly; seed 1 gives all the same score, which is the diagonal."""
    labels = ["malignant", "malignant", "benign", "benign", "normal"]
    said = _scored([[0.9, 0.8, 0.1, 0.2, 1.0], [0.3] * 5], [[0.1, 0.1, 0.8, 0.6, 0.0], [0.3] * 5], labels)
    false_rate, true_rate, area = charts.mean_roc(said)
    assert area == pytest.approx(0.75)
    np.testing.assert_allclose(true_rate[1:-1], (1 + false_rate[1:-1]) / 2)
    assert charts.mean_roc(said._replace(true=np.zeros(5, int))) is None
    assert charts.mean_roc(said._replace(classes=["a", "b", "c"])) is None


def test_decision_curve_by_hand():
    """Two of five are malignant. At 0.5 seed 0 calls .9, .8 and the normal image, seed 1 none."""
    labels = ["malignant", "malignant", "benign", "benign", "normal"]
    said = _scored([[0.9, 0.8, 0.1, 0.2, 1.0], [0.3] * 5], [[0.1, 0.1, 0.8, 0.6, 0.0], [0.3] * 5], labels)
    found = decisions.curve(said)
    at = {float(t): k for k, t in enumerate(decisions.THRESHOLDS)}
    assert found.benefit[at[0.5]] == pytest.approx((2 / 5 - 1 / 5) / 2)
    assert found.benefit[at[0.25]] == pytest.approx(((2 - 1 / 3) / 5 + (2 - 3 / 3) / 5) / 2)
    assert found.of_all[at[0.5]] == pytest.approx(2 / 5 - 3 / 5)
    assert decisions.curve(said._replace(true=np.zeros(5, int))) is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("of_all", [[-0.5, -1.0], [0.3, -1.0]])
@pytest.mark.parametrize("benefit", [[-0.1, -0.2], [0.0, 0.0]])
def test_decision_curves_without_a_benefit_stand_upright(benefit, of_all, monkeypatch):
    limits = []

    def look(figure, alt):
        limits.append(figure.axes[0].get_ylim())
        return style.panel(figure, alt)

    monkeypatch.setattr(decisions, "panel", look)
    wide = [np.interp(decisions.THRESHOLDS, [0, 0.8], ends) for ends in (benefit, of_all)]
    decisions.panel_of({"knn": (0, decisions.Decision(*wide))}, "clip")
    ((low, high),) = limits
    assert low < 0 <= max(0, wide[1].max()) < high


def test_a_method_of_exact_zeros_and_ones_has_no_slope_in_the_table():
    """p of 0, 1/2 and 1, as of two neighbours: the slope is a dash, the errors are not."""
    p = np.array([[0, 0.5, 1, 0.5, 0, 1.0, 0.5, 0.5]])
    said = Outcomes(np.array([0, 0, 0, 0, 1, 1, 1, 1]), list("abcdefgh"), ["benign", "malignant"],
                    np.stack([1 - p, p], axis=-1), ["e"], "i")  # fmt: skip
    row = calibration.table("c", [(settings.Setting("clip", "knn"), said)], []).rows[0]
    cells = dict(zip(calibration.HEAD, row))
    assert (cells["Slope"], cells["Runs with a slope"]) == ("–", "0")
    assert cells["Brier"] == "0.375"
    assert "exactly 0 or 1" in calibration.NOTE


def test_calibration_table_by_hand():
    """Certain and right but once: Brier of p(malignant) is 1/4, uncertainty 1/4; slopes do not exist."""
    classes = ["benign", "malignant"]
    said = Outcomes(np.array([0, 0, 1, 1]), list("abcd"), classes, np.eye(2)[[[0, 1, 1, 1]]], ["e"], "i")
    row = calibration.table("c", [(settings.Setting("clip", "knn"), said)], []).rows[0]
    cells = dict(zip(calibration.HEAD, row))
    assert (cells["Brier"], cells["Uncertainty"], cells["ECE"]) == ("0.250", "0.2500", "0.250")
    assert float(cells["Reliability"]) - float(cells["Resolution"]) == pytest.approx(0, abs=1e-3)
    blind = calibration.table("c", [(settings.Setting("clip", "knn"), said._replace(classes=["a", "b"]))], []).rows[0]
    assert blind[4:] == ["–"] * (len(calibration.HEAD) - 4)


def _words(newest: dict | None = None, **row) -> str:
    """What is said of one split with 3 runs, made of the grouping g1."""
    from busistore.report.leakage import words as leakage_words

    before = {"split_id": "s", "grouping": "g1", "n_runs": 3, "n_groups_cut": 0}
    before |= {"exposure_support_max": 0.0, "exposure_val_max": 0.0}
    return leakage_words([before | row], {"s": newest} if newest else {})


def test_split_that_cuts_groups_is_said_aloud():
    assert _words().startswith("No near-duplicate group that a split was made of is cut by it. No test image")
    assert _words(n_groups_cut=2).startswith("2 near-duplicate groups are cut by a split: scores on it are optimistic.")


def test_cuts_of_a_newer_grouping_are_said_apart():
    assert "These groups are of the newest grouping." in _words({"grouping": "g1", "n_groups_cut": 0})
    assert "Of the newest grouping, g2, 1 group is cut" in _words({"grouping": "g2", "n_groups_cut": 1})
    assert "Nor is a group of the newest grouping, g2." in _words({"grouping": "g2", "n_groups_cut": 0})


def test_exposure_names_only_the_parts_that_runs_looked_at():
    assert "in the support or validation images that it used" in _words()
    unseen = _words(exposure_val_max=None)
    assert "in the support images that it used. No run looked at validation images." in unseen
    leaky = _words(exposure_support_max=0.125)
    assert "have a near-duplicate where it learned: 12.5% in its support images." in leaky
    assert "No run has recorded its exposure" in _words(exposure_support_max=None, exposure_val_max=None)


def test_newest_grouping_counts_whatever_its_name(tmp_path):
    """A later grouping that joins a train and a test image, with a name that sorts first."""
    store = filled_store(tmp_path / "store")
    joined = {"toy/normal-0001", "toy/normal-0004"}
    later = {"grouping": "a-later", "grouped_at": NOW + timedelta(days=1)}
    rows = [r | later | ({"group_id": "J", "size": 2} if r["image_id"] in joined else {"group_id": r["image_id"]})
            for r in store.read("groups").to_pylist()]  # fmt: skip
    store.put(schema.GROUPS, rows)
    path = report.build(store, tmp_path / "out")
    text = html.unescape(path.read_text(encoding="utf-8"))
    assert column(outline(path).tables["leakage"], "Groups cut") == ["0"]
    assert column(outline(path).tables["leakage"], "Cut, newest grouping") == ["1"]
    assert f"The split was made of the grouping {GROUPING}; groups are counted by the newest one, a-later." in text


# Which settings may be compared


def _grid(*rows: tuple) -> grids.Grid:
    """A grid of rows (method, shots, seeds, episodes)."""
    ids_ = {"model_id": "a", "recipe_id": "r", "parameters": "{}"}
    return grids.grid(
        ids_ | {"method": m, "shots": s, "seeds": list(seeds), "episode_ids": list(episodes), "n_runs": len(seeds)}
        for m, s, seeds, episodes in rows
    )  # fmt: skip


def test_settings_are_compared_at_the_most_shots_that_all_have_with_equal_seeds():
    both = [(m, s, (0, 1), (f"{s}a", f"{s}b")) for m in "xy" for s in (1, 2)]
    assert _grid(*both).shots == 2
    assert _grid(*both, ("x", 4, (0,), ("4a",))).shots == 2
    uneven = _grid(*both, ("x", 4, (0,), ("4a",)), ("y", 4, (0, 1), ("4a", "4b")))
    assert (uneven.shots, uneven.same_sets, uneven.one_set) == (2, True, False)
    assert "Runs at 4 do not cover all settings equally" in uneven.words()
    assert uneven.n_runs() == [1, 2]
    apart = _grid(("x", 1, (0,), "a"), ("y", 2, (0,), "b"))
    assert (apart.shots, apart.same_sets, apart.several) == (None, False, False)
    assert "they are not ranked" in apart.words()
    assert grids.grid([]).shots is None


def test_equal_support_sets_are_claimed_only_where_they_are_equal():
    other = _grid(("x", 1, (0,), ("e",)), ("y", 1, (0,), ("f",)))
    assert (other.shots, other.same_sets, other.one_set) == (1, False, False)
    unknown = _grid(("x", 1, (0,), ()), ("y", 1, (0,), ()))
    assert (unknown.shots, unknown.same_sets, unknown.one_set) == (1, False, False)


def test_one_run_at_more_shots_changes_no_comparison(page, tmp_path):
    """`alpha` alone also at 4 shots, one seed, all right: the leaderboard and the figures stay at 2 shots."""
    store = filled_store(tmp_path / "store")
    put_runs(store, [("alpha", 4, 0, "SSS")])
    again = report.build(store, tmp_path / "out")
    assert outline(again).tables["leaderboard"] == outline(page).tables["leaderboard"]
    for name in ("confusion.csv", "differences.points.csv", "calibration"):
        if name.endswith(".csv"):
            assert (again.parent / name).read_text() == (page.parent / name).read_text()
        else:
            assert outline(again).tables[name] == outline(page).tables[name]
    text = again.read_text(encoding="utf-8")
    assert "The best of 2 settings at 2 labelled images per class" in text
    assert "Runs at 4 do not cover all settings equally and are not compared." in text
    assert "1–3 for each setting and number of shots" in text


def test_settings_without_common_shots_are_shown_but_not_ranked(tmp_path):
    store = filled_store(tmp_path / "store")
    gone = [f"run-alpha-2-{s}" for s in range(3)] + [f"run-beta-1-{s}" for s in range(3)]
    store.delete("runs", " OR ".join(f"run_id = '{r}'" for r in gone))
    path = report.build(store, tmp_path / "out")
    text = html.unescape(path.read_text(encoding="utf-8"))
    assert "Settings, not ranked" in text
    assert "none is called the best" in text
    assert "The best of" not in text
    assert "The leader" not in text
    assert column(outline(path).tables["leaderboard"], "Shots") == ["1", "2"]
    assert re.search(r">linear-probe, 1 shot<(?s:.*)>linear-probe, 2 shots<", text)
    drawn = pl.read_csv(path.parent / "confusion.csv").select("model", "shots")
    assert set(drawn.rows()) == {("alpha", 1), ("beta", 2)}


def test_commit_is_not_cut(tmp_path):
    store = filled_store(tmp_path / "store")
    runs = [r | {"commit": "0" * 40 + "-dirty"} for r in store.read("runs").to_pylist()]
    store.put(schema.RUNS, runs, replace=True)
    assert column(outline(report.build(store, tmp_path / "out")).tables["settings"], "Commit") == ["0" * 40 + "-dirty"]


# Pieces


def test_settings_are_named_by_what_differs():
    base = {"method": "knn", "model": "clip", "model_id": "clip-1", "recipe": "pad224", "recipe_id": "pad224-1"}
    rows = [base | {"parameters": '{"k":5,"p":2}'}, base | {"parameters": '{"k":7,"p":2}'}]
    assert [str(n) for n in settings.name_settings(rows).values()] == ["knn k=5, clip", "knn k=7, clip"]
    other = base | {"model_id": "clip-2", "recipe_id": "pad224-2", "parameters": "{}"}
    names = settings.name_settings([base | {"parameters": "{}"}, other])
    assert [n.where for n in names.values()] == ["clip-1 on pad224-1", "clip-2 on pad224-2"]


def test_outline_lies_outside_the_mask():
    mask = np.zeros((20, 30), np.uint8)
    mask[8:12, 10:20] = 255
    drawn = pictures.outline(np.zeros((20, 30, 3), np.uint8), Image.fromarray(mask))
    coloured = (drawn == pictures.OUTLINE).all(axis=2)
    assert not coloured[mask > 0].any()
    assert coloured[6:8, 10:20].all()
    assert coloured.sum() == 2 * 2 * (10 + 4) + 4  # two pixels on each side and one at each corner


def test_thumbnails_are_small_and_in_order(store):
    ids = ["toy/normal-0004", "toy/benign-0004", "toy/gone-0001"]
    found = list(pictures.thumbnails(store, ids))
    assert [i for i, _ in found] == ids[:2]
    for _, uri in found:
        data = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
        assert len(uri) <= 30_000
        assert max(Image.open(io.BytesIO(data)).size) <= pictures.SIDE_PX


def test_flow_counts_stages():
    rows = [{"stage": "images", "part": "", "n": 1200}, {"stage": "parts", "part": "test", "n": 2},
            {"stage": "parts", "part": "train", "n": 8}, {"stage": "shots", "part": "16", "n": 1},
            {"stage": "shots", "part": "2", "n": 1}, {"stage": "runs", "part": "knn", "n": 4}]  # fmt: skip
    by_name = {b.name: b for b in flow.boxes(rows)}
    assert by_name["splits"].detail == "8 train · 2 test"
    assert by_name["episodes"].detail == "2–16 shots"
    shares = [{"stage": "ratios", "part": part, "n": 1} for part in ("0.2", "0.05")]
    assert {b.name: b for b in flow.boxes([*rows, *shares])}["episodes"].detail == "2–16 shots, 5–20%"
    assert {b.name: b for b in flow.boxes(shares[:1])}["episodes"].detail == "20%"
    assert (by_name["runs"].n, by_name["runs"].detail) == (4, "by 1 method")
    assert "1\N{NARROW NO-BREAK SPACE}200 images" in flow.flow(rows)[0].alt


def test_flow_accounts_for_every_image():
    sizes = {"train": 5, "val": 1, "test": 2, "excluded": 3}
    rows = [{"stage": "parts", "part": part, "n": n} for part, n in sizes.items()]
    rows.append({"stage": "images", "part": "", "n": 12})
    box = flow.boxes(rows)[2]
    assert (box.detail, box.more) == ("5 train · 1 val · 2 test", "3 excluded, 1 not in the split")
    assert all(">3 excluded, 1 not in the split<" in panel.svg for panel in flow.flow(rows))


def test_drawings_follow_the_theme_and_have_no_fixed_size():
    with style.drawing(100, 80) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=style.SERIES[0])
        drawn = style.panel(figure, "a line")
    assert not re.search(r"#0[0-9a-f]0[0-9a-f]0[0-9a-f]\b|<metadata|xmlns|<svg[^>]* width=", drawn.inline("p"))
    assert "var(--s1)" in drawn.inline("p")
    assert style.COLOURS["s1"][1] in drawn.file()
    assert "var(" not in drawn.file()


@pytest.mark.parametrize("theme", [1, 2])
@pytest.mark.parametrize("name", [n for n in style.COLOURS if n not in ("paper", "grid")])
def test_colours_stand_out_from_the_paper(name, theme):
    """Contrast of at least 4.5, as WCAG 2 asks of text, since lines are labelled in their colour."""
    lighter, darker = sorted((_luminance(style.COLOURS[c][theme]) for c in (name, "paper")), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def _luminance(colour: str) -> float:
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [1, 2])
def test_ink_on_cells_stands_out_at_every_share(theme):
    under = style.luminance(style._channels(style.COLOURS["paper"][theme]))
    assert under == pytest.approx(_luminance(style.COLOURS["paper"][theme]))
    themes = {values[0]: values[theme] for values in style.ON_CELLS.values()}
    for percent in range(101):
        opacity = charts.opacity(percent / 100)
        cell = style.luminance(style.blend(style.COLOURS["s1"][theme], style.COLOURS["paper"][theme], opacity))
        ink = _luminance(themes[style.ink_on("s1", opacity)])
        assert (max(cell, ink) + 0.05) / (min(cell, ink) + 0.05) >= 4.5, percent


def test_lines_differ_by_more_than_colour():
    looks = [style.look(k) for k in range(36)]
    assert len(set(looks)) == 36
    assert len({dashes for _, _, dashes in looks[:6]}) == len({marker for _, marker, _ in looks[:6]}) == 6


def test_roc_lines_have_styles_of_their_own():
    curve = (np.array([0, 1]), np.array([0, 1]), 0.5)
    drawn = charts.roc({"knn": (0, curve), "probe": (1, curve)}, "clip").svg
    assert len(set(re.findall(r"stroke-dasharray: ([^;\"]+)", drawn))) == 2  # one for the diagonal, one for `probe`


@pytest.mark.parametrize(("wanted", "gap"), [([0.5, 0.1, 0.52], 0.1), ([1, 1, 1, 1], 0.3), ([3.0], 1), ([], 1)])
def test_spread_labels_keep_their_order_and_distance(wanted, gap):
    places = curves.spread(wanted, gap)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    assert all(places[b] - places[a] >= gap - 1e-9 for a, b in itertools.pairwise(order))
    assert sum(places) == pytest.approx(sum(wanted))  # nothing drifts


def test_plain_table_says_shared_texts_once(store):
    from busistore.report.sources import Sources

    with Sources(store) as sources:
        source = sources.ask("x", "report_curves")
    table = parts.plain_table(source, "t", limit=5)
    assert "method linear-probe" in table.note
    assert "Method" not in table.head
    assert f"The first 5 of {source.frame.height} rows" in table.note


@pytest.mark.parametrize("name", [n for n in queries.names() if n.startswith("report_")])
def test_report_queries_answer_on_an_empty_store(name, tmp_path):
    assert sql.run(Store.create(tmp_path / "s"), name).width > 1


# A real browser

NO_PAGE = "not an origin"  # in the log, the initiator of what the browser asks for itself
PROBE = """<script>
addEventListener("load", () => {
  const broken = [...document.images].filter(i => !i.complete || !i.naturalWidth).length;
  const drawn = [...document.querySelectorAll("figure")].filter(f => f.getBoundingClientRect().height > 100).length;
  const root = document.documentElement;
  const probe = document.body.appendChild(document.createElement("template"));
  probe.dataset.probe = JSON.stringify({wide: root.scrollWidth, room: innerWidth, broken, drawn,
    images: document.images.length, figures: document.querySelectorAll("figure").length});
});
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [375, 1280])
def test_chromium_shows_every_figure_asks_for_nothing_and_scrolls_one_way(page, tmp_path, width):
    """The page stands in a frame of a phone's width, since a browser's window has a least width of its own."""
    probed = page.read_text(encoding="utf-8").replace("</body>", PROBE + "</body>")
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<!doctype html><meta charset=utf-8><link rel=icon href=data:,><iframe style='border:0;width:{width}px;"
        f"height:900px' srcdoc=\"{html.escape(probed)}\"></iframe><script>onload = () => {{ document.body.innerHTML = "
        "document.querySelector('iframe').contentDocument.documentElement.outerHTML; };</script>", encoding="utf-8"
    )  # fmt: skip
    dom, log = _chromium(frame, tmp_path)
    seen = json.loads(html.unescape(re.search(r'data-probe="([^"]*)"', dom)[1]))
    assert seen["wide"] <= seen["room"] == width
    assert seen["broken"] == 0 < seen["images"]
    assert seen["drawn"] == seen["figures"] >= len(FIGURES)
    assert all(f'id="{name}"' in dom for name in FIGURES + TABLES)
    assert "CONSOLE" not in log
    assert _requests(tmp_path / "net.json") == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_chromium_watch_sees_errors_and_requests(tmp_path):
    """The test above would notice: a page with a script error and a picture from elsewhere."""
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='http://127.0.0.1:9/x.png'><script>missing()</script>", encoding="utf-8")
    _, log = _chromium(bad, tmp_path)
    assert "CONSOLE" in log
    assert _requests(tmp_path / "net.json") == ["http://127.0.0.1:9/x.png"]


def _chromium(path: Path, folder: Path) -> tuple[str, str]:
    """The document after loading and what the browser wrote to its log; its requests go to folder/net.json."""
    flags = (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr", "--v=0", f"--user-data-dir={folder / 'profile'}",
        f"--log-net-log={folder / 'net.json'}", "--dump-dom",
    )  # fmt: skip
    done = subprocess.run([CHROMIUM, *flags, path.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def _requests(net_log: Path) -> list[str]:
    """Addresses of requests that a page started, by the browser's log; its own errands have no page's origin."""
    asked = [event.get("params", {}) for event in json.loads(net_log.read_text(encoding="utf-8"))["events"]]
    by_pages = {p["url"] for p in asked if "url" in p and p.get("initiator", NO_PAGE) != NO_PAGE}
    return sorted(u for u in by_pages if not u.startswith(("file:", "data:", "about:", "blob:")))
