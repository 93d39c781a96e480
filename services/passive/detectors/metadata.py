"""Metadata: what the file says of its camera, its programs, its times and places, and where it contradicts itself.

Reads EXIF (all directories), XMP, IPTC-IIM, PNG texts, WebP and JPEG structure. What it gathers is for a person to
judge; as evidence it is kept small on purpose:

* Settings of a camera that fit together are **weak** evidence for a photograph: anybody can paste them into any file.
* A contradiction (two cameras, two places, dimensions that are not the picture's, a modification before the exposure)
  tells that the file was processed, or that its clock was wrong, not that the picture was generated: it speaks for
  neither side.
* The absence of metadata is evidence of nothing: every messenger removes it.

References: CIPA DC-008-2023 (Exif 3.0); ISO 16684-1 (XMP); IPTC-IIM 4.2; ITU-T T.81 (JPEG); W3C PNG.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from services.common.detection import Applicability, Direction, Evidence, Finding, Question, Strength, Technique
from services.common.images import ImageInfo, Picture
from services.passive._metadata import Exif, Metadata, as_json, clean, read_metadata
from services.passive.detectors import registry

__all__ = ["Contradiction", "camera_settings", "detect_metadata", "find_contradictions", "software_history"]

MIN_CAMERA_SETTINGS: Final = 3
"""Fewest physical settings (exposure, aperture, sensitivity, focal length, ...) that count as a camera's record."""
MAX_CLOCK_SKEW: Final = timedelta(hours=26)
"""Largest honest difference of local time and UTC, with an hour for summer time."""
MAX_DISTANCE_KM: Final = 1.0
"""Largest distance of two records of the same place."""
MAX_STOPS: Final = 1.5
"""Largest difference of two records of the same exposure, in stops (factors of two)."""
MAX_HISTORY: Final = 60
"""Most programs and events that are listed."""

_CAMERA_SETTINGS: Final = (
    "ExposureTime",
    "FNumber",
    "ISOSpeedRatings",
    "PhotographicSensitivity",
    "FocalLength",
    "ShutterSpeedValue",
    "ApertureValue",
    "ExposureProgram",
    "MeteringMode",
    "Flash",
    "SubjectDistance",
)
_EDITORS = re.compile(
    r"photoshop|lightroom|gimp|affinity|pixelmator|paint|snapseed|picsart|canva|capture one|darktable|luminar|"
    r"photoscape|fotor|facetune|meitu|photopea|imagemagick|acdsee|corel|photofiltre|picasa|nik collection|topaz",
    re.IGNORECASE,
)
_MAKER_NOTES: Final = (
    (b"Nikon\x00", "nikon"),
    (b"OLYMP\x00", "olympus"),
    (b"OLYMPUS\x00", "olympus"),
    (b"FUJIFILM", "fuji"),
    (b"SONY DSC", "sony"),
    (b"SONY CAM", "sony"),
    (b"Apple iOS\x00", "apple"),
    (b"Panasonic\x00", "panasonic"),
    (b"LEICA", "leica"),
)
# Makers that sell one another's cameras, or write one another's notes.
_SAME_MAKER: Final = {"olympus": ("olympus", "om digital", "digital"), "panasonic": ("panasonic", "leica")}


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Two records of a file that cannot both be true: what about, and a sentence for a person."""

    about: str
    sentence: str


def camera_settings(exif: Exif) -> dict[str, Any]:
    """The physical settings of an exposure that EXIF records, by tag name."""
    return {name: value for name in _CAMERA_SETTINGS if (value := exif.get(name)) is not None}


def software_history(metadata: Metadata) -> list[str]:
    """The programs that the file names, each once, in the order of the file."""
    names = [metadata.exif.text("Software"), metadata.exif.text("ProcessingSoftware")]
    names += [value for key, value in metadata.texts if key.lower() == "software"]
    names += [value for key, value in metadata.iptc if key == "OriginatingProgram"]
    names += [*metadata.xmp.all("CreatorTool"), *metadata.xmp.all("softwareAgent")]
    return list(dict.fromkeys(shown for name in names if (shown := clean(name, 100))))[:MAX_HISTORY]


def find_contradictions(metadata: Metadata, info: ImageInfo) -> list[Contradiction]:
    """Where the file's records contradict each other, or the picture."""
    return [
        *_dimensions(metadata, info),
        *_times(metadata),
        *_places(metadata),
        *_cameras(metadata),
        *_exposures(metadata.exif),
    ]


