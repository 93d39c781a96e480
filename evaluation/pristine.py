"""Pristine pictures that the repository makes for itself: the honest half of the gate, and the ground for forgeries.

1. Photographs that scikit-image ships in its wheel (its README names authors and licences: public domain or CC0, or as
   free), reduced and cropped. Nothing is downloaded: what the wheel lacks is not asked for.
2. Procedural pictures with what photographs have, above all what makes honest ones look forged: sensor noise, smooth
   skies, textures that repeat (bricks, windows, letters) without one part being a copy of another.

Deterministic: the same arguments give the same pixels.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

__all__ = ["PHOTOGRAPHS", "SCENES", "Paint", "Pristine", "photographs", "pristine_pictures", "procedural", "rendered"]

RGB = NDArray[np.uint8]
Floats = NDArray[np.float32]
Paint = Callable[[int, int, np.random.Generator], Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pristine:
    """An honest picture.

    Attributes:
        name: unique among the pictures of one call, fit for a file name.
        source: equal for all pictures of one scene (both motorcycles, two crops), to group by.
        photograph: True for a camera's picture, False for a procedural one.
        rgb: uint8 (h, w, 3).
    """

    name: str
    source: str
    photograph: bool
    rgb: RGB


PHOTOGRAPHS: Final[dict[str, str]] = {
    "astronaut.png": "astronaut",
    "camera.png": "camera",
    "cell.png": "cell",
    "chelsea.png": "chelsea",
    "clock_motion.png": "clock",
    "coffee.png": "coffee",
    "coins.png": "coins",
    "hubble_deep_field.jpg": "hubble",
    "ihc.png": "ihc",
    "moon.png": "moon",
    "motorcycle_left.png": "motorcycle",
    "motorcycle_right.png": "motorcycle",
    "page.png": "page",
    "retina.jpg": "retina",
    "rocket.jpg": "rocket",
    "text.png": "text",
}
"""The photographs in scikit-image's wheel, and their source.

