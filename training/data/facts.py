"""What the manifest says about a picture's file, found by looking at it; kept, so that nothing is decoded twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from tqdm import tqdm

from training.data.hashing import dhash
from training.data.pictures import UnreadablePicture, cropped, read_pixels
from training.data.repositories import read_blobs

__all__ = ["Facts", "Wanted", "crop_text", "gather_facts", "is_pointer"]

Crop = tuple[float, float, float, float]

_CHUNK: Final = 24
_POINTER: Final = (b"version https://git-lfs", b"/annex/objects")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to be looked at.

    Attributes:
        key: git's name of the content, or path, size and time of a plain file.
        folder: git directory, or folder of plain files.
        name: the blob's id, or the path in the folder.
        crop: what of the picture is used.
        is_blob: which of the two it is.
    """

    key: str
    folder: Path
    name: str
    crop: Crop | None
    is_blob: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found.

    Attributes:
        key: of what was wanted, with its crop.
        problem: why it cannot be used; empty if it can.
        sha256: of the file.
        width, height: upright, before the crop.
        crop_width, crop_height: after it.
        dhash: of the cropped picture.
    """

    key: str
    problem: str = ""
    sha256: str = ""
    width: int = 0
    height: int = 0
    crop_width: int = 0
    crop_height: int = 0
    dhash: str = ""


def crop_text(crop: Crop | None) -> str:
    """A crop as the manifest writes it."""
    return " ".join(f"{part:g}" for part in crop) if crop else ""


def full_key(wanted: Wanted) -> str:
    """Under this the facts are kept."""
    return f"{wanted.key}|{crop_text(wanted.crop)}"


def is_pointer(content: bytes) -> bool:
    """Whether a file only says where the real one lies (Git LFS, git-annex)."""
    return len(content) < 1024 and (content.startswith(_POINTER[0]) or _POINTER[1] in content)


def gather_facts(wanted: Sequence[Wanted], kept: Path, *, workers: int = 2) -> dict[str, Facts]:
    """Facts by key, of all that is wanted; what is not yet kept is looked at, in parallel, and kept."""
    known = _read(kept)
    missing = {full_key(item): item for item in wanted if full_key(item) not in known}
    if missing:
        kept.parent.mkdir(parents=True, exist_ok=True)
        chunks = list(_chunks(missing.values()))
        with (
            kept.open("a", encoding="utf-8") as file,
            ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool,
            tqdm(total=len(missing), desc="pictures looked at", unit="", disable=None) as bar,
        ):
            for found in pool.map(_look, chunks):
                for facts in found:
                    known[facts.key] = facts
                    file.write(json.dumps(asdict(facts)) + "\n")
                file.flush()
                bar.update(len(found))
    return {full_key(item): known[full_key(item)] for item in wanted}


def _read(kept: Path) -> dict[str, Facts]:
    known: dict[str, Facts] = {}
    if kept.is_file():
        for line in kept.read_text(encoding="utf-8").splitlines():
            try:
                facts = Facts(**json.loads(line))
            except (ValueError, TypeError):
                continue  # the last line of a run that was killed, or one of an older version
            known[facts.key] = facts
    return known


def _chunks(wanted: Iterable[Wanted]) -> Iterator[list[Wanted]]:
    """Few pictures of one folder each."""
    chunk: list[Wanted] = []
    for item in sorted(wanted, key=lambda item: (str(item.folder), item.name)):
        if chunk and (len(chunk) == _CHUNK or item.folder != chunk[0].folder):
            yield chunk
            chunk = []
        chunk.append(item)
    if chunk:
        yield chunk


def _look(chunk: Sequence[Wanted]) -> list[Facts]:
    first = chunk[0]
    contents: Iterator[bytes | None]
    if first.is_blob:
        contents = read_blobs(first.folder, [item.name for item in chunk])
    else:
        contents = (_plain(item.folder / item.name) for item in chunk)
    return [_facts(item, content) for item, content in zip(chunk, contents, strict=True)]


def _plain(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _facts(wanted: Wanted, content: bytes | None) -> Facts:
    key = full_key(wanted)
    if content is None:
        return Facts(key, "not in the repository's copy")
    if is_pointer(content):
        return Facts(key, "pointer to a file elsewhere")
    try:
        rgb = read_pixels(content)
    except UnreadablePicture:
        return Facts(key, "unreadable")
    piece = cropped(rgb, wanted.crop)
    if min(piece.shape[:2]) < 1:
        return Facts(key, "too small")
    return Facts(
        key=key,
        sha256=hashlib.sha256(content).hexdigest(),
        width=rgb.shape[1],
        height=rgb.shape[0],
        crop_width=piece.shape[1],
        crop_height=piece.shape[0],
        dhash=dhash(piece),
    )
