"""Assembles the training folder from the manifest: the original bytes, each file checked by its digest.

    <data>/pictures/<first two digits>/<sha256><ending>
    <data>/masks/<first two digits>/<sha256><ending>

A file that lies there is complete (it is put in place at the end), so a run that was stopped goes on where it was.
What cannot be had is told by source; training goes on without it.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from tqdm import tqdm

from training.data.manifest import Row
from training.data.repositories import Blob, RepositoryUnavailable, find_repository, list_blobs, read_blobs
from training.data.settings import DataSettings
from training.data.sources import Source

__all__ = ["Built", "build", "mask_path", "picture_path"]

_WORKERS: Final = 2


def picture_path(data: Path, row: Row) -> Path:
    """Where a picture lies in the training folder."""
    return _place(data / "pictures", row.sha256, row.path)


def mask_path(data: Path, row: Row) -> Path | None:
    """Where its mask lies; None if it has none."""
    return _place(data / "masks", row.mask_sha256, row.mask) if row.mask else None


def _place(folder: Path, sha256: str, path: str) -> Path:
    return folder / sha256[:2] / f"{sha256}{PurePosixPath(path).suffix.lower()}"


@dataclass(slots=True)
class Built:
    """What a run did.

    Attributes:
        there: files by source that were in place before.
        fetched: files by source that it put there.
        missing: reasons by source, counted.
    """

    there: Counter[str] = field(default_factory=Counter)
    fetched: Counter[str] = field(default_factory=Counter)
    missing: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def table(self) -> str:
        """A line a source that lacks something, and a line for all."""
        lines = [
            f"{source}: {', '.join(f'{count} files: {reason}' for reason, count in sorted(reasons.items()))}"
            for source, reasons in sorted(self.missing.items())
        ]
        lacking = sum(sum(reasons.values()) for reasons in self.missing.values())
        new = self.fetched.total()
        lines.append(f"{self.there.total() + new} files in place ({new} new), {lacking} missing")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _File:
    source: str
    path: str
    sha256: str
    target: Path


def build(rows: Sequence[Row], sources: Sequence[Source], settings: DataSettings, *, verify: bool = False) -> Built:
    """Brings every file of the manifest into the training folder, as far as it can be had.

    Args:
        rows: the manifest.
        sources: the repositories that it names.
        settings: where everything lies.
        verify: read files again that are in place, and fetch anew what is not what it should be.
    """
    built = Built()
    by_source: dict[str, dict[Path, _File]] = defaultdict(dict)
    for row in rows:
        for file in _files(row, settings.data):
            by_source[file.source][file.target] = file
    total = sum(len(files) for files in by_source.values())
    named = {source.name: source for source in sources}
    with (
        tqdm(total=total, desc="training data", unit="", disable=None) as bar,
        ThreadPoolExecutor(_WORKERS) as pool,
    ):

        def one(name: str) -> None:
            files = list(by_source[name].values())
            missing = [file for file in files if not _in_place(file, verify=verify)]
            built.there[name] = len(files) - len(missing)
            bar.update(len(files) - len(missing))
            for reason in _fetch(missing, named.get(name), settings):
                bar.update(1)
                if reason:
                    built.missing[name][reason] += 1
                else:
                    built.fetched[name] += 1

        for name in sorted(by_source):  # made here, so that threads change no dictionary's size
            built.missing.setdefault(name, Counter())
        list(pool.map(one, sorted(by_source)))
    built.missing = {name: reasons for name, reasons in built.missing.items() if reasons}
    return built


def _files(row: Row, data: Path) -> Iterator[_File]:
    yield _File(row.source, row.path, row.sha256, picture_path(data, row))
    mask = mask_path(data, row)
    if mask is not None:
        yield _File(row.source, row.mask, row.mask_sha256, mask)


def _in_place(file: _File, *, verify: bool) -> bool:
    if not file.target.is_file():
        return False
    return not verify or hashlib.sha256(file.target.read_bytes()).hexdigest() == file.sha256


def _fetch(files: Sequence[_File], source: Source | None, settings: DataSettings) -> Iterator[str]:
    """Puts files in place; yields for each why not, or an empty text."""
    if not files:
        return
    if files[0].source.startswith("shared/"):
        for file in files:
            yield _store(_plain(settings.shared_data / file.path), file, "not in the collected data")
        return
    if source is None:
        yield from ["its source file is gone"] * len(files)
        return
    try:
        folder = find_repository(source.repository, source.commit, mirror=settings.data_mirror, clones=settings.clones)
        blobs = list_blobs(folder, source.commit)
    except RepositoryUnavailable as error:
        yield from [str(error)] * len(files)
        return
    nothing = Blob("missing", 0)
    contents = read_blobs(folder, [blobs.get(file.path, nothing).id for file in files])
    for file, content in zip(files, contents, strict=True):
        yield _store(content, file, "not in the repository's copy")


def _plain(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _store(content: bytes | None, file: _File, absent: str) -> str:
    if content is None:
        return absent
    if hashlib.sha256(content).hexdigest() != file.sha256:
        return "another file than the manifest's (sha256 differs)"
    file.target.parent.mkdir(parents=True, exist_ok=True)
    part = file.target.with_name(f"{file.target.name}.{os.getpid()}.part")
    part.write_bytes(content)
    part.replace(file.target)
    return ""
