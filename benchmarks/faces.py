"""How long a full face report takes, and what Triton adds to YuNet.

    make run                                              # in another terminal, with PENTIMENTO_RATE_LIMIT_ANALYSIS=0
    .venv/bin/python benchmarks/faces.py [--port 8080] [--runs 30] [--rounds 5]

1. **Face reports**: `POST /v1/faces:detect` with every attribute (age, gender, human or drawn, real or fake) for a
   picture with one face and one with ten, through the edge. Targets: 150 and 500 ms at the median.
2. **YuNet at 640 pixels** through Triton, against bare onnxruntime with as many threads, in turns. Target: at most 1.3
   times as long, or 5 ms more, at the median of the rounds' medians.

All on two cores with nothing else to do; the pictures are made of the portrait that scikit-image ships.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import skimage.data
from PIL import Image
from tritonclient import grpc as triton

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 3
TARGETS = {1: 0.150, 10: 0.500}
ATTRIBUTES = [f"FACE_ATTRIBUTE_{name}" for name in ("AGE", "GENDER", "KIND", "DEEPFAKE")]
YUNET_SIDE = 640
YUNET_FACTOR, YUNET_MORE = 1.3, 0.005
TRITON_PYTHON = ROOT / "triton_models" / "runtime" / ".venv" / "bin" / "python"
BARE = """
import json, sys, time
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[2])
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
tensor = np.random.default_rng(0).integers(0, 256, (1, 3, 640, 640)).astype(np.uint8)
name, times = session.get_inputs()[0].name, []
for _ in range(int(sys.argv[3])):
    started = time.perf_counter()
    session.run(None, {name: tensor})
    times.append(time.perf_counter() - started)
print(json.dumps(times))
"""


def picture(faces: int) -> bytes:
    """A picture of 1280 x 960 pixels with so many faces, as JPEG."""
    portrait = Image.fromarray(skimage.data.astronaut()).crop((130, 40, 330, 240))
    columns = max(1, round(faces**0.5 * 1.2))
    canvas = Image.new("RGB", (1280, 960), (120, 130, 140))
    side = min(1280 // columns, 960 // -(-faces // columns), 400)
    for number in range(faces):
        place = (number % columns * side, number // columns * side)
        canvas.paste(portrait.resize((side, side), Image.Resampling.LANCZOS), place)
    buffer = io.BytesIO()
    canvas.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def report_seconds(url: str, faces: int, runs: int) -> np.ndarray:
    """Seconds of each face report; exits if not every face was found and described."""
    body = {"image": {"content": base64.b64encode(picture(faces)).decode()}, "attributes": ATTRIBUTES}
    times = []
    with httpx.Client(timeout=60) as client:
        for _ in range(WARM_UP + runs):
            started = time.perf_counter()
            answer = client.post(f"{url}/v1/faces:detect", json=body)
            times.append(time.perf_counter() - started)
            if answer.status_code != 200:
                raise SystemExit(answer.text)
    said = answer.json()
    if len(said["faces"]) != faces or said["missing"]:
        raise SystemExit(f"{len(said['faces'])} of {faces} faces; missing: {json.dumps(said['missing'])}")
    return np.array(times[WARM_UP:])


def yunet_in_triton(address: str, runs: int) -> np.ndarray:
    """Seconds of each run of YuNet through Triton."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, YUNET_SIDE, YUNET_SIDE)).astype(np.uint8)
    times = []
    with triton.InferenceServerClient(address) as client:
        tensor = triton.InferInput("input", list(pixels.shape), "UINT8")
        for _ in range(WARM_UP + runs):
            tensor.set_data_from_numpy(pixels)
            started = time.perf_counter()
            client.infer("yunet", [tensor])
            times.append(time.perf_counter() - started)
    return np.array(times[WARM_UP:])


def yunet_bare(model: Path, threads: int, runs: int) -> np.ndarray:
    """Seconds of each run in bare onnxruntime, in the environment that Triton's backend uses."""
    command = [str(TRITON_PYTHON), "-c", BARE, str(model), str(threads), str(WARM_UP + runs)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return np.array(json.loads(done.stdout))[WARM_UP:]


def show(name: str, seconds: np.ndarray) -> None:
    """One line: quantiles in milliseconds."""
    quantiles = np.percentile(seconds, [10, 50, 90]) * 1000
    print("{:24s} p10 {:7.1f}   p50 {:7.1f}   p90 {:7.1f} ms".format(name, *quantiles))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=int(os.environ.get("PENTIMENTO_PORT", "8080")))
    parser.add_argument("--triton", default="", help="host:port; by default that of the mesh on --port")
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("PENTIMENTO_HOME", ".pentimento")))
    parser.add_argument("--threads", type=int, default=2, help="of bare onnxruntime: as in YuNet's config.pbtxt")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5, help="of so many runs in Triton and so many bare ones")
    parser.add_argument("--only", choices=["reports", "yunet"])
    options = parser.parse_args()
    if options.only != "yunet":
        for faces, target in TARGETS.items():
            seconds = report_seconds(f"http://127.0.0.1:{options.port}", faces, options.runs)
            show(f"report, {faces} face{'s' if faces > 1 else ''}", seconds)
            met = np.median(seconds) <= target
            print(f"within {target * 1000:.0f} ms at the median: {'met' if met else 'NOT met'}")
    if options.only != "reports":
        address = options.triton or f"127.0.0.1:{options.port + 6}"
        model = options.home / "models/repository/yunet/1/model.onnx"
        # In turns, so that what else the machine has to do falls on both.
        rounds = [
            (yunet_in_triton(address, options.runs), yunet_bare(model, options.threads, options.runs))
            for _ in range(options.rounds)
        ]
        show("YuNet through Triton", np.concatenate([served for served, _ in rounds]))
        show("YuNet, bare", np.concatenate([bare for _, bare in rounds]))
        slow, fast = (np.array([np.median(times) for times in of]) for of in zip(*rounds, strict=True))
        more, factor = (slow - fast) * 1000, slow / fast
        met = np.median(factor) <= YUNET_FACTOR or np.median(more) <= YUNET_MORE * 1000
        print(
            f"{np.median(factor):.2f} times ({factor.min():.2f}-{factor.max():.2f} by round), "
            f"{np.median(more):.1f} ms more ({more.min():.1f}-{more.max():.1f}): {'met' if met else 'NOT met'}"
        )


if __name__ == "__main__":
    sys.exit(main())
