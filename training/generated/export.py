"""The head as a fragment of an ONNX graph: laid behind the encoder's file, the two are one network.

A protobuf message that follows another of its type is merged into it: lists grow, single messages merge. So a
`ModelProto` that holds nothing but the head's nodes, weights and outputs can simply be appended to the encoder's bytes;
`models.lock` calls it an `extension`. Nobody has to rewrite or ship the encoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from training.clip import EMBEDDING, OUTPUT, WIDTH, tapped
from training.generated.examples import CLASS_TOKEN, TOKENS, Input
from training.generated.head import LIMIT, LinearHead

__all__ = ["SCORE", "head_fragment", "write_fragment"]

SCORE: Final = "score"
_PREFIX: Final = "generated_head."


def head_fragment(head: LinearHead, which: Input) -> bytes:
    """The fragment: output `score`, float32 (batch, 1), the logistic function of the head's margin.

    Raises:
        ValueError: for inputs that the encoder's graph does not have.
    """
    from onnx import ModelProto, TensorProto, helper, numpy_helper  # noqa: PLC0415 - only the training environment has it

    if which not in ("clip", "blocks"):
        raise ValueError(f"the encoder's graph has no {which!r}")
    model = ModelProto()
    graph = model.graph

    def constant(name: str, value: object, dtype: type) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), _PREFIX + name))
        return _PREFIX + name

    def node(kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        named = output if output == SCORE else _PREFIX + output
        graph.node.append(helper.make_node(kind, inputs, [named], name=_PREFIX + "node_" + output, **attributes))
        return named

    parts = [OUTPUT]
    if which == "blocks":
        first = constant("first", 0, np.int64)
        start, stop, axis = (
            constant(name, [value], np.int64) for name, value in (("start", 1), ("stop", 197), ("axis", 1))
        )
        for block, token in TOKENS:
            if token == CLASS_TOKEN:
                parts.append(node("Gather", [tapped(block), first], f"class_{block}", axis=1))
            else:
                patches = node("Slice", [tapped(block), start, stop, axis], f"patches_{block}")
                parts.append(node("ReduceMean", [patches], f"mean_{block}", axes=[1], keepdims=0))
    features = node("Concat", parts, "features", axis=1) if len(parts) > 1 else OUTPUT
    expected = EMBEDDING + (len(parts) - 1) * WIDTH
    if head.weights.shape != (expected,):
        raise ValueError(f"the head has {head.weights.shape[0]} inputs, the graph gives {expected}")
    centred = node("Sub", [features, constant("mean", head.mean, np.float32)], "centred")
    scaled = node("Div", [centred, constant("deviation", head.deviation, np.float32)], "scaled")
    bounds = [constant("low", -LIMIT, np.float32), constant("high", LIMIT, np.float32)]
    limited = node("Clip", [scaled, *bounds], "limited")
    weighted = node("MatMul", [limited, constant("weights", head.weights[:, None], np.float32)], "weighted")
    margin = node("Add", [weighted, constant("bias", [head.bias], np.float32)], "margin")
    node("Sigmoid", [margin], SCORE)
    graph.output.append(helper.make_tensor_value_info(SCORE, TensorProto.FLOAT, ["batch", 1]))
    return bytes(model.SerializeToString())


def write_fragment(head: LinearHead, which: Input, path: Path) -> int:
    """Writes the fragment; returns its size in bytes."""
    content = head_fragment(head, which)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return len(content)
