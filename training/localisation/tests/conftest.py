"""Small pictures to forge, made here."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from services.common.detection import Technique
from training.localisation.listing import Listed
from training.localisation.store import Store, open_store


def _photograph(seed: int, side: int = 200) -> np.ndarray:
    """Something with edges, shades and noise."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[:side, :side] / side
    rgb = np.stack([down, across, (down + across) / 2], axis=2) * 120 + 60
    for _ in range(25):
        top, left = rng.integers(0, side - 30, 2)
        height, width = rng.integers(8, 60, 2)
        rgb[top : top + height, left : left + width] = rng.uniform(20, 235, 3)
    return np.clip(rgb + rng.normal(0, 4, rgb.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def listed(tmp_path_factory: pytest.TempPathFactory) -> list[Listed]:
    """Six photographs, two of a face (of which none is found), and a hand-made forgery with its mask."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = []
    for number in range(6):
        path = folder / f"photo{number}.png"
        Image.fromarray(_photograph(number)).save(path)
        rows.append(_row(path, number))
    forged = _photograph(50)
    forged[40:90, 60:120] = _photograph(51)[40:90, 60:120]
    mask = np.zeros(forged.shape[:2], np.uint8)
    mask[40:90, 60:120] = 255
    Image.fromarray(forged).save(folder / "forged.png")
    Image.fromarray(mask).save(folder / "mask.png")
    rows.append(
        Listed(
            picture=folder / "forged.png",
            mask=folder / "mask.png",
            kind="forged",
            technique=Technique.SPLICING,
            group="forged",
            split="train",
            origin="hand",
        )
    )
    return rows


def _row(path: Path, number: int) -> Listed:
    return Listed(
        picture=path, mask=None, kind="photograph", technique=None, group=f"g{number}", split="train", origin="made"
    )


@pytest.fixture(scope="session")
def store(listed: list[Listed], tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(listed, tmp_path_factory.mktemp("decoded"))
