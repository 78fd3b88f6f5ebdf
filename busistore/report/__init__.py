"""The report: one HTML page that needs no network, with every number's SQL, data version and CSV beside it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from busistore.errors import BusistoreError

if TYPE_CHECKING:
    from busistore.report.parts import Section
    from busistore.report.sources import Sources
    from busistore.store import Store

HERE = Path(__file__).parent


def build(
    store: Store, out: str | Path, title: str | None = None, progress: Callable[[str], None] | None = None
) -> Path:
    """Write the report of a store into a folder; returns the path of its index.html.

    Beside the page stand, for each figure and table, its answer (.csv) and question (.sql), and each figure's panels
    (.svg) in print colours. Equal stores give equal files. A store that lacks a stage gives a page that says which
    command makes it.

    Args:
        out: made if absent; files of the same names are replaced, others are left alone.
        title: heading of the page; names the data sets by default.
        progress: called with the name of each step as it begins.

    Raises:
        StoreError: a table cannot be read, or a stored picture is damaged.
        BusistoreError: `out` cannot be written.
    """
    from busistore.report import arms as comparisons
    from busistore.report import data, ink, masks, results, words
    from busistore.report.sources import Sources

    say = progress or (lambda step: None)
    with Sources(store) as sources:
        say("data")
        chosen = data.choose(sources)
        sections = [*data.sections(sources, chosen), ink.section(sources)]
        say("intervals")
        arms = comparisons.arms(sources)
        say("figures")
        *of_runs, costs = results.sections(sources, arms)
        sections += [*of_runs, masks.section(sources), costs]
        table1 = {c["dataset"]: sources.asked["table-1" + data.suffix(k)] for k, c in enumerate(chosen)}
        sections += [words.limits(chosen, table1, arms), words.methods(sources, chosen, arms)]
        summary = words.summary(chosen, table1, arms)
    say("page")
    page = _page(title or _title(chosen), summary, sections, sources)
    return _write(Path(out), page, sections, sources)


def _title(chosen: list[dict]) -> str:
    names = ", ".join(str(c["dataset"]) for c in chosen)
    return f"Few-shot breast ultrasound: {names}" if names else "Few-shot breast ultrasound"


def _page(title: str, summary: str, sections: list[Section], sources: Sources) -> str:
    """The page's HTML; every text is escaped but the drawings, which escape their own."""
    import jinja2
    from markupsafe import Markup

    from busistore import __version__
    from busistore.report import style

    _number(sections)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip

    def drawn(panel: style.Panel, prefix: str) -> Markup:
        label = Markup('<svg role="img" aria-label="{}"').format(panel.alt)
        return Markup(panel.inline(prefix)).replace("<svg", label, 1)

    return environment.get_template("page.html.j2").render(
        title=title, summary=summary, sections=sections, versions=sources.versions, version=__version__, drawn=drawn,
        css=(HERE / "page.css").read_text(encoding="utf-8"), font=style.FONT, light=style.css_variables(1),
        dark=style.css_variables(2),
    )  # fmt: skip


def _number(sections: list[Section]) -> None:
    """Number tables and figures in the order of the page; galleries are figures."""
    counts = {"table": 0, "figure": 0}
    for item in (item for section in sections for item in section.items):
        kind = "table" if item.kind == "table" else "figure"
        counts[kind] += 1
        item.number = counts[kind]


def _write(out: Path, page: str, sections: list[Section], sources: Sources) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for source in sources.asked.values():
            source.write(out)
        for item in (item for section in sections for item in section.items if item.kind == "figure"):
            if item.points:
                item.points.write(out / f"{item.points.name}.csv")
            for k, panel in enumerate(item.panels, 1):
                (out / f"{item.name}-{k}.svg").write_text(panel.file(), encoding="utf-8")
        (out / "index.html").write_text(re.sub(r"\n\s*\n+", "\n", page), encoding="utf-8")
    except OSError as error:
        raise BusistoreError(f"no report can be written to '{out}' ({error.strerror}); name another folder") from None
    return out / "index.html"
