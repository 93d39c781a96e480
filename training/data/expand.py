"""From sources to the manifest: look at every picture, drop what must not be there, give out splits.

Dropped, and counted by source and reason:

- what cannot be used: pointers to files elsewhere, unreadable, too small (`MIN_SIDES`), a mask that is missing;
- what is (nearly) a reserved picture, or one of the collected data's own dev pictures;
- of pictures of one kind that look alike all but one; the one kept is of the strictest split;
- what looks like a picture of the contrary kind: generated and photographed, or a real and a fake face.

An edited picture looks like its original, and should: these are not dropped but share a group. All of a group get
the strictest split that one of it has. Generated pictures are grouped by maker, since the same words given to two
generators make no pictures that give each other away.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from training.data.facts import Facts, Wanted, crop_text, full_key, gather_facts
from training.data.hashing import mirrored, near_pairs, nearest, packed
from training.data.manifest import Kind, Row, Split, picture_id
from training.data.repositories import Blob, RepositoryUnavailable, find_repository, list_blobs
from training.data.settings import DataSettings
from training.data.sources import PictureSet, Source
from training.data.splits import STRICTEST_FIRST, SplitRules, read_shared_splits

__all__ = ["MIN_SIDES", "Expansion", "expand"]

MIN_SIDES: Final[dict[Kind, int]] = {
    "photograph": 192,
    "generated": 192,
    "edited": 192,
    "forged": 128,
    "real_face": 128,
    "fake_face": 128,
    "drawn": 64,
}
"""Least shorter side by kind, in pixels, after the crop."""
RESERVED_BITS: Final = 24
"""A picture at most so many of 256 bits away from a reserved one counts as that."""
ALIKE_BITS: Final = 14
"""Two pictures at most so far apart look alike: the same at another size, quality or slight crop."""
ALIKE_DRAWN_BITS: Final = 6
"""The same of drawings and aligned faces, which look alike by nature."""
FLAT_BITS: Final = 16
"""A hash with fewer bits set (or not set) is that of a nearly empty picture: only equal ones count as alike."""

_SIMILAR_BY_NATURE: Final = frozenset({"drawn", "real_face", "fake_face"})
_DERIVED: Final = frozenset({"edited", "forged", "fake_face"})
_CONTRARY: Final = (
    frozenset({"generated", "photograph"}),
    frozenset({"generated", "forged"}),
    frozenset({"generated", "real_face"}),
    frozenset({"drawn", "photograph"}),
    frozenset({"drawn", "real_face"}),
)


@dataclass(slots=True)
class Expansion:
    """The manifest and how it came about.

    Attributes:
        rows: what is kept.
        dropped: counts by source and reason.
        unavailable: sources that could not be had, and why.
    """

    rows: list[Row] = field(default_factory=list)
    dropped: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    unavailable: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Candidate:
    row: Row
    listed: Split | None
    """Split by the collected data's own list."""
    group: int = -1


def expand(sources: Sequence[Source], shared: Source | None, rules: SplitRules, settings: DataSettings) -> Expansion:
    """Makes the manifest's rows.

    Args:
        sources: repositories.
        shared: the description of the collected data, if it lies here.
        rules: of the splits.
        settings: where everything lies.
    """
    result = Expansion()
    wanted: list[tuple[Wanted, Wanted | None, PictureSet, str]] = []
    for source in sources:
        try:
            folder = find_repository(
                source.repository, source.commit, mirror=settings.data_mirror, clones=settings.clones
            )
            blobs = list_blobs(folder, source.commit)
        except RepositoryUnavailable as error:
            result.unavailable[source.name] = str(error)
            continue
        for pictures in source.sets:
            wanted += _of_blobs(pictures, folder, blobs, result)
    listed: dict[str, tuple[Split, str]] = {}
    if shared is not None:
        listed = read_shared_splits(settings.shared_data / "splits.csv")
        for pictures in shared.sets:
            wanted += _of_files(pictures, settings.shared_data, listed, result)
    files = [file for picture, mask, _, _ in wanted for file in (picture, mask) if file is not None]
    candidates = _candidates(wanted, gather_facts(files, settings.facts), rules, listed, result)
    candidates = _without_repeated(candidates, result)
    candidates = _without_reserved(candidates, settings.reserved_hashes, result)
    result.rows = _grouped(candidates, result)
    return result


