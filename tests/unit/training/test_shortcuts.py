"""The shortcut test finds what tells classes apart, and nothing where chance draws the encoding."""

import numpy as np
import pytest

from evaluation.forgery import Encoding
from tests.unit.training.conftest import scene
from training.data.encoding import Encoded, encode_alike
from training.data.shortcuts import _cross_validated, facts_of, words_of

N = 160


@pytest.fixture(scope="module")
def made():
    labels = np.arange(N) % 2 == 0
    sources = np.array([f"{'a' if label else 'b'}{number // 2 % 8}" for number, label in enumerate(labels)])
    return labels, sources, [scene(number, 260) for number in range(N)]


def test_the_common_encoding_hides_the_encoder(made):
    labels, sources, pictures = made
    facts = [facts_of(encode_alike(rgb, str(number))) for number, rgb in enumerate(pictures)]
    matrix = np.stack([fact["encoder"] for fact in facts])
    assert _cross_validated(matrix, labels, sources) < 0.65


def test_a_class_with_its_own_quality_is_found(made):
    labels, sources, pictures = made
    facts = []
    for rgb, label in zip(pictures, labels, strict=True):
        encoding = Encoding(quality=95 if label else 80)
        facts.append(facts_of(Encoded(rgb, encoding.encode(rgb), encoding, 1.0)))
    for fact in ("encoder", "bytes per pixel"):
        matrix = np.stack([one[fact] for one in facts])
        assert _cross_validated(matrix, labels, sources) > 0.95


def test_what_a_source_shows_is_no_excuse(made):
    """A source that is unlike the others tells nothing about the classes when it is left out."""
    _, sources, _ = made
    labels = np.array([source.startswith("a") for source in sources])
    matrix = np.array([[float(ord(source[1]))] for source in sources])
    assert _cross_validated(matrix, labels, sources) < 0.7


def test_subjects_that_go_with_a_class_are_found():
    labels = np.arange(N) % 2 == 0
    sources = np.array([f"{'a' if label else 'b'}{number // 2 % 8}" for number, label in enumerate(labels)])
    texts = [
        f"{'portraits' if label else 'streets'} of {'cats' if number % 3 else 'dogs'}"
        for number, label in enumerate(labels)
    ]
    matrix = words_of(texts)
    assert matrix.shape == (N, 4)
    assert _cross_validated(matrix, labels, sources) > 0.95
    assert _cross_validated(matrix[:, :2], labels, sources) < 0.7
    assert np.isnan(_cross_validated(words_of(["", ""] * (N // 2)), labels, sources))


def test_one_source_a_class_cannot_be_judged(made):
    labels, _, _ = made
    sources = np.where(labels, "a", "b")
    assert np.isnan(_cross_validated(np.zeros((N, 1)), labels, sources))
