"""From a checkpoint to what Triton serves: `<model>/1/model.onnx` and `<model>/config.pbtxt`.

Static quantisation to 8 bits (QDQ, symmetric activations and weights, one scale a channel of a weight), as TensorRT
takes it too, calibrated on samples of the train split; or weights in half precision, computed with in single.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn
from torch.nn import functional

from training.localisation.inference import Predictor
from training.localisation.network import Localiser

__all__ = ["MODELS", "Model", "Served", "card_of", "export_onnx", "halve", "install", "quantise", "torch_predictor"]

Model = Literal["deeplabv3plus", "resnet50"]
MODELS: Final[dict[Model, tuple[str, ...]]] = {
    "deeplabv3plus": ("mask", "reliability", "classes"),
    "resnet50": ("classes",),
}
"""What each model answers. Both are the same network; whoever wants mask and class asks deeplabv3plus once."""
Floats = NDArray[np.float32]
SERVING: Final = Path(__file__).with_name("serving")
OPSET: Final = 17
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


def torch_predictor(network: Localiser, *, threshold: float = 0.5) -> Predictor:
    """The network itself, as `Served` answers."""
    served = Served(network, threshold=threshold).eval()

    def predict(images: Floats) -> tuple[Floats, Floats, Floats]:
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


class _Samples(CalibrationDataReader):
    def __init__(self, images: Iterable[Floats]) -> None:
        self._images: Iterator[Floats] = iter(images)

    def get_next(self) -> dict[str, Floats] | None:
        image = next(self._images, None)
        return None if image is None else {"images": image}


def quantise(source: Path, target: Path, images: Iterable[Floats]) -> None:
    """Quantises to int8 with ranges seen on the images, float32 (1, 3, h, w) each.

    The stem stays in float32, for its residuals are smaller than a step of 8 bits over 0-255; so do the traces, the
    heads and the self-correlation.
    """
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        graph = onnx.load(str(ready)).graph
        kept = [node.name for node in graph.node if _is_kept(node)]
        quantize_static(
            str(ready),
            str(target),
            _Samples(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Add", "Relu", "MaxPool", "Concat"],
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=kept,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )


def _is_kept(node: onnx.NodeProto) -> bool:
    """Whether a node stays in float32: all but the convolutions and what joins them in backbone, ASPP and decoder."""
    name = node.name
    if any(part in name for part in ("residuals", "traces", "told", "correlation", "heads", "classify", "pooled")):
        return True
    in_stage = any(f"layer{stage}" in name for stage in range(1, 5))
    joined = (
        node.op_type in {"Add", "Concat"} and not in_stage and not any(p in name for p in ("aspp", "merge", "decode"))
    )
    return joined or (name.endswith("conv1/Conv") and not in_stage)


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


def install(onnx_file: Path, model: Model, repository: Path, *, card: str) -> str:
    """Puts weights, configuration and card where Triton's models lie; returns the entry that models.lock needs."""
    folder = repository / model
    (folder / "1").mkdir(parents=True, exist_ok=True)
    weights = folder / "1" / "model.onnx"
    shutil.copyfile(onnx_file, weights)
    shutil.copyfile(SERVING / f"{model}.pbtxt", folder / "config.pbtxt")
    (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return (
        f'[[model]]\nname = "{model}"\nlicence = "LicenseRef-Research-Only"\n\n'
        f'[[model.file]]\npath = "1/model.onnx"\ncommitted = true\n'
        f'sha256 = "{digest}"\nsize = {weights.stat().st_size}\n'
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
