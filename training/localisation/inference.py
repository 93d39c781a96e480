"""What goes into the network for a whole picture, and what comes out.

**Working size**: the picture as it is, or area-averaged to at most `WORKING_SIDE` pixels on its longest side. It is
seen in one pass, so there are no tiles to overlap, and a copy is compared with all the rest. Both sides are filled up
to multiples of 16 by reflection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from services.deeplearning.clip import input_tensor, squeezed_view
from training.clip import INPUT

__all__ = ["WORKING_SIDE", "Localisation", "Predictor", "localise", "onnx_predictor", "prepared"]

RGB = NDArray[np.uint8]
Floats = NDArray[np.float32]

WORKING_SIDE: Final = 1024
"""Longest side, in pixels, that the network sees."""
STRIDE: Final = 16

Predictor = Callable[[Floats, Floats], tuple[Floats, Floats, Floats]]
"""From images, float32 (1, 3, h, w) in 0-255, and CLIP's view of the picture, float32 (1, 3, 224, 224), to the
probabilities of mask and reliability, float32 (1, h, w) each, and of the classes, float32 (1, 5)."""


@dataclass(frozen=True, slots=True)
class Localisation:
    """What the network says about a picture.

    Attributes:
        mask: probability that a pixel was edited, float32 (h, w), at the picture's size.
        reliability: probability that the mask, cut at 0.5, is right there, likewise.
        classes: probabilities, float32 (5,), in the order of `training.localisation.classes.CLASSES`.
    """

    mask: Floats
    reliability: Floats
    classes: Floats


def prepared(rgb: RGB) -> tuple[Floats, tuple[int, int]]:
    """The network's input, float32 (1, 3, h, w) in 0-255, and the (height, width) of the picture in it."""
    height, width = rgb.shape[:2]
    factor = min(1.0, WORKING_SIDE / max(height, width))
    if factor < 1.0:
        size = max(1, round(width * factor)), max(1, round(height * factor))
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
        width, height = size
    filled = cv2.copyMakeBorder(rgb, 0, -height % STRIDE, 0, -width % STRIDE, cv2.BORDER_REFLECT)
    return np.ascontiguousarray(filled.transpose(2, 0, 1)[None], dtype=np.float32), (height, width)


def localise(rgb: RGB, predict: Predictor) -> Localisation:
    """Asks the network about a picture, uint8 (h, w, 3)."""
    images, (height, width) = prepared(rgb)
    mask, reliability, classes = predict(images, input_tensor(squeezed_view(rgb)))

    def restored(values: Floats) -> Floats:
        cut = np.ascontiguousarray(values[0, :height, :width])
        if cut.shape == rgb.shape[:2]:
            return cut
        return np.asarray(cv2.resize(cut, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.float32)

    return Localisation(restored(mask), restored(reliability), classes[0])


def onnx_predictor(network: Path | bytes, *, threads: int = 2) -> Predictor:
    """An exported network, or its content, on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    takes_view = any(given.name == INPUT for given in session.get_inputs())

    def predict(images: Floats, view: Floats) -> tuple[Floats, Floats, Floats]:
        inputs = {"images": images} | ({INPUT: view} if takes_view else {})
        mask, reliability, classes = session.run(["mask", "reliability", "classes"], inputs)
        return mask, reliability, classes

    return predict
