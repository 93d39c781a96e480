"""Between this service's vocabulary (`services.faces.face`) and the contracts'."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from pentimento.common.v1 import detection_pb2, face_pb2, geometry_pb2

from services.common.convert import point_to_proto, question_to_proto
from services.common.errors import PentimentoError
from services.faces.detectors.facenet_realfake import LIKELIHOOD_RATIOS
from services.faces.face import (
    AgeEstimate,
    Attribute,
    Box,
    DeepfakeEstimate,
    DescribedFace,
    DetectedFace,
    Embedding,
    FaceDetector,
    GenderEstimate,
    KindEstimate,
    Landmarks,
)
from services.faces.models import FACENET, MODELS

__all__ = [
    "attributes_from_proto",
    "deepfake_to_proto",
    "detector_from_proto",
    "detector_to_proto",
    "embedding_from_proto",
    "embedding_to_proto",
    "face_to_proto",
    "kind_to_proto",
    "missing_to_proto",
]

_QUESTIONS = {model.name: model.question for model in MODELS}


def detector_from_proto(value: face_pb2.FaceDetector.ValueType) -> FaceDetector | None:
    """The finder of the same name; None for FACE_DETECTOR_UNSPECIFIED."""
    name = face_pb2.FaceDetector.Name(value).removeprefix("FACE_DETECTOR_")
    return None if name == "UNSPECIFIED" else FaceDetector[name]


def detector_to_proto(detector: FaceDetector | None) -> face_pb2.FaceDetector.ValueType:
    """The contract's value of the same name; None is FACE_DETECTOR_UNSPECIFIED."""
    return face_pb2.FaceDetector.Value(f"FACE_DETECTOR_{detector.name if detector else 'UNSPECIFIED'}")


def attributes_from_proto(values: Iterable[face_pb2.FaceAttribute.ValueType]) -> frozenset[Attribute]:
    """The attributes of the same names; FACE_ATTRIBUTE_UNSPECIFIED asks for nothing."""
    names = {face_pb2.FaceAttribute.Name(value).removeprefix("FACE_ATTRIBUTE_") for value in values}
    return frozenset(Attribute[name] for name in names if name != "UNSPECIFIED")


def face_to_proto(face: DetectedFace, described: DescribedFace | None = None) -> face_pb2.Face:
    """A face and, where networks were asked about it, what they say."""
    return face_pb2.Face(
        box=_box_to_proto(face.box),
        confidence=face.confidence,
        detector=detector_to_proto(face.detector),
        agreement=face.agreement,
        face_landmarks=_landmarks_to_proto(face.landmarks),
        age=_age_to_proto(described.age) if described and described.age else None,
        gender=_gender_to_proto(described.gender) if described and described.gender else None,
        kind=kind_to_proto(described.kind) if described and described.kind else None,
        deepfake=deepfake_to_proto(described.deepfake) if described and described.deepfake else None,
    )


def deepfake_to_proto(estimate: DeepfakeEstimate) -> face_pb2.DeepfakeEstimate:
    """The estimate in the contract's terms; its likelihood ratio is the detector's stated one."""
    log10 = next(log10 for least, log10 in LIKELIHOOD_RATIOS if estimate.score >= least)
    return face_pb2.DeepfakeEstimate(
        score=estimate.score,
        likelihood_ratio=detection_pb2.LikelihoodRatio(log10=log10, source="the detector's stated table"),
        stability=estimate.stability,
    )


def embedding_to_proto(embedding: Embedding, *, version: str) -> face_pb2.Embedding:
    """The embedding in the contract's terms.

    Args:
        embedding: what the network said.
        version: of the network; embeddings of two versions cannot be compared.
    """
    return face_pb2.Embedding(values=embedding.values.tolist(), model=FACENET.name, model_version=version)


def embedding_from_proto(embedding: face_pb2.Embedding) -> Embedding:
    """The contract's embedding as a vector."""
    return Embedding(np.asarray(embedding.values, dtype=np.float32))


def kind_to_proto(kind: KindEstimate) -> face_pb2.KindEstimate:
    """The estimate in the contract's terms."""
    return face_pb2.KindEstimate(
        kind=face_pb2.FaceKind.Value(f"FACE_KIND_{kind.kind.name}"), probability=kind.probability
    )


def missing_to_proto(part: str, error: PentimentoError) -> detection_pb2.Missing:
    """What could not be asked, and why."""
    question = _QUESTIONS.get(part)
    return detection_pb2.Missing(
        part=part,
        reason=error.reason,
        message=error.message,
        questions=[question_to_proto(question)] if question else [],
    )


def _box_to_proto(box: Box) -> geometry_pb2.Box:
    return geometry_pb2.Box(x_min=box.x_min, y_min=box.y_min, x_max=box.x_max, y_max=box.y_max)


def _landmarks_to_proto(landmarks: Landmarks | None) -> face_pb2.FaceLandmarks | None:
    """The places that the finder gives: it may leave out the corners of the mouth, or all."""
    if landmarks is None:
        return None
    return face_pb2.FaceLandmarks(
        right_eye=point_to_proto(landmarks.right_eye),
        left_eye=point_to_proto(landmarks.left_eye),
        nose=point_to_proto(landmarks.nose),
        mouth_right=point_to_proto(landmarks.mouth_right) if landmarks.mouth_right else None,
        mouth_left=point_to_proto(landmarks.mouth_left) if landmarks.mouth_left else None,
    )


def _age_to_proto(age: AgeEstimate) -> face_pb2.AgeEstimate:
    return face_pb2.AgeEstimate(
        years=age.years,
        distribution=age.distribution,
        range=age.age_range,
        range_probability=age.range_probability,
    )


def _gender_to_proto(gender: GenderEstimate) -> face_pb2.GenderEstimate:
    return face_pb2.GenderEstimate(
        gender=face_pb2.Gender.Value(f"GENDER_{gender.gender.name}"), probability=gender.probability
    )
