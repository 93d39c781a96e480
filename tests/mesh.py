"""The whole mesh for tests: started as `make run` starts it, in a folder and on ports of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
PORTS_NEEDED = 24
START_SECONDS = 120.0

# How each part shows in a process list.
COMMANDS = {
    "envoy": "bin/envoy",
    "orchestrator": "-m services.orchestrator ",
    "worker": "services.orchestrator.worker",
    "passive": "services.passive",
    "deeplearning": "services.deeplearning",
    "faces": "services.faces",
    "triton": "tritonserver",
    "postgres": "bin/postgres",
}


def free_block() -> int:
    """The first of `PORTS_NEEDED` consecutive ports of which none is in use, below the ephemeral range."""
    for base in range(20_000 + os.getpid() % 97 * 100, 32_000, PORTS_NEEDED):
        try:
            for port in range(base, base + PORTS_NEEDED):
                with closing(socket.socket()) as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    raise RuntimeError("no free ports")


class Mesh:
    """A running mesh.

    Args:
        home: its data folder.
        settings: further environment variables.
    """

    def __init__(self, home: Path, **settings: str) -> None:
        self.home = home
        self.port = free_block()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = home / "up.log"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PENTIMENTO_")},
            "PENTIMENTO_HOME": str(home),
            "PENTIMENTO_PORT": str(self.port),
            # What `make run` has fetched before; a bare checkout fetches anew.
            "PENTIMENTO_MODEL_MIRROR": str(ROOT / ".pentimento" / "models"),
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Starts it and waits until it is ready; returns the seconds that took."""
        self.home.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "triton_models.fetch"], cwd=ROOT, env=self._environment, check=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "local.up"],
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while time.monotonic() - started < START_SECONDS:
            if self._process.poll() is not None:
                break
            if self.health() == "PART_STATE_SERVING":
                return time.monotonic() - started
            time.sleep(0.2)
        said = self.log.read_text()[-4000:]
        self.stop()
        raise RuntimeError(f"the mesh did not start:\n{said}")

    def health(self) -> str:
        """The state that /v1/health tells, or "" if it does not answer."""
        try:
            return httpx.get(f"{self.url}/v1/health", timeout=5).json().get("state", "")
        except (httpx.HTTPError, ValueError):
            return ""

    def wait_until_healthy(self, seconds: float = 60.0) -> float:
        """Waits until every part serves; returns the seconds that took."""
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            if self.health() == "PART_STATE_SERVING":
                return time.monotonic() - started
            time.sleep(0.1)
        raise AssertionError(f"not healthy again after {seconds} s")

    def pids(self, part: str | None = None) -> list[int]:
        """Process ids of a part, or of everything that belongs to this mesh."""
        mark = f"PENTIMENTO_HOME={self.home}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                environment = (entry / "environ").read_bytes().split(b"\0")
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if mark in environment and state != "Z" and (part is None or COMMANDS[part] in command):
                found.append(int(entry.name))
        return found

    @contextmanager
    def frozen(self, part: str) -> Iterator[None]:
        """Stops a part and its children (SIGSTOP) for the body of the `with`: it is there and does not answer."""
        parents = self.pids(part)
        children = [Path(f"/proc/{pid}/task/{pid}/children").read_text().split() for pid in parents]
        stopped = [*parents, *(int(pid) for pids in children for pid in pids)]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)

    def kill(self, part: str) -> None:
        """Kills a part with SIGKILL, as a crash or the kernel would."""
        victims = self.pids(part)
        assert victims, f"{part} is not running"
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def stop(self, signum: int = signal.SIGINT) -> None:
        """Stops it as Ctrl-C does."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signum)
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            raise
