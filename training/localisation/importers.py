"""Users' own weights: checkpoints of two well-known forms become models that Triton serves.

- *deeplabv3plus*: `DeepLabV3Plus("resnet50")` of segmentation-models-pytorch, one class, as `.pth`.
- *resnet50*: torchvision's `resnet50` with its last layer changed to some classes, as `.pth`.

Files are read with `weights_only`: no code of theirs runs. The networks are defined here, so neither library is needed.
What is served takes the picture in 0-255, and does in the graph what the two libraries expect: scaling to 0-1,
ImageNet's mean and standard deviation. The size that the network was trained at, and the names of its classes, stand
beside it (`training.localisation.own`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.localisation.resnet import ResNet50, stages

__all__ = ["CheckpointError", "SmpDeepLabV3Plus", "import_classifier", "import_segmenter", "read_weights"]

_MEAN: Final = (0.485, 0.456, 0.406)
_STD: Final = (0.229, 0.224, 0.225)
_NESTED: Final = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES: Final = ("module.", "model.", "net.", "_orig_mod.")
_CLASS: Final = re.compile(r"[a-z][a-z0-9_]*")


class CheckpointError(ValueError):
    """A checkpoint is not of the expected form; the text says what it lacks."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a `.pth` file by name, without what training wrappers put before the names.

    Raises:
        CheckpointError: it holds anything but tensors in dictionaries, or no weights.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path.name} cannot be read as weights alone: {error}. Save it as torch.save(model.state_dict(), path)."
        ) from error
    while isinstance(content, Mapping) and (inner := next((content[k] for k in _NESTED if _holds(content, k)), None)):
        content = inner
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path.name} holds no state_dict: save it as torch.save(model.state_dict(), path)")
    weights = {str(name): value for name, value in content.items()}
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in weights)), None):
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _holds(content: Mapping[Any, Any], key: str) -> bool:
    return isinstance(content.get(key), Mapping)


def _load(network: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    expected = network.state_dict()
    missing = sorted(set(expected) - set(weights) - {name for name in expected if name.endswith("num_batches_tracked")})
    unknown = sorted(set(weights) - set(expected))
    wrong = [name for name in expected if name in weights and expected[name].shape != weights[name].shape]
    if missing or unknown or wrong:
        parts = [
            f"{len(names)} {word} (first: {names[0]})"
            for word, names in (("missing", missing), ("unknown", unknown), ("of another shape", wrong))
            if names
        ]
        raise CheckpointError(f"these are no weights of {what}: {', '.join(parts)}")
    network.load_state_dict(dict(weights), strict=False)


def _separable(inputs: int, outputs: int, dilation: int = 1) -> list[nn.Module]:
    depthwise = nn.Conv2d(inputs, inputs, 3, 1, dilation, dilation, inputs, bias=False)
    pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
    return [nn.Sequential(depthwise, pointwise), nn.BatchNorm2d(outputs), nn.ReLU()]


class _Pooling(nn.Sequential):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).expand(-1, -1, x.shape[2], x.shape[3])


class _Aspp(nn.Module):
    def __init__(self, inputs: int, outputs: int, rates: Sequence[int]) -> None:
        super().__init__()
        point = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
        wide = [nn.Sequential(*_separable(inputs, outputs, rate)) for rate in rates]
        self.convs = nn.ModuleList([point, *wide, _Pooling(inputs, outputs)])
        self.project = nn.Sequential(
            nn.Conv2d(5 * outputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), nn.Dropout(0.5)
        )

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.project(torch.cat([branch(x) for branch in self.convs], dim=1))
        return projected


