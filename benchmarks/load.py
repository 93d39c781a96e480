"""What happens when more is asked than can be done: statuses, times and memory under steady load.

    .venv/bin/python benchmarks/load.py [--clients 32] [--minutes 5]

Starts a mesh of its own, with the rate limits lifted. Each client sends one picture after another (512 px, 1080p and 12
megapixels, six in ten small; none twice) to POST /analyze/image, and waits as long as a refusal's Retry-After says.
Prints the statuses, p50 and p99 of answers and of refusals, and the memory of each part over time; the exit status is 1
if anything but 200, 429 and 503 with Retry-After came back.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx
import numpy as np
import skimage.data
from _meshes import COMMANDS, Mesh, own_mesh, resident_megabytes
from PIL import Image

SIZES = {"512": (512, 512), "1080p": (1920, 1080), "12 MP": (4000, 3000)}
SHARES = (0.6, 0.3, 0.1)
SAMPLE_SECONDS = 10.0


@dataclass
class Log:
    """What came back."""

    statuses: Counter[str] = field(default_factory=Counter)
    answered: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in SIZES})
    refused: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    memory: list[dict[str, float]] = field(default_factory=list)


def bodies() -> dict[str, bytes]:
    """A photograph at each size, as JPEG."""
    made = {}
    for name, size in SIZES.items():
        buffer = io.BytesIO()
        Image.fromarray(skimage.data.astronaut()).resize(size, Image.Resampling.BICUBIC).save(
            buffer, "JPEG", quality=90
        )
        made[name] = buffer.getvalue()
    return made


def unlike(content: bytes, number: int) -> bytes:
    """The same picture as another file, so that no stored answer is given: a comment in front."""
    comment = f"picture {number}".encode()
    return content[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + content[2:]


async def _client(number: int, url: str, until: float, pictures: dict[str, bytes], log: Log) -> None:
    rng = random.Random(number)
    async with httpx.AsyncClient(timeout=120) as http:
        while time.monotonic() < until:
            (name,) = rng.choices(list(SIZES), SHARES)
            content = unlike(pictures[name], rng.getrandbits(48))
            began = time.monotonic()
            try:
                answer = await http.post(f"{url}/analyze/image", files={"file": ("picture.jpg", content)})
            except httpx.HTTPError as error:
                log.statuses[type(error).__name__] += 1
                log.wrong.append(repr(error))
                continue
            seconds = time.monotonic() - began
            log.statuses[str(answer.status_code)] += 1
            if answer.status_code == 200:
                log.answered[name].append(seconds)
            elif answer.status_code in {429, 503} and "retry-after" in answer.headers:
                log.refused.append(seconds)
                await asyncio.sleep(float(answer.headers["retry-after"]) * rng.uniform(0.8, 1.2))
            else:
                log.wrong.append(f"{answer.status_code} {answer.text[:200]}")


async def _weigh(mesh: Mesh, until: float, log: Log) -> None:
    while time.monotonic() < until:
        log.memory.append(await asyncio.to_thread(resident_megabytes, mesh))
        await asyncio.sleep(SAMPLE_SECONDS)


async def load(mesh: Mesh, clients: int, seconds: float) -> Log:
    """Keeps so many clients busy for so long."""
    log, pictures, until = Log(), bodies(), time.monotonic() + seconds
    await asyncio.gather(
        _weigh(mesh, until, log), *(_client(number, mesh.url, until, pictures, log) for number in range(clients))
    )
    return log


def _percentiles(seconds: list[float]) -> str:
    if not seconds:
        return "none"
    p50, p99 = np.percentile(seconds, (50, 99))
    return f"{len(seconds)}, p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms"


def main() -> int:
    """Runs it; 1 if an answer was none of those that are allowed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=5.0)
    options = parser.parse_args()
    with own_mesh() as mesh:
        log = asyncio.run(load(mesh, options.clients, options.minutes * 60))
        healthy = mesh.health()
    print(f"{options.clients} clients, {options.minutes:g} minutes: {dict(log.statuses)}; health after it {healthy}")
    for name, seconds in log.answered.items():
        print(f"answered {name}: {_percentiles(seconds)}")
    print(f"refused: {_percentiles(log.refused)}")
    print("memory in MB, first to last sample (most):")
    for part in COMMANDS:
        over_time = [sample[part] for sample in log.memory]
        print(f"  {part}: {over_time[0]:.0f} to {over_time[-1]:.0f} ({max(over_time):.0f})")
    for line in sorted(set(log.wrong))[:20]:
        print(f"WRONG: {line}")
    return 1 if log.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
