"""Groups, splits and the grid: one ledger for all, every run stored once and whole, leakage refused or told."""

import collections
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from busistore import jobs, metrics, models, schema, sql, views
from busistore.errors import BusistoreError, Leakage, UnknownName
from busistore.jobs.encode import encode, vectors
from busistore.jobs.evaluate import evaluate
from busistore.jobs.group import group, newest
from busistore.jobs.ingest import ingest
from busistore.jobs.split import sizes, split
from busistore.preprocess import recipes
from busistore.store import PRIMARY_KEY, Store
from tests.fakes import busi_folder, rows, speckle
from tests.test_jobs_ingest import counts
from tests.test_methods import LEARNERS

N_PER_CLASS = 14
GRID = {"shots": [1, 2], "seeds": range(3)}


@pytest.fixture
def twins(tmp_path):
    """A folder where `benign (1)` and `benign (2)`, and `benign (3)` and `malignant (3)`, are one picture."""
    folder = busi_folder(tmp_path / "busi", N_PER_CLASS)
    for suffix in ("", "_mask"):
        shutil.copy(folder / "benign" / f"benign (2){suffix}.png", folder / "benign" / f"benign (1){suffix}.png")
        shutil.copy(folder / "benign" / f"benign (3){suffix}.png", folder / "malignant" / f"malignant (3){suffix}.png")
    (folder / "benign" / "benign (1)_mask_1.png").unlink()
    return folder


@pytest.fixture
def ready(store, twins, fake_model):
    ingest(store, "busi", twins)
    encode(store, fake_model)
    split(store, "busi")
    return store


def test_twins_are_one_group(store, twins):
    ingest(store, "busi", twins)
    found = group(store, "busi")
    assert found.is_new
    assert found.group_of["busi/benign-0001"] == found.group_of["busi/benign-0002"] == "group of busi/benign-0001"
    by_id = {r["image_id"]: r for r in rows(store, "groups")}
    assert by_id["busi/benign-0001"]["size"] == 2
    assert by_id["busi/benign-0001"]["max_similarity"] == 1
    assert not by_id["busi/benign-0001"]["spans_classes"]
    assert by_id["busi/malignant-0003"]["spans_classes"]
    assert by_id["busi/normal-0001"]["max_similarity"] is None
    pairs = {(r["image_id"], r["other_id"], r["reason"]) for r in rows(store, "pairs")}
    assert ("busi/benign-0001", "busi/benign-0002", "identical") in pairs
    assert store.count("images") == 3 * N_PER_CLASS  # nothing is ever deleted


def test_groups_are_found_once_and_anew_for_other_images(store, twins, tmp_path):
    ingest(store, "busi", twins)
    first = group(store, "busi")
    assert group(store, "busi") == first.__class__(first.grouping, first.group_of, False)
    shutil.copy(twins / "normal" / "normal (2).png", twins / "normal" / "normal (99).png")
    shutil.copy(twins / "normal" / "normal (2)_mask.png", twins / "normal" / "normal (99)_mask.png")
    ingest(store, "busi", twins)
    second = group(store, "busi")
    assert second.grouping != first.grouping
    assert second.group_of["busi/normal-0099"] == second.group_of["busi/normal-0002"]


def test_groups_of_pixels_that_come_back_are_the_newest_again(store, twins):
    ingest(store, "busi", twins)
    first = group(store, "busi")
    kept = (twins / "normal" / "normal (5).png").read_bytes()
    Image.fromarray(speckle(777)).save(twins / "normal" / "normal (5).png")
    ingest(store, "busi", twins, replace=True)
    assert group(store, "busi").is_new
    (twins / "normal" / "normal (5).png").write_bytes(kept)
    ingest(store, "busi", twins, replace=True)
    assert newest(store, "busi").grouping != first.grouping
    assert group(store, "busi") == first.__class__(first.grouping, first.group_of, False)
    assert newest(store, "busi").grouping == first.grouping
    assert len({r["grouped_at"] for r in rows(store, "groups", f"grouping = '{first.grouping}'")}) == 1
    Image.open(twins / "normal" / "normal (5).png").save(twins / "normal" / "normal (5).png", compress_level=1)
    ingest(store, "busi", twins, replace=True)
    group(store, "busi")
    assert sql.run(store, "stale").height == 0  # the same pixels, written again


