"""Runs that read prompts: whole, under their own keys, blind to what they must not see; a learned map is called one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.special import softmax

from busistore import metrics, models, prompts, sql
from busistore.cli import app
from busistore.errors import BusistoreError
from busistore.jobs import alignment, reading, run_rows
from busistore.jobs.encode import encode
from busistore.jobs.episodes import Episode, load_split
from busistore.jobs.evaluate import evaluate
from busistore.jobs.ingest import ingest
from busistore.jobs.runs import Cell, Read, Vectors, load_vectors, no_images, run_many
from busistore.jobs.split import split
from busistore.methods import METHODS, TextPrompts, TextReadout, ZeroShot
from busistore.models import TextTower
from busistore.schema import MASKS
from busistore.store import Store
from tests.fakes import FAKE_DIM, busi_folder, register_model
from tests.test_jobs_evaluate import GRID, rows
from tests.test_jobs_ingest import counts
from tests.test_methods import LEARNERS

CLASSES = ["benign", "malignant", "normal"]
SCALE = 15.0
PAIR = "pair"  # a model whose towers share no space


def read_text(text: str) -> np.ndarray:
    """(D,) of a prompt: another for another text."""
    return np.random.default_rng(list(text.encode())).normal(size=FAKE_DIM).astype(np.float32)


def register_readers(patch, folder, context_length=77) -> None:
    """`fake` reads text in the space of its images, `pair` in another, `blind` not at all."""
    for name, text in (("fake", TextTower(context_length, FAKE_DIM)), (PAIR, TextTower(77, 5, aligned=False)),
                       ("blind", None)):  # fmt: skip
        register_model(patch, folder / f"{name}.pt", name)
        patch.setitem(models.MODELS, name, replace(models.MODELS[name], text=text))
    patch.setattr(models, "load_text", lambda located, device="cpu", **_: tower(located.spec.text.dim))


def tower(dim: int) -> SimpleNamespace:
    return SimpleNamespace(encode=lambda texts: np.stack([read_text(t)[:dim] for t in texts]), logit_scale=SCALE)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store that is ready to be evaluated, made once; tests work on copies."""
    root = tmp_path_factory.mktemp("reading")
    with pytest.MonkeyPatch.context() as patch:
        register_readers(patch, root)
        store = Store.create(root / "store")
        ingest(store, "busi", busi_folder(root / "busi", 12))
        for name in ("fake", PAIR, "blind"):
            encode(store, name)
        split(store, "busi", seed=3)
    return root


@pytest.fixture
def ready(world, tmp_path, monkeypatch) -> Store:
    register_readers(monkeypatch, world)
    shutil.copytree(world / "store", tmp_path / "store")
    return Store.open(tmp_path / "store")


@pytest.fixture
def mapped(monkeypatch) -> dict:
    """In place of a learned map: its call is counted, its vectors are the first five numbers of an image's own."""
    told = {"calls": 0}

    def text_space(store, located, recipe, split):
        told["calls"] += 1
        vectors = load_vectors(store, located, recipe, split)
        ids = sorted(vectors.row_of)
        n_train = len(split.parts["train"])
        return SimpleNamespace(ids=ids, vectors=vectors.of(ids)[:, :5], n_train=n_train, details={"alpha": 300.0})

    monkeypatch.setattr(alignment, "text_space", text_space)
    return told


def asked(store, methods=("zero-shot",), names=("fake",), shots=(), seeds=(), sets=("bi-rads",), **rest):
    return evaluate(store, list(methods), list(names), shots, seeds, prompts=list(sets), **rest)


def prompts_file(folder, name="mine", **changed) -> str:
    classes = {c: [f"{c} {k}" for k in range(3)] for c in CLASSES} | changed
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"name": name, "classes": classes}))
    return str(path)


def test_one_run_without_any_label(ready):
    report = asked(ready, shots=[1, 2], seeds=range(3))
    assert counts(report) == (1, 0, 1, 0)
    (one,) = rows(ready, "runs")
    assert (one["method"], one["shots"], one["seed"], one["n_labelled"]) == ("zero-shot", 0, 0, 0)
    assert (one["exposure_support"], one["exposure_val"], one["n_groups_support"]) == (0, None, 0)
    assert one["episode_id"].startswith("0shot-seed0-")
    assert ready.count("episodes") == 0
    birads = prompts.load("bi-rads")
    assert json.loads(one["parameters"]) == {"prompts": birads.set_id, "rank": "none"}
    details = json.loads(one["details"])
    assert details["prompts"] == list(birads.prompt_ids())
    assert details["logit_scale"] == SCALE
    assert details["text_id"].startswith("fake-text-")


