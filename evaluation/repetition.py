"""Honest repetition: pictures full of parts that look alike without one being a copy of another.

1. **Rendered**: windows, bricks, tiles, letters, cloth (the scenes of `pristine`), fences, stripes, logos, foliage and
   balconies. Each thing is drawn anew at its place, at fractions of a pixel and with its own light, and the scene goes
   through a camera with noise of its own at every pixel, so that no two parts share more than their shape.
2. **Photographs** by a stated rule (`self_similarity`): of the given honest pictures those in which most keypoints have
   a double elsewhere. The rule asks for looks alone; no detector has a say.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.forgery import Encoding
from evaluation.pristine import SCENES, Paint, Pristine, rendered
from evaluation.samples import Label, Sample
from services.common.images import decode_image

__all__ = ["PHOTOGRAPHS", "REPETITION", "compose_repetition", "repetition_pictures", "self_similarity"]

RGB = NDArray[np.uint8]
Floats = NDArray[np.float32]

PHOTOGRAPHS: Final = 24
"""Photographs that the rule takes."""

DOUBLE_DISTANCE: Final = 0.45
"""Descriptors (SIFT, unit length) nearer than this are doubles. Unrelated ones are about 1 apart."""
DOUBLE_SHIFT: Final = 0.05
"""Share of the diagonal by which doubles lie apart."""
MAX_KEYPOINTS: Final = 3_000

QUALITIES: Final = (75, 85, 95)


def compose_repetition(
    samples: Sequence[Sample], folder: Path, *, size: int = 512, variants: int = 5, photographs: int = PHOTOGRAPHS
) -> Path:
    """Writes the rendered pictures and a manifest that also names the photographs of the rule; returns the manifest.

    Args:
        samples: among whose honest pictures without a portrait the photographs are chosen.
        folder: where the files go.
        size: longer side of the rendered pictures, in pixels.
        variants: rendered pictures of each scene.
        photographs: how many of the rule.
    """
    folder.mkdir(parents=True, exist_ok=True)
    honest = [sample for sample in samples if sample.label is Label.HONEST and not sample.portrait]
    ranked = sorted(
        honest, key=lambda sample: (-self_similarity(decode_image(sample.path.read_bytes()).working), sample.name)
    )
    manifest = folder / "manifest.csv"
    with manifest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "source", "set"])
        for index, picture in enumerate(repetition_pictures(size=size, variants=range(variants))):
            name = f"{picture.name}.jpg"
            quality = QUALITIES[index % len(QUALITIES)]
            (folder / name).write_bytes(Encoding(format="jpeg", quality=quality).encode(picture.rgb))
            writer.writerow([name, "honest", picture.source, "repetition_rendered"])
        for sample in ranked[:photographs]:
            writer.writerow([sample.path.resolve(), "honest", sample.source, "repetition_photographs"])
    return manifest


def repetition_pictures(*, size: int, variants: Iterable[int]) -> Iterator[Pristine]:
    """The rendered pictures, those of each number of `variants`, before any encoding."""
    yield from rendered(REPETITION, size=size, variants=variants)


def self_similarity(rgb: RGB) -> float:
    """Share of a picture's keypoints that have a double elsewhere in it, 0-1."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    points, raw = cv2.SIFT.create(nfeatures=MAX_KEYPOINTS).detectAndCompute(grey, None)
    if len(points) < 20:
        return 0.0
    places = np.array([point.pt for point in points])
    descriptors = np.asarray(raw, np.float32)
    descriptors /= np.maximum(np.linalg.norm(descriptors, axis=1, keepdims=True), 1e-6)
    apart = DOUBLE_SHIFT * math.hypot(*grey.shape)
    doubled = 0
    for start in range(0, len(points), 500):
        rows = slice(start, start + 500)
        near = descriptors[rows] @ descriptors.T > 1.0 - DOUBLE_DISTANCE**2 / 2
        far = np.linalg.norm(places[rows, None] - places[None], axis=2) >= apart
        doubled += int((near & far).any(axis=1).sum())
    return doubled / len(points)


# --- Scenes: float32 (h, w, 3), about 0-1 -----------------------------------------------------------------------------


