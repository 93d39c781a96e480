"""InceptionResnetV1 as FaceNet has it, written once for those who run it and those who draw its graph.

Names are those of David Sandberg's TensorFlow graph, so that its weights are found by name. Batch normalisation does
not appear: frozen graphs have it folded into the convolutions.

References:
    C. Szegedy et al., "Inception-v4, Inception-ResNet and the impact of residual connections on learning", 2016.
        arXiv:1602.07261
    F. Schroff et al., "FaceNet", 2015. 10.1109/CVPR.2015.7298682
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

__all__ = [
    "CHANNELS",
    "FINE_CHANNELS",
    "PREFIX",
    "Convolution",
    "Operations",
    "convolutions",
    "fine_map",
    "inception_resnet_v1",
    "last_map",
]

PREFIX: Final = "InceptionResnetV1"
CHANNELS: Final = 1792
"""Of the last map."""
FINE_CHANNELS: Final = 256
"""Of the fine map."""

T = TypeVar("T")
Size = tuple[int, int]


class Operations(Protocol[T]):
    """What a network consists of. T is a tensor, or the name of one; layout and batch are the implementation's."""

    def convolution(self, x: T, name: str, *, outputs: int, kernel: Size, stride: int, same: bool, relu: bool) -> T:
        """A convolution with bias; `same` pads so that the size stays (for stride 1), else nothing is padded."""
        ...

    def max_pool(self, x: T) -> T:
        """The largest of 3 x 3, every second place, nothing padded."""
        ...

    def concatenate(self, parts: Sequence[T]) -> T:
        """Channels behind each other."""
        ...

    def add_scaled(self, x: T, change: T, scale: float, *, relu: bool) -> T:
        """X + scale * change."""
        ...


def inception_resnet_v1(ops: Operations[T], x: T) -> T:
    """From a prewhitened picture, three channels, to the last map (`CHANNELS` channels; 3 x 3 for 160 x 160 pixels)."""
    return last_map(ops, fine_map(ops, x))


def fine_map(ops: Operations[T], x: T) -> T:
    """From a prewhitened picture to the map before the first reduction (`FINE_CHANNELS`; 17 x 17 for 160 x 160 pixels).

    Its places lie 8 pixels apart; the first lies on the pixel (13, 13).
    """
    x = _unit(ops, x, f"{PREFIX}/Conv2d_1a_3x3", 32, stride=2, same=False)
    x = _unit(ops, x, f"{PREFIX}/Conv2d_2a_3x3", 32, same=False)
    x = _unit(ops, x, f"{PREFIX}/Conv2d_2b_3x3", 64)
    x = ops.max_pool(x)
    x = _unit(ops, x, f"{PREFIX}/Conv2d_3b_1x1", 80)
    x = _unit(ops, x, f"{PREFIX}/Conv2d_4a_3x3", 192, same=False)
    x = _unit(ops, x, f"{PREFIX}/Conv2d_4b_3x3", 256, stride=2, same=False)
    for number in range(1, 6):
        x = _block35(ops, x, f"{PREFIX}/Repeat/block35_{number}")
    return x


def last_map(ops: Operations[T], x: T) -> T:
    """From the fine map to the last."""
    x = _reduction_a(ops, x, f"{PREFIX}/Mixed_6a")
    for number in range(1, 11):
        x = _block17(ops, x, f"{PREFIX}/Repeat_1/block17_{number}")
    x = _reduction_b(ops, x, f"{PREFIX}/Mixed_7a")
    for number in range(1, 6):
        x = _block8(ops, x, f"{PREFIX}/Repeat_2/block8_{number}")
    return _block8(ops, x, f"{PREFIX}/Block8", scale=1.0, relu=False)


def _unit(ops: Operations[T], x: T, name: str, outputs: int, *, stride: int = 1, same: bool = True) -> T:
    """A convolution and a ReLU; the name's end tells the kernel."""
    height, width = name.rsplit("_", 1)[1].split("x")
    kernel = (int(height), int(width))
    return ops.convolution(x, name, outputs=outputs, kernel=kernel, stride=stride, same=same, relu=True)


def _residual(
    ops: Operations[T], x: T, name: str, parts: Sequence[T], *, width: int, scale: float, relu: bool = True
) -> T:
    joined = ops.concatenate(parts)
    change = ops.convolution(
        joined, f"{name}/Conv2d_1x1", outputs=width, kernel=(1, 1), stride=1, same=True, relu=False
    )
    return ops.add_scaled(x, change, scale, relu=relu)


