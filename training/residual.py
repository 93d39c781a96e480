"""What is left of a picture when its content is taken away: a few hundred numbers on spectrum and neighbourhoods.

1. *Spectrum*: radial profile of the averaged power spectrum of the high-pass residual, its profile along the axes, and
   its sharpest peaks: upsampling layers leave periodic traces (Durall et al. 2020, 10.1109/CVPR42600.2020.00791).
2. *Co-occurrences* of three quantised residuals in a row, as the spatial rich model counts them (Fridrich & Kodovsky
   2012, 10.1109/TIFS.2012.2190402), folded over sign and direction.
3. *Neighbours*: how the pixels of each 2 x 2 cell differ (Tan et al. 2024, NPR, 10.1109/CVPR52733.2024.02657).
4. *Colour and noise*: correlation of the residuals of the three channels, their strength, and how it follows
   brightness; a sensor's noise does, a generator's need not.
"""

from __future__ import annotations

import itertools
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["FEATURES", "residual_features"]

Floats = NDArray[np.float32]

SIDE: Final = 512
"""At most so many pixels of each side are looked at, in the middle and at the picture's own scale."""
_BLOCK: Final = 64
_RADIAL_BINS: Final = 24
_AXIS_BINS: Final = 8
_LARGEST: Final = 2
_STRENGTHS: Final = (1.0, 2.0)
_HIGH_PASS: Final = np.array([[-1, 2, -1], [2, -4, 2], [-1, 2, -1]], np.float32) / 4
_TINY: Final = 1e-6


def _folded() -> tuple[NDArray[np.int64], int]:
    """The class of each triple of values -2 to 2: a triple, its mirror image and their negatives are one class."""
    classes: dict[tuple[int, ...], int] = {}
    codes = np.zeros((2 * _LARGEST + 1) ** 3, np.int64)
    for code, triple in enumerate(itertools.product(range(-_LARGEST, _LARGEST + 1), repeat=3)):
        negative = tuple(-value for value in triple)
        key = min(triple, triple[::-1], negative, negative[::-1])
        codes[code] = classes.setdefault(key, len(classes))
    return codes, len(classes)


_CLASSES, _CLASS_COUNT = _folded()
FEATURES: Final = _RADIAL_BINS + 2 * _AXIS_BINS + 4 + 2 * len(_STRENGTHS) * _CLASS_COUNT + 27 + 3 + 3 + 6 + 4
"""How many numbers there are."""


