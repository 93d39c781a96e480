"""Fits the weights of the five statistical metrics on the training data (after `make data`).

    python -m training.screening_metrics [--most 40]

Facts are measured on generated pictures and photographs of the splits `train` (to fit) and `calibrate` (percentiles
and areas under the curve), after the common encoding, so that encoders and sizes tell nothing. Each maker counts with
the square root of its pictures. Writes services/passive/statistics_weights.json and prints how each metric does on the
makers and sources of `dev`, which nothing was fitted on.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from services.common.settings import load_settings
from services.passive.detectors import (
    color_statistics,
    frequency_statistics,
    gradient_statistics,
    noise_statistics,
    texture_statistics,
)
from services.passive.detectors._statistics import FLAGGED, MIN_SIDE, WEIGHTS, Fitted, Statistic, window
from training.data.build import picture_path
from training.data.encoding import encode_alike
from training.data.manifest import Row, Split, read_manifest
from training.data.pictures import UnreadablePicture, cropped, read_pixels
from training.data.settings import HERE, DataSettings
from training.screening_metrics.fitting import Examples, fit_statistic

STATISTICS: Final[tuple[Statistic, ...]] = tuple(
    module.STATISTIC
    for module in (gradient_statistics, frequency_statistics, noise_statistics, texture_statistics, color_statistics)
)
Numbers = dict[str, NDArray[np.float64]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, fits, writes and reports; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.screening_metrics", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--most", type=int, default=40, help="at most so many pictures of a maker and source")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    data = load_settings(DataSettings).data
    rows = _chosen(read_manifest(HERE / "manifest", kinds=["generated", "photograph"]), data, options.most)
    if not rows:
        print(f"no pictures in {data}: run `make data` first", file=sys.stderr)
        return 1
    with ProcessPoolExecutor(options.workers) as pool:
        paths = [picture_path(data, row) for row in rows]
        measured = list(
            tqdm(pool.map(_measure, rows, paths, chunksize=16), total=len(rows), desc="facts", disable=None)
        )
    rows, numbers = _readable(rows, measured)
    fitted = {}
    for statistic in STATISTICS:
        kind = statistic.metric_type.value
        train, held_out, dev = (_examples(rows, numbers[kind], split) for split in ("train", "calibrate", "dev"))
        fitted[kind] = fit_statistic(train, held_out)
        print(_report(kind, fitted[kind], dev))
    _write(fitted, rows)
    return 0


def _chosen(rows: Sequence[Row], data: Path, most: int) -> list[Row]:
    """At most so many of each maker, source and split, of those that are there, by id."""
    taken: Counter[tuple[str, str, str]] = Counter()
    chosen = []
    for row in sorted(rows, key=lambda row: row.id):
        key = (row.maker, row.source, row.split)
        if taken[key] < most and picture_path(data, row).is_file():
            taken[key] += 1
            chosen.append(row)
    return chosen


def _measure(row: Row, path: Path) -> Numbers | None:
    try:
        rgb = encode_alike(cropped(read_pixels(path.read_bytes()), row.box), row.id).rgb
    except (UnreadablePicture, OSError):
        return None
    if min(rgb.shape[:2]) < MIN_SIDE:
        return None
    return {
        statistic.metric_type.value: statistic.numbers(rgb if statistic is color_statistics.STATISTIC else window(rgb))
        for statistic in STATISTICS
    }


def _readable(rows: Sequence[Row], measured: Sequence[Numbers | None]) -> tuple[list[Row], Numbers]:
    columns: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    kept = []
    for row, facts in zip(rows, measured, strict=True):
        if facts is not None:
            kept.append(row)
            for kind, values in facts.items():
                columns[kind].append(values)
    return kept, {kind: np.stack(values) for kind, values in columns.items()}


def _examples(rows: Sequence[Row], numbers: NDArray[np.float64], split: Split) -> Examples:
    places = [index for index, row in enumerate(rows) if row.split == split]
    sizes = Counter((rows[index].maker, rows[index].source) for index in places)
    return Examples(
        numbers=numbers[places],
        generated=np.array([rows[index].kind == "generated" for index in places]),
        weights=np.array([sizes[rows[index].maker, rows[index].source] ** -0.5 for index in places]),
    )


def _report(kind: str, fitted: Fitted, dev: Examples) -> str:
    log_odds = fitted.standardised(dev.numbers) @ np.asarray(fitted.weights) + fitted.intercept
    flagged = np.array([fitted.score(value) >= FLAGGED for value in log_odds])
    area = roc_auc_score(dev.generated, log_odds, sample_weight=dev.weights)
    return (
        f"{kind}: AUC {fitted.auc:.3f} (calibrate), {area:.3f} (dev); flagged on dev: "
        f"{flagged[dev.generated].mean():.1%} of {dev.generated.sum()} generated, "
        f"{flagged[~dev.generated].mean():.1%} of {(~dev.generated).sum()} photographs"
    )


def _write(fitted: dict[str, Fitted], rows: Sequence[Row]) -> None:
    digest = hashlib.sha256("\n".join(sorted(row.id for row in rows)).encode()).hexdigest()
    document = {
        "fitted_on": {
            "date": datetime.now(UTC).date().isoformat(),
            "pictures": dict(sorted(Counter(f"{row.split} {row.kind}" for row in rows).items())),
            "pictures_sha256": digest,
        },
        "statistics": {
            statistic.metric_type.value: {
                "facts": [fact.name for fact in statistic.facts],
                **dataclasses.asdict(fitted[statistic.metric_type.value]),
            }
            for statistic in STATISTICS
        },
    }
    WEIGHTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
