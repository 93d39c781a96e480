"""What the network sees: forgeries made while it trains, hand-made ones, and pristine pictures, all treated alike.

A sample is a function of the seed and its number, so that a run which was stopped goes on with what comes next.

1. **Scene**: a piece of a picture at its own scale or reduced, up to twice as large as the crop. Mostly all pieces are
   cut along the 8 x 8 grid that the file was saved on, as it is in a picture that nobody cropped.
2. **Forgery**: planted in the scene; a pristine sample is a scene without one (half of the time the twin of a forgery).
3. **Post-process**: resized, cropped around a part of the forgery, softened, encoded (`post_process`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.forgery import ForgeryFailed, make_forgery, makers
from services.common.detection import Technique
from training.localisation.classes import CLASS_OF, PRISTINE
from training.localisation.faces import self_blended
from training.localisation.post_process import MARGIN, encoded, encoded_gently, first_encoding, resized, soften
from training.localisation.store import Store, Stored

__all__ = ["Sample", "Sampler"]

RGB = NDArray[np.uint8]
Mask = NDArray[np.bool_]

GRID: Final = 8
ON_GRID: Final = 0.85
"""Share of the pieces that are cut along the grid of the file's blocks."""
ATTEMPTS: Final = 20
"""Scenes drawn for one sample before giving up: some pictures are too plain."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A crop as the network gets it.

    Attributes:
        rgb: uint8 (side, side, 3).
        mask: bool (side, side).
        label: the class, or `OTHER`.
        maker: what made it, for people.
    """

    rgb: RGB
    mask: Mask
    label: int
    maker: str


class Sampler:
    """Draws samples.

    Args:
        store: the pictures to make them from.
        weights: how often each maker is drawn: pristine, handmade, face, and the names of `evaluation.forgery.makers`.
        seed: another seed, other samples.

    Raises:
        ValueError: a weight's name is unknown, or the store lacks what it asks for.
    """

    def __init__(self, store: Store, weights: Mapping[str, float], *, seed: int) -> None:
        known = {"pristine", "handmade", "face", *makers()}
        if set(weights) - known:
            raise ValueError(f"no such makers: {', '.join(sorted(set(weights) - known))}; there are {sorted(known)}")
        self._photographs = [stored for stored in store if stored.kind == "photograph"]
        self._faces = [stored for stored in store if stored.face is not None]
        self._objects = [stored for stored in store if stored.objects]
        by_origin: dict[str, list[Stored]] = {}
        for stored in store:
            if stored.kind == "forged":
                by_origin.setdefault(stored.origin, []).append(stored)
        self._handmade = list(by_origin.values())
        # A small collection is seen more often than its share, but not as often as a large one.
        sizes = np.sqrt([len(among) for among in self._handmade])
        self._handmade_chances = sizes / sizes.sum() if self._handmade else sizes
        if not self._photographs:
            raise ValueError("no photographs to forge")
        if weights.get("handmade") and not self._handmade:
            raise ValueError("no hand-made forgeries in the list, and `handmade` has a weight")
        if weights.get("face") and not self._faces:
            raise ValueError("no faces in the list, and `face` has a weight")
        self._names = list(weights)
        self._chances = np.array(list(weights.values())) / sum(weights.values())
        self._seed = seed

    def sample(self, number: int, side: int, *, gentle: float = 0.0) -> Sample:
        """The sample of that number, `side` pixels square; `gentle`: the chance that it is spared most of it."""
        rng = np.random.default_rng([self._seed, number])
        name = self._names[int(rng.choice(len(self._names), p=self._chances))]
        gently = bool(rng.random() < gentle)
        for _ in range(ATTEMPTS):
            made = self._make(name, side, rng)
            if made is not None:
                image, mask, label = made
                rgb, mask = _finished(image, mask, side, rng, gently=gently)
                if mask.any() or label == PRISTINE:
                    return Sample(rgb, mask, label, name)
        scene = _scene(self._draw(self._photographs, rng), side, rng)
        rgb, mask = _finished(scene, np.zeros(scene.shape[:2], bool), side, rng, gently=gently)
        return Sample(rgb, mask, PRISTINE, "pristine")

    @staticmethod
    def _draw(among: list[Stored], rng: np.random.Generator) -> Stored:
        return among[int(rng.integers(len(among)))]

    def _make(self, name: str, side: int, rng: np.random.Generator) -> tuple[RGB, Mask, int] | None:
        """A scene with a forgery of that kind, its mask and its class."""
        if name == "handmade":
            origin = int(rng.choice(len(self._handmade), p=self._handmade_chances))
            stored = self._draw(self._handmade[origin], rng)
            rgb, mask = stored.read()
            if mask is None or stored.technique is None:
                return None
            mask = _closed(mask)
            piece = _window(mask.shape, mask, side, rng)
            return np.array(rgb[piece]), np.array(mask[piece]), CLASS_OF[stored.technique]
        if name == "face":
            return self._face(side, rng)
        # Not every face is a forged one.
        if self._faces and rng.random() < (0.25 if name == "pristine" else 0.1):
            scene, _ = _face_scene(self._draw(self._faces, rng), side, rng)
        else:
            scene = _scene(self._draw(self._photographs, rng), side, rng)
        scene = first_encoding(scene, rng)
        if name == "pristine":
            return scene, np.zeros(scene.shape[:2], bool), PRISTINE
        maker = makers()[name]
        donor, donor_mask = self._donor(rng) if maker.needs_donor else (None, None)
        # Filling from patches costs most; a quarter of the time is enough of it.
        options = {}
        if name == "inpainting" and rng.random() < 0.65:
            options["method"] = "telea" if rng.random() < 0.5 else "navier_stokes"
        try:
            forgery = make_forgery(scene, name, rng, donor=donor, donor_mask=donor_mask, **options)
        except ForgeryFailed:
            return None
        return forgery.image, forgery.mask, CLASS_OF[forgery.technique]

    def _donor(self, rng: np.random.Generator) -> tuple[RGB, Mask | None]:
        """A piece of another picture, sometimes with an object's outline."""
        if self._objects and rng.random() < 0.4:
            stored = self._draw(self._objects, rng)
            rgb = np.array(stored.read()[0])
            polygon = stored.objects[int(rng.integers(len(stored.objects)))]
            mask = np.zeros(rgb.shape[:2], np.uint8)
            points = np.rint(np.array(polygon) * [rgb.shape[1], rgb.shape[0]]).astype(np.int32)
            cv2.fillPoly(mask, [points], 1)
            if mask.sum() >= 600:
                return rgb, mask.astype(bool)
        return first_encoding(_scene(self._draw(self._photographs, rng), 160, rng), rng), None

    def _face(self, side: int, rng: np.random.Generator) -> tuple[RGB, Mask, int] | None:
        scene, box = _face_scene(self._draw(self._faces, rng), side, rng)
        blended = self_blended(first_encoding(scene, rng), box, rng)
        return None if blended is None else (*blended, CLASS_OF[Technique.FACE])


