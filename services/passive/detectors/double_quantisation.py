"""Double quantisation: parts of a JPEG that lack the trace of an earlier JPEG which the rest of it shows.

A picture that is opened, edited and saved again as JPEG on the same grid has been quantised twice, and its coefficients
leave periodic gaps and peaks. What was pasted or painted in between was quantised once there (its own grid, if it has
one, seldom coincides), and has none.

1. **Coefficients**: the DCT of the stored luma blocks over the file's own table gives back the quantised coefficients.
   Blocks with clipped pixels are left out.
2. **Single**: the histogram that a single compression would give, for each of the first 15 frequencies, comes from the
   same picture with the grid shifted by half a block.
3. **Double**: the same, rounded first to an unknown step, decoded (with an error of `DECODING_ERROR`), and rounded to
   the file's step. The earlier step and the share of blocks that have it are those of the highest likelihood.
   Frequencies without a convincing fit are dropped.
4. **Blocks**: the sum over frequencies of the logarithm of P(coefficient | double) / P(coefficient | single).
5. **Windows**: of the sums in windows of several sizes, the one that speaks most clearly for a single compression is
   the statistic: the evidence times its consistency, so that blocks that contradict each other do not add up.

Only an earlier compression that was stronger in most frequencies than the last one leaves such traces.

References:
    T. Bianchi, A. De Rosa and A. Piva, "Improved DCT coefficient analysis for forgery localization in JPEG images",
        ICASSP 2011. 10.1109/ICASSP.2011.5946978
    T. Bianchi and A. Piva, "Image forgery localization via block-grained analysis of JPEG artifacts", 2012.
        10.1109/TIFS.2012.2187516
    Z. Lin et al., "Fast, automatic and fine-grained tampered JPEG image detection via DCT coefficient analysis", 2009.
        10.1016/j.patcog.2009.03.019
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from services.common.detection import Applicability, Finding, Point, Question, Region, RegionRole, Technique
from services.common.images import Picture
from services.passive.detectors import registry
from services.passive.detectors._jpeg import (
    StoredLuma,
    log10_likelihood_ratio,
    low_coefficients,
    stored_luma,
    upright,
)

__all__ = ["DoubleQuantisation", "EarlierStep", "detect_double_quantisation", "find_double_quantisation"]

Floats = NDArray[np.float64]
Plane = NDArray[np.float32]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

MIN_BLOCKS: Final = 16
"""Fewest blocks a side (128 pixels): with fewer the histograms are too thin."""
MIN_USABLE_BLOCKS: Final = 200
"""Fewest blocks without clipped pixels."""
FREQUENCIES: Final = (
    (0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2),
    (2, 1), (3, 0), (4, 0), (3, 1), (2, 2), (1, 3), (0, 4),
)  # fmt: skip
"""The first 15 in zigzag order, as Bianchi and Piva take them: (vertical, horizontal)."""
MIN_STEP: Final = 2
"""Frequencies that the file quantises with a smaller step are left out: the error of decoding hides the trace."""
MAX_EARLIER_STEP: Final = 48
LARGEST_CONVINCING: Final = 40
"""Largest earlier step that is tried, and that convinces: at quality 30 the first 15 frequencies have at most 40. Of
1,031 honest photographs of the training split three were accused through fits at the end of the range, where the model
only says that most coefficients are zero."""
MAX_COEFFICIENT: Final = 1100
MAX_LEVEL: Final = 100
"""Largest coefficient, in grey levels and in steps, that is looked at."""
MIN_COEFFICIENTS: Final = 30
"""Fewest coefficients other than zero that a frequency must have."""
DECODING_ERROR: Final = 0.5
"""Standard deviation (grey levels) of a coefficient's change by rounding and colour conversion between the two."""
SHARES: Final = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares of doubly compressed blocks that are tried."""
MIN_SHARE: Final = 0.7
MIN_GAIN: Final = 20.0
MIN_GAIN_PER_COEFFICIENT: Final = 0.03
"""A fit convinces if this share of the blocks have it, and if its log likelihood exceeds that of a single compression
by this much in all, and for each coefficient other than zero."""
MIN_CONVINCING: Final = 0.3
"""Share of the frequencies that must convince; with fewer the picture counts as compressed once."""
MIN_CONVINCING_TO_ALARM: Final = 0.6
"""With a smaller share the score stays at `UNSURE_SCORE`: sharpening between the two compressions moves some traces. Of
60 honest photographs of the training split so treated five had been accused, with shares of up to 0.57."""
UNSURE_SCORE: Final = 1 / 3
MAX_BLOCK_RATIO: Final = 4.0
"""Largest log ratio (natural) of one coefficient, either way."""
OUTLIERS: Final = 0.02
"""Share of doubly compressed coefficients that follow the single model all the same."""
WINDOWS: Final = (4, 6, 8, 12, 16)
"""Sides of the windows, in blocks."""
MAP_WINDOW: Final = 5
"""Side of the window, in blocks, that the heat map is averaged over."""
MAX_REGIONS: Final = 8
MIN_REGION_BLOCKS: Final = 9

ALARM: Final = 250.0
"""The statistic (natural log units) at which the score is 0.5. Of 1,031 honest photographs of the training split and
240 pristine twins (double compressions and splices saved at 75, 85 and 95) none reached it."""
DECISION_SCORE: Final = 0.5

LIKELIHOOD_RATIOS: Final[tuple[tuple[float, float], ...]] = ((0.5, 1.0), (0.0, 0.0))
"""Least score and log10 likelihood ratio, from the evaluation data's calibration split: of 222 honest photographs that
it applies to, none was accused (nor any of 360 pristine twins), so the rate may be 3/222 (rule of three); of 360
splices in them, saved at quality 75, 85 or 95, 150 were found. The ratio of the two is 10^1.5; 1.0 is used, for real
splices are harder. Nothing found says nothing: a piece is only seen in a picture that was compressed twice."""

_ERRORS: Final = np.array([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5])
_ERROR_WEIGHTS: Final = (
    np.exp(-0.5 * (_ERRORS / DECODING_ERROR) ** 2) / np.exp(-0.5 * (_ERRORS / DECODING_ERROR) ** 2).sum()
)


class EarlierStep(NamedTuple):
    """The earlier quantisation of one frequency (vertical, horizontal): both steps, and the share of blocks with it."""

    frequency: tuple[int, int]
    step: int
    earlier_step: int
    share: float
    gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubleQuantisation:
    """What `find_double_quantisation` saw.

    Attributes:
        measured: number of frequencies with enough coefficients.
        steps: those with a convincing earlier quantisation; empty if the picture counts as compressed once.
        ratios: float32 (rows, columns), log P(block | double) / P(block | single), natural; 0 where nothing is known.
        usable: bool, same shape: blocks without clipped pixels.
        statistic: 0 or more, natural log units.
    """

    measured: int
    steps: tuple[EarlierStep, ...]
    ratios: Plane
    usable: Mask
    statistic: float

    @property
    def score(self) -> float:
        """0-1, 0.5 at `ALARM`."""
        score = self.statistic / (self.statistic + ALARM)
        return score if len(self.steps) >= MIN_CONVINCING_TO_ALARM * self.measured else min(score, UNSURE_SCORE)


def find_double_quantisation(stored: StoredLuma) -> DoubleQuantisation:
    """Measures which blocks were quantised twice; the module's docstring gives the steps.

    Args:
        stored: the luma of a JPEG of at least `MIN_BLOCKS` blocks a side.
    """
    usable = stored.usable
    shifted = low_coefficients(stored.plane, row=4, column=4)
    ratios = np.zeros(usable.shape, np.float32)
    steps = []
    measured = 0
    for row, column in FREQUENCIES:
        step = int(stored.table[row, column])
        if step < MIN_STEP:
            continue
        fitted = _fit(stored.low[..., row, column], shifted[..., row, column], usable, step)
        if fitted is None:
            continue
        measured += 1
        earlier, share, gain, nonzero, ratio = fitted
        if (
            earlier <= LARGEST_CONVINCING
            and share >= MIN_SHARE
            and gain >= max(MIN_GAIN, MIN_GAIN_PER_COEFFICIENT * nonzero)
        ):
            steps.append(EarlierStep((row, column), step, earlier, share, gain))
            ratios += ratio
    if len(steps) < max(2.0, MIN_CONVINCING * measured):
        steps, ratios = [], np.zeros_like(ratios)
    return DoubleQuantisation(
        measured=measured, steps=tuple(steps), ratios=ratios, usable=usable, statistic=_statistic(ratios)
    )


@registry.detector(
    name="double_quantisation",
    version="2",
    title="Double JPEG quantisation",
    question=Question.EDITED,
    techniques=(Technique.SPLICING,),
    papers=("10.1109/ICASSP.2011.5946978", "10.1109/TIFS.2012.2187516", "10.1016/j.patcog.2009.03.019"),
    parameters={
        "alarm": ALARM,
        "min_share": MIN_SHARE,
        "min_gain_per_coefficient": MIN_GAIN_PER_COEFFICIENT,
        "decision_score": DECISION_SCORE,
    },
)
def detect_double_quantisation(picture: Picture) -> Finding:
    """Finds parts of a JPEG that were compressed once where the rest was compressed twice.

    That a whole picture was compressed twice is told in the details and is no sign of forgery: most pictures on the web
    were. Applies to grey and YCbCr JPEG files of at least 128 pixels a side.
    """
    if picture.info.format != "JPEG":
        return Finding.not_applicable("The file is no JPEG, so it has no quantised coefficients.")
    stored = stored_luma(picture)
    if stored is None:
        return Finding.not_applicable("The JPEG stores its colours in an unusual way, without a luma plane.")
    height, width = stored.plane.shape
    if min(height, width) < 8 * MIN_BLOCKS:
        return Finding.not_applicable(
            f"The picture is too small for statistics of its coefficients ({width} x {height} pixels; at least "
            f"{8 * MIN_BLOCKS} a side are needed)."
        )
    result = find_double_quantisation(stored)
    if result.usable.sum() < MIN_USABLE_BLOCKS:
        return Finding.not_applicable("Too few blocks are free of pure black, white or fully saturated pixels.")
    if not result.measured:
        return Finding.not_applicable(
            "The picture is too plain, or compressed too gently or too strongly, for statistics of its coefficients."
        )
    alarmed = result.score >= DECISION_SCORE
    heat, mask = _maps(result, alarmed=alarmed)
    orientation = picture.info.exif_orientation
    reliability = np.clip(_mean(np.abs(result.ratios)) / 2.0, 0.0, 1.0)
    lost = (0, int(height % 8 >= 4)), (0, int(width % 8 >= 4))  # an incomplete block is shown as its neighbour
    heat_map, reliability = np.pad(heat, lost, mode="edge"), np.pad(reliability, lost, mode="edge")
    return Finding(
        applicability=Applicability.APPLIED,
        score=result.score,
        explanation=_explain(result, float(mask.mean())),
        log10_likelihood_ratio=log10_likelihood_ratio(result.score, LIKELIHOOD_RATIOS),
        technique=Technique.SPLICING if alarmed else None,
        heat_map=upright(heat_map, orientation),
        reliability_map=upright(reliability, orientation),
        regions=_outlines(picture, upright(mask, orientation), result.score),
        details=_details(result),
    )


# --- Steps ---


def _fit(coefficients: Plane, shifted: Plane, usable: Mask, step: int) -> tuple[int, float, float, int, Plane] | None:
    """The best earlier step of one frequency, share of blocks, gain, coefficients other than 0, and ratio per block."""
    reach = min(MAX_LEVEL * step, MAX_COEFFICIENT)
    top = reach // step
    levels = np.rint(coefficients / step).astype(np.int64)
    counted = usable & (np.abs(levels) <= top)
    histogram = np.bincount(levels[counted] + top, minlength=2 * top + 1).astype(np.float64)
    nonzero = int(histogram.sum() - histogram[top])
    if nonzero < MIN_COEFFICIENTS:
        return None

    values = np.arange(-reach, reach + 1)
    density = _density(shifted, reach)
    single = _binned(np.rint(values / step), density, top)
    single = np.maximum(single, 1e-9) / np.maximum(single, 1e-9).sum()
    base = float(histogram @ np.log(single))
    shares = np.array(SHARES)[:, None]
    best = (-np.inf, 0, 0.0, single)
    for earlier in range(2, MAX_EARLIER_STEP + 1):
        if step % earlier == 0:
            continue  # it leaves no trace
        first = np.rint(values / earlier).astype(np.int64)
        most = int(first[-1])
        share_of_first = np.bincount(first + most, weights=density, minlength=2 * most + 1)
        decoded = np.arange(-most, most + 1)[:, None] * earlier + _ERRORS
        double = _binned(np.rint(decoded / step), share_of_first[:, None] * _ERROR_WEIGHTS, top)
        double = (1 - OUTLIERS) * double + OUTLIERS * single
        likelihoods = np.log(shares * double + (1 - shares) * single) @ histogram
        at = int(likelihoods.argmax())
        if likelihoods[at] > best[0]:
            best = (float(likelihoods[at]), earlier, SHARES[at], double)
    likelihood, earlier, share, double = best
    table = np.clip(np.log(double / single), -MAX_BLOCK_RATIO, MAX_BLOCK_RATIO)
    ratio = np.where(counted, table[np.clip(levels + top, 0, 2 * top)], 0.0).astype(np.float32)
    return earlier, share, likelihood - base, nonzero, ratio


def _density(shifted: Plane, reach: int) -> Floats:
    """Smoothed histogram, in steps of one grey level from -reach to reach, of coefficients that nothing has rounded."""
    values = np.clip(np.rint(shifted).astype(np.int64) + reach, 0, 2 * reach).ravel()
    counts = np.bincount(values, minlength=2 * reach + 1).astype(np.float64)
    smooth = np.convolve(counts, cv2.getGaussianKernel(7, 1.2).ravel(), "same")
    smooth /= smooth.sum()
    return (1 - 1e-3) * smooth + 1e-3 / smooth.size


def _binned(levels: Floats, weights: Floats, top: int) -> Floats:
    index = np.clip(levels.astype(np.int64) + top, 0, 2 * top)
    return np.asarray(np.bincount(index.ravel(), weights=weights.ravel(), minlength=2 * top + 1), np.float64)


def _statistic(ratios: Plane) -> float:
    """Of all windows, the most of (evidence for single compression) x (its share of all evidence)."""
    signed = cv2.integral(-ratios.astype(np.float64))
    whole = cv2.integral(np.abs(ratios).astype(np.float64))
    best = 0.0
    for size in WINDOWS:
        if size > min(ratios.shape):
            break
        evidence, total = (each[size:, size:] - each[:-size, size:] - each[size:, :-size] + each[:-size, :-size]
                           for each in (signed, whole))  # fmt: skip
        best = max(best, float((np.maximum(evidence, 0.0) ** 2 / np.maximum(total, 1.0)).max()))
    return best


def _mean(plane: Plane) -> Plane:
    return cast("Plane", cv2.blur(plane, (MAP_WINDOW, MAP_WINDOW), borderType=cv2.BORDER_REFLECT))


def _maps(result: DoubleQuantisation, *, alarmed: bool) -> tuple[Plane, Plane]:
    """Heat map (probability of single compression, averaged) and mask of the marked blocks (0 or 1)."""
    mean = _mean(result.ratios)
    heat = (1.0 / (1.0 + np.exp(np.clip(2.0 * mean, -30.0, 30.0)))).astype(np.float32)
    heat[mean == 0.0] = 0.0
    if not alarmed:
        return np.minimum(heat, np.float32(result.score)), np.zeros_like(heat)
    mask = cv2.morphologyEx((heat > 0.5).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return heat, mask.astype(np.float32)


# --- In words and for drawing ---


def _explain(result: DoubleQuantisation, share: float) -> str:
    if not result.steps:
        return "No trace of an earlier JPEG compression was found, so there is nothing that a part could lack."
    if result.score < DECISION_SCORE:
        return "The picture was compressed as JPEG at least twice, and no part lacks the traces of the earlier one."
    return (
        f"About {share:.0%} of the picture lack the traces of an earlier JPEG compression that the rest shows "
        f"(in {len(result.steps)} of {result.measured} frequencies): it was put in or changed between the two."
    )


def _details(result: DoubleQuantisation) -> dict[str, Any]:
    return {
        "compressed_twice": bool(result.steps),
        "statistic": round(result.statistic, 1),
        "frequencies_measured": result.measured,
        "earlier_steps": [
            {
                "frequency": list(step.frequency),
                "step": step.step,
                "earlier_step": step.earlier_step,
                "share": step.share,
                "gain": round(step.gain, 1),
            }
            for step in result.steps
        ],
    }


def _outlines(picture: Picture, mask: Plane, score: float) -> tuple[Region, ...]:
    """Outlines of the marked blocks in pixels of the upright picture, largest first."""
    height, width = picture.rgb.shape[:2]
    # A block's corner: a mirrored picture begins with what is left over of the last, incomplete block.
    orientation = picture.info.exif_orientation
    top = height % 8 if orientation in {3, 4, 7, 8} else 0
    left = width % 8 if orientation in {2, 3, 6, 7} else 0
    pixels = np.kron(mask, np.ones((2, 2))).astype(np.uint8)
    contours, _ = cv2.findContours(pixels, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outlines = []
    for contour in sorted(contours, key=lambda each: -cv2.contourArea(each))[:MAX_REGIONS]:
        corners = (contour.reshape(-1, 2) + 0.5) * 4.0 + [left, top]
        if cv2.contourArea(contour) >= 4 * MIN_REGION_BLOCKS and len(corners) >= 3:
            polygon = tuple(Point(x, y) for x, y in corners.tolist())
            outlines.append(Region(role=RegionRole.SUSPECT, polygon=polygon, score=score))
    return tuple(outlines)
