"""Watches the process that is fed: starts it, kills it where it hangs or grows, and keeps what it found."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import queue
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.fuzz.worker import Finding, Progress, Shared, work

__all__ = ["Report", "fuzz"]

HANG_SECONDS: Final = 10.0
"""CPU seconds that one target may take for one file. Not wall seconds: a busy machine is no defect."""
STUCK_SECONDS: Final = 120.0
"""Wall seconds after which a target that takes no CPU time counts as stuck."""
MOST_MEMORY: Final = 3 * 1024**3
"""Bytes at which the process is stopped before the machine suffers."""
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Report:
    """What came of a run.

    Attributes:
        calls: by target. looked: those among them in which the target had something to look at.
        slowest: CPU seconds of each target's slowest file, the tracing of lines included.
        findings: one of each kind, target and place. repeats: how often each came again.
        steps: different steps between lines of the followed code that were seen, in the best process.
        restarts: how often the process had to be started anew.
    """

    calls: Counter[str] = field(default_factory=Counter)
    looked: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)
    findings: dict[tuple[str, str, str], Finding] = field(default_factory=dict)
    repeats: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    steps: int = 0
    kept: int = 0
    restarts: int = 0

    def add(self, report: Finding | Progress) -> bool:
        """Adds what the process says; True for a finding that is new."""
        if isinstance(report, Finding):
            new = report.key not in self.findings
            self.findings.setdefault(report.key, report)
            self.repeats[report.key] += 1
            return new
        self.calls.update(report.calls)
        self.looked.update(report.looked)
        for name, seconds in report.slowest.items():
            self.slowest[name] = max(seconds, self.slowest.get(name, 0.0))
        self.steps, self.kept = max(self.steps, report.steps), max(self.kept, report.kept)
        return False


def fuzz(
    targets: str,
    seeds: Sequence[bytes],
    *,
    seconds: float,
    folder: Path,
    seed: int = 0,
    nice: int = 10,
    hang_seconds: float = HANG_SECONDS,
    enough: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Feeds targets with damaged files for a time.

    Args:
        targets: "module:function" that answers with the targets.
        seeds: files to begin with.
        seconds: how long.
        folder: where the files of findings go.
        seed: of all chance.
        nice: of the process that is fed.
        hang_seconds: CPU seconds that a target may take.
        enough: stops after so many findings; None for never.
        say: told of progress, once a minute, and of each finding.
    """
    context = multiprocessing.get_context("spawn")
    report = Report()
    end = time.monotonic() + seconds
    spoken = time.monotonic()
    while time.monotonic() < end and not _is_enough(report, enough):
        shared, reports = Shared(), context.Queue()
        arguments = {"targets": targets, "seeds": list(seeds), "seed": seed + report.restarts, "nice": nice}
        process = context.Process(target=work, args=(shared, reports), kwargs=arguments, daemon=True)
        process.start()
        if process.pid is None:
            raise RuntimeError("the process could not be started")
        finding: Finding | None = None
        moved, last_cpu = time.monotonic(), 0.0
        while time.monotonic() < end and not _is_enough(report, enough):
            _drain(reports, report, folder, say)
            if not process.is_alive():
                finding = Finding("death", shared.last()[0], f"ended with {process.exitcode}", shared.last()[1])
                break
            cpu, memory = _cpu_seconds(process.pid), _memory(process.pid)
            if cpu > last_cpu + 0.05 or shared.started_at.value < 0:
                moved, last_cpu = time.monotonic(), cpu
            if (began := shared.started_at.value) >= 0 and cpu - began > hang_seconds:
                finding = Finding("hang", shared.last()[0], f"over {hang_seconds:g} s of CPU time", shared.last()[1])
            elif time.monotonic() - moved > STUCK_SECONDS:
                finding = Finding("hang", shared.last()[0], f"nothing moved for {STUCK_SECONDS:g} s", shared.last()[1])
            elif memory > MOST_MEMORY:
                finding = Finding("memory", shared.last()[0], f"held {memory / 2**20:.0f} MiB", shared.last()[1])
            if finding is not None:
                break
            if time.monotonic() - spoken > 60.0:
                spoken = time.monotonic()
                say(_progress(report, end))
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        _drain(reports, report, folder, say, wait=0.2)
        if finding is not None and report.add(finding):
            _keep(finding, folder, say)
        report.restarts += 1
    return report


def _is_enough(report: Report, enough: int | None) -> bool:
    return enough is not None and len(report.findings) >= enough


def _drain(
    reports: multiprocessing.Queue[Finding | Progress],
    report: Report,
    folder: Path,
    say: Callable[[str], None],
    *,
    wait: float = 0.5,
) -> None:
    """Takes what the process has said, waiting a moment for the first word."""
    while True:
        try:
            said = reports.get(timeout=wait)
        except (queue.Empty, OSError, EOFError):
            return
        if report.add(said) and isinstance(said, Finding):
            _keep(said, folder, say)
        wait = 0.01


def _keep(finding: Finding, folder: Path, say: Callable[[str], None]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{finding.kind}-{finding.target}-{hashlib.sha256(finding.content).hexdigest()[:12]}"
    (folder / f"{name}.bin").write_bytes(finding.content)
    (folder / f"{name}.txt").write_text(finding.text, encoding="utf-8", errors="replace")
    say(f"FINDING {name}: {finding.text.strip().splitlines()[-1][:300]}")


def _progress(report: Report, end: float) -> str:
    left = max(0.0, end - time.monotonic()) / 60
    return (
        f"{sum(report.calls.values())} calls, {report.steps} steps between lines, {report.kept} files kept, "
        f"{len(report.findings)} findings, {report.restarts} restarts, {left:.0f} min left"
    )


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _memory(pid: int) -> int:
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