def test_predictions_and_metrics_are_the_formula_on_what_is_stored(ready):
    asked(ready)
    chosen = load_split(ready, None, None)
    x = load_vectors(ready, models.locate("fake"), "pad224", chosen).of(chosen.parts["test"]).astype(float)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    means = []
    for c in CLASSES:
        texts = np.stack([read_text(t) for t in prompts.load("bi-rads").classes[c]]).astype(float)
        mean = (texts / np.linalg.norm(texts, axis=1, keepdims=True)).mean(axis=0)
        means.append(mean / np.linalg.norm(mean))
    wanted = softmax(SCALE * x @ np.stack(means).T, axis=1)
    stored = {r["image_id"]: r["probabilities"] for r in rows(ready, "predictions")}
    assert np.array([stored[i] for i in chosen.parts["test"]]) == pytest.approx(wanted, abs=1e-12)
    again = metrics.classification_metrics([chosen.label_of[i] for i in chosen.parts["test"]], wanted, CLASSES)
    found = {(m["metric"], m["class"]): m["value"] for m in rows(ready, "metrics", "subject = 'test'")}
    assert found == {(m.metric, m.class_): pytest.approx(m.value, abs=1e-9) for m in again}


def test_the_same_is_not_done_twice_and_other_methods_keep_their_grid(ready):
    asked(ready)
    versions = {t: ready.version(t) for t in ready.names()}
    assert counts(asked(ready, shots=[4], seeds=[9])) == (1, 1, 0, 0)
    assert {t: ready.version(t) for t in ready.names()} == versions
    assert counts(asked(ready, ["zero-shot", "knn"], **GRID)) == (7, 1, 6, 0)
    assert ready.count("episodes") == 3 * 3 * (1 + 2)
    with pytest.raises(BusistoreError, match="no shots are named"):
        asked(ready, ["zero-shot", "knn"])


def test_a_dry_run_reads_no_text(ready, monkeypatch):
    monkeypatch.setattr(models, "load_text", lambda *_, **__: pytest.fail("a text tower was loaded"))
    assert counts(asked(ready, dry_run=True)) == (1, 0, 0, 0)
    assert ready.count("text_embeddings") == 0


def test_other_texts_are_other_runs_on_the_same_episode(ready, tmp_path):
    assert counts(asked(ready, sets=["bi-rads", "plain", prompts_file(tmp_path)])) == (3, 0, 3, 0)
    assert counts(asked(ready, sets=[prompts_file(tmp_path)])) == (1, 1, 0, 0)
    changed = prompts_file(tmp_path, benign=["benign 0", "benign 1", "benign two"])
    assert counts(asked(ready, sets=[changed])) == (1, 0, 1, 0)
    assert counts(asked(ready, sets=["bi-rads", "bi-rads"])) == (1, 1, 0, 0)
    found = rows(ready, "runs")
    assert len({r["episode_id"] for r in found}) == 1
    assert len({json.loads(r["parameters"])["prompts"] for r in found}) == 4
    assert len(sql.run(ready, "leaderboard")) == 4


def test_another_text_tower_makes_other_runs_of_the_same_vectors(ready, world, monkeypatch):
    asked(ready)
    register_readers(monkeypatch, world, context_length=64)
    assert counts(asked(ready)) == (1, 0, 1, 0)
    one, other = rows(ready, "runs")
    assert one["model_id"] == other["model_id"]
    assert one["run_id"] != other["run_id"]
    assert json.loads(one["details"])["text_id"] != json.loads(other["details"])["text_id"]


def subjects(store, run_id=None) -> set[str]:
    where = f"run_id = '{run_id}'" if run_id else None
    return {m["subject"] for m in rows(store, "metrics", where)}


def test_scores_of_prompts_are_stored_for_the_parts_whose_labels_were_consulted(ready):
    ids = list(prompts.load("bi-rads").prompt_ids())
    scored = {*ids, *(f"set-{k:02d}" for k in range(10))}
    asked(ready, protocol="strict")
    assert subjects(ready) == {"test", *(f"test:{p}" for p in scored)}
    asked(ready, rank="val")
    (ranked,) = rows(ready, "runs", "protocol = 'val-tuned'")
    assert subjects(ready, ranked["run_id"]) == {"test", *(f"{part}:{p}" for part in ("val", "test") for p in scored)}
    assert {m["metric"] for m in rows(ready, "metrics")} <= metrics.METRICS.keys()
    (area,) = {m["n_used"] for m in rows(ready, "metrics") if m["subject"] == f"val:{ids[0]}"}
    assert area == len(load_split(ready, None, None).parts["val"])
    board = sql.run(ready, "leaderboard", {"metric": "auroc"})
    assert board["n_seeds"].to_list() == [1, 1]
    assert len(sql.run(ready, "per_class")) == 6


