"""OpenAPI 3 out of the contracts: what /v1 takes and gives comes from the messages, their comments and their rules.

The five documented APIs carry bytes of their own making (google.api.HttpBody), of which the contracts know only paths
and comments; `DOCUMENTED` says what goes in and out of them. Every example is executed by a test, through Envoy.
"""

from __future__ import annotations

import base64
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

# Imported before any contract is read: rules that are not known then stay unknown.
from buf.validate import validate_pb2
from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

__all__ = ["openapi"]

PACKAGE: Final = "pentimento.orchestrator.v1"
HTTP_BODY: Final = ".google.api.HttpBody"
Schema = dict[str, Any]

SCALARS: Final[Mapping[int, Schema]] = {
    FieldDescriptorProto.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptorProto.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptorProto.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptorProto.TYPE_INT64: {"type": "string", "format": "int64"},
    FieldDescriptorProto.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptorProto.TYPE_STRING: {"type": "string"},
    FieldDescriptorProto.TYPE_BYTES: {"type": "string", "format": "byte"},
}
WELL_KNOWN: Final[Mapping[str, Schema]] = {
    ".google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    ".google.protobuf.Duration": {"type": "string", "example": "1.5s"},
    ".google.protobuf.Struct": {"type": "object", "additionalProperties": True},
}
RESOURCES: Final = {"analyses": "analysis_id", "batches": "batch_id", "people": "person_id"}
"""What the id of a resource is called, by the collection that it is in."""

ERRORS: Final = {
    "400": "Not a picture, or a request that is not as described here.",
    "404": "There is no such thing.",
    "413": "The picture or the request is too large.",
    "429": "A rate limit, or no capacity; Retry-After says how long to wait.",
    "503": "A part or a model that is needed is away.",
}
ERROR_SCHEMA: Final[Schema] = {
    "type": "object",
    "description": "An error of any API here.",
    "properties": {
        "success": {"type": "boolean", "example": False},
        "message": {"type": "string"},
        "error": {"type": "string", "nullable": True},
        "timestamp": {"type": "string"},
        "request_id": {"type": "string"},
    },
}

# ---- the documented APIs ----

