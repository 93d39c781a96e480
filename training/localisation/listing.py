"""The list of pictures that training and evaluation read: one CSV file, one row a picture.

    picture,mask,crop,kind,technique,group,split,origin
    pristine/bsds500/2092.jpg,,,photograph,,bsds500/2092,train,pristine

`picture` and `mask` are paths relative to the list, or absolute; `crop` is left, top, right and bottom as fractions, or
empty. `kind` is photograph, forged or face (a photograph of
one face that fills much of it). A forged picture has a mask (above half is forged) and a technique. Everything of one
`group` stays in one split.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from services.common.detection import Technique
from training.data.build import mask_path, picture_path
from training.data.manifest import read_manifest

__all__ = [
    "Kind",
    "Listed",
    "ListingError",
    "digest_of",
    "list_manifest",
    "list_shared",
    "read_listing",
    "thinned",
    "write_listing",
]

Kind = Literal["photograph", "forged", "face"]
_KINDS: Final[dict[str, Kind]] = {kind: kind for kind in get_args(Kind)}
_COLUMNS: Final = ("picture", "mask", "crop", "kind", "technique", "group", "split", "origin")


class ListingError(ValueError):
    """The list cannot be read; the text names the file and the line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A picture of the list.

    Attributes:
        picture: its file.
        mask: the file of its mask; None for what is no forgery.
        crop: the part that counts: left, top, right, bottom as fractions; None for all of it.
        kind: what it is.
        technique: how it was forged; None for what is no forgery.
        group: pictures of equal group stay in one split.
        split: train, calibrate or dev.
        origin: the collection that it came from.
    """

    picture: Path
    mask: Path | None
    crop: tuple[float, float, float, float] | None = None
    kind: Kind
    technique: Technique | None
    group: str
    split: str
    origin: str


def read_listing(path: Path, *, split: str | None = None) -> list[Listed]:
    """The rows of a list, those of one split if one is named.

    Raises:
        ListingError: a row is wrong, or there is none.
    """
    rows: list[Listed] = []
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file)
        if set(_COLUMNS) - set(lines.fieldnames or ()):
            raise ListingError(f"{path}: expected the columns {', '.join(_COLUMNS)}")
        for line in lines:
            where = f"{path}, line {lines.line_num}"
            if line["kind"] not in _KINDS:
                raise ListingError(f"{where}: no such kind: {line['kind']!r}")
            forged = line["kind"] == "forged"
            if forged != bool(line["mask"]) or forged != bool(line["technique"]):
                raise ListingError(f"{where}: a forged picture, and only that, has a mask and a technique")
            try:
                technique = Technique(line["technique"]) if forged else None
                crop = _crop(line["crop"])
            except ValueError as error:
                raise ListingError(f"{where}: {error}") from error
            rows.append(
                Listed(
                    picture=path.parent / line["picture"],
                    mask=path.parent / line["mask"] if forged else None,
                    crop=crop,
                    kind=_KINDS[line["kind"]],
                    technique=technique,
                    group=line["group"],
                    split=line["split"],
                    origin=line["origin"],
                )
            )
    chosen = [row for row in rows if split is None or row.split == split]
    if not chosen:
        raise ListingError(f"{path} has no pictures" + (f" of the split {split}" if split else ""))
    return chosen


def write_listing(rows: Iterable[Listed], path: Path) -> None:
    """Writes a list, sorted by picture; paths are made absolute."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for row in sorted(rows, key=lambda row: str(row.picture)):
            technique = row.technique.value if row.technique else ""
            mask = row.mask.resolve() if row.mask else ""
            crop = " ".join(f"{side:g}" for side in row.crop or ())
            writer.writerow([row.picture.resolve(), mask, crop, row.kind, technique, row.group, row.split, row.origin])


def _crop(text: str) -> tuple[float, float, float, float] | None:
    if not text:
        return None
    left, top, right, bottom = (float(part) for part in text.split())
    return left, top, right, bottom


def digest_of(rows: Sequence[Listed]) -> str:
    """What tells two lists apart, 16 hexadecimal digits: files by name and size, groups and splits; no folders."""
    digest = hashlib.sha256()
    for row in sorted(rows, key=lambda row: (row.origin, row.picture.name, row.group)):
        size = row.picture.stat().st_size
        digest.update(
            f"{row.origin} {row.picture.name} {size} {row.crop} {row.kind} {row.group} {row.split}\n".encode()
        )
    return digest.hexdigest()[:16]


