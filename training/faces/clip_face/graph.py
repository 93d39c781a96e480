"""The graph of `clip_face`: the first blocks of CLIP's image encoder (ViT-B/16), and what its patches say on average.

Behind the first blocks a picture's patches know how it was made (Koutlis and Papadopoulos 2024), and begin to know what
it shows. A chip of 160 pixels is looked at as it is, as 10 x 10 patches of 16 pixels, with the encoder's places
interpolated to as many (Dosovitskiy et al. 2021, section 3.2).

The nodes are ours; the weights stay in their package's file, 8 bits each, beside which the graph is served (ONNX
external data). The package scales activations as it goes, over the whole batch, so that a face's neighbours would
change its answer: here each scale is fixed, by what was seen on chips of the train split.

References:
    A. Radford et al., "Learning transferable visual models from natural language supervision", ICML 2021.
        arXiv:2103.00020
    C. Koutlis and S. Papadopoulos, "Leveraging representations from intermediate encoder-blocks for synthetic image
        detection", ECCV 2024. 10.1007/978-3-031-73220-1_23
    A. Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021. arXiv:2010.11929
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, StringStringEntryProto, TensorProto, helper, numpy_helper

from services.deeplearning.clip import DEVIATION, MEAN
from services.faces.attributes.traces import INPUT, OUTPUT, SIDE
from training.clip import WIDTH

__all__ = ["BLOCKS", "Scale", "clip_graph", "fixed_scales"]

RGB = NDArray[np.uint8]
Floats = NDArray[np.float32]

BLOCKS: Final = (5, 6, 7, 9)
"""Behind which the patches are read, counted from 0: how a picture was made is known best behind 5, 6 and 7 (AUC on
blended faces of the calibrate split 0.83 for block 7, 0.85 for 6 and 7, 0.86 for the three), whom it shows behind 9."""
PATCH: Final = 16
MERGED: Final = 7
"""Behind this block every four neighbouring patches become one, their mean: whom a face shows is read nearly as well
from a quarter of them, and how it was made has been read by then."""
_HEADS: Final = 12
_CUT_OFF: Final = 0.2
"""Share of chips whose lowest, or highest, activations are cut off: scales as wide as the widest chip needs leave fewer
steps to the rest."""
_STORED_BYTES: Final = 1024
"""Weights of fewer bytes are kept in the graph."""
_MODEL: Final = "vision_model"
_PLACES: Final = f"{_MODEL}.embeddings.position_embedding.weight"
_MOST: Final = 2**31
"""Beyond the last token."""
_STEEPNESS: Final = 1.702
"""Of CLIP's activation, x * sigmoid(1.702 x)."""
_EPSILON: Final = 1e-5
_OPSET: Final = 17
_CONTRIB: Final = "com.microsoft"
"""onnxruntime's own operators: a product of bytes with its scales and bias, and attention, are one node each."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How numbers become bytes: byte = round(number / step) + nought, 0 to 255."""

    step: float
    nought: int


class _Weights:
    """The encoder's weights, as places in its file where they are large."""

    def __init__(self, encoder: Path) -> None:
        self._file = encoder.name
        self._content = encoder.read_bytes()
        graph = onnx.load_model_from_string(self._content).graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._products = {node.output[0]: node for node in graph.node if node.op_type == "MatMulInteger"}
        self.used: dict[str, TensorProto] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def value(self, name: str) -> NDArray[np.generic]:
        """A weight's numbers."""
        return np.asarray(numpy_helper.to_array(self._tensors[name]))

    def take(self, name: str) -> str:
        """The name of a weight, which the graph then has."""
        self.used.setdefault(name, self._stored(self._tensors[name]))
        return name

    def add(self, name: str, value: NDArray[np.generic]) -> str:
        """The name of a constant, which the graph then has."""
        self.used.setdefault(name, numpy_helper.from_array(np.asarray(value), name))
        return name

    def product(self, layer: str) -> tuple[str, str, str]:
        """Names of a layer's weights in bytes, of their scale and of their nought."""
        path = re.sub(r"\.(?!\d)", "/", layer)
        node = self._products[f"/{path}/MatMul_output_0_output_quantized"]
        weights = node.input[1]
        return self.take(weights), self.take(weights.replace("_quantized", "_scale")), self.take(node.input[3])

    def _stored(self, tensor: TensorProto) -> TensorProto:
        """A large weight as a place in the file that it was read from."""
        if len(tensor.raw_data) < _STORED_BYTES:
            return tensor
        offset = self._content.find(tensor.raw_data)
        if offset < 0:
            raise ValueError(f"{tensor.name} is not in {self._file} as it is used")
        place = {"location": self._file, "offset": str(offset), "length": str(len(tensor.raw_data))}
        stored = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        stored.data_location = TensorProto.EXTERNAL
        stored.external_data.extend(StringStringEntryProto(key=key, value=value) for key, value in place.items())
        return stored


