"""XMP: the properties of a packet, read by expat with document types and entities refused.

References: ISO 16684-1 (XMP); IPTC Photo Metadata Standard 2025.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from xml.parsers import expat

__all__ = ["Property", "Xmp", "read_xmp"]

MAX_DEPTH: Final = 60
MAX_PROPERTIES: Final = 4_000
"""Most properties that are read; a picture with a long editing history has some hundreds."""
MAX_VALUE: Final = 256 * 1024
"""Most characters of one value."""

_RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XML: Final = "http://www.w3.org/XML/1998/namespace"
_META: Final = "adobe:ns:meta/"


@dataclass(frozen=True, slots=True)
class Property:
    """A property: `namespace` is a URI, `name` is local, `path` names it with what it lies in ("History/action")."""

    namespace: str
    name: str
    value: str
    path: str


@dataclass(frozen=True, slots=True)
class Xmp:
    """The properties of a packet, in its order, and what was wrong with it ("" for nothing)."""

    properties: tuple[Property, ...] = ()
    problem: str = ""

    def all(self, name: str) -> Iterator[str]:
        """The values of all properties of this local name, whatever their namespace."""
        return (item.value for item in self.properties if item.name == name)

    def first(self, name: str) -> str:
        """The first of them, or empty."""
        return next(self.all(name), "")


class _Refused(Exception):
    """The packet holds what no XMP packet needs."""


class _Reader:
    def __init__(self) -> None:
        self.properties: list[Property] = []
        self._stack: list[tuple[str, str]] = []
        self._text: list[str] = []
        self._length = 0
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.EntityDeclHandler = self._refuse
        self.parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)

    def _refuse(self, *_: object) -> None:
        raise _Refused("it declares a document type or an entity")

    def _add(self, namespace: str, name: str, value: str, path: list[str]) -> None:
        if len(self.properties) >= MAX_PROPERTIES:
            raise _Refused("it holds too many properties")
        self.properties.append(Property(namespace, name, value, "/".join(path)))

    def _path(self) -> list[str]:
        return [name for namespace, name in self._stack if namespace not in {_RDF, _META}]

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if len(self._stack) >= MAX_DEPTH:
            raise _Refused("it is nested too deeply")
        self._stack.append(_split(tag))
        self._text, self._length = [], 0
        path = self._path()
        for key, value in attributes.items():
            namespace, name = _split(key)
            if namespace == _RDF and name == "resource" and path:
                self._add(self._stack[-1][0], path[-1], value[:MAX_VALUE], path)
            elif namespace and namespace not in {_RDF, _XML, _META}:
                self._add(namespace, name, value[:MAX_VALUE], [*path, name])

    def _characters(self, text: str) -> None:
        if self._length < MAX_VALUE:
            self._text.append(text)
            self._length += len(text)

    def _end(self, _: str) -> None:
        value = "".join(self._text).strip()[:MAX_VALUE]
        path = self._path()
        if value and path:
            owner = next((item for item in reversed(self._stack) if item[0] not in {_RDF, _META}), ("", ""))
            self._add(owner[0], path[-1], value, path)
        self._text, self._length = [], 0
        self._stack.pop()


def read_xmp(packet: bytes) -> Xmp:
    """Reads a packet; never raises. What came before a mistake is kept."""
    body = packet.strip(b"\x00 \t\r\n")
    if not body:
        return Xmp()
    # Some writers leave bytes behind the packet; the trailing <?xpacket ...?> is the end.
    ends = [match.end() for match in re.finditer(rb"</(?:\w+:)?(?:xmpmeta|xapmeta|RDF)\s*>", body)]
    reader = _Reader()
    problem = ""
    try:
        reader.parser.Parse(body[: ends[-1]] if ends else body, True)
    except _Refused as refused:
        problem = f"The XMP packet was not read to its end: {refused}."
    except (expat.ExpatError, ValueError, LookupError, UnicodeError):
        problem = "The XMP packet is not well formed."
    return Xmp(tuple(reader.properties), problem)


def _split(tag: str) -> tuple[str, str]:
    namespace, _, name = tag.rpartition(" ")
    return namespace, name
