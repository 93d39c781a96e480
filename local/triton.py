"""Triton on this machine, out of its wheel: `python -m local.triton`.

It runs in the foreground and ends on SIGTERM or Ctrl-C. Its environment:

    PENTIMENTO_HOME                  the data folder; the models are those in `models/repository` there
    PENTIMENTO_TRITON_GRPC_PORT      8001
    PENTIMENTO_TRITON_HTTP_PORT      8000
    PENTIMENTO_TRITON_METRICS_PORT   8002
    PENTIMENTO_TRITON_THREADS        threads of a network whose config.pbtxt does not say; default: half the cores

The steps:

1. Find Triton and its libraries in the virtual environment `triton_models/runtime/.venv`.
2. Lay them out under `<data folder>/triton`, as Triton wants them: the Python stub for this Python in the Python
   backend's folder, and Pentimento's `onnxruntime` backend beside it. These are copies (23 MB, once): the virtual
   environment stays as it is, and Triton refuses backends that are links out of their folder.
3. Remove what a Triton that was killed left in shared memory.
4. Start Triton and watch it, until one of the two ends.

Why watch: Triton runs each Python-based model in a process of its own, a *stub*. If one is killed, Triton goes on
calling the model ready, and fails every request to it, for ever; and the stub may have held a lock in the memory that
they share, in which case unloading the model hangs. So Triton is killed too, and the process manager starts it anew,
which takes two seconds. The same is done with a start that hangs: if a machine stands still for some seconds while
models are loaded, a stub and Triton may afterwards wait for each other, for ever, and Triton opens its ports only when
all models are loaded.

If Triton ends, so does this process, with an exit code that is not 0. If this process is killed, the kernel kills
Triton, and the stubs end by themselves. A lock, which all of them hold, makes a new start wait until the last is gone.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

from triton_models.layout import SOURCE_FOLDER, ModelsFolder, data_folder

__all__ = ["Runtime", "Settings", "SetupError", "StartGuard", "StubGuard", "command", "main"]

BACKEND_SOURCE = SOURCE_FOLDER / "backend" / "onnxruntime" / "model.py"
RUNTIME_FOLDER = SOURCE_FOLDER / "runtime" / ".venv"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - not a temporary folder, but where Triton talks to its stubs

# Triton's own time for requests in flight, and ours until we kill it: what Triton needs for itself is about 2 s.
EXIT_TIMEOUT_SECONDS = 4
KILL_AFTER_SECONDS = 8.0
# A network of 100 MB loads in about 1 s; eight at once on two busy cores take much longer. Triton's default is 30.
STUB_TIMEOUT_SECONDS = 120
# How long a start waits for the Triton before it to be gone.
LOCK_TIMEOUT_SECONDS = 15.0
# Between two looks for stubs that are new; the end of one that is known is noticed at once.
WATCH_INTERVAL_SECONDS = 2.0
# A start in which so long next to nothing was computed hangs. Not less: a disk may be slow.
HANGING_SECONDS = 120.0
# Of a processor, by Triton and its stubs together. Hanging they use 0.0003, loading most of one.
NEXT_TO_NOTHING = 0.02
# What Triton gets to reap a stub that ended as it should, before its end counts as a death.
REAP_SECONDS = 0.2

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class SetupError(Exception):
    """Triton cannot be started; the text says what to do about it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says.

    Attributes:
        home: the data folder.
        grpc_port: port of the KServe v2 gRPC API, on 127.0.0.1 like the others.
        http_port: port of the HTTP API.
        metrics_port: port of the Prometheus metrics.
        threads: threads of a network whose configuration does not say.
    """

    home: Path
    grpc_port: int
    http_port: int
    metrics_port: int
    threads: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Reads and checks the variables; raises SetupError."""
        cores = len(os.sched_getaffinity(0))
        return cls(
            home=data_folder(),
            grpc_port=_number(environment, "PENTIMENTO_TRITON_GRPC_PORT", 8001, 65535),
            http_port=_number(environment, "PENTIMENTO_TRITON_HTTP_PORT", 8000, 65535),
            metrics_port=_number(environment, "PENTIMENTO_TRITON_METRICS_PORT", 8002, 65535),
            # Several networks look at one picture at the same time.
            threads=_number(environment, "PENTIMENTO_TRITON_THREADS", max(1, cores // 2), 1024),
        )

    @property
    def models(self) -> ModelsFolder:
        """The folder that `triton_models.fetch` fills."""
        return ModelsFolder(self.home / "models")

    @property
    def folder(self) -> Path:
        """What belongs to this module in the data folder."""
        return self.home / "triton"

    @property
    def shared_memory_prefix(self) -> str:
        """How the names of this Triton's shared memory begin; another data folder has another."""
        return f"pentimento_triton_{hashlib.sha256(str(self.home).encode()).hexdigest()[:12]}_"


@dataclass(frozen=True, slots=True)
class Runtime:
    """Triton's virtual environment.

    Attributes:
        root: its folder.
        packages: where its packages lie.
        python_version: such as "3.11".
        library_folder: where its libpython lies; None if the system finds it by itself.
    """

    root: Path
    packages: Path
    python_version: str
    library_folder: Path | None

    @property
    def triton(self) -> Path:
        """The server as its wheel has it."""
        return self.packages / "pytriton" / "tritonserver"

    @classmethod
    def find(cls, root: Path = RUNTIME_FOLDER) -> Runtime:
        """Looks at a virtual environment; raises SetupError if Triton cannot run in it."""
        python = root / "bin" / "python"
        if not python.exists():
            raise SetupError(
                f"there is no environment for Triton at {root}; make it: uv sync --project {root.parent} --frozen"
            )
        asked = subprocess.run([python, "-I", "-c", _ABOUT_PYTHON], capture_output=True, text=True, check=False)
        if asked.returncode != 0:
            raise SetupError(f"{python} does not work: {asked.stderr.strip()[-300:]}; remove {root} and make it again")
        about = json.loads(asked.stdout)
        version = about["version"]
        runtime = cls(
            root=root,
            packages=Path(about["packages"]),
            python_version=version,
            library_folder=Path(about["library_folder"]) if about["library_folder"] else None,
        )
        if not (runtime.triton / "bin" / "tritonserver").exists():
            raise SetupError(f"{root} has no Triton; make it again: uv sync --project {root.parent} --frozen")
        if not (runtime.triton / "python_backend_stubs" / version).is_dir():
            raise SetupError(f"this Triton has no stub for Python {version}; make {root} with Python 3.11 or 3.12")
        if not about["library_found"]:
            raise SetupError(
                f"Triton needs libpython{version}.so.1.0, which this Python does not bring. Either install it"
                f" (Debian, Ubuntu: apt-get install libpython{version}), or use a Python of uv's:"
                f" uv sync --project {root.parent} --frozen --managed-python"
            )
        return runtime


# Run by the environment's interpreter: where its packages are, and where its libpython is, which the stub needs.
_ABOUT_PYTHON = """
import ctypes, json, os, sys, sysconfig
version = "%d.%d" % sys.version_info[:2]
name = "libpython%s.so.1.0" % version
folder = sysconfig.get_config_var("LIBDIR") or ""
places = [folder, os.path.join(folder, sysconfig.get_config_var("MULTIARCH") or ""), sys.base_prefix + "/lib"]
where = next((place for place in places if os.path.exists(os.path.join(place, name))), None)
found = where is not None
if not found:
    try:
        ctypes.CDLL(name)
        found = True
    except OSError:
        pass
print(json.dumps({"version": version, "packages": sysconfig.get_path("purelib"),
                  "library_folder": where, "library_found": found}))
"""


def _number(environment: Mapping[str, str], name: str, default: int, largest: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal() or not 1 <= int(text) <= largest:
        raise SetupError(f"{name} must be a number from 1 to {largest}, not {text!r}")
    return int(text)


def lay_out(runtime: Runtime, folder: Path) -> Path:
    """Makes Triton's folder, or finds the one that an earlier start made of the same files.

    Args:
        runtime: where to take the files from.
        folder: where to put them; other layouts there, of other versions, are removed.

    Returns:
        A folder with `bin/tritonserver` and `backends/{python,onnxruntime}`.
    """
    server = runtime.triton
    stub = server / "python_backend_stubs" / runtime.python_version / "triton_python_backend_stub"
    files = {
        Path("bin/tritonserver"): server / "bin" / "tritonserver",
        Path("backends/python/triton_python_backend_stub"): stub,
        **{Path("backends/python") / path.name: path for path in (server / "backends" / "python").iterdir()},
        Path("backends/onnxruntime/model.py"): BACKEND_SOURCE,
    }
    facts = [(str(place), str(path), (s := path.stat()).st_size, s.st_mtime_ns) for place, path in files.items()]
    name = f"server-{hashlib.sha256(repr(facts).encode()).hexdigest()[:12]}"
    # As deep as in the wheel: the server looks for its libraries by a path relative to its own.
    inner = Path("pytriton") / "tritonserver"
    if (folder / name).is_dir():
        return folder / name / inner
    for old in (*folder.glob("server-*"), *folder.glob(".making-*")):
        shutil.rmtree(old)
    making = Path(tempfile.mkdtemp(prefix=".making-", dir=folder))
    (making / "nvidia_pytriton.libs").symlink_to(runtime.packages / "nvidia_pytriton.libs")
    for place, path in files.items():
        target = making / inner / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        target.chmod(0o755 if place.name in ("tritonserver", stub.name) else 0o644)
    making.chmod(0o755)
    making.rename(folder / name)
    return folder / name / inner


def command(settings: Settings, server: Path) -> list[str]:
    """Triton's command line."""
    return [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={settings.models.repository}",
        f"--backend-directory={server / 'backends'}",
        # Everything is loaded at the start; after it, a model can be loaded again or anew through the API.
        "--model-control-mode=explicit",
        "--load-model=*",
        # One model that does not load must not stop the others, nor make the server as a whole unready.
        "--exit-on-error=false",
        "--strict-readiness=false",
        # Our configurations are complete; completing them would start each model's process twice.
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={EXIT_TIMEOUT_SECONDS}",
        f"--backend-config=python,shm-region-prefix-name={settings.shared_memory_prefix}",
        f"--backend-config=python,stub-timeout-seconds={STUB_TIMEOUT_SECONDS}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={settings.grpc_port}",
        "--http-address=127.0.0.1",
        f"--http-port={settings.http_port}",
        # Any page in a browser on this machine may send plain requests to loopback; none knows this.
        f"--http-restricted-api=model-repository,shared-memory,trace,logging:x-triton-key={secrets.token_hex(16)}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={settings.metrics_port}",
        # No GPU here. The response cache stays off: it takes equal 64-bit hashes for equal requests.
        "--allow-gpu-metrics=false",
        "--pinned-memory-pool-byte-size=0",
        "--log-format=ISO8601",
    ]


def child_environment(settings: Settings, runtime: Runtime, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment that Triton and its stubs run in."""
    made_for_us = {"PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV"}
    result = {name: value for name, value in environment.items() if name not in made_for_us}
    # The stub takes the packages of the `python3` that it finds first.
    result["PATH"] = os.pathsep.join([str(runtime.root / "bin"), environment.get("PATH", os.defpath)])
    if runtime.library_folder is not None:
        inherited = environment.get("LD_LIBRARY_PATH")
        result["LD_LIBRARY_PATH"] = os.pathsep.join([str(runtime.library_folder), *([inherited] if inherited else [])])
    result["PENTIMENTO_TRITON_THREADS"] = str(settings.threads)
    # The onnxruntime backend here is CPU only; without this a GPU that happens to be there would confuse the two.
    result["CUDA_VISIBLE_DEVICES"] = ""
    result["PYTHONUNBUFFERED"] = "1"
    return result


def hold_lock(path: Path) -> IO[str]:
    """Takes the lock that a running Triton and its stubs hold; waits for the one before to be gone.

    Raises:
        SetupError: it is still held after LOCK_TIMEOUT_SECONDS.
    """
    stream = path.open("a")
    deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                stream.close()
                raise SetupError(f"another Triton, or a process that one left behind, holds {path}") from None
            time.sleep(0.05)
        else:
            return stream


def remove_shared_memory(prefix: str, folder: Path = SHARED_MEMORY) -> None:
    """Removes what a killed Triton left; only while the lock is held, so that nobody uses it."""
    for path in folder.glob(f"{prefix}*"):
        path.unlink(missing_ok=True)


@dataclass(slots=True)
class StubGuard:
    """Sees that one of Triton's stubs died.

    Args:
        server: Triton's process id.
        repository: the model repository, to tell a stub's model from its command line.
    """

    server: int
    repository: Path
    _models: dict[int, str] = field(default_factory=dict)
    _suspects: set[int] = field(default_factory=set)

    def look(self) -> str | None:
        """One look at Triton's processes: the name of a model whose process is dead, or None.

        Triton reaps a stub that ends as it should at once, so only one that stays dead for two looks counts.
        """
        children = _children(self.server)
        dead = {pid for pid in children if _is_zombie(pid)}
        for pid in children - dead - self._models.keys():
            if (model := self._model_of(pid)) is not None:
                self._models[pid] = model
        for pid in self._models.keys() - children:
            del self._models[pid]
        found = [self._models.get(pid, "unknown") for pid in dead & self._suspects]
        self._suspects = dead
        return found[0] if found else None

    def wait(self, seconds: float) -> None:
        """Waits until it is worth to look again: a stub or Triton has ended, or so many seconds have passed.

        Looking costs: Triton has more than a hundred threads, each of which may have children.
        """
        if self._suspects:
            time.sleep(REAP_SECONDS)
            return
        ends = select.poll()
        with ExitStack() as stack:
            for pid in (self.server, *self._models):
                try:
                    descriptor = os.pidfd_open(pid)
                except ProcessLookupError:
                    return
                except OSError:  # a kernel without it, or no descriptor left
                    seconds = min(seconds, REAP_SECONDS)
                    continue
                stack.callback(os.close, descriptor)
                ends.register(descriptor, select.POLLIN)
            ends.poll(seconds * 1000)

    def _model_of(self, pid: int) -> str | None:
        """The model that a stub serves, by its command line: the stub, the model file, names and numbers."""
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return None
        for word in words[1:]:
            path = Path(os.fsdecode(word))
            if path.is_relative_to(self.repository) and path != self.repository:
                return path.relative_to(self.repository).parts[0]
        return None


@dataclass(slots=True)
class StartGuard:
    """Sees that Triton's start hangs.

    Args:
        server: Triton's process id.
        http_port: Triton opens it when all models are loaded, or have failed to.
    """

    server: int
    http_port: int
    _started: bool = False
    _looked_at: float | None = None
    _used_seconds: float = 0.0
    _idle_seconds: float = 0.0

    def hangs(self, now: float) -> bool:
        """One look: whether nothing has happened for `HANGING_SECONDS`; never once Triton has started.

        Of the time between two looks no more counts than should be there: this process may have stood still, too.

        Args:
            now: seconds of any clock that runs steadily.
        """
        if self._started or self._is_open():
            self._started = True
            return False
        used = sum(_processor_seconds(pid) for pid in (self.server, *_children(self.server)))
        if self._looked_at is not None:
            passed = min(now - self._looked_at, 2 * WATCH_INTERVAL_SECONDS)
            # A stub that ended takes its time along; that is something happening, too.
            idle = abs(used - self._used_seconds) < NEXT_TO_NOTHING * passed
            self._idle_seconds = self._idle_seconds + passed if idle else 0.0
        self._looked_at, self._used_seconds = now, used
        return self._idle_seconds >= HANGING_SECONDS

    def _is_open(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.http_port), timeout=1):
                return True
        except OSError:
            return False


def _processor_seconds(pid: int) -> float:
    """What a process has used so far, in its own code and in the kernel; 0 if there is none."""
    try:
        user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except (OSError, ValueError):
        return 0.0
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> set[int]:
    """The process ids of a process's children, dead ones included until they are reaped."""
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found.update(int(word) for word in path.read_text().split())
        except OSError:
            continue
    return found


def _is_zombie(pid: int) -> bool:
    try:
        # "pid (name) state ...", and the name may hold anything.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _end_children() -> None:
    """Ends the stubs that a killed Triton left to us: waits until they noticed, and then kills them."""
    deadline = time.monotonic() + 2.0
    while children := _children(os.getpid()):
        for pid in children:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.02)


def _log(text: str) -> None:
    print(f"local.triton: {text}", file=sys.stderr, flush=True)


def run(settings: Settings, runtime: Runtime) -> int:
    """Runs Triton until it ends or a signal ends it; returns the exit code."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    settings.models.repository.mkdir(parents=True, exist_ok=True)
    with hold_lock(settings.folder / "lock") as lock:
        server = lay_out(runtime, settings.folder)
        remove_shared_memory(settings.shared_memory_prefix)
        return _run_server(settings, runtime, server, lock)


class _StopAsked(Exception):
    """SIGTERM or Ctrl-C came."""


def _ask_to_stop(_number: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # once is enough
    raise _StopAsked


def _run_server(settings: Settings, runtime: Runtime, server: Path, lock: IO[str]) -> int:
    """Starts Triton, watches it, and leaves nothing behind."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    parent = os.getpid()

    def before_exec() -> None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os.kill(os.getpid(), signal.SIGKILL)

    # A process group of its own: Ctrl-C goes to this process, which stops Triton in order. The lock goes along.
    process = subprocess.Popen(
        command(settings, server),
        env=child_environment(settings, runtime, os.environ),
        cwd=settings.folder,
        stdin=subprocess.DEVNULL,
        pass_fds=[lock.fileno()],
        preexec_fn=before_exec,  # noqa: PLW1509 - there are no threads here
        process_group=0,
    )
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _ask_to_stop)
        _watch(
            process,
            StubGuard(process.pid, settings.models.repository),
            StartGuard(process.pid, settings.http_port),
        )
        _log(f"Triton ended with {process.returncode}")
        code = process.returncode if process.returncode > 0 else 1
    except _StopAsked:
        _stop(process)
        code = 0
    _end_children()
    remove_shared_memory(settings.shared_memory_prefix)
    return code


def _watch(process: subprocess.Popen[bytes], stubs: StubGuard, start: StartGuard) -> None:
    """Returns when Triton ended, or was killed because of a dead stub or a start that hangs."""
    while process.poll() is None:
        problem = None
        if (model := stubs.look()) is not None:
            problem = f"the process of model {model} died"
        elif start.hangs(time.monotonic()):
            problem = f"its start hangs: for {HANGING_SECONDS:g} s nothing has been loaded"
        if problem is not None:
            _log(f"{problem}, so Triton is started anew")
            process.kill()
            process.wait()
            return
        stubs.wait(WATCH_INTERVAL_SECONDS)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends Triton: in order, or else by force."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(KILL_AFTER_SECONDS)
    except subprocess.TimeoutExpired:
        _log(f"Triton did not end within {KILL_AFTER_SECONDS:g} s, killing it")
        process.kill()
        process.wait()


def main() -> int:
    """The command; returns its exit code."""
    try:
        return run(Settings.from_environment(os.environ), Runtime.find())
    except SetupError as error:
        _log(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
