"""Pictures that are no ordinary photographs, as files: what every detector must bear."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Final

import cv2
import numpy as np
import skimage.data
from PIL import Image

__all__ = ["PLAIN", "TINY", "odd_pictures", "refused_files"]

TINY: Final = frozenset({"8x8.jpg", "8x8.png", "8x8.webp", "1x1.png", "one wide.jpg", "one wide.png", "one high.png"})
"""Names of those with too few pixels for anything but what the file says."""

PLAIN: Final = frozenset({"black.jpg", "white.png", "grey.webp", "all transparent.png"})
"""Names of those of a single colour."""


def odd_pictures() -> Iterator[tuple[str, bytes]]:
    """(name, file) of pictures that can be decoded."""
    photograph = Image.fromarray(skimage.data.coffee())
    small = photograph.resize((330, 220))
    grey = small.convert("L")
    for side, name in ((8, "8x8"), (1, "1x1")):
        square = photograph.resize((side, side))
        yield f"{name}.png", _file(square, "PNG")
        if side > 1:
            yield f"{name}.jpg", _file(square, "JPEG", quality=90)
            yield f"{name}.webp", _file(square, "WEBP")
    yield "one wide.jpg", _file(photograph.resize((1, 900)), "JPEG", quality=90)
    yield "one wide.png", _file(photograph.resize((1, 900)), "PNG")
    yield "one high.png", _file(photograph.resize((900, 1)), "PNG")
    yield "a strip.png", _file(photograph.resize((3000, 40)), "PNG")
    yield "a strip.jpg", _file(photograph.resize((40, 3000)), "JPEG", quality=95)

    yield "black.jpg", _file(Image.new("RGB", (400, 300)), "JPEG", quality=95)
    yield "white.png", _file(Image.new("RGB", (400, 300), "white"), "PNG")
    yield "grey.webp", _file(Image.new("RGB", (400, 300), (90, 90, 90)), "WEBP")
    half = Image.new("RGB", (400, 300), "white")
    half.paste((0, 0, 0), (0, 0, 200, 300))
    yield "two colours.png", _file(half, "PNG")

    deep = np.asarray(small).astype(np.uint16) * 257
    yield "16 bit.png", cv2.imencode(".png", deep[..., ::-1])[1].tobytes()
    yield "16 bit grey.png", _file(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG")
    yield "1 bit.png", _file(grey.convert("1"), "PNG")
    yield "grey.jpg", _file(grey, "JPEG", quality=95)
    yield "cmyk.jpg", _file(small.convert("CMYK"), "JPEG", quality=95)
    yield "progressive.jpg", _file(small, "JPEG", quality=95, progressive=True)
    yield "palette.png", _file(small.quantize(32), "PNG", transparency=5)

    ramp = np.tile(np.linspace(0, 255, small.width).astype(np.uint8), (small.height, 1))
    transparent = small.convert("RGBA")
    transparent.putalpha(Image.fromarray(ramp))
    yield "alpha.png", _file(transparent, "PNG")
    yield "alpha.webp", _file(transparent, "WEBP", lossless=True)
    yield "grey and alpha.png", _file(Image.merge("LA", (grey, Image.fromarray(ramp))), "PNG")
    transparent.putalpha(0)
    yield "all transparent.png", _file(transparent, "PNG")

    frames = [small.rotate(angle) for angle in (0, 90, 180)]
    more = {"save_all": True, "append_images": frames[1:], "duration": 50}
    yield "animated.webp", _file(frames[0], "WEBP", **more)
    yield "animated.png", _file(frames[0], "PNG", **more)
    yield "animated.gif", _file(frames[0], "GIF", **more)

    sound = _file(small, "JPEG", quality=95)
    yield "sound.jpg", sound
    for name, marker, body in (
        ("broken exif.jpg", 0xE1, b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff"),
        ("broken xmp.jpg", 0xE1, b"http://ns.adobe.com/xap/1.0/\x00<x:xmpmeta><rdf:RDF>&&&"),
        ("broken manifest.jpg", 0xEB, b"JP\x00\x01\x00\x00\x00\x01\x00\x00\xff\xffjumb\x00\x00\x00\x20jumdc2pa"),
        ("broken profile.jpg", 0xE2, b"ICC_PROFILE\x00\x01\x01" + b"\xff" * 200),
        ("broken resources.jpg", 0xED, b"Photoshop 3.0\x008BIM\x04\x04\xff\xff\xff\xff"),
    ):
        segment = b"\xff" + bytes([marker]) + (len(body) + 2).to_bytes(2, "big") + body
        yield name, sound[:2] + segment + sound[2:]


def refused_files() -> Iterator[tuple[str, bytes, str]]:
    """(name, file, reason) of files that no detector is to see."""
    photograph = Image.fromarray(skimage.data.coffee())
    jpeg, png, webp = (_file(photograph, kind) for kind in ("JPEG", "PNG", "WEBP"))
    yield "truncated.jpg", jpeg[: len(jpeg) // 2], "DAMAGED_IMAGE"
    yield "truncated.png", png[: len(png) // 2], "DAMAGED_IMAGE"
    yield "truncated.webp", webp[: len(webp) // 2], "DAMAGED_IMAGE"
    damaged = bytearray(png)
    damaged[len(png) // 2] ^= 0xFF
    yield "wrong checksum.png", bytes(damaged), "DAMAGED_IMAGE"
    yield "no tables.jpg", jpeg.replace(b"\xff\xdb", b"\xff\xe9"), "DAMAGED_IMAGE"
    # A header that promises 3.6 gigapixels: refused before any pixel has memory.
    huge = bytearray(_file(Image.new("L", (8, 8)), "JPEG"))
    frame = huge.index(b"\xff\xc0")
    huge[frame + 5 : frame + 9] = b"\xea\x60\xea\x60"
    yield "huge.jpg", bytes(huge), "TOO_LARGE"
    yield "a text.jpg", b"hello", "UNSUPPORTED_FORMAT"


def _file(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()
