"""What happens to pictures on their way: robustness curves and laundering cases.

A `Degradation` maps a file to a file, and a mask to the mask of the degraded picture. A `Curve` is a family of them
with one number, its level, that grows worse along `Curve.levels`:

    for curve in curves().values():
        for step in curve.steps():
            degraded, truth = step.apply(content), step.map_mask(mask)

All are pure: noise is seeded by the file's own content, and geometry depends on the picture's size and the level only.
Pixels are read as every detector sees them (upright, sRGB). Results carry no metadata, except where a laundering case
plants some. What is no codec itself (resize, blur, noise, crop, gamma, screenshot) is saved as PNG, so that a curve
shows one cause at a time.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation._metadata import decode, strip_metadata, transplant_exif
from evaluation.forgery import Encoding

__all__ = ["UNCHANGED", "Curve", "Degradation", "curves", "laundering"]

RGB = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]

_PNG: Final = Encoding(format="png")
_MIN_SIDE: Final = 16
"""No degradation makes a side shorter than this, in pixels."""
_MESSENGER_SIDE: Final = 1600
"""Longest side, in pixels, that messengers send."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """One thing that happens to a picture.

    Attributes:
        name: lower_snake_case, of the curve or laundering case.
        level: where on the curve; 0 for a case without levels.
        apply: the degraded file of a file (JPEG, PNG, WebP or GIF).
        map_mask: the mask in the degraded picture, of a bool (h, w) mask in the upright picture. It may come out empty
            where the forged part was cropped away.
    """

    name: str
    level: float
    apply: Callable[[bytes], bytes]
    map_mask: Callable[[Mask], Mask]

    @property
    def label(self) -> str:
        """Name and level, as in "jpeg 75"."""
        return f"{self.name} {self.level:g}" if self.level else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A family of degradations with one axis.

    Attributes:
        name: lower_snake_case, unique.
        axis: what the level is, with its unit, for a plot.
        levels: mildest first.
        at: the degradation at a level.
    """

    name: str
    axis: str
    levels: tuple[float, ...]
    at: Callable[[float], Degradation]

    def steps(self) -> tuple[Degradation, ...]:
        """The degradations at `levels`."""
        return tuple(self.at(level) for level in self.levels)


def _same(mask: Mask) -> Mask:
    return mask


UNCHANGED: Final = Degradation(name="unchanged", level=0, apply=bytes, map_mask=_same)
"""The beginning of every curve: the file as it is."""


def curves() -> Mapping[str, Curve]:
    """All curves by name, in the order in which they are reported."""
    return _CURVES


def laundering(camera_file: bytes | None = None) -> tuple[Degradation, ...]:
    """What is done to a picture so that nobody can tell: metadata stripped or planted, photographed anew.

    Args:
        camera_file: a JPEG as a camera wrote it, whose EXIF block is planted; without one that case is left out.

    Raises:
        ValueError: the camera file is no JPEG with an EXIF block.
    """
    cases = [Degradation(name="metadata_stripped", level=0, apply=strip_metadata, map_mask=_same)]
    if camera_file is not None:
        camera = camera_file
        transplant_exif(_PNG.encode(np.zeros((16, 16, 3), np.uint8)), camera)

        def transplant(content: bytes) -> bytes:
            return transplant_exif(content, camera)

        cases.append(Degradation(name="metadata_transplanted", level=0, apply=transplant, map_mask=_same))
    return (*cases, _rephotographed_paper(1.0), _rephotographed_screen(1.0))


# --- Building blocks --------------------------------------------------------------------------------------------------


def _of_pixels(
    name: str,
    level: float,
    change: Callable[[RGB], RGB],
    *,
    map_mask: Callable[[Mask], Mask] = _same,
    encoding: Encoding = _PNG,
) -> Degradation:
    def apply(content: bytes) -> bytes:
        return encoding.encode(change(np.asarray(decode(content).rgb)))

    return Degradation(name=name, level=level, apply=apply, map_mask=map_mask)


