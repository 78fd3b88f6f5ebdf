"""Verbs that use what is stored: evaluate, report, demo."""

from __future__ import annotations

from pathlib import Path

import click

from busistore.cli import (
    app,
    dry_run_option,
    finish,
    names,
    pairs,
    quiet_option,
    sizes,
    skip_errors_option,
    store_option,
    tracker,
)
from busistore.cli.data import precision_option, recipe_option, weights_option

SHOTS = "1,2,4,8,16,32"


@app.command()
@click.option("--method", "methods", default="linear-probe", show_default=True, help="One or more, with commas.")
@click.option("--model", "models", help="One or more, with commas; with --like that of the run by default.")
@click.option("--shots", default=SHOTS, show_default=True, metavar="N|N%,...",
              help="Images per class, or shares of the training part, as in 1,2,5%.")
@click.option("--seeds", default=10, show_default=True, type=click.IntRange(1), help="How many draws of each.")
@click.option("--like", metavar="RUN", help="On the support sets of this run and of all others of its setting.")
@click.option("--split", help="Split id; the only one by default.")
@click.option("--dataset", help="Data set whose split is meant.")
@click.option("--protocol", default="val-tuned", show_default=True, help="val-tuned or strict.")
@click.option("--prompts", default="bi-rads", show_default=True, help="Prompt sets, by name or file, with commas.")
@click.option("--rank", metavar="none|val", help="Choose a zero-shot ensemble of prompts on validation images.")
@click.option("--layer", default="pooled", show_default=True, metavar="pooled|unprojected", help="Which vectors.")
@click.option("-p", "parameters", multiple=True, metavar="NAME=VALUE", help="A parameter of the method.")
@click.option("--executor", default="serial", show_default=True, metavar="serial|processes|ray",
              help="Where runs that train a tower are computed.")
@click.option("--workers", type=click.IntRange(1), help="How many of those at once; one for each core by default.")
@recipe_option
@weights_option
@precision_option
@dry_run_option
@skip_errors_option
@store_option
@quiet_option
def evaluate(
    methods, models, shots, seeds, like, split, dataset, protocol, prompts, rank, layer, parameters, executor, workers,
    recipe, weights, precision, dry_run, skip_errors, path, quiet,
) -> None:  # fmt: skip
    """Run a grid of shots, seeds, methods and models on stored vectors; all on the same support sets.

    The method zero-shot has none: it makes one run for each model and prompt set, whatever --shots and --seeds say.
    Methods that train the image tower need preprocessed pictures alone; stopped, they go on within a run.
    """
    from busistore.jobs import evaluate as jobs
    from busistore.store import Store

    if models is None and like is None:
        raise click.UsageError("Missing option '--model'.")
    store, sized = Store.open(path), sizes(shots)
    grid = {
        "model_names": names(models or ""), "seeds": range(seeds), "split": split, "dataset": dataset,
        "shots": [n for n, _ in sized if n is not None], "ratios": [r for _, r in sized if r is not None],
        "recipe": recipe, "protocol": protocol, "precision": precision, "layer": layer,
    }  # fmt: skip
    if like is not None:
        from busistore.jobs.like import like as repeated

        grid |= repeated(store, like, weights, **{name: value for name, value in grid.items() if _is_asked(name)})
    report = jobs.evaluate(
        store, names(methods), prompts=names(prompts), rank=rank, parameters=pairs(parameters), weights=weights,
        executor=executor, n_workers=workers, dry_run=dry_run, track=tracker(quiet), **grid,
    )  # fmt: skip
    finish(report, quiet, skip_errors)


def _is_asked(argument: str) -> bool:
    """Whether the user gave the option that an argument of the job is from, and did not leave it to its default."""
    option = {"model_names": "models", "ratios": "shots"}.get(argument, argument)
    return click.get_current_context().get_parameter_source(option) is not click.core.ParameterSource.DEFAULT


@app.command()
@click.option("-o", "--output", default="out", show_default=True, type=click.Path(path_type=Path), help="Folder.")
@store_option
@quiet_option
def report(output, path, quiet) -> None:
    """Write the whole story as one HTML page, with a CSV beside it for every figure."""
    from busistore import report as pages
    from busistore.store import Store

    click.echo(pages.build(Store.open(path), output))


@app.command()
@click.option("--busi", type=click.Path(path_type=Path), help="Use this BUSI folder instead of drawing phantoms.")
@click.option("--folder", default="busistore-demo", show_default=True, type=click.Path(path_type=Path))
@click.option("--model", default="efficientnet-lite0", show_default=True)
@quiet_option
def demo(busi, folder, model, quiet) -> None:
    """The whole way on phantoms: ingest, audit, encode, a few-shot grid, masks, a leaderboard and a report."""
    from busistore import formats, sql
    from busistore import report as pages
    from busistore.jobs import pipeline
    from busistore.store import Store

    store = Store.create(folder / "store")
    dataset = "busi" if busi else "phantom"
    for step in pipeline.demo(store, dataset, busi or folder / "phantom", model, track=tracker(quiet)):
        if isinstance(step, str):
            click.echo(step, err=True)
        else:
            finish(step, quiet, skip_errors=True)  # what failed is said, and the way goes on with the rest
    for title, query in (("What is in the data", "audit"), ("Leaderboard", "leaderboard")):
        click.echo(f"\n{title}: busistore query {query} -p dataset={dataset} --store {store.path}")
        formats.write(sql.run(store, query, {"dataset": dataset}))
    click.echo(f"\nLesion masks: busistore query segmentation --store {store.path}")
    formats.write(sql.run(store, "segmentation"))
    page = pages.build(store, folder / "report")
    question = f'busistore sql --store {store.path} "SELECT * FROM runs"'
    click.echo(f"\nThe report:  {page}\nThe store:   {store.path}\nAsk it:      {question}")
