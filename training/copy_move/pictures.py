"""The pictures that pairs of regions are collected in, and where in them something was copied."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.forgery import ForgeryFailed, make_forgery
from evaluation.forgery._encoding import Subsampling, jpeg_round_trip
from evaluation.forgery._regions import draw_region
from services.common.detection import Technique
from training.copy_move.rendered import PAINTERS, products
from training.data.build import mask_path, picture_path
from training.data.manifest import Row, Split
from training.data.pictures import RGB, cropped, read_pixels

__all__ = ["STYLES", "Kind", "Made", "Task", "make_picture", "tasks"]

Kind = Literal["planted", "forged", "honest", "rendered"]
Mask = NDArray[np.bool_]

_MOVED: Final[dict[str, Any]] = {"rotation": 0.0, "scale": 1.0, "mirrored": False, "clones": 1}
STYLES: Final[dict[str, dict[str, Any]]] = {
    "moved": _MOVED,
    "smooth": _MOVED | {"texture": "smooth"},
    "small": _MOVED | {"area": (0.002, 0.01)},
    "large": _MOVED | {"area": (0.03, 0.12)},
    "rotated": {"scale": 1.0, "mirrored": False, "clones": 1, "rotation": (-180.0, 180.0)},
    "rescaled": {"rotation": (-10.0, 10.0), "mirrored": False, "clones": 1},
    "turned": {"mirrored": False, "clones": 1},
    "mirrored": {"mirrored": True, "clones": 1},
    "smooth_turned": {"texture": "smooth", "mirrored": False, "clones": 1},
    "any": {},
}
"""How copies are planted: options of the maker of copy-moves."""
_BY_HAND: Final[dict[str, Any]] = {
    "shape": "segment",
    "mirrored": False,
    "clones": 1,
    "feather": (0.0, 6.0),
    "stretch": (0.87, 1.15),
    "matching": (0.0, 0.4),
    "shading": (0.0, 12.0),
}
WORKED_OVER: Final[dict[str, dict[str, Any]]] = {
    "worked_over": _BY_HAND | {"rotation": (-12.0, 12.0), "scale": (0.8, 1.25)},
    "worked_over_small": _BY_HAND | {"rotation": (-12.0, 12.0), "scale": (0.8, 1.25), "area": (0.003, 0.012)},
    "worked_over_in_place": _BY_HAND | {"rotation": 0.0, "scale": 1.0, "stretch": 1.0},
    "worked_over_even": _BY_HAND | {"rotation": (-12.0, 12.0), "scale": (0.8, 1.25)},
}
"""Copies along the picture's own edges whose colour, light and proportions were changed, as people do who do not want
them to be seen. What `worked_over_even` copies lies on even ground: signs, letters, chimneys before the sky."""
EVEN_CANDIDATES: Final = 16
EVEN_LEVELS: Final = 9
EVEN_CONTRAST: Final = 12.0
"""Regions drawn for a copy on even ground, the grey levels that count as one, and the least standard deviation (grey
levels) of what is copied; of these the evenest is taken."""
AMONG_ALIKE: Final = ("letters", "front", "wallpaper", "products")
"""Rendered scenes full of look-alikes in which one thing was copied, by the styles of `WORKED_OVER`."""
AREA: Final = (0.005, 0.07)
"""Share of the picture that a planted copy covers, where the style does not say."""

QUALITIES: Final = (50, 60, 70, 75, 80, 85, 90, 92, 95, 95, 100, 100)
"""JPEG qualities that are drawn from; 100 leaves the picture as it is."""
LEAST_RENDERED_QUALITY: Final = 70

MOST_OF_SOURCE: Final = 40
MOST_HONEST_OF_SOURCE: Final = 200
"""Photographs of one source that are taken to plant copies in, and as honest pictures, so that none outweighs the
others: few honest pictures hold anything that looks like a copy, and of those the trees learn."""
LEAST_PIXELS: Final = 60_000
LEAST_SIDE: Final = 100
LEAST_PLANTED_SIDE: Final = 200
"""Smaller photographs are not taken, or nothing is planted in them."""
MAX_FORGED_PIXELS: Final = 1_000_000
VARIANTS: Final = 60
MASS_PRODUCTS: Final = 240
"""Rendered pictures of each scene; more of mass products, for these differ from copies by little but their grain."""
LEFT_OUT: Final = frozenset({"000000000581.jpg", "in43.png"})
"""Names of photographs that are not honest, for they were edited before they came into their sets: in the first a disc
of the pavement appears twice, grain and all, in the other a corner of it, a little smaller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A picture to be made.

    Attributes:
        name: unique; with it the same picture comes out again.
        kind: what it is.
        group: equal for pictures of one photograph, which are fitted or judged together.
        style: of `STYLES` or `WORKED_OVER` for planted ones.
        scene: of rendered ones, and of those planted in rendered ones.
        rows: the photographs that it is made of.
    """

    name: str
    kind: Kind
    group: str
    style: str = ""
    scene: str = ""
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A picture.

    Attributes:
        rgb: uint8 (h, w, 3).
        truth: bool (h, w), what was copied in it: source and copy, or of hand-made forgeries what their makers marked;
            None if it is honest.
    """

    rgb: RGB
    truth: Mask | None = None


