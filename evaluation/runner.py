"""Runs subjects over samples: in parallel, resumable, one bad file never fatal.

Results are lines of JSON in `results.jsonl`, one per picture, degradation and subject. A run that was stopped goes on
where it was: a line is reused if the picture's bytes (by SHA-256), its label and mask, the degradation and the
subject's version are the same. A subject that is new is measured alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Final, TextIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from tqdm import tqdm

from evaluation.degradation import UNCHANGED, Degradation, curves, laundering
from evaluation.metrics.localization import THRESHOLD, ImageScores, PixelCounts, false_alarm_area, score_image
from evaluation.samples import Label, Sample
from evaluation.subjects import Backend, Measurement, Subject, make_backend
from services.common.detection import Applicability

__all__ = ["Degrading", "Record", "Results", "by_subject", "run"]


@dataclass(frozen=True, slots=True)
class Degrading:
    """A degradation by name, so that it can be sent to a worker process; "unchanged" leaves the file as it is."""

    name: str = UNCHANGED.name
    level: float = 0.0

    def find(self, camera_file: Path | None) -> Degradation:
        """The degradation itself.

        Raises:
            ValueError: there is none of this name.
        """
        if self.name == UNCHANGED.name:
            return UNCHANGED
        if self.name in curves():
            return curves()[self.name].at(self.level)
        cases = laundering(camera_file.read_bytes() if camera_file else None)
        for case in cases:
            if case.name == self.name:
                return case
        known = ", ".join([*curves(), *(case.name for case in cases)])
        raise ValueError(f"there is no degradation {self.name}; there are {known}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What one subject said of one picture, and how it compares with the truth.

    Attributes:
        sample: name of the picture.
        sha256: of the file before degradation.
        truth: digest of the label and the mask that it was compared with.
        degradation, level: what was done to it first.
        subject, version: who said it.
        applicability: whether it could look.
        score: 0-1, or None.
        seconds: how long it took.
        explanation: its own words, or why it failed.
        pixels: compared with the mask, for an edited picture that has one.
        alarm_area: share of an honest picture that is marked, 0-1; None of others.
        boxes: of a face finder.
    """

    sample: str
    sha256: str
    truth: str
    degradation: str
    level: float
    subject: str
    version: str
    applicability: Applicability
    score: float | None
    seconds: float
    explanation: str
    pixels: ImageScores | None
    alarm_area: float | None
    boxes: tuple[tuple[float, ...], ...] | None

    @property
    def key(self) -> tuple[str, str, str, str, float, str, str]:
        """What makes two results the same."""
        return (
            self.sample,
            self.sha256,
            self.truth,
            self.degradation,
            self.level,
            self.subject,
            self.version,
        )

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        facts: dict[str, Any] = {name: getattr(self, name) for name in Record.__slots__}
        facts["applicability"] = self.applicability.value
        facts["pixels"] = _pixels_to_json(self.pixels) if self.pixels else None
        return facts

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Record:
        """From a JSON object."""
        boxes = facts["boxes"]
        return cls(
            **{
                **facts,
                "applicability": Applicability(facts["applicability"]),
                "pixels": _pixels_from_json(facts["pixels"]) if facts["pixels"] else None,
                "boxes": None if boxes is None else tuple(tuple(box) for box in boxes),
            }
        )


HEATS: Final = 1001


def _pixels_to_json(scores: ImageScores) -> dict[str, Any]:
    def sparse(counts: NDArray[np.int64]) -> list[list[int]]:
        return [[int(bin_), int(counts[bin_])] for bin_ in np.flatnonzero(counts)]

    counts = scores.counts
    return {
        "threshold": scores.threshold,
        "counts": [counts.true_positive, counts.false_positive, counts.false_negative, counts.true_negative],
        "auc": scores.auc,
        "missed": scores.missed,
        "forged_heats": sparse(scores.forged_heats),
        "other_heats": sparse(scores.other_heats),
    }


def _pixels_from_json(facts: dict[str, Any]) -> ImageScores:
    def dense(pairs: list[list[int]]) -> NDArray[np.int64]:
        counts = np.zeros(HEATS, dtype=np.int64)
        for bin_, count in pairs:
            counts[bin_] = count
        return counts

    return ImageScores(
        threshold=facts["threshold"],
        counts=PixelCounts(*facts["counts"]),
        auc=facts["auc"],
        missed=facts["missed"],
        forged_heats=dense(facts["forged_heats"]),
        other_heats=dense(facts["other_heats"]),
    )


