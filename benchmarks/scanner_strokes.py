"""The elements of a scanner's overlay: calipers with lines and digits, labels, a Doppler box; all drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from busistore.datasets import phantom_overlays as phantom

LAYERS = ("mark", "line", "text", "logo", "other")
"""What a pixel of `Case.layer` shows, counted from 1; 0 is tissue."""
SIDES = ("RT", "LT", "R", "L", "rt", "lt", "RIGHT", "LEFT")
PLACES = ("BREAST", "AXILLA", "axilla", "UOQ", "UIQ", "LOQ", "LIQ", "LO", "C", "AX", "SUBAREOLAR", "nodes")
PAIR_TURNS = (0.0, np.pi / 2, np.pi / 4)
"""Direction of pair 1, 2 and 3 from the lesion's long axis, rad."""
DIM, SATURATED = 200, 215
"""A mark darker than the first is dim; tissue brighter than the second under a mark is saturated."""


@dataclass(frozen=True)
class Base:
    """An overlay-free image: (H, W) uint8, its lesions as (H, W) bool, and where it comes from."""

    name: str
    label: str
    group: str
    grey: np.ndarray
    lesion: np.ndarray


@dataclass(frozen=True)
class Mark:
    """One caliper mark: centre in pixels (it may lie between two), kind '+', 'x' or 'gap', half-arm and thickness in
    pixels, grey level (of its luma where it is coloured), and what makes it hard."""

    x: float
    y: float
    kind: str
    half: float
    thickness: float
    level: int
    tags: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Text:
    """Written characters: box x0, y0, x1, y1 with ends excluded, and kind 'digit' or 'text'."""

    box: tuple[int, int, int, int]
    text: str
    kind: str


@dataclass
class Canvas:
    """The overlay while it grows; `layer` as in Case, before anything is scaled."""

    base: Base
    ink: phantom.Overlay
    layer: np.ndarray
    marks: list[Mark] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)

    def put(self, ink: np.ndarray, colour: tuple[int, int, int], layer: str) -> None:
        self.ink.put(ink, colour)
        self.layer[ink > 0] = 1 + LAYERS.index(layer)

    def write(self, text: str, x: int, y: int, size: int, colour: tuple, outlined: bool, kind: str) -> None:
        new = phantom.Overlay.empty(self.layer.shape)
        box = phantom.write_text(new, text, x, y, size, colour, outlined)
        over = new.ink > 0
        self.ink.ink[over], self.ink.paint[over] = np.maximum(new.ink, self.ink.ink)[over], new.paint[over]
        self.layer[over] = 1 + LAYERS.index("text")
        self.texts.append(Text(tuple(box), text, kind))
        self.tags |= {kind, "outlined"} if outlined else {kind}


def pick_colour(canvas: Canvas, rng: np.random.Generator) -> tuple[int, int, int]:
    """Grey in 72 of 100, mostly 226; else one of four colours."""
    if rng.random() < 0.72:
        return (int(rng.choice([226, 255, 240, 200, 210], p=[0.64, 0.12, 0.08, 0.08, 0.08])),) * 3
    canvas.tags.add("colour")
    return phantom.COLOURS[str(rng.choice(list(phantom.COLOURS)))]


def _lesion(base: Base, rng: np.random.Generator) -> np.ndarray:
    """The largest lesion, or an ellipse at a place where one could be."""
    if base.lesion.any():
        _, labels, stats, _ = cv2.connectedComponentsWithStats(base.lesion.astype(np.uint8))
        return labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    height, width = base.grey.shape
    oval, long = np.zeros((height, width), np.uint8), rng.uniform(0.06, 0.18) * width
    centre = (int(rng.uniform(0.25, 0.75) * width), int(rng.uniform(0.2, 0.7) * height))
    cv2.ellipse(oval, centre, (int(long), int(long * rng.uniform(0.5, 0.9))), rng.uniform(-30, 30), 0, 360, 1, -1)
    return oval > 0


