"""What is measured: detectors in process, face finders in process, the running mesh, and other tools (peers).

A backend takes a picture's file and answers with a `Measurement` per subject. Detectors come from the services' own
registries: a new one is measured without a change here.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from services.common.detection import Applicability, Finding, Question, Technique
from services.common.images import ImageLimits, decode_image
from services.orchestrator.policy import POLICY_VERSION, PRESETS, Preset, even_odds_score

__all__ = ["BACKENDS", "Backend", "Measurement", "Subject", "make_backend"]

FORMATS: Final = frozenset({"JPEG", "PNG", "WEBP", "GIF"})
LIMITS: Final = ImageLimits(max_bytes=64 * 1024 * 1024, max_pixels=100_000_000, max_frames=1000, formats=FORMATS)
PEER_SECONDS: Final = 120.0
PEER_THRESHOLD: Final = 0.5
MESH_SECONDS: Final = 120.0
EDITED_SCORE: Final = even_odds_score(PRESETS[Preset.BALANCED].edited)
SUSPICIOUS: Final = frozenset({"DECISION_SUSPICIOUS_AI_LIKELY", "DECISION_CONFIRMED_AI_GENERATED"})
"""Decisions that count as an alarm."""
MESH_ATTEMPTS: Final = 30
"""A mesh that is busy (429, 503) is asked so many times, `Retry-After` or a second apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Something whose answers are measured.

    Attributes:
        name: unique in a report.
        version: results of another version are not reused.
        title: what a person calls it.
        question: which question it answers; None for a face finder.
        techniques: what it can find; empty for all that the question is about.
        threshold: score from which it raises an alarm, as shipped; None where it has none.
        localizes: whether it may mark where; if not, no mask is held against it.
    """

    name: str
    version: str
    title: str
    question: Question | None
    techniques: tuple[Technique, ...] = ()
    threshold: float | None = None
    localizes: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a subject said about a picture.

    Attributes:
        applicability: whether it could look.
        score: 0-1 for detectors; None unless it applied.
        seconds: how long it took.
        heat_map: float32 (h, w) in 0-1 at any resolution; None if it gave none.
        boxes: (left, top, right, bottom, confidence) of face finders, in pixels of the upright picture; else None.
        explanation: its own words.
    """

    applicability: Applicability
    score: float | None
    seconds: float
    heat_map: NDArray[np.float32] | None = None
    boxes: tuple[tuple[float, float, float, float, float], ...] | None = None
    explanation: str = ""


class Backend(Protocol):
    """Measures its subjects on one picture at a time; made anew in every worker process."""

    def subjects(self) -> Sequence[Subject]:
        """What it measures."""
        ...

    def measure(self, content: bytes, names: Collection[str]) -> Mapping[str, Measurement]:
        """The answers of the subjects of these names, by name."""
        ...


def _of_finding(finding: Finding, seconds: float) -> Measurement:
    return Measurement(
        applicability=finding.applicability,
        score=finding.score,
        seconds=seconds,
        heat_map=finding.heat_map,
        explanation=finding.explanation,
    )


class PassiveBackend:
    """The passive service's detectors, in this process."""

    def __init__(self, _: str) -> None:
        from services.passive.detectors import registry  # noqa: PLC0415 - a backend loads only what it needs

        self._registry = registry.load("services.passive.detectors")

    def subjects(self) -> Sequence[Subject]:
        """One a detector."""
        return [
            Subject(
                name=spec.name,
                version=spec.version,
                title=spec.title,
                question=spec.question,
                techniques=spec.techniques,
                threshold=_threshold(spec.parameters),
            )
            for spec, _ in self._registry
        ]

    def measure(self, content: bytes, names: Collection[str]) -> Mapping[str, Measurement]:
        """Decodes once, then asks each detector."""
        picture = decode_image(content, LIMITS)
        measurements = {}
        for spec, detect in self._registry:
            if spec.name not in names:
                continue
            started = time.perf_counter()
            try:
                finding = detect(picture)
            except Exception as error:  # one detector's defect must not stop a run over thousands
                finding = Finding.failed(f"{type(error).__name__}: {error}")
            measurements[spec.name] = _of_finding(finding, time.perf_counter() - started)
        return measurements


def _threshold(parameters: Mapping[str, Any]) -> float | None:
    value = parameters.get("decision_score")
    return float(value) if isinstance(value, int | float) else None


