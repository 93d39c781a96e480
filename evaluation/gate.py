"""The gate: detectors on pictures that the repository makes for itself, quick enough for every change.

Honest pictures: scikit-image's photographs and procedural scenes, some full of repetition. Forgeries: for each
technique that a detector names and the forgery maker plants. It fails if a detector accuses more honest pictures, or
finds fewer forgeries, than gate.toml allows. A detector that gate.toml does not name is held to `DEFAULT`.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from evaluation.forgery import Encoding, ForgeryFailed, make_pair, makers
from evaluation.pristine import Pristine, pristine_pictures
from evaluation.report import alarm_threshold
from evaluation.subjects import Backend, PassiveBackend, Subject
from services.common.detection import Technique

__all__ = ["GateResult", "run_gate"]

BOUNDS: Final = Path(__file__).parent / "gate.toml"
DEFAULT: Final = {"max_accused": 2, "min_found_share": 0.0}
ENCODING: Final = Encoding(format="jpeg", quality=92)
EASY: Final[dict[str, dict[str, Any]]] = {
    "copy_move": {"texture": "textured", "area": (0.02, 0.08), "mirrored": False, "clones": 1},
}
"""What is planted is meant to be found: the gate watches for breakage, the evaluation measures how good it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """One detector at the gate.

    Attributes:
        subject: the detector.
        accused: names of the honest pictures at which it raised an alarm. honest: how many there were.
        found: forgeries found. planted: of so many.
        failures: what is out of bounds, in sentences; empty if it passes.
    """

    subject: Subject
    accused: tuple[str, ...]
    honest: int
    found: int
    planted: int
    failures: tuple[str, ...]


def run_gate(backends: Sequence[Backend] | None = None, *, size: int = 384, variants: int = 2) -> list[GateResult]:
    """Runs all detectors over the set; takes under a minute on two cores.

    Args:
        backends: what to measure; the passive service's detectors by default.
        size: longest side of the pictures, in pixels.
        variants: procedural pictures of each scene.
    """
    pictures = list(pristine_pictures(size=size, variants=variants))
    bounds = tomllib.loads(BOUNDS.read_text(encoding="utf-8"))
    chosen = backends if backends is not None else [PassiveBackend("")]
    planted = _plant({t for backend in chosen for subject in backend.subjects() for t in subject.techniques}, pictures)
    results = []
    for backend in chosen:
        subjects = list(backend.subjects())
        honest = {picture.name: _alarms(backend, ENCODING.encode(picture.rgb), subjects) for picture in pictures}
        found: Counter[str] = Counter()
        for technique, forgeries in planted.items():
            meant = [subject for subject in subjects if technique in subject.techniques]
            for forged in forgeries if meant else ():
                found.update(_alarms(backend, forged, meant))
        for subject in subjects:
            accused = tuple(name for name, alarms in honest.items() if subject.name in alarms)
            count = sum(len(planted[technique]) for technique in subject.techniques if technique in planted)
            results.append(
                GateResult(
                    subject=subject,
                    accused=accused,
                    honest=len(pictures),
                    found=found[subject.name],
                    planted=count,
                    failures=_failures(
                        {**DEFAULT, **bounds.get(subject.name, {})}, accused, found[subject.name], count
                    ),
                )
            )
    return results


def _plant(techniques: Collection[Technique], pictures: Sequence[Pristine]) -> dict[Technique, list[bytes]]:
    """A forgery in every picture, by technique, of those that the maker can plant."""
    planted: dict[Technique, list[bytes]] = {}
    for technique in sorted(techniques, key=lambda technique: technique.value):
        names = [maker.name for maker in makers().values() if maker.technique is technique]
        if not names or technique is Technique.OTHER:
            continue
        forgeries = []
        for seed, picture in enumerate(pictures):
            donor = pictures[(seed + 1) % len(pictures)].rgb
            name = names[seed % len(names)]
            try:
                pair = make_pair(picture.rgb, name, seed, ENCODING, donor=donor, **EASY.get(name, {}))
            except ForgeryFailed:
                continue  # too plain for a forgery that could be found
            forgeries.append(pair.forged)
        planted[technique] = forgeries
    return planted


def _alarms(backend: Backend, content: bytes, subjects: Sequence[Subject]) -> set[str]:
    measurements = backend.measure(content, {subject.name for subject in subjects})
    return {
        subject.name
        for subject in subjects
        if (score := measurements[subject.name].score) is not None and score >= alarm_threshold(subject)
    }


def _failures(bounds: Mapping[str, float], accused: Sequence[str], found: int, planted: int) -> tuple[str, ...]:
    failures = []
    if len(accused) > bounds["max_accused"]:
        failures.append(
            f"accuses {len(accused)} honest pictures (at most {bounds['max_accused']}): {', '.join(accused)}"
        )
    if planted and found / planted < bounds["min_found_share"]:
        failures.append(f"finds {found} of {planted} planted forgeries (at least {bounds['min_found_share']:.0%})")
    return tuple(failures)
