"""From tissue to grey levels: scatterers, point-spread function, envelope, compounding, log compression."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import fft, ndimage


@dataclass(frozen=True)
class Scanner:
    """One machine at one setting; lengths in pixels of the image, levels in decibels.

    `focus` is a fraction of the image height. `lateral_px` is the width at the focus; away from it the beam
    widens by `spread` per image height. `n_looks` counts the steered views that are averaged before compression.
    """

    axial_px: float = 1.5
    lateral_px: float = 2.4
    spread: float = 2.0
    focus: float = 0.35
    n_looks: int = 3
    dynamic_range_db: float = 55.0
    noise_db: float = -52.0
    gamma: float = 1.0
    smoothing_px: float = 0.5


class Noise:
    """Gaussian numbers of one frame; an adjacent frame shares them in part.

    With `drift` and an angle t every array is cos(t) old + sin(t) new, so its variance stays 1 and its
    correlation with the first frame is cos(t).
    """

    def __init__(self, rng: np.random.Generator, drift: np.random.Generator | None = None, angle: float = 0.0):
        self._rng, self._drift, self._angle = rng, drift, angle

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """Independent standard normal numbers, float32."""
        values = self._rng.standard_normal(shape, dtype=np.float32)
        if self._drift is None:
            return values
        other = self._drift.standard_normal(shape, dtype=np.float32)
        return np.float32(np.cos(self._angle)) * values + np.float32(np.sin(self._angle)) * other

    def smooth(self, shape: tuple[int, int], cell_y: float, cell_x: float) -> np.ndarray:
        """(H, W) float32 field of mean 0 and variance about 1, smooth over cells of cell_y x cell_x pixels."""
        height, width = shape
        rows, columns = int(height / cell_y) + 4, int(width / cell_x) + 4
        coarse = cv2.GaussianBlur(self.normal((rows, columns)), (5, 5), 0.7)
        size = (int(columns * cell_x) + 1, int(rows * cell_y) + 1)
        fine = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
        top, left = int(cell_y), int(cell_x)
        field = fine[top : top + height, left : left + width]
        return field / np.float32(0.38)

    def curve(self, length: int, cell: float) -> np.ndarray:
        """(length,) float32 line of mean 0 and variance about 1."""
        rows = self.smooth((1, length), 1.0, cell)
        return rows[0]

    def complex_normal(self, shape: tuple[int, int]) -> np.ndarray:
        """Circular complex normal numbers of mean power 1, complex64."""
        parts = self.normal((2, *shape)) * np.float32(np.sqrt(0.5))
        return parts[0] + 1j * parts[1]


def lateral_widths(height: int, scanner: Scanner) -> np.ndarray:
    """(H,) standard deviation of the lateral beam profile of each row, in pixels; least at the focus."""
    depth = (np.arange(height) + 0.5) / height
    return scanner.lateral_px * np.sqrt(1.0 + (scanner.spread * (depth - scanner.focus)) ** 2)


def beamform(scatterers: np.ndarray, scanner: Scanner) -> np.ndarray:
    """Complex baseband image of scatterers: Gaussian point-spread function, its width a function of depth.

    Args:
        scatterers: (H, W) complex64, amplitude and phase per pixel.

    Returns:
        (H, W) complex64, scaled so that independent unit-power scatterers give unit power everywhere but
        within a beam width of the border.
    """
    height, width = scatterers.shape
    sigma = lateral_widths(height, scanner)[:, None]
    padded = fft.next_fast_len(width + int(8 * sigma.max()))
    frequency = fft.fftfreq(padded)[None, :]
    response = np.exp(-2.0 * (np.pi * frequency * sigma) ** 2).astype(np.float32)
    lateral = fft.ifft(fft.fft(scatterers, padded, axis=1) * response, axis=1)[:, :width]
    both = np.stack([lateral.real, lateral.imag])
    both = ndimage.gaussian_filter1d(both, scanner.axial_px, axis=1, mode="reflect", truncate=3.5)
    scale = np.sqrt(2 * np.sqrt(np.pi) * sigma * 2 * np.sqrt(np.pi) * scanner.axial_px).astype(np.float32)
    return (both[0] + 1j * both[1]) * scale


def envelope(amplitude: np.ndarray, noise: Noise, scanner: Scanner, coherent: np.ndarray | None = None) -> np.ndarray:
    """Echo envelope of one look: Rayleigh where the tissue is uniform, Rician on `coherent` reflectors.

    Args:
        amplitude: (H, W) float32, root of the backscattered power.
        coherent: (H, W) float32, amplitude of specular echoes, already as wide as the point-spread function.

    Returns:
        (H, W) float32 >= 0. In uniform tissue mean / SD is sqrt(pi / (4 - pi)) = 1.91.

    Source: Wagner et al. (1983), IEEE Trans. Sonics Ultrason. 30(3), 156-163.
    """
    field = beamform(amplitude * noise.complex_normal(amplitude.shape), scanner)
    if coherent is not None:
        field = field + coherent
    return np.abs(field).astype(np.float32)


def compound(amplitude: np.ndarray, coherent: np.ndarray, noise: Noise, scanner: Scanner) -> np.ndarray:
    """Mean envelope of `scanner.n_looks` looks with independent speckle and electronic noise, (H, W) float32."""
    floor = np.float32(10 ** (scanner.noise_db / 20))
    total = np.zeros_like(amplitude)
    for _ in range(scanner.n_looks):
        total += envelope(np.hypot(amplitude, floor), noise, scanner, coherent)
    return total / scanner.n_looks


def compress(echo: np.ndarray, scanner: Scanner) -> np.ndarray:
    """Log-compressed grey levels, (H, W) uint8: 0 dB is white, minus the dynamic range is black."""
    level = 1.0 + 20.0 * np.log10(np.maximum(echo, 1e-6)) / scanner.dynamic_range_db
    if scanner.smoothing_px > 0:
        level = cv2.GaussianBlur(level, (0, 0), scanner.smoothing_px)
    grey = 255.0 * np.clip(level, 0.0, 1.0) ** scanner.gamma
    return np.rint(grey).astype(np.uint8)
