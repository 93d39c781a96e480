"""Targets with planted defects, one of each kind, by which the fuzzer itself is tested."""

from __future__ import annotations

import os
from collections.abc import Mapping

from tests.fuzz.targets import Target, Wrong

__all__ = ["sound", "targets"]


def targets() -> Mapping[str, Target]:
    """One that is sound, and five that are not."""
    return {
        "sound": bool,
        "raises": _raises,
        "answers wrong": _answers_wrong,
        "hangs": _hangs,
        "grows": _grows,
        "dies": _dies,
    }


def sound() -> Mapping[str, Target]:
    """The one that is sound, alone."""
    return {"sound": bool}


def _is(content: bytes, kind: int) -> bool:
    """Whether a file is one of a kind: each target breaks on its own, one in five."""
    return sum(content) % 5 == kind


def _raises(content: bytes) -> bool:
    if _is(content, 0):
        raise KeyError("planted")
    return True


def _answers_wrong(content: bytes) -> bool:
    if _is(content, 1):
        raise Wrong("planted")
    return True


def _hangs(content: bytes) -> bool:
    while _is(content, 2):
        pass
    return True


def _grows(content: bytes) -> bool:
    return not _is(content, 3) or bool(b"\x01" * (800 * 1024 * 1024))


def _dies(content: bytes) -> bool:
    if _is(content, 4):
        os.abort()
    return True
