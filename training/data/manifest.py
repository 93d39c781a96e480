"""The manifest: one row a picture, in one CSV file a kind, sorted and reviewable."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

__all__ = ["Kind", "ManifestError", "Row", "Split", "picture_id", "read_manifest", "write_manifest"]

Kind = Literal["photograph", "generated", "edited", "forged", "real_face", "fake_face", "drawn"]
Split = Literal["train", "calibrate", "dev"]

_KINDS: Final[tuple[str, ...]] = get_args(Kind)
_SPLITS: Final[tuple[str, ...]] = get_args(Split)


class ManifestError(ValueError):
    """A manifest cannot be read; the text names the file and the line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A picture.

    Attributes:
        id: 16 hexadecimal digits, of the file's digest and the crop.
        kind: what it is.
        maker: generator, camera or kind of source, forger, style.
        source: source file that names it, or "shared/..." for the collected research data.
        path: in the source's commit, or in the folder of collected data.
        mask: path of its mask, likewise; empty without one.
        mask_sha256: digest of the mask's file.
        crop: left, top, right, bottom as fractions, with blanks; empty for all of it.
        sha256: digest of the picture's file.
        width, height: in pixels, upright, before the crop.
        dhash: 64 hexadecimal digits: difference hash of the cropped picture (`training.data.hashing`).
        group: pictures of equal group stay in one split.
        split: train (to fit), calibrate (thresholds and likelihood ratios) or dev (to report).
    """

    id: str
    kind: Kind
    maker: str
    source: str
    path: str
    mask: str
    mask_sha256: str
    crop: str
    sha256: str
    width: int
    height: int
    dhash: str
    group: str
    split: Split

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """The crop as numbers."""
        if not self.crop:
            return None
        left, top, right, bottom = (float(part) for part in self.crop.split())
        return left, top, right, bottom

    @property
    def is_shared(self) -> bool:
        """Whether it lies in the collected research data."""
        return self.source.startswith("shared/")


_COLUMNS: Final = tuple(field.name for field in fields(Row))


def picture_id(sha256: str, crop: str) -> str:
    """The id of a picture: the same file with another crop is another picture."""
    return hashlib.sha256(f"{sha256} {crop}".encode()).hexdigest()[:16]


def write_manifest(rows: Iterable[Row], folder: Path) -> int:
    """Writes `<kind>.csv` for every kind, sorted by source, path and crop; returns the bytes written."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(rows, key=lambda row: (row.source, row.path, row.crop))
    total = 0
    for kind in _KINDS:
        path = folder / f"{kind}.csv"
        of_kind = [row for row in ordered if row.kind == kind]
        if not of_kind:
            path.unlink(missing_ok=True)
            continue
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_COLUMNS)
            writer.writerows(astuple(row) for row in of_kind)
        total += path.stat().st_size
    return total


def read_manifest(folder: Path, *, kinds: Sequence[str] = _KINDS) -> list[Row]:
    """All rows of these kinds. Raises ManifestError; a folder without a manifest is an error too."""
    rows: list[Row] = []
    found = [folder / f"{kind}.csv" for kind in kinds if (folder / f"{kind}.csv").is_file()]
    if not found:
        raise ManifestError(f"no manifest in {folder}: `python -m training.data expand` makes it")
    for path in found:
        with path.open(encoding="utf-8", newline="") as file:
            lines = csv.DictReader(file)
            if tuple(lines.fieldnames or ()) != _COLUMNS:
                raise ManifestError(f"{path}: expected the columns {', '.join(_COLUMNS)}")
            for line in lines:
                try:
                    rows.append(_row(line))
                except (ValueError, TypeError) as error:
                    raise ManifestError(f"{path}, line {lines.line_num}: {error}") from error
    return rows


def _row(line: dict[str, Any]) -> Row:
    if line["kind"] not in _KINDS:
        raise ValueError(f"no such kind: {line['kind']!r}")
    if line["split"] not in _SPLITS:
        raise ValueError(f"no such split: {line['split']!r}")
    return Row(**{**line, "width": int(line["width"]), "height": int(line["height"])})
