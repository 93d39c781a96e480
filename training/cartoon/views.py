"""What the networks see of the training pictures: made once and kept.

A picture is brought to the common encoding (`training.data.encoding`); the finders look for faces in it; the most
confident face gives a view, framed as the faces service frames it for VGG16, and aligned as it aligns it for CLIP; and
so does the whole picture where there is none, for VGG16 alone.
Of every fourth picture with a face the whole is seen too, so that a large face alone does not say "drawn".

Cartoon Set draws on white: its backgrounds are changed, for most pictures, to a colour, a gradient or a photograph.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from services.common.images import Picture
from services.faces.attributes import traces
from services.faces.attributes.kind import face_view, whole_view
from services.faces.finders import FaceFinder
from training.data.build import picture_path
from training.data.encoding import encode_alike
from training.data.manifest import Row
from training.data.pictures import RGB, cropped, read_pixels
from training.features import in_turns

__all__ = ["KINDS", "MOST", "Seen", "View", "ViewStore", "chosen_rows", "on_another_background", "views_of"]

Background = Callable[[int], RGB]
Seen = Literal["mediapipe", "haar", "whole"]
"""The finder that took it for a face, or the whole picture."""
_SEEN: Final[tuple[str, ...]] = get_args(Seen)

KINDS: Final = ("drawn", "real_face", "photograph")
MOST: Final[Mapping[str, int]] = {"drawn": 100, "real_face": 100, "photograph": 4}
"""Pictures of one maker, source and split, at most, by kind."""

_CONFIDENCE: Final = 0.5
"""Less than what MediaPipe's finder takes for a face when it serves: more drawn faces are learned from."""
_ON_WHITE: Final = "shared/cartoon_set"
_WHITE: Final = 6
"""Difference of neighbouring bytes that still is one background."""


@dataclass(frozen=True, slots=True)
class View:
    """One look at a picture.

    Attributes:
        key: "<picture id>/face" or "<picture id>/whole".
        seen: what it shows.
        rgb: what VGG16 sees, uint8 (kind.SIDE, kind.SIDE, 3).
        chip: what CLIP sees of a face, uint8 (traces.SIDE, traces.SIDE, 3); None of a whole picture.
    """

    key: str
    seen: Seen
    rgb: RGB
    chip: RGB | None = None

    @property
    def picture(self) -> str:
        """Its picture's id."""
        return self.key.split("/")[0]


class ViewStore:
    """Shards of views in a folder; one process writes, any may read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def done(self) -> set[str]:
        """Ids of the pictures that were looked at."""
        return {key.split("/")[0] for path in self._shards() for key in _keys(path)}

    def add(self, views: Sequence[View]) -> None:
        """Keeps views in a shard of their own, complete or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        keys = [view.key for view in views]
        name = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
        part = self.folder / f"{name}.part"
        with part.open("wb") as file:
            np.savez(
                file,
                keys=np.array(keys),
                seen=np.array([view.seen for view in views]),
                rgb=np.stack([view.rgb for view in views]),
                chip=np.array([view.chip for view in views if view.chip is not None], np.uint8),
            )
        part.replace(self.folder / f"{name}.npz")

    def views(self) -> Iterator[View]:
        """All of them."""
        for path in self._shards():
            with np.load(path) as shard:
                chips = iter(shard["chip"])
                for key, value, rgb in zip(shard["keys"], shard["seen"], shard["rgb"], strict=True):
                    seen = _checked(str(value))
                    yield View(str(key), seen, rgb, None if seen == "whole" else next(chips))

    def _shards(self) -> list[Path]:
        return sorted(self.folder.glob("*.npz")) if self.folder.is_dir() else []


def _keys(path: Path) -> list[str]:
    with np.load(path) as shard:
        return [str(key) for key in shard["keys"]]


def _checked(value: str) -> Seen:
    for seen in get_args(Seen):
        if value == seen:
            return seen  # type: ignore[no-any-return]
    raise ValueError(f"seen as {value!r}, not one of {', '.join(_SEEN)}")


