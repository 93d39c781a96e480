"""Where a forgery is planted: regions of random outline, of a wanted size, on smooth or on textured ground."""

from __future__ import annotations

import math
from typing import Final, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.forgery._registry import RGB, Mask

__all__ = ["Shape", "Span", "Texture", "draw_region", "draw_span", "largest_part", "outline", "window_of"]

Shape = Literal["polygon", "blob", "segment", "ellipse", "rectangle"]
Texture = Literal["smooth", "textured"]

Span = float | tuple[float, float]
"""A fixed value, or the lowest and highest of a uniform draw."""

_SHAPE_WEIGHTS: Final[dict[Shape, float]] = {
    "polygon": 0.25,
    "blob": 0.25,
    "segment": 0.35,
    "ellipse": 0.08,
    "rectangle": 0.07,
}
_MARGIN: Final = 2
"""Pixels between a region and the picture's border."""
_CANDIDATES: Final = 12
"""Regions drawn where a smooth or textured one is wanted; the smoothest or most textured is taken."""
_SEGMENT_SIDE: Final = 192
"""Longest side, in pixels, at which segments are grown; the outline is smoothed when it is enlarged."""
_SEGMENT_CELLS: Final = 9
"""Watershed cells that a region of the wanted size consists of, about."""


def draw_span(rng: np.random.Generator, span: Span, *, logarithmic: bool = False) -> float:
    """The value, or a uniform draw from the range; `logarithmic`: uniform in its logarithm (bounds above 0)."""
    if not isinstance(span, tuple):
        return float(span)
    low, high = span
    if not low <= high:
        raise ValueError(f"the range {span} is empty")
    if logarithmic:
        return math.exp(rng.uniform(math.log(low), math.log(high)))
    return float(rng.uniform(low, high))


def draw_region(
    rgb: RGB,
    rng: np.random.Generator,
    *,
    area: Span,
    shape: Shape | None = None,
    texture: Texture | None = None,
    region: Mask | None = None,
) -> tuple[Mask, str] | None:
    """A connected region without holes, inside the picture.

    Args:
        rgb: the picture, uint8 (h, w, 3).
        rng: where chance comes from.
        area: as a fraction of the picture, 0-1; the result comes within about a third of it.
        shape: outline: a polygon with corners, a smooth blob, a segment that follows the picture's own edges (a union
            of watershed cells), an ellipse or a rectangle. Drawn if None.
        texture: prefer smooth or textured ground.
        region: take this instead of drawing one, e.g. an object's mask, bool (h, w).

    Returns:
        bool (h, w) and the shape's name ("given" for a given region); or None where no such region fits.
    """
    height, width = rgb.shape[:2]
    if region is not None:
        if region.shape != (height, width):
            raise ValueError(f"the region is {region.shape}, the picture {rgb.shape}")
        inside = largest_part(region)
        return (inside, "given") if inside.any() else None
    if shape is None:
        names = list(_SHAPE_WEIGHTS)
        shape = names[int(rng.choice(len(names), p=list(_SHAPE_WEIGHTS.values())))]
    elif shape not in get_args(Shape):
        raise ValueError(f"no such shape: {shape}")
    pixels = draw_span(rng, area, logarithmic=True) * height * width
    count = _CANDIDATES if texture else 1
    if shape == "segment":
        candidates = _segments(rgb, rng, pixels, count)
    else:
        candidates = [mask for _ in range(count) if (mask := _drawn(shape, height, width, pixels, rng)) is not None]
    if not candidates:
        return None
    if texture:
        roughness = _roughness(rgb)
        order = sorted(candidates, key=lambda mask: float(roughness[mask].mean()))
        return order[0 if texture == "smooth" else -1], shape
    return candidates[0], shape


def outline(mask: Mask) -> NDArray[np.float64]:
    """Corner points (x, y) of the mask's outer contours, float64 (n, 2)."""
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return np.concatenate([contour[:, 0, :] for contour in contours]).astype(np.float64)


def largest_part(mask: Mask) -> Mask:
    """The largest 8-connected part of the mask, its holes filled; empty if the mask is."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    part = np.zeros(mask.shape, np.uint8)
    if contours:
        cv2.drawContours(part, [max(contours, key=cv2.contourArea)], 0, 1, cv2.FILLED)
    return part.astype(bool)


def window_of(mask: Mask, margin: int = 0) -> tuple[slice, slice]:
    """Rows and columns of the mask's bounding box, widened by `margin` where the picture goes on; it is not empty."""
    (height, width), points = mask.shape, outline(mask).astype(int)
    left, top = points.min(axis=0).tolist()
    right, bottom = points.max(axis=0).tolist()
    return (
        slice(max(0, top - margin), min(height, bottom + 1 + margin)),
        slice(max(0, left - margin), min(width, right + 1 + margin)),
    )


def _drawn(shape: Shape, height: int, width: int, pixels: float, rng: np.random.Generator) -> Mask | None:
    """A polygon, blob, ellipse or rectangle of about `pixels` pixels at a random place, or None if it does not fit."""
    points = _unit_outline(shape, rng)
    x, y = points.T
    unit_area = 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))
    points = points * math.sqrt(pixels / unit_area)
    low, high = points.min(axis=0), points.max(axis=0)
    room = np.array([width - 1, height - 1]) - 2 * _MARGIN - (high - low)
    if (room < 0).any():
        return None
    points += _MARGIN - low + rng.uniform(0.0, 1.0, 2) * room
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.rint(points).astype(np.int32)], 1)
    return largest_part(mask.astype(bool))