def tasks(rows: Sequence[Row], data: Path, split: Split) -> list[Task]:
    """The pictures of a split, mixed: any first part of them has all kinds.

    Args:
        rows: of the manifest.
        data: the training folder; what is not in it is left out.
        split: which of the manifest.
    """
    there = [
        row for row in sorted(rows, key=lambda row: row.id) if row.split == split and picture_path(data, row).is_file()
    ]
    photographs = _photographs(there, MOST_OF_SOURCE)
    styles = list(STYLES)
    chosen = [
        Task(name=f"honest/{row.id}", kind="honest", group=row.group, rows=(row,))
        for row in _photographs(there, MOST_HONEST_OF_SOURCE)
    ]
    for row in photographs:
        for names in (styles, list(WORKED_OVER)):
            style = names[int(row.id, 16) % len(names)]
            chosen.append(Task(name=f"{style}/{row.id}", kind="planted", group=row.group, style=style, rows=(row,)))
    chosen += [
        Task(name=f"forged/{row.id}", kind="forged", group=row.group, rows=(row,))
        for row in there
        if _is_copied_by_hand(row) and (mask := mask_path(data, row)) is not None and mask.is_file()
    ]
    rendered = [
        Task(name=f"{scene}/{split}/{index}", kind="rendered", group=f"{scene}/{split}/{index}", scene=scene)
        for scene in PAINTERS
        for index in range(VARIANTS)
    ]
    rendered += [
        Task(name=f"products/{split}/{index}", kind="rendered", group=row.group, scene="products", rows=(row, other))
        for index, (row, other) in enumerate(zip(photographs[:MASS_PRODUCTS], reversed(photographs), strict=False))
    ]
    worked_over = list(WORKED_OVER)
    chosen += rendered
    chosen += [
        replace(task, name=f"among_alike/{task.name}", kind="planted", style=worked_over[index % len(worked_over)])
        for index, task in enumerate(task for task in rendered if task.scene in AMONG_ALIKE)
    ]
    return sorted(chosen, key=lambda task: _seed(task.name))


def _photographs(rows: Sequence[Row], most_of_source: int) -> list[Row]:
    taken: Counter[str] = Counter()
    chosen = []
    for row in rows:
        if row.kind != "photograph" or row.width * row.height < LEAST_PIXELS or Path(row.path).name in LEFT_OUT:
            continue
        taken[row.source] += 1
        if taken[row.source] <= most_of_source:
            chosen.append(row)
    return chosen


def _is_copied_by_hand(row: Row) -> bool:
    if row.source == "shared/cg1050":  # cm: copied and moved; cmfr: and retouched
        return "_cm" in Path(row.path).name and "_cmfr" not in row.path
    return row.source == "shared/casia2_256" and row.kind == "forged" and row.maker == "copy_move"


