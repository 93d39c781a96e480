"""An ONNX file called directly, by the onnxruntime that Triton's backend has: `python _direct_onnx.py FILE THREADS`.

Run by `deeplearning.py` in the environment of `triton_models/runtime`. A line `HEIGHT WIDTH` on standard input makes
one run on a picture of that size; a line with its seconds answers. The session's options are those of Triton's backend.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import onnxruntime as ort


def main() -> None:
    """Answers until standard input ends."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(sys.argv[2])
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    outputs = ["mask", "reliability", "classes"]
    view = np.zeros((1, 3, 224, 224), np.float32)
    fixed = {given.name: view for given in session.get_inputs() if given.name == "pixel_values"}
    pictures: dict[str, np.ndarray] = {}
    for line in sys.stdin:
        height, width = map(int, line.split())
        if line not in pictures:
            noise = np.random.default_rng(1).integers(0, 256, (1, 3, height, width))
            pictures[line] = noise.astype(np.float32)
        started = time.perf_counter()
        session.run(outputs, {"images": pictures[line], **fixed})
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