def _unit_outline(shape: Shape, rng: np.random.Generator) -> NDArray[np.float64]:
    """An outline around (0, 0) of radius about 1, float64 (n, 2)."""
    turn = rng.uniform(0.0, 2.0 * np.pi)
    if shape == "rectangle":
        aspect = math.sqrt(rng.uniform(0.5, 2.0))
        return np.array([[-aspect, -1 / aspect], [aspect, -1 / aspect], [aspect, 1 / aspect], [-aspect, 1 / aspect]])
    if shape == "polygon":
        corners = int(rng.integers(5, 12))
        angles = (np.arange(corners) + rng.uniform(-0.35, 0.35, corners)) * 2.0 * np.pi / corners
        radii = rng.uniform(0.6, 1.2, corners)
    else:
        angles = np.arange(96) * 2.0 * np.pi / 96
        radii = np.ones(96)
        if shape == "blob":
            for order in range(2, 7):
                radii += rng.normal(0.0, 0.35 / order) * np.cos(order * angles + rng.uniform(0.0, 2.0 * np.pi))
            radii = np.clip(radii, 0.4, 1.8)
    points = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    points *= np.array([1.0, rng.uniform(0.6, 1.0)])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.asarray(points @ rotation.T, dtype=np.float64)


def _segments(rgb: RGB, rng: np.random.Generator, pixels: float, count: int) -> list[Mask]:
    """Regions along the picture's own edges: neighbouring watershed cells joined until about `pixels` pixels.

    Cells are grown (Meyer's watershed, as in OpenCV) from a jittered grid of seeds.
    """
    height, width = rgb.shape[:2]
    factor = min(1.0, _SEGMENT_SIDE / max(height, width))
    small = cv2.resize(
        rgb, (max(8, round(width * factor)), max(8, round(height * factor))), interpolation=cv2.INTER_AREA
    )
    small_height, small_width = small.shape[:2]
    wanted = pixels * factor * factor
    step = max(3.0, math.sqrt(wanted / _SEGMENT_CELLS))
    rows = np.arange(step / 2, small_height, step)
    columns = np.arange(step / 2, small_width, step)
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    seeds = grid + rng.uniform(-0.3 * step, 0.3 * step, grid.shape)
    seeds = np.clip(np.rint(seeds), 1, [small_height - 2, small_width - 2]).astype(np.intp)
    markers = np.zeros((small_height, small_width), np.int32)
    markers[seeds[:, 0], seeds[:, 1]] = np.arange(1, len(seeds) + 1)
    cells = cv2.watershed(cv2.GaussianBlur(small, (0, 0), 0.8), markers)
    cells[cells < 0] = 0
    # The watershed's one pixel wide borders go to a neighbouring cell.
    cells = np.where(cells == 0, cv2.dilate(cells.astype(np.float32), np.ones((3, 3))).astype(np.int32), cells)

    sizes = np.bincount(cells.ravel(), minlength=len(seeds) + 1)
    pairs = np.concatenate(
        [
            np.stack([cells[:, :-1].ravel(), cells[:, 1:].ravel()], axis=1),
            np.stack([cells[:-1].ravel(), cells[1:].ravel()], axis=1),
        ]
    )
    neighbours: dict[int, set[int]] = {}
    for one, other in np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0).tolist():
        neighbours.setdefault(one, set()).add(other)
        neighbours.setdefault(other, set()).add(one)
    border = set(np.unique(np.concatenate([cells[0], cells[-1], cells[:, 0], cells[:, -1]])).tolist())

    found = []
    for _ in range(count):
        inner = sorted(set(neighbours) - border - {0})
        if not inner:
            break
        chosen = {int(rng.choice(inner))}
        while sizes[list(chosen)].sum() < 0.85 * wanted:
            edge = sorted({other for cell in chosen for other in neighbours[cell]} - chosen - border - {0})
            if not edge:
                break
            # Cells with most neighbours in the region first, so that it stays compact.
            contact = [len(neighbours[cell] & chosen) + rng.uniform(0.0, 1.5) for cell in edge]
            chosen.add(edge[int(np.argmax(contact))])
        coarse = np.isin(cells, list(chosen)).astype(np.float32)
        smooth = cv2.GaussianBlur(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR), (0, 0), 1.0)
        mask = largest_part(smooth > 0.5)
        mask[:_MARGIN] = mask[-_MARGIN:] = False
        mask[:, :_MARGIN] = mask[:, -_MARGIN:] = False
        if 0.6 * pixels <= mask.sum() <= 1.6 * pixels:
            found.append(mask)
    return found


def _roughness(rgb: RGB) -> NDArray[np.float32]:
    """Strength of edges and texture at each pixel, float32 (h, w), 0 for an even area; noise is smoothed away first."""
    grey = cv2.GaussianBlur(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.0)
    across, down = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    return np.asarray(cv2.magnitude(across, down), dtype=np.float32)
