"""Noise-mismatched piece: a part of the picture with another noise than the rest, as if from another camera or ISO."""

from __future__ import annotations

from typing import Literal, get_args

import cv2
import numpy as np

from evaluation.forgery._pasting import Piece, blend
from evaluation.forgery._regions import Shape, Span, Texture, draw_region, draw_span, window_of
from evaluation.forgery._registry import RGB, Draft, Mask, maker
from services.common.detection import Technique

__all__ = ["Kind", "plant_noise_mismatch"]

Kind = Literal["gaussian", "shot", "grain"]


@maker(technique=Technique.OTHER, min_change=2.0)
def plant_noise_mismatch(
    rgb: RGB,
    rng: np.random.Generator,
    *,
    area: Span = (0.02, 0.2),
    shape: Shape | None = None,
    texture: Texture | None = None,
    region: Mask | None = None,
    kind: Kind | None = None,
    sigma: Span = (3.5, 12.0),
    denoised: bool | None = None,
    feather: Span | None = None,
) -> Draft | None:
    """Adds noise to a part of the picture, sometimes after taking away what was there.

    Args:
        rgb: uint8 (h, w, 3).
        rng: where chance comes from.
        area: of the part, as a fraction of the picture.
        shape: outline of the part.
        texture: prefer a smooth or textured part.
        region: the part, bool (h, w); `area`, `shape` and `texture` then play no part.
        kind: white "gaussian" noise in each channel, "shot" noise that grows with the square root of the brightness,
            or film-like "grain", correlated over neighbours and equal in all channels.
        sigma: standard deviation (0-255), of shot noise at mid-grey.
        denoised: median filter before the noise is added; a third of the time by default.
        feather: width in pixels of the soft edge.
    """
    height, width = rgb.shape[:2]
    drawn = draw_region(rgb, rng, area=area, shape=shape, texture=texture, region=region)
    if drawn is None:
        return None
    mask, shape_name = drawn
    chosen = kind or get_args(Kind)[int(rng.integers(len(get_args(Kind))))]
    deviation = draw_span(rng, sigma)
    clean = bool(rng.random() < 1 / 3) if denoised is None else denoised
    feather_width = draw_span(rng, feather) if feather is not None else float(rng.choice([0, 1, 2, 4]))

    rows, columns = window = window_of(mask)
    below = np.ascontiguousarray(rgb[window])
    base = (cv2.medianBlur(below, 3) if clean else below).astype(np.float32)
    noise = rng.standard_normal(base.shape, dtype=np.float32)
    if chosen == "shot":
        noise *= np.sqrt(np.maximum(base, 1.0) / np.float32(128.0))
    elif chosen == "grain":
        noise = np.repeat(cv2.GaussianBlur(noise[..., 0], (0, 0), 0.8)[..., None], 3, axis=2)
        noise /= noise.std() + np.float32(1e-6)
    piece = Piece(pixels=base + np.float32(deviation) * noise, mask=mask[window], x=columns.start, y=rows.start)
    return Draft(
        image=blend(rgb, piece, feather_width),
        mask=piece.full_mask(height, width),
        parameters={
            "shape": shape_name,
            "kind": chosen,
            "sigma": round(deviation, 3),
            "denoised": clean,
            "feather": feather_width,
        },
    )
