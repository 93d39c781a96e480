"""Labelled faces, cut once and kept: who is learned from, who is chosen by, and who is left alone.

UTKFace's names hold age, gender, race label and date. A thousand of its faces are in the manifest as `shared/utkface`:
those of its split `dev` are reported on, and those of `train` and `calibrate` are what networks are chosen by here.
Learned from is the rest, without anything that has the same date in its name as one of those, or looks nearly the same
(`training.data.hashing`), and without copies of reserved pictures.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from services.faces.attributes import traces
from training.data.hashing import dhash, mirrored, nearest, packed
from training.data.manifest import Row, Split
from training.faces.finding import ServedYuNet

__all__ = ["FaceStore", "LabelledFace", "Part", "cut_face", "far_from", "parts"]

RGB = NDArray[np.uint8]
Part = Literal["learn", "choose", "report"]

_SAME_PICTURE: Final = 24
"""Distance of hashes, in bits of 256, up to which two pictures count as one."""
_NAME: Final = re.compile(r"^(\d{1,3})_([01])_([0-4])_(\d+)\.")
"""Age, gender (1 is female), race label, date; three names of UTKFace lack one of them."""
RACES: Final = ("white", "black", "Asian", "Indian", "others")
_SOURCE: Final = "shared/utkface"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFace:
    """What is known about a face.

    Attributes:
        name: of its file, which holds the labels.
        part: what it is used for.
        years: the age label.
        male: the gender label, 0 or 1.
        race: the race label, in words.
        dhash: as the manifest has it.
    """

    name: str
    part: Part
    years: int
    male: int
    race: str
    dhash: str


_COLUMNS: Final = tuple(field.name for field in fields(LabelledFace))


def parts(names: Iterable[str], manifest: Sequence[Row]) -> dict[str, Part]:
    """What each file's face is used for, by its name; those left out for their label or date are not in it.

    Args:
        names: of files.
        manifest: rows of real faces; those of `shared/utkface` count.
    """
    uses: Mapping[Split, Part] = {"train": "choose", "calibrate": "choose", "dev": "report"}
    known = {PurePosixPath(row.path).name: uses[row.split] for row in manifest if row.source == _SOURCE}
    dates = {label[4] for name in known if (label := _NAME.match(name))}
    found: dict[str, Part] = {}
    for name in names:
        label = _NAME.match(name)
        if label is None:
            continue
        if name in known:
            found[name] = known[name]
        elif label[4] not in dates:
            found[name] = "learn"
    return found


def cut_face(name: str, part: Part, rgb: RGB, finder: ServedYuNet) -> tuple[LabelledFace, RGB] | None:
    """A picture's largest face, and what CLIP sees of it, uint8 (160, 160, 3); None where none is found.

    Args:
        name: of its file, with labels.
        part: what it is used for.
        rgb: uint8 (h, w, 3).
        finder: whose landmarks the face is cut by.
    """
    label = _NAME.match(name)
    faces = finder.find(rgb)
    if label is None or not faces:
        return None
    face = faces[0]
    known = LabelledFace(
        name=name,
        part=part,
        years=int(label[1]),
        male=int(label[2] == "0"),
        race=RACES[int(label[3])],
        dhash=dhash(rgb),
    )
    return known, traces.cut(rgb, face)


def far_from(faces: Sequence[LabelledFace], others: Sequence[str]) -> NDArray[np.bool_]:
    """Which faces are learned from and look like nothing that is judged by, nor like the others; bool (n,).

    Args:
        faces: all that were cut.
        others: hashes of pictures that must not be learned from.
    """
    judged = [face.dhash for face in faces if face.part != "learn"]
    forbidden = packed([*judged, *map(mirrored, judged), *others])
    distances = nearest(packed([face.dhash for face in faces]), forbidden)
    return np.array([face.part == "learn" for face in faces], np.bool_) & (distances > _SAME_PICTURE)


class FaceStore:
    """Shards of faces in a folder: `<n>.npy`, uint8 (m, 160, 160, 3), what CLIP sees of them, and `<n>.csv`.

    One process writes, any may read. Pictures without a face are in `<n>.csv` too, with an empty `part`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def done(self) -> set[str]:
        """Names of the pictures that were looked at."""
        return {line["name"] for path in self._shards() for line in _lines(path)}

    def add(self, found: Sequence[tuple[LabelledFace, RGB]], without: Sequence[str]) -> None:
        """Keeps faces, and the names of pictures without one, in a new shard: complete or not at all."""
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"{len(self._shards()):05d}"
        views = np.array([view for _, view in found], np.uint8).reshape(-1, traces.SIDE, traces.SIDE, 3)
        np.save(self._folder / f"{name}.npy", views)
        partial = self._folder / f"{name}.part"
        with partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_COLUMNS)
            writer.writerows(astuple(face) for face, _ in found)
            writer.writerows([name, *[""] * (len(_COLUMNS) - 1)] for name in without)
        partial.replace(self._folder / f"{name}.csv")

    def read(self) -> list[LabelledFace]:
        """All faces. Raises FileNotFoundError without any."""
        faces = [
            LabelledFace(**{**line, "years": int(line["years"]), "male": int(line["male"])})  # type: ignore[arg-type]
            for path in self._shards()
            for line in _lines(path)
            if line["part"]
        ]
        if not faces:
            raise FileNotFoundError(f"{self._folder} holds no faces: python -m training.faces.attributes cut")
        return faces

    def views(self) -> Iterator[RGB]:
        """What CLIP sees of all faces, in the order of `read`: (m, 160, 160, 3), a shard at a time."""
        for path in self._shards():
            yield np.load(path.with_suffix(".npy"))

    def _shards(self) -> list[Path]:
        return sorted(self._folder.glob("*.csv")) if self._folder.is_dir() else []


def _lines(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)
