"""A better word than UTKFace's labels: what a linear reading of CLIP's embedding says of each face.

Some of UTKFace's genders are wrong, and of small children nobody can tell them; a small network that is made to learn
them by heart learns nothing else by it. CLIP's encoder (Radford et al. 2021), which is far too slow to be asked about
every face, tells the genders of adults better than our network. Its embedding is read by logistic regression; what it
says of a face is said by a reading that was fitted without that face, and anything of the same date.

References:
    G. Hinton, O. Vinyals and J. Dean, "Distilling the knowledge in a neural network", 2015. arXiv:1503.02531
    A. Radford et al., "Learning transferable visual models from natural language supervision", 2021. arXiv:2103.00020
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from services.deeplearning.clip import whole_view
from training.clip import EMBEDDING, ClipEncoder

__all__ = ["EmbeddingStore", "said_of", "said_without"]

RGB = NDArray[np.uint8]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_STRENGTH: Final = 10.0
"""Of the logistic regression, on embeddings of unit length (scikit-learn's C). From 3 to 100 it makes no difference."""
_FOLDS: Final = 5


class EmbeddingStore:
    """CLIP's embeddings by name, in a folder: shards `<n>.npz` with `names` and `embeddings`, float32 (m, 512)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self) -> dict[str, Floats]:
        """All of them."""
        found: dict[str, Floats] = {}
        for path in sorted(self._folder.glob("*.npz")):
            with np.load(path) as shard:
                found.update(zip(shard["names"].tolist(), shard["embeddings"], strict=True))
        return found

    def add(self, encoder: ClipEncoder, pictures: Iterable[tuple[str, RGB]]) -> None:
        """Embeds pictures, uint8 (h, w, 3), and keeps them in a new shard: complete or not at all."""
        names, embeddings = [], []
        for name, rgb in pictures:
            names.append(name)
            embeddings.append(encoder(whole_view(rgb))[0])
        self._folder.mkdir(parents=True, exist_ok=True)
        target = self._folder / f"{len(list(self._folder.glob('*.npz'))):05d}.npz"
        partial = target.with_suffix(".part")
        with partial.open("wb") as file:
            np.savez(file, names=np.array(names), embeddings=np.array(embeddings, np.float32).reshape(-1, EMBEDDING))
        partial.replace(target)


def said_of(embeddings: Floats, learned: Floats, male: Sequence[int]) -> Doubles:
    """Probability of male, (n,), by a reading that is fitted on other faces.

    Args:
        embeddings: of whom it is asked, (n, 512).
        learned: of whom it learns, (m, 512).
        male: their labels, 0 or 1, (m,).
    """
    reading = make_pipeline(Normalizer(), LogisticRegression(C=_STRENGTH, max_iter=3000)).fit(learned, male)
    return np.asarray(reading.predict_proba(embeddings)[:, 1], np.float64)


def said_without(embeddings: Floats, male: Sequence[int], groups: Sequence[str]) -> Doubles:
    """Probability of male of each face, (n,), by a reading that was fitted on the faces of other groups.

    Args:
        embeddings: (n, 512).
        male: labels, 0 or 1.
        groups: what belongs together; at least five.
    """
    said = np.zeros(len(male))
    labels = np.asarray(male)
    for others, these in GroupKFold(_FOLDS).split(embeddings, groups=groups):
        said[these] = said_of(embeddings[these], embeddings[others], labels[others])
    return said