def chosen_rows(rows: Sequence[Row]) -> list[Row]:
    """At most `MOST` of each maker, source and split, makers and sources in turns: any beginning is balanced."""
    taken: dict[tuple[str, str, str, str], int] = defaultdict(int)
    chosen = []
    for row in in_turns(rows):
        place = (row.kind, row.maker, row.source, row.split)
        if taken[place] < MOST[row.kind]:
            taken[place] += 1
            chosen.append(row)
    return chosen


def views_of(row: Row, data: Path, finders: Sequence[FaceFinder], backgrounds: Sequence[Row]) -> list[View]:
    """The views that a picture gives.

    Args:
        row: of the manifest.
        data: the training folder.
        finders: by preference: the first one that finds a face frames it.
        backgrounds: photographs of the same split, for drawings on white.

    Raises:
        UnreadablePicture, OSError: it cannot be had.
    """
    rgb = _pixels(row, data)
    if row.source == _ON_WHITE:
        rgb = on_another_background(rgb, row.id, lambda number: _pixels(backgrounds[number % len(backgrounds)], data))
    picture = Picture.from_array(encode_alike(rgb, row.id).rgb)
    views = []
    for finder in finders:
        faces = finder.find(picture, min_confidence=_CONFIDENCE)
        if faces:
            seen = _checked(finder.detector.value)
            chip = traces.cut(picture.rgb, faces[0])
            views.append(View(f"{row.id}/face", seen, face_view(picture.rgb, faces[0].box), chip))
            break
    if not views or int(row.id[0], 16) % 4 == 0:
        views.append(View(f"{row.id}/whole", "whole", whole_view(picture.rgb)))
    return views


def _pixels(row: Row, data: Path) -> RGB:
    return cropped(read_pixels(picture_path(data, row).read_bytes()), row.box)


def on_another_background(rgb: RGB, name: str, photograph: Background) -> RGB:
    """A drawing on white (or another even colour) before something else, as chance, seeded by its name, has it.

    Every fourth stays as it is.

    Args:
        rgb: uint8 (h, w, 3).
        name: the picture's id.
        photograph: gives the pixels of one of many photographs, by any number.
    """
    rng = np.random.default_rng(int(hashlib.sha256(f"{name}/background".encode()).hexdigest()[:16], 16))
    height, width = rgb.shape[:2]
    choice = rng.integers(4)
    if choice == 0:
        return rgb
    behind: NDArray[np.float32]
    if choice == 1:
        behind = np.broadcast_to(rng.integers(0, 256, 3), rgb.shape).astype(np.float32)
    elif choice == 2:
        ends = rng.integers(0, 256, (2, 1, 1, 3)).astype(np.float32)
        share = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
        behind = np.broadcast_to(ends[0] * share + ends[1] * (1 - share), rgb.shape)
    else:
        scaled = cv2.resize(photograph(int(rng.integers(1 << 30))), (width, height), interpolation=cv2.INTER_AREA)
        behind = np.asarray(scaled, np.float32)
    alpha = _foreground(rgb)
    return np.asarray(np.rint(rgb * alpha + behind * (1 - alpha)), np.uint8)


def _foreground(rgb: RGB) -> NDArray[np.float32]:
    """1 on the drawing, 0 on the even ground that reaches a corner, softly between: float32 (h, w, 1)."""
    height, width = rgb.shape[:2]
    mask = np.zeros((height + 2, width + 2), np.uint8)
    flags = 4 | cv2.FLOODFILL_MASK_ONLY | (255 << 8)
    canvas = rgb.copy()  # OpenCV wants to be able to write, though it is told to fill the mask only
    for corner in ((0, 0), (width - 1, 0)):
        cv2.floodFill(canvas, mask, corner, (0, 0, 0), (_WHITE,) * 3, (_WHITE,) * 3, flags)
    ground = cv2.dilate(mask[1:-1, 1:-1], np.ones((3, 3), np.uint8))
    soft = cv2.GaussianBlur(ground.astype(np.float32) / 255, (3, 3), 0)
    return np.asarray(1 - soft, np.float32)[..., None]
