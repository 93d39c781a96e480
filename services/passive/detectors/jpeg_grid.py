"""JPEG grid: a part of the picture whose 8 x 8 blocks lie on another grid than the rest.

1. **Zeros**: JPEG rounds most of a block's DCT coefficients to zero. At every pixel the DCT of the 8 x 8 block that
   begins there is taken, and the coefficients that are nearly zero are counted; where a JPEG's own block began, there
   are more than at the 63 other origins round about.
2. **Votes**: each pixel votes for the origin (row and column modulo 8) of the one block, of the 64 that hold it, with
   most zeros. A tie is no vote; blocks that are constant along rows or columns do not count.
3. **Grid**: pixels of a picture without a history vote for all 64 origins alike. The most voted one is the main grid if
   so many votes are expected less than once in pictures without one.
4. **Breaks**: in windows of several sizes the votes for each other origin are counted in the same way. The number of
   false alarms (NFA) of a window is the number of such windows to be expected by chance in all of the picture:
   number of tests times the tail of the binomial distribution (Hoeffding's bound, with n/64 independent votes of n).
5. A grid that is found in most of the picture comes from cropping between two compressions, which is honest.

It follows ZERO, but counts in windows where ZERO grows regions, and takes wider zeros (`ZERO_WIDTH`), so that a last
JPEG compression of high quality does not hide the earlier grids. A stronger one does: then it does not apply.

References:
    T. Nikoukhah et al., "ZERO: a local JPEG grid origin detector based on the number of DCT zeros and its applications
        in image forensics", IPOL 2021. 10.5201/ipol.2021.390
    W. Hoeffding, "Probability inequalities for sums of bounded random variables", 1963.
        10.1080/01621459.1963.10500830
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, cast

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from services.common.detection import Applicability, Finding, Point, Question, Region, RegionRole, Technique
from services.common.images import Picture
from services.passive.detectors import registry
from services.passive.detectors._jpeg import DCT, log10_likelihood_ratio, stored_luma

__all__ = ["ForeignGrid", "GridResult", "detect_jpeg_grid", "find_foreign_grids"]

Plane = NDArray[np.float32]
Counts = NDArray[np.int32]
Mask = NDArray[np.bool_]

MIN_SIDE: Final = 128
"""Shortest side in pixels: the smallest window that can be meaningful is about 48 pixels wide."""
MIN_VOTING_SHARE: Final = 0.1
"""Smallest share of pixels that vote; with fewer the picture is too plain."""
MAX_TABLE_MEAN: Final = 13.0
"""Largest mean of the file's own luma quantisation table: 11.5 at quality 90, 17.3 at 85. On 24 double compressions of
the training split the area under the curve was 0.78 at quality 92, 0.63 at 90 and at most 0.60 at 85."""
ZERO_WIDTH: Final = 2.0
"""Coefficients nearer to zero than this (of orthonormal DCT, grey levels 0-255) count as zero. ZERO takes 0.5. On 24
double compressions of the training split: area under the curve 0.86 and 0.62 (saved as PNG and as JPEG 95) with 0.5,
0.92 and 0.91 with 2; of the 24 twins 0.5 accuses two, 2 none."""
CELL: Final = 16
"""Side in pixels of the cells that votes are counted in, and of the heat map's pixels."""
WINDOWS: Final = (2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Sides of the windows, in cells."""
MAX_LOG10_NFA: Final = -10.0
"""A window with an NFA of at most 10 to this is a break. Votes in strongly compressed and smooth parts are less
independent than the bound takes them to be: of 837 files made of 60 honest photographs of the training split
(compressed at 25-95, then cropped, resized, brightened, sharpened or nothing, and saved again) seven reached -2 for
that reason, one of them -7.6."""
LOCAL_SHARE: Final = 0.25
MAX_AREA: Final = 0.4
"""A grid is local if its region has at most this area (as a share of the picture), and if its density of votes around
the region is below this share of the best window's."""
DENSE_SHARE: Final = 0.3
"""Cells with at least this share of the best window's density of votes belong to the region."""
MAX_REGIONS: Final = 8

DECISION_SCORE: Final = 0.5
"""The score of an NFA of 10 to `MAX_LOG10_NFA`."""
SCORE_STEP: Final = 4.0
"""Decades of the NFA in which the odds of the score grow by e."""

LIKELIHOOD_RATIOS: Final[tuple[tuple[float, float], ...]] = ((0.5, 1.0), (0.0, 0.0))
"""Least score and log10 likelihood ratio, from the evaluation data's calibration split: of 146 honest photographs that
it applies to, none was accused (nor any of 240 pristine twins), so the rate may be 3/146 (rule of three); of 240
splices in them, saved as PNG or JPEG 95, 82 were found. The ratio of the two is 10^1.2; 1.0 is used, for real splices
are harder. Nothing found says nothing: most splices were missed."""

_STRIP: Final = 8 * CELL
"""Rows that are counted at a time: what fits into a processor's cache."""
_NO_VOTE: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignGrid:
    """A part of the picture with another grid.

    Attributes:
        origin: (row, column) of its blocks modulo 8.
        log10_nfa: of its best window.
        cells: bool (rows, columns), the cells of `CELL` pixels that it covers.
        density: float32 of the same shape, 0-1, share of each cell's pixels that vote for it.
    """

    origin: tuple[int, int]
    log10_nfa: float
    cells: Mask
    density: Plane


@dataclass(frozen=True, slots=True, kw_only=True)
class GridResult:
    """What `find_foreign_grids` saw.

    Attributes:
        origin: (row, column) of the main grid modulo 8, or None if there is no grid.
        log10_nfa: of the main grid.
        voting_share: 0-1, share of pixels with a vote.
        best_log10_nfa: of the best window of any other grid.
        regions: local grids, most meaningful first.
    """

    origin: tuple[int, int] | None
    log10_nfa: float
    voting_share: float
    best_log10_nfa: float
    regions: tuple[ForeignGrid, ...]

    @property
    def score(self) -> float:
        """0-1: grows with the meaning of the best window, 0.5 at `MAX_LOG10_NFA`."""
        exponent = (self.best_log10_nfa - MAX_LOG10_NFA) / SCORE_STEP
        return 1.0 / (1.0 + math.exp(min(exponent, 50.0)))


def find_foreign_grids(grey: NDArray[np.uint8], *, own: tuple[int, int] | None = None) -> GridResult:
    """Finds local JPEG grids; the module's docstring gives the steps.

    Args:
        grey: uint8 (height, width), both at least `MIN_SIDE`.
        own: origin (row, column) of the grid of the file itself, if it is a JPEG.
    """
    votes = _count_votes(grey)
    totals = votes.sum(axis=(0, 1))
    main = int(totals.argmax())
    pixels = votes.shape[0] * votes.shape[1] * CELL * CELL
    main_nfa = math.log10(64) + float(_log10_tail(np.array([totals[main]]), pixels)[0])
    known = {main} if main_nfa < 0 else set()
    if own is not None:
        known.add(8 * own[0] + own[1])

    best, windows = _search(votes, known)
    regions = []
    best_nfa = best
    for grid, (nfa, density_limit, covered) in sorted(windows.items(), key=lambda item: item[1][0]):
        density = (votes[:, :, grid] / (CELL * CELL)).astype(np.float32)
        smooth = cast("Plane", cv2.blur(density, (3, 3), borderType=cv2.BORDER_REFLECT))
        cells = covered & (smooth >= DENSE_SHARE * density_limit)
        around = cv2.dilate(cells.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
        local = float(cells.mean()) <= MAX_AREA and float(density[around].sum()) < LOCAL_SHARE * density_limit * max(
            1, int(around.sum())
        )
        if local and cells.any():
            regions.append(ForeignGrid(origin=(grid // 8, grid % 8), log10_nfa=nfa, cells=cells, density=smooth))
    if windows:
        best_nfa = min((region.log10_nfa for region in regions), default=max(best, 0.0))
    return GridResult(
        origin=(main // 8, main % 8) if main_nfa < 0 else None,
        log10_nfa=main_nfa,
        voting_share=float(totals.sum()) / pixels,
        best_log10_nfa=best_nfa,
        regions=tuple(regions),
    )


@registry.detector(
    name="jpeg_grid",
    version="1",
    title="JPEG grid (ZERO)",
    question=Question.EDITED,
    techniques=(Technique.SPLICING,),
    papers=("10.5201/ipol.2021.390", "10.1080/01621459.1963.10500830"),
    parameters={
        "zero_width": ZERO_WIDTH,
        "max_log10_nfa": MAX_LOG10_NFA,
        "max_table_mean": MAX_TABLE_MEAN,
        "decision_score": DECISION_SCORE,
    },
)
def detect_jpeg_grid(picture: Picture) -> Finding:
    """Finds parts that were once compressed on another 8 x 8 grid than the rest, whatever the format of the file.

    A grid of the whole picture that does not begin in its corner is told in the details: the picture was cropped after
    it had been a JPEG, which is no forgery. Does not apply to small and plain pictures, nor to JPEG files of a quality
    below about 90, which hides earlier grids.
    """
    height, width = picture.rgb.shape[:2]
    if min(height, width) < MIN_SIDE:
        return Finding.not_applicable(
            f"The picture is too small to look for JPEG grids ({width} x {height} pixels; at least {MIN_SIDE} a side "
            "are needed)."
        )
    own = None
    if picture.info.format == "JPEG":
        stored = stored_luma(picture)
        if stored is None:
            return Finding.not_applicable("The file's own JPEG compression has an unusual colour space.")
        mean = float(stored.table.mean())
        if mean > MAX_TABLE_MEAN:
            return Finding.not_applicable(
                f"The file's own JPEG compression hides earlier grids (mean quantisation step {mean:.0f}; at most "
                f"{MAX_TABLE_MEAN:.0f} is needed)."
            )
        own = _own_origin(picture)
    result = find_foreign_grids(cast("NDArray[np.uint8]", cv2.cvtColor(picture.rgb, cv2.COLOR_RGB2GRAY)), own=own)
    if result.voting_share < MIN_VOTING_SHARE:
        return Finding.not_applicable("The picture is too plain to look for JPEG grids.")
    heat = np.zeros((math.ceil(height / CELL), math.ceil(width / CELL)), np.float32)
    for region in result.regions:
        rows, columns = region.cells.shape
        part = heat[:rows, :columns]
        np.maximum(part, np.where(region.cells, 0.5 + 0.5 * np.minimum(region.density, 1.0), 0.0), out=part)
    full = cast("Plane", cv2.resize(heat, (2 * heat.shape[1], 2 * heat.shape[0]), interpolation=cv2.INTER_LINEAR))
    full = full[: max(1, round(2 * height / CELL)), : max(1, round(2 * width / CELL))]
    alarmed = result.score >= DECISION_SCORE
    return Finding(
        applicability=Applicability.APPLIED,
        score=result.score,
        explanation=_explain(result, own),
        log10_likelihood_ratio=log10_likelihood_ratio(result.score, LIKELIHOOD_RATIOS),
        technique=Technique.SPLICING if alarmed else None,
        heat_map=np.ascontiguousarray(full),
        regions=_outlines(result, (height, width)),
        details={
            "grid_origin": None if result.origin is None else list(result.origin),
            "grid_log10_nfa": round(result.log10_nfa, 1),
            "file_grid_origin": None if own is None else list(own),
            "best_log10_nfa": round(result.best_log10_nfa, 1),
            "voting_share": round(result.voting_share, 3),
            "foreign_grids": [
                {
                    "origin": list(region.origin),
                    "log10_nfa": round(region.log10_nfa, 1),
                    "area_px": int(region.cells.sum()) * CELL * CELL,
                }
                for region in result.regions
            ],
        },
    )


# --- Steps ---


def _count_votes(grey: NDArray[np.uint8]) -> Counts:
    """int32 (rows, columns, 64): votes for each of the 64 origins in each whole cell of `CELL` pixels a side."""
    rows, columns = grey.shape[0] // CELL, grey.shape[1] // CELL
    counts = np.zeros((rows, columns, 64), np.int32)
    for top in range(0, rows * CELL, _STRIP):
        bottom = min(top + _STRIP, rows * CELL)
        above = min(top, 8)  # a multiple of 8 keeps the origins
        strip = grey[top - above : bottom + 7]
        votes = _votes(strip)[above : above + bottom - top, : columns * CELL]
        column = np.arange(columns * CELL) // CELL
        for row in range(votes.shape[0] // CELL):
            band = votes[row * CELL : (row + 1) * CELL]
            index = column * (_NO_VOTE + 1) + band
            histogram = np.bincount(index.ravel(), minlength=columns * (_NO_VOTE + 1))
            counts[top // CELL + row] = histogram.reshape(columns, _NO_VOTE + 1)[:, :64]
    return counts


def _votes(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (h, w): 8 * row + column of the origin modulo 8 that each pixel votes for, or `_NO_VOTE`."""
    height, width = grey.shape
    inside = np.s_[: height - 7, : width - 7]
    plane = grey.astype(np.float32)
    zeros = np.zeros((height - 7, width - 7), np.uint8)
    for column in range(8):
        across = np.asarray(cv2.filter2D(plane, cv2.CV_32F, DCT[column][None], anchor=(0, 0)), np.float32)
        below = sliding_window_view(across[:, : width - 7], 8, axis=0).swapaxes(1, 2)
        # Half of the coefficients tell as much, in half the time: those whose two frequencies are not both odd or even.
        coefficients = DCT[(column + 1) % 2 :: 2] @ below
        within = cv2.inRange(coefficients.reshape(-1, width - 7), -ZERO_WIDTH, ZERO_WIDTH)
        for zero in np.asarray(within, np.uint8).reshape(coefficients.shape).swapaxes(0, 1):
            zeros -= zero  # 255 is -1
    count = np.where(_varied(grey), zeros, 0).astype(np.uint16)
    phase_rows, phase_columns = np.arange(height - 7) % 8, np.arange(width - 7) % 8
    phase = (8 * phase_rows[:, None] + phase_columns).astype(np.uint16)
    # The maximum over the 64 blocks of a pixel, with the highest and with the lowest origin that reaches it.
    window = np.ones((8, 8), np.uint8)
    reached = []
    for code in (64 * count + phase, 64 * count + (63 - phase)):
        padded = np.zeros(grey.shape, np.uint16)
        padded[inside] = code
        border = cv2.BORDER_CONSTANT
        reached.append(cv2.dilate(padded, window, anchor=(7, 7), borderType=border, borderValue=(0.0,)))
    origin = reached[0] % 64
    valid = (origin == 63 - reached[1] % 64) & (reached[0] >= 64)
    valid[:7] = valid[:, :7] = valid[height - 7 :] = valid[:, width - 7 :] = False
    return np.where(valid, origin, _NO_VOTE).astype(np.uint8)


def _varied(grey: NDArray[np.uint8]) -> Mask:
    """The blocks, bool (h - 7, w - 7), that are neither constant along all rows nor along all columns."""
    across = cv2.integral((grey[:, 1:] != grey[:, :-1]).astype(np.uint8))
    down = cv2.integral((grey[1:] != grey[:-1]).astype(np.uint8))
    changes_across = across[8:, 7:] - across[:-8, 7:] - across[8:, :-7] + across[:-8, :-7]
    changes_down = down[7:, 8:] - down[:-7, 8:] - down[7:, :-8] + down[:-7, :-8]
    return cast("Mask", (changes_across > 0) & (changes_down > 0))


def _search(votes: Counts, known: set[int]) -> tuple[float, dict[int, tuple[float, float, Mask]]]:
    """The best log10 NFA of any window and grid; per grid with a meaningful window: NFA, its density, cells covered."""
    rows, columns = votes.shape[:2]
    sums = np.zeros((rows + 1, columns + 1, 64), np.int32)
    np.cumsum(np.cumsum(votes, axis=0, dtype=np.int32), axis=1, dtype=np.int32, out=sums[1:, 1:])
    sums[:, :, sorted(known)] = 0
    tests = math.log10(len(WINDOWS) * rows * columns * 64)
    best = tests
    found: dict[int, tuple[float, float, Mask]] = {}
    for size in WINDOWS:
        if size > min(rows, columns):
            break
        step = max(1, size // 4)
        tops, lefts = np.arange(0, rows - size + 1, step), np.arange(0, columns - size + 1, step)
        lower, upper = sums[tops + size], sums[tops]
        counts = lower[:, lefts + size] - lower[:, lefts] - upper[:, lefts + size] + upper[:, lefts]
        most = counts.max(axis=2)
        area = (size * CELL) ** 2
        nfa = tests + _log10_tail(most, area)
        best = min(best, float(nfa.min()))
        grids = counts.argmax(axis=2)
        for i, j in np.argwhere(nfa <= MAX_LOG10_NFA).tolist():
            grid = int(grids[i, j])
            seen, density, covered = found.get(grid) or (0.0, 0.0, np.zeros((rows, columns), np.bool_))
            covered[tops[i] : tops[i] + size, lefts[j] : lefts[j] + size] = True
            if nfa[i, j] < seen:
                seen, density = float(nfa[i, j]), float(most[i, j]) / area
            found[grid] = (seen, density, covered)
    return best, found


def _log10_tail(votes: NDArray[np.integer], pixels: int) -> NDArray[np.float64]:
    """Hoeffding's bound of log10 P(at least `votes` / 64 of `pixels` / 64 independent votes for one of 64 origins)."""
    chance = 1 / 64
    rate = np.clip(votes / pixels, 1e-12, 1 - 1e-12)
    divergence = rate * np.log(rate / chance) + (1 - rate) * np.log((1 - rate) / (1 - chance))
    return np.where(rate > chance, -pixels / 64 * divergence / math.log(10), 0.0)


def _own_origin(picture: Picture) -> tuple[int, int]:
    """Where the grid of a JPEG file lies in the upright picture."""
    height, width = picture.rgb.shape[:2]
    orientation = picture.info.exif_orientation
    return height % 8 if orientation in {3, 4, 7, 8} else 0, width % 8 if orientation in {2, 3, 6, 7} else 0


# --- In words and for drawing ---


def _explain(result: GridResult, own: tuple[int, int] | None) -> str:
    if result.regions:
        first = result.regions[0]
        row, column = first.origin
        more = f" {len(result.regions) - 1} more grids differ." if len(result.regions) > 1 else ""
        return (
            f"A part of the picture was once compressed on another 8 x 8 grid than the rest (origin {column}, {row}; "
            f"{_expected(first.log10_nfa)}).{more}"
        )
    if result.origin is None:
        return "No JPEG grid was found: the pixels show no trace of a JPEG compression."
    if result.origin != (own or (0, 0)):
        row, column = result.origin
        return (
            f"The whole picture lies on a JPEG grid with origin {column}, {row}: it was cropped after it had been a "
            "JPEG. No part has another grid."
        )
    return "The picture lies on one JPEG grid; no part has another."


def _expected(log10_nfa: float) -> str:
    return f"1 such region by chance is to be expected in 10^{-log10_nfa:.0f} pictures"


def _outlines(result: GridResult, shape: tuple[int, int]) -> tuple[Region, ...]:
    """Outlines of the cells of each local grid, largest first."""
    height, width = shape
    outlines = []
    for region in result.regions:
        contours, _ = cv2.findContours(
            np.kron(region.cells, np.ones((2, 2))).astype(np.uint8),
            cv2.RETR_EXTERNAL,
            cv2.CHAIN_APPROX_SIMPLE,
        )
        for contour in sorted(contours, key=lambda each: -cv2.contourArea(each)):
            corners = (contour.reshape(-1, 2) + 0.5) * (CELL / 2)
            polygon = tuple(Point(min(float(x), width), min(float(y), height)) for x, y in corners.tolist())
            if len(polygon) >= 3:
                outlines.append(Region(role=RegionRole.SUSPECT, polygon=polygon, score=result.score))
    return tuple(outlines[:MAX_REGIONS])
