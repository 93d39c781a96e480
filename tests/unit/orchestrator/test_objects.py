"""The object store: whole or not at all, and every failure in the caller's words."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from services.common.errors import NotFound, Unavailable
from services.orchestrator import objects
from services.orchestrator.objects import BucketObjects, FolderObjects, open_objects


@pytest.fixture(params=["folder", "bucket"])
def store(request, tmp_path):
    return FolderObjects(tmp_path / "objects") if request.param == "folder" else BucketObjects(MemoryStore())


async def keys(store):
    return sorted([item.key async for item in store.list("uploads/")])


async def test_put_get_list_delete(store):
    assert await keys(store) == []
    await store.put("uploads/a/000", b"one")
    await store.put("uploads/a/001", b"two")
    await store.put("uploads/a/001", b"three")
    assert await store.get("uploads/a/001") == b"three"
    assert await keys(store) == ["uploads/a/000", "uploads/a/001"]
    await store.delete("uploads/a/001")
    await store.delete("uploads/a/001")
    with pytest.raises(NotFound):
        await store.get("uploads/a/001")
    assert await keys(store) == ["uploads/a/000"]


async def test_empty_folders_go(tmp_path):
    store = FolderObjects(tmp_path / "objects")
    await store.put("uploads/a/000", b"one")
    await store.delete("uploads/a/000")
    assert list((tmp_path / "objects").iterdir()) == []


@pytest.mark.parametrize("key", ["../etc/passwd", "uploads/../../x", "uploads//x", "."])
async def test_a_key_stays_in_the_folder(tmp_path, key):
    with pytest.raises(ValueError, match="no key"):
        await FolderObjects(tmp_path).put(key, b"")


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "STORAGE_FULL"), (errno.EDQUOT, "STORAGE_FULL"), (errno.EIO, "STORAGE_UNAVAILABLE")],
)
async def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch, number, reason):
    def full(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(objects.os, "fsync", full)
    store = FolderObjects(tmp_path)
    with pytest.raises(Unavailable) as refused:
        await store.put("uploads/a/000", b"one")
    assert refused.value.reason == reason
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


async def test_it_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync

    def watch(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(objects.os, "fsync", watch)
    await FolderObjects(tmp_path).put("uploads/a/000", b"one")
    assert [synced[0][:5], *synced[1:]] == [".000.", "a", "uploads"]


def test_what_is_no_store_is_refused_at_start(tmp_path):
    with pytest.raises(ValueError, match="no object store"):
        open_objects("foo://bar", home=tmp_path)
    assert isinstance(open_objects("s3://bucket/folder", home=tmp_path), BucketObjects)
    assert isinstance(open_objects("", home=tmp_path), FolderObjects)
