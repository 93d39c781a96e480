"""The network: DeepLabV3+ on one ResNet50, which also says how the picture was edited.

1. **Stem**: beside the colours the backbone sees what is left when content is taken away: three fixed high-pass filters
   of the spatial rich model on each colour (Fridrich 2012, 10.1109/TIFS.2012.2190402; Zhou 2018,
   10.1109/CVPR.2018.00116) and constrained convolutions that learn their own (Bayar 2018, 10.1109/TIFS.2018.2825953).
2. **Traces** of each block of 8 x 8 pixels that the literature knows (`traces`), read by a small network of their own,
   in relation to the rest of the picture: a forgery is what differs from it. They have a mask and a class of their own,
   to which the deep network's are added, and go into the backbone at a stride of 8, and into the decoder.
3. **Backbone**: ResNet50 at an output stride of 16.
4. **Self-correlation**: how alike each place is to the places most like it elsewhere in the picture, which copy-move
   raises (after BusterNet, Wu 2018, 10.1007/978-3-030-01231-1_11).
5. **ASPP and decoder** of DeepLabV3+ (Chen 2018, 10.1007/978-3-030-01234-2_49), with separable convolutions.
6. **Heads**, at a quarter of the picture's size: the mask, its edge (only trained on), and reliability, the
   probability that the mask is right at that place. The class comes from the features' mean over the picture and
   over the mask.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.localisation.classes import CLASSES
from training.localisation.resnet import EXPANSION, Bottleneck, stages
from training.localisation.traces import TRACES, BlockTraces

__all__ = ["Localiser", "Output", "Parts"]

RESIDUAL_RANGE: Final = 8.0
"""Residuals are squashed around this size, in grey levels: traces are small, and content's edges are not."""
_SRM: Final = (
    ((0, 0, 0, 0, 0), (0, -1, 2, -1, 0), (0, 2, -4, 2, 0), (0, -1, 2, -1, 0), (0, 0, 0, 0, 0)),
    ((-1, 2, -2, 2, -1), (2, -6, 8, -6, 2), (-2, 8, -12, 8, -2), (2, -6, 8, -6, 2), (-1, 2, -2, 2, -1)),
    ((0, 0, 0, 0, 0), (0, 0, 0, 0, 0), (0, 1, -2, 1, 0), (0, 0, 0, 0, 0), (0, 0, 0, 0, 0)),
)
_SRM_SCALES: Final = (4.0, 12.0, 2.0)


class Output(NamedTuple):
    """What the network says; logits, float.

    Attributes:
        mask: (n, h / 4, w / 4).
        edge: likewise, of the mask's outline.
        reliability: likewise, that the mask is right.
        classes: (n, 5), see `CLASSES`.
        by_traces: (n, h / 4, w / 4), the mask as the traces alone have it; only trained on.
    """

    mask: Tensor
    edge: Tensor
    reliability: Tensor
    classes: Tensor
    by_traces: Tensor


class Parts(NamedTuple):
    """What the network says, and what it says it by; float.

    Attributes:
        output: what it says.
        told: (n, traces, h / 8, w / 8), features of the traces' reader.
        decoded: (n, width, h / 4, w / 4), features of the decoder.
    """

    output: Output
    told: Tensor
    decoded: Tensor


class Residuals(nn.Module):
    """High-pass residuals of a picture: nine fixed ones and `learned` ones."""

    def __init__(self, learned: int) -> None:
        super().__init__()
        kernels = torch.tensor(_SRM) / torch.tensor(_SRM_SCALES)[:, None, None]
        fixed = torch.zeros(9, 3, 5, 5)
        for colour in range(3):
            fixed[3 * colour : 3 * colour + 3, colour] = kernels
        self.register_buffer("fixed", fixed, persistent=False)
        self.learned = nn.Parameter(torch.rand(learned, 3, 5, 5))
        centre = torch.zeros(5, 5)
        centre[2, 2] = 1.0
        self.register_buffer("centre", centre, persistent=False)
        self.fixed: Tensor
        self.centre: Tensor

    def forward(self, rgb: Tensor) -> Tensor:
        """Float (n, 3, h, w) in 0-255 to float (n, 9 + learned, h, w) in -1 to 1."""
        around = self.learned * (1.0 - self.centre)
        total = around.sum(dim=(2, 3), keepdim=True)
        total = torch.where(total.abs() < 1e-3, torch.full_like(total, 1e-3), total)
        constrained = around / total - self.centre
        kernels = torch.cat([self.fixed, constrained])
        # In bfloat16 no kernel would sum to nothing, and content would leak.
        with torch.autocast(rgb.device.type, enabled=False):
            return torch.tanh(functional.conv2d(rgb.float(), kernels, padding=2) / RESIDUAL_RANGE)


