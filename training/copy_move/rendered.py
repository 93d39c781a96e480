"""Rendered pictures full of parts that look alike by nature: letters, windows, wallpaper, products in rows.

They teach the trees what honest repetition is. `evaluation.repetition` judges the result with other pictures, so
nothing is shared with it: neither its scenes nor its camera. Every part is drawn at a place and in a light of its own
or seen in perspective, and noise is drawn for every pixel; a screenshot alone has neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

import cv2
import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["PAINTERS", "products"]

RGB = NDArray[np.uint8]
Floats = NDArray[np.float32]
Paint = Callable[[int, int, np.random.Generator], RGB]

TEXT: Final = (
    "Die Stadt liegt am Fluss und im Herbst steigt Nebel auf; nobody knew who had written the note, yet all had read "
    "it. Rien ne va plus 1987 2024 Quarterly figures rose by 4.2 percent in March"
)
"""Words are drawn from it."""


def products(background: RGB, picture: RGB, rng: np.random.Generator) -> RGB:
    """A piece of `picture` in rows before `background`, each one a little turned, rescaled, lit and left out at times.

    Args:
        background: uint8 (h, w, 3); the result has its size.
        picture: uint8 (h', w', 3), both sides above 40 pixels.
        rng: where chance comes from.
    """
    height, width = background.shape[:2]
    side = min(int(rng.uniform(40, 150)), min(picture.shape[:2]) - 2)
    top, left = rng.integers(picture.shape[0] - side), rng.integers(picture.shape[1] - side)
    piece = picture[top : top + side, left : left + side].astype(np.float32)
    shape = np.zeros((side, side), np.float32)
    if rng.random() < 0.5:
        shape[1:-1, 1:-1] = 1.0
    else:
        cv2.circle(shape, (side // 2, side // 2), side // 2 - 1, 1.0, cv2.FILLED, cv2.LINE_AA)
    resized, tilted, lit = rng.choice([0.0, 0.01, 0.03]), rng.choice([0.0, 1.0, 4.0]), rng.choice([0.02, 0.08, 0.15])
    size = rng.uniform(0.5, 1.0)
    step = side * size * rng.uniform(1.02, 1.5)
    first_x, first_y = rng.uniform(0, step, 2)
    scene = background.astype(np.float32)
    for y in np.arange(first_y, height + step, step):
        for x in np.arange(first_x, width + step, step):
            if rng.random() < 0.25:
                continue
            angle, own = math.radians(rng.normal(0, tilted)), size * (1 + rng.normal(0, resized))
            c, s = own * math.cos(angle), own * math.sin(angle)
            matrix = np.array([[c, -s, x + rng.uniform(-2, 2)], [s, c, y + rng.uniform(-2, 2)]])
            weight = cv2.warpAffine(shape, matrix, (width, height), flags=cv2.INTER_AREA)[..., None]
            shown = cv2.warpAffine(piece, matrix, (width, height), flags=cv2.INTER_CUBIC)
            scene = np.asarray(scene * (1 - weight) + shown * weight * rng.uniform(1 - lit, 1 + lit), np.float32)
    return _camera(_askew(scene, rng, 0.08) if rng.random() < 0.5 else scene, rng)


def _screenshot(height: int, width: int, rng: np.random.Generator) -> RGB:
    """A page of text as a screen shows it: no grain, no light, equal letters exactly equal."""
    paper = tuple(rng.integers(200, 256, 3).tolist())
    image = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(image)
    size = int(rng.uniform(11, 34))
    files = _font_files()
    font = ImageFont.truetype(files[rng.integers(len(files))], size)
    ink = tuple(rng.integers(0, 90, 3).tolist())
    words, y = TEXT.split(), rng.uniform(2, 20)
    while y < height:
        x = rng.uniform(4, 30)
        while x < width - 20:
            word = str(rng.choice(words))
            draw.text((x, y), word, fill=ink, font=font)
            x += draw.textlength(f"{word} ", font=font)
        y += size * rng.uniform(1.2, 1.5)
    return np.array(image, np.uint8)


@cache
def _font_files() -> tuple[Path, ...]:
    """The DejaVu fonts that Matplotlib ships."""
    return tuple(sorted(Path(mpl.get_data_path(), "fonts", "ttf").glob("DejaVu*.ttf")))


def _letters(height: int, width: int, rng: np.random.Generator) -> RGB:
    """A printed page, photographed."""
    paper = 1 + 0.03 * _uneven(height, width, rng, 1.3)
    scene = np.asarray(_screenshot(height, width, rng) * paper, np.float32)
    return _camera(_askew(scene, rng, 0.07) if rng.random() < 0.7 else scene, rng)


def _front(height: int, width: int, rng: np.random.Generator) -> RGB:
    """The front of a house: windows in rows, with bars and sills, half of them with a blind."""
    broad, tall = int(rng.uniform(24, 60)), int(rng.uniform(30, 70))
    step_x, step_y = broad + int(rng.uniform(8, 40)), tall + int(rng.uniform(8, 40))
    plaster = 1 + rng.uniform(0.02, 0.12) * _uneven(height, width, rng, rng.uniform(0.6, 1.3))
    scene = np.asarray(rng.uniform(90, 220, 3) * plaster, np.float32)
    frame, glass, bars = rng.uniform(30, 250, 3), rng.uniform(20, 140, 3), int(rng.integers(1, 4))
    for y in range(int(rng.uniform(0, step_y)), height, step_y):
        for x in range(int(rng.uniform(0, 8)), width, step_x):
            cv2.rectangle(scene, (x, y), (x + broad, y + tall), frame.tolist(), cv2.FILLED)
            pane = glass * rng.uniform(0.7, 1.3)
            cv2.rectangle(scene, (x + 3, y + 3), (x + broad - 3, y + tall - 3), pane.tolist(), cv2.FILLED)
            if rng.random() < 0.5:
                low = y + 3 + int(rng.uniform(0.1, 0.9) * tall)
                cv2.rectangle(scene, (x + 3, y + 3), (x + broad - 3, low), (0.5 * pane + 90).tolist(), cv2.FILLED)
            for bar in range(1, bars + 1):
                at = x + bar * broad // (bars + 1)
                cv2.line(scene, (at, y), (at, y + tall), frame.tolist(), 2)
            sill = (x - 2, y + tall), (x + broad + 2, y + tall + 5)
            cv2.rectangle(scene, *sill, (0.8 * frame).tolist(), cv2.FILLED)
    return _camera(_askew(scene, rng, 0.12) if rng.random() < 0.75 else scene, rng)


def _wallpaper(height: int, width: int, rng: np.random.Generator) -> RGB:
    """A motif of discs, lines and ellipses that repeats over a wall or, crumpled, over cloth."""
    side = int(rng.uniform(40, 110))
    motif = np.full((side, side, 3), rng.uniform(60, 230, 3), np.float32)
    for _ in range(int(rng.integers(4, 12))):
        colour, figure = rng.uniform(0, 255, 3).tolist(), int(rng.integers(3))
        (x, y), radius = rng.integers(0, side, 2).tolist(), int(rng.uniform(3, side / 4))
        if figure == 0:
            cv2.circle(motif, (x, y), radius, colour, cv2.FILLED, cv2.LINE_AA)
        elif figure == 1:
            cv2.line(motif, (x, y), rng.integers(0, side, 2).tolist(), colour, 2, cv2.LINE_AA)
        else:
            axes = (radius, max(2, radius // 2))
            cv2.ellipse(motif, (x, y), axes, rng.uniform(0, 180), 0, 360, colour, cv2.FILLED, cv2.LINE_AA)
    size, turn = rng.uniform(0.6, 1.2), rng.uniform(-0.3, 0.3)
    folds = rng.choice([0.0, 0.0, 3.0, 8.0]) * _uneven(height, width, rng, 2.2)[..., 0]
    y_of, x_of = np.mgrid[:height, :width].astype(np.float32)
    from_x = (x_of * math.cos(turn) + y_of * math.sin(turn) + folds) / size % side
    from_y = (y_of * math.cos(turn) - x_of * math.sin(turn) + folds) / size % side
    motif = np.asarray(cv2.copyMakeBorder(motif, 0, 1, 0, 1, cv2.BORDER_WRAP), np.float32)
    papered = cv2.remap(motif, from_x.astype(np.float32), from_y.astype(np.float32), cv2.INTER_LINEAR)
    scene = np.asarray(papered * (1 + rng.uniform(0, 0.06) * _uneven(height, width, rng, 0.8)), np.float32)
    return _camera(_askew(scene, rng, 0.1) if rng.random() < 0.6 else scene, rng)


PAINTERS: Final[dict[str, Paint]] = {
    "letters": _letters,
    "front": _front,
    "wallpaper": _wallpaper,
    "screenshot": _screenshot,
}
"""Height, width and a generator to a picture, uint8 (height, width, 3)."""


# --- What they share: scenes are float32 (h, w, 3), 0-255 -------------------------------------------------------------


def _uneven(height: int, width: int, rng: np.random.Generator, slope: float) -> Floats:
    """Noise whose amplitude falls as 1 / frequency^slope: float32 (h, w, 1), mean 0, deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf
    phases = rng.standard_normal(frequency.shape) + 1j * rng.standard_normal(frequency.shape)
    field = np.fft.irfft2(phases / frequency**slope, s=(height, width))
    return np.asarray(((field - field.mean()) / field.std())[..., None], np.float32)


