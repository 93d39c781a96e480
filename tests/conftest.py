"""Fixtures that several kinds of tests share."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from mesh import Mesh


def jpeg(rgb: np.ndarray, quality: int = 92) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def photograph() -> bytes:
    """An honest photograph without a person."""
    return jpeg(skimage.data.coffee())


@pytest.fixture(scope="session")
def forgery() -> bytes:
    """The same photograph with a piece of it copied to another place."""
    rgb = skimage.data.coffee().copy()
    rgb[250:350, 40:160] = rgb[60:160, 300:420]
    return jpeg(rgb)


@pytest.fixture(scope="session")
def portrait() -> bytes:
    """A photograph of a person (NASA, public domain)."""
    return jpeg(skimage.data.astronaut())


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """The whole mesh, with rate limits lifted and loopback URLs allowed."""
    running = Mesh(
        tmp_path_factory.mktemp("mesh"),
        PENTIMENTO_FETCH_ALLOW_LOOPBACK="true",
        PENTIMENTO_RATE_LIMIT_IMAGE="0",
        PENTIMENTO_RATE_LIMIT_ANALYSIS="0",
        PENTIMENTO_RATE_LIMIT_BATCH="0",
        PENTIMENTO_RATE_LIMIT_OTHER="0",
    )
    try:
        running.start()
        yield running
    finally:
        running.stop()
