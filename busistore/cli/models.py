"""Verbs about models: describe, and models fetch."""

from __future__ import annotations

import click

from busistore.cli import app, format_option, is_quiet, quiet_option


@app.command()
@click.argument("model")
@format_option
def describe(model, fmt) -> None:
    """One model whole: network, input, licence, and what a download would fetch."""
    from busistore import formats, models
    from busistore.cli.ask import frame
    from busistore.models.describe import described

    formats.write(frame(("field", "value"), described(models.model(model))), fmt)


@app.group(name="models")
def models_() -> None:
    """Weights of models; `busistore list models` lists them."""


@models_.command()
@click.argument("names", nargs=-1, required=True)
@quiet_option
def fetch(names, quiet) -> None:
    """Download the weights and tokenizers of models ahead of time, and verify them."""
    from busistore import models

    for name in names:
        located = models.fetch(name, quiet=is_quiet(quiet))
        click.echo(f"{name}: {located.origin}, sha256 {located.sha256}")