def _scene(stored: Stored, side: int, rng: np.random.Generator) -> RGB:
    """A piece of a picture, one to two crops wide, reduced before four times in ten."""
    rgb, _ = stored.read()
    height, width = rgb.shape[:2]
    wanted = side + MARGIN
    factor = 1.0
    if rng.random() < 0.4:
        factor = max(float(rng.uniform(0.5, 1.0)), min(1.0, wanted / min(height, width)))
    extent = math.exp(rng.uniform(math.log(wanted), math.log(2.0 * wanted)))
    down, across = (min(length, round(extent / factor)) for length in (height, width))
    on_grid = rng.random() < ON_GRID
    top, left = (_start(length - size, rng, on_grid) for length, size in ((height, down), (width, across)))
    return _fitted(np.array(rgb[top : top + down, left : left + across]), factor, wanted)


def _start(last: int, rng: np.random.Generator, on_grid: bool) -> int:
    """Where a piece begins, from 0 to `last`."""
    start = int(rng.integers(last + 1))
    return start // GRID * GRID if on_grid else start


def _fitted(piece: RGB, factor: float, smallest: int) -> RGB:
    """The piece reduced by a factor; enlarged only where it is smaller than a crop."""
    height, width = piece.shape[:2]
    factor = max(factor, smallest / min(height, width))
    if factor == 1.0:
        return piece
    size = max(smallest, round(width * factor)), max(smallest, round(height * factor))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(piece, size, interpolation=method), np.uint8)


