"""Batches, whatever dies: nothing is lost, nothing counts twice, and everybody is told."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import os
import re
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import jpeg
from mesh import Mesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

ROOT = Path(__file__).resolve().parents[2]
KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
UNLIMITED = {f"PENTIMENTO_RATE_LIMIT_{name}": "0" for name in ("IMAGE", "BATCH", "REPORT", "ANALYSIS", "OTHER")}
ENDED_SECONDS = 240.0


@pytest.fixture(scope="module")
def batch_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    running = Mesh(
        tmp_path_factory.mktemp("batches"),
        PENTIMENTO_FETCH_ALLOW_LOOPBACK="true",
        PENTIMENTO_WEBHOOK_SECRET=SECRET,
        **UNLIMITED,
    )
    running.start()
    yield running
    running.stop()


def noise(seed: int, side: int = 320) -> bytes:
    """A picture that no other test sends, and that takes a while."""
    rng = np.random.default_rng(seed)
    return jpeg(rng.integers(0, 255, (side, side, 3), dtype=np.uint8), quality=85)


def pictures(count: int, side: int = 320) -> tuple[str, list[tuple[str, tuple[str, bytes]]]]:
    """Files of a form, and how all of their names begin."""
    prefix = f"{uuid.uuid4().hex}-"
    seed = int.from_bytes(os.urandom(4), "big")
    return prefix, [("files", (f"{prefix}{number:02d}.jpg", noise(seed + number, side))) for number in range(count)]


def start(mesh: Mesh, files, **headers: str) -> str:
    answer = httpx.post(
        f"{mesh.url}/analyze/batch", files=files, headers={"prefer": "respond-async", **headers}, timeout=60
    )
    assert answer.status_code == 202, answer.text
    return answer.json()["data"]["batch_id"]


def progress(mesh: Mesh, batch_id: str) -> dict:
    """What is told of a batch, as soon as there is somebody to tell it."""
    deadline = time.monotonic() + 90
    while True:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.get(f"{mesh.url}/batch/{batch_id}/progress", timeout=20)
            if answer.status_code == 200:
                return answer.json()
            assert answer.status_code == 503, answer.text
        assert time.monotonic() < deadline, "nobody tells of the batch any more"
        time.sleep(0.2)


def wait_for_end(mesh: Mesh, batch_id: str) -> dict:
    deadline = time.monotonic() + ENDED_SECONDS
    while (seen := progress(mesh, batch_id))["status"] == "processing":
        assert time.monotonic() < deadline, f"does not end: {seen}"
        time.sleep(0.2)
    return seen


def kept_analyses(mesh: Mesh, prefix: str) -> list[dict]:
    answer = httpx.get(f"{mesh.url}/v1/analyses", params={"filename_prefix": prefix, "page_size": 100}, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()["analyses"]


@pytest.mark.parametrize("part", ["worker", "orchestrator", "triton", "postgres"])
def test_a_part_killed_in_mid_batch_loses_nothing_and_counts_nothing_twice(batch_mesh, part):
    batch_mesh.wait_until_healthy(120)
    prefix, files = pictures(10)
    batch_id = start(batch_mesh, files)
    currents = []
    while not currents or currents[-1] < 2:
        seen = progress(batch_mesh, batch_id)
        currents.append(seen["progress"]["current"])
    assert seen["status"] == "processing", "too fast to be killed in between: send more"
    batch_mesh.kill(part)
    ended = wait_for_end(batch_mesh, batch_id)
    assert ended["status"] == "completed"
    result = ended["result"]
    assert (result["total_images"], result["processed"], result["failed"]) == (10, 10, 0), result["errors"]
    names = [item["filename"] for item in result["results"]]
    assert names == [name for _, (name, _) in files]
    # Each analysis was kept once, though some may have been made twice.
    kept = kept_analyses(batch_mesh, prefix)
    assert sorted(analysis["filename"] for analysis in kept) == names
    assert {analysis["name"] for analysis in kept} == {f"analyses/{item['analysis_id']}" for item in result["results"]}
    batch_mesh.wait_until_healthy(120)


def test_a_worker_that_is_asked_to_end_gives_its_pictures_back(batch_mesh):
    batch_mesh.wait_until_healthy(120)
    _, files = pictures(6)
    batch_id = start(batch_mesh, files)
    while progress(batch_mesh, batch_id)["progress"]["current"] < 1:
        time.sleep(0.05)
    for pid in batch_mesh.pids("worker"):
        os.kill(pid, 15)
    result = wait_for_end(batch_mesh, batch_id)["result"]
    assert (result["processed"], result["failed"]) == (6, 0)
    batch_mesh.wait_until_healthy(120)


def test_fifty_files_are_all_kept_before_they_are_acknowledged(batch_mesh):
    prefix, files = pictures(50, side=96)
    batch_id = start(batch_mesh, files)
    folder = batch_mesh.home / "objects" / "uploads" / batch_id
    kept = {hashlib.sha256(path.read_bytes()).digest() for path in folder.iterdir()}
    assert kept == {hashlib.sha256(content).digest() for _, (_, content) in files}
    result = wait_for_end(batch_mesh, batch_id)["result"]
    assert (result["total_images"], result["processed"], result["failed"]) == (50, 50, 0)
    assert len(kept_analyses(batch_mesh, prefix)) == 50


def test_pictures_fail_one_by_one_with_their_reasons(batch_mesh, photograph):
    files = [
        ("files", ("good.jpg", photograph)),
        ("files", ("letter.jpg", b"a letter\n" * 100)),
        ("files", ("half.jpg", photograph[: len(photograph) // 2])),
        ("urls", (None, "http://169.254.169.254/meta.jpg")),
    ]
    answer = httpx.post(f"{batch_mesh.url}/analyze/batch", files=files, timeout=120)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["success"] is True
    result = body["data"]["result"]
    assert [item["filename"] for item in result["results"]] == ["good.jpg"]
    assert {error["filename"]: error["reason"] for error in result["errors"]} == {
        "letter.jpg": "UNSUPPORTED_FORMAT",
        "half.jpg": "DAMAGED_IMAGE",
        "meta.jpg": "ADDRESS_NOT_ALLOWED",
    }
    assert all(error["message"] for error in result["errors"])
    summary = result["summary"]
    assert (summary["processed"], summary["failed"], summary["success_rate"]) == (1, 3, 25)


@pytest.mark.parametrize(
    ("files", "status", "words"),
    [
        ([("files", (f"{number}.jpg", b"x")) for number in range(51)], 400, "at most 50|more than 50"),
        ([("files", ("large.jpg", b"\xff\xd8\xff".ljust(12_582_912, b"\0")))], 413, "12582912 bytes exceeds"),
        ([("comment", (None, "no file"))], 422, "No picture was sent"),
    ],
)
def test_what_cannot_be_a_batch_is_refused_and_nothing_kept(batch_mesh, files, status, words):
    before = {path.name for path in (batch_mesh.home / "objects" / "uploads").glob("*")}
    answer = httpx.post(f"{batch_mesh.url}/analyze/batch", files=files, timeout=60)
    assert answer.status_code == status, answer.text
    assert any(word in answer.json()["error"] for word in words.split("|"))
    assert {path.name for path in (batch_mesh.home / "objects" / "uploads").glob("*")} <= before


def test_a_stopped_batch_stays_stopped(batch_mesh):
    _, files = pictures(12)
    batch_id = start(batch_mesh, files)
    while progress(batch_mesh, batch_id)["progress"]["current"] < 1:
        time.sleep(0.05)
    answer = httpx.post(f"{batch_mesh.url}/v1/batches/{batch_id}:cancel", json={}, timeout=30)
    assert answer.json()["state"] == "BATCH_STATE_INTERRUPTED"
    seen = progress(batch_mesh, batch_id)
    assert seen["status"] == "interrupted"
    result = seen["result"]
    assert result["processed"] + result["failed"] == 12
    assert result["processed"] >= 1
    assert {error["reason"] for error in result["errors"]} == {"INTERRUPTED"}
    time.sleep(3)
    assert progress(batch_mesh, batch_id)["result"]["processed"] == result["processed"]
    # Stopping it again changes nothing, and the report tells of it.
    assert httpx.post(f"{batch_mesh.url}/v1/batches/{batch_id}:cancel", json={}, timeout=30).status_code == 200
    report = httpx.get(f"{batch_mesh.url}/report/csv/{batch_id}", timeout=30)
    assert "Status,interrupted" in report.text


def test_who_waits_for_a_stopped_batch_is_told(batch_mesh):
    _, files = pictures(12)
    answers = []
    waiting = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{batch_mesh.url}/analyze/batch", files=files, timeout=120))
    )
    waiting.start()
    batch = newest(batch_mesh, "BATCH_STATE_PROCESSING")
    httpx.post(f"{batch_mesh.url}/v1/{batch['name']}:cancel", json={}, timeout=30)
    waiting.join(60)
    assert answers[0].status_code == 499
    body = answers[0].json()
    assert (body["success"], body["message"]) == (False, "Processing interrupted")
    assert body["data"]["batch_id"] == batch["name"].removeprefix("batches/")


def newest(mesh: Mesh, state: str) -> dict:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        answer = httpx.get(f"{mesh.url}/v1/batches", params={"state": state, "page_size": 1}, timeout=30)
        if batches := answer.json()["batches"]:
            return batches[0]
        time.sleep(0.1)
    raise AssertionError(f"no batch is {state}")


def test_a_client_that_goes_away_takes_its_batch_along(batch_mesh):
    _, files = pictures(12)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{batch_mesh.url}/analyze/batch", files=files, timeout=httpx.Timeout(30, read=1.5))
    gone = {item[1][0] for item in files}
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        batch = httpx.get(f"{batch_mesh.url}/v1/batches", params={"page_size": 1}, timeout=30).json()["batches"][0]
        if batch["state"] != "BATCH_STATE_PROCESSING":
            break
        time.sleep(0.1)
    assert batch["current_filename"] in gone
    assert batch["state"] == "BATCH_STATE_INTERRUPTED"


def test_prefer_wait_waits_so_long_and_no_longer(batch_mesh):
    _, files = pictures(12)
    answer = httpx.post(
        f"{batch_mesh.url}/analyze/batch", files=files, headers={"prefer": "respond-async, wait=1"}, timeout=60
    )
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "respond-async, wait=1"
    assert answer.headers["location"] == f"/batch/{answer.json()['data']['batch_id']}/progress"
    assert wait_for_end(batch_mesh, answer.json()["data"]["batch_id"])["status"] == "completed"


def test_the_same_request_is_accepted_once(batch_mesh):
    _, files = pictures(2)
    key = uuid.uuid4().hex
    first = start(batch_mesh, files, **{"idempotency-key": key})
    assert start(batch_mesh, files, **{"idempotency-key": key}) == first
    answer = httpx.post(
        f"{batch_mesh.url}/analyze/batch", files=files[:1], headers={"idempotency-key": key}, timeout=60
    )
    assert answer.status_code == 400, answer.text
    assert wait_for_end(batch_mesh, first)["result"]["processed"] == 2


def test_progress_comes_as_events_and_ends_with_done(batch_mesh):
    _, files = pictures(4)
    batch_id = start(batch_mesh, files)
    events = []
    with httpx.stream("GET", f"{batch_mesh.url}/v1/batches/{batch_id}:watch", timeout=120) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        events += [json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:")]
    assert [event["done"] for event in events] == [False] * (len(events) - 1) + [True]
    counts = [event["batch"]["processed_count"] for event in events]
    assert counts == sorted(counts)
    assert counts[-1] == 4
    assert events[-1]["batch"]["summary"]["success_rate"] == 100


def test_a_deleted_batch_is_gone_with_all_that_belongs_to_it(batch_mesh):
    prefix, files = pictures(2)
    batch_id = start(batch_mesh, files)
    wait_for_end(batch_mesh, batch_id)
    folder = batch_mesh.home / "objects" / "uploads" / batch_id
    assert len(list(folder.iterdir())) == 2
    # One picture by its analysis, the rest with the batch.
    analysis = kept_analyses(batch_mesh, prefix)[0]["name"]
    assert httpx.delete(f"{batch_mesh.url}/v1/{analysis}", timeout=30).status_code == 200
    assert len(list(folder.iterdir())) == 1
    items = httpx.get(f"{batch_mesh.url}/v1/batches/{batch_id}", timeout=30).json()["items"]
    assert sorted(item["error_reason"] for item in items) == ["", "ANALYSIS_DELETED"]
    assert httpx.delete(f"{batch_mesh.url}/v1/batches/{batch_id}", timeout=30).status_code == 200
    assert not folder.exists()
    assert kept_analyses(batch_mesh, prefix) == []
    for path in (f"/batch/{batch_id}/progress", f"/report/csv/{batch_id}", f"/v1/batches/{batch_id}"):
        assert httpx.get(f"{batch_mesh.url}{path}", timeout=30).status_code == 404


class Receiver(http.server.ThreadingHTTPServer):
    """A client's server: confirms every second announcement."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []
        super().__init__(("127.0.0.1", 0), self._handler())

    def _handler(self):
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.received.append(({key.lower(): value for key, value in self.headers.items()}, body))
                self.send_response(500 if len(receiver.received) % 2 else 204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def create(mesh: Mesh, webhook_uri: str, picture: bytes) -> httpx.Response:
    return httpx.post(
        f"{mesh.url}/v1/batches",
        json={
            "images": [{"content": base64.b64encode(picture).decode(), "filename": "a.jpg"}],
            "webhook_uri": webhook_uri,
        },
        timeout=60,
    )


def test_the_end_is_announced_signed_until_it_is_confirmed(batch_mesh, photograph):
    receiver = Receiver()
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    try:
        batch = create(batch_mesh, f"http://127.0.0.1:{receiver.server_port}/hook", photograph).json()
        deadline = time.monotonic() + 90
        while len(receiver.received) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(3)
    finally:
        receiver.shutdown()
        receiver.server_close()
    assert len(receiver.received) == 2, "once refused, then confirmed"
    for headers, body in receiver.received:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{expected}"
        event = json.loads(body)
        assert event["type"] == "batch.completed"
        assert event["data"]["name"] == batch["name"]
        assert (event["data"]["processed_count"], event["data"]["summary"]["success_rate"]) == (1, 100)
    first, second = (headers for headers, _ in receiver.received)
    assert first["webhook-id"] == second["webhook-id"]


@pytest.mark.parametrize("uri", ["https://10.0.0.1/hook", "https://169.254.169.254/", "https://[fd00::1]/hook"])
def test_nothing_is_announced_to_private_addresses(batch_mesh, photograph, uri):
    answer = create(batch_mesh, uri, photograph)
    assert answer.status_code == 400
    assert "may not be fetched" in answer.json()["error"]


def test_the_commands_of_the_page_work(batch_mesh, tmp_path):
    page = (ROOT / "docs" / "batches.md").read_text(encoding="utf-8")
    commands = "".join(re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL))
    script = "set -eu -o pipefail\n" + commands.replace("http://localhost:8080", batch_mesh.url)
    script = script.replace("-o report.csv", f"-o {tmp_path / 'report.csv'}").replace(
        "curl -", "curl --fail-with-body -"
    )
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"message":"Batch analysis completed"' in done.stdout
    assert '"done":true' in done.stdout
    assert (tmp_path / "report.csv").read_text().startswith("BATCH DECISION STATISTICS")


