"""The verbs of localisation: train a segmenter on the lesions of a split, and predict and score masks."""

from __future__ import annotations

import click

from busistore.cli import app, dry_run_option, finish, pairs, quiet_option, store_option, tracker
from busistore.cli.data import weights_option

init_option = click.option(
    "--init", metavar="NAME", help="sam, fine-tuned, bussam, or random: what a network that has weights begins with."
)


@app.command("train-segmenter")
@click.argument("segmenter")
@click.option("--split", help="Split id; the only one by default.")
@click.option("--dataset", help="Data set whose split is meant.")
@click.option("-p", "parameters", multiple=True, metavar="NAME=VALUE", help="A parameter of the segmenter.")
@weights_option
@init_option
@dry_run_option
@store_option
@quiet_option
def train_segmenter(segmenter, split, dataset, parameters, weights, init, dry_run, path, quiet) -> None:
    """Train SEGMENTER on the lesions of the training part; stopped, it goes on after its last epoch.

    The epoch of the best Dice on the lesions of the validation part is kept.
    """
    from busistore.jobs import train_segmenter as jobs
    from busistore.store import Store

    report = jobs.train_segmenter(
        Store.open(path), segmenter, split=split, dataset=dataset, parameters=_given(parameters, init),
        weights=weights, dry_run=dry_run, track=tracker(quiet),
    )  # fmt: skip
    finish(report, quiet)


@app.command()
@click.option("--segmenter", required=True, metavar="NAME|ID", help="The newest of that name, or the one of that id.")
@click.option("--prompt", metavar="PROTOCOL", help="See `busistore list prompts`; as published by default.")
@click.option("--proposer", metavar="NAME|ID", help="What proposes prompts: patch-probe, or a trained U-Net.")
@click.option("--part", default="test", show_default=True, metavar="test|val", help="Whose images are segmented.")
@click.option("--split", help="Split id, where a name stands for segmenters of several.")
@click.option("--dataset", help="Data set, where a name stands for segmenters of several.")
@click.option("-p", "parameters", multiple=True, metavar="NAME=VALUE", help="A parameter of a published segmenter.")
@weights_option
@init_option
@dry_run_option
@store_option
@quiet_option
def segment(
    segmenter, prompt, proposer, part, split, dataset, parameters, weights, init, dry_run, path, quiet
) -> None:  # fmt: skip
    """Predict the masks of a part and score them against the truth, in original pixels.

    `busistore query segmentation` shows the means, with how many lesions were missed and normal images marked.
    """
    from busistore.jobs import segment as jobs
    from busistore.store import Store

    report = jobs.segment(
        Store.open(path), segmenter, prompt=prompt, proposed_by=proposer, part=part, split=split, dataset=dataset,
        parameters=_given(parameters, init), weights=weights, dry_run=dry_run, track=tracker(quiet),
    )  # fmt: skip
    finish(report, quiet)


def _given(parameters: tuple[str, ...], init: str | None) -> dict[str, str]:
    return pairs(parameters) | ({} if init is None else {"init": init})
