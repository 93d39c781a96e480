"""Candidate maps out of a dense field of nearest neighbours: for smooth areas and small copies, which keypoints miss.

In the manner of Cozzolino, Poggi and Verdoliva (2015), on a reduced picture:

1. **Features** that rotating and mirroring leave alone: magnitudes of Gaussian derivatives as circular harmonics
   (Schaffalitzky and Zisserman 2002), in place of Zernike moments, for they cost a few differences of a blurred
   picture. Each is measured in units of its expected error, noise where the picture is smooth and a share of the value
   where it is not, so that one metric serves sky and foliage.
2. **Seeds**: the extrema of two of the features, which a copy takes along; each is compared with all others that are
   apart. PatchMatch's random guesses would seldom hit a small copy.
3. **Growth**: a seed's match spreads to the neighbouring cells as PatchMatch's do (Barnes et al. 2009), all seeds at
   once, but only as long as it explains what is there (Lhuillier and Quan 2002), so that the time goes where something
   grows. It goes along moved only, rotated or mirrored, as the gradients at both ends say.
4. **Linear fitting**: what grew out of one seed, and what grew around it, is fitted by an affine map.

References:
    D. Cozzolino, G. Poggi and L. Verdoliva, "Efficient dense-field copy-move forgery detection", 2015.
        10.1109/TIFS.2015.2455334
    C. Barnes et al., "PatchMatch: a randomized correspondence algorithm for structural image editing", 2009.
        10.1145/1531326.1531330
    M. Lhuillier and L. Quan, "Match propagation for image-based modeling and rendering", 2002.
        10.1109/TPAMI.2002.1023810
    F. Schaffalitzky and A. Zisserman, "Multi-view matching for unordered image sets", 2002. 10.1007/3-540-47969-4_28
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from threading import Event
from typing import Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from services.passive.detectors._copy_move.geometry import (
    CandidateMap,
    Floats,
    Plane,
    errors,
    inverse,
    least_squares,
    min_shift,
    possible,
)

__all__ = ["DENSE_PIXELS", "Sown", "find_dense_maps", "sow"]

Indices = NDArray[np.int32]

DENSE_PIXELS: Final = 280_000
"""Features are computed on at most so many pixels, and the field for every second of them in either direction; bounds
time."""
STRIDE: Final = 2
"""Pixels between the cells of the field."""
FINE_SIGMA: Final = 1.5
COARSE_SIGMA: Final = 2.5
"""Of the two scales of the features, in pixels of the reduced picture."""
RELATIVE_ERROR: Final = 0.2
"""Expected error of a feature as a share of its value: from resampling and compression."""
MEAN_ERROR: Final = 3.0
"""Expected error of local brightness and colour, in grey levels."""
LEAST_NOISE: Final = 0.4
"""Grey levels; rounding alone leaves 0.3."""

SHAPE: Final = 9
"""The first so many features tell shape, the others brightness and colour."""
CORNER: Final = 5.0
CORNER_WINDOW: Final = 9
"""Side of the window, in pixels, whose least slope in any direction says how distinct a place is, and the slope, as a
multiple of the noise's, that makes it half distinct: along a straight edge everything matches everything."""

SEED_WINDOW: Final = 5
"""Seeds are the extrema of windows of this side."""
MAX_SEEDS: Final = 3_500
"""Of more seeds, every so many-th is left out; bounds time."""
SEED_NEIGHBOURS: Final = 6
SEED_CHECKS: Final = 32
"""Neighbours that are looked up for each seed, and leaves that the approximate search for them visits: so many of one
tree hold more of the true neighbours than 24 of four trees, in two thirds of the time."""
LEAST_RISE: Final = 1.0
"""Difference of an extremum from the other end of its window, in units of error, that makes a seed."""
SUPPORT: Final = 4
MAX_MISFIT: Final = 1.0
"""A seed counts if the four places at this distance, in pixels, fit as well: by their mean cost as a share of what is
allowed."""

MAX_COST: Final = 30.0
MAX_SHARE: Final = 0.6
"""Largest squared distance of features at which two places are alike, at most this share of the place's own energy. On
32 copies planted in photographs of the train split, 20 locates 59 %, 30 locates 72 %."""
FAR: Final = 2.5
"""A proposal that costs more than so many times what is allowed is not tried at the pixels around it."""
MAX_STEPS: Final = 24
"""A match spreads by so many cells at most; what grew out of the seeds around it is gathered later."""
TRIAL_STEPS: Final = 4
TRIAL_SHARE: Final = 0.33
"""In the first so many steps only what has grown over this share of the cells in its reach grows on."""

