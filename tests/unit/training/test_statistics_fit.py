"""The fit finds a fact that tells, and no more than there is."""

from __future__ import annotations

import numpy as np
import pytest

from training.screening_metrics.fitting import Examples, fit_statistic


def examples(seed: int, *, difference: float, n: int = 600) -> Examples:
    rng = np.random.default_rng(seed)
    generated = rng.random(n) < 0.3
    numbers = rng.standard_normal((n, 3)) * [1.0, 10.0, 0.1] + [0.0, 5.0, 1.0]
    numbers[:, 1] += 10.0 * difference * generated
    return Examples(numbers=numbers, generated=generated, weights=np.ones(n))


def test_the_fact_that_tells_gets_the_weight():
    fitted = fit_statistic(examples(1, difference=2.0), examples(2, difference=2.0))
    assert fitted.auc > 0.88
    assert fitted.weights[1] > 5 * max(abs(fitted.weights[0]), abs(fitted.weights[2]))


def test_where_nothing_tells_the_area_is_a_half():
    fitted = fit_statistic(examples(1, difference=0.0), examples(2, difference=0.0))
    assert 0.42 < fitted.auc < 0.58


def test_percentiles_are_of_held_out_photographs_by_weight():
    held_out = examples(2, difference=1.0)
    fitted = fit_statistic(examples(1, difference=1.0), held_out)
    log_odds = fitted.standardised(held_out.numbers) @ np.asarray(fitted.weights) + fitted.intercept
    below = (log_odds[~held_out.generated] < fitted.photographs[95]).mean()
    assert below == pytest.approx(0.95, abs=0.01)


def test_one_class_cannot_be_fitted():
    only = examples(1, difference=0.0)
    photographs = Examples(numbers=only.numbers, generated=np.zeros(600, bool), weights=only.weights)
    with pytest.raises(ValueError, match="generated pictures and photographs"):
        fit_statistic(photographs, only)