def _of_blobs(
    pictures: PictureSet, folder: Path, blobs: dict[str, Blob], result: Expansion
) -> list[tuple[Wanted, Wanted | None, PictureSet, str]]:
    chosen = pictures.choose(blobs)
    if not chosen:
        result.dropped[pictures.source][f"nothing fits {', '.join(pictures.files)}"] += 1
    found: list[tuple[Wanted, Wanted | None, PictureSet, str]] = []
    for path in chosen:
        blob = blobs[path]
        mask = pictures.mask_of(path)
        if mask is not None and mask not in blobs:
            result.dropped[pictures.source]["no mask"] += 1
            continue
        wanted_mask = Wanted(blobs[mask].id, folder, blobs[mask].id, None, is_blob=True) if mask else None
        found.append((Wanted(blob.id, folder, blob.id, pictures.crop, is_blob=True), wanted_mask, pictures, path))
    return found


def _of_files(
    pictures: PictureSet, folder: Path, listed: dict[str, tuple[Split, str]], result: Expansion
) -> list[tuple[Wanted, Wanted | None, PictureSet, str]]:
    found: list[tuple[Wanted, Wanted | None, PictureSet, str]] = []
    for path in pictures.choose(listed):
        mask = pictures.mask_of(path)
        if not (folder / path).is_file() or (mask and not (folder / mask).is_file()):
            result.dropped[pictures.source]["not in the folder"] += 1
            continue
        picture = _wanted_file(folder, path)
        found.append((picture, _wanted_file(folder, mask) if mask else None, pictures, path))
    return found


def _wanted_file(folder: Path, path: str) -> Wanted:
    status = (folder / path).stat()
    return Wanted(f"{path}:{status.st_size}:{status.st_mtime_ns}", folder, path, None, is_blob=False)


def _candidates(
    wanted: Sequence[tuple[Wanted, Wanted | None, PictureSet, str]],
    facts: dict[str, Facts],
    rules: SplitRules,
    listed: dict[str, tuple[Split, str]],
    result: Expansion,
) -> list[_Candidate]:
    candidates = []
    for item, mask_item, pictures, path in wanted:
        found = facts[full_key(item)]
        mask = facts[full_key(mask_item)] if mask_item else None
        problem = found.problem or (f"mask: {mask.problem}" if mask and mask.problem else "")
        if not problem and min(found.crop_width, found.crop_height) < MIN_SIDES[pictures.kind]:
            problem = "too small"
        if problem:
            result.dropped[pictures.source][problem] += 1
            continue
        in_list = pictures.source.startswith("shared/")
        listed_split, origin = listed[path] if in_list else (None, pictures.group_of(path))
        maker = pictures.maker_of(path)
        owner = f"{pictures.source}:{maker}" if pictures.kind == "generated" else pictures.source
        crop = crop_text(pictures.crop)
        row = Row(
            id=picture_id(found.sha256, crop),
            kind=pictures.kind,
            maker=maker,
            source=pictures.source,
            path=path,
            mask=pictures.mask_of(path) or "",
            mask_sha256=mask.sha256 if mask else "",
            crop=crop,
            sha256=found.sha256,
            width=found.width,
            height=found.height,
            dhash=found.dhash,
            group=origin if in_list else f"{owner}:{origin}",
            split=rules.split(pictures.kind, maker=maker, source=pictures.source, listed=listed_split),
        )
        candidates.append(_Candidate(row, listed_split))
    # What is kept of pictures that look alike is what comes first: the strictest split, the collected data, the name.
    candidates.sort(
        key=lambda one: (
            one.listed != "dev",
            STRICTEST_FIRST.index(one.row.split),
            not one.row.is_shared,
            one.row.source,
            one.row.path,
            one.row.crop,
        )
    )
    return candidates


def _without_repeated(candidates: Sequence[_Candidate], result: Expansion) -> list[_Candidate]:
    """Each file with each crop once: the first."""
    kept: dict[str, _Candidate] = {}
    for candidate in candidates:
        if candidate.row.id in kept:
            result.dropped[candidate.row.source]["the same file again"] += 1
        else:
            kept[candidate.row.id] = candidate
    return list(kept.values())