def _ground(height: int, width: int, rng: np.random.Generator, slope: float = 1.4) -> Floats:
    """Something uneven behind the things: noise whose amplitude falls with frequency, in a colour."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf
    phases = rng.standard_normal(frequency.shape) + 1j * rng.standard_normal(frequency.shape)
    field = np.fft.irfft2(phases / frequency**slope, s=(height, width))
    field = (field - field.mean()) / field.std()
    return np.asarray(
        0.5 + 0.12 * field[..., None] * rng.uniform(0.5, 1.0, 3) + rng.uniform(-0.15, 0.15, 3), np.float32
    )


def _light(height: int, width: int, rng: np.random.Generator) -> Floats:
    """Light that changes slowly over the picture, float32 (h, w, 1)."""
    coarse = rng.uniform(0.8, 1.15, (4, 5)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[..., None], np.float32)


def _draw(scene: Floats, outline: NDArray[np.float64], colour: NDArray[np.float64]) -> None:
    """Fills a polygon, corners (n, 2) at fractions of a pixel."""
    cv2.fillPoly(scene, [np.rint(outline * 16).astype(np.int32)], colour.tolist(), cv2.LINE_AA, 4)


def _fence(height: int, width: int, rng: np.random.Generator) -> Floats:
    """Pickets in a row before a garden, each a little crooked."""
    scene = _ground(height, width, rng, 1.2)
    pitch = rng.uniform(22.0, 44.0)
    broad, top = pitch * rng.uniform(0.45, 0.65), height * rng.uniform(0.15, 0.3)
    wood = rng.uniform(0.5, 0.95, 3)
    for rail in (0.45, 0.8):
        _draw(
            scene, np.array([[0, rail], [1, rail], [1, rail + 0.05], [0, rail + 0.05]]) * [width, height], wood * 0.85
        )
    for x in np.arange(-pitch, width + pitch, pitch):
        left, lean = x + rng.uniform(-0.8, 0.8), rng.uniform(-1.5, 1.5)
        corners = [
            [0, height],
            [lean, top + broad / 2],
            [broad / 2 + lean, top],
            [broad + lean, top + broad / 2],
            [broad, height],
        ]
        _draw(scene, np.array(corners) + np.array([left, 0]), wood * rng.uniform(0.9, 1.08))
    return np.asarray(scene * _light(height, width, rng), np.float32)


def _stripes(height: int, width: int, rng: np.random.Generator) -> Floats:
    """Stripes of cloth or blinds, slightly bent and turned."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle, pitch = rng.uniform(0, math.pi), rng.uniform(9.0, 26.0)
    bend = 6.0 * _ground(height, width, rng, 2.2)[..., 0]
    phase = (x * math.cos(angle) + y * math.sin(angle) + 4 * bend) / pitch
    share = np.clip(0.5 + 2.5 * np.sin(2 * math.pi * phase), 0, 1)[..., None]
    cloth = _ground(height, width, rng, 0.7) - 0.5
    return np.asarray(
        (share * rng.uniform(0.5, 0.9, 3) + (1 - share) * rng.uniform(0.1, 0.5, 3) + 0.25 * cloth)
        * _light(height, width, rng),
        np.float32,
    )


def _logos(height: int, width: int, rng: np.random.Generator) -> Floats:
    """The same sign many times, as on packages in a shelf, at fractions of a pixel and in changing light."""
    scene = _ground(height, width, rng, 1.8)
    word = str(rng.choice(["NOVA", "Kiosk", "OMEGA", "terra", "FIX", "Lumen"]))
    font = int(rng.choice([cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_COMPLEX]))
    sign = np.zeros((160, 360, 3), np.float32)
    cv2.ellipse(sign, (180, 80), (170, 70), 0, 0, 360, rng.uniform(0.3, 1.0, 3).tolist(), -1, cv2.LINE_AA)
    cv2.putText(sign, word, (60, 100), font, 2.0, rng.uniform(0.0, 0.3, 3).tolist(), 5, cv2.LINE_AA)
    shape = np.zeros((160, 360), np.float32)
    cv2.ellipse(shape, (180, 80), (170, 70), 0, 0, 360, 1.0, -1, cv2.LINE_AA)
    size = rng.uniform(0.2, 0.4)
    step_x, step_y = 380 * size, 180 * size
    for row in range(int(height / step_y) + 1):
        for column in range(int(width / step_x) + 1):
            turn, own = math.radians(rng.uniform(-4, 4)), size * rng.uniform(0.96, 1.04)
            c, s = own * math.cos(turn), own * math.sin(turn)
            place = [column * step_x + rng.uniform(-3, 3), row * step_y + rng.uniform(-3, 3)]
            matrix = np.array([[c, -s, place[0]], [s, c, place[1]]])
            weight = cv2.warpAffine(shape, matrix, (width, height), flags=cv2.INTER_AREA)[..., None]
            shown = cv2.warpAffine(sign, matrix, (width, height), flags=cv2.INTER_AREA)
            scene = scene * (1 - weight) + shown * rng.uniform(0.85, 1.1) * weight
    return np.asarray(scene * _light(height, width, rng), np.float32)


