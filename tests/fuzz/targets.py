"""What is fed with damaged files, and what must hold of every answer.

A target takes a file and raises nothing: what it refuses, it refuses with an error that is meant for the caller. An
answer of a detector must be one that can be sent: finite, within its range, inside of the picture.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.common.convert import evidence_to_proto, finding_to_proto, metric_to_proto, signal_to_proto
from services.common.detection import Applicability, DetectorSpec, Finding
from services.common.errors import InvalidInput
from services.common.images import ImageLimits, Picture, check_image, decode_image, inspect_image
from services.orchestrator.intake import parse
from services.passive._metadata import as_json, read_metadata
from services.passive.detectors import registry
from services.passive.detectors.generator_traces import find_traces
from services.passive.detectors.metadata import find_contradictions
from services.passive.detectors.provenance import judge, verify

__all__ = ["LIMITS", "Target", "Wrong", "targets"]

Target = Callable[[bytes], bool]
"""Takes a file; True if it had something to look at. Raises if it found a defect."""

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF")
LIMITS: Final = ImageLimits(formats=frozenset(FORMATS))
"""As the services have them, with GIF."""
DETECTED_PIXELS: Final = 4_000_000
"""Larger pictures are decoded, but shown to no detector: how long these take there, benchmarks/passive.py measures."""
_BOUNDARY: Final = "XbX"


class Wrong(Exception):
    """An answer that must not be."""


def targets() -> Mapping[str, Target]:
    """All targets by name: decoders, readers, the orchestrator's intake, and each passive detector."""
    found: dict[str, Target] = {
        "decoder": _decoder,
        "metadata": _metadata,
        "manifest": _manifest,
        "intake": _intake,
    }
    for spec, detect in registry.load("services.passive.detectors"):
        found[spec.name] = _detector(spec, detect)
    return found


def _decoder(content: bytes) -> bool:
    """The header's reader, the orchestrator's check and the services' decoder; what the check passes can be decoded."""
    checked = True
    try:
        info = inspect_image(content, LIMITS)
        check_image(content, LIMITS)
    except InvalidInput:
        checked = False
    try:
        picture = decode_image(content, LIMITS)
    except InvalidInput as error:
        if checked:
            raise Wrong(f"checked and found sound, then refused: {error.message}") from error
        return False
    if checked and picture.info != info:
        raise Wrong("the header says one thing to the check and another to the decoder")
    if picture.rgb.shape != (picture.info.height, picture.info.width, 3):
        raise Wrong("pixels of another shape than the header says")
    return True


def _metadata(content: bytes) -> bool:
    """The readers of all containers, whatever the file is; what they found can be shown."""
    read = False
    for image_format in FORMATS:
        metadata = read_metadata(content, image_format)
        json.dumps(as_json({"exif": metadata.exif.directories, "iptc": metadata.iptc, "texts": metadata.texts}))
        json.dumps([metadata.problems, metadata.kinds, metadata.parts.structure])
        for trace in find_traces(metadata):
            json.dumps(as_json(trace.settings))
        read = read or bool(metadata.kinds)
    try:
        info = inspect_image(content, LIMITS)
    except InvalidInput:
        return read
    find_contradictions(read_metadata(content, info.format), info)
    return read


def _manifest(content: bytes) -> bool:
    """The verifier of C2PA manifests; a damaged manifest is trusted by nobody."""
    for image_format in FORMATS:
        try:
            found = verify(content, f"image/{image_format.lower()}")
        except ValueError:
            continue
        if found is not None and found.active is not None:
            evidence_to_proto(judge(found))
            if found.trusted:
                raise Wrong("trusted, though no seed's signer is on the trust list")
            return True
    return False


def _intake(content: bytes) -> bool:
    """The orchestrator's reader of requests: the file as a body, in a form, in JSON."""
    part = b'--XbX\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
    bodies = {
        "": content,
        "image/jpeg": content,
        f"multipart/form-data; boundary={_BOUNDARY}": part + content + b"\r\n--XbX--\r\n",
        "multipart/form-data; boundary=Xb": b"--Xb\r\n" + content,
        "application/json": json.dumps({"image": base64.b64encode(content).decode()}).encode(),
        "application/json; charset=utf-8": content,
        "application/x-www-form-urlencoded": content,
    }
    taken = False
    for content_type, body in bodies.items():
        try:
            taken = bool(parse(content_type, body, max_images=2, max_bytes=LIMITS.max_bytes)) or taken
        except InvalidInput:
            continue
    return taken


def _detector(spec: DetectorSpec, detect: Callable[[Picture], Finding]) -> Target:
    def target(content: bytes) -> bool:
        try:
            if (info := inspect_image(content, LIMITS)).width * info.height > DETECTED_PIXELS:
                return False
            picture = decode_image(content, LIMITS)
        except InvalidInput:
            return False
        finding = detect(picture)
        for problem in problems_of(finding, picture):
            raise Wrong(problem)
        finding_to_proto(spec, finding, seconds=0.0, model_digests={}, include_maps=True)
        for piece in finding.evidence:
            evidence_to_proto(piece)
        for metric in finding.metrics:
            metric_to_proto(metric)
        for signal in finding.signals:
            signal_to_proto(signal)
        return finding.applicability is not Applicability.NOT_APPLICABLE

    return target


def problems_of(finding: Finding, picture: Picture) -> Iterator[str]:
    """What is wrong with an answer, beside what `Finding` itself refuses."""
    if not finding.explanation.strip():
        yield "no explanation"
    if finding.applicability is not Applicability.APPLIED and (finding.evidence or finding.heat_map is not None):
        yield "evidence or a map of a detector that did not apply"
    for name, plane in (("heat map", finding.heat_map), ("reliability map", finding.reliability_map)):
        if plane is not None:
            yield from _problems_of_map(name, plane)
    height, width = picture.rgb.shape[:2]
    for region in finding.regions:
        inside = all(-1 <= corner.x <= width + 1 and -1 <= corner.y <= height + 1 for corner in region.polygon)
        if len(region.polygon) < 3 or not inside or not 0.0 <= region.score <= 1.0:
            yield "a region that is no part of the picture"
    for piece in finding.evidence:
        if piece.confidence is not None and not 0.0 <= piece.confidence <= 1.0:
            yield f"a confidence of {piece.confidence}"
    for metric in finding.metrics:
        if not (0.0 <= metric.score <= 1.0 and 0.0 <= metric.confidence <= 1.0 and math.isfinite(metric.score)):
            yield f"a metric of {metric.score}, confidence {metric.confidence}"


def _problems_of_map(name: str, plane: NDArray[np.float32]) -> Iterator[str]:
    if plane.dtype != np.float32 or plane.ndim != 2 or not plane.size:
        yield f"a {name} of {plane.dtype} {plane.shape}"
    elif not (np.isfinite(plane).all() and plane.min() >= 0.0 and plane.max() <= 1.0):
        yield f"a {name} that leaves 0-1"
