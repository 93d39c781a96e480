"""The whole mesh on this machine: `python -m local.up`, or `make run`.

    python -m local.up            start everything, keep it running, stop everything on Ctrl-C
    python -m local.up status     what is ready and what is not
    python -m local.up stop       stop the mesh that runs in another terminal
    python -m local.up logs       follow the logs of all parts

The parts are data (local/parts.py), a process manager keeps them (local/manager.py), settings come from the environment
(local/settings.py). What is here is the order: nothing starts before every port is known to be free; each part starts
when those that it depends on are ready; one that does not come up is reported and the rest runs on; and when this
process ends, whatever ends it, so does everything that it started.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from local.keep import RUN_VARIABLE, end_with_parent, processes_with
from local.manager import Manager, ManagerError, PartState
from local.parts import Part, PortUse, all_parts, ports_in_use
from local.postgres import database_url
from local.settings import PORTS_IN_USE, ROOT, LocalSettings, SettingsError, parts_environment

__all__ = ["Outcome", "bring_up", "main", "taken_ports"]

PROBE_INTERVAL_SECONDS: Final = 0.1
WATCH_INTERVAL_SECONDS: Final = 0.25
# A part that ended this often without having been ready will hardly become so.
HOPELESS_STARTS: Final = 4
LOG_LINES_SHOWN: Final = 12
# How long the processes of a run that was killed may take to end, until they are killed too.
LEFTOVER_SECONDS: Final = 10.0
STOP_COMMAND_SECONDS: Final = 120.0
# In the checkout, from which `make run` is typed.
_EXAMPLE: Final = "docs/images/second-rocket.jpg"


class UpError(Exception):
    """The mesh cannot be started, or is not running; the text says what to do about it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the start of a part went.

    Attributes:
        part: which.
        seconds: from its start until it was ready, or given up.
        problem: None if it is ready.
    """

    part: Part
    seconds: float
    problem: str | None


# ---- before the start ----


def taken_ports(uses: Sequence[PortUse]) -> list[tuple[PortUse, str]]:
    """The ports that cannot be opened, and why."""
    found = []
    for use in uses:
        family = socket.AF_INET6 if ":" in use.address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as attempt:
            # As the parts do: a connection of an earlier run that is still being wound up does not count.
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind((use.address, use.port))
            except OSError as error:
                reason = "is taken by another program" if error.errno == errno.EADDRINUSE else str(error.strerror)
                found.append((use, reason))
    return sorted(found, key=lambda entry: entry[0].port)


def free_base(settings: LocalSettings) -> int | None:
    """A port for the edge such that it and the ports after it are free; None if none was found."""
    for base in range(settings.port + 100, min(settings.port + 5000, 65536 - PORTS_IN_USE), 100):
        if not taken_ports([PortUse(settings.bind, base + offset, "") for offset in range(PORTS_IN_USE)]):
            return base
    return None


def check_ports(settings: LocalSettings, parts: Sequence[Part]) -> None:
    """Raises UpError, naming each port that is taken and what to set."""
    taken = taken_ports(ports_in_use(tuple(parts)))
    if not taken:
        return
    lines = [f"port {use.port} ({use.use}) {reason}" for use, reason in taken]
    example = free_base(settings) or settings.port + 100
    raise UpError(
        "\n".join(lines)
        + f"\nThis run would use the ports {settings.port} to {settings.port + PORTS_IN_USE - 1}. Free them, or take"
        f" others: PENTIMENTO_PORT={example} make run"
    )


@contextmanager
def only_one(settings: LocalSettings) -> Iterator[None]:
    """Holds the data folder's lock, which tells others who runs here; raises UpError if another does."""
    settings.run_folder.mkdir(parents=True, exist_ok=True)
    with (settings.run_folder / "lock").open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            url = _holder(stream.read()).get("url", "an unknown address")
            raise UpError(
                f"already running at {url} (data folder {settings.home}).\n"
                "To see how it is: make status. To stop it: make stop. For a second one beside it, set PENTIMENTO_HOME"
                " and PENTIMENTO_PORT."
            ) from None
        stream.truncate(0)
        stream.write(json.dumps({"pid": os.getpid(), "url": settings.url}))
        stream.flush()
        try:
            yield
        finally:
            stream.truncate(0)


