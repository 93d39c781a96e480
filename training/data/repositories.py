"""Repositories of a source: found in a mirror folder, or cloned; read without a work tree."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Blob", "RepositoryUnavailable", "find_repository", "list_blobs", "read_blobs"]

_DEPTH: Final = 3
_CLONE_TIMEOUT_SECONDS: Final = 3600.0


class RepositoryUnavailable(Exception):
    """A repository, or the commit that is wanted of it, cannot be had; the text says why."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A file of a commit.

    Attributes:
        id: git's name of its content.
        size: in bytes.
    """

    id: str
    size: int


def find_repository(repository: str, commit: str, *, mirror: Path | None, clones: Path) -> Path:
    """A git directory that holds the commit.

    Looked for below `<owner>+<name>/` of the mirror folder, then among earlier clones; else the one commit is
    fetched from GitHub.

    Raises:
        RepositoryUnavailable: it is nowhere to be had.
    """
    folder = repository.replace("/", "+")
    for place in (mirror / folder if mirror else None, clones / folder):
        if place is not None:
            for candidate in _git_directories(place, _DEPTH):
                if _has(candidate, commit):
                    return candidate
    return _clone(repository, commit, clones / folder)


def _git_directories(folder: Path, depth: int) -> Iterator[Path]:
    if not folder.is_dir():
        return
    if (folder / "HEAD").is_file() and (folder / "objects").is_dir():
        yield folder
    elif depth:
        for child in sorted(path for path in folder.iterdir() if path.is_dir()):
            yield from _git_directories(child, depth - 1)


def _has(git_directory: Path, commit: str) -> bool:
    return _git(git_directory, "cat-file", "-e", f"{commit}^{{tree}}").returncode == 0


def _clone(repository: str, commit: str, target: Path) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    for arguments in (
        ("init", "--quiet", "--bare", "."),
        ("fetch", "--quiet", "--depth", "1", f"https://github.com/{repository}.git", commit),
    ):
        try:
            done = _git(target, *arguments, timeout=_CLONE_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise RepositoryUnavailable(f"{repository}: not fetched in {_CLONE_TIMEOUT_SECONDS:.0f} s") from error
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise RepositoryUnavailable(f"{repository}: {said[-1] if said else 'git failed'}")
    return target


def _git(git_directory: Path, *arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[bytes]:
    # A repository's own configuration could name programs to run; none of what is asked here needs one.
    command = ["git", "--git-dir", str(git_directory), "-c", "safe.directory=*", "-c", "core.hooksPath=/dev/null"]
    environment = {"GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1", "GIT_NO_LAZY_FETCH": "1"}
    return subprocess.run(
        [*command, *arguments],
        cwd=git_directory,
        env=_with(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=timeout,
    )


def _with(extra: dict[str, str]) -> dict[str, str]:
    return {**os.environ, **extra}


def list_blobs(git_directory: Path, commit: str) -> dict[str, Blob]:
    """The files of a commit by path; what is neither file nor executable (links, submodules) is left out."""
    done = _git(git_directory, "ls-tree", "-r", "-l", "-z", commit)
    if done.returncode:
        raise RepositoryUnavailable(f"{git_directory}: {done.stderr.decode(errors='replace').strip()}")
    blobs: dict[str, Blob] = {}
    for entry in done.stdout.split(b"\0"):
        if not entry:
            continue
        facts, _, path = entry.partition(b"\t")
        mode, kind, name, size = facts.decode().split()
        if kind == "blob" and mode != "120000" and size.isdecimal():
            blobs[path.decode("utf-8", "surrogateescape")] = Blob(name, int(size))
    return blobs


def read_blobs(git_directory: Path, ids: Iterable[str]) -> Iterator[bytes | None]:
    """The contents, in order; None for what the git directory lacks."""
    with subprocess.Popen(
        ["git", "--git-dir", str(git_directory), "-c", "safe.directory=*", "cat-file", "--batch"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_with({"GIT_NO_LAZY_FETCH": "1"}),
    ) as process:
        assert process.stdin
        assert process.stdout
        for name in ids:
            process.stdin.write(name.encode() + b"\n")
            process.stdin.flush()
            header = process.stdout.readline().split()
            if len(header) != 3:
                yield None
                continue
            content = process.stdout.read(int(header[2]))
            process.stdout.read(1)
            yield content
        process.stdin.close()
