"""The network of `facenet_realfake`: FaceNet's InceptionResnetV1, and beside it a small look at the finest detail.

FaceNet learned to tell people apart whatever the picture is like, and so to overlook what generators and editors leave
behind. Fine-tuning brings some of it back; a branch that sees only what a high-pass leaves of the picture (as the
steganalysts' networks do: Yedroudj et al. 2018, 10.1109/ICASSP.2018.8461438) starts without that habit. Where the
edge of something put in runs is learned place by place on a map halfway through the trunk (as Face X-ray does: Li et
al. 2020, 10.1109/CVPR42600.2020.00505): that says more than one answer for a whole face.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.faces.facenet import find_weights
from training.faces.inception_resnet import CHANNELS, FINE_CHANNELS, Convolution, Size, convolutions, fine_map, last_map

__all__ = ["Detail", "InceptionResnet", "RealFake", "load_facenet", "prewhitened"]

_HIGH_PASS: Final = (
    [[-1, 2, -1], [2, -4, 2], [-1, 2, -1]],
    [[0, 0, 0], [1, -2, 1], [0, 0, 0]],
    [[0, 1, 0], [0, -2, 0], [0, 1, 0]],
)
"""Second differences: of both directions, along the rows, along the columns."""
_LARGEST_RESIDUAL: Final = 3.0
"""Residuals, divided by 4, are cut off here: edges say nothing about how a picture came about."""
_SEAM_FEATURES: Final = 2
"""Mean and largest of the log odds of seams."""


def prewhitened(faces: Tensor) -> Tensor:
    """Each face less its mean, over its deviation, as FaceNet takes them: float (n, 3, h, w)."""
    centred = faces - faces.mean(dim=(1, 2, 3), keepdim=True)
    deviation = centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return centred / deviation.clamp(min=(faces[0].numel()) ** -0.5)


class InceptionResnet(nn.Module):
    """InceptionResnetV1 without normalisation layers: they are folded into the convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({part.name.replace(".", "_"): _convolution(part) for part in convolutions()})

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Prewhitened faces, (n, 3, 160, 160), to the fine map and the last: (n, 256, 17, 17), (n, 1792, 3, 3)."""
        fine = fine_map(self, x)
        return fine, last_map(self, fine)

    def convolution(
        self,
        x: Tensor,
        name: str,
        *,
        outputs: int,
        kernel: Size,
        stride: int,
        same: bool,
        relu: bool,
    ) -> Tensor:
        """One of the convolutions."""
        layer = self.parts[name]
        padding = [side // 2 if same else 0 for side in kernel]
        result = functional.conv2d(x, layer.weight, layer.bias, stride, padding)
        return functional.relu(result, inplace=True) if relu else result

    def max_pool(self, x: Tensor) -> Tensor:
        """The largest of 3 x 3, every second place."""
        return functional.max_pool2d(x, 3, 2)

    def concatenate(self, parts: Sequence[Tensor]) -> Tensor:
        """Channels behind each other."""
        return torch.cat(list(parts), dim=1)

    def add_scaled(self, x: Tensor, change: Tensor, scale: float, *, relu: bool) -> Tensor:
        """X + scale * change."""
        added = torch.add(x, change, alpha=scale)
        return functional.relu(added, inplace=True) if relu else added


def _convolution(part: Convolution) -> nn.Conv2d:
    return nn.Conv2d(part.inputs, part.outputs, part.kernel)


def load_facenet(network: InceptionResnet, graph: Path) -> None:
    """Copies FaceNet's weights out of the package's `graph_final.pb` into the network."""
    weights, content = find_weights(graph), graph.read_bytes()
    with torch.no_grad():
        for name, place in weights.convolutions.items():
            layer = network.parts[name]
            layer.weight.copy_(torch.from_numpy(place.filters.read(content)).permute(3, 2, 0, 1))
            layer.bias.copy_(torch.from_numpy(place.offsets.read(content)))


class Detail(nn.Module):
    """What the finest detail looks like: second differences, cut off, and five convolutions.

    Args:
        width: channels of the first convolution; the last has four times as many.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        filters = torch.tensor(_HIGH_PASS, dtype=torch.float32)[:, None] / 4
        self.register_buffer("filters", filters.repeat(3, 1, 1, 1))
        self.filters: Tensor
        self.outputs = 4 * width
        sizes = [
            (9, width, 1),
            (width, width, 1),
            (width, 2 * width, 2),
            (2 * width, 4 * width, 2),
            (4 * width, 4 * width, 2),
        ]
        layers: list[nn.Module] = []
        for inputs, outputs, stride in sizes:
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, faces: Tensor) -> Tensor:
        """Faces, float (n, 3, h, w), 0-255, to the mean over the picture, float (n, outputs)."""
        residual = functional.conv2d(faces, self.filters, padding=1, groups=3)
        learned: Tensor = self.layers(residual.clamp(-_LARGEST_RESIDUAL * 4, _LARGEST_RESIDUAL * 4) / 4)
        return learned.mean(dim=(2, 3))


class RealFake(nn.Module):
    """Faces to the log odds of being fake.

    Args:
        detail: channels that the look at the finest detail begins with; 0 for none.
        seams: whether the trunk's fine map is read for edges of what was put in, too.
        dropout: share of the features that are dropped in training.
    """

    def __init__(self, *, detail: int = 16, seams: bool = False, dropout: float = 0.3) -> None:
        super().__init__()
        self.trunk = InceptionResnet()
        self.detail = Detail(detail) if detail else None
        self.seams = nn.Conv2d(FINE_CHANNELS, 1, 1) if seams else None
        self.dropout = nn.Dropout(dropout)
        more = (self.detail.outputs if self.detail else 0) + (_SEAM_FEATURES if seams else 0)
        self.head = nn.Linear(CHANNELS + more, 1)

    def forward(self, faces: Tensor) -> Tensor:
        """Float (n, 3, 160, 160), RGB, 0-255, to log odds, float (n,)."""
        return self.look(faces)[0]

    def look(self, faces: Tensor) -> tuple[Tensor, Tensor | None]:
        """The same, and the log odds of seams at the fine map's places, float (n, 17, 17); None without that look."""
        fine, last = self.trunk(prewhitened(faces))
        features, seams = [last.mean(dim=(2, 3))], None
        if self.detail is not None:
            features.append(self.detail(faces))
        if self.seams is not None:
            seams = self.seams(fine)[:, 0]
            features += [seams.mean(dim=(1, 2))[:, None], seams.amax(dim=(1, 2))[:, None]]
        odds: Tensor = self.head(self.dropout(torch.cat(features, dim=1)))
        return odds[:, 0], seams

    @torch.no_grad()
    def begin_with(self, before: RealFake) -> None:
        """Takes another's weights; if it did not look for seams, the head overlooks at first what these add."""
        state = before.state_dict()
        head = state.pop("head.weight")
        missing, unexpected = self.load_state_dict(state, strict=False)
        if unexpected or not set(missing) <= {"head.weight", "seams.weight", "seams.bias"}:
            raise ValueError(f"the weights are of another network: {', '.join([*missing, *unexpected])}")
        self.head.weight.zero_()
        self.head.weight[:, : head.shape[1]] = head