class _Builder:
    """Nodes, one after the other; each method returns the name of what it computes."""

    def __init__(self, weights: _Weights, scales: Mapping[str, Scale] | None) -> None:
        self.weights = weights
        self.nodes: list[NodeProto] = []
        self._scales = scales

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        domain = _CONTRIB if operator in {"MatMulIntegerToFloat", "MultiHeadAttention", "QuickGelu"} else ""
        self.nodes.append(helper.make_node(operator, inputs, [output], domain=domain, **attributes))
        return output

    def normalised(self, x: str, layer: str) -> str:
        scale, bias = self.weights.take(f"{layer}.weight"), self.weights.take(f"{layer}.bias")
        return self.node("LayerNormalization", [x, scale, bias], layer, axis=-1, epsilon=_EPSILON)

    def bytes_of(self, x: str) -> tuple[str, str, str]:
        """Numbers as bytes, their scale and their nought."""
        names = f"{x}_bytes", f"{x}_step", f"{x}_nought"
        if self._scales is None:
            self.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], names))
            return names
        scale = self._scales[x]
        self.weights.add(names[1], np.array(scale.step, np.float32))
        self.weights.add(names[2], np.array(scale.nought, np.uint8))
        self.node("QuantizeLinear", [x, *names[1:]], names[0])
        return names

    def product(self, x: tuple[str, str, str], layer: str) -> str:
        """A linear layer of bytes, in float32."""
        number, step, nought = x
        weights, scale, zero = self.weights.product(layer)
        bias = self.weights.take(f"{layer}.bias")
        return self.node("MatMulIntegerToFloat", [number, weights, step, scale, nought, zero, bias], layer)

    def block(self, x: str, index: int) -> tuple[str, str]:
        """One block of the transformer, attention and then each token by itself, up to its last product.

        Returns:
            What goes around that product, and what goes into it.
        """
        name = _block(index)
        seen = self.bytes_of(self.normalised(x, f"{name}.layer_norm1"))
        parts = [self.product(seen, f"{name}.self_attn.{part}_proj") for part in "qkv"]
        attended = self.node("MultiHeadAttention", parts, f"{name}.attended", num_heads=_HEADS)
        said = self.product(self.bytes_of(attended), f"{name}.self_attn.out_proj")
        around = self.node("Add", [x, said], f"{name}.around")
        wide = self.product(self.bytes_of(self.normalised(around, f"{name}.layer_norm2")), f"{name}.mlp.fc1")
        return around, self.node("QuickGelu", [wide], f"{name}.into", alpha=_STEEPNESS)

    def ended(self, around: str, into: str, index: int) -> str:
        """A block's last product, and what goes around it: of tokens, or of means of tokens, which is the same."""
        last = self.product(self.bytes_of(into), f"{_block(index)}.mlp.fc2")
        return self.node("Add", [around, last], f"{_block(index)}.out")

    def tokens(self, faces: str) -> str:
        """The class token and those of the patches, with their places."""
        add, side = self.weights.add, SIDE // PATCH
        level, offset = ((1 / (255 * DEVIATION)).reshape(3, 1, 1), (-MEAN / DEVIATION).reshape(3, 1, 1))
        planes = self.node("Transpose", [faces], "planes", perm=[0, 3, 1, 2])
        numbers = self.node("Cast", [planes], "numbers", to=TensorProto.FLOAT)
        levelled = self.node("Mul", [numbers, add("level", level.astype(np.float32))], "levelled")
        pixels = self.node("Add", [levelled, add("offset", offset.astype(np.float32))], "pixels")
        filters = self.weights.take(f"{_MODEL}.embeddings.patch_embedding.weight")
        patches = self.node("Conv", [pixels, filters], "patches", kernel_shape=[PATCH] * 2, strides=[PATCH] * 2)
        patches = self.node("Reshape", [patches, add("flat", np.array([0, WIDTH, -1]))], "flat_patches")
        patches = self.node("Transpose", [patches], "patch_tokens", perm=[0, 2, 1])
        places = _interpolated(self.weights.value(_PLACES), side)
        patches = self.node("Add", [patches, add("places", places[1:][None])], "placed_tokens")
        first = (self.weights.value(f"{_MODEL}.embeddings.class_embedding") + places[0]).astype(np.float32)
        number = self.node("Shape", [faces], "number", start=0, end=1)
        shape = self.node("Concat", [number, add("one_token", np.array([1, WIDTH]))], "class_shape", axis=0)
        first_token = self.node("Expand", [add("class", first[None, None]), shape], "class_token")
        tokens = self.node("Concat", [first_token, patches], "tokens", axis=1)
        return self.normalised(tokens, f"{_MODEL}.pre_layrnorm")

    def mean_of_patches(self, x: str) -> str:
        """Of all tokens but the first."""
        return self.node("ReduceMean", [self.patches(x)], f"{x}_mean", axes=[1], keepdims=0)

    def patches(self, x: str) -> str:
        """All tokens but the first."""
        return self._part(x, "patches", 1, _MOST)

    def merged(self, x: str) -> str:
        """The class token, and the means of two by two patches."""
        add, half = self.weights.add, SIDE // PATCH // 2
        grid = self.node("Reshape", [self.patches(x), add("grid", np.array([0, half, 2, half, 2, WIDTH]))], f"{x}_grid")
        means = self.node("ReduceMean", [grid], f"{x}_means", axes=[2, 4], keepdims=0)
        means = self.node("Reshape", [means, add("row", np.array([0, half * half, WIDTH]))], f"{x}_row")
        return self.node("Concat", [self._part(x, "class", 0, 1), means], f"{x}_merged", axis=1)

    def _part(self, x: str, what: str, start: int, end: int) -> str:
        """Some of the tokens."""
        ends = [self.weights.add(f"token_{place}", np.array([place])) for place in (start, end)]
        return self.node("Slice", [x, *ends, self.weights.add("axis", np.array([1]))], f"{x}_{what}")