def test_ranking_counts_the_validation_part_and_may_be_asked_for_in_two_ways(ready):
    asked(ready, rank="val")
    assert counts(asked(ready, parameters={"rank": "val"})) == (1, 1, 0, 0)
    (one,) = rows(ready, "runs")
    details, n_val = json.loads(one["details"]), len(load_split(ready, None, None).parts["val"])
    assert (one["n_labelled"], details["n_val"], one["exposure_val"]) == (n_val, n_val, 0)
    assert details["n_candidates"] > 1
    assert 3 <= len(details["prompts"]) < 30
    assert json.loads(one["parameters"])["rank"] == "val"
    assert counts(asked(ready, ["zero-shot", "knn"], rank="val", **GRID)) == (7, 1, 6, 0)  # knn knows no rank
    assert all(r["n_labelled"] == 3 * r["shots"] + n_val for r in rows(ready, "runs", "method = 'knn'"))


def cell_and_read(store, rank):
    """A run to be made by hand, with its split."""
    chosen = load_split(store, None, None)
    found = prompts.load("bi-rads").prompt_ids()
    labels = np.array([CLASSES.index(c) for c, _ in found.values()])
    text = TextPrompts(np.stack([read_text(t) for _, t in found.values()]), labels, list(found), SCALE)
    located = models.locate("fake")
    vectors = load_vectors(store, located, "pad224", chosen)
    texts = reading.texts_of(store, located, prompts.load("bi-rads"), chosen)
    return Cell(ZeroShot(rank), vectors, no_images(chosen), "val-tuned", texts), chosen, Read(text)


def run(cell, chosen, read):
    """The rows of one run by table, as they would be stored."""
    made = run_rows.rows(list(run_many([cell], chosen, read)), chosen, read)
    return {name: table.to_pylist() for name, table in made.items()}


def permuted(chosen, part):
    """The split with the labels of one part dealt out anew."""
    ids = chosen.parts[part]
    dealt = np.random.default_rng(5).permutation([chosen.label_of[i] for i in ids]).tolist()
    assert dealt != [chosen.label_of[i] for i in ids]
    return replace(chosen, label_of=chosen.label_of | dict(zip(ids, dealt)))


def test_validation_labels_change_nothing_of_a_run_that_does_not_rank(ready):
    cell, chosen, read = cell_and_read(ready, "none")
    one, other = run(cell, chosen, read), run(cell, permuted(chosen, "val"), read)
    assert one["predictions"] == other["predictions"]
    assert one["metrics"] == other["metrics"]
    told = [{k: v for k, v in r["runs"][0].items() if k not in ("seconds", "finished_at")} for r in (one, other)]
    assert told[0] == told[1]


def test_test_labels_change_no_choice_and_validation_labels_do(ready):
    cell, chosen, read = cell_and_read(ready, "val")
    one, blind, seen = (run(cell, s, read) for s in (chosen, permuted(chosen, "test"), permuted(chosen, "val")))
    assert one["runs"][0]["details"] == blind["runs"][0]["details"] != seen["runs"][0]["details"]
    assert [p["probabilities"] for p in one["predictions"]] == [p["probabilities"] for p in blind["predictions"]]
    of_val = [[m for m in r["metrics"] if m["subject"].startswith("val:")] for r in (one, blind, seen)]
    assert of_val[0] == of_val[1] != of_val[2]


