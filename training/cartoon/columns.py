"""Where the features of VGG16's blocks lie: for every block the means of its channels, then their deviations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCKS", "VERSION", "WIDTHS", "columns"]

WIDTHS: Final = {1: 64, 2: 128, 3: 256, 4: 512, 5: 512}
"""Channels behind each block."""
BLOCKS: Final = tuple(WIDTHS)
VERSION: Final = 2
"""Of what a feature is: to be raised with every change."""


def columns(blocks: Sequence[int]) -> NDArray[np.int64]:
    """Where the features of some blocks lie among those of all."""
    starts = np.concatenate([[0], np.cumsum([2 * WIDTHS[block] for block in BLOCKS])])
    return np.concatenate([np.arange(starts[block - 1], starts[block]) for block in blocks]).astype(np.int64)
