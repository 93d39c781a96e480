"""Local retouch: a part of the picture was blurred, sharpened or denoised."""

from __future__ import annotations

from typing import Literal, get_args

import cv2
import numpy as np

from evaluation.forgery._pasting import Piece, blend
from evaluation.forgery._regions import Shape, Span, Texture, draw_region, draw_span, window_of
from evaluation.forgery._registry import RGB, Draft, Mask, maker
from services.common.detection import Technique

__all__ = ["Tool", "plant_retouch"]

Tool = Literal["blur", "sharpen", "denoise"]


@maker(technique=Technique.OTHER, min_change=2.0)
def plant_retouch(
    rgb: RGB,
    rng: np.random.Generator,
    *,
    area: Span = (0.02, 0.2),
    shape: Shape | None = None,
    texture: Texture | None = None,
    region: Mask | None = None,
    tool: Tool | None = None,
    strength: Span = (0.0, 1.0),
    feather: Span | None = None,
) -> Draft | None:
    """Blurs (Gaussian), sharpens (unsharp mask) or denoises (median and bilateral filter) a part of the picture.

    Args:
        rgb: uint8 (h, w, 3).
        rng: where chance comes from.
        area: of the part, as a fraction of the picture.
        shape: outline of the part.
        texture: prefer a smooth or textured part; textured by default, since a filter does nothing to an even area.
        region: the part, bool (h, w); `area`, `shape` and `texture` then play no part.
        tool: drawn if None.
        strength: 0-1, of the blur (standard deviation 1.2-4 pixels), of the sharpening (amount 1-3) or of the
            denoising (bilateral filter's colour range 25-75).
        feather: width in pixels of the soft edge.
    """
    height, width = rgb.shape[:2]
    drawn = draw_region(rgb, rng, area=area, shape=shape, texture=texture or "textured", region=region)
    if drawn is None:
        return None
    mask, shape_name = drawn
    chosen = tool or get_args(Tool)[int(rng.integers(len(get_args(Tool))))]
    force = draw_span(rng, strength)
    feather_width = draw_span(rng, feather) if feather is not None else float(rng.choice([0, 2, 4, 8]))

    rows, columns = window = window_of(mask, 12)
    below = np.ascontiguousarray(rgb[window])
    if chosen == "blur":
        pixels = cv2.GaussianBlur(below, (0, 0), 1.2 + 2.8 * force).astype(np.float32)
    elif chosen == "sharpen":
        exact = below.astype(np.float32)
        pixels = exact + np.float32(1.0 + 2.0 * force) * (exact - cv2.GaussianBlur(exact, (0, 0), 1.2))
    else:
        reach = 25.0 + 50.0 * force
        pixels = cv2.bilateralFilter(cv2.medianBlur(below, 3), 7, reach, 3.0).astype(np.float32)
    piece = Piece(pixels=pixels, mask=mask[window], x=columns.start, y=rows.start)
    return Draft(
        image=blend(rgb, piece, feather_width),
        mask=piece.full_mask(height, width),
        parameters={"shape": shape_name, "tool": chosen, "strength": round(force, 3), "feather": feather_width},
    )
