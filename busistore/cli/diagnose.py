"""The verb diagnose: one image through a stored classifier and a trained segmenter."""

from __future__ import annotations

import json
from pathlib import Path

import click

from busistore.cli import app, store_option
from busistore.cli.data import weights_option


@app.command()
@click.argument("image")
@click.option("--model", help="Of the classifier; may be left out with --run.")
@click.option("--method", help="Of the classifier.  [default: linear-probe]")
@click.option("--run", "run_id", metavar="RUN", help="The classifier; the newest run of the most shots by default.")
@click.option("--segmenter", required=True, metavar="NAME|ID", help="The newest of that name, or the one of that id.")
@click.option("--prompt", default="auto", show_default=True, help="What the segmenter is given: no truth is at hand.")
@click.option("--proposer", metavar="NAME|ID", help="What proposes prompts: patch-probe, or a trained U-Net.")
@click.option("--confidence", default=0.9, show_default=True, help="That the set of classes holds the true one.")
@click.option("-o", "--output", "folder", default=Path("diagnosis"), show_default=True,
              type=click.Path(path_type=Path), metavar="FOLDER", help="For the overlay (PNG) and the record (JSON).")
@click.option("--format", "fmt", default="table", show_default=True, metavar="table|csv|json|md",
              help="How to print it.")
@weights_option
@click.option("--segmenter-weights", type=click.Path(path_type=Path), help="A weight file of the segmenter.")
@store_option
def diagnose(
    image, model, method, run_id, segmenter, prompt, proposer, confidence, folder, fmt, weights, segmenter_weights, path
) -> None:  # fmt: skip
    """What IMAGE shows, and where: busistore diagnose scan.png --model biomedclip --segmenter unet.

    IMAGE is a picture file or an image of the store. The classifier is a stored run of `evaluate`, fitted again on its
    own support set; where it says benign or malignant, the segmenter outlines the lesion. Sizes are in pixels of IMAGE.
    """
    from busistore import formats
    from busistore.errors import BadInput, lookup
    from busistore.jobs import diagnose as jobs
    from busistore.store import Store

    lookup("format", fmt, dict.fromkeys(name for name in formats.FORMATS if formats.FORMATS[name]))
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"'{folder}' is a file; name a folder with -o")
    made = jobs.diagnose(
        Store.open(path), image, segmenter=segmenter, model=model, method=method, run=run_id, prompt=prompt,
        proposed_by=proposer, confidence=confidence, weights=weights, segmenter_weights=segmenter_weights,
    )  # fmt: skip
    written = jobs.save(made, folder)
    if fmt == "json":
        click.echo(json.dumps(made.record(), ensure_ascii=False, indent=2))
    else:
        formats.write(_frame(made), fmt)
    for note in made.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"{written[0]}, {written[1]}\n{jobs.NOTICE}", err=True)


def _frame(made):
    """What was found, line by line."""
    from busistore.cli.ask import frame
    from busistore.jobs import diagnose as jobs

    run, row = made.run, made.segmenter
    size = f"{run['shots']} shots" if run["shots"] is not None else f"{100 * (run['ratio'] or 0):g}% of training"
    lines = [
        ("class", made.predicted),
        ("probabilities", ", ".join(f"{name} {p:.3f}" for name, p in made.probabilities.items())),
        ("prediction set", made.certainty.in_words().partition(": ")[2]),
        *[(f"lesion {k}", jobs.in_words(shape)) for k, shape in enumerate(made.lesions, start=1)],
        ("classifier", f"{run['run_id']} ({run['model']}, {size}, seed {run['seed']}, {run['protocol']})"),
        ("segmenter", f"{row['segmenter_id']} ({made.prompt}{'' if made.mask is not None else '; not asked'})"),
    ]
    return frame(("what", "found"), lines)
