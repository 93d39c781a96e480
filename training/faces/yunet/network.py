"""YuNet: three maps, at strides of 8, 16 and 32 pixels; each place says whether it sees a face, where, its landmarks.

It can answer in two forms: as the published export does, in twelve maps (`Published`), and as Triton serves it, in
three (`Served`): fewer and larger operations and messages, for the same numbers.

Reference:
    W. Wu, H. Peng, S. Yu, "YuNet: a tiny millisecond-level face detector", 2023. 10.1007/s11633-023-1423-y
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["HINTS", "OUTPUTS", "SIZES", "STRIDES", "Maps", "Published", "Served", "YuNet"]

STRIDES: Final = (8, 16, 32)
"""Pixels between places, by map."""
SIZES: Final = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
"""What each place says: class, objectness, box, five landmarks."""
OUTPUTS: Final = tuple(f"{name}_{stride}" for name in SIZES for stride in STRIDES)
"""Names of the published export's outputs."""

HINTS: Final = ("stem", *(f"stage_{stride}" for stride in STRIDES), *(f"lateral_{stride}" for stride in STRIDES))
"""Names of the features on the way (`YuNet.features`)."""

Maps = dict[str, Tensor]
"""By output's name: float (n, places, size), places row by row; `cls` and `obj` are log odds."""


class _Unit(nn.Sequential):
    """A pointwise and a depthwise convolution."""

    def __init__(self, inputs: int, outputs: int, *, activated: bool = True) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, 1),
            nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs, bias=not activated),
        ]
        if activated:
            layers += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class YuNet(nn.Module):
    """The network of the published `yunet_n`, with weights that begin at random."""

    def __init__(self) -> None:
        super().__init__()
        stem = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True), _Unit(16, 16)]
        self.stem = nn.Sequential(*stem, nn.MaxPool2d(2), _Unit(16, 16), _Unit(16, 64), _Unit(64, 64), _Unit(64, 64))
        self.stages = nn.ModuleList([nn.Sequential(nn.MaxPool2d(2), _Unit(64, 64), _Unit(64, 64)) for _ in STRIDES])
        self.laterals = nn.ModuleList([_Unit(64, 64) for _ in STRIDES])
        self.shared = nn.ModuleList([_Unit(64, 64) for _ in STRIDES])
        self.heads = nn.ModuleDict(
            {f"{name}_{stride}": _Unit(64, size, activated=False) for name, size in SIZES.items() for stride in STRIDES}
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for stride in STRIDES:
            for name in ("cls", "obj"):
                # Few places see a face: an even start would take thousands of steps to unlearn.
                nn.init.constant_(self.heads[f"{name}_{stride}"][-1].bias, -4.0)

    def features(self, pictures: Tensor) -> Maps:
        """What it computes on the way: float (n, 64, h', w') by the names in `HINTS`; pictures as for `forward`."""
        x = self.stem(pictures)
        found: Maps = {"stem": x}
        for stage, stride in zip(self.stages, STRIDES, strict=True):
            x = stage(x)
            found[f"stage_{stride}"] = x
        above: Tensor | None = None
        for level in (2, 1, 0):
            x = found[f"stage_{STRIDES[level]}"]
            if above is not None:
                x = x + functional.interpolate(above, scale_factor=2.0)
            above = found[f"lateral_{STRIDES[level]}"] = self.laterals[level](x)
        return found

    def answers(self, features: Maps) -> Maps:
        """The outputs that follow from `features`."""
        maps: Maps = {}
        for level, stride in enumerate(STRIDES):
            seen = self.shared[level](features[f"lateral_{stride}"])
            # A plain number, so that an export's graph needs no arithmetic with shapes, which OpenCV does not read.
            count = int(seen.shape[0])
            for name, size in SIZES.items():
                found = self.heads[f"{name}_{stride}"](seen)
                maps[f"{name}_{stride}"] = found.permute(0, 2, 3, 1).reshape(count, -1, size)
        return maps

    def forward(self, pictures: Tensor) -> Maps:
        """Float (n, 3, h, w), BGR, 0-255, sides multiples of 32."""
        return self.answers(self.features(pictures))


class Published(nn.Module):
    """The network as the published export answers: `cls` and `obj` as probabilities, outputs in its order."""

    def __init__(self, network: YuNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """All of `OUTPUTS`."""
        maps = self.network(pictures)
        return tuple(torch.sigmoid(maps[name]) if name[:3] in {"cls", "obj"} else maps[name] for name in OUTPUTS)


class Served(nn.Module):
    """The network as Triton serves it: of each stride one map, whose rows are all that a place says, by `SIZES`.

    The heads of a stride are two convolutions instead of eight, with the same weights.
    """

    def __init__(self, network: YuNet) -> None:
        super().__init__()
        self.network = network
        self.heads = nn.ModuleList([self._joined(stride) for stride in STRIDES])

    def _joined(self, stride: int) -> nn.Sequential:
        parts = [self.network.heads[f"{name}_{stride}"] for name in SIZES]
        rows = sum(SIZES.values())
        joined = nn.Sequential(nn.Conv2d(64, rows, 1), nn.Conv2d(rows, rows, 3, padding=1, groups=rows))
        joined.load_state_dict(
            {name: torch.cat([part.state_dict()[name] for part in parts]) for name in joined.state_dict()}
        )
        return joined

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """For each stride float (n, 16, places); the first two rows, `cls` and `obj`, are probabilities."""
        features = self.network.features(pictures)
        count = int(pictures.shape[0])
        answers = []
        for head, shared, stride in zip(self.heads, self.network.shared, STRIDES, strict=True):
            found = head(shared(features[f"lateral_{stride}"]))
            found = torch.cat([torch.sigmoid(found[:, :2]), found[:, 2:]], dim=1)
            # As in `YuNet.answers`: a plain number.
            answers.append(found.reshape(count, sum(SIZES.values()), -1))
        return tuple(answers)
