"""What the last layers (`fusion`) learn from: features of fixed pictures, computed once.

- *hand-made* forgeries as they are, and mirrored;
- *honest* pictures as they are, and one in three without colour, for many hand-made forgeries are grey;
- *made* ones, as `Sampler` gives them, in crops of several sizes.

One `.npz` a picture, named by what it is made of: what is there is not made again.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from services.deeplearning.clip import input_tensor, squeezed_view
from training.clip import INPUT, tapped
from training.localisation.classes import CLASS_OF, PRISTINE
from training.localisation.fusion import BLOCKS, CELLS, FINE, averaged
from training.localisation.inference import prepared
from training.localisation.network import Localiser, Output
from training.localisation.samples import Sampler
from training.localisation.store import Store, Stored

__all__ = [
    "Example",
    "Examples",
    "FeatureExtractor",
    "Features",
    "cells_of",
    "examples_of",
    "in_order",
    "write_features",
]

RGB = NDArray[np.uint8]
Mask = NDArray[np.bool_]

SIDES: Final = (256, 320, 384, 512)
"""Of the crops of made forgeries, in turns, in pixels."""
_LARGEST: Final = 640
"""Honest pictures are reduced to so many pixels of their longer side, every second one: crops are no larger."""
MASK: Final = CELLS * FINE
"""Side of the mask that is learned."""


@dataclass(frozen=True, slots=True)
class Example:
    """A picture to learn from, made when it is asked for.

    Attributes:
        name: of its file.
        origin: the collection, or "made".
        make: gives the pixels, uint8 (h, w, 3), the mask, bool (h, w), or None, and the class (`CLASS_OF`).
    """

    name: str
    origin: str
    make: Callable[[], tuple[RGB, Mask | None, int]]


def examples_of(store: Store, sampler: Sampler, *, made: int, honest: int) -> Iterator[Example]:
    """All that is learned from.

    Args:
        store: pictures of one split.
        sampler: of the same pictures.
        made: how many samples.
        honest: photographs of each collection, at most.
    """
    seen: dict[str, int] = {}
    for stored in store:
        name = stored.pixels.stem
        if stored.kind == "forged":
            yield Example(name, stored.origin, partial(_forged, stored, mirrored=False))
            yield Example(f"{name}-mirrored", stored.origin, partial(_forged, stored, mirrored=True))
        elif stored.kind == "photograph":
            seen[stored.origin] = seen.get(stored.origin, 0) + 1
            # Of collections that forgeries came from all honest pictures are wanted.
            if seen[stored.origin] > honest and not _has_forgeries(stored.origin, store):
                continue
            yield Example(name, "honest", partial(_honest, stored, grey=False))
            if zlib.crc32(name.encode()) % 3 == 0:
                yield Example(f"{name}-grey", "honest", partial(_honest, stored, grey=True))
    for number in range(made):
        yield Example(f"made-{number}", "made", partial(_made, sampler, number))


def in_order(examples: Iterable[Example]) -> list[Example]:
    """Examples shuffled by their names, so that what is there when time runs out is of all kinds."""
    return sorted(examples, key=lambda example: zlib.crc32(example.name.encode()))


def _has_forgeries(origin: str, store: Store) -> bool:
    return any(stored.kind == "forged" and stored.origin == origin for stored in store)


def _forged(stored: Stored, *, mirrored: bool) -> tuple[RGB, Mask | None, int]:
    rgb, mask = stored.read()
    assert mask is not None
    assert stored.technique is not None
    step = -1 if mirrored else 1
    return np.array(rgb[:, ::step]), np.array(mask[:, ::step]), CLASS_OF[stored.technique]


def _honest(stored: Stored, *, grey: bool) -> tuple[RGB, Mask | None, int]:
    rgb = np.array(stored.read()[0])
    key = zlib.crc32(stored.pixels.stem.encode())
    factor = _LARGEST / max(rgb.shape[:2])
    if factor < 1.0 and key % 2:
        rgb = np.asarray(cv2.resize(rgb, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)
    if grey:
        plane = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        _, content = cv2.imencode(".jpg", plane, [cv2.IMWRITE_JPEG_QUALITY, 60 + key // 7 % 40])
        rgb = np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR), np.uint8)
    return rgb, None, PRISTINE


def _made(sampler: Sampler, number: int) -> tuple[RGB, Mask | None, int]:
    sample = sampler.sample(number, SIDES[number % len(SIDES)], gentle=0.2)
    return sample.rgb, sample.mask if sample.mask.any() else None, sample.label


@dataclass(frozen=True, slots=True)
class Features:
    """What the frozen networks say of a picture.

    Attributes:
        tokens: CLIP's, float32 (3, 196, 768).
        cells: of the localiser, float32 (channels, 28, 28): the trace reader's, the decoder's, both masks' log odds.
        odds: log odds of the localiser's mask, float32 (112, 112).
    """

    tokens: NDArray[np.float32]
    cells: NDArray[np.float32]
    odds: NDArray[np.float32]


class FeatureExtractor:
    """Computes the features of pictures, uint8 (h, w, 3); not thread-safe.

    Args:
        network: the localiser, trained.
        encoder: CLIP's file.
    """

    def __init__(self, network: Localiser, encoder: Path) -> None:
        self._network = network.eval().to(memory_format=torch.channels_last)
        model = onnx.load(str(encoder))
        there = {output.name for output in model.graph.output}
        self._taps = [tapped(block) for block in BLOCKS]
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(tap) for tap in {*self._taps} - there)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self._encoder = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, rgb: RGB) -> Features:
        """The features of a picture."""
        streams = self._encoder.run(self._taps, {INPUT: input_tensor(squeezed_view(rgb))})
        images = torch.from_numpy(prepared(rgb)[0]).to(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            parts = self._network.parts(images)
        return Features(
            tokens=np.stack([stream[0, 1:] for stream in streams]),
            cells=cells_of(parts.told.float(), parts.decoded.float(), parts.output)[0].numpy(),
            odds=averaged(parts.output.mask[:, None].float(), MASK)[0, 0].numpy(),
        )


def cells_of(told: Tensor, decoded: Tensor, output: Output) -> Tensor:
    """The localiser's features by cell: float (n, channels, 28, 28)."""
    masks = torch.stack([output.mask, output.by_traces], dim=1).float().clamp(-12.0, 12.0)
    return torch.cat([averaged(told), averaged(decoded), averaged(masks)], dim=1)


