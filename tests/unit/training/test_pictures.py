"""What is read as a picture or a mask."""

import io

import numpy as np
import pytest
from scipy.io import savemat

from training.data.pictures import UnreadablePicture, read_pixels


def matlab(**variables: object) -> bytes:
    file = io.BytesIO()
    savemat(file, variables)
    return file.getvalue()


def test_a_matlab_file_gives_its_mask() -> None:
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:5] = 1
    rgb = read_pixels(matlab(bgMask=1 - mask, objMask=mask))
    assert rgb.shape == (4, 6, 3)
    assert np.array_equal(rgb[..., 0] > 127, mask > 0)
    assert set(np.unique(rgb)) == {0, 255}


@pytest.mark.parametrize(
    "content",
    [
        matlab(other=np.ones((3, 3))),
        matlab(mask=np.ones((3, 3, 3))),
        matlab(mask="text"),
        matlab(mask=np.ones((3, 3)))[:150],
        b"MATLAB 5.0 MAT-file",
    ],
    ids=["no mask", "three dimensions", "text", "cut off", "header alone"],
)
def test_a_matlab_file_without_a_mask_is_refused(content: bytes) -> None:
    with pytest.raises(UnreadablePicture, match="MATLAB"):
        read_pixels(content)
