"""What copy-move reckons with: the same as NumPy, only faster."""

from __future__ import annotations

import numpy as np
import pytest

from services.passive.detectors._copy_move.geometry import places, quantile


@pytest.mark.parametrize("count", [1, 2, 3, 10, 1000, 1001])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_quantiles_are_those_of_numpy(count: int, share: float) -> None:
    values = np.random.default_rng(count).normal(0, 10, count).astype(np.float32)

    assert quantile(values, share) == pytest.approx(np.quantile(values.astype(np.float64), share), rel=1e-12, abs=1e-12)


def test_a_place_counts_once_on_either_side_of_the_border() -> None:
    points = np.array([[0.0, 0.0], [1.0, -1.0], [-3.0, 0.0], [-3.0, 0.5], [0.0, -3.0], [0.0, 3.0], [3.0, 0.0]])

    assert places(points) == 5
