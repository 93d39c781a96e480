"""Samples on one sheet, as the network gets them: look at them before training on them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from training.localisation.classes import CLASSES
from training.localisation.samples import Sample

__all__ = ["contact_sheet"]

_CAPTION = 14


def contact_sheet(samples: list[Sample], *, columns: int = 10) -> NDArray[np.uint8]:
    """The crops with their masks' outlines below, uint8 (h, w, 3)."""
    cells = []
    for sample in samples:
        side = sample.rgb.shape[0]
        outlined = sample.rgb.copy()
        contours, _ = cv2.findContours(sample.mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(outlined, contours, -1, (0, 255, 0), 1)
        caption = np.zeros((_CAPTION, side, 3), np.uint8)
        name = CLASSES[sample.label] if sample.label >= 0 else "other"
        cv2.putText(caption, f"{sample.maker[:9]} {name}", (1, 10), cv2.FONT_HERSHEY_PLAIN, 0.7, (255, 255, 255))
        cells.append(np.concatenate([sample.rgb, outlined, caption]))
    cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
    rows = [np.concatenate(cells[i : i + columns], axis=1) for i in range(0, len(cells), columns)]
    return np.concatenate(rows)