def calipers(canvas: Canvas, colour: tuple, outlined: bool, trouble: str, rng: np.random.Generator) -> None:
    """One to three pairs: the first along the long axis, the second across; all of one style but for the level.

    `trouble` is '' or what is made hard: 'bright' (a mark on the brightest tissue), 'cut' (by the frame), 'overlap'.
    """
    centre, axis, half, across = phantom.axes_of(_lesion(canvas.base, rng))
    style = _style(rng)
    if trouble == "cut":
        centre = _to_edge(canvas.base.grey, centre, axis, half, rng)
    darker = int(rng.integers(40, 91)) if rng.random() < 0.3 else 0
    for number in range(1, 1 + int(rng.choice([1, 2, 3], p=[0.25, 0.65, 0.10]))):
        turn = np.arctan2(axis[1], axis[0]) + PAIR_TURNS[number - 1] + np.deg2rad(rng.uniform(-8, 8))
        reach = (half, across, (half + across) / 2)[number - 1] * rng.uniform(0.90, 1.15)
        step = max(reach, 10.0) * np.array([np.cos(turn), np.sin(turn)])
        start = centre - step
        if trouble == "bright" and number == 1:
            start = _brightest(canvas.base.grey)
        elif trouble == "overlap" and number == 2 and canvas.marks:  # two diameters that share a corner
            start = np.array([canvas.marks[0].x, canvas.marks[0].y]) + rng.choice([-1, 1], 2) * rng.uniform(4, 12, 2)
        level = tuple(max(0, c - darker) for c in colour) if number == 2 else colour
        if style["kind"] == "gap" and "colour" not in canvas.tags:
            level = (int(rng.integers(145, 151)),) * 3
        _pair(canvas, style, number, [start, start + 2 * step], level, trouble == "cut", outlined, rng)


def _brightest(grey: np.ndarray) -> np.ndarray:
    """(x, y) of the brightest tissue that lies 20 px inside."""
    inner = cv2.boxFilter(grey, cv2.CV_32F, (13, 13))[20:-20, 20:-20]
    y, x = np.unravel_index(int(inner.argmax()), inner.shape)
    return np.array([x + 20.0, y + 20.0])


def _to_edge(grey: np.ndarray, centre: np.ndarray, axis: np.ndarray, half: float, rng) -> np.ndarray:
    """The centre that puts an end of the long axis between 12 px within and 40 px beyond the left or right edge."""
    beyond, width = rng.uniform(-12, 40), grey.shape[1]
    if rng.random() < 0.5:
        return np.array([abs(axis[0]) * half - beyond, centre[1]])
    return np.array([width - abs(axis[0]) * half + beyond, centre[1]])


def _style(rng: np.random.Generator) -> dict:
    dashed = rng.random() < 0.25
    return {
        "kind": str(rng.choice(["+", "x", "gap"], p=[0.76, 0.20, 0.04])), "half": int(rng.integers(5, 12)),
        "thickness": int(rng.integers(1, 4)), "smooth": bool(rng.random() < 0.5), "line": bool(rng.random() < 0.85),
        "period": int(rng.integers(7, 11) if dashed else rng.integers(4, 7)),
        "dot": 4 if dashed else int(rng.choice([1, 2, 2])),
    }  # fmt: skip


def _pair(canvas: Canvas, style: dict, number: int, ends, colour, leaves: bool, outlined: bool, rng) -> None:
    """Line, marks and digit of one pair. Ends are kept in the frame unless it `leaves`: then the line goes on to it."""
    height, width = canvas.layer.shape
    if not leaves:
        ends = [np.clip(e, 3, [width - 4, height - 4]) for e in ends]
    ends = [np.rint(e).astype(int) for e in ends]
    if style["line"]:
        ink = np.zeros(canvas.layer.shape, np.float32)
        dotted(ink, ends[0], ends[1], style["period"], style["dot"])
        canvas.put(ink, colour, "line")
    for x, y in ends:
        if not (0 <= x < width and 0 <= y < height):
            canvas.tags.add("leaves")
            continue
        _mark(canvas, style, int(x), int(y), colour)
    x, y = ends[int(rng.integers(2))]
    if rng.random() < 0.8 and 0 <= x < width and 0 <= y < height:
        size = int(rng.integers(12, 19))
        x = x + style["half"] if rng.random() < 0.6 else x - style["half"] - size // 2 - 2
        y = y - style["half"] - int(rng.integers(0, 8)) - size // 4
        at = int(np.clip(x, 0, width - size)), int(np.clip(y, 0, height - size - 4))
        canvas.write(str(number), *at, size, colour, outlined, "digit")


def _mark(canvas: Canvas, style: dict, x: int, y: int, colour: tuple) -> None:
    """Draws a mark and notes its centre and what makes it hard."""
    kind, half, thick = style["kind"], style["half"], style["thickness"]
    ink = cross(canvas.layer.shape, x, y, half, thick, style["smooth"]) if kind == "x" else (
        plus(canvas.layer.shape, x, y, half, thick, kind == "gap")
    )
    level = round(float(np.dot(colour, (0.299, 0.587, 0.114))))
    height, width = canvas.layer.shape
    offset = 0.5 if kind != "x" and thick % 2 == 0 else 0.0  # two columns have their middle between them
    tags = {"1px"} if thick == 1 else set()
    tags |= {"dim"} if level < DIM and "colour" not in canvas.tags else set()
    tags |= {"cut"} if min(x, y, width - 1 - x, height - 1 - y) < half else set()
    near = [m for m in canvas.marks if max(abs(m.x - x), abs(m.y - y)) < 2 * half]
    tags |= {"overlap"} if near else set()
    around = canvas.base.grey[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1]
    tags |= {"saturated"} if around.mean() > SATURATED else set()
    tags |= {"darker"} if around.mean() > level else set()
    canvas.put(ink, colour, "mark")
    canvas.marks.append(Mark(x - offset, y - offset, kind, half, thick, level, frozenset(tags)))