def _holder(text: str) -> dict[str, str]:
    try:
        return {name: str(value) for name, value in json.loads(text).items()}
    except (ValueError, AttributeError):
        return {}


def end_leftovers(settings: LocalSettings, *, grace_seconds: float) -> None:
    """Ends the processes of this data folder's run that outlived its process manager.

    Args:
        settings: of the run.
        grace_seconds: how long they may take by themselves (they were asked to end, by the kernel); then they are
            killed.
    """
    mark = {RUN_VARIABLE: str(settings.home)}
    deadline = time.monotonic() + grace_seconds
    while left := list(processes_with(mark)):
        if time.monotonic() > deadline:
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        time.sleep(0.05)


# ---- the start ----


def last_lines(path: Path, count: int = LOG_LINES_SHOWN) -> list[str]:
    """The end of a log file."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 16384))
            return stream.read().decode(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return []


class _Start:
    """One part's start: its turn, its readiness, its failure."""

    def __init__(self, manager: Manager, part: Part, *, timeout_seconds: float, stop: threading.Event) -> None:
        self._manager = manager
        self._part = part
        self._timeout_seconds = timeout_seconds
        self._stop = stop
        self.settled = threading.Event()

    def run(self, before: Sequence[_Start]) -> Outcome:
        """Waits for those before it, starts the part and waits until it is ready or there is no hope."""
        try:
            for other in before:
                other.settled.wait()
            return self._run()
        finally:
            self.settled.set()

    def _run(self) -> Outcome:
        began = time.monotonic()
        problem: str | None = "stopped"
        pids: set[int] = set()
        try:
            if not self._stop.is_set():
                self._manager.start(self._part.name)
            while not self._stop.is_set():
                problem = self._part.probe()
                waited = time.monotonic() - began
                if problem is None:
                    return Outcome(self._part, waited, None)
                pids.add(self._manager.states()[self._part.name].pid)
                if len(pids - {0}) >= HOPELESS_STARTS:
                    return Outcome(self._part, waited, "keeps ending as soon as it is started")
                if waited > self._timeout_seconds:
                    return Outcome(self._part, waited, f"not ready after {waited:.0f} s: {problem}")
                self._stop.wait(PROBE_INTERVAL_SECONDS)
        except (ManagerError, OSError) as error:
            problem = f"the process manager does not answer: {error}"
        return Outcome(self._part, time.monotonic() - began, problem)


def bring_up(
    parts: Sequence[Part],
    manager: Manager,
    *,
    timeout_seconds: float,
    stop: threading.Event,
    report: Callable[[Outcome], None],
) -> None:
    """Starts all parts, those that do not wait for each other side by side.

    Args:
        parts: what to start.
        manager: who starts it.
        timeout_seconds: how long each may take.
        stop: ends the waiting when it is set.
        report: called for each part as soon as it is ready or given up.
    """
    starts = {part.name: _Start(manager, part, timeout_seconds=timeout_seconds, stop=stop) for part in parts}
    with ThreadPoolExecutor(len(parts)) as threads:
        pending: set[Future[Outcome]] = {
            threads.submit(starts[part.name].run, [starts[name] for name in part.depends_on]) for part in parts
        }
        while pending:
            # In short waits, because a signal is only seen between two of them.
            done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in done:
                if not stop.is_set():
                    report(future.result())


# ---- what the user sees ----


def _print(text: str = "") -> None:
    try:
        print(text, flush=True)
    except OSError:
        # The terminal is gone; stopping in order matters more than saying so.
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - for the rest of this process's life


