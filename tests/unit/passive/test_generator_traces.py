"""Files are made as generators make them, and must be told; their pristine twins must not."""

from __future__ import annotations

import gzip
import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from services.common.convert import struct as to_struct
from services.common.detection import Direction, Evidence, Finding, Strength
from services.common.images import Picture, decode_image
from services.orchestrator.policy import Decision, EvidenceItem, GeneratedInput, Policy, decide_generated
from services.passive.detectors.generator_traces import detect_generator_traces, read_stealth

SHARED = Path(__file__).resolve().parents[4] / "shared"
FIXTURES = SHARED / "fixtures" / "ai_metadata"
CAMERAS = SHARED / "data" / "dev" / "camera_jpeg"
PRISTINE = SHARED / "data" / "train" / "pristine" / "bsds500"

A1111 = (
    "a castle in the fog\nNegative prompt: blurry\n"
    "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1234567890123, Size: 512x512, Model hash: abc, Model: sd15"
)
PROMPT = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 20}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a castle in the fog"}},
}
WORKFLOW = {"last_node_id": 6, "links": [], "nodes": [{"id": 3, "type": "KSampler"}]}
NOVELAI = {"steps": 28, "sampler": "k_euler", "seed": 7, "scale": 5.0, "uc": "lowres"}


def photograph() -> Image.Image:
    return Image.fromarray(skimage.data.coffee()).resize((240, 160))


