"""What is measured: detectors in process, face finders in process, the running mesh, and other tools (peers).

A backend takes a picture's file and answers with a `Measurement` per subject. Detectors come from the services' own
registries: a new one is measured without a change here.
"""

from __future__ import annotations

import base64
import io
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.common.detection import Applicability, Finding, Question, Technique
from services.common.images import ImageLimits, decode_image
from services.orchestrator.policy import EDITED_FROM, SCORE_HIGH, even_odds_score

__all__ = ["BACKENDS", "Backend", "Measurement", "Subject", "make_backend"]

FORMATS: Final = frozenset({"JPEG", "PNG", "WEBP", "GIF"})
LIMITS: Final = ImageLimits(max_bytes=64 * 1024 * 1024, max_pixels=100_000_000, max_frames=1000, formats=FORMATS)
PEER_SECONDS: Final = 120.0
MESH_SECONDS: Final = 120.0


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
    """

    name: str
    version: str
    title: str
    question: Question | None
    techniques: tuple[Technique, ...] = ()
    threshold: float | None = None


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

    def measure(self, content: bytes) -> Mapping[str, Measurement]:
        """The answers by subject name."""
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

    def measure(self, content: bytes) -> Mapping[str, Measurement]:
        """Decodes once, then asks each detector."""
        picture = decode_image(content, LIMITS)
        measurements = {}
        for spec, detect in self._registry:
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
            Subject(name=name, version="1", title=title, question=None) for name, (title, _) in self._finders.items()
        ]

    def measure(self, content: bytes) -> Mapping[str, Measurement]:
        """Decodes once, then asks each finder."""
        picture = decode_image(content, LIMITS)
        measurements = {}
        for name, (_, finder) in self._finders.items():
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

    Args:
        url: of the edge.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._client = httpx.Client(timeout=MESH_SECONDS)

    def subjects(self) -> Sequence[Subject]:
        """One a detector of the mesh, and `decision_edited` and `decision_generated`."""
        listing = self._client.get(f"{self._url}/v1/detectors").raise_for_status().json()
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
                version="policy",
                title="Decision: edited",
                question=Question.EDITED,
                threshold=even_odds_score(EDITED_FROM),
            ),
            Subject(
                name="decision_generated",
                version="policy",
                title="Decision: generated",
                question=Question.GENERATED,
                threshold=SCORE_HIGH,
            ),
        ]

    def measure(self, content: bytes) -> Mapping[str, Measurement]:
        """One analysis."""
        started = time.perf_counter()
        body = {"image": {"content": base64.b64encode(content).decode()}, "options": {"include_maps": True}}
        while True:
            answer = self._client.post(f"{self._url}/v1/images:analyze", json=body)
            if answer.status_code not in {429, 503}:
                break
            time.sleep(float(answer.headers.get("retry-after", "1")))
        analysis = answer.raise_for_status().json()
        seconds = time.perf_counter() - started
        measurements = {}
        for finding in analysis["findings"]:
            applicability = Applicability(finding["applicability"].removeprefix("APPLICABILITY_").lower())
            measurements[finding["provenance"]["detector"]] = Measurement(
                applicability=applicability,
                score=finding.get("score") if applicability is Applicability.APPLIED else None,
                seconds=finding["provenance"]["duration_seconds"],
                heat_map=_heat_map(finding.get("heat_map")),
                explanation=finding["explanation"],
            )
        for question in ("edited", "generated"):
            ratio = analysis[question]["likelihood_ratio"]["log10"]
            measurements[f"decision_{question}"] = Measurement(
                applicability=Applicability.APPLIED, score=even_odds_score(ratio), seconds=seconds
            )
        return measurements


def _heat_map(message: Mapping[str, Any] | None) -> NDArray[np.float32] | None:
    if not message or not message.get("png"):
        return None
    with Image.open(io.BytesIO(base64.b64decode(message["png"]))) as image:
        return np.asarray(image.convert("L"), dtype=np.float32) / np.float32(255)


class PeerBackend:
    """Another tool, measured on the same files in the same run.

    Args:
        arrangement: NAME=COMMAND. The command gets the picture's path and the path at which it may write a mask (PNG,
            grey, 255 is forged) as its last two arguments, and prints a score in 0-1 on its last line; "NA" says that
            it does not apply.
    """

    def __init__(self, arrangement: str) -> None:
        name, separator, command = arrangement.partition("=")
        if not separator or not command.strip():
            raise ValueError(f"a peer is given as NAME=COMMAND, not {arrangement!r}")
        self._name = name
        self._command = shlex.split(command)

    def subjects(self) -> Sequence[Subject]:
        """The tool."""
        return [Subject(name=self._name, version="peer", title=self._name, question=Question.EDITED)]

    def measure(self, content: bytes) -> Mapping[str, Measurement]:
        """Runs the command on a temporary copy."""
        with tempfile.TemporaryDirectory() as folder:
            picture, mask = Path(folder) / "picture", Path(folder) / "mask.png"
            picture.write_bytes(content)
            started = time.perf_counter()
            done = subprocess.run(  # noqa: S603 - the command is what the person who measures asked for
                [*self._command, str(picture), str(mask)],
                capture_output=True,
                timeout=PEER_SECONDS,
                check=False,
                text=True,
            )
            seconds = time.perf_counter() - started
            lines = done.stdout.strip().splitlines()
            if done.returncode != 0 or not lines:
                reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
                return {
                    self._name: Measurement(
                        applicability=Applicability.FAILED, score=None, seconds=seconds, explanation=reason
                    )
                }
            if lines[-1].strip() == "NA":
                return {
                    self._name: Measurement(applicability=Applicability.NOT_APPLICABLE, score=None, seconds=seconds)
                }
            heat_map = None
            if mask.exists():
                with Image.open(mask) as image:
                    heat_map = np.asarray(image.convert("L"), dtype=np.float32) / np.float32(255)
            return {
                self._name: Measurement(
                    applicability=Applicability.APPLIED,
                    score=min(1.0, max(0.0, float(lines[-1]))),
                    seconds=seconds,
                    heat_map=heat_map,
                )
            }


BACKENDS: Final[dict[str, Callable[[str], Backend]]] = {
    "passive": PassiveBackend,
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
