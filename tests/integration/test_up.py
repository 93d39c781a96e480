"""`python -m local.up` in a folder like a checkout: the real process manager and PostgreSQL, stand-ins for the rest."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from local.keep import RUN_VARIABLE, processes_with
from local.settings import PORTS_IN_USE, ROOT, SERVICES

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

WAIT_SECONDS = 60

SERVICE = """
import os, signal, subprocess, threading
from concurrent.futures import ThreadPoolExecutor
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

if os.environ.get("STAND_IN_BROKEN") == os.environ["SUPERVISOR_PROCESS_NAME"]:
    raise SystemExit("something is missing")
if os.environ["SUPERVISOR_PROCESS_NAME"] == "faces":
    subprocess.Popen(["sleep", "600"])  # a child that does not notice its parent's end
server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
servicer = health.HealthServicer()
servicer.set("", health_pb2.HealthCheckResponse.SERVING)
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
server.add_insecure_port(os.environ["PENTIMENTO_LISTEN"])
server.start()
done = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: done.set())
done.wait()
server.stop(0.1).wait()
"""

HTTP_SERVER = """
import http.server, os

class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", int(os.environ["{variable}"])), Ready).serve_forever()
"""


def free_base():
    """A port such that it and those after it are free."""
    for base in range(20000 + os.getpid() % 5000, 32000, PORTS_IN_USE):
        sockets = []
        try:
            for port in range(base, base + PORTS_IN_USE):
                sockets.append(socket.create_server(("127.0.0.1", port)))  # noqa: PERF401 - all are closed below
        except OSError:
            continue
        finally:
            for held in sockets:
                held.close()
        return base
    raise AssertionError("no free ports")


@dataclass(frozen=True)
class Checkout:
    """A folder with local/ and stand-ins for what it starts."""

    folder: Path
    port: int

    @property
    def home(self):
        return self.folder / ".pentimento"

    def environment(self, **more):
        environment = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "PYTHONPATH")}
        return {**environment, "PENTIMENTO_HOME": str(self.home), "PENTIMENTO_PORT": str(self.port), **more}

    def command(self, *arguments, **environment):
        return subprocess.run(
            [sys.executable, "-m", "local.up", *arguments],
            cwd=self.folder,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT_SECONDS,
        )

    def left(self):
        """Its processes: those that carry its mark, the process manager, and PostgreSQL's own."""
        found = set(processes_with({RUN_VARIABLE: str(self.home)}))
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdecimal() and (entry / "cwd").readlink() == self.home / "postgres" / "data":
                    found.add(int(entry.name))
            except OSError:
                continue
        return found

    def pid(self, module):
        """The process that runs a module."""
        wanted = f"-m\0{module}\0".encode()
        [found] = [pid for pid in self.left() if wanted in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return found


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check out")
    (folder / "local").mkdir()
    for path in (ROOT / "local").glob("*.py"):
        shutil.copy(path, folder / "local")
    (folder / "local" / "triton.py").write_text(HTTP_SERVER.format(variable="PENTIMENTO_TRITON_HTTP_PORT"))
    (folder / "local" / "envoy.py").write_text(HTTP_SERVER.format(variable="PENTIMENTO_ENVOY_ADMIN_PORT"))
    for name in SERVICES:
        package = folder / "services" / name
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(SERVICE)
    (folder / "services" / "__init__.py").touch()
    (folder / "services" / "orchestrator" / "worker.py").write_text(SERVICE)
    return Checkout(folder, free_base())


@pytest.fixture
def up(checkout, tmp_path):
    """Starts `local.up` and waits until it says that all runs; whatever happens, nothing of it stays."""
    started = []
    # Tests that run under nohup would hand their ignored SIGHUP on.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def start(until="Pentimento runs", **environment):
        output = tmp_path / f"output{len(started)}"
        with output.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "local.up"],
                cwd=checkout.folder,
                env=checkout.environment(**environment),
                stdout=stream,
                stderr=stream,
            )
        started.append(process)
        wait_for(lambda: until in output.read_text() or process.poll() is not None)
        assert until in output.read_text(), output.read_text()
        return process, output

    yield start
    signal.signal(signal.SIGHUP, before)
    for process in started:
        process.kill()
        process.wait()
    wait_for(lambda: checkout.left() <= survivors(checkout))
    for pid in survivors(checkout):
        os.kill(pid, signal.SIGKILL)