def png(texts: dict[str, str], image: Image.Image | None = None) -> bytes:
    buffer, info = io.BytesIO(), PngImagePlugin.PngInfo()
    for key, value in texts.items():
        info.add_itxt(key, value) if not value.isascii() else info.add_text(key, value, zip=len(value) > 500)
    (image or photograph()).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def jpeg(image_format: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    photograph().save(buffer, image_format, **options)
    return buffer.getvalue()


def user_comment(text: str) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\x00" + text.encode("utf-16-be")
    return jpeg(exif=exif)


def exif(tag: int, text: str, image_format: str = "JPEG") -> bytes:
    block = Image.Exif()
    block[tag] = text
    return jpeg(image_format, exif=block)


def xmp(attributes: str = "", body: str = "") -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        ' xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" xmlns:T="http://www.tc260.org.cn/ns/AIGC/1.0/" '
        f"{attributes}>{body}</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def source_type(kind: str) -> bytes:
    return xmp(f'e:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/{kind}"')


def hide(text: bytes, *, alpha: bool, packed: bool) -> bytes:
    """A PNG with a text in its lowest bits, as NovelAI and the stealth extension of WebUI write it."""
    mark = b"stealth_" + (b"png" if alpha else b"rgb") + (b"comp" if packed else b"info")
    body = gzip.compress(text) if packed else text
    bits = np.unpackbits(np.frombuffer(mark + struct.pack(">I", 8 * len(body)) + body, np.uint8))
    pixels = np.dstack([np.asarray(photograph()), np.full((160, 240), 254, np.uint8)])
    plane = pixels[..., 3:] if alpha else pixels[..., :3]
    columns = np.swapaxes(plane, 0, 1).reshape(-1).copy()
    columns[: len(bits)] = columns[: len(bits)] & 0xFE | bits
    turned = np.swapaxes(columns.reshape(240, 160, -1), 0, 1)
    if alpha:
        pixels[..., 3:] = turned
        return png({}, Image.fromarray(pixels))
    return png({}, Image.fromarray(np.ascontiguousarray(turned)))


def examine(file: bytes) -> Finding:
    finding = detect_generator_traces(decode_image(file))
    to_struct(finding.details)
    return finding


def only(finding: Finding) -> Evidence:
    (piece,) = finding.evidence
    assert piece.direction is Direction.AI_GENERATED
    assert finding.log10_likelihood_ratio is None
    return piece


STRONG: dict[str, tuple[bytes, str]] = {
    "webui": (png({"parameters": A1111}), "WebUI"),
    "webui with umlauts": (png({"parameters": "Nebel über 城\n" + A1111}), "WebUI"),
    "webui jpeg": (user_comment(A1111), "WebUI"),
    "webui comment": (jpeg(comment=A1111), "WebUI"),
    "comfyui prompt": (png({"prompt": json.dumps(PROMPT)}), "ComfyUI"),
    "comfyui workflow": (png({"workflow": json.dumps(WORKFLOW)}), "ComfyUI"),
    "comfyui webp": (exif(0x0110, "prompt:" + json.dumps(PROMPT), "WEBP"), "ComfyUI"),
    "invokeai 3": (png({"invokeai_metadata": json.dumps({"app_version": "4.0", "seed": 1})}), "InvokeAI"),
    "invokeai 2": (png({"sd-metadata": json.dumps({"app_id": "invoke-ai/InvokeAI"})}), "InvokeAI"),
    "invokeai 1": (png({"Dream": '"a castle" -s 50 -S 12345 -W 512 -H 512 -C 7.5 -A k_lms'}), "InvokeAI"),
    "fooocus": (png({"parameters": json.dumps({"base_model": "x", "full_prompt": ["y"]})}), "Fooocus"),
    "swarmui": (png({"parameters": json.dumps({"sui_image_params": {"prompt": "x"}})}), "SwarmUI"),
    "novelai": (png({"Software": "NovelAI", "Comment": json.dumps(NOVELAI)}), "NovelAI"),
    "novelai hidden": (hide(json.dumps({"Comment": json.dumps(NOVELAI)}).encode(), alpha=True, packed=True), "NovelAI"),
    "webui hidden": (hide(A1111.encode(), alpha=True, packed=False), "WebUI"),
    "webui hidden in colour": (hide(A1111.encode(), alpha=False, packed=True), "WebUI"),
    "midjourney": (
        png({"Description": "a castle --v 6 Job ID: 01234567-89ab-cdef-0123-456789abcdef", "Author": "x"}),
        "Midjourney",
    ),
    "dall-e": (png({"Software": "DALL·E 3"}), "DALL-E"),
    "openai": (exif(0x0131, "OpenAI ChatGPT"), "OpenAI"),
    "firefly": (jpeg(xmp=xmp('xmp:CreatorTool="Adobe Firefly 2.0"')), "Firefly"),
    "google": (jpeg(xmp=xmp('photoshop:Credit="Made with Google AI"')), "Google"),
    "digital source type": (jpeg(xmp=source_type("trainedAlgorithmicMedia")), "a generator"),
    "source type, broken xml": (jpeg(xmp=source_type("trainedAlgorithmicMedia")[:-20] + b"&&&"), "a generator"),
    "iptc 2025": (jpeg(xmp=xmp('e:AISystemUsed="Flux Pro"')), "Flux Pro"),
    "aigc": (
        jpeg(xmp=xmp("T:AIGC='{&quot;Label&quot;:&quot;1&quot;,&quot;ContentProducer&quot;:&quot;X&quot;}'")),
        "label",
    ),
    "aigc comment": (user_comment('{"AIGC":{"Label":"1","ContentProducer":"X","ProduceID":"1"}}'), "label"),
    "aigc text": (png({"AIGC": '{"Label":"1"}'}), "label"),
}

MODERATE: dict[str, bytes] = {
    "composite": jpeg(xmp=source_type("compositeWithTrainedAlgorithmicMedia")),
    "edited": jpeg(xmp=xmp('photoshop:Credit="Edited with Google AI"')),
    "possibly": png({"AIGC": '{"Label":"2"}'}),
    "a workflow that only enlarges": png(
        {"prompt": json.dumps({"1": {"class_type": "LoadImage"}, "2": {"class_type": "ImageUpscaleWithModel"}})}
    ),
}

HONEST: dict[str, bytes] = {
    "nothing": jpeg(),
    "nothing, png": png({}),
    "capture": jpeg(xmp=source_type("digitalCapture")),
    "formula": jpeg(xmp=source_type("algorithmicMedia")),
    "photoshop": exif(0x0131, "Adobe Photoshop 25.0"),
    "gimp": png({"Software": "GIMP 2.10", "Comment": "Created with GIMP"}),
    "steps": png({"Description": "Steps: from the church to the sea, 200 of them. Seed: sunflower"}),
    "a prompt": png({"prompt": "please rotate", "workflow": "scan, then file"}),
    "other json": png({"Comment": json.dumps({"steps": 3, "author": "Jo"})}),
    "gemini program": exif(0x0110, "Gemini11H"),
    "title": png({"Title": "Midjourney, a critique", "Description": "A photograph of the OpenAI offices"}),
    "dream": png({"Dream": "I dreamt of a castle -sometimes- and of Sundays"}),
    "aigc no": png({"AIGC": '{"Label":"0"}', "Note": "AIGC: {nonsense}"}),
}


@pytest.mark.parametrize("name", STRONG)
def test_a_generators_trace_is_strong_evidence(name: str):
    file, generator = STRONG[name]
    finding = examine(file)
    piece = only(finding)
    assert piece.strength is Strength.STRONG
    assert finding.score == 1.0
    assert generator in piece.finding


@pytest.mark.parametrize("name", MODERATE)
def test_generated_parts_are_moderate_evidence(name: str):
    finding = examine(MODERATE[name])
    assert only(finding).strength is Strength.MODERATE
    assert finding.score == 0.5


@pytest.mark.parametrize("name", HONEST)
def test_the_pristine_twin_is_left_alone(name: str):
    finding = examine(HONEST[name])
    assert finding.score == 0.0
    assert not finding.evidence
    assert "proves nothing" in finding.explanation


def test_traces_of_one_file_are_one_piece_of_evidence():
    finding = examine(png({"Software": "NovelAI", "Comment": json.dumps(NOVELAI), "Title": "AI generated image"}))
    assert len(finding.details["traces"]) == 3
    assert only(finding).details["traces"] == 3


def test_the_settings_are_read():
    traces = examine(png({"parameters": A1111})).details["traces"]
    read = traces[0]["settings"]
    assert read["Seed"] == "1234567890123"
    assert read["Model"] == "sd15"
    assert read["prompt"] == "a castle in the fog"
    assert read["negative_prompt"] == "blurry"


def test_a_comfyui_picture_comes_out_suspicious():
    piece = only(examine(png({"prompt": json.dumps(PROMPT)})))
    item = EvidenceItem(direction=piece.direction, strength=piece.strength, finding=piece.finding, source=piece.source)
    assert decide_generated(GeneratedInput(evidence=[item]), Policy()).decision is Decision.SUSPICIOUS_AI_LIKELY


def test_shown_text_is_clean():
    nasty = "\x1b[2J\u202e<script>" + "x" * 5_000 + "\n"
    finding = examine(png({"parameters": nasty + A1111}))
    assert "\x1b" not in json.dumps(finding.details, ensure_ascii=False)
    assert "\u202e" not in json.dumps(finding.details, ensure_ascii=False)
    assert len(json.dumps(finding.details)) < 4_000


def test_a_stealth_bomb_is_unpacked_no_further_than_its_bound():
    finding = examine(hide(bytes(3_000_000), alpha=True, packed=True))
    assert len(json.dumps(finding.details)) < 4_000


def test_deep_json_does_not_exhaust_the_stack():
    for text in ("[" * 200_000, '{"a":' * 100_000, '{"nodes":[' + "{}," * 10 + "null]}", "{" + '"a":1e999' + "}"):
        assert not examine(png({"prompt": text, "workflow": text, "Comment": text})).evidence


@pytest.mark.parametrize(
    "text",
    [
        "\n" * 400_000,
        "\nSteps: 1, " * 60_000,
        '"' * 300_000 + " -s 1",
        '" ' + "-s 1 " * 100_000,
        "AIGC:{" * 100_000,
        "Stable " * 100_000,
        "digitalsourcetype/" * 50_000,
        "Job ID: " * 50_000,
        '{"a":[' + "[]," * 200_000 + "[]]}",
        json.dumps({str(i): {"class_type": "x" * 50} for i in range(8_000)}),
    ],
    ids=["lines", "steps", "quotes", "options", "labels", "names", "types", "jobs", "lists", "nodes"],
)
def test_long_texts_take_little_time(text: str):
    keys = ["parameters", "Dream", "Software", "AIGC", "prompt", "Comment"]
    picture = decode_image(png(dict.fromkeys(keys, text), Image.new("RGB", (8, 8))))
    detect_generator_traces(picture)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["parameters", "prompt", "workflow", "Comment", "sd-metadata", "Dream", "AIGC", "Software"]),
    st.one_of(
        st.text(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(["nodes", "type", "class_type", "inputs", "text", "uc", "seed", "Label", "app_id"]),
                    inner,
                    max_size=5,
                )
            ),
            max_leaves=20,
        ).map(json.dumps),
    ),
)
def test_no_text_makes_it_raise(key: str, text: str):
    text = "".join(c for c in text if c.isprintable())
    examine(png({key: text}, Image.new("RGB", (8, 8))))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.booleans())
