"""The decode specification: every mode gives the pixels it should, limits hold before memory is given, and whatever
is wrong with a file comes out as an error for the caller."""

from __future__ import annotations

import io
import struct
import threading
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile

from services.common.errors import DamagedImage, PentimentoError, TooLarge, UnsupportedFormat
from services.common.images import (
    DEFAULT_LIMITS,
    WORKING_PIXELS,
    ImageLimits,
    Picture,
    check_image,
    decode_image,
    encode_png,
    heat_map_png,
    inspect_image,
)

EVERY_FORMAT = ImageLimits(formats=frozenset({"JPEG", "PNG", "WEBP", "GIF"}))
HEIGHT, WIDTH = 24, 40

Pixels = NDArray[np.uint8]


def noise(height: int = HEIGHT, width: int = WIDTH, channels: int = 3, seed: int = 7) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(height: int = HEIGHT, width: int = WIDTH) -> Pixels:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], axis=-1).astype(np.uint8)


def save(pixels: Pixels | Image.Image, image_format: str, **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *before: bytes, after: bytes = b"") -> bytes:
    """A PNG written by hand; `rows` is what gets deflated, filter bytes included."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + data + after + png_chunk(b"IEND", b"")


def exif(orientation: int, order: str = "<") -> bytes:
    magic = b"II*\x00" if order == "<" else b"MM\x00*"
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\x00\x00" + magic + struct.pack(f"{order}IH", 8, 1) + entry + struct.pack(f"{order}I", 0)


def insert_segment(jpeg: bytes, marker: int, payload: bytes) -> bytes:
    return jpeg[:2] + struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload + jpeg[2:]


def gif(*frames: tuple[int, int, int, int], screen: tuple[int, int], transparent: int | None = None) -> bytes:
    """A GIF written by hand with a 4-colour palette (black, red, green, blue); every frame is filled with red."""
    parts = [b"GIF89a", struct.pack("<HHBBB", *screen, 0x81, 0, 0), bytes((0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255))]
    for left, top, width, height in frames:
        if transparent is not None:
            parts.append(b"\x21\xf9\x04" + bytes((1, 0, 0, transparent)) + b"\x00")
        parts.append(b"\x2c" + struct.pack("<HHHHB", left, top, width, height, 0) + b"\x02")
        codes = [4]  # clear; then red as literals, clearing before the code size would grow
        for index in range(width * height):
            codes += [1] if index % 2 == 0 else [1, 4]
        bits = 0
        codes.append(5)
        for place, code in enumerate(codes):
            bits |= code << (3 * place)
        data = bits.to_bytes((3 * len(codes) + 7) // 8, "little")
        for start in range(0, len(data), 255):
            piece = data[start : start + 255]
            parts.append(bytes((len(piece),)) + piece)
        parts.append(b"\x00")
    return b"".join(parts) + b"\x3b"


def over_white(colour: NDArray[np.integer], alpha: NDArray[np.integer]) -> NDArray[np.float64]:
    opacity = alpha[..., None].astype(np.float64) / 255
    return colour * opacity + 255 * (1 - opacity)


class TestPixels:
    def test_rgb_png_is_exact(self) -> None:
        pixels = noise()
        picture = decode_image(save(pixels, "PNG"))
        assert np.array_equal(picture.rgb, pixels)
        assert (picture.info.mode, picture.info.bits_per_channel, picture.info.has_alpha) == ("RGB", 8, False)
        assert picture.rgb.flags.c_contiguous
        assert not picture.rgb.flags.writeable

    def test_lossless_webp_is_exact(self) -> None:
        pixels = noise()
        picture = decode_image(save(pixels, "WEBP", lossless=True))
        assert np.array_equal(picture.rgb, pixels)
        assert picture.info.media_type == "image/webp"

    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 2}])
    def test_jpeg_is_what_libjpeg_gives(self, options: dict[str, object]) -> None:
        content = save(smooth(64, 64), "JPEG", quality=90, **options)
        expected = np.asarray(Image.open(io.BytesIO(content)))
        assert np.array_equal(decode_image(content).rgb, expected)
        assert check_image(content) == inspect_image(content)

    def test_grey_becomes_three_equal_channels(self) -> None:
        grey = noise()[..., 0]
        for content in (save(grey, "PNG"), save(grey, "JPEG", quality=100)):
            picture = decode_image(content)
            assert picture.info.mode == "L"
            assert np.abs(picture.rgb.astype(int) - grey[..., None]).max() <= 2

    @pytest.mark.parametrize("depth", [1, 2, 4])
    def test_few_bits_of_grey_are_spread_to_255(self, depth: int) -> None:
        values = np.arange(2**depth)
        bits = "".join(f"{value:0{depth}b}" for value in values).ljust(16, "0")
        row = bytes([0]) + int(bits, 2).to_bytes(len(bits) // 8, "big")[: (len(values) * depth + 7) // 8]
        row = row if depth < 4 else bytes([0]) + bytes(2 * i << 4 | (2 * i + 1) for i in range(8))
        picture = decode_image(png(len(values), 1, depth, 0, row))
        assert picture.rgb[0, :, 0].tolist() == [value * 255 // (2**depth - 1) for value in values]
        transparent = decode_image(png(len(values), 1, depth, 0, row, png_chunk(b"tRNS", b"\x00\x00")))
        assert transparent.rgb[0, 0].tolist() == [255, 255, 255]
        assert transparent.rgb[0, 1, 0] == 255 // (2**depth - 1)

    def test_16_bit_grey_keeps_the_high_byte(self) -> None:
        samples = np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
        picture = decode_image(save(Image.fromarray(samples), "PNG"))
        assert picture.info.bits_per_channel == 16
        assert np.array_equal(picture.rgb[..., 1], (samples >> 8).astype(np.uint8))

    def test_16_bit_grey_with_a_transparent_value(self) -> None:
        content = png(2, 1, 16, 0, b"\x00\x12\x34\x12\x35", png_chunk(b"tRNS", b"\x12\x34"))
        assert decode_image(content).rgb[0].tolist() == [[255] * 3, [0x12] * 3]

    def test_16_bit_rgb_keeps_the_high_byte(self) -> None:
        content = png(2, 1, 16, 2, b"\x00" + bytes.fromhex("12ff34ff56ff 000001000200"))
        assert decode_image(content).rgb[0].tolist() == [[0x12, 0x34, 0x56], [0, 1, 2]]

    def test_16_bit_grey_with_alpha(self) -> None:
        content = png(2, 1, 16, 4, b"\x00" + bytes.fromhex("40ffffff 40ff0000"))
        picture = decode_image(content)
        assert (picture.info.mode, picture.info.has_alpha) == ("LA", True)
        assert picture.rgb[0].tolist() == [[0x40] * 3, [255] * 3]

    def test_one_bit(self) -> None:
        pattern = noise()[..., 0] > 127
        picture = decode_image(save(Image.fromarray(pattern), "PNG"))
        assert picture.info.mode == "1"
        assert np.array_equal(picture.rgb[..., 0], np.where(pattern, 255, 0))

    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    @pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
    def test_alpha_is_composited_over_white(self, mode: str, image_format: str) -> None:
        pixels = noise(channels=4)
        pixels[0, :, 3], pixels[1, :, 3] = 0, 255
        image = Image.fromarray(pixels).convert(mode)
        content = save(image, image_format, **({"lossless": True, "exact": True} if image_format == "WEBP" else {}))
        expected = over_white(np.asarray(image.convert("RGBA"))[..., :3], pixels[..., 3])
        picture = decode_image(content)
        assert picture.info.has_alpha
        assert np.abs(picture.rgb - expected).max() <= 1
        assert np.array_equal(picture.rgb[0], np.full((WIDTH, 3), 255))
        assert np.array_equal(picture.rgb[1], np.asarray(image.convert("RGBA"))[1, :, :3])

    def test_palette_with_and_without_transparency(self) -> None:
        image = Image.fromarray(smooth()).quantize(16)
        expected = np.asarray(image.convert("RGB"))
        assert np.array_equal(decode_image(save(image, "PNG")).rgb, expected)
        picture = decode_image(save(image, "PNG", transparency=3))
        clear = np.asarray(image) == 3
        assert clear.any()
        assert picture.info.has_alpha
        assert np.array_equal(picture.rgb, np.where(clear[..., None], 255, expected))

    def test_palette_with_an_alpha_for_each_colour(self) -> None:
        content = png(
            2, 1, 8, 3, b"\x00\x00\x01", png_chunk(b"PLTE", bytes((0, 0, 0, 200, 100, 0))), png_chunk(b"tRNS", b"\x80")
        )
        assert decode_image(content).rgb[0].tolist() == [[127, 127, 127], [200, 100, 0]]

    def test_a_transparent_colour_in_rgb(self) -> None:
        content = png(2, 1, 8, 2, bytes((0, 9, 8, 7, 9, 8, 6)), png_chunk(b"tRNS", bytes((0, 9, 0, 8, 0, 7))))
        assert decode_image(content).rgb[0].tolist() == [[255, 255, 255], [9, 8, 6]]

    def test_cmyk_as_adobe_stores_it(self) -> None:
        ink = np.zeros((16, 16, 4), np.uint8)
        ink[:, 8:, 0] = 255  # cyan on the right, paper on the left
        picture = decode_image(save(Image.fromarray(ink, "CMYK"), "JPEG", quality=100, subsampling=0))
        assert picture.info.mode == "CMYK"
        assert np.abs(picture.rgb[4, 2].astype(int) - (255, 255, 255)).max() <= 3
        assert np.abs(picture.rgb[4, 13].astype(int) - (0, 255, 255)).max() <= 3

    def test_ycck(self) -> None:
        # Written as CMYK, declared as YCCK by its Adobe marker. All is stored inverted: Y = 0, neutral chroma and
        # K = 255 in the file are no ink at all.
        planes = np.zeros((16, 16, 4), np.uint8)
        planes[..., 0] = 255
        planes[..., 1:3] = 127
        content = save(Image.fromarray(planes, "CMYK"), "JPEG", quality=100, subsampling=0)
        marker = content.index(b"Adobe")
        ycck = content[: marker + 11] + b"\x02" + content[marker + 12 :]
        assert np.abs(decode_image(ycck).rgb.astype(int) - 255).max() <= 4

    @pytest.mark.parametrize("interlaced", [False, True])
    def test_check_agrees_with_decode_on_png(self, interlaced: bool) -> None:
        content = save(noise(), "PNG")
        if interlaced:
            # One pixel: Adam7's first pass holds it, the other passes are empty.
            changed = bytearray(png(1, 1, 8, 2, bytes((0, 1, 2, 3))))
            changed[28] = 1
            changed[29:33] = struct.pack(">I", zlib.crc32(changed[12:29]))
            content = bytes(changed)
        assert check_image(content) == decode_image(content).info


class TestOrientation:
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
    def test_every_orientation_is_undone_exactly(self, orientation: int, order: str, image_format: str) -> None:
        upright = noise()
        flipped = {
            1: upright,
            2: upright[:, ::-1],
            3: upright[::-1, ::-1],
            4: upright[::-1],
            5: upright.transpose(1, 0, 2),
            6: np.rot90(upright, 1),
            7: upright[::-1, ::-1].transpose(1, 0, 2),
            8: np.rot90(upright, -1),
        }[orientation]
        options = {"lossless": True} if image_format == "WEBP" else {}
        content = save(np.ascontiguousarray(flipped), image_format, exif=exif(orientation, order), **options)
        picture = decode_image(content)
        assert picture.info.exif_orientation == orientation
        assert (picture.info.width, picture.info.height) == (WIDTH, HEIGHT)
        assert np.array_equal(picture.rgb, upright)

    def test_jpeg(self) -> None:
        content = save(smooth(16, 64), "JPEG", exif=exif(6))
        plain = save(smooth(16, 64), "JPEG")
        assert np.array_equal(decode_image(content).rgb, np.rot90(decode_image(plain).rgb, -1))
        assert (inspect_image(content).width, inspect_image(content).height) == (16, 64)

    @pytest.mark.parametrize(
        "block", [b"", b"II*\x00", exif(0)[6:], exif(9)[6:], exif(6)[6:18], b"II*\x00\xff\xff\xff\xff"]
    )
    def test_a_broken_block_leaves_the_picture_as_it_is(self, block: bytes) -> None:
        content = insert_segment(save(smooth(), "JPEG"), 0xE1, b"Exif\x00\x00" + block)
        assert decode_image(content).info.exif_orientation == 1


class TestColour:
    def test_srgb_profile_changes_nothing(self) -> None:
        pixels = noise()
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        picture = decode_image(save(pixels, "PNG", icc_profile=profile))
        assert picture.info.has_icc_profile
        assert np.array_equal(picture.rgb, pixels)

    def test_another_space_is_converted(self) -> None:
        # Red and blue swapped: an sRGB profile with the tags of these primaries exchanged.
        profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
        red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
        profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[..., 0] = 255
        for image_format, options in (
            ("PNG", {}),
            ("WEBP", {"lossless": True}),
            ("JPEG", {"quality": 100, "subsampling": 0}),
        ):
            picture = decode_image(save(pixels, image_format, icc_profile=bytes(profile), **options))
            assert np.abs(picture.rgb.astype(int) - (0, 0, 255)).max() <= 4, image_format

    def test_long_profiles_are_put_together_from_their_segments(self) -> None:
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        half = len(profile) // 2
        jpeg = save(smooth(), "JPEG")
        for part, data in ((1, profile[:half]), (2, profile[half:])):  # stored in the order 2, 1
            jpeg = insert_segment(jpeg, 0xE2, b"ICC_PROFILE\x00" + bytes((part, 2)) + data)
        assert inspect_image(jpeg).has_icc_profile

    @pytest.mark.parametrize("profile", [b"no profile at all", b"\x00" * 200])
    def test_a_broken_profile_is_ignored(self, profile: bytes) -> None:
        pixels = noise()
        assert np.array_equal(decode_image(save(pixels, "PNG", icc_profile=profile)).rgb, pixels)

    def test_a_profile_for_another_kind_of_picture_is_ignored(self) -> None:
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        grey = noise()[..., 0]
        assert np.array_equal(decode_image(save(grey, "PNG", icc_profile=profile)).rgb[..., 2], grey)


class TestAnimation:
    def test_gif_needs_permission(self) -> None:
        content = gif((0, 0, 4, 4), screen=(4, 4))
        with pytest.raises(UnsupportedFormat, match="GIF files are not accepted here") as raised:
            inspect_image(content)
        assert raised.value.metadata == {"format": "GIF", "accepted": "JPEG, PNG, WEBP"}

    def test_first_frame_on_the_whole_canvas(self) -> None:
        picture = decode_image(gif((2, 1, 3, 2), (0, 0, 8, 6), screen=(8, 6)), EVERY_FORMAT)
        expected = np.full((6, 8, 3), 255, np.uint8)
        expected[1:3, 2:5] = (255, 0, 0)
        assert picture.info.frames == 2
        assert np.array_equal(picture.rgb, expected)

    def test_transparent_colour_is_white(self) -> None:
        content = gif((0, 0, 4, 4), screen=(4, 4), transparent=1)
        assert inspect_image(content, EVERY_FORMAT).has_alpha
        assert (decode_image(content, EVERY_FORMAT).rgb == 255).all()

    def test_a_frame_larger_than_the_screen_counts(self) -> None:
        content = gif((0, 0, 20, 10), screen=(1, 1))
        assert (inspect_image(content, EVERY_FORMAT).width, inspect_image(content, EVERY_FORMAT).height) == (20, 10)
        with pytest.raises(TooLarge):
            inspect_image(content, ImageLimits(max_pixels=199, formats=frozenset({"GIF"})))

    @pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP"])
    def test_frames_are_counted_and_limited_before_decoding(self, image_format: str, no_decoder: None) -> None:
        frames = [Image.fromarray(noise(seed=seed)) for seed in range(5)]
        content = save(frames[0], image_format, save_all=True, append_images=frames[1:], duration=100)
        assert inspect_image(content, EVERY_FORMAT).frames == 5
        with pytest.raises(TooLarge) as raised:
            inspect_image(content, ImageLimits(max_frames=4, formats=EVERY_FORMAT.formats))
        assert raised.value.metadata == {"limit": "4", "actual": "5", "unit": "frames"}

    @pytest.mark.parametrize(("image_format", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
    def test_other_animations_show_their_first_frame(self, image_format: str, options: dict[str, object]) -> None:
        first, second = noise(seed=1), noise(seed=2)
        content = save(
            Image.fromarray(first), image_format, save_all=True, append_images=[Image.fromarray(second)], **options
        )
        assert np.array_equal(decode_image(content).rgb, first)
        assert check_image(content).frames == 2

    def test_gif_from_an_encoder(self) -> None:
        image = Image.fromarray(smooth()).quantize(64)
        content = save(image, "GIF")
        assert np.array_equal(decode_image(content, EVERY_FORMAT).rgb, np.asarray(image.convert("RGB")))
        assert check_image(content, EVERY_FORMAT).frames == 1
        grey = save(Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)), "GIF")
        assert np.array_equal(decode_image(grey, EVERY_FORMAT).rgb[..., 0].ravel(), np.arange(256))


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes opening a file with Pillow's plugins an error, after the test has made its files."""

    def refuse(self: ImageFile.ImageFile, *_: object, **__: object) -> None:
        raise AssertionError("a decoder was called")

    original = Image.Image.save

    def save_then_refuse(self: Image.Image, *args: object, **options: object) -> None:
        original(self, *args, **options)  # type: ignore[arg-type]
        monkeypatch.setattr(ImageFile.ImageFile, "__init__", refuse)

    monkeypatch.setattr(Image.Image, "save", save_then_refuse)