def _print_outcome(outcome: Outcome, settings: LocalSettings) -> None:
    if outcome.problem is None:
        _print(f"  {outcome.part.name:<14} ready  {outcome.seconds:5.1f} s")
        return
    log = settings.log_folder / f"{outcome.part.name}.log"
    _print(f"  {outcome.part.name:<14} NOT READY: {outcome.problem}")
    _print(
        f"      The rest runs without it; it joins when it is ready, and whenever it ends it is started again. {log}:"
    )
    for line in last_lines(log):
        _print(f"      | {line}")


def _print_ready(settings: LocalSettings, seconds: float, missing: Sequence[str]) -> None:
    without = f", without {', '.join(missing)}" if missing else ""
    _print(f"\nPentimento runs{without} (after {seconds:.1f} s).\n")
    _print(f"  API    {settings.url}  (in a browser: what it can do, to try out)")
    _print(f"  Try    curl -F file=@{_EXAMPLE} {settings.url}/analyze/image")
    _print(f"  Logs   {settings.log_folder}")
    _print("  Stop   Ctrl-C\n")


# ---- the run ----


class _Signals:
    """Ctrl-C, SIGTERM, SIGHUP: the first asks to stop, the next insists.

    A thread of its own hears of them. A handler would run in between any two steps of the main thread: if that is just
    waiting for `stop`, or setting it because of the signal before, it holds the lock that setting it needs.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.insist = threading.Event()
        self._heard, self._written = socket.socketpair()
        self._written.setblocking(False)
        signal.set_wakeup_fd(self._written.fileno())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup has SIGHUP ignored, and means it. A shell has SIGINT ignored in what it starts in the background,
            # but then a SIGINT that comes was sent on purpose.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda _number, _frame: None)
        threading.Thread(target=self._listen, name="signals", daemon=True).start()

    def _listen(self) -> None:
        while numbers := self._heard.recv(64):
            for number in numbers:
                # The terminal sends Ctrl-C to make too, which then sends SIGTERM: one wish to stop, not two.
                if self.stop.is_set() and number == signal.SIGINT:
                    self.insist.set()
                self.stop.set()


def _watch(manager: Manager, parts: Sequence[Part], signals: _Signals, problems: set[str]) -> bool:
    """Tells of parts that were started again, until a signal comes; False if the manager ended first."""
    by_name = {part.name: part for part in parts}
    before: dict[str, PartState] = {}
    waiting = set(problems)
    while not signals.stop.wait(WATCH_INTERVAL_SECONDS):
        if manager.ended():
            return False
        try:
            now = manager.states()
        except (OSError, ManagerError):
            continue  # its end, if it is one, is seen in the next round
        for name, state in now.items():
            old = before.get(name)
            if old is not None and old.pid != state.pid and state.pid and name not in waiting:
                _print(f"{time.strftime('%H:%M:%S')}  {name} ended and was started again")
                waiting.add(name)
            if name in waiting and state.pid and by_name[name].probe() is None:
                _print(f"{time.strftime('%H:%M:%S')}  {name} is ready")
                waiting.discard(name)
        # Without a process at this moment, the last one is what to compare with.
        before = {name: state if state.pid else before.get(name, state) for name, state in now.items()}
    return True


def _stop(manager: Manager, settings: LocalSettings, signals: _Signals) -> None:
    """Stops everything, in order; or at once if that takes too long or the user insists."""
    _print("\nStopping (Ctrl-C again to kill) ...")
    manager.stop()
    deadline = time.monotonic() + manager.stop_seconds
    while not manager.ended() and time.monotonic() < deadline and not signals.insist.is_set():
        # The question itself makes the manager look; by itself it does so once a second.
        with suppress(OSError, ManagerError):
            manager.states()
        time.sleep(0.05)
    if not manager.ended():
        _print("It does not end by itself; killing it.")
        manager.kill()
        end_leftovers(settings, grace_seconds=0)
    end_leftovers(settings, grace_seconds=2)
    _print("Stopped.")


def run(settings: LocalSettings) -> int:
    """Starts the mesh and keeps it until a signal; returns the exit code."""
    signals = _Signals()
    began = time.monotonic()
    with only_one(settings):
        # A run that was killed may still be on its way out.
        end_leftovers(settings, grace_seconds=LEFTOVER_SECONDS)
        url = settings.database_url or database_url(settings)
        parts = all_parts(settings, url)
        check_ports(settings, parts)
        _print(f"Pentimento starts; its data are in {settings.home}")
        for part in parts:
            (settings.run_folder / f"{part.name}.started").unlink(missing_ok=True)
        manager = Manager(
            parts,
            run_folder=settings.run_folder,
            log_folder=settings.log_folder,
            environment={**parts_environment(settings, url), RUN_VARIABLE: str(settings.home)},
        )
        try:
            manager.wait_until_it_answers()
            problems: set[str] = set()

            def report(outcome: Outcome) -> None:
                _print_outcome(outcome, settings)
                if outcome.problem is not None:
                    problems.add(outcome.part.name)

            timeout = settings.start_timeout_seconds
            bring_up(parts, manager, timeout_seconds=timeout, stop=signals.stop, report=report)
            if not signals.stop.is_set():
                _print_ready(settings, time.monotonic() - began, sorted(problems))
            if not _watch(manager, parts, signals, problems):
                raise UpError(f"the process manager ended; its log is {settings.log_folder / 'supervisord.log'}")
        finally:
            _stop(manager, settings, signals)
    return 0


# ---- the other commands ----


def status(settings: LocalSettings) -> int:
    """Prints how each part is; 0 if all are ready."""
    if _running(settings) is None:
        _print(f"Pentimento is not running (data folder {settings.home}). To start it: make run")
        return 1
    parts = all_parts(settings, settings.database_url or database_url(settings))
    with ThreadPoolExecutor(len(parts)) as threads:
        answers = list(threads.map(lambda part: part.probe(), parts))
    for part, answer in zip(parts, answers, strict=True):
        _print(f"  {part.name:<14} {'ready' if answer is None else f'NOT READY: {answer}'}")
    _print(f"  API {settings.url}, logs {settings.log_folder}")
    return 0 if not any(answers) else 1


def _running(settings: LocalSettings) -> int | None:
    """The process id of the `run` that holds the data folder; None if there is none."""
    path = settings.run_folder / "lock"
    if not path.exists():
        return None
    with path.open("r+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(_holder(stream.read()).get("pid", "0")) or None
    return None


def stop(settings: LocalSettings) -> int:
    """Stops the mesh of this data folder and waits until it has ended."""
    pid = _running(settings)
    if pid is None:
        _print("Pentimento is not running.")
        return 0
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_COMMAND_SECONDS
    while _running(settings) == pid:
        if time.monotonic() > deadline:
            raise UpError(f"it has not ended after {STOP_COMMAND_SECONDS:g} s; its process is {pid}")
        time.sleep(0.1)
    _print("Stopped.")
    return 0


def logs(settings: LocalSettings) -> int:
    """Follows all logs until Ctrl-C."""
    files = sorted(str(path) for path in settings.log_folder.glob("*.log"))
    if not files:
        raise UpError(f"there are no logs in {settings.log_folder} yet")
    try:
        return subprocess.run(["tail", "-n", "5", "-F", *files], cwd=ROOT, check=False).returncode
    except KeyboardInterrupt:
        return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    commands = {"run": run, "status": status, "stop": stop, "logs": logs}
    parser = argparse.ArgumentParser(prog="python -m local.up", description="Runs Pentimento on this machine.")
    parser.add_argument("command", nargs="?", choices=commands, default="run")
    parser.add_argument("--with-parent", action="store_true", help="stop when the process that started this one ends")
    options = parser.parse_args(arguments)
    if options.with_parent:
        end_with_parent()
    try:
        return commands[options.command](LocalSettings.from_environment())
    except (UpError, ManagerError, SettingsError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
