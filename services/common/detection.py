"""What a detector is and what it answers: the vocabulary that all three analysers share.

A detector is a pure function from a `Picture` to a `Finding`. It is registered with facts about itself
(`DetectorSpec`), and from then on it appears in reports, in `ListDetectors`, in the docs and in the evaluation:

    registry = Registry("passive")

    @registry.detector(
        name="copy_move", version="1", title="Copy-move (SIFT + DBSCAN)",
        question=Question.EDITED, techniques=(Technique.COPY_MOVE,), papers=("10.1109/TIFS.2011.2129512",),
    )
    def detect_copy_move(picture: Picture) -> Finding: ...

Nothing here knows protobuf; `services.common.convert` translates.
"""

from __future__ import annotations

import enum
import functools
import importlib
import math
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Applicability",
    "DetectorSpec",
    "Direction",
    "Evidence",
    "Finding",
    "Metric",
    "MetricType",
    "Point",
    "Question",
    "Region",
    "RegionRole",
    "Registry",
    "Signal",
    "Strength",
    "Technique",
]


class Question(enum.Enum):
    """The two questions about a picture, which are never mixed."""

    GENERATED = "generated"
    EDITED = "edited"


class Technique(enum.Enum):
    """How a picture was falsified."""

    COPY_MOVE = "copy_move"
    SPLICING = "splicing"
    INPAINTING = "inpainting"
    FACE = "face"
    GENERATED = "generated"
    OTHER = "other"


class Applicability(enum.Enum):
    """Whether a detector could say anything about this picture."""

    APPLIED = "applied"
    """It looked, and `score` says what it saw."""
    NOT_APPLICABLE = "not_applicable"
    """The picture has nothing that it could look at (too small, too plain, no JPEG, no face)."""
    FAILED = "failed"
    """It should have looked and could not (model missing, time over, an error)."""


class Direction(enum.Enum):
    """Which answer to the question a piece of evidence speaks for (document 002's values)."""

    AI_GENERATED = "ai_generated"
    EDITED = "edited"
    """Pentimento's own: document 002 asks only whether a picture was generated."""
    AUTHENTIC = "authentic"
    INDETERMINATE = "indeterminate"


class Strength(enum.Enum):
    """Strength of a piece of evidence (document 002's values), weakest first."""

    WEAK = "weak"
    MODERATE = "moderate"
    STRONG = "strong"
    CONCLUSIVE = "conclusive"


class MetricType(enum.Enum):
    """Document 002's five statistical metrics."""

    GRADIENT = "gradient"
    FREQUENCY = "frequency"
    NOISE = "noise"
    TEXTURE = "texture"
    COLOR = "color"


class RegionRole(enum.Enum):
    """What a marked region is."""

    SUSPECT = "suspect"
    """Altered, as far as the detector can tell."""
    SOURCE = "source"
    """Where copied content came from."""
    COPY = "copy"
    """Where copied content was put."""


