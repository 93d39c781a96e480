r"""Source files: which pictures of which public repository are used, as what.

One TOML file a repository in `sources/`, named as the file:

    repository = "owner/name"       # on GitHub
    commit = "<40 hex digits>"
    licence = "MIT"                 # SPDX identifier or the owner's own words; "none stated" where there is none
    publishable = false             # whether the licence lets anyone show thumbnails
    about = "What it holds, and what to beware of."

    [[pictures]]
    kind = "generated"              # see KINDS
    maker = "sdxl"                  # generator, camera or kind of source, forger, style; "{parent}": the folder's name
    files = ["assets/*.png"]        # patterns of paths in the commit; * and ** cross folders, as in fnmatch
    exclude = ["assets/grid*"]      # optional
    crop = [0.0, 0.0, 1.0, 0.94]    # optional: left, top, right, bottom as fractions of the sides
    mask = "masks/{stem}.png"       # optional, of forged and edited ones; {stem}, {name}, {parent} of the picture
    group = '^(\d+)_'              # optional: pictures whose file name gives the same first capture belong together
    limit = 300                     # optional: at most so many, evenly chosen by sorted path
    year = 2023                     # optional, as is subject: notes for readers
    subject = "portraits"

`shared.toml` describes the collected research data in the same words: without a repository, and with a `source` for
each set of pictures.
"""

from __future__ import annotations

import fnmatch
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, get_args

from training.data.manifest import Kind
from training.data.pictures import SUFFIXES

__all__ = ["KINDS", "PictureSet", "Source", "SourceError", "read_shared", "read_source", "read_sources"]

Crop = tuple[float, float, float, float]

KINDS: Final[tuple[str, ...]] = get_args(Kind)
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_]*")
_SHARED_NAME: Final = re.compile(r"shared/[a-z0-9_]+")
_MASKED: Final = ("forged", "edited")