OBJECT: Final[Schema] = {"type": "object", "additionalProperties": True}
FACE_BOX: Final = {
    "message": {"type": "string", "enum": ["faces found", "No faces found"]},
    "x1": {"type": "integer"},
    "y1": {"type": "integer"},
    "x2": {"type": "integer"},
    "y2": {"type": "integer"},
    "confidence": {"type": "number"},
    "faces": {"type": "integer"},
}
IMAGE_RESULT: Final = {
    "filename": {"type": "string"},
    "status": {"type": "string", "enum": ["LIKELY_AUTHENTIC", "REVIEW_REQUIRED"]},
    "final_decision": {
        "type": "string",
        "nullable": True,
        "enum": [
            "CONFIRMED_AI_GENERATED",
            "SUSPICIOUS_AI_LIKELY",
            "AUTHENTIC_BUT_REVIEW",
            "MOSTLY_AUTHENTIC",
            None,
        ],
    },
    "decision_explanation": {"type": "string", "nullable": True},
    "overall_score": {"type": "number", "minimum": 0, "maximum": 1},
    "confidence": {"type": "integer", "minimum": 0, "maximum": 100},
    "evidence": {"type": "array", "items": OBJECT},
    "signals": {"type": "array", "items": OBJECT},
    "metric_results": OBJECT,
    "processing_time": {"type": "number"},
    "image_size": {"type": "array", "items": {"type": "integer"}},
    "timestamp": {"type": "string"},
    "manipulation": OBJECT,
    "missing": {"type": "array", "items": OBJECT},
    "faces": {"type": "integer", "nullable": True},
}
SCREENED: Final = {
    "success": {"type": "boolean"},
    "message": {"type": "string"},
    "data": OBJECT,
    "error": {"type": "string", "nullable": True},
    "timestamp": {"type": "string"},
}
DEEPFAKE: Final = {
    "prediction": {"type": "string", "enum": ["real", "fake"]},
    "confidence": {"type": "number", "minimum": 0, "maximum": 1},
    "processing_time": {"type": "number"},
    "debug_info": OBJECT,
    "faces": {"type": "integer"},
    "message": {"type": "string"},
}
# Method -> form fields of files, JSON that takes the same (None: no JSON), properties of the answer.
DOCUMENTED: Final[Mapping[str, tuple[tuple[str, ...], str | None, Schema]]] = {
    "CheckImages": (("files",), "one", {"PAYLOAD": OBJECT, "ERRORS": OBJECT, "MASKS": OBJECT, "METADATA": OBJECT}),
    "Segment": (("image",), "one", dict.fromkeys(("mask", "overlay", "masked_image"), SCALARS[12])),
    "Classify": (
        ("image",),
        "one",
        {"class_id": {"type": "integer"}, "class_name": {"type": "string"}, "confidence": {"type": "number"}},
    ),
    "AnalyzeImage": (("file",), "one", {**SCREENED, "data": {"type": "object", "properties": IMAGE_RESULT}}),
    "AnalyzeBatch": (("files",), None, SCREENED),
    "DetectYunet": (("file",), "one", FACE_BOX),
    "DetectMediapipe": (("file",), "one", FACE_BOX),
    "DetectHaar": (("file",), "one", FACE_BOX),
    "EstimateGender": (
        ("file",),
        "one",
        {"message": {"type": "string"}, "gender": {"type": "string"}, "age": {"type": "string"}},
    ),
    "DetectCartoon": (("file",), "one", {"message": {"type": "string"}, "probability": {"type": "number"}}),
    "Detect": (("file",), "one", DEEPFAKE),
    "DetectAugmented": (("file",), "one", {**DEEPFAKE, "stability": {"type": "number"}}),
}
ANSWERS: Final = {"GetCsvReport": "text/csv", "GetPage": "text/html", "GetAsset": "application/octet-stream"}
"""Media types of answers other than JSON."""


def openapi(files: FileDescriptorSet, *, version: str) -> dict[str, Any]:
    """The description of all public APIs.

    Args:
        files: the contracts with what they import, and with source information (for the comments).
        version: of Pentimento.
    """
    return _Describer(files).document(version)


