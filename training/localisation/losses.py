"""What the network is trained to make small."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from training.localisation.classes import OTHER, PRISTINE
from training.localisation.network import Output

__all__ = ["Losses", "Truth", "class_loss", "loss_of", "mask_loss"]


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known about a batch: masks, float (n, h, w) of 0 and 1; classes, int64 (n,), `OTHER` for other edits."""

    masks: Tensor
    classes: Tensor


@dataclass(frozen=True, slots=True)
class Losses:
    """The parts of the loss, each a scalar; `total` is their weighted sum."""

    traces: Tensor
    mask: Tensor
    dice: Tensor
    edge: Tensor
    reliability: Tensor
    classes: Tensor

    @property
    def total(self) -> Tensor:
        """What is minimised."""
        rest = 0.3 * self.edge + 0.1 * self.reliability + 0.4 * self.classes
        return self.mask + 0.5 * self.dice + 0.5 * self.traces + rest


def loss_of(output: Output, truth: Truth) -> Losses:
    """Cross-entropy and Dice of the mask, cross-entropy of edge, reliability and class.

    A mask's pixel at a quarter of the size is the forged share of what it covers. Dice is taken over forged pictures
    only: of an empty mask it says nothing. Reliability learns whether the mask was right, without changing it.
    """
    target = functional.avg_pool2d(truth.masks[:, None], 4)[:, 0]
    forged = (target.amax(dim=(1, 2)) > 0.5).float()
    entropy, dice = mask_loss(output.mask, target, forged)
    by_traces = mask_loss(output.by_traces, target, forged)
    inner = -functional.max_pool2d(-target[:, None], 3, 1, 1)[:, 0]
    outer = functional.max_pool2d(target[:, None], 3, 1, 1)[:, 0]
    outline = (outer - inner).clamp(0.0, 1.0)
    right = ((output.mask.detach() > 0) == (target > 0.5)).float()
    return Losses(
        traces=by_traces[0] + 0.5 * by_traces[1],
        mask=entropy,
        dice=dice,
        edge=functional.binary_cross_entropy_with_logits(output.edge, outline),
        reliability=functional.binary_cross_entropy_with_logits(output.reliability, right),
        classes=class_loss(output.classes, truth.classes),
    )


def mask_loss(logits: Tensor, target: Tensor, forged: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy and Dice of log odds (n, h, w) and a target in 0-1; `forged`, (n,), says which have a forgery."""
    chance = torch.sigmoid(logits)
    overlap = (chance * target).sum(dim=(1, 2))
    dice = 1.0 - (2.0 * overlap + 1.0) / (chance.sum(dim=(1, 2)) + target.sum(dim=(1, 2)) + 1.0)
    entropy = functional.binary_cross_entropy_with_logits(logits, target)
    return entropy, (dice * forged).sum() / forged.sum().clamp(min=1.0)


def class_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of log odds (n, 5); of `OTHER` only that the picture was edited."""
    log_chance = functional.log_softmax(logits, dim=1)
    known = -log_chance.gather(1, classes.clamp(min=0)[:, None])[:, 0]
    edited = -torch.log1p(-log_chance[:, PRISTINE].exp().clamp(max=1.0 - 1e-4))
    return torch.where(classes == OTHER, edited, known).mean()