def test_embeddings_may_propose_pairs(ready, fake_model):
    stored = vectors(ready, models.locate(fake_model).model_id, recipes.recipe("pad224").recipe_id)
    found = group(ready, "busi", embeddings=stored)
    assert found.is_new  # another grouping: what proposed the pairs is part of its id
    assert not group(ready, "busi", embeddings=stored).is_new
    assert group(ready, "busi").grouping == found.grouping  # the newest that fits these pixels is the current one
    split(ready, "busi", seed=3)
    assert {r["grouping"] for r in rows(ready, "splits", "seed = 3")} == {found.grouping}


def test_a_split_cuts_no_group_and_leaves_conflicts_out(ready):
    (split_id,) = {r["split_id"] for r in rows(ready, "splits")}
    part = {r["image_id"]: r["part"] for r in rows(ready, "splits")}
    assert part["busi/benign-0001"] == part["busi/benign-0002"]
    assert part["busi/benign-0003"] == part["busi/malignant-0003"] == "excluded"
    assert sum(sum(n.values()) for n in sizes(ready, split_id).values()) == 3 * N_PER_CLASS
    assert split(ready, "busi") == split_id
    assert ready.count("splits") == 3 * N_PER_CLASS
    assert split(ready, "busi", seed=7) != split_id


def csv_with_a_cut(path, image_ids):
    part = {"busi/benign-0001": "train", "busi/benign-0002": "test"}
    lines = [f"{i},{part.get(i, ('train', 'test')[k % 2])}" for k, i in enumerate(sorted(image_ids))]
    path.write_text("image,split\n" + "\n".join(lines))
    return path


def test_a_leaky_split_is_refused_then_allowed_and_told(ready, fake_model, tmp_path):
    csv = csv_with_a_cut(tmp_path / "published.csv", [r["image_id"] for r in rows(ready, "images")])
    before = ready.version("splits")
    with pytest.raises(Leakage, match="--allow-leakage"):
        split(ready, "busi", csv=csv)
    assert ready.version("splits") == before
    leaky = split(ready, "busi", csv=csv, allow_leakage=True)
    evaluate(ready, ["prototype"], [fake_model], [7], [0], split=leaky)
    (run,) = rows(ready, "runs")
    assert ready.count("episodes") == 3 * 7  # the whole training part: its one twin in the test part is exposed
    assert run["exposure_support"] == pytest.approx(1 / 21)
    assert run["n_groups_support"] == 3 * 7 - 1  # benign (3) and malignant (3) are one picture


def test_every_run_is_whole(ready, fake_model):
    report = evaluate(ready, LEARNERS, [fake_model], **GRID)
    n_runs = len(LEARNERS) * 2 * 3
    assert counts(report) == (n_runs, 0, n_runs, 0)
    test = {r["image_id"]: r["label"] for r in rows(ready, "splits", "part = 'test'")}
    for run in rows(ready, "runs"):
        predictions = rows(ready, "predictions", f"run_id = '{run['run_id']}'")
        assert {p["image_id"]: p["label"] for p in predictions} == test
        probabilities = np.array([p["probabilities"] for p in predictions])
        assert np.allclose(probabilities.sum(axis=1), 1)
        assert [p["predicted"] for p in predictions] == [run["classes"][k] for k in probabilities.argmax(axis=1)]
        again = metrics.classification_metrics([p["label"] for p in predictions], probabilities, run["classes"])
        stored = {(m["metric"], m["class"]): m["value"] for m in rows(ready, "metrics", f"run_id = '{run['run_id']}'")}
        assert stored == {(m.metric, m.class_): pytest.approx(m.value, abs=1e-12) for m in again}
        assert run["exposure_support"] == 0
        assert run["exposure_val"] == (None if run["method"] == "prototype" else 0)  # it has nothing to choose
        assert run["n_groups_support"] <= 3 * run["shots"]
        assert run["n_test"] == len(test)
        n_val = 0 if run["method"] == "prototype" else ready.count("splits", "part = 'val'")  # it has nothing to choose
        assert run["n_labelled"] == 3 * run["shots"] + n_val
        assert json.loads(run["versions"])["busistore"]


