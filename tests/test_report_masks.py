"""The section on masks and what it asks, on rows made by hand: numbers, intervals, warnings, drawings and overlays."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import polars as pl
import pytest
from PIL import Image
from polars.testing import assert_frame_equal

from busistore import queries, report, schema, sql, stats
from busistore.errors import BusistoreError
from busistore.metrics.masks import STRATA, detections, stratum, summary
from busistore.report import mask_panels, mask_tables, mask_words, masks, pictures, sources
from busistore.stats.resampling import draw_groups
from busistore.store import Store
from tests.segmented import AREAS, LABELS, MADE, SCORES, earlier, put_segmentation, segmented_store
from tests.test_queries import OF_MASKS
from tests.test_report import column, outline


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return segmented_store(tmp_path_factory.mktemp("segmented") / "store")


@pytest.fixture(scope="module")
def page(store, tmp_path_factory):
    return report.build(store, tmp_path_factory.mktemp("report") / "out")


@pytest.fixture(scope="module")
def text(page) -> str:
    found = re.search(r'<h2 id="section-masks">.*?</section>', page.read_text(encoding="utf-8"), re.DOTALL)
    return found[0]


# Queries


@pytest.fixture(scope="module")
def backwards(store, tmp_path_factory) -> Store:
    """The same rows in the opposite order; without pictures."""
    other = Store.create(tmp_path_factory.mktemp("backwards") / "store")
    for name in store.names():
        other.put(schema.TABLES[name], [{"png": b"", **r} for r in store.read(name).to_pylist()[::-1]])
    return other


def test_segmentation_sums_lesions_over_images(store):
    found = {r["source_id"]: r for r in sql.run(store, "segmentation").to_dicts()}
    told = [found["unet"][c] for c in ("n_lesions", "n_found", "lesion_recall", "n_false_marks", "init", "dice")]
    assert told == [4, 2, 0.5, 1, "nothing", 0.42]  # 0.9 and 0.7 find; 0.5 is not above the bar of these rows
    assert [found["click"][c] for c in ("n_lesions", "n_found", "n_false_marks")] == [4, 4, 0]
    rows = store.read("metrics", where="run_id = 'unet' AND subject <> 'test'").to_pylist()
    each = [{r["metric"]: r["value"] for r in rows if r["subject"] == i} for i in LABELS]
    assert detections(each)[:3] == (4, 2, 1)


def test_strata_are_those_of_the_metrics(store):
    """80, 400 and 1,600 of 8,000 px: small, medium and large."""
    rows = sql.run(store, "segmentation_strata", {"segmenter": "unet", "part": "test", "dataset": "toy"}).to_dicts()
    told = [(r["stratum"], r["n_images"], r["n_missed"], r["dice"], r["hd95_px"]) for r in rows]
    assert told == [("small", 1, 0, 0.9, 4), ("medium", 1, 0, 0.5, 20), ("large", 2, 1, 0.35, 70)]
    bounds = re.findall(r"share < (0\.\d+) THEN '(\w+)'", queries.load("segmentation_strata").text)
    assert {name: float(bound) for bound, name in bounds} == {k: v for k, v in STRATA.items() if v < 1}
    assert [stratum(AREAS[i], 8000) for i in ("toy/b1", "toy/b2", "toy/m1")] == ["small", "medium", "large"]


def test_mask_scores_have_one_row_an_image(store):
    frame = sql.run(store, "mask_scores", {"source_id": "unet"})
    assert dict(frame.select("image_id", "dice").rows()) == {i: d for i, (d, _) in SCORES["unet"].items()}
    row = frame.filter(image_id="toy/b2").to_dicts()[0]
    assert (row["lesion_share"], row["group_id"], row["predicted_area_px"]) == (0.05, "toy/b2", 400)
    marked = frame.filter(image_id="toy/n2").to_dicts()[0]
    assert (marked["missed"], marked["false_positive"], marked["predicted_area_px"]) == (None, 1, 50)


def test_annotation_ceiling_is_of_pairs_and_not_of_their_means(store):
    (row,) = sql.run(store, "annotation_ceiling").filter(pairs="all").to_dicts()
    told = [row[c] for c in ("n_pairs", "dice_q1", "dice_median", "dice_q3", "hd95_px_mean", "nsd_3px_mean")]
    assert told == [2, 0.825, 0.85, 0.875, 10, None]


def test_curves_say_which_epoch_was_kept(store):
    frame = sql.run(store, "segmenter_curves", {"segmenter_id": MADE["unet"][0]})
    assert frame.select("epoch", "train_loss", "val_dice", "kept").rows() == [
        (1, 0.9, 0.3, False), (2, 0.5, 0.6, True), (3, 0.4, 0.5, False)
    ]  # fmt: skip
    assert sql.run(store, "trained_segmenters", {"dataset": "toy"})["n_trained"].to_list() == [1_444_864] * 2


def test_the_report_takes_the_newest_masks_of_a_setting(tmp_path):
    store = segmented_store(tmp_path / "store")
    put_segmentation(store, "unet", source_id="older", finished_at=earlier(1))
    val = [row | {"split_id": "toy-2", "part": "val"} for row in store.read("splits").to_pylist()]
    store.put(schema.SPLITS, val)
    put_segmentation(store, "unet", source_id="other", part="val", split_id="toy-2", finished_at=earlier(2))
    assert sql.run(store, "report_masks")["source_id"].to_list() == ["click", "unet", "other"]
    assert set(sql.run(store, "mask_scores")["source_id"]) == {"click", "unet", "other"}


@pytest.mark.parametrize("name", OF_MASKS)
def test_answers_do_not_depend_on_the_order_of_rows(store, backwards, name):
    assert_frame_equal(sql.run(store, name), sql.run(backwards, name), abs_tol=1e-12)


@pytest.mark.parametrize("name", ["annotation_ceiling", "mask_scores", "segmentation_strata", "report_masks"])
def test_another_data_set_has_no_masks(store, name):
    assert sql.run(store, name).height
    assert not sql.run(store, name, {"dataset": "elsewhere"}).height


# Intervals


def test_a_mean_over_groups_is_that_of_the_images():
    values = np.array([d if d is not None else np.nan for d, _ in SCORES["unet"].values()])
    found = stats.grouped_mean(values, [0, 0, 1, 1, 2, 2], list("abcdef"))
    rows = [{"dice": d} for d, _ in SCORES["unet"].values() if d is not None]
    assert found.estimate == pytest.approx(summary(rows)["dice"].mean) == pytest.approx(0.42)
    assert found.n == 5
    assert found.low < 0.42 < found.high


def test_bounds_are_quantiles_of_the_resampled_means():
    """Against a loop over resamples and images, with groups of several images and images without a value."""
    rng = np.random.default_rng(3)
    values, true = rng.random(20), np.repeat([0, 1], 10)
    values[[2, 15]] = np.nan
    groups = [f"{t}{k // 2}" for t, k in zip(true, range(20))]
    names = sorted(set(groups))
    weights = draw_groups(np.array([int(n[0]) for n in names]), 300, np.random.Generator(np.random.PCG64(0)))
    means = []
    for row in weights:
        top = bottom = 0.0
        for value, name in zip(values, groups):
            if not np.isnan(value):
                top, bottom = top + row[names.index(name)] * value, bottom + row[names.index(name)]
        means.append(top / bottom)
    found = stats.grouped_mean(values, true, groups, n_resamples=300)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))


def test_twins_widen_the_interval():
    values = np.array([0.1, 0.3, 0.5, 0.7, 0.9, 0.2])
    alone = stats.grouped_mean(values, np.zeros(6, int), list("abcdef"))
    twice = stats.grouped_mean(np.tile(values, 4), np.zeros(24, int), list("abcdef") * 4)
    assert (twice.low, twice.high) == pytest.approx((alone.low, alone.high))
    naive = stats.grouped_mean(np.tile(values, 4), np.zeros(24, int), list(range(24)))
    assert twice.high - twice.low > 1.5 * (naive.high - naive.low)


def test_what_says_nothing_of_the_spread_has_no_bounds():
    assert stats.grouped_mean([0.5, 0.7], [0, 0], ["a", "a"])[1:3] == (None, None)
    assert stats.grouped_mean([0.5, 0.5], [0, 0], ["a", "b"])[1:3] == (None, None)
    assert stats.grouped_mean([0.4, 0.8, np.nan], [0, 0, 1], ["a", "b", "c"]).low is not None  # none of class 1 counts
    with pytest.raises(BusistoreError, match="no image has a value"):
        stats.grouped_mean([np.nan], [0], ["a"])


# The section


def test_the_table_has_means_intervals_and_counts(page):
    cells = outline(page).tables["masks"]
    assert column(cells, "Segmenter") == ["bussam, random weights", "unet", "Annotation ceiling"]
    assert column(cells, "Prompt, part") == ["oracle-click, test", "auto, test", "–"]
    assert re.fullmatch(r"0\.420 \(0\.\d{3}–0\.\d{3}\)", column(cells, "Dice")[1])
    assert column(cells, "Dice")[2] == "0.850"
    assert column(cells, "HD95, px")[1].startswith("41.0 (")
    assert column(cells, "Images") == ["4, 4", "5, 4", "2 pairs"]
    assert column(cells, "Missed") == ["0 of 4", "1 of 4", "–"]
    assert column(cells, "Marked") == ["0 of 2", "1 of 2", "–"]
    found = outline(page).tables["lesions-found"]
    assert column(found, "Lesions found") == ["4 of 4 (100%)", "2 of 4 (50%)"]
    assert column(found, "hd_bussam_compat") == ["9.00", "9.00"]
    assert column(found, "False marks per image") == ["0.00", "0.17"]


def test_what_a_user_must_be_told_is_said(text):
    plain = re.sub(r"<[^>]+>", "", text)
    for words in ("Oracle: the prompt is taken from the truth", "1\u202f444\u202f864", "25\u202f052\u202f432",
                  "no Hausdorff distance", "8.97", "Random weights: the frozen part", "from 0.825 to 0.875",
                  "agree with a median Dice of 0.850"):  # fmt: skip
        assert words in plain, words
    for name in ("masks-worst-2", "masks-best-2"):  # of the click
        gallery = re.search(rf'<figure id="{name}".*?</figure>', text, re.DOTALL)[0]
        assert mask_words.ORACLE in gallery
        assert "random weights" in gallery
    assert mask_words.ORACLE not in re.search(r'<figure id="masks-worst".*?</figure>', text, re.DOTALL)[0]


def test_without_bussam_its_warnings_are_not_given():
    rows = [{"prompt": "auto", "init": "nothing", "part": "test", "segmenter": "unet"}]
    assert mask_words.words(rows, []) == [mask_words.POLICY]
    told = mask_words.words([rows[0] | {"part": "val"}], [])
    assert "optimistic" in told[1]


def test_identical_and_similar_pairs_are_told_apart_where_there_are_both():
    row = {"pairs": "all", "dataset": "toy", "n_pairs": 9, "n_groups": 5, "n_equal": 2, "n_apart": 1,
           "dice_median": 0.9, "dice_q1": 0.8, "dice_q3": 0.95, "hd95_px_median": 7.0}  # fmt: skip
    kinds = [row | {"pairs": "identical", "n_pairs": 4, "dice_median": 0.7}, row | {"pairs": "similar", "n_pairs": 5}]
    told = mask_words.words([], [row, *kinds])
    assert "In 2 pairs both masks are the same. In 1 pair the masks share no pixel." in told[1]
    assert told[2] == ("Told apart, the median Dice is 0.700 in 4 pairs of identical pictures (toy), 0.900 in 5 pairs "
                       "of pictures that are merely alike (toy).")  # fmt: skip
    assert len(mask_words.words([], [row, kinds[1]])) == 2


def test_every_dice_figure_has_the_band(text):
    for name, n in (("dice-by-size", 2), ("segmenter-curves", 1)):
        figure = re.search(rf'<figure id="{name}".*?</figure>', text, re.DOTALL)[0]
        assert figure.count(f">{mask_panels.BAND}<") == n
        assert "Green band" in figure


def test_panels_say_what_they_show(text):
    labels = re.findall(r'aria-label="([^"]*)"', text)
    assert ("Dice of unet, auto, test, by size of the lesion; means: small 0.900 (1 image), medium 0.500 (1 image), "
            "large 0.350 (2 images); 1 lesion missed. True masks of near-duplicates agree at a median of 0.850."
            ) in labels  # fmt: skip
    assert any("0.600 at epoch 2, which was kept" in label for label in labels)


def test_galleries_show_worst_first_with_a_legend(text):
    galleries = re.findall(r'<figure id="(masks-\w+)".*?>(.*?)</figure>', text, re.DOTALL)
    headings = {name: re.findall(r"<strong>(toy/\w+)</strong>", gallery) for name, gallery in galleries}
    assert headings == {"masks-worst": ["toy/m1", "toy/b2"], "masks-best": ["toy/b1", "toy/m2"],
                        "masks-marked": ["toy/n2"]}  # fmt: skip
    assert text.count('<ul class="legend">') == 5
    assert all(said in text for _, said in pictures.LEGEND)
    assert "<span>missed</span>" in text
    assert "<span>marked: 50 pixels</span>" in text


def test_one_image_stands_for_a_group_in_a_gallery(tmp_path):
    store = segmented_store(tmp_path / "store")
    rows = [r | {"group_id": "m"} if "/m" in r["image_id"] else r for r in store.read("splits").to_pylist()]
    store.put(schema.SPLITS, rows, replace=True)
    with sources.Sources(store) as asked:
        items = {i.name: i for i in masks.section(asked).items}
    shown = [p.heading for name in ("masks-worst", "masks-best") for p in items[name].pictures]
    assert shown == ["toy/m1", "toy/b2", "toy/b1"]


def test_a_store_without_masks_names_the_command(tmp_path):
    with sources.Sources(Store.create(tmp_path / "empty")) as asked:
        assert masks.section(asked).command == "busistore train-segmenter unet"
    store = segmented_store(tmp_path / "store")
    store.delete("segmentations", "true")
    with sources.Sources(store) as asked:
        made = masks.section(asked)
    assert made.command == "busistore segment --segmenter unet"
    assert [i.name for i in made.items] == ["segmenter-curves", "trained-segmenters"]


def test_segmenters_are_named_by_what_differs():
    row = {"segmenter_id": "unet-1", "segmenter": "unet", "init": None, "parameters": '{"width":8,"depth":2}'}
    other = row | {"segmenter_id": "unet-2", "parameters": '{"width":16,"depth":2}'}
    assert mask_tables.names([row, other]) == {"unet-1": "unet, width 8", "unet-2": "unet, width 16"}
    assert mask_tables.names([row]) == {"unet-1": "unet"}
    assert mask_tables.names([row, row | {"segmenter_id": "unet-3"}]) == {"unet-1": "unet-1", "unet-3": "unet-3"}
    assert mask_tables.names([row | {"init": "random"}]) == {"unet-1": "unet, random weights"}
    assert mask_tables.prompt({"prompt": "auto", "proposer": "patch-probe"}) == "auto (patch-probe)"


# Overlays


def test_an_overlay_has_a_colour_for_each_area_and_outline():
    true, pred = np.zeros((60, 80), bool), np.zeros((60, 80), bool)
    true[10:40, 10:40] = True
    pred[10:40, 25:60] = True
    drawn = pictures.overlay(np.full((60, 80, 3), 100, np.uint8), true, pred)
    for (y, x), colour in (((25, 17), pictures.MISSED), ((25, 32), pictures.AGREEMENT), ((25, 50), pictures.FALSE)):
        wanted = [round(0.6 * 100 + 0.4 * c) for c in colour]
        assert drawn[y, x].tolist() == pytest.approx(wanted, abs=1)
    assert tuple(drawn[20, 10]) == pictures.TRUTH
    dashes = [tuple(c) for c in drawn[10:40, 59]]
    assert dashes.count(pictures.PREDICTION) in range(12, 19)  # half of the edge
    assert (drawn[50:] == 100).all()


def test_overlays_come_in_order_and_leave_out_what_is_not_there(store):
    found = list(pictures.overlays(store, "unet", ["toy/m1", "toy/b1", "toy/gone"]))
    assert [i for i, _ in found] == ["toy/m1", "toy/b1"]
    data = base64.b64decode(found[1][1].removeprefix("data:image/jpeg;base64,"))
    assert Image.open(io.BytesIO(data)).size == (100, 80)
    assert not list(pictures.overlays(store, "elsewhere", ["toy/m1"]))


def test_lesions_of_no_size_but_one_are_drawn(store):
    frame = sql.run(store, "mask_scores", {"source_id": "unet"}).filter(pl.col("image_id") == "toy/b1")
    drawn = mask_panels.by_size(frame, "one", "image", None, [0.01, 0.01])
    assert "means: small 0.900 (1 image); 0 lesions missed." in drawn.alt
    assert mask_panels.BAND not in drawn.svg
