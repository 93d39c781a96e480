"""Becomes a part of the mesh: what the process manager starts in place of the part's own command.

    python local/keep.py <file> <command> [argument ...]

It adds what the process manager lacks, and then is that command, in the same process:

- If the process manager is killed, the kernel asks the part to end (SIGTERM), so that none is left behind.
- If the part itself was killed, processes that it had started may have outlived it. They are killed first.
- A part that ends soon after its start is not started as fast as it can fail: the next start is a second after the last
  one, then two, four, and so on; one that ran for a while is back immediately. <file> is where it keeps when the last
  start was, and how far apart the next two are to be.

It is a file of its own, with no imports but the standard library's, so that it costs 20 ms and not 200.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

SECONDS_BETWEEN_STARTS = 1.0
MOST_SECONDS_BETWEEN_STARTS = 15.0
SECONDS_OF_A_GOOD_RUN = 10.0
"""What ran for so long did not fail at its start."""

RUN_VARIABLE = "PENTIMENTO_RUN"
"""In the environment of every process of a run: the data folder, by which its processes are told from others."""

# The process manager sets it to the part's name.
PART_VARIABLE = "SUPERVISOR_PROCESS_NAME"

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """If the process that started this one is killed, this one gets SIGTERM; also after it became another program."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        raise SystemExit(1)


def processes_with(variables: dict[str, str]) -> Iterator[int]:
    """The ids of the other processes that were started with these in their environment."""
    wanted = {os.fsencode(f"{name}={value}") for name, value in variables.items()}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            found = wanted <= set((entry / "environ").read_bytes().split(b"\0"))
        except OSError:
            continue  # it ended, or is another user's
        if found:
            yield int(entry.name)


def pause(stamp: Path, now: float) -> tuple[float, float]:
    """Seconds to wait before a start, and how far apart this start and the next are to be.

    Args:
        stamp: written at the last start; it need not be there.
        now: seconds since the epoch.
    """
    try:
        ran, apart = now - stamp.stat().st_mtime, float(stamp.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0.0, SECONDS_BETWEEN_STARTS
    # A clock that was put back tells nothing.
    if not 0 <= ran < SECONDS_OF_A_GOOD_RUN:
        return 0.0, SECONDS_BETWEEN_STARTS
    return max(0.0, apart - ran), min(2 * apart, MOST_SECONDS_BETWEEN_STARTS)


def main() -> None:
    """Ends what is left, waits if need be, and becomes the command."""
    end_with_parent()
    if RUN_VARIABLE in os.environ:
        mark = {name: os.environ[name] for name in (RUN_VARIABLE, PART_VARIABLE)}
        for pid in processes_with(mark):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
    wait, apart = pause(Path(sys.argv[1]), time.time())
    time.sleep(wait)
    Path(sys.argv[1]).write_text(str(apart), encoding="ascii")
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - a command line of local/parts.py


if __name__ == "__main__":
    main()
