"""keep.py becomes the command, the later the oftener it failed, after ending what the last one left."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from local.keep import MOST_SECONDS_BETWEEN_STARTS, RUN_VARIABLE, SECONDS_OF_A_GOOD_RUN, pause, processes_with
from local.manager import KEEP


def keep(tmp_path, *command, **environment):
    return subprocess.Popen(
        [sys.executable, "-I", str(KEEP), str(tmp_path / "started"), *command],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_it_becomes_the_command_in_the_same_process(tmp_path):
    process = keep(tmp_path, "sh", "-c", "echo $$; exit 7")
    output, _ = process.communicate(timeout=20)
    assert int(output) == process.pid
    assert process.returncode == 7


def test_starts_are_a_second_apart(tmp_path):
    keep(tmp_path, "true").communicate(timeout=20)
    began = time.time()
    first = (tmp_path / "started").stat().st_mtime
    keep(tmp_path, "true").communicate(timeout=20)
    assert time.time() - first >= 1.0
    assert time.time() - began < 10


def test_what_fails_again_and_again_is_started_less_and_less_often(tmp_path):
    stamp, now, apart = tmp_path / "started", 1e9, []
    for _ in range(7):
        wait, after = pause(stamp, now)
        now += wait
        stamp.write_text(str(after))
        os.utime(stamp, (now, now))
        apart.append(wait)
        now += 0.25  # it fails at once
    assert apart == pytest.approx([0, 0.75, 1.75, 3.75, 7.75, 14.75, 14.75])
    assert max(apart) < MOST_SECONDS_BETWEEN_STARTS


def test_what_ran_for_a_while_is_back_at_once_and_its_failures_are_forgotten(tmp_path):
    stamp = tmp_path / "started"
    stamp.write_text("8.0")
    started = stamp.stat().st_mtime
    assert pause(stamp, started + SECONDS_OF_A_GOOD_RUN) == (0.0, 1.0)
    assert pause(stamp, started + 0.5) == (7.5, MOST_SECONDS_BETWEEN_STARTS)
    assert pause(stamp, started - 60.0) == (0.0, 1.0), "a clock that was put back"
    stamp.write_text("")
    assert pause(stamp, started) == (0.0, 1.0), "it was killed while it wrote"


def test_what_the_last_one_left_is_ended_and_nothing_else(tmp_path):
    mine = {RUN_VARIABLE: str(tmp_path), "SUPERVISOR_PROCESS_NAME": "part"}
    left = subprocess.Popen(["sleep", "60"], env={**os.environ, **mine})
    other = subprocess.Popen(["sleep", "60"], env={**os.environ, **mine, "SUPERVISOR_PROCESS_NAME": "other"})
    try:
        # A process has its parent's environment until it became its program.
        deadline = time.monotonic() + 10
        while set(processes_with({RUN_VARIABLE: str(tmp_path)})) != {left.pid, other.pid}:
            assert time.monotonic() < deadline
        keep(tmp_path, "true", **mine).communicate(timeout=20)
        assert left.wait(10) < 0
        assert other.poll() is None
    finally:
        for process in (left, other):
            process.kill()
            process.wait()


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.timeout(30)
def test_it_ends_when_its_parent_is_killed(tmp_path):
    script = (
        "import subprocess, sys\n"
        f"p = subprocess.Popen([sys.executable, '-I', {str(KEEP)!r}, {str(tmp_path / 'started')!r}, 'sleep', '60'])\n"
        "print(p.pid, flush=True)\n"
        "p.wait()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    parent.kill()
    parent.communicate()
    while is_running(child):
        time.sleep(0.05)
