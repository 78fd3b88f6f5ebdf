"""What scanners burn into a frame: calipers, dotted lines, digits, labels, depth scale, vendor glyph, body mark."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

LABELS = ("LEFT BREAST", "RIGHT BREAST", "RT AXILLA", "LT AXILLA", "RT 12 C", "LT 3", "RT 9", "LT 6 C", "RT UOQ",
          "LT LIQ", "LT 11", "RT RETRO AREOLAR", "LT 1-2", "L C", "RT 10")
COLOURS = {"yellow": (240, 220, 60), "green": (90, 230, 90), "cyan": (70, 220, 230), "orange": (245, 150, 50)}


@dataclass
class Overlay:
    """Everything burned into one image.

    ink: (H, W) float32 in 0..1, how much of a pixel is overlay. paint: (H, W, 3) uint8 RGB, its colour.
    marks: one dict per element, positions in pixels of the image.
    """

    ink: np.ndarray
    paint: np.ndarray
    marks: list[dict] = field(default_factory=list)

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> Overlay:
        return cls(np.zeros(shape, np.float32), np.zeros((*shape, 3), np.uint8))

    def put(self, ink: np.ndarray, colour: tuple[int, int, int]) -> None:
        """Add ink of one colour; later ink covers earlier."""
        self.paint[ink > 0] = colour
        self.ink = np.maximum(self.ink, ink)

    def burn(self, grey: np.ndarray) -> np.ndarray:
        """(H, W) grey image with the overlay, as (H, W, 3) RGB uint8."""
        ink = self.ink[:, :, None]
        return np.rint(grey[:, :, None] * (1 - ink) + self.paint * ink).astype(np.uint8)


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)


def write_text(overlay: Overlay, text: str, x: int, y: int, size: int, colour: tuple, outlined: bool) -> list[int]:
    """Write `text` with its top left corner at x, y, in the frame or not; returns its visible box x0, y0, x1, y1."""
    height, width = overlay.ink.shape
    layers = []
    for stroke in (1, 0) if outlined else (0,):
        canvas = Image.new("L", (width, height))
        for bold in (0, 1):
            ImageDraw.Draw(canvas).text((x + bold, y), text, fill=255, font=_font(size), stroke_width=stroke)
        layers.append(np.asarray(canvas, np.float32) / 255.0)
    if outlined:
        overlay.put(layers[0], (8, 8, 8))
    overlay.put(np.where(layers[-1] > 0.15, layers[-1], np.float32(0)), colour)
    x0, y0, x1, y1 = _font(size).getbbox(text)
    return [max(0, int(x + x0)), max(0, int(y + y0)), min(width, int(x + x1) + 1), min(height, int(y + y1))]


def _plus(ink: np.ndarray, x: int, y: int, half: int, thick: int, gap: bool) -> None:
    """Horizontal and vertical bar of `thick` pixels, centre at x, y; cut by the frame where it ends."""
    low, high = thick // 2, thick - thick // 2
    ink[max(0, y - low) : max(0, y + high), max(0, x - half) : max(0, x + half + 1)] = 1
    ink[max(0, y - half) : max(0, y + half + 1), max(0, x - low) : max(0, x + high)] = 1
    if gap:
        ink[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = 0


def _cross(ink: np.ndarray, x: int, y: int, half: int, thick: int) -> None:
    arm = max(3, round(half * 0.75))
    for sign in (1, -1):
        cv2.line(ink, (x - arm, y - sign * arm), (x + arm, y + sign * arm), 1.0, thick)


def _dotted(ink: np.ndarray, start: np.ndarray, end: np.ndarray, period: int, dot: int) -> None:
    """Dots (or dashes, when `dot` exceeds 2) between two points, clear of both marks."""
    length = float(np.hypot(*(end - start)))
    if length < 24:
        return
    unit = (end - start) / length
    for at in np.arange(8.0, length - 8.0, period):
        x, y = np.rint(start + unit * at).astype(int)
        if dot <= 2:
            ink[max(0, y) : y + dot, max(0, x) : x + dot] = 1
        else:
            far = np.rint(start + unit * (at + dot)).astype(int)
            cv2.line(ink, (int(x), int(y)), (int(far[0]), int(far[1])), 1.0, 1)


def axes_of(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Centre (x, y), unit vector of the long axis, and the half-lengths along and across it, in pixels."""
    ys, xs = np.nonzero(mask)
    points = np.stack([xs, ys], axis=1).astype(np.float64)
    centre = (points.max(axis=0) + points.min(axis=0)) / 2
    spread = np.cov((points - points.mean(axis=0)).T) + 1e-9 * np.eye(2)
    long_axis = np.linalg.eigh(spread)[1][:, 1]
    long_axis = long_axis * (1.0 if long_axis[0] >= 0 else -1.0)
    across = np.array([-long_axis[1], long_axis[0]])
    offset = points - centre
    return centre, long_axis, float(np.abs(offset @ long_axis).max()), float(np.abs(offset @ across).max())


@dataclass(frozen=True)
class Style:
    """How one scanner draws its calipers; lengths in pixels."""

    kind: str
    half_arm: int
    thickness: int
    period: int
    dot: int
    colour: tuple[int, int, int]
    digits: bool


def sample_style(rng: np.random.Generator) -> Style:
    """Draw a caliper style; most are flat grey 226, as on the scanner that made the public images."""
    kind = str(rng.choice(["+", "x", "gap"], p=[0.80, 0.16, 0.04]))
    grey = int(rng.choice([226, 255, 240, 205], p=[0.76, 0.10, 0.08, 0.06]))
    colour = (grey, grey, grey) if rng.random() > 0.06 else COLOURS[str(rng.choice(list(COLOURS)))]
    dot = int(rng.choice([0, 2, 1, 4], p=[0.2, 0.5, 0.2, 0.1]))
    period = int(rng.integers(7, 11)) if dot == 4 else int(rng.integers(4, 7))
    half, thick = ((8, 3) if rng.random() < 0.6 else (int(rng.integers(5, 12)), int(rng.integers(1, 4))))
    return Style(kind, half, thick, period, dot, colour, bool(rng.random() < 0.8))


