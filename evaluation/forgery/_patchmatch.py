"""Exemplar-based filling: a hole gets the pixels of patches elsewhere in the picture that continue its surroundings.

1. **Pyramid**: from a few dozen pixels to at most `FINEST_SIDE`. The coarsest hole starts with diffused colours.
2. **Search** (PatchMatch, Barnes 2009): each pixel of the hole keeps the place of the patch most like its own; places
   spread to neighbours and are improved by random draws around the best so far, all pixels at once.
3. **Vote** (Wexler 2007): the hole is painted anew from the overlapping patches, and the search goes on.
4. **Full size**: pixels are copied at full resolution from where the finest level points, so that grain and sharpness
   stay those of the picture (shift maps, Pritch 2009).

References:
    C. Barnes et al., "PatchMatch: a randomized correspondence algorithm for structural image editing", 2009.
        10.1145/1531326.1531330
    Y. Wexler, E. Shechtman, M. Irani, "Space-time completion of video", 2007. 10.1109/TPAMI.2007.60
    Y. Pritch, E. Kav-Venaki, S. Peleg, "Shift-map image editing", 2009. 10.1109/ICCV.2009.5459159
"""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.forgery._registry import RGB, Mask

__all__ = ["fill_by_patches"]

Floats = NDArray[np.float32]
Places = NDArray[np.int32]

PATCH: Final = 7
"""Side of a patch in pixels."""
COARSEST_SIDE: Final = 28
FINEST_SIDE: Final = 128
"""Longest side of the pyramid's last level."""
ROUNDS: Final = 3
"""Searches and votes at each level."""
_HALF: Final = PATCH // 2
_STEPS: Final = ((0, 1), (0, -1), (1, 0), (-1, 0))


def fill_by_patches(rgb: RGB, hole: Mask, rng: np.random.Generator) -> RGB | None:
    """Fills the hole from the rest of the picture.

    Args:
        rgb: uint8 (h, w, 3).
        hole: bool (h, w).
        rng: where chance comes from.

    Returns:
        uint8 (h, w, 3), unchanged outside the hole; or None where the picture has no whole patch outside it.
    """
    longest = max(rgb.shape[:2])
    sides = [min(FINEST_SIDE, longest)]
    while sides[-1] > 1.5 * COARSEST_SIDE:
        sides.append(max(COARSEST_SIDE, round(sides[-1] / 1.8)))
    places: Places | None = None
    image: Floats | None = None
    small_hole = hole
    for side in reversed(sides):
        colours, small_hole = _reduced(rgb, hole, side / longest)
        centres = _patch_centres(small_hole)
        if not centres.any():
            return None
        if image is None or places is None:
            start = cv2.inpaint(colours.astype(np.uint8), small_hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)
            image = np.where(small_hole[..., None], start.astype(np.float32), colours)
            choices = np.argwhere(centres).astype(np.int32)
            places = np.zeros((*small_hole.shape, 2), np.int32)
            places[small_hole] = choices[rng.integers(len(choices), size=int(small_hole.sum()))]
        else:
            places = _enlarged(places, small_hole.shape, centres, rng)
            image = _vote(colours, small_hole, places)
        for _ in range(ROUNDS):
            places = _search(image, small_hole, centres, places, rng)
            image = _vote(colours, small_hole, places)
    assert image is not None
    assert places is not None
    return _copied(rgb, hole, places, image)


def _reduced(rgb: RGB, hole: Mask, factor: float) -> tuple[Floats, Mask]:
    """The picture and its hole at another size; no colour of the hole leaks into what surrounds it."""
    height, width = hole.shape
    size = max(2 * PATCH, round(width * factor)), max(2 * PATCH, round(height * factor))
    known = (~hole).astype(np.float32)
    weight = cv2.resize(known, size, interpolation=cv2.INTER_AREA)
    total = cv2.resize(rgb.astype(np.float32) * known[..., None], size, interpolation=cv2.INTER_AREA)
    colours = (total / np.maximum(weight, 1e-3)[..., None]).astype(np.float32)
    return colours, np.asarray(weight < 0.5)


def _grid(height: int, width: int) -> NDArray[np.int64]:
    """(row, column) of each pixel, int64 (height, width, 2)."""
    return np.moveaxis(np.indices((height, width), np.int64), 0, -1)


def _patch_centres(hole: Mask) -> Mask:
    """Where a whole patch lies in the picture and outside the hole, bool (h, w)."""
    centres = ~cv2.dilate(hole.astype(np.uint8), np.ones((PATCH, PATCH))).astype(bool)
    centres[:_HALF] = centres[-_HALF:] = False
    centres[:, :_HALF] = centres[:, -_HALF:] = False
    return centres


