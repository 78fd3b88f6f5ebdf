"""The verbs of localisation: train a segmenter on the lesions of a split, and predict and score masks."""

from __future__ import annotations

import click

from busistore.cli import app, dry_run_option, finish, pairs, quiet_option, store_option, tracker


@app.command("train-segmenter")
@click.argument("segmenter")
@click.option("--split", help="Split id; the only one by default.")
@click.option("--dataset", help="Data set whose split is meant.")
@click.option("-p", "parameters", multiple=True, metavar="NAME=VALUE", help="A parameter of the segmenter.")
@dry_run_option
@store_option
@quiet_option
def train_segmenter(segmenter, split, dataset, parameters, dry_run, path, quiet) -> None:
    """Train SEGMENTER on the lesions of the training part; stopped, it goes on after its last epoch.

    The epoch of the best Dice on the lesions of the validation part is kept.
    """
    from busistore.jobs import train_segmenter as jobs
    from busistore.store import Store

    report = jobs.train_segmenter(
        Store.open(path), segmenter, split=split, dataset=dataset, parameters=pairs(parameters), dry_run=dry_run,
        track=tracker(quiet),
    )  # fmt: skip
    finish(report, quiet)


@app.command()
@click.option("--segmenter", required=True, metavar="NAME|ID", help="The newest of that name, or the one of that id.")
@click.option("--prompt", metavar="PROTOCOL", help="See `busistore list prompts`; as published by default.")
@click.option("--part", default="test", show_default=True, metavar="test|val", help="Whose images are segmented.")
@click.option("--split", help="Split id, where a name stands for segmenters of several.")
@click.option("--dataset", help="Data set, where a name stands for segmenters of several.")
@dry_run_option
@store_option
@quiet_option
def segment(segmenter, prompt, part, split, dataset, dry_run, path, quiet) -> None:
    """Predict the masks of a part and score them against the truth, in original pixels.

    `busistore query segmentation` shows the means, with how many lesions were missed and normal images marked.
    """
    from busistore.jobs import segment as jobs
    from busistore.store import Store

    report = jobs.segment(
        Store.open(path), segmenter, prompt=prompt, part=part, split=split, dataset=dataset, dry_run=dry_run,
        track=tracker(quiet),
    )  # fmt: skip
    finish(report, quiet)
