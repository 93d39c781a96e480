"""The settings of a run, as a TOML file."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["RunConfig", "read_config"]


class RunConfig(BaseModel):
    """A run.

    Attributes:
        start: name of the run whose averaged network this one begins with; None begins with the age network.
        wild: share of each batch whose gender another network told (`wild.py`), and whose age nobody knows.
        seed: of the new weights and of the views.
        steps: how many.
        batch: faces a step.
        learning_rate: of AdamW, at its highest; it falls along a cosine to a hundredth.
        new_learning_rate: likewise, for the weights that begin at random.
        warmup: steps over which it rises from nothing.
        weight_decay: of AdamW.
        ema: share of the averaged weights that stays at each step; they are what is judged and exported.
        dropout: share of the features that are dropped.
        smoothing: share of a gender label that goes to both classes alike: some labels are wrong.
        age_weight: of the age's loss, beside the gender's.
        bfloat16: whether the network computes in bfloat16; the loss and the weights stay in float32.
        report_every, judge_every, checkpoint_every: steps between rows of the curve, judgements, checkpoints.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    start: str | None = None
    wild: float = Field(0.0, ge=0, lt=1)
    seed: int
    steps: int = Field(ge=1)
    batch: int = Field(ge=2)
    learning_rate: float = Field(gt=0)
    new_learning_rate: float = Field(gt=0)
    warmup: int = Field(ge=0)
    weight_decay: float = Field(ge=0)
    ema: float = Field(gt=0, lt=1)
    dropout: float = Field(ge=0, lt=1)
    smoothing: float = Field(ge=0, lt=1)
    age_weight: float = Field(ge=0)
    bfloat16: bool
    report_every: int = Field(ge=1)
    judge_every: int = Field(ge=1)
    checkpoint_every: int = Field(ge=1)

    def rate(self, step: int) -> float:
        """The share of the learning rates that a step uses."""
        fallen = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / self.steps))
        return (0.01 + 0.99 * fallen) * min(1.0, (step + 1) / (self.warmup + 1))


def read_config(path: Path) -> RunConfig:
    """The settings in a TOML file. Raises pydantic.ValidationError, which names what is wrong."""
    return RunConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
