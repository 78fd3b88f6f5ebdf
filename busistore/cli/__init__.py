"""The command line: parse, call one function, print. Errors a user can mend become one line and exit code 1."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import click

from busistore import __version__
from busistore.errors import BusistoreError


class Verbs(click.Group):
    """All verbs, listed in the order of the work; the one place that catches a BusistoreError."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        asked: list[int] = []  # to stop; libraries may hand a KeyboardInterrupt on as an error of their own
        with _noted_interrupts(asked):
            try:
                return super().invoke(ctx)
            except BaseException as error:
                if asked or isinstance(error, KeyboardInterrupt):
                    click.echo("Stopped. What was finished is stored; the same command goes on from there.", err=True)
                    ctx.exit(INTERRUPTED)
                raise _as_one_line(error) from None


def _as_one_line(error: BaseException) -> BaseException:
    """What the user can mend as one line; anything else as it is, since it is a bug and its traceback is wanted."""
    if isinstance(error, BusistoreError):
        return click.ClickException(" ".join(str(error).split()))
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        where = f" '{error.filename}'" if error.filename else ""
        return click.ClickException(f"cannot write{where}: {error.strerror}")
    return error


INTERRUPTED = 130  # the exit code of a command stopped by Ctrl-C, as shells have it
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def _noted_interrupts(asked: list[int]) -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt as ever, and is noted too."""

    def note(number: int, frame: Any) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: Ctrl-C is not for us
        yield
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="busistore")
def app() -> None:
    """Encode every breast-ultrasound image once per model; answer every later question from the store."""


def store_option(command: Callable) -> Callable:
    """--store, for every verb that reads or writes one."""
    return click.option(
        "--store", "path", envvar="BUSISTORE", default="busistore-data", show_default=True, metavar="FOLDER",
        help="The store (or environment variable BUSISTORE).",
    )(command)  # fmt: skip


quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress and no summary on stderr.")
skip_errors_option = click.option("--skip-errors", is_flag=True, help="Exit with 0 although inputs failed.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Only count what would be done.")
format_option = click.option(
    "--format", "fmt", default="table", show_default=True, metavar="table|csv|json|md|parquet", help="How to print it."
)
output_option = click.option("-o", "--output", default=None, metavar="FILE", help="Write the answer there.")


def names(text: str) -> list[str]:
    """Names from a comma-separated list.

    >>> names("clip, biomedclip")
    ['clip', 'biomedclip']
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def sizes(text: str) -> list[tuple[int | None, float | None]]:
    """(shots, ratio) of support sets: images per class, or a share of the training part.

    >>> sizes("4,5%")
    [(4, None), (None, 0.05)]
    """
    found: list[tuple[int | None, float | None]] = []
    for part in names(text):
        try:
            found.append((None, float(part[:-1]) / 100) if part.endswith("%") else (int(part), None))
        except ValueError:
            raise click.UsageError(f"--shots takes sizes such as 1,2,4 or 5%,10%, not '{part}'") from None
    return found


def pairs(texts: tuple[str, ...]) -> dict[str, str]:
    """{name: value} from `-p name=value` options."""
    broken = [t for t in texts if "=" not in t]
    if broken:
        raise click.UsageError(f"-p takes NAME=VALUE, not '{broken[0]}'")
    return dict(t.split("=", 1) for t in texts)


def tracker(quiet: bool):
    """Progress bars on stderr; nothing where nobody watches."""
    from busistore.jobs import silent

    return silent if is_quiet(quiet) else _bar


def is_quiet(quiet: bool) -> bool:
    """Whether progress is shown to nobody: asked for, or stderr is not a terminal."""
    return quiet or not sys.stderr.isatty()


@contextlib.contextmanager
def _bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    shown = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*shown, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total)
        yield lambda n: progress.advance(task, n)


def finish(report, quiet: bool, skip_errors: bool = False) -> None:
    """The closing line of a job, its first failures, and exit code 1 if there were any."""
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    shown = list(report.failures.items())[:10]
    for key, reason in shown:
        click.echo(f"failed: {key}: {reason}", err=True)
    if report.failed > len(shown):
        click.echo(f"... and {report.failed - len(shown)} more: busistore failures", err=True)
    if not quiet:
        click.echo(report.line(), err=True)
    if report.failed and not skip_errors:
        raise BusistoreError(f"{report.failed} inputs failed, the others are stored; mend them, or add --skip-errors")


def main() -> None:
    """Entry point of the `busistore` script."""
    try:
        app()
    except SystemExit as end:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the work is over: nothing is left to interrupt
        if end.code == INTERRUPTED:
            sys.stdout.flush()
            os._exit(INTERRUPTED)  # at once: libraries stopped at work complain when they are taken apart
        raise


# each registers its verbs, in the order of the work
for _verbs in ("models", "data", "text", "work", "masks", "diagnose", "compare", "search", "ask"):
    import_module(f"busistore.cli.{_verbs}")
