"""Labelled pictures: what is measured on. Three forms are read.

- A CSV manifest with the columns path and label, and optionally technique, mask, source (or group), set, split, boxes.
  Instead of a label it may name a `set` of sets.toml. Paths are relative to the manifest.
- A folder with image/mask pairs: `images` (or `image`, `forged`, `tampered`) and `masks` (or `mask`) side by side.
- A folder with `authentic` (or `honest`, `original`, `pristine`, `real`) and `tampered` (or `edited`, `forged`) or
  `generated` (or `ai`, `fake`) below it.

A folder that holds one CSV file with such columns is read as that manifest. Folders have neither splits nor sets.
"""

from __future__ import annotations

import csv
import enum
import json
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final, TextIO

from services.common.detection import Technique

__all__ = ["DataError", "Label", "Sample", "Samples", "load_samples", "without_sources_of"]

SETS: Final = Path(__file__).parent / "sets.toml"
PICTURES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif"})


class DataError(Exception):
    """The labelled data cannot be read; the text says what is wrong and what is expected."""


class Label(enum.Enum):
    """What a picture really is."""

    HONEST = "honest"
    EDITED = "edited"
    GENERATED = "generated"


WORDS: Final = {
    Label.HONEST: ("honest", "authentic", "pristine", "original", "real", "0"),
    Label.EDITED: ("edited", "tampered", "forged", "manipulated", "1"),
    Label.GENERATED: ("generated", "ai", "fake", "synthetic"),
}
"""What labels and folders are called, by what they mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One labelled picture.

    Attributes:
        name: unique in the data set: its path in it.
        path: the file.
        label: what it is.
        technique: how it was edited, if the set tells.
        mask: file of its mask (above half is forged), if there is one.
        source: what it was made from; everything of one source stays together when intervals are drawn.
        set_name: of which set of the data it is.
        portrait: True if the set is one of portraits, in each of which there is a face.
        boxes: faces as (left, top, right, bottom) in pixels of the upright picture; None where nobody marked them.
    """

    name: str
    path: Path
    label: Label
    technique: Technique | None = None
    mask: Path | None = None
    source: str
    set_name: str = ""
    portrait: bool = False
    boxes: tuple[tuple[float, float, float, float], ...] | None = None


