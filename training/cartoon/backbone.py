"""VGG16 out of a registry package's ONNX file, run at our own size, and the head behind it.

What is committed is a fragment of a graph without VGG16's weights: laid behind the package's file the two are one
network (protobuf merges messages that follow one another; `models.lock` calls it an `extension`). The fragment

- takes its own input, `views`, and runs the thirteen convolutions again, by the names of the package's weights;
- takes the mean and the deviation of the activations behind each block (their texture: Gatys et al. 2016,
  10.1109/CVPR.2016.265), and puts the head on them;
- gives the package's own input an empty batch as its default, so that the package's own network (240 pixels, for
  another purpose) costs nothing.

All convolutions but the first run in 8 bits, which takes a quarter of the time. Their weights are quantised in the
graph, a scale per filter, when it is loaded; the activations by ranges that were measured once (`activation_ranges`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from tqdm import tqdm

from services.faces.attributes.kind import INPUT, OUTPUT, SIDE, prepared
from training.cartoon.columns import BLOCKS, VERSION, WIDTHS
from training.cartoon.views import View
from training.generated.head import LIMIT, LinearHead

__all__ = ["activation_ranges", "compute_features", "features_fragment", "head_fragment", "write_fragment"]

Floats = NDArray[np.float32]
Ranges = Sequence[float]
"""Largest activation behind each convolution."""

_CONVOLUTIONS: Final = {1: 2, 2: 2, 3: 3, 4: 3, 5: 3}
_FEATURES: Final = "features"
_PREFIX: Final = "cartoon."
_PACKAGES_INPUT: Final = ("input", (0, 240, 240, 3))
_BATCH: Final = 16
_LARGEST_WEIGHT: Final = 63
"""Of 127: sums of products with eight-bit activations overflow on processors without VNNI where weights are larger."""
_COVERED: Final = 0.9999
"""Share of a view's activations that its range covers."""


def features_fragment(ranges: Ranges | None = None) -> bytes:
    """The fragment that ends in the features of all blocks: `features`, float32 (batch, 2944).

    Args:
        ranges: of the activations; None leaves all in float32.
    """
    graph = _Fragment(ranges)
    graph.output(graph.features(BLOCKS), _FEATURES, sum(2 * width for width in WIDTHS.values()))
    return graph.content()


def activation_ranges(vgg: Path, views: Iterable[View], *, threads: int) -> list[float]:
    """The largest activation behind each convolution, but for the outermost of each view.

    Args:
        vgg: the package's file.
        views: what it looks at.
        threads: of one run.
    """
    graph = _Fragment()
    graph.features(BLOCKS)
    content = vgg.read_bytes() + graph.content(graph.activations)
    session = _session(content, threads)
    most = np.zeros(len(graph.activations))
    for view in views:
        found = session.run(graph.activations, {INPUT: prepared([view.rgb])})
        most = np.maximum(most, [float(np.quantile(activations, _COVERED)) for activations in found])
    return [float(f"{value:.4g}") for value in most]


def head_fragment(blocks: Sequence[int], head: LinearHead, ranges: Ranges | None = None) -> bytes:
    """The fragment that ends in the probability of being drawn: `cartoon`, float32 (batch, 1).

    Args:
        blocks: whose features the head takes.
        head: its margin is the log odds.
        ranges: as for `features_fragment`.

    Raises:
        ValueError: the head has not as many inputs as the blocks give.
    """
    expected = sum(2 * WIDTHS[block] for block in blocks)
    if head.weights.shape != (expected,):
        raise ValueError(f"the head has {head.weights.shape[0]} inputs, the blocks give {expected}")
    graph = _Fragment(ranges)
    centred = graph.node("Sub", [graph.features(blocks), graph.constant("mean", head.mean)])
    scaled = graph.node("Div", [centred, graph.constant("deviation", head.deviation)])
    limited = graph.node("Clip", [scaled, graph.constant("low", -LIMIT), graph.constant("high", LIMIT)])
    weighted = graph.node("MatMul", [limited, graph.constant("weights", head.weights[:, None])])
    margin = graph.node("Add", [weighted, graph.constant("bias", [head.bias])])
    graph.output(graph.node("Sigmoid", [margin]), OUTPUT, 1)
    return graph.content()


def write_fragment(path: Path, blocks: Sequence[int], head: LinearHead, ranges: Ranges) -> int:
    """Writes the fragment with the head; returns its size in bytes."""
    content = head_fragment(blocks, head, ranges)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return len(content)


def compute_features(vgg: Path, views: Iterable[View], folder: Path, ranges: Ranges, *, threads: int) -> int:
    """Runs the network over the views that it has not seen; returns how many those were.

    Args:
        vgg: the package's file.
        views: what it looks at.
        folder: gets a folder for this network, with shards of features.
        ranges: of the activations.
        threads: of one run.
    """
    package = vgg.read_bytes()
    session = _session(package + features_fragment(ranges), threads)
    target = folder / f"{hashlib.sha256(package).hexdigest()[:12]}-v{VERSION}"
    target.mkdir(parents=True, exist_ok=True)
    done = {str(key) for path in target.glob("*.npz") for key in np.load(path)["keys"]}
    new = [view for view in views if view.key not in done]
    for start in tqdm(range(0, len(new), _BATCH), desc="batches", unit="", disable=None):
        batch = new[start : start + _BATCH]
        keys = [view.key for view in batch]
        (features,) = session.run([_FEATURES], {INPUT: prepared([view.rgb for view in batch])})
        name = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
        part = target / f"{name}.part"
        with part.open("wb") as file:
            np.savez(file, keys=np.array(keys), seen=np.array([view.seen for view in batch]), features=features)
        part.replace(target / f"{name}.npz")
    return len(new)


