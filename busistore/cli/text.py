"""Verbs about text: prompts list, show, import and generate."""

from __future__ import annotations

from pathlib import Path

import click

from busistore.cli import app, format_option, names, output_option, quiet_option, store_option

SECONDS = click.FloatRange(0, 3600, min_open=True)


@app.group()
def prompts() -> None:
    """Prompt sets, the texts for each class: list, show, import from a file, generate by a language model."""


def _store_if_any(path):
    """The store at `path`; None where there is none, since built-in sets need no store."""
    from busistore.store import MANIFEST, Store

    return Store.open(path) if Path(path, MANIFEST).exists() else None


@prompts.command(name="list")
@format_option
@output_option
@store_option
def list_(fmt, output, path) -> None:
    """Every prompt set, built in and stored."""
    import polars as pl

    from busistore import formats
    from busistore.jobs import prompts as jobs

    rows = [
        {
            "name": found.name, "kept": kept, "set_id": found.set_id, "classes": ", ".join(found.classes),
            "prompts_per_class": ", ".join(map(str, sorted({len(texts) for texts in found.classes.values()}))),
            "summary": found.summary, "source": found.source,
        }
        for kept, found in jobs.listed(_store_if_any(path))
    ]  # fmt: skip
    formats.write(pl.DataFrame(rows), fmt, output)


@prompts.command()
@click.argument("name")
@format_option
@output_option
@store_option
def show(name, fmt, output, path) -> None:
    """The texts of a set: its name, its set id, or the path of a file. --format md cuts no text."""
    import polars as pl

    from busistore import formats
    from busistore.jobs import prompts as jobs

    classes = jobs.known(_store_if_any(path), name).classes
    rows = [
        {"class": label, "rank": rank, "text": text}
        for label, texts in classes.items() for rank, text in enumerate(texts)
    ]  # fmt: skip
    formats.write(pl.DataFrame(rows), fmt, output)


@prompts.command(name="import")
@click.argument("file", type=click.Path(path_type=Path))
@store_option
def import_(file, path) -> None:
    """Bring a JSON file of prompts into the store, under the name that it gives itself; prints the set id."""
    from busistore.jobs import prompts as jobs
    from busistore.store import Store

    click.echo(jobs.read_in(Store.open(path), file))


@prompts.command()
@click.option("--name", required=True, help="What to call the set.")
@click.option("--classes", default="benign,malignant,normal", show_default=True, help="With commas.")
@click.option("--n", default=10, show_default=True, type=click.IntRange(1, 100), help="Texts of each class.")
@click.option("--llm", required=True, metavar="MODEL", help="The model that writes; with --azure, the deployment.")
@click.option("--endpoint", metavar="URL", help="An OpenAI-compatible API; OpenAI's by default.")
@click.option("--azure", is_flag=True, help="The endpoint is an Azure OpenAI resource.")
@click.option("--api-version", default="", metavar="V", help="Azure's, such as 2024-10-21.")
@click.option("--instruction", metavar="TEXT", help="What to describe; by default the terms of the BI-RADS lexicon.")
@click.option("--timeout", default=60.0, show_default=True, type=SECONDS, metavar="SECONDS", help="For one answer.")
@store_option
@quiet_option
def generate(name, classes, n, llm, endpoint, azure, api_version, instruction, timeout, path, quiet) -> None:
    """Have a language model write a set and store it; prints the set id.

    The key is read from the environment variable BUSISTORE_LLM_KEY; for the vendor's own hosts also from
    OPENAI_API_KEY (AZURE_OPENAI_API_KEY with --azure). It is sent to the endpoint and kept nowhere.
    """
    from busistore.chat import OPENAI, Endpoint
    from busistore.generation import INSTRUCTION, Request
    from busistore.jobs import prompts as jobs
    from busistore.store import Store

    request = Request(
        name, Endpoint(llm, endpoint or OPENAI, azure, api_version, timeout), tuple(names(classes)), n,
        instruction or INSTRUCTION,
    )  # fmt: skip
    note = (lambda text: None) if quiet else (lambda text: click.echo(text, err=True))
    click.echo(jobs.generate(Store.open(path), request, note=note).set_id)
