"""Degradations are pure, masks follow their geometry, and laundering touches the metadata and nothing else."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms
from skimage import data

from evaluation.degradation import UNCHANGED, Degradation, curves, laundering
from evaluation.forgery import Encoding
from services.common.images import decode_image

RGB = NDArray[np.uint8]
Mask = NDArray[np.bool_]

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
EXIF_TAGS = {0x010F: "Maker", 0x0110: "Camera 1", 0x0132: "2024:05:01 10:00:00"}


def camera_file(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif.update({**EXIF_TAGS, 0x0112: orientation})
    buffer = io.BytesIO()
    Image.new("RGB", (40, 24), (90, 120, 60)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


STEPS = [step for curve in curves().values() for step in curve.steps()]
CASES = list(laundering(camera_file()))
ALL = [UNCHANGED, *STEPS, *CASES]


def marked(height: int = 211, width: int = 318) -> tuple[RGB, Mask]:
    """A grey photograph with a bright green ellipse, which can be found again by its colour, and its mask."""
    rgb = np.repeat(cv2.resize(data.camera(), (width, height))[..., None] // 2 + 40, 3, axis=2).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, (round(width * 0.58), round(height * 0.45)), (width // 7, height // 6), 20, 0, 360, 1, -1)
    rgb[mask.astype(bool)] = (20, 235, 20)
    return rgb, mask.astype(bool)


def pixels(content: bytes) -> RGB:
    return decode_image(content).rgb


def by_label(step: Degradation) -> str:
    return step.label.replace(" ", "_")


@pytest.mark.parametrize("step", ALL, ids=by_label)
def test_masks_follow_the_geometry(step):
    rgb, mask = marked()
    degraded = pixels(step.apply(Encoding(quality=96, subsampling="4:4:4").encode(rgb))).astype(int)
    mapped = step.map_mask(mask)
    assert mapped.dtype == bool
    assert mapped.shape == degraded.shape[:2]
    found = degraded[..., 1] - np.maximum(degraded[..., 0], degraded[..., 2]) > 100
    overlap = (found & mapped).sum() / (found | mapped).sum()
    assert overlap > 0.93


@pytest.mark.parametrize("step", ALL, ids=by_label)
def test_the_same_file_gives_the_same_file(step):
    content = Encoding(quality=90).encode(marked()[0])
    assert step.apply(content) == step.apply(content)


@pytest.mark.parametrize("step", ALL, ids=by_label)
@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_every_format_and_odd_sizes_are_taken(step, image_format):
    rgb, mask = marked(67, 90)
    degraded = pixels(step.apply(Encoding(format=image_format).encode(rgb)))
    assert degraded.shape[:2] == step.map_mask(mask).shape


@pytest.mark.parametrize("step", STEPS, ids=by_label)
def test_pixels_change_and_metadata_goes(step):
    exif = Image.Exif()
    exif[0x0110] = "Camera 1"
    buffer = io.BytesIO()
    Image.fromarray(marked()[0]).save(buffer, "JPEG", quality=97, exif=exif)
    degraded = step.apply(buffer.getvalue())
    assert not Image.open(io.BytesIO(degraded)).getexif()
    before, after = pixels(buffer.getvalue()), pixels(degraded)
    assert before.shape != after.shape or not np.array_equal(before, after)


@pytest.mark.parametrize("name", ["jpeg", "webp", "blur", "noise", "rephotographed_paper", "rephotographed_screen"])
def test_curves_grow_worse(name):
    rgb = cv2.resize(data.astronaut(), (256, 256), interpolation=cv2.INTER_AREA)
    losses = []
    for step in curves()[name].steps():
        degraded = pixels(step.apply(Encoding(format="png").encode(rgb)))
        losses.append(float(np.abs(degraded.astype(int) - rgb).mean()))
    assert losses == sorted(losses)
    assert losses[0] > 0


def test_names_and_levels_are_unique():
    assert len({(step.name, step.level) for step in STEPS}) == len(STEPS)
    assert all(step.name == name for name, curve in curves().items() for step in curve.steps())
    assert {"jpeg", "webp", "resize", "blur", "noise", "crop", "gamma", "screenshot", "messenger"} <= curves().keys()


def test_a_stored_rotation_is_applied_before_anything_else():
    rgb, mask = marked()
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(np.rot90(rgb))).save(buffer, "PNG", exif=exif)
    assert np.array_equal(pixels(buffer.getvalue()), rgb)
    for step in ALL:
        assert pixels(step.apply(buffer.getvalue())).shape[:2] == step.map_mask(mask).shape, step.label
    stripped = CASES[0].apply(buffer.getvalue())
    assert np.array_equal(pixels(stripped), rgb)


def test_a_messenger_reduces_large_pictures():
    rgb = np.random.default_rng(0).integers(0, 255, (900, 2400, 3)).astype(np.uint8)
    step = curves()["messenger"].at(75)
    image = Image.open(io.BytesIO(step.apply(Encoding().encode(rgb))))
    assert image.size == (1600, 600)
    assert [component[1:3] for component in image.layer] == [(2, 2), (1, 1), (1, 1)]
    assert step.map_mask(np.ones((900, 2400), bool)).shape == (600, 1600)


def test_noise_is_as_strong_as_its_level():
    rgb = np.full((128, 128, 3), 128, np.uint8)
    degraded = pixels(curves()["noise"].at(8).apply(Encoding(format="png").encode(rgb)))
    assert degraded.std() == pytest.approx(8.0, rel=0.05)


def test_a_cropped_off_forgery_leaves_an_empty_mask():
    mask = np.zeros((200, 200), bool)
    mask[:20, :20] = True
    assert not curves()["crop"].at(0.5).map_mask(mask).any()


# --- Laundering -------------------------------------------------------------------------------------------------------


def case(name: str, camera: bytes | None = None) -> Degradation:
    return next(step for step in laundering(camera or camera_file()) if step.name == name)


def rich_jpeg() -> bytes:
    """A JPEG with EXIF, a colour profile, a comment and a provenance segment."""
    exif = Image.Exif()
    exif[0x0131] = "An editor"
    buffer = io.BytesIO()
    Image.fromarray(marked()[0]).save(
        buffer, "JPEG", quality=88, exif=exif, comment=b"made by hand", icc_profile=PROFILE
    )
    content = buffer.getvalue()
    manifest = b"JP\x00\x01\x00\x00\x00\x01c2pa"
    return content[:2] + b"\xff\xeb" + struct.pack(">H", len(manifest) + 2) + manifest + content[2:]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_stripping_leaves_every_pixel_and_no_metadata(kind):
    exif = Image.Exif()
    exif[0x0131] = "An editor"
    buffer = io.BytesIO()
    Image.fromarray(marked()[0]).save(buffer, kind, exif=exif, icc_profile=PROFILE, quality=80)
    content = rich_jpeg() if kind == "JPEG" else buffer.getvalue()
    stripped = case("metadata_stripped").apply(content)
    assert np.array_equal(pixels(stripped), pixels(content))
    image = Image.open(io.BytesIO(stripped))
    assert image.format == kind
    assert not image.getexif()
    assert image.info["icc_profile"] == PROFILE
    for trace in (b"An editor", b"c2pa", b"made by hand"):
        assert trace not in stripped


def test_stripping_keeps_a_webps_orientation():
    rgb, _ = marked()
    exif = Image.Exif()
    exif.update({0x0112: 3, 0x0131: "An editor"})
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(np.rot90(rgb, 2))).save(buffer, "WEBP", lossless=True, exif=exif)
    stripped = case("metadata_stripped").apply(buffer.getvalue())
    assert np.array_equal(pixels(stripped), rgb)
    assert b"An editor" not in stripped


@pytest.mark.parametrize("image_format", ["png", "jpeg"])
def test_transplanted_metadata_is_the_cameras_and_pixels_stay(image_format):
    content = Encoding(format=image_format, quality=70).encode(marked()[0])
    laundered = case("metadata_transplanted", camera_file(orientation=6)).apply(content)
    assert np.array_equal(pixels(laundered), pixels(content))
    exif = Image.open(io.BytesIO(laundered)).getexif()
    assert {tag: exif[tag] for tag in EXIF_TAGS} == EXIF_TAGS
    assert exif[0x0112] == 1


def test_transplanting_replaces_what_was_there():
    laundered = case("metadata_transplanted").apply(rich_jpeg())
    assert Image.open(io.BytesIO(laundered)).getexif()[0x0110] == "Camera 1"
    for trace in (b"An editor", b"c2pa", b"made by hand"):
        assert trace not in laundered


def test_only_a_camera_file_with_exif_can_lend_it():
    with pytest.raises(ValueError, match="EXIF"):
        laundering(Encoding().encode(marked()[0]))
    assert "metadata_transplanted" not in {step.name for step in laundering()}