class _Describer:
    """Knows every message and comment by its full name."""

    def __init__(self, files: FileDescriptorSet) -> None:
        self._messages: dict[str, DescriptorProto] = {}
        self._enums: dict[str, EnumDescriptorProto] = {}
        self._comments: dict[str, str] = {}
        self._services: list[ServiceDescriptorProto] = []
        self._used: dict[str, Schema] = {}
        for file in files.file:
            comments = {tuple(place.path): _text(place.leading_comments) for place in file.source_code_info.location}
            for index, message in enumerate(file.message_type):
                self._add_message(f".{file.package}.{message.name}", message, (4, index), comments)
            for index, enum in enumerate(file.enum_type):
                self._add_enum(f".{file.package}.{enum.name}", enum, (5, index), comments)
            if file.package != PACKAGE:
                continue
            for index, service in enumerate(file.service):
                self._services.append(service)
                self._comments[service.name] = comments.get((6, index), "")
                for number, method in enumerate(service.method):
                    self._comments[f"{service.name}.{method.name}"] = comments.get((6, index, 2, number), "")

    def _add_message(
        self, name: str, message: DescriptorProto, path: tuple[int, ...], comments: Mapping[tuple[int, ...], str]
    ) -> None:
        self._messages[name] = message
        self._comments[name] = comments.get(path, "")
        for index, field in enumerate(message.field):
            self._comments[f"{name}.{field.name}"] = comments.get((*path, 2, index), "")
        for index, nested in enumerate(message.nested_type):
            self._add_message(f"{name}.{nested.name}", nested, (*path, 3, index), comments)

    def _add_enum(
        self, name: str, enum: EnumDescriptorProto, path: tuple[int, ...], comments: Mapping[tuple[int, ...], str]
    ) -> None:
        self._enums[name] = enum
        values = [
            f"- `{value.name}`: {text}"
            for index, value in enumerate(enum.value)
            if (text := comments.get((*path, 2, index), ""))
        ]
        self._comments[name] = "\n".join([comments.get(path, ""), "", *values])

    # ---- the document ----

    def document(self, version: str) -> dict[str, Any]:
        paths: dict[str, dict[str, Any]] = {}
        own = [service for service in self._services if not _is_documented(service)]
        for service in [*own, *(service for service in self._services if service not in own)]:
            for method in service.method:
                for number, rule in enumerate(_rules(method)):
                    verb = str(rule.WhichOneof("pattern"))
                    path, parameters = _path(getattr(rule, verb))
                    operation = self._operation(service, method, rule, parameters, number)
                    paths.setdefault(path, {})[verb] = operation
        return {
            "openapi": "3.0.3",
            "info": {
                "title": "Pentimento",
                "version": version,
                "description": "Is a picture what it claims to be? `/v1` is Pentimento's own API; the others are those "
                "of the five systems that it replaces.",
                "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            },
            "tags": [
                {"name": _tag(service), "description": self._comments[service.name]}
                for service in [*own, *(service for service in self._services if service not in own)]
            ],
            "paths": paths,
            "components": {"schemas": {**dict(sorted(self._used.items())), "Error": ERROR_SCHEMA}},
        }

    def _operation(
        self,
        service: ServiceDescriptorProto,
        method: MethodDescriptorProto,
        rule: http_pb2.HttpRule,
        path_parameters: list[Schema],
        number: int,
    ) -> Schema:
        comment = self._comments[f"{service.name}.{method.name}"]
        summary, _, rest = comment.partition(". ")
        operation: Schema = {
            "tags": [_tag(service)],
            "operationId": f"{service.name}_{method.name}" + (f"_{number + 1}" if number else ""),
            "summary": summary.rstrip("."),
            "description": rest,
        }
        parameters = [*path_parameters, *self._query(method, rule)]
        if parameters:
            operation["parameters"] = parameters
        if rule.body:
            operation["requestBody"] = self._body(method)
        operation["responses"] = {"200": self._answer(method, rule), **_failures(method)}
        return operation

    def _query(self, method: MethodDescriptorProto, rule: http_pb2.HttpRule) -> list[Schema]:
        """Fields of the request that neither the path nor the body holds."""
        if rule.body == "*":
            return []
        template = getattr(rule, str(rule.WhichOneof("pattern")))
        bound = {rule.body, *re.findall(r"\{([a-z_]+)", template)}
        found = []
        for field in self._messages[method.input_type].field:
            is_message = field.type == FieldDescriptorProto.TYPE_MESSAGE and field.type_name not in WELL_KNOWN
            if field.name in bound or is_message:
                continue
            name = f"{method.input_type}.{field.name}"
            found.append(
                {
                    "name": field.name,
                    "in": "query",
                    "description": self._comments[name],
                    "schema": self._field(method.input_type, field, describe=False),
                }
            )
        return found

    def _body(self, method: MethodDescriptorProto) -> Schema:
        if method.name in DOCUMENTED and method.output_type == HTTP_BODY:
            fields, json, _ = DOCUMENTED[method.name]
            several = fields[0] == "files"
            picture: Schema = {"type": "string", "format": "binary"}
            if several:
                picture = {"type": "array", "items": picture}
            content: Schema = {
                "multipart/form-data": {
                    "schema": {"type": "object", "properties": {fields[0]: picture}, "required": [fields[0]]}
                }
            }
            if json:
                urls: Schema = {"type": "string", "format": "uri", "description": "Where the picture is."}
                schema: Schema = {
                    "type": "object",
                    "properties": {
                        "url": urls,
                        "urls": {"type": "array", "items": urls, "maxItems": 50},
                        "image": {"type": "string", "format": "byte", "description": "The file, in base64."},
                        "filename": {"type": "string"},
                    },
                }
                if not several:
                    del schema["properties"]["urls"]
                content["application/json"] = {"schema": schema, "example": {"image": PICTURE, "filename": "a.png"}}
            return {"required": True, "content": content}
        if method.input_type not in self._messages or HTTP_BODY in {
            field.type_name for field in self._messages[method.input_type].field
        }:
            return {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
        content = {"application/json": {"schema": self._reference(method.input_type)}}
        if method.name in EXAMPLES:
            content["application/json"]["example"] = EXAMPLES[method.name]
        return {"required": True, "content": content}

    def _answer(self, method: MethodDescriptorProto, rule: http_pb2.HttpRule) -> Schema:
        if method.output_type == HTTP_BODY:
            if method.name in ANSWERS:
                return {"description": "OK", "content": {ANSWERS[method.name]: {"schema": {"type": "string"}}}}
            properties = DOCUMENTED[method.name][2] if method.name in DOCUMENTED else {}
            schema: Schema = {"type": "object", "additionalProperties": True, "properties": properties}
            return {"description": "OK", "content": {"application/json": {"schema": schema}}}
        if rule.response_body:
            (field,) = (f for f in self._messages[method.output_type].field if f.name == rule.response_body)
            schema = self._field(method.output_type, field, describe=False)
        else:
            schema = self._reference(method.output_type)
        kind = "text/event-stream" if method.server_streaming else "application/json"
        words = "A stream of server-sent events, each with such a message" if method.server_streaming else "OK"
        return {"description": words, "content": {kind: {"schema": schema}}}

    # ---- schemas ----

    def _reference(self, name: str) -> Schema:
        key = name.lstrip(".").removeprefix("pentimento.")
        if key not in self._used:
            self._used[key] = {}  # a message may hold itself
            self._used[key] = self._enum(name) if name in self._enums else self._message(name)
        return {"$ref": f"#/components/schemas/{key}"}

    def _enum(self, name: str) -> Schema:
        return {
            "type": "string",
            "enum": [value.name for value in self._enums[name].value],
            "description": self._comments[name],
        }

    def _message(self, name: str) -> Schema:
        message = self._messages[name]
        schema: Schema = {
            "type": "object",
            "description": self._comments[name],
            "properties": {field.name: self._field(name, field) for field in message.field},
        }
        required = [field.name for field in message.field if _rules_of(field).required]
        if required:
            schema["required"] = required
        return schema

    def _field(self, owner: str, field: FieldDescriptorProto, *, describe: bool = True) -> Schema:
        entry = self._messages.get(field.type_name)
        if entry is not None and entry.options.map_entry:
            schema: Schema = {"type": "object", "additionalProperties": self._value(entry.field[1])}
        elif field.label == FieldDescriptorProto.LABEL_REPEATED:
            schema = {"type": "array", "items": self._value(field), **_array_bounds(field)}
        else:
            schema = self._value(field)
        if describe and (comment := self._comments.get(f"{owner}.{field.name}", "")):
            # Beside a reference nothing else is read.
            schema = (
                {"allOf": [schema], "description": comment}
                if "$ref" in schema
                else {
                    **schema,
                    "description": comment,
                }
            )
        return schema

    def _value(self, field: FieldDescriptorProto) -> Schema:
        if field.type_name in WELL_KNOWN:
            return dict(WELL_KNOWN[field.type_name])
        if field.type in {FieldDescriptorProto.TYPE_MESSAGE, FieldDescriptorProto.TYPE_ENUM}:
            return self._reference(field.type_name)
        return {**SCALARS[field.type], **_bounds(field)}


def _is_documented(service: ServiceDescriptorProto) -> bool:
    return all(method.output_type == HTTP_BODY for method in service.method)


def _tag(service: ServiceDescriptorProto) -> str:
    words = re.sub(r"(?<!^)([A-Z])", r" \1", service.name.removesuffix("Service")).lower()
    return f"{words} (documented API)" if _is_documented(service) and "documentation" not in words else words


def _rules(method: MethodDescriptorProto) -> Iterator[http_pb2.HttpRule]:
    rule = method.options.Extensions[annotations_pb2.http]
    for each in (rule, *rule.additional_bindings):
        if each.WhichOneof("pattern"):
            yield each


def _path(template: str) -> tuple[str, list[Schema]]:
    """A path as OpenAPI writes it, and its parameters: `{name=analyses/*}` is `analyses/{analysis_id}`."""
    parameters: list[Schema] = []

    def replace(match: re.Match[str]) -> str:
        name, _, pattern = match.group(1).partition("=")
        collection = pattern.partition("/")[0]
        parameter = RESOURCES.get(collection, name)
        parameters.append({"name": parameter, "in": "path", "required": True, "schema": {"type": "string"}})
        return f"{collection}/{{{parameter}}}" if collection else f"{{{parameter}}}"

    return re.sub(r"\{([^}]*)\}", replace, template), parameters


def _failures(method: MethodDescriptorProto) -> Schema:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {code: {"description": words, "content": content} for code, words in ERRORS.items()}


def _rules_of(field: FieldDescriptorProto) -> Any:
    return field.options.Extensions[validate_pb2.field]


def _bounds(field: FieldDescriptorProto) -> Schema:
    rules = _rules_of(field)
    kind = rules.WhichOneof("type")
    if kind == "repeated":
        rules = rules.repeated.items
        kind = rules.WhichOneof("type")
    bounds: Schema = {}
    if kind in {"double", "int32"}:
        limits = getattr(rules, kind)
        for name, key, exclusive in (("gte", "minimum", False), ("gt", "minimum", True),
                                     ("lte", "maximum", False), ("lt", "maximum", True)):  # fmt: skip
            if limits.HasField(name):
                bounds[key] = getattr(limits, name)
                if exclusive:
                    bounds[f"exclusive{key.capitalize()}"] = True
    if kind == "string":
        for name, key in (("pattern", "pattern"), ("min_len", "minLength"), ("max_len", "maxLength")):
            if rules.string.HasField(name):
                bounds[key] = getattr(rules.string, name)
    return bounds


def _array_bounds(field: FieldDescriptorProto) -> Schema:
    rules = _rules_of(field)
    if rules.WhichOneof("type") != "repeated":
        return {}
    names = (("min_items", "minItems"), ("max_items", "maxItems"), ("unique", "uniqueItems"))
    return {key: getattr(rules.repeated, name) for name, key in names if rules.repeated.HasField(name)}


def _text(comment: str) -> str:
    return " ".join(comment.split())


def _png() -> bytes:
    """A small picture, without any library for pictures."""
    side, step = 96, 8
    rows = b"".join(
        b"\0" + b"".join(bytes((x // step * 20, y // step * 20, 90)) for x in range(side)) for y in range(side)
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


PICTURE: Final = base64.b64encode(_png()).decode()
IMAGE: Final = {"content": PICTURE, "filename": "a.png"}
EXAMPLES: Final[Mapping[str, Any]] = {
    "AnalyzeImage": {
        "image": IMAGE,
        "options": {
            "preset": "POLICY_PRESET_CONSERVATIVE",
            "thresholds": {"generated_high": 0.95},
            "weights": {"jpeg_grid": 0.5},
            "prior_edited": 0.05,
        },
    },
    "StreamAnalyzeImages": {"images": [IMAGE, {"content": PICTURE, "filename": "b.png"}], "options": {}},
    "DetectFaces": {"image": IMAGE, "face_detector": "FACE_DETECTOR_CONSENSUS", "max_faces": 10},
    "DetectDeepfake": {"image": IMAGE, "augmented": True, "whole_image_fallback": True},
    "ReportProfile": {"image": IMAGE},
    "CreateBatch": {"images": [IMAGE, {"content": PICTURE, "filename": "b.png"}]},
    "CancelBatch": {},
}
"""Requests of /v1, by RPC."""