LEAST_ROOT: Final = 9
"""Fewest cells that have grown out of one seed."""
MIN_PIXELS: Final = 30
"""Fewest cells of the field that give a map."""
GATHER: Final = 60.0
FIT_TOLERANCE: Final = 2.0
"""Cells that lie up to `GATHER` pixels around a part, and follow its map but for `FIT_TOLERANCE`, belong to it."""
MAX_MAPS: Final = 10
MAX_POINTS: Final = 200
"""Most points of a map that are handed on."""

_MOVES: Final = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
_SEED: Final = 1
_KDTREE: Final = 1


@dataclass(slots=True)
class _Field:
    """Where the nearest neighbour of each cell is, on a grid of every `STRIDE`-th pixel.

    Attributes:
        x, y: float32 (h, w), pixels of the reduced picture.
        cost: float32 (h, w), how far it is in features; where there is none yet, how far it may be.
        root: int32 (h, w), number of the seed that the match grew out of; -1 where there is none.
    """

    x: Plane
    y: Plane
    cost: Plane
    root: Indices


@dataclass(frozen=True, slots=True)
class _Front:
    """n matches that spread.

    Attributes:
        cell: int32 (n,), numbers of cells of the grid, row by row.
        x, y: float32 (n,), where they match, in pixels of the reduced picture.
        root: int32 (n,), numbers of the seeds.
    """

    cell: Indices
    x: Plane
    y: Plane
    root: Indices

    def __len__(self) -> int:
        return len(self.cell)

    def __getitem__(self, kept: NDArray[np.bool_] | NDArray[np.int64]) -> _Front:
        return _Front(self.cell[kept], self.x[kept], self.y[kept], self.root[kept])


@dataclass(frozen=True, slots=True, kw_only=True)
class Sown:
    """A picture's features, and the seeds that its dense field grows out of.

    Attributes:
        features: float32 (h, w, 12), of the reduced picture.
        distinct: float32 (h, w), 0-1, how distinct each place is.
        seeds: the matches that growth begins with.
        linear: float32 (n, 4), how the surroundings of each go along: where steps to the right and down lead.
        apart: least distance of source and copy, in pixels of the reduced picture.
        to_full: pixels of the picture in one of the reduced one, along x and along y.
    """

    features: Plane
    distinct: Plane
    seeds: _Front
    linear: Plane
    apart: float
    to_full: Floats


def sow(rgb: NDArray[np.uint8], *, max_pixels: int = DENSE_PIXELS) -> Sown:
    """Features and seeds of a picture, uint8 (height, width, 3); features are computed on at most `max_pixels`."""
    height, width = rgb.shape[:2]
    factor = min(1.0, math.sqrt(max_pixels / (height * width)))
    size = max(16, round(width * factor)), max(16, round(height * factor))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA) if factor < 1.0 else rgb
    colours = cv2.cvtColor(small, cv2.COLOR_RGB2YCrCb)
    apart = min_shift(max(height, width)) * factor
    features, strength, gradient, distinct = _features(np.asarray(colours, np.uint8))
    seeds, linear = _seeds(features, strength, gradient, apart)
    to_full = np.array([width / size[0], height / size[1]])
    return Sown(features=features, distinct=distinct, seeds=seeds, linear=linear, apart=apart, to_full=to_full)


def find_dense_maps(sown: Sown, *, enough: Event | None = None) -> list[CandidateMap]:
    """Maps that parts of the dense field follow, those of the largest parts first, in the pixels of the picture.

    Args:
        sown: what the field grows out of.
        enough: once it is set, nothing that is found is wanted any more; None: never.
    """
    enough = enough or Event()
    to_full = sown.to_full
    limit = _limit(sown.features[::STRIDE, ::STRIDE])
    field = _grown(sown, limit, enough)
    if enough.is_set():
        return []
    maps = []
    worth = (1.0 - field.cost / np.maximum(limit, 1e-3)) * sown.distinct[::STRIDE, ::STRIDE]
    for transform, p, q in _linear_parts(field, cast("Plane", worth)):
        full_p, full_q = (p + 0.5) * to_full - 0.5, (q + 0.5) * to_full - 0.5
        scaled = transform[:, :2] * to_full[:, None] / to_full[None, :]
        offset = (full_q - full_p @ scaled.T).mean(axis=0)
        maps.append(CandidateMap(transform=np.column_stack([scaled, offset]), p=full_p, q=full_q, way="dense"))
    return maps


