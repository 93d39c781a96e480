"""Features, labels and weights of the pictures that the head is fitted on and judged by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from training.data.manifest import Row
from training.features import Features, FeatureStore

__all__ = ["BLOCKS_USED", "INPUTS", "TOKENS", "Examples", "Input", "LeaveOut", "load_examples", "unit_weights"]

Floats = NDArray[np.float32]
LeaveOut = Literal["makers", "sources"]
Input = Literal["clip", "blocks", "residual", "clip+residual", "blocks+residual"]

INPUTS: Final[tuple[Input, ...]] = ("clip", "blocks", "residual", "clip+residual", "blocks+residual")
CLASS_TOKEN: Final = 0
PATCH_MEAN: Final = 1
TOKENS: Final = ((6, PATCH_MEAN), (9, CLASS_TOKEN), (10, CLASS_TOKEN))
"""What "blocks" adds to the embedding: (block, class token or mean of the patch tokens)."""
BLOCKS_USED: Final = tuple(sorted({block for block, _ in TOKENS}))
GENERATED_KINDS: Final = frozenset({"generated", "fake_face"})
JUDGED_KINDS: Final = frozenset({"generated", "photograph"})


@dataclass(frozen=True, slots=True)
class Examples:
    """n pictures.

    Attributes:
        rows: of the manifest.
        features: of the same pictures, in the same order.
        labels: True for generated ones, (n,).
    """

    rows: tuple[Row, ...]
    features: Features
    labels: NDArray[np.bool_]

    def matrix(self, which: Input) -> Floats:
        """The inputs of a head, float32 (n, d)."""
        parts: list[Floats] = []
        if which != "residual":
            parts.append(self.features.embedding)
        if which.startswith("blocks"):
            for block, token in TOKENS:
                parts.append(self.features.tokens[:, BLOCKS_USED.index(block), token].astype(np.float32))
        if which.endswith("residual"):
            parts.append(self.features.residual)
        return np.concatenate(parts, axis=1)

    def units(self, leave_out: LeaveOut) -> NDArray[np.str_]:
        """What is left out together: the generator, for photographs the source; or the source of either."""
        return np.array(
            [
                f"{'generator' if label else 'source'} {row.maker if label and leave_out == 'makers' else row.source}"
                for row, label in zip(self.rows, self.labels, strict=True)
            ]
        )

    def groups(self) -> NDArray[np.str_]:
        """The manifest's groups."""
        return np.array([row.group for row in self.rows])

    def judged(self) -> NDArray[np.bool_]:
        """True for what figures are about: whole generated pictures and photographs; not faces and drawings, (n,)."""
        return np.array([row.kind in JUDGED_KINDS for row in self.rows], dtype=np.bool_)

    def chosen(self, mask: NDArray[np.bool_]) -> Examples:
        """Those where the mask is True."""
        indices = np.flatnonzero(mask)
        return Examples(
            tuple(self.rows[index] for index in indices),
            Features(
                tuple(self.features.keys[index] for index in indices),
                self.features.embedding[indices],
                self.features.tokens[indices],
                self.features.residual[indices],
            ),
            self.labels[indices],
        )

    def of_split(self, split: str) -> Examples:
        """Those of one split."""
        return self.chosen(np.array([row.split == split for row in self.rows], dtype=np.bool_))


def load_examples(rows: Sequence[Row], store: FeatureStore, *, variants: Sequence[int]) -> Examples:
    """The pictures that have features, in every variant that is there.

    Raises:
        KeyError: none has.
    """
    by_key: Mapping[str, Row] = {f"{row.id}/{variant}": row for row in rows for variant in variants}
    features = store.load(list(by_key), blocks=BLOCKS_USED)
    found = tuple(by_key[key] for key in features.keys)
    return Examples(found, features, np.array([row.kind in GENERATED_KINDS for row in found]))


def unit_weights(units: NDArray[np.str_], labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights (n,) by which both classes count alike, and within a class a unit as the root of its pictures.

    So a generator of 300 pictures does not drown one of 10, nor is one picture worth as much as a hundred.
    """
    counts = Counter(units.tolist())
    weights = np.array([counts[unit] ** -0.5 for unit in units.tolist()])
    for label in (False, True):
        of_class = labels == label
        if of_class.any():
            weights[of_class] /= weights[of_class].sum()
    return np.asarray(weights * (len(labels) / 2.0))
