"""Models of a deployment's own: folders beside the fetched ones, which take the place of ours of the same name.

    <data folder>/models/own/<model>/config.pbtxt
    <data folder>/models/own/<model>/1/model.onnx       and whatever external data it names, beside it
    <data folder>/models/own/<model>/MODEL_CARD.md      if there is one: its scores are told

They are put in place like those of models.lock, with the digest that the file has now.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from triton_models._lock import NAME, Entry, LockedFile
from triton_models._sources import sha256_of

__all__ = ["LICENCE", "OwnModels", "read_own"]

LICENCE: Final = "LicenseRef-Own"
"""What is told of the licence of weights that somebody else brought."""
WEIGHTS: Final = PurePosixPath("1/model.onnx")
_INPUTS: Final = {
    "facenet_realfake": {"faces": "TYPE_UINT8", "traces": "TYPE_FP32"},
    "age": {"traces": "TYPE_FP32"},
    "gender": {"traces": "TYPE_FP32"},
}
"""What these models are given, and as what; one that was made for an earlier version may not take it."""


@dataclass(frozen=True, slots=True)
class OwnModels:
    """What lies in the folder.

    Attributes:
        entries: the models.
        problems: why a folder is none, by its name.
    """

    entries: tuple[Entry, ...]
    problems: dict[str, str]


def read_own(folder: Path) -> OwnModels:
    """The models in a folder, which need not exist; hidden folders and plain files are left alone."""
    entries, problems = [], {}
    places = sorted(folder.iterdir()) if folder.is_dir() else []
    for place in places:
        if place.name.startswith(".") or not place.is_dir():
            continue
        if problem := _problem(place):
            problems[place.name] = problem
            continue
        files = sorted(path for path in (place / WEIGHTS.parent).rglob("*") if path.is_file())
        locked = tuple(
            LockedFile(PurePosixPath(path.relative_to(place)), sha256_of(path), path.stat().st_size, committed=True)
            for path in files
        )
        entries.append(Entry("model", place.name, LICENCE, locked, own=True))
    return OwnModels(tuple(entries), problems)


def _problem(place: Path) -> str | None:
    if not NAME.fullmatch(place.name):
        return "a model's name consists of a-z, 0-9 and _"
    lacking = [name for name in ("config.pbtxt", str(WEIGHTS)) if not (place / name).is_file()]
    if lacking:
        return f"its folder lacks {' and '.join(lacking)}"
    config = (place / "config.pbtxt").read_text(encoding="utf-8", errors="replace")
    untaken = [
        f"{name} ({kind})"
        for name, kind in _INPUTS.get(place.name, {}).items()
        if not re.search(rf'name:\s*"{name}"\s*data_type:\s*{kind}\b', config)
    ]
    return f"it takes no input {' and '.join(untaken)}: import it again, or make it anew" if untaken else None
