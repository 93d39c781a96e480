"""models.lock is complete, and what is wrong in a lock file is refused with its place."""

import re
from pathlib import Path

import pytest

from triton_models._lock import LOCK_PATH, LockError, ModelsLock, Package, read_lock
from triton_models.layout import SOURCE_FOLDER

PACKAGE = """
[[package]]
name = "weights"
version = "1.0"
wheel = "weights-1.0-py3-none-any.whl"
sha256 = "{digest}"
size = 10
""".format(digest="a" * 64)

FILE = """
path = "1/model.onnx"
sha256 = "{digest}"
size = 10
""".format(digest="b" * 64)

MODEL = f"""
[[model]]
name = "net"
licence = "MIT"
[[model.file]]
{FILE}
"""


def parse(folder: Path, text: str, *, header: str = "lock_version = 1\n") -> ModelsLock:
    path = folder / "models.lock"
    path.write_text(header + text)
    return read_lock(path)


def test_every_model_of_the_lock_has_a_configuration_and_a_card():
    for entry in read_lock().entries:
        if entry.kind == "model":
            assert (SOURCE_FOLDER / entry.name / "config.pbtxt").is_file()
            card = (SOURCE_FOLDER / entry.name / "MODEL_CARD.md").read_text()
            assert entry.licence in card
            for heading in ("## Input", "## Output", "## Limits", "## Must not be used for"):
                assert heading in card, f"{entry.name}: {heading}"


def test_every_configured_model_is_in_the_lock():
    configured = {path.parent.name for path in SOURCE_FOLDER.glob("*/config.pbtxt")}
    assert configured == {entry.name for entry in read_lock().entries if entry.kind == "model"}


def test_sources_are_public():
    addresses = re.findall(r"\w+://\S+", LOCK_PATH.read_text())
    assert all(address.startswith("https://") for address in addresses)
    lock = (SOURCE_FOLDER / "runtime" / "uv.lock").read_text()
    hosts = set(re.findall(r"\w+://([^/\"]+)", lock))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}


def test_a_wheel_says_what_it_is_for():
    wheel = Package("mediapipe", "1", "mediapipe-1-cp311-cp311-manylinux_2_28_x86_64.whl", "", 1)
    assert (wheel.python_version, wheel.platform) == ("3.11", "manylinux_2_28_x86_64")
    pure = Package("weights", "1", "weights-1-py3-none-any.whl", "", 1)
    assert (pure.python_version, pure.platform) == (None, None)


def test_each_kind_of_source_is_read(tmp_path):
    for source in (
        'package = "weights"\nmember = "weights/net.onnx"',
        'url = "https://a.example/net"',
        "committed = true",
    ):
        (entry,) = parse(tmp_path, PACKAGE + MODEL + source).entries
        (file,) = entry.files
        assert [bool(file.package), bool(file.url), file.committed].count(True) == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (MODEL, "name one source"),
        (MODEL + 'url = "https://a.example/net"\ncommitted = true', "name one source"),
        (MODEL + 'url = "http://a.example/net"', "must be https"),
        (MODEL + 'package = "weights"\nmember = "x"', "is not listed"),
        (PACKAGE + MODEL + 'package = "weights"', "member must be a text"),
        (MODEL + "committed = false", "committed is either"),
        (MODEL + "committed = true\ncolour = 1", "unknown key 'colour'"),
        ((MODEL + "committed = true").replace("1/model.onnx", "../model.onnx"), "must stay inside"),
        (PACKAGE + MODEL + 'package = "weights"\nmember = "x"\nextension = "../x"', "extension must stay inside"),
        (MODEL + 'committed = true\nextension = "x"', "unknown key 'extension'"),
        ((MODEL + "committed = true").replace("b" * 64, "b" * 63), "64 hexadecimal digits"),
        ((MODEL + "committed = true").replace("size = 10", "size = 0"), "positive number"),
        ((MODEL + "committed = true").replace('"net"', '"../net"'), "a name consists"),
        ((MODEL + "committed = true\n") * 2, "listed twice"),
        (PACKAGE.replace(".whl", ".zip"), "wheel's file name"),
        ("[[modle]]", "unknown table 'modle'"),
        ("[[", "models.lock"),
    ],
)
def test_what_is_wrong_is_refused(tmp_path, text, complaint):
    with pytest.raises(LockError, match=re.escape(complaint)):
        parse(tmp_path, text)


def test_another_version_of_the_format_is_refused(tmp_path):
    with pytest.raises(LockError, match="lock_version"):
        parse(tmp_path, "", header="lock_version = 2\n")