def thinned(rows: Iterable[Listed], most: int) -> list[Listed]:
    """At most so many photographs and faces of each source and split, and all forgeries.

    Which ones depends on the names of their groups and files alone.
    """
    ordered = sorted(
        rows, key=lambda row: hashlib.sha256(f"{row.origin} {row.group} {row.picture.name}".encode()).digest()
    )
    seen: Counter[tuple[str, str, str]] = Counter()
    kept = []
    for row in ordered:
        place = row.kind, row.origin, row.split
        seen[place] += 1
        if row.kind == "forged" or seen[place] <= most:
            kept.append(row)
    return kept


_PHOTOGRAPHS: Final = (
    "train/pristine/",
    "train/coco128_seg/images/",
    "train/ai_vs_real/real/",
    "train/generated/real/",
    "train/forged/casia2_256/authentic/",
)
_FACES: Final = ("train/faces/real_ffhq/", "train/faces/real_unsplash/", "train/faces/real_utkface_1000/")


def list_shared(folder: Path) -> list[Listed]:
    """What the folder of collected research data holds for this task, by its splits.csv.

    Raises:
        ListingError: the folder has no splits.csv.
    """
    splits = folder / "splits.csv"
    if not splits.is_file():
        raise ListingError(f"{folder} has no splits.csv: name the folder of collected data, PENTIMENTO_SHARED_DATA")
    with splits.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    rows = []
    for line in lines:
        path = folder / line["path"]
        technique = _shared_technique(line["path"])
        kind: Kind
        if technique:
            kind, mask = "forged", path.parent.parent / "mask" / f"{path.stem}.png"
        elif line["path"].startswith(_PHOTOGRAPHS):
            kind, mask = "photograph", None
        elif line["path"].startswith(_FACES):
            kind, mask = "face", None
        else:
            continue
        rows.append(
            Listed(
                picture=path,
                mask=mask,
                kind=kind,
                technique=technique,
                group=line["source"],
                split=line["split"],
                origin=line["set"],
            )
        )
    missing = [row.picture for row in rows if not row.picture.is_file() or (row.mask and not row.mask.is_file())]
    if missing:
        raise ListingError(f"{len(missing)} files that {splits} names are not there, or lack their mask: {missing[0]}")
    return rows


_TECHNIQUES: Final = {
    "splice": Technique.SPLICING,
    "casia2_splice": Technique.SPLICING,
    "photomontage": Technique.SPLICING,
    "lalonde_composite": Technique.SPLICING,
    "copy_move": Technique.COPY_MOVE,
    "inpainting_mixed": Technique.INPAINTING,
    "patch_inpainting": Technique.INPAINTING,
    "prnu_hand_forgery": Technique.OTHER,
}
"""By the manifest's maker of forgeries."""


def list_manifest(manifest: Path, data: Path) -> list[Listed]:
    """What `make data` has assembled of the manifest for this task: photographs, faces, and forgeries with a mask.

    Args:
        manifest: folder of the manifest.
        data: folder that its pictures are assembled in; what is not there is left out.

    Raises:
        ManifestError: there is no manifest.
    """
    kinds: dict[str, Kind] = {"photograph": "photograph", "real_face": "face", "forged": "forged"}
    rows = []
    for row in read_manifest(manifest, kinds=tuple(kinds)):
        kind, picture, mask = kinds[row.kind], picture_path(data, row), mask_path(data, row)
        technique = None
        if kind == "forged":
            technique = _shared_technique(row.path) if row.maker == "cg1050" else _TECHNIQUES.get(row.maker)
            if technique is None or mask is None or not mask.is_file():
                continue
        if picture.is_file():
            rows.append(
                Listed(
                    picture=picture,
                    mask=mask if kind == "forged" else None,
                    crop=row.box,
                    kind=kind,
                    technique=technique,
                    group=row.group,
                    split=row.split,
                    origin=row.source,
                )
            )
    return rows


def _shared_technique(path: str) -> Technique | None:
    """How a hand-made forgery of the collected data was made, by its place and name; None for other pictures."""
    if path.startswith("train/cg1050/tampered/"):
        code = Path(path).stem.partition("_")[2]
        if code.startswith(("cmfr", "col", "r")):
            return Technique.OTHER
        return Technique.COPY_MOVE if code.startswith("cm") else Technique.SPLICING
    if path.startswith("train/forged/casia2_256/splice/"):
        return Technique.SPLICING
    if path.startswith("train/forged/casia2_256/copymove/"):
        return Technique.COPY_MOVE
    if path.startswith("train/forged/inpaint_misc/image/"):
        return Technique.INPAINTING
    return None
