"""The tables of the cleaning benchmark, from rows of measures to Markdown."""

from __future__ import annotations

import cleaning_measures as measure
import numpy as np
from scanner_strokes import LAYERS

KINDS = ("+", "x", "gap", "1px", "dim", "rescaled", "jpeg", "colour", "cut", "saturated", "darker", "overlap",
         "outlined")  # fmt: skip
SEEN = 0.1
"""A mark, or the lines of a case, of which more than this share is left are still seen."""


def hits(rows: list[dict], within: int) -> int:
    return sum(len(pairs[within]) for pairs in over(rows, "hits"))


def recall(rows: list[dict], within: int) -> float:
    return measure.ratio(hits(rows, within), sum(over(rows, "n_true")))


def precision(rows: list[dict], within: int) -> float:
    return measure.ratio(hits(rows, within), sum(over(rows, "n_found")))


def over(rows: list[dict], name: str) -> list[float]:
    return [r[name] for r in rows if name in r]


def percent(values: list[float], how=np.mean) -> str:
    return f"{100 * how(values):.3f} %" if len(values) else "-"


def print_measures(rows: dict, seen: dict, traces: dict, part: str) -> None:
    """One line per measure, one column per side."""
    lines = {"mark recall / precision within 7 px": lambda s: _two(recall(rows[s], 7), precision(rows[s], 7))}
    lines["mark recall / precision within 4 px"] = lambda s: _two(recall(rows[s], 4), precision(rows[s], 4))
    lines["mask recall / IoU"] = lambda s: _two(_mean(rows[s], "mask_recall"), _mean(rows[s], "iou"))
    lines["masked further than 6 px"] = lambda s: percent(over(rows[s], "far"))
    lines["PSNR dB / SSIM inside"] = lambda s: f"{_mean(rows[s], 'psnr'):.1f} / {_mean(rows[s], 'ssim'):.3f}"
    lines["MAE inside, grey levels"] = lambda s: f"{_mean(rows[s], 'mae'):.1f}"
    lines["residue"] = lambda s: f"{_mean(rows[s], 'residue'):.3f}"
    lines["cases without a mark or line left"] = lambda s: percent([_is_clear(r) for r in rows[s] if "kinds" in r])
    lines["changed outside any ink"] = lambda s: percent(over(rows[s], "outside"))
    lines["changed by a second cleaning, most"] = lambda s: percent(over(rows[s], "again"), np.max)
    lines["flagged as too much"] = lambda s: percent(over(rows[s], "flagged"))
    lines["Doppler flagged and left"] = lambda s: f"{sum(over(rows[s], 'doppler'))} of {len(over(rows[s], 'doppler'))}"
    free = {s: [r for r in found if r["free"] and r["part"] == part] for s, found in seen.items()}
    for name, title in (("masked", "masked, overlay-free, mean / most"), ("masked_all", "same with vendor's corner")):
        lines[title] = lambda s, name=name: f"{percent(over(free[s], name))} / {percent(over(free[s], name), np.max)}"
    lines["overlay-free images unchanged"] = lambda s: f"{sum(over(free[s], 'unchanged'))} of {len(free[s])}"
    of_part = {s: [r for r in found if r["part"] == part] for s, found in seen.items()}
    for title, chosen in ((f"real, {part} part", of_part), ("real, all", seen)):
        lines[f"{title}, calipers: sensitivity / specificity"] = lambda s, c=chosen: _flag(c[s], "caliper", "n_marks")
        lines[f"{title}, text: sensitivity / specificity"] = lambda s, c=chosen: _flag(c[s], "text", "has_text")
    if traces:
        lines["trace AUROC / cosine"] = lambda s: _two(*traces[s])
    lines["CPU s per image, drawn / real"] = lambda s: _two(_mean(rows[s], "cpu_s"), _mean(seen[s], "cpu_s"))
    print(f"| measure | {' | '.join(rows)} |\n|---|{'---|' * len(rows)}")
    for title, line in lines.items():
        print(f"| {title} | {' | '.join(line(side) for side in rows)} |")


def _is_clear(row: dict) -> bool:
    """Whether no mark and no line of a case is still seen: each mark counts for itself."""
    return all(not left > SEEN for left in (row["line_residue"], *(left for *_, left in row["kinds"])))


def _mean(rows: list[dict], name: str) -> float:
    return measure.mean(over(rows, name))


def _two(a: float, b: float) -> str:
    return f"{a:.3f} / {b:.3f}"


def _flag(rows: list[dict], true: str, found: str) -> str:
    return _two(*measure.sensitivity_specificity([r[found] > 0 for r in rows], [r[true] for r in rows]))


def print_layers(rows: dict[str, list[dict]]) -> None:
    """Mask recall and residue of each kind of ink, by side."""
    print(f"\n| ink, mask recall / residue | {' | '.join(rows)} |\n|---|{'---|' * len(rows)}")
    for k, layer in enumerate(LAYERS):
        cells = [_two(*(measure.mean([v[k][i] for v in over(found, "layers")]) for i in (0, 1)))
                 for found in rows.values()]  # fmt: skip
        print(f"| {layer} | {' | '.join(cells)} |")


def print_kinds(rows: dict[str, list[dict]]) -> None:
    """Recall of marks within 7 px and the residue of their ink, by what is special about them."""
    print(f"\n| marks, recall / residue | marks | {' | '.join(rows)} |\n|---|---|{'---|' * len(rows)}")
    for kind in KINDS:
        cells = []
        for found in rows.values():
            of_kind = [(k in {i for i, _ in r["hits"][7]}, left)
                       for r in found for k, tags, left in r.get("kinds", []) if kind in tags]  # fmt: skip
            cells.append(_two(*(measure.mean([float(v[i]) for v in of_kind]) for i in (0, 1))))
        if of_kind:
            print(f"| {kind} | {len(of_kind)} | {' | '.join(cells)} |")


def print_real(seen: dict[str, list[dict]]) -> None:
    """The real images that a side got wrong, by name."""
    for side, rows in seen.items():
        if side in ("nothing", "usual") or not rows:
            continue
        for true, found in (("caliper", "n_marks"), ("text", "has_text")):
            missed = [r["name"] for r in rows if r[true] and not r[found]]
            invented = [r["name"] for r in rows if r[found] and not r[true]]
            print(f"\n{side}, {true}: missed {', '.join(missed) or 'none'}; invented {', '.join(invented) or 'none'}")