def _face_scene(stored: Stored, side: int, rng: np.random.Generator) -> tuple[RGB, tuple[float, float, float, float]]:
    """A piece of a picture around a face that covers a quarter to most of it, and the face's box in its pixels."""
    rgb, _ = stored.read()
    height, width = rgb.shape[:2]
    assert stored.face is not None
    box = np.array(stored.face) * [width, height, width, height]
    longest = float(max(box[2] - box[0], box[3] - box[1]))
    extent = min(longest / float(rng.uniform(0.4, 0.9)), height, width)
    middle = np.array([box[0] + box[2], box[1] + box[3]]) / 2 + rng.uniform(-0.1, 0.1, 2) * extent
    left, top = (
        int(np.clip(centre - extent / 2, 0, length - extent))
        for centre, length in zip(middle, (width, height), strict=True)
    )
    size = int(extent)
    if rng.random() < ON_GRID:
        left, top = left // GRID * GRID, top // GRID * GRID
    piece = np.array(rgb[top : top + size, left : left + size])
    wanted = math.exp(rng.uniform(math.log(side + MARGIN), math.log(1.7 * (side + MARGIN))))
    if rng.random() < 0.5 and size < 2.5 * (side + MARGIN):
        wanted = float(size)
    scene = _fitted(piece, min(1.0, wanted / size), side + MARGIN)
    scale = scene.shape[1] / size
    moved = (box - [left, top, left, top]) * scale
    limited = np.clip(moved, 0, scene.shape[1])
    return scene, (float(limited[0]), float(limited[1]), float(limited[2]), float(limited[3]))


def _closed(mask: Mask) -> Mask:
    """A mask without the holes and specks of one that was made by difference."""
    planes = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    return np.asarray(cv2.morphologyEx(planes, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)) > 0)


def _window(shape: tuple[int, ...], mask: Mask, side: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of a piece one to two crops wide that holds a pixel of the mask, if there is one."""
    extent = round(math.exp(rng.uniform(math.log(side + MARGIN), math.log(2.0 * (side + MARGIN)))))
    return _around(shape, mask, extent, rng, on_grid=rng.random() < ON_GRID)


def _around(
    shape: tuple[int, ...], mask: Mask, extent: int, rng: np.random.Generator, *, on_grid: bool
) -> tuple[slice, slice]:
    sizes = [min(extent, length) for length in shape[:2]]
    starts = [int(rng.integers(length - size + 1)) for length, size in zip(shape, sizes, strict=False)]
    places = np.flatnonzero(mask) if mask.any() else None
    if places is not None:
        pixel = divmod(int(places[rng.integers(len(places))]), shape[1])
        for axis, (size, length) in enumerate(zip(sizes, shape, strict=False)):
            # Anywhere within the middle of the window.
            offset = int(rng.uniform(0.15, 0.85) * size)
            starts[axis] = int(np.clip(pixel[axis] - offset, 0, length - size))
    if on_grid:
        starts = [start // GRID * GRID for start in starts]
    return slice(starts[0], starts[0] + sizes[0]), slice(starts[1], starts[1] + sizes[1])


def _finished(image: RGB, mask: Mask, side: int, rng: np.random.Generator, *, gently: bool) -> tuple[RGB, Mask]:
    """Post-processed, cropped and perhaps mirrored or turned; gently means saved once, at a quality of 90 or more."""
    extent = side + MARGIN
    if min(image.shape[:2]) < extent:
        factor = extent / min(image.shape[:2])
        size = max(extent, round(image.shape[1] * factor)), max(extent, round(image.shape[0] * factor))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)
        mask = np.asarray(cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5)
    if not gently:
        image, mask = resized(image, mask, rng, extent)
    on_grid = rng.random() < ON_GRID
    piece = _around(image.shape, mask, extent, rng, on_grid=on_grid)
    rgb = np.ascontiguousarray(image[piece])
    rgb = encoded_gently(rgb, rng) if gently else encoded(soften(rgb, rng), rng)
    mask = mask[piece]
    top, left = (0, 0) if on_grid else (int(value) for value in rng.integers(0, MARGIN + 1, 2))
    rgb, mask = rgb[top : top + side, left : left + side], mask[top : top + side, left : left + side]
    if rng.random() < 0.5:
        rgb, mask = rgb[:, ::-1], mask[:, ::-1]
    turns = int(rng.integers(4)) if rng.random() < 0.1 else 0
    return np.ascontiguousarray(np.rot90(rgb, turns)), np.ascontiguousarray(np.rot90(mask, turns))