def _without_reserved(candidates: Sequence[_Candidate], hashes: Path, result: Expansion) -> list[_Candidate]:
    """Without what looks like a reserved picture (their mirror images are in the list), or like a listed dev one."""
    if not candidates:
        return []
    mine = packed([candidate.row.dhash for candidate in candidates])
    reserved = nearest(mine, packed(hashes.read_text(encoding="utf-8").split())) if hashes.is_file() else None
    dev = [candidate.row for candidate in candidates if candidate.listed == "dev"]
    dev_hashes = packed([text for row in dev for text in (row.dhash, mirrored(row.dhash)) if not _is_flat(row.dhash)])
    distances = nearest(mine, dev_hashes)
    dev_groups = {row.group for row in dev}
    kept = []
    for index, candidate in enumerate(candidates):
        row = candidate.row
        limit = ALIKE_DRAWN_BITS if row.kind in _SIMILAR_BY_NATURE else RESERVED_BITS
        if candidate.listed == "dev":
            kept.append(candidate)
        elif reserved is not None and reserved[index] <= _reserved_limit(row):
            result.dropped[row.source]["reserved"] += 1
        elif distances[index] <= limit and row.group not in dev_groups:
            result.dropped[row.source]["like a dev picture"] += 1
        else:
            kept.append(candidate)
    return kept


def _reserved_limit(row: Row) -> int:
    """Drawings on white match each other by chance; those of the collected data were compared by its makers."""
    return ALIKE_DRAWN_BITS if row.kind == "drawn" and row.is_shared else RESERVED_BITS


def _grouped(candidates: Sequence[_Candidate], result: Expansion) -> list[Row]:
    """Drops what looks alike, joins what belongs together, and gives each group one split."""
    parents = list(range(len(candidates)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    first_of_group: dict[str, int] = {}
    for index, candidate in enumerate(candidates):
        parents[index] = root(first_of_group.setdefault(candidate.row.group, index))
    dropped: set[int] = set()
    for first, second, distance in _alike(candidates):
        if first in dropped or second in dropped:
            continue
        earlier, later = candidates[first], candidates[second]
        kinds = {earlier.row.kind, later.row.kind}
        if kinds in _CONTRARY or (kinds == {"real_face", "fake_face"} and distance == 0):
            for index in (first, second):
                if candidates[index].listed != "dev":
                    dropped.add(index)
                    result.dropped[candidates[index].row.source]["like one of the contrary kind"] += 1
        elif kinds & _DERIVED:
            parents[root(second)] = root(first)
        elif later.listed != "dev":
            dropped.add(second)
            result.dropped[later.row.source]["looks like another"] += 1
    members: dict[int, list[int]] = defaultdict(list)
    for index in range(len(candidates)):
        if index not in dropped:
            members[root(index)].append(index)
    rows = []
    for indices in members.values():
        group = [candidates[index] for index in indices]
        name = min(one.row.group for one in group) if len(group) > 1 else group[0].row.id
        split = next(split for split in STRICTEST_FIRST if any(one.row.split == split for one in group))
        rows += [replace(one.row, group=name, split=split) for one in group]
    return rows


def _alike(candidates: Sequence[_Candidate]) -> list[tuple[int, int, int]]:
    """Pairs that look alike, the strictest splits first."""
    hashes = packed([candidate.row.dhash for candidate in candidates])
    flat = np.array([_is_flat(candidate.row.dhash) for candidate in candidates])
    pairs = []
    for first, second, distance in near_pairs(hashes, ALIKE_BITS):
        kinds = {candidates[first].row.kind, candidates[second].row.kind}
        limit = ALIKE_DRAWN_BITS if kinds & _SIMILAR_BY_NATURE else ALIKE_BITS
        if flat[first] or flat[second]:
            limit = 0
        if distance <= limit:
            pairs.append((first, second, distance))
    return pairs


def _is_flat(hashed: str) -> bool:
    ones = int(hashed, 16).bit_count()
    return min(ones, 256 - ones) < FLAT_BITS