Left out are drawings and test patterns, and also grass.png, gravel.png and brick.png: they come from texture libraries
for computer graphics, which clone parts to make a texture seamless. In grass.png the region at (348, 58) appears again
at (351, 220), with a correlation of the fine detail of 0.97; in gravel.png that at (406, 0) at (441, 273), with 0.87.
"""


def pristine_pictures(*, size: int = 384, variants: int = 2) -> Iterator[Pristine]:
    """All photographs, then `variants` procedural pictures of every scene."""
    yield from photographs(size=size)
    yield from procedural(size=size, variants=variants)


def photographs(*, size: int = 384) -> Iterator[Pristine]:
    """The photographs, at most `size` pixels long; a picture of more than twice that is cropped to its middle first.

    Grey ones become three equal channels. Small ones are not enlarged.

    Raises:
        FileNotFoundError: this scikit-image ships other pictures than `PHOTOGRAPHS` names.
    """
    folder = Path(skimage.data.__file__).parent
    for file, source in PHOTOGRAPHS.items():
        with Image.open(folder / file) as image:
            rgb = np.array(image.convert("RGB"), dtype=np.uint8)
        height, width = rgb.shape[:2]
        rows, columns = min(height, 2 * size), min(width, 2 * size)
        top, left = (height - rows) // 2, (width - columns) // 2
        rgb = rgb[top : top + rows, left : left + columns]
        factor = size / max(rows, columns)
        if factor < 1.0:
            smaller = round(columns * factor), round(rows * factor)
            rgb = np.asarray(cv2.resize(rgb, smaller, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        yield Pristine(name=Path(file).stem, source=source, photograph=True, rgb=np.ascontiguousarray(rgb))


def procedural(*, size: int = 384, variants: int = 2) -> Iterator[Pristine]:
    """`variants` pictures of every scene of `SCENES`, `size` x 3/4 `size` pixels, each through the same camera."""
    yield from rendered(SCENES, size=size, variants=range(variants))


def rendered(scenes: Mapping[str, Paint], *, size: int, variants: Iterable[int]) -> Iterator[Pristine]:
    """A picture of every scene for every number of a variant, `size` x 3/4 `size` pixels, each through the same camera.

    Args:
        scenes: by name, what paints a scene: height, width and a generator to float32 (height, width, 3) of about 0-1.
        size: the longer side, in pixels.
        variants: numbers; the same name and number give the same picture.
    """
    height, width = round(size * 0.75), size
    chosen = list(variants)
    for scene, paint in scenes.items():
        for variant in chosen:
            rng = np.random.default_rng([zlib.crc32(scene.encode()), variant])
            rgb = _camera(paint(height, width, rng), rng)
            yield Pristine(name=f"{scene}_{variant}", source=f"{scene}_{variant}", photograph=False, rgb=rgb)


def _camera(scene: Floats, rng: np.random.Generator) -> RGB:
    """A scene, float32 (h, w, 3) in 0-1, as a camera sees it: lens blur, vignetting, shot and read noise.

    Noise is correlated a little, as after demosaicking.
    """
    height, width = scene.shape[:2]
    light = cv2.GaussianBlur(np.clip(scene, 0.0, 1.0), (0, 0), rng.uniform(0.5, 0.8))
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = light * (1.0 - rng.uniform(0.0, 0.2) * (x**2 + y**2) / 2.0)[..., None].astype(np.float32)
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    noise = 0.7 * noise + 0.9 * cv2.GaussianBlur(noise, (0, 0), 0.7)
    spread = np.sqrt(rng.uniform(1.0, 2.5) ** 2 + rng.uniform(2.0, 9.0) * light)
    return np.asarray(np.rint(np.clip(255.0 * light + spread * noise, 0.0, 255.0)), dtype=np.uint8)


# --- Scenes: float32 (h, w, 3), about 0-1 -----------------------------------------------------------------------------


def _fractal(height: int, width: int, rng: np.random.Generator, slope: float = 1.0) -> Floats:
    """Noise whose amplitude falls as 1 / frequency^slope, as in photographs; float32 (h, w), mean 0, deviation 1.

    D. J. Field, "Relations between the statistics of natural images and the response properties of cortical cells",
    1987. 10.1364/JOSAA.4.002379
    """
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf
    phases = rng.standard_normal(frequency.shape) + 1j * rng.standard_normal(frequency.shape)
    field = np.fft.irfft2(phases / frequency**slope, s=(height, width))
    return np.asarray((field - field.mean()) / field.std(), dtype=np.float32)


def _tinted(grey: Floats, dark: tuple[float, float, float], bright: tuple[float, float, float]) -> Floats:
    """Grey 0-1 spread between two colours."""
    share = np.clip(grey, 0.0, 1.0)[..., None]
    return np.asarray(np.array(dark) * (1.0 - share) + np.array(bright) * share, dtype=np.float32)


def _askew(scene: Floats, rng: np.random.Generator, reach: float) -> Floats:
    """The scene as seen not quite from the front; its corners move outwards by up to `reach` of its sides."""
    height, width = scene.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    outwards = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * rng.uniform(0.0, reach, (4, 2)) * [width, height]
    matrix = cv2.getPerspectiveTransform(corners, (corners + outwards).astype(np.float32))
    return np.asarray(cv2.warpPerspective(scene, matrix, (width, height), flags=cv2.INTER_CUBIC), dtype=np.float32)


def _rock(height: int, width: int, rng: np.random.Generator) -> Floats:
    texture = 0.5 + 0.16 * _fractal(height, width, rng, 0.9) + 0.1 * _fractal(height, width, rng, 1.6)
    return _tinted(texture, (0.16, 0.13, 0.11), (0.85, 0.8, 0.72))


def _clouds(height: int, width: int, rng: np.random.Generator) -> Floats:
    depth = np.linspace(0.0, 0.35, height, dtype=np.float32)[:, None]
    cover = np.clip(0.45 + 0.28 * _fractal(height, width, rng, 1.7) + depth, 0.0, 1.0)
    return _tinted(cover, (0.22, 0.42, 0.75), (0.95, 0.96, 0.98))


def _evening_sky(height: int, width: int, rng: np.random.Generator) -> Floats:
    """A smooth gradient over a dark skyline: hardly anything but noise to look at."""
    depth = np.repeat(np.linspace(0.0, 1.0, height, dtype=np.float32)[:, None], width, axis=1)
    scene = _tinted(depth**1.4, (0.1, 0.16, 0.38), (0.95, 0.6, 0.35))
    roofs = np.repeat(rng.uniform(0.06, 0.25, width // 24 + 1), 24)[:width]
    skyline = depth > 1.0 - roofs[None, :]
    ground = _tinted(0.2 + 0.08 * _fractal(height, width, rng, 1.0), (0.02, 0.02, 0.03), (0.3, 0.28, 0.3))
    return np.where(skyline[..., None], ground, scene)


def _hills(height: int, width: int, rng: np.random.Generator) -> Floats:
    """Ridges behind each other, paler with distance, each with its own texture."""
    scene = _clouds(height, width, rng)
    y = np.linspace(0.0, 1.0, height, dtype=np.float32)[:, None]
    for layer in range(4):
        ridge = 0.35 + 0.15 * layer + 0.06 * _fractal(2, width * 2, rng, 1.4)[0, :width]
        texture = 0.45 + 0.2 * _fractal(height, width, rng, 0.7 + 0.1 * layer)
        near = layer / 3.0
        colour = _tinted(
            texture, (0.3 - 0.25 * near, 0.36 - 0.2 * near, 0.42 - 0.36 * near), (0.6, 0.68, 0.7 - 0.35 * near)
        )
        scene = np.where((y > ridge[None, :])[..., None], colour, scene)
    return scene


def _bricks(height: int, width: int, rng: np.random.Generator) -> Floats:
    """Honest repetition: equal outlines, but every brick has its own colour, wear and tilt."""
    scene = _tinted(0.55 + 0.1 * _fractal(height, width, rng, 0.7), (0.4, 0.38, 0.36), (0.85, 0.83, 0.8))
    texture = _fractal(height, width, rng, 0.6)
    brick_height, brick_width = int(rng.integers(18, 28)), int(rng.integers(44, 64))
    for row in range(-1, height // brick_height + 1):
        for column in range(-1, width // brick_width + 1):
            corner = np.array([column * brick_width + (row % 2) * brick_width // 2, row * brick_height])
            box = np.array([[2, 2], [brick_width - 2, 2], [brick_width - 2, brick_height - 2], [2, brick_height - 2]])
            mask = np.zeros((height, width), np.uint8)
            cv2.fillPoly(mask, [np.rint(corner + box + rng.uniform(-1, 1, (4, 2))).astype(np.int32)], 1)
            tone = rng.uniform(0.25, 0.75)
            inside = mask.astype(bool)
            scene[inside] = _tinted(tone + 0.12 * texture[inside], (0.3, 0.12, 0.08), (0.8, 0.45, 0.33))
    return scene


def _windows(height: int, width: int, rng: np.random.Generator) -> Floats:
    """A façade: the same window again and again, with other curtains and reflections in each."""
    scene = _tinted(0.6 + 0.08 * _fractal(height, width, rng, 0.8), (0.45, 0.42, 0.36), (0.86, 0.82, 0.74))
    sky = 0.4 + 0.25 * _fractal(height, width, rng, 1.5)
    wear = _fractal(height, width, rng, 0.8)
    step_x, step_y = int(rng.integers(40, 56)), int(rng.integers(48, 64))
    for top in range(12, height - 30, step_y):
        for left in range(12, width - 24, step_x):
            bottom, right = min(top + step_y - 20 + int(rng.integers(3)), height), min(left + step_x - 18, width)
            cv2.rectangle(scene, (left - 3, top - 3), (right + 2, bottom + 2), (0.9, 0.88, 0.85), -1)
            pane = _tinted(sky[top:bottom, left:right] * rng.uniform(0.3, 1.0), (0.05, 0.07, 0.1), (0.75, 0.82, 0.9))
            curtain = rng.uniform(0.0, 0.5)
            pane[:, : int(curtain * (right - left))] = rng.uniform(0.4, 0.9, 3)
            if rng.random() < 0.25:
                pane[...] = (
                    np.array([0.95, 0.8, 0.5]) * rng.uniform(0.7, 1.0) + 0.1 * wear[top:bottom, left:right, None]
                )
            scene[top:bottom, left:right] = pane
            middle = (left + right) // 2
            cv2.line(scene, (middle, top), (middle, bottom), (0.88, 0.86, 0.83), 2)
    return _askew(scene + 0.03 * wear[..., None], rng, 0.08)


def _letters(height: int, width: int, rng: np.random.Generator) -> Floats:
    """A page of print: the same letters again and again."""
    paper = 0.86 + 0.02 * _fractal(height, width, rng, 1.5)
    page = np.full((height, width), 0.0, np.float32)
    words = [
        "the",
        "picture",
        "trace",
        "beneath",
        "earlier",
        "of",
        "and",
        "layer",
        "paint",
        "under",
        "light",
        "a",
        "is",
    ]
    for baseline in range(28, height - 8, 19):
        x = 16
        while x < width - 40:
            word = words[int(rng.integers(len(words)))]
            cv2.putText(page, word, (x, baseline), cv2.FONT_HERSHEY_COMPLEX_SMALL, 0.62, 1.0, 1, cv2.LINE_AA)
            x += 11 * len(word) + 10
    # Ink spreads and fades from letter to letter, and paper is not flat.
    spread = cv2.GaussianBlur(page, (0, 0), 0.7) * (1.25 + 0.3 * _fractal(height, width, rng, 0.6))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    shift = 1.5 * np.stack([_fractal(height, width, rng, 1.6) for _ in range(2)])
    ink = cv2.remap(spread, x + shift[0], y + shift[1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    return _askew(_tinted(paper - 0.75 * np.clip(ink, 0.0, 1.0), (0.05, 0.05, 0.08), (1.0, 0.97, 0.9)), rng, 0.06)


def _tiles(height: int, width: int, rng: np.random.Generator) -> Floats:
    """A tiled floor in perspective, slightly turned, two colours in turn."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    distance = height * 0.9 / (y + height * rng.uniform(0.25, 0.5))
    count, turn = rng.uniform(6.0, 11.0), rng.uniform(-0.3, 0.3)
    across, down = (x - width * rng.uniform(0.3, 0.7)) / width * distance * count, distance * count
    across, down = across + turn * down, down - turn * across
    odd = (np.floor(across) + np.floor(down)) % 2
    joint = np.minimum(np.abs(across - np.rint(across)), np.abs(down - np.rint(down))) < 0.04
    wear = 0.09 * _fractal(height, width, rng, 1.2) + 0.05 * _fractal(height, width, rng, 0.5)
    tone = np.where(odd > 0, 0.72, 0.34).astype(np.float32) + wear.astype(np.float32)
    return _tinted(np.where(joint, np.float32(0.15), tone), (0.08, 0.09, 0.12), (0.95, 0.92, 0.84))


