"""The look of the figures: one palette for light and dark, and matplotlib drawings as SVG that follows the page.

Drawings are made in stand-in colours. On the page each becomes a CSS variable, so that one figure serves both
themes and print; in the files beside the page it becomes the light theme's colour.

Source of the series colours: Okabe and Ito (2008), Color Universal Design, with lightness changed for contrast.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

# name: (stand-in, light theme, dark theme)
COLOURS = {
    "ink": ("#010101", "#1b1f24", "#e6e9ed"),
    "muted": ("#020202", "#5c6670", "#a3adb8"),
    "grid": ("#030303", "#e1e5e9", "#30363d"),
    "paper": ("#040404", "#ffffff", "#14181d"),
    "s1": ("#050505", "#0067a9", "#5ab4f0"),
    "s2": ("#060606", "#c44f00", "#f0965a"),
    "s3": ("#070707", "#00805f", "#3cc8a0"),
    "s4": ("#080808", "#a83c82", "#e08cc0"),
    "s5": ("#090909", "#7a6400", "#d8be46"),
    "s6": ("#0a0a0a", "#5a5f9e", "#a9aef0"),
}
SERIES = tuple(COLOURS[f"s{k}"][0] for k in range(1, 7))
INK, MUTED, GRID, PAPER = (COLOURS[name][0] for name in ("ink", "muted", "grid", "paper"))
MARKERS = ("o", "s", "D", "^", "v", "P")
LINES = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.4, 1.2, 1.4)), (0, (9, 2)), (0, (3, 1.2, 1.2, 1.2, 1.2, 1.2)))
# Black or white to write on a coloured cell: a letter for the light theme and one for the dark.
ON_CELLS = {
    "kk": ("#0b0b0b", "#000000", "#000000"), "kw": ("#0c0c0c", "#000000", "#ffffff"),
    "wk": ("#0d0d0d", "#ffffff", "#000000"), "ww": ("#0e0e0e", "#ffffff", "#ffffff"),
}  # fmt: skip
_ALL = COLOURS | ON_CELLS
STAND_INS = {name: values[0] for name, values in COLOURS.items()}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
UNIT = 72.0  # SVG units per inch of a matplotlib figure; one unit is about one CSS pixel on a phone

_RC = {
    "svg.fonttype": "none", "svg.hashsalt": "busistore", "font.family": "DejaVu Sans", "font.size": 11,
    "text.color": INK, "axes.edgecolor": MUTED, "axes.labelcolor": INK, "xtick.color": MUTED, "ytick.color": MUTED,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.8, "axes.linewidth": 0.8,
    "xtick.major.size": 3, "ytick.major.size": 3, "figure.facecolor": "none", "axes.facecolor": "none",
    "savefig.facecolor": "none", "lines.linewidth": 1.8, "lines.markersize": 4.5, "text.usetex": False,
    "text.parse_math": False,
}  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """One drawing: SVG text in stand-in colours, and the sentence that stands for it where it cannot be seen."""

    svg: str
    alt: str
    shown: str = ""  # "wide" or "tall": for pages of that shape only

    def inline(self, prefix: str) -> str:
        """The drawing as part of a page: theme variables for colours, ids that start with `prefix`."""
        return themed(self.svg, {mark: f"var(--{name})" for name, (mark, _, _) in _ALL.items()}, prefix)

    def file(self) -> str:
        """The drawing as a file of its own, in the light theme's colours."""
        svg = themed(self.svg, {mark: light for mark, light, _ in _ALL.values()}, "f")
        spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        return '<?xml version="1.0" encoding="utf-8"?>\n' + svg.replace("<svg", f"<svg {spaces}", 1) + "\n"


def light() -> dict[str, str]:
    """The light theme's colours by their names, for files that are no SVG."""
    return {name: values[1] for name, values in COLOURS.items()}


@contextlib.contextmanager
def drawing(width: float, height: float, colours: dict[str, str] | None = None, **axes) -> Iterator[tuple]:
    """(figure, axes) in the report's look; `width` and `height` in SVG units, `axes` goes to `subplots`.

    `colours` stand in place of the stand-ins where the drawing will not become a Panel.
    """
    import matplotlib
    from matplotlib.figure import Figure

    shown = {STAND_INS[name]: colour for name, colour in (colours or {}).items()}
    with matplotlib.rc_context({name: shown.get(value, value) for name, value in _RC.items()}):
        figure = Figure(figsize=(width / UNIT, height / UNIT), layout="constrained")
        yield figure, figure.subplots(**axes)


def panel(figure, alt: str) -> Panel:
    """The matplotlib figure as a Panel, taken within its `drawing`; equal figures give equal text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return Panel(tidy(buffer.getvalue()), alt)


def short(text: str, most: int) -> str:
    """A text cut to at most so many characters, for places in a drawing.

    >>> short("malignant", 9), short("malignant", 5)
    ('malignant', 'mali…')
    """
    return text if len(text) <= most else text[: most - 1] + "…"


def title(first: str, second: str, most: int = 46) -> str:
    """Two lines over a panel, each cut to what fits."""
    return f"{short(first, most)}\n{short(second, most)}"


def look(k: int) -> tuple[str, str, Any]:
    """Colour, marker and dashes of the k-th line; no two alike before the 36th."""
    n = len(SERIES)
    other = (k + k // n) % n
    return SERIES[k % n], MARKERS[other], LINES[other]


def ink_on(name: str, share: float) -> str:
    """The ink, black or white in each theme, that stands out best from a colour of that opacity on the page.

    At least 4.58 to 1 whatever the colour, since black and white are both that far from the grey between them.
    """
    inks = ""
    for theme in (1, 2):
        light = luminance(blend(COLOURS[name][theme], COLOURS["paper"][theme], share))
        inks += "k" if (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) else "w"
    return ON_CELLS[inks][0]


def blend(colour: str, under: str, opacity: float) -> tuple[float, ...]:
    """Red, green and blue, 0 to 1, of a colour laid over another, as browsers mix them."""
    pairs = zip(_channels(colour), _channels(under))
    return tuple(opacity * over + (1 - opacity) * below for over, below in pairs)


def luminance(channels: Iterable[float]) -> float:
    """Relative luminance, 0 to 1, of sRGB channels from 0 to 1.

    Source: WCAG 2.2, definition of relative luminance.
    """
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _channels(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))


def tidy(svg: str) -> str:
    """The bare <svg> element: no declarations, names of spaces, metadata or fixed size; ids only where used."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"| version="1.1"', "", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: m.group(0) if m.group(1) in used else "", svg)
    svg = svg.replace("'DejaVu Sans'", FONT.replace('"', "'"))
    return re.sub(r"\n\s*", "\n", svg).strip()


def themed(svg: str, colours: dict[str, str], prefix: str) -> str:
    """The SVG with stand-in colours exchanged and its ids made unlike those of other drawings."""
    svg = re.sub("|".join(colours), lambda m: colours[m.group(0)], svg)
    svg = re.sub(r' id="([^"]+)"', rf' id="{prefix}-\1"', svg)
    return re.sub(r'(url\(#|href="#)', rf"\1{prefix}-", svg)


def css_variables(theme: int) -> str:
    """Declarations of the palette: `theme` 1 for light, 2 for dark."""
    return " ".join(f"--{name}: {values[theme]};" for name, values in _ALL.items())
