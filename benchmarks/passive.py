"""How fast the passive detectors are: each alone, and all but copy-move together as the service runs them.

    .venv/bin/python benchmarks/passive.py [--runs 9] [--maps] [--with-copy-move]

The pictures are JPEG files as detectors have most work with: compressed twice, the second time at quality 95, with an
EXIF block and a thumbnail in it; 1920 x 1080 and 4000 x 3000 pixels. Each size is measured in a process of its own.

* *each*: one detector on a picture that was decoded just before, so whatever it needs it makes for itself.
* *together*: the service's own servicer, wired as in production, decoding included, on two threads.

Wall time is that of this machine as it is, and CPU time (of all threads) does not depend on what else runs here, but
for shared caches: the targets are 900 ms at 1080p, 2.5 s and 700 MB at 12 megapixels, on two cores with nothing else
to do. Where the machine is busy, CPU time over two is the least that the wall time could be.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import logging
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import skimage.data
import structlog
from pentimento.passive.v1 import passive_service_pb2 as pb
from PIL import Image

from services.common.images import decode_image
from services.passive.detectors import registry
from services.passive.main import wire
from services.passive.settings import PassiveSettings

SIZES: Final = {"1080p": (1920, 1080), "12 MP": (4000, 3000)}
TARGET_SECONDS: Final = {"1080p": 0.9, "12 MP": 2.5}
TARGET_MEGABYTES: Final = {"12 MP": 700}
LEFT_OUT: Final = "copy_move"


def picture(size: tuple[int, int]) -> bytes:
    """A photograph of this size as a camera's JPEG that was saved again: enlarged, with the noise of a sensor."""
    enlarged = Image.fromarray(skimage.data.coffee()).resize(size, Image.Resampling.LANCZOS)
    noise = np.random.default_rng(0).normal(0, 3, (size[1], size[0], 3))
    pixels = (np.asarray(enlarged) + noise).clip(0, 255).astype(np.uint8)
    first, thumbnail, last = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels).save(first, "JPEG", quality=90)
    again = Image.open(first)
    again.copy().resize((160, 120)).save(thumbnail, "JPEG", quality=75)
    again.save(last, "JPEG", quality=95, exif=_exif(thumbnail.getvalue()))
    return last.getvalue()


def _exif(thumbnail: bytes) -> bytes:
    """A big-endian EXIF block of a maker's name and a thumbnail."""
    make = b"Pentimento\x00\x00"
    first = b"\x00\x01" + b"\x01\x0f\x00\x02" + len(make).to_bytes(4, "big") + (26).to_bytes(4, "big")
    start = 26 + len(make)
    link = start.to_bytes(4, "big")
    second = b"\x00\x02" + b"\x02\x01\x00\x04\x00\x00\x00\x01" + (start + 30).to_bytes(4, "big")
    second += b"\x02\x02\x00\x04\x00\x00\x00\x01" + len(thumbnail).to_bytes(4, "big") + bytes(4)
    return b"Exif\x00\x00MM\x00*\x00\x00\x00\x08" + first + link + make + second + thumbnail


def timed(function: Callable[[], Any], runs: int) -> tuple[float, float]:
    """Median wall and CPU milliseconds of a call, after one that does not count."""
    function()
    wall, cpu = [], []
    for _ in range(runs):
        started, used = time.perf_counter(), time.process_time()
        function()
        wall.append(1000 * (time.perf_counter() - started))
        cpu.append(1000 * (time.process_time() - used))
    return statistics.median(wall), statistics.median(cpu)


def measure_each(content: bytes, names: Sequence[str], runs: int) -> None:
    """Prints what each detector takes."""

    def prepared(name: str) -> tuple[float, float]:
        _, detect = registry[name]
        wall, cpu = [], []
        for run in range(runs + 1):
            fresh = decode_image(content)
            started, used = time.perf_counter(), time.process_time()
            detect(fresh)
            if run:
                wall.append(1000 * (time.perf_counter() - started))
                cpu.append(1000 * (time.process_time() - used))
        return statistics.median(wall), statistics.median(cpu)

    rows = {"(decoding)": timed(lambda: decode_image(content), runs)} | {name: prepared(name) for name in names}
    for name, (wall, cpu) in sorted(rows.items(), key=lambda row: -row[1][1]):
        print(f"  {name:22s} {wall:7.0f} ms wall {cpu:7.0f} ms CPU")
    print(f"  {'sum':22s} {sum(row[0] for row in rows.values()):7.0f} ms wall "
          f"{sum(row[1] for row in rows.values()):7.0f} ms CPU")  # fmt: skip


async def together(content: bytes, names: Sequence[str], runs: int, *, maps: bool) -> tuple[float, float]:
    """Median wall and CPU milliseconds of one request."""
    wall, cpu = [], []
    async with wire(PassiveSettings()) as register:
        servicer = register.__self__  # type: ignore[attr-defined]
        for run in range(runs + 1):
            request = pb.AnalyzeRequest(image=content + os.urandom(8), detectors=names, include_maps=maps)
            started, used = time.perf_counter(), time.process_time()
            answer = await servicer.Analyze(request, None)
            if run:
                wall.append(1000 * (time.perf_counter() - started))
                cpu.append(1000 * (time.process_time() - used))
        assert not answer.report.missing
    return statistics.median(wall), statistics.median(cpu)


def measure(name: str, runs: int, *, maps: bool, with_copy_move: bool) -> None:
    """Measures one size, in a process of its own, and prints."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    content = picture(SIZES[name])
    registry.load("services.passive.detectors")
    names = sorted(spec.name for spec, _ in registry if with_copy_move or spec.name != LEFT_OUT)
    print(f"{name}: {len(content) / 2**20:.1f} MiB, {len(names)} detectors, {runs} runs, load {os.getloadavg()[0]:.1f}")
    # First, for the peak of memory shall be that of requests.
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    wall, cpu = asyncio.run(together(content, names, runs, maps=maps))
    peak = _memory("VmHWM")
    measure_each(content, names, runs)
    print(f"  {'together':22s} {wall:7.0f} ms wall {cpu:7.0f} ms CPU, load now {os.getloadavg()[0]:.1f}")
    print(f"  {'':22s} {peak:7.0f} MB at most in the process, {peak - before:.0f} MB of them for the request")
    target = TARGET_SECONDS[name]
    print(f"  within {target:g} s: {_met(wall / 1000, target)}; by CPU time on two cores: {_met(cpu / 2000, target)}")
    if name in TARGET_MEGABYTES:
        print(f"  within {TARGET_MEGABYTES[name]} MB: {_met(peak, TARGET_MEGABYTES[name])}")


def _met(value: float, target: float) -> str:
    return "met" if value <= target else "NOT met"


def _memory(what: str) -> float:
    """Megabytes that this process holds (VmRSS), or has held at most (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return next(int(row.split()[1]) for row in status.splitlines() if row.startswith(what)) / 1000


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--size", choices=list(SIZES), action="append", help="only this one")
    parser.add_argument("--maps", action="store_true", help="with maps, as PNG, in the answer")
    parser.add_argument("--with-copy-move", action="store_true", help="copy-move too")
    arguments = parser.parse_args()
    for name in arguments.size or SIZES:
        options = {"maps": arguments.maps, "with_copy_move": arguments.with_copy_move}
        process = multiprocessing.get_context("spawn").Process(
            target=measure, args=(name, arguments.runs), kwargs=options
        )
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(process.exitcode)


if __name__ == "__main__":
    main()
