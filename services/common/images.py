"""The one decode specification: every service sees the same pixels.

1. **Format** is told by the content, never by a name or a declared type.
2. **Limits** on bytes, then pixels, then frames are applied to what the header says, before any pixel has memory.
3. **Data**: only image data and its tables reach the decoder (`services.common._image_containers.bare`). Image data
   that ends early, is broken or fails its checksum makes a `DamagedImage`; broken metadata does not.
4. **Frame**: of an animation, the first; of a GIF, on its whole canvas.
5. **Depth**: 8 bits per channel; of 16 bits, the high byte.
6. **Colour**: an embedded ICC profile is applied (perceptual intent) to give sRGB, unless it is sRGB already (no
   colour moves by more than `SAME_COLOUR`), is broken, or is for another kind of picture; then it is ignored, and
   so are PNG's gAMA and cHRM. CMYK without a profile is converted as 255 - min(255, ink + black). JPEG's CMYK and YCCK
   are read as Adobe stores them (inverted). Grey becomes three equal channels.
7. **Transparency** is composited over white, in sRGB values. What a GIF's first frame leaves uncovered is white.
8. **Orientation** of the EXIF block is applied last: boxes and maps are in pixels of the upright picture.
9. **Working size**: pictures of more than `WORKING_PIXELS` have a second, area-averaged version of at most so many
   pixels, for detectors that do not need every pixel. Smaller pictures are never enlarged.

Pillow decodes. That a JPEG is whole is checked before by libjpeg-turbo's strict reading (simplejpeg). Pillow's plugins
are called directly, so neither its limit on pixels (`Image.MAX_IMAGE_PIXELS`) nor its limit on text
(`PngImagePlugin.MAX_TEXT_MEMORY`) plays a part, and nothing global is changed. All functions are thread-safe; all of
them may take long (use a thread, not the event loop) except `inspect_image`, which takes milliseconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast, final

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from services.common import _image_containers as containers
from services.common.errors import DamagedImage, PentimentoError, TooLarge, UnsupportedFormat

__all__ = [
    "DEFAULT_LIMITS",
    "WORKING_PIXELS",
    "ImageInfo",
    "ImageLimits",
    "Picture",
    "check_image",
    "decode_image",
    "encode_png",
    "heat_map_png",
    "inspect_image",
]

T = TypeVar("T")

WORKING_PIXELS: Final = 2_000_000
"""Most pixels of `Picture.working`."""

SAME_COLOUR: Final = 2
"""Largest change of any channel (of 255) at which a profile still counts as sRGB: rounding, no other colour space."""

_INFLATE_STEP: Final = 256 * 1024

_CHECKED_AT: Final = 8
"""A JPEG is checked at such a fraction of its size: all of its data is read, and an eighth is the least to be had."""
_DAMAGED_JPEG: Final = ("Corrupt JPEG data", "Premature end of JPEG file")
_BEHIND_THE_PICTURE: Final = "extraneous bytes before marker 0xd9"
"""How libjpeg begins its warnings about image data, and that which some cameras' files deserve, though whole."""

_PLUGINS: Final[dict[str, type[ImageFile.ImageFile]]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
    "GIF": GifImageFile,
}

_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """What is accepted.

    Attributes:
        max_bytes: longest file.
        max_pixels: most pixels, width times height of the whole canvas.
        max_frames: most frames of an animation, though only the first is decoded.
        formats: accepted formats, some of "JPEG", "PNG", "WEBP", "GIF".
    """

    max_bytes: int = 10 * 1024 * 1024
    max_pixels: int = 50_000_000
    max_frames: int = 500
    formats: frozenset[str] = frozenset({"JPEG", "PNG", "WEBP"})

    def __post_init__(self) -> None:
        if unknown := self.formats - set(containers.FORMATS):
            raise ValueError(f"no such image formats: {', '.join(sorted(unknown))}")
        if min(self.max_bytes, self.max_pixels, self.max_frames) < 1 or not self.formats:
            raise ValueError("image limits must be positive")


