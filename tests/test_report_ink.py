"""What was burned in: the query that counts it and the section that shows it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from busistore import sql
from busistore.jobs.ingest import ingest
from busistore.jobs.preprocess import preprocess
from busistore.report import ink, sources
from busistore.store import Store
from tests.speckle import speckle
from tests.test_artefacts import plus


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """Two images a class; the first benign one carries two marks, the second malignant one is half coloured flow."""
    root = tmp_path_factory.mktemp("ink")
    for k, label in enumerate(("benign", "malignant", "normal")):
        (root / "busi" / label).mkdir(parents=True)
        for n in (1, 2):
            image = (0.6 * speckle(10 * k + n, 200, 260)).astype(np.uint8)
            if (label, n) == ("benign", 1):
                plus(image, 60, 90)
                plus(image, 190, 110)
            if (label, n) == ("malignant", 2):
                image = np.repeat(image[..., None], 3, axis=2)
                image[40:160, 60:200, 1:] = 20
                image[40:160, 60:200, 0] = 220
            Image.fromarray(image).save(root / "busi" / label / f"{label} ({n}).png")
            Image.fromarray(np.zeros((200, 260), np.uint8)).save(root / "busi" / label / f"{label} ({n})_mask.png")
    made = Store.create(root / "store")
    ingest(made, "busi", root / "busi")
    return made


@pytest.fixture(scope="module")
def cleaned(store) -> Store:
    with sources.Sources(store) as asked:
        assert ink.section(asked).command == "busistore preprocess --recipe clean224"
    preprocess(store, "pad224")
    preprocess(store, "clean224")
    return store


def test_what_was_found_is_counted_by_image(cleaned):
    rows = {r["image_id"]: r for r in sql.run(cleaned, "burned_in").to_dicts()}
    assert len(rows) == 6
    marked = rows["busi/benign-0001"]
    assert (marked["n_marks"], marked["n_words"], marked["filled"]) == (2, 0, True)
    assert marked["least_score"] > 40
    assert 2 * (2 * 17 * 3 - 9) / (200 * 260) <= marked["ink_share"] <= 2 * (2 * 23 * 9) / (200 * 260)
    assert (rows["busi/malignant-0002"]["n_others"] > 0, rows["busi/malignant-0002"]["filled"]) == (True, False)
    clear = rows["busi/normal-0001"]
    assert (clear["n_marks"], clear["ink_share"], clear["filled"]) == (0, 0.0, None)
    assert sql.run(cleaned, "burned_in", {"recipe": "pad224"}).is_empty()  # which looks for nothing


def test_the_section_counts_by_class_and_shows_both_sides(cleaned):
    with sources.Sources(cleaned) as asked:
        made = ink.section(asked)
    table, most, doubtful = made.items
    rows = {row[1]: dict(zip(table.head, row)) for row in table.rows}
    assert rows["benign"]["Calipers"] == "1 (50%)"
    assert (rows["normal"]["Calipers"], rows["normal"]["None of it"]) == ("0 (0%)", "2 (100%)")
    assert (rows["malignant"]["Not filled"], rows["benign"]["Not filled"]) == ("1", "0")
    assert most.is_large
    assert [p.heading for p in most.pictures] == ["busi/benign-0001"]
    assert [p.heading for p in doubtful.pictures] == ["busi/malignant-0002", "busi/benign-0001"]
    assert doubtful.pictures[0].lines[-1] == "not filled"
    assert most.pictures[0].uri.startswith("data:image/jpeg;base64,")