def clip_graph(encoder: Path, scales: Mapping[str, Scale] | None = None) -> ModelProto:
    """From `faces`, uint8 (n, 160, 160, 3), RGB, to `traces`: the means of patches behind `BLOCKS`, (n, 3072).

    Args:
        encoder: the package's file; the graph names it, and where in it the weights lie.
        scales: by the name of what is scaled; without, each batch has its own.

    Raises:
        ValueError: it is not the encoder that is known here.
    """
    weights = _Weights(encoder)
    if _PLACES not in weights:
        raise ValueError(f"{encoder} is not the image encoder that is known here")
    build = _Builder(weights, scales)
    x = build.tokens(INPUT)
    means = []
    for index in range(BLOCKS[-1]):
        x = build.ended(*build.block(x, index), index)
        if index == MERGED:
            x = build.merged(x)
        if index in BLOCKS:
            means.append(build.mean_of_patches(x))
    # Of the last block's tokens only the mean is wanted: it is taken before the product, which then costs nothing.
    around, into = build.block(x, BLOCKS[-1])
    means.append(build.ended(build.mean_of_patches(around), build.mean_of_patches(into), BLOCKS[-1]))
    build.node("Concat", means, OUTPUT, axis=1)
    return helper.make_model(
        helper.make_graph(
            build.nodes,
            "clip_face",
            [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["n", SIDE, SIDE, 3])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", len(BLOCKS) * WIDTH])],
            list(weights.used.values()),
        ),
        opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(_CONTRIB, 1)],
        ir_version=8,
    )


def fixed_scales(moving: ModelProto, folder: Path, views: Sequence[RGB]) -> dict[str, Scale]:
    """Scales of activations as wide as most of these chips need them.

    Args:
        moving: of `clip_graph`, without scales.
        folder: of the encoder's file.
        views: uint8 (160, 160, 3) each.
    """
    scaled = [node for node in moving.graph.node if node.op_type == "DynamicQuantizeLinear"]
    watched = ModelProto()
    watched.CopyFrom(moving)
    names = [name for node in scaled for name in node.output[1:3]]
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    ends = []
    for view in views:
        seen = session.run(names, {INPUT: view[None]})
        step, nought = np.array(seen[0::2], np.float64), np.array(seen[1::2], np.float64)
        ends.append((-nought * step, (255 - nought) * step))
    (lowest, _), (_, highest) = np.quantile(ends, (_CUT_OFF, 1 - _CUT_OFF), axis=0)
    steps = np.maximum((highest - lowest) / 255, 1e-8)
    noughts = np.clip(np.rint(-lowest / steps), 0, 255)
    return {
        node.input[0]: Scale(float(step), int(nought))
        for node, step, nought in zip(scaled, steps, noughts, strict=True)
    }


def _block(index: int) -> str:
    return f"{_MODEL}.encoder.layers.{index}"


def _interpolated(places: NDArray[np.generic], side: int) -> Floats:
    """The encoder's embeddings of places, (1 + m * m, 768), for side x side patches."""
    before = round(float(np.sqrt(len(places) - 1)))
    grid = np.asarray(places[1:], np.float32).reshape(before, before, WIDTH)
    # OpenCV resizes at most four channels at a time.
    planes = [cv2.resize(grid[..., index], (side, side), interpolation=cv2.INTER_CUBIC) for index in range(WIDTH)]
    return np.concatenate([places[:1], np.stack(planes, axis=-1).reshape(-1, WIDTH)]).astype(np.float32)
