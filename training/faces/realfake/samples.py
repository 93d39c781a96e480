"""Batches to learn from: each is drawn by the run's seed and its own number, and by nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.faces.realfake.blending import blended
from training.faces.realfake.config import RunConfig, SampleKind, Stage
from training.faces.realfake.patches import SIDE, Patch
from training.faces.realfake.views import CELL, CHIP, drawn_matrix, learned_view, seams

__all__ = ["Batch", "Sampler", "is_fake"]

RGB = NDArray[np.uint8]
Floats = NDArray[np.float32]

_SWAPPED: Final = 0.5
"""Share of the blended faces that get a part of somebody else's."""
_DONORS: Final = 4
_FINE_MAP: Final = slice(1, -2)
"""The squares on which places of FaceNet's fine map lie: 13 pixels from the edge, then every eight."""
_FAKES: Final = frozenset({"fake_face", "generated", "blended"})
_SEAMS_KNOWN: Final = frozenset({"real_face", "photograph", "blended"})


def is_fake(kind: str) -> bool:
    """Whether a kind of the manifest, or of a sample, is fake."""
    return kind in _FAKES


@dataclass(frozen=True, slots=True)
class Batch:
    """n faces, `side` pixels each.

    Attributes:
        faces: uint8 (n, side, side, 3).
        fake: whether they are, bool (n,).
        seams: where parts were put in, as `seams` tells it, at the places of FaceNet's fine map: float32 (n, 17, 17)
            for a side of 160.
        seams_known: of whom that is known: of all but generated ones, bool (n,).
    """

    faces: RGB
    fake: NDArray[np.bool_]
    seams: Floats
    seams_known: NDArray[np.bool_]


