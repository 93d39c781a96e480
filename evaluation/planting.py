"""Plants forgeries into honest photographs, so that a calibration has more to go on than what others forged.

Sets of forgeries are small, and most of their pictures are: what a detector's silence or alarm is worth in a picture of
ordinary size they do not tell. Each photograph that is large enough gets one forgery (by its name: a copy-move, or a
piece with another JPEG history) and its twin, which went through the same processing without the forgery. Both keep the
photograph's source, and so its split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from evaluation.forgery import Encoding, ForgeryFailed, Pair, make_pair
from evaluation.samples import Label, Sample
from services.common.detection import Technique

__all__ = ["MIN_SIDE", "PLANTED", "plant"]

PLANTED: Final = "planted"
"""What the set of planted pictures is called."""

MIN_SIDE: Final = 300
"""Shortest side, in pixels, of a photograph that is planted in: smaller ones are what the sets of forgeries have."""

MAKERS: Final = ("copy_move", "copy_move", "double_compression")
"""By the name's digest, one of these."""

LOWEST_QUALITY: Final = 75


def plant(samples: Sequence[Sample], folder: Path, *, seed: int = 0) -> list[Sample]:
    """Writes forgeries and twins below a folder; the same samples and seed give the same files.

    Args:
        samples: of which the honest ones without a portrait are planted in.
        folder: is made if need be; files that are there are taken as they are.
        seed: of all chance.

    Returns:
        The planted pictures, two a photograph; a photograph in which no forgery could be planted has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    honest = [sample for sample in samples if sample.label is Label.HONEST and not sample.portrait]
    planted: list[Sample] = []
    for index, sample in enumerate(honest):
        name = hashlib.sha256(f"{seed} {sample.name}".encode()).hexdigest()
        paths = {Label.EDITED: folder / f"{name}.forged", Label.HONEST: folder / f"{name}.twin"}
        maker = MAKERS[int(name, 16) % len(MAKERS)]
        if not all(path.is_file() for path in paths.values()):
            pair = _pair(sample, honest[index - 1], maker, int(name[:8], 16))
            if pair is None:
                continue
            paths[Label.EDITED].write_bytes(pair.forged)
            paths[Label.HONEST].write_bytes(pair.pristine)
        planted += [
            Sample(
                name=f"{PLANTED}/{path.name}",
                path=path,
                label=label,
                technique=TECHNIQUE_OF[maker] if label is Label.EDITED else None,
                source=sample.source,
                set_name=PLANTED,
            )
            for label, path in paths.items()
        ]
    return planted


TECHNIQUE_OF: Final = {"copy_move": Technique.COPY_MOVE, "double_compression": Technique.SPLICING}


def _pair(sample: Sample, donor: Sample, maker: str, seed: int) -> Pair | None:
    rgb = _pixels(sample.path)
    if min(rgb.shape[:2]) < MIN_SIDE:
        return None
    encoding = Encoding.drawn(np.random.default_rng(seed), lowest_quality=LOWEST_QUALITY)
    try:
        if maker == "copy_move":
            return make_pair(rgb, maker, seed, encoding)
        return make_pair(rgb, maker, seed, encoding, donor=_pixels(donor.path))
    except (ForgeryFailed, ValueError):  # too plain, or a donor that is too small
        return None


def _pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
