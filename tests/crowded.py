"""What else a store may hold beside the filled one, each added on its own, to see which answers it changes.

Those in `HARMLESS` change no answer about the data set `toy`; those in `SETTINGS` add rows and change none that was
there. Every added run is wrong everywhere, so that it shows wherever it is counted with another.
"""

from __future__ import annotations

from datetime import timedelta

from busistore import schema
from busistore.store import Store
from tests.filled import GROUPING, IMAGE_IDS, MODEL_IDS, NOW, OUTCOMES, RECIPE_ID, SPLIT, put_runs

OLDER = "frames-ffffffffffff"  # by name it comes last
OTHER_SPLIT, OTHER_RECIPE_ID, OTHER_WEIGHTS = "toy-7-000000000002", "crop224-000000000002", "alpha-00000000000c"
YEAR = timedelta(days=365)
ALPHA = [(m, n, seed, "WWW") for (m, n), outcomes in OUTCOMES.items() if m == "alpha" for seed in range(len(outcomes))]


def older_grouping(store: Store) -> None:
    """All images in one group, found a year before, by one pair."""
    columns = {"grouping": OLDER, "group_id": "all", "size": 12, "spans_classes": True, "grouped_at": NOW - YEAR}
    store.put(schema.GROUPS, [row | columns for row in _rows(store, "groups") if row["grouping"] == GROUPING])
    pair = _rows(store, "pairs")[0] | {"grouping": OLDER, "image_id": IMAGE_IDS[2], "other_id": IMAGE_IDS[9]}
    store.put(schema.PAIRS, [pair])


def superseded_runs(store: Store) -> None:
    """Runs on other pixels: at one shot from before, at two from a change that was since taken back."""
    for prefix, shots, when in (("before", 1, NOW - YEAR), ("between", 2, NOW + YEAR)):
        runs = [run for run in ALPHA if run[1] == shots]
        put_runs(store, runs, prefix=prefix, inputs_sha256="0" * 64, finished_at=when, seconds=100.0)


def other_data_set(store: Store) -> None:
    """All that `toy` has again as `other`, with the same pixels, split and outcomes."""
    for name in store.names():
        rows = [_renamed(row) for row in _rows(store, name)]
        if name in schema.TABLES and name != "models":
            store.put(schema.TABLES[name], rows)
        elif name != "models":
            store.put(schema.embeddings_table(*name.split(".")[1:], len(rows[0]["vector"])), rows)


def second_mask_source(store: Store) -> None:
    """Masks from a segmenter, each with nine lesions."""
    changes = {"source_id": "medsam", "n_lesions": 9, "n_masks": 9, "touches_edge": True, "is_empty": False}
    store.put(schema.MASKS, [row | changes for row in _rows(store, "masks")])


def second_recipe(store: Store) -> None:
    """Images under another recipe, encoded and evaluated."""
    changes = {"recipe_id": OTHER_RECIPE_ID, "recipe": "crop224"}
    store.put(schema.PREPROCESSED, [row | changes for row in _rows(store, "preprocessed")])
    table = schema.embeddings_table(MODEL_IDS["alpha"], OTHER_RECIPE_ID, 4)
    vectors = _rows(store, f"embeddings.{MODEL_IDS['alpha']}.{RECIPE_ID}")
    store.put(table, [row | {"recipe_id": OTHER_RECIPE_ID} for row in vectors])
    put_runs(store, ALPHA, prefix="crop", **changes)


def second_weights(store: Store) -> None:
    """Other weights of the model `alpha`."""
    store.put(schema.MODELS, [_rows(store, "models")[0] | {"model": "alpha", "model_id": OTHER_WEIGHTS}])
    table = schema.embeddings_table(OTHER_WEIGHTS, RECIPE_ID, 4)
    vectors = _rows(store, f"embeddings.{MODEL_IDS['alpha']}.{RECIPE_ID}")
    store.put(table, [row | {"model_id": OTHER_WEIGHTS} for row in vectors])
    put_runs(store, ALPHA, prefix="weights", model_id=OTHER_WEIGHTS)


def second_split(store: Store) -> None:
    """The same images split otherwise (train and val change places), with episodes and runs."""
    swapped = {"train": "val", "val": "train", "test": "test"}
    rows = [row for row in _rows(store, "splits") if row["split_id"] == SPLIT]
    store.put(schema.SPLITS, [row | {"split_id": OTHER_SPLIT, "part": swapped[row["part"]]} for row in rows])
    changes = [{"split_id": OTHER_SPLIT, "episode_id": "e7" + row["episode_id"]} for row in _rows(store, "episodes")]
    store.put(schema.EPISODES, [row | change for row, change in zip(_rows(store, "episodes"), changes)])
    for model, shots, seed, said in ALPHA:
        run = {"split_id": OTHER_SPLIT, "episode_id": f"e7episode-{shots}-{seed}"}
        put_runs(store, [(model, shots, seed, said)], prefix="split", **run)


def second_protocol(store: Store) -> None:
    """Runs that never saw a val image."""
    put_runs(store, ALPHA, prefix="strict", protocol="strict")


def second_parameters(store: Store) -> None:
    """Runs of the same method with other parameters."""
    put_runs(store, ALPHA, prefix="k2", parameters='{"k":2}')


def more_test_images(store: Store, times: int = 3) -> None:
    """What was said of each test image said again of `times` more, each a group, so that there are intervals and p."""
    again = [row | {"image_id": f"{row['image_id']}-{k}"} for row in _rows(store, "predictions") for k in range(times)]
    store.put(schema.PREDICTIONS, again)
    store.put(schema.RUNS, [row | {"n_test": 3 * (1 + times)} for row in _rows(store, "runs")], replace=True)


HARMLESS = (older_grouping, superseded_runs, other_data_set)
SETTINGS = (second_mask_source, second_recipe, second_weights, second_split, second_protocol, second_parameters)


def _rows(store: Store, name: str) -> list[dict]:
    """The rows of a table, with empty files."""
    files = {"png": b""} if name in ("images", "masks", "preprocessed") else {}
    return [row | files for row in store.read(name).to_pylist()]


def _renamed(row: dict) -> dict:
    of_toy = {"image_id", "other_id", "dataset", "split_id", "key"} & row.keys()
    names = {name: row[name].replace("toy", "other") for name in of_toy}
    return row | names | {n: "other-" + row[n] for n in ("run_id", "episode_id", "grouping") if row.get(n)}
