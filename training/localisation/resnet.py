"""ResNet50, with torchvision's names of weights, so that checkpoints of that form load as they are.

He et al., "Deep residual learning for image recognition", 2016 (10.1109/CVPR.2016.90), in the form in which everyone
uses it: the stride of a stage lies in its 3 x 3 convolution.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

__all__ = ["Bottleneck", "ResNet50", "stages"]

EXPANSION = 4


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolution with a shortcut around them."""

    def __init__(self, inputs: int, width: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        outputs = width * EXPANSION
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Float (n, inputs, h, w) to float (n, 4 * width, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


def stages(inputs: int, *, output_stride: int = 32, width: int = 64) -> OrderedDict[str, nn.Module]:
    """ResNet50 without its classifier: conv1, bn1, relu, maxpool, layer1 to layer4.

    At an output stride of 16 the last stage is dilated instead of strided, as segmentation wants it. `width` is the
    number of channels after the stem: 64 is ResNet50, less is a narrower one of the same depth.
    """
    if output_stride not in {16, 32}:
        raise ValueError(f"an output stride of {output_stride} is not supported; 16 and 32 are")
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["conv1"] = nn.Conv2d(inputs, width, 7, 2, 3, bias=False)
    parts["bn1"] = nn.BatchNorm2d(width)
    parts["relu"] = nn.ReLU(inplace=True)
    parts["maxpool"] = nn.MaxPool2d(3, 2, 1)
    channels = width
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        inner = width * 2 ** (stage - 1)
        dilated = stage == 4 and output_stride == 16
        stride, dilation = (1, 2) if dilated else (1 if stage == 1 else 2, 1)
        layers = [Bottleneck(channels, inner, stride=stride, dilation=dilation)]
        channels = inner * EXPANSION
        layers += [Bottleneck(channels, inner, dilation=dilation) for _ in range(blocks - 1)]
        parts[f"layer{stage}"] = nn.Sequential(*layers)
    return parts


class ResNet50(nn.Module):
    """The classifier; its weights have the names of torchvision's `resnet50`."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        for name, part in stages(3).items():
            self.add_module(name, part)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * EXPANSION, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Float (n, 3, h, w), normalised, to logits, float (n, classes)."""
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool"):
            x = self.get_submodule(name)(x)
        logits: Tensor = self.fc(torch.flatten(x, 1))
        return logits
