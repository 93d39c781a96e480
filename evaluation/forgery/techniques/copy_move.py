"""Copy-move: a part of the picture is pasted elsewhere in the same picture."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final

import cv2
import numpy as np

from evaluation.forgery._pasting import (
    INTERPOLATIONS,
    Matrix,
    Piece,
    affine,
    blend,
    match_colours,
    place,
    room,
    shaded,
    similarity,
)
from evaluation.forgery._regions import Shape, Span, Texture, draw_region, draw_span, outline
from evaluation.forgery._registry import RGB, Draft, Mask, maker
from services.common.detection import Technique

__all__ = ["plant_copy_move"]

MAX_CLONES: Final = 3
PLACES: Final = 30
"""Places tried for each clone."""
GAP: Final = 3
"""Pixels between the source and its clones."""
MIN_CONTENT: Final = 3.0
"""Lowest standard deviation of the source's grey levels (0-255): a copy of plain black or white could have come from
anywhere, so that nothing makes it a copy."""


@maker(technique=Technique.COPY_MOVE)
def plant_copy_move(
    rgb: RGB,
    rng: np.random.Generator,
    *,
    area: Span = (0.008, 0.08),
    shape: Shape | None = None,
    texture: Texture | None = None,
    region: Mask | None = None,
    clones: int | None = None,
    rotation: Span | None = None,
    scale: Span | None = None,
    mirrored: bool | None = None,
    feather: Span | None = None,
    gain: Span | None = None,
    interpolation: str | None = None,
    stretch: Span | None = None,
    matching: Span | None = None,
    shading: Span | None = None,
) -> Draft | None:
    """Copies a part of the picture to one or more other places in it.

    What is not given is drawn as people do it: mostly moved only, often rotated or rescaled, seldom mirrored.
    The source and all clones are disjoint. `parameters["clones"]` holds a matrix for each clone: float (2, 3), from
    (x, y) of the source to (x, y) of the clone, pixel centres at integers.

    Args:
        rgb: uint8 (h, w, 3).
        rng: where chance comes from.
        area: of each clone, as a fraction of the picture.
        shape: outline of the source.
        texture: prefer a smooth or textured source.
        region: the source, bool (h, w), e.g. an object's mask; `area`, `shape` and `texture` then play no part.
        clones: how many, 1-3.
        rotation: in degrees, counter to the y axis (clockwise on screen), drawn for each clone.
        scale: drawn for each clone; 0.7-1.5 by default.
        mirrored: left to right, before rotating.
        feather: width in pixels of the soft edge, inside the clone.
        gain: factor on the clone's brightness.
        interpolation: linear, cubic or lanczos.
        stretch: how much wider than high the clone becomes, as a factor; not at all by default.
        matching: 0-1, how far the clone's colours are drawn towards those around its place; not at all by default.
        shading: grey levels by which the clone's brightness changes from one side of it to the other, in a direction
            that is drawn; not at all by default.
    """
    height, width = rgb.shape[:2]
    count = clones or int(rng.choice([1, 1, 1, 1, 2, MAX_CLONES]))
    size = draw_span(rng, scale, logarithmic=True) if scale is not None else 1.0
    if scale is None and rng.random() < 0.5:
        size = math.exp(rng.uniform(math.log(0.7), math.log(1.5)))
    wanted = draw_span(rng, area, logarithmic=True)
    drawn = draw_region(rgb, rng, area=wanted / size**2, shape=shape, texture=texture, region=region)
    if drawn is None:
        return None
    source, shape_name = drawn
    if float(rgb[source].mean(axis=1).std()) < MIN_CONTENT:
        return None
    feather_width = draw_span(rng, feather) if feather is not None else float(rng.choice([0, 0, 1, 2, 4]))
    method = interpolation or str(rng.choice(list(INTERPOLATIONS)))

    taken = cv2.dilate(source.astype(np.uint8), np.ones((2 * GAP + 1, 2 * GAP + 1))).astype(bool)
    image, mask = rgb, np.zeros((height, width), bool)
    records: list[dict[str, Any]] = []
    for _ in range(count):
        angle = draw_span(rng, rotation) if rotation is not None else 0.0
        if rotation is None and rng.random() < 0.5:
            angle = float(rng.uniform(-180.0, 180.0))
        flip = bool(rng.random() < 0.15) if mirrored is None else mirrored
        brightness = draw_span(rng, gain) if gain is not None else 1.0
        if gain is None and rng.random() < 0.3:
            brightness = float(rng.uniform(0.85, 1.15))
        linear = similarity(scale=size, rotation=angle, mirrored=flip)
        if stretch is not None:
            wider = math.sqrt(draw_span(rng, stretch, logarithmic=True))
            linear = linear @ np.diag([wider, 1.0 / wider])
        placed = _find_place(rgb, source, taken, rng, linear=linear, method=method)
        if placed is None:
            return None
        piece, matrix = placed
        piece = replace(piece, pixels=piece.pixels * np.float32(brightness))
        if matching is not None:
            piece = match_colours(image, piece, draw_span(rng, matching))
        if shading is not None:
            piece = shaded(piece, draw_span(rng, shading), rng.uniform(0.0, 2.0 * math.pi))
        image = blend(image, piece, feather_width)
        full = piece.full_mask(height, width)
        mask |= full
        taken |= full
        records.append(
            {
                "matrix": matrix.tolist(),
                "rotation": round(angle, 3),
                "scale": round(size, 4),
                "mirrored": flip,
                "gain": round(brightness, 4),
            }
        )
    return Draft(
        image=image,
        mask=mask,
        source_mask=source,
        parameters={"shape": shape_name, "feather": feather_width, "interpolation": method, "clones": records},
    )


def _find_place(
    rgb: RGB, source: Mask, taken: Mask, rng: np.random.Generator, *, linear: Matrix, method: str
) -> tuple[Piece, Matrix] | None:
    """A place for the transformed source where nothing is taken yet, with its matrix; None if none was found."""
    height, width = source.shape
    free = room(outline(source), linear, (height, width))
    if free is None:
        return None
    centre, low, high = free
    for _ in range(PLACES):
        matrix = affine(linear, centre, rng.uniform(low, high))
        piece = place(rgb, source, matrix, (height, width), interpolation=method)
        if piece is not None and not (taken[piece.window] & piece.mask).any():
            return piece, matrix
    return None
