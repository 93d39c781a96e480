"""The ResNet-10 of the served `age` network, with a second answer: apparent gender.

Its shape, and the weights that it begins with, are dlib's `dnn_age_predictor_v1` (Cydral Technology, CC0). Scales and
offsets that follow a convolution there are part of the convolution here.

Reference:
    K. He et al., "Deep Residual Learning for Image Recognition", 2015. arXiv:1512.03385
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["AGES", "AttributeNetwork", "load_age_network"]

AGES: Final = 81
"""The ages 0 to 80; the last stands for 80 and more."""
_WIDTHS: Final = (64, 128, 256)


class _Block(nn.Module):
    """Two convolutions beside a short cut; the first block of a width halves the sides, and begins to use channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.halves = inputs != outputs
        # Without padding, as dlib has it: the sides are those of the pooled short cut, or one less.
        self.first = nn.Conv2d(inputs, outputs, 3, 2 if self.halves else 1, 0 if self.halves else 1)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.second(functional.relu(self.first(x)))
        short = functional.avg_pool2d(x, 2) if self.halves else x
        height = max(seen.shape[2], short.shape[2])
        width = max(seen.shape[3], short.shape[3])
        return functional.relu(_filled(seen, height, width) + _filled(short, height, width, seen.shape[1]))


def _filled(x: Tensor, height: int, width: int, channels: int | None = None) -> Tensor:
    """Zeros on the right, below, and for channels that are not there."""
    more = (channels or x.shape[1]) - x.shape[1]
    return functional.pad(x, (0, width - x.shape[3], 0, height - x.shape[2], 0, more))


class AttributeNetwork(nn.Module):
    """From chips to log odds of being male, and of each age."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, _WIDTHS[0], 7, 2)
        blocks = [_Block(_WIDTHS[0], _WIDTHS[0])]
        for before, width in itertools.pairwise(_WIDTHS):
            blocks += [_Block(before, width), _Block(width, width)]
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.gender = nn.Linear(_WIDTHS[-1], 2)
        self.age = nn.Linear(_WIDTHS[-1], AGES)

    def forward(self, chips: Tensor) -> tuple[Tensor, Tensor]:
        """Chips, float (n, 3, 64, 64), normalised as the service does it, to logits: (n, 2: female, male), (n, 81)."""
        x = functional.max_pool2d(functional.relu(self.stem(chips)), 3, 2)
        features = self.dropout(self.blocks(x).mean(dim=(2, 3)))
        return self.gender(features), self.age(features)

    def convolutions(self) -> list[nn.Conv2d]:
        """In the order in which they are computed."""
        pairs = [layer for block in self.blocks for layer in (block.first, block.second)]
        return [self.stem, *pairs]


def load_age_network(network: AttributeNetwork, file: Path) -> None:
    """Takes the weights of the served `age` network; those of `gender` stay.

    Raises:
        ValueError: the file holds another network.
    """
    graph = onnx.load(str(file)).graph
    values = {tensor.name: np.array(onnx.numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    nodes = list(graph.node)
    places = [index for index, node in enumerate(nodes) if node.op_type == "Conv"]
    layers = network.convolutions()
    if len(places) != len(layers) or nodes[-2].op_type != "Gemm":
        raise ValueError(f"{file} is not the age network that is known here: {len(places)} convolutions")
    with torch.no_grad():
        for layer, place in zip(layers, places, strict=True):
            _, weights, bias = nodes[place].input
            scale, offset = values[nodes[place + 1].input[1]].ravel(), values[nodes[place + 2].input[1]].ravel()
            layer.weight.copy_(torch.from_numpy(values[weights] * scale[:, None, None, None]))
            assert layer.bias is not None
            layer.bias.copy_(torch.from_numpy(values[bias] * scale + offset))
        _, weights, bias = nodes[-2].input
        network.age.weight.copy_(torch.from_numpy(values[weights].T))
        network.age.bias.copy_(torch.from_numpy(values[bias]))
