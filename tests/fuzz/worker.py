"""The process that is fed: it mutates, feeds, and keeps what reached code that nothing had reached before.

It may hang, grow or die; `tests.fuzz.supervisor` watches it from outside, and knows from `Shared` what it was fed with.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import multiprocessing.queues
import os
import random
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from ctypes import c_char, c_double, c_int
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import RawArray, RawValue
from pathlib import Path
from typing import Any, Final

import structlog

from tests.fuzz.mutations import LARGEST, mutate
from tests.fuzz.targets import Target

__all__ = ["Finding", "Progress", "Shared", "load", "work"]

MEMORY_LIMIT: Final = 700 * 1024 * 1024
"""Bytes by which a target's peak may exceed what the process held before."""
MOST_KEPT: Final = 3_000
REPORT_SECONDS: Final = 2.0
CHEAP: Final = frozenset({"decoder", "metadata", "manifest", "intake"})
"""Targets that see every file; the others see those that can be decoded, a few at a time."""
OTHERS_AT_A_TIME: Final = 3
_ROOT: Final = Path(__file__).resolve().parents[2]
_FOLLOWED: Final = (
    "services/common/_image_containers.py",
    "services/common/images.py",
    "services/orchestrator/intake.py",
    "services/passive/_metadata/exif.py",
    "services/passive/_metadata/iptc.py",
    "services/passive/_metadata/parts.py",
    "services/passive/_metadata/xmp.py",
    "services/passive/detectors/generator_traces.py",
    "services/passive/detectors/metadata.py",
    "services/passive/detectors/provenance.py",
    "services/passive/detectors/quantisation_tables.py",
    "services/passive/detectors/thumbnail.py",
)
"""Code whose steps from line to line are followed: what reads the file itself, before arrays take over."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A defect: its kind (crash, wrong, hang, memory, death), the target, what happened, and the file."""

    kind: str
    target: str
    text: str
    content: bytes

    @property
    def key(self) -> tuple[str, str, str]:
        """Findings of one key are one."""
        place = self.text.strip().splitlines()[-1][:120] if self.kind in {"crash", "wrong"} else ""
        return self.kind, self.target, place


@dataclass(slots=True)
class Progress:
    """Counts of one process: calls by target, files that a target had something to look at, steps, files kept."""

    calls: dict[str, int] = field(default_factory=dict)
    looked: dict[str, int] = field(default_factory=dict)
    slowest: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    kept: int = 0


class Shared:
    """What the supervisor sees of the process: the target it is in, since when (its CPU time), and the file."""

    def __init__(self) -> None:
        self.content = RawArray(c_char, LARGEST)
        self.length = RawValue(c_int, 0)
        self.target = RawArray(c_char, 100)
        self.started_at = RawValue(c_double, -1.0)
        """CPU seconds of the process when the target was entered; negative outside of all targets."""

    def enter(self, target: str, content: bytes) -> None:
        """Notes what is about to be tried."""
        self.content[: len(content)] = content
        self.length.value = len(content)
        self.target.value = target.encode()
        self.started_at.value = time.process_time()

    def leave(self) -> None:
        """Notes that it was survived."""
        self.started_at.value = -1.0

    def last(self) -> tuple[str, bytes]:
        """The target and file that were tried last."""
        return self.target.value.decode(), bytes(self.content[: self.length.value])


def load(name: str) -> Mapping[str, Target]:
    """The targets that a function, given as "module:function", answers with."""
    module, _, function = name.partition(":")
    found: Mapping[str, Target] = getattr(importlib.import_module(module), function)()
    return found


def work(
    shared: Shared,
    reports: multiprocessing.queues.Queue[Finding | Progress],
    *,
    targets: str,
    seeds: Sequence[bytes],
    seed: int,
    nice: int,
) -> None:
    """Mutates and feeds for ever; a report every few seconds, a finding as soon as it is made."""
    os.nice(nice)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    feeder = _Feeder(shared, reports, load(targets), random.Random(seed))
    feeder.begin(seeds)
    while True:
        feeder.step(seeds)