@pytest.mark.parametrize(("change", "words"), [
    ({"sets": []}, "no prompts are named; .*--prompts bi-rads"),
    ({"sets": ["birads"]}, "no prompt set 'birads'; did you mean 'bi-rads'"),
    ({"names": ["blind"]}, "'blind' has no text tower for 'zero-shot'; these have: clip, biomedclip"),
    ({"methods": ["text-readout"]}, "'fake' needs no map to read text; use --method zero-shot"),
    ({"methods": ["text-readout"], "names": ["blind"]}, "'blind' has no text tower for 'text-readout'"),
    ({"layer": "unprojected"}, "'zero-shot' compares images with texts, which 'unprojected' vectors cannot"),
    ({"rank": "val", "protocol": "strict"}, "chooses on validation images, which protocol 'strict' forbids"),
    ({"rank": "test"}, "rank is none or val, not 'test'"),
    ({"methods": ["knn"], "rank": "val", **GRID}, "--rank val is for 'zero-shot' and 'text-readout'"),
    ({"protocol": "loose"}, "no protocol of 'zero-shot' 'loose'"),
    ({"recipe": "stretch224"}, "`busistore encode"),
])  # fmt: skip
def test_one_line_for_what_cannot_be(ready, change, words):
    with pytest.raises(BusistoreError, match=words) as caught:
        asked(ready, **change)
    assert "\n" not in str(caught.value)
    assert ready.count("runs") == 0


def test_prompts_of_other_classes_are_refused(ready, tmp_path):
    with pytest.raises(BusistoreError, match="'mine' are for benign, cyst, malignant, normal; the split 'busi"):
        asked(ready, sets=[prompts_file(tmp_path, cyst=["a cyst"])])
    path = tmp_path / "two.json"
    path.write_text(json.dumps({"name": "two", "classes": {"benign": ["a"], "malignant": ["b"]}}))
    with pytest.raises(BusistoreError, match="'two' are for benign, malignant; the split"):
        asked(ready, sets=[str(path)])


def test_a_method_that_needs_one_space_is_refused_where_there_is_none():
    class Later:
        name, needs_text = "later", True

    with pytest.raises(BusistoreError, match="share no space, as 'later' needs; these share one: clip, biomedclip"):
        reading.fitting(Later(), replace(models.model("efflite0-minilm")))
    assert isinstance(reading.fitting(Later(), models.model("clip")), Later)


# Towers that share no space


def test_a_map_from_labels_is_never_called_zero_shot(ready, mapped):
    report = asked(ready, names=[PAIR])
    assert counts(report) == (1, 0, 1, 0)
    assert report.notes == [f"'{PAIR}' reads text through a map learned from the training labels: its runs are stored "
                            "as 'text-readout', not as 'zero-shot'"]  # fmt: skip
    (one,) = rows(ready, "runs")
    chosen = load_split(ready, None, None)
    train = chosen.parts["train"]
    assert (one["method"], one["shots"], one["seed"], one["n_labelled"]) == ("text-readout", None, 0, len(train))
    assert one["n_groups_support"] == len({chosen.group_of[i] for i in train})
    details = json.loads(one["details"])
    assert (details["supervised"], details["map"]) == (True, {"alpha": 300.0})
    assert ready.count("episodes") == 0
    explicit = asked(ready, ["text-readout"], [PAIR])
    assert (counts(explicit), explicit.notes) == ((1, 1, 0, 0), [])
    assert counts(asked(ready, ["zero-shot", "text-readout"], [PAIR])) == (1, 1, 0, 0)
    assert mapped["calls"] == 1


def test_read_outs_stand_apart_in_answers_and_never_at_0_shots(ready, mapped):
    asked(ready, ["zero-shot", "knn"], ["fake", PAIR], **GRID)
    board = sql.run(ready, "leaderboard")
    seen = set(zip(board["method"], board["model"], board["shots"]))
    assert seen == {("zero-shot", "fake", 0), ("text-readout", PAIR, None),
                    *(("knn", m, s) for m in ("fake", PAIR) for s in (1, 2))}  # fmt: skip
    assert board["shots"].to_list() == [0, 1, 1, 2, 2, None]
    assert sql.run(ready, "leaderboard", {"shots": 0})["method"].to_list() == ["zero-shot"]
    assert sql.run(ready, "paired_difference", {"a": "zero-shot", "b": "text-readout"}).height == 0
    assert sql.run(ready, "paired_difference", {"a": "fake", "b": PAIR})["held"].to_list() == ["knn", "knn"]
    assert {"zero-shot", "text-readout"} <= set(sql.run(ready, "run_cost")["method"])


def test_the_map_is_learned_once_for_several_prompt_sets_and_ranking_adds_labels(ready, mapped):
    asked(ready, names=[PAIR], sets=["bi-rads", "plain"], rank="val")
    assert mapped["calls"] == 1
    chosen = load_split(ready, None, None)
    n_train, n_val = len(chosen.parts["train"]), len(chosen.parts["val"])
    assert {r["n_labelled"] for r in rows(ready, "runs")} == {n_train + n_val}
    assert {r["exposure_val"] for r in rows(ready, "runs")} == {0}