def _block(inputs: int, outputs: int, size: int = 1, dilation: int = 1) -> nn.Sequential:
    """A convolution, separable if it is wider than one pixel, with normalisation and ReLU."""
    layers: list[nn.Module] = []
    if size > 1:
        padding = dilation * (size // 2)
        layers.append(nn.Conv2d(inputs, inputs, size, 1, padding, dilation, inputs, bias=False))
    layers += [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class SelfCorrelation(nn.Module):
    """How alike each place is to the `LARGEST` places most like it, but for its own neighbourhood."""

    LARGEST: Final = 8
    NEIGHBOURHOOD: Final = 2.5
    """In cells of the feature map: places nearer than this share what they see."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Conv2d(inputs, 64, 1, bias=False), nn.BatchNorm2d(64))
        self.mix = _block(self.LARGEST, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Float (n, inputs, h, w) to float (n, outputs, h, w)."""
        count, _, height, width = features.shape
        places = functional.normalize(self.project(features).flatten(2).float(), dim=1)
        likeness = places.transpose(1, 2) @ places
        down = torch.arange(height, device=features.device).float()[:, None].expand(height, width).reshape(-1)
        across = torch.arange(width, device=features.device).float()[None].expand(height, width).reshape(-1)
        distance = ((down[:, None] - down[None]).square() + (across[:, None] - across[None]).square()).sqrt()
        likeness = likeness - 2.0 * (distance < self.NEIGHBOURHOOD).to(likeness.dtype)
        highest = likeness.topk(self.LARGEST, dim=2).values
        mixed: Tensor = self.mix(highest.transpose(1, 2).reshape(count, self.LARGEST, height, width))
        return mixed


class _Context(nn.Module):
    """Adds what holds of the whole picture to each place: mean, spread and peak of each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Linear(3 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(2, 3))
        spread = ((x - mean[..., None, None]).square().mean(dim=(2, 3)) + 1e-4).sqrt()
        added: Tensor = self.project(torch.cat([mean, spread, _peak(x)], dim=1))
        return x + added[..., None, None]


class _Neighbours(nn.Module):
    """Two 3 x 3 convolutions with a shortcut around them."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, 1, dilation, dilation, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        changed = self.norm2(self.second(torch.relu(self.norm1(self.first(x)))))
        return torch.relu(x + changed)


class TraceReader(nn.Module):
    """Reads the traces of blocks: each alone, against the picture's, then with its neighbours'.

    Args:
        channels: of all its layers.
    """

    DILATIONS: Final = (1, 2, 4, 1)

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.fixed = BlockTraces()
        self.scale = nn.BatchNorm2d(TRACES)
        self.alone = nn.Sequential(_block(2 * TRACES, 2 * channels), _block(2 * channels, channels))
        blocks: list[nn.Module] = []
        for dilation in self.DILATIONS:
            blocks += [_Context(channels), _Neighbours(channels, dilation)]
        self.together = nn.Sequential(*blocks, _Context(channels), _block(channels, channels))
        self.mask = nn.Conv2d(channels, 1, 1)
        self.classify = nn.Linear(3 * channels + 2, len(CLASSES))

    def forward(self, rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Float (n, 3, h, w) in 0-255 to features (n, channels, h / 8, w / 8), mask (n, 1, h / 8, w / 8), classes."""
        traces = self.scale(self.fixed(rgb))
        centred = traces - traces.mean(dim=(2, 3), keepdim=True)
        spread = (centred.square().mean(dim=(2, 3), keepdim=True) + 0.01).sqrt()
        features = self.together(self.alone(torch.cat([traces, centred / spread], dim=1)))
        mask = self.mask(features)
        classes = self.classify(torch.cat([_peak(features), _summary(features, mask)], dim=1))
        return features, mask, classes


def _peak(x: Tensor) -> Tensor:
    """A soft maximum over the picture that does not grow with its size: the logarithm of the mean exponential."""
    return x.clamp(max=30.0).exp().mean(dim=(2, 3)).log()


def _summary(features: Tensor, mask: Tensor) -> Tensor:
    """Means of features over the picture and over what a mask marks, and how much it marks: (n, 2 * channels + 2)."""
    weight = torch.sigmoid(mask).detach()
    inside = weight / (weight.sum(dim=(2, 3), keepdim=True) + 1e-3)
    extent = torch.cat([weight.mean(dim=(2, 3)), weight.amax(dim=(2, 3))], dim=1)
    return torch.cat([features.mean(dim=(2, 3)), (features * inside).sum(dim=(2, 3)), extent], dim=1)


class Localiser(nn.Module):
    """The whole network.

    Args:
        learned: constrained residual filters.
        backbone: channels after the stem; 64 is ResNet50, less is a narrower one of the same depth.
        width: channels of ASPP and decoder.
        traces: channels of the traces' reader.
    """

    def __init__(self, *, learned: int = 6, backbone: int = 64, width: int = 256, traces: int = 64) -> None:
        super().__init__()
        self.traces = TraceReader(traces)
        self.residuals = Residuals(learned)
        self.backbone = nn.ModuleDict(stages(12 + learned, output_stride=16, width=backbone))
        self.correlation = SelfCorrelation(16 * backbone, 32)
        inputs = 32 * backbone + 32
        self.aspp = nn.ModuleList(
            [_block(inputs, width), *(_block(inputs, width, 3, dilation) for dilation in (3, 6, 12))]
        )
        self.pooled = nn.Sequential(nn.Conv2d(inputs, width, 1), nn.ReLU(inplace=True))
        self.merge = nn.Sequential(_block(5 * width, width), nn.Dropout2d(0.1))
        self.told = nn.Conv2d(traces, 2 * EXPANSION * backbone, 1, bias=False)
        self.low = _block(4 * backbone, 48)
        self.decode = nn.Sequential(_block(width + 48 + traces, width, 3), _block(width, width, 3))
        self.heads = nn.Conv2d(width, 3, 1)
        self.classify = nn.Sequential(
            nn.Linear(2 * width + 2, width), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(width, len(CLASSES))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            # Every block begins as its shortcut, which makes a network from scratch learn sooner.
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)
            if isinstance(module, _Neighbours):
                nn.init.constant_(module.norm2.weight, 0.5)
            if isinstance(module, _Context):
                nn.init.zeros_(module.project.weight)
        # Heads begin at how often a pixel is forged, lies at an edge, and is judged rightly; the deep network's mask
        # and class begin as those of the traces.
        nn.init.normal_(self.traces.mask.weight, std=0.1)
        nn.init.normal_(self.heads.weight, std=0.01)
        nn.init.normal_(self.told.weight, std=0.01)
        nn.init.zeros_(self.classify[-1].weight)
        with torch.no_grad():
            self.traces.mask.bias.fill_(-1.5)
            self.heads.bias.copy_(torch.tensor([0.0, -2.5, 1.5]))

    def forward(self, rgb: Tensor) -> Output:
        """The picture, float (n, 3, h, w) in 0-255, h and w multiples of 16."""
        return self.parts(rgb).output

    def parts(self, rgb: Tensor) -> Parts:
        """Likewise, with the features behind it."""
        told, told_mask, told_classes = self.traces(rgb)
        by_traces = _at(told_mask, 2)[:, 0]
        x = torch.cat([rgb / 127.5 - 1.0, self.residuals(rgb)], dim=1)
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1"):
            x = self.backbone[name](x)
        low = self.low(x)
        third = self.backbone["layer3"](self.backbone["layer2"](x) + self.told(told))
        x = torch.cat([self.backbone["layer4"](third), self.correlation(third)], dim=1)
        pooled = self.pooled(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, x.shape[2], x.shape[3])
        deep = self.merge(torch.cat([*(branch(x) for branch in self.aspp), pooled], dim=1))
        decoded = self.decode(torch.cat([_at(deep, 4), low, _at(told, 2)], dim=1))
        mask, edge, reliability = self.heads(decoded).float().unbind(dim=1)
        mask = mask + by_traces.float()
        classes = self.classify(_summary(deep, functional.avg_pool2d(mask[:, None], 4))) + told_classes
        return Parts(Output(mask, edge, reliability, classes.float(), by_traces.float()), told, decoded)

    def read_traces(self, rgb: Tensor) -> Output:
        """What the traces alone say, a tenth of the work: mask and class; the rest is 0."""
        _, mask, classes = self.traces(rgb)
        by_traces = _at(mask, 2)[:, 0].float()
        nothing = torch.zeros_like(by_traces)
        return Output(by_traces, nothing, nothing, classes.float(), by_traces)


def _at(x: Tensor, factor: int) -> Tensor:
    """Enlarged, bilinearly."""
    return functional.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)