class FindersBackend:
    """The faces service's finders, in this process."""

    def __init__(self, _: str) -> None:
        from services.faces.finders import FaceFinder  # noqa: PLC0415 - a backend loads only what it needs
        from services.faces.finders.haar import HaarFinder  # noqa: PLC0415
        from services.faces.finders.mediapipe import MediaPipeFinder  # noqa: PLC0415
        from services.faces.settings import FacesSettings  # noqa: PLC0415

        self._finders: dict[str, tuple[str, FaceFinder]] = {
            "mediapipe_faces": ("MediaPipe face finder", MediaPipeFinder(FacesSettings().mediapipe_asset)),
            "haar_faces": ("Haar face finder", HaarFinder()),
        }

    def subjects(self) -> Sequence[Subject]:
        """One a finder."""
        return [
            Subject(name=name, version="1", title=title, question=None, threshold=finder.default_confidence)
            for name, (title, finder) in self._finders.items()
        ]

    def measure(self, content: bytes, names: Collection[str]) -> Mapping[str, Measurement]:
        """Decodes once, then asks each finder."""
        picture = decode_image(content, LIMITS)
        measurements = {}
        for name, (_, finder) in self._finders.items():
            if name not in names:
                continue
            started = time.perf_counter()
            faces = finder.find(picture, min_confidence=finder.default_confidence)
            boxes = tuple(
                (face.box.x_min, face.box.y_min, face.box.x_max, face.box.y_max, face.confidence) for face in faces
            )
            measurements[name] = Measurement(
                applicability=Applicability.APPLIED,
                score=max((box[4] for box in boxes), default=0.0),
                seconds=time.perf_counter() - started,
                boxes=boxes,
            )
        return measurements