def survivors(checkout):
    """The stand-ins' children, which a killed `local.up` cannot end: the next one does."""
    found = set()
    for pid in checkout.left():
        try:
            if b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
        except OSError:
            continue
    return found


def wait_for(condition, seconds=WAIT_SECONDS):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def all_ready(checkout):
    return checkout.command("status").returncode == 0


def test_a_run_from_start_to_end(checkout, up):
    process, output = up()
    text = output.read_text()
    for name in ("postgres", "triton", "envoy", *SERVICES, "worker"):
        assert f"  {name}" in text
        assert (checkout.home / "logs" / f"{name}.log").exists()
    assert f"http://localhost:{checkout.port}" in text
    assert "NOT READY" not in text
    assert all_ready(checkout)

    second = checkout.command()
    assert second.returncode == 1
    assert f"already running at http://localhost:{checkout.port}" in second.stderr

    stopped = checkout.command("stop")
    assert stopped.returncode == 0
    assert process.wait(WAIT_SECONDS) == 0
    assert checkout.left() == set()
    assert checkout.command("status").returncode == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_process_behind(checkout, up, number):
    process, _ = up()
    process.send_signal(number)
    assert process.wait(WAIT_SECONDS) == 0
    assert checkout.left() == set()


def test_a_signal_during_the_start_leaves_no_process_behind(checkout, up):
    process, _ = up(until="Pentimento starts")
    process.send_signal(signal.SIGINT)
    assert process.wait(WAIT_SECONDS) == 0
    assert checkout.left() == set()


def test_what_is_killed_comes_back_and_its_children_do_not_stay(checkout, up):
    up()
    for module in ("services.faces", "local.postgres", "local.envoy"):
        before = checkout.pid(module)
        children = survivors(checkout) if module == "services.faces" else set()
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: all_ready(checkout), 20)
        assert checkout.pid(module) != before
        assert not children & checkout.left()


@pytest.mark.parametrize("whom", ["up", "manager", "both"])
def test_a_kill_of_the_keeper_ends_the_parts(checkout, up, whom):
    process, _ = up()
    manager = int((checkout.home / "run" / "supervisord.pid").read_text())
    for pid in {"up": [process.pid], "manager": [manager], "both": [process.pid, manager]}[whom]:
        os.kill(pid, signal.SIGKILL)
    process.wait(WAIT_SECONDS)
    wait_for(lambda: checkout.left() <= survivors(checkout), 30)
    if whom == "manager":
        assert process.returncode == 1
        assert checkout.left() == set()


def test_a_part_that_does_not_start_is_reported_and_the_rest_runs(checkout, up):
    _, output = up(until="Pentimento runs, without passive", STAND_IN_BROKEN="passive")
    text = output.read_text()
    assert "passive        NOT READY: keeps ending" in text
    assert "| something is missing" in text
    status = checkout.command("status")
    assert status.returncode == 1
    assert status.stdout.count("NOT READY") == 1


def test_a_taken_port_is_named_before_anything_starts(checkout):
    with socket.create_server(("127.0.0.1", checkout.port + 5)):
        refused = checkout.command()
    assert refused.returncode == 1
    assert f"port {checkout.port + 5} (gRPC of faces) is taken" in refused.stderr
    assert "PENTIMENTO_PORT=" in refused.stderr
    assert checkout.left() == set()


def test_a_database_elsewhere_is_used_instead(checkout, up):
    _, output = up(DATABASE_URL="postgresql://elsewhere.invalid/db")
    assert "postgres " not in output.read_text()
    with pytest.raises(ValueError, match="unpack"):
        checkout.pid("local.postgres")