def large_png() -> bytes:
    return png(60_000, 60_000, 8, 2, b"")


def large_webp() -> bytes:
    header = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (59_999).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", 4 + len(header)) + b"WEBP" + header


def large_jpeg() -> bytes:
    content = bytearray(save(smooth(), "JPEG"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    return bytes(content)


def large_gif() -> bytes:
    content = bytearray(gif((0, 0, 2, 2), screen=(60_000, 60_000)))
    return bytes(content)


class TestLimits:
    @pytest.mark.parametrize("call", [inspect_image, check_image, decode_image])
    def test_bytes(self, call: Callable[[bytes], object]) -> None:
        with pytest.raises(TooLarge) as raised:
            call(bytes(12_582_912))
        assert raised.value.message == "File size 12582912 bytes exceeds maximum 10485760 bytes"
        assert raised.value.metadata == {"limit": "10485760", "actual": "12582912", "unit": "bytes"}

    @pytest.mark.parametrize("make", [large_png, large_webp, large_jpeg, large_gif])
    @pytest.mark.parametrize("call", [inspect_image, check_image, decode_image])
    def test_pixels_before_any_has_memory(
        self, make: Callable[[], bytes], call: Callable[..., object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        content = make()
        monkeypatch.setattr(ImageFile.ImageFile, "__init__", lambda *_: pytest.fail("a decoder was called"))
        tracemalloc.start()
        try:
            with pytest.raises(TooLarge) as raised:
                call(content, EVERY_FORMAT)
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
        finally:
            tracemalloc.stop()
        assert raised.value.metadata == {"limit": "50000000", "actual": "3600000000", "unit": "pixels"}

    def test_a_picture_at_the_limit_is_accepted(self) -> None:
        content = save(noise(), "PNG")
        exact = ImageLimits(max_bytes=len(content), max_pixels=WIDTH * HEIGHT)
        assert decode_image(content, exact).info.width == WIDTH
        with pytest.raises(TooLarge):
            decode_image(content, ImageLimits(max_pixels=WIDTH * HEIGHT - 1))

    def test_no_limit_of_pillow_interferes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        for image_format in ("PNG", "JPEG"):
            assert decode_image(save(smooth(), image_format)).info.width == WIDTH

    def test_senseless_limits_are_refused(self) -> None:
        with pytest.raises(ValueError, match="no such image formats: TIFF"):
            ImageLimits(formats=frozenset({"TIFF"}))
        with pytest.raises(ValueError, match="positive"):
            ImageLimits(max_pixels=0)

    def test_text_bombs_never_reach_the_decoder(self) -> None:
        bomb = png_chunk(b"zTXt", b"a\x00\x00" + zlib.compress(bytes(200 << 20), 9))
        pixels = bytes((0, 1, 2, 3))
        content = png(1, 1, 8, 2, pixels, bomb, *([png_chunk(b"tEXt", b"k\x00v")] * 1000), after=bomb)
        tracemalloc.start()
        try:
            assert decode_image(content).rgb[0, 0].tolist() == [1, 2, 3]
            assert tracemalloc.get_traced_memory()[1] < 20 * len(content)
        finally:
            tracemalloc.stop()

    def test_a_file_of_empty_parts_is_refused(self) -> None:
        empty = png_chunk(b"tEXt", b"")
        with pytest.raises(DamagedImage, match="too many parts"):
            inspect_image(png(1, 1, 8, 2, bytes(4), empty * 260_000))
        segment = struct.pack(">BBH", 0xFF, 0xFE, 2)
        with pytest.raises(DamagedImage, match="too many parts"):
            inspect_image(b"\xff\xd8" + segment * 260_000)
        one = gif((0, 0, 2, 2), screen=(2, 2))
        with pytest.raises(DamagedImage, match="too many parts"):
            inspect_image(one[:-1] + b"\x21\xfe" + b"\x01a" * 260_000 + b"\x00;", EVERY_FORMAT)

    def test_a_jpeg_of_countless_scans_is_refused(self) -> None:
        content = save(smooth(), "JPEG", progressive=True)
        last = content.rindex(b"\xff\xda")
        assert decode_image(content).info.width == WIDTH
        with pytest.raises(DamagedImage, match="too many scans"):
            decode_image(content[:-2] + content[last:-2] * 200 + b"\xff\xd9")


class TestBrokenFiles:
    @pytest.mark.parametrize("call", [inspect_image, check_image, decode_image])
    @pytest.mark.parametrize(
        "content",
        [
            b"Dear sir, this is a text called holiday.jpg.",
            b"<!doctype html><img src=x>",
            b"%PDF-1.7\n",
            b"\x00",
            b"RIFF\x10\x00\x00\x00WAVEfmt ",
        ],
    )
    def test_no_image(self, call: Callable[[bytes], object], content: bytes) -> None:
        with pytest.raises(UnsupportedFormat, match=r"not an image|not accepted"):
            call(content)

    def test_empty(self) -> None:
        with pytest.raises(UnsupportedFormat) as raised:
            inspect_image(b"")
        assert raised.value.message == "The file is empty."

    def test_another_format_is_named(self) -> None:
        for image_format in ("BMP", "TIFF"):
            with pytest.raises(UnsupportedFormat, match=f"^{image_format} files are not accepted here"):
                inspect_image(save(smooth(), image_format))

    @pytest.mark.parametrize("call", [check_image, decode_image])
    @pytest.mark.parametrize("kept", [0.02, 0.3, 0.5, 0.8, 0.95])
    @pytest.mark.parametrize(
        ("image_format", "options"),
        [
            ("JPEG", {}),
            ("JPEG", {"progressive": True}),
            ("PNG", {}),
            ("WEBP", {"quality": 90}),
            ("WEBP", {"lossless": True}),
            ("GIF", {}),
        ],
    )
    def test_truncated(
        self, call: Callable[..., object], kept: float, image_format: str, options: dict[str, object]
    ) -> None:
        content = save(noise(128, 128), image_format, **options)
        with pytest.raises(DamagedImage):
            call(content[: int(kept * len(content))], EVERY_FORMAT)

    @pytest.mark.parametrize("call", [check_image, decode_image])
    @pytest.mark.parametrize("kept", [0.05, 0.3, 0.5, 0.95, 0.995])
    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}], ids=str)
    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    def test_a_jpeg_that_was_cut_and_properly_ended(
        self, call: Callable[..., object], kept: float, options: dict[str, object], mode: str
    ) -> None:
        """Its decoder fills what is missing with grey, and calls that a picture."""
        content = save(Image.fromarray(noise(128, 128)).convert(mode), "JPEG", **options)
        call(content)
        data = content.index(b"\xff\xda")
        cut = data + 20 + int(kept * (len(content) - data - 30))
        with pytest.raises(DamagedImage, match="damaged or incomplete"):
            call(content[:cut] + b"\xff\xd9")

    @pytest.mark.parametrize("call", [check_image, decode_image])
    def test_a_jpeg_whose_header_promises_more(self, call: Callable[..., object]) -> None:
        content = bytearray(save(noise(128, 128), "JPEG"))
        frame = content.index(b"\xff\xc0")
        content[frame + 5 : frame + 9] = struct.pack(">HH", 2000, 2000)
        with pytest.raises(DamagedImage, match="damaged or incomplete"):
            call(bytes(content))

    @pytest.mark.parametrize("call", [check_image, decode_image])
    def test_a_jpeg_with_a_few_bytes_behind_its_picture_is_whole(self, call: Callable[..., object]) -> None:
        content = save(noise(128, 128), "JPEG")
        call(content[:-2] + bytes(12) + content[-2:])

    def test_truncated_jpeg_still_tells_its_size(self) -> None:
        content = save(noise(128, 128), "JPEG")
        assert inspect_image(content[: len(content) // 2]).width == 128

    def test_png_with_too_little_data(self) -> None:
        content = png(100, 100, 8, 2, bytes(200))
        for call in (check_image, decode_image):
            with pytest.raises(DamagedImage):
                call(content)

    def test_png_that_fails_its_checksum(self) -> None:
        content = bytearray(save(noise(), "PNG"))
        content[content.index(b"IDAT") + 500] ^= 1
        for call in (check_image, decode_image):
            with pytest.raises(DamagedImage, match="checksum"):
                call(bytes(content))

    def test_png_with_an_unknown_row_filter(self) -> None:
        with pytest.raises(DamagedImage, match="row"):
            check_image(png(1, 3, 8, 0, bytes((0, 1, 0, 2, 9, 3))))

    def test_a_12_bit_jpeg_is_named_as_such(self) -> None:
        content = bytearray(save(smooth(), "JPEG"))
        content[content.index(b"\xff\xc0") + 4] = 12
        with pytest.raises(UnsupportedFormat, match="12 bits"):
            inspect_image(bytes(content))

    def test_what_stands_behind_or_beside_the_image_is_ignored(self) -> None:
        for image_format, options in (
            ("PNG", {}),
            ("JPEG", {"quality": 95}),
            ("WEBP", {"lossless": True}),
            ("GIF", {}),
        ):
            content = save(smooth(), image_format, **options)
            plain = decode_image(content, EVERY_FORMAT)
            polyglot = decode_image(content + b"PK\x03\x04 and a whole archive <script>", EVERY_FORMAT)
            assert np.array_equal(plain.rgb, polyglot.rgb)
            assert polyglot.file.endswith(b"<script>")
            assert polyglot.info.sha256 != plain.info.sha256
        with pytest.raises(UnsupportedFormat):
            inspect_image(b"PK\x03\x04" + save(smooth(), "PNG"))

    def test_a_second_header_cannot_get_past_the_limits(self) -> None:
        """Found by fuzzing: limits were held against the first IHDR, memory was given for the second."""
        content = save(smooth(16, 16), "PNG")
        header = struct.pack(">II5B", 30_000, 30_000, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
        forged = content[:33] + chunk + content[33:]
        for call in (check_image, decode_image):
            with pytest.raises(DamagedImage, match="two headers"):
                call(forged, ImageLimits(max_pixels=1_000))

    def test_a_transparent_colour_that_is_cut_short_says_nothing(self) -> None:
        """Found by fuzzing: the check passed such a file, the decoder refused it."""
        content = save(smooth(16, 16), "PNG")
        chunk = struct.pack(">I", 4) + b"tRNS" + bytes(4) + struct.pack(">I", zlib.crc32(b"tRNS" + bytes(4)))
        cut = content[:33] + chunk + content[33:]
        assert not check_image(cut).has_alpha
        assert np.array_equal(decode_image(cut).rgb, decode_image(content).rgb)

    def test_metadata_cannot_break_a_sound_picture(self) -> None:
        content = save(smooth(), "JPEG")
        expected = decode_image(content).rgb
        for marker, payload in (
            (0xED, b"Photoshop 3.0\x008BIM\x04\x04\xff"),
            (0xE2, b"MPF\x00broken"),
            (0xFE, b"comment"),
            (0xE1, b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff"),
        ):
            assert np.array_equal(decode_image(insert_segment(content, marker, payload)).rgb, expected)


def samples() -> list[bytes]:
    frames = [Image.fromarray(noise(8, 8, seed=seed)) for seed in range(3)]
    return [
        save(smooth(16, 16), "JPEG", exif=exif(6)),
        save(smooth(16, 16), "JPEG", progressive=True),
        save(Image.fromarray(noise(8, 8, 4), "CMYK"), "JPEG"),
        save(smooth(16, 16), "PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
        save(Image.fromarray(smooth(16, 16)).quantize(8), "PNG", transparency=2),
        save(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        save(smooth(16, 16), "WEBP"),
        save(noise(8, 8, 4), "WEBP", lossless=True, exif=exif(3)),
        save(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        save(frames[0], "GIF", save_all=True, append_images=frames[1:]),
    ]


SAMPLES = samples()
SMALL = ImageLimits(max_pixels=1_000_000, formats=EVERY_FORMAT.formats)


@settings(max_examples=400, deadline=None)
@given(
    sample=st.sampled_from(SAMPLES),
    flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6),
    cut=st.none() | st.integers(0, 10_000),
    insert=st.none() | st.tuples(st.integers(0, 10_000), st.binary(max_size=20)),
)
def test_only_errors_for_the_caller_escape(
    sample: bytes, flips: list[tuple[int, int]], cut: int | None, insert: tuple[int, bytes] | None
) -> None:
    content = bytearray(sample)
    for place, value in flips:
        content[place % len(content)] = value
    if insert is not None:
        place = insert[0] % len(content)
        content[place:place] = insert[1]
    if cut is not None:
        del content[cut % len(content) :]
    for call in (inspect_image, check_image, decode_image):
        try:
            result = call(bytes(content), SMALL)
        except PentimentoError:
            continue
        if isinstance(result, Picture):
            assert result.rgb.shape == (result.info.height, result.info.width, 3)


class TestPicture:
    def test_from_array(self) -> None:
        pixels = noise()
        picture = Picture.from_array(pixels)
        assert np.array_equal(picture.rgb, pixels)
        assert np.array_equal(decode_image(picture.file).rgb, pixels)
        assert decode_image(picture.file).info == picture.info
        pixels[0, 0] = 0
        assert not np.shares_memory(picture.rgb, pixels)
        grey = Picture.from_array(pixels[..., 0])
        assert grey.info.mode == "L"
        assert grey.rgb.shape == (HEIGHT, WIDTH, 3)
        with pytest.raises(ValueError, match="read-only"):
            picture.rgb[0, 0, 0] = 1

    def test_small_pictures_are_worked_on_as_they_are(self) -> None:
        picture = Picture.from_array(noise())
        assert picture.working is picture.rgb
        assert picture.scale == 1.0

    def test_working_size_is_an_area_average(self) -> None:
        blocks = np.random.default_rng(3).integers(0, 256, (1000, 2000, 3), dtype=np.uint8)
        picture = Picture.from_array(blocks.repeat(2, axis=0).repeat(2, axis=1))
        assert picture.scale == 0.5
        assert picture.working.shape == (1000, 2000, 3)
        assert np.array_equal(picture.working, blocks)
        assert picture.working is picture.working
        assert not picture.working.flags.writeable

    @pytest.mark.parametrize("shape", [(1, 3_000_000), (3_000_001, 1), (1500, 1500), (1414, 1415), (3, 999_999)])
    def test_working_size_never_exceeds_its_limit(self, shape: tuple[int, int]) -> None:
        picture = Picture.from_array(np.zeros((*shape, 3), np.uint8))
        height, width = picture.working.shape[:2]
        assert height * width <= WORKING_PIXELS
        assert height * width >= 0.6 * min(WORKING_PIXELS, shape[0] * shape[1])
        assert 0 < picture.scale <= 1

    def test_threads_share_one_working_copy(self) -> None:
        picture = Picture.from_array(np.zeros((1500, 1500, 3), np.uint8))
        seen: list[Pixels] = []
        threads = [threading.Thread(target=lambda: seen.append(picture.working)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(copy is seen[0] for copy in seen)
        assert len(seen) == 8

    def test_the_array_must_be_the_picture(self) -> None:
        picture = Picture.from_array(noise())
        with pytest.raises(ValueError, match="expected uint8"):
            Picture(file=picture.file, info=picture.info, rgb=picture.rgb[1:])


class TestEncoding:
    def test_round_trip(self) -> None:
        for pixels in (noise(), noise()[..., 0]):
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(pixels)))), pixels)

    def test_heat_map(self) -> None:
        content = heat_map_png(np.array([[0.0, 0.5, 1.0, -1.0, 2.0, np.nan]], np.float32))
        assert np.asarray(Image.open(io.BytesIO(content))).tolist() == [[0, 128, 255, 0, 255, 0]]

    def test_other_arrays_are_refused(self) -> None:
        with pytest.raises(ValueError, match="expected uint8"):
            encode_png(np.zeros((4, 4, 4), np.uint8))


def test_defaults_are_the_documented_ones() -> None:
    assert DEFAULT_LIMITS.max_bytes == 10_485_760
    assert DEFAULT_LIMITS.max_pixels == 50_000_000
    assert DEFAULT_LIMITS.formats == {"JPEG", "PNG", "WEBP"}
