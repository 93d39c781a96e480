"""Apparent gender: two probabilities.

A ResNet-10 on aligned chips of 64 x 64 pixels, trained here on faces of all ages, and dlib's network for adults are
asked as one (`triton_models/gender`). Of infants they know little more than chance.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.faces.alignment import face_chip
from services.faces.attributes._network import FaceNetwork, distributions, normalised
from services.faces.face import Gender, GenderEstimate

__all__ = ["CLASSES", "NETWORK", "read"]

CLASSES: Final = (Gender.FEMALE, Gender.MALE)
"""By the network's index."""


def read(probabilities: NDArray[np.floating]) -> list[GenderEstimate]:
    """The network's output, (n, 2), as estimates; of two equal probabilities, the first class.

    Raises:
        ValueError: another shape, or numbers that are no probabilities.
    """
    estimates = []
    for row in distributions(probabilities, len(CLASSES)):
        best = int(np.argmax(row))
        estimates.append(GenderEstimate(gender=CLASSES[best], probability=float(row[best])))
    return estimates


NETWORK: Final = FaceNetwork(
    model="gender", cut=partial(face_chip, size=64, as_dlib=True), views=2, prepare=normalised, read=read
)
