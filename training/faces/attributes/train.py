"""Learning gender and age from labelled faces; seeded, and resumed where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from services.faces.attributes._network import normalised
from training.faces.attributes.config import RunConfig
from training.faces.attributes.network import AGES, AttributeNetwork, load_age_network
from training.faces.attributes.views import learned_view
from training.loops import Curve, Run, Stop, read_checkpoint

__all__ = ["Batches", "Labelled", "answers", "load_average", "overfit", "train", "use_threads"]

RGB = NDArray[np.uint8]
Doubles = NDArray[np.float64]

_MOMENTUM: Final = 0.98
_LARGEST_GRADIENT: Final = 2.0
_CURVE: Final = ("step", "seconds", "loss", "gender", "age", "accuracy", "chosen_gender", "chosen_age", "wild_gender")


Batches = Callable[[int, int], tuple[RGB, NDArray[np.int64], NDArray[np.int64]]]
"""From a step's number and a size to chips, uint8 (size, 64, 64, 3), whether male, and years, -1 where unknown."""


class Labelled:
    """Patches with labels, drawn from.

    Args:
        patches: uint8 (n, 112, 112, 3).
        male: 0 or 1, (n,).
        years: (n,).
        seed: with a step's number it decides the step's batch.
    """

    def __init__(self, patches: RGB, male: Sequence[int], years: Sequence[int], *, seed: int) -> None:
        self._patches, self._seed = patches, seed
        self._male, self._years = np.asarray(male, np.int64), np.asarray(years, np.int64)
        self._turn, self._permuted = -1, np.zeros(0, np.int64)

    def batch(self, step: int, size: int) -> tuple[RGB, NDArray[np.int64], NDArray[np.int64]]:
        """Chips, uint8 (size, 64, 64, 3), their gender labels and their years: every face once, and then again."""
        count = len(self._patches)
        places = np.arange(step * size, (step + 1) * size)
        chosen = np.array([self._order(int(place) // count)[int(place) % count] for place in places])
        rng = np.random.default_rng([self._seed, step])
        chips = np.stack([learned_view(self._patches[index], rng) for index in chosen])
        return chips, self._male[chosen], self._years[chosen]

    def mixed(self, others: Labelled, share: float) -> Batches:
        """Batches of which a share is drawn from others."""

        def batch(step: int, size: int) -> tuple[RGB, NDArray[np.int64], NDArray[np.int64]]:
            count = round(size * share)
            chips, male, years = self.batch(step, size - count)
            more_chips, more_male, more_years = others.batch(step, count)
            return (
                np.concatenate([chips, more_chips]),
                np.concatenate([male, more_male]),
                np.concatenate([years, more_years]),
            )

        return batch

    def _order(self, turn: int) -> NDArray[np.int64]:
        if self._turn != turn:
            self._turn, self._permuted = turn, np.random.default_rng([self._seed, 7, turn]).permutation(len(self._male))
        return self._permuted


def use_threads(count: int) -> None:
    """As many threads for PyTorch and OpenCV."""
    torch.set_num_threads(count)
    cv2.setNumThreads(count)


def _tensor(chips: Sequence[RGB] | RGB) -> Tensor:
    return torch.from_numpy(normalised(list(chips))).contiguous(memory_format=torch.channels_last)


def answers(network: AttributeNetwork, chips: RGB, *, batch: int = 256) -> tuple[Doubles, Doubles]:
    """What a network says of chips, each asked as it is and mirrored, as the service asks.

    Returns:
        Probability of male, (n,), and expected years, (n,).
    """
    network.eval()
    male, years = [], []
    ages = torch.arange(AGES, dtype=torch.float32)
    with torch.inference_mode():
        for start in range(0, len(chips), batch):
            part = chips[start : start + batch]
            views = [network(_tensor(view)) for view in (part, part[:, :, ::-1])]
            male.append(torch.stack([odds.softmax(dim=1)[:, 1] for odds, _ in views]).mean(dim=0))
            years.append(torch.stack([odds.softmax(dim=1) @ ages for _, odds in views]).mean(dim=0))
    return torch.cat(male).double().numpy(), torch.cat(years).double().numpy()


def losses(
    gender_odds: Tensor, age_odds: Tensor, male: Tensor, years: Tensor, config: RunConfig
) -> tuple[Tensor, Tensor]:
    """Of gender: cross-entropy. Of age: cross-entropy with ages near the label, and the expected age's distance."""
    gender = functional.cross_entropy(gender_odds, male, label_smoothing=config.smoothing)
    ages = torch.arange(AGES, dtype=torch.float32)
    known = years >= 0
    if not known.any():
        return gender, age_odds.sum() * 0
    age_odds, label = age_odds[known], years[known].clamp(max=AGES - 1).float()[:, None]
    # How old a face looks is known the less exactly the older it is.
    near = (-0.5 * ((ages - label) / (1.0 + 0.05 * label)) ** 2).softmax(dim=1)
    age = functional.cross_entropy(age_odds, near)
    expected = age_odds.softmax(dim=1) @ ages
    return gender, age + 0.1 * functional.smooth_l1_loss(expected, label[:, 0], beta=2.0)


def load_average(folder: Path) -> tuple[AttributeNetwork, int] | None:
    """The averaged network of a run's checkpoint, for inference, and its step; None without one."""
    state = read_checkpoint(folder)
    if state is None:
        return None
    network = AttributeNetwork()
    network.load_state_dict(state["average"])
    return network.eval(), int(state["step"])


def train(
    config: RunConfig,
    batches: Batches,
    *,
    start: Path | AttributeNetwork,
    checkpoints: Path,
    log: Path,
    judge: Callable[[AttributeNetwork], Mapping[str, float]],
    threads: int = 1,
    until: int | None = None,
) -> int:
    """Trains until the last step, `until`, or until SIGTERM or SIGINT comes; returns the steps done.

    Args:
        config: the run's settings.
        batches: what is learned from.
        start: what a new run begins with: the age network's file, or a network that knows both already.
        checkpoints: folder of the run's checkpoint, from which it goes on.
        log: folder that gets the curve.
        judge: says how good the averaged network is, by the last names of the curve.
        threads: of PyTorch and OpenCV.
        until: stop after so many steps.
    """
    use_threads(threads)
    run = _Run(config, checkpoints, start)
    stop = Stop()
    curve = Curve(log / "curve.csv", _CURVE, momentum=_MOMENTUM)
    while run.step < config.steps and not stop.asked and run.step != until:
        began = time.monotonic()
        values = run.advance(*batches(run.step, config.batch))
        run.seconds += time.monotonic() - began
        curve.add(values)
        judged = judge(run.averaged()) if run.step % config.judge_every == 0 else {}
        if run.step % config.report_every == 0:
            curve.write({"step": run.step, "seconds": round(run.seconds)}, judged)
        if run.step % config.checkpoint_every == 0:
            run.save()
    run.save()
    return run.step


def overfit(
    config: RunConfig, batches: Batches, start: Path | AttributeNetwork, *, steps: int, threads: int = 1
) -> list[float]:
    """The losses of a new network that sees one batch again and again: they must fall to nothing."""
    use_threads(threads)
    run = _Run(config.model_copy(update={"smoothing": 0.0, "dropout": 0.0, "steps": 10 * steps}), None, start)
    batch = batches(0, 32)
    return [run.advance(*batch)["gender"] for _ in range(steps)]


class _Run(Run[AttributeNetwork]):
    """A run on labelled faces."""

    def __init__(self, config: RunConfig, folder: Path | None, start: Path | AttributeNetwork) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        network = AttributeNetwork(config.dropout)
        if isinstance(start, AttributeNetwork):
            network.load_state_dict(start.state_dict())
        else:
            load_age_network(network, start)
        network = network.to(memory_format=torch.channels_last)
        new = list(network.gender.parameters())
        known = [value for name, value in network.named_parameters() if not name.startswith("gender.")]
        super().__init__(
            network,
            torch.optim.AdamW([{"params": known}, {"params": new}], weight_decay=config.weight_decay),
            folder=folder,
            settings=config.model_dump_json(),
            ema=config.ema,
            largest_gradient=_LARGEST_GRADIENT,
        )
        torch.manual_seed(config.seed + self.step)

    def averaged(self) -> AttributeNetwork:
        """A copy with the averaged weights."""
        return self.average_in(AttributeNetwork()).to(memory_format=torch.channels_last)

    def advance(self, chips: RGB, male: NDArray[np.int64], years: NDArray[np.int64]) -> dict[str, float]:
        """One step; what the batch cost and how many genders were told right."""
        rates = self.config.learning_rate, self.config.new_learning_rate
        for group, highest in zip(self.optimiser.param_groups, rates, strict=True):
            group["lr"] = highest * self.config.rate(self.step)
        self.network.train()
        wanted = torch.from_numpy(male)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bfloat16):
            gender_odds, age_odds = self.network(_tensor(chips))
        gender, age = losses(gender_odds.float(), age_odds.float(), wanted, torch.from_numpy(years), self.config)
        loss = gender + self.config.age_weight * age
        self.descend(loss, seen=len(chips))
        right = (gender_odds.detach().argmax(dim=1) == wanted).float().mean()
        return {
            "loss": float(loss.detach()),
            "gender": float(gender.detach()),
            "age": float(age.detach()),
            "accuracy": float(right),
        }