class _Feeder:
    def __init__(
        self,
        shared: Shared,
        reports: multiprocessing.queues.Queue[Finding | Progress],
        targets: Mapping[str, Target],
        rng: random.Random,
    ) -> None:
        self._shared = shared
        self._reports = reports
        self._targets = targets
        self._always = [name for name in targets if name in CHEAP] or list(targets)
        self._sometimes = [name for name in targets if name not in self._always]
        self._rng = rng
        self._kept: list[bytes] = []
        self._seen: set[tuple[str, int, int]] = set()
        self._progress = Progress()
        self._reported = time.monotonic()

    def begin(self, seeds: Sequence[bytes]) -> None:
        """Feeds the seeds as they are, to all targets."""
        for content in seeds:
            for name in self._targets:
                self._feed(name, content)

    def step(self, seeds: Sequence[bytes]) -> None:
        """One mutated file."""
        from_kept = self._kept and self._rng.random() < 0.6
        content = mutate(self._rng.choice(self._kept if from_kept else seeds), seeds, self._rng)
        before, decoded = len(self._seen), False
        for name in self._always:
            decoded = self._feed(name, content) or decoded
        new = len(self._seen) > before
        if decoded and self._sometimes:
            count = len(self._sometimes) if new else min(OTHERS_AT_A_TIME, len(self._sometimes))
            for name in self._rng.sample(self._sometimes, count):
                self._feed(name, content)
        if new:
            if len(self._kept) >= MOST_KEPT:
                self._kept.pop(self._rng.randrange(len(self._kept)))
            self._kept.append(content)
        if time.monotonic() - self._reported > REPORT_SECONDS:
            self._progress.steps, self._progress.kept = len(self._seen), len(self._kept)
            self._reports.put(self._progress)
            self._progress, self._reported = Progress(), time.monotonic()

    def _feed(self, name: str, content: bytes) -> bool:
        content = content[:LARGEST]
        _forget_peak()
        held = _memory("VmRSS")
        self._shared.enter(name, content)
        started = time.process_time()
        looked = False
        try:
            with _following(self._seen):
                looked = self._targets[name](content)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            kind = "wrong" if type(error).__name__ == "Wrong" else "crash"
            self._reports.put(Finding(kind, name, traceback.format_exc(), content))
        self._shared.leave()
        seconds = time.process_time() - started
        progress = self._progress
        progress.calls[name] = progress.calls.get(name, 0) + 1
        progress.looked[name] = progress.looked.get(name, 0) + looked
        progress.slowest[name] = max(progress.slowest.get(name, 0.0), seconds)
        if (grown := _memory("VmHWM") - held) > MEMORY_LIMIT:
            self._reports.put(Finding("memory", name, f"grew by {grown / 2**20:.0f} MiB", content))
        return looked


@contextlib.contextmanager
def _following(seen: set[tuple[str, int, int]]) -> Iterator[None]:
    """Notes each step from one line to the next in the followed files."""
    sys.settrace(_tracer(seen))
    try:
        yield
    finally:
        sys.settrace(None)


def _tracer(seen: set[tuple[str, int, int]]) -> Callable[[types.FrameType, str, Any], Any]:
    followed = {str(_ROOT / path) for path in _FOLLOWED}

    def enter(frame: types.FrameType, _: str, __: Any) -> Any:
        file = frame.f_code.co_filename
        if file not in followed:
            return None
        last = 0

        def line(frame: types.FrameType, event: str, _: Any) -> Any:
            nonlocal last
            if event == "line":
                seen.add((file, last, frame.f_lineno))
                last = frame.f_lineno
            return line

        return line

    return enter


def _memory(what: str) -> int:
    """Bytes that the process holds (VmRSS), or has held at most since `_forget_peak` (VmHWM)."""
    for row in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if row.startswith(what):
            return int(row.split()[1]) * 1024
    return 0


def _forget_peak() -> None:
    with contextlib.suppress(OSError), Path("/proc/self/clear_refs").open("w", encoding="ascii") as file:
        file.write("5")