# --- Features ---


def _derivatives(plane: Plane) -> tuple[Plane, Plane]:
    """Along x and along y, by central differences."""
    return (
        cast("Plane", cv2.Sobel(plane, cv2.CV_32F, 1, 0, ksize=1, scale=0.5)),
        cast("Plane", cv2.Sobel(plane, cv2.CV_32F, 0, 1, ksize=1, scale=0.5)),
    )


def _jet(mean: Plane, count: int) -> list[tuple[Plane, Plane | None]]:
    """The first `count` circular harmonics of the derivatives of a blurred picture, as real and imaginary part.

    Of order 0 (Laplacian), 1 (gradient), 2, and if they are more than 3: 3, and the gradient of the Laplacian.
    """
    x, y = _derivatives(mean)
    xx, xy = _derivatives(x)
    _, yy = _derivatives(y)
    laplacian, a, b = xx + yy, xx - yy, 2.0 * xy
    harmonics: list[tuple[Plane, Plane | None]] = [(laplacian, None), (x, y), (a, b)]
    if count > len(harmonics):
        ax, ay = _derivatives(a)
        bx, by = _derivatives(b)
        harmonics += [(ax - by, bx + ay), _derivatives(laplacian)]
    return harmonics[:count]


@cache
def _gains(sigma: float, count: int) -> list[float]:
    """Standard deviation of each harmonic on white noise of deviation 1."""
    impulse = np.zeros((41, 41), np.float32)
    impulse[20, 20] = 1.0
    harmonics = _jet(cast("Plane", cv2.GaussianBlur(impulse, (0, 0), sigma)), count)
    return [float(np.sqrt(sum(float((part**2).sum()) for part in parts if part is not None))) for parts in harmonics]


def _noise(grey: NDArray[np.uint8]) -> float:
    """Standard deviation of the noise, from the smoother parts (Immerkaer 1996, 10.1006/cviu.1996.0060)."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6.0
    magnitude = cv2.blur(np.abs(cv2.filter2D(grey, cv2.CV_32F, kernel)), (9, 9))
    return max(LEAST_NOISE, float(np.percentile(magnitude[::3, ::3], 20)) * math.sqrt(math.pi / 2))


def _in_errors(value: Plane, noise: float) -> Plane:
    """A feature in units of its expected error, which is `noise` for small values and a share of large ones."""
    grown = cv2.log(1.0 + np.abs(value) * np.float32(RELATIVE_ERROR / noise))
    return cast("Plane", np.copysign(grown, value) * np.float32(1.0 / RELATIVE_ERROR))


def _features(colours: NDArray[np.uint8]) -> tuple[Plane, Plane, tuple[Plane, Plane], Plane]:
    """Of each pixel: float32 (h, w, 12) in units of expected error; what extrema are sought in, (2, h, w).

    And the slopes along x and y, each (h, w), and how distinct it is, 0-1 (h, w).
    """
    noise = _noise(colours[..., 0])
    planes: list[Plane] = []
    for sigma, orders in ((FINE_SIGMA, 5), (COARSE_SIGMA, 3)):
        mean = cast("Plane", cv2.GaussianBlur(colours[..., 0].astype(np.float32), (0, 0), sigma))
        harmonics, gains = _jet(mean, orders), _gains(sigma, orders)
        for (real, imaginary), gain in zip(harmonics, gains, strict=True):
            value = real if imaginary is None else cast("Plane", cv2.magnitude(real, imaginary))
            planes.append(_in_errors(value, noise * gain))
        if orders == 5:
            # Least squared slope in any direction: where an edge runs straight, it is that along the edge.
            corner = cv2.cornerMinEigenVal(mean, CORNER_WINDOW, ksize=3)
            distinct = corner / (corner + np.float32(CORNER * 2.0 * (noise * gains[1]) ** 2))
            # The second derivative along the gradient tells how the harmonics of order 1 and 2 lie to each other.
            (x, y), (a, b) = harmonics[1], harmonics[2]
            assert y is not None
            assert b is not None
            along = ((x * x - y * y) * a + 2.0 * x * y * b) / (x * x + y * y + np.float32((noise * gains[1]) ** 2))
            planes.append(_in_errors(np.asarray(along, np.float32), noise * gains[2]))
    x, y = harmonics[1]
    assert y is not None
    means = cv2.GaussianBlur(colours, (0, 0), COARSE_SIGMA) * np.float32(1 / MEAN_ERROR)
    features = cast("Plane", cv2.merge([*planes, means]))
    return features, np.stack([planes[0], planes[6]]), (x, y), distinct


# --- Nearest neighbours ---


def _join(fronts: list[_Front]) -> _Front:
    return _Front(*(np.concatenate([getattr(front, name) for front in fronts]) for name in _Front.__slots__))


def _grown(sown: Sown, limit: Plane, enough: Event) -> _Field:
    """The field that grows out of the seeds, each match within the `limit` of its cell, until it is enough."""
    rows, columns = limit.shape
    field = _Field(
        x=np.full((rows, columns), -1e6, np.float32),
        y=np.full((rows, columns), -1e6, np.float32),
        cost=limit.copy(),
        root=np.full((rows, columns), -1, np.int32),
    )
    ways = np.float32(STRIDE) * sown.linear
    own = sown.features[::STRIDE, ::STRIDE].reshape(rows * columns, -1)
    front = _settle(sown, field, own, sown.seeds)
    for step in range(MAX_STEPS):
        if 0 < step <= TRIAL_STEPS and len(front):
            grown = np.bincount(field.root[field.root >= 0])
            front = front[grown[front.root] >= TRIAL_SHARE * (2 * step * (step + 1) + 1)]
        if not len(front) or enough.is_set():
            break
        column = front.cell % np.int32(columns)
        x_right, y_right, x_down, y_down = ways.take(front.root, axis=0).T
        spread = []
        for inside, to_cell, to_x, to_y in (
            (column < columns - 1, 1, x_right, y_right),
            (column > 0, -1, -x_right, -y_right),
            (front.cell < (rows - 1) * columns, columns, x_down, y_down),
            (front.cell >= columns, -columns, -x_down, -y_down),
        ):
            moved = _Front(front.cell + np.int32(to_cell), front.x + to_x, front.y + to_y, front.root)
            spread.append(moved[inside])
        front = _settle(sown, field, own, _join(spread))
    return field


def _limit(features: Plane) -> Plane:
    """Largest distance at which a pixel's match is good: a share of its own energy, so that the match explains it."""
    shape = features[..., :SHAPE]
    return cast("Plane", np.minimum(MAX_COST, MAX_SHARE * np.einsum("...i,...i->...", shape, shape)))