@registry.detector(
    name="metadata",
    version="1",
    title="Metadata",
    question=Question.GENERATED,
    techniques=(Technique.OTHER,),
    papers=("CIPA DC-008-2023", "ISO 16684-1", "IPTC-IIM 4.2"),
    parameters={
        "min_camera_settings": MIN_CAMERA_SETTINGS,
        "max_clock_skew_hours": MAX_CLOCK_SKEW / timedelta(hours=1),
        "max_distance_km": MAX_DISTANCE_KM,
        "max_stops": MAX_STOPS,
    },
)
def detect_metadata(picture: Picture) -> Finding:
    """Reads camera, programs, times and places from the file, and says where they contradict each other.

    A camera's settings are weak evidence for a photograph; contradictions speak for neither side. Does not apply to
    files without metadata, which proves nothing.
    """
    metadata = read_metadata(picture.file, picture.info.format)
    if not metadata.kinds:
        return Finding.not_applicable(
            "The file carries no metadata. That proves nothing: most ways of sending a picture remove it."
        )
    history = software_history(metadata)
    contradictions = find_contradictions(metadata, picture.info)
    settings = camera_settings(metadata.exif)
    camera = _camera(metadata.exif)
    edited = [name for name in history if _EDITORS.search(name)]
    pieces = []
    if camera and len(settings) >= MIN_CAMERA_SETTINGS and not contradictions:
        pieces.append(_camera_evidence(camera, settings))
    if contradictions:
        pieces.append(_contradiction_evidence(contradictions))
    return Finding(
        applicability=Applicability.APPLIED,
        score=0.0,
        explanation=_explain(camera, metadata, edited, contradictions),
        details=_details(metadata, history, contradictions),
        evidence=tuple(pieces),
    )


def _camera_evidence(camera: str, settings: dict[str, Any]) -> Evidence:
    return Evidence(
        source="exif",
        finding=f"EXIF records an exposure by {camera} ({len(settings)} settings); such a record can be pasted into "
        "any file",
        direction=Direction.AUTHENTIC,
        strength=Strength.WEAK,
        analyzer="metadata",
        confidence=0.6,
        details=as_json({"camera": camera, **settings}),
    )


def _contradiction_evidence(contradictions: list[Contradiction]) -> Evidence:
    more = f" (and {len(contradictions) - 1} more)" if len(contradictions) > 1 else ""
    return Evidence(
        source="metadata",
        finding=f"The file contradicts itself: {contradictions[0].sentence.rstrip('.')}{more}",
        direction=Direction.INDETERMINATE,
        strength=Strength.WEAK,
        analyzer="metadata",
        confidence=0.7,
        details={"contradictions": [item.sentence for item in contradictions]},
    )


# --- Contradictions ---


def _dimensions(metadata: Metadata, info: ImageInfo) -> Iterator[Contradiction]:
    width = metadata.exif.number("ExifImageWidth", "Exif")
    height = metadata.exif.number("ExifImageHeight", "Exif")
    if not width or not height or not (math.isfinite(width) and math.isfinite(height)):
        return
    if sorted((int(width), int(height))) != sorted((info.width, info.height)):
        yield Contradiction(
            "dimensions",
            f"EXIF says {int(width)} x {int(height)} pixels, the picture has {info.width} x {info.height}: "
            "it was resized or cropped by a program that left the record alone.",
        )


