"""Inpainting: something is removed, and the hole filled from its surroundings."""

from __future__ import annotations

from typing import Final, Literal, get_args

import cv2
import numpy as np

from evaluation.forgery._patchmatch import fill_by_patches
from evaluation.forgery._regions import Shape, Span, Texture, draw_region, window_of
from evaluation.forgery._registry import RGB, Draft, Mask, maker
from services.common.detection import Technique

__all__ = ["Method", "plant_inpainting"]

Method = Literal["telea", "navier_stokes", "exemplar"]

_AREAS: Final[dict[Method, Span]] = {
    "telea": (0.006, 0.05),
    "navier_stokes": (0.006, 0.05),
    "exemplar": (0.008, 0.12),
}
"""By default. The first two only smear colours inwards: in larger holes nobody would use them."""


@maker(technique=Technique.INPAINTING)
def plant_inpainting(
    rgb: RGB,
    rng: np.random.Generator,
    *,
    method: Method | None = None,
    area: Span | None = None,
    shape: Shape | None = None,
    texture: Texture | None = None,
    region: Mask | None = None,
    radius: int | None = None,
) -> Draft | None:
    """Removes a region and fills it, by diffusion (Telea, Navier-Stokes) or from similar patches of the picture.

    References:
        A. Telea, "An image inpainting technique based on the fast marching method", 2004.
            10.1080/10867651.2004.10487596
        M. Bertalmio et al., "Navier-Stokes, fluid dynamics, and image and video inpainting", 2001.
            10.1109/CVPR.2001.990497
        C. Barnes et al., "PatchMatch", 2009. 10.1145/1531326.1531330

    Args:
        rgb: uint8 (h, w, 3).
        rng: where chance comes from.
        method: drawn if None, half of the time "exemplar".
        area: of the hole, as a fraction of the picture.
        shape: outline of the hole.
        texture: prefer a hole on smooth or textured ground (something to remove); drawn if None.
        region: the hole, bool (h, w), e.g. an object's mask; `area`, `shape` and `texture` then play no part.
        radius: in pixels, how far Telea and Navier-Stokes look.
    """
    if method is None:
        method = "exemplar" if rng.random() < 0.5 else "telea" if rng.random() < 0.5 else "navier_stokes"
    elif method not in get_args(Method):
        raise ValueError(f"no such method of inpainting: {method}")
    if texture is None and rng.random() < 0.5:
        texture = "textured"
    drawn = draw_region(
        rgb, rng, area=_AREAS[method] if area is None else area, shape=shape, texture=texture, region=region
    )
    if drawn is None:
        return None
    hole, shape_name = drawn
    reach = radius or int(rng.integers(3, 9))
    if method == "exemplar":
        filled = fill_by_patches(rgb, hole, rng)
        if filled is None:
            return None
    else:
        flag = cv2.INPAINT_TELEA if method == "telea" else cv2.INPAINT_NS
        filled = _diffused(rgb, hole, reach, flag)
    parameters = {"method": method, "shape": shape_name}
    return Draft(
        image=filled, mask=hole, parameters=parameters if method == "exemplar" else {**parameters, "radius": reach}
    )


def _diffused(rgb: RGB, hole: Mask, radius: int, flag: int) -> RGB:
    """OpenCV's inpainting, on the hole's surroundings only, which gives the same at a fraction of the time."""
    window = window_of(hole, radius + 2)
    filled = rgb.copy()
    patch = cv2.inpaint(np.ascontiguousarray(rgb[window]), hole[window].astype(np.uint8), radius, flag)
    filled[window][hole[window]] = patch[hole[window]]
    return filled
