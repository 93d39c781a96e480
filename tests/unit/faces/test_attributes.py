"""Age ranges by cases worked out by hand; what goes into the networks and comes out."""

from __future__ import annotations

import numpy as np
import pytest

from services.faces.attributes import age, gender
from services.faces.face import Gender


def at(**mass: float) -> np.ndarray:
    """A distribution with the given mass at the given ages: at(y30=0.5, y31=0.5)."""
    row = np.zeros((1, 81), np.float32)
    for name, value in mass.items():
        row[0, int(name[1:])] = value
    return row


@pytest.mark.parametrize(
    ("years", "expected"),
    [
        (0, (0, 2)), (2, (0, 2)),
        (3, (0, 2)),                  # 1 from (0-2), 1 from (4-6): the younger
        (4, (4, 6)), (6, (4, 6)),
        (7, (4, 6)),                  # 1 and 1: the younger
        (8, (8, 12)), (13, (8, 12)),
        (14, (15, 20)),               # 2 and 1
        (22, (15, 20)),               # 2 and 3
        (23, (25, 32)),               # 3 and 2
        (35, (25, 32)),               # 3 and 3: the younger
        (36, (38, 43)),
        (45, (38, 43)), (46, (48, 53)),
        (56, (48, 53)),               # 3 and 4
        (57, (60, 100)), (80, (60, 100)),
    ],
)  # fmt: skip
def test_every_age_counts_towards_the_nearest_range(years, expected):
    assert age.range_of(years) == expected


def test_all_ages_have_a_range_and_ranges_do_not_cross():
    order = [age.AGE_RANGES.index(age.range_of(years)) for years in range(age.AGES)]
    assert order == sorted(order)
    assert set(order) == set(range(8))


def test_the_range_with_the_most_mass_wins_not_the_mean():
    # Mean 33.2 would be in no range near 60; the masses are 0.4, 0.35 and 0.25.
    (estimate,) = age.read(at(y5=0.35, y26=0.2, y31=0.2, y75=0.25))
    assert estimate.age_range == "(25-32)"
    assert estimate.range_probability == pytest.approx(0.4)
    assert estimate.years == pytest.approx(5 * 0.35 + 26 * 0.2 + 31 * 0.2 + 75 * 0.25)


def test_ages_in_gaps_add_to_their_range():
    (estimate,) = age.read(at(y34=0.3, y29=0.3, y38=0.4))
    assert estimate.age_range == "(25-32)"
    assert estimate.range_probability == pytest.approx(0.6)


def test_of_two_equal_ranges_the_younger_wins():
    (estimate,) = age.read(at(y1=0.5, y70=0.5))
    assert estimate.age_range == "(0-2)"


def test_the_distribution_sums_to_one_though_rounding_took_some():
    (estimate,) = age.read(at(y20=0.4, y40=0.4))
    assert sum(estimate.distribution) == pytest.approx(1)
    assert estimate.years == pytest.approx(30)
    assert len(estimate.distribution) == 81


def test_gender_follows_the_order_of_the_classes():
    female, male, tie = gender.read(np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], np.float32))
    assert (female.gender, male.gender, tie.gender) == (Gender.FEMALE, Gender.MALE, Gender.FEMALE)
    assert female.probability == pytest.approx(0.9)
    assert tie.probability == pytest.approx(0.5)


@pytest.mark.parametrize("network", [age, gender])
@pytest.mark.parametrize(
    "output", [np.zeros((1, 81)), np.zeros((1, 2)), np.full((2, 81), np.nan), np.full((2, 2), -1), np.ones((1, 7))]
)
def test_what_is_no_distribution_is_refused(network, output):
    with pytest.raises(ValueError, match=r"distribution|probabilities"):
        network.read(output)