@dataclass(frozen=True, slots=True)
class Results:
    """All records of a run, the subjects, and the pictures that could not be read, with the reason."""

    subjects: tuple[Subject, ...]
    records: tuple[Record, ...]
    bad_files: tuple[tuple[str, str], ...]


def run(
    samples: Sequence[Sample],
    arrangements: Sequence[str],
    results_file: Path,
    *,
    degradings: Sequence[Degrading] = (Degrading(),),
    camera_file: Path | None = None,
    only: Sequence[str] = (),
    jobs: int,
) -> Results:
    """Measures every subject on every sample under every degradation.

    Args:
        samples: the labelled pictures.
        arrangements: of backends, see `evaluation.subjects.make_backend`.
        results_file: where results are kept; what is there already is not measured again.
        degradings: what to do to the pictures first.
        camera_file: a JPEG of a camera, for the laundering case that plants its metadata.
        only: names of the subjects to keep; empty for all.
        jobs: worker processes.

    Raises:
        ValueError: an unknown backend, degradation or subject, or two subjects of one name.
    """
    backends = [make_backend(arrangement) for arrangement in arrangements]
    chosen = _choose([subject for backend in backends for subject in backend.subjects()], only)
    for degrading in degradings:
        degrading.find(camera_file)

    known = {record.key: record for record in _read(results_file)}
    bad_files: dict[str, str] = {}
    records: list[Record] = []
    tasks: list[_Task] = []
    for sample in samples:
        try:
            digest, truth = hashlib.sha256(sample.path.read_bytes()).hexdigest(), _truth(sample)
        except OSError as error:
            bad_files[sample.name] = str(error)
            continue
        for degrading in degradings:
            missing = []
            for subject in chosen.values():
                key = (sample.name, digest, truth, degrading.name, degrading.level, subject.name, subject.version)
                if key in known:
                    records.append(known[key])
                else:
                    missing.append(subject.name)
            if missing:
                tasks.append(_Task(sample, degrading, tuple(missing)))

    results_file.parent.mkdir(parents=True, exist_ok=True)
    total = len(samples) * len(degradings)
    with _appending(results_file) as file, tqdm(total=total, initial=total - len(tasks), unit="picture") as bar:
        for task, outcome in _outcomes(tasks, arrangements, camera_file, jobs):
            bar.update()
            if isinstance(outcome, BaseException):  # a file that breaks everything is listed, not fatal
                bad_files[task.sample.name] = f"{type(outcome).__name__}: {outcome}"
                continue
            for record in outcome:
                file.write(json.dumps(record.to_json()) + "\n")
            file.flush()
            records += outcome
    records.sort(key=lambda record: (record.subject, record.degradation, record.level, record.sample))
    return Results(tuple(chosen.values()), tuple(records), tuple(sorted(bad_files.items())))


def _choose(subjects: Sequence[Subject], only: Sequence[str]) -> dict[str, Subject]:
    named = Counter(subject.name for subject in subjects)
    if unknown := sorted(set(only) - set(named)):
        raise ValueError(f"unknown subject {unknown[0]}; there are {', '.join(sorted(named))}")
    if twice := sorted(name for name, count in named.items() if count > 1):
        raise ValueError(f"two subjects are called {twice[0]}: measure them in runs of their own")
    return {subject.name: subject for subject in subjects if not only or subject.name in only}


@dataclass(frozen=True, slots=True)
class _Task:
    """One picture under one degradation, for the subjects whose answers are missing."""

    sample: Sample
    degrading: Degrading
    subjects: tuple[str, ...]


def _outcomes(
    tasks: Sequence[_Task], arrangements: Sequence[str], camera_file: Path | None, jobs: int
) -> Iterator[tuple[_Task, list[Record] | BaseException]]:
    """Each task with its records, or with what went wrong, as they are done.

    Where a picture takes its worker process down (a crash in a library, memory used up), all tasks under way are lost
    with it. They are repeated one by one, each in processes of its own, so that the culprit alone is blamed.
    """
    waiting, suspects = deque(tasks), deque[_Task]()
    while waiting or suspects:
        alone = bool(suspects)
        queue, workers, in_flight = (suspects, 1, 1) if alone else (waiting, jobs, 2 * jobs)
        with ProcessPoolExecutor(workers, get_context("spawn"), _initialise, (list(arrangements), camera_file)) as pool:
            running: dict[Future[list[Record]], _Task] = {}
            broken = False
            while running or (queue and not broken):
                while queue and not broken and len(running) < in_flight:
                    try:
                        running[pool.submit(_measure, queue[0])] = queue[0]
                        queue.popleft()
                    except BrokenProcessPool:
                        broken = True
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task, error = running.pop(future), future.exception()
                    if isinstance(error, BrokenProcessPool):
                        broken = True
                        if not alone:
                            suspects.append(task)
                            continue
                    yield task, future.result() if error is None else error