def write_features(examples: Sequence[Example], compute: Callable[[RGB], Features], folder: Path) -> int:
    """Computes what is not there yet; returns how many that were."""
    folder.mkdir(parents=True, exist_ok=True)
    new = [example for example in examples if not (folder / f"{example.name}.npz").exists()]
    for example in tqdm(new, desc="features", unit="", disable=None):
        rgb, mask, label = example.make()
        features = compute(rgb)
        whole = np.zeros(rgb.shape[:2], np.float32) if mask is None else mask.astype(np.float32)
        small = averaged(torch.from_numpy(whole)[None, None], MASK)[0, 0].numpy()
        partial = folder / f"{example.name}.partial"
        with partial.open("wb") as file:
            np.savez(
                file,
                tokens=features.tokens.astype(np.float16),
                cells=features.cells.astype(np.float16),
                odds=features.odds.astype(np.float16),
                mask=np.rint(small * 255).astype(np.uint8),
                label=label,
                origin=example.origin,
            )
        partial.replace(folder / f"{example.name}.npz")
    return len(new)


class Examples:
    """Written features, read as they are needed.

    Args:
        folder: of `write_features`.
        without: collections that are left out.

    Attributes:
        origins: of each.
    """

    def __init__(self, folder: Path, *, without: Collection[str] = ()) -> None:
        files = sorted(folder.glob("*.npz"))
        origins = [str(np.load(file)["origin"]) for file in files]
        wanted = [origin not in without for origin in origins]
        self._files = list(compress(files, wanted))
        self.origins = list(compress(origins, wanted))

    def __len__(self) -> int:
        return len(self._files)

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Tokens (n, 3, 196, 768), cells (n, c, 28, 28), odds and masks (n, 112, 112), float32; labels (n,), int64."""
        read: list[dict[str, Any]] = [dict(np.load(self._files[index])) for index in indices]

        def stacked(name: str) -> Tensor:
            return torch.from_numpy(np.stack([one[name] for one in read]).astype(np.float32))

        return {
            "tokens": stacked("tokens"),
            "cells": stacked("cells"),
            "odds": stacked("odds"),
            "masks": stacked("mask") / 255.0,
            "labels": torch.tensor([int(one["label"]) for one in read]),
        }
