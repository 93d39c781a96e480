"""Splicing: a piece of another picture is pasted in."""

from __future__ import annotations

import math
from typing import Final

import cv2
import numpy as np

from evaluation.forgery._pasting import INTERPOLATIONS, affine, blend, match_colours, place, room, similarity
from evaluation.forgery._regions import Shape, Span, Texture, draw_region, draw_span, largest_part, outline
from evaluation.forgery._registry import RGB, Draft, Mask, maker
from services.common.detection import Technique

__all__ = ["plant_splicing"]

MAX_ENLARGEMENT: Final = 2.0
"""A piece enlarged by more is visibly blurred, and nobody would publish it."""
MIN_OBJECT_PIXELS: Final = 400
"""Smallest piece, in the donor's pixels, that is still something."""


@maker(technique=Technique.SPLICING, needs_donor=True)
def plant_splicing(
    rgb: RGB,
    rng: np.random.Generator,
    *,
    donor: RGB,
    donor_mask: Mask | None = None,
    area: Span = (0.015, 0.18),
    shape: Shape | None = None,
    texture: Texture | None = None,
    rotation: Span | None = None,
    scale: Span | None = None,
    mirrored: bool | None = None,
    feather: Span | None = None,
    colour_match: Span | None = None,
    interpolation: str | None = None,
) -> Draft | None:
    """Pastes a piece of another picture, scaled to fit, often mirrored or slightly rotated.

    `parameters["matrix"]` is float (2, 3), from (x, y) of the donor to (x, y) of the picture.

    Args:
        rgb: uint8 (h, w, 3).
        rng: where chance comes from.
        donor: uint8 (h', w', 3), the other picture.
        donor_mask: bool (h', w'), the object to take (its largest part); drawn by `shape` and `texture` if None.
        area: of the pasted piece, as a fraction of the picture; with a given `scale` it only guides a drawn piece.
        shape: outline of a drawn piece.
        texture: prefer a smooth or textured piece.
        rotation: in degrees; within 20 by default, and often 0.
        scale: from the donor's pixels to the picture's; by default what `area` asks for, or 1 where that fits.
        mirrored: left to right.
        feather: width in pixels of the soft edge.
        colour_match: 0-1, how far the piece's colours are moved towards its surroundings'; by default half of the
            pieces are left alone.
        interpolation: linear, cubic or lanczos.
    """
    height, width = rgb.shape[:2]
    wanted = draw_span(rng, area, logarithmic=True)
    fixed = draw_span(rng, scale, logarithmic=True) if scale is not None else None
    if donor_mask is not None:
        mask, shape_name = largest_part(donor_mask), "given"
    else:
        fraction = wanted * height * width / (donor.shape[0] * donor.shape[1]) / (fixed or 1.0) ** 2
        if fixed is None:
            fraction = min(max(fraction, 0.03), 0.35)
        drawn = draw_region(donor, rng, area=min(fraction, 0.6), shape=shape, texture=texture)
        if drawn is None:
            return None
        mask, shape_name = drawn
    pixels = int(mask.sum())
    if pixels < MIN_OBJECT_PIXELS:
        return None

    factor = fixed if fixed is not None else math.sqrt(wanted * height * width / pixels)
    plain = fixed is None and rng.random() < 0.4 and 0.5 < factor < MAX_ENLARGEMENT
    factor = 1.0 if plain else factor if fixed is not None else min(factor, MAX_ENLARGEMENT)
    angle = draw_span(rng, rotation) if rotation is not None else 0.0
    if rotation is None and not plain and rng.random() < 0.5:
        angle = float(rng.uniform(-20.0, 20.0))
    flip = bool(rng.random() < 0.3) if mirrored is None else mirrored
    feather_width = draw_span(rng, feather) if feather is not None else float(rng.choice([0, 1, 1, 2, 3]))
    match = draw_span(rng, colour_match) if colour_match is not None else 0.0
    if colour_match is None and rng.random() < 0.5:
        match = float(rng.uniform(0.3, 1.0))
    method = interpolation or str(rng.choice(list(INTERPOLATIONS)))

    # A strong reduction averages first, as every editor does; warping alone would alias.
    first = factor if factor < 0.8 else 1.0
    source, source_mask = donor, mask
    if first < 1.0:
        smaller = max(1, round(donor.shape[1] * first)), max(1, round(donor.shape[0] * first))
        source = cv2.resize(donor, smaller, interpolation=cv2.INTER_AREA).astype(np.uint8)
        source_mask = cv2.resize(mask.astype(np.float32), smaller, interpolation=cv2.INTER_AREA) > 0.5
        if not source_mask.any():
            return None
    linear = similarity(scale=factor / first, rotation=angle, mirrored=flip)
    free = room(outline(source_mask), linear, (height, width))
    if free is None:
        return None
    centre, low, high = free
    matrix = affine(linear, centre, rng.uniform(low, high))
    piece = place(source, source_mask, matrix, (height, width), interpolation=method)
    if piece is None:
        return None
    if match > 0:
        piece = match_colours(rgb, piece, match)
    reduced = np.array([source.shape[1] / donor.shape[1], source.shape[0] / donor.shape[0]])
    whole = matrix.copy()
    whole[:, :2] = matrix[:, :2] * reduced
    whole[:, 2] = matrix[:, 2] + matrix[:, :2] @ ((reduced - 1.0) / 2.0)
    return Draft(
        image=blend(rgb, piece, feather_width),
        mask=piece.full_mask(height, width),
        parameters={
            "shape": shape_name,
            "matrix": whole.tolist(),
            "scale": round(factor, 4),
            "rotation": round(angle, 3),
            "mirrored": flip,
            "feather": feather_width,
            "colour_match": round(match, 3),
            "interpolation": method,
        },
    )