def _settle(sown: Sown, field: _Field, own: Plane, front: _Front) -> _Front:
    """Takes those of the matches that are better than what is there; returns them, each moved to its best pixel.

    `own` are the features of each cell, (cells, 12).
    """
    height, width, length = sown.features.shape
    rows = sown.features.reshape(-1, length)
    field_x, field_y, field_cost, field_root = (
        plane.reshape(-1) for plane in (field.x, field.y, field.cost, field.root)
    )
    x, y = np.rint(front.x).astype(np.int32), np.rint(front.y).astype(np.int32)
    row, column = np.divmod(front.cell, np.int32(field.x.shape[1]))
    own_x, own_y = column * np.int32(STRIDE), row * np.int32(STRIDE)
    dx, dy = x - own_x, y - own_y
    kept = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1) & (dx * dx + dy * dy >= sown.apart**2)
    # What comes back to a cell from the neighbour that it went to says nothing new.
    kept &= (np.abs(field_x.take(front.cell) - front.x) > 0.5) | (np.abs(field_y.take(front.cell) - front.y) > 0.5)

    def cost_of(at: NDArray[np.int64], mine: Plane) -> Plane:
        difference = rows.take(at, axis=0)
        difference -= mine
        return cast("Plane", np.einsum("ij,ij->i", difference, difference))

    # From here on, numbers into `front` instead of ever smaller copies of it; and int64, which NumPy takes faster by.
    which = np.flatnonzero(kept)
    at, own_cell = (y * width + x).take(which).astype(np.int64), front.cell.take(which).astype(np.int64)
    mine, present = own.take(own_cell, axis=0), field_cost.take(own_cell)
    best = cost_of(at, mine)
    near = np.flatnonzero(best < FAR * present)
    which, at, present, best = which[near], at[near], present[near], best[near]
    mine = mine.take(near, axis=0)
    moved = np.zeros(len(at), np.int8)
    for move, (to_x, to_y) in enumerate(_MOVES[1:], 1):
        cost = cost_of(at + (to_y * width + to_x), mine)
        np.copyto(moved, np.int8(move), where=cost < best)
        best = np.minimum(best, cost)
    better = np.flatnonzero(best < present)
    which, best, moved = which[better], best[better], moved[better]
    # Of several proposals to one cell, the best, and of several that are as good, the first.
    cell = front.cell[which]
    np.minimum.at(field_cost, cell, best)
    best_there = np.flatnonzero(best == field_cost.take(cell))
    order = best_there[np.unique(cell[best_there], return_index=True)[1]]
    front, (to_x, to_y) = front[which[order]], np.array(_MOVES, np.float32)[moved[order]].T
    front = _Front(front.cell, front.x + to_x, front.y + to_y, front.root)
    field_x[front.cell] = front.x
    field_y[front.cell] = front.y
    field_root[front.cell] = front.root
    return front


