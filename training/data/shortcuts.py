"""Shortcuts: does anything tell the classes apart that should not matter, after the common encoding?

For each task a logistic regression and gradient boosting are fitted on facts of the encoded files alone, and judged by
cross-validation in which the pictures of a source stay together:

- *encoder*: format, quantisation tables, colour subsampling. The common encoding draws them by chance: at most
  `MAX_ENCODER_AUC`.
- *size*: width, height, aspect, pixels.
- *bytes per pixel*: with the encoder's settings this says how busy a picture is, which is content.
- *thumbnail*: 32 x 32 pixels: what is shown. It may differ between public collections.
- *subject*: the words by which the source files say what is shown; likewise. Sources that say nothing do not count.

Every maker and source counts alike (at most `most` pictures of each), as it does where a head is fitted.
"""

from __future__ import annotations

import io
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from evaluation.metrics.detection import roc_auc
from training.data.build import picture_path
from training.data.encoding import Encoded, encode_alike
from training.data.manifest import Kind, Row
from training.data.pictures import UnreadablePicture, cropped, read_pixels

__all__ = ["FACTS", "MAX_ENCODER_AUC", "TASKS", "Shortcut", "Task", "facts_of", "find_shortcuts", "words_of"]

Floats = NDArray[np.float64]

MAX_ENCODER_AUC: Final = 0.55
"""Above this the encoder tells the classes apart, and a network would learn the encoder."""
FACTS: Final = ("encoder", "size", "bytes per pixel", "thumbnail", "subject")
_THUMBNAIL: Final = 32
_FOLDS: Final = 5
_MOST_BOOSTED: Final = 200


@dataclass(frozen=True, slots=True)
class Task:
    """What a detector is to tell apart: pictures of some kinds from pictures of others."""

    name: str
    false: tuple[Kind, ...]
    honest: tuple[Kind, ...]


TASKS: Final = (
    Task("generated or photograph", ("generated",), ("photograph",)),
    Task("forged or photograph", ("forged",), ("photograph",)),
    Task("fake or real face", ("fake_face",), ("real_face",)),
    Task("drawn or human", ("drawn",), ("real_face",)),
)


@dataclass(frozen=True, slots=True)
class Shortcut:
    """How well a task is solved by what should not matter.

    Attributes:
        task: its name.
        fact: which facts, of FACTS.
        auc: the better of the two classifiers, cross-validated over sources; NaN with fewer than two sources a class.
        pictures: how many were looked at.
    """

    task: str
    fact: str
    auc: float
    pictures: int


def facts_of(encoded: Encoded) -> dict[str, Floats]:
    """The facts of one encoded picture by name, float64 (d,) each."""
    height, width = encoded.rgb.shape[:2]
    tables = np.zeros(128)
    sampling = -1.0
    if encoded.encoding.format == "jpeg":
        with Image.open(io.BytesIO(encoded.content)) as image:
            assert isinstance(image, JpegImagePlugin.JpegImageFile)
            for number, table in list(image.quantization.items())[:2]:
                tables[64 * number : 64 * number + 64] = table
            sampling = float(JpegImagePlugin.get_sampling(image))
    small = Image.fromarray(encoded.rgb).resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    formats = [float(encoded.encoding.format == name) for name in ("jpeg", "webp", "png")]
    return {
        "encoder": np.array([*formats, sampling, *tables]),
        "size": np.array([width, height, width / height, width * height], np.float64),
        "bytes per pixel": np.array([np.log(len(encoded.content) / (width * height))]),
        "thumbnail": np.asarray(small, np.float64).ravel() / 255.0,
    }


