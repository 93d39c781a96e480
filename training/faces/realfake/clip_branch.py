"""What CLIP sees of a face: whether it is of one piece, put together, or made by a generator.

Behind the first blocks of CLIP's image encoder (ViT-B/16) a picture's patches know how it was made (Koutlis and
Papadopoulos 2024). The means of the patches behind blocks 5, 6 and 7 are read by one linear head. The chip is looked at
as it is, 10 x 10 patches of 16 pixels, with the encoder's places interpolated to as many (Dosovitskiy et al. 2021,
section 3.2).

The encoder's weights stay in its package's file, beside which the graph is served (ONNX external data). The package
scales activations as it goes, over the whole batch, so that a face's neighbours would change its answer: here each
scale is fixed, by what was seen on chips of the train split.

References:
    C. Koutlis and S. Papadopoulos, "Leveraging representations from intermediate encoder-blocks for synthetic image
        detection", ECCV 2024. 10.1007/978-3-031-73220-1_23
    A. Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021. arXiv:2010.11929
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, StringStringEntryProto, TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from services.deeplearning.clip import DEVIATION, MEAN
from training.clip import INPUT as PIXELS
from training.clip import WIDTH, tapped

__all__ = ["BLOCKS", "FEATURES", "KINDS", "Head", "clip_features", "clip_graph", "fit_head", "with_fixed_scales"]

RGB = NDArray[np.uint8]
Floats = NDArray[np.float32]

BLOCKS: Final = (5, 6, 7)
"""Behind which the patches are read, counted from 0. Chosen by AUC on faces blended of the calibrate split, with what
costs no more than 8 blocks: 0.83 for block 7, 0.85 for 6 and 7, 0.86 for these."""
SIDE: Final = 160
PATCH: Final = 16
KINDS: Final = ("real", "blended", "generated")
"""What the head tells apart, in the order of its answers."""
FEATURES: Final = "clip_features"
_STRENGTH: Final = 1e-3
"""Of the head's logistic regression (scikit-learn's C), on features of deviation 1."""
_PLACES: Final = "vision_model.embeddings.position_embedding.weight"
_PLACE_NUMBERS: Final = "/vision_model/embeddings/position_embedding/Constant_output_0"
_CUT_OFF: Final = 0.2
"""Share of chips whose lowest, or highest, activations are cut off: scales as wide as the widest chip needs leave fewer
steps to the rest. Features correlate by 0.96 with those by scales of each chip's own; by 0.94 with the widest."""
_STORED_BYTES: Final = 1024
"""Weights of fewer bytes are kept in the graph."""
_PREFIX: Final = "clip_"


@dataclass(frozen=True, slots=True)
class Head:
    """Log odds of `KINDS` are features @ weights + bias: float32 (features, 3) and (3,)."""

    weights: Floats
    bias: Floats


def clip_graph(encoder: Path, faces: str) -> ModelProto:
    """From faces (n, 160, 160, 3), RGB, 0-255, to `FEATURES`, (n, 2304).

    Args:
        encoder: the package's file; the graph names it, and where in it the weights lie.
        faces: the input's name.

    Raises:
        ValueError: it is not the encoder that is known here.
    """
    content = encoder.read_bytes()
    graph = onnx.load_model_from_string(content).graph
    values = {tensor.name: tensor for tensor in graph.initializer}
    if _PLACES not in values:
        raise ValueError(f"{encoder} is not the image encoder that is known here")
    side = SIDE // PATCH
    nodes = _needed(graph.node, [tapped(block) for block in BLOCKS])
    for node in nodes:
        if node.output[0] == _PLACE_NUMBERS:
            numbers = np.arange(side * side + 1, dtype=np.int64)[None]
            node.attribute[0].t.CopyFrom(numpy_helper.from_array(numbers))
    used = {name for node in nodes for name in node.input}
    initializers = [_stored(tensor, content, encoder.name) for name, tensor in values.items() if name in used]
    places = numpy_helper.from_array(_interpolated(numpy_helper.to_array(values[_PLACES]), side), _PLACES)
    initializers = [places if tensor.name == _PLACES else tensor for tensor in initializers]
    initializers += [
        numpy_helper.from_array(np.asarray(value), f"{_PREFIX}{name}")
        for name, value in (
            ("level", (1 / (255 * DEVIATION)).astype(np.float32)),
            ("offset", (-MEAN / DEVIATION).astype(np.float32)),
            ("first", np.array([1], np.int64)),
            ("last", np.array([side * side + 1], np.int64)),
            ("axis", np.array([1], np.int64)),
        )
    ]
    before = [
        helper.make_node("Mul", [faces, f"{_PREFIX}level"], [f"{_PREFIX}levelled"]),
        helper.make_node("Add", [f"{_PREFIX}levelled", f"{_PREFIX}offset"], [f"{_PREFIX}normalised"]),
        helper.make_node("Transpose", [f"{_PREFIX}normalised"], [PIXELS], perm=[0, 3, 1, 2]),
    ]
    after: list[NodeProto] = []
    for block in BLOCKS:
        cut = [f"{_PREFIX}{name}" for name in ("first", "last", "axis")]
        after.append(helper.make_node("Slice", [tapped(block), *cut], [f"{_PREFIX}patches_{block}"]))
        after.append(
            helper.make_node(
                "ReduceMean", [f"{_PREFIX}patches_{block}"], [f"{_PREFIX}mean_{block}"], axes=[1], keepdims=0
            )
        )
    after.append(helper.make_node("Concat", [f"{_PREFIX}mean_{block}" for block in BLOCKS], [FEATURES], axis=1))
    return helper.make_model(
        helper.make_graph(
            [*before, *nodes, *after],
            "clip",
            [helper.make_tensor_value_info(faces, TensorProto.FLOAT, ["n", SIDE, SIDE, 3])],
            [helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["n", len(BLOCKS) * WIDTH])],
            initializers,
        ),
        opset_imports=[helper.make_opsetid("", 14)],
        ir_version=8,
    )