def _random(rgb: RGB) -> np.random.Generator:
    """A generator seeded by the pixels, so that the same picture gets the same noise."""
    digest = hashlib.sha256(np.ascontiguousarray(rgb).tobytes()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def _to_uint8(pixels: Floats) -> RGB:
    return np.rint(np.clip(pixels, 0.0, 255.0)).astype(np.uint8)


def _scaled(pixels: RGB, scale: float) -> RGB:
    """Area-averaged if made smaller, else bicubic; uint8 (h, w, 3)."""
    height, width = pixels.shape[:2]
    size = _scaled_size(height, width, scale)
    if size == (width, height):
        return pixels
    method = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, size, interpolation=method), dtype=np.uint8)


def _scaled_mask(mask: Mask, scale: float) -> Mask:
    """True where more than half of the new pixel is forged."""
    height, width = mask.shape
    size = _scaled_size(height, width, scale)
    if size == (width, height):
        return mask
    method = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(mask.astype(np.float32), size, interpolation=method) > 0.5)


def _scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    return max(min(_MIN_SIDE, width), round(width * scale)), max(min(_MIN_SIDE, height), round(height * scale))


def _with_gamma(rgb: RGB, gamma: float) -> RGB:
    table = np.rint(255.0 * (np.arange(256) / 255.0) ** gamma).astype(np.uint8)
    return table[rgb]


# --- Curves -----------------------------------------------------------------------------------------------------------


def _jpeg(quality: float) -> Degradation:
    return _of_pixels("jpeg", quality, lambda rgb: rgb, encoding=Encoding(quality=round(quality)))


def _webp(quality: float) -> Degradation:
    return _of_pixels("webp", quality, lambda rgb: rgb, encoding=Encoding(format="webp", quality=round(quality)))


def _resize(scale: float) -> Degradation:
    return _of_pixels("resize", scale, lambda rgb: _scaled(rgb, scale), map_mask=lambda mask: _scaled_mask(mask, scale))


def _blur(sigma: float) -> Degradation:
    return _of_pixels("blur", sigma, lambda rgb: np.asarray(cv2.GaussianBlur(rgb, (0, 0), sigma), dtype=np.uint8))


def _noise(sigma: float) -> Degradation:
    def change(rgb: RGB) -> RGB:
        return _to_uint8(rgb + np.float32(sigma) * _random(rgb).standard_normal(rgb.shape, dtype=np.float32))

    return _of_pixels("noise", sigma, change)


def _crop(kept: float) -> Degradation:
    def window(height: int, width: int) -> tuple[slice, slice]:
        rows, columns = _kept_range(height, kept, 0.37), _kept_range(width, kept, 0.61)
        return slice(*rows), slice(*columns)

    return _of_pixels(
        "crop",
        kept,
        lambda rgb: rgb[window(*rgb.shape[:2])],
        map_mask=lambda mask: mask[window(*mask.shape)],
    )


def _kept_range(length: int, kept: float, place: float) -> tuple[int, int]:
    """First and last + 1 of what is kept of a side; off the 8 x 8 grid, as a hand's crop mostly is."""
    size = max(min(_MIN_SIDE, length), round(length * kept))
    start = round((length - size) * place)
    if start % 8 == 0 and start + 3 + size <= length:
        start += 3
    return start, start + size


def _gamma(gamma: float) -> Degradation:
    return _of_pixels("gamma", gamma, lambda rgb: _with_gamma(rgb, gamma))