def _appending(results_file: Path) -> TextIO:
    """The file, opened to append; a last line that was torn is ended first, so that it spoils no other."""
    file = results_file.open("a+b")
    if file.tell() > 0:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
    return io.TextIOWrapper(file, encoding="utf-8")


def _truth(sample: Sample) -> str:
    mask = sample.mask.read_bytes() if sample.mask else b""
    return hashlib.sha256(sample.label.value.encode() + mask).hexdigest()[:16]


def _read(results_file: Path) -> Iterator[Record]:
    if not results_file.exists():
        return
    with results_file.open(encoding="utf-8") as file:
        for line in file:
            try:
                yield Record.from_json(json.loads(line))
            except (ValueError, TypeError, KeyError):
                continue  # a line that was torn when a run was killed, or that an older version wrote


class _Worker:
    """What a worker process keeps between pictures."""

    backends: Sequence[Backend] = ()
    subjects: dict[str, Subject]
    camera_file: Path | None = None


def _initialise(arrangements: Sequence[str], camera_file: Path | None) -> None:
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _Worker.backends = [make_backend(arrangement) for arrangement in arrangements]
    _Worker.subjects = {subject.name: subject for backend in _Worker.backends for subject in backend.subjects()}
    _Worker.camera_file = camera_file


def _end_with_parent() -> None:
    """Ends this worker when the run is killed; otherwise it would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _measure(task: _Task) -> list[Record]:
    sample, degrading = task.sample, task.degrading
    original = sample.path.read_bytes()
    digest, truth = hashlib.sha256(original).hexdigest(), _truth(sample)
    degradation = degrading.find(_Worker.camera_file)
    content = degradation.apply(original)
    mask = _mask(sample, original, degradation)
    records = []
    for backend in _Worker.backends:
        for name, measurement in backend.measure(content, task.subjects).items():
            subject = _Worker.subjects[name]
            records.append(
                Record(
                    sample=sample.name,
                    sha256=digest,
                    truth=truth,
                    degradation=degrading.name,
                    level=degrading.level,
                    subject=name,
                    version=subject.version,
                    applicability=measurement.applicability,
                    score=measurement.score,
                    seconds=measurement.seconds,
                    explanation=measurement.explanation,
                    pixels=_compare(measurement, mask) if mask is not None and subject.localizes else None,
                    alarm_area=_alarm_area(measurement) if sample.label is Label.HONEST and subject.localizes else None,
                    boxes=measurement.boxes,
                )
            )
    return records


def _mask(sample: Sample, original: bytes, degradation: Degradation) -> NDArray[np.bool_] | None:
    """The mask at the size of the degraded picture; None where there is none, or nothing of it is left.

    An honest picture has none, whatever the data say: F1 over pictures without a forgery means nothing.
    """
    if sample.mask is None or sample.label is Label.HONEST:
        return None
    with Image.open(io.BytesIO(original)) as picture, Image.open(sample.mask) as image:
        size, upright = picture.size, _upright_size(picture)
        grey = image.convert("L")
        if grey.size != upright:
            if grey.size == size:
                raise ValueError(f"{sample.mask.name} lies as the file does, not upright as its orientation tag says")
            grey = grey.resize(upright, Image.Resampling.NEAREST)
        mask = degradation.map_mask(np.asarray(grey) >= 128)
    return mask if mask.any() else None


def _upright_size(picture: Image.Image) -> tuple[int, int]:
    width, height = picture.size
    return (height, width) if picture.getexif().get(ExifTags.Base.Orientation, 1) in {5, 6, 7, 8} else (width, height)


def _compare(measurement: Measurement, mask: NDArray[np.bool_]) -> ImageScores:
    heat_map = measurement.heat_map
    if heat_map is not None and heat_map.shape != mask.shape:
        height, width = mask.shape
        heat_map = np.clip(cv2.resize(heat_map, (width, height), interpolation=cv2.INTER_LINEAR), 0.0, 1.0)
    return score_image(mask, heat_map, threshold=THRESHOLD)


def _alarm_area(measurement: Measurement) -> float:
    return false_alarm_area(measurement.heat_map, threshold=THRESHOLD)


def by_subject(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by the subject's name, in their order."""
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(record.subject, []).append(record)
    return grouped
