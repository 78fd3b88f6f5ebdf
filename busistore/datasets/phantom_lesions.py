"""Lesions by the BI-RADS ultrasound lexicon: drawn descriptors, outlines, and what they do to echo and beam.

Descriptor shares are set by hand so that the classes overlap as they do in the clinic. Source of the words:
Mendelson et al. (2013), ACR BI-RADS Ultrasound.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from busistore.datasets.phantom_speckle import Noise

SHAPES = {"benign": {"oval": 0.68, "round": 0.16, "irregular": 0.16},
          "malignant": {"oval": 0.22, "round": 0.10, "irregular": 0.68}}
MARGINS = {"benign": {"circumscribed": 0.70, "indistinct": 0.16, "microlobulated": 0.10, "angular": 0.04},
           "malignant": {"circumscribed": 0.10, "indistinct": 0.22, "microlobulated": 0.20, "angular": 0.24,
                         "spiculated": 0.24}}
PATTERNS = {"benign": {"anechoic": 0.30, "hypoechoic": 0.44, "isoechoic": 0.14, "heterogeneous": 0.12},
            "malignant": {"hypoechoic": 0.50, "heterogeneous": 0.40, "isoechoic": 0.08, "anechoic": 0.02}}
POSTERIORS = {"benign": {"enhancement": 0.42, "none": 0.48, "shadowing": 0.10},
              "malignant": {"shadowing": 0.42, "none": 0.44, "enhancement": 0.14}}
NON_PARALLEL = {"benign": 0.07, "malignant": 0.40}
HALO = {"benign": 0.08, "malignant": 0.38}
ATYPICAL = 0.08  # share of lesions that look as those of the other class do
SOFTNESS_PX = {"circumscribed": 0.9, "microlobulated": 1.3, "angular": 2.2, "spiculated": 3.0, "indistinct": 5.5}
CALCIFIED = {"benign": 0.05, "malignant": 0.25}


@dataclass(frozen=True)
class Lesion:
    """One lesion: centre and half-axes in pixels of the drawn field, tilt in radians, lexicon words, levels in dB."""

    x: float
    y: float
    half_width: float
    half_height: float
    tilt: float
    shape: str
    margin: str
    orientation: str
    pattern: str
    posterior: str
    halo: bool
    calcified: bool
    contrast_db: float
    posterior_db: float
    outline_seed: int

    def moved(self, dx: float, dy: float, scale: float) -> Lesion:
        """The same lesion a little further on, as the next frame of a sweep shows it."""
        return replace(self, x=self.x + dx, y=self.y + dy,
                       half_width=self.half_width * scale, half_height=self.half_height * scale)


def _pick(rng: np.random.Generator, shares: dict[str, float]) -> str:
    return str(rng.choice(list(shares), p=list(shares.values())))


def _half_axes(rng: np.random.Generator, label: str, shape: str, parallel: bool, size: tuple[int, int], scale: float):
    """Half-width and half-height in pixels; the ratio follows the shape and the orientation."""
    height, width = size
    median, spread = (0.140, 0.40) if label == "benign" else (0.195, 0.36)
    if not parallel:
        ratio = rng.uniform(1.08, 1.40)
    elif shape == "round":
        ratio = rng.uniform(0.86, 0.99)
    else:
        ratio = rng.uniform(0.45, 0.82) if label == "benign" else rng.uniform(0.55, 0.90)
    radius = median * np.sqrt(0.7) * np.sqrt(width * height * 1.15) * np.exp(spread * rng.standard_normal()) * scale
    radius = float(np.clip(radius, 14.0, 0.25 * min(height, 0.9 * width)))
    return radius / np.sqrt(ratio), radius * np.sqrt(ratio)


def _posterior_db(rng: np.random.Generator, posterior: str, half_height: float) -> float:
    """Change of level behind the whole lesion; thicker lesions show more of it."""
    thick = np.clip(half_height / 45.0, 0.6, 1.6)
    if posterior == "none":
        return float(rng.uniform(-1.5, 1.5))
    return float(thick * (rng.uniform(5.0, 10.0) if posterior == "enhancement" else -rng.uniform(7.0, 18.0)))


def sample_lesion(rng: np.random.Generator, label: str, size: tuple[int, int], small: bool = False,
                  on_edge: bool = False) -> Lesion:
    """Draw one lesion of a class ("benign" or "malignant") for a field of `size` (height, width) pixels."""
    height, width = size
    if rng.random() < ATYPICAL:
        label = "benign" if label == "malignant" else "malignant"
    shape, margin = _pick(rng, SHAPES[label]), _pick(rng, MARGINS[label])
    pattern, posterior = _pick(rng, PATTERNS[label]), _pick(rng, POSTERIORS[label])
    if pattern == "anechoic":
        posterior, margin = "enhancement", "circumscribed" if label == "benign" else margin
    parallel = bool(shape == "round" or rng.random() >= NON_PARALLEL[label])
    a, b = _half_axes(rng, label, shape, parallel, size, 0.6 if small else 1.0)
    contrast = {"anechoic": rng.uniform(-34, -24), "hypoechoic": rng.uniform(-14, -8.5),
                "isoechoic": rng.uniform(-7.0, -4.5), "heterogeneous": rng.uniform(-13, -8)}[pattern]
    contrast -= rng.uniform(0, 3.5) if label == "malignant" else 0.0
    y = float(np.clip(height * rng.normal(0.33 if label == "benign" else 0.38, 0.07), b * 1.2 + 0.07 * height,
                      max(0.72 * height - b, b * 1.2 + 0.07 * height)))
    x = float(rng.uniform(min(a * 1.3, width / 2), max(width - a * 1.3, width / 2)))
    if on_edge:
        x = float(rng.choice([a * 0.45, width - a * 0.45]))
    return Lesion(x, y, a, b, float(rng.normal(0, 0.16)), shape, margin, "parallel" if parallel else "not parallel",
                  pattern, posterior, bool(rng.random() < HALO[label]), bool(rng.random() < CALCIFIED[label]),
                  float(contrast), _posterior_db(rng, posterior, b), int(rng.integers(2**31)))


def sample_mimic(rng: np.random.Generator, size: tuple[int, int]) -> Lesion:
    """A flat lobule of fat in the gland, as dark as fat and vaguely bounded: it resembles a lesion and is none."""
    lesion = sample_lesion(rng, "benign", size, small=True)
    return replace(lesion, shape="oval", margin="indistinct", pattern="isoechoic", halo=False, calcified=False,
                   half_height=lesion.half_width * float(rng.uniform(0.35, 0.55)),
                   contrast_db=float(rng.uniform(-5.5, -1.0)), posterior_db=0.0)


def _spikes(angle: np.ndarray, rng: np.random.Generator, n: int, width: tuple, height: tuple) -> np.ndarray:
    """Pointed bumps of the outline, as a share of the radius."""
    total = np.zeros_like(angle)
    for centre in (np.arange(n) + rng.uniform(-0.3, 0.3, n)) * 2 * np.pi / n:
        distance = np.abs(np.angle(np.exp(1j * (angle - centre))))
        total += rng.uniform(*height) * np.clip(1 - distance / rng.uniform(*width), 0, None) ** 1.3
    return total


def outline(lesion: Lesion, n_points: int = 720) -> np.ndarray:
    """Closed contour of a lesion, (n_points, 2) float64 as x, y in pixels."""
    rng = np.random.default_rng(lesion.outline_seed)
    angle = np.linspace(0, 2 * np.pi, n_points, endpoint=False)
    rough = 0.15 if lesion.shape == "irregular" else 0.025
    radius = np.ones(n_points)
    for k in range(2, 8):
        radius += rough * (2.0 / k) ** 0.8 * rng.normal(0, 0.8) * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    if lesion.margin == "microlobulated":
        k = int(rng.integers(9, 15))
        radius += 0.10 * np.abs(np.sin(k * (angle + 0.25 * np.sin(2 * angle + rng.uniform(0, 6))) / 2)) - 0.05
    elif lesion.margin == "angular":
        radius += _spikes(angle, rng, int(rng.integers(4, 7)), (0.30, 0.6), (0.05, 0.30))
    elif lesion.margin == "spiculated":
        radius += _spikes(angle, rng, int(rng.integers(9, 17)), (0.10, 0.26), (0.03, 0.24))
    if lesion.margin != "circumscribed":
        for k in range(8, 30):
            radius += 0.10 / k * rng.normal() * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    radius = np.clip(radius, 0.5, 1.6)
    x, y = lesion.half_width * radius * np.cos(angle), lesion.half_height * radius * np.sin(angle)
    cos, sin = np.cos(lesion.tilt), np.sin(lesion.tilt)
    return np.stack([lesion.x + cos * x - sin * y, lesion.y + sin * x + cos * y], axis=1)


def mask_of(lesion: Lesion, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the pixels inside the outline."""
    canvas = np.zeros(size, np.uint8)
    points = np.rint(outline(lesion) * 16).astype(np.int32)
    cv2.fillPoly(canvas, [points], 1, shift=4)
    return canvas.astype(bool)


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """(H, W) float32, pixels to the border of the mask: positive inside, negative outside."""
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    return inside - outside + np.where(mask, np.float32(-0.5), np.float32(0.5))


