"""The verb search: images like an image, a picture or a sentence."""

from __future__ import annotations

from pathlib import Path

import click

from busistore.cli import app, format_option, output_option, store_option
from busistore.cli.data import precision_option, recipe_option, weights_option, where_option

COLUMNS = ("rank", "image_id", "similarity", "label", "dataset", "group_id")


@app.command()
@click.argument("query", metavar="IMAGE|TEXT")
@click.option("--model", help="The only one that has encoded images by default.")
@recipe_option
@click.option("-k", default=10, show_default=True, help="How many images.")
@where_option
@click.option("--split", help="Split whose training part joins text to images, for a model that needs it.")
@click.option("--sheet", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw the pictures found, too.")
@weights_option
@precision_option
@format_option
@output_option
@store_option
def search(query, model, recipe, k, where, split, sheet, weights, precision, fmt, output, path) -> None:
    """Images most like an image, a PNG file or a sentence: busistore search busi/benign-0001 --sheet found.png."""
    from busistore import formats, sql
    from busistore import sheet as sheets
    from busistore.cli.ask import frame
    from busistore.errors import lookup
    from busistore.jobs import search as jobs
    from busistore.store import Store

    lookup("format", fmt, formats.FORMATS)
    if sheet is not None:
        sheets.check(sheet, k)
    store = Store.open(path)
    only = None if where is None else set(sql.image_ids(store, where))
    found = jobs.search(
        store, query, model=model, recipe=recipe, k=k, only=only, split=split, weights=weights, precision=precision
    )
    if sheet is not None:
        jobs.save_sheet(store, found, sheet)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    shown = (*COLUMNS, "part") if found.split_id else COLUMNS
    formats.write(frame(shown, [[getattr(hit, name) for name in shown] for hit in found.hits]), fmt, output)
