"""Traces say what they are for: planted histories of compression, noise and grids show where they were planted."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.fft import dctn

from training.localisation.traces import BANDS, COMBED, QUALITIES, TRACES, BlockTraces, quantisation_table

GHOSTS = len(BANDS)
COMBS = GHOSTS * (len(QUALITIES) + 1) + 6
NOISE = COMBS + COMBED
GRID = NOISE + 10


@pytest.fixture(scope="module")
def traces() -> BlockTraces:
    return BlockTraces()


@pytest.fixture
def rgb() -> np.ndarray:
    """Smooth noise: every frequency has some energy, high ones less."""
    rng = np.random.default_rng(2)
    down, across = np.meshgrid(np.fft.fftfreq(256), np.fft.rfftfreq(256), indexing="ij")
    planes = []
    for _ in range(3):
        spectrum = np.fft.rfft2(rng.standard_normal((256, 256))) / (0.01 + np.hypot(down, across)) ** 1.6
        plane = np.fft.irfft2(spectrum)
        planes.append(128 + 40 * plane / plane.std())
    return np.clip(np.stack(planes, axis=2).mean(axis=2, keepdims=True).repeat(3, axis=2), 0, 255).astype(np.uint8)


def _saved(rgb: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, subsampling=0)
    return np.array(Image.open(buffer))


def _of(traces: BlockTraces, rgb: np.ndarray) -> np.ndarray:
    return traces(torch.from_numpy(rgb.transpose(2, 0, 1)[None].copy()).float())[0].numpy()


def test_shapes_follow_the_picture(traces):
    found = traces(torch.rand(2, 3, 48, 80) * 255)
    assert found.shape == (2, TRACES, 6, 10)
    assert torch.isfinite(found).all()
    assert torch.isfinite(traces(torch.zeros(1, 3, 16, 16))).all()


def test_coefficients_are_those_of_jpeg(traces):
    block = np.random.default_rng(0).uniform(-128, 127, (8, 8)).astype(np.float32)
    found = torch.nn.functional.conv2d(torch.from_numpy(block)[None, None], traces.get_buffer("dct"), stride=8)
    assert found.reshape(8, 8).numpy() == pytest.approx(dctn(block, norm="ortho"), abs=1e-3)


def test_tables_are_those_that_a_jpeg_is_saved_with(rgb):
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=83)
    tables = Image.open(buffer).quantization
    zigzag = sorted(range(64), key=lambda i: (i // 8 + i % 8, i % 8 if (i // 8 + i % 8) % 2 == 0 else i // 8))
    # Pillow gives tables in the order of rows.
    assert list(tables[0]) in (
        [int(v) for v in quantisation_table(83).ravel()],
        [int(quantisation_table(83).ravel()[i]) for i in zigzag],
    )


@pytest.mark.parametrize("quality", [60, 75, 85])
def test_a_ghost_is_deepest_at_the_quality_that_was_used(traces, rgb, quality):
    found = _of(traces, _saved(rgb, quality))[GHOSTS : GHOSTS * (len(QUALITIES) + 1)]
    by_quality = found.reshape(len(QUALITIES), len(BANDS), -1).mean(axis=2)[:, 0]
    # Lower qualities' errors are large, and higher ones' steps are small: the right one is below its neighbours.
    place = QUALITIES.index(quality)
    assert by_quality[place] < by_quality[place - 1] - 1.0
    assert by_quality[place] < by_quality[place + 1]


def test_what_was_saved_once_lacks_the_comb_of_what_was_saved_twice(traces, rgb):
    before = _saved(rgb, 65)
    forged = before.copy()
    # Off its grid, so that the second saving is the first on this one.
    forged[64:160, 64:160] = before[67:163, 69:165]
    combs = _of(traces, _saved(forged, 90))[COMBS:NOISE]
    inside = combs[:, 8:20, 8:20].mean()
    outside = combs[:, 22:, :].mean()
    assert outside > 0.2
    assert inside < 0.3 * outside


def test_what_was_saved_once_has_no_combs(traces, rgb):
    assert abs(_of(traces, _saved(rgb, 85))[COMBS:NOISE].mean()) < 0.1


def test_noise_shows_where_it_is(traces, rgb):
    noisy = rgb.astype(np.float32)
    noisy[64:128, 64:128] += np.random.default_rng(1).normal(0, 6, (64, 64, 3))
    found = _of(traces, np.clip(noisy, 0, 255).astype(np.uint8))[NOISE:GRID]
    plain = _of(traces, rgb)[NOISE:GRID]
    assert ((found - plain)[:, 8:16, 8:16].mean(axis=(1, 2)) > 0.3).all()
    assert np.abs((found - plain)[:, :6]).max() < 1e-3


def test_the_grid_is_strongest_at_its_phase(traces, rgb):
    saved = _saved(rgb, 50)
    for shift in (0, 3):
        across, down = _of(traces, saved[shift:, shift:][:240, :240])[GRID : GRID + 16].reshape(2, 8, -1).mean(axis=2)
        # The step that ends a block lies at its last pixel.
        assert across.argmax() == down.argmax() == 7 - shift
