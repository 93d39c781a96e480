"""Where uploads lie: a folder on this machine, or a bucket.

A key is a path with slashes (`uploads/<batch>/007`). What `put` has returned from is there after a crash of this
machine; nobody ever reads half of an object.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import errno
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import obstore
import structlog
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import from_url

from services.common.errors import NotFound, Unavailable

__all__ = ["BucketObjects", "FolderObjects", "ObjectStore", "StoredObject", "open_objects"]

BUCKET_SECONDS: Final = 30.0
"""Longest wait for a bucket."""

LIST_CHUNK: Final = 500

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object that lies there.

    Attributes:
        key: its name.
        modified: when it was written.
    """

    key: str
    modified: dt.datetime


class ObjectStore(Protocol):
    """Keeps bytes under keys."""

    async def put(self, key: str, content: bytes) -> None:
        """Keeps `content`, for good when this returns; raises `Unavailable` if it cannot (reason STORAGE_FULL, …)."""
        ...

    async def get(self, key: str) -> bytes:
        """The content; raises `NotFound` if there is none, `Unavailable` if the store is away."""
        ...

    async def delete(self, key: str) -> None:
        """Deletes it; one that is not there is no error. Raises `Unavailable` if the store is away."""
        ...

    def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        """What lies under a prefix that ends at a slash; raises `Unavailable` if the store is away."""
        ...


def open_objects(url: str, *, home: Path) -> ObjectStore:
    """The store that a deployment names.

    Args:
        url: `s3://bucket/folder`, `gs://…`, `az://…` (credentials and endpoint come from the environment, as their own
            tools have them: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, …), a folder, or "" for `objects` in `home`.
        home: the data folder.

    Raises:
        ValueError: the URL is none of these.
    """
    if "://" in url:
        try:
            return BucketObjects(from_url(url, client_options={"timeout": f"{BUCKET_SECONDS:.0f}s"}))
        except BaseError as error:
            raise ValueError(f"{url} is no object store that can be used: {error}") from error
    return FolderObjects(Path(url) if url else home / "objects")


class FolderObjects:
    """Objects as files in a folder.

    A file is written beside its place, brought to disk, and moved there; then its folder is brought to disk.

    Args:
        folder: where; made when it is first written to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, key: str, content: bytes) -> None:
        """See `ObjectStore`."""
        path = self._path(key)
        try:
            await asyncio.to_thread(_write, path, content)
        except OSError as error:
            raise _refused(error) from error

    async def get(self, key: str) -> bytes:
        """See `ObjectStore`."""
        try:
            return await asyncio.to_thread(self._path(key).read_bytes)
        except FileNotFoundError:
            raise NotFound("The picture is not kept any more.", reason="UPLOAD_DELETED") from None
        except OSError as error:
            raise _refused(error) from error

    async def delete(self, key: str) -> None:
        """See `ObjectStore`."""
        try:
            await asyncio.to_thread(self._delete, self._path(key))
        except OSError as error:
            raise _refused(error) from error

    async def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        """See `ObjectStore`."""
        try:
            found = await asyncio.to_thread(lambda: [*self._walk(self._path(prefix))])
        except OSError as error:
            raise _refused(error) from error
        for item in found:
            yield item

    def _path(self, key: str) -> Path:
        parts = key.strip("/").split("/")
        if any(part in {"", ".", ".."} for part in parts):
            raise ValueError(f"{key!r} is no key")
        return self._folder.joinpath(*parts)

    def _delete(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        # Folders that are empty now; another process may just be putting something there.
        for folder in path.parents:
            if folder == self._folder:
                return
            try:
                folder.rmdir()
            except OSError:
                return

    def _walk(self, folder: Path) -> Iterator[StoredObject]:
        for path in folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    modified = dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC)
                    yield StoredObject(path.relative_to(self._folder).as_posix(), modified)


class BucketObjects:
    """Objects in a bucket (S3 and what speaks like it, Google Cloud Storage, Azure).

    Args:
        bucket: obstore's.
    """

    def __init__(self, bucket: Any) -> None:
        self._bucket = bucket

    async def put(self, key: str, content: bytes) -> None:
        """See `ObjectStore`; a bucket answers once the object is kept."""
        try:
            await obstore.put_async(self._bucket, key, content)
        except (BaseError, OSError) as error:
            raise _refused(error) from error

    async def get(self, key: str) -> bytes:
        """See `ObjectStore`."""
        try:
            found = await obstore.get_async(self._bucket, key)
            return bytes(await found.bytes_async())
        except (NotFoundError, FileNotFoundError):
            raise NotFound("The picture is not kept any more.", reason="UPLOAD_DELETED") from None
        except (BaseError, OSError) as error:
            raise _refused(error) from error

    async def delete(self, key: str) -> None:
        """See `ObjectStore`."""
        try:
            await obstore.delete_async(self._bucket, key)
        except (NotFoundError, FileNotFoundError):
            return
        except (BaseError, OSError) as error:
            raise _refused(error) from error

    async def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        """See `ObjectStore`."""
        try:
            async for chunk in obstore.list(self._bucket, prefix, chunk_size=LIST_CHUNK):
                for item in chunk:
                    yield StoredObject(item["path"], item["last_modified"])
        except (BaseError, OSError) as error:
            raise _refused(error) from error


def _write(path: Path, content: bytes) -> None:
    for _ in range(3):
        path.parent.mkdir(parents=True, exist_ok=True)
        making = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            _write_new(making, content)
            making.replace(path)
            # The names on the way to it, too, are only on disk once their folders are.
            for folder in (path.parent, path.parent.parent):
                _sync(folder)
        except FileNotFoundError:
            continue  # its folder was empty and has just been removed
        finally:
            making.unlink(missing_ok=True)
        return
    raise OSError(errno.ENOENT, "its folder keeps being removed")


def _write_new(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refused(error: Exception) -> Unavailable:
    log.warning("object_store_failed", error=type(error).__name__, detail=str(error)[:200])
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return Unavailable("There is no room to keep the pictures at the moment.", reason="STORAGE_FULL")
    return Unavailable("The pictures cannot be kept or read at the moment.", reason="STORAGE_UNAVAILABLE")
