"""The settings of a run, as a TOML file."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["RunConfig", "SampleKind", "Stage", "read_config"]

SampleKind = Literal["real_face", "photograph", "fake_face", "generated", "blended"]


class Stage(BaseModel):
    """A part of a run.

    Attributes:
        steps: how many.
        side: of the squares that are cut from the chips of 160 pixels, in pixels; 160 takes all of it.
        batch: faces a step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    steps: int = Field(ge=1)
    side: int = Field(ge=96, le=160, multiple_of=8)
    batch: int = Field(ge=4)


class RunConfig(BaseModel):
    """A run.

    Attributes:
        seed: of the new weights and the samples.
        detail: channels that the look at the finest detail begins with; 0 for none.
        seams: whether edges of what was put in are looked for, too.
        start: name of the run whose averaged network a new run begins with; none: FaceNet's weights.
        seam_weight: how much telling where seams run counts beside telling what is fake.
        dropout: share of the features that are dropped.
        bfloat16: whether the network computes in it.
        learning_rate: of AdamW for FaceNet's weights, at its highest.
        new_learning_rate: for the weights that begin at random.
        warmup: steps over which both rise from nothing; then they fall along a cosine to a fiftieth.
        weight_decay: of AdamW.
        ema: share of the averaged weights that stays at each step; they are what is judged and exported.
        report_every, judge_every, checkpoint_every: steps between rows of the curve, looks at `calibrate`, checkpoints.
        left_out: sources that are not learned from: they show what the network makes of manipulations it never saw.
        shares: how often each kind of sample is drawn.
        stages: one after the other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    seed: int
    detail: int = Field(ge=0)
    seams: bool = False
    start: str | None = None
    seam_weight: float = Field(default=0.0, ge=0)
    dropout: float = Field(ge=0, lt=1)
    bfloat16: bool
    learning_rate: float = Field(gt=0)
    new_learning_rate: float = Field(gt=0)
    warmup: int = Field(ge=0)
    weight_decay: float = Field(ge=0)
    ema: float = Field(gt=0, lt=1)
    report_every: int = Field(ge=1)
    judge_every: int = Field(ge=1)
    checkpoint_every: int = Field(ge=1)
    left_out: tuple[str, ...] = ()
    shares: dict[SampleKind, float]
    stages: tuple[Stage, ...] = Field(min_length=1)

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage(self, step: int) -> Stage | None:
        """The stage that a step lies in; None after the end."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return None

    def rate(self, step: int) -> float:
        """The learning rate at a step, relative to its highest."""
        fallen = 0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / self.steps)))
        return fallen * min(1.0, (step + 1) / (self.warmup + 1))


def read_config(path: Path) -> RunConfig:
    """The settings in a TOML file. Raises pydantic.ValidationError, which names what is wrong."""
    return RunConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
