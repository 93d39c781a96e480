"""The finders, for all tests of faces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from services.common.images import Picture
from services.common.limiter import WorkLimiter
from services.faces.finders.haar import HaarFinder
from services.faces.finders.mediapipe import MediaPipeFinder
from triton_models.layout import data_folder


@pytest.fixture(scope="session")
def mediapipe_asset() -> Path:
    path = data_folder() / "models/assets/mediapipe/face_detection_short_range.tflite"
    if not path.is_file():
        pytest.skip("MediaPipe's network is not there: python -m triton_models.fetch brings it")
    return path


@pytest.fixture(scope="session")
def mediapipe(mediapipe_asset) -> Iterator[MediaPipeFinder]:
    finder = MediaPipeFinder(mediapipe_asset)
    yield finder
    finder.close()


@pytest.fixture(scope="session")
def haar() -> Iterator[HaarFinder]:
    finder = HaarFinder()
    yield finder
    finder.close()


@pytest.fixture(params=["mediapipe", "haar"])
def finder(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def astronaut() -> Picture:
    """512 x 512; her face is at about (177, 82) to (272, 177)."""
    return Picture.from_array(np.ascontiguousarray(data.astronaut()))


@pytest.fixture
def limiter() -> Iterator[WorkLimiter]:
    limiter = WorkLimiter(workers=1, queue=50)
    yield limiter
    limiter.close()
