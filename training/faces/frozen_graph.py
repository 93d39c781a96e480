"""TensorFlow's frozen graphs, read without TensorFlow: what their nodes are, and where in the file their weights lie.

A frozen graph is a `GraphDef` in Protocol Buffers' wire format; a constant's numbers lie in it as raw little-endian
bytes. This reader knows the few fields that weights need (tensorflow/core/framework/{graph,node_def,attr_value,
tensor}.proto) and skips the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["FloatConstant", "FrozenGraphError", "Node", "read_frozen_graph"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FLOAT: Final = 1
"""`DT_FLOAT`."""

Span = tuple[int, int]
"""A field's bytes in the file: from, to."""


class FrozenGraphError(ValueError):
    """The file is no frozen graph; the text says why."""


@dataclass(frozen=True, slots=True)
class FloatConstant:
    """Weights in the file.

    Attributes:
        shape: of the array.
        offset: where its first byte lies in the file; its numbers follow, float32, little-endian, in C order.
    """

    shape: tuple[int, ...]
    offset: int

    @property
    def length(self) -> int:
        """In bytes."""
        return 4 * math.prod(self.shape)

    def read(self, content: bytes) -> NDArray[np.float32]:
        """The numbers, out of the file's bytes."""
        count = math.prod(self.shape)
        return np.frombuffer(content, "<f4", count, self.offset).reshape(self.shape).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Node:
    """An operation: its name, kind, the names of its inputs, and its numbers where it is a constant of floats."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    constant: FloatConstant | None


def read_frozen_graph(path: Path) -> list[Node]:
    """The nodes, in the file's order.

    Raises:
        FrozenGraphError: it is no frozen graph.
    """
    content = path.read_bytes()
    try:
        nodes = [_node(content, span) for field, span in _fields(content, (0, len(content))) if field == 1]
    except (IndexError, UnicodeDecodeError) as error:
        raise FrozenGraphError(f"{path.name} is no frozen TensorFlow graph: {error}") from error
    if not nodes:
        raise FrozenGraphError(f"{path.name} is no frozen TensorFlow graph: it has no nodes")
    return nodes


def _node(content: bytes, span: Span) -> Node:
    name, kind, inputs, constant = "", "", [], None
    for field, part in _fields(content, span):
        if field == 1:
            name = content[slice(*part)].decode()
        elif field == 2:
            kind = content[slice(*part)].decode()
        elif field == 3:
            inputs.append(content[slice(*part)].decode())
        elif field == 5:
            entry = dict(_fields(content, part))
            if content[slice(*entry[1])] == b"value":
                constant = _tensor(content, entry[2])
    return Node(name, kind, tuple(inputs), constant if kind == "Const" else None)


def _tensor(content: bytes, attribute: Span) -> FloatConstant | None:
    """A constant's numbers if they are floats that lie there as raw bytes."""
    for field, tensor in _fields(content, attribute):
        if field != 8:
            continue
        sizes: list[int] = []
        kind, data = 0, None
        for inner, part in _fields(content, tensor):
            if inner == 1:
                kind = part[0]
            elif inner == 2:
                for dimension, size in _fields(content, part):
                    if dimension == 2:
                        sizes.append(dict(_fields(content, size))[1][0])
            elif inner == 4:
                data = part
        if kind == _FLOAT and data is not None and data[1] - data[0] == 4 * math.prod(sizes):
            return FloatConstant(tuple(sizes), data[0])
    return None


def _fields(content: bytes, span: Span) -> Iterator[tuple[int, Span]]:
    """The fields of a message: number and place. Of a number, the value stands in the place's stead: (value, value)."""
    position, end = span
    while position < end:
        key, position = _varint(content, position)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = _varint(content, position)
            yield number, (value, value)
        elif kind in {_FIXED64, _FIXED32}:
            size = 8 if kind == _FIXED64 else 4
            yield number, (position, position + size)
            position += size
        elif kind == _BYTES:
            size, position = _varint(content, position)
            if position + size > end:
                raise IndexError(f"a field leaves its message at byte {position}")
            yield number, (position, position + size)
            position += size
        else:
            raise IndexError(f"unknown kind of field at byte {position}")


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise IndexError(f"no number at byte {position}")
