"""What is measured of copy-move beyond sets by others: planted copies by what was done to them, and honest repetition.

python -m evaluation.copy_move planted DATA [--split dev] [--count 12] [--out FOLDER]
python -m evaluation.copy_move large DATA [--split dev] [--count 12] [--out FOLDER]
python -m evaluation.copy_move repetition DATA [--split dev] [--out FOLDER]

`planted` writes a table: how many copies are found by rotation, scale, JPEG quality, noise, blur, size and texture, one
of them varied at a time. `large` plants in photographs that are reduced to working size, and writes how well what is
found is outlined, by the working size and at full size. `repetition` composes the set of `evaluation.repetition` and
says how many of it are accused.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.forgery import Encoding, Forgery, ForgeryFailed, make_forgery
from evaluation.metrics.intervals import proportion
from evaluation.repetition import compose_repetition
from evaluation.runner import run
from evaluation.samples import DataError, Label, Sample, load_samples
from services.common.detection import Finding
from services.common.images import WORKING_PIXELS, Picture, decode_image
from services.passive.detectors.copy_move import DECISION_SCORE, detect_copy_move

__all__ = ["Cell", "Outlined", "large_copies", "main", "planted_cells"]

RGB = NDArray[np.uint8]

QUALITY: Final = 90
AREA: Final = 0.02
MIN_SIDE: Final = 300
"""Shorter side, in pixels, of photographs that are planted in."""

SERIES: Final[dict[str, tuple[float, ...]]] = {
    "rotation": (0.0, 5.0, 15.0, 45.0, 90.0, 180.0),
    "scale": (0.7, 0.85, 1.0, 1.15, 1.5),
    "jpeg": (50, 60, 75, 85, 95),
    "noise": (1.0, 3.0, 6.0),
    "blur": (0.5, 1.0, 1.5),
    "area": (0.005, 0.01, 0.04),
    "mirrored": (1.0,),
    "stretch": (1.1, 1.25),
    "shading": (8.0, 20.0),
    "matching": (0.3, 0.6),
}
"""What is varied, one at a time: degrees; times; quality; standard deviation in grey levels, added to the whole picture
after planting; sigma in pixels, likewise; share of the picture; yes; how much wider the copy is made; grey levels by
which its brightness changes across it; how far its colours are drawn to those around it. Otherwise a copy is moved
only, covers `AREA`, and is saved at `QUALITY`."""

LARGE: Final[dict[str, dict[str, Any]]] = {
    "moved": {"rotation": 0.0, "scale": 1.0},
    "rotated": {"rotation": 20.0, "scale": 1.0},
    "enlarged": {"rotation": 0.0, "scale": 1.2},
    "reduced": {"rotation": 0.0, "scale": 0.8},
}
"""What is done to copies that are planted in large photographs."""
LARGE_AREA: Final = 0.01
"""Share of a large photograph that a copy covers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A cell of the table: `found` of `planted` copies, and the mean pixel F1 of source and copy, misses as 0."""

    series: str
    level: float
    texture: str
    planted: int
    found: int
    pixel_f1: float


def planted_cells(photographs: Sequence[RGB], *, series: Mapping[str, Sequence[float]] = SERIES) -> Iterator[Cell]:
    """Plants one copy a photograph for every level, smooth and textured, and looks for it.

    Args:
        photographs: uint8 (h, w, 3).
        series: what is varied, see `SERIES`.
    """
    for name, levels in series.items():
        for level in levels:
            for texture in ("textured", "smooth"):
                results = [
                    _found(photograph, index, name, level, texture) for index, photograph in enumerate(photographs)
                ]
                known = [result for result in results if result is not None]
                yield Cell(
                    series=name,
                    level=level,
                    texture=texture,
                    planted=len(known),
                    found=sum(score > 0.0 for score in known),
                    pixel_f1=float(np.mean(known)) if known else 0.0,
                )


def _found(photograph: RGB, index: int, series: str, level: float, texture: str) -> float | None:
    """Pixel F1 of what is reported, 0 if nothing is; None if no such copy could be planted."""
    options: dict[str, Any] = {"rotation": 0.0, "scale": 1.0, "mirrored": series == "mirrored", "area": AREA}
    if series in {"rotation", "scale", "area", "stretch", "shading", "matching"}:
        options[series] = level
    seed = zlib.crc32(f"{series} {level} {texture} {index}".encode())
    try:
        forgery = make_forgery(photograph, "copy_move", seed, clones=1, gain=1.0, texture=texture, **options)
    except ForgeryFailed:
        return None
    content = Encoding(quality=int(level) if series == "jpeg" else QUALITY).encode(
        _processed(forgery.image, series, level, seed)
    )
    finding = detect_copy_move(decode_image(content))
    if finding.score is None or finding.score < DECISION_SCORE or finding.heat_map is None:
        return 0.0
    return _f1(finding.heat_map >= DECISION_SCORE, forgery)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlined:
    """A copy planted in a large photograph, and pixel F1 of the outlines of source and copy; None if it is not found.

    Attributes:
        kind: of `LARGE`.
        working_f1: by the picture at working size, enlarged.
        full_f1: as served.
    """

    kind: str
    working_f1: float | None
    full_f1: float | None


def large_copies(photographs: Iterable[RGB]) -> Iterator[Outlined]:
    """Plants one copy of each kind of `LARGE` in each photograph, and looks for it.

    Args:
        photographs: uint8 (h, w, 3), of more pixels than the working size has.
    """
    for index, photograph in enumerate(photographs):
        for kind, options in LARGE.items():
            seed = zlib.crc32(f"{kind} {index}".encode())
            try:
                forgery = make_forgery(
                    photograph,
                    "copy_move",
                    seed,
                    clones=1,
                    gain=1.0,
                    mirrored=False,
                    texture="textured",
                    area=LARGE_AREA,
                    **options,
                )
            except ForgeryFailed:
                continue
            picture = decode_image(Encoding(quality=QUALITY).encode(forgery.image))
            # Nothing is left to refine of a picture that has the working size.
            reduced = detect_copy_move(Picture.from_array(picture.working))
            yield Outlined(
                kind=kind,
                working_f1=_outlined_f1(reduced, 1.0 / picture.scale, forgery),
                full_f1=_outlined_f1(detect_copy_move(picture), 1.0, forgery),
            )


def _outlined_f1(finding: Finding, enlarged: float, forgery: Forgery) -> float | None:
    """Pixel F1 of the outlines, `enlarged` so many times; None if nothing was found."""
    if finding.score is None or finding.score < DECISION_SCORE:
        return None
    marked = np.zeros(forgery.mask.shape, np.uint8)
    for region in finding.regions:
        corners = enlarged * np.array([[point.x, point.y] for point in region.polygon]) - 0.5
        cv2.fillPoly(marked, [np.rint(corners).astype(np.int32)], 1)
    return _f1(marked > 0, forgery)


def _processed(image: RGB, series: str, level: float, seed: int) -> RGB:
    if series == "noise":
        noise = np.random.default_rng(seed).normal(0.0, level, image.shape)
        return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
    if series == "blur":
        return np.asarray(cv2.GaussianBlur(image, (0, 0), level), np.uint8)
    return image


def _f1(marked: NDArray[np.bool_], forgery: Forgery) -> float:
    truth = forgery.mask if forgery.source_mask is None else forgery.mask | forgery.source_mask
    return float(2 * (marked & truth).sum() / (marked.sum() + truth.sum()))


def _table(cells: Sequence[Cell]) -> str:
    lines = ["| varied | level | textured: found | pixel F1 | smooth: found | pixel F1 |", "|---|---|---|---|---|---|"]
    by_key = {(cell.series, cell.level, cell.texture): cell for cell in cells}
    for series, level in dict.fromkeys((cell.series, cell.level) for cell in cells):
        row = [series, f"{level:g}"]
        for texture in ("textured", "smooth"):
            cell = by_key[series, level, texture]
            row += [f"{cell.found}/{cell.planted}", f"{cell.pixel_f1:.2f}"]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _photographs(samples: Sequence[Sample], count: int) -> list[RGB]:
    """The first honest ones without a portrait that are large enough, in an order that their names' digests give."""
    chosen = []
    honest = [sample for sample in samples if sample.label is Label.HONEST and not sample.portrait]
    for sample in sorted(honest, key=lambda sample: zlib.crc32(sample.name.encode())):
        rgb = decode_image(sample.path.read_bytes()).working
        if min(rgb.shape[:2]) >= MIN_SIDE and rgb.size <= 3 * 400_000:
            chosen.append(rgb)
        if len(chosen) == count:
            break
    return chosen