DEFAULT_LIMITS: Final = ImageLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """What a file's header says.

    Attributes:
        width, height: in pixels, upright.
        format: "JPEG", "PNG", "WEBP" or "GIF".
        mode: as stored: "1", "L", "LA", "P", "RGB", "RGBA" or "CMYK".
        bits_per_channel: as stored; of the colours, not of the indices, of a palette.
        size_bytes: of the file.
        sha256: of the file, in lower-case hexadecimal digits.
        frames: 1, or the number of frames of an animation.
        has_alpha: True if some pixel may be transparent.
        exif_orientation: 1-8 as EXIF numbers them; 1 (upright) if the file does not tell.
        has_icc_profile: True if a colour profile is embedded.
    """

    width: int
    height: int
    format: str
    mode: str
    bits_per_channel: int
    size_bytes: int
    sha256: str
    frames: int
    has_alpha: bool
    exif_orientation: int
    has_icc_profile: bool

    @property
    def media_type(self) -> str:
        """The MIME type: image/jpeg, image/png, image/webp or image/gif."""
        return f"image/{self.format.lower()}"


class _Derived:
    """A value that is made once, and the lock of who makes it."""

    __slots__ = ("lock", "made", "value")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.made = False
        self.value: Any = None


@final
class Picture:
    """A picture as every detector gets it: the file, what its header says, and the pixels.

    Thread-safe. Made by `decode_image`, or from an array by `Picture.from_array`.

    Attributes:
        file: the file's bytes, unchanged.
        info: what its header says.
        rgb: uint8 (height, width, 3), sRGB, upright, read-only and contiguous.
    """

    __slots__ = ("_derived", "_lock", "_working", "file", "info", "rgb")

    def __init__(self, *, file: bytes, info: ImageInfo, rgb: NDArray[np.uint8]) -> None:
        if rgb.dtype != np.uint8 or rgb.shape != (info.height, info.width, 3):
            raise ValueError(f"expected uint8 ({info.height}, {info.width}, 3), got {rgb.dtype} {rgb.shape}")
        if rgb.flags.writeable or not rgb.flags.c_contiguous:
            rgb = rgb.copy()
            rgb.flags.writeable = False
        self.file = file
        self.info = info
        self.rgb = rgb
        self._lock = threading.Lock()
        self._working: NDArray[np.uint8] | None = None
        self._derived: dict[Callable[[Picture], Any], _Derived] = {}

    def derived(self, make: Callable[[Picture], T]) -> T:
        """What a pure function makes of this picture: made at the first call, kept, and the same for all who ask.

        For what several detectors need. Others wait for the first caller; if it fails, the next one tries again.
        """
        with self._lock:
            derived = self._derived.setdefault(make, _Derived())
        with derived.lock:
            if not derived.made:
                derived.value, derived.made = make(self), True
            return cast("T", derived.value)

    @classmethod
    def from_array(cls, rgb: NDArray[np.uint8]) -> Picture:
        """A picture with the given pixels, uint8 (height, width, 3) or grey (height, width), as a PNG file."""
        file = encode_png(rgb)
        info = inspect_image(file, ImageLimits(max_bytes=len(file), max_pixels=rgb.shape[0] * rgb.shape[1]))
        return cls(file=file, info=info, rgb=rgb if rgb.ndim == 3 else np.repeat(rgb[..., None], 3, axis=2))

    @property
    def working(self) -> NDArray[np.uint8]:
        """The pixels at working size: uint8 (h, w, 3), h * w <= `WORKING_PIXELS`, read-only; `rgb` itself if small.

        Area-averaged at the first call and kept.
        """
        with self._lock:
            if self._working is None:
                height, width = self.rgb.shape[:2]
                size = _working_size(width, height)
                if size == (width, height):
                    self._working = self.rgb
                else:
                    smaller = Image.fromarray(self.rgb).resize(size, Image.Resampling.BOX)
                    self._working = _pixels(smaller)
            return self._working

    @property
    def scale(self) -> float:
        """Length in `working` divided by the same length in `rgb`, 0 < scale <= 1 (exact for the longer side)."""
        width, height = self.info.width, self.info.height
        return max(_working_size(width, height)) / max(width, height)

    def __repr__(self) -> str:
        return f"Picture({self.info.format}, {self.info.width}x{self.info.height}, sha256={self.info.sha256[:12]})"