def _block35(ops: Operations[T], x: T, name: str) -> T:
    first = _unit(ops, x, f"{name}/Branch_0/Conv2d_1x1", 32)
    second = _unit(ops, x, f"{name}/Branch_1/Conv2d_0a_1x1", 32)
    second = _unit(ops, second, f"{name}/Branch_1/Conv2d_0b_3x3", 32)
    third = _unit(ops, x, f"{name}/Branch_2/Conv2d_0a_1x1", 32)
    third = _unit(ops, third, f"{name}/Branch_2/Conv2d_0b_3x3", 32)
    third = _unit(ops, third, f"{name}/Branch_2/Conv2d_0c_3x3", 32)
    return _residual(ops, x, name, [first, second, third], width=256, scale=0.17)


def _block17(ops: Operations[T], x: T, name: str) -> T:
    first = _unit(ops, x, f"{name}/Branch_0/Conv2d_1x1", 128)
    second = _unit(ops, x, f"{name}/Branch_1/Conv2d_0a_1x1", 128)
    second = _unit(ops, second, f"{name}/Branch_1/Conv2d_0b_1x7", 128)
    second = _unit(ops, second, f"{name}/Branch_1/Conv2d_0c_7x1", 128)
    return _residual(ops, x, name, [first, second], width=896, scale=0.10)


def _block8(ops: Operations[T], x: T, name: str, *, scale: float = 0.20, relu: bool = True) -> T:
    first = _unit(ops, x, f"{name}/Branch_0/Conv2d_1x1", 192)
    second = _unit(ops, x, f"{name}/Branch_1/Conv2d_0a_1x1", 192)
    second = _unit(ops, second, f"{name}/Branch_1/Conv2d_0b_1x3", 192)
    second = _unit(ops, second, f"{name}/Branch_1/Conv2d_0c_3x1", 192)
    return _residual(ops, x, name, [first, second], width=CHANNELS, scale=scale, relu=relu)


def _reduction_a(ops: Operations[T], x: T, name: str) -> T:
    first = _unit(ops, x, f"{name}/Branch_0/Conv2d_1a_3x3", 384, stride=2, same=False)
    second = _unit(ops, x, f"{name}/Branch_1/Conv2d_0a_1x1", 192)
    second = _unit(ops, second, f"{name}/Branch_1/Conv2d_0b_3x3", 192)
    second = _unit(ops, second, f"{name}/Branch_1/Conv2d_1a_3x3", 256, stride=2, same=False)
    return ops.concatenate([first, second, ops.max_pool(x)])


def _reduction_b(ops: Operations[T], x: T, name: str) -> T:
    first = _unit(ops, x, f"{name}/Branch_0/Conv2d_0a_1x1", 256)
    first = _unit(ops, first, f"{name}/Branch_0/Conv2d_1a_3x3", 384, stride=2, same=False)
    second = _unit(ops, x, f"{name}/Branch_1/Conv2d_0a_1x1", 256)
    second = _unit(ops, second, f"{name}/Branch_1/Conv2d_1a_3x3", 256, stride=2, same=False)
    third = _unit(ops, x, f"{name}/Branch_2/Conv2d_0a_1x1", 256)
    third = _unit(ops, third, f"{name}/Branch_2/Conv2d_0b_3x3", 256)
    third = _unit(ops, third, f"{name}/Branch_2/Conv2d_1a_3x3", 256, stride=2, same=False)
    return ops.concatenate([first, second, third, ops.max_pool(x)])


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution of the network: its name, the channels that it takes and gives, and its kernel (height, width)."""

    name: str
    inputs: int
    outputs: int
    kernel: Size


class _Listing:
    """Counts channels instead of computing, and writes down the convolutions."""

    def __init__(self) -> None:
        self.found: list[Convolution] = []

    def convolution(self, x: int, name: str, *, outputs: int, kernel: Size, stride: int, same: bool, relu: bool) -> int:
        self.found.append(Convolution(name, x, outputs, kernel))
        return outputs

    def max_pool(self, x: int) -> int:
        return x

    def concatenate(self, parts: Sequence[int]) -> int:
        return sum(parts)

    def add_scaled(self, x: int, change: int, scale: float, *, relu: bool) -> int:
        if x != change:
            raise ValueError(f"{change} channels are added to {x}")
        return x


def convolutions() -> Iterator[Convolution]:
    """All of them, in the order in which they are run."""
    listing = _Listing()
    inception_resnet_v1(listing, 3)
    yield from listing.found