def _times(metadata: Metadata) -> Iterator[Contradiction]:
    taken = _time(metadata.exif.text("DateTimeOriginal"))
    changed = _time(metadata.exif.text("DateTime"))
    digitized = _time(metadata.exif.text("DateTimeDigitized"))
    if taken and changed and changed < taken - MAX_CLOCK_SKEW:
        yield Contradiction("time", f"The file was last changed ({changed}) before the picture was taken ({taken}).")
    if taken and digitized and digitized < taken - MAX_CLOCK_SKEW:
        yield Contradiction("time", f"The picture was digitised ({digitized}) before it was taken ({taken}).")
    if taken and (satellite := _gps_time(metadata.exif)) and abs(satellite - taken) > MAX_CLOCK_SKEW:
        yield Contradiction("time", f"GPS says {satellite}, the camera's clock {taken}.")
    original = _time(metadata.xmp.first("DateTimeOriginal")) or _time(metadata.xmp.first("DateCreated"))
    if taken and original and abs(original - taken) > MAX_CLOCK_SKEW:
        yield Contradiction("time", f"XMP says the picture was made at {original}, EXIF at {taken}.")


def _places(metadata: Metadata) -> Iterator[Contradiction]:
    gps = metadata.exif.directories.get("GPS", {})
    latitude = _degrees(gps.get("GPSLatitude"), gps.get("GPSLatitudeRef"))
    longitude = _degrees(gps.get("GPSLongitude"), gps.get("GPSLongitudeRef"))
    if latitude is None or longitude is None:
        return
    if abs(latitude) > 90 or abs(longitude) > 180:
        yield Contradiction("place", f"GPS names a place that is not on Earth ({latitude:.3f}, {longitude:.3f}).")
        return
    there = _xmp_degrees(metadata.xmp.first("GPSLatitude")), _xmp_degrees(metadata.xmp.first("GPSLongitude"))
    if there[0] is None or there[1] is None:
        return
    distance = _distance_km(latitude, longitude, there[0], there[1])
    if distance > MAX_DISTANCE_KM:
        yield Contradiction("place", f"The places in EXIF and XMP are {distance:.0f} km apart.")


def _cameras(metadata: Metadata) -> Iterator[Contradiction]:
    make, model = metadata.exif.text("Make"), metadata.exif.text("Model")
    for item in metadata.xmp.properties:
        mine = {"Make": make, "Model": model}.get(item.name, "") if item.namespace.endswith("/tiff/1.0/") else ""
        if mine and _plain(item.value) != _plain(mine):
            yield Contradiction("camera", f"EXIF names the camera's {item.name.lower()} {clean(mine, 60)}, XMP "
                                f"{clean(item.value, 60)}.")  # fmt: skip
    note = metadata.exif.get("MakerNote", "Exif")
    if not make or not isinstance(note, bytes):
        return
    for mark, maker in _MAKER_NOTES:
        if note.startswith(mark) and not any(name in make.lower() for name in _SAME_MAKER.get(maker, (maker,))):
            yield Contradiction(
                "camera",
                f"The maker's note is in the form of {maker.title()}, the camera is said to be {clean(make, 60)}.",
            )


def _exposures(exif: Exif) -> Iterator[Contradiction]:
    """Shutter and aperture are recorded twice, plainly and in APEX units (Exif 3.0, annex C)."""
    seconds, shutter = exif.number("ExposureTime"), exif.number("ShutterSpeedValue")
    if (
        seconds
        and shutter
        and 0 < seconds < 1e6
        and abs(shutter) < 30
        and abs(-math.log2(seconds) - shutter) > MAX_STOPS
    ):
        yield Contradiction("exposure", f"The exposure time is {seconds:.4g} s and {2.0**-shutter:.4g} s.")
    stop, aperture = exif.number("FNumber"), exif.number("ApertureValue")
    if stop and aperture and 0 < stop < 1e6 and 0 < aperture < 30 and abs(2 * math.log2(stop) - aperture) > MAX_STOPS:
        yield Contradiction("exposure", f"The aperture is f/{stop:.3g} and f/{2.0 ** (aperture / 2):.3g}.")


# --- Reading values ---

_TIME = re.compile(r"(\d{4})[:\-/.](\d\d)[:\-/.](\d\d)(?:[ T](\d\d):(\d\d)(?::(\d\d))?)?")


def _time(text: str) -> datetime | None:
    """A local time, as EXIF ("2026:08:01 12:00:00") or XMP (ISO 8601) write it; time zones are left to the skew."""
    match = _TIME.match(text.strip())
    if match is None:
        return None
    parts = [int(part or 0) for part in match.groups()]
    if parts[0] < 1900:  # a clock that was never set
        return None
    try:
        return datetime(*parts)  # type: ignore[arg-type]  # noqa: DTZ001  # a camera's clock has no time zone
    except ValueError:
        return None


