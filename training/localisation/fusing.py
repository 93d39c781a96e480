"""Training the last layers (`fusion`) on features that were written once; minutes on one core.

The checkpoint holds the localiser too: the two are one network from here on.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training.localisation.config import RunConfig
from training.localisation.fusion import CELLS, Fused, Fusion, edited
from training.localisation.fusion_config import FusionConfig
from training.localisation.fusion_data import MASK, Examples
from training.localisation.losses import class_loss, mask_loss
from training.localisation.network import Localiser
from training.localisation.train import new_network
from training.loops import Curve, Stop, blend

__all__ = ["fuse", "has_fusion", "joined", "judge", "load_fused", "step_of"]

_MOMENTUM: Final = 0.98
_LARGEST_GRADIENT: Final = 1.0
_JUDGEMENTS: Final = ("found", "marked", "right")
_CURVE: Final = ("step", "seconds", "loss", "mask", "dice", "classes", *_JUDGEMENTS)
_JUDGED: Final = 64


def joined(fused: Fused, odds: Tensor) -> Tensor:
    """Log odds of the mask by the parts of cells, (n, 112, 112), from those of the traces, likewise."""
    trust = functional.interpolate(fused.trust[:, None], scale_factor=MASK / CELLS, mode="bilinear")[:, 0]
    return fused.added + trust * odds


def fuse(
    config: FusionConfig,
    train: Examples,
    held: Examples,
    localiser: tuple[RunConfig, Localiser],
    *,
    checkpoint: Path,
    log: Path,
    facts: Mapping[str, Any],
    threads: int = 1,
) -> dict[str, float]:
    """Trains, and writes the checkpoint: the averaged layers as they were judged best; returns that judgement.

    Args:
        config: the run's settings.
        train: what is learned from.
        held: of the split calibrate, for the curve.
        localiser: what the features came from, with its settings.
        checkpoint: the file to write.
        log: folder that gets the curve, and a line of facts.
        facts: what that line tells, JSON-serialisable.
        threads: of PyTorch.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(config.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = _layers(config, localiser[0]).to(device)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=config.weight_decay)
    rng = np.random.default_rng(config.seed)
    sizes = Counter(train.origins)
    chances = np.array([sizes[origin] ** -config.evenness for origin in train.origins])
    chances /= chances.sum()
    log.mkdir(parents=True, exist_ok=True)
    with (log / "data.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"examples": dict(sorted(sizes.items())), **facts}) + "\n")
    stop, began = Stop(), time.monotonic()
    curve = Curve(log / "curve.csv", _CURVE, momentum=_MOMENTUM)
    best, kept, kept_step = {"found": -1.0}, average, 0
    for step in range(1, config.steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = _rate(config, step)
        batch = {
            name: value.to(device)
            for name, value in train.batch(rng.choice(len(train), config.batch, p=chances).tolist()).items()
        }
        network.train()
        values = _step(network, optimiser, batch)
        blend(average, network.state_dict(), ema=config.ema, step=step)
        curve.add(values)
        told: dict[str, float] = {}
        if step % config.judge_every == 0 or step == config.steps:
            judged = judge(_with(network, average), held, evidence=config.evidence)
            told = {name: judged[name] for name in _JUDGEMENTS}
            if judged["found"] > best["found"]:
                best, kept_step = judged, step
                kept = {name: value.clone() for name, value in average.items()}
        if step % config.report_every == 0:
            curve.write({"step": step, "seconds": round(time.monotonic() - began)}, told)
        if stop.asked:
            break
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    settings, base = localiser
    torch.save(
        {
            "config": settings.model_dump_json(),
            "average": base.state_dict(),
            "fusion_config": config.model_dump_json(),
            "fusion": {name: value.cpu() for name, value in kept.items()},
            "step": kept_step or step,
        },
        checkpoint,
    )
    return best


def _layers(config: FusionConfig, localiser: RunConfig) -> Fusion:
    return Fusion(
        traces=localiser.traces,
        decoded=localiser.width,
        width=config.width,
        depth=config.depth,
        dropout=config.dropout,
    )


def _rate(config: FusionConfig, step: int) -> float:
    falling = 0.5 + 0.5 * np.cos(np.pi * step / config.steps)
    return float(config.learning_rate * falling * min(1.0, step / max(1, config.warmup)))


def _step(network: Fusion, optimiser: torch.optim.Optimizer, batch: Mapping[str, Tensor]) -> dict[str, float]:
    tokens = batch["tokens"]
    with torch.autocast(tokens.device.type, dtype=torch.bfloat16):
        fused = network(tokens, batch["cells"])
    fused = Fused(*(part.float() for part in fused))
    mask = joined(fused, batch["odds"])
    forged = (batch["masks"].amax(dim=(1, 2)) > 0.5).float()
    entropy, dice = mask_loss(mask, batch["masks"], forged)
    right = functional.avg_pool2d(((mask.detach() > 0) == (batch["masks"] > 0.5)).float()[:, None], MASK // CELLS)
    reliability = functional.binary_cross_entropy_with_logits(fused.reliability, right[:, 0])
    classes = class_loss(fused.classes, batch["labels"])
    loss = entropy + 0.5 * dice + 0.1 * reliability + 0.15 * classes
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), _LARGEST_GRADIENT)
    optimiser.step()
    parts = {"loss": loss, "mask": entropy, "dice": dice, "classes": classes}
    return {name: float(value.detach()) for name, value in parts.items()}


def _with(network: Fusion, state: Mapping[str, Tensor]) -> Callable[[Tensor, Tensor], Fused]:
    judged = type(network)(**network.settings)
    judged.load_state_dict(dict(state))
    return judged.eval()


def judge(network: Callable[[Tensor, Tensor], Fused], examples: Examples, *, evidence: float = 0.0) -> dict[str, float]:
    """How good the layers are, all between 0 and 1; `evidence` as in `FusionConfig`.

    Returns:
        `found`: mean F1 over collections of forgeries, at the threshold that marks 1 % of honest pictures, and that of
        each collection by its name; `marked`: what 0.5 marks of honest ones; `right`: balanced accuracy of the class.
    """
    heats, masks, labels, said = [], [], [], []
    for start in range(0, len(examples), _JUDGED):
        batch = examples.batch(range(start, min(len(examples), start + _JUDGED)))
        with torch.inference_mode():
            fused = network(batch["tokens"], batch["cells"])
            heats.append(joined(fused, batch["odds"]) + evidence * edited(fused.classes)[:, None, None])
            said.append(fused.classes.argmax(dim=1))
        masks.append(batch["masks"] > 0.5)
        labels.append(batch["labels"])
    heat, mask, label, chosen = torch.cat(heats), torch.cat(masks), torch.cat(labels), torch.cat(said)
    honest = ~mask.any(dim=2).any(dim=1)
    threshold = float(np.quantile(heat[honest].numpy(), 0.99))
    marked = heat > threshold
    overlap = (marked & mask).sum(dim=(1, 2)).float()
    f1 = 2 * overlap / (marked.sum(dim=(1, 2)) + mask.sum(dim=(1, 2))).clamp(min=1)
    origins = np.array(examples.origins)
    by_origin = {
        str(origin): float(f1[torch.from_numpy((origins == origin) & ~honest.numpy())].mean())
        for origin in set(origins[~honest.numpy()])
    }
    known = [value for value in label.unique().tolist() if value >= 0]
    return {
        "found": float(np.mean(list(by_origin.values()))),
        "marked": float((heat[honest] > 0).float().mean()),
        "right": float(np.mean([float((chosen[label == value] == value).float().mean()) for value in known])),
        **by_origin,
    }


def load_fused(checkpoint: Path) -> tuple[Localiser, Fusion, FusionConfig]:
    """Both parts of a checkpoint, for inference, and the settings of the last layers."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    settings = RunConfig.model_validate_json(state["config"])
    base = new_network(settings)
    base.load_state_dict(state["average"])
    config = FusionConfig.model_validate_json(state["fusion_config"])
    fusion = _layers(config, settings)
    fusion.load_state_dict(state["fusion"])
    return base.eval(), fusion.eval(), config


def has_fusion(checkpoint: Path) -> bool:
    """Whether a checkpoint has last layers."""
    return "fusion" in _opened(checkpoint)


def step_of(checkpoint: Path) -> int:
    """The steps that a checkpoint has behind it."""
    return int(_opened(checkpoint)["step"])


def _opened(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return state