def test_a_batch_whose_time_is_over_fails_and_what_is_done_stays(tmp_path_factory, photograph):
    mesh = Mesh(
        tmp_path_factory.mktemp("impatient"),
        PENTIMENTO_BATCH_TIMEOUT_SECONDS="4",
        PENTIMENTO_WORKER_CONCURRENCY="1",
        **UNLIMITED,
    )
    mesh.start()
    try:
        _, files = pictures(30)
        answer = httpx.post(f"{mesh.url}/analyze/batch", files=files, timeout=120)
        assert answer.status_code == 504, answer.text
        body = answer.json()
        assert body["message"] == "Processing timeout"
        seen = progress(mesh, body["data"]["batch_id"])
        assert seen["status"] == "failed"
        assert seen["error"] == "Processing timeout exceeded"
        result = seen["result"]
        assert 0 < result["processed"] < 30
        assert result["processed"] == len(result["results"])
        assert result["processed"] + result["failed"] == 30
        assert {error["reason"] for error in result["errors"]} == {"BATCH_TIMEOUT"}
        # Nothing of it is worked on any more.
        time.sleep(2)
        assert progress(mesh, body["data"]["batch_id"])["result"]["processed"] == result["processed"]
        # And this deployment has no secret.
        refused = create(mesh, "https://example.com/hook", photograph)
        assert refused.status_code == 403
        assert "no secret" in refused.json()["error"]
    finally:
        mesh.stop()