def _askew(scene: Floats, rng: np.random.Generator, reach: float) -> Floats:
    """Seen not quite from the front: corners move outwards by up to `reach` of the sides."""
    height, width = scene.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    outwards = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * rng.uniform(0, reach, (4, 2)) * [width, height]
    matrix = cv2.getPerspectiveTransform(corners, (corners + outwards).astype(np.float32))
    seen = cv2.warpPerspective(scene, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(seen, np.float32)


def _camera(scene: Floats, rng: np.random.Generator) -> RGB:
    """Uneven light at times, lens blur, and shot and read noise, at times correlated as demosaicking leaves it."""
    height, width = scene.shape[:2]
    if rng.random() < 0.7:
        light = cv2.resize(
            rng.uniform(0.75, 1.2, (3, 4)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
        )
        scene = np.asarray(scene * light[..., None], np.float32)
    seen = cv2.GaussianBlur(np.asarray(np.clip(scene, 0, 255), np.float32), (0, 0), rng.uniform(0.4, 1.1))
    noise = np.asarray(rng.standard_normal(seen.shape), np.float32)
    if rng.random() < 0.5:
        noise = np.asarray(0.8 * noise + 0.8 * cv2.GaussianBlur(noise, (0, 0), 0.8), np.float32)
    spread = np.sqrt(rng.uniform(0.6, 3) ** 2 + rng.uniform(0, 8) * np.maximum(seen, 0) / 255)
    return np.asarray(np.clip(np.rint(seen + noise * spread), 0, 255), np.uint8)
