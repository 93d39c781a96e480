"""supervisord reads the configuration as it was meant."""

from __future__ import annotations

import shlex
import stat

import pytest
from supervisor.options import ServerOptions

from local.manager import LONGEST_SOCKET_PATH, render_configuration, socket_path
from local.parts import Part


def parsed(text, tmp_path):
    path = tmp_path / "supervisord.conf"
    path.write_text(text)
    options = ServerOptions()
    options.realize(["-c", str(path), "-n"])
    return options


def some_parts():
    return [
        Part("database", ("run it", "--folder", "/with space/100%"), lambda: None, tier=1, stop_seconds=3),
        Part("a", ("a",), lambda: None, tier=2, environment={"PENTIMENTO_LISTEN": "127.0.0.1:1"}),
        Part("b", ("b",), lambda: None, tier=2),
    ]


def test_supervisord_understands_odd_paths(tmp_path):
    folder = tmp_path / "a folder of 100 %"
    folder.mkdir()
    text = render_configuration(some_parts(), run_folder=folder, log_folder=folder, socket=folder / "s")
    options = parsed(text, tmp_path)

    groups = {group.name: group for group in options.process_group_configs}
    assert {name: group.priority for name, group in groups.items()} == {"tier1": 1, "tier2": 2}
    [database] = groups["tier1"].process_configs
    assert shlex.split(database.command)[-4:] == [
        str(folder / "database.started"), "run it", "--folder", "/with space/100%"
    ][-4:]  # fmt: skip
    assert database.stdout_logfile == str(folder / "database.log")
    assert database.stopwaitsecs == 3
    assert not database.autostart
    assert [process.name for process in groups["tier2"].process_configs] == ["a", "b"]
    assert groups["tier2"].process_configs[0].environment == {"PENTIMENTO_LISTEN": "127.0.0.1:1"}


def test_the_password_of_the_database_is_not_written_down(tmp_path):
    text = render_configuration(some_parts(), run_folder=tmp_path, log_folder=tmp_path, socket=tmp_path / "s")
    assert "DATABASE_URL" not in text


def test_a_socket_has_a_path_that_the_kernel_takes(tmp_path, monkeypatch):
    short = tmp_path / "run"
    assert len(str(short)) > LONGEST_SOCKET_PATH or socket_path(short) == short / "supervisor.sock"

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    long = tmp_path / ("x" * 120) / "run"
    path = socket_path(long)
    assert path.parent.parent == tmp_path
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path == socket_path(long) != socket_path(long / "other")


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_a_socket_is_not_put_where_others_can_go(tmp_path, monkeypatch, mode):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    long = tmp_path / ("x" * 120)
    socket_path(long).parent.chmod(mode)
    with pytest.raises(Exception, match="not a folder of this user alone"):
        socket_path(long)
