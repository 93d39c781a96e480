"""What is lost when parts die under load: a random one every 20 seconds.

    .venv/bin/python benchmarks/chaos.py [--minutes 10] [--every 20] [--database-away 30]

Starts a mesh of its own. Batches of a forgery, its original and a portrait are sent one after another, and single
pictures beside them, while parts are killed with SIGKILL. Every accepted batch has to end with all its pictures counted
once, and every answer has to be right (the forgery EDITED, the others not), marked as partial, or a clear error in the
documented shape. With `--database-away`, PostgreSQL is stopped at the end for so long and has to be missed clearly and
found again without a hand. The exit status is 1 if anything else happened.
"""

from __future__ import annotations

import argparse
import io
import random
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx
import numpy as np
import skimage.data
from _meshes import COMMANDS, Mesh, own_mesh
from PIL import Image

NAMES = ("original.jpg", "forgery.jpg", "portrait.jpg")
ERROR_KEYS = {"success", "message", "error", "timestamp"}
RECOVERY_SECONDS = 120.0


@dataclass
class Log:
    """What happened."""

    events: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, event: str) -> None:
        """Counts an event."""
        with self.lock:
            self.events[event] += 1

    def complain(self, what: str) -> None:
        """Keeps what must not be."""
        with self.lock:
            self.wrong.append(what)


