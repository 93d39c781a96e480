"""One Triton of a test's own: `python -m local.triton` with a data folder and ports of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from local.triton import SHARED_MEMORY, Settings
from triton_models.layout import data_folder

START_SECONDS = 60


def children(pid: int) -> set[int]:
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found.update(int(word) for word in path.read_text().split())
    return found


def _environment(home: Path) -> dict[str, str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    names = [f"PENTIMENTO_TRITON_{name}_PORT" for name in ("GRPC", "HTTP", "METRICS")]
    return {
        **os.environ,
        # What `make` has fetched already is taken from there; the rest is downloaded.
        "PENTIMENTO_MODEL_MIRROR": os.environ.get("PENTIMENTO_MODEL_MIRROR") or str(data_folder() / "models"),
        "PENTIMENTO_HOME": str(home),
        **dict(zip(names, map(str, ports), strict=True)),
    }


@dataclass
class TritonServer:
    """One Triton, to be started and stopped as often as a test likes."""

    home: Path
    environment: dict[str, str] = field(init=False)
    process: subprocess.Popen | None = None

    def __post_init__(self) -> None:
        self.environment = _environment(self.home)

    @property
    def grpc_port(self) -> int:
        return int(self.environment["PENTIMENTO_TRITON_GRPC_PORT"])

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def pid(self) -> int:
        (pid,) = children(self.process.pid)
        return pid

    @property
    def shared_memory(self) -> list[Path]:
        ports = (1, 1, 1, 1)
        return list(SHARED_MEMORY.glob(f"{Settings(self.home, *ports).shared_memory_prefix}*"))

    def client(self) -> triton.InferenceServerClient:
        return triton.InferenceServerClient(self.address)

    def fetch_models(self) -> None:
        """Puts the shipped models into the data folder."""
        subprocess.run([sys.executable, "-m", "triton_models.fetch", "--strict"], env=self.environment, check=True)

    def start(self) -> None:
        with (self.home / "log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "local.triton"], env=self.environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        with self.client() as client:
            while True:
                try:
                    if client.is_server_ready():
                        return
                except InferenceServerException:
                    pass
                log_text = (self.home / "log").read_text()
                assert self.process.poll() is None, log_text
                assert time.monotonic() < deadline, log_text
                time.sleep(0.05)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(20)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Started for the body of the `with`; stopped also where it did not become ready."""
        try:
            self.start()
            yield
        finally:
            self.stop()