class Sampler:
    """Draws samples: kinds by the run's shares, sources and makers by the root of their number of pictures.

    Args:
        patches: with their pixels; those of other splits than `train` and of sources that the run leaves out are passed
            over.
        config: of the run.
    """

    def __init__(self, patches: Sequence[Patch], pixels: Sequence[RGB], config: RunConfig) -> None:
        self._pixels = pixels
        self._seed = config.seed
        groups: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for index, patch in enumerate(patches):
            if patch.split == "train" and patch.source not in config.left_out:
                unit = patch.maker if is_fake(patch.kind) else patch.source
                groups[patch.kind][unit].append(index)
        self._groups = {kind: [np.array(found) for found in units.values()] for kind, units in groups.items()}
        self._odds = {kind: _roots([len(found) for found in units]) for kind, units in self._groups.items()}
        drawn = {kind: share for kind, share in config.shares.items() if kind == "blended" or kind in self._groups}
        if "real_face" not in self._groups or "fake_face" not in self._groups:
            raise ValueError("there are no patches of real and of fake faces to train on: cut them first")
        self._kinds: list[SampleKind] = list(drawn)
        self._shares = np.array(list(drawn.values())) / sum(drawn.values())

    def batch(self, step: int, stage: Stage) -> Batch:
        """The batch of a step."""
        rng = np.random.default_rng([self._seed, step])
        # Exact shares but for the rounding, which chance decides: no batch lacks a class.
        marks = (np.arange(stage.batch) + rng.random()) / stage.batch
        kinds = [
            self._kinds[number]
            for number in np.searchsorted(np.cumsum(self._shares), marks).clip(max=len(self._kinds) - 1)
        ]
        pairs = [self._pair(stage.side, rng) for kind in kinds if kind == "blended"]
        # Real faces are what the blended ones were before, as far as there are any, with the same history.
        made, before = iter([first for first, _ in pairs]), iter([second for _, second in pairs])
        samples = []
        for kind in kinds:
            given = next(made if kind == "blended" else before, None) if kind in {"blended", "real_face"} else None
            samples.append(given or self._sample(kind, stage.side, rng))
        return Batch(
            np.stack([rgb for rgb, _ in samples]),
            np.array([is_fake(kind) for kind in kinds]),
            np.stack([seam for _, seam in samples]),
            np.array([kind in _SEAMS_KNOWN for kind in kinds]),
        )

    def _sample(self, kind: SampleKind, side: int, rng: np.random.Generator) -> tuple[RGB, Floats]:
        """A face of a kind, as it is, and where its seams are: nowhere."""
        mirrored, matrix = bool(rng.random() < 0.5), drawn_matrix(rng)
        view = learned_view(self._draw(kind, rng), rng, matrix, mirrored=mirrored)
        return _part(view, np.zeros((CHIP // CELL, CHIP // CELL), np.float32), *_corner(None, side, rng), side)

    def _pair(self, side: int, rng: np.random.Generator) -> tuple[tuple[RGB, Floats], tuple[RGB, Floats]]:
        """A blended face, and the same before it was blended, with one history; and where their seams are."""
        while True:
            target = self._draw("real_face", rng)
            donor = self._similar(target, rng) if rng.random() < _SWAPPED else None
            made = blended(target, donor, rng)
            if made is not None:
                break
        mirrored, matrix, history = bool(rng.random() < 0.5), drawn_matrix(rng), int(rng.integers(1 << 62))
        seam = seams(made.inside, matrix, mirrored=mirrored)
        corner = _corner(seam, side, rng)
        after, before = (
            learned_view(rgb, np.random.default_rng(history), matrix, mirrored=mirrored) for rgb in (made.rgb, target)
        )
        return _part(after, seam, *corner, side), _part(before, np.zeros_like(seam), *corner, side)

    def _similar(self, target: RGB, rng: np.random.Generator) -> RGB:
        """Of a few real faces the one whose colours are closest: nobody pastes a face that does not fit at all."""
        donors = [self._draw("real_face", rng) for _ in range(_DONORS)]
        wanted = _mean_colour(target)
        return min(donors, key=lambda donor: float(np.abs(_mean_colour(donor) - wanted).sum()))

    def _draw(self, kind: str, rng: np.random.Generator) -> RGB:
        group = self._groups[kind][int(rng.choice(len(self._odds[kind]), p=self._odds[kind]))]
        return np.ascontiguousarray(self._pixels[int(rng.choice(group))])


def _mean_colour(patch: RGB) -> NDArray[np.float64]:
    """Of the face's middle."""
    quarter = SIDE // 4
    return np.asarray(patch[quarter:-quarter:4, quarter:-quarter:4].mean(axis=(0, 1)))


def _corner(seam: Floats | None, side: int, rng: np.random.Generator) -> tuple[int, int]:
    """Top and left of a square of a view, in squares of `CELL` pixels: as chance has it, or with a seam in it."""
    cells = side // CELL
    last = CHIP // CELL - cells
    top, left = rng.integers(0, last + 1, 2).tolist()
    if seam is None or not seam.any():
        return top, left
    # Within what was put in, all is of one piece, and nothing tells that it was.
    odds = seam.ravel().astype(np.float64)
    place = int(rng.choice(seam.size, p=odds / odds.sum()))
    down, across = divmod(place, seam.shape[1])
    moved = rng.integers(-cells // 4, cells // 4 + 1, 2).tolist()
    return (
        min(max(down - cells // 2 + moved[0], 0), last),
        min(max(across - cells // 2 + moved[1], 0), last),
    )


def _part(view: RGB, seam: Floats, top: int, left: int, side: int) -> tuple[RGB, Floats]:
    """The square of a view, and of where its seams are, that begins at a corner."""
    cells = side // CELL
    part = view[top * CELL : top * CELL + side, left * CELL : left * CELL + side]
    return part, seam[top : top + cells, left : left + cells][_FINE_MAP, _FINE_MAP]


def _roots(counts: Sequence[int]) -> NDArray[np.float64]:
    roots = np.sqrt(np.array(counts, np.float64))
    return np.asarray(roots / roots.sum())
