"""What clients send, well-meant and hostile, and what the intake makes of it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from google.api import httpbody_pb2
from hypothesis import given
from hypothesis import strategies as st
from pentimento.orchestrator.v1 import analysis_pb2
from PIL import Image

from services.common.errors import (
    DamagedImage,
    InvalidInput,
    Overloaded,
    RejectedUrl,
    TooLarge,
    UnsupportedFormat,
)
from services.common.images import ImageLimits
from services.common.limiter import WorkLimiter
from services.orchestrator.fetching import FetchedImage
from services.orchestrator.intake import Intake, Link, Source, Upload, parse

LIMIT = 10 * 1024 * 1024
FORM = "multipart/form-data; boundary=XbX"
JSON = "application/json"
SCREENING = frozenset({"JPEG", "PNG", "WEBP"})


def read(content_type: str, data: bytes, *, max_images: int = 50, **options: Any) -> list[Source]:
    return parse(content_type, data, max_images=max_images, max_bytes=LIMIT, **options)


def part(disposition: str, content: bytes = b"x", more: str = "") -> bytes:
    return f"--XbX\r\nContent-Disposition: form-data; {disposition}\r\n{more}\r\n".encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--XbX--\r\n"


def picture(image_format: str = "JPEG", size: tuple[int, int] = (32, 32)) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 60).save(buffer, image_format)
    return buffer.getvalue()


# What is taken


def test_form_with_a_file() -> None:
    content = bytes(range(256)) * 100
    assert read(FORM, form(part('name="file"; filename="a.jpg"', content))) == [Upload("a.jpg", content)]


@pytest.mark.parametrize("boundary", ['"XbX"', "XbX; charset=utf-8", "XbX"])
def test_boundary_quoted_or_followed_by_parameters(boundary: str) -> None:
    assert read(f"multipart/form-data; boundary={boundary}", form(part('name="file"; filename="a"')))


@pytest.mark.parametrize("more", ["Content-Type: image/jpeg\r\n", "Content-Type: application/octet-stream\r\n"])
def test_file_without_a_name(more: str) -> None:
    assert read(FORM, form(part('name="file"', b"\xff\xd8", more))) == [Upload("image", b"\xff\xd8")]


def test_the_documented_field_is_preferred_and_any_other_taken() -> None:
    body = form(
        part('name="thumbnail"; filename="t.jpg"', b"t"),
        part('name="image"; filename="i.jpg"', b"i"),
        part('name="file"; filename="f.jpg"', b"f"),
    )
    assert read(FORM, body) == [Upload("f.jpg", b"f")]
    assert read(FORM, body, fields=("image", "file")) == [Upload("i.jpg", b"i")]
    assert read(FORM, body, fields=("picture",)) == [
        Upload("t.jpg", b"t"),
        Upload("i.jpg", b"i"),
        Upload("f.jpg", b"f"),
    ]


def test_several_files_in_one_field() -> None:
    body = form(*(part(f'name="files"; filename="{name}.jpg"') for name in "abc"))
    assert [source.filename for source in read(FORM, body)] == ["a.jpg", "b.jpg", "c.jpg"]


@pytest.mark.parametrize("field", ["url", "urls", "urls[]"])
def test_url_in_a_form(field: str) -> None:
    body = form(part(f'name="{field}"', b"https://example.org/a/cat.jpg?x=1"))
    assert read(FORM, body) == [Link("https://example.org/a/cat.jpg?x=1", "cat.jpg")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"url": "https://example.org/cat.jpg"}, [Link("https://example.org/cat.jpg", "cat.jpg")]),
        ({"url": "https://example.org/cat.jpg", "filename": "x.png"}, [Link("https://example.org/cat.jpg", "x.png")]),
        (
            {"urls": ["http://a.org/1.jpg", "http://b.org/"]},
            [Link("http://a.org/1.jpg", "1.jpg"), Link("http://b.org/", "image")],
        ),
        ({"urls": "http://a.org/1.jpg"}, [Link("http://a.org/1.jpg", "1.jpg")]),
        ({"url": "http://[broken"}, [Link("http://[broken", "image")]),
        ({"image": base64.b64encode(b"\xff\xd8\xff\xfe").decode()}, [Upload("image", b"\xff\xd8\xff\xfe")]),
        (
            {"content": base64.urlsafe_b64encode(b"\xff\xef\xfe").decode().rstrip("=")},
            [Upload("image", b"\xff\xef\xfe")],
        ),
        ({"image": "data:image/png;base64,/9j/", "filename": "a.png"}, [Upload("a.png", b"\xff\xd8\xff")]),
        ({"url": "data:image/png;base64,/9j/"}, [Upload("image", b"\xff\xd8\xff")]),
        ({"url": "data:,a%20b"}, [Upload("image", b"a b")]),
        ({"image": "https://example.org/cat.jpg"}, [Link("https://example.org/cat.jpg", "cat.jpg")]),
    ],
)
def test_json(value: Any, expected: list[Source]) -> None:
    assert read(JSON, json.dumps(value).encode()) == expected


@pytest.mark.parametrize("content_type", ["", "application/x-www-form-urlencoded", "application/json; charset=utf-8"])
def test_json_whatever_curl_declares(content_type: str) -> None:
    assert read(content_type, b' {"url": "http://a.org/1.jpg"}') == [Link("http://a.org/1.jpg", "1.jpg")]


def test_pairs() -> None:
    body = b"url=http%3A%2F%2Fa.org%2F1.jpg&x=y"
    assert read("application/x-www-form-urlencoded", body) == [Link("http://a.org/1.jpg", "1.jpg")]


@pytest.mark.parametrize("content_type", ["image/jpeg", "image/x-whatever", "", "application/octet-stream"])
def test_raw_body(content_type: str) -> None:
    content = picture()
    assert read(content_type, content) == [Upload("image", content)]


@pytest.mark.parametrize(
    ("given_name", "name"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\cat.jpg", "cat.jpg"),
        ("bilder/grün.jpg", "grün.jpg"),
        ("a\u202egpj.exe", "agpj.exe"),
        ("..", "image"),
        ("x" * 400 + ".jpg", "x" * 196 + ".jpg"),
        ("<script>.jpg", "script.jpg"),
    ],
)
def test_names_are_made_safe(given_name: str, name: str) -> None:
    (source,) = read(FORM, form(part(f'name="file"; filename="{given_name}"')))
    assert source.filename == name


# What is refused

HOSTILE: list[tuple[str, str, bytes, str]] = [
    ("no boundary", "multipart/form-data", form(part('name="file"; filename="a"')), "MALFORMED_BODY"),
    ("empty boundary", "multipart/form-data; boundary=", b"x", "MALFORMED_BODY"),
    ("endless boundary", f"multipart/form-data; boundary={'b' * 5000}", b"x", "MALFORMED_BODY"),
    ("other boundary", "multipart/form-data; boundary=YYY", form(part('name="file"; filename="a"')), "MALFORMED_BODY"),
    ("cut off", FORM, part('name="file"; filename="a"', b"x" * 1000)[:-20], "MALFORMED_BODY"),
    ("cut off in the headers", FORM, part('name="file"')[:20], "MALFORMED_BODY"),
    ("no end", FORM, part('name="file"; filename="a"'), "MALFORMED_BODY"),
    ("empty form", FORM, b"", "MALFORMED_BODY"),
    ("form without parts", FORM, b"--XbX--\r\n", "MISSING_IMAGE"),
    ("no disposition", FORM, b"--XbX\r\nX: y\r\n\r\nx\r\n--XbX--\r\n", "MALFORMED_BODY"),
    ("part without a name", FORM, form(part('filename="a"')), "MALFORMED_BODY"),
    ("huge header", FORM, form(part(f'name="file"; filename="{"x" * 100_000}"')), "MALFORMED_BODY"),
    ("many headers", FORM, form(part('name="file"', b"x", "A: b\r\n" * 1000)), "MALFORMED_BODY"),
    ("10,000 parts", FORM, form(*[part('name="files"; filename="a"')] * 10_000), "TOO_MANY_IMAGES"),
    ("10,000 empty parts", FORM, form(*[part('name="x"', b"")] * 10_000), "TOO_MANY_IMAGES"),
    ("no file chosen", FORM, form(part('name="file"; filename=""', b"")), "MISSING_IMAGE"),
    ("other fields only", FORM, form(part('name="comment"', b"hello")), "MISSING_IMAGE"),
    ("garbage for a file", FORM, form(part('name="file"', b"\x00\x01garbage!")), "INVALID_FIELD"),
    ("zero bytes", "", b"", "MISSING_IMAGE"),
    ("zero bytes of JSON", JSON, b"", "MALFORMED_BODY"),
    ("bad JSON", JSON, b'{"url": ', "MALFORMED_BODY"),
    ("JSON that is not UTF-8", JSON, b'{"url": "\xff"}', "MALFORMED_BODY"),
    ("deep JSON", JSON, b"[" * 200_000, "MALFORMED_BODY"),
    ("long number", JSON, b'{"url": ' + b"9" * 10_000 + b"}", "MALFORMED_BODY"),
    ("JSON list", JSON, b"[]", "INVALID_FIELD"),
    ("JSON null", JSON, b"null", "INVALID_FIELD"),
    ("JSON without url", JSON, b"{}", "MISSING_IMAGE"),
    ("url null", JSON, b'{"url": null}', "MISSING_IMAGE"),
    ("url number", JSON, b'{"url": 5}', "INVALID_FIELD"),
    ("url empty", JSON, b'{"url": " "}', "INVALID_FIELD"),
    ("url list", JSON, b'{"url": ["http://a.org/b"]}', "INVALID_FIELD"),
    ("urls of numbers", JSON, b'{"urls": ["http://a.org/b", 5]}', "INVALID_FIELD"),
    ("no urls", JSON, b'{"urls": []}', "MISSING_IMAGE"),
    ("51 urls", JSON, json.dumps({"urls": ["http://a.org/b"] * 51}).encode(), "TOO_MANY_IMAGES"),
    ("base64 garbage", JSON, b'{"image": "!!!! no base64"}', "INVALID_FIELD"),
    ("base64 of one letter", JSON, b'{"image": "A"}', "INVALID_FIELD"),
    ("surrogate", JSON, b'{"image": "\\ud800"}', "INVALID_FIELD"),
    ("surrogate in a url", JSON, b'{"urls": ["http://a.org/\\ud800"]}', "INVALID_FIELD"),
    ("NUL in a url", JSON, b'{"url": "http://a.org/\\u0000"}', "INVALID_FIELD"),
    ("half a data: URL", JSON, b'{"image": "data:image/png;base64"}', "INVALID_FIELD"),
    ("filename number", JSON, b'{"url": "http://a.org/b", "filename": 5}', "INVALID_FIELD"),
    ("many pairs", "application/x-www-form-urlencoded", b"a=b&" * 10_000, "MALFORMED_BODY"),
    ("unknown type", "application/pdf", b"%PDF-1.4", "UNSUPPORTED_MEDIA_TYPE"),
    ("unknown text", "text/plain", b"hello", "UNSUPPORTED_MEDIA_TYPE"),
    ("no type, no picture", "", b"hello", "UNSUPPORTED_MEDIA_TYPE"),
    ("not a type", ";;;=", b"hello", "UNSUPPORTED_MEDIA_TYPE"),
]


@pytest.mark.parametrize(
    ("content_type", "data", "reason"), [case[1:] for case in HOSTILE], ids=[c[0] for c in HOSTILE]
)
def test_hostile_bodies(content_type: str, data: bytes, reason: str) -> None:
    started = time.perf_counter()
    with pytest.raises(InvalidInput) as refused:
        read(content_type, data)
    assert refused.value.reason == reason
    assert time.perf_counter() - started < 20  # minutes, where something is quadratic


def test_json_that_is_too_deep_is_called_so() -> None:
    with pytest.raises(InvalidInput, match="nested too deeply"):
        read(JSON, b'{"url": ' * 50_000 + b"1" + b"}" * 50_000)


def test_one_picture_where_one_is_taken() -> None:
    body = form(part('name="file"; filename="a"'), part('name="file"; filename="b"'))
    with pytest.raises(InvalidInput, match="holds 2 pictures; at most 1 picture") as refused:
        read(FORM, body, max_images=1)
    assert refused.value.reason == "TOO_MANY_IMAGES"


@pytest.mark.parametrize(
    ("content_type", "wrap"),
    [
        (FORM, lambda content: form(part('name="file"; filename="a.jpg"', content))),
        (JSON, lambda content: json.dumps({"image": base64.b64encode(content).decode()}).encode()),
        ("image/jpeg", lambda content: content),
    ],
)
def test_too_many_bytes(content_type: str, wrap: Any) -> None:
    """In the words of document 002, line 334."""
    with pytest.raises(TooLarge, match=r"^File size 12582912 bytes exceeds maximum 10485760 bytes$") as refused:
        read(content_type, wrap(bytes(12582912)))
    assert refused.value.metadata == {"limit": "10485760", "actual": "12582912", "unit": "bytes"}
    assert len(read(content_type, wrap(bytes(LIMIT)))) == 1


@given(content_type=st.sampled_from([FORM, JSON, "", "image/png", "a/b"]) | st.text(), data=st.binary())
def test_whatever_is_sent_is_taken_or_refused(content_type: str, data: bytes) -> None:
    for body in (data, b"--XbX\r\n" + data, form(part('name="file"; filename="a"', data))):
        with contextlib.suppress(InvalidInput):
            assert read(content_type, body)


# What is fetched and checked


class Fetcher:
    """Answers for the URL fetcher, which has tests of its own."""

    async def fetch(self, url: str, *, deadline_seconds: float | None = None) -> FetchedImage:
        if "gone" in url:
            raise RejectedUrl("There is no picture at the URL.", reason="IMAGE_NOT_FOUND")
        return FetchedImage(content=picture(), filename="fetched.jpg", content_type="image/jpeg")


@pytest_asyncio.fixture
async def intake() -> AsyncIterator[Intake]:
    work = WorkLimiter(workers=1, queue=1)
    yield Intake(Fetcher(), work=work, limits=ImageLimits())
    work.close()


async def test_single_and_load(intake: Intake) -> None:
    body = httpbody_pb2.HttpBody(content_type=JSON, data=b'{"url": "http://a.org/1.jpg"}')
    assert (await intake.single(body)).filename == "fetched.jpg"
    with pytest.raises(RejectedUrl):
        await intake.load(Link("http://a.org/gone", "gone"))


async def test_sources_of_the_own_api(intake: Intake) -> None:
    source = analysis_pb2.ImageSource
    assert await intake.from_source(source(content=b"x", filename="../a.jpg")) == Upload("a.jpg", b"x")
    assert await intake.from_source(source(content=b"x")) == Upload("image", b"x")
    assert (await intake.from_source(source(uri="http://a.org/1.jpg"))).filename == "fetched.jpg"
    assert (await intake.from_source(source(uri="http://a.org/1.jpg", filename="b.jpg"))).filename == "b.jpg"


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
async def test_check_takes(intake: Intake, image_format: str) -> None:
    info = await intake.check(Upload("whatever.gif", picture(image_format)), SCREENING)
    assert (info.format, info.width, info.height) == (image_format, 32, 32)


async def test_check_takes_a_gif_where_the_api_does(intake: Intake) -> None:
    assert (await intake.check(Upload("a.gif", picture("GIF")), SCREENING | {"GIF"})).format == "GIF"


@pytest.mark.parametrize(
    ("upload", "kind", "message"),
    [
        (
            Upload("a.gif", picture("GIF")),
            UnsupportedFormat,
            "File extension .gif not allowed. Allowed: .jpg, .jpeg, .png, .webp",
        ),
        (
            Upload("a.jpg", picture("GIF")),
            UnsupportedFormat,
            "File extension .gif not allowed. Allowed: .jpg, .jpeg, .png, .webp",
        ),
        (
            Upload("a.TIF", b"no picture"),
            UnsupportedFormat,
            "File extension .tif not allowed. Allowed: .jpg, .jpeg, .png, .webp",
        ),
        (Upload("a.jpg", b"no picture"), UnsupportedFormat, "The content is not an image"),
        (Upload("a", b"no picture"), UnsupportedFormat, "The content is not an image"),
        (Upload("a.gif", b""), UnsupportedFormat, "The file is empty."),
        (Upload("a.jpg", picture(size=(256, 256))[:-9000]), DamagedImage, "damaged or incomplete"),
    ],
)
async def test_check_refuses(intake: Intake, upload: Upload, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message.replace(".", r"\.")):
        await intake.check(upload, SCREENING)


async def test_check_is_bounded(intake: Intake) -> None:
    upload = Upload("a.jpg", picture(size=(512, 512)))
    results = await asyncio.gather(*(intake.check(upload, SCREENING) for _ in range(20)), return_exceptions=True)
    assert any(isinstance(result, Overloaded) for result in results)
    assert not any(isinstance(result, Exception) and not isinstance(result, Overloaded) for result in results)


@pytest.mark.parametrize("letter", ["a", "\u0301", "/", "\x07", "%61"])
def test_of_a_name_of_megabytes_the_extension_is_kept(letter):
    name = letter * 5_000_000 + "b.jpg"
    (source,) = read(JSON, json.dumps({"image": "/9j/", "filename": name}).encode())
    assert len(source.filename) <= 200
    assert source.filename.endswith(".jpg")
    (link,) = read(JSON, json.dumps({"url": f"https://example.org/{name}"}).encode())
    assert len(link.filename) <= 200
