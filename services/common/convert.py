"""Between the detectors' vocabulary (`services.common.detection`) and the contracts' (`pentimento.common.v1`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.struct_pb2 import Struct, Value
from pentimento.common.v1 import detection_pb2, evidence_pb2, geometry_pb2, image_pb2

from services.common.detection import (
    Applicability,
    DetectorSpec,
    Direction,
    Evidence,
    Finding,
    Metric,
    MetricType,
    Point,
    Question,
    Region,
    RegionRole,
    Signal,
    Strength,
    Technique,
)
from services.common.images import ImageInfo, heat_map_png

__all__ = [
    "applicability_to_proto",
    "detector_to_proto",
    "evidence_to_proto",
    "finding_to_proto",
    "heat_map_to_proto",
    "image_info_to_proto",
    "metric_to_proto",
    "point_to_proto",
    "question_to_proto",
    "signal_to_proto",
    "struct",
    "technique_to_proto",
]

WARNING_FROM = 0.40
FLAGGED_FROM = 0.70


def question_to_proto(question: Question) -> detection_pb2.Question.ValueType:
    """The contract's value of the same name."""
    return detection_pb2.Question.Value(f"QUESTION_{question.name}")


def technique_to_proto(technique: Technique | None) -> detection_pb2.Technique.ValueType:
    """The contract's value of the same name; None is TECHNIQUE_UNSPECIFIED."""
    return detection_pb2.Technique.Value(f"TECHNIQUE_{technique.name if technique else 'UNSPECIFIED'}")


def applicability_to_proto(applicability: Applicability) -> detection_pb2.Applicability.ValueType:
    """The contract's value of the same name."""
    return detection_pb2.Applicability.Value(f"APPLICABILITY_{applicability.name}")


def _metric_type_to_proto(metric_type: MetricType) -> evidence_pb2.MetricType.ValueType:
    return evidence_pb2.MetricType.Value(f"METRIC_TYPE_{metric_type.name}")


def struct(facts: Mapping[str, Any]) -> Struct:
    """A mapping of JSON-like values as a Struct; NumPy values are taken too, NaN and infinity become null."""
    result = Struct()
    for key, value in facts.items():
        result.fields[key].CopyFrom(_value(value))
    return result


def _value(value: Any) -> Value:
    result = Value()
    if value is None:
        result.null_value = 0  # type: ignore[assignment]
    elif isinstance(value, bool | np.bool_):
        result.bool_value = bool(value)
    elif isinstance(value, int | float | np.number):
        number = float(value)
        if math.isfinite(number):
            result.number_value = number
        else:
            result.null_value = 0  # type: ignore[assignment]
    elif isinstance(value, Mapping):
        result.struct_value.CopyFrom(struct(value))
    elif isinstance(value, list | tuple | np.ndarray):
        result.list_value.values.extend(_value(item) for item in value)
        if not len(value):
            result.list_value.SetInParent()
    else:
        result.string_value = str(value)
    return result


def point_to_proto(point: Point) -> geometry_pb2.Point:
    """The same point."""
    return geometry_pb2.Point(x=point.x, y=point.y)


def _region_to_proto(region: Region) -> detection_pb2.Region:
    role = {
        RegionRole.SUSPECT: detection_pb2.REGION_ROLE_SUSPECT,
        RegionRole.SOURCE: detection_pb2.REGION_ROLE_SOURCE,
        RegionRole.COPY: detection_pb2.REGION_ROLE_COPY,
    }[region.role]
    outline = geometry_pb2.Polygon(points=[point_to_proto(point) for point in region.polygon])
    return detection_pb2.Region(role=role, outline=outline, score=region.score)


def heat_map_to_proto(heat_map: np.ndarray[Any, Any] | None) -> image_pb2.HeatMap | None:
    """The map, (h, w) in 0-1, as the contract has it; None if there is none. Encodes a PNG: for a thread."""
    if heat_map is None:
        return None
    height, width = heat_map.shape
    return image_pb2.HeatMap(png=heat_map_png(heat_map), width=width, height=height)


def detector_to_proto(spec: DetectorSpec, service: str) -> detection_pb2.Detector:
    """What a detector is, as ListDetectors tells it."""
    return detection_pb2.Detector(
        name=spec.name,
        version=spec.version,
        title=spec.title,
        description=spec.description,
        question=question_to_proto(spec.question),
        techniques=[technique_to_proto(technique) for technique in spec.techniques],
        papers=spec.papers,
        models=spec.models,
        parameters=struct(spec.parameters),
        service=service,
    )


