"""Files are built with known metadata, and must be read, judged no more than weakly, and never crash the reader."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from services.common.convert import struct as to_struct
from services.common.detection import Applicability, Direction, Finding, Strength
from services.common.images import decode_image
from services.passive._metadata import as_json, clean, read_metadata
from services.passive._metadata.iptc import read_iptc
from services.passive._metadata.xmp import read_xmp
from services.passive.detectors.metadata import MIN_CAMERA_SETTINGS, detect_metadata, find_contradictions

CAMERAS = Path(__file__).resolve().parents[4] / "shared" / "data" / "dev" / "camera_jpeg"
FIXTURES = Path(__file__).resolve().parents[4] / "shared" / "fixtures"
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")


def photograph() -> Image.Image:
    return Image.fromarray(skimage.data.coffee()).resize((300, 200))


def camera_exif(width: int = 300, height: int = 200) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Canon", "Canon EOS 5D"
    exif[0x0132] = "2024:05:01 12:00:00"
    details = exif.get_ifd(0x8769)
    details[0x829A], details[0x829D], details[0x8827], details[0x920A] = 1 / 250, 5.6, 200, 50.0
    details[0x9003] = details[0x9004] = "2024:05:01 12:00:00"
    details[0xA002], details[0xA003] = width, height
    return exif


def jpeg(**options) -> bytes:
    buffer = io.BytesIO()
    photograph().save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


def png(texts: dict[str, str] | None = None, **options) -> bytes:
    buffer, info = io.BytesIO(), PngImagePlugin.PngInfo()
    for key, value in (texts or {}).items():
        info.add_text(key, value)
    photograph().save(buffer, "PNG", pnginfo=info, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(kind: bytes, data: bytes) -> bytes:
    plain = png()
    return plain[:33] + chunk(kind, data) + plain[33:]


def xmp(body: str) -> bytes:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f"{body}</rdf:RDF></x:xmpmeta><?xpacket end='w'?>"
    ).encode()


def examine(file: bytes) -> Finding:
    finding = detect_metadata(decode_image(file))
    to_struct(finding.details)  # it can be sent
    return finding


def test_a_cameras_record_is_weak_evidence_for_a_photograph():
    finding = examine(jpeg(exif=camera_exif()))
    assert [(item.direction, item.strength) for item in finding.evidence] == [(Direction.AUTHENTIC, Strength.WEAK)]
    assert "Canon EOS 5D" in finding.evidence[0].finding
    assert finding.score == 0.0
    assert finding.log10_likelihood_ratio is None


def test_no_metadata_is_no_evidence():
    for file in (png(), jpeg()):
        finding = examine(file)
        assert finding.applicability is Applicability.NOT_APPLICABLE
        assert not finding.evidence


def test_a_name_alone_is_no_cameras_record():
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Canon", "Canon EOS 5D"
    assert MIN_CAMERA_SETTINGS > 0
    assert not examine(jpeg(exif=exif)).evidence


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_exif_is_read_from_every_container(image_format):
    buffer = io.BytesIO()
    photograph().save(buffer, image_format, exif=camera_exif())
    read = read_metadata(buffer.getvalue(), image_format)
    assert read.exif.text("Model") == "Canon EOS 5D"
    assert read.exif.number("FNumber") == pytest.approx(5.6)
    assert not read.problems


def contradictions(exif: Image.Exif, packet: bytes = b"") -> set[str]:
    file = jpeg(exif=exif, xmp=packet) if packet else jpeg(exif=exif)
    return {item.about for item in find_contradictions(read_metadata(file, "JPEG"), decode_image(file).info)}


def test_a_record_that_fits_does_not_contradict_itself():
    assert contradictions(camera_exif()) == set()


def test_dimensions_that_are_not_the_pictures_are_told():
    assert contradictions(camera_exif(4000, 3000)) == {"dimensions"}
    assert contradictions(camera_exif(200, 300)) == set()  # turned, not resized


def test_a_change_before_the_exposure_is_told():
    exif = camera_exif()
    exif[0x0132] = "2023:05:01 12:00:00"
    assert contradictions(exif) == {"time"}


def test_gps_of_another_day_is_told_and_another_time_zone_is_not():
    for day, expected in (("2024:05:01", set()), ("2024:06:01", {"time"})):
        exif = camera_exif()
        gps = exif.get_ifd(0x8825)
        gps[0x1D], gps[7] = day, (22.0, 0.0, 0.0)
        assert contradictions(exif) == expected


def test_two_places_and_places_off_the_earth_are_told():
    exif_namespace = 'xmlns:exif="http://ns.adobe.com/exif/1.0/"'
    there = f'<rdf:Description {exif_namespace} exif:GPSLatitude="{{}}" exif:GPSLongitude="2,21.0E"/>'
    for latitude, body, expected in (
        ((48.0, 51.5, 0.0), there.format("48,51.5N"), set()),
        ((48.0, 51.5, 0.0), there.format("40,42.0N"), {"place"}),
        ((148.0, 0.0, 0.0), "", {"place"}),
    ):
        exif = camera_exif()
        gps = exif.get_ifd(0x8825)
        gps[1], gps[2], gps[3], gps[4] = "N", latitude, "E", (2.0, 21.0, 0.0)
        assert contradictions(exif, xmp(body) if body else b"") == expected


def test_two_cameras_are_told():
    body = '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Make="{}"/>'
    assert contradictions(camera_exif(), xmp(body.format("Canon"))) == set()
    assert contradictions(camera_exif(), xmp(body.format("NIKON"))) == {"camera"}
    exif = camera_exif()
    exif.get_ifd(0x8769)[0x927C] = b"Nikon\x00\x02\x10\x00\x00MM\x00*"
    assert contradictions(exif) == {"camera"}


def test_a_contradiction_speaks_for_neither_side():
    finding = examine(jpeg(exif=camera_exif(4000, 3000)))
    assert [(item.direction, item.strength) for item in finding.evidence] == [(Direction.INDETERMINATE, Strength.WEAK)]


def test_software_and_history_are_listed():
    body = (
        '<rdf:Description xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/" '
        'xmlns:stEvt="http://ns.adobe.com/xap/1.0/sType/ResourceEvent#" xmp:CreatorTool="Adobe Photoshop 25.0">'
        '<xmpMM:History><rdf:Seq><rdf:li stEvt:action="created" stEvt:softwareAgent="Adobe Lightroom 7"/>'
        '<rdf:li stEvt:action="saved" stEvt:softwareAgent="Adobe Photoshop 25.0"/></rdf:Seq></xmpMM:History>'
        "</rdf:Description>"
    )
    finding = examine(jpeg(exif=camera_exif(), xmp=xmp(body)))
    assert finding.details["software"] == ["Adobe Photoshop 25.0", "Adobe Lightroom 7"]
    assert [event["action"] for event in finding.details["history"]] == ["created", "saved"]
    assert "Photoshop" in finding.explanation


def test_iptc_comments_and_structure_are_read():
    record = b"".join(b"\x1c\x02" + bytes([n]) + struct.pack(">H", len(t)) + t for n, t in ((80, b"Jo"), (110, b"PA")))
    irb = b"8BIM\x04\x04\x00\x00" + struct.pack(">I", len(record)) + record + b"\x00" * (len(record) & 1)
    assert read_iptc(irb) == (("By-line", "Jo"), ("Credit", "PA"))
    finding = examine(jpeg(comment="made by hand"))
    assert finding.details["comments"] == ["made by hand"]
    assert finding.details["structure"][-1] == "SOS"
    assert examine(png({"Author": "Jo"}) + b"behind").details["trailing_bytes"] == 6


# --- Hostile files ---


def test_shown_text_is_bounded_and_has_no_control_characters():
    shown = clean("a\x00b\x1b[31m\u202ec\n\ud800" + "x" * 10_000)
    assert shown.startswith("ab[31mc x")
    assert len(shown) == 240
    assert clean(b"\xff\xfe\x80abc").endswith("abc")
    assert as_json({"a": [1, 2**100, 10**10_000, float("nan"), b"123", {"b": {"c": {"d": {"e": {"f": {}}}}}}]})


def test_entities_are_not_expanded_and_nothing_is_fetched():
    lol = '<!DOCTYPE l [<!ENTITY a "ha">' + "".join(
        f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9)
    ) + "]>"  # fmt: skip
    read = read_xmp((lol + "<x>&j;</x>").encode())
    assert not read.properties
    assert "document type" in read.problem
    external = b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>'
    assert not read_xmp(external).properties


def test_deep_and_endless_packets_are_cut():
    assert "deeply" in read_xmp(xmp("<a>" * 500 + "</a>" * 500)).problem
    many = "".join(f"<rdf:Description a:b{i}='x' xmlns:a='urn:a'/>" for i in range(6_000))
    assert "too many" in read_xmp(xmp(many)).problem


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_a_zip_bomb_in_a_text_is_inflated_no_further_than_its_bound(kind):
    bomb = zlib.compress(bytes(200_000_000), 9)
    head = b"Comment\x00\x00" if kind == b"zTXt" else b"Comment\x00\x01\x00\x00\x00"
    file = with_chunk(kind, head + bomb)
    read = read_metadata(file, "PNG")
    assert len(read.texts[0][1]) <= 4 * 1024 * 1024
    assert any("too long" in problem for problem in read.problems)
    examine(file)


def test_a_broken_text_is_told():
    read = read_metadata(with_chunk(b"zTXt", b"Comment\x00\x00nonsense"), "PNG")
    assert any("broken" in problem for problem in read.problems)


def test_directories_that_point_at_themselves_end():
    entry = struct.pack("<HHII", 0x8769, 4, 1, 8)
    tiff = b"II*\x00" + struct.pack("<I", 8) + struct.pack("<H", 1) + entry + struct.pack("<I", 8)
    body = b"Exif\x00\x00" + tiff
    file = jpeg()
    read = read_metadata(file[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + file[2:], "JPEG")
    assert read.problems


def test_huge_counts_take_no_time():
    entries = b"".join(struct.pack("<HHII", 0x9286, 7, 0x7FFFFFFF, 8) for _ in range(5_000))
    tiff = b"II*\x00" + struct.pack("<IH", 8, 65_535) + entries
    read_metadata(png()[:33] + chunk(b"eXIf", tiff) + png()[33:], "PNG")


VALID = [
    jpeg(exif=camera_exif(), xmp=xmp("<rdf:Description a:b='c' xmlns:a='urn:a'/>"), comment="x"),
    with_chunk(b"iTXt", b"XML:com.adobe.xmp\x00\x00\x00\x00\x00" + xmp("<a>b</a>")),
    png({"parameters": "a\nSteps: 20, Sampler: Euler, Seed: 1"}),
]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(VALID), st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 255)), max_size=30), st.data())
def test_no_damage_to_the_header_makes_the_reader_raise(file, changes, data):
    damaged = bytearray(file)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    end = data.draw(st.integers(1, len(damaged)))
    for image_format in FORMATS:
        read_metadata(bytes(damaged[:end]), image_format)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600))
def test_no_bytes_make_the_readers_raise(body):
    file = jpeg()
    for header in (b"Exif\x00\x00", b"Exif\x00\x00II*\x00\x08\x00\x00\x00", b"http://ns.adobe.com/xap/1.0/\x00"):
        part = header + body
        segment = b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part
        examine(file[:2] + segment + file[2:])
    read_iptc(b"8BIM\x04\x04\x00\x00" + body)
    read_xmp(xmp(body.decode("latin-1")))
    for image_format in FORMATS:
        read_metadata(body, image_format)


def test_odd_pictures_do_not_crash():
    for image in (
        Image.new("L", (1, 1)),
        Image.new("CMYK", (8, 8)),
        Image.new("RGB", (1, 900)),
        Image.fromarray(np.zeros((8, 8), np.uint8)),
    ):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG")
        assert examine(buffer.getvalue()).applicability is Applicability.NOT_APPLICABLE


@pytest.mark.skipif(not CAMERAS.is_dir(), reason="the evaluation data is not here")
def test_every_camera_file_is_read_and_none_accused():
    files = sorted(CAMERAS.iterdir())
    named = 0
    for path in files:
        finding = examine(path.read_bytes())
        assert finding.applicability is Applicability.APPLIED, path.name
        named += bool(finding.details["exif"]["IFD0"].get("Make"))
        assert all(item.direction is not Direction.AI_GENERATED for item in finding.evidence), path.name
        assert all(item.strength is Strength.WEAK for item in finding.evidence), path.name
    assert named == len(files)


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the fixtures of other projects are not here")
def test_no_fixture_crashes_it():
    for path in FIXTURES.rglob("*.*"):
        if path.suffix in {".png", ".jpg", ".webp"}:
            examine(path.read_bytes())
