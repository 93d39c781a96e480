"""Age and gender against labels: mean absolute error and accuracy, by age band, gender and race label.

Labels are in the file names, as UTKFace writes them (Zhang et al. 2017, 10.1109/CVPR.2017.463):
`age_gender_race_date`, gender 0 male and 1 female, race 0 white, 1 black, 2 Asian, 3 Indian, 4 others. They are the
data set's labels, made by an algorithm and checked by people: who is "others" is whom they put there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from evaluation.faces.asking import Faces, picture_at
from evaluation.faces.wording import said
from evaluation.metrics.intervals import bootstrap, proportion
from evaluation.samples import Sample
from services.faces.face import Attribute, Gender

__all__ = ["Person", "label_of", "measure_attributes"]

NAME: Final = re.compile(r"^(\d{1,3})_([01])_([0-4])_\d+")
RACES: Final = ("white", "black", "Asian", "Indian", "others")
BANDS: Final = ((0, 12), (13, 19), (20, 39), (40, 59), (60, 116))


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A labelled face and what the networks said.

    Attributes:
        years, gender, race: the labels.
        said_years, said_gender: the estimates; None if no face was found.
    """

    years: int
    gender: Gender
    race: str
    said_years: float | None = None
    said_gender: Gender | None = None


def label_of(name: str) -> Person | None:
    """The labels in a file's name; None if it has none."""
    matched = NAME.match(name)
    if matched is None:
        return None
    years, gender, race = (int(part) for part in matched.groups())
    return Person(years=years, gender=Gender.FEMALE if gender else Gender.MALE, race=RACES[race])


async def measure_attributes(faces: Faces, samples: Sequence[Sample]) -> str:
    """Tables in Markdown. Faces that no finder found are counted, and left out of the rest."""
    people = [person for sample in samples if (person := await _ask(faces, sample)) is not None]
    found = [person for person in people if person.said_years is not None]
    lines = [f"{len(people)} faces, {len(people) - len(found)} of them not found.", ""]
    lines += ["| | faces | mean absolute error of age, years | gender right |", "|---|---|---|---|"]
    groups: list[tuple[str, str, Callable[[Person], bool]]] = [("", "all", lambda _: True)]
    groups += [("age", f"{low}-{high} years", _aged(low, high)) for low, high in BANDS]
    groups += [("gender", gender.value, _of_gender(gender)) for gender in Gender]
    groups += [("race label", race, _of_race(race)) for race in RACES]
    gaps: dict[str, list[tuple[str, float, float]]] = {}
    for kind, title, belongs in groups:
        chosen = [person for person in found if belongs(person)]
        if not chosen:
            lines.append(f"| {title} | 0 | - | - |")
            continue
        errors = np.array([abs((person.said_years or 0.0) - person.years) for person in chosen])
        right = [person.said_gender is person.gender for person in chosen]

        def mean_error(index: np.ndarray, errors: np.ndarray = errors) -> float:
            return float(errors[index].mean())

        error = bootstrap(mean_error, None, length=len(errors))
        accuracy = proportion(right)
        lines.append(
            f"| {title} | {len(chosen)} | {said(error, 1)} | {accuracy.value:.1%} "
            f"({accuracy.interval.low:.1%}-{accuracy.interval.high:.1%}) |"
        )
        if kind:
            gaps.setdefault(kind, []).append((title, error.value, accuracy.value))
    lines.append("")
    for kind, values in gaps.items():
        by_error = sorted(values, key=lambda item: item[1])
        by_gender = sorted(values, key=lambda item: item[2])
        lines.append(
            f"Largest gap by {kind}: age {by_error[-1][1] - by_error[0][1]:.1f} years ({by_error[-1][0]} against "
            f"{by_error[0][0]}), gender {100 * (by_gender[-1][2] - by_gender[0][2]):.1f} points ({by_gender[0][0]} "
            f"against {by_gender[-1][0]})."
        )
    return "\n".join(lines)


async def _ask(faces: Faces, sample: Sample) -> Person | None:
    label = label_of(sample.path.name)
    if label is None:
        return None
    picture = picture_at(sample.path)
    found = (await faces.finders.find(picture, max_faces=1)).faces
    description = await faces.describer.describe(picture, found, {Attribute.AGE, Attribute.GENDER})
    for error in description.unanswered.values():
        raise error
    for face in description.faces:
        if face.age and face.gender:
            return Person(
                years=label.years,
                gender=label.gender,
                race=label.race,
                said_years=face.age.years,
                said_gender=face.gender.gender,
            )
    return label


def _aged(low: int, high: int) -> Callable[[Person], bool]:
    return lambda person: low <= person.years <= high


def _of_gender(gender: Gender) -> Callable[[Person], bool]:
    return lambda person: person.gender is gender


def _of_race(race: str) -> Callable[[Person], bool]:
    return lambda person: person.race == race
