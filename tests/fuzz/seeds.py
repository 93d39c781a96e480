"""What the fuzzer begins with: small files of every format and variant that is read, and those of given folders."""

from __future__ import annotations

import gzip
import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import skimage.data
from PIL import Image, ImageCms, PngImagePlugin

__all__ = ["files_of", "made"]

LARGEST_FILE: Final = 400_000
"""Bytes; of a larger JPEG the segments before its image data are taken, in front of a small picture's."""

_XMP: Final = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    b'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
    b'xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    b'xmp:CreatorTool="Adobe Photoshop 25.0" tiff:Make="Canon" exif:GPSLatitude="48,51.5N" '
    b'exif:GPSLongitude="2,21.0E" exif:DateTimeOriginal="2024-05-01T12:00:00" '
    b'e:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia">'
    b'<xmp:History><rdf:Seq><rdf:li rdf:parseType="Resource"><xmp:softwareAgent>x</xmp:softwareAgent></rdf:li>'
    b"</rdf:Seq></xmp:History></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end='w'?>"
)
_WEBUI: Final = "a castle\nNegative prompt: fog\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512"
_COMFYUI: Final = json.dumps({"3": {"class_type": "KSampler", "inputs": {"seed": 1, "text": "x"}}})
_NOVELAI: Final = json.dumps({"steps": 28, "sampler": "k_euler", "seed": 7, "scale": 5.0, "uc": "lowres"})


