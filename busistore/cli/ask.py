"""Verbs that ask: sql, query, status, why, failures, list, verify, gc."""

from __future__ import annotations

import click

from busistore.cli import app, format_option, output_option, pairs, quiet_option, store_option, tracker
from busistore.cli.data import precision_option, recipe_option, weights_option

SECONDS = click.FloatRange(0, 1e6, min_open=True)
timeout_option = click.option("--timeout", type=SECONDS, metavar="SECONDS", help="Stop the query after so long.")
parameter_option = click.option("-p", "parameters", multiple=True, metavar="NAME=VALUE", help="A bound value.")


def _answer(path, question: str, parameters, fmt, output, timeout=None) -> None:
    from busistore import formats, sql
    from busistore.errors import lookup
    from busistore.store import Store

    lookup("format", fmt, formats.FORMATS)
    formats.write(sql.run(Store.open(path), question, parameters, timeout), fmt, output)


@app.command(name="sql")
@click.argument("statement")
@parameter_option
@format_option
@output_option
@timeout_option
@store_option
def sql_(statement, parameters, fmt, output, timeout, path) -> None:
    """Any one SELECT over the store: busistore sql "SELECT label, count(*) FROM images GROUP BY label"."""
    _answer(path, f"\n{statement}", pairs(parameters), fmt, output, timeout)  # never taken for a query's name


@app.command()
@click.argument("name")
@parameter_option
@format_option
@output_option
@timeout_option
@store_option
def query(name, parameters, fmt, output, timeout, path) -> None:
    """A named question, such as leaderboard; see `busistore list queries`."""
    from busistore import queries

    _answer(path, queries.load(name).name, pairs(parameters), fmt, output, timeout)


@app.command()
@click.option("--stale", is_flag=True, help="List what no longer matches its image, recipe or model.")
@format_option
@output_option
@store_option
def status(stale, fmt, output, path) -> None:
    """What is stored for each data set, recipe and model, and what is missing or stale."""
    _answer(path, "stale" if stale else "coverage", {}, fmt, output)


@app.command()
@format_option
@output_option
@store_option
def failures(fmt, output, path) -> None:
    """Inputs that failed, and why."""
    _answer(path, "failures", {}, fmt, output)


@app.command()
@click.argument("image")
@click.option("--model", default="efficientnet-lite0", show_default=True)
@recipe_option
@weights_option
@precision_option
@format_option
@store_option
def why(image, model, recipe, weights, precision, fmt, path) -> None:
    """Why an image is, or is not, encoded by a model: the field that differs."""
    from busistore import formats
    from busistore.jobs import why as jobs
    from busistore.store import Store

    steps = jobs.why(Store.open(path), image, model, recipe, weights=weights, precision=precision)
    formats.write(frame(("step", "state", "because"), steps), fmt)


@app.command(name="list")
@click.argument("what", required=False)
@format_option
@store_option
def list_(what, fmt, path) -> None:
    """Models, methods, datasets, recipes, metrics, queries, protocols, executors; tables of a store."""
    from busistore.cli.catalogue import CATALOGUE

    if what is None:
        for name in [*CATALOGUE, "tables"]:
            click.echo(name)
        return
    from busistore import formats
    from busistore.errors import lookup
    from busistore.store import Store

    if what == "tables":
        from busistore import sql

        formats.write(sql.tables(Store.open(path)), fmt)
        return
    columns, rows = lookup("list", what, {**CATALOGUE, "tables": None})()
    formats.write(frame(columns, rows), fmt)


def frame(columns, rows):
    """A table to print, from its columns' names and its rows."""
    import polars as pl

    return pl.DataFrame([dict(zip(columns, row)) for row in rows], schema=list(columns), orient="row")


@app.command()
@click.option("--repair", is_flag=True, help="Take damaged pictures and vectors out, so that they are made again.")
@store_option
@quiet_option
def verify(repair, path, quiet) -> None:
    """Read every stored file and vector and compare it with its checksum."""
    from busistore.errors import StoreError
    from busistore.jobs import verify as jobs
    from busistore.store import Store

    found = jobs.verify(Store.open(path), repair=repair, track=tracker(quiet))
    for damage in found.damaged:
        click.echo(f"{damage.table}: {damage.image_id or 'the table'}: {damage.reason}")
    click.echo(f"verify: {found.n_read} read, {len(found.damaged)} damaged, {len(found.taken_out)} taken out")
    if len(found.damaged) > len(found.taken_out):
        left = len(found.damaged) - len(found.taken_out)
        raise StoreError(f"{left} damaged; --repair takes out what can be made again")


@app.command()
@store_option
def gc(path) -> None:
    """Merge small files of every table and sweep what killed writers left; no data and no version is dropped.

    What training goes on from is swept too, where its run is stored, and all of a run that was never finished once
    nothing has touched it for a week.
    """
    from busistore.jobs.towers import sweep
    from busistore.store import Store

    store = Store.open(path)
    store.compact()
    sweep(store)


