"""What a face is and what is said about it: the vocabulary of this service. Nothing here knows protobuf.

All coordinates are in pixels of the full-size upright picture; (0, 0) is the outer corner of the top left pixel.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.common.detection import Point

__all__ = [
    "AgeEstimate",
    "Attribute",
    "Box",
    "DeepfakeEstimate",
    "DescribedFace",
    "DetectedFace",
    "Embedding",
    "FaceDetector",
    "FaceKind",
    "Gender",
    "GenderEstimate",
    "KindEstimate",
    "Landmarks",
]


class FaceDetector(enum.Enum):
    """What looks for faces; the names are the contract's."""

    YUNET = "yunet"
    MEDIAPIPE = "mediapipe"
    HAAR = "haar"
    CONSENSUS = "consensus"


class Attribute(enum.Enum):
    """What may be said about a face; the names are the contract's."""

    AGE = "age"
    GENDER = "gender"
    KIND = "kind"
    DEEPFAKE = "deepfake"


class Gender(enum.Enum):
    """The two classes of the gender network."""

    FEMALE = "female"
    MALE = "male"


class FaceKind(enum.Enum):
    """What a face is; the names are the contract's."""

    HUMAN = "human"
    CARTOON = "cartoon"


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-parallel rectangle; the maxima are exclusive. It may have no area, and may leave the picture."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float

    @property
    def width(self) -> float:
        """In pixels, never negative."""
        return max(0.0, self.x_max - self.x_min)

    @property
    def height(self) -> float:
        """In pixels, never negative."""
        return max(0.0, self.y_max - self.y_min)

    @property
    def area(self) -> float:
        """In square pixels."""
        return self.width * self.height

    @property
    def centre(self) -> Point:
        """The middle."""
        return Point((self.x_min + self.x_max) / 2, (self.y_min + self.y_max) / 2)

    def intersection(self, other: Box) -> Box:
        """What both have in common; without area if that is nothing."""
        return Box(
            max(self.x_min, other.x_min),
            max(self.y_min, other.y_min),
            min(self.x_max, other.x_max),
            min(self.y_max, other.y_max),
        )

    def clipped(self, width: float, height: float) -> Box:
        """The part that lies in a picture of this size."""
        return self.intersection(Box(0.0, 0.0, width, height))

    def mapped(self, scale: float, dx: float = 0.0, dy: float = 0.0) -> Box:
        """Every coordinate times `scale`, then moved by (dx, dy)."""
        return Box(self.x_min * scale + dx, self.y_min * scale + dy, self.x_max * scale + dx, self.y_max * scale + dy)

    def overlap(self, other: Box) -> float:
        """Intersection over union, 0 to 1."""
        common = self.intersection(other).area
        union = self.area + other.area - common
        return common / union if union else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Landmarks:
    """Where the parts of a face are; right and left are the person's own.

    `mouth` is the middle of the mouth. `mouth_right` and `mouth_left` are its corners, where the finder gives them.
    """

    right_eye: Point
    left_eye: Point
    nose: Point
    mouth: Point
    mouth_right: Point | None = None
    mouth_left: Point | None = None

    @classmethod
    def mean(cls, several: Sequence[Landmarks]) -> Landmarks:
        """The mean places of the same face's landmarks; a corner of the mouth only if all have it."""

        def middle(points: Sequence[Point]) -> Point:
            return Point(sum(point.x for point in points) / len(points), sum(point.y for point in points) / len(points))

        right = [each.mouth_right for each in several if each.mouth_right]
        left = [each.mouth_left for each in several if each.mouth_left]
        return cls(
            right_eye=middle([each.right_eye for each in several]),
            left_eye=middle([each.left_eye for each in several]),
            nose=middle([each.nose for each in several]),
            mouth=middle([each.mouth for each in several]),
            mouth_right=middle(right) if len(right) == len(several) else None,
            mouth_left=middle(left) if len(left) == len(several) else None,
        )

    def mapped(self, scale: float, dx: float = 0.0, dy: float = 0.0) -> Landmarks:
        """Every coordinate times `scale`, then moved by (dx, dy)."""

        def moved(point: Point) -> Point:
            return Point(point.x * scale + dx, point.y * scale + dy)

        return Landmarks(
            right_eye=moved(self.right_eye),
            left_eye=moved(self.left_eye),
            nose=moved(self.nose),
            mouth=moved(self.mouth),
            mouth_right=moved(self.mouth_right) if self.mouth_right else None,
            mouth_left=moved(self.mouth_left) if self.mouth_left else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectedFace:
    """A face as a finder found it.

    Attributes:
        box: where; within the picture, with an area.
        confidence: how sure the finder is that this is a face, 0 to 1.
        detector: which finder.
        landmarks: eyes, nose and mouth, where the finder gives them.
        agreement: share of the finders that were asked and saw it, 0 to 1; None unless it is a consensus.
    """

    box: Box
    confidence: float
    detector: FaceDetector
    landmarks: Landmarks | None = None
    agreement: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgeEstimate:
    """Apparent age.

    Attributes:
        years: mean of the distribution.
        distribution: probability of each year of age, 0 to 80; sums to 1.
        age_range: the range that holds the most probability, as the profile API writes it, such as "(25-32)".
        range_probability: how much it holds, 0 to 1.
    """

    years: float
    distribution: tuple[float, ...]
    age_range: str
    range_probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GenderEstimate:
    """Apparent gender: the likelier class and its probability, 0.5 to 1."""

    gender: Gender
    probability: float


@dataclass(frozen=True, slots=True)
class KindEstimate:
    """A person's or drawn: the likelier kind and its probability, 0.5 to 1."""

    kind: FaceKind
    probability: float


@dataclass(frozen=True, slots=True)
class DeepfakeEstimate:
    """Real or fake.

    Attributes:
        score: 0 to 1, from 0.5 on "fake"; a score, not a probability. The mean over the passes if there were several.
        stability: share of the passes with the label of the mean, 0 to 1; None for a single pass.
    """

    score: float
    stability: float | None = None


@dataclass(frozen=True, slots=True)
class Embedding:
    """Where a face lies in the embedding space: a unit vector, float32 (512,)."""

    values: NDArray[np.float32]

    def similarity(self, other: Embedding) -> float:
        """Cosine of the angle between the two, -1 to 1."""
        return float(np.clip(self.values @ other.values, -1.0, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedFace:
    """A face and what the networks say about it, as far as they were asked and answered."""

    face: DetectedFace
    age: AgeEstimate | None = None
    gender: GenderEstimate | None = None
    kind: KindEstimate | None = None
    deepfake: DeepfakeEstimate | None = None