def inspect_image(content: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> ImageInfo:
    """Reads the header and applies the limits; no pixel is decoded and no memory given to any.

    Raises:
        UnsupportedFormat: empty, no image, or of a format that is not accepted.
        TooLarge: more bytes, pixels or frames than the limits allow (metadata: limit, actual, unit).
        DamagedImage: the header is broken.
    """
    return _inspect(content, limits)[0]


def check_image(content: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> ImageInfo:
    """Like `inspect_image`, and proves that the picture's data can be decoded to its end.

    Takes less memory than decoding: a JPEG is decoded at an eighth of its size, a PNG is only inflated, piece by piece.

    Raises:
        UnsupportedFormat, TooLarge: as `inspect_image`.
        DamagedImage: the header or the image data is broken or ends early.
    """
    info, header = _inspect(content, limits)
    if info.format == "PNG" and _is_png_inflatable(content):
        return info
    if info.format == "JPEG" and _is_jpeg_whole(content, header):
        return info
    with _decoding(info.format):
        _open(content, info.format).load()
    return info


def decode_image(content: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Picture:
    """Decodes as this module's specification says.

    Raises:
        UnsupportedFormat, TooLarge: as `inspect_image`.
        DamagedImage: the header or the image data is broken or ends early.
    """
    info, header = _inspect(content, limits)
    if info.format == "JPEG":
        _is_jpeg_whole(content, header)
    with _decoding(info.format):
        image = _open(content, info.format)
        image.load()
        if info.format != "GIF" and image.size != (header.width, header.height):
            raise DamagedImage(f"The {info.format} file contradicts itself on the picture's size.")
        colour, alpha = _split_alpha(image, header)
        del image
        rgb = _to_srgb(colour, header.icc_profile)
        del colour
        if alpha is not None or info.format == "GIF":
            left, top = _gif_place(content) if info.format == "GIF" else (0, 0)
            canvas = Image.new("RGB", (header.width, header.height), (255, 255, 255))
            canvas.paste(rgb, (left, top), alpha)
            rgb = canvas
        if info.exif_orientation in _UPRIGHT:
            rgb = rgb.transpose(_UPRIGHT[info.exif_orientation])
        pixels = _pixels(rgb)
    return Picture(file=content, info=info, rgb=pixels)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encodes uint8 pixels, grey (height, width) or RGB (height, width, 3), as a PNG file."""
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise ValueError(f"expected uint8 (h, w) or (h, w, 3), got {pixels.dtype} {pixels.shape}")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def heat_map_png(heat_map: NDArray[np.floating]) -> bytes:
    """Encodes a map of 0-1, shape (h, w), as an 8-bit grey PNG: 0 is black, 1 is white, NaN counts as 0."""
    clean = np.clip(np.nan_to_num(heat_map, nan=0.0, posinf=1.0, neginf=0.0), 0.0, 1.0)
    return encode_png(np.rint(clean * 255.0).astype(np.uint8))


def _inspect(content: bytes, limits: ImageLimits) -> tuple[ImageInfo, containers.Header]:
    if not content:
        raise UnsupportedFormat("The file is empty.", reason="EMPTY_FILE")
    if len(content) > limits.max_bytes:
        raise TooLarge(
            f"File size {len(content)} bytes exceeds maximum {limits.max_bytes} bytes",
            metadata={"limit": str(limits.max_bytes), "actual": str(len(content)), "unit": "bytes"},
        )
    image_format = containers.identify(content)
    if image_format not in limits.formats:
        raise _unsupported(image_format, limits)
    header = containers.read_header(content, image_format)
    pixels = header.width * header.height
    if pixels > limits.max_pixels:
        raise TooLarge(
            f"The picture's {header.width} x {header.height} = {pixels} pixels exceed the maximum of "
            f"{limits.max_pixels} pixels.",
            metadata={"limit": str(limits.max_pixels), "actual": str(pixels), "unit": "pixels"},
        )
    if header.frames > limits.max_frames:
        raise TooLarge(
            f"The animation's {header.frames} frames exceed the maximum of {limits.max_frames} frames.",
            metadata={"limit": str(limits.max_frames), "actual": str(header.frames), "unit": "frames"},
        )
    orientation = _exif_orientation(header.exif)
    swapped = orientation >= 5
    info = ImageInfo(
        width=header.height if swapped else header.width,
        height=header.width if swapped else header.height,
        format=image_format,
        mode=header.mode,
        bits_per_channel=header.bits,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        frames=header.frames,
        has_alpha=header.has_alpha,
        exif_orientation=orientation,
        has_icc_profile=bool(header.icc_profile),
    )
    return info, header


def _unsupported(image_format: str, limits: ImageLimits) -> UnsupportedFormat:
    accepted = [name for name in containers.FORMATS if name in limits.formats]
    listing = ", ".join(accepted)
    if image_format:
        message = f"{image_format} files are not accepted here. Send one of: {listing}."
    else:
        message = f"The content is not an image, or not of a format that is accepted here: {listing}."
    return UnsupportedFormat(message, metadata={"format": image_format, "accepted": listing})


def _exif_orientation(tiff: bytes) -> int:
    """Orientation 1-8 from the first directory of an EXIF block; 1 if it is absent or broken."""
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for entry in range(entries):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, directory + 2 + 12 * entry)
            if tag == 0x0112:
                (value,) = struct.unpack_from(f"{order}{'I' if kind == 4 else 'H'}", tiff, directory + 10 + 12 * entry)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


@contextlib.contextmanager
def _decoding(image_format: str) -> Iterator[None]:
    """Turns whatever the decoder raises into `DamagedImage`; the original stays as the cause, for the log."""
    try:
        yield
    except PentimentoError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly anything on hostile data, MemoryError included.
        raise DamagedImage(
            f"The {image_format} file is damaged or incomplete.", metadata={"format": image_format}
        ) from error


def _open(content: bytes, image_format: str) -> ImageFile.ImageFile:
    """The picture as Pillow sees it, not yet decoded, without the check for Pillow's own limit on pixels."""
    return _PLUGINS[image_format](io.BytesIO(containers.bare(content, image_format)))


def _is_jpeg_whole(content: bytes, header: containers.Header) -> bool:
    """Decodes a JPEG at an eighth of its size, strictly: Pillow fills what the data lacks with grey, and says nothing.

    Returns False if it cannot tell (a kind of JPEG that only Pillow reads).

    Raises:
        DamagedImage: the data is broken or ends early, be it with the marker of a proper end.
    """
    try:
        simplejpeg.decode_jpeg(
            containers.bare(content, "JPEG"),
            "CMYK" if header.mode == "CMYK" else "GRAY",
            fastdct=True,
            fastupsample=True,
            min_height=1,
            min_width=1,
            min_factor=_CHECKED_AT,
            strict=True,
        )
    except ValueError as error:
        complaint = str(error)
        if _BEHIND_THE_PICTURE in complaint:
            return True
        if complaint.startswith(_DAMAGED_JPEG):
            raise DamagedImage(
                "The JPEG file is damaged or incomplete: data of a part of the picture is broken or missing.",
                metadata={"format": "JPEG"},
            ) from error
        return False
    return True


def _is_png_inflatable(content: bytes) -> bool:
    """Inflates a PNG's image data piece by piece, and checks its length and each row's filter.

    Returns False if it cannot tell (interlaced).

    Raises:
        DamagedImage: the data is broken or ends early.
    """
    bare = containers.bare(content, "PNG")
    width, height, depth, colour = struct.unpack_from(">IIBB", bare, 16)
    if bare[28]:
        return False
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    stride = 1 + (width * channels * depth + 7) // 8
    missing, offset = stride * height, 0
    inflater = zlib.decompressobj()
    with _decoding("PNG"):
        for kind, start, end in containers.png_chunks(bare):
            data = bare[start:end] if kind == b"IDAT" else b""
            while data and missing > 0:
                piece = inflater.decompress(data, min(_INFLATE_STEP, missing))
                data = inflater.unconsumed_tail
                filters = piece[(-offset) % stride :: stride]
                if filters and max(filters) > 4:
                    raise DamagedImage("The PNG file has a broken row.")
                offset, missing = offset + len(piece), missing - len(piece)
                if not piece and not data:
                    break
        if missing > 0:
            raise DamagedImage("The PNG file ends within its image data.")
    return True


def _gif_place(content: bytes) -> tuple[int, int]:
    _, frame, _ = containers.read_gif(content)
    return frame.left, frame.top


def _split_alpha(image: Image.Image, header: containers.Header) -> tuple[Image.Image, Image.Image | None]:
    """Splits a decoded picture into colour (L, RGB or CMYK, 8 bit) and alpha (L, or None if opaque)."""
    transparency = image.info.get("transparency")
    if image.mode == "P":
        if transparency is None:
            return image.convert("RGB"), None
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        # Pillow has no mode for two 16-bit channels and spreads grey with alpha over four.
        return image.convert("RGB") if header.mode != "LA" else image.getchannel(0), image.getchannel("A")
    if image.mode == "LA":
        return image.getchannel("L"), image.getchannel("A")
    if image.mode.startswith("I"):
        samples = np.asarray(image)
        colour = Image.fromarray((samples >> 8).astype(np.uint8))
        return colour, _key_alpha(samples == transparency) if transparency is not None else None
    colour = image.convert("L") if image.mode == "1" else image
    return colour, _transparent_colour(colour, transparency, header)


def _transparent_colour(colour: Image.Image, transparency: object, header: containers.Header) -> Image.Image | None:
    """Alpha of a picture in which one colour (or grey) stands for transparent, as PNG and GIF have it."""
    samples = np.asarray(colour)
    if isinstance(transparency, tuple) and header.bits == 8:
        # With 16 bits the pixels have lost their low bytes, and cannot be compared with the transparent colour.
        return _key_alpha((samples == np.asarray(transparency)).all(axis=2))
    if isinstance(transparency, int):
        # A GIF whose palette is a grey ramp comes as grey. PNG counts in samples as stored, the pixels go to 255.
        key = transparency * 255 // (2**header.bits - 1) if header.format == "PNG" else transparency
        return _key_alpha(samples == key)
    return None


def _key_alpha(transparent: NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(np.where(transparent, 0, 255).astype(np.uint8))


def _to_srgb(colour: Image.Image, icc_profile: bytes) -> Image.Image:
    """Converts L, RGB or CMYK to sRGB by its profile, or plainly if there is none that can be used."""
    if icc_profile:
        try:
            transform = ImageCms.buildTransform(
                ImageCms.ImageCmsProfile(io.BytesIO(icc_profile)),
                ImageCms.createProfile("sRGB"),
                colour.mode,
                "RGB",
                ImageCms.Intent.PERCEPTUAL,
            )
            probe = _probe(colour.mode)
            moved = 255
            if probe is not None:
                before = np.asarray(probe.convert("RGB")).astype(np.int16)
                moved = int(np.abs(np.asarray(transform.apply(probe)).astype(np.int16) - before).max())
            if moved > SAME_COLOUR:
                return transform.apply(colour)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass  # A broken profile, or one for another kind of picture, says nothing about these pixels.
    return colour if colour.mode == "RGB" else colour.convert("RGB")


def _probe(mode: str) -> Image.Image | None:
    """A small picture with colours from all over the given space, to see what a transform does; None for CMYK."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    if mode == "RGB":
        steps = np.linspace(0, 255, 9).astype(np.uint8)
        grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1)
        return Image.fromarray(grid.reshape(27, 27, 3))
    return None


def _pixels(rgb: Image.Image) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.array(rgb, dtype=np.uint8, order="C")
    pixels.flags.writeable = False
    return pixels


def _working_size(width: int, height: int) -> tuple[int, int]:
    """The largest (width, height) of the same shape, and not larger, with at most `WORKING_PIXELS` pixels."""
    if width * height <= WORKING_PIXELS:
        return width, height
    scale = math.sqrt(WORKING_PIXELS / (width * height))
    smaller_width = max(1, int(width * scale))
    smaller_height = max(1, min(int(height * scale), WORKING_PIXELS // smaller_width))
    return min(smaller_width, WORKING_PIXELS // smaller_height), smaller_height
