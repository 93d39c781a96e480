"""Resampled piece: a part of the picture was rescaled or rotated where it stands."""

from __future__ import annotations

import cv2
import numpy as np

from evaluation.forgery._pasting import INTERPOLATIONS, Piece, affine, blend, similarity
from evaluation.forgery._regions import Shape, Span, Texture, draw_region, draw_span, outline, window_of
from evaluation.forgery._registry import RGB, Draft, Mask, maker
from services.common.detection import Technique

__all__ = ["plant_resampled"]


@maker(technique=Technique.OTHER, min_change=3.0)
def plant_resampled(
    rgb: RGB,
    rng: np.random.Generator,
    *,
    area: Span = (0.02, 0.2),
    shape: Shape | None = None,
    texture: Texture | None = None,
    region: Mask | None = None,
    scale: Span | None = None,
    rotation: Span | None = None,
    feather: Span | None = None,
    interpolation: str | None = None,
) -> Draft | None:
    """Shows a part of the picture rescaled, rotated, or both, about its own centre.

    `parameters["matrix"]` is float (2, 3), from (x, y) of the picture to (x, y) in the part.

    Args:
        rgb: uint8 (h, w, 3).
        rng: where chance comes from.
        area: of the part, as a fraction of the picture.
        shape: outline of the part.
        texture: prefer a smooth or textured part.
        region: the part, bool (h, w); `area`, `shape` and `texture` then play no part.
        scale: 1.05-1.5 or, seldom, 0.8-0.95 by default.
        rotation: in degrees; 0 or within 15 by default.
        feather: width in pixels of the soft edge.
        interpolation: linear, cubic or lanczos.
    """
    height, width = rgb.shape[:2]
    drawn = draw_region(rgb, rng, area=area, shape=shape, texture=texture, region=region)
    if drawn is None:
        return None
    mask, shape_name = drawn
    if scale is not None:
        factor = draw_span(rng, scale, logarithmic=True)
    else:
        factor = float(rng.uniform(1.05, 1.5) if rng.random() < 0.8 else rng.uniform(0.8, 0.95))
    angle = draw_span(rng, rotation) if rotation is not None else 0.0
    if rotation is None and rng.random() < 0.5:
        angle = float(rng.uniform(-15.0, 15.0))
    feather_width = draw_span(rng, feather) if feather is not None else float(rng.choice([0, 1, 2, 4]))
    method = interpolation or str(rng.choice(list(INTERPOLATIONS)))

    rows, columns = window = window_of(mask)
    centre = outline(mask).mean(axis=0)
    matrix = affine(similarity(scale=factor, rotation=angle, mirrored=False), centre, centre)
    local = matrix.copy()
    local[:, 2] -= [columns.start, rows.start]
    size = columns.stop - columns.start, rows.stop - rows.start
    pixels = cv2.warpAffine(rgb, local, size, flags=INTERPOLATIONS[method], borderMode=cv2.BORDER_REFLECT_101)
    piece = Piece(pixels=pixels.astype(np.float32), mask=mask[window], x=columns.start, y=rows.start)
    return Draft(
        image=blend(rgb, piece, feather_width),
        mask=piece.full_mask(height, width),
        parameters={
            "shape": shape_name,
            "matrix": matrix.tolist(),
            "scale": round(factor, 4),
            "rotation": round(angle, 3),
            "feather": feather_width,
            "interpolation": method,
        },
    )
