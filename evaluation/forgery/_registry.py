"""What a technique's file registers, so that adding a technique is one file.

    @maker(technique=Technique.OTHER)
    def plant_retouch(rgb: RGB, rng: np.random.Generator, *, ...) -> Draft | None: ...

The maker's name is the function's without `plant_`. The function is called again, with the random generator as the
last attempt left it, until it returns a draft that is no degenerate forgery (`evaluation.forgery.make_forgery`).
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.common.detection import Technique

__all__ = ["RGB", "Draft", "Maker", "Mask", "load_makers", "maker"]

RGB = NDArray[np.uint8]
Mask = NDArray[np.bool_]

DEFAULT_MIN_CHANGE: Final = 4.0
"""Lowest mean absolute difference inside the mask (0-255, over pixels and channels): what JPEG of quality 75 does to
the busiest of scikit-image's photographs (0.6 to 4.2, median 2.8). Traces without new content may change less."""

_PREFIX: Final = "plant_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What one attempt at a forgery made; `evaluation.forgery.Forgery` describes the fields.

    `twin` is None where the pristine twin is the picture that was given.
    """

    image: RGB
    mask: Mask
    parameters: Mapping[str, Any]
    source_mask: Mask | None = None
    twin: RGB | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """A way to forge.

    Attributes:
        name: lower_snake_case, unique.
        technique: what its forgeries are labelled as.
        needs_donor: True if it takes a piece of another picture.
        min_change: lowest mean absolute difference (0-255) inside the mask.
        options: names of its keyword options.
        description: the first paragraph of its function's docstring.
        plant: makes one attempt; None where what was drawn does not fit into the picture.
    """

    name: str
    technique: Technique
    needs_donor: bool
    min_change: float
    options: tuple[str, ...]
    description: str
    plant: Callable[..., Draft | None]


_MAKERS: dict[str, Maker] = {}


def maker(
    *, technique: Technique, needs_donor: bool = False, min_change: float = DEFAULT_MIN_CHANGE
) -> Callable[[Callable[..., Draft | None]], Callable[..., Draft | None]]:
    """Registers the decorated function; see `Maker` for the arguments."""

    def register(function: Callable[..., Draft | None]) -> Callable[..., Draft | None]:
        name = function.__name__.removeprefix(_PREFIX)
        if name in _MAKERS:
            raise ValueError(f"there are two forgery makers named {name}")
        if not function.__doc__:
            raise ValueError(f"the forgery maker {name} has no docstring")
        keywords = [
            parameter.name
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.name not in {"donor", "donor_mask"}
        ]
        _MAKERS[name] = Maker(
            name=name,
            technique=technique,
            needs_donor=needs_donor,
            min_change=min_change,
            options=tuple(keywords),
            description=" ".join(function.__doc__.strip().split("\n\n")[0].split()),
            plant=function,
        )
        return function

    return register


def load_makers(package: str) -> Mapping[str, Maker]:
    """Imports every public module of `package`, so that their decorators run; all makers by name, sorted."""
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if not info.name.startswith("_"):
            importlib.import_module(f"{package}.{info.name}")
    return dict(sorted(_MAKERS.items()))