def residual_features(rgb: NDArray[np.uint8]) -> Floats:
    """The numbers, float32 (FEATURES,), all finite; of uint8 (h, w, 3) with sides of at least 8 pixels."""
    height, width = rgb.shape[:2]
    if min(height, width) < 8:
        raise ValueError(f"{width} x {height} pixels are too few")
    top, left = max(0, (height - SIDE) // 2), max(0, (width - SIDE) // 2)
    piece = rgb[top : top + SIDE, left : left + SIDE].astype(np.float32)
    grey = np.asarray(piece @ np.array([0.299, 0.587, 0.114], np.float32), np.float32)
    numbers = [
        *_spectrum(grey),
        *_co_occurrences(grey),
        *_neighbours(piece),
        *_colour_and_noise(piece, grey),
    ]
    return np.clip(np.nan_to_num(np.array(numbers, np.float32), posinf=50, neginf=-50), -50, 50)


def _spectrum(grey: Floats) -> list[float]:
    residual = _filtered(grey)
    height, width = residual.shape
    padding = (max(0, _BLOCK - height), max(0, _BLOCK - width))
    if any(padding):
        residual = np.pad(residual, ((0, padding[0]), (0, padding[1])), mode="wrap")
    window = np.outer(np.hanning(_BLOCK), np.hanning(_BLOCK)).astype(np.float32)
    blocks = np.lib.stride_tricks.sliding_window_view(residual, (_BLOCK, _BLOCK))[:: _BLOCK // 2, :: _BLOCK // 2]
    power = np.abs(np.fft.rfft2(blocks.reshape(-1, _BLOCK, _BLOCK) * window)) ** 2
    # Each block counts alike: else one textured corner is all that is seen.
    power = (power / (power.sum(axis=(1, 2), keepdims=True) + _TINY)).mean(axis=0)
    log = np.log10(power + 1e-9)
    across = np.fft.rfftfreq(_BLOCK)[None, :]
    down = np.abs(np.fft.fftfreq(_BLOCK))[:, None]
    radius = np.hypot(across, down)
    bins = np.minimum((radius / 0.7072 * _RADIAL_BINS).astype(int), _RADIAL_BINS - 1)
    counts = np.maximum(np.bincount(bins.ravel(), minlength=_RADIAL_BINS), 1)
    profile = np.bincount(bins.ravel(), log.ravel(), minlength=_RADIAL_BINS) / counts
    axes = [
        chunk.mean() for line in (log[0, 1:], log[1 : _BLOCK // 2 + 1, 0]) for chunk in np.array_split(line, _AXIS_BINS)
    ]
    peaks = log - profile[bins]
    high = peaks[radius > 0.2]
    return [*profile, *axes, float(high.max()), float(high.std()), *np.quantile(high, [0.95, 0.99])]


def _co_occurrences(grey: Floats) -> list[float]:
    numbers: list[float] = []
    first = [np.diff(grey, axis=1), np.diff(grey, axis=0).T]
    second = [np.diff(grey, n=2, axis=1), np.diff(grey, n=2, axis=0).T / 1.0]
    for residuals, divisor in ((first, 1.0), (second, 2.0)):
        for strength in _STRENGTHS:
            histogram = np.zeros(_CLASS_COUNT)
            for residual in residuals:
                levels = (
                    np.clip(np.rint(residual / (strength * divisor)), -_LARGEST, _LARGEST).astype(np.int64) + _LARGEST
                )
                base = 2 * _LARGEST + 1
                codes = (levels[:, :-2] * base + levels[:, 1:-1]) * base + levels[:, 2:]
                histogram += np.bincount(_CLASSES[codes.ravel()], minlength=_CLASS_COUNT)
            numbers += list(np.log10(histogram / max(histogram.sum(), 1.0) + 1e-5))
    return numbers


def _neighbours(piece: Floats) -> list[float]:
    height, width = (side // 2 * 2 for side in piece.shape[:2])
    cells = piece[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
    corner = cells[:, 0, :, 0]
    numbers: list[float] = []
    for other in (cells[:, 0, :, 1], cells[:, 1, :, 0], cells[:, 1, :, 1]):
        difference = other - corner
        size = np.abs(difference)
        spread = difference.std(axis=(0, 1)) + _TINY
        numbers += list(np.log10(size.mean(axis=(0, 1)) + 0.01))
        numbers += list((size < 0.5).mean(axis=(0, 1)))
        numbers += list(np.log10(((difference / spread) ** 4).mean(axis=(0, 1)) + _TINY))
    return numbers


def _colour_and_noise(piece: Floats, grey: Floats) -> list[float]:
    residual = np.stack([_filtered(piece[..., channel]) for channel in range(3)], axis=-1)
    flat = residual.reshape(-1, 3)
    deviation = flat.std(axis=0) + _TINY
    centred = (flat - flat.mean(axis=0)) / deviation
    correlation = [float((centred[:, a] * centred[:, b]).mean()) for a, b in ((0, 1), (1, 2), (0, 2))]
    luminance = _filtered(grey)
    variance = float(luminance.var()) + _TINY
    lags = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 1), (2, 2)]
    height, width = luminance.shape
    autocorrelation = [
        float((luminance[down:, across:] * luminance[: height - down, : width - across]).mean()) / variance
        for down, across in lags
    ]
    side = 8
    rows, columns = height // side, width // side
    tiles = np.abs(luminance[: rows * side, : columns * side]).reshape(rows, side, columns, side).mean(axis=(1, 3))
    light = grey[: rows * side, : columns * side].reshape(rows, side, columns, side).mean(axis=(1, 3))
    low, middle, high = np.quantile(tiles, [0.05, 0.25, 0.75])
    calm = tiles <= middle
    follows = 0.0
    if calm.sum() > 8 and min(tiles[calm].std(), light[calm].std()) > 1e-3:
        follows = float(np.corrcoef(tiles[calm], light[calm])[0, 1])
    levels = [float(np.log10(level + 0.02)) for level in (low, middle, high)]
    return [*correlation, *np.log10(deviation), *autocorrelation, *levels, follows]


def _filtered(plane: Floats) -> Floats:
    return np.asarray(cv2.filter2D(np.ascontiguousarray(plane), -1, _HIGH_PASS), np.float32)
