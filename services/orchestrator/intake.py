"""Turns what a client sent into pictures: the one way in for all five documented APIs.

A picture may come as

- `multipart/form-data`: a file, or a text field `url`;
- `application/json`: `url`, `urls`, or base64 in `image` or `content` (data: URLs too), with an optional `filename`;
- `application/x-www-form-urlencoded`: `url`;
- the picture itself as the body, with its own media type or none.

Which of these, is told by the declared type; where there is none, or curl's default, by the content. `parse` is pure
and bounded: parts, header sizes, nesting and bytes have limits, and whatever a hostile body does is `InvalidInput`.
Reasons: MALFORMED_BODY (cannot be read), MISSING_IMAGE (can be read, holds no picture), INVALID_FIELD (a field of the
wrong type), TOO_MANY_IMAGES, UNSUPPORTED_MEDIA_TYPE, and TOO_LARGE for a file that exceeds the limit.

What is a picture is told by the content (`Intake.check`), never by a name or a declared type.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import math
import re
import unicodedata
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import parse_qs, unquote, unquote_to_bytes, urlsplit

from google.api import httpbody_pb2
from pentimento.orchestrator.v1 import analysis_pb2
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from services.common.context import time_remaining
from services.common.errors import InvalidInput, TooLarge, UnsupportedFormat
from services.common.images import ImageInfo, ImageLimits, check_image
from services.common.limiter import WorkLimiter
from services.orchestrator.fetching import MAX_URL_LENGTH, FetchedImage

__all__ = [
    "FILE_FIELDS",
    "ImageFetcher",
    "Intake",
    "Link",
    "Source",
    "Upload",
    "parse",
    "parse_pieces",
]

FILE_FIELDS: Final = ("file", "image", "files")
"""Names of a file's form field, the likeliest first; any other name is taken where none of these occurs."""

MAX_PARTS: Final = 256
"""Most parts of a form: five times as many as the pictures of the largest batch."""
MAX_PART_HEADERS: Final = 16
MAX_HEADER_BYTES: Final = 4096
MAX_FILENAME_LENGTH: Final = 200
MAX_READ_OF_FILENAME: Final = 4000

DEFAULT_FILENAME: Final = "image"

