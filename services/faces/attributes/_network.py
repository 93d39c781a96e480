"""What the networks that are asked about a face share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from services.faces.face import DetectedFace

__all__ = ["OUTPUT", "FaceNetwork", "TracesNetwork", "distributions"]

OUTPUT: Final = "probabilities"

E_co = TypeVar("E_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceNetwork(Generic[E_co]):
    """A network that is asked about one face at a time, many in a batch.

    Attributes:
        model: its name in the model repository.
        cut: from the full-size picture, uint8 (height, width, 3) RGB, and a face of it to what the network sees of it,
            uint8 (side, side, 3); all of one size.
        views: what it is asked about each face: 1 as it is, 2 as it is and mirrored, and the answers are averaged.
        prepare: what it sees to its input tensor; the first dimension is the batch.
        read: its output tensor to one estimate a face.
        input, output: names of the tensors.
    """

    model: str
    cut: Callable[[NDArray[np.uint8], DetectedFace], NDArray[np.uint8]]
    views: Literal[1, 2]
    prepare: Callable[[Sequence[NDArray[np.uint8]]], NDArray[np.float32]]
    read: Callable[[NDArray[np.floating]], list[E_co]]
    input: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TracesNetwork(Generic[E_co]):
    """A network that sees no face itself: it reads what CLIP's first blocks see of it (`traces`).

    Attributes:
        model: its name in the model repository.
        read: its output tensor, `OUTPUT`, to one estimate a face.
    """

    model: str
    read: Callable[[NDArray[np.floating]], list[E_co]]


def distributions(probabilities: NDArray[np.floating], classes: int) -> NDArray[np.float64]:
    """A network's output, (n, classes), with every row scaled to sum to 1, which rounding may have cost it.

    Raises:
        ValueError: another shape, or numbers that are no probabilities.
    """
    rows = np.asarray(probabilities, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != classes:
        raise ValueError(f"expected (n, {classes}) probabilities, got {rows.shape}")
    sums = rows.sum(axis=1, keepdims=True)
    if not np.isfinite(rows).all() or (rows < 0).any() or (sums <= 0).any():
        raise ValueError("the network's output is no distribution")
    scaled: NDArray[np.float64] = rows / sums
    return scaled