def test_a_read_out_says_how_many_test_images_have_a_twin_in_training(ready, mapped, monkeypatch):
    """A split that cuts a group, as an imported one may: one of the test images stands in the training part too."""
    chosen = load_split(ready, None, None)
    twins = {chosen.parts["train"][0]: "one group", chosen.parts["test"][0]: "one group"}
    cut = replace(chosen, group_of=chosen.group_of | twins)
    monkeypatch.setattr("busistore.jobs.evaluate.load_split", lambda *_: cut)
    asked(ready, names=["fake", PAIR])
    exposed = {r["method"]: r["exposure_support"] for r in rows(ready, "runs")}
    assert exposed == {"zero-shot": 0, "text-readout": pytest.approx(1 / len(chosen.parts["test"]))}


def test_a_read_out_answers_from_mapped_vectors(ready, mapped):
    asked(ready, names=[PAIR])
    chosen = load_split(ready, None, None)
    x = load_vectors(ready, models.locate(PAIR), "pad224", chosen).of(chosen.parts["test"])[:, :5]
    found = prompts.load("bi-rads").prompt_ids()
    text = TextPrompts(np.stack([read_text(t)[:5] for _, t in found.values()]),
                       np.array([CLASSES.index(c) for c, _ in found.values()]), list(found), SCALE)  # fmt: skip
    wanted = TextReadout().fit_predict(None, None, x, 3, "strict", text=text).probabilities
    stored = {r["image_id"]: r["probabilities"] for r in rows(ready, "predictions")}
    assert np.array([stored[i] for i in chosen.parts["test"]]) == pytest.approx(wanted, abs=1e-12)


def test_a_map_from_other_captions_or_of_another_kind_makes_other_runs(ready, mapped, monkeypatch):
    asked(ready, names=[PAIR])
    train = sorted(load_split(ready, None, None).parts["train"])
    mask = next(m for m in rows(ready, "masks") if m["image_id"] == train[0])
    ready.put(MASKS, [mask | {"bbox_px": [0, 0, 30, 60]}], replace=True)
    assert counts(asked(ready, names=[PAIR])) == (1, 0, 1, 0)
    assert counts(asked(ready, names=[PAIR])) == (1, 1, 0, 0)
    monkeypatch.setattr(alignment, "KEY", {"alpha": 7.0})
    assert counts(asked(ready, names=[PAIR])) == (1, 0, 1, 0)
    assert sql.run(ready, "leaderboard").height == 1  # the newest of them counts


# Keys


def test_runs_of_methods_without_text_keep_their_ids():
    """Ids as they were before methods read text: what is stored stays found."""
    vectors = Vectors("alpha", "alpha-00000000000a", "pad224", "pad224-000000000001", "0" * 64, {}, np.zeros((0, 2)))
    episode = Episode("1shot-seed0-000000000000", 1, 0, {})
    ids = {n: [Cell(METHODS[n](), vectors, episode, p).run_id for p in ("val-tuned", "strict")] for n in LEARNERS}
    known = {
        "knn": ["knn-9637af160993", "knn-0753fbd0af98"],
        "prototype": ["prototype-0ce61af3af74", "prototype-541db3328788"],
    }
    assert {name: ids[name] for name in known} == known


# The command line


def ask(*arguments: str):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_the_command_line_hands_everything_on(ready, mapped, monkeypatch):
    monkeypatch.setenv("BUSISTORE", str(ready.path))
    done = ask("evaluate", "--method", "zero-shot", "--model", f"fake,{PAIR}", "--prompts", "bi-rads,plain")
    assert done.exit_code == 0
    assert "evaluate: 4 planned, 0 skipped, 4 written" in done.stderr
    assert done.stderr.count(f"'{PAIR}' reads text through a map learned from the training labels") == 1
    assert ask("evaluate", "--method", "zero-shot", "--model", "fake").stderr.startswith("evaluate: 1 planned, 1 skip")
    ranked = ask("evaluate", "--method", "zero-shot", "--model", "fake", "--rank", "val")
    assert "1 planned, 0 skipped, 1 written" in ranked.stderr
    refused = ask("evaluate", "--method", "zero-shot", "--model", "fake", "--layer", "unprojected")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("Error: 'zero-shot' compares images with texts")
    answer = ask("query", "prompt_ranking", "-p", "prompt_set=plain", "-p", "model=fake", "--format", "csv")
    assert len(answer.stdout.splitlines()) == 1 + 15
