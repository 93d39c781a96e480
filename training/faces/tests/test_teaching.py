"""The teacher of genders: what it saw is kept, and what it says of a face it says without that face's label."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.clip import EMBEDDING
from training.faces.attributes.teaching import EmbeddingStore, said_of, said_without


class _Brightness:
    """An encoder that sees nothing but how bright a view is."""

    def __call__(self, view: np.ndarray) -> tuple[np.ndarray, None]:
        return np.full(EMBEDDING, view.mean(), np.float32), None


def test_embeddings_are_kept(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path / "clip")
    store.add(_Brightness(), [("a.jpg", np.full((40, 30, 3), 7, np.uint8))])
    store.add(_Brightness(), [])
    store.add(_Brightness(), [("b.jpg", np.full((20, 90, 3), 200, np.uint8))])

    kept = EmbeddingStore(tmp_path / "clip").read()

    assert {name: float(embedding[0]) for name, embedding in kept.items()} == {"a.jpg": 7.0, "b.jpg": 200.0}


def _faces(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    male = rng.integers(0, 2, count)
    embeddings = rng.normal(0, 1, (count, EMBEDDING)).astype(np.float32)
    embeddings[:, :40] += 1.5 * (2 * male[:, None] - 1)
    return embeddings, male


def test_the_word_goes_against_a_wrong_label() -> None:
    embeddings, male = _faces(400)
    labels = male.copy()
    labels[:20] = 1 - labels[:20]

    said = said_without(embeddings, labels, [str(index) for index in range(400)])

    assert ((said[:20] > 0.5) == male[:20]).all()


def test_of_faces_that_belong_together_none_is_learned_from() -> None:
    # What tells the label is in the pairs alone: with the other of a pair it would be known, without it nothing is.
    rng = np.random.default_rng(5)
    pairs = rng.normal(0, 1, (100, EMBEDDING)).astype(np.float32)
    male = rng.integers(0, 2, 100)

    said = said_without(np.repeat(pairs, 2, axis=0), np.repeat(male, 2), [str(index // 2) for index in range(200)])

    assert 0.3 < np.mean((said > 0.5) == np.repeat(male, 2)) < 0.7


def test_others_are_told_by_what_was_learned() -> None:
    embeddings, male = _faces(400)

    said = said_of(embeddings[300:], embeddings[:300], male[:300].tolist())

    assert np.mean((said > 0.5) == male[300:]) > 0.95