class SourceError(ValueError):
    """A source file says something that cannot be followed; the text names the file and the place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSet:
    """Pictures of one kind and maker in a source.

    Attributes:
        source: name of the source that they count to.
        kind: what they are.
        maker: who or what made them; may hold "{parent}".
        files, exclude: patterns of paths.
        crop: what of each picture is used, if not all.
        mask: pattern of the mask's path, if there are masks.
        group: what file names of pictures that belong together have in common.
        limit: most pictures to take.
        year: of the maker or the pictures.
        subject: what they show, for readers.
    """

    source: str
    kind: Kind
    maker: str
    files: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    crop: Crop | None = None
    mask: str | None = None
    group: re.Pattern[str] | None = None
    limit: int | None = None
    year: int | None = None
    subject: str = ""

    def choose(self, paths: Iterable[str]) -> list[str]:
        """The pictures among the paths of a commit, sorted; at most `limit` of them, evenly chosen."""
        wanted = [re.compile(fnmatch.translate(pattern)) for pattern in self.files]
        unwanted = [re.compile(fnmatch.translate(pattern)) for pattern in self.exclude]
        chosen = sorted(
            path
            for path in paths
            if PurePosixPath(path).suffix.lower() in SUFFIXES
            and any(pattern.match(path) for pattern in wanted)
            and not any(pattern.match(path) for pattern in unwanted)
        )
        if self.limit is None or len(chosen) <= self.limit:
            return chosen
        return [chosen[index * len(chosen) // self.limit] for index in range(self.limit)]

    def maker_of(self, path: str) -> str:
        """The maker of one picture, lower_snake_case."""
        return self.maker.replace("{parent}", _snake(PurePosixPath(path).parent.name))

    def mask_of(self, path: str) -> str | None:
        """The path of the picture's mask, if the set has masks."""
        if self.mask is None:
            return None
        picture = PurePosixPath(path)
        return self.mask.format(stem=picture.stem, name=picture.name, parent=picture.parent.as_posix())

    def group_of(self, path: str) -> str:
        """What the picture shares with those that must stay in its split; its own path if it stands alone."""
        found = self.group.search(PurePosixPath(path).name) if self.group else None
        if found is None:
            return path
        return str(found[1] if found.re.groups else found[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A repository, or the collected research data.

    Attributes:
        name: the file's name without its ending.
        repository: "owner/name"; empty for the collected data.
        commit: 40 hexadecimal digits; empty for the collected data.
        licence: as the owner states it.
        publishable: whether thumbnails may be shown.
        about: what a reader should know.
        sets: its pictures.
    """

    name: str
    repository: str
    commit: str
    licence: str
    publishable: bool
    about: str
    sets: tuple[PictureSet, ...]


def read_sources(folder: Path) -> list[Source]:
    """All source files of a folder, by name. Raises SourceError for the first that is wrong."""
    return [read_source(path) for path in sorted(folder.glob("*.toml"))]


def read_source(path: Path) -> Source:
    """Reads and checks one source file. Raises SourceError."""
    table = _load(path)
    where = path.name
    if not _NAME.fullmatch(path.stem):
        raise SourceError(f"{where}: a source's file is named in lower case with _, digits and nothing else")
    repository = _text(table, "repository", where)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise SourceError(f"{where}: repository {repository!r} is not owner/name")
    commit = _text(table, "commit", where)
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise SourceError(f"{where}: commit must be 40 hexadecimal digits, lower case")
    source = Source(
        name=path.stem,
        repository=repository,
        commit=commit,
        licence=_text(table, "licence", where),
        publishable=_flag(table, "publishable", where),
        about=_text(table, "about", where),
        sets=tuple(_sets(table, where, path.stem)),
    )
    _nothing_else(table, where)
    return source


def read_shared(path: Path) -> Source:
    """Reads and checks the description of the collected research data. Raises SourceError."""
    table = _load(path)
    sets = tuple(_sets(table, path.name, None))
    _nothing_else(table, path.name)
    return Source(
        name="shared",
        repository="",
        commit="",
        licence="see the data's own SOURCES.md",
        publishable=False,
        about="Collected research data.",
        sets=sets,
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SourceError(f"{path.name}: {error}") from error


def _sets(table: dict[str, Any], where: str, source: str | None) -> list[PictureSet]:
    sets = table.pop("pictures", [])
    if not isinstance(sets, list) or not sets:
        raise SourceError(f"{where}: has no [[pictures]]")
    return [_set(dict(entry), f"{where}, pictures {number}", source) for number, entry in enumerate(sets, start=1)]


def _set(table: dict[str, Any], where: str, source: str | None) -> PictureSet:
    if source is None:
        source = _text(table, "source", where)
        if not _SHARED_NAME.fullmatch(source):
            raise SourceError(f"{where}: source {source!r} is not shared/name")
    kind = _text(table, "kind", where)
    if kind not in KINDS:
        raise SourceError(f"{where}: kind {kind!r} is none of {', '.join(KINDS)}")
    maker = _text(table, "maker", where)
    if not _NAME.fullmatch(maker.replace("{parent}", "x")):
        raise SourceError(f"{where}: maker {maker!r} is not lower_snake_case")
    mask = table.pop("mask", None)
    if mask is not None:
        _check_mask(mask, kind, where)
    result = PictureSet(
        source=source,
        kind=kind,  # type: ignore[arg-type]  # one of them, as was just seen
        maker=maker,
        files=_texts(table, "files", where),
        exclude=_texts(table, "exclude", where) if "exclude" in table else (),
        crop=_crop(table.pop("crop"), where) if "crop" in table else None,
        mask=mask,
        group=_pattern(table.pop("group"), where) if "group" in table else None,
        limit=_number(table.pop("limit"), "limit", where) if "limit" in table else None,
        year=_number(table.pop("year"), "year", where) if "year" in table else None,
        subject=_text(table, "subject", where) if "subject" in table else "",
    )
    _nothing_else(table, where)
    return result


def _check_mask(mask: Any, kind: str, where: str) -> None:
    if kind not in _MASKED:
        raise SourceError(f"{where}: only pictures that are {' or '.join(_MASKED)} have masks")
    try:
        mask.format(stem="", name="", parent="")
    except (AttributeError, KeyError, IndexError, ValueError) as error:
        raise SourceError(f"{where}: mask {mask!r} may hold {{stem}}, {{name}} and {{parent}} only") from error


def _crop(value: Any, where: str) -> Crop:
    try:
        left, top, right, bottom = (float(part) for part in value)
    except (TypeError, ValueError) as error:
        raise SourceError(f"{where}: crop {value!r} is not four numbers") from error
    if not (0.0 <= left < right <= 1.0 and 0.0 <= top < bottom <= 1.0):
        raise SourceError(f"{where}: crop {value!r} is not left < right, top < bottom within 0-1")
    return left, top, right, bottom


def _pattern(value: Any, where: str) -> re.Pattern[str]:
    try:
        return re.compile(value)
    except (TypeError, re.error) as error:
        raise SourceError(f"{where}: group {value!r} is no regular expression: {error}") from error


def _text(table: dict[str, Any], key: str, where: str) -> str:
    value = table.pop(key, None)
    if not isinstance(value, str) or not value.strip():
        raise SourceError(f"{where}: {key} must be a text")
    return value


def _texts(table: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = table.pop(key, None)
    if not isinstance(value, list) or not value or not all(isinstance(part, str) and part for part in value):
        raise SourceError(f"{where}: {key} must be a list of patterns")
    return tuple(value)


def _flag(table: dict[str, Any], key: str, where: str) -> bool:
    value = table.pop(key, None)
    if not isinstance(value, bool):
        raise SourceError(f"{where}: {key} must be true or false")
    return value


def _number(value: Any, key: str, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SourceError(f"{where}: {key} must be a positive number")
    return value


def _nothing_else(table: dict[str, Any], where: str) -> None:
    if table:
        raise SourceError(f"{where}: unknown key {next(iter(table))!r}")


def _snake(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "unknown"
