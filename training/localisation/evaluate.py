"""How good the network is: planted forgeries, hand-made ones, false alarms, and the class; beside the baselines.

- *planted*: one forgery of each maker in each photograph of the split, encoded as pictures on the web are
  (`Encoding.drawn`); the pristine twin is encoded likewise.
- *hand-made*: the forged pictures of the list, by collection, as they are.
- *pristine*: the photographs of the list, as they are.

Thresholds are fitted on the split `calibrate`, one for all sets: a baseline's is the one that is best on planted
forgeries; the network's is the one that is best on these and on hand-made ones, among those at which at most
`MAX_FALSE_AREA` of pristine pictures is marked and at most `MAX_ACCUSED` of them are accused, and what lies at it comes
out as 0.5. Intervals are 95% cluster bootstraps over groups.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from evaluation.forgery import Encoding, ForgeryFailed, make_forgery, makers
from evaluation.metrics.intervals import Estimate, bootstrap
from evaluation.metrics.localization import THRESHOLD, false_alarm_area, score_image
from services.common.detection import Technique
from training.localisation.baselines import BASELINES
from training.localisation.classes import CLASS_OF, CLASSES, PRISTINE
from training.localisation.faces import self_blended
from training.localisation.inference import Predictor, localise
from training.localisation.post_process import saved
from training.localisation.store import Store, Stored

__all__ = [
    "Case",
    "beats_baselines",
    "comparison",
    "evaluate",
    "fit_baselines",
    "fit_threshold",
    "handmade_cases",
    "planted_cases",
    "pristine_cases",
    "table",
]

RGB = NDArray[np.uint8]
Mask = NDArray[np.bool_]
MARKED: Final = 0.01
"""A pristine picture with more than this share marked counts as accused."""
MAX_FALSE_AREA: Final = 0.007
"""Largest mean share of pristine pictures that the network may mark on calibrate; 1 % is what is promised."""
MAX_ACCUSED: Final = 0.10
"""Largest share of pristine pictures that the network may accuse on calibrate."""
_THRESHOLDS: Final = np.arange(0.05, 1.0, 0.05)
_NETWORK_THRESHOLDS: Final = np.append(np.arange(0.05, 0.96, 0.025), (0.97, 0.98, 0.99))


@dataclass(frozen=True, slots=True)
class Case:
    """A picture to be judged.

    Attributes:
        name: of the set that it is reported in.
        rgb: uint8 (h, w, 3).
        mask: bool (h, w); None for a pristine picture.
        label: the class, `CLASS_OF`; None where it plays no part in the accuracy.
        group: pictures of equal group are not independent.
    """

    name: str
    rgb: RGB
    mask: Mask | None
    label: int | None
    group: str


def _read(stored: Stored) -> RGB:
    return np.array(stored.read()[0])


def planted_cases(store: Store, *, limit: int | None = None, seed: int = 1) -> Iterator[Case]:
    """Forgeries planted into the photographs and faces of a store, and their pristine twins.

    Args:
        store: pictures of one split.
        limit: at most so many photographs a maker.
        seed: another seed, other forgeries.
    """
    photographs = [stored for stored in store if stored.kind == "photograph"]
    faces = [stored for stored in store if stored.face is not None]
    for name in [*makers(), "face"]:
        among = faces if name == "face" else photographs
        order = np.random.default_rng([seed, zlib.crc32(name.encode())]).permutation(len(among))
        for index in order[:limit]:
            stored = among[int(index)]
            rng = np.random.default_rng([seed, zlib.crc32(f"{name} {stored.group}".encode())])
            rgb = _read(stored)
            encoding = Encoding.drawn(rng)
            if name == "face":
                assert stored.face is not None
                height, width = rgb.shape[:2]
                left, top, right, bottom = stored.face
                blended = self_blended(rgb, (left * width, top * height, right * width, bottom * height), rng)
                if blended is None:
                    continue
                image, mask, technique, twin = *blended, Technique.FACE, rgb
            else:
                donor = _read(photographs[int(rng.integers(len(photographs)))]) if makers()[name].needs_donor else None
                try:
                    forgery = make_forgery(rgb, name, rng, donor=donor)
                except ForgeryFailed:
                    continue
                image, mask, technique, twin = forgery.image, forgery.mask, forgery.technique, forgery.twin
            label = CLASS_OF[technique]
            yield Case(f"planted {name}", saved(image, encoding), mask, label if label >= 0 else None, stored.group)
            # One pristine twin for every fourth forgery keeps the five classes about even.
            if rng.random() < 0.25:
                yield Case("planted pristine twin", saved(twin, encoding), None, PRISTINE, stored.group)


def handmade_cases(store: Store, *, limit: int | None = None) -> Iterator[Case]:
    """The forged pictures of a store as they are, at most `limit` a collection."""
    seen: dict[str, int] = {}
    for stored in store:
        if stored.kind != "forged" or (limit is not None and seen.get(stored.origin, 0) >= limit):
            continue
        rgb, mask = stored.read()
        if mask is not None and mask.any():
            seen[stored.origin] = seen.get(stored.origin, 0) + 1
            yield Case(f"hand-made {stored.origin}", np.array(rgb), np.array(mask), None, stored.group)


def pristine_cases(store: Store, *, limit: int | None = None) -> Iterator[Case]:
    """The photographs of a store as they are, at most `limit` a collection."""
    seen: dict[str, int] = {}
    for stored in store:
        if stored.kind != "photograph" or (limit is not None and seen.get(stored.origin, 0) >= limit):
            continue
        seen[stored.origin] = seen.get(stored.origin, 0) + 1
        yield Case("pristine", _read(stored), None, None, stored.group)


def evaluate(
    predict: Predictor | None, cases: Sequence[Case], baseline_thresholds: Mapping[str, float]
) -> dict[str, Any]:
    """Judges the cases with the network and the baselines.

    Returns:
        JSON-serialisable: for each set and method "f1" (or "area" and "accused" of pristine sets), and of the network
        the balanced accuracy over the five classes and the confusion behind it.
    """
    scores: dict[str, dict[str, list[float]]] = {}
    groups: dict[str, list[str]] = {}
    judged: list[tuple[int, int, str]] = []
    reliable: list[tuple[float, bool]] = []
    for case in tqdm(cases, desc="judging", disable=None):
        maps: dict[str, tuple[NDArray[np.float32], float]] = {
            name: (baseline(case.rgb), baseline_thresholds[name]) for name, baseline in BASELINES.items()
        }
        if predict is not None:
            found = localise(case.rgb, predict)
            maps["network"] = found.mask, THRESHOLD
            if case.label is not None:
                judged.append((case.label, int(found.classes.argmax()), case.group))
            truth = np.zeros(case.rgb.shape[:2], bool) if case.mask is None else case.mask
            right = (found.mask >= THRESHOLD) == truth
            reliable.extend(zip(found.reliability[::16, ::16].ravel(), right[::16, ::16].ravel(), strict=True))
        groups.setdefault(case.name, []).append(case.group)
        for method, (heat, threshold) in maps.items():
            value = (
                false_alarm_area(heat, threshold=threshold)
                if case.mask is None
                else score_image(case.mask, heat, threshold=threshold).counts.f1
            )
            scores.setdefault(case.name, {}).setdefault(method, []).append(value)
    pristine = {case.name for case in cases if case.mask is None}
    sets: dict[str, Any] = {}
    for name, by_method in scores.items():
        sets[name] = {
            "pictures": len(groups[name]),
            "groups": len(set(groups[name])),
            "measure": "area" if name in pristine else "f1",
            **{method: _estimate(values, groups[name]) for method, values in by_method.items()},
        }
        if name in pristine:
            sets[name]["accused"] = {
                method: _estimate([float(value > MARKED) for value in values], groups[name])
                for method, values in by_method.items()
            }
    planted = [name for name in scores if name.startswith("planted") and name not in pristine]
    if planted:
        merged = [group for name in planted for group in groups[name]]
        sets["planted, all"] = {
            "pictures": len(merged),
            "groups": len(set(merged)),
            "measure": "f1",
            **{
                method: _estimate([value for name in planted for value in scores[name][method]], merged)
                for method in scores[planted[0]]
            },
        }
    result: dict[str, Any] = {"sets": sets, "baseline_thresholds": dict(baseline_thresholds)}
    if judged:
        result["classes"] = _classes(judged)
    if reliable:
        result["reliability"] = _reliability(reliable)
    return result


def beats_baselines(result: Mapping[str, Any]) -> bool:
    """Whether the network's mean F1 on all planted forgeries is above every baseline's, by more than chance.

    The lower end of its interval must be above the baselines' values.
    """
    row = result["sets"]["planted, all"]
    low = row["network"]["low"]
    return low is not None and low > max(float(row[name]["value"]) for name in BASELINES)


def fit_threshold(predict: Predictor, cases: Sequence[Case]) -> float:
    """The probability to cut the network's mask at: best F1 that `MAX_FALSE_AREA` and `MAX_ACCUSED` allow.

    Args:
        predict: the network, its mask's probabilities as they are.
        cases: planted and hand-made forgeries, and pristine pictures, of the split `calibrate`. F1 is the mean over
            planted ones and each collection of hand-made ones.
    """
    f1: dict[str, list[list[float]]] = {}
    areas = []
    for case in tqdm(cases, desc="fitting the threshold", disable=None):
        heat = localise(case.rgb, predict).mask
        if case.mask is None:
            areas.append([false_alarm_area(heat, threshold=float(t)) for t in _NETWORK_THRESHOLDS])
        else:
            name = case.name.split()[0] if case.name.startswith("planted") else case.name
            scores = [score_image(case.mask, heat, threshold=float(t)).counts.f1 for t in _NETWORK_THRESHOLDS]
            f1.setdefault(name, []).append(scores)
    found = np.mean([np.mean(rows, axis=0) for rows in f1.values()], axis=0)
    marked = np.array(areas).reshape(-1, len(_NETWORK_THRESHOLDS))
    allowed = (marked.sum(axis=0) <= MAX_FALSE_AREA * len(marked)) & (
        (marked > MARKED).sum(axis=0) <= MAX_ACCUSED * len(marked)
    )
    allowed[-1] = True
    return round(float(_NETWORK_THRESHOLDS[int(np.where(allowed, found, -1.0).argmax())]), 3)


def fit_baselines(cases: Sequence[Case]) -> dict[str, float]:
    """The threshold of each baseline that is best on these forgeries, mean F1."""
    best = {}
    for name, baseline in BASELINES.items():
        means = np.zeros(len(_THRESHOLDS))
        for case in cases:
            if case.mask is not None:
                heat = baseline(case.rgb)
                means += [score_image(case.mask, heat, threshold=float(t)).counts.f1 for t in _THRESHOLDS]
        best[name] = round(float(_THRESHOLDS[int(means.argmax())]), 2)
    return best


def _estimate(values: Sequence[float], groups: Sequence[str]) -> dict[str, float | None]:
    array = np.array(values)
    return _as_dict(bootstrap(lambda index: float(array[index].mean()), list(groups)))


def _as_dict(estimate: Estimate) -> dict[str, float | None]:
    interval = estimate.interval
    return {
        "value": round(estimate.value, 4),
        "low": round(interval.low, 4) if interval else None,
        "high": round(interval.high, 4) if interval else None,
    }


def _classes(judged: Sequence[tuple[int, int, str]]) -> dict[str, Any]:
    truth, said = (np.array([row[column] for row in judged]) for column in (0, 1))

    def balanced(index: NDArray[np.int64]) -> float:
        present = np.unique(truth[index])
        return float(np.mean([(said[index] == label)[truth[index] == label].mean() for label in present]))

    confusion = np.zeros((len(CLASSES), len(CLASSES)), int)
    np.add.at(confusion, (truth, said), 1)
    return {
        "names": list(CLASSES),
        "confusion": confusion.tolist(),
        "balanced_accuracy": _as_dict(bootstrap(balanced, [row[2] for row in judged])),
    }


def _reliability(pairs: Sequence[tuple[float, bool]]) -> list[dict[str, float]]:
    """Fifths of stated reliability, with how often the mask was right there."""
    stated, right = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    order = np.array_split(np.argsort(stated), 5)
    return [{"stated": round(float(stated[i].mean()), 4), "right": round(float(right[i].mean()), 4)} for i in order]


def table(result: Mapping[str, Any]) -> str:
    """The result for people, as Markdown."""
    methods = [name for name in ("network", *BASELINES) if any(name in row for row in result["sets"].values())]
    lines = [f"| set | pictures | {' | '.join(methods)} |", "|---|---|" + "---|" * len(methods)]

    for name, row in sorted(result["sets"].items(), key=lambda item: (item[1]["measure"], item[0])):
        measure = "pixel F1" if row["measure"] == "f1" else "marked area"
        lines.append(f"| {name}: {measure} | {row['pictures']} | {' | '.join(_cell(row.get(m)) for m in methods)} |")
        if "accused" in row:
            cells = " | ".join(_cell(row["accused"].get(m)) for m in methods)
            lines.append(f"| {name}: share with more than {MARKED:.0%} marked | {row['pictures']} | {cells} |")
    weaker = [
        name
        for name, row in sorted(result["sets"].items())
        if row["measure"] == "f1"
        and "network" in row
        and row["network"]["value"] < max(row[n]["value"] for n in BASELINES)
    ]
    if weaker:
        lines += ["", f"**A baseline is better than the network on**: {', '.join(weaker)}."]
    if "classes" in result:
        balanced = _cell(result["classes"]["balanced_accuracy"])
        lines += ["", f"Balanced accuracy over five classes: {balanced}; rows are the truth:"]
        lines += ["", f"| | {' | '.join(CLASSES)} |", "|---|" + "---|" * len(CLASSES)]
        for name, counts in zip(CLASSES, result["classes"]["confusion"], strict=True):
            lines.append(f"| {name} | {' | '.join(str(count) for count in counts)} |")
    if "reliability" in result:
        fifths = ", ".join(f"{row['stated']:.2f}: {row['right']:.2f}" for row in result["reliability"])
        lines += ["", f"Reliability, stated and measured, by fifths: {fifths}"]
    return "\n".join(lines)


def _cell(estimate: Mapping[str, float | None] | None) -> str:
    if estimate is None:
        return ""
    low, high = estimate["low"], estimate["high"]
    return f"{estimate['value']:.3f}" + (f" ({low:.3f}-{high:.3f})" if low is not None else "")


def comparison(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The network's figures of several runs beside each other, as Markdown; runs by name, results of `evaluate`."""
    first = next(iter(results.values()))
    lines = [f"| set | pictures | {' | '.join(results)} |", "|---|---|" + "---|" * len(results)]
    for name, row in sorted(first["sets"].items(), key=lambda item: (item[1]["measure"], item[0])):
        measure = "pixel F1" if row["measure"] == "f1" else "marked area"
        cells = " | ".join(_cell(result["sets"].get(name, {}).get("network")) for result in results.values())
        lines.append(f"| {name}: {measure} | {row['pictures']} | {cells} |")
    balanced = [_cell(result["classes"]["balanced_accuracy"]) for result in results.values()]
    lines.append(f"| balanced accuracy over five classes | | {' | '.join(balanced)} |")
    return "\n".join(lines)
