"""The training loop: the same on a CPU (bfloat16, channels last) and on a GPU, seeded, and resumed where it stopped."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from training.localisation.config import RunConfig
from training.localisation.losses import Truth, loss_of
from training.localisation.network import Localiser
from training.localisation.samples import Sampler
from training.localisation.store import Store
from training.loops import Curve, Run, Stop

__all__ = ["Batch", "Batches", "load_average", "new_network", "train"]

_MOMENTUM: Final = 0.98
"""Share of the old value in the curve's running means."""
_LARGEST_GRADIENT: Final = 5.0
_CURVE: Final = (
    "step",
    "side",
    "seconds",
    "crops",
    "total",
    "traces",
    "mask",
    "dice",
    "edge",
    "reliability",
    "classes",
    "f1",
    "accuracy",
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Crops with what is known about them: uint8 (n, 3, h, w), float (n, h, w), int64 (n,)."""

    step: int
    images: Tensor
    masks: Tensor
    classes: Tensor


class Batches(IterableDataset[Batch]):
    """The batches of a run from a step on; several workers take turns."""

    def __init__(self, sampler: Sampler, config: RunConfig, start: int) -> None:
        self._sampler, self._config, self._start = sampler, config, start

    def __iter__(self) -> Iterator[Batch]:
        """Batches in order, until the last stage ends."""
        worker = torch.utils.data.get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        cv2.setNumThreads(1)
        for step in itertools.count(self._start + first, stride):
            place = self._config.at(step)
            if place is None:
                return
            stage, since = place
            # Numbers are never used twice: stages do not share them.
            stage_number = self._config.stages.index(stage)
            base = stage_number * 10**9 + since * stage.batch
            samples = [
                self._sampler.sample(base + index, stage.side, gentle=stage.gentle) for index in range(stage.batch)
            ]
            yield Batch(
                step=step,
                images=torch.from_numpy(np.stack([sample.rgb for sample in samples])).permute(0, 3, 1, 2),
                masks=torch.from_numpy(np.stack([sample.mask for sample in samples])).float(),
                classes=torch.tensor([sample.label for sample in samples]),
            )


def new_network(config: RunConfig) -> Localiser:
    """The network with random weights, the same for the same seed."""
    torch.manual_seed(config.seed)
    return Localiser(learned=config.learned_filters, backbone=config.backbone, width=config.width, traces=config.traces)


def load_average(checkpoint: Path) -> tuple[Localiser, int]:
    """The averaged network of a checkpoint, for inference, and its step."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    network = new_network(RunConfig.model_validate(json.loads(state["config"])))
    network.load_state_dict(state["average"])
    return network.eval(), int(state["step"])


class _Run(Run[Localiser]):
    """A run on forged and untouched crops."""

    def __init__(self, config: RunConfig, folder: Path, device: torch.device, weights: Path | None) -> None:
        self.config, self.device = config, device
        network = new_network(config).to(device, memory_format=torch.channels_last)
        if weights is not None:
            network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True)["average"])
        decayed = [value for value in network.parameters() if value.ndim > 1]
        plain = [value for value in network.parameters() if value.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        super().__init__(
            network,
            torch.optim.AdamW(groups, fused=True),
            folder=folder,
            settings=config.model_dump_json(),
            ema=config.ema,
            largest_gradient=_LARGEST_GRADIENT,
        )

    def advance(self, batch: Batch, learning_rate: float, *, deep: bool) -> dict[str, float]:
        """One step of the whole network, or of what reads the traces; what it cost and how well it judged."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        began = time.monotonic()
        images = batch.images.to(self.device, torch.float32, memory_format=torch.channels_last)
        truth = Truth(batch.masks.to(self.device), batch.classes.to(self.device))
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.bfloat16):
            output = self.network(images) if deep else self.network.read_traces(images)
        losses = loss_of(output, truth)
        self.descend(losses.total, seen=len(images))
        parts = ("total", "traces", "mask", "dice", "edge", "reliability", "classes")
        values = {name: float(getattr(losses, name).detach()) for name in parts}
        values.update(_scores(output.mask.detach(), output.classes.detach(), truth))
        self.seconds += time.monotonic() - began
        return values


def train(
    config: RunConfig,
    store: Store,
    *,
    checkpoints: Path,
    log: Path,
    facts: Mapping[str, Any],
    workers: int = 1,
    threads: int = 2,
    until: int | None = None,
    weights: Path | None = None,
) -> int:
    """Trains until the last stage ends, `until` is reached, or SIGTERM or SIGINT comes; returns the steps done.

    Args:
        config: the run's settings.
        store: the pictures of the train split.
        checkpoints: folder of the run's checkpoint, from which it goes on.
        log: folder that gets the curve, and a line for each time that the run began or went on.
        facts: what that line tells of the data, JSON-serialisable.
        workers: processes that make samples; 0 makes them in this one.
        threads: of PyTorch, on a CPU.
        until: stop after so many steps.
        weights: another run's checkpoint, whose averaged network a new run begins with; one that goes on has its own.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(threads)
    run = _Run(config, checkpoints, device, weights)
    sampler = Sampler(store, config.sample_weights, seed=config.seed)
    loader = DataLoader(
        Batches(sampler, config, run.step),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
    with (log / "data.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"from_step": run.step, "device": device.type, **facts}) + "\n")
    stop = Stop()
    curve = Curve(log / "curve.csv", _CURVE, momentum=_MOMENTUM)
    run.network.train()
    torch.manual_seed(config.seed + run.step)
    for batch in loader:
        place = config.at(run.step)
        if place is None or stop.asked or (until is not None and run.step >= until):
            break
        stage, since = place
        values = run.advance(batch, stage.rate(since), deep=stage.deep)
        curve.add(values)
        if run.step % config.report_every == 0:
            facts = {"step": run.step, "side": stage.side, "seconds": round(run.seconds), "crops": run.seen}
            curve.write(facts)
        if run.step % config.checkpoint_every == 0:
            run.save()
    run.save()
    return run.step


def _scores(logits: Tensor, classes: Tensor, truth: Truth) -> dict[str, float]:
    """Mean pixel F1 at 0.5 over the forged crops, and the accuracy over those with a class; NaN without any."""
    target = torch.nn.functional.avg_pool2d(truth.masks[:, None], 4)[:, 0] > 0.5
    marked = logits > 0
    hit = (marked & target).sum(dim=(1, 2)).float()
    both = marked.sum(dim=(1, 2)) + target.sum(dim=(1, 2))
    forged = target.any(dim=2).any(dim=1)
    f1 = (2 * hit / both.clamp(min=1))[forged]
    known = truth.classes >= 0
    right = (classes.argmax(dim=1) == truth.classes)[known].float()
    return {"f1": float(f1.mean()), "accuracy": float(right.mean())}
