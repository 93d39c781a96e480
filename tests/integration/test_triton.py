"""The real Triton with the real CPU backend: results, errors that stay with their request, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Timer

import numpy as np
import pytest
from small_networks import message
from triton_server import TritonServer, children
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from local.triton import HANGING_SECONDS, Runtime, Settings, SetupError, StartGuard, StubGuard, hold_lock
from triton_models._lock import read_lock

TRACES = 3072

LOOKUP_CONFIG = """
name: "lookup"
backend: "onnxruntime"
max_batch_size: 16
input [ { name: "index" data_type: TYPE_INT64 dims: [ -1 ] } ]
output [ { name: "value" data_type: TYPE_FP32 dims: [ -1 ] } ]
instance_group [ { count: 1 } ]
dynamic_batching { preferred_batch_size: [ 8 ] max_queue_delay_microseconds: 300000 }
"""


def lookup_graph() -> bytes:
    """`value = [10, 11, 12, 13][index]`: it fails for an index that is out of range, so for single requests."""

    def tensor(name: str, element_type: int) -> bytes:
        shape = message((1, message((2, "N"))), (1, message((2, "K"))))
        return message((1, name), (2, message((1, message((1, element_type), (2, shape))))))

    table = np.arange(10, 14, dtype=np.float32)
    graph = message(
        (1, message((1, "table"), (1, "index"), (2, "value"), (4, "Gather"))),
        (2, "lookup"),
        (5, message((1, table.size), (2, 1), (8, "table"), (9, table.tobytes()))),
        (11, tensor("index", 7)),
        (12, tensor("value", 1)),
    )
    return message((1, 8), (7, graph), (8, message((1, ""), (2, 13))))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> TritonServer:
    """A data folder with the shipped models, one that can fail on demand, and three that cannot be loaded."""
    home = tmp_path_factory.mktemp("home")
    server = TritonServer(home)
    server.fetch_models()
    repository = home / "models" / "repository"

    def add(name: str, config: str, content: bytes) -> None:
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(config.replace('"lookup"', f'"{name}"'))
        (repository / name / "1" / "model.onnx").write_bytes(content)

    add("lookup", LOOKUP_CONFIG, lookup_graph())
    add("damaged", LOOKUP_CONFIG, lookup_graph()[:40])
    add("misnamed", LOOKUP_CONFIG.replace('"index"', '"position"'), lookup_graph())
    add("mistyped", LOOKUP_CONFIG.replace("TYPE_INT64", "TYPE_INT32"), lookup_graph())
    return server


@pytest.fixture(scope="module")
def server(prepared) -> Iterator[TritonServer]:
    prepared.start()
    yield prepared
    assert prepared.stop() == 0


@pytest.fixture
def client(server) -> Iterator[triton.InferenceServerClient]:
    with server.client() as client:
        yield client


def ask(client, model: str, name: str, array: np.ndarray, output: str, **options) -> np.ndarray:
    tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    wanted = [triton.InferRequestedOutput(output)]
    return client.infer(model, [tensor], outputs=wanted, client_timeout=30, **options).as_numpy(output)


def seen(count: int) -> np.ndarray:
    """What CLIP might see of so many faces."""
    return np.random.default_rng(7).normal(0, 0.3, (count, TRACES)).astype(np.float32)


def lookups(client, indices: list[int]) -> list[np.ndarray | InferenceServerException]:
    """Sends one request for each index at the same moment, so that they meet in a batch."""

    def one(index: int) -> np.ndarray | InferenceServerException:
        try:
            return ask(client, "lookup", "index", np.array([[index]], dtype=np.int64), "value")
        except InferenceServerException as error:
            return error

    with ThreadPoolExecutor(len(indices)) as pool:
        return list(pool.map(one, indices))


def runs(client) -> tuple[int, int]:
    """How many requests `lookup` has answered, and in how many runs."""
    (model,) = client.get_inference_statistics("lookup", as_json=True)["model_stats"]
    return int(model.get("inference_count", 0)), int(model.get("execution_count", 0))


@pytest.mark.integration
@pytest.mark.parametrize(("model", "classes"), [("age", 81), ("gender", 2)])
def test_a_batch_gives_what_single_requests_give(client, model, classes):
    batch = seen(5)
    together = ask(client, model, "traces", batch, "probabilities")
    assert together.shape == (5, classes)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-5)
    alone = [ask(client, model, "traces", batch[i : i + 1], "probabilities") for i in range(5)]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)
    # The inputs differ, so must the results: a backend that returns the first row for all would pass until here.
    assert np.ptp(together, axis=0).max() > 1e-4


@pytest.mark.integration
def test_requests_of_different_sizes_at_the_same_time_get_their_own_results(client):
    batch = seen(12)
    bounds = [(0, 1), (1, 4), (4, 6), (6, 12)]
    together = ask(client, "age", "traces", batch, "probabilities")
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda b: ask(client, "age", "traces", batch[b[0] : b[1]], "probabilities"), bounds))
    np.testing.assert_allclose(np.concatenate(parts), together, atol=1e-5)


@pytest.mark.integration
def test_requests_that_meet_share_a_run(client):
    answered, executed = runs(client)
    values = lookups(client, [0, 1, 2, 3, 0, 1, 2, 3])
    assert [float(value[0, 0]) for value in values] == [10, 11, 12, 13, 10, 11, 12, 13]
    answered_now, executed_now = runs(client)
    assert answered_now - answered == 8
    assert executed_now - executed < 8


@pytest.mark.integration
def test_one_bad_request_does_not_fail_its_neighbours(client):
    values = lookups(client, [0, 1, 99, 3, 0, 1, 2, 3])
    bad = values.pop(2)
    assert isinstance(bad, InferenceServerException)
    assert bad.status() == "StatusCode.INTERNAL"
    assert "out of data bounds" in bad.message()
    assert [float(value[0, 0]) for value in values] == [10, 11, 13, 10, 11, 12, 13]


@pytest.mark.integration
def test_shapes_that_do_not_fit_together_run_apart(client):
    def one(width: int) -> np.ndarray:
        return ask(client, "lookup", "index", np.full((1, width), width, dtype=np.int64), "value")

    with ThreadPoolExecutor(6) as pool:
        values = list(pool.map(one, [1, 2, 3, 1, 2, 3]))
    for width, value in zip([1, 2, 3, 1, 2, 3], values, strict=True):
        np.testing.assert_array_equal(value, np.full((1, width), 10 + width, dtype=np.float32))


@pytest.mark.integration
@pytest.mark.parametrize(
    ("question", "complaint"),
    [
        (("nobody", "traces", seen(1), "probabilities"), ("NOT_FOUND", "unknown model")),
        (("age", "traces", seen(1)[:, :32], "probabilities"), ("INVALID_ARGUMENT", "shape")),
        (("age", "traces", seen(1)[None], "probabilities"), ("INVALID_ARGUMENT", "shape")),
        (("age", "traces", seen(33), "probabilities"), ("INVALID_ARGUMENT", "batch")),
        (("age", "traces", seen(1).astype(np.float64), "probabilities"), ("INVALID_ARGUMENT", "FP64")),
        (("age", "pictures", seen(1), "probabilities"), ("INVALID_ARGUMENT", "pictures")),
        (("age", "traces", seen(1), "certainties"), ("INVALID_ARGUMENT", "certainties")),
    ],
)
def test_a_request_that_does_not_fit_is_refused(client, question, complaint):
    model, name, array, output = question
    status, text = complaint
    with pytest.raises(InferenceServerException) as caught:
        ask(client, model, name, array, output)
    assert caught.value.status() == f"StatusCode.{status}"
    assert text in caught.value.message()


@pytest.mark.integration
@pytest.mark.parametrize(
    ("model", "reason"),
    [("damaged", "cannot load model.onnx"), ("misnamed", "'position'"), ("mistyped", "TYPE_INT32")],
)
def test_a_model_that_cannot_be_loaded_says_why_and_stops_nobody(client, model, reason):
    index = {entry.name: entry for entry in client.get_model_repository_index().models}
    assert index[model].state == "UNAVAILABLE"
    assert reason in index[model].reason
    assert client.is_server_ready()
    assert client.is_model_ready("age")


@pytest.mark.integration
def test_triton_says_which_weights_answer(client):
    digests = {entry.name: entry.files[0].sha256 for entry in read_lock().entries if entry.kind == "model"}
    for model, digest in digests.items():
        assert client.get_model_config(model).config.parameters["sha256.1"].string_value == digest


@pytest.mark.integration
def test_one_data_folder_has_one_triton(server, monkeypatch):
    monkeypatch.setattr("local.triton.LOCK_TIMEOUT_SECONDS", 0.1)
    with pytest.raises(SetupError, match="another Triton"):
        hold_lock(server.home / "triton" / "lock")


@pytest.fixture
def own_server(prepared, tmp_path) -> Iterator[TritonServer]:
    """A Triton that the test may kill."""
    home = tmp_path / "home"
    (home / "models").mkdir(parents=True)
    (home / "models" / "repository").symlink_to(prepared.home / "models" / "repository")
    own = TritonServer(home)
    own.start()
    yield own
    if own.process.poll() is None:
        own.stop()


def works(server: TritonServer) -> bool:
    with server.client() as client:
        return ask(client, "age", "traces", seen(1), "probabilities").shape == (1, 81)


@pytest.mark.integration
def test_sigterm_ends_it_in_a_few_seconds_and_leaves_nothing(own_server):
    processes = {own_server.pid} | children(own_server.pid)
    assert len(processes) > 2
    start = time.monotonic()
    assert own_server.stop() == 0
    assert time.monotonic() - start < 10
    assert not [pid for pid in processes if alive(pid)]
    assert own_server.shared_memory == []


@pytest.mark.integration
@pytest.mark.parametrize("victim", ["triton", "a stub"])
def test_what_is_killed_takes_the_rest_along_and_can_be_started_again(own_server, victim):
    stubs = children(own_server.pid)
    os.kill(own_server.pid if victim == "triton" else max(stubs), signal.SIGKILL)
    assert own_server.process.wait(10) > 0
    assert not [pid for pid in stubs if alive(pid)]
    assert own_server.shared_memory == []
    own_server.start()
    assert works(own_server)


@pytest.mark.integration
def test_a_start_that_hangs_is_ended(prepared, tmp_path):
    home = tmp_path / "home"
    (home / "models").mkdir(parents=True)
    (home / "models" / "repository").symlink_to(prepared.home / "models" / "repository")
    own = TritonServer(home)
    impatient = "import sys, local.triton as it; it.HANGING_SECONDS = 6.0; sys.exit(it.main())"
    with (home / "log").open("w") as log:
        own.process = subprocess.Popen([sys.executable, "-c", impatient], env=own.environment, stdout=log, stderr=log)
    while not (triton_itself := children(own.process.pid)) or not (stubs := children(min(triton_itself))):
        assert own.process.poll() is None, (home / "log").read_text()
    os.kill(min(stubs), signal.SIGSTOP)
    assert own.process.wait(90) > 0
    assert "its start hangs" in (home / "log").read_text()
    assert not [pid for pid in triton_itself | stubs if alive(pid)]
    own.start()
    assert works(own)
    own.stop()


@pytest.mark.integration
def test_a_start_right_after_the_runner_was_killed_waits_for_the_old_triton_to_be_gone(own_server):
    old = own_server.pid
    own_server.process.kill()
    own_server.process.wait(10)
    own_server.start()
    assert not alive(old)
    assert works(own_server)


def test_a_bad_setting_is_named():
    for value in ("0", "65536", "-1", "http", "80 80"):
        with pytest.raises(SetupError, match="PENTIMENTO_TRITON_GRPC_PORT"):
            Settings.from_environment({"PENTIMENTO_TRITON_GRPC_PORT": value})


def test_without_its_environment_it_says_how_to_make_it(tmp_path):
    with pytest.raises(SetupError, match="uv sync --project"):
        Runtime.find(tmp_path / "runtime" / ".venv")


def test_the_guard_sees_a_dead_child_at_the_second_look(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", "input()", str(tmp_path / "age" / "1")], stdin=subprocess.PIPE
    ) as child:
        guard = StubGuard(os.getpid(), tmp_path)
        time.sleep(0.1)
        assert guard.look() is None
        os.kill(child.pid, signal.SIGKILL)
        time.sleep(0.2)
        assert [guard.look(), guard.look()] == [None, "age"]


def test_the_guard_waits_no_longer_than_until_a_child_dies(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", "input()", str(tmp_path / "age" / "1")], stdin=subprocess.PIPE
    ) as child:
        guard = StubGuard(os.getpid(), tmp_path)
        time.sleep(0.1)
        guard.look()
        Timer(0.5, child.kill).start()
        start = time.monotonic()
        guard.wait(110)  # longer than a test may take
        assert time.monotonic() - start >= 0.4, "it does wait"
        assert [guard.look(), guard.look()] == [None, "age"]


def test_the_guard_waits_as_long_as_told_where_there_is_no_child(tmp_path):
    guard = StubGuard(os.getpid(), tmp_path)
    start = time.monotonic()
    guard.wait(0.3)
    assert time.monotonic() - start >= 0.3


LOOK_SECONDS = 2.0


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def look_for(guard: StartGuard, seconds: float, *, since: float = 0.0) -> list[bool]:
    return [guard.hangs(since + LOOK_SECONDS * n) for n in range(round(seconds / LOOK_SECONDS) + 1)]


@pytest.fixture
def sleeper() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        time.sleep(0.3)
        yield child.pid
        child.kill()


def test_a_start_in_which_nothing_happens_hangs(sleeper, closed_port):
    looks = look_for(StartGuard(sleeper, closed_port), HANGING_SECONDS)
    assert looks == [False] * (len(looks) - 1) + [True]


def test_that_this_process_stood_still_does_not_count(sleeper, closed_port):
    guard = StartGuard(sleeper, closed_port)
    assert not guard.hangs(0.0)
    assert not guard.hangs(10 * HANGING_SECONDS)


def test_a_start_that_computes_does_not_hang(closed_port):
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
        try:
            guard = StartGuard(child.pid, closed_port)
            # By a clock that runs 20 times as fast, a busy process uses a twentieth of a processor: enough.
            for n in range(round(HANGING_SECONDS / LOOK_SECONDS) + 2):
                assert not guard.hangs(LOOK_SECONDS * n)
                time.sleep(LOOK_SECONDS / 20)
        finally:
            child.kill()


def test_what_has_started_does_not_hang_any_more(sleeper, closed_port):
    guard = StartGuard(sleeper, closed_port)
    look_for(guard, HANGING_SECONDS - LOOK_SECONDS)
    with socket.create_server(("127.0.0.1", closed_port)):
        assert not guard.hangs(HANGING_SECONDS)
    assert not any(look_for(guard, 2 * HANGING_SECONDS, since=2 * HANGING_SECONDS))
