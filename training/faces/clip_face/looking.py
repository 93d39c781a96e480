"""The model `clip_face` as users meet it, without Triton between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from services.faces.attributes.traces import INPUT, OUTPUT

__all__ = ["TRACES", "ClipFace"]

TRACES: Final = 3072
"""Numbers that it tells of a face."""
_BATCH: Final = 8


class ClipFace:
    """Looks at faces.

    Args:
        model: its ONNX file, with the encoder's beside it.
        threads: of onnxruntime.

    Raises:
        FileNotFoundError: the file is not there.
    """

    def __init__(self, model: Path, *, threads: int = 1) -> None:
        if not model.is_file():
            raise FileNotFoundError(f"{model} is missing: make models")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def __call__(self, views: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """What it sees of chips, uint8 (160, 160, 3) each: float32 (n, 3072)."""
        if not len(views):
            return np.zeros((0, TRACES), np.float32)
        parts = [views[start : start + _BATCH] for start in range(0, len(views), _BATCH)]
        return np.concatenate([self._session.run([OUTPUT], {INPUT: np.stack(list(part))})[0] for part in parts])
