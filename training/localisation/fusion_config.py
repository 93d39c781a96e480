"""The settings of a run of the last layers (`fusion`), as a TOML file."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from training.localisation.store import Store

__all__ = ["FusionConfig", "read_fusion_config"]


class FusionConfig(BaseModel):
    """A run.

    Attributes:
        seed: of weights and samples.
        made: how many made forgeries there are to learn from, by split.
        honest: honest photographs of each collection, at most.
        without: collections of forgeries that are left out.
        width, depth, dropout: of `Fusion`.
        steps: how many.
        batch: pictures a step.
        learning_rate: of AdamW, after warming up; it falls to nothing along a cosine.
        warmup: steps over which it rises.
        weight_decay: of AdamW.
        ema: share of the averaged weights that stays at each step.
        evidence: how much the log odds that a picture was edited at all add to those of every place, afterwards.
        evenness: how far small collections are drawn as often as large ones: 0 by their size, 1 all alike.
        report_every: steps between rows of the curve.
        judge_every: steps between judgements on the split calibrate.
        weights: how often each kind of made sample is drawn, see `Sampler`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    seed: int
    made: dict[str, int]
    honest: int = Field(ge=1)
    without: tuple[str, ...]
    width: int = Field(ge=16, multiple_of=8)
    depth: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    steps: int = Field(ge=1)
    batch: int = Field(ge=2)
    learning_rate: float = Field(gt=0)
    warmup: int = Field(ge=0)
    weight_decay: float = Field(ge=0)
    ema: float = Field(gt=0, lt=1)
    evidence: float = Field(ge=0)
    evenness: float = Field(ge=0, le=1)
    report_every: int = Field(ge=1)
    judge_every: int = Field(ge=1)
    weights: dict[str, float]

    def sample_weights(self, store: Store) -> dict[str, float]:
        """How often each kind of sample is drawn, without what the store has nothing for."""
        kinds = {"handmade": any(one.kind == "forged" for one in store), "face": any(one.face for one in store)}
        return {name: value for name, value in self.weights.items() if kinds.get(name, True)}


def read_fusion_config(path: Path) -> FusionConfig:
    """The settings in a TOML file. Raises pydantic.ValidationError, which names what is wrong."""
    return FusionConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
