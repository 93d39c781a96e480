"""What the mesh costs: an analysis through Envoy and the services against the same analysers in one process.

    make run                                              # in another terminal, with PENTIMENTO_RATE_LIMIT_IMAGE=0
    .venv/bin/python benchmarks/overhead.py [--runs 60]

Both ways analyse the same 512 x 512 JPEG, in turn, A B A B ..., so that a machine that slows down slows both down. In
one process means: the three services' own servicers, wired as in production (Triton included), called side by side.
The target is an overhead at the median of at most 15 ms or 5 %, whichever is larger.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import logging
import os
import statistics
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import skimage.data
import structlog
from pentimento.deeplearning.v1 import deeplearning_service_pb2 as deeplearning_pb
from pentimento.faces.v1 import faces_service_pb2 as faces_pb
from pentimento.passive.v1 import passive_service_pb2 as passive_pb
from PIL import Image

from services.deeplearning.main import wire as wire_deeplearning
from services.deeplearning.settings import DeepLearningSettings
from services.faces.main import wire as wire_faces
from services.faces.settings import FacesSettings
from services.passive.main import wire as wire_passive
from services.passive.settings import PassiveSettings

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 5


def picture() -> bytes:
    """A portrait of 512 x 512 pixels, as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


async def measure(port: int, runs: int) -> tuple[list[float], list[float]]:
    """Seconds of each run through the mesh, and in one process."""
    whole = picture()
    home = Path(os.environ.get("PENTIMENTO_HOME", ROOT / ".pentimento"))
    triton = f"127.0.0.1:{port + 6}"
    async with contextlib.AsyncExitStack() as stack:

        async def servicer(wired: Any) -> Any:
            register = await stack.enter_async_context(wired)
            return register.__self__

        passive = await servicer(wire_passive(PassiveSettings()))
        deeplearning = await servicer(wire_deeplearning(DeepLearningSettings(triton_address=triton, home=home)))
        faces = await servicer(wire_faces(FacesSettings(triton_address=triton, home=home)))
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=60))

        async def through_the_mesh(content: bytes) -> None:
            answer = await client.post(
                f"http://127.0.0.1:{port}/analyze/image", files={"file": ("portrait.jpg", content)}
            )
            answer.raise_for_status()
            missing = {item["part"] for item in answer.json()["data"]["missing"]}
            assert not missing & {"passive", "faces", "deeplearning", "age", "gender"}, f"missing: {missing}"

        async def in_one_process(content: bytes) -> None:
            await asyncio.gather(
                passive.Analyze(passive_pb.AnalyzeRequest(image=content), None),
                deeplearning.Analyze(deeplearning_pb.AnalyzeRequest(image=content), None),
                faces.Analyze(faces_pb.AnalyzeRequest(image=content), None),
            )

        mesh, process = [], []
        for run in range(WARM_UP + runs):
            # Another file every time: one that is known would be answered from the database.
            content = whole + os.urandom(8)
            for way, seconds in ((through_the_mesh, mesh), (in_one_process, process)):
                started = time.perf_counter()
                await way(content)
                if run >= WARM_UP:
                    seconds.append(time.perf_counter() - started)
        return mesh, process


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=int(os.environ.get("PENTIMENTO_PORT", "8080")))
    parser.add_argument("--runs", type=int, default=60)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))

    mesh, process = asyncio.run(measure(arguments.port, arguments.runs))
    for name, seconds in (("through the mesh", mesh), ("in one process", process)):
        quantiles = np.percentile(seconds, [10, 50, 90]) * 1000
        print(f"{name:18s} p10 {quantiles[0]:6.1f}   p50 {quantiles[1]:6.1f}   p90 {quantiles[2]:6.1f} ms")
    paired = statistics.median(a - b for a, b in zip(mesh, process, strict=True)) * 1000
    median = statistics.median(process) * 1000
    difference = statistics.median(mesh) * 1000 - median
    allowed = max(15.0, 0.05 * median)
    print(f"overhead at the median {difference:.1f} ms (median of the pairs' differences {paired:.1f} ms)")
    print(f"allowed {allowed:.1f} ms: {'met' if difference <= allowed else 'NOT met'}")


if __name__ == "__main__":
    main()
