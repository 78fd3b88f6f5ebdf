"""The picture of the data's way through the store, with counts: boxes and arrows in SVG."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from busistore.report.parts import count
from busistore.report.style import COLOURS, FONT, GRID, INK, MUTED, PAPER, Panel

WIDTH, HEIGHT = 158, 82  # of a box
ARROWS = (
    ("images", "groups"), ("groups", "splits"), ("splits", "episodes"), ("episodes", "runs"),
    ("images", "preprocessed"), ("preprocessed", "embeddings"), ("embeddings", "runs"),
)  # fmt: skip
# Left upper corner of each box: one row of two lanes for a desk, two columns for a phone.
WIDE = {
    "images": (2, 60), "groups": (190, 2), "splits": (378, 2), "episodes": (566, 2), "preprocessed": (190, 118),
    "embeddings": (470, 118), "runs": (754, 60),
}  # fmt: skip
TALL = {
    "images": (91, 2), "groups": (2, 116), "splits": (2, 230), "episodes": (2, 344), "preprocessed": (180, 116),
    "embeddings": (180, 287), "runs": (91, 458),
}  # fmt: skip


@dataclass(frozen=True)
class Box:
    """One stage: how many of what, a line of detail and perhaps another."""

    name: str
    n: int
    detail: str
    more: str = ""


def boxes(rows: list[dict]) -> list[Box]:
    """The stages from the rows of `report_counts`: stage, part, n."""
    by: dict[str, dict[str, int]] = {}
    for row in rows:
        by.setdefault(row["stage"], {})[row["part"]] = row["n"]
    groups, parts = by.get("groups", {}), by.get("parts", {})
    prepared, vectors, runs = by.get("preprocessed", {}), by.get("embeddings", {}), by.get("runs", {})
    models = {key.split(" on ")[0] for key in vectors}
    return [
        Box("images", by.get("images", {}).get("", 0), f"{count(sum(by.get('masks', {}).values()))} masks"),
        Box("groups", groups.get("all", 0), f"{count(groups.get('of several images', 0))} of several images"),
        Box("splits", by.get("splits", {}).get("", 0), *_parts(parts, by.get("images", {}).get("", 0))),
        Box("episodes", by.get("episodes", {}).get("", 0), _sizes(by.get("shots", {}), by.get("ratios", {}))),
        Box("preprocessed", sum(prepared.values()), _of(len(prepared), "recipe")),
        Box("embeddings", sum(vectors.values()), _of(len(models), "model")),
        Box("runs", sum(runs.values()), _of(len(runs), "method")),
    ]


def _parts(parts: dict[str, int], n_images: int) -> tuple[str, str]:
    """Sizes of the parts that methods see, and what is left of the images, so that the numbers add up.

    Parts go without their names where these would not fit into the box.
    """
    seen = [p for p in ("train", "val", "test") if p in parts]
    rest = {p: parts[p] for p in sorted(set(parts) - set(seen))}
    if parts and n_images > sum(parts.values()):
        rest["not in the split"] = n_images - sum(parts.values())
    named = " · ".join(f"{count(parts[p])} {p}" for p in seen)
    short_of = named if len(named) <= 31 else " / ".join(count(parts[p]) for p in seen)
    return short_of, ", ".join(f"{count(n)} {part}" for part, n in rest.items())


def _of(n: int, thing: str) -> str:
    return f"by {n} {thing}{'' if n == 1 else 's'}" if n else "none yet"


def _sizes(shots: dict[str, int], ratios: dict[str, int]) -> str:
    """The range of the numbers of shots, and of the shares of the training part."""
    drawn = [_range(sorted(map(int, shots)), " shots")] if shots else []
    drawn += [_range([float(f"{100 * r:g}") for r in sorted(map(float, ratios))], "%")] if ratios else []
    return ", ".join(drawn) or "none yet"


def _range(numbers: list, unit: str) -> str:
    ends = [f"{numbers[0]:g}", f"{numbers[-1]:g}"]
    return "–".join(ends if len(numbers) > 1 else ends[:1]) + unit


def flow(rows: list[dict]) -> tuple[Panel, Panel]:
    """The picture for a wide and for a narrow page."""
    stages = boxes(rows)
    alt = "Way of the data: " + "; ".join(f"{count(b.n)} {b.name} ({_details(b)})" for b in stages) + "."
    return Panel(_svg(stages, WIDE, "0 0 914 202"), alt, "wide"), Panel(_svg(stages, TALL, "0 0 340 542"), alt, "tall")


def _details(box: Box) -> str:
    return ", ".join(filter(None, (box.detail, box.more)))


def _svg(stages: list[Box], place: dict[str, tuple[int, int]], view: str) -> str:
    arrows = "".join(_arrow(place[a], place[b]) for a, b in ARROWS)
    drawn = "".join(_box(box, *place[box.name]) for box in stages)
    head = '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    head += f'<path d="M0 0.5L8 4L0 7.5z" style="fill: {MUTED}"/></marker>'
    return f'<svg viewBox="{view}"><defs>{head}</defs>{arrows}{drawn}</svg>'


def _box(box: Box, x: int, y: int) -> str:
    colour = COLOURS["s2" if box.name == "runs" else "s3" if box.name in ("preprocessed", "embeddings") else "s1"][0]
    middle = x + WIDTH / 2
    size = 12 if max(len(box.detail), len(box.more)) < 26 else 10.5
    down = (22, 44, 60, 75) if box.more else (26, 50, 70, 0)
    words = ((13, 600, INK, box.name), (21, 600, colour, count(box.n)), (size, 400, MUTED, box.detail),
             (size, 400, MUTED, box.more))  # fmt: skip
    lines = "".join(
        f'<text x="{middle:g}" y="{y + place}" style="font: {weight} {px:g}px {FONT}; '
        f'text-anchor: middle; fill: {fill}">{escape(text)}</text>'
        for place, (px, weight, fill, text) in zip(down, words)
        if text
    )
    frame = f"fill: {PAPER}; stroke: {GRID}; stroke-width: 1.5"
    return (
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" style="{frame}"/>'
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="4" rx="2" style="fill: {colour}"/>{lines}'
    )


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    """An S-curve between the facing sides of two boxes: to the right where there is room, else downwards."""
    (x0, y0), (x1, y1) = start, end
    if x1 >= x0 + WIDTH:
        a, b = (x0 + WIDTH, y0 + HEIGHT / 2), (x1, y1 + HEIGHT / 2)
        bend = (a[0] + b[0]) / 2
        path = f"M{a[0]:g} {a[1]:g}C{bend:g} {a[1]:g} {bend:g} {b[1]:g} {b[0]:g} {b[1]:g}"
    else:
        a, b = (x0 + WIDTH / 2, y0 + HEIGHT), (x1 + WIDTH / 2, y1)
        bend = (a[1] + b[1]) / 2
        path = f"M{a[0]:g} {a[1]:g}C{a[0]:g} {bend:g} {b[0]:g} {bend:g} {b[0]:g} {b[1]:g}"
    return f'<path d="{path}" marker-end="url(#tip)" style="fill: none; stroke: {MUTED}; stroke-width: 1.5"/>'