def _inner_texture(lesion: Lesion, shape: tuple[int, int], noise: Noise) -> np.ndarray:
    """Echo inside a lesion relative to its mean, in dB."""
    fine, coarse = noise.smooth(shape, 5, 8), noise.smooth(shape, 14, 20)
    strength = {"anechoic": 0.5, "hypoechoic": 1.0, "isoechoic": 1.0, "heterogeneous": 3.2}[lesion.pattern]
    return strength * (0.8 * fine + coarse)


def _calcifications(lesion: Lesion, mask: np.ndarray) -> np.ndarray:
    """(H, W) float32 amplitude of bright point echoes inside the lesion."""
    rng = np.random.default_rng([lesion.outline_seed, 1])
    points = np.zeros(mask.shape, np.float32)
    ys, xs = np.nonzero(mask)
    if len(ys):
        n, near = int(rng.integers(6, 18)), int(rng.integers(len(ys)))
        distance = np.hypot(ys - ys[near], xs - xs[near])
        close = np.argsort(distance, kind="stable")[: max(n, len(ys) // 3)]
        for i in rng.choice(close, n, replace=False):
            points[ys[i], xs[i]] = rng.uniform(0.3, 1.0)
    return cv2.GaussianBlur(points, (0, 0), sigmaX=1.7, sigmaY=1.2) * 12.0


def _spicules(lesion: Lesion, distance: np.ndarray, noise: Noise) -> np.ndarray:
    """Dark and bright strands that radiate from the lesion into the tissue around it, in dB."""
    height, width = distance.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    turn = np.arctan2(y - lesion.y, x - lesion.x) / (2 * np.pi) + 0.5
    strands = noise.curve(1000, 11)[np.minimum((turn * 999).astype(int), 999)]
    reach = 0.45 * np.sqrt(lesion.half_width * lesion.half_height)
    fade = np.exp(np.minimum(distance, 0) / reach)
    return fade * (5.0 * np.clip(-strands - 0.4, 0, 2) - 8.0 * np.clip(strands - 0.4, 0, 2))


def _edge_loss(soft: np.ndarray) -> np.ndarray:
    """(H, W) float32 in 0..1: where the border runs along the beam and refracts it away."""
    gx, gy = cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)
    steep = np.abs(gx) / (np.hypot(gx, gy) + 1e-3)
    return steep**12 * np.hypot(gx, gy)


def paint(lesion: Lesion, mask: np.ndarray, tissue, noise: Noise) -> None:
    """Put a lesion into `tissue` (its echo_db, reflector and loss_db arrays are changed in place)."""
    distance = signed_distance(mask)
    width = SOFTNESS_PX[lesion.margin]
    ragged = distance + 1.1 * (width - 0.7) * noise.smooth(mask.shape, 6, 9)
    inside = 1.0 / (1.0 + np.exp(-np.clip(ragged / width, -30, 30)))
    level = tissue.fat_db + lesion.contrast_db + _inner_texture(lesion, mask.shape, noise)
    if lesion.halo:
        rim = 0.22 * np.sqrt(lesion.half_width * lesion.half_height)
        patchy = np.clip(0.5 + 0.7 * noise.smooth(mask.shape, 16, 24), 0, 1.5)
        tissue.echo_db += 7.0 * patchy * np.exp(-(((distance + 0.7 * rim) / rim) ** 2))
    if lesion.margin == "spiculated":
        tissue.echo_db += _spicules(lesion, distance, noise)
    tissue.echo_db += inside * (level - tissue.echo_db)
    tissue.reflector *= np.clip(1 - inside * 1.02, 0, 1)
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.2)
    if lesion.margin == "circumscribed":
        facing = np.abs(cv2.Sobel(soft, cv2.CV_32F, 0, 1)) ** 1.5
        tissue.reflector += 0.03 * facing * np.clip(1 + 0.5 * noise.smooth(mask.shape, 20, 30), 0.2, 2)
        tissue.loss_db += 0.10 * _edge_loss(soft)
    if lesion.calcified:
        tissue.reflector += 0.12 * _calcifications(lesion, mask)
    tissue.loss_db += (-lesion.posterior_db / (2 * lesion.half_height)) * mask