def _session(content: bytes, threads: int) -> Any:
    import onnxruntime  # noqa: PLC0415 - not needed to write a fragment

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # it warns that an input with a default is no constant
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others need the cores too
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


class _Fragment:
    """A model that is laid behind the package's: nodes, constants, an input, an output.

    Attributes:
        activations: what comes out of the convolutions, in their order.
    """

    def __init__(self, ranges: Ranges | None = None) -> None:
        if ranges is not None and len(ranges) != sum(_CONVOLUTIONS.values()):
            raise ValueError(f"{len(ranges)} ranges for {sum(_CONVOLUTIONS.values())} convolutions")
        self._model = ModelProto()
        self._graph = self._model.graph
        self._count = 0
        self._ranges = ranges
        self.activations: list[str] = []
        shape = ["batch", SIDE, SIDE, 3]
        self._graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape))
        name, empty = _PACKAGES_INPUT
        self._graph.initializer.append(numpy_helper.from_array(np.zeros(empty, np.float32), name))

    def constant(self, name: str, value: object, dtype: type = np.float32) -> str:
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), _PREFIX + name))
        return _PREFIX + name

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        self._count += 1
        output = f"{_PREFIX}{self._count}"
        self._graph.node.append(helper.make_node(kind, list(inputs), [output], name=f"{output}.{kind}", **attributes))
        return output

    def features(self, blocks: Sequence[int]) -> str:
        """Means and deviations behind these blocks; what lies behind the last of them is not run."""
        current = self.node("Transpose", [INPUT], perm=[0, 3, 1, 2])
        parts: list[str] = []
        for block in range(1, max(blocks) + 1):
            for number in range(1, _CONVOLUTIONS[block] + 1):
                current = self._convolution(current, block, number)
            if block in blocks:
                parts += self._texture(current)
            current = self.node("MaxPool", [current], kernel_shape=[2, 2], strides=[2, 2])
            if self._ranges:
                current = self._in_eight_bits(current, len(self.activations) - 1)
        return self.node("Concat", parts, axis=1)

    def _convolution(self, current: str, block: int, number: int) -> str:
        index = len(self.activations)
        package = f"functional_1/block{block}_conv{number}_1"
        weights, bias = f"{package}/convolution/ReadVariableOp:0", f"{package}/Squeeze:0"
        # The first one sees the picture itself, whose numbers have signs, and has few products.
        if self._ranges and index:
            weights = self._quantised(weights, index, WIDTHS[block])
        found = self.node("Conv", [current, weights, bias], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        found = self.node("Relu", [found])
        self.activations.append(found)
        if self._ranges:
            self.constant(f"step{index}", self._ranges[index] / 255)
            self.constant(f"zero{index}", 0, np.uint8)
            found = self._in_eight_bits(found, index)
        return found

    def _quantised(self, weights: str, index: int, filters: int) -> str:
        """The package's weights, rounded: what follows from constants is computed once, when the graph is loaded."""
        largest = self.node("ReduceMax", [self.node("Abs", [weights])], axes=[1, 2, 3], keepdims=0)
        step = self.node("Div", [largest, self.constant(f"largest{index}", _LARGEST_WEIGHT)])
        zero = self.constant(f"weights_zero{index}", np.zeros(filters), np.int8)
        rounded = self.node("QuantizeLinear", [weights, step, zero], axis=0)
        return self.node("DequantizeLinear", [rounded, step, zero], axis=0)

    def _in_eight_bits(self, tensor: str, index: int) -> str:
        """A tensor rounded to the 256 steps of the activations behind a convolution."""
        places = [f"{_PREFIX}step{index}", f"{_PREFIX}zero{index}"]
        return self.node("DequantizeLinear", [self.node("QuantizeLinear", [tensor, *places]), *places])

    def _texture(self, activations: str) -> list[str]:
        mean = self.node("ReduceMean", [activations], axes=[2, 3], keepdims=0)
        squares = self.node("Mul", [activations, activations])
        square = self.node("ReduceMean", [squares], axes=[2, 3], keepdims=0)
        variance = self.node("Relu", [self.node("Sub", [square, self.node("Mul", [mean, mean])])])
        return [mean, self.node("Sqrt", [variance])]

    def output(self, tensor: str, name: str, width: int) -> None:
        self._graph.node.append(helper.make_node("Identity", [tensor], [name], name=f"{_PREFIX}{name}"))
        self._graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]))

    def content(self, outputs: Iterable[str] = ()) -> bytes:
        """The file's bytes; `outputs` names further tensors to come out, of any shape."""
        for name in outputs:
            self._graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        return bytes(self._model.SerializeToString())
