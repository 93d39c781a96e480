"""What serving costs: Triton against the same ONNX called directly, many clients against Flask, one report's networks.

    make run                              # in another terminal, with PENTIMENTO_RATE_LIMIT_ANALYSIS=0
    .venv/bin/python benchmarks/deeplearning.py [--flask PYTHON] [--checkpoint LATEST.pt]

The mesh has deeplabv3plus, ours or its own (docs/own-models.md). `--flask` is a Python with PyTorch, for
`peers/flask_manipulation.py`, which says how Flask is put beside it.

1. deeplabv3plus through Triton and called directly, in turn, for 512 x 512 and the working size of 1080p. The aim: at
   most 1.2 times, or 5 ms more.
2. 16 clients sending 512 x 512 pictures to POST /segment, through the edge and to the peer, in turns. The aim: 3 times
   as many a second.
3. The networks of one report on a 1080p picture: DeepLearningService.Analyze. The aim: 1.5 s.

The machine is seldom idle: read the ratios, not the times.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import numpy as np
from load import bodies, unlike
from pentimento.deeplearning.v1 import deeplearning_service_pb2 as pb
from pentimento.deeplearning.v1.deeplearning_service_pb2_grpc import DeepLearningServiceStub

from local.settings import Ports
from services.common.triton import TritonClient
from services.deeplearning.localisation import prepared
from triton_models.layout import ModelsFolder, data_folder

ROOT = Path(__file__).resolve().parent.parent
MODEL = "deeplabv3plus"
VIEW = {"pixel_values": np.zeros((1, 3, 224, 224), np.float32)}
SIZES = {"512 x 512": (512, 512), "1080p": (1080, 1920)}
CLIENTS = 16
WARM_UP = 2
RUNTIME_PYTHON = ROOT / "triton_models" / "runtime" / ".venv" / "bin" / "python"


def working(height: int, width: int) -> np.ndarray:
    """The network's input for a picture of this size."""
    rgb = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return prepared(rgb).images


# ---- 1: Triton and the same file called directly ----


class DirectCalls:
    """A process that calls the same file, in the environment of Triton's backend."""

    def __init__(self, weights: Path, threads: int) -> None:
        command = [RUNTIME_PYTHON, Path(__file__).with_name("_direct_onnx.py"), weights, str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, height: int, width: int) -> float:
        """Of one run on a picture of this size."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(height, width, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """Ends it."""
        self._process.communicate()


async def through_triton(ports: Ports, direct: DirectCalls, runs: int) -> None:
    """Prints medians and ratios."""
    async with TritonClient.connect(f"127.0.0.1:{ports.triton_grpc}", timeout_seconds=60) as triton:
        for name, size in SIZES.items():
            images = working(*size)
            asked, called = [], []
            for run in range(runs + WARM_UP):
                started = time.perf_counter()
                await triton.infer(MODEL, {"images": images, **VIEW}, ["mask", "reliability", "classes"])
                triton_seconds = time.perf_counter() - started
                direct_seconds = direct.seconds(*images.shape[2:])
                if run >= WARM_UP:
                    asked.append(triton_seconds)
                    called.append(direct_seconds)
            one, other = statistics.median(asked), statistics.median(called)
            paired = statistics.median(a / b for a, b in zip(asked, called, strict=True))
            met = one <= 1.2 * other or one - other <= 0.005
            print(
                f"{name:10s} Triton {one * 1000:6.0f} ms, directly {other * 1000:6.0f} ms: {one / other:.2f} times, "
                f"by pairs {paired:.2f}: {'met' if met else 'NOT met'}",
                flush=True,
            )


# ---- 2: many clients ----


async def pictures_a_second(url: str, seconds: float, content: bytes) -> float:
    """How many answers 16 clients get from POST /segment."""
    numbers, answered = itertools.count(), 0
    until = time.monotonic() + seconds

    async def client() -> None:
        nonlocal answered
        async with httpx.AsyncClient(timeout=300) as http:
            while time.monotonic() < until:
                answer = await http.post(f"{url}/segment", files={"image": ("a.jpg", unlike(content, next(numbers)))})
                if answer.status_code in {429, 503} and "retry-after" in answer.headers:
                    await asyncio.sleep(0.2)
                    continue
                answer.raise_for_status()
                answered += 1

    started = time.monotonic()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return answered / (time.monotonic() - started)


@contextmanager
def peer(python: Path, checkpoint: Path | None) -> Iterator[str]:
    """The Flask server's URL, for the body of the `with`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [python, ROOT / "benchmarks" / "peers" / "flask_manipulation.py", str(port)]
    command += ["--network", checkpoint] if checkpoint else []
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'build' / 'peers'}"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            if process.poll() is not None:
                raise RuntimeError(f"the peer does not start: {' '.join(map(str, command))}")
            try:
                httpx.get(url, timeout=5)
                break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(20)