def test_all_methods_see_the_same_support_sets(ready, fake_model):
    evaluate(ready, LEARNERS, [fake_model], **GRID)
    by_setting = {}
    for run in rows(ready, "runs"):
        by_setting.setdefault((run["shots"], run["seed"]), set()).add(run["episode_id"])
    assert all(len(ids) == 1 for ids in by_setting.values())
    ledger = rows(ready, "episodes")
    assert len(ledger) == 3 * 3 * (1 + 2)
    train = {r["image_id"] for r in rows(ready, "splits", "part = 'train'")}
    assert {r["image_id"] for r in ledger} <= train


def test_a_second_grid_does_only_what_is_new(ready, fake_model):
    evaluate(ready, ["knn"], [fake_model], **GRID)
    versions = {t: ready.version(t) for t in ready.names()}
    assert counts(evaluate(ready, ["knn"], [fake_model], **GRID)) == (6, 6, 0, 0)
    assert {t: ready.version(t) for t in ready.names()} == versions
    assert counts(evaluate(ready, ["knn"], [fake_model], [1, 2], range(4))) == (8, 6, 2, 0)
    assert counts(evaluate(ready, ["knn"], [fake_model], **GRID, protocol="strict")) == (6, 0, 6, 0)
    assert counts(evaluate(ready, ["knn"], [fake_model], **GRID, parameters={"k_grid": "1,3"})) == (6, 0, 6, 0)


def test_strict_looks_at_the_support_alone(ready, fake_model):
    evaluate(ready, LEARNERS, [fake_model], **GRID, protocol="strict")
    assert all(r["n_labelled"] == 3 * r["shots"] for r in rows(ready, "runs"))


def test_an_interrupted_grid_goes_on(ready, fake_model, monkeypatch):
    from busistore.methods.knn import KNearest

    real, calls = KNearest.fit_predict, []

    def interrupted(self, *given):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, *given)

    monkeypatch.setattr(KNearest, "fit_predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(ready, ["knn"], [fake_model], **GRID)
    monkeypatch.setattr(KNearest, "fit_predict", real)
    assert counts(evaluate(ready, ["knn"], [fake_model], **GRID)) == (6, 3, 3, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shots": [99]}, "99 shots, but class 'benign' has|99 shots, but class"),
        ({"methods": ["linear_probe"]}, "did you mean 'linear-probe'"),
        ({"protocol": "loose"}, "no protocol of 'knn' 'loose'"),
        ({"split": "nowhere"}, "no split 'nowhere'"),
        ({"dataset": "phantom"}, "`busistore split` makes one"),
        ({"recipe": "stretch224"}, "`busistore encode"),
        ({"parameters": {"kk": "3"}}, "parameter of knn"),
    ],
)
def test_one_line_for_what_cannot_be(ready, fake_model, change, words):
    asked = {"methods": ["knn"], "model_names": [fake_model], **GRID} | change
    with pytest.raises(BusistoreError, match=words):
        evaluate(ready, **asked)
    assert ready.count("runs") == 0


def test_other_pixels_make_other_runs(ready, twins, fake_model):
    evaluate(ready, ["knn"], [fake_model], **GRID)
    before = {r["run_id"] for r in rows(ready, "runs")}
    (test_id,) = [r["image_id"] for r in rows(ready, "splits", "part = 'test' AND label = 'normal'")][:1]
    name = f"normal ({int(test_id[-4:])}).png"
    Image.fromarray(speckle(12345)).save(twins / "normal" / name)
    ingest(ready, "busi", twins, replace=True)
    with pytest.raises(BusistoreError, match=f"'{test_id}', are not encoded"):
        evaluate(ready, ["knn"], [fake_model], **GRID)
    encode(ready, fake_model)
    assert counts(evaluate(ready, ["knn"], [fake_model], **GRID)) == (6, 0, 6, 0)
    assert before.isdisjoint({r["run_id"] for r in rows(ready, "runs")} - before)