def _leaves(height: int, width: int, rng: np.random.Generator) -> Floats:
    """Dead leaves: discs over one another, which have the edges and the scale invariance of photographs.

    A. B. Lee et al., "Occlusion models for natural images", 2001. 10.1023/A:1011109015675
    """
    scene = np.zeros((height, width, 3), np.float32)
    texture = _fractal(height, width, rng, 0.8)
    radii = np.sort(10.0 ** rng.uniform(0.6, 1.9, 700))[::-1]
    for radius in radii:
        centre = int(rng.integers(width)), int(rng.integers(height))
        axes = max(2, int(radius)), max(2, int(radius * rng.uniform(0.4, 1.0)))
        mask = np.zeros((height, width), np.uint8)
        cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        inside = mask.astype(bool)
        colour = np.array([0.3, 0.5, 0.2]) + rng.uniform(-0.22, 0.25, 3)
        scene[inside] = colour + 0.07 * rng.uniform(0.2, 1.5) * texture[inside][:, None]
    return scene


def _still_life(height: int, width: int, rng: np.random.Generator) -> Floats:
    """Shaded balls on a table: smooth shading, soft shadows, shallow depth."""
    depth = np.repeat(np.linspace(0.0, 1.0, height, dtype=np.float32)[:, None], width, axis=1)
    wall = _tinted(0.45 + 0.1 * depth + 0.03 * _fractal(height, width, rng, 2.0), (0.25, 0.3, 0.33), (0.85, 0.85, 0.8))
    grain = cv2.resize(_fractal(height, max(8, width // 12), rng, 0.9), (width, height), interpolation=cv2.INTER_CUBIC)
    table = _tinted(0.5 + 0.16 * grain, (0.2, 0.1, 0.05), (0.75, 0.5, 0.3))
    scene = np.where((depth > 0.55)[..., None], table, wall)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    for _ in range(6):
        radius = rng.uniform(0.07, 0.15) * width
        centre_x, centre_y = rng.uniform(0.1, 0.9) * width, rng.uniform(0.5, 0.85) * height
        shadow = np.exp(
            -(((x - centre_x - 0.5 * radius) / radius) ** 2 + ((y - centre_y - 0.9 * radius) / (0.35 * radius)) ** 2)
        )
        scene = scene * (1.0 - 0.6 * shadow)[..., None]
        u, v = (x - centre_x) / radius, (y - centre_y) / radius
        inside = u**2 + v**2 < 1.0
        normal = np.sqrt(np.maximum(0.0, 1.0 - u**2 - v**2))
        shade = np.clip(-0.5 * u - 0.6 * v + 0.6 * normal, 0.0, 1.0)
        gloss = np.exp(-((u + 0.35) ** 2 + (v + 0.4) ** 2) / 0.02)
        skin = rng.uniform(0.2, 0.95, 3) * (1.0 + 0.06 * _fractal(height, width, rng, 1.1)[..., None])
        scene = np.where(inside[..., None], skin * (0.15 + 0.85 * shade)[..., None] + 0.6 * gloss[..., None], scene)
    return np.asarray(scene, dtype=np.float32)


def _fabric(height: int, width: int, rng: np.random.Generator) -> Floats:
    """Woven cloth in folds: a fine regular pattern, bent."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    folds = _fractal(height, width, rng, 2.2)
    pitch = rng.uniform(5.0, 8.0)
    warp = np.sin(2.0 * math.pi * (x + 9.0 * folds) / pitch) * np.sin(2.0 * math.pi * (y + 7.0 * folds) / pitch)
    tone = 0.5 + 0.13 * warp + 0.16 * folds + 0.06 * _fractal(height, width, rng, 0.4)
    return _tinted(tone, (0.12, 0.1, 0.25), (0.75, 0.7, 0.85))


SCENES: Final[dict[str, Paint]] = {
    "rock": _rock,
    "clouds": _clouds,
    "evening_sky": _evening_sky,
    "hills": _hills,
    "bricks": _bricks,
    "windows": _windows,
    "letters": _letters,
    "tiles": _tiles,
    "leaves": _leaves,
    "still_life": _still_life,
    "fabric": _fabric,
}
"""What a procedural picture can show."""
