"""Draws where a picture was edited: a mask, and the picture with the mask laid over it. Pixel work: for a thread."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from pentimento.common.v1 import detection_pb2
from PIL import Image, ImageChops, ImageDraw

from services.common.images import ImageLimits, decode_image

__all__ = ["Overlay", "draw_overlay"]

SUSPECT_COLOUR: Final = (230, 30, 30)
OPACITY: Final = 0.45
"""Of the colour over the picture where the mask is 255: the picture stays visible below it."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """Two PNG files of the same size: that of the upright picture, or smaller with the same shape (2 megapixels).

    Attributes:
        mask_png: 8-bit grey; 0 is unsuspicious, 255 suspect, between is what a heat map says. All 0 if nothing was
            found. Of a copied region both places are marked: which of them is the copy cannot be seen for certain.
        overlay_png: the picture with suspect places in red.
    """

    mask_png: bytes
    overlay_png: bytes


def draw_overlay(
    content: bytes, limits: ImageLimits, findings: Iterable[detection_pb2.Finding], detectors: Collection[str]
) -> Overlay:
    """Draws the findings of some detectors.

    Args:
        content: the picture's file.
        limits: on the file.
        findings: of an analysis; their heat maps and regions are in the upright picture.
        detectors: names of the detectors that speak for an edit. The others' maps are left out: a map of
            nothing suspicious would look like an accusation.

    Raises:
        PentimentoError: the file cannot be decoded.
    """
    pixels = decode_image(content, limits)
    picture = Image.fromarray(pixels.working)
    scale = (picture.width / pixels.info.width, picture.height / pixels.info.height)
    mask = Image.new("L", picture.size, 0)
    drawing = ImageDraw.Draw(mask)
    outlines: list[list[tuple[float, float]]] = []
    for finding in findings:
        if finding.provenance.detector not in detectors or finding.question != detection_pb2.QUESTION_EDITED:
            continue
        if finding.HasField("heat_map"):
            mask.paste(ImageChops.lighter(mask, _heat_map(finding.heat_map.png, picture.size)))
        for region in finding.regions:
            corners = [(point.x * scale[0], point.y * scale[1]) for point in region.outline.points]
            if len(corners) >= 3:
                drawing.polygon(corners, fill=255)
                outlines.append(corners)
    strength = mask.point([round(level * OPACITY) for level in range(256)])
    picture.paste(SUSPECT_COLOUR, (0, 0, *picture.size), strength)
    drawing = ImageDraw.Draw(picture)
    for corners in outlines:
        drawing.line([*corners, corners[0]], fill=SUSPECT_COLOUR, width=max(2, max(picture.size) // 400))
    return Overlay(mask_png=_png(mask), overlay_png=_png(picture))


def _heat_map(png: bytes, size: tuple[int, int]) -> Image.Image:
    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        return image.convert("L").resize(size, Image.Resampling.BILINEAR)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
