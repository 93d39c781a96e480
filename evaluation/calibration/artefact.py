"""The artefact on disk: digests, saving, loading, and the guard against reporting on what it was fitted on."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from evaluation.calibration.samples import Samples
from evaluation.metrics.errors import RefusedTrap
from services.common.calibration import Calibration, load_calibration, parse_calibration
from services.common.detection import Question

__all__ = ["SameSources", "data_digest", "load", "refuse_same_sources", "save", "source_digest"]

SHOWN: Final = 5
"""So many sources are named in an error."""


class SameSources(RefusedTrap):
    """Pictures of these sources were used to fit the calibration that is to be reported on."""


def source_digest(source: str) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a source's name (NFC, UTF-8): names of pictures stay private."""
    return hashlib.sha256(unicodedata.normalize("NFC", source).encode()).hexdigest()[:16]


def data_digest(samples: Mapping[Question, Samples]) -> str:
    """SHA-256 of sources, labels and scores as "sha256:" and hexadecimal; the order of pictures does not matter."""
    rows = sorted(
        json.dumps([question.value, source_digest(source), label, scores])
        for question, of_question in samples.items()
        for source, label, scores in of_question.rows()
    )
    return "sha256:" + hashlib.sha256("\n".join(rows).encode()).hexdigest()


def save(calibration: Calibration, path: Path) -> None:
    """Writes an artefact as JSON, after checking that it reads back as itself. Raises InvalidCalibration, OSError."""
    text = calibration.model_dump_json(indent=1) + "\n"
    assert parse_calibration(text) == calibration
    path.write_text(text, encoding="utf-8")


def load(path: Path) -> Calibration:
    """Reads an artefact. Raises InvalidCalibration, and OSError where there is none."""
    return load_calibration(path)


def refuse_same_sources(calibration: Calibration, groups: Iterable[str]) -> None:
    """Raises SameSources if a picture to report on comes from a source that the calibration was fitted on.

    Args:
        calibration: that is to be reported on.
        groups: source of every picture to report on, named as they were when it was fitted.
    """
    fitted = set(calibration.sources)
    sources = sorted(set(groups))
    same = [source for source in sources if source_digest(source) in fitted]
    if same:
        more = f" and {len(same) - SHOWN} more" if len(same) > SHOWN else ""
        raise SameSources(
            f"{len(same)} of {len(sources)} sources were used to fit this calibration and cannot be reported on: "
            f"{', '.join(same[:SHOWN])}{more}"
        )