@dataclass(frozen=True, slots=True)
class Samples:
    """A data set: its samples by name, the rows that were left out by reason, and notes by set."""

    samples: tuple[Sample, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


def load_samples(data: Path, *, split: str | None = None, sets: Sequence[str] = ()) -> Samples:
    """Reads labelled data of any of the three forms.

    Args:
        data: a manifest or a folder.
        split: only rows of this split; None for all.
        sets: only rows of these sets; empty for all.

    Raises:
        DataError: it is neither, a row cannot be read, or nothing in it is labelled.
    """
    if data.is_file():
        loaded = _from_manifest(data, split=split, sets=sets)
    elif data.is_dir():
        manifests = [path for path in sorted(data.glob("*.csv")) if "path" in _columns(path)]
        if len(manifests) > 1:
            raise DataError(f"{data} holds several manifests: name one of {', '.join(path.name for path in manifests)}")
        if manifests:
            loaded = _from_manifest(manifests[0], split=split, sets=sets)
        elif split or sets:
            raise DataError(f"{data} has no manifest, so no splits and sets to choose from: give none")
        else:
            loaded = Samples(tuple(_from_folder(data)))
    else:
        raise DataError(f"{data} does not exist")
    if not loaded.samples:
        chosen = f" of split {split}" if split else ""
        chosen += f" of set {', '.join(sets)}" if sets else ""
        reasons = "".join(f"; {count} pictures: {reason}" for reason, count in loaded.left_out.items())
        raise DataError(
            f"no labelled picture{chosen} in {data}: expected a CSV with path and label (or set), image/mask folders, "
            f"or authentic/tampered folders{reasons}"
        )
    return loaded


def without_sources_of(loaded: Samples, listed: Path) -> Samples:
    """Leaves out every sample that shares its source with one of those named in a text file, a name a line.

    Raises:
        DataError: the file cannot be read, none of its names is known, or nothing would be left.
    """
    try:
        names = set(listed.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{listed}: {error}") from error
    sources = {sample.source for sample in loaded.samples if sample.name in names}
    kept = tuple(sample for sample in loaded.samples if sample.source not in sources)
    if not sources:
        raise DataError(f"no picture that {listed} names is in the data: paths are those of the manifest")
    if not kept:
        raise DataError(f"every picture shares its source with one that {listed} names")
    return replace(loaded, samples=kept)


def _columns(path: Path) -> set[str]:
    with _opened(path) as file:
        return set(next(csv.reader(file), []))


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """A manifest, with or without the mark that spreadsheets write first."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8: {error}") from error


def _from_manifest(path: Path, *, split: str | None, sets: Sequence[str]) -> Samples:
    known_sets = tomllib.loads(SETS.read_text(encoding="utf-8"))
    samples: dict[str, Sample] = {}
    left_out: Counter[str] = Counter()
    with _opened(path) as file:
        rows = csv.DictReader(file)
        if "path" not in (rows.fieldnames or ()):
            raise DataError(f"{path} has no column path; it has {', '.join(rows.fieldnames or ()) or 'none'}")
        for row in rows:
            if (split and row.get("split") != split) or (sets and row.get("set") not in sets):
                continue
            try:
                sample = _of_row(row, path, known_sets)
            except ValueError as error:
                raise DataError(f"{path}, line {rows.line_num} ({row['path']}): {error}") from error
            if sample is None:
                left_out[f"no label for pictures of set {row.get('set') or '(none)'}"] += 1
            elif sample.name in samples:
                raise DataError(f"{path}, line {rows.line_num}: {sample.name} is there twice")
            else:
                samples[sample.name] = sample
    notes = {
        name: known_sets[name]["note"]
        for name in sorted({sample.set_name for sample in samples.values()})
        if "note" in known_sets.get(name, {})
    }
    return Samples(tuple(sorted(samples.values(), key=lambda sample: sample.name)), dict(left_out), notes)


def _of_row(row: Mapping[str, str], manifest: Path, known_sets: Mapping[str, Any]) -> Sample | None:
    """The sample of a row, or None if nothing says what it is. Raises ValueError for a cell that cannot be read."""
    if not row["path"]:
        raise ValueError("no path")
    facts = _facts(row, known_sets)
    if facts is None:
        return None
    picture, mask = manifest.parent / row["path"], facts.get("mask")
    return Sample(
        name=row["path"],
        path=picture,
        label=facts["label"],
        technique=facts.get("technique"),
        mask=(picture.parent / mask).resolve() if mask and not row.get("mask") else _given(manifest, mask),
        source=row.get("source") or row.get("group") or row["path"],
        set_name=row.get("set") or "",
        portrait=facts.get("portrait", False),
        boxes=_boxes(row.get("boxes") or ""),
    )


def _given(manifest: Path, mask: str | None) -> Path | None:
    return manifest.parent / mask if mask else None


def _facts(row: Mapping[str, str], known_sets: Mapping[str, Any]) -> dict[str, Any] | None:
    """Label, technique and mask of a row: its own columns, or the rule of its set; None if neither tells."""
    if row.get("label"):
        label = _label(row["label"])
        if label is None:
            raise ValueError(f"label {row['label']!r} is none of honest, edited, generated")
        technique = _technique(row["technique"]) if row.get("technique") else None
        return {"label": label, "technique": technique, "mask": row.get("mask") or None}
    for rule in known_sets.get(row.get("set") or "", {}).get("rules", []):
        if fnmatch("/" + row["path"], rule["glob"]):
            mask = rule["mask"].format(stem=Path(row["path"]).stem) if "mask" in rule else None
            technique = Technique(rule["technique"]) if "technique" in rule else None
            portrait = bool(rule.get("portrait", False))
            return {"label": Label(rule["label"]), "technique": technique, "mask": mask, "portrait": portrait}
    return None


def _label(word: str) -> Label | None:
    return next((label for label, words in WORDS.items() if word.strip().lower() in words), None)


def _technique(word: str) -> Technique:
    try:
        return Technique(word.strip().lower())
    except ValueError as error:
        known = ", ".join(technique.value for technique in Technique)
        raise ValueError(f"technique {word!r} is none of {known}") from error


def _boxes(text: str) -> tuple[tuple[float, float, float, float], ...] | None:
    if not text:
        return None
    try:
        boxes = json.loads(text)
        return tuple((float(left), float(top), float(right), float(bottom)) for left, top, right, bottom in boxes)
    except (ValueError, TypeError) as error:
        raise ValueError(f"boxes {text!r} are no JSON list of [left, top, right, bottom]") from error


def _from_folder(data: Path) -> Iterator[Sample]:
    masks = next((data / name for name in ("masks", "mask") if (data / name).is_dir()), None)
    for folder in sorted(path for path in data.iterdir() if path.is_dir() and path != masks):
        label = _label(folder.name)
        if label is None and masks is not None and folder.name in {"images", "image"}:
            label = Label.EDITED
        if label is None:
            continue
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in PICTURES:
                continue
            mask = _mask_of(path, masks) if masks is not None and label is Label.EDITED else None
            name = path.relative_to(data).as_posix()
            yield Sample(name=name, path=path, label=label, mask=mask, source=path.stem, set_name=data.name)


def _mask_of(picture: Path, masks: Path) -> Path | None:
    names = (f"{picture.stem}.png", picture.name, f"{picture.stem}_mask.png", f"{picture.stem}_gt.png")
    return next((masks / name for name in names if (masks / name).is_file()), None)