def _foliage(height: int, width: int, rng: np.random.Generator) -> Floats:
    """Leaves of one kind over one another, in all directions and sizes."""
    scene = 0.4 * _ground(height, width, rng, 1.0)
    t = np.linspace(0, 2 * math.pi, 24, endpoint=False)
    leaf = np.stack([np.cos(t), 0.42 * np.sin(t) * (1 - 0.35 * np.cos(t))], axis=1)
    green = np.array([0.25, 0.5, 0.15]) + rng.uniform(-0.08, 0.08, 3)
    for _ in range(900):
        size, turn = rng.uniform(8, 20), rng.uniform(0, 2 * math.pi)
        c, s = math.cos(turn), math.sin(turn)
        at = np.array([rng.uniform(0, width), rng.uniform(0, height)])
        turned = size * leaf @ np.array([[c, s], [-s, c]])
        shade = green * rng.uniform(0.5, 1.5)
        _draw(scene, turned + at, shade)
        vein = np.array([[-size, -0.6], [size, -0.3], [size, 0.3], [-size, 0.6]]) @ np.array([[c, s], [-s, c]])
        _draw(scene, vein + at, shade * 1.25)
    return np.asarray(scene * _light(height, width, rng), np.float32)


def _balconies(height: int, width: int, rng: np.random.Generator) -> Floats:
    """A modern front seen at an angle: storeys of balconies with bars, other things on each."""
    scene = _ground(height, width, rng, 1.6)
    storey, bay = rng.uniform(46, 70), rng.uniform(60, 90)
    wall, bars = rng.uniform(0.55, 0.85, 3), rng.uniform(0.1, 0.3, 3)
    for top in np.arange(4, height, storey):
        for left in np.arange(4, width, bay):
            box = np.array(
                [[left, top], [left + bay - 8, top], [left + bay - 8, top + storey - 8], [left, top + storey - 8]]
            )
            _draw(scene, box, wall * rng.uniform(0.93, 1.05))
            _draw(scene, box * 0.5 + box.mean(axis=0) * 0.5, rng.uniform(0.05, 0.35, 3))
            for x in np.arange(left, left + bay - 8, 6.0):
                low = top + storey - 8
                bar = np.array([[x, top + storey * 0.5], [x + 1.6, top + storey * 0.5], [x + 1.6, low], [x, low]])
                _draw(scene, bar, bars)
            if rng.random() < 0.4:
                at = np.array([left + rng.uniform(8, bay - 20), top + storey * 0.45])
                _draw(scene, at + np.array([[0, 0], [12, 0], [9, 12], [3, 12]]), rng.uniform(0.1, 0.9, 3))
    shift = width * rng.uniform(-0.08, 0.08)
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    moved = corners + np.array([[0, 0], [0, abs(shift)], [0, -abs(shift)], [0, 0]], np.float32)
    seen = cv2.warpPerspective(scene, cv2.getPerspectiveTransform(moved, corners), (width, height))
    return np.asarray(seen * _light(height, width, rng), np.float32)


REPETITION: Final[dict[str, Paint]] = {
    **{name: SCENES[name] for name in ("windows", "bricks", "tiles", "letters", "fabric")},
    "fence": _fence,
    "stripes": _stripes,
    "logos": _logos,
    "foliage": _foliage,
    "balconies": _balconies,
}
"""What the rendered pictures show."""
