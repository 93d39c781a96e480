"""Features of the training pictures, computed once and kept: so that a head is fitted in minutes.

    python -m training.features --encoder clip_encoder.int8.onnx [--kinds generated,photograph] [--variants 1]

A picture is brought to the common encoding (`training.data.encoding`) by its id and the number of the variant; of the
result are taken the encoder's features (`training.clip`) and the residual's statistics (`training.residual`). They are
kept in shards of `<data>/features/<recipe>/`, keyed by picture (file and crop) and variant; the recipe is the encoder's
digest and the version of the code. A run that was stopped goes on; the order takes makers and sources in turns, so that
any beginning of it is a balanced sample.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from services.common.settings import load_settings
from services.deeplearning.clip import whole_view
from training.clip import ClipEncoder
from training.data.build import picture_path
from training.data.encoding import encode_alike
from training.data.manifest import Row, read_manifest
from training.data.pictures import UnreadablePicture, cropped, read_pixels
from training.data.settings import HERE, DataSettings
from training.residual import residual_features

__all__ = ["AS_IT_IS", "FeatureStore", "Features", "compute", "in_turns", "recipe"]

Floats = NDArray[np.float32]

VERSION: Final = 2
"""To be raised with every change of what a feature is."""
AS_IT_IS: Final = -1
"""The variant without the common encoding: the file as an upload would be."""
_CHUNK: Final = 25


def recipe(encoder_digest: str) -> str:
    """What features depend on besides picture and variant; names the folder that they are kept in."""
    return f"{encoder_digest[:12]}-v{VERSION}"


@dataclass(frozen=True, slots=True)
class Features:
    """Features of n pictures.

    Attributes:
        keys: "<picture id>/<variant>", (n,).
        embedding: the encoder's, float32 (n, 512).
        tokens: class token and mean patch token behind every block, float16 (n, 12, 2, 768).
        residual: float32 (n, 243).
    """

    keys: tuple[str, ...]
    embedding: Floats
    tokens: NDArray[np.float16]
    residual: Floats


class FeatureStore:
    """Shards of features in a folder; one process writes, any may read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keys(self) -> set[str]:
        """What is there."""
        found: set[str] = set()
        for path in self._shards():
            with np.load(path) as shard:
                found.update(str(key) for key in shard["keys"])
        return found

    def add(self, features: Features) -> None:
        """Keeps features in a shard of their own, complete or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256("\n".join(features.keys).encode()).hexdigest()[:16]
        part = self.folder / f"{name}.part"
        with part.open("wb") as file:
            np.savez(
                file,
                keys=np.array(features.keys),
                embedding=features.embedding.astype(np.float32),
                tokens=features.tokens.astype(np.float16),
                residual=features.residual.astype(np.float32),
            )
        part.replace(self.folder / f"{name}.npz")

    def load(self, wanted: Sequence[str], *, blocks: Sequence[int] = ()) -> Features:
        """Features of the wanted keys that are there, in the order wanted; of the tokens these blocks only."""
        places = {key: place for place, key in enumerate(wanted)}
        found: list[tuple[int, str, Floats, NDArray[np.float16], Floats]] = []
        for path in self._shards():
            with np.load(path) as shard:
                keys = [str(key) for key in shard["keys"]]
                mine = [index for index, key in enumerate(keys) if key in places]
                if not mine:
                    continue
                tokens = shard["tokens"][mine][:, list(blocks)] if blocks else np.zeros((len(mine), 0), np.float16)
                embedding, residual = shard["embedding"][mine], shard["residual"][mine]
                for row, index in enumerate(mine):
                    place = places.pop(keys[index], None)
                    if place is not None:
                        found.append((place, keys[index], embedding[row], tokens[row], residual[row]))
        if not found:
            raise KeyError(f"none of {len(wanted)} pictures has features in {self.folder}")
        found.sort(key=lambda one: one[0])
        return Features(
            keys=tuple(one[1] for one in found),
            embedding=np.stack([one[2] for one in found]),
            tokens=np.stack([one[3] for one in found]),
            residual=np.stack([one[4] for one in found]),
        )

    def _shards(self) -> list[Path]:
        return sorted(self.folder.glob("*.npz")) if self.folder.is_dir() else []


def compute(rgb: NDArray[np.uint8], encoder: ClipEncoder) -> tuple[Floats, NDArray[np.float16], Floats]:
    """Features of pixels, uint8 (h, w, 3): embedding (512,), tokens (12, 2, 768), residual (243,)."""
    embedding, tokens = encoder(whole_view(rgb))
    return embedding, tokens.astype(np.float16), residual_features(rgb)


def in_turns(rows: Sequence[Row]) -> Iterator[Row]:
    """One picture of each kind, maker and source at a time; collected data's dev pictures first."""
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.id):
        groups[row.kind, row.maker, row.source].append(row)
    rounds = max((len(group) for group in groups.values()), default=0)
    for number in range(rounds):
        yield from (group[number] for group in groups.values() if number < len(group))