def _planted(options: argparse.Namespace) -> None:
    samples = load_samples(options.data, split=options.split, sets=["pristine", "coco128_seg"] if options.split else [])
    photographs = _photographs(samples.samples, options.count)
    if not photographs:
        raise DataError(f"no honest photograph of at least {MIN_SIDE} pixels a side in {options.data}")
    options.out.mkdir(parents=True, exist_ok=True)
    cells = []
    for cell in planted_cells(photographs):
        cells.append(cell)
        print(f"{cell.series} {cell.level:g} {cell.texture}: {cell.found} of {cell.planted}", file=sys.stderr)
    text = _table(cells)
    (options.out / "planted.md").write_text(text + "\n", encoding="utf-8")
    print(text)


def _large(options: argparse.Namespace) -> None:
    loaded = load_samples(options.data, split=options.split, sets=["camera_jpeg"] if options.split else [])
    outlined = list(large_copies(_large_photographs(loaded.samples, options.count)))
    if not outlined:
        raise DataError(f"no honest photograph of more than {WORKING_PIXELS:,} pixels in {options.data}")
    text = _large_table(outlined)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "large.md").write_text(text + "\n", encoding="utf-8")
    print(text)


def _large_photographs(samples: Sequence[Sample], count: int) -> Iterator[RGB]:
    """The first honest ones that are reduced to working size, in the order that their names' digests give."""
    left = count
    for sample in sorted(samples, key=lambda sample: zlib.crc32(sample.name.encode())):
        if left and sample.label is Label.HONEST:
            picture = decode_image(sample.path.read_bytes())
            if picture.scale < 1.0:
                left -= 1
                yield picture.rgb


