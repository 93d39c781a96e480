"""Pairs of equal regions, as the detector finds and measures them, and whether they are copies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from services.passive.detectors._copy_move.geometry import SAME_MAP_PIXELS, errors, inverse
from services.passive.detectors._copy_move.repetition import FEATURES, features_of
from services.passive.detectors._copy_move.search import CopiedRegion, find_copy_moves
from training.copy_move.pictures import Kind, Made, Task

__all__ = ["Pairs", "label_of", "regions_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """n labelled pairs of m pictures; also pictures in which nothing was found count among the m.

    Attributes:
        features: float64 (n, f), in the order of `repetition.FEATURES`.
        copied: bool (n,), whether the pair is a copy.
        pictures: int64 (n,), which picture it is of.
        names, groups: str (m,): name of each picture, and what is equal for pictures of one photograph.
        kinds: str (m,), see `pictures.Kind`.
    """

    features: NDArray[np.float64]
    copied: NDArray[np.bool_]
    pictures: NDArray[np.int64]
    names: NDArray[np.str_]
    groups: NDArray[np.str_]
    kinds: NDArray[np.str_]

    @classmethod
    def collect(cls, made: Iterable[tuple[Task, Made]]) -> Self:
        """What the detector finds in pictures; pairs of which it is not clear what they are are left out."""
        features: list[tuple[float, ...]] = []
        copied: list[bool] = []
        pictures: list[int] = []
        done: list[Task] = []
        for task, picture in made:
            regions = regions_of(picture)
            measured = [region.measurements for region in regions]
            for region in regions:
                label = label_of(region, task.kind, picture)
                if label is not None:
                    features.append(features_of(region.measurements, region.way, measured))
                    copied.append(label)
                    pictures.append(len(done))
            done.append(task)
        return cls(
            features=np.array(features, np.float64).reshape(-1, len(FEATURES)),
            copied=np.array(copied, np.bool_),
            pictures=np.array(pictures, np.int64),
            names=np.array([task.name for task in done], np.str_),
            groups=np.array([task.group for task in done], np.str_),
            kinds=np.array([task.kind for task in done], np.str_),
        )

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """All pairs of parts that have no picture in common."""
        known = list(parts)
        before = np.cumsum([0] + [len(part.names) for part in known])
        return cls(
            features=np.concatenate([part.features for part in known]),
            copied=np.concatenate([part.copied for part in known]),
            pictures=np.concatenate([part.pictures + first for part, first in zip(known, before, strict=False)]),
            names=np.concatenate([part.names for part in known]),
            groups=np.concatenate([part.groups for part in known]),
            kinds=np.concatenate([part.kinds for part in known]),
        )

    def save(self, path: Path) -> None:
        """Writes an .npz file."""
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                feature_names=np.array(FEATURES),
                features=self.features,
                copied=self.copied,
                pictures=self.pictures,
                names=self.names,
                groups=self.groups,
                kinds=self.kinds,
            )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads such a file.

        Raises:
            ValueError: it holds other features than the detector asks about now: collect anew.
        """
        with np.load(path, allow_pickle=False) as file:
            if file["feature_names"].tolist() != list(FEATURES):
                raise ValueError(f"{path} holds other features than the detector asks about: collect the pairs anew")
            return cls(**{name: file[name] for name in cls.__slots__})


def regions_of(picture: Made) -> list[CopiedRegion]:
    """All pairs that keypoints and the dense field find.

    The detector spares itself the dense field where the trees that it has are certain by keypoints; here it is always
    computed, so that what is collected does not depend on those trees.
    """
    result = find_copy_moves(picture.rgb)
    regions = list(result.regions)
    if not result.dense:
        for region in find_copy_moves(picture.rgb, by_keypoints=False).regions:
            if not any(_same(region, known) for known in regions):
                regions.append(region)
    return regions


def _same(region: CopiedRegion, known: CopiedRegion) -> bool:
    """Whether most matched points of `region` lie in `known` and are moved as it is, either way round."""
    height, width = known.copy_mask.shape
    x, y = np.clip(np.rint(region.source_points).astype(np.int64), 0, [width - 1, height - 1]).T
    for transform, mask in ((known.transform, known.source_mask), (inverse(known.transform), known.copy_mask)):
        moved_alike = errors(transform, region.source_points, region.copy_points) < SAME_MAP_PIXELS
        if np.mean(mask[y, x] & moved_alike) > 0.5:
            return True
    return False


def label_of(region: CopiedRegion, kind: Kind, picture: Made) -> bool | None:
    """Whether a pair is the copy that was made; None where that is not clear.

    - Nothing is in honest and rendered pictures.
    - Planted: if the two cover what was copied, and little else. If they do not touch it, they are a look-alike.
    - By hand: if most of one side was marked. What was not marked may have been copied too.
    """
    if kind in ("honest", "rendered"):
        return False
    assert picture.truth is not None
    shares = [_share(mask, picture.truth) for mask in (region.source_mask, region.copy_mask)]
    if kind == "forged":
        return True if max(shares) > 0.5 else None
    both = region.source_mask | region.copy_mask
    f1 = 2 * float((both & picture.truth).sum()) / float(both.sum() + picture.truth.sum())
    if f1 > 0.3 and min(shares) > 0.3:
        return True
    return False if max(shares) < 0.05 else None


def _share(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float((mask & truth).sum()) / max(1, int(mask.sum()))
