"""What a model card says in figures.

A card may have a section with one table of two columns, which `GetModelInfo` repeats:

    ## Scores

    | score | value |
    |---|---|
    | pixel_f1_planted | 0.41 |
"""

from __future__ import annotations

import math
import re
from pathlib import Path

__all__ = ["CardError", "scores_of"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class CardError(ValueError):
    """A card whose scores cannot be read; the text says which."""


def scores_of(card: Path) -> dict[str, float]:
    """The scores of a card by name; empty if there is no card, or it has no such section.

    Raises:
        CardError: a row that is none.
    """
    try:
        text = card.read_text(encoding="utf-8")
    except OSError:
        return {}
    _, found, rest = f"\n{text}".partition("\n## Scores\n")
    section = rest.partition("\n## ")[0] if found else ""
    rows = [line.strip() for line in section.splitlines() if line.strip().startswith("|")]
    return dict(_score(card, row) for row in rows[2:])


def _score(card: Path, row: str) -> tuple[str, float]:
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    try:
        name, value = cells[0], float(cells[1])
    except (IndexError, ValueError):
        name, value = "", math.nan
    if not _NAME.fullmatch(name) or not math.isfinite(value):
        raise CardError(f"{card.parent.name}/{card.name}: no score: {row}")
    return name, value