def _enlarged(places: Places, shape: tuple[int, ...], centres: Mask, rng: np.random.Generator) -> Places:
    """The same shifts at the next level's size; those that point nowhere are drawn anew."""
    height, width = places.shape[:2]
    size = shape[1], shape[0]
    shifts = (places - _grid(height, width)).astype(np.float32)
    shifts = cv2.resize(shifts, size, interpolation=cv2.INTER_NEAREST) * np.array([shape[0] / height, shape[1] / width])
    moved = np.rint(_grid(shape[0], shape[1]) + shifts).astype(np.int32)
    moved = np.clip(moved, 0, np.array(shape[:2], np.int32) - 1).astype(np.int32)
    wrong = ~centres[moved[..., 0], moved[..., 1]]
    choices = np.argwhere(centres)
    moved[wrong] = choices[rng.integers(len(choices), size=int(wrong.sum()))]
    return np.asarray(moved, dtype=np.int32)


def _search(image: Floats, hole: Mask, centres: Mask, places: Places, rng: np.random.Generator) -> Places:
    """One round of PatchMatch for every pixel of the hole at once."""
    padded = np.pad(image, ((_HALF, _HALF), (_HALF, _HALF), (0, 0)), mode="reflect")
    patches: NDArray[Any] = np.lib.stride_tricks.sliding_window_view(padded, (PATCH, PATCH), axis=(0, 1))
    rows, columns = hole.nonzero()
    own = patches[rows, columns]
    best = places[rows, columns]
    cost = np.square(patches[best[:, 0], best[:, 1]] - own).sum(axis=(1, 2, 3))
    limits = np.array(hole.shape) - 1

    def try_places(candidates: NDArray[Any]) -> None:
        inside = np.clip(candidates, 0, limits)
        ok = centres[inside[:, 0], inside[:, 1]] & (inside == candidates).all(axis=1) & (candidates != best).any(axis=1)
        (trial,) = ok.nonzero()
        distance = np.square(patches[inside[trial, 0], inside[trial, 1]] - own[trial]).sum(axis=(1, 2, 3))
        better = distance < cost[trial]
        best[trial[better]] = inside[trial[better]]
        cost[trial[better]] = distance[better]

    field = places.copy()
    for down, right in _STEPS:
        field[rows, columns] = best
        beside = np.clip(np.stack([rows + down, columns + right], axis=1), 0, limits)
        # Outside the hole nothing is searched: `field` holds no place there that would help.
        known = hole[beside[:, 0], beside[:, 1]]
        offer = field[beside[:, 0], beside[:, 1]] - np.array([down, right])
        try_places(np.where(known[:, None], offer, best))
    reach = float(max(hole.shape))
    while reach >= 1.0:
        try_places(best + np.rint(rng.uniform(-reach, reach, best.shape)).astype(np.int32))
        reach /= 2.5
    field[rows, columns] = best
    return field


def _vote(colours: Floats, hole: Mask, places: Places) -> Floats:
    """The picture with each pixel of the hole the mean of what the patches around it (3 x 3) say."""
    rows, columns = hole.nonzero()
    limits = np.array(hole.shape) - 1
    total = np.zeros((len(rows), 3), np.float32)
    count = np.zeros((len(rows), 1), np.float32)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            beside = np.clip(np.stack([rows + down, columns + right], axis=1), 0, limits)
            known = hole[beside[:, 0], beside[:, 1]]
            source = places[beside[:, 0], beside[:, 1]] - np.array([down, right])
            source = np.clip(source, 0, limits)
            total += colours[source[:, 0], source[:, 1]] * known[:, None]
            count += known[:, None]
    image = colours.copy()
    image[hole] = total / count
    return image


def _copied(rgb: RGB, hole: Mask, places: Places, image: Floats) -> RGB:
    """Pixels of full size, from where the finest level's shifts point; seams between shifts are cross-faded."""
    height, width = hole.shape
    small_height, small_width = places.shape[:2]
    ratio = np.array([height / small_height, width / small_width])
    shifts = np.rint((places - _grid(small_height, small_width)) * ratio).astype(np.int64)
    rows, columns = hole.nonzero()
    # What the shifts cannot give is taken from the finest level.
    rough = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)[rows, columns]
    total = 1e-3 * rough
    weight = np.full((len(rows), 1), 1e-3, np.float32)
    for down in (-0.5, 0.5):
        for right in (-0.5, 0.5):
            at_row = (rows + 0.5) / ratio[0] - 0.5 + down
            at_column = (columns + 0.5) / ratio[1] - 0.5 + right
            near = (
                np.clip(np.rint(at_row), 0, small_height - 1).astype(np.intp),
                np.clip(np.rint(at_column), 0, small_width - 1).astype(np.intp),
            )
            source = np.stack([rows, columns], axis=1) + shifts[near]
            inside = np.clip(source, 0, [height - 1, width - 1])
            usable = (inside == source).all(axis=1) & ~hole[inside[:, 0], inside[:, 1]] & shifts[near].any(axis=1)
            # Bilinear weights, so that one shift fades into the next.
            share = (1.0 - np.abs(np.rint(at_row) - at_row + down)) * (
                1.0 - np.abs(np.rint(at_column) - at_column + right)
            )
            part = (np.clip(share, 0.0, 1.0) * usable).astype(np.float32)[:, None]
            total += part * rgb[inside[:, 0], inside[:, 1]]
            weight += part
    filled = rgb.copy()
    filled[rows, columns] = np.rint(np.clip(total / weight, 0, 255)).astype(np.uint8)
    return filled
