"""What copy-move costs: seconds by the number of pixels, and memory.

    .venv/bin/python benchmarks/copy_move.py [--runs 7] [--out FOLDER]

Textured pictures (four of scikit-image's photographs, each turned and rescaled at random, side by side as a mosaic,
with noise of its own at every pixel) of 256 x 256 to 12 megapixels. Most tiles have a look-alike, which is then
compared at length: photographs take less. Decoding is not counted, the reduction to working size is. OpenBLAS has one
thread, as in the service. Prints medians and their spread, what the time grows with (the slope in a log-log plot), and
the peak of the process's memory above what it had before; draws the curve if a folder is given.

Targets on two cores: 150 ms at 512 x 512, 700 ms at 1920 x 1080, 2 s and 700 MB at 4000 x 3000.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import statistics
import time
from pathlib import Path

import cv2
import numpy as np
import skimage.data
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from services.common.images import Picture
from services.passive.detectors.copy_move import detect_copy_move

SIZES = ((256, 256), (512, 512), (1024, 768), (1920, 1080), (2560, 1920), (4000, 3000))
"""Width and height, in pixels."""


def textured(width: int, height: int) -> np.ndarray:
    """A picture full of texture, uint8 (height, width, 3)."""
    rng = np.random.default_rng(0)
    tiles = [skimage.data.coffee(), skimage.data.chelsea(), skimage.data.astronaut(), skimage.data.rocket()]
    side = 400
    rows = []
    for _ in range(math.ceil(height / side)):
        row = []
        for _ in range(math.ceil(width / side)):
            tile = tiles[int(rng.integers(len(tiles)))]
            angle, scale = rng.uniform(0, 360), rng.uniform(1.4, 2.2)
            turn = cv2.getRotationMatrix2D((tile.shape[1] / 2, tile.shape[0] / 2), angle, scale)
            turn[:, 2] += side / 2 - np.array([tile.shape[1], tile.shape[0]]) / 2
            row.append(cv2.warpAffine(tile, turn, (side, side), borderMode=cv2.BORDER_REFLECT))
        rows.append(np.hstack(row))
    scene = np.vstack(rows)[:height, :width].astype(np.float32)
    return np.clip(np.rint(scene + rng.normal(0, 4, scene.shape)), 0, 255).astype(np.uint8)


def seconds_of(rgb: np.ndarray, runs: int) -> list[float]:
    """Seconds of each run, on a fresh picture, so that the working size is made anew."""
    times = []
    for _ in range(runs + 1):
        picture = Picture.from_array(rgb)
        started = time.perf_counter()
        detect_copy_move(picture)
        times.append(time.perf_counter() - started)
    return times[1:]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--out", type=Path, help="folder for copy-move-growth.png")
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; median (least - most) of {options.runs} runs")
    medians = []
    for width, height in SIZES:
        rgb = textured(width, height)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with threadpool_limits(1, user_api="blas"):
            times = seconds_of(rgb, options.runs)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        medians.append(statistics.median(times))
        spread = f"{1000 * min(times):.0f} - {1000 * max(times):.0f}"
        print(f"{width} x {height}: {1000 * medians[-1]:.0f} ms ({spread}), memory + {grown:.0f} MB")
    pixels = [width * height for width, height in SIZES]
    slope = np.polyfit(np.log(pixels), np.log(medians), 1)[0]
    print(f"time grows with the {slope:.2f}th power of the pixels")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        figure = Figure(figsize=(6, 4))
        axes = figure.subplots()
        axes.loglog(pixels, medians, "o-", label="measured")
        steady = [medians[0] * n * math.log(n) / (pixels[0] * math.log(pixels[0])) for n in pixels]
        axes.loglog(pixels, steady, "--", label="n log n from the first")
        axes.set_xlabel("pixels")
        axes.set_ylabel("seconds")
        axes.legend()
        figure.savefig(options.out / "copy-move-growth.png", dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
