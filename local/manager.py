"""The process manager (supervisord): its configuration, its start, and how to talk to it.

supervisord keeps the parts: it starts again what ends, writes and rotates their logs, and on SIGTERM stops them tier by
tier. What it has no notion of is in local/keep.py (through which it starts each part) and local/up.py (readiness).
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shlex
import signal
import stat
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from local.keep import end_with_parent
from local.parts import Part
from local.settings import ROOT

__all__ = ["Manager", "ManagerError", "PartState", "render_configuration", "socket_path"]

KEEP: Final = Path(__file__).with_name("keep.py")
START_SECONDS: Final = 20.0

LOG_BYTES: Final = 10 * 1024 * 1024
LOG_BACKUPS: Final = 2

# Room for a path in sockaddr_un, less the `.<pid>` under which supervisord makes its socket, less the closing zero.
LONGEST_SOCKET_PATH: Final = 108 - len(".4194304") - 1


class ManagerError(Exception):
    """The process manager does not start, or does not answer."""


@dataclass(frozen=True, slots=True)
class PartState:
    """What supervisord knows of a part.

    Attributes:
        pid: its process; 0 if there is none at the moment.
        state: supervisord's word, such as RUNNING.
    """

    pid: int
    state: str


def socket_path(run_folder: Path) -> Path:
    """Where supervisord listens: in the run folder, or, if that has too long a name, in a folder for temporary files.

    Raises:
        ManagerError: somebody else made that folder.
    """
    path = run_folder / "supervisor.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(run_folder)).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"pentimento-{os.geteuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ManagerError(f"{folder} is not a folder of this user alone; remove it")
    return folder / path.name


def _escape(text: object) -> str:
    """A value in supervisord's configuration, where % begins a name to be replaced."""
    return str(text).replace("%", "%%")


def render_configuration(parts: Sequence[Part], *, run_folder: Path, log_folder: Path, socket: Path) -> str:
    """The configuration of supervisord for these parts."""
    sections: dict[str, dict[str, object]] = {
        "unix_http_server": {"file": socket, "chmod": "0700"},
        "rpcinterface:supervisor": {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface",
        },
        "supervisord": {
            "nodaemon": "true",
            "silent": "true",
            "logfile": log_folder / "supervisord.log",
            "logfile_maxbytes": LOG_BYTES,
            "logfile_backups": LOG_BACKUPS,
            "pidfile": run_folder / "supervisord.pid",
            "childlogdir": log_folder,
            "directory": ROOT,
        },
    }
    for part in parts:
        command = [sys.executable, "-I", str(KEEP), str(run_folder / f"{part.name}.started"), *part.command]
        sections[f"program:{part.name}"] = {
            "command": shlex.join(command),
            "environment": ",".join(f'{name}="{value}"' for name, value in part.environment.items()),
            # local/up.py starts them, in order. Then they are started again whenever they end; with 0 seconds that a
            # start must last there is no giving up, and keep.py paces it.
            "autostart": "false",
            "autorestart": "true",
            "startsecs": 0,
            # SIGTERM goes to the part alone, which ends its own children when it has finished what they are doing.
            "stopsignal": "TERM",
            "stopwaitsecs": part.stop_seconds,
            "killasgroup": "true",
            "redirect_stderr": "true",
            # Of all values this one is searched for names twice.
            "stdout_logfile": _escape(log_folder / f"{part.name}.log"),
            "stdout_logfile_maxbytes": LOG_BYTES,
            "stdout_logfile_backups": LOG_BACKUPS,
        }
    # supervisord stops its groups one after the other, the highest priority first, and the parts of a group together.
    for tier in sorted({part.tier for part in parts}):
        names = [part.name for part in parts if part.tier == tier]
        sections[f"group:{_group(tier)}"] = {"programs": ",".join(names), "priority": tier}
    return "\n".join(
        f"[{section}]\n" + "".join(f"{name} = {_escape(value)}\n" for name, value in options.items())
        for section, options in sections.items()
    )


def _group(tier: int) -> str:
    return f"tier{tier}"


class Manager:
    """A supervisord of our own.

    Args:
        parts: what it keeps.
        run_folder: for its configuration, socket and process id.
        log_folder: for all logs.
        environment: what it, and so every part, gets.
    """

    def __init__(
        self, parts: Sequence[Part], *, run_folder: Path, log_folder: Path, environment: Mapping[str, str]
    ) -> None:
        self._names = {part.name: f"{_group(part.tier)}:{part.name}" for part in parts}
        self._stop_seconds = sum(
            max(part.stop_seconds for part in parts if part.tier == tier) for tier in {part.tier for part in parts}
        )
        self._socket = socket_path(run_folder)
        run_folder.mkdir(parents=True, exist_ok=True)
        # Logs hold the addresses of clients and the names of their files.
        log_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        configuration = run_folder / "supervisord.conf"
        configuration.write_text(
            render_configuration(parts, run_folder=run_folder, log_folder=log_folder, socket=self._socket),
            encoding="utf-8",
        )
        self._socket.unlink(missing_ok=True)
        self._complaints = run_folder / "supervisord.err"
        with self._complaints.open("wb") as complaints:
            # A session of its own: Ctrl-C in the terminal and its closing are for local/up.py to act upon.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(configuration)],
                env=dict(environment),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=complaints,
                stderr=complaints,
                start_new_session=True,
                preexec_fn=end_with_parent,  # noqa: PLW1509 - there are no threads yet
            )

    def wait_until_it_answers(self) -> None:
        """Raises ManagerError if it does not within START_SECONDS."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.ended():
                break
            try:
                self.states()
            except (OSError, ManagerError):
                time.sleep(0.02)
            else:
                return
        raise ManagerError(f"supervisord did not start: {self._complaints.read_text(errors='replace')[-1000:]}")

    def ended(self) -> bool:
        """Whether it is gone."""
        return self._process.poll() is not None

    def start(self, name: str) -> None:
        """Starts a part, and does not wait for it. Safe to call from several threads."""
        try:
            with self._connection() as server:
                server.supervisor.startProcess(self._names[name], False)
        except xmlrpc.client.Fault as fault:
            raise ManagerError(f"{name}: {fault.faultString}") from None

    def states(self) -> dict[str, PartState]:
        """What each part does. Safe to call from several threads.

        Raises:
            OSError: supervisord does not answer.
        """
        try:
            with self._connection() as server:
                found: Any = server.supervisor.getAllProcessInfo()
        except (xmlrpc.client.Error, http.client.HTTPException) as error:
            raise ManagerError(str(error)) from None
        return {entry["name"]: PartState(pid=entry["pid"], state=entry["statename"]) for entry in found}

    def stop(self) -> None:
        """Asks supervisord to stop all parts, tier by tier, and then to end. Does not wait."""
        if not self.ended():
            self._process.send_signal(signal.SIGTERM)

    @property
    def stop_seconds(self) -> float:
        """How long `stop` may take at most, if every part takes as long as it may."""
        return self._stop_seconds + 5

    def kill(self) -> None:
        """Ends supervisord itself; the parts are asked to end by the kernel (keep.py)."""
        self._process.kill()
        self._process.wait()

    def _connection(self) -> Any:
        # A connection for each call: cheap, and nothing is shared between threads.
        from supervisor.xmlrpc import SupervisorTransport  # noqa: PLC0415 - it takes a while

        transport = SupervisorTransport(serverurl=f"unix://{self._socket}")
        return xmlrpc.client.ServerProxy("http://localhost", transport=transport)
