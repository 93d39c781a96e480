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
from training.faces.realfake.patches import CHIP_SHARE, SIDE, Patch
from training.faces.realfake.views import CHIP, learned_view

__all__ = ["Batch", "Sampler", "is_fake"]

RGB = NDArray[np.uint8]

_SWAPPED: Final = 0.5
"""Share of the blended faces that get a part of somebody else's."""
_DONORS: Final = 4
_GENERATED_TARGETS: Final = 0.1
"""Share of the blended faces that are generated ones before."""
_FAKES: Final = frozenset({"fake_face", "generated", "blended"})


def is_fake(kind: str) -> bool:
    """Whether a kind of the manifest, or of a sample, is fake."""
    return kind in _FAKES


@dataclass(frozen=True, slots=True)
class Batch:
    """Faces, uint8 (n, side, side, 3), and whether they are fake, bool (n,)."""

    faces: RGB
    fake: NDArray[np.bool_]


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
        samples = [self._sample(kind, stage.side, rng) for kind in kinds]
        return Batch(np.stack([rgb for rgb, _ in samples]), np.array([fake for _, fake in samples]))

    def _sample(self, kind: SampleKind, side: int, rng: np.random.Generator) -> tuple[RGB, bool]:
        mirrored = rng.random() < 0.5
        if kind != "blended":
            view = learned_view(self._draw(kind, rng), rng, mirrored=mirrored)
            return _part(view, side, (CHIP / 2, CHIP / 2), CHIP, rng), is_fake(kind)
        while True:
            # Generated faces are blended too, or a real collection's look would be a blended one's.
            target = self._draw("fake_face" if rng.random() < _GENERATED_TARGETS else "real_face", rng)
            donor = self._similar(target, rng) if rng.random() < _SWAPPED else None
            made = blended(target, donor, rng)
            if made is not None:
                rgb, (x, y) = made
                across, down = ((value - SIDE / 2) / (SIDE * CHIP_SHARE) * CHIP + CHIP / 2 for value in (x, y))
                view = learned_view(rgb, rng, mirrored=mirrored)
                return _part(view, side, (CHIP - across if mirrored else across, down), side * 0.6, rng), True

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


def _part(view: RGB, side: int, place: tuple[float, float], spread: float, rng: np.random.Generator) -> RGB:
    """A square of a view, as chance has it, its middle within half of `spread` of a place where that is possible."""
    corner = [round(middle - side / 2 + (rng.random() - 0.5) * spread) for middle in place]
    left, top = (min(max(value, 0), CHIP - side) for value in corner)
    return view[top : top + side, left : left + side]


def _roots(counts: Sequence[int]) -> NDArray[np.float64]:
    roots = np.sqrt(np.array(counts, np.float64))
    return np.asarray(roots / roots.sum())