class MeshBackend:
    """A running mesh, asked through its edge: every detector's finding, and the two decisions.

    The score of a decision is its likelihood ratio at even odds, kept on that side of the threshold on which the
    decision is: signed evidence may decide against the ratio.

    Args:
        url: of the edge.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._client = httpx.Client(timeout=MESH_SECONDS)

    def subjects(self) -> Sequence[Subject]:
        """One a detector of the mesh, and `decision_edited` and `decision_generated`.

        Raises:
            ValueError: the mesh does not answer.
        """
        try:
            listing = self._client.get(f"{self._url}/v1/detectors").raise_for_status().json()
        except httpx.HTTPError as error:
            raise ValueError(f"the mesh at {self._url} does not answer: {error}") from error
        # A decision is another one as soon as the policy, or one of the detectors that it weighs, is.
        version = f"{POLICY_VERSION}-{_digest(json.dumps(listing, sort_keys=True).encode())}"
        detectors = [
            Subject(
                name=item["name"],
                version=item["version"],
                title=item["title"],
                question=Question(item["question"].removeprefix("QUESTION_").lower()),
                techniques=tuple(Technique(word.removeprefix("TECHNIQUE_").lower()) for word in item["techniques"]),
                threshold=_threshold(item.get("parameters") or {}),
            )
            for item in listing["detectors"]
        ]
        return [
            *detectors,
            Subject(
                name="decision_edited",
                version=version,
                title="Decision: edited",
                question=Question.EDITED,
                threshold=EDITED_SCORE,
                localizes=False,
            ),
            Subject(
                name="decision_generated",
                version=version,
                title="Decision: generated",
                question=Question.GENERATED,
                threshold=PRESETS[Preset.BALANCED].generated_high,
                localizes=False,
            ),
        ]

    def measure(self, content: bytes, names: Collection[str]) -> Mapping[str, Measurement]:
        """One analysis by everything that the mesh has, for the decisions depend on all of it."""
        started = time.perf_counter()
        analysis = self._analyse(content)
        seconds = time.perf_counter() - started
        measurements = {}
        for finding in analysis["findings"]:
            applicability = Applicability(finding["applicability"].removeprefix("APPLICABILITY_").lower())
            measurements[finding["provenance"]["detector"]] = Measurement(
                applicability=applicability,
                score=finding["score"] if applicability is Applicability.APPLIED else None,
                seconds=finding["provenance"]["duration_seconds"],
                heat_map=_heat_map(finding.get("heat_map")),
                explanation=finding["explanation"],
            )
        alarms = {
            "edited": (analysis["edit_decision"] == "EDIT_DECISION_EDITED", EDITED_SCORE),
            "generated": (analysis["decision"] in SUSPICIOUS, PRESETS[Preset.BALANCED].generated_high),
        }
        for question, (alarm, threshold) in alarms.items():
            score = even_odds_score(analysis[question]["likelihood_ratio"]["log10"])
            measurements[f"decision_{question}"] = Measurement(
                applicability=Applicability.APPLIED,
                score=max(score, threshold) if alarm else min(score, math.nextafter(threshold, 0.0)),
                seconds=seconds,
                explanation=analysis[question]["explanation"],
            )
        return {name: measurement for name, measurement in measurements.items() if name in names}

    def _analyse(self, content: bytes) -> Any:
        body = {"image": {"content": base64.b64encode(content).decode()}, "options": {"include_maps": True}}
        for _ in range(MESH_ATTEMPTS):
            answer = self._client.post(f"{self._url}/v1/images:analyze", json=body)
            if answer.status_code not in {429, 503}:
                break
            after = answer.headers.get("retry-after", "")
            time.sleep(float(after) if after.isdigit() else 1.0)
        if answer.is_error:
            raise ValueError(f"the mesh answers {answer.status_code}: {answer.text[:300]}")
        return answer.json()


def _heat_map(message: Mapping[str, Any] | None) -> NDArray[np.float32] | None:
    if not message or not message.get("png"):
        return None
    with Image.open(io.BytesIO(base64.b64decode(message["png"]))) as image:
        return np.asarray(image.convert("L"), dtype=np.float32) / np.float32(255)


class PeerError(Exception):
    """A peer ran, and its answer is of no use; the text says why."""


class PeerBackend:
    """Another tool, measured on the same files in the same run.

    Args:
        arrangement: NAME=COMMAND, or NAME/TECHNIQUE=COMMAND for a tool that is made for one technique. The command gets
            the picture's path and the path at which it may write a mask (PNG, grey, 255 is forged) as its last two
            arguments, and prints a score in 0-1 on its last line, 0.5 and more for "forged"; "NA" says that it does not
            apply. Whatever else it does (another status than 0, no score, too slow) counts as a failure of the tool.
    """

    def __init__(self, arrangement: str) -> None:
        label, separator, command = arrangement.partition("=")
        self._name, _, technique = label.partition("/")
        self._command = shlex.split(command)
        if not separator or not self._name or not self._command:
            raise ValueError(f"a peer is given as NAME=COMMAND, not {arrangement!r}")
        if technique and technique not in {known.value for known in Technique}:
            raise ValueError(
                f"peer {self._name}: technique {technique} is none of {', '.join(t.value for t in Technique)}"
            )
        if shutil.which(self._command[0]) is None:
            raise ValueError(f"peer {self._name}: there is no command {self._command[0]}")
        self._techniques = (Technique(technique),) if technique else ()

    def subjects(self) -> Sequence[Subject]:
        """The tool; its version is a digest of the command and of the files that the command names."""
        files = [path for word in self._command[1:] if (path := Path(word)).is_file()]
        content = b"".join([shlex.join(self._command).encode(), *(path.read_bytes() for path in files)])
        return [
            Subject(
                name=self._name,
                version=_digest(content),
                title=self._name,
                question=Question.EDITED,
                techniques=self._techniques,
                threshold=PEER_THRESHOLD,
            )
        ]

    def measure(self, content: bytes, names: Collection[str]) -> Mapping[str, Measurement]:
        """Runs the command on a temporary copy."""
        if self._name not in names:
            return {}
        applicability, score, heat_map, explanation = Applicability.FAILED, None, None, ""
        with tempfile.TemporaryDirectory() as folder:
            picture, mask = Path(folder) / f"picture{_extension(content)}", Path(folder) / "mask.png"
            picture.write_bytes(content)
            started = time.perf_counter()
            try:
                score = self._score(picture, mask)
                applicability = Applicability.NOT_APPLICABLE if score is None else Applicability.APPLIED
                seconds = time.perf_counter() - started
                heat_map = _peer_mask(mask) if score is not None else None
            except PeerError as error:
                applicability, score, explanation = Applicability.FAILED, None, str(error)
                seconds = time.perf_counter() - started
        return {
            self._name: Measurement(
                applicability=applicability, score=score, seconds=seconds, heat_map=heat_map, explanation=explanation
            )
        }

    def _score(self, picture: Path, mask: Path) -> float | None:
        """What the command prints: a score, or None for "NA"."""
        try:
            done = subprocess.run(  # noqa: S603 - the command is what the person who measures asked for
                [*self._command, str(picture), str(mask)],
                capture_output=True,
                timeout=PEER_SECONDS,
                check=False,
                text=True,
                errors="replace",
            )
        except subprocess.TimeoutExpired as error:
            raise PeerError(f"no answer in {PEER_SECONDS:g} s") from error
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise PeerError(f"ended with status {done.returncode}: {reason}")
        last = (done.stdout.strip().splitlines() or [""])[-1].strip()
        if last == "NA":
            return None
        try:
            score = float(last)
        except ValueError as error:
            raise PeerError(f"its last line is no score: {last!r}") from error
        if not 0.0 <= score <= 1.0:
            raise PeerError(f"score {last} is outside 0-1")
        return score


def _peer_mask(path: Path) -> NDArray[np.float32] | None:
    if not path.exists():
        return None
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L"), dtype=np.float32) / np.float32(255)
    except OSError as error:
        raise PeerError(f"its mask cannot be read: {error}") from error


def _extension(content: bytes) -> str:
    """Of the file's format, for tools that go by the name; "" where the format is not known."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return f".{(image.format or '').lower()}"
    except (UnidentifiedImageError, OSError):
        return ""


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _ablation(rest: str) -> Backend:
    from evaluation.ablation import AblationBackend  # noqa: PLC0415 - it needs this module

    return AblationBackend(rest)


BACKENDS: Final[dict[str, Callable[[str], Backend]]] = {
    "passive": PassiveBackend,
    "ablation": _ablation,
    "faces": FindersBackend,
    "mesh": MeshBackend,
    "peer": PeerBackend,
}
"""By the word before the colon of what is asked for: `passive`, `faces`, `mesh:http://localhost:8080`, `peer:x=cmd`."""


def make_backend(arrangement: str) -> Backend:
    """The backend of an arrangement such as `mesh:http://localhost:8080`.

    Raises:
        ValueError: there is no such backend.
    """
    kind, _, rest = arrangement.partition(":")
    if kind not in BACKENDS:
        raise ValueError(f"unknown backend {kind}; there are {', '.join(BACKENDS)}")
    return BACKENDS[kind](rest)
