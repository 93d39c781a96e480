"""How soon a stream says something: time to the first finding, and to the decision, of a picture of 1920 x 1080.

    make run                                              # in another terminal, with PENTIMENTO_RATE_LIMIT_BATCH=0
    .venv/bin/python benchmarks/first_finding.py [--runs 20] [--pictures 4]

Each run sends a file that nobody has sent before. Times count from the first byte of the request; reading the JSON and
its base64 is part of them. The target is a first finding within 200 ms at the median, on two cores with nothing else
to do. With more than one picture a stream, the times are those of its first finding and of its last decision.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import time

import httpx
import numpy as np
import skimage.data
from PIL import Image

SIZE = (1920, 1080)
WARM_UP = 3
TARGET_SECONDS = 0.2


def picture() -> bytes:
    """A photograph of 1920 x 1080 pixels, as JPEG; enlarged, with the noise of a sensor."""
    enlarged = Image.fromarray(skimage.data.coffee()).resize(SIZE, Image.Resampling.LANCZOS)
    noise = np.random.default_rng(0).normal(0, 3, (SIZE[1], SIZE[0], 3))
    buffer = io.BytesIO()
    Image.fromarray((np.asarray(enlarged) + noise).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def measure(client: httpx.Client, url: str, content: bytes, pictures: int) -> tuple[float, float]:
    """Seconds until the first finding, and until the last decision."""
    sources = [{"content": base64.b64encode(content + os.urandom(8)).decode()} for _ in range(pictures)]
    body = json.dumps({"images": sources}).encode()
    first = last = 0.0
    started = time.perf_counter()
    headers = {"content-type": "application/json"}
    with client.stream("POST", f"{url}/v1/images:streamAnalyze", content=body, headers=headers) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            now = time.perf_counter() - started
            if '"finding":' in line and not first:
                first = now
            if '"analysis":' in line:
                last = now
            if '"error":' in line:
                raise SystemExit(line)
    if not first or not last:
        raise SystemExit("the stream was cut off")
    return first, last


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=int(os.environ.get("PENTIMENTO_PORT", "8080")))
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=1)
    arguments = parser.parse_args()
    content = picture()
    url = f"http://127.0.0.1:{arguments.port}"
    with httpx.Client(timeout=120) as client:
        measured = [measure(client, url, content, arguments.pictures) for _ in range(WARM_UP + arguments.runs)]
    seconds = np.array(measured[WARM_UP:])
    print(f"{len(content) / 1024:.0f} KiB, {arguments.pictures} a stream, {arguments.runs} streams")
    for name, column in (("first finding", seconds[:, 0]), ("decision", seconds[:, 1])):
        quantiles = np.percentile(column, [10, 50, 90]) * 1000
        print(f"{name:14s} p10 {quantiles[0]:6.0f}   p50 {quantiles[1]:6.0f}   p90 {quantiles[2]:6.0f} ms")
    met = np.median(seconds[:, 0]) <= TARGET_SECONDS
    print(f"first finding within {TARGET_SECONDS * 1000:.0f} ms at the median: {'met' if met else 'NOT met'}")


if __name__ == "__main__":
    main()