def test_no_pixels_make_the_stealth_reader_raise(height: int, width: int, length: int, seed: int, alpha: bool):
    shape = (height, width) if alpha else (height, width, 3)
    samples: NDArray[np.uint8] = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    assert read_stealth(samples, alpha=alpha) is None
    for mark in (b"stealth_pnginfo", b"stealth_pngcomp", b"stealth_rgbinfo", b"stealth_rgbcomp"):
        bits = np.unpackbits(np.frombuffer(mark + struct.pack(">I", length), np.uint8))
        flat = np.swapaxes(samples, 0, 1).reshape(-1).copy()
        flat[: len(bits)] = flat[: len(bits)] & 0xFE | bits[: len(flat)]
        turned = flat.reshape((width, height) if alpha else (width, height, 3))
        read_stealth(np.ascontiguousarray(np.swapaxes(turned, 0, 1)), alpha=alpha)


def test_arrays_without_a_file_have_no_traces():
    assert not detect_generator_traces(Picture.from_array(skimage.data.chelsea())).evidence


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the fixtures of other projects are not here")
def test_every_fixture_is_told():
    generators = {
        "AUTOMATIC1111": "WebUI",
        "ComfyUI": "ComfyUI",
        "Fooocus": "Fooocus",
        "InvokeAI": "InvokeAI",
        "NovelAI": "NovelAI",
    }
    files = sorted(FIXTURES.rglob("*.png")) + sorted(FIXTURES.rglob("*.jpg"))
    assert len(files) >= 11
    for path in files:
        piece = only(examine(path.read_bytes()))
        assert piece.strength is Strength.STRONG, path.name
        assert generators.get(path.name.partition("_")[0], "ComfyUI") in piece.finding, path.name


@pytest.mark.skipif(not CAMERAS.is_dir(), reason="the evaluation data is not here")
def test_no_honest_file_is_accused():
    files = [*CAMERAS.iterdir(), *PRISTINE.glob("*.jpg")]
    assert len(files) > 200
    assert [path.name for path in files if examine(path.read_bytes()).evidence] == []
