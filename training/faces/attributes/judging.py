"""How good a network is on the faces that networks are chosen by: gender and age, by band of age."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.intervals import bootstrap, proportion
from training.faces.attributes.faces import LabelledFace

__all__ = ["BANDS", "LEAST_RIGHT", "Judged", "refusal", "table"]

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

LEAST_RIGHT: Final = 0.93
"""Share of genders told right, below which a network is not served."""
BANDS: Final = ((0, 2), (3, 12), (13, 19), (20, 39), (40, 59), (60, 116))


@dataclass(frozen=True, slots=True)
class Judged:
    """Traces, float32 (n, 3072), with labels: whether male, and years, (n,)."""

    traces: Floats
    male: NDArray[np.bool_]
    years: NDArray[np.int64]

    @classmethod
    def of(cls, faces: Sequence[LabelledFace], traces: Floats) -> Judged:
        """Those that networks are chosen by."""
        chosen = [index for index, face in enumerate(faces) if face.part == "choose"]
        return cls(
            traces[chosen],
            np.array([faces[index].male == 1 for index in chosen], np.bool_),
            np.array([faces[index].years for index in chosen], np.int64),
        )


def refusal(judged: Judged, new: tuple[Doubles, Doubles], there: tuple[Doubles, Doubles] | None = None) -> str | None:
    """Why a network is not to take its place in triton_models/; None if it is.

    Args:
        judged: whom both were asked about.
        new: probability of male and years.
        there: of what is served; None if that is another kind of network.
    """
    right, error = _scores(judged, new)
    if right < LEAST_RIGHT:
        return f"not good enough: {right:.3f} of the genders right, of at least {LEAST_RIGHT}"
    if there is not None:
        right_there, error_there = _scores(judged, there)
        if right < right_there or error > error_there:
            return (
                f"worse than what is there: genders right {right_there:.3f}, now {right:.3f}; ages off by "
                f"{error_there:.2f} years, now {error:.2f}"
            )
    return None


def _scores(judged: Judged, answer: tuple[Doubles, Doubles]) -> tuple[float, float]:
    """Share of genders right, and mean error of age in years."""
    male, years = answer
    return float(((male > 0.5) == judged.male).mean()), float(np.abs(years - judged.years).mean())


def table(judged: Judged, answers: Mapping[str, tuple[Doubles, Doubles | None]]) -> str:
    """Networks side by side, in Markdown.

    Args:
        judged: whom they were asked about.
        answers: by network: probability of male, (n,), and years, (n,), if it tells them.
    """
    lines = [
        "| faces | number | " + " | ".join(f"{name}: gender right | age off by, years" for name in answers) + " |",
        "|---|---|" + "---|---|" * len(answers),
    ]
    groups = [("all", np.ones(len(judged.years), np.bool_))]
    groups += [(f"{low}-{high} years", (judged.years >= low) & (judged.years <= high)) for low, high in BANDS]
    groups += [("female", ~judged.male), ("male", judged.male)]
    for name, chosen in groups:
        if chosen.any():
            cells = [_cells(judged, chosen, male, years) for male, years in answers.values()]
            lines.append(f"| {name} | {int(chosen.sum())} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cells(judged: Judged, chosen: NDArray[np.bool_], male: Doubles, years: Doubles | None) -> str:
    share = proportion(((male > 0.5) == judged.male)[chosen].tolist())
    gender = f"{share.value:.1%} ({share.interval.low:.1%}-{share.interval.high:.1%})"
    if years is None:
        return f"{gender} | -"
    errors = np.abs(years - judged.years)[chosen]
    error = bootstrap(lambda index: float(errors[index].mean()), None, length=len(errors))
    between = f" ({error.interval.low:.1f}-{error.interval.high:.1f})" if error.interval else ""
    return f"{gender} | {error.value:.1f}{between}"
