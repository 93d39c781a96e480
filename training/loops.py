"""What training loops share: being asked to stop, an average of weights, checkpoints, the curve."""

from __future__ import annotations

import csv
import math
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

import torch
from torch import Tensor

__all__ = ["Curve", "Stop", "blend", "read_checkpoint", "write_checkpoint"]

_NAME = "latest.pt"


class Stop:
    """Whether SIGTERM or SIGINT asked the loop to stop; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, _: FrameType | None) -> None:
        self.asked = True
        signal.signal(number, signal.SIG_DFL)


@torch.no_grad()
def blend(average: dict[str, Tensor], current: Mapping[str, Tensor], *, ema: float, step: int) -> None:
    """Moves an average of weights towards the current ones.

    Args:
        average: changed in place.
        current: a network's state.
        ema: share of the average that stays.
        step: how many steps were done: early weights are worth nothing, so the average is short at first.
    """
    keep = min(ema, step / (step + 10))
    for name, value in average.items():
        if value.dtype.is_floating_point:
            value.lerp_(current[name], 1.0 - keep)
        else:
            value.copy_(current[name])


def write_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Writes `latest.pt`, under another name first: a run that dies while writing has the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "latest.partial"
    torch.save(dict(state), partial)
    partial.replace(folder / _NAME)


def read_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state in `latest.pt`, as weights and numbers alone; None without one."""
    path = folder / _NAME
    state: dict[str, Any] | None = torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None
    return state


class Curve:
    """What a run's steps cost, as running means, and the CSV file that is told of them.

    Args:
        path: the file; rows are added to what is there.
        columns: its columns' names, which a new file begins with.
        momentum: share of the old value in a running mean.
    """

    def __init__(self, path: Path, columns: Sequence[str], *, momentum: float) -> None:
        self._path, self._columns, self._momentum = path, columns, momentum
        self._means: dict[str, float] = {}

    def add(self, values: Mapping[str, float]) -> None:
        """What a step cost, by name; what is not a number is left out."""
        for name, value in values.items():
            if not math.isnan(value):
                before = self._means.get(name, value)
                self._means[name] = self._momentum * before + (1 - self._momentum) * value

    def write(self, facts: Mapping[str, object], judged: Mapping[str, float] = MappingProxyType({})) -> None:
        """Adds a row: facts as they are, the means and what was judged with four decimals."""
        new = not self._path.exists()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval="", lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow({**facts, **{name: f"{value:.4f}" for name, value in (self._means | dict(judged)).items()}})
