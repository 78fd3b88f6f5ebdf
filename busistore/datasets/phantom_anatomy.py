"""The healthy breast: skin, fat lobules in Cooper septa, gland, retromammary fat, muscle, chest wall."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from busistore.datasets.phantom_speckle import Noise


@dataclass
class Tissue:
    """What one frame is made of; lesions are painted into it.

    echo_db: (H, W) float32, diffuse backscatter. reflector: (H, W) float32 >= 0, specular amplitude.
    loss_db: (H, W) float32, loss per pixel of depth beyond what the gain makes up. fat_db: level of fat.
    """

    echo_db: np.ndarray
    reflector: np.ndarray
    loss_db: np.ndarray
    fat_db: float


@dataclass(frozen=True)
class Breast:
    """Scalars of one breast: depths as fractions of the image height, levels in dB, `dense` from 0 to 1."""

    skin: float
    fat: float
    gland: float
    retro: float
    muscle: float
    slope: float
    waviness: float
    dense: float
    fat_db: float
    gland_db: float
    muscle_db: float
    septa: float
    gain_fall_db: float
    shadow_db: float
    chest_wall: bool


def sample_breast(rng: np.random.Generator) -> Breast:
    """Draw the scalars of one breast."""
    skin, fat = rng.uniform(0.015, 0.035), rng.uniform(0.10, 0.30)
    gland = fat + rng.uniform(0.18, 0.36)
    retro = gland + rng.uniform(0.01, 0.06)
    fat_db = rng.uniform(-30, -24)
    return Breast(skin, fat, gland, retro, retro + rng.uniform(0.14, 0.28), rng.normal(0, 0.09), rng.uniform(0.6, 1.8),
                  rng.uniform(0, 1), fat_db, fat_db + rng.uniform(4, 11), fat_db - rng.uniform(1, 6),
                  rng.uniform(0.6, 1.2), rng.uniform(14, 28), float(rng.choice([0, 0, rng.uniform(4, 14)])),
                  bool(rng.random() < 0.3))


def ridges(field: np.ndarray, thickness: float, facing: float) -> np.ndarray:
    """Thin curves where `field` crosses zero, (H, W) float32 in 0..1: a net of septa.

    `thickness` is in pixels. Curves across the beam reflect, curves along it hardly do: the brightness is the
    cosine of the angle between the normal and the beam, to the power `facing`.
    """
    gx, gy = cv2.Sobel(field, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(field, cv2.CV_32F, 0, 1, scale=0.125)
    steep = np.sqrt(gx * gx + gy * gy) + 1e-4
    return np.exp(-((field / (steep * thickness)) ** 2)) * (np.abs(gy) / steep) ** facing


def _step(depth: np.ndarray, width: float) -> np.ndarray:
    """0 above, 1 below, soft over `width` pixels."""
    return 1.0 / (1.0 + np.exp(-np.clip(depth / width, -30, 30)))


def _warp(texture: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Texture displaced vertically by `shift` pixels, so that fibres follow the layers."""
    height, width = texture.shape
    xs, ys = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(texture, xs, ys + shift.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _borders(breast: Breast, shape: tuple[int, int], noise: Noise) -> dict[str, np.ndarray]:
    """Depth of each layer's lower border at each column, {name: (W,) pixels}."""
    height, width = shape
    tilt = breast.slope * (np.arange(width) - width / 2)
    lines = {}
    for name, share, wave in (("fat", breast.fat, 0.030), ("gland", breast.gland, 0.026),
                              ("retro", breast.retro, 0.020), ("muscle", breast.muscle, 0.016)):
        bumps = noise.curve(width, 70) * 0.4 + noise.curve(width, 190)
        lines[name] = height * share + tilt * min(1.0, share * 2) + bumps * height * wave * breast.waviness
    for above, below in (("fat", "gland"), ("gland", "retro"), ("retro", "muscle")):
        lines[below] = np.maximum(lines[below], lines[above] + 4)
    return lines


def _fibres(noise: Noise, shape: tuple[int, int], shift: np.ndarray, cells: tuple, least: float) -> np.ndarray:
    """Short bright strands of collagen along the layers, (H, W) float32 >= 0, few of them bright.

    `cells` are (thickness, length) in pixels; `least` is how rare they are, in standard deviations.
    """
    total = np.zeros(shape, np.float32)
    for thickness, length in cells:
        strands = np.clip(_warp(noise.smooth(shape, thickness, length), shift) - least, 0, 2.5)
        total += strands**1.5 * np.exp(0.55 * noise.smooth(shape, 6 * thickness, 1.2 * length))
    return total


def _fat(breast: Breast, shape: tuple[int, int], shift: np.ndarray, noise: Noise) -> tuple[np.ndarray, np.ndarray]:
    """Echo and reflectors of fat lobules: even, a little darker in patches, in thin bright septa."""
    lobules = _warp(noise.smooth(shape, 24, 72), shift)
    fine = _warp(noise.smooth(shape, 13, 48), shift)
    echo = breast.fat_db + 2.2 * np.clip(2 * lobules, -1, 1) + 0.8 * noise.smooth(shape, 9, 14)
    patchy = np.exp(0.8 * noise.smooth(shape, 20, 40) - 0.5)
    lines = ridges(lobules, 1.2, 2.2) * patchy + 0.5 * ridges(fine + 0.4, 0.9, 2.5) * np.clip(patchy - 0.5, 0, 2)
    strands = _fibres(noise, shape, shift, ((2.4, 16), (3.0, 34)), 1.5)
    return echo, breast.septa * (0.34 * lines + 0.15 * strands)


def _gland(breast: Breast, shape: tuple[int, int], shift: np.ndarray, noise: Noise) -> tuple[np.ndarray, np.ndarray]:
    """Echo and reflectors of gland: bright, streaky, with dark ducts and islands of fat."""
    streaks = _warp(noise.smooth(shape, 4.5, 24), shift)
    clumps = _warp(noise.smooth(shape, 14, 36), shift)
    islands = _step(_warp(noise.smooth(shape, 26, 72), shift) - (0.1 + 1.4 * breast.dense), 0.2)
    ducts = _step(_warp(noise.smooth(shape, 8, 20) + 0.5 * noise.smooth(shape, 20, 50), shift) - 0.75, 0.22)
    echo = breast.gland_db + 2.8 * streaks + 2.6 * clumps - 8.0 * ducts
    echo += islands * (breast.fat_db - 0.5 + 1.0 * clumps - echo)
    strands = _fibres(noise, shape, shift, ((2.2, 13), (2.8, 24), (3.2, 44)), 0.8)
    return echo, breast.septa * 0.12 * strands * (1 - 0.8 * ducts) * (1 - 0.6 * islands)


def _muscle(breast: Breast, shape: tuple[int, int], shift: np.ndarray, noise: Noise) -> tuple[np.ndarray, np.ndarray]:
    """Echo and reflectors of pectoral muscle: dark, with long bright fibres."""
    fibres = _warp(noise.smooth(shape, 4.0, 70), shift)
    echo = breast.muscle_db + 2.0 * fibres + 2.0 * noise.smooth(shape, 25, 80)
    strands = _fibres(noise, shape, shift, ((2.3, 18), (2.8, 34), (3.4, 64)), 0.9)
    return echo, breast.septa * 0.07 * strands


def _fascia(depth: np.ndarray, thickness: float, noise: Noise) -> np.ndarray:
    """A bright sheet at depth 0, broken in places."""
    patchy = np.clip(0.45 + 0.6 * noise.smooth(depth.shape, 40, 60), 0, 1.6)
    return np.exp(-((depth / thickness) ** 2)) * patchy


def _skin(tissue: Tissue, breast: Breast, noise: Noise) -> None:
    """Bright entry echo, grey dermis, bright line under it."""
    height, width = tissue.echo_db.shape
    lower = height * breast.skin * (1 + 0.06 * noise.curve(width, 120))
    depth = np.arange(height, dtype=np.float32)[:, None]
    inside = 1 - _step(depth - lower, 1.5)
    tissue.echo_db += inside * (breast.fat_db + 8 + noise.smooth((height, width), 4, 60) - tissue.echo_db)
    tissue.reflector *= 1 - inside
    patchy = np.clip(0.7 + 0.4 * noise.smooth((height, width), 30, 70), 0.15, 1.5)
    tissue.reflector += 0.22 * patchy * np.exp(-(((depth - lower) / 1.6) ** 2)) + 0.35 * np.exp(-((depth / 2.2) ** 2))


def _chest_wall(tissue: Tissue, border: np.ndarray, noise: Noise) -> None:
    """Pleura or rib under the muscle: one bright line, little behind it."""
    depth = np.arange(len(tissue.echo_db), dtype=np.float32)[:, None] - border
    tissue.reflector *= 1 - 0.85 * _step(depth - 2, 2.0)
    tissue.reflector += 0.30 * _fascia(depth, 2.2, noise)
    tissue.loss_db += np.where((depth > 0) & (depth < 30), np.float32(0.22), np.float32(0))


def _beam_loss(tissue: Tissue, breast: Breast, noise: Noise) -> None:
    """Loss the gain does not make up: it grows with depth and differs between columns."""
    height, width = tissue.echo_db.shape
    depth = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height
    tissue.loss_db += breast.gain_fall_db / height * 2.2 * depth**1.2
    columns = np.clip(noise.curve(width, 45) - 1.0, 0, 1.5) * breast.shadow_db + 1.0 * noise.curve(width, 60)
    ragged = columns[None, :] + 1.2 * noise.smooth((height, width), 60, 14)
    tissue.loss_db += ragged / (0.5 * height) * _step(depth - breast.fat * 0.8, 0.03)


def build(breast: Breast, shape: tuple[int, int], noise: Noise) -> Tissue:
    """The healthy tissue of one frame of `shape` (height, width)."""
    height = shape[0]
    lines = _borders(breast, shape, noise)
    depth = np.arange(height, dtype=np.float32)[:, None]
    share = np.clip(depth / (height * breast.gland), 0, 1)
    bend = 0.5 * (lines["fat"] + lines["gland"])
    shift = 6.0 * noise.smooth(shape, 70, 80) + 2.0 * noise.smooth(shape, 22, 30) - (bend - bend.mean()) * share
    echo, reflector = _fat(breast, shape, shift, noise)
    gland, gland_lines = _gland(breast, shape, shift, noise)
    muscle, fibres = _muscle(breast, shape, shift, noise)
    ragged = 6.0 * _warp(noise.smooth(shape, 10, 28), shift) + 9.0 * noise.smooth(shape, 40, 60)
    in_gland = _step(depth - lines["fat"] + ragged, 2.0) * (1 - _step(depth - lines["gland"] + ragged, 2.5))
    in_muscle = _step(depth - lines["retro"], 2.0)
    echo += in_gland * (gland - echo) + in_muscle * (muscle - echo)
    reflector += in_gland * (gland_lines - 0.7 * reflector) + in_muscle * (fibres - 0.9 * reflector)
    for name, strength in (("fat", 0.12), ("gland", 0.12), ("retro", 0.16)):
        reflector += strength * breast.septa * _fascia(depth - lines[name], 1.7, noise)
    tissue = Tissue(echo.astype(np.float32), reflector.astype(np.float32), np.zeros(shape, np.float32), breast.fat_db)
    _skin(tissue, breast, noise)
    if breast.chest_wall:
        _chest_wall(tissue, lines["muscle"], noise)
    _beam_loss(tissue, breast, noise)
    return tissue


def arriving(tissue: Tissue) -> tuple[np.ndarray, np.ndarray]:
    """Diffuse and specular amplitude as the probe receives them, after the loss along each beam.

    Returns:
        two (H, W) float32 arrays, relative to white.
    """
    loss = np.cumsum(tissue.loss_db, axis=0)
    loss = cv2.GaussianBlur(loss, (0, 0), sigmaX=2.5, sigmaY=0.6)
    rough = 1.1 * tissue.reflector  # a real sheet is rough: half of its echo is as random as that of tissue
    diffuse = np.hypot(10 ** (tissue.echo_db / 20), rough) * 10 ** (-loss / 20)
    specular = 0.6 * cv2.GaussianBlur(tissue.reflector, (0, 0), sigmaX=1.4, sigmaY=0.8) * 10 ** (-loss / 20)
    return diffuse.astype(np.float32), specular.astype(np.float32)
