"""What training loops share: being asked to stop, a run's state, its checkpoints and averaged weights, the curve."""

from __future__ import annotations

import csv
import math
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["Curve", "Run", "Stop", "blend", "read_checkpoint", "write_checkpoint"]

Network = TypeVar("Network", bound=nn.Module)

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


class Run(Generic[Network]):
    """A network that learns, its optimiser, and the average of its weights: in memory and in a checkpoint.

    Args:
        network: it, on its device, with the weights that a new run begins with.
        optimiser: of its weights.
        folder: of the checkpoint, from which the run goes on; None keeps none.
        settings: the run's, as JSON; they are kept in the checkpoint.
        ema: share of the averaged weights that stays at each step.
        largest_gradient: norm that gradients are cut to.

    Attributes:
        step, seen, seconds: how many steps were done, of how many examples, in what time.
    """

    def __init__(
        self,
        network: Network,
        optimiser: torch.optim.Optimizer,
        *,
        folder: Path | None,
        settings: str,
        ema: float,
        largest_gradient: float,
    ) -> None:
        self.network, self.optimiser = network, optimiser
        self.step, self.seen, self.seconds = 0, 0, 0.0
        self._folder, self._settings, self._ema, self._largest_gradient = folder, settings, ema, largest_gradient
        state = read_checkpoint(folder) if folder is not None else None
        if state is not None:
            network.load_state_dict(state["network"])
            optimiser.load_state_dict(state["optimiser"])
            self.step, self.seen, self.seconds = int(state["step"]), int(state["seen"]), float(state["seconds"])
        self._average = {name: value.detach().clone() for name, value in network.state_dict().items()}
        if state is not None:
            for name, value in self._average.items():
                value.copy_(state["average"][name])

    def descend(self, loss: Tensor, *, seen: int) -> None:
        """One step down a loss that so many examples gave."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self._largest_gradient)
        self.optimiser.step()
        self.step, self.seen = self.step + 1, self.seen + seen
        blend(self._average, self.network.state_dict(), ema=self._ema, step=self.step)

    def average_in(self, network: Network) -> Network:
        """Another network of the same kind, with the averaged weights, for inference."""
        network.load_state_dict(self._average)
        return network.eval()

    def save(self) -> None:
        """Writes the checkpoint."""
        if self._folder is None:
            return
        state = {
            "config": self._settings,
            "network": self.network.state_dict(),
            "average": self._average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seen": self.seen,
            "seconds": self.seconds,
        }
        write_checkpoint(self._folder, state)


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
