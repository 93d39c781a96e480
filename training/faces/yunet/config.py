"""The settings of a run, as a TOML file."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

__all__ = ["RunConfig", "read_config"]


class RunConfig(BaseModel):
    """A run.

    Attributes:
        start: name of the run whose averaged network this one begins with; None begins with random weights.
        seed: of weights and scenes.
        steps: how many.
        batch: scenes of 256 pixels a step; as many pixels of others, two scenes at least.
        sides: of the scenes, in pixels, multiples of 32; one for a step, in turns.
        learning_rate: of AdamW, at its highest; it falls along a cosine to a hundredth.
        warmup: steps over which it rises from nothing.
        weight_decay: of AdamW.
        ema: share of the averaged weights that stays at each step; they are what is judged and exported.
        positive: from this score of the teacher's on, a place's box and landmarks are learned.
        box_weight, landmark_weight: of the two in the loss, beside the scores.
        hint_weight: of the features on the way, as they are nearer to the teacher's or farther; it falls to nothing
            along with the learning rate.
        focus: a place's scores count once, and so much more if its confidence is as wrong as it can be.
        frozen_norms: whether the norms keep the statistics that they begin with, as when the network is served: those
            of a batch change its answers from step to step.
        bfloat16: whether the network computes in bfloat16; the loss and the weights stay in float32.
        report_every, judge_every, checkpoint_every: steps between rows of the curve, judgements, checkpoints.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    start: str | None = None
    seed: int
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    sides: tuple[int, ...] = Field(min_length=1)
    learning_rate: float = Field(gt=0)
    warmup: int = Field(ge=0)
    weight_decay: float = Field(ge=0)
    ema: float = Field(gt=0, lt=1)
    positive: float = Field(gt=0, lt=1)
    box_weight: float = Field(ge=0)
    landmark_weight: float = Field(ge=0)
    hint_weight: float = Field(ge=0)
    focus: float = Field(0.0, ge=0)
    frozen_norms: bool = False
    bfloat16: bool
    report_every: int = Field(ge=1)
    judge_every: int = Field(ge=1)
    checkpoint_every: int = Field(ge=1)

    @field_validator("sides")
    @classmethod
    def _fit_the_strides(cls, sides: tuple[int, ...]) -> tuple[int, ...]:
        if any(side < 32 or side % 32 for side in sides):
            raise ValueError("the sides of scenes are multiples of 32")
        return sides

    def scenes(self, side: int) -> int:
        """How many scenes of a side make a batch."""
        return max(2, round(self.batch * 256**2 / side**2))

    def rate(self, step: int) -> float:
        """The learning rate at a step."""
        return self.learning_rate * (0.01 + 0.99 * self._fallen(step)) * min(1.0, (step + 1) / (self.warmup + 1))

    def hints(self, step: int) -> float:
        """The weight of the features on the way at a step."""
        return self.hint_weight * self._fallen(step)

    def _fallen(self, step: int) -> float:
        return 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / self.steps))


def read_config(path: Path) -> RunConfig:
    """The settings in a TOML file. Raises pydantic.ValidationError, which names what is wrong."""
    return RunConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