def _pair(overlay: Overlay, style: Style, number: int, ends: list[np.ndarray], rng: np.random.Generator) -> None:
    """Draw one caliper pair with its line and digit, and note its centres."""
    height, width = overlay.ink.shape
    ink = np.zeros_like(overlay.ink)
    ends = [np.clip(np.rint(e), 3, [width - 4, height - 4]) for e in ends]
    for x, y in (e.astype(int) for e in ends):
        if style.kind == "x":
            _cross(ink, int(x), int(y), style.half_arm, style.thickness)
        else:
            _plus(ink, int(x), int(y), style.half_arm, style.thickness, style.kind == "gap")
        overlay.marks.append({"kind": style.kind, "pair": number, "x": int(x), "y": int(y), "half_arm": style.half_arm,
                              "thickness": style.thickness})
    if style.dot:
        _dotted(ink, ends[0], ends[1], style.period, style.dot)
        overlay.marks.append({"kind": "line", "pair": number, "from": [int(v) for v in ends[0]],
                              "to": [int(v) for v in ends[1]], "period": style.period})
    overlay.put(ink, style.colour)
    if style.digits:
        x, y = (ends[1] + [style.half_arm - 1, -style.half_arm + int(rng.integers(-12, 3))]).astype(int)
        size = int(rng.integers(15, 20))
        box = write_text(overlay, str(number), int(min(x, width - 12)), int(max(0, y - 4)), size, style.colour, False)
        overlay.marks.append({"kind": "digit", "pair": number, "text": str(number), "box": box})


def add_calipers(overlay: Overlay, mask: np.ndarray, rng: np.random.Generator) -> None:
    """Measure one lesion: one to three pairs, the first along its long axis, the second across."""
    style = sample_style(rng)
    centre, axis, half, across = axes_of(mask)
    for number in range(1, 1 + int(rng.choice([1, 2, 3], p=[0.25, 0.65, 0.10]))):
        turn = rng.normal(0, np.deg2rad(4)) + (0.0, np.pi / 2, np.pi / 4)[number - 1]
        cos, sin = np.cos(turn), np.sin(turn)
        unit = np.array([cos * axis[0] - sin * axis[1], sin * axis[0] + cos * axis[1]])
        reach = (half, across, (half + across) / 2)[number - 1] * rng.uniform(0.94, 1.12)
        _pair(overlay, style, number, [centre - unit * reach, centre + unit * reach], rng)


def add_text(overlay: Overlay, rng: np.random.Generator) -> str:
    """Write a side or clock-position label, sometimes cut by the left border; returns it."""
    height, width = overlay.ink.shape
    text, size = str(rng.choice(LABELS)), int(rng.integers(16, 23))
    cut = rng.random() < 0.2
    x = -int(rng.integers(8, 24)) if cut else int(rng.integers(6, max(7, int(width * 0.25))))
    y = int(rng.integers(int(height * 0.55), int(height * 0.88)))
    box = write_text(overlay, text, x, y, size, (226, 226, 226), bool(rng.random() < 0.5))
    overlay.marks.append({"kind": "text", "text": text, "box": box, "cut": bool(cut)})
    return text + (" (cut)" if cut else "")


def add_vendor_glyph(overlay: Overlay, rng: np.random.Generator) -> None:
    """A cropped vendor sign in the top left corner."""
    text, size = str(rng.choice(["Q", "9", "LQ"])), int(rng.integers(12, 16))
    box = write_text(overlay, text, -int(rng.integers(0, 7)), -int(rng.integers(1, 6)), size, (190, 190, 190), True)
    overlay.marks.append({"kind": "vendor", "box": box})


def add_depth_scale(overlay: Overlay, mm_per_px: float) -> None:
    """Ticks every 5 mm along the right border, longer every 10 mm."""
    height, width = overlay.ink.shape
    ink = np.zeros_like(overlay.ink)
    for i, y in enumerate(np.arange(5.0 / mm_per_px, height - 2, 5.0 / mm_per_px)):
        ink[int(y), width - (9 if i % 2 else 5) : width - 1] = 1
    overlay.put(ink, (170, 170, 170))
    overlay.marks.append({"kind": "depth scale", "box": [width - 9, 0, width, height]})


def add_body_mark(overlay: Overlay, rng: np.random.Generator) -> None:
    """The pictogram of a breast with the probe as a bar, near the lower border."""
    height, width = overlay.ink.shape
    ink = np.zeros_like(overlay.ink)
    radius = int(rng.integers(18, 26))
    x, y = int(rng.integers(radius + 6, width // 3 + radius)), height - radius - int(rng.integers(6, 14))
    cv2.circle(ink, (x, y), radius, 1.0, 1)
    cv2.circle(ink, (x, y), 3, 1.0, 1)
    turn, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.8) * radius
    px, py, dx, dy = x + far * np.cos(turn), y + far * np.sin(turn), 5 * np.sin(turn), -5 * np.cos(turn)
    cv2.line(ink, (round(px - dx), round(py - dy)), (round(px + dx), round(py + dy)), 1.0, 3)
    overlay.put(ink, (200, 200, 200))
    box = [max(0, x - radius), max(0, y - radius), min(width, x + radius + 1), min(height, y + radius + 1)]
    overlay.marks.append({"kind": "body mark", "box": box})