def _large_table(outlined: Sequence[Outlined]) -> str:
    lines = [
        "| copy | found | pixel F1 by the working size | at full size | worse by more than 0.003 |",
        "|---|---|---|---|---|",
    ]
    for kind in [*LARGE, ""]:
        planted = [one for one in outlined if kind in ("", one.kind)]
        pairs = [
            (one.working_f1, one.full_f1) for one in planted if one.working_f1 is not None and one.full_f1 is not None
        ]
        f1 = [f"{np.mean(column):.3f} (median {np.median(column):.3f})" for column in zip(*pairs, strict=True)]
        worse = sum(full < working - 0.003 for working, full in pairs)
        lines.append(f"| {kind or 'all'} | {len(pairs)}/{len(planted)} | {' | '.join(f1 or ['-', '-'])} | {worse} |")
    return "\n".join(lines)


def _repetition(options: argparse.Namespace) -> None:
    loaded = load_samples(options.data, split=options.split, sets=[word for word in options.sets.split(",") if word])
    manifest = compose_repetition(loaded.samples, options.out)
    samples = load_samples(manifest).samples
    results = run(samples, ["passive"], options.out / "results.jsonl", only=["copy_move"], jobs=options.jobs)
    sources = {sample.name: sample.source for sample in samples}
    sets = {sample.name: sample.set_name for sample in samples}
    accused = {record.sample: (record.score or 0.0) >= DECISION_SCORE for record in results.records}
    for name in ["", *sorted(set(sets.values()))]:
        chosen = [sample for sample in accused if not name or sets[sample] == name]
        share = proportion([accused[sample] for sample in chosen], [sources[sample] for sample in chosen])
        print(f"{name or 'all'}: accused {sum(accused[sample] for sample in chosen)} of {len(chosen)}, {share}")
    print(json.dumps(sorted(sample for sample, flag in accused.items() if flag), indent=1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.copy_move", description="How good is copy-move?")
    commands = parser.add_subparsers(required=True)
    for name, command, text in (
        ("planted", _planted, "copies planted in honest photographs, by what was done to them"),
        ("large", _large, "copies planted in large photographs, and how well they are outlined"),
        ("repetition", _repetition, "pictures full of honest repetition"),
    ):
        sub = commands.add_parser(name, help=text)
        sub.add_argument("data", type=Path, help="a manifest (CSV) or a folder with honest photographs")
        sub.add_argument("--split", help="only this split of a manifest")
        sub.add_argument(
            "--out", type=Path, default=Path(".pentimento") / f"copy_move_{name}", help="folder of results"
        )
        sub.set_defaults(command=command)
        if name in ("planted", "large"):
            sub.add_argument("--count", type=int, default=12, help="photographs that are planted in")
        else:
            sub.add_argument(
                "--sets", default="pristine,camera_jpeg", help="where photographs may come from, with commas"
            )
            sub.add_argument("--jobs", type=int, default=2, help="worker processes")
    options = parser.parse_args(arguments)
    try:
        options.command(options)
    except (DataError, ValueError, OSError) as error:
        print(f"copy_move: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
