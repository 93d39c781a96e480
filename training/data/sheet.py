"""Contact sheets: a look at what a maker or source holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from training.data.build import picture_path
from training.data.encoding import encode_alike
from training.data.manifest import Row
from training.data.pictures import UnreadablePicture, cropped, read_pixels

__all__ = ["contact_sheet"]

_CAPTION: Final = 14


def contact_sheet(
    rows: Sequence[Row], data: Path, *, most: int = 60, columns: int = 10, side: int = 128, encoded: bool = False
) -> Image.Image:
    """A sheet of at most so many pictures, evenly chosen, each with its maker below.

    Args:
        rows: of the manifest.
        data: the training folder; pictures that are not in place are left out.
        most: pictures on the sheet.
        columns: pictures in a line.
        side: of a tile, in pixels.
        encoded: whether to show them after the common encoding.
    """
    there = [row for row in rows if picture_path(data, row).is_file()]
    chosen = [there[index * len(there) // most] for index in range(most)] if len(there) > most else there
    tiles: list[tuple[Image.Image, str]] = []
    for row in chosen:
        try:
            rgb = cropped(read_pixels(picture_path(data, row).read_bytes()), row.box)
        except UnreadablePicture:
            continue
        image = Image.fromarray(np.ascontiguousarray(encode_alike(rgb, row.id).rgb if encoded else rgb))
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        tiles.append((image, row.maker))
    lines = max(1, math.ceil(len(tiles) / columns))
    sheet = Image.new("RGB", (columns * side, lines * (side + _CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (image, caption) in enumerate(tiles):
        left, top = number % columns * side, number // columns * (side + _CAPTION)
        sheet.paste(image, (left + (side - image.width) // 2, top + (side - image.height) // 2))
        draw.text((left + 2, top + side + 1), caption[: side // 6], fill="black")
    return sheet
