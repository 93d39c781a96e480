"""The forgery maker: plants known forgeries into pristine pictures, from one seed.

    forgery = make_forgery(rgb, Technique.COPY_MOVE, np.random.default_rng(7), rotation=90.0)
    pair = make_pair(rgb, "splicing", 7, Encoding(quality=85), donor=other)

Detectors are measured on its pairs and networks are trained on its forgeries, so it is fast, pure, and needs nothing
but NumPy, OpenCV and Pillow. A new technique is one file in `evaluation.forgery.techniques`.
"""

from evaluation.forgery._encoding import Encoding
from evaluation.forgery._making import (
    MAX_AREA,
    MIN_AREA,
    Forgery,
    ForgeryFailed,
    Pair,
    encode_pair,
    find_maker,
    make_forgery,
    make_pair,
    makers,
)
from evaluation.forgery._registry import Draft, Maker

__all__ = [
    "MAX_AREA",
    "MIN_AREA",
    "Draft",
    "Encoding",
    "Forgery",
    "ForgeryFailed",
    "Maker",
    "Pair",
    "encode_pair",
    "find_maker",
    "make_forgery",
    "make_pair",
    "makers",
]
