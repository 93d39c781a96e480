"""Throughput of batches, and what they lose when parts are killed under them.

    python benchmarks/batches.py http://localhost:8080 [--batches 4] [--images 25] [--side 512]

Sends batches of pictures of noise (the costliest there are for detectors that look for structure), all at once, each
with `Prefer: respond-async`, and follows them to their end. Lift the rate limits before (PENTIMENTO_RATE_LIMIT_BATCH=0
and PENTIMENTO_RATE_LIMIT_OTHER=0). Prints pictures a second, how long batches took, and whether every count is right;
the exit status is 1 if one is not. What is killed meanwhile is up to you.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import io
import statistics
import sys
import time
import uuid

import httpx
import numpy as np
from PIL import Image

POLL_SECONDS = 0.25
ENDED_SECONDS = 3600.0


def noise(seed: int, side: int) -> bytes:
    """A JPEG that nobody has sent before."""
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def send(url: str, names: list[str], side: int, seed: int) -> str:
    """Sends a batch, as often as it is refused for the moment; returns its id."""
    files = [("files", (name, noise(seed + number, side))) for number, name in enumerate(names)]
    # The same request may come twice where its answer was lost.
    headers = {"prefer": "respond-async", "idempotency-key": uuid.uuid4().hex}
    while True:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.post(f"{url}/analyze/batch", files=files, headers=headers, timeout=120)
            if answer.status_code == 202:
                return str(answer.json()["data"]["batch_id"])
            if answer.status_code not in {429, 503}:
                raise SystemExit(f"refused: {answer.status_code} {answer.text}")
            time.sleep(float(answer.headers.get("retry-after", "1")))


def follow(url: str, batch_id: str) -> dict:
    """The batch as it is told of at its end."""
    deadline = time.monotonic() + ENDED_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError, ValueError):
            seen = httpx.get(f"{url}/batch/{batch_id}/progress", timeout=30).json()
            if seen.get("status", "processing") != "processing":
                return dict(seen)
        time.sleep(POLL_SECONDS)
    raise SystemExit(f"batch {batch_id} does not end")


def one(url: str, images: int, side: int, seed: int) -> tuple[float, bool, str]:
    """Sends and follows a batch: seconds, whether the count is right, and a line about it."""
    names = [f"{seed}-{number}.jpg" for number in range(images)]
    began = time.monotonic()
    batch_id = send(url, names, side, seed)
    accepted = time.monotonic() - began
    ended = follow(url, batch_id)
    seconds = time.monotonic() - began
    result = ended["result"]
    right = ended["status"] == "completed" and [item["filename"] for item in result["results"]] == names
    partial = sum(any(gap["reason"] != "MODEL_NOT_INSTALLED" for gap in item["missing"]) for item in result["results"])
    line = (
        f"{batch_id}  {ended['status']:<11} accepted {accepted:5.2f} s  ended {seconds:7.2f} s"
        f"  processed {result['processed']:>3}  failed {result['failed']:>3}  partial {partial:>3}"
    )
    return seconds, right, line


def main() -> int:
    """Runs it; 0 if every count is right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--images", type=int, default=25)
    parser.add_argument("--side", type=int, default=512, help="of the pictures, in pixels")
    options = parser.parse_args()
    seeds = [time.time_ns() % 2**31 + 1000 * number for number in range(options.batches)]
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(options.batches) as threads:
        outcomes = list(threads.map(lambda seed: one(options.url, options.images, options.side, seed), seeds))
    seconds = time.monotonic() - began
    for _, _, line in outcomes:
        print(line)
    pictures = options.batches * options.images
    print(
        f"{pictures} pictures of {options.side} x {options.side} in {seconds:.1f} s: {pictures / seconds:.2f} a second;"
        f" a batch took {statistics.median(outcome[0] for outcome in outcomes):.1f} s (median)"
    )
    right = all(outcome[1] for outcome in outcomes)
    print("every count is right" if right else "A COUNT IS WRONG")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