_TEXT_FIELDS: Final = ("url", "urls")
_BASE64_FIELDS: Final = ("image", "content")
_UNDECLARED: Final = ("", "application/octet-stream", "application/x-www-form-urlencoded")
_JSON_START: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*[{\[]")
_IMAGE_START: Final = re.compile(rb"\xff\xd8\xff|\x89PNG|GIF8|RIFF....WEBP|BM|II\*\x00|MM\x00\*", re.DOTALL)
_EXTENSION: Final = re.compile(r"\.[A-Za-z0-9]{1,10}$")
_EXTENSION_OF_FORMAT: Final = {
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tiff",
    "AVIF": ".avif",
    "HEIC": ".heic",
    "HEIF": ".heif",
    "JPEG 2000": ".jp2",
    "JPEG XL": ".jxl",
    "Photoshop": ".psd",
    "PDF": ".pdf",
}
_EXTENSIONS: Final = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
}


@dataclass(frozen=True, slots=True)
class Upload:
    """A file as it was sent or fetched; not yet known to be a picture.

    Attributes:
        filename: a name to show, safe for headers, terminals and file systems; "image" where none was given.
        content: the bytes.
    """

    filename: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Link:
    """A picture that has to be fetched.

    Attributes:
        url: as given.
        filename: last segment of the URL's path, made safe.
    """

    url: str
    filename: str


Source = Upload | Link


class ImageFetcher(Protocol):
    """Fetches by URL, safely; `services.orchestrator.fetching.UrlFetcher` does."""

    async def fetch(self, url: str, *, deadline_seconds: float | None = None) -> FetchedImage:
        """Fetches the content of `url`; raises `RejectedUrl` or `TooLarge`."""
        ...


class Intake:
    """Reads request bodies and gets the pictures they hold or name.

    Args:
        fetcher: fetches URLs.
        work: threads for parsing and checking.
        limits: on files; the formats come from each API.
        on_checked: is told of every picture that was checked.
    """

    def __init__(
        self,
        fetcher: ImageFetcher,
        *,
        work: WorkLimiter,
        limits: ImageLimits,
        on_checked: Callable[[ImageInfo], None] | None = None,
    ) -> None:
        self._fetcher = fetcher
        self._work = work
        self._limits = limits
        self._on_checked = on_checked

    def reporting_to(self, on_checked: Callable[[ImageInfo], None]) -> Intake:
        """The same intake, which tells of every picture that it has checked."""
        return Intake(self._fetcher, work=self._work, limits=self._limits, on_checked=on_checked)

    async def sources(
        self, body: httpbody_pb2.HttpBody, *, max_images: int, fields: Sequence[str] = FILE_FIELDS
    ) -> list[Source]:
        """The pictures that a body holds or names, in its order; nothing is fetched yet. See `parse`."""
        return await self._work.run(
            parse,
            body.content_type,
            body.data,
            max_images=max_images,
            max_bytes=self._limits.max_bytes,
            fields=tuple(fields),
        )

    async def single(self, body: httpbody_pb2.HttpBody, *, fields: Sequence[str] = FILE_FIELDS) -> Upload:
        """The one picture of a body, fetched if it is given by URL; not yet checked.

        Raises:
            InvalidInput: see `parse`; TOO_MANY_IMAGES if there are several, for the client should know that only one
                would have been looked at.
            RejectedUrl: it is given by a URL that cannot or may not be fetched.
        """
        (source,) = await self.sources(body, max_images=1, fields=fields)
        return await self.load(source)

    async def load(self, source: Source) -> Upload:
        """The picture, fetched if need be; not yet checked.

        Raises:
            RejectedUrl: the URL cannot or may not be fetched.
            TooLarge: it has too many bytes.
        """
        if isinstance(source, Upload):
            return source
        return await self._fetch(source.url)

    async def from_source(self, source: analysis_pb2.ImageSource) -> Upload:
        """The picture that a request of the own API holds or names, fetched if need be; not yet checked.

        Raises:
            RejectedUrl: the URL cannot or may not be fetched.
            TooLarge: it has too many bytes.
        """
        found = self.source_of(source)
        upload = await self.load(found)
        # A picture's own name, or where it was found if it was given none.
        return dataclasses.replace(upload, filename=found.filename) if source.filename else upload

    def source_of(self, source: analysis_pb2.ImageSource) -> Source:
        """The picture that a request of the own API holds or names; nothing is fetched yet.

        Raises:
            TooLarge: it has too many bytes.
        """
        if source.WhichOneof("source") == "uri":
            _check_text(source.uri, "uri")
            return Link(url=source.uri, filename=_safe_filename(source.filename or _name_in(source.uri)))
        return _file(source.filename, source.content, len(source.content), max_bytes=self._limits.max_bytes)

    async def check(self, upload: Upload, formats: frozenset[str]) -> ImageInfo:
        """Proves that an upload is a whole picture of one of `formats`, and says what its header says.

        Raises:
            UnsupportedFormat: it is none; in document 002's words where those fit (`_worded`).
            TooLarge, DamagedImage: as `services.common.images.check_image` has them.
            Overloaded: no thread is free to look.
        """
        limits = dataclasses.replace(self._limits, formats=formats)
        try:
            info = await self._work.run(check_image, upload.content, limits)
        except UnsupportedFormat as error:
            raise _worded(error, upload.filename, formats) from error
        if self._on_checked:
            self._on_checked(info)
        return info

    async def _fetch(self, url: str) -> Upload:
        fetched = await self._fetcher.fetch(url, deadline_seconds=time_remaining(math.inf))
        return Upload(filename=_safe_filename(fetched.filename), content=fetched.content)


def _worded(error: UnsupportedFormat, filename: str, formats: frozenset[str]) -> UnsupportedFormat:
    """Words a refusal as document 002 does, where a file extension says it: by content first, then by name.

    A GIF is refused as ".gif" whatever its name; content that is no known format is refused by its name's extension if
    that one is not accepted; anything else keeps its own words (a text called .jpg is no image).
    """
    if error.reason != UnsupportedFormat.default_reason:
        return error
    allowed = [extension for name in _EXTENSIONS if name in formats for extension in _EXTENSIONS[name]]
    extension = _EXTENSION_OF_FORMAT.get(error.metadata.get("format", ""), "")
    if not extension and (found := _EXTENSION.search(filename)):
        extension = found.group().lower()
    if not extension or extension in allowed:
        return error
    return UnsupportedFormat(
        f"File extension {extension} not allowed. Allowed: {', '.join(allowed)}", metadata=error.metadata
    )


def parse(
    content_type: str, data: bytes, *, max_images: int, max_bytes: int, fields: Sequence[str] = FILE_FIELDS
) -> list[Source]:
    """Reads a request's body.

    Args:
        content_type: as declared, parameters included; may be empty.
        data: the body.
        max_images: most pictures.
        max_bytes: longest file.
        fields: names of a form's file field, the preferred first. The first of them that occurs is taken, and any
            file field if none does.

    Returns:
        At least one source, in the body's order.

    Raises:
        InvalidInput: see the module's docstring.
        TooLarge: a file is longer than `max_bytes`.
    """
    # The library reads headers as latin-1 and raises on anything else.
    media_type, parameters = parse_options_header(content_type.encode("latin-1", "replace").decode("latin-1"))
    kind = media_type.decode("latin-1")
    if kind in _UNDECLARED and _JSON_START.match(data):
        kind = "application/json"
    if kind == "multipart/form-data":
        sources = _from_form(data, parameters.get(b"boundary", b""), max_bytes=max_bytes, fields=fields)
    elif kind == "application/json" or kind.endswith("+json"):
        sources = _from_json(data, max_bytes=max_bytes)
    elif kind.startswith("image/") or (kind in _UNDECLARED and _IMAGE_START.match(data)):
        sources = [_file(DEFAULT_FILENAME, data, len(data), max_bytes=max_bytes)]
    elif kind == "application/x-www-form-urlencoded":
        sources = _from_pairs(data, max_bytes=max_bytes)
    elif not data:
        sources = []
    else:
        raise InvalidInput(
            "The request's content type is not understood. Send multipart/form-data with a file, or application/json "
            "with a url.",
            reason="UNSUPPORTED_MEDIA_TYPE",
        )
    if not sources:
        raise InvalidInput(
            f"No picture was sent. Send a file in the form field {fields[0]}, or JSON with a url.",
            reason="MISSING_IMAGE",
            field=fields[0],
        )
    if len(sources) > max_images:
        pictures = "1 picture" if max_images == 1 else f"{max_images} pictures"
        raise InvalidInput(
            f"The request holds {len(sources)} pictures; at most {pictures} can be sent at once.",
            reason="TOO_MANY_IMAGES",
            metadata={"limit": str(max_images), "actual": str(len(sources))},
        )
    return sources


# multipart/form-data


@dataclass(slots=True)
class _Part:
    """One part of a form, while it is read."""

    headers: dict[bytes, bytes] = dataclasses.field(default_factory=dict)
    name: str = ""
    filename: str = ""
    is_file: bool = False
    size: int = 0
    pieces: list[bytes] = dataclasses.field(default_factory=list)

    @property
    def content(self) -> bytes:
        return b"".join(self.pieces)


class _FormReader:
    """Collects the parts of a form, which may come in pieces. Of a part, what exceeds `max_bytes` is only counted."""

    def __init__(self, boundary: bytes, max_bytes: int) -> None:
        self.parts: list[_Part] = []
        self._max_bytes = max_bytes
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._begun = 0
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begin,
                    "on_header_field": self._header_field_data,
                    "on_header_value": self._header_value_data,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._part_data,
                    "on_end": self._end,
                },
                max_header_count=MAX_PART_HEADERS,
                max_header_size=MAX_HEADER_BYTES,
            )
        except FormParserError as error:
            raise _malformed("it is not well-formed multipart/form-data") from error
        if not boundary:
            raise _malformed("the content type names no boundary")

    def read(self, data: bytes) -> list[_Part]:
        """The parts of a whole form, in order."""
        self.feed(data)
        return self.finish()

    def feed(self, data: bytes) -> None:
        """Reads a piece of the form."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _malformed("it is not well-formed multipart/form-data") from error

    def take_whole(self) -> list[_Part]:
        """The parts that are complete by now and were not taken before, in order."""
        whole = self.parts if self._ended else self.parts[:-1]
        self.parts = self.parts[len(whole) :]
        return whole

    def finish(self) -> list[_Part]:
        """The parts that were not taken yet, at the end of the form."""
        if not self._ended:
            raise _malformed("it ends before its last boundary")
        return self.take_whole()

    def _part_begin(self) -> None:
        self._begun += 1
        if self._begun > MAX_PARTS:
            raise InvalidInput(
                f"The form has more than {MAX_PARTS} parts.",
                reason="TOO_MANY_IMAGES",
                metadata={"limit": str(MAX_PARTS)},
            )
        self.parts.append(_Part())

    def _header_field_data(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_value_data(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        self.parts[-1].headers[bytes(self._header_name).lower()] = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _headers_finished(self) -> None:
        part = self.parts[-1]
        _, options = parse_options_header(part.headers.get(b"content-disposition"))
        if b"name" not in options:
            raise _malformed("a part of the form has no name")
        # Browsers send names in UTF-8.
        part.name = options[b"name"].decode("utf-8", "replace")
        part.filename = options.get(b"filename", b"").decode("utf-8", "replace")
        media_type = part.headers.get(b"content-type", b"").strip().lower()
        part.is_file = b"filename" in options or media_type.startswith((b"image/", b"application/octet-stream"))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        part = self.parts[-1]
        part.size += end - start
        if part.size <= self._max_bytes:
            part.pieces.append(data[start:end])
        else:
            part.pieces.clear()

    def _end(self) -> None:
        self._ended = True


def _from_form(data: bytes, boundary: bytes, *, max_bytes: int, fields: Sequence[str]) -> list[Source]:
    # A form whose file was not chosen has a part with neither a name nor content.
    parts = [part for part in _FormReader(boundary, max_bytes).read(data) if part.size or part.filename]
    files = [part for part in parts if part.is_file]
    for field in fields:
        if named := [part for part in files if part.name.removesuffix("[]") == field]:
            files = named
            break
    if files:
        return [_file(part.filename, part.content, part.size, max_bytes=max_bytes) for part in files]
    sources: list[Source] = []
    for part in parts:
        name = part.name.removesuffix("[]")
        if name in (*_TEXT_FIELDS, *_BASE64_FIELDS, *fields):
            if part.size > max_bytes:
                raise _too_large(part.size, max_bytes)
            text = part.content.decode("utf-8", "replace")
            sources.append(_from_text(text, name, "", max_bytes=max_bytes, is_url=name in _TEXT_FIELDS))
    return sources


async def parse_pieces(
    content_type: str, pieces: AsyncIterator[bytes], *, max_images: int, max_bytes: int
) -> AsyncGenerator[Source]:
    """Reads a request's body that comes in pieces: of a form, each picture as soon as it is whole.

    So a form of any number of pictures takes the memory of one. Every file of a form is a picture here, whatever its
    field is called; links may stand beside them. Anything but a form is read as a whole, as `parse` does.

    Args:
        content_type: as declared, parameters included; may be empty.
        pieces: the body.
        max_images: most pictures.
        max_bytes: longest file.

    Raises:
        InvalidInput: see the module's docstring.
        TooLarge: a file is longer than `max_bytes`, or the body than all files and links can be.
    """
    media_type, parameters = parse_options_header(content_type.encode("latin-1", "replace").decode("latin-1"))
    if media_type != b"multipart/form-data":
        body = bytearray()
        # A picture as base64, and links.
        limit = 2 * max_bytes + max_images * MAX_HEADER_BYTES
        async for piece in pieces:
            body += piece
            if len(body) > limit:
                raise _too_large_body(len(body), limit)
        for source in parse(content_type, bytes(body), max_images=max_images, max_bytes=max_bytes):
            yield source
        return
    reader = _FormReader(parameters.get(b"boundary", b""), max_bytes)
    read = 0
    limit = max_images * max_bytes + MAX_PARTS * MAX_HEADER_BYTES
    async for piece in pieces:
        read += len(piece)
        if read > limit:
            raise _too_large_body(read, limit)
        reader.feed(piece)
        for part in reader.take_whole():
            for source in _sources_of(part, max_bytes=max_bytes):
                yield source
    for part in reader.finish():
        for source in _sources_of(part, max_bytes=max_bytes):
            yield source


def _sources_of(part: _Part, *, max_bytes: int) -> list[Source]:
    """The picture in a part of a form, if there is one."""
    if not part.size and not part.filename:
        return []
    if part.is_file:
        return [_file(part.filename, part.content, part.size, max_bytes=max_bytes)]
    name = part.name.removesuffix("[]")
    if name not in (*_TEXT_FIELDS, *_BASE64_FIELDS, *FILE_FIELDS):
        return []
    if part.size > max_bytes:
        raise _too_large(part.size, max_bytes)
    text = part.content.decode("utf-8", "replace")
    return [_from_text(text, name, "", max_bytes=max_bytes, is_url=name in _TEXT_FIELDS)]


# application/json and text


def _from_json(data: bytes, *, max_bytes: int) -> list[Source]:
    try:
        request = json.loads(data)
    except RecursionError as error:
        raise _malformed("its JSON is nested too deeply") from error
    except ValueError as error:
        raise _malformed("it is not well-formed JSON") from error
    if not isinstance(request, dict):
        raise _invalid("The request's JSON must be an object.", "")
    filename = request.get("filename")
    if filename is not None and not isinstance(filename, str):
        raise _invalid("filename must be a string.", "filename")
    sources: list[Source] = []
    for field in (*_TEXT_FIELDS, *_BASE64_FIELDS):
        sources.extend(
            _from_text(value, field, filename or "", max_bytes=max_bytes, is_url=field in _TEXT_FIELDS)
            for value in _strings(request.get(field), field)
        )
    return sources


def _strings(value: Any, field: str) -> list[str]:
    values = value if isinstance(value, list) and field == "urls" else [value]
    if value is None:
        return []
    if not all(isinstance(item, str) and item.strip() for item in values):
        what = "a list of strings" if field == "urls" else "a string"
        raise _invalid(f"{field} must be {what}, and not empty.", field)
    return values


def _from_pairs(data: bytes, *, max_bytes: int) -> list[Source]:
    try:
        pairs = parse_qs(data.decode("utf-8"), max_num_fields=MAX_PARTS)
    except ValueError as error:
        raise _malformed("its form fields cannot be read") from error
    return [
        _from_text(value, field, "", max_bytes=max_bytes, is_url=True)
        for field in _TEXT_FIELDS
        for value in pairs.get(field, [])
    ]


def _from_text(text: str, field: str, filename: str, *, max_bytes: int, is_url: bool) -> Source:
    """A picture as text: a data: URL, a URL, or base64."""
    _check_text(text, field)
    text = text.strip()
    if text[:5].lower() == "data:":
        header, comma, encoded = text[5:].partition(",")
        if not comma:
            raise _invalid(f"{field} is not a whole data: URL.", field)
        if header.rpartition(";")[2].strip().lower() == "base64":
            content = _decode_base64(encoded.encode("utf-8", "replace"), field, max_bytes=max_bytes)
        else:
            content = unquote_to_bytes(encoded)
        return _file(filename or DEFAULT_FILENAME, content, len(content), max_bytes=max_bytes)
    if is_url or text[:8].lower().startswith(("http://", "https://")):
        return Link(url=text, filename=_safe_filename(filename or _name_in(text)))
    content = _decode_base64(text.encode("utf-8", "replace"), field, max_bytes=max_bytes)
    return _file(filename or DEFAULT_FILENAME, content, len(content), max_bytes=max_bytes)


def _check_text(text: str, field: str) -> None:
    """Refuses what no address holds and no database takes: NUL, and halves of characters (JSON can have them)."""
    try:
        text.encode()
        holds_others = "\0" in text
    except UnicodeEncodeError:
        holds_others = True
    if holds_others:
        raise _invalid(f"{field} holds characters that no address or picture has.", field)


def _decode_base64(text: bytes, field: str, *, max_bytes: int | None = None) -> bytes:
    """Decodes base64, in lines or not, of either alphabet; the size is known, and limited, before it is decoded."""
    if re.search(rb"\s", text):
        text = b"".join(text.split())
    if b"-" in text or b"_" in text:
        text = text.translate(bytes.maketrans(b"-_", b"+/"))
    size = len(text.rstrip(b"=")) * 3 // 4
    if max_bytes is not None and size > max_bytes:
        raise _too_large(size, max_bytes)
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _invalid(f"{field} is neither base64 nor a URL.", field) from error


# names, sizes, refusals


def _name_in(url: str) -> str:
    try:
        return unquote(urlsplit(url[:MAX_URL_LENGTH]).path.rpartition("/")[2], errors="replace")
    except ValueError:
        return ""


def _safe_filename(name: str) -> str:
    """The last segment of a name, without whatever a file system, a header or a terminal would take amiss."""
    name = name.replace("\\", "/").rpartition("/")[2]
    if len(name) > MAX_READ_OF_FILENAME:  # of megabytes only the beginning and the extension are looked at
        name = name[: MAX_READ_OF_FILENAME // 2] + name[-MAX_READ_OF_FILENAME // 2 :]
    name = unicodedata.normalize("NFC", name)
    name = "".join(c for c in name if unicodedata.category(c)[0] != "C" and c not in '<>:"|?*').strip(" .")
    if len(name) > MAX_FILENAME_LENGTH:
        found = _EXTENSION.search(name)
        extension = found.group() if found else ""
        name = name[: MAX_FILENAME_LENGTH - len(extension)] + extension
    return name or DEFAULT_FILENAME


def _file(filename: str, content: bytes, size: int, *, max_bytes: int) -> Upload:
    if size > max_bytes:
        raise _too_large(size, max_bytes)
    return Upload(filename=_safe_filename(filename), content=content)


def _too_large(size: int, limit: int) -> TooLarge:
    return TooLarge(
        f"File size {size} bytes exceeds maximum {limit} bytes",
        metadata={"limit": str(limit), "actual": str(size), "unit": "bytes"},
    )


def _too_large_body(size: int, limit: int) -> TooLarge:
    return TooLarge(
        f"Request size of more than {size} bytes exceeds maximum {limit} bytes",
        metadata={"limit": str(limit), "unit": "bytes"},
    )


def _malformed(what: str) -> InvalidInput:
    return InvalidInput(f"The request's body cannot be read: {what}.", reason="MALFORMED_BODY")


def _invalid(message: str, field: str) -> InvalidInput:
    return InvalidInput(message, reason="INVALID_FIELD", field=field or None)
