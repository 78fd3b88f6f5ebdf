"""What a comparison's runs cover, and so the number of shots at which its settings may be compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from busistore.report.parts import count, listed, plural
from busistore.report.settings import key

Coverage = dict[tuple, dict[int, dict[str, Any]]]  # setting -> shots -> row of `report_grid`


@dataclass(frozen=True)
class Grid:
    """The settings of one comparison with the numbers of shots, seeds and support sets of their runs.

    `shots` is the largest number of shots at which every setting has runs of the same seeds; None where there is none,
    and then nothing may be ranked. It is 0 where no setting has a support set, and all are compared without one.
    """

    covered: Coverage
    shots: int | None

    @property
    def one_set(self) -> bool:
        """Whether settings that share a number of shots always saw the same support sets."""
        return all(len(_kinds(rows, "episode_ids")) == 1 and rows[0]["episode_ids"] for rows in self._shared())

    @property
    def same_sets(self) -> bool:
        """Whether all settings saw the same support sets at the compared number of shots."""
        rows = [at[self.shots] for at in self.covered.values()] if self.shots is not None else []
        return len(rows) > 1 and len(_kinds(rows, "episode_ids")) == 1 and bool(rows[0]["episode_ids"])

    @property
    def several(self) -> bool:
        """Whether some number of shots has runs of more than one setting."""
        return any(True for _ in self._shared())

    def at(self, setting: tuple) -> int:
        """The number of shots at which a setting is shown: the compared one, or else its own largest."""
        return max(self.covered[setting]) if self.shots is None else self.shots

    def has(self, setting: tuple, shots: int | None) -> bool:
        """Whether that setting's runs at that number of shots are among those compared."""
        return shots in self.covered.get(setting, {})

    def shows(self, setting: tuple, shots: int | None) -> bool:
        """Whether that is the number of shots at which that setting is shown."""
        return setting in self.covered and self.at(setting) == shots

    def n_runs(self, shots: int | None = None) -> list[int]:
        """Fewest and most runs of a setting, at one number of shots or at any."""
        found = [r["n_runs"] for at in self.covered.values() for s, r in at.items() if shots in (None, s)]
        return [min(found, default=0), max(found, default=0)]

    def words(self) -> str:
        """At which number of shots the settings are compared, and why there."""
        if self.shots is None:
            return ("No number of labelled images per class has runs of every setting with the same seeds: each "
                    "setting is shown at its own largest, and they are not ranked.")  # fmt: skip
        if self.shots == 0:
            return "No setting learned from an image."
        least = f"{plural(self.shots, 'labelled image')} per class"
        if len(self.covered) == 1:
            return f"The figures show {least} unless they say otherwise."
        sets = ", on the same support sets" if self.same_sets else ""
        beyond = sorted({s for at in self.covered.values() for s in at if s > self.shots})
        more = f" Runs at {listed(map(count, beyond))} do not cover all settings equally and are not compared."
        most = f"Settings are compared at {least}, the most at which all have runs with the same seeds{sets}."
        return most + (more if beyond else "")

    def _shared(self) -> Iterable[list[dict[str, Any]]]:
        """The rows of each number of shots that several settings have."""
        for shots in sorted({s for at in self.covered.values() for s in at}):
            rows = [at[shots] for at in self.covered.values() if shots in at]
            if len(rows) > 1:
                yield rows


def grid(rows: Iterable[dict[str, Any]]) -> Grid:
    """The grid of one comparison, from its rows of `report_grid`.

    A setting without a drawn support set (no shots, or 0) stands apart where others have one: shots are no axis for it.
    """
    rows = [row for row in rows if row["shots"] is not None]
    drawn = {key(row) for row in rows if row["shots"] > 0}
    covered: Coverage = {}
    for row in rows:
        if key(row) in drawn or not drawn:
            covered.setdefault(key(row), {})[row["shots"]] = row
    everywhere = set.intersection(*(set(at) for at in covered.values())) if covered else set()
    equal = [s for s in everywhere if len(_kinds([at[s] for at in covered.values()], "seeds", "n_runs")) == 1]
    return Grid(covered, max(equal, default=None))


def _kinds(rows: Iterable[dict[str, Any]], *columns: str) -> set[str]:
    """The different values that the rows have in the columns."""
    return {repr([row[c] for c in columns]) for row in rows}


def between(low: int, high: int) -> str:
    """One number, or the range from one to another.

    >>> between(10, 10), between(1, 10)
    ('10', '1–10')
    """
    return count(low) if low == high else f"{count(low)}–{count(high)}"