def test_a_published_split_has_no_seed(ready, tmp_path):
    lines = [f"{r['image_id']},{r['part']}" for r in rows(ready, "splits")]
    (tmp_path / "paper.csv").write_text("image_id,part\n" + "\n".join(lines))
    imported = split(ready, "busi", csv=tmp_path / "paper.csv")
    assert {(r["seed"], r["source"].split(" ")[0]) for r in rows(ready, "splits", f"split_id = '{imported}'")} == {
        (None, "paper.csv")
    }


def test_several_splits_must_be_named(ready, fake_model):
    split(ready, "busi", seed=1)
    with pytest.raises(BusistoreError, match="name one with --split"):
        evaluate(ready, ["knn"], [fake_model], **GRID)


def test_an_image_that_changed_must_be_encoded_first(ready, twins, fake_model):
    shutil.copy(twins / "normal" / "normal (4).png", twins / "normal" / "normal (5).png")
    ingest(ready, "busi", twins, replace=True)
    from busistore.jobs.preprocess import preprocess

    preprocess(ready)
    with pytest.raises(BusistoreError, match=r"'busi/normal-0005', are not encoded by 'fake'"):
        evaluate(ready, ["knn"], [fake_model], **GRID)


def test_an_unknown_data_set_cannot_be_split(store, twins):
    ingest(store, "busi", twins)
    with pytest.raises(BusistoreError, match=r"no images of 'phantom' are stored \(stored: busi\)"):
        split(store, "phantom")


def test_unknown_executor(store, twins):
    with pytest.raises(UnknownName, match="executor"):
        ingest(store, "busi", twins, executor="cloud")


def test_shares_of_the_training_part_are_episodes_too(ready, fake_model):
    report = evaluate(ready, ["knn", "linear-probe"], [fake_model], [1], range(2), ratios=(0.5, 1.0))
    assert counts(report) == (10, 0, 10, 0)  # the whole training part is one support set, whatever the seed
    assert counts(evaluate(ready, ["knn"], [fake_model], (), range(2), ratios=(0.5,))) == (2, 2, 0, 0)
    assert counts(evaluate(ready, ["knn"], [fake_model], (), range(5, 9), ratios=(1.0,))) == (1, 1, 0, 0)
    per_class = collections.Counter(r["label"] for r in rows(ready, "splits", "part = 'train'"))
    for run in rows(ready, "runs"):
        support = rows(ready, "episodes", f"episode_id = '{run['episode_id']}'")
        drawn = collections.Counter(r["label"] for r in support)
        if run["ratio"] is None:
            assert set(drawn.values()) == {run["shots"]}
        else:
            assert run["shots"] is None
            assert drawn == {label: round(run["ratio"] * n) for label, n in per_class.items()}
        assert {(r["shots"], r["ratio"], r["seed"]) for r in support} == {(run["shots"], run["ratio"], run["seed"])}
        assert run["n_labelled"] == len(support) + ready.count("splits", "part = 'val'")
    with pytest.raises(BusistoreError, match="150 % of the training part: give a share above 0 and up to 100 %"):
        evaluate(ready, ["knn"], [fake_model], (), range(2), ratios=(1.5,))


@pytest.mark.parametrize("snapshot_rows", [0, views.SNAPSHOT_ROWS])
def test_a_store_from_before_shares_is_gone_on_with(ready, fake_model, monkeypatch, snapshot_rows):
    """Its ledger and runs have no column for them: SQL sees nulls, and the next run adds it."""
    monkeypatch.setattr(views, "SNAPSHOT_ROWS", snapshot_rows)
    evaluate(ready, ["knn"], [fake_model], [2], range(1))
    forget_shares(ready)
    assert sql.run(ready, "SELECT count(*) AS n, count(ratio) AS known FROM runs").row(0) == (1, 0)
    assert sql.run(ready, "leaderboard")["shots"].to_list() == [2]
    evaluate(ready, ["knn"], [fake_model], [1], range(1), ratios=(0.5,))
    assert sql.run(ready, "SELECT ratio FROM runs ORDER BY ALL")["ratio"].to_list() == [0.5, None, None]
    assert sql.run(ready, "SELECT DISTINCT ratio FROM episodes ORDER BY ALL")["ratio"].to_list() == [0.5, None]


