"""Where a face lies in FaceNet's embedding space: faces of one person lie near each other.

The network is InceptionResnetV1 as D. Sandberg trained it on CASIA-WebFace (20180408-102900; after Schroff et al. 2015,
10.1109/CVPR.2015.7298682), frozen. It looks at each face as it is and mirrored; the mean of the
two, scaled to length 1, is the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.faces.alignment import face_chip
from services.faces.attributes._network import FaceNetwork
from services.faces.face import Embedding

__all__ = ["FALSE_MATCH_RATE", "NETWORK", "SIDE", "THRESHOLD", "WIDTH", "prepared", "read"]

SIDE: Final = 160
WIDTH: Final = 512
ZOOM: Final = 0.85
"""FaceNet learned from looser crops than dlib's chips are. Of 0.7, 0.85 and 1, on 140 faces of the calibration split,
it keeps strangers and changed versions of the same picture furthest apart."""

THRESHOLD: Final = 0.7
"""Similarity from which two faces count as one person's: 1 in 1,000 pairs of strangers of the calibration split is so
similar."""
FALSE_MATCH_RATE: Final = 0.002
"""Share of pairs of strangers above `THRESHOLD` on the dev split, 95 % interval 0.0008 to 0.0035."""


def prepared(chips: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Chips, each uint8 (SIDE, SIDE, 3) RGB, as a batch: float32 (n, SIDE, SIDE, 3), 0 to 255."""
    return np.stack(list(chips)).astype(np.float32)


def read(embeddings: NDArray[np.floating]) -> list[Embedding]:
    """The network's output, (n, 512), as unit vectors.

    Raises:
        ValueError: another shape, or no direction.
    """
    rows = np.asarray(embeddings, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] != WIDTH:
        raise ValueError(f"expected (n, {WIDTH}) embeddings, got {rows.shape}")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(rows).all() or (lengths < 1e-6).any():
        raise ValueError("the network's output is no direction")
    return [Embedding(row) for row in rows / lengths]


NETWORK: Final = FaceNetwork(
    model="facenet",
    cut=partial(face_chip, size=SIDE, zoom=ZOOM),
    views=2,
    prepare=prepared,
    read=read,
    input="faces",
    output="embedding",
)
