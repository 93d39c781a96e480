"""From a checkpoint to what Triton serves: ONNX with preprocessing, threshold and facts inside, in 8 bits."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from services.faces.attributes.traces import OUTPUT as TRACES
from training.faces.facenet import SIDE
from training.faces.realfake.judging import Scale
from training.faces.realfake.network import RealFake

__all__ = ["INPUT", "ODDS", "OUTPUT", "answers", "export_onnx", "finish", "quantise", "take_bytes"]

INPUT: Final = "faces"
OUTPUT: Final = "fake"
ODDS: Final = "odds"
OPSET: Final = 17
RGB = NDArray[np.uint8]
Floats = NDArray[np.float32]


class _Asked(nn.Module):
    """The network as it is asked: float (n, 160, 160, 3), RGB, 0-255, to log odds, (n, 1)."""

    def __init__(self, network: RealFake) -> None:
        super().__init__()
        self.network = network

    def forward(self, faces: Tensor) -> Tensor:
        odds: Tensor = self.network(faces.permute(0, 3, 1, 2))
        return odds[:, None]


def export_onnx(network: RealFake, target: Path) -> None:
    """Writes the network as ONNX, float32, to its log odds; the batch is free."""
    torch.onnx.export(
        _Asked(network.float()).eval(),
        (torch.rand(2, SIDE, SIDE, 3) * 255,),
        str(target),
        input_names=[INPUT],
        output_names=[ODDS],
        dynamic_axes={INPUT: {0: "n"}, ODDS: {0: "n"}},
        opset_version=OPSET,
        dynamo=False,
    )
    onnx.checker.check_model(str(target))


def quantise(source: Path, target: Path, views: Iterable[RGB]) -> None:
    """Quantises InceptionResnetV1 to 8 bits (QDQ, a scale per filter).

    The first convolution, the look at the finest detail and the head stay in float32: their signal is smaller than a
    step of 8 bits. So do the residual sums, in which small changes add up.

    Args:
        source: of `export_onnx`.
        target: the quantised file.
        views: chips that show the ranges of the activations, uint8 (160, 160, 3) each.
    """
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        kept = [
            node.name
            for node in onnx.load(str(ready)).graph.node
            if node.op_type == "Conv" and ("/trunk/" not in node.name or node.name.endswith("/trunk/Conv"))
        ]
        quantize_static(
            str(ready),
            str(target),
            _Views(views),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=kept,
            calibrate_method=CalibrationMethod.MinMax,
        )


def finish(source: Path, target: Path, scale: Scale, facts: Mapping[str, str]) -> None:
    """Turns log odds into the score that is served, by a scale; lets the file take bytes, and writes facts into it.

    Args:
        source: of `export_onnx` or `quantise`.
        target: the file that is served.
        scale: whose threshold comes out as 0.5.
        facts: metadata by name.
    """
    model = onnx.load(str(source))
    graph = model.graph
    for name, value in (("threshold", scale.threshold), ("slope", scale.slope)):
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.float32), name))
    graph.node.append(onnx.helper.make_node("Sub", [ODDS, "threshold"], ["above"]))
    graph.node.append(onnx.helper.make_node("Mul", ["above", "slope"], ["scaled"]))
    graph.node.append(onnx.helper.make_node("Sigmoid", ["scaled"], [OUTPUT]))
    graph.output[0].name = OUTPUT
    take_bytes(model)
    onnx.helper.set_model_props(model, dict(facts))
    onnx.save(model, str(target))


def take_bytes(model: onnx.ModelProto) -> None:
    """Lets a file that takes chips as float32 take them as uint8: a quarter as much to send."""
    (faces,) = (value for value in model.graph.input if value.name == INPUT)
    faces.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    numbers = f"{INPUT}_numbers"
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = numbers if name == INPUT else name
    model.graph.node.insert(0, onnx.helper.make_node("Cast", [INPUT], [numbers], to=onnx.TensorProto.FLOAT))


class _Views(CalibrationDataReader):
    def __init__(self, views: Iterable[RGB]) -> None:
        self._views: Iterator[RGB] = iter(views)

    def get_next(self) -> dict[str, Floats] | None:
        view = next(self._views, None)
        return None if view is None else {INPUT: view[None].astype(np.float32)}


def answers(
    model: Path, views: Sequence[RGB], traces: Floats | None = None, *, threads: int = 1
) -> NDArray[np.float64]:
    """What a file answers for chips, log odds or scores: float64 (n,).

    Args:
        model: of any of the functions here, or of `joining.join`; it takes chips as bytes, or as float32.
        views: uint8 (160, 160, 3) each.
        traces: of the chips, for a file that takes them.
        threads: of onnxruntime.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    taken = np.uint8 if session.get_inputs()[0].type == "tensor(uint8)" else np.float32
    found = []
    for index, view in enumerate(views):
        inputs = {INPUT: view[None].astype(taken)}
        if traces is not None:
            inputs[TRACES] = traces[index : index + 1]
        found.append(session.run(None, inputs)[0][0, 0])
    return np.array(found, np.float64)
