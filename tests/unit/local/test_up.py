"""The order of the start, and what is refused before it."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading

import pytest

from local.manager import PartState
from local.parts import Part, PortUse
from local.settings import PORTS_IN_USE, LocalSettings
from local.up import UpError, bring_up, check_ports, last_lines, only_one, taken_ports


@pytest.fixture
def settings(monkeypatch, tmp_path):
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("PENTIMENTO_HOME", str(tmp_path))
    return LocalSettings.from_environment()


class FakeManager:
    """Starts parts by noting that it did; a part listed in `ending` has another process each time one looks."""

    def __init__(self, ending=()):
        self.started = []
        self.ending = ending
        self.looks = 0

    def start(self, name):
        self.started.append(name)

    def states(self):
        self.looks += 1
        return {name: PartState(self.looks if name in self.ending else 1, "RUNNING") for name in self.started}


def start_all(parts, manager, timeout_seconds=5.0):
    outcomes = {}
    bring_up(
        parts,
        manager,
        timeout_seconds=timeout_seconds,
        stop=threading.Event(),
        report=lambda outcome: outcomes.update({outcome.part.name: outcome.problem}),
    )
    return outcomes


def test_a_part_starts_when_those_before_it_are_ready():
    manager = FakeManager()
    asked = []

    def ready_at_the_third_look():
        asked.append(list(manager.started))
        return None if len(asked) == 3 else "not yet"

    parts = [
        Part("last", (), lambda: None, depends_on=("middle",)),
        Part("middle", (), lambda: None, depends_on=("first",)),
        Part("first", (), ready_at_the_third_look),
    ]
    assert start_all(parts, manager) == {"first": None, "middle": None, "last": None}
    assert manager.started == ["first", "middle", "last"]
    assert asked == [["first"]] * 3


def test_a_part_that_does_not_come_up_is_reported_and_the_rest_starts():
    manager = FakeManager()
    parts = [Part("bad", (), lambda: "no answer"), Part("good", (), lambda: None, depends_on=("bad",))]
    outcomes = start_all(parts, manager, timeout_seconds=0.3)
    assert outcomes["good"] is None
    assert "no answer" in outcomes["bad"]


def test_a_part_that_keeps_ending_is_not_waited_for():
    manager = FakeManager(ending=("bad",))
    outcomes = start_all([Part("bad", (), lambda: "no answer")], manager, timeout_seconds=60)
    assert "keeps ending" in outcomes["bad"]


def test_ports_that_are_taken_are_named_with_a_way_out(settings):
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        use = PortUse("127.0.0.1", port, "the API")
        assert [(found.port, reason) for found, reason in taken_ports([use])] == [(port, "is taken by another program")]
        part = Part("envoy", (), lambda: None, ports=(use,))
        with pytest.raises(UpError, match=rf"port {port} \(the API\)(.|\n)*PENTIMENTO_PORT=\d+ make run"):
            check_ports(settings.model_copy(update={"port": min(port, 65535 - PORTS_IN_USE)}), [part])
    assert taken_ports([use]) == []


def test_a_second_run_in_the_same_folder_is_refused(settings):
    with only_one(settings), pytest.raises(UpError, match="already running at http://localhost:"), only_one(settings):
        pass
    with only_one(settings):  # and after it, there may be another
        pass


def test_the_end_of_a_log(tmp_path):
    path = tmp_path / "part.log"
    assert last_lines(path) == []
    path.write_text("".join(f"line {number}\n" for number in range(10_000)))
    assert last_lines(path, 2) == ["line 9998", "line 9999"]


IN_THE_MIDDLE_OF_WAITING = """
import os, signal, time
from local.up import _Signals
signals = _Signals()
with signals.stop._cond:  # as the main thread holds it for a moment whenever it begins to wait
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.2)
assert signals.stop.wait(30)
os.kill(os.getpid(), signal.SIGTERM)  # make sends it after Ctrl-C: the same wish
time.sleep(0.2)
assert not signals.insist.is_set()
os.kill(os.getpid(), signal.SIGINT)
assert signals.insist.wait(30)
"""


def test_a_signal_is_heard_at_any_moment():
    subprocess.run([sys.executable, "-c", IN_THE_MIDDLE_OF_WAITING], check=True, timeout=90)
