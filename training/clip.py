"""The CLIP image encoder (ViT-B/16, int8) of a registry package, with taps on its blocks.

The encoder quantises its activations on the fly, with one scale for a whole batch: the neighbours in a batch change a
picture's features. So it runs one picture at a time, here and wherever it is served.

Its last embedding says what a picture shows. The residual stream of earlier blocks still knows how the picture was
made (Koutlis & Papadopoulos, Leveraging Representations from Intermediate Encoder-blocks for Synthetic Image Detection,
10.1007/978-3-031-73220-1_23), so the class token of every block is read too.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.deeplearning.clip import input_tensor
from training.data.pictures import RGB

__all__ = ["BLOCKS", "EMBEDDING", "INPUT", "OUTPUT", "WIDTH", "ClipEncoder", "tapped"]

Floats = NDArray[np.float32]

BLOCKS: Final = 12
WIDTH: Final = 768
"""Numbers of a token in the residual stream."""
EMBEDDING: Final = 512
INPUT: Final = "pixel_values"
OUTPUT: Final = "image_embeds"
_LAST: Final = "onnx::Gather_1524"
"""What the exporter called the last block's result; it is an output of the graph already."""


def tapped(block: int) -> str:
    """Name of the graph's tensor behind a block, 0 to 11: float32 (1, 197, 768), the class token first."""
    return f"/vision_model/encoder/layers.{block}/Add_1_output_0" if block < BLOCKS - 1 else _LAST


class ClipEncoder:
    """The encoder with the class token of every block as further outputs.

    Attributes:
        digest: SHA-256 of the encoder's file.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        # Here and not above: only the training environment has them.
        import onnx  # noqa: PLC0415
        import onnxruntime  # noqa: PLC0415

        content = path.read_bytes()
        self.digest = hashlib.sha256(content).hexdigest()
        model = onnx.load_model_from_string(content)
        for block in range(BLOCKS - 1):
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(tapped(block)))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._outputs = [OUTPUT, *(tapped(block) for block in range(BLOCKS))]

    def __call__(self, view: RGB) -> tuple[Floats, Floats]:
        """Features of a 224 x 224 view.

        Returns:
            The embedding, float32 (512,), and the class token and the mean of the patch tokens behind every block,
            float32 (12, 2, 768).
        """
        embedding, *streams = self._session.run(self._outputs, {INPUT: input_tensor(view)})
        tokens = np.stack([np.stack([stream[0, 0], stream[0, 1:].mean(axis=0)]) for stream in streams])
        return np.asarray(embedding[0], np.float32), tokens.astype(np.float32)