def finding_to_proto(
    spec: DetectorSpec,
    finding: Finding,
    *,
    seconds: float,
    model_digests: Mapping[str, str],
    include_maps: bool,
) -> detection_pb2.Finding:
    """What a detector says, with what made it.

    Args:
        spec: the detector.
        finding: what it says.
        seconds: how long it took.
        model_digests: SHA-256 of the weights that took part, by model name.
        include_maps: whether to send the maps (encoding them takes time).
    """
    ratio = None
    if finding.log10_likelihood_ratio is not None:
        ratio = detection_pb2.LikelihoodRatio(
            log10=finding.log10_likelihood_ratio,
            calibrated=finding.calibrated,
            source=f"{spec.name} {spec.version}",
        )
    return detection_pb2.Finding(
        provenance=detection_pb2.Provenance(
            detector=spec.name,
            version=spec.version,
            model_digests=model_digests,
            parameters=struct(spec.parameters),
            duration_seconds=seconds,
        ),
        title=spec.title,
        question=question_to_proto(spec.question),
        applicability=applicability_to_proto(finding.applicability),
        score=finding.score,
        likelihood_ratio=ratio,
        explanation=finding.explanation,
        technique=technique_to_proto(finding.technique),
        heat_map=heat_map_to_proto(finding.heat_map) if include_maps else None,
        reliability_map=heat_map_to_proto(finding.reliability_map) if include_maps else None,
        regions=[_region_to_proto(region) for region in finding.regions],
        details=struct(finding.details),
    )


def evidence_to_proto(evidence: Evidence) -> evidence_pb2.Evidence:
    """The same evidence."""
    direction = {
        Direction.AI_GENERATED: evidence_pb2.EVIDENCE_DIRECTION_AI_GENERATED,
        Direction.EDITED: evidence_pb2.EVIDENCE_DIRECTION_EDITED,
        Direction.AUTHENTIC: evidence_pb2.EVIDENCE_DIRECTION_AUTHENTIC,
        Direction.INDETERMINATE: evidence_pb2.EVIDENCE_DIRECTION_INDETERMINATE,
    }[evidence.direction]
    strength = {
        Strength.WEAK: evidence_pb2.EVIDENCE_STRENGTH_WEAK,
        Strength.MODERATE: evidence_pb2.EVIDENCE_STRENGTH_MODERATE,
        Strength.STRONG: evidence_pb2.EVIDENCE_STRENGTH_STRONG,
        Strength.CONCLUSIVE: evidence_pb2.EVIDENCE_STRENGTH_CONCLUSIVE,
    }[evidence.strength]
    return evidence_pb2.Evidence(
        source=evidence.source,
        finding=evidence.finding,
        direction=direction,
        strength=strength,
        confidence=evidence.confidence,
        details=struct(evidence.details),
        analyzer=evidence.analyzer,
        question=question_to_proto(evidence.question),
    )


def metric_to_proto(metric: Metric) -> evidence_pb2.MetricResult:
    """The same metric."""
    return evidence_pb2.MetricResult(
        metric_type=_metric_type_to_proto(metric.metric_type),
        score=metric.score,
        confidence=metric.confidence,
        details=struct(metric.details),
    )


def signal_to_proto(signal: Signal) -> evidence_pb2.Signal:
    """The same signal, with the status that its score gives it."""
    if signal.score >= FLAGGED_FROM:
        status = evidence_pb2.SIGNAL_STATUS_FLAGGED
    elif signal.score >= WARNING_FROM:
        status = evidence_pb2.SIGNAL_STATUS_WARNING
    else:
        status = evidence_pb2.SIGNAL_STATUS_PASSED
    return evidence_pb2.Signal(
        name=signal.name,
        metric_type=_metric_type_to_proto(signal.metric_type),
        score=signal.score,
        status=status,
        explanation=signal.explanation,
    )


def image_info_to_proto(info: ImageInfo) -> image_pb2.ImageInfo:
    """The same facts."""
    return image_pb2.ImageInfo(
        width=info.width,
        height=info.height,
        format=info.format,
        size_bytes=info.size_bytes,
        sha256=info.sha256,
        frame_count=info.frames,
        exif_orientation=info.exif_orientation,
        color_mode=info.mode,
    )