def _screenshot(scale: float) -> Degradation:
    """Shown at `scale` in a viewer on another display: rescaled, a slight gamma, a bar above, a border around."""

    def borders(height: int, width: int) -> tuple[int, int, int]:
        return max(4, round(0.07 * height)), max(3, round(0.02 * height)), max(3, round(0.03 * width))

    def change(rgb: RGB) -> RGB:
        shown = _with_gamma(_scaled(rgb, scale), 1.06)
        height, width = shown.shape[:2]
        top, bottom, side = borders(height, width)
        page = np.full((height + top + bottom, width + 2 * side, 3), 245, np.uint8)
        page[:top] = 222
        page[top // 3 : top - top // 3, side : side + width // 3] = 120
        page[top : top + height, side : side + width] = shown
        return page

    def map_mask(mask: Mask) -> Mask:
        shown = _scaled_mask(mask, scale)
        top, bottom, side = borders(*shown.shape)
        return np.pad(shown, ((top, bottom), (side, side)))

    return _of_pixels("screenshot", scale, change, map_mask=map_mask)


def _messenger(quality: float) -> Degradation:
    """Sent by a messenger: at most 1600 pixels long, JPEG with halved colour, metadata gone."""

    def scale(height: int, width: int) -> float:
        return min(1.0, _MESSENGER_SIDE / max(height, width))

    return _of_pixels(
        "messenger",
        quality,
        lambda rgb: _scaled(rgb, scale(*rgb.shape[:2])),
        map_mask=lambda mask: _scaled_mask(mask, scale(*mask.shape)),
        encoding=Encoding(quality=round(quality)),
    )


# --- Photographed anew ------------------------------------------------------------------------------------------------


def _perspective(shape: tuple[int, ...], strength: float, seed: int) -> Matrix:
    """From the picture to its photograph of the same size, float64 (3, 3): slightly askew, a margin around it."""
    height, width = shape[:2]
    rng = np.random.default_rng(seed)
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float32)
    inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    reach = rng.uniform(0.01, 0.06, (4, 2)) * strength * np.array([width, height])
    moved = (corners + inwards * reach).astype(np.float32)
    return np.asarray(cv2.getPerspectiveTransform(corners, moved), dtype=np.float64)


def _positions(height: int, width: int, matrix: Matrix) -> tuple[Floats, Floats]:
    """For each pixel of the photograph the (x, y) in the picture that it shows, float32 (height, width) each."""
    inverse = np.linalg.inv(matrix)
    x, y = np.arange(width, dtype=np.float64)[None, :], np.arange(height, dtype=np.float64)[:, None]
    depth = inverse[2, 0] * x + inverse[2, 1] * y + inverse[2, 2]
    across = (inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]) / depth
    down = (inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]) / depth
    return across.astype(np.float32), down.astype(np.float32)


def _photographed(
    rgb: RGB,
    matrix: Matrix,
    strength: float,
    *,
    pattern: Callable[[Floats, Floats, Floats], Floats],
    background: tuple[int, int, int],
    gamma: float,
) -> RGB:
    """A photograph of a flat picture: perspective, the medium's pattern, uneven light, blur, gamma, sensor noise.

    `pattern` gets the warped picture (h, w, 3) in 0-1 and each pixel's (x, y) on the medium.
    """
    height, width = rgb.shape[:2]
    rng = _random(rgb)
    warped = cv2.warpPerspective(rgb, matrix, (width, height), flags=cv2.INTER_CUBIC, borderValue=background)
    x, y = _positions(height, width, matrix)
    on_medium = ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1))[..., None]
    light = np.asarray(warped, np.float32) / np.float32(255.0)
    light = np.where(on_medium, pattern(light, x, y), light)
    direction = rng.uniform(0.0, 2.0 * math.pi)
    ramp = (x / width - 0.5) * math.cos(direction) + (y / height - 0.5) * math.sin(direction)
    falloff = 1.0 - 0.15 * strength * ((x / width - 0.5) ** 2 + (y / height - 0.5) ** 2)
    light = light * (falloff + 0.12 * strength * ramp)[..., None].astype(np.float32)
    light = cv2.GaussianBlur(light, (0, 0), 0.5 + 0.3 * strength)
    light = np.clip(light, 0.0, 1.0) ** np.float32(gamma)
    spread = 0.006 * strength + 0.012 * strength * np.sqrt(light)
    noisy = light + spread * rng.standard_normal(light.shape, dtype=np.float32)
    return _to_uint8(np.asarray(noisy * 255.0, np.float32))


