"""The training loop: seeded, and resumed where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from training.faces.realfake.config import RunConfig
from training.faces.realfake.network import RealFake, load_facenet
from training.faces.realfake.samples import Batch, Sampler
from training.loops import Curve, Run, Stop, read_checkpoint

__all__ = ["load_average", "log_odds", "overfit", "train", "use_threads"]

RGB = NDArray[np.uint8]

_MOMENTUM: Final = 0.95
"""Share of the old value in the curve's running means."""
_LARGEST_GRADIENT: Final = 2.0
_SEAM_WEIGHT: Final = 4.0
"""Of a square with a seam beside one without: they are few."""
_CURVE: Final = ("step", "side", "seconds", "faces", "loss", "seam_loss", "accuracy", "calibrate_auc")


def use_threads(count: int) -> None:
    """As many threads for PyTorch and OpenCV."""
    torch.set_num_threads(count)
    cv2.setNumThreads(count)


def log_odds(
    network: RealFake, views: Sequence[RGB], *, batch: int = 32, bfloat16: bool = False
) -> NDArray[np.float64]:
    """The network's log odds of chips being fake, each uint8 (160, 160, 3); float64 (n,)."""
    network.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        found = [
            network(_tensor(np.stack(views[start : start + batch]))).float().numpy()
            for start in range(0, len(views), batch)
        ]
    return np.concatenate(found).astype(np.float64) if found else np.zeros(0)


def load_average(folder: Path) -> tuple[RealFake, RunConfig, int] | None:
    """The averaged network of a run's checkpoint, for inference, the run's settings, and its step; None without one."""
    state = read_checkpoint(folder)
    if state is None:
        return None
    config = RunConfig.model_validate_json(state["config"])
    network = _new(config)
    network.load_state_dict(state["average"])
    return network.eval(), config, int(state["step"])


def train(
    config: RunConfig,
    sampler: Sampler,
    *,
    start: Path | RealFake,
    checkpoints: Path,
    log: Path,
    judge: Callable[[RealFake], float],
    threads: int = 1,
    until: int | None = None,
) -> int:
    """Trains until the last stage ends, `until` is reached, or SIGTERM or SIGINT comes; returns the steps done.

    Args:
        config: the run's settings.
        sampler: makes its batches.
        start: what a new run starts from: FaceNet's frozen graph, or a network that knows something already.
        checkpoints: folder of the run's checkpoint, from which it goes on.
        log: folder that gets the curve.
        judge: says how good the averaged network is.
        threads: of PyTorch and OpenCV.
        until: stop after so many steps.
    """
    use_threads(threads)
    run = _Run(config, checkpoints, start)
    stop = Stop()
    curve = Curve(log / "curve.csv", _CURVE, momentum=_MOMENTUM)
    torch.manual_seed(config.seed + run.step)
    while (stage := config.stage(run.step)) is not None and not stop.asked and run.step != until:
        batch = sampler.batch(run.step, stage)
        values = run.advance(batch)
        curve.add(values)
        judged = {"calibrate_auc": judge(run.averaged())} if run.step % config.judge_every == 0 else {}
        if run.step % config.report_every == 0:
            facts = {"step": run.step, "side": stage.side, "seconds": round(run.seconds), "faces": run.seen}
            curve.write(facts, judged)
        if run.step % config.checkpoint_every == 0:
            run.save()
    run.save()
    return run.step


def overfit(
    config: RunConfig, sampler: Sampler, start: Path | RealFake, *, steps: int, threads: int = 1
) -> list[float]:
    """The losses of a new network that sees one batch again and again: they must fall to nothing."""
    use_threads(threads)
    run = _Run(config, None, start)
    stage = config.stages[0].model_copy(update={"batch": 16})
    batch = sampler.batch(0, stage)
    return [run.advance(batch)["loss"] for _ in range(steps)]


def _new(config: RunConfig) -> RealFake:
    return RealFake(detail=config.detail, seams=config.seams, dropout=config.dropout)


class _Run(Run[RealFake]):
    """A run on real, fake and blended faces."""

    def __init__(self, config: RunConfig, folder: Path | None, start: Path | RealFake) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        network = _new(config)
        if isinstance(start, RealFake):
            network.begin_with(start)
        else:
            load_facenet(network.trunk, start)
        network = network.to(memory_format=torch.channels_last)
        new = [value for name, value in network.named_parameters() if not name.startswith("trunk.")]
        groups = [{"params": list(network.trunk.parameters())}, {"params": new}]
        super().__init__(
            network,
            torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True),
            folder=folder,
            settings=config.model_dump_json(),
            ema=config.ema,
            largest_gradient=_LARGEST_GRADIENT,
        )

    def averaged(self) -> RealFake:
        """A copy with the averaged weights."""
        return self.average_in(_new(self.config)).to(memory_format=torch.channels_last)

    def advance(self, batch: Batch) -> dict[str, float]:
        """One step; what the batch cost and how much of it was told right."""
        began = time.monotonic()
        faces, fake = _tensor(batch.faces), torch.from_numpy(batch.fake).float()
        rate = self.config.rate(self.step)
        for group, highest in zip(
            self.optimiser.param_groups, (self.config.learning_rate, self.config.new_learning_rate), strict=True
        ):
            group["lr"] = highest * rate
        self.network.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bfloat16):
            odds, seams = self.network.look(faces)
        loss = functional.binary_cross_entropy_with_logits(odds.float(), fake)
        whole = loss
        values = {"loss": float(loss.detach())}
        if seams is not None:
            missed = functional.binary_cross_entropy_with_logits(
                seams.float(),
                torch.from_numpy(batch.seams),
                torch.from_numpy(batch.seams_known).float()[:, None, None],
                pos_weight=torch.tensor(_SEAM_WEIGHT),
            )
            values["seam_loss"] = float(missed.detach())
            whole = loss + self.config.seam_weight * missed
        self.descend(whole, seen=len(faces))
        self.seconds += time.monotonic() - began
        right = ((odds.detach() > 0) == (fake > 0.5)).float().mean()
        return values | {"accuracy": float(right)}


def _tensor(faces: RGB) -> Tensor:
    """From uint8 (n, h, w, 3) to float (n, 3, h, w), 0-255, channels last in memory."""
    return torch.from_numpy(faces).permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
