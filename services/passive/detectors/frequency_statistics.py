"""Frequency statistics: the shape of the power spectrum.

The power of photographs falls off as a power of the frequency; a generator's upsampling leaves too little or too much
in the highest octave, an excess along the axes, or peaks. The spectra of overlapping windowed blocks are normalised and
averaged, a line is fitted to the logarithm of the radial profile at low frequencies, and what is measured is its
slope, the deviation from it at high frequencies, the excess along the axes, and the spread and height of peaks.

References:
    D. J. Field, "Relations between the statistics of natural images and the response properties of cortical cells",
        1987. 10.1364/JOSAA.4.002379
    R. Durall, M. Keuper and J. Keuper, "Watch your up-convolution", CVPR 2020. 10.1109/CVPR42600.2020.00791
    R. Corvi et al., "Intriguing properties of synthetic images", CVPRW 2023. 10.1109/CVPRW59228.2023.00104
"""

from __future__ import annotations

import itertools
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from services.common.detection import Finding, MetricType, Question, Technique
from services.common.images import Picture
from services.passive.detectors import registry
from services.passive.detectors._statistics import FLAGGED, Fact, Statistic, judge

__all__ = ["STATISTIC", "detect_frequency_statistics"]

RGB = NDArray[np.uint8]
Floats = NDArray[np.float64]

BLOCK: Final = 96
"""Side of the blocks in pixels; they overlap by half."""
BANDS: Final = (0.02, 0.05, 0.08, 0.11, 0.14, 0.18, 0.22, 0.26, 0.30, 0.34, 0.38, 0.42, 0.46, 0.50)
"""Edges of the rings in which the spectrum is averaged, in cycles per pixel."""
LINE_BANDS: Final = 6
"""The line is fitted to so many of the lowest rings."""
HIGH_FROM: Final = 0.25
"""Peaks and the excess along the axes are looked for above this frequency, in cycles per pixel."""
AXIS_WIDTH: Final = 0.015


def _measure(rgb: RGB) -> list[float]:
    power = np.log10(_mean_spectrum(np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.float64)) + 1e-12)
    down = np.fft.fftfreq(BLOCK)[:, None]
    across = np.fft.rfftfreq(BLOCK)[None, :]
    radius = np.hypot(across, down)
    rings = [(radius >= low) & (radius < high) for low, high in itertools.pairwise(BANDS)]
    profile = np.array([power[ring].mean() for ring in rings])
    middles = np.log10([(low + high) / 2.0 for low, high in itertools.pairwise(BANDS)])
    slope, level = np.polyfit(middles[:LINE_BANDS], profile[:LINE_BANDS], 1)
    excess = (profile - (slope * middles + level))[LINE_BANDS:]
    high = (radius > HIGH_FROM) & (radius < 0.5)
    axes = (np.abs(across) < AXIS_WIDTH) | (np.abs(down) < AXIS_WIDTH)
    peaks = (power - cv2.GaussianBlur(power, (0, 0), 2.5))[high & ~axes]
    return [
        float(slope),
        float(excess[:2].mean()),
        float(excess[2:5].mean()),
        float(excess[5:].mean()),
        float(excess[-1] - excess[-3]),
        float(power[high & axes].mean() - power[high & ~axes].mean()),
        float(peaks.std()),
        float(peaks.max()),
    ]


def _mean_spectrum(grey: Floats) -> Floats:
    """Mean of the blocks' power spectra, each normalised to a sum of one: float64 (BLOCK, BLOCK // 2 + 1)."""
    taper = np.outer(np.hanning(BLOCK), np.hanning(BLOCK))
    step = BLOCK // 2
    blocks = np.lib.stride_tricks.sliding_window_view(grey, (BLOCK, BLOCK))[::step, ::step].reshape(-1, BLOCK, BLOCK)
    spectra = np.abs(np.fft.rfft2((blocks - blocks.mean((1, 2), keepdims=True)) * taper)) ** 2
    spectra /= spectra.sum((1, 2), keepdims=True) + 1e-9
    mean: Floats = spectra.mean(0)
    return mean


STATISTIC: Final = Statistic(
    metric_type=MetricType.FREQUENCY,
    name="Frequency Spectrum",
    facts=(
        Fact("slope", "power that falls off slowly with frequency", "power that falls off fast with frequency"),
        Fact("middle_excess", "much fine structure", "little fine structure"),
        Fact("high_excess", "much very fine structure", "little very fine structure"),
        Fact("top_excess", "much power at the highest frequencies", "little power at the highest frequencies"),
        Fact(
            "top_rise",
            "power that rises at the very highest frequencies",
            "power that drops at the very highest frequencies",
        ),
        Fact("axis_excess", "more power along rows and columns than elsewhere", "little power along rows and columns"),
        Fact("peak_spread", "an uneven spectrum", "a smooth spectrum"),
        Fact("highest_peak", "a sharp peak in the spectrum", "no peak in the spectrum"),
    ),
    measure=_measure,
)


@registry.detector(
    name="frequency_statistics",
    version="1",
    title="Frequency statistics",
    question=Question.GENERATED,
    techniques=(Technique.GENERATED,),
    papers=(
        "10.1109/CVPR42600.2020.00791",
        "10.1109/CVPRW59228.2023.00104",
    ),
    parameters={"decision_score": FLAGGED},
)
def detect_frequency_statistics(picture: Picture) -> Finding:
    """Measures the slope, the highest octave, the axes and the peaks of the power spectrum against photographs'."""
    return judge(STATISTIC, picture)