def plus(shape: tuple[int, int], x: int, y: int, half: int, thick: int, gap: bool = False) -> np.ndarray:
    """(H, W) float32 ink of a '+' of two bars; with a gap, of four that leave 5 x 5 px free."""
    ink, low, high = np.zeros(shape, np.float32), thick // 2, thick - thick // 2
    ink[max(0, y - low) : y + high, max(0, x - half) : x + half + high - low] = 1
    ink[max(0, y - half) : y + half + high - low, max(0, x - low) : x + high] = 1
    if gap:
        ink[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = 0
    return ink


def cross(shape: tuple[int, int], x: int, y: int, half: int, thick: int, smooth: bool) -> np.ndarray:
    """(H, W) float32 ink of an 'x' whose arms span 3/4 of the half-arm in x and in y, with smooth edges or not."""
    ink, arm = np.zeros(shape, np.uint8), max(3, round(0.75 * half))
    for sign in (1, -1):
        kind = cv2.LINE_AA if smooth else cv2.LINE_8
        cv2.line(ink, (x - arm, y - sign * arm), (x + arm, y + sign * arm), 255, thick, kind)
    return ink.astype(np.float32) / 255


def dotted(ink: np.ndarray, start: np.ndarray, end: np.ndarray, period: int, dot: int, clear: float = 8.0) -> None:
    """Dots of `dot` px, or dashes of more than 2 px, every `period` px from `clear` px after start to before end."""
    length = float(np.hypot(*(end - start)))
    for at in np.arange(clear, length - clear, period):
        x, y = np.rint(start + (end - start) * (at / length)).astype(int)
        if dot <= 2:
            ink[max(0, y) : max(0, y + dot), max(0, x) : max(0, x + dot)] = 1
        else:
            far = np.rint(start + (end - start) * ((at + dot - 1) / length)).astype(int)
            cv2.line(ink, (int(x), int(y)), (int(far[0]), int(far[1])), 1.0, 1)


def label(canvas: Canvas, colour: tuple, outlined: bool, rng: np.random.Generator) -> None:
    """Side with clock position or place, anywhere in the lower half or beside it."""
    height, width = canvas.layer.shape
    place = str(rng.integers(1, 13)) if rng.random() < 0.4 else str(rng.choice(PLACES))
    text = str(rng.choice(SIDES)) + (" " if rng.random() < 0.6 else "") + place
    x, y = int(rng.integers(4, max(5, int(width * 0.6)))), int(rng.uniform(0.5, 0.9) * height)
    canvas.write(text, x, y, int(rng.integers(14, 23)), colour, outlined, "text")


def doppler(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3): flow in red and blue in a thin box around the middle. The flow is part of the true mask."""
    height, width = canvas.layer.shape
    x0, x1 = (int(v * width) for v in (rng.uniform(0.15, 0.3), rng.uniform(0.6, 0.85)))
    y0, y1 = (int(v * height) for v in (rng.uniform(0.1, 0.2), rng.uniform(0.5, 0.7)))
    coarse = rng.standard_normal((9, 12)).astype(np.float32)
    speed = cv2.resize(coarse, (x1 - x0, y1 - y0), interpolation=cv2.INTER_CUBIC)
    rgb = np.repeat(canvas.base.grey[:, :, None], 3, axis=2)
    inside, strength = rgb[y0:y1, x0:x1], np.clip(100 + 80 * np.abs(speed), 0, 255).astype(np.uint8)
    for flow, channel in ((speed > 0.6, 0), (speed < -0.6, 2)):
        inside[flow] = 20
        inside[flow, channel] = strength[flow]
    canvas.layer[y0:y1, x0:x1][np.abs(speed) > 0.6] = 1 + LAYERS.index("other")
    frame = np.zeros(canvas.layer.shape, np.float32)
    cv2.rectangle(frame, (x0, y0), (x1, y1), 1.0, 1)
    canvas.put(frame, phantom.COLOURS["green"], "other")
    canvas.tags.add("doppler")
    return rgb
