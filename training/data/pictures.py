"""Reading a picture of the training data: the pixels that the services would see."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from services.common.errors import PentimentoError
from services.common.images import ImageLimits, decode_image

__all__ = ["MASK_VARIABLES", "RGB", "SUFFIXES", "UnreadablePicture", "cropped", "read_pixels"]

RGB = NDArray[np.uint8]

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})
"""Endings of the files that are taken as pictures."""

_LIMITS: Final = ImageLimits(
    max_bytes=256 * 1024 * 1024, max_pixels=120_000_000, formats=frozenset({"JPEG", "PNG", "WEBP", "GIF"})
)
_UPLOADED: Final = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"GIF8")
"""How files begin that the services read; forgers also publish TIFF and BMP."""
_MATLAB: Final = b"MATLAB 5.0 MAT-file"
MASK_VARIABLES: Final = ("objMask", "mask")
"""Variables of a MATLAB file that are taken as a mask, the first one that is there; above 0 is forged."""


class UnreadablePicture(Exception):
    """The bytes are no picture, or a broken one; the text says what is wrong."""


def read_pixels(content: bytes) -> RGB:
    """The pixels, upright, sRGB, uint8 (height, width, 3).

    What users can upload is decoded as the services do (`services.common.images`). TIFF and BMP, of which research
    sets are full, go through Pillow alone. Of a MATLAB file it is the one mask that it holds (`MASK_VARIABLES`), 0
    and 255.

    Raises:
        UnreadablePicture: they cannot be had.
    """
    if content.startswith(_UPLOADED):
        try:
            return decode_image(content, _LIMITS).rgb
        except PentimentoError as error:
            raise UnreadablePicture(str(error)) from error
    if content.startswith(_MATLAB):
        return _matlab_mask(content)
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > _LIMITS.max_pixels:
                raise UnreadablePicture(f"{image.width} x {image.height} pixels")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, struct.error) as error:
        raise UnreadablePicture(str(error)) from error


def _matlab_mask(content: bytes) -> RGB:
    # Here and not above: of all that reads pictures only few read masks.
    from scipy.io import loadmat  # type: ignore[import-untyped]  # noqa: PLC0415
    from scipy.io.matlab import MatReadError  # type: ignore[import-untyped]  # noqa: PLC0415

    try:
        variables = loadmat(io.BytesIO(content), variable_names=MASK_VARIABLES)
    except (MatReadError, ValueError, TypeError, NotImplementedError, OSError, zlib.error) as error:
        raise UnreadablePicture(f"a MATLAB file that cannot be read: {error}") from error
    masks = [variables[name] for name in MASK_VARIABLES if name in variables]
    if not masks or masks[0].ndim != 2 or masks[0].dtype.kind not in "bufi" or not masks[0].size:
        raise UnreadablePicture(f"a MATLAB file without a mask: none of {', '.join(MASK_VARIABLES)}")
    return np.repeat(((masks[0] > 0) * np.uint8(255))[..., None], 3, axis=2)


def cropped(rgb: RGB, crop: tuple[float, float, float, float] | None) -> RGB:
    """What a crop (left, top, right, bottom as fractions of the sides) leaves; all of it without one."""
    if crop is None:
        return rgb
    height, width = rgb.shape[:2]
    left, top, right, bottom = crop
    return rgb[round(top * height) : round(bottom * height), round(left * width) : round(right * width)]
