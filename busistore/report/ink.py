"""The section on what scanners burned into the pictures: how often, by class, the clearest and the doubtful cases."""

from __future__ import annotations

import polars as pl

from busistore.preprocess import recipes
from busistore.report import pictures
from busistore.report.parts import Gallery, Picture, Section, Table, cell, count, plural, share
from busistore.report.sources import Source, Sources

RECIPE, MOST_PICTURES = "clean224", 6
KINDS = (("Calipers", "n_marks"), ("Lines", "n_lines"), ("Letters", "n_words"), ("Vendor's name", "n_logos"),
         ("Others", "n_others"))  # fmt: skip
WORDS = (
    "A class that has more marks than another can be told by them: 'caliper' alone says 'lesion' where no normal image "
    "carries one. The recipe clean224 fills what it finds and changes no other pixel; `busistore query shortcut` says "
    "what it changes in the results. It does not find everything."
)


def section(sources: Sources) -> Section:
    """All on ink, or the command that looks for it."""
    made = Section("ink", "What scanners burned in")
    found = sources.ask("burned-in", "burned_in", recipe=recipes.recipe(RECIPE).recipe_id)
    if not found.frame.height:
        made.missing = "No picture has been searched for calipers, lines and text yet."
        made.command = f"busistore preprocess --recipe {RECIPE}"
        return made
    made.words.append(WORDS)
    made.items = [by_class(found), *_galleries(sources, found)]
    return made


def by_class(found: Source) -> Table:
    """Images of each class that carry each kind of ink."""
    rows = []
    for (dataset, label), own in found.frame.group_by(["dataset", "label"], maintain_order=True):
        n = own.height
        cells = [share(int((own[column] > 0).sum()), n) for _, column in KINDS]
        left = own.filter(pl.col("filled").not_()).height
        clear = own.filter(pl.all_horizontal(pl.col(column) == 0 for _, column in KINDS)).height
        rows.append([cell(dataset), cell(label), count(n), *cells, share(clear, n), count(left)])
    head = ["Data set", "Class", "Images", *(name for name, _ in KINDS), "None of it", "Not filled"]
    note = "Images with at least one of a kind, as the recipe clean224 found it. Not filled: too much of it, or flow."
    return Table("ink-by-class", "Ink by class", head, sorted(rows), [found], note)


def _galleries(sources: Sources, found: Source) -> list[Gallery]:
    filled = found.frame.filter(pl.col("filled"))
    marked = filled.filter(pl.col("n_marks") > 0)
    clearest = filled.sort("ink_share", "image_id", descending=[True, False])
    doubtful = pl.concat([found.frame.filter(pl.col("filled").not_()), marked.sort("least_score", "image_id")])
    kinds = (
        ("clearest", "Most ink", clearest, "The pictures of which most was filled"),
        ("doubtful", "Doubtful ink", doubtful, "What was found and not filled, then the weakest caliper marks"),
    )
    made = []
    for kind, title, rows, said in kinds:
        shown = _pictures(sources, rows.head(MOST_PICTURES).to_dicts())
        if shown:
            caption = f"{said}; raw to the left, {RECIPE} to the right."
            made.append(Gallery(f"ink-{kind}", title, caption, shown, [found], is_large=True))
    return made


def _pictures(sources: Sources, rows: list[dict]) -> list[Picture]:
    of = {row["image_id"]: row for row in rows}
    ids = {row["image_id"]: row["recipe_id"] for row in rows}
    return [_picture(uri, of[i]) for i, uri in pictures.cleaned(sources.store, ids)]


def _picture(uri: str, row: dict) -> Picture:
    things = (("n_marks", "mark"), ("n_lines", "line"), ("n_words", "word"), ("n_others", "other"))
    said = [plural(row[column], thing) for column, thing in things if row[column]]
    lines = (cell(row["label"]), ", ".join(said) or "nothing", "filled" if row["filled"] else "not filled")
    alt = f"Ultrasound image {row['image_id']} before and after cleaning: {', '.join(lines)}."
    return Picture(uri, alt, row["image_id"], lines)
