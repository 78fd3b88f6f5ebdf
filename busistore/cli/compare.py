"""The verb that compares two models, or two methods: effect, interval and p at every size of the support sets."""

from __future__ import annotations

from pathlib import Path

import click

from busistore.cli import app, format_option, output_option, quiet_option, sizes, store_option

HALF = 10  # characters of the drawn interval on each side of 0
FIGURES = (".svg", ".png", ".pdf")


@app.command()
@click.argument("a")
@click.argument("b")
@click.option("--metric", default="macro_f1", show_default=True, help="See `busistore list metrics`.")
@click.option("--method", help="The method under which two models are compared; each by default.")
@click.option("--model", help="The model on which two methods are compared; each by default.")
@click.option("--shots", help="Images per class, or shares of the training part, as 4,5%; all by default.")
@click.option("--dataset", help="Data set whose runs are meant.")
@click.option("--split", help="Split id; the only one by default.")
@click.option("--protocol", help="val-tuned or strict; the only one by default.")
@click.option("--figure", type=click.Path(path_type=Path), help="Draw it to a .svg, .png or .pdf file.")
@format_option
@output_option
@store_option
@quiet_option
def compare(
    a, b, metric, method, model, shots, dataset, split, protocol, figure, fmt, output, path, quiet
) -> None:  # fmt: skip
    """Two models, or two methods, on the same support sets: A less B with a 95 % interval, and p.

    The interval is for new support sets and new test images together; p belongs to it, and p_seeds is Wilcoxon's over
    the support sets alone. Both stand again as adjusted by Holm for the number of rows that have one.
    """
    from busistore import comparison, formats
    from busistore.errors import BusistoreError, lookup
    from busistore.store import Store

    lookup("format", fmt, formats.FORMATS)
    if figure is not None and figure.suffix.lower() not in FIGURES:
        raise BusistoreError(f"no figure can be drawn to '{figure}'; name a file that ends in {', '.join(FIGURES)}")
    rows = comparison.compare(
        Store.open(path), a, b, metric, method=method, model=model, supports=sizes(shots or ""), dataset=dataset,
        split=split, protocol=protocol,
    )  # fmt: skip
    formats.write(_for_reading(rows, a, b) if fmt == "table" else comparison.frame(rows), fmt, output)
    if figure is not None:
        from busistore.report import forest

        forest.write(figure, rows, a, b)
    if not quiet:
        click.echo(_about(rows, a, b), err=True)
    for warning in comparison.warnings(rows):
        click.echo(f"warning: {warning}", err=True)


def _about(rows, a: str, b: str) -> str:
    from busistore.report.settings import name_pairs

    what = rows[0].what
    lower = "" if higher_is_better(what["metric"]) else "; lower is better"
    held = set(name_pairs([row.what for row in rows]))
    under = f", {'under' if what['compared'] == 'model' else 'on'} {held.pop()}" if len(held) == 1 else ""
    where = f"{what['dataset']}, split {what['split_id']}, protocol {what['protocol']}"
    known = sum(row.p_holm is not None for row in rows)
    more = f"; {len(rows) - known} more without p" if known < len(rows) else ""
    adjusted = f"p_holm is adjusted for {known} comparison{'' if known == 1 else 's'}{more}"
    return f"compare: {what['metric']} of {a} less that of {b}{lower}{under}; {where}; {adjusted}"


def higher_is_better(metric: str) -> bool:
    from busistore.metrics import METRICS

    return METRICS[metric].higher_is_better is not False


def _for_reading(rows, a: str, b: str):
    """What fits a terminal, with each interval drawn around 0 under the names of those whom it favours."""
    import polars as pl

    from busistore.report.settings import name_pairs

    left, right = (b, a) if higher_is_better(rows[0].what["metric"]) else (a, b)
    head = f"{f'{left[:HALF - 2]} ←'.rjust(HALF)}0{f'→ {right[:HALF - 2]}'.ljust(HALF)}"
    ends = [v for r in rows for v in (r.difference.both.low, r.difference.both.high, r.difference.both.estimate)]
    most = max((abs(v) for v in ends if v is not None), default=0.0)
    held = name_pairs([r.what for r in rows])
    columns = ({"on": held} if len(set(held)) > 1 else {}) | {
        "support": [r.support for r in rows], "n_seeds": [r.difference.both.n_seeds for r in rows],
        "difference": [r.difference.both.estimate for r in rows],
        "low": [r.difference.both.low for r in rows], "high": [r.difference.both.high for r in rows],
        "p": [_p(r.difference.both.p) for r in rows], "p_holm": [_p(r.p_holm) for r in rows],
        head: [strip(r.difference.both.estimate, r.difference.both.low, r.difference.both.high, most) for r in rows],
        a: [r.difference.mean_a for r in rows], b: [r.difference.mean_b for r in rows],
        "p_seeds": [_p(r.difference.p_seeds) for r in rows], "p_seeds_holm": [_p(r.p_seeds_holm) for r in rows],
    }  # fmt: skip
    numbers = dict.fromkeys((a, b, "difference", "low", "high"), pl.Float64)
    return pl.DataFrame(columns, schema_overrides=numbers)


def _p(value: float | None) -> str | None:
    return None if value is None else "<.0001" if value < 0.0001 else f"{value:.4f}"


def strip(estimate: float, low: float | None, high: float | None, most: float) -> str:
    """An interval as text: 0 in the middle, `most` at both ends, the estimate as a dot.

    >>> strip(0.5, 0.2, 1.0, 1.0)[HALF:]
    '│·├──●────┤'
    """

    def place(value: float) -> int:
        return HALF + round(HALF * value / most) if most else HALF

    cells = ["·"] * (2 * HALF + 1)
    cells[HALF] = "│"
    if low is not None and high is not None:
        first, last = place(low), place(high)
        for k in range(first, last + 1):
            cells[k] = "┼" if k == HALF else "─"
        cells[first], cells[last] = "├", "┤"
    cells[place(estimate)] = "●"
    return "".join(cells)