def forget_shares(store: Store) -> None:
    """The tables of runs and episodes as a store of before has them."""
    for name in ("runs", "episodes"):
        kept = store.read(name, [f.name for f in schema.TABLES[name].schema if f.name != "ratio"])
        shutil.rmtree(store.path / f"{name}.lance")
        key = schema.TABLES[name].key
        fields = [f.with_metadata(PRIMARY_KEY) if f.name in key else f for f in kept.schema]
        store.lancedb.create_table(name, kept.cast(pa.schema(fields)))


def test_writers_that_meet_a_store_of_before_add_its_column_once(ready, fake_model):
    evaluate(ready, ["knn"], [fake_model], [1], range(1))
    for _ in range(3):
        forget_shares(ready)
        rows_of = ready.read("runs").to_pylist()
        written = [[r | {"run_id": f"{r['run_id']}-{k}", "ratio": 0.5} for r in rows_of] for k in range(4)]
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda some: Store.open(ready.path).put(schema.RUNS, some, replace=True), written))
        assert ready.count("runs") == len(rows_of) + 4 * len(rows_of)
        ready.delete("runs", "ratio IS NOT NULL")


@pytest.mark.parametrize("method", ["knn", "linear-probe"])
def test_runs_do_not_depend_on_what_else_is_asked_or_was_stored_before(ready, fake_model, method, tmp_path):
    """A grid in two goes, the other way round, is the grid in one, number for number."""
    once = Store.create(tmp_path / "once")
    shutil.copytree(ready.path, once.path, dirs_exist_ok=True)
    evaluate(once, [method], [fake_model], [1, 2], range(4), protocol="strict")
    evaluate(ready, [method], [fake_model], [2], [3], protocol="strict")
    evaluate(ready, [method], [fake_model], [2, 1], [3, 2, 1, 0], protocol="strict")
    for name in ("predictions", "metrics"):
        key = schema.TABLES[name].key
        one, two = ({tuple(r[k] for k in key): r for r in rows(some, name)} for some in (once, ready))
        assert one == two


def test_a_grid_of_probes_stopped_at_work_keeps_what_is_whole(ready, fake_model, monkeypatch):
    from busistore.methods import LinearProbe

    real, calls = LinearProbe._block, []

    def interrupted(self, *given):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, *given)

    monkeypatch.setattr(LinearProbe, "_block", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(ready, ["linear-probe"], [fake_model], **GRID)
    monkeypatch.setattr(LinearProbe, "_block", real)
    assert ready.count("runs") == 3  # the block of one shot
    assert counts(evaluate(ready, ["linear-probe"], [fake_model], **GRID)) == (6, 3, 3, 0)


def test_shards_are_written_while_a_grid_is_at_work(ready, fake_model, monkeypatch):
    monkeypatch.setattr(jobs, "SHARD_S", -1.0)
    written, put = [], Store.put

    def noted(self, table, rows, **how):
        written.append(table.name)
        return put(self, table, rows, **how)

    monkeypatch.setattr(Store, "put", noted)
    evaluate(ready, ["knn"], [fake_model], **GRID)
    assert written == ["episodes"] + 6 * ["predictions", "metrics", "runs"]
    assert sorted(r["seconds"] > 0 for r in rows(ready, "runs")) == 6 * [True]


def test_a_naive_split_has_the_images_of_the_grouped_one(ready):
    """Else what leakage is worth would be mixed with what images of two labels are worth."""
    naive = split(ready, "busi", seed=3, naive=True, allow_leakage=True)
    grouped = split(ready, "busi", seed=3)
    left_out = [
        {r["image_id"] for r in rows(ready, "splits", f"split_id = '{one}' AND part = 'excluded'")}
        for one in (naive, grouped)
    ]
    assert left_out[0] == left_out[1] != set()


def test_each_run_has_its_own_cost(ready, fake_model):
    """Thirteen folds of sixteen images cost many times what one fit of three images does."""
    evaluate(ready, ["linear-probe"], [fake_model], [1, 8], range(3), protocol="strict")
    cost = {n: [r["seconds"] for r in rows(ready, "runs", f"shots = {n}")] for n in (1, 8)}
    assert min(cost[1]) > 0
    assert min(cost[8]) > max(cost[1])
