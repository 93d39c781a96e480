"""The graph of the model `facenet`: FaceNet's embedding as ONNX, without a copy of its weights.

    python -m training.faces.facenet_graph GRAPH_FINAL_PB [--target triton_models/facenet/1/model.onnx]

The initialisers are ONNX external data: they name the package's own file, which lies beside the graph when it is
served, and where in it their bytes are. So nothing is converted at set-up, and the weights stay the package's.
TensorFlow keeps filters as (height, width, in, out); a Transpose, which onnxruntime does once as it loads, brings them
into ONNX's order.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from onnx import ModelProto, StringStringEntryProto, TensorProto, helper, numpy_helper

from training.faces.facenet import DIMENSIONS, EPSILON, SIDE, FaceNetWeights, find_weights
from training.faces.frozen_graph import FloatConstant
from training.faces.inception_resnet import Size, inception_resnet_v1

__all__ = ["INPUT", "OUTPUT", "facenet_graph", "main"]

INPUT: Final = "faces"
OUTPUT: Final = "embedding"
_TARGET: Final = Path(__file__).resolve().parents[2] / "triton_models" / "facenet" / "1" / "model.onnx"


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the graph; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.faces.facenet_graph", description=__doc__)
    parser.add_argument("graph", type=Path, help="the package's graph_final.pb")
    parser.add_argument("--target", type=Path, default=_TARGET, help="the ONNX file; the .pb is served beside it")
    options = parser.parse_args(arguments)
    model = facenet_graph(find_weights(options.graph), location=options.graph.name)
    options.target.parent.mkdir(parents=True, exist_ok=True)
    options.target.write_bytes(model.SerializeToString(deterministic=True))
    print(f"{options.target}: {options.target.stat().st_size} bytes, weights in {options.graph.name} beside it")
    return 0


def facenet_graph(weights: FaceNetWeights, *, location: str) -> ModelProto:
    """From faces (n, 160, 160, 3), RGB, 0-255, to embeddings of length 1 (n, 512).

    Args:
        weights: where they lie.
        location: the file that they lie in, as seen from the graph's folder.
    """
    graph = _Graph(weights, location)
    graph.input(INPUT, [SIDE, SIDE, 3])
    last = inception_resnet_v1(graph, graph.node("Transpose", [_prewhitened(graph, INPUT)], perm=[0, 3, 1, 2]))
    pooled = graph.node("ReduceMean", [last], axes=[2, 3], keepdims=0)
    narrow = graph.node("MatMul", [pooled, graph.stored("bottleneck", weights.bottleneck)])
    centred = graph.node("Sub", [narrow, graph.stored("mean", weights.mean)])
    variance = graph.node("Add", [graph.stored("variance", weights.variance), graph.constant("epsilon", EPSILON)])
    scaled = graph.node("Div", [centred, graph.node("Sqrt", [variance])])
    embedding = graph.node("Add", [scaled, graph.stored("beta", weights.beta)])
    length = graph.node("ReduceL2", [embedding], axes=[1], keepdims=1)
    graph.output(graph.node("Div", [embedding, graph.node("Max", [length, graph.constant("tiny", 1e-5)])]))
    return graph.model()


def _prewhitened(graph: _Graph, x: str) -> str:
    """Each face less its mean, over its deviation, but over no less than 1 / sqrt(number of values)."""
    centred = graph.node("Sub", [x, graph.node("ReduceMean", [x], axes=[1, 2, 3], keepdims=1)])
    squares = graph.node("ReduceMean", [graph.node("Mul", [centred, centred])], axes=[1, 2, 3], keepdims=1)
    least = graph.constant("least_deviation", 1 / np.sqrt(SIDE * SIDE * 3))
    return graph.node("Div", [centred, graph.node("Max", [graph.node("Sqrt", [squares]), least])])


class _Graph:
    """An ONNX graph in the making. Implements `Operations[str]`: tensors are names."""

    def __init__(self, weights: FaceNetWeights, location: str) -> None:
        self._weights, self._location = weights, location
        self._nodes: list[Any] = []
        self._initializers: list[TensorProto] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def constant(self, name: str, value: float) -> str:
        self._initializers.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def stored(self, name: str, constant: FloatConstant) -> str:
        """Weights that stay in the package's file."""
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=constant.shape)
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": self._location, "offset": str(constant.offset), "length": str(constant.length)}
        tensor.external_data.extend(StringStringEntryProto(key=key, value=value) for key, value in place.items())
        self._initializers.append(tensor)
        return name

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        output = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def input(self, name: str, shape: Sequence[int]) -> None:
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape]))

    def output(self, tensor: str) -> None:
        self._nodes.append(helper.make_node("Identity", [tensor], [OUTPUT], name=OUTPUT))
        self._outputs.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", DIMENSIONS]))

    def convolution(self, x: str, name: str, *, outputs: int, kernel: Size, stride: int, same: bool, relu: bool) -> str:
        place = self._weights.convolutions[name]
        filters = self.node("Transpose", [self.stored(f"{name}/weights", place.filters)], perm=[3, 2, 0, 1])
        offsets = self.stored(f"{name}/offsets", place.offsets)
        pads = [side // 2 if same else 0 for side in kernel] * 2
        result = self.node(
            "Conv", [x, filters, offsets], kernel_shape=list(kernel), strides=[stride, stride], pads=pads
        )
        return self.node("Relu", [result]) if relu else result

    def max_pool(self, x: str) -> str:
        return self.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2])

    def concatenate(self, parts: Sequence[str]) -> str:
        return self.node("Concat", parts, axis=1)

    def add_scaled(self, x: str, change: str, scale: float, *, relu: bool) -> str:
        name = f"scale_{scale:g}"
        if not any(each.name == name for each in self._initializers):
            self.constant(name, scale)
        added = self.node("Add", [x, self.node("Mul", [change, name])])
        return self.node("Relu", [added]) if relu else added

    def model(self) -> ModelProto:
        graph = helper.make_graph(self._nodes, "facenet", self._inputs, self._outputs, self._initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
        model.producer_name = "pentimento"
        return model


if __name__ == "__main__":
    raise SystemExit(main())
