"""Verbs that bring data in and make it ready: ingest, phantom, group, split, preprocess, encode."""

from __future__ import annotations

from pathlib import Path

import click

from busistore.cli import (
    app,
    dry_run_option,
    finish,
    format_option,
    is_quiet,
    names,
    output_option,
    quiet_option,
    skip_errors_option,
    store_option,
    tracker,
)

recipe_option = click.option("--recipe", default="pad224", show_default=True, help="See `busistore list recipes`.")
where_option = click.option("--where", metavar="SQL", help="Only images that satisfy this, as in \"label = 'benign'\".")
only_errors_option = click.option("--only-errors", is_flag=True, help="Only images that failed before.")
executor_option = click.option(
    "--executor", default="threads", show_default=True, metavar="serial|threads|processes|ray", help="Where to compute."
)
weights_option = click.option(
    "--weights", type=click.Path(path_type=Path), help="A weight file or snapshot folder of yours."
)
precision_option = click.option(
    "--precision", default="auto", show_default=True, metavar="auto|fp32|bf16", help="Arithmetic of the network."
)


def _only(store, where: str | None) -> set[str] | None:
    if where is None:
        return None
    from busistore import sql

    return set(sql.image_ids(store, where))


@app.command()
@click.argument("dataset")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--audit", is_flag=True, help="Find near-duplicates and print what is wrong with the data.")
@click.option("--replace", is_flag=True, help="Take files that changed since they were stored.")
@skip_errors_option
@executor_option
@format_option
@output_option
@store_option
@quiet_option
def ingest(dataset, folder, audit, replace, skip_errors, executor, fmt, output, path, quiet) -> None:
    """Bring a data set's folder into the store: busistore ingest busi PATH --audit."""
    from busistore import formats, sql
    from busistore.datasets import reader
    from busistore.errors import lookup
    from busistore.jobs import executors
    from busistore.jobs import ingest as jobs
    from busistore.store import Store

    lookup("format", fmt, formats.FORMATS)
    executors.named(executor)
    next(iter(reader(dataset).records(folder)))  # a wrong folder makes no store
    store = Store.create(path)
    report = jobs.ingest(store, dataset, folder, replace=replace, executor=executor, track=tracker(quiet))
    if audit:
        from busistore.jobs.group import group as find_groups

        find_groups(store, dataset, track=tracker(quiet))
        formats.write(sql.run(store, "audit", {"dataset": dataset}), fmt, output)
    finish(report, quiet, skip_errors)


@app.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--images", default=120, show_default=True, type=click.IntRange(1), help="How many images to draw.")
@click.option("--seed", default=0, show_default=True, help="Another seed draws another data set.")
@quiet_option
def phantom(folder, images, seed, quiet) -> None:
    """Draw a synthetic data set with known truth, in the layout of BUSI."""
    from busistore.datasets.phantom import draw

    with tracker(quiet)("draw phantoms", images) as advance:
        draw(folder, images, seed, progress=lambda done, total: advance(1))
    click.echo(f"{images} phantoms in {folder}; `busistore ingest phantom {folder}` takes them in")


@app.command()
@click.argument("dataset")
@click.option("--model", help="Let this model's stored vectors propose further candidates.")
@recipe_option
@weights_option
@precision_option
@store_option
@quiet_option
def group(dataset, model, recipe, weights, precision, path, quiet) -> None:
    """Find near-duplicates and patients, which no split may cut."""
    from busistore.jobs import group as jobs
    from busistore.jobs.encode import vectors
    from busistore.jobs.split import labels_of
    from busistore.store import Store

    store = Store.open(path)
    labels_of(store, dataset)
    embeddings = vectors(store, *_stored_as(store, model, recipe, weights, precision)) if model else None
    found = jobs.group(store, dataset, embeddings=embeddings, track=tracker(quiet))
    n_groups, state = len(set(found.group_of.values())), "new" if found.is_new else "stored before"
    click.echo(f"{found.grouping}: {len(found.group_of)} images in {n_groups} groups ({state})")