def find_shortcuts(
    rows: Sequence[Row],
    data: Path,
    task: Task,
    *,
    subjects: Mapping[tuple[str, str], str],
    most: int = 12,
    seed: int = 0,
) -> list[Shortcut]:
    """Measures one task on the assembled pictures, at most `most` of a maker and source.

    Only pictures that are in place count. Split `dev` is left alone.

    Args:
        rows: the manifest.
        data: the folder of the pictures.
        task: which classes.
        subjects: what the pictures of a source and maker show, in words.
        most: pictures of a maker and source.
        seed: of the choice.
    """
    chosen = _sample(
        [row for row in rows if row.kind in (*task.false, *task.honest) and row.split != "dev"], most, seed
    )
    paths = [(row, picture_path(data, row)) for row in chosen]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(_of_file, paths, chunksize=20))
    usable = [(row, facts) for (row, _), facts in zip(paths, found, strict=True) if facts is not None]
    labels = np.array([row.kind in task.false for row, _ in usable])
    sources = np.array([row.source for row, _ in usable])
    result = []
    for fact in FACTS[:-1]:
        matrix = np.stack([facts[fact] for _, facts in usable]) if usable else np.zeros((0, 1))
        result.append(Shortcut(task.name, fact, _cross_validated(matrix, labels, sources), len(labels)))
    texts = [subjects.get((row.source, row.maker), "") for row, _ in usable]
    told = np.array([bool(text) for text in texts], np.bool_)
    matrix = words_of([text for text in texts if text])
    auc = _cross_validated(matrix, labels[told], sources[told])
    return [*result, Shortcut(task.name, FACTS[-1], auc, int(told.sum()))]


def words_of(texts: Sequence[str]) -> Floats:
    """Which words each text has, of those that two texts or more have, float64 (n, words)."""
    words = [frozenset(re.findall(r"[a-z]{3,}", text.lower())) for text in texts]
    counts = Counter(word for text in dict(zip(texts, words, strict=True)).values() for word in text)
    vocabulary = sorted(word for word, count in counts.items() if count > 1)
    return np.array([[float(word in text) for word in vocabulary] for text in words]).reshape(len(texts), -1)


def _sample(rows: Sequence[Row], most: int, seed: int) -> list[Row]:
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.id):
        groups[row.maker, row.source].append(row)
    rng = np.random.default_rng(seed)
    chosen: list[Row] = []
    for group in groups.values():
        order = rng.permutation(len(group))[:most]
        chosen += [group[index] for index in order.tolist()]
    return chosen


def _of_file(item: tuple[Row, Path]) -> dict[str, Floats] | None:
    row, path = item
    try:
        return facts_of(encode_alike(cropped(read_pixels(path.read_bytes()), row.box), row.id))
    except (OSError, UnreadablePicture):
        return None


def _logistic() -> Any:
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - slow to import
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300, class_weight="balanced"))


def _boosting() -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: PLC0415

    return HistGradientBoostingClassifier(max_depth=3, max_iter=60, class_weight="balanced", random_state=0)


def _folds(labels: NDArray[np.bool_], sources: NDArray[np.str_]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    from sklearn.model_selection import StratifiedGroupKFold  # noqa: PLC0415

    splitter = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    folds = splitter.split(np.zeros((len(labels), 1)), labels, sources)
    return [(learned, tested) for learned, tested in folds if len(set(labels[learned].tolist())) == 2]


def _cross_validated(matrix: Floats, labels: NDArray[np.bool_], sources: NDArray[np.str_]) -> float:
    """The better classifier's AUC; NaN where it cannot be judged."""
    if not matrix.shape[1]:
        return float("nan")
    if min(len(set(sources[labels].tolist())), len(set(sources[~labels].tolist()))) < 2 or len(labels) < 2 * _FOLDS:
        return float("nan")
    best = 0.0
    # Boosting thousands of pixels takes long and finds nothing more.
    for make in (_logistic, _boosting) if matrix.shape[1] <= _MOST_BOOSTED else (_logistic,):
        scores = np.full(len(labels), np.nan)
        for learned, tested in _folds(labels, sources):
            scores[tested] = make().fit(matrix[learned], labels[learned]).decision_function(matrix[tested])
        seen = ~np.isnan(scores)
        best = max(best, roc_auc(labels[seen], scores[seen]))
    return best