@dataclass(frozen=True, slots=True)
class Point:
    """A place in the picture, in pixels of the upright picture; (0, 0) is the outer corner of the top left pixel."""

    x: float
    y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A marked part of the picture.

    `polygon` lists the corners in pixels of the full-size upright picture, at least three.
    `score` (0-1) is the detector's own score for this region.
    """

    role: RegionRole
    polygon: tuple[Point, ...]
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A discrete piece of evidence (document 002's EvidenceResult), by default on whether the picture was generated.

    `source` is a lower-case word: exif, watermark, c2pa, metadata. `confidence` (0-1) is how sure the reader is that
    it read the evidence right, or None.
    """

    source: str
    finding: str
    direction: Direction
    strength: Strength
    analyzer: str
    confidence: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    question: Question = Question.GENERATED


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One of document 002's statistical metrics: `score` 0-1 (1 = looks generated) and `confidence` 0-1."""

    metric_type: MetricType
    score: float
    confidence: float
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """A metric as a person reads it (document 002's DetectionSignal); its status follows from `score` (0-1)."""

    name: str
    metric_type: MetricType
    score: float
    explanation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one detector says about one picture.

    Attributes:
        applicability: whether it could look at all; unless APPLIED, `score` is None and `explanation` says why.
        score: 0-1, higher means more suspicious; a score, not a probability.
        log10_likelihood_ratio: log10 of P(score | false) / P(score | honest), if a calibration or a measured table
            gives one; None means that this finding moves no verdict.
        calibrated: True if the likelihood ratio comes from a fitted calibration, False if from a stated table.
        explanation: one or two sentences for a person, with the facts that decided.
        technique: what it saw, or None where the detector does not tell.
        heat_map: float32 (h, w) in 0-1 at any resolution over the whole upright picture, 1 = suspect; or None.
        reliability_map: float32 (h, w) in 0-1, same grid as heat_map: how far to trust it there; or None.
        regions: outlines for drawing, most suspect first.
        details: further facts, JSON-serialisable.
        evidence: discrete evidence that it read; the policy weighs it piece by piece, so a detector that reads
            evidence leaves `log10_likelihood_ratio` None.
        metrics: document 002's statistical metrics that it measured, and signals: the same for people.
    """

    applicability: Applicability
    score: float | None
    explanation: str
    log10_likelihood_ratio: float | None = None
    calibrated: bool = False
    technique: Technique | None = None
    heat_map: NDArray[np.float32] | None = None
    reliability_map: NDArray[np.float32] | None = None
    regions: tuple[Region, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    evidence: tuple[Evidence, ...] = ()
    metrics: tuple[Metric, ...] = ()
    signals: tuple[Signal, ...] = ()

    def __post_init__(self) -> None:
        applied = self.applicability is Applicability.APPLIED
        if applied != (self.score is not None):
            raise ValueError("a finding has a score exactly when the detector applied")
        if self.score is not None and not 0.0 <= self.score <= 1.0:
            raise ValueError(f"score {self.score} is outside 0-1")
        if self.log10_likelihood_ratio is not None and not math.isfinite(self.log10_likelihood_ratio):
            raise ValueError(f"log10 likelihood ratio {self.log10_likelihood_ratio} is not finite")

    @classmethod
    def not_applicable(cls, why: str) -> Finding:
        """The detector has nothing to look at in this picture; `why` is a sentence for a person."""
        return cls(applicability=Applicability.NOT_APPLICABLE, score=None, explanation=why)

    @classmethod
    def failed(cls, why: str) -> Finding:
        """The detector should have looked and could not; `why` is a sentence for a person."""
        return cls(applicability=Applicability.FAILED, score=None, explanation=why)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorSpec:
    """Facts about a detector, fixed when it is written.

    Attributes:
        name: lower_snake_case, unique in the mesh, stable for ever.
        version: raised whenever the same picture may get another answer.
        title: what a person calls it.
        question: which of the two questions it speaks to.
        techniques: what it can find.
        papers: DOIs, arXiv ids or standard numbers of the methods it follows.
        models: names of the Triton models that it asks.
        description: the first paragraph of its function's docstring.
        parameters: name and value of every constant that shapes its answer; part of every result.
    """

    name: str
    version: str
    title: str
    question: Question
    techniques: tuple[Technique, ...]
    papers: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    description: str = ""
    parameters: Mapping[str, str | float | int | bool] = field(default_factory=dict)


F = TypeVar("F", bound=Callable[..., Any])


class Registry(Generic[F]):
    """The detectors of one service, filled by decorator.

    Args:
        service: the service's name, for error messages.

    `load` imports every module of a package, so that a new detector is one new file and nothing else.
    """

    def __init__(self, service: str) -> None:
        self.service = service
        self._entries: dict[str, tuple[DetectorSpec, F]] = {}

    def detector(
        self,
        *,
        name: str,
        version: str,
        title: str,
        question: Question,
        techniques: Sequence[Technique],
        papers: Sequence[str] = (),
        models: Sequence[str] = (),
        parameters: Mapping[str, str | float | int | bool] | None = None,
    ) -> Callable[[F], F]:
        """Registers the decorated function; see `DetectorSpec` for the arguments."""

        def register(function: F) -> F:
            if name in self._entries:
                raise ValueError(f"{self.service} has two detectors named {name}")
            if not function.__doc__:
                raise ValueError(f"detector {name} has no docstring")
            spec = DetectorSpec(
                name=name,
                version=version,
                title=title,
                question=question,
                techniques=tuple(techniques),
                papers=tuple(papers),
                models=tuple(models),
                description=" ".join(function.__doc__.strip().split("\n\n")[0].split()),
                parameters=dict(parameters or {}),
            )
            self._entries[name] = (spec, function)
            return function

        return register

    def load(self, package: str) -> Registry[F]:
        """Imports every public module of `package`, so that their decorators run; returns itself."""
        module = importlib.import_module(package)
        for info in pkgutil.iter_modules(module.__path__):
            if not info.name.startswith("_"):
                importlib.import_module(f"{package}.{info.name}")
        return self

    def configured(self, name: str, parameters: Mapping[str, str | float | int | bool], **options: Any) -> Registry[F]:
        """A copy in which one detector gets keyword options by a deployment's settings, and says so in its results.

        Args:
            name: the detector's.
            parameters: what is shown of the options, in place of the parameters of these names.
            options: keyword arguments of its function.

        Raises:
            KeyError: there is no such detector.
        """
        copy: Registry[F] = Registry(self.service)
        copy._entries = dict(self._entries)
        spec, function = self._entries[name]
        bound = cast("F", functools.partial(function, **options))
        copy._entries[name] = replace(spec, parameters={**spec.parameters, **parameters}), bound
        return copy

    def __iter__(self) -> Iterator[tuple[DetectorSpec, F]]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> tuple[DetectorSpec, F]:
        return self._entries[name]
