"""What an evaluation says in single figures, as a model card's section "Scores" has them (`triton_models._card`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["class_scores", "mask_scores"]


def mask_scores(result: Mapping[str, Any]) -> str:
    """Pixel F1 of each set of forgeries, and what is marked of pristine pictures; rows of Markdown.

    Args:
        result: of `training.localisation.evaluate.evaluate`, with a network.
    """
    scores: dict[str, float] = {}
    for name, row in result["sets"].items():
        if row["measure"] == "f1":
            scores[f"pixel_f1_{_word(name)}"] = row["network"]["value"]
        else:
            scores[f"marked_area_{_word(name)}"] = row["network"]["value"]
            scores[f"accused_{_word(name)}"] = row["accused"]["network"]["value"]
    return _rows(scores)


def class_scores(result: Mapping[str, Any]) -> str:
    """Balanced accuracy over the classes; a row of Markdown."""
    return _rows({"balanced_accuracy": result["classes"]["balanced_accuracy"]["value"]})


def _word(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _rows(scores: Mapping[str, float]) -> str:
    rows = [f"| {name} | {value:.4f} |" for name, value in sorted(scores.items())]
    return "\n".join(["| score | value |", "|---|---|", *rows])
