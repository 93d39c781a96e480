"""What is planted must be exactly what is recorded: the mask, the transform, the twin; for every technique there is."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from evaluation.forgery import (
    MAX_AREA,
    MIN_AREA,
    Draft,
    Encoding,
    ForgeryFailed,
    encode_pair,
    find_maker,
    make_forgery,
    make_pair,
    makers,
)
from evaluation.forgery._patchmatch import fill_by_patches
from evaluation.forgery._registry import maker
from services.common.detection import Technique

RGB = NDArray[np.uint8]

MAKERS = sorted(makers())
SAME_PLACE = ["inpainting", "noise_mismatch", "resampled", "retouch"]
SEEDS = range(4)
LOSSLESS = Encoding(format="png")


def reduced(load: Callable[[], RGB], size: int = 288) -> RGB:
    rgb = load()
    factor = size / max(rgb.shape[:2])
    return cv2.resize(rgb, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


PICTURES = [reduced(load) for load in (data.astronaut, data.coffee, data.chelsea, data.rocket)]


def picture_and_donor(seed: int) -> tuple[RGB, RGB]:
    return PICTURES[seed % 4], PICTURES[(seed + 1) % 4]


def pixels(content: bytes) -> RGB:
    return np.array(Image.open(io.BytesIO(content)).convert("RGB"))


def test_there_is_a_maker_for_each_kind_of_edit():
    techniques = {made_by.technique for made_by in makers().values()}
    assert {Technique.COPY_MOVE, Technique.SPLICING, Technique.INPAINTING, Technique.OTHER} <= techniques


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_mask_is_exactly_where_the_twins_differ(name, seed):
    rgb, donor = picture_and_donor(seed)
    before = rgb.copy(), donor.copy()
    pair = make_pair(rgb, name, seed, LOSSLESS, donor=donor)
    forged, pristine = pixels(pair.forged), pixels(pair.pristine)
    changed = (forged != pristine).any(axis=2)
    assert forged.shape == pristine.shape == rgb.shape
    assert pair.mask.shape == rgb.shape[:2]
    assert pair.mask.dtype == bool
    assert not (changed & ~pair.mask).any()
    assert changed[pair.mask].mean() >= 0.5
    difference = np.abs(forged.astype(int) - pristine)[pair.mask]
    assert difference.mean() >= makers()[name].min_change
    assert MIN_AREA <= pair.mask.mean() <= MAX_AREA
    assert np.array_equal(rgb, before[0]), "the picture itself was changed"
    assert np.array_equal(donor, before[1]), "the donor was changed"


@pytest.mark.parametrize("name", MAKERS)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_ones(name):
    rgb, donor = picture_and_donor(0)
    encoding = Encoding(quality=85)
    one, same, other = (make_pair(rgb, name, seed, encoding, donor=donor) for seed in (5, 5, 6))
    assert one.forged == same.forged
    assert one.pristine == same.pristine
    assert one.parameters == same.parameters
    assert np.array_equal(one.mask, same.mask)
    assert one.forged != other.forged


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("image_format", ["jpeg", "webp"])
def test_twins_are_encoded_alike(name, image_format):
    rgb, donor = picture_and_donor(1)
    pair = make_pair(rgb, name, 3, Encoding(format=image_format, quality=77, subsampling="4:2:0"), donor=donor)
    forged, pristine = Image.open(io.BytesIO(pair.forged)), Image.open(io.BytesIO(pair.pristine))
    assert forged.format == pristine.format == image_format.upper()
    assert forged.size == pristine.size == (rgb.shape[1], rgb.shape[0])
    assert forged.info.keys() == pristine.info.keys()
    if image_format == "jpeg":
        assert forged.quantization == pristine.quantization
        assert forged.layer == pristine.layer


@pytest.mark.parametrize("name", MAKERS)
def test_parameters_are_json_and_tell_how_to_repeat_it(name):
    rgb, donor = picture_and_donor(2)
    pair = make_pair(rgb, name, 8, LOSSLESS, donor=donor)
    assert json.loads(json.dumps(pair.parameters)) == pair.parameters
    assert pair.parameters["seed"] == 8
    assert pair.parameters["maker"] == name
    assert pair.parameters["technique"] == makers()[name].technique.value


@pytest.mark.parametrize("name", MAKERS)
def test_odd_sizes_and_grey_pictures_work(name):
    rgb = np.repeat(cv2.resize(data.camera(), (131, 207))[..., None], 3, axis=2)
    forgery = make_forgery(rgb, name, 1, donor=PICTURES[1])
    assert forgery.image.shape == forgery.twin.shape == rgb.shape
    assert forgery.image.dtype == np.uint8


@pytest.mark.parametrize("name", MAKERS)
def test_a_plain_picture_is_given_up_or_visibly_forged(name):
    plain = np.full((128, 128, 3), 90, np.uint8)
    try:
        forgery = make_forgery(plain, name, 0, donor=plain)
    except ForgeryFailed as refusal:
        assert name in str(refusal)  # noqa: PT017
    else:
        assert np.abs(forgery.image.astype(int) - forgery.twin)[forgery.mask].mean() >= makers()[name].min_change


# --- Copy-move --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rotation": 90.0, "scale": 1.0},
        {"rotation": (30.0, 150.0), "scale": 1.0},
        {"rotation": 0.0, "scale": 1.3},
        {"rotation": 0.0, "scale": 0.75},
        {"mirrored": True},
        {"clones": 3, "area": 0.01},
        {"gain": 1.1},
        {"texture": "textured", "feather": 3.0},
    ],
    ids=str,
)
def test_source_and_copy_match_by_the_recorded_transform(options):
    rgb, _ = picture_and_donor(1)
    forgery = make_forgery(rgb, "copy_move", 21, **options)
    height, width = rgb.shape[:2]
    source = forgery.source_mask
    assert source is not None
    assert not (source & forgery.mask).any()
    assert np.array_equal(forgery.image[source], rgb[source])
    covered = np.zeros_like(forgery.mask)
    edge = 2 * int(forgery.parameters["feather"]) + 3
    for clone in forgery.parameters["clones"]:
        matrix = np.array(clone["matrix"])
        place = cv2.warpAffine(source.astype(np.uint8) * 255, matrix, (width, height)) > 127
        covered |= place
        inner = cv2.erode(place.astype(np.uint8), np.ones((edge, edge))).astype(bool)
        expected = cv2.warpAffine(rgb, matrix, (width, height), flags=cv2.INTER_CUBIC) * clone["gain"]
        difference = np.abs(np.clip(expected, 0, 255) - forgery.image)[inner]
        assert inner.sum() > 20
        assert difference.mean() < 3.0
        determinant = np.linalg.det(matrix[:, :2])
        assert determinant == pytest.approx((-1 if clone["mirrored"] else 1) * clone["scale"] ** 2, rel=1e-2)
        # All of it lies in the picture: nothing was lost at the border.
        assert place.sum() == pytest.approx(source.sum() * clone["scale"] ** 2, rel=0.15)
    assert (covered ^ forgery.mask).sum() < 0.1 * forgery.mask.sum()


@pytest.mark.parametrize("rotation", [0.0, 90.0, 180.0])
def test_a_plain_copy_is_exact_to_the_bit(rotation):
    rgb, _ = picture_and_donor(0)
    forgery = make_forgery(rgb, "copy_move", 2, rotation=rotation, scale=1.0, mirrored=False, gain=1.0, feather=0.0)
    rows, columns = forgery.mask.nonzero()
    for clone in forgery.parameters["clones"]:
        back = cv2.invertAffineTransform(np.array(clone["matrix"]))
        from_x, from_y = np.rint(back @ np.stack([columns, rows, np.ones_like(rows)])).astype(int)
        own = (from_x >= 0) & (from_y >= 0) & (from_x < rgb.shape[1]) & (from_y < rgb.shape[0])
        own[own] = forgery.source_mask[from_y[own], from_x[own]]
        assert own.any()
        assert np.array_equal(forgery.image[rows[own], columns[own]], rgb[from_y[own], from_x[own]])


@pytest.mark.parametrize("area", [0.01, 0.05, 0.1])
def test_sizes_are_as_asked_for(area):
    shares = [make_forgery(PICTURES[0], "copy_move", seed, area=area, clones=1).mask.mean() for seed in range(6)]
    assert np.mean(shares) == pytest.approx(area, rel=0.4)


def test_smooth_and_textured_sources_differ():
    grey = cv2.cvtColor(PICTURES[0], cv2.COLOR_RGB2GRAY).astype(np.float32)
    edges = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    strength = {
        texture: np.mean(
            [edges[make_forgery(PICTURES[0], "copy_move", s, texture=texture).source_mask].mean() for s in range(6)]
        )
        for texture in ("smooth", "textured")
    }
    assert strength["textured"] > 1.5 * strength["smooth"]


def test_a_plain_black_source_is_no_copy_move():
    rgb = np.zeros((160, 160, 3), np.uint8)
    rgb[:, 80:] = 255
    with pytest.raises(ForgeryFailed):
        make_forgery(rgb, "copy_move", 0, texture="smooth", shape="ellipse", area=0.01)


# --- The other techniques ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAME_PLACE)
def test_a_given_region_is_taken(name):
    rgb = PICTURES[2]
    region = np.zeros(rgb.shape[:2], bool)
    region[60:110, 90:150] = True
    forgery = make_forgery(rgb, name, 4, region=region)
    assert np.array_equal(forgery.mask, region)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_splice_is_the_donors_piece_by_the_recorded_transform(seed):
    rgb, donor = picture_and_donor(seed)
    forgery = make_forgery(rgb, "splicing", seed, donor=donor, colour_match=0.0)
    size = rgb.shape[1], rgb.shape[0]
    expected = cv2.warpAffine(
        cv2.GaussianBlur(donor, (0, 0), 0.8), np.array(forgery.parameters["matrix"]), size, flags=cv2.INTER_LINEAR
    )
    inner = cv2.erode(forgery.mask.astype(np.uint8), np.ones((9, 9))).astype(bool)
    difference = np.abs(cv2.GaussianBlur(forgery.image, (0, 0), 0.8).astype(int) - expected)
    assert difference[inner].mean() < 6.0


def test_a_splice_takes_the_given_object():
    rgb, donor = picture_and_donor(0)
    donor_mask = np.zeros(donor.shape[:2], bool)
    donor_mask[50:130, 60:180] = True
    forgery = make_forgery(rgb, "splicing", 1, donor=donor, donor_mask=donor_mask, scale=1.0, rotation=0.0)
    assert forgery.mask.sum() == donor_mask.sum()


def test_colour_matching_brings_the_piece_closer_to_its_surroundings():
    rgb, donor = PICTURES[3], PICTURES[1]
    plain, matched = (make_forgery(rgb, "splicing", 9, donor=donor, colour_match=share) for share in (0.0, 1.0))
    assert np.array_equal(plain.mask, matched.mask)
    ring = cv2.dilate(plain.mask.astype(np.uint8), np.ones((21, 21))).astype(bool) & ~plain.mask
    distance = [
        np.abs(forgery.image[forgery.mask].mean(axis=0) - rgb[ring].mean(axis=0)).sum() for forgery in (plain, matched)
    ]
    assert distance[1] < 0.6 * distance[0]


@pytest.mark.parametrize("method", ["telea", "navier_stokes", "exemplar"])
def test_every_method_of_inpainting_removes_what_was_there(method):
    rgb = np.repeat((120 + 60 * np.sin(np.arange(192) / 5.0)).astype(np.uint8)[None, :], 192, axis=0)
    rgb = np.repeat(rgb[..., None], 3, axis=2)
    hole = np.zeros((192, 192), bool)
    hole[80:110, 70:120] = True
    damaged = rgb.copy()
    damaged[hole] = (255, 0, 0)
    filled = make_forgery(damaged, "inpainting", 0, method=method, region=hole).image
    red = (filled[hole].astype(int)[:, 0] - filled[hole][:, 1] > 60).mean()
    assert red < 0.02
    if method == "exemplar":
        assert np.abs(filled.astype(int) - rgb)[hole].mean() < 12.0


def test_exemplar_filling_needs_a_whole_patch_to_copy():
    hole = np.ones((96, 96), bool)
    hole[:3] = False
    assert fill_by_patches(PICTURES[0][:96, :96], hole, np.random.default_rng(0)) is None


def test_exemplar_filling_keeps_the_grain():
    rgb = np.random.default_rng(3).normal(128, 20, (160, 160, 3)).clip(0, 255).astype(np.uint8)
    hole = np.zeros((160, 160), bool)
    hole[60:100, 60:100] = True
    filled = fill_by_patches(rgb, hole, np.random.default_rng(0))
    assert filled is not None
    assert filled[hole].std() > 0.6 * rgb[hole].std()


def test_double_compression_leaves_two_histories():
    rgb, donor = picture_and_donor(2)
    forgery = make_forgery(rgb, "double_compression", 6, donor=donor, picture_quality=55, aligned=False)
    forged, pristine = encode_pair(forgery, Encoding(quality=55, subsampling="4:2:0"))
    # Saved again with its own table the picture hardly changes, but the foreign piece does.
    loss = np.abs(pixels(forged).astype(int) - forgery.image).mean(axis=2)
    assert np.abs(pixels(pristine).astype(int) - forgery.twin).mean() < 1.0
    inner = cv2.erode(forgery.mask.astype(np.uint8), np.ones((17, 17))).astype(bool)
    outer = ~cv2.dilate(forgery.mask.astype(np.uint8), np.ones((33, 33))).astype(bool)
    assert loss[inner].mean() > 2.0 * loss[outer].mean()
    assert forgery.parameters["grid_offset"] != [0, 0]


def test_noise_is_as_strong_as_asked_for():
    rgb = np.full((160, 160, 3), 128, np.uint8)
    for kind in ("gaussian", "shot", "grain"):
        forgery = make_forgery(rgb, "noise_mismatch", 2, kind=kind, sigma=9.0, denoised=False, feather=0.0)
        assert forgery.image[forgery.mask].std() == pytest.approx(9.0, rel=0.1)


# --- The entry point --------------------------------------------------------------------------------------------------


def test_a_technique_draws_among_its_makers_and_respects_the_lack_of_a_donor():
    rng = np.random.default_rng(0)
    drawn = {find_maker(Technique.OTHER, rng, has_donor=False).name for _ in range(60)}
    assert drawn == {name for name, made_by in makers().items() if made_by.technique is Technique.OTHER}
    with pytest.raises(ValueError, match="without a donor"):
        make_forgery(PICTURES[0], Technique.SPLICING, 0)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="no forgery maker is named"):
        make_forgery(PICTURES[0], "collage", 0)
    with pytest.raises(ValueError, match="give a donor"):
        make_forgery(PICTURES[0], "splicing", 0)
    with pytest.raises(ValueError, match="64 pixels"):
        make_forgery(np.zeros((40, 200, 3), np.uint8), "retouch", 0)
    with pytest.raises(ValueError, match="uint8"):
        make_forgery(PICTURES[0].astype(np.float32), "retouch", 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mask does not fit"):
        make_forgery(PICTURES[0], "splicing", 0, donor=PICTURES[1], donor_mask=np.ones((3, 3), bool))
    with pytest.raises(TypeError, match="sparkle"):
        make_forgery(PICTURES[0], "retouch", 0, sparkle=1)
    with pytest.raises(ValueError, match="quality"):
        Encoding(quality=0)


def test_two_makers_of_one_name_are_refused():
    def plant_retouch(rgb: RGB, rng: np.random.Generator) -> Draft | None:
        """Another one."""
        return None

    with pytest.raises(ValueError, match="two forgery makers"):
        maker(technique=Technique.OTHER)(plant_retouch)


def test_drawn_encodings_are_varied():
    rng = np.random.default_rng(1)
    encodings = [Encoding.drawn(rng) for _ in range(60)]
    assert {encoding.format for encoding in encodings} == {"png", "jpeg", "webp"}
    assert all(60 <= encoding.quality <= 98 for encoding in encodings)
    assert {encoding.suffix for encoding in encodings} == {".png", ".jpg", ".webp"}


def test_training_needs_nothing_but_numpy_opencv_and_pillow():
    heavy = "{'grpc', 'scipy', 'skimage', 'sklearn', 'google'}"
    script = f"import sys; import evaluation.forgery; print(*{heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not done.stdout.strip()


def test_a_generator_goes_on_where_it_was():
    rng = np.random.default_rng(5)
    first, second = (make_forgery(PICTURES[0], "copy_move", rng) for _ in range(2))
    assert np.array_equal(first.image, make_forgery(PICTURES[0], "copy_move", 5).image)
    assert not np.array_equal(first.image, second.image)
