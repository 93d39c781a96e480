"""VGG16 out of a registry package's ONNX file, run at our own size, and the head behind it.

What is committed is a fragment of a graph without VGG16's weights: laid behind the package's file the two are one
network (protobuf merges messages that follow one another; `models.lock` calls it an `extension`). The fragment

- takes its own input, `views`, and runs the thirteen convolutions again, by the names of the package's weights;
- takes the mean and the deviation of the activations behind each block (their texture: Gatys et al. 2016,
  10.1109/CVPR.2016.265), and puts the head on them;
- gives the package's own input an empty batch as its default, so that the package's own network (240 pixels, for
  another purpose) costs nothing.
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
from training.cartoon.columns import BLOCKS, WIDTHS
from training.cartoon.views import View
from training.generated.head import LIMIT, LinearHead

__all__ = ["compute_features", "features_fragment", "head_fragment", "write_fragment"]

Floats = NDArray[np.float32]

VERSION: Final = 1
"""To be raised with every change of what a feature is."""
_CONVOLUTIONS: Final = {1: 2, 2: 2, 3: 3, 4: 3, 5: 3}
_FEATURES: Final = "features"
_PREFIX: Final = "cartoon."
_PACKAGES_INPUT: Final = ("input", (0, 240, 240, 3))
_BATCH: Final = 16


def features_fragment() -> bytes:
    """The fragment that ends in the features of all blocks: `features`, float32 (batch, 2944)."""
    graph = _Fragment()
    graph.output(graph.features(BLOCKS), _FEATURES, sum(2 * width for width in WIDTHS.values()))
    return graph.content()


def head_fragment(blocks: Sequence[int], head: LinearHead) -> bytes:
    """The fragment that ends in the probability of being drawn: `cartoon`, float32 (batch, 1).

    Args:
        blocks: whose features the head takes.
        head: its margin is the log odds.

    Raises:
        ValueError: the head has not as many inputs as the blocks give.
    """
    expected = sum(2 * WIDTHS[block] for block in blocks)
    if head.weights.shape != (expected,):
        raise ValueError(f"the head has {head.weights.shape[0]} inputs, the blocks give {expected}")
    graph = _Fragment()
    centred = graph.node("Sub", [graph.features(blocks), graph.constant("mean", head.mean)])
    scaled = graph.node("Div", [centred, graph.constant("deviation", head.deviation)])
    limited = graph.node("Clip", [scaled, graph.constant("low", -LIMIT), graph.constant("high", LIMIT)])
    weighted = graph.node("MatMul", [limited, graph.constant("weights", head.weights[:, None])])
    margin = graph.node("Add", [weighted, graph.constant("bias", [head.bias])])
    graph.output(graph.node("Sigmoid", [margin]), OUTPUT, 1)
    return graph.content()


def write_fragment(path: Path, blocks: Sequence[int], head: LinearHead) -> int:
    """Writes the fragment with the head; returns its size in bytes."""
    content = head_fragment(blocks, head)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return len(content)


def compute_features(vgg: Path, views: Iterable[View], folder: Path, *, threads: int) -> int:
    """Runs the network over the views that it has not seen; returns how many those were.

    Args:
        vgg: the package's file.
        views: what it looks at.
        folder: gets a folder for this network, with shards of features.
        threads: of one run.
    """
    import onnxruntime  # noqa: PLC0415 - not needed to write a fragment

    package = vgg.read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # it warns that an input with a default is no constant
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others need the cores too
    session = onnxruntime.InferenceSession(package + features_fragment(), options, providers=["CPUExecutionProvider"])
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


class _Fragment:
    """A model that is laid behind the package's: nodes, constants, an input, an output."""

    def __init__(self) -> None:
        self._model = ModelProto()
        self._graph = self._model.graph
        self._count = 0
        shape = ["batch", SIDE, SIDE, 3]
        self._graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape))
        name, empty = _PACKAGES_INPUT
        self._graph.initializer.append(numpy_helper.from_array(np.zeros(empty, np.float32), name))

    def constant(self, name: str, value: object) -> str:
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), _PREFIX + name))
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
                weights = f"functional_1/block{block}_conv{number}_1"
                names = [current, f"{weights}/convolution/ReadVariableOp:0", f"{weights}/Squeeze:0"]
                current = self.node("Relu", [self.node("Conv", names, kernel_shape=[3, 3], pads=[1, 1, 1, 1])])
            if block in blocks:
                parts += self._texture(current)
            current = self.node("MaxPool", [current], kernel_shape=[2, 2], strides=[2, 2])
        return self.node("Concat", parts, axis=1)

    def _texture(self, activations: str) -> list[str]:
        mean = self.node("ReduceMean", [activations], axes=[2, 3], keepdims=0)
        squares = self.node("Mul", [activations, activations])
        square = self.node("ReduceMean", [squares], axes=[2, 3], keepdims=0)
        variance = self.node("Relu", [self.node("Sub", [square, self.node("Mul", [mean, mean])])])
        return [mean, self.node("Sqrt", [variance])]

    def output(self, tensor: str, name: str, width: int) -> None:
        self._graph.node.append(helper.make_node("Identity", [tensor], [name], name=f"{_PREFIX}{name}"))
        self._graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]))

    def content(self) -> bytes:
        return bytes(self._model.SerializeToString())