def jpeg(rgb: np.ndarray, seed: int) -> bytes:
    """A JPEG that nobody has sent before: its comment is the seed."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=92, comment=str(seed))
    return buffer.getvalue()


def pictures(seed: int) -> dict[str, bytes]:
    """An original, a copy-move forgery of it, and a portrait."""
    original = skimage.data.coffee()
    forged = original.copy()
    forged[250:350, 40:160] = forged[60:160, 300:420]
    return dict(zip(NAMES, (jpeg(rgb, seed) for rgb in (original, forged, skimage.data.astronaut())), strict=True))


def judge(name: str, data: dict, log: Log) -> None:
    """Holds a result against what the picture is."""
    partial = any(gap["reason"] != "MODEL_NOT_INSTALLED" for gap in data["missing"])
    decision = data["manipulation"]["decision"]
    expected = "EDITED" if name == "forgery.jpg" else "NO_EDIT_FOUND"
    if decision == expected:
        log.note("right, partial" if partial else "right")
    elif partial:
        log.note("partial, and says so")
    else:
        log.complain(f"{name} is {decision} and nothing is said to be missing")


def _send_batches(url: str, until: float, log: Log) -> None:
    seed = 0
    while time.monotonic() < until:
        seed += 1
        files = [("files", item) for item in pictures(seed).items()]
        headers = {"prefer": "respond-async", "idempotency-key": f"chaos-{seed}"}
        batch_id = _accepted(url, files, headers, until, log)
        if batch_id:
            _follow(url, batch_id, log)


def _accepted(url: str, files: list, headers: dict[str, str], until: float, log: Log) -> str:
    while time.monotonic() < until:
        try:
            answer = httpx.post(f"{url}/analyze/batch", files=files, headers=headers, timeout=60)
        except httpx.TransportError:
            log.note("batch: connection broke, sent again")
            time.sleep(0.5)
            continue
        if answer.status_code == 202:
            log.note("batch accepted")
            return str(answer.json()["data"]["batch_id"])
        _clear_error("batch", answer, log)
        time.sleep(float(answer.headers.get("retry-after", "1")))
    return ""


def _follow(url: str, batch_id: str, log: Log) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        time.sleep(0.5)
        try:
            seen = httpx.get(f"{url}/batch/{batch_id}/progress", timeout=30)
        except httpx.TransportError:
            continue
        if seen.status_code != 200:
            _clear_error("progress", seen, log)
            continue
        body = seen.json()
        if body["status"] == "processing":
            continue
        result = body.get("result", {})
        if body["status"] != "completed" or [item["filename"] for item in result["results"]] != list(NAMES):
            log.complain(f"batch {batch_id} ended as {body['status']} with {len(result.get('results', []))} results")
            return
        log.note("batch finished")
        for item in result["results"]:
            judge(item["filename"], item, log)
        return
    log.complain(f"batch {batch_id} was accepted and did not end")


def _send_singles(url: str, until: float, seed: int, log: Log) -> None:
    rng = random.Random(seed)
    while time.monotonic() < until:
        name = rng.choice(NAMES)
        content = pictures(rng.getrandbits(40))[name]
        try:
            answer = httpx.post(f"{url}/analyze/image", files={"file": (name, content)}, timeout=60)
        except httpx.TransportError:
            log.note("single: connection broke")
            time.sleep(0.5)
            continue
        if answer.status_code == 200:
            judge(name, answer.json()["data"], log)
        else:
            _clear_error("single", answer, log)
            time.sleep(float(answer.headers.get("retry-after", "1")))


def _clear_error(what: str, answer: httpx.Response, log: Log) -> None:
    try:
        shaped = answer.json().keys() >= ERROR_KEYS
    except ValueError:
        shaped = False
    if shaped and answer.status_code in {429, 503, 504}:
        log.note(f"{what}: {answer.status_code}")
    else:
        log.complain(f"{what}: {answer.status_code} {answer.text[:160]}")


def _kill_parts(mesh: Mesh, until: float, every: float, log: Log) -> None:
    rng = random.Random(20)
    while time.monotonic() + every < until:
        time.sleep(every)
        part = rng.choice(list(COMMANDS))
        if mesh.pids(part):
            mesh.kill(part)
            log.note(f"killed {part}")
        else:
            log.note(f"{part} was down already")


def database_away(mesh: Mesh, seconds: float, log: Log) -> None:
    """Freezes PostgreSQL: single pictures are answered, what needs it says so, and it is found again."""
    with mesh.frozen("postgres"):
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            name = "forgery.jpg"
            content = pictures(random.getrandbits(40))[name]
            answer = httpx.post(f"{mesh.url}/analyze/image", files={"file": (name, content)}, timeout=60)
            if answer.status_code == 200:
                gaps = {gap["part"] for gap in answer.json()["data"]["missing"]}
                log.note(f"database away: answered, {'said so' if 'database' in gaps else 'not said'}")
                judge(name, answer.json()["data"], log)
            else:
                _clear_error("database away", answer, log)
            listed = httpx.get(f"{mesh.url}/v1/analyses", timeout=60)
            if listed.status_code == 200:
                log.complain("a list came from a database that is away")
            else:
                log.note(f"database away: list {listed.status_code}")
    log.note(f"database back: healthy after {mesh.wait_until_healthy(RECOVERY_SECONDS):.0f} s")
    if httpx.get(f"{mesh.url}/v1/analyses", timeout=60).status_code != 200:
        log.complain("the database is back and lists are not")


def main() -> int:
    """Runs it; 1 if something was lost, wrong or unclear."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between two kills")
    parser.add_argument("--singles", type=int, default=2, help="clients that send single pictures")
    parser.add_argument("--database-away", type=float, default=0.0, help="seconds without a database, at the end")
    options = parser.parse_args()
    log = Log()
    with own_mesh() as mesh:
        until = time.monotonic() + options.minutes * 60
        threads = [
            threading.Thread(target=_send_batches, args=(mesh.url, until, log)),
            *(threading.Thread(target=_send_singles, args=(mesh.url, until, n, log)) for n in range(options.singles)),
            threading.Thread(target=_kill_parts, args=(mesh, until, options.every, log)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(f"healthy again {mesh.wait_until_healthy(RECOVERY_SECONDS):.0f} s after the last kill's end")
        if options.database_away:
            database_away(mesh, options.database_away, log)
    for event, count in sorted(log.events.items()):
        print(f"{count:>5}  {event}")
    for line in log.wrong[:40]:
        print(f"WRONG: {line}")
    return 1 if log.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
