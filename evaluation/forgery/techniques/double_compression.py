"""Double-compression-mismatched piece: a splice whose JPEG history is not that of the picture around it."""

from __future__ import annotations

import numpy as np

from evaluation.forgery._encoding import jpeg_round_trip
from evaluation.forgery._pasting import affine, blend, place, similarity
from evaluation.forgery._regions import Shape, Span, Texture, draw_region, draw_span, largest_part, outline
from evaluation.forgery._registry import RGB, Draft, Mask, maker
from services.common.detection import Technique

__all__ = ["plant_double_compression"]


@maker(technique=Technique.SPLICING, needs_donor=True)
def plant_double_compression(
    rgb: RGB,
    rng: np.random.Generator,
    *,
    donor: RGB,
    donor_mask: Mask | None = None,
    area: Span = (0.03, 0.2),
    shape: Shape | None = None,
    texture: Texture | None = None,
    picture_quality: int | None = None,
    piece_quality: int | None = None,
    aligned: bool | None = None,
    feather: Span = 0.0,
) -> Draft | None:
    """Pastes a piece with one JPEG history, unscaled, into a picture with another.

    The picture and its twin were saved once as JPEG; the piece comes from a picture saved at another quality. Save
    both at a higher quality than `parameters["picture_quality"]`, and the coefficients around the piece show two
    quantisations that those in the piece do not show (Lukáš 2003; Bianchi 2012).

    References:
        J. Lukáš and J. Fridrich, "Estimation of primary quantization matrix in double compressed JPEG images", DFRWS
            2003.
        T. Bianchi and A. Piva, "Image forgery localization via block-grained analysis of JPEG artifacts", 2012.
            10.1109/TIFS.2012.2187516

    Args:
        rgb: uint8 (h, w, 3).
        rng: where chance comes from.
        donor: uint8 (h', w', 3), the other picture.
        donor_mask: bool (h', w'), the object to take; drawn by `shape` and `texture` if None.
        area: of the piece, as a fraction of the picture.
        shape: outline of a drawn piece.
        texture: prefer a smooth or textured piece.
        picture_quality: of the picture's first JPEG; 50-85 by default.
        piece_quality: of the donor's; by default at least 10 away from `picture_quality`.
        aligned: whether the piece's 8 x 8 grid falls on the picture's; one in four times by default.
        feather: width in pixels of the soft edge.
    """
    height, width = rgb.shape[:2]
    first = picture_quality or int(rng.integers(50, 86))
    other = piece_quality or int(rng.choice([q for q in range(50, 99) if abs(q - first) >= 10]))
    on_grid = bool(rng.random() < 0.25) if aligned is None else aligned

    if donor_mask is not None:
        mask, shape_name = largest_part(donor_mask), "given"
        if not mask.any():
            return None
    else:
        fraction = draw_span(rng, area, logarithmic=True) * height * width / (donor.shape[0] * donor.shape[1])
        drawn = draw_region(donor, rng, area=min(fraction, 0.6), shape=shape, texture=texture)
        if drawn is None:
            return None
        mask, shape_name = drawn
    points = outline(mask)
    low, high = 1 - points.min(axis=0), np.array([width - 2, height - 2]) - points.max(axis=0)
    if (high < low + 8).any():
        return None
    shift = rng.integers(low.astype(int), high.astype(int) - 7)
    phase = np.zeros(2, np.int64)
    while not on_grid and not phase.any():
        phase = rng.integers(0, 8, 2)
    shift += (phase - shift) % 8

    background = jpeg_round_trip(rgb, first)
    matrix = affine(similarity(scale=1.0, rotation=0.0, mirrored=False), np.zeros(2), shift.astype(np.float64))
    piece = place(jpeg_round_trip(donor, other), mask, matrix, (height, width))
    if piece is None:
        return None
    feather_width = draw_span(rng, feather)
    return Draft(
        image=blend(background, piece, feather_width),
        mask=piece.full_mask(height, width),
        twin=background,
        parameters={
            "shape": shape_name,
            "matrix": matrix.tolist(),
            "picture_quality": first,
            "piece_quality": other,
            "grid_offset": phase.tolist(),
            "feather": feather_width,
        },
    )