def with_fixed_scales(model: ModelProto, folder: Path, views: Sequence[RGB]) -> ModelProto:
    """The graph with every scale of its activations as wide as most of these chips need it.

    Args:
        model: of `clip_graph`.
        folder: of the encoder's file.
        views: uint8 (160, 160, 3) each.
    """
    moving = [node for node in model.graph.node if node.op_type == "DynamicQuantizeLinear"]
    watched = ModelProto()
    watched.CopyFrom(model)
    names = [name for node in moving for name in node.output[1:3]]
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = _session(watched, folder)
    ends = []
    for view in views:
        seen = session.run(names, {model.graph.input[0].name: view[None].astype(np.float32)})
        scale, zero = np.array(seen[0::2], np.float64), np.array(seen[1::2], np.float64)
        ends.append((-zero * scale, (255 - zero) * scale))
    (lowest, _), (_, highest) = np.quantile(ends, (_CUT_OFF, 1 - _CUT_OFF), axis=0)
    fixed = ModelProto()
    fixed.CopyFrom(model)
    kept: list[NodeProto] = []
    places = {node.output[0]: index for index, node in enumerate(moving)}
    for node in model.graph.node:
        if (index := places.get(node.output[0])) is None:
            kept.append(node)
            continue
        y, scale_name, zero_name = node.output
        step = max(float(highest[index] - lowest[index]) / 255, 1e-8)
        nought = np.clip(np.rint(-lowest[index] / step), 0, 255)
        fixed.graph.initializer.append(numpy_helper.from_array(np.array(step, np.float32), scale_name))
        fixed.graph.initializer.append(numpy_helper.from_array(np.array(nought, np.uint8), zero_name))
        kept.append(helper.make_node("QuantizeLinear", [node.input[0], scale_name, zero_name], [y]))
    del fixed.graph.node[:]
    fixed.graph.node.extend(kept)
    return fixed


def clip_features(model: ModelProto, folder: Path, views: Sequence[RGB], *, threads: int = 1) -> Floats:
    """`FEATURES` of chips, (n, 2304).

    Args:
        model: of `clip_graph` or `with_fixed_scales`.
        folder: of the encoder's file.
        views: uint8 (160, 160, 3) each.
        threads: of onnxruntime.
    """
    session, name = _session(model, folder, threads), model.graph.input[0].name
    found = [session.run([FEATURES], {name: view[None].astype(np.float32)})[0][0] for view in views]
    return np.array(found, np.float32).reshape(len(found), -1)


def fit_head(features: Floats, kinds: NDArray[np.int64]) -> Head:
    """Logistic regression on features of deviation 1, with what brings them there folded in.

    Args:
        features: (n, 2304).
        kinds: places in `KINDS`, (n,).
    """
    scaler = StandardScaler().fit(features)
    model = LogisticRegression(C=_STRENGTH, max_iter=1000).fit(scaler.transform(features), kinds)
    weights = model.coef_ / scaler.scale_
    bias = model.intercept_ - weights @ scaler.mean_
    return Head(weights.T.astype(np.float32), bias.astype(np.float32))


def _needed(nodes: Sequence[NodeProto], outputs: Sequence[str]) -> list[NodeProto]:
    """Those nodes that these outputs depend on, in their order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    return kept[::-1]


def _stored(tensor: TensorProto, content: bytes, location: str) -> TensorProto:
    """A large weight as a place in the file that it was read from."""
    if len(tensor.raw_data) < _STORED_BYTES:
        return tensor
    offset = content.find(tensor.raw_data)
    if offset < 0:
        raise ValueError(f"{tensor.name} is not in {location} as it is used")
    place = {"location": location, "offset": str(offset), "length": str(len(tensor.raw_data))}
    stored = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    stored.data_location = TensorProto.EXTERNAL
    stored.external_data.extend(StringStringEntryProto(key=key, value=value) for key, value in place.items())
    return stored


def _interpolated(places: Floats, side: int) -> Floats:
    """The encoder's embeddings of places, (1 + m * m, 768), for side x side patches."""
    before = round(float(np.sqrt(len(places) - 1)))
    grid = np.asarray(places[1:], np.float32).reshape(before, before, WIDTH)
    # OpenCV resizes at most four channels at a time.
    planes = [cv2.resize(grid[..., index], (side, side), interpolation=cv2.INTER_CUBIC) for index in range(WIDTH)]
    return np.concatenate([places[:1], np.stack(planes, axis=-1).reshape(-1, WIDTH)]).astype(np.float32)


def _session(model: ModelProto, folder: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