def _stored_as(store, model, recipe, weights, precision) -> tuple[str, str]:
    from busistore.jobs.models import find
    from busistore.preprocess import recipes

    return find(store, model, weights, precision, recipe=recipe).model_id, recipes.recipe(recipe).recipe_id


@app.command()
@click.argument("dataset")
@click.option("--seed", default=42, show_default=True, type=click.IntRange(-(2**63), 2**63 - 1))
@click.option("--fractions", default="0.7,0.15,0.15", show_default=True, help="Shares of train, val and test.")
@click.option("--from-csv", "csv", type=click.Path(path_type=Path), help="A published split: columns image, split.")
@click.option("--naive", is_flag=True, help="Ignore near-duplicates, to measure what that does.")
@click.option("--allow-leakage", is_flag=True, help="Store a split although it cuts groups.")
@store_option
def split(dataset, seed, fractions, csv, naive, allow_leakage, path) -> None:
    """Split by groups and classes; refuse to put near-duplicates on both sides."""
    from busistore.jobs import split as jobs
    from busistore.store import Store

    store = Store.open(path)
    shares = _fractions(fractions)
    split_id = jobs.split(
        store, dataset, seed=seed, fractions=shares, naive=naive, csv=csv, allow_leakage=allow_leakage
    )
    click.echo(split_id)
    for part, counts in sorted(jobs.sizes(store, split_id).items()):
        click.echo(f"  {part:9} {sum(counts.values()):5}  " + ", ".join(f"{n} {c}" for c, n in sorted(counts.items())))


def _fractions(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.UsageError(f"--fractions takes three numbers such as 0.7,0.15,0.15, not '{text}'") from None


@app.command()
@recipe_option
@where_option
@only_errors_option
@dry_run_option
@skip_errors_option
@executor_option
@click.option(
    "--debug", type=click.Path(path_type=Path), metavar="FOLDER",
    help="Write a sheet of each image there: original, findings, mask, result.",
)
@store_option
@quiet_option
def preprocess(recipe, where, only_errors, dry_run, skip_errors, executor, debug, path, quiet) -> None:
    """Make the square grey picture of every image, once per recipe."""
    from busistore.jobs import preprocess as jobs
    from busistore.store import Store

    store = Store.open(path)
    report = jobs.preprocess(
        store, recipe, only=_only(store, where), only_errors=only_errors, dry_run=dry_run, executor=executor,
        debug=debug, track=tracker(quiet),
    )  # fmt: skip
    finish(report, quiet, skip_errors)


@app.command()
@click.option("--model", required=True, help="See `busistore list models`.")
@recipe_option
@weights_option
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@precision_option
@click.option("--batch-size", type=click.IntRange(1), help="Pictures in one pass  [default: 16, on a GPU 128]")
@click.option("--tokens", is_flag=True, help="Keep the grid of patches too.")
@click.option("--layers", default="", metavar="5,8,...", help="Keep hidden states after these blocks, or unprojected.")
@click.option("--token-dtype", default="float16", show_default=True, metavar="float16|float32")
@click.option("--offline", is_flag=True, help="Download nothing.")
@click.option("--shard-rows", default=512, show_default=True, type=click.IntRange(1), help="Vectors in one commit.")
@where_option
@only_errors_option
@dry_run_option
@skip_errors_option
@store_option
@quiet_option
def encode(
    model, recipe, weights, device, precision, batch_size, tokens, layers, token_dtype, offline, shard_rows, where,
    only_errors, dry_run, skip_errors, path, quiet,
) -> None:  # fmt: skip
    """Encode every image once: what is stored is skipped, what a killed run left out is done."""
    from busistore.jobs import encode as jobs
    from busistore.store import Store

    store = Store.open(path)
    report = jobs.encode(
        store, model, recipe, weights=weights, device=device, precision=precision, batch_size=batch_size,
        layers=[*names(layers), *(["grid"] if tokens else [])], token_dtype=token_dtype, shard_rows=shard_rows,
        only=_only(store, where), only_errors=only_errors, dry_run=dry_run, fetch=not (offline or dry_run),
        quiet=is_quiet(quiet), track=tracker(quiet),
    )  # fmt: skip
    finish(report, quiet, skip_errors)