def _gps_time(exif: Exif) -> datetime | None:
    clock = exif.get("GPSTimeStamp", "GPS")
    day = _time(exif.text("GPSDateStamp", "GPS"))
    if day is None or not isinstance(clock, tuple) or len(clock) != 3:
        return None
    seconds = clock[0] * 3600 + clock[1] * 60 + clock[2]
    return day + timedelta(seconds=seconds) if 0 <= seconds <= 2 * 86_400 else None


def _degrees(value: Any, reference: Any) -> float | None:
    if not isinstance(value, tuple) or len(value) != 3 or not isinstance(reference, str):
        return None
    degrees = float(value[0]) + float(value[1]) / 60 + float(value[2]) / 3600
    return -degrees if reference.strip().upper() in {"S", "W"} else degrees


def _xmp_degrees(text: str) -> float | None:
    """XMP's "48,51.5N" or "48,51,30N"."""
    match = re.fullmatch(r"(\d{1,3}),(\d{1,3}(?:\.\d{1,12})?)(?:,(\d{1,3}(?:\.\d{1,12})?))?([NSEW])", text.strip())
    if match is None:
        return None
    degrees = int(match[1]) + float(match[2]) / 60 + float(match[3] or 0) / 3600
    return -degrees if match[4] in "SW" else degrees


def _distance_km(latitude: float, longitude: float, other_latitude: float, other_longitude: float) -> float:
    """Along the great circle (haversine)."""
    one, two = math.radians(latitude), math.radians(other_latitude)
    across = math.radians(other_longitude - longitude)
    h = math.sin((two - one) / 2) ** 2 + math.cos(one) * math.cos(two) * math.sin(across / 2) ** 2
    return 2 * 6371.0 * math.asin(math.sqrt(min(1.0, max(0.0, h))))


def _plain(name: str) -> str:
    return re.sub(r"\W+", "", name).lower()


# --- Words ---


def _camera(exif: Exif) -> str:
    """Make and model; many makers put their name into the model as well."""
    make, model = clean(exif.text("Make"), 60), clean(exif.text("Model"), 60)
    return model if model.lower().startswith(make.lower()) else f"{make} {model}".strip()


def _explain(camera: str, metadata: Metadata, edited: list[str], contradictions: list[Contradiction]) -> str:
    sentences = [f"The file carries {', '.join(metadata.kinds)}" + (f" of {camera}" if camera else "") + "."]
    if edited:
        sentences.append(f"It names an editor: {edited[0]}.")
    if contradictions:
        sentences.append(f"It contradicts itself: {contradictions[0].sentence}")
    else:
        sentences.append("Nothing in it contradicts itself, which anybody can arrange.")
    return " ".join(sentences)


def _details(metadata: Metadata, history: list[str], contradictions: list[Contradiction]) -> dict[str, Any]:
    details: dict[str, Any] = as_json(
        {
            "kinds": metadata.kinds,
            "exif": metadata.exif.directories,
            "xmp": {item.path: item.value for item in metadata.xmp.properties},
            "iptc": [{"name": name, "text": text} for name, text in metadata.iptc],
            "texts": [{"keyword": keyword, "text": text} for keyword, text in metadata.texts],
            "comments": metadata.parts.comments,
            "software": history,
            "history": _history(metadata),
            "structure": metadata.parts.structure,
            "trailing_bytes": metadata.parts.trailing_bytes,
            "contradictions": [{"about": item.about, "sentence": item.sentence} for item in contradictions],
            "problems": metadata.problems,
        }
    )
    return details


def _history(metadata: Metadata) -> list[dict[str, str]]:
    """XMP's record of what was done: a mapping for each event, in its order."""
    events: list[dict[str, str]] = []
    for item in metadata.xmp.properties:
        if "History/" not in item.path or not item.namespace.endswith("ResourceEvent#"):
            continue
        if not events or item.name in events[-1]:
            events.append({})
        events[-1][item.name] = clean(item.value, 120)
    return events[:MAX_HISTORY]
