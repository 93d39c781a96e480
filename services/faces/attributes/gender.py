"""Apparent gender: two probabilities.

A linear head reads them off what CLIP's first blocks see of the face (`triton_models/gender`). Of infants it knows
little more than chance.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.faces.attributes._network import TracesNetwork, distributions
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


NETWORK: Final = TracesNetwork(model="gender", read=read)