async def many_clients(ports: Ports, python: Path, checkpoints: list[Path | None], turns: int, seconds: float) -> None:
    """Prints answers a second and ratios; the other server is idle while one is asked."""
    content = bodies()["512"]
    for checkpoint in checkpoints:
        name = "our network in PyTorch" if checkpoint else "document 001's networks"
        ours, theirs = [], []
        with peer(python, checkpoint) as url:
            for _ in range(turns):
                ours.append(await pictures_a_second(f"http://127.0.0.1:{ports.edge}", seconds, content))
                theirs.append(await pictures_a_second(url, seconds, content))
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        print(
            f"{CLIENTS} clients: Pentimento {statistics.median(ours):.2f}/s, Flask with {name} "
            f"{statistics.median(theirs):.2f}/s: {ratio:.1f} times: {'met' if ratio >= 3 else 'NOT met'}"
        )


# ---- 3: one report ----


async def one_report(ports: Ports, runs: int) -> None:
    """Prints the seconds of all networks that look at a whole picture."""
    content = bodies()["1080p"]
    options = [("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ports.service('deeplearning')}", options=options) as channel:
        stub = DeepLearningServiceStub(channel)
        seconds = []
        for run in range(runs + 1):
            started = time.perf_counter()
            report = (await stub.Analyze(pb.AnalyzeRequest(image=unlike(content, run)), timeout=60)).report
            if run:
                seconds.append(time.perf_counter() - started)
    asked = ", ".join(sorted(finding.provenance.detector for finding in report.findings))
    assert not report.missing, report.missing
    median = statistics.median(seconds)
    print(f"one report on 1080p ({asked}): {median:.2f} s: {'met' if median <= 1.5 else 'NOT met'}")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=int(os.environ.get("PENTIMENTO_PORT", "8080")))
    parser.add_argument("--home", type=Path, default=data_folder(), help="the mesh's data folder")
    parser.add_argument("--flask", type=Path, help="a Python with PyTorch and Flask; without it no peer is asked")
    parser.add_argument("--checkpoint", type=Path, help="of the same network, to be asked in PyTorch too")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--turns", type=int, default=3, help="of the clients, with each server")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each turn")
    parser.add_argument("--threads", type=int, default=2, help="of the network, as its config.pbtxt says")
    arguments = parser.parse_args()

    ports = Ports(arguments.port)
    weights = ModelsFolder(arguments.home / "models").repository / MODEL / "1" / "model.onnx"
    direct = DirectCalls(weights, arguments.threads)
    asyncio.run(through_triton(ports, direct, arguments.runs))
    direct.close()
    asyncio.run(one_report(ports, arguments.runs))
    if arguments.flask:
        checkpoints = [None, arguments.checkpoint] if arguments.checkpoint else [None]
        asyncio.run(many_clients(ports, arguments.flask, checkpoints, arguments.turns, arguments.seconds))


if __name__ == "__main__":
    main()