class SmpDeepLabV3Plus(nn.Module):
    """DeepLabV3+ on ResNet50 with the names and numbers of segmentation-models-pytorch's defaults, one class."""

    def __init__(self, rates: Sequence[int] = (12, 24, 36)) -> None:
        super().__init__()
        self.encoder = nn.Sequential(stages(3, output_stride=16))
        self.decoder = nn.ModuleDict(
            {
                "aspp": nn.Sequential(_Aspp(2048, 256, rates), *_separable(256, 256)),
                "block1": nn.Sequential(nn.Conv2d(256, 48, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU()),
                "block2": nn.Sequential(*_separable(304, 256)),
            }
        )
        self.segmentation_head = nn.Sequential(nn.Conv2d(256, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Float (n, 3, h, w), normalised, sides multiples of 16, to logits, float (n, 1, h, w)."""
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1"):
            x = self.encoder.get_submodule(name)(x)
        low = self.decoder["block1"](x)
        for name in ("layer2", "layer3", "layer4"):
            x = self.encoder.get_submodule(name)(x)
        deep = functional.interpolate(self.decoder["aspp"](x), scale_factor=4.0, mode="bilinear", align_corners=True)
        logits = self.segmentation_head(self.decoder["block2"](torch.cat([deep, low], dim=1)))
        return functional.interpolate(logits, scale_factor=4.0, mode="bilinear", align_corners=True)


class _Normalised(nn.Module):
    """What both libraries' networks are trained on: 0-1, less ImageNet's mean, over its standard deviation."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None] * 255.0, persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None] * 255.0, persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class _Segmenter(nn.Module):
    def __init__(self, network: SmpDeepLabV3Plus) -> None:
        super().__init__()
        self.prepare, self.network = _Normalised(), network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.sigmoid(self.network(self.prepare(images)))
        # It has no reliability of its own: the network's certainty stands in for it.
        return mask[:, 0], torch.maximum(mask, 1.0 - mask)[:, 0]


class _Classifier(nn.Module):
    def __init__(self, network: ResNet50) -> None:
        super().__init__()
        self.prepare, self.network = _Normalised(), network

    def forward(self, images: Tensor) -> Tensor:
        return torch.softmax(self.network(self.prepare(images)), dim=1)


def import_segmenter(checkpoint: Path, target: Path) -> None:
    """Turns a checkpoint of segmentation-models-pytorch's DeepLabV3+ on ResNet50 into ONNX.

    Args:
        checkpoint: the `.pth` file.
        target: the ONNX file: images to mask and reliability, at the images' size.

    Raises:
        CheckpointError: it is no such checkpoint.
    """
    weights = read_weights(checkpoint)
    network = SmpDeepLabV3Plus()
    ours = re.compile(r"^encoder\.fc\.")
    _load(network, {k: v for k, v in weights.items() if not ours.match(k)}, "DeepLabV3+ on ResNet50, one class")
    axes = {0: "n", 1: "h", 2: "w"}
    _export(_Segmenter(network), target, {"mask": axes, "reliability": axes})


def import_classifier(checkpoint: Path, target: Path, *, classes: Sequence[str]) -> None:
    """Turns a checkpoint of torchvision's ResNet50 into ONNX.

    Args:
        checkpoint: the `.pth` file.
        target: the ONNX file: images to the probabilities of the classes.
        classes: what the checkpoint's outputs mean, in order; "pristine" for pictures that were not edited.

    Raises:
        CheckpointError: it is no such checkpoint, or its outputs are not as many as the classes.
    """
    if len(set(classes)) != len(classes) or not all(_CLASS.fullmatch(name) for name in classes):
        raise CheckpointError(f"classes are named once each, with a-z, 0-9 and _: {', '.join(classes)}")
    weights = read_weights(checkpoint)
    # A new last layer is often a small Sequential; then its last part is the one with weights.
    weights = {re.sub(r"^fc\.\d+\.", "fc.", name): value for name, value in weights.items()}
    network = ResNet50(len(classes))
    _load(network, weights, f"a ResNet50 with {len(classes)} classes")
    _export(_Classifier(network), target, {"classes": {0: "n"}})


def _export(network: nn.Module, target: Path, outputs: Mapping[str, Mapping[int, str]]) -> None:
    torch.onnx.export(
        network.eval(),
        (torch.full((1, 3, 192, 256), 128.0),),
        str(target),
        input_names=["images"],
        output_names=list(outputs),
        dynamic_axes={"images": {0: "n", 2: "h", 3: "w"}, **{name: dict(axes) for name, axes in outputs.items()}},
        opset_version=17,
        dynamo=False,
    )
    onnx.checker.check_model(str(target))
