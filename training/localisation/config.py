"""The settings of a run, as a TOML file."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["RunConfig", "Stage", "read_config"]


class Stage(BaseModel):
    """A part of a run.

    Attributes:
        steps: how many; None for no end, which only the last stage has.
        side: of the crops, in pixels, a multiple of 16.
        batch: crops a step.
        learning_rate: of AdamW, after warming up.
        warmup: steps over which it rises from nothing.
        final_learning_rate: what it has come down to at the stage's end, along a cosine; None keeps it.
        gentle: share of the crops that are hardly post-processed; traces are learned sooner where they are plain.
        deep: whether the whole network is trained; else what reads the traces, at a tenth of the cost.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    steps: int | None = Field(None, ge=1)
    side: int = Field(ge=64, le=1024, multiple_of=16)
    batch: int = Field(ge=2)
    learning_rate: float = Field(gt=0)
    warmup: int = Field(ge=0)
    final_learning_rate: float | None = Field(None, gt=0)
    gentle: float = Field(0.0, ge=0, le=1)
    deep: bool = True

    @model_validator(mode="after")
    def _only_what_ends_comes_down(self) -> Self:
        if self.final_learning_rate is not None and self.steps is None:
            raise ValueError("a stage without an end has no final learning rate: give its steps")
        return self

    def rate(self, step: int) -> float:
        """The learning rate at a step since the stage began."""
        rate = self.learning_rate
        if self.final_learning_rate is not None and self.steps is not None:
            share = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / self.steps))
            rate = self.final_learning_rate + share * (rate - self.final_learning_rate)
        return rate * min(1.0, (step + 1) / (self.warmup + 1))


class RunConfig(BaseModel):
    """A run.

    Attributes:
        seed: of weights and samples.
        learned_filters: constrained residual filters of the stem.
        backbone: channels after the stem; 64 is ResNet50.
        width: channels of ASPP and decoder.
        traces: channels of what reads the traces.
        bfloat16: whether the network computes in it; on a CPU that pays for wide networks only.
        handmade: whether hand-made forgeries are trained on.
        ema: share of the averaged weights that stays at each step; they are what is evaluated and exported.
        weight_decay: of AdamW.
        report_every: steps between rows of the curve.
        checkpoint_every: steps between checkpoints.
        weights: how often each kind of sample is drawn, see `Sampler`.
        stages: one after the other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    seed: int
    learned_filters: int = Field(ge=1)
    backbone: int = Field(64, ge=8)
    width: int = Field(ge=16)
    traces: int = Field(64, ge=8)
    bfloat16: bool
    handmade: bool
    ema: float = Field(gt=0, lt=1)
    weight_decay: float = Field(ge=0)
    report_every: int = Field(ge=1)
    checkpoint_every: int = Field(ge=1)
    weights: dict[str, float]
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _only_last_is_endless(self) -> Self:
        if any(stage.steps is None for stage in self.stages[:-1]):
            raise ValueError("only the last stage may have no end")
        return self

    @property
    def sample_weights(self) -> dict[str, float]:
        """How often each kind of sample is drawn, without what this run does without."""
        return {name: value for name, value in self.weights.items() if self.handmade or name != "handmade"}

    def at(self, step: int) -> tuple[Stage, int] | None:
        """The stage that a step lies in and the steps since it began; None after the end."""
        begin = 0
        for stage in self.stages:
            if stage.steps is None or step < begin + stage.steps:
                return stage, step - begin
            begin += stage.steps
        return None


def read_config(path: Path) -> RunConfig:
    """The settings in a TOML file. Raises pydantic.ValidationError, which names what is wrong."""
    return RunConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