def _rephotographed_paper(strength: float) -> Degradation:
    """Printed (fewer tones, halftone dots) and photographed on a table."""
    seed = 11

    def halftone(light: Floats, x: Floats, y: Floats) -> Floats:
        tones = np.float32(0.06) + np.float32(0.86) * light
        for channel, degrees in enumerate((15.0, 75.0, 45.0)):
            angle, pitch = math.radians(degrees), 2.0 * math.pi / 2.7
            dots = np.cos(pitch * (x * math.cos(angle) + y * math.sin(angle)))
            dots = dots * np.cos(pitch * (y * math.cos(angle) - x * math.sin(angle)))
            tone = tones[..., channel]
            tones[..., channel] = tone + np.float32(0.35 * strength) * dots * tone * (1.0 - tone)
        return tones

    return _of_pixels(
        "rephotographed_paper",
        strength,
        lambda rgb: _photographed(
            rgb,
            _perspective(rgb.shape, strength, seed),
            strength,
            pattern=halftone,
            background=(112, 84, 58),
            gamma=1.0 + 0.08 * strength,
        ),
        map_mask=lambda mask: _warped_mask(mask, _perspective(mask.shape, strength, seed)),
        encoding=Encoding(quality=round(95 - 8 * strength)),
    )


def _rephotographed_screen(strength: float) -> Degradation:
    """Shown on a display (stripes of red, green and blue) and photographed: the camera's grid beats with it (moiré)."""
    seed = 12

    def stripes(light: Floats, x: Floats, y: Floats) -> Floats:
        amplitude = np.float32(0.07 * strength)
        rows = 1.0 + amplitude * np.cos(2.0 * math.pi * 1.03 * y)
        shown = np.empty_like(light)
        for channel in range(3):
            columns = 1.0 + amplitude * np.cos(2.0 * math.pi * (1.03 * x - channel / 3.0))
            shown[..., channel] = (np.float32(0.03) + light[..., channel] * np.float32(0.97)) * columns * rows
        return shown

    return _of_pixels(
        "rephotographed_screen",
        strength,
        lambda rgb: _photographed(
            rgb,
            _perspective(rgb.shape, strength, seed),
            strength,
            pattern=stripes,
            background=(14, 14, 16),
            gamma=1.0 - 0.08 * strength,
        ),
        map_mask=lambda mask: _warped_mask(mask, _perspective(mask.shape, strength, seed)),
        encoding=Encoding(quality=round(95 - 8 * strength)),
    )


def _warped_mask(mask: Mask, matrix: Matrix) -> Mask:
    height, width = mask.shape
    return np.asarray(cv2.warpPerspective(mask.astype(np.float32), matrix, (width, height)) > 0.5)


_CURVES: Final[Mapping[str, Curve]] = {
    curve.name: curve
    for curve in (
        Curve(name="jpeg", axis="JPEG quality", levels=(95, 90, 80, 70, 60, 50), at=_jpeg),
        Curve(name="webp", axis="WebP quality", levels=(95, 90, 80, 70, 60, 50), at=_webp),
        Curve(name="resize", axis="scale", levels=(1.5, 0.9, 0.75, 0.5, 0.33), at=_resize),
        Curve(name="blur", axis="standard deviation (pixels)", levels=(0.5, 1.0, 1.5, 2.0, 3.0), at=_blur),
        Curve(name="noise", axis="standard deviation (0-255)", levels=(2, 4, 8, 12, 16), at=_noise),
        Curve(name="crop", axis="part of each side kept", levels=(0.95, 0.85, 0.7, 0.5), at=_crop),
        Curve(name="gamma", axis="gamma", levels=(0.9, 1.15, 0.75, 1.35, 0.6, 1.6), at=_gamma),
        Curve(name="screenshot", axis="scale of display", levels=(1.0, 0.75, 0.5), at=_screenshot),
        Curve(name="messenger", axis="JPEG quality", levels=(80, 75, 70), at=_messenger),
        Curve(name="rephotographed_paper", axis="strength", levels=(0.5, 1.0, 1.5), at=_rephotographed_paper),
        Curve(name="rephotographed_screen", axis="strength", levels=(0.5, 1.0, 1.5), at=_rephotographed_screen),
    )
}