def make_picture(task: Task, data: Path) -> Made | None:
    """The picture of a task; None if the photograph is too small, or nothing can be planted in it.

    Raises:
        UnreadablePicture: a file of the training folder is none.
    """
    rng = np.random.default_rng(_seed(task.name))
    if task.scene:
        scene = _rendered(task, data, rng)
        if task.kind == "planted":
            return _planted(scene, task.style, rng)
        return Made(rgb=_worn_by_saving(scene, rng, LEAST_RENDERED_QUALITY))
    row = task.rows[0]
    rgb = _photograph(row, data)
    if task.kind == "forged":
        mask = mask_path(data, row)
        assert mask is not None
        truth = read_pixels(mask.read_bytes())[..., 0] >= 128
        rgb = _reduced(rgb, MAX_FORGED_PIXELS)
        return Made(rgb=rgb, truth=_resized(truth, rgb))
    if task.kind == "honest":
        rgb = _reduced(rgb, rng.uniform(0.25e6, 0.9e6))
        return Made(rgb=rgb) if min(rgb.shape[:2]) >= LEAST_SIDE else None
    return _planted(_reduced(rgb, rng.uniform(0.2e6, 0.8e6)), task.style, rng)


def _planted(rgb: RGB, style: str, rng: np.random.Generator) -> Made | None:
    if min(rgb.shape[:2]) < LEAST_PLANTED_SIDE:
        return None
    options = {"area": AREA} | (STYLES | WORKED_OVER)[style]
    if style == "worked_over_even":
        options["region"] = _even_region(rgb, rng)
    try:
        forgery = make_forgery(rgb, Technique.COPY_MOVE, rng, **options)
    except ForgeryFailed:
        return None
    truth = forgery.mask if forgery.source_mask is None else forgery.mask | forgery.source_mask
    worn = _worn_by_saving(_worn(forgery.image, rng), rng)
    return Made(rgb=worn, truth=_resized(truth, worn))


def _even_region(rgb: RGB, rng: np.random.Generator) -> Mask | None:
    """What lies on a ground of one level, bool (h, w); None if nothing drawn does and has any contrast."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    best, evenest = None, 0.0
    for _ in range(EVEN_CANDIDATES):
        drawn = draw_region(rgb, rng, area=AREA, shape="rectangle" if rng.random() < 0.5 else "segment")
        if drawn is None or grey[drawn[0]].std() < EVEN_CONTRAST:
            continue
        counts = np.bincount(grey[drawn[0]], minlength=256)
        even = float(np.convolve(counts, np.ones(EVEN_LEVELS)).max()) / counts.sum()
        if even > evenest:
            best, evenest = drawn[0], even
    return best


def _worn(rgb: RGB, rng: np.random.Generator) -> RGB:
    """Noisier, blurred or smaller, each of them seldom."""
    chance = rng.random()
    if chance < 0.08:
        noise = rng.normal(0, rng.uniform(0.5, 4), rgb.shape)
        return np.asarray(np.clip(np.rint(rgb + noise), 0, 255), np.uint8)
    if chance < 0.16:
        return np.asarray(cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.4, 1.3)), np.uint8)
    if chance < 0.22:
        factor = rng.uniform(0.6, 0.95)
        return np.asarray(cv2.resize(rgb, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)
    return rgb


def _worn_by_saving(rgb: RGB, rng: np.random.Generator, least_quality: int = 0) -> RGB:
    quality = max(least_quality, int(rng.choice(QUALITIES)))
    subsampling: Subsampling = "4:4:4" if rng.random() < 0.5 else "4:2:0"
    return rgb if quality == 100 else jpeg_round_trip(rgb, quality, subsampling)


def _rendered(task: Task, data: Path, rng: np.random.Generator) -> RGB:
    width = int(rng.uniform(380, 760))
    height = int(width * rng.uniform(0.65, 1.0))
    if task.scene != "products":
        return PAINTERS[task.scene](height, width, rng)
    background, picture = (
        np.asarray(cv2.resize(_photograph(row, data), (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        for row in task.rows
    )
    return products(background, picture, rng)


def _photograph(row: Row, data: Path) -> RGB:
    return np.ascontiguousarray(cropped(read_pixels(picture_path(data, row).read_bytes()), row.box))


def _reduced(rgb: RGB, max_pixels: float) -> RGB:
    factor = math.sqrt(max_pixels / (rgb.shape[0] * rgb.shape[1]))
    if factor >= 1.0:
        return rgb
    return np.asarray(cv2.resize(rgb, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)


def _resized(mask: Mask, rgb: RGB) -> Mask:
    height, width = rgb.shape[:2]
    return np.asarray(cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0)


def _seed(name: str) -> int:
    return int(hashlib.sha256(name.encode()).hexdigest()[:12], 16)