def _seeds(features: Plane, strength: Plane, gradient: tuple[Plane, Plane], apart: float) -> tuple[_Front, Plane]:
    """Matches of extrema with those of the others that resemble them most, moved only, rotated and mirrored.

    And float32 (n, 4), how the surroundings of each go along: where steps to the right and down lead, (x, y, x, y).
    """
    height, width = strength.shape[1:]
    kernel = np.ones((SEED_WINDOW, SEED_WINDOW), np.uint8)
    extreme = np.zeros((height, width), np.bool_)
    for plane in strength:
        high, low = cv2.dilate(plane, kernel), cv2.erode(plane, kernel)
        extreme |= ((high == plane) | (low == plane)) & (high - low > LEAST_RISE)
    extreme[:3] = extreme[-3:] = extreme[:, :3] = extreme[:, -3:] = False
    points = np.flatnonzero(extreme)
    if len(points) > MAX_SEEDS:
        points = points[np.linspace(0, len(points) - 1, MAX_SEEDS).astype(np.int64)]
    if len(points) < 2:
        nothing = np.empty(0, np.float32)
        none = nothing.astype(np.int32)
        return _Front(none, nothing, nothing, none), np.empty((0, 4), np.float32)
    described = features.reshape(-1, features.shape[2])[points]
    wanted = min(SEED_NEIGHBOURS + 1, len(points))
    cv2.setRNGSeed(_SEED)
    index = cv2.flann_Index(  # type: ignore[attr-defined]  # missing from OpenCV's stubs
        described, {"algorithm": _KDTREE, "trees": 1}
    )
    near, squared = index.knnSearch(described, wanted, params={"checks": SEED_CHECKS})
    y, x = points // width, points % width
    far = (x[near] - x[:, None]) ** 2 + (y[near] - y[:, None]) ** 2 >= apart * apart
    far &= near >= 0
    a, rank = np.nonzero(far & (squared < _limit(described)[:, None]))
    b = near[a, rank]
    slope_x, slope_y = (slope.ravel()[points] for slope in gradient)
    steepness = cv2.magnitude(slope_x, slope_y).ravel() + np.float32(1e-6)
    direction = ((slope_x + 1j * slope_y) / steepness).astype(np.complex64)
    kinds = _kinds(direction[a], direction[b])
    linear, supported = _linear_of(features, kinds, points[a], points[b])
    a, b, linear = a[supported], b[supported], linear[supported]
    in_x, in_y = (x[a] % STRIDE).astype(np.float32), (y[a] % STRIDE).astype(np.float32)
    columns = (width + STRIDE - 1) // STRIDE
    seeds = _Front(
        (y[a] // STRIDE * columns + x[a] // STRIDE).astype(np.int32),
        x[b].astype(np.float32) - in_x * linear[:, 0] - in_y * linear[:, 2],
        y[b].astype(np.float32) - in_x * linear[:, 1] - in_y * linear[:, 3],
        np.arange(len(a), dtype=np.int32),
    )
    return seeds, linear


def _kinds(at: NDArray[np.complex64], to: NDArray[np.complex64]) -> list[Plane]:
    """How surroundings may go along, each float32 (n, 4): moved only, rotated, or mirrored and rotated.

    By the directions of the gradients at both ends.
    """
    turned, mirrored = to * at.conj(), to * at
    one, nought = np.ones(len(at), np.float32), np.zeros(len(at), np.float32)
    return [
        np.column_stack([one, nought, nought, one]),
        np.column_stack([turned.real, turned.imag, -turned.imag, turned.real]),
        np.column_stack([mirrored.real, mirrored.imag, mirrored.imag, -mirrored.real]),
    ]


def _linear_of(
    features: Plane, kinds: list[Plane], a: NDArray[np.int64], b: NDArray[np.int64]
) -> tuple[Plane, NDArray[np.bool_]]:
    """In which of the ways the surroundings of each pair of pixels go along best, and whether well enough."""
    height, width, length = features.shape
    rows = features.reshape(-1, length)
    misfit = np.zeros((len(kinds), len(a)), np.float32)
    bx, by = (b % width).astype(np.float32), (b // width).astype(np.float32)
    for right, down in ((SUPPORT, 0), (-SUPPORT, 0), (0, SUPPORT), (0, -SUPPORT)):
        own = rows.take(a + (down * width + right), axis=0, mode="clip")
        limit = _limit(own) + 1e-3
        for index, kind in enumerate(kinds):
            x = np.clip(np.rint(bx + right * kind[:, 0] + down * kind[:, 2]), 0, width - 1)
            y = np.clip(np.rint(by + right * kind[:, 1] + down * kind[:, 3]), 0, height - 1)
            difference = rows.take((y * width + x).astype(np.int64), axis=0)
            difference -= own
            misfit[index] += np.minimum(np.einsum("ij,ij->i", difference, difference) / limit, 2.0)
    best = misfit.argmin(axis=0)
    linear = np.choose(best[:, None], kinds).astype(np.float32)
    return linear, misfit.min(axis=0) < 4.0 * MAX_MISFIT


# --- Where the field is linear ---


def _linear_parts(field: _Field, worth: Plane) -> list[tuple[Floats, Floats, Floats]]:
    """Maps with points p and q, in pixels of the reduced picture.

    What grew out of one seed is fitted by least squares; around the fits of the largest, all cells that follow are
    gathered, whatever seed they grew from, and fitted again.
    """
    rows, columns = np.nonzero(field.root >= 0)
    if not len(rows):
        return []
    root = field.root[rows, columns]
    order = np.argsort(root, kind="stable")
    rows, columns, root = rows[order], columns[order], root[order]
    count = np.bincount(root)
    value = np.bincount(root, worth[rows, columns])
    large = (count >= LEAST_ROOT)[root]
    rows, columns, root = rows[large], columns[large], root[large]
    p = STRIDE * np.column_stack([columns, rows]).astype(np.float64)
    q = np.column_stack([field.x[rows, columns], field.y[rows, columns]]).astype(np.float64)
    found: list[tuple[Floats, Floats, Floats]] = []
    free = np.ones(len(p), np.bool_)
    value[count < LEAST_ROOT] = -np.inf
    for part in np.argsort(-value, kind="stable")[: 2 * MAX_MAPS].tolist():
        if count[part] < LEAST_ROOT or len(found) == MAX_MAPS:
            break
        first, last = np.searchsorted(root, [part, part + 1]).tolist()
        members = first + np.flatnonzero(free[first:last])
        if len(members) < LEAST_ROOT:
            continue
        fitted = _robust_fit(p[members], q[members])
        if fitted is None:
            continue
        around = free.copy()
        for coordinate in p.T:
            own = coordinate[members]
            around &= (coordinate >= own.min() - GATHER) & (coordinate <= own.max() + GATHER)
        around[around] = errors(fitted, p[around], q[around]) < FIT_TOLERANCE
        fitted = _robust_fit(p[around], q[around])
        if fitted is None:
            continue
        around[around] = errors(fitted, p[around], q[around]) < FIT_TOLERANCE
        free &= ~around
        if around.sum() < MIN_PIXELS:
            continue
        if any(np.median(errors(inverse(known), p[around], q[around])) < 2 * FIT_TOLERANCE for known, _, _ in found):
            continue
        step = math.ceil(around.sum() / MAX_POINTS)
        found.append((fitted, p[around][::step], q[around][::step]))
    return found


def _robust_fit(p: Floats, q: Floats) -> Floats | None:
    """The affine map of most points; None if they do not agree or it is impossible."""
    for _ in range(3):
        if len(p) < LEAST_ROOT or np.ptp(p, axis=0).min() < 2 * STRIDE:
            return None
        transform = least_squares(p, q)
        kept = errors(transform, p, q) < FIT_TOLERANCE
        if kept.all():
            break
        p, q = p[kept], q[kept]
    return transform if possible(transform) else None