@dataclass(frozen=True, slots=True)
class _Task:
    row: Row
    variant: int
    path: Path

    @property
    def key(self) -> str:
        return f"{self.row.id}/{self.variant}"


@cache
def _loaded(encoder: Path) -> ClipEncoder:
    """The encoder, once a process."""
    return ClipEncoder(encoder)


def _work(encoder: Path, tasks: Sequence[_Task]) -> tuple[Features | None, list[str]]:
    keys, found, failed = [], [], []
    for task in tasks:
        try:
            rgb = cropped(read_pixels(task.path.read_bytes()), task.row.box)
            if task.variant != AS_IT_IS:
                rgb = encode_alike(rgb, task.row.id, seed=task.variant).rgb
            found.append(compute(rgb, _loaded(encoder)))
            keys.append(task.key)
        except (UnreadablePicture, OSError) as error:
            failed.append(f"{task.row.source} {task.row.path}: {error}")
    if not keys:
        return None, failed
    embedding, tokens, residual = (np.stack(part) for part in zip(*found, strict=True))
    return Features(tuple(keys), embedding, tokens, residual), failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Computes what is missing; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.features", description=__doc__)
    parser.add_argument("--encoder", type=Path, required=True, help="the CLIP encoder's ONNX file")
    parser.add_argument("--kinds", default="generated,photograph", help="kinds, with commas")
    parser.add_argument("--splits", default="train,calibrate,dev", help="splits, with commas")
    parser.add_argument("--variants", default="0", help="variants with commas; -1 is the file as it is")
    parser.add_argument("--most", type=int, help="at most so many pictures of a maker and source")
    parser.add_argument("--limit", type=int, help="stop after so many new ones")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    settings = load_settings(DataSettings)
    digest = hashlib.sha256(options.encoder.read_bytes()).hexdigest()
    store = FeatureStore(settings.data / "features" / recipe(digest))
    rows = [
        row
        for row in read_manifest(HERE / "manifest", kinds=options.kinds.split(","))
        if row.split in options.splits.split(",")
    ]
    tasks = _tasks(rows, settings.data, [int(v) for v in options.variants.split(",")], options.most, store.keys())
    tasks = tasks[: options.limit]
    failures: list[str] = []
    with (
        ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool,
        tqdm(total=len(tasks), desc="features", unit="", disable=None) as bar,
    ):
        futures = [
            pool.submit(_work, options.encoder, tasks[start : start + _CHUNK]) for start in range(0, len(tasks), _CHUNK)
        ]
        for future in as_completed(futures):
            features, failed = future.result()
            failures += failed
            if features is not None:
                store.add(features)
                bar.update(len(features.keys))
    for failure in failures:
        print(failure, file=sys.stderr)
    print(f"{len(tasks) - len(failures)} new, {len(failures)} failed, in {store.folder}")
    return 0


def _tasks(rows: Sequence[Row], data: Path, variants: Sequence[int], most: int | None, done: set[str]) -> list[_Task]:
    tasks = []
    for variant in variants:
        taken: dict[tuple[str, str], int] = defaultdict(int)
        for row in in_turns(rows):
            path = picture_path(data, row)
            taken[row.maker, row.source] += 1
            if (most is None or taken[row.maker, row.source] <= most) and path.is_file():
                task = _Task(row, variant, path)
                if task.key not in done:
                    tasks.append(task)
    return tasks


if __name__ == "__main__":
    raise SystemExit(main())