def made() -> Iterator[tuple[str, bytes]]:
    """(name, file) of each variant that a decoder or a metadata reader treats in its own way."""
    photograph = Image.fromarray(skimage.data.coffee()).resize((176, 136))
    grey, cmyk = photograph.convert("L"), photograph.convert("CMYK")
    small = photograph.resize((64, 48))
    exif = _exif(photograph)
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    for name, image, options in (
        ("baseline", photograph, {"quality": 90}),
        ("exif", photograph, {"quality": 95, "exif": exif, "xmp": _XMP, "comment": _WEBUI}),
        ("twice", _again(photograph, 60), {"quality": 95, "subsampling": 0}),
        ("progressive", photograph, {"quality": 80, "progressive": True, "icc_profile": icc}),
        ("restarts", photograph, {"quality": 75, "restart_marker_blocks": 3}),
        ("grey", grey, {"quality": 85}),
        ("cmyk", cmyk, {"quality": 85}),
        ("one pixel wide", photograph.resize((1, 130)), {"quality": 85}),
    ):
        yield f"{name}.jpg", _file(image, "JPEG", **options)
    irb = b"\x1c\x02\x50\x00\x02Jo\x1c\x02\x6e\x00\x02PA"
    block = b"Photoshop 3.0\x008BIM\x04\x04\x00\x00" + struct.pack(">I", len(irb)) + irb
    plain = _file(small, "JPEG", quality=90)
    yield "iptc.jpg", plain[:2] + b"\xff\xed" + struct.pack(">H", len(block) + 2) + block + plain[2:]

    texts = PngImagePlugin.PngInfo()
    for key, value in (("parameters", _WEBUI), ("prompt", _COMFYUI), ("Comment", _NOVELAI), ("Software", "NovelAI")):
        texts.add_text(key, value, zip=key == "prompt")
    texts.add_itxt("Description", "x Job ID: 01234567-89ab-cdef-0123-456789abcdef", zip=True)
    texts.add_itxt("AIGC", '{"Label":"1","ContentProducer":"城"}')
    texts.add_itxt("XML:com.adobe.xmp", _XMP.decode())
    texts.add_text("Raw profile type iptc", f"\niptc\n {len(block) - 14:d}\n{block[14:].hex()}\n")
    yield "texts.png", _file(photograph, "PNG", pnginfo=texts, exif=exif, icc_profile=icc)
    yield "grey.png", _file(grey, "PNG")
    yield "palette.png", _file(photograph.quantize(16), "PNG", transparency=3)
    yield "one bit.png", _file(grey.convert("1"), "PNG")
    yield "16 bit.png", _file(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG")
    yield "hidden text.png", _file(_with_hidden_text(photograph), "PNG")
    yield "grey and alpha.png", _file(small.convert("LA"), "PNG")
    frames = [small.rotate(angle) for angle in (0, 90, 180)]
    more = {"save_all": True, "append_images": frames[1:], "duration": 50}
    yield "animated.png", _file(frames[0], "PNG", **more)
    yield "lossy.webp", _file(photograph, "WEBP", quality=80, exif=exif, xmp=_XMP, icc_profile=icc)
    yield "lossless.webp", _file(_with_hidden_text(small), "WEBP", lossless=True, exact=True)
    yield "animated.webp", _file(frames[0], "WEBP", **more)
    yield "animated.gif", _file(frames[0], "GIF", comment="made with GIMP", **more)
    yield "transparent.gif", _file(small.quantize(8), "GIF", transparency=1, optimize=False)


def files_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    """(name, file) of the pictures below a folder, each of at most `LARGEST_FILE` bytes."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in {".jpg", ".jpeg", ".png", ".webp", ".gif"}:
            continue
        content = path.read_bytes()
        if len(content) <= LARGEST_FILE:
            yield path.name, content
        elif content.startswith(b"\xff\xd8") and (head := _segments_before_pixels(content)):
            picture = Image.fromarray(skimage.data.coffee()).resize((96, 64))
            yield path.name, head + _file(picture, "JPEG", quality=90)[2:]


def _segments_before_pixels(content: bytes) -> bytes:
    """The beginning of a JPEG, up to its first table: what a camera wrote of itself."""
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF and content[position + 1] in range(0xE0, 0xF0):
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return content[:position] if position <= LARGEST_FILE else b""


def _file(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def _again(image: Image.Image, quality: int) -> Image.Image:
    return Image.open(io.BytesIO(_file(image, "JPEG", quality=quality))).convert("RGB")


def _exif(photograph: Image.Image) -> bytes:
    """An EXIF block with all five directories, a maker's note, a comment and a thumbnail."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0131], exif[0x0112] = "Canon", "Canon EOS 5D", "GIMP 2.10", 6
    exif[0x0132] = "2024:05:01 12:00:00"
    details = exif.get_ifd(0x8769)
    details[0x829A], details[0x829D], details[0x8827], details[0x920A] = 1 / 250, 5.6, 200, 50.0
    details[0x9201], details[0x9202] = 8.0, 5.0
    details[0x9003] = details[0x9004] = "2024:05:01 12:00:00"
    details[0x927C] = b"Nikon\x00\x02\x10\x00\x00MM\x00*"
    details[0x9286] = b"UNICODE\x00" + "Steps: 20, Sampler: Euler, Seed: 1".encode("utf-16-be")
    details[0xA002], details[0xA003] = photograph.size
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2], gps[3], gps[4] = "N", (48.0, 51.5, 0.0), "E", (2.0, 21.0, 0.0)
    gps[0x1D], gps[7] = "2024:05:01", (22.0, 0.0, 0.0)
    # Pillow writes no thumbnail's directory: it goes behind the block, and the first directory's link is set to it.
    block = exif.tobytes().removeprefix(b"Exif\x00\x00")
    block += b"\x00" * (len(block) & 1)
    thumbnail = _file(photograph.resize((80, 60)), "JPEG", quality=70)
    little = block[:2] == b"II"
    order = "<" if little else ">"
    (first,) = struct.unpack_from(f"{order}I", block, 4)
    (entries,) = struct.unpack_from(f"{order}H", block, first)
    link, start = first + 2 + 12 * entries, len(block)
    directory = struct.pack(f"{order}H", 2)
    for tag, value in ((0x0201, start + 30), (0x0202, len(thumbnail))):
        directory += struct.pack(f"{order}HHII", tag, 4, 1, value)
    linked = block[:link] + struct.pack(f"{order}I", start) + block[link + 4 :]
    return b"Exif\x00\x00" + linked + directory + struct.pack(f"{order}I", 0) + thumbnail


def _with_hidden_text(image: Image.Image) -> Image.Image:
    """A picture with transparency in whose lowest bits NovelAI's text is hidden."""
    body = gzip.compress(_NOVELAI.encode())
    bits = np.unpackbits(np.frombuffer(b"stealth_pngcomp" + struct.pack(">I", 8 * len(body)) + body, np.uint8))
    pixels = np.array(image.convert("RGBA"))
    pixels[..., 3] = 254
    columns = np.swapaxes(pixels[..., 3], 0, 1).reshape(-1).copy()
    columns[: len(bits)] = columns[: len(bits)] & 0xFE | bits
    pixels[..., 3] = np.swapaxes(columns.reshape(image.width, image.height), 0, 1)
    return Image.fromarray(pixels)
