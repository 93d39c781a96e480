"""ONNX graphs of a few nodes that stand where trained networks do, written without the onnx package.

`localiser()` answers as deeplabv3plus: what is bright is edited, what is dark is trusted, and the classes follow from
its mean colour: red is splicing, green copymove, blue inpainting, white face, black pristine.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

CLASSES = ("splicing", "copymove", "inpainting", "face", "pristine")
_FLOAT = 1
_ATTRIBUTE_INT, _ATTRIBUTE_INTS = 2, 7


def message(*fields: tuple[int, bytes | str | int | float]) -> bytes:
    """Protobuf's wire format: enough of it for ONNX."""

    def varint(value: int) -> bytes:
        value &= 0xFFFFFFFFFFFFFFFF
        out = bytearray()
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes([*out, value])

    parts = []
    for number, value in fields:
        if isinstance(value, float):
            parts.append(varint(number << 3 | 5) + struct.pack("<f", value))
        elif isinstance(value, int):
            parts.append(varint(number << 3) + varint(value))
        else:
            content = value.encode() if isinstance(value, str) else value
            parts.append(varint(number << 3 | 2) + varint(len(content)) + content)
    return b"".join(parts)


def node(kind: str, inputs: Sequence[str], output: str, **attributes: int | Sequence[int]) -> bytes:
    """One operator with one output."""
    fields: list[tuple[int, bytes | str | int | float]] = [*((1, name) for name in inputs), (2, output), (4, kind)]
    for name, value in attributes.items():
        if isinstance(value, int):
            fields.append((5, message((1, name), (3, value), (20, _ATTRIBUTE_INT))))
        else:
            fields.append((5, message((1, name), *((8, each) for each in value), (20, _ATTRIBUTE_INTS))))
    return message(*fields)


def constant(name: str, values: np.ndarray) -> bytes:
    """An initialiser of float32."""
    array = np.ascontiguousarray(values, np.float32)
    return message(*((1, side) for side in array.shape), (2, _FLOAT), (8, name), (9, array.tobytes()))


def tensor(name: str, shape: Sequence[str | int]) -> bytes:
    """An input or output of float32; a size with a name may vary."""
    sizes = [(1, message((2, side) if isinstance(side, str) else (1, side))) for side in shape]
    kind = message((1, message((1, _FLOAT), (2, message(*sizes)))))
    return message((1, name), (2, kind))


def model(nodes: Sequence[bytes], constants: Sequence[bytes], outputs: Sequence[bytes]) -> bytes:
    """A model that takes `images`, (n, 3, h, w)."""
    graph = message(
        *((1, each) for each in nodes),
        (2, "small"),
        *((5, each) for each in constants),
        (11, tensor("images", ("n", 3, "h", "w"))),
        *((12, each) for each in outputs),
    )
    return message((1, 8), (7, graph), (8, message((1, ""), (2, 13))))


def localiser(*outputs: str) -> bytes:
    """The network that this module's docstring describes, with these outputs of mask, reliability and classes."""
    weights = np.array([[1, -1, -1, 1, -1], [-1, 1, -1, 1, -1], [-1, -1, 1, 1, -1]], np.float32) * 4
    bias = np.array([0, 0, 0, -6, 4], np.float32)
    nodes = [
        node("Mul", ["images", "unit"], "scaled"),
        node("ReduceMean", ["scaled"], "mask", axes=[1], keepdims=0),
        node("Sub", ["one", "mask"], "dark"),
        node("Mul", ["dark", "half"], "half_dark"),
        node("Add", ["half_dark", "half"], "reliability"),
        node("ReduceMean", ["scaled"], "colour", axes=[2, 3], keepdims=0),
        node("MatMul", ["colour", "weights"], "weighed"),
        node("Add", ["weighed", "bias"], "logits"),
        node("Softmax", ["logits"], "classes", axis=1),
    ]
    constants = [
        constant("unit", np.array([1 / 255])),
        constant("one", np.array([1.0])),
        constant("half", np.array([0.5])),
        constant("weights", weights),
        constant("bias", bias),
    ]
    shapes = {name: tensor(name, ("n", "h", "w")) for name in ("mask", "reliability")}
    shapes["classes"] = tensor("classes", ("n", len(CLASSES)))
    return model(nodes, constants, [shapes[name] for name in outputs])


def configuration(name: str, *outputs: str, **parameters: str) -> str:
    """config.pbtxt of a localiser with these outputs."""
    dims = {"mask": "-1, -1", "reliability": "-1, -1", "classes": str(len(CLASSES))}
    listed = ", ".join(f'{{ name: "{each}" data_type: TYPE_FP32 dims: [ {dims[each]} ] }}' for each in outputs)
    told = "\n".join(f'parameters {{ key: "{key}" value {{ string_value: "{v}" }} }}' for key, v in parameters.items())
    return f"""
name: "{name}"
backend: "onnxruntime"
default_model_filename: "model.onnx"
max_batch_size: 4
input [ {{ name: "images" data_type: TYPE_FP32 dims: [ 3, -1, -1 ] }} ]
output [ {listed} ]
instance_group [ {{ count: 1 }} ]
dynamic_batching {{ }}
{told}
"""


def put(folder: Path, name: str, *outputs: str, **parameters: str) -> None:
    """Makes a model folder of a localiser."""
    (folder / name / "1").mkdir(parents=True, exist_ok=True)
    (folder / name / "config.pbtxt").write_text(configuration(name, *outputs, **parameters))
    (folder / name / "1" / "model.onnx").write_bytes(localiser(*outputs))


def put_both(folder: Path, **parameters: str) -> None:
    """deeplabv3plus and resnet50, outputs of one network, as ours are."""
    told = {"network": "small", **parameters}
    put(folder, "deeplabv3plus", "mask", "reliability", "classes", **told)
    put(folder, "resnet50", "classes", **told)
