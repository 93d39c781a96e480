"""Learning what the teacher says of every place of its maps, on scenes made on the way; resumed where it stopped.

The network has the teacher's form, so that it also learns from what the teacher computes on the way: without these
hints the answers alone, few faces in thousands of places, teach the first layers slowly.

Reference:
    A. Romero et al., "FitNets: Hints for Thin Deep Nets", 2015. arXiv:1412.6550
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from training.faces.yunet.config import RunConfig
from training.faces.yunet.network import HINTS, OUTPUTS, STRIDES, Maps, YuNet
from training.faces.yunet.scenes import SceneMaker
from training.loops import Curve, Run, Stop, read_checkpoint

__all__ = ["Teacher", "distance", "hint_distance", "load_average", "train"]

RGB = NDArray[np.uint8]

_MOMENTUM: Final = 0.95
_LARGEST_GRADIENT: Final = 5.0
_MOST_SCENES: Final = 10_000
"""Of a step: numbers of scenes between two steps."""
_CURVE: Final = ("step", "side", "seconds", "loss", "scores", "boxes", "landmarks", "hints", "found", "extra")


class Teacher:
    """The published network: ONNX with free height and width, and the outputs of `Published`; asked one by one."""

    def __init__(self, network: Path, *, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            _with_hints(network).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        shape = self._session.get_inputs()[0].shape
        if any(isinstance(size, int) for size in shape[2:]):
            raise ValueError(
                f"{network.name} takes pictures of one size only ({shape}): take the export with free sizes"
            )
        self._input = self._session.get_inputs()[0].name

    def maps(self, pictures: NDArray[np.float32]) -> Maps:
        """What it says of pictures: `OUTPUTS`, `cls` and `obj` as probabilities, and `HINTS`.

        Args:
            pictures: float32 (n, 3, h, w), BGR, 0-255.
        """
        names = (*OUTPUTS, *HINTS)
        answers = [self._session.run(list(names), {self._input: picture[None]}) for picture in pictures]
        return {
            name: torch.from_numpy(np.concatenate([answer[index] for answer in answers]))
            for index, name in enumerate(names)
        }


# Units of the stem and of each stage; a unit and the stem's first convolution end in a ReLU.
_STEM_UNITS: Final = 5
_STAGE_UNITS: Final = 2


def _with_hints(network: Path) -> onnx.ModelProto:
    """The network with `HINTS` among its outputs: the ends of its stem, stages and laterals, by their order."""
    model = onnx.load(str(network))
    activations = [node for node in model.graph.node if node.op_type == "Relu"]
    ends = [_STEM_UNITS + _STAGE_UNITS * stage for stage in range(len(STRIDES) + 1)]
    # Laterals are computed from the coarsest to the finest.
    ends += [ends[-1] + level for level in range(len(STRIDES), 0, -1)]
    if len(activations) <= max(ends):
        raise ValueError(f"{network.name} has {len(activations)} activations: it is not of YuNet's form")
    renamed = {activations[end].output[0]: name for end, name in zip(ends, HINTS, strict=True)}
    for node in model.graph.node:
        for values in (node.input, node.output):
            for index, value in enumerate(values):
                values[index] = renamed.get(value, value)
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in HINTS)
    return model


def hint_distance(student: Maps, teacher: Maps) -> Tensor:
    """Mean over `HINTS` of the squared error, as a share of the variance of the teacher's features: 0 is agreement."""
    parts = [
        functional.mse_loss(student[name].float(), teacher[name]) / teacher[name].var().clamp(min=1e-6)
        for name in HINTS
    ]
    return torch.stack(parts).mean()


def distance(student: Maps, teacher: Maps, config: RunConfig) -> dict[str, Tensor]:
    """How far the student is from the teacher: `loss` and its parts.

    Scores: binary cross-entropy with the teacher's probability, over all places, divided by how many faces' worth of
    places the teacher sees; `config.focus` weighs places by how far the confidences lie apart. Boxes and landmarks:
    smooth L1, in strides, where the teacher is sure enough.
    """
    nothing = torch.zeros((), device=student[OUTPUTS[0]].device)
    parts = dict.fromkeys(("scores", "boxes", "landmarks"), nothing)
    weight_sum = nothing
    for stride in STRIDES:
        wanted = {name: teacher[f"{name}_{stride}"] for name in ("cls", "obj", "bbox", "kps")}
        score = (wanted["cls"] * wanted["obj"]).clamp(0, 1).sqrt()
        given_score = torch.sigmoid(student[f"cls_{stride}"].detach().float())
        given_score = (given_score * torch.sigmoid(student[f"obj_{stride}"].detach().float())).sqrt()
        counts = 1 + config.focus * (given_score - score).abs()
        for name in ("cls", "obj"):
            odds, target = student[f"{name}_{stride}"].float(), wanted[name]
            # The entropy of the target is taken off, so that 0 is agreement.
            least = functional.binary_cross_entropy(target, target, reduction="none")
            more = functional.binary_cross_entropy_with_logits(odds, target, reduction="none") - least
            parts["scores"] = parts["scores"] + (more * counts).sum()
        weight = torch.where(score >= config.positive, score, 0.0)
        weight_sum = weight_sum + weight.sum()
        for part, name in (("boxes", "bbox"), ("landmarks", "kps")):
            given = student[f"{name}_{stride}"].float()
            off = functional.smooth_l1_loss(given, wanted[name], reduction="none", beta=0.1)
            parts[part] = parts[part] + (off.mean(dim=2, keepdim=True) * weight).sum()
    count = weight_sum.clamp(min=1.0)
    found = {name: value / count for name, value in parts.items()}
    loss = found["scores"] + config.box_weight * found["boxes"] + config.landmark_weight * found["landmarks"]
    return {"loss": loss, **found}


def load_average(folder: Path) -> tuple[YuNet, int] | None:
    """The averaged network of a run's checkpoint, for inference, and its step; None without one."""
    state = read_checkpoint(folder)
    if state is None:
        return None
    network = YuNet()
    network.load_state_dict(state["average"])
    return network.eval(), int(state["step"])


def train(
    config: RunConfig,
    scenes: SceneMaker,
    teacher: Teacher,
    *,
    start: YuNet | None = None,
    checkpoints: Path,
    log: Path,
    judge: Callable[[YuNet], Mapping[str, float]],
    threads: int = 1,
    until: int | None = None,
) -> int:
    """Trains until the last step, `until`, or until SIGTERM or SIGINT comes; returns the steps done.

    Args:
        config: the run's settings.
        scenes: made as they are needed.
        teacher: labels them.
        start: what a new run begins with; None is random weights.
        checkpoints: folder of the run's checkpoint, from which it goes on.
        log: folder that gets the curve.
        judge: says how much of what the teacher finds the averaged network finds (`found`), and what else (`extra`).
        threads: of PyTorch and OpenCV.
        until: stop after so many steps.
    """
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    run = _Run(config, checkpoints, start)
    stop = Stop()
    curve = Curve(log / "curve.csv", _CURVE, momentum=_MOMENTUM)
    while run.step < config.steps and not stop.asked and run.step != until:
        began = time.monotonic()
        side = config.sides[run.step % len(config.sides)]
        first = run.step * _MOST_SCENES
        pictures = _batch([scenes.scene(first + index, side) for index in range(config.scenes(side))])
        values = run.advance(pictures, teacher)
        run.seconds += time.monotonic() - began
        curve.add(values)
        judged = judge(run.averaged()) if run.step % config.judge_every == 0 else {}
        if run.step % config.report_every == 0:
            curve.write({"step": run.step, "side": side, "seconds": round(run.seconds)}, judged)
        if run.step % config.checkpoint_every == 0:
            run.save()
    run.save()
    return run.step


class _Run(Run[YuNet]):
    """A run behind a teacher."""

    def __init__(self, config: RunConfig, folder: Path, start: YuNet | None = None) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = YuNet()
        if start is not None:
            network.load_state_dict(start.state_dict())
        network = network.to(self._device, memory_format=torch.channels_last)
        super().__init__(
            network,
            torch.optim.AdamW(network.parameters(), weight_decay=config.weight_decay),
            folder=folder,
            settings=config.model_dump_json(),
            ema=config.ema,
            largest_gradient=_LARGEST_GRADIENT,
        )

    def averaged(self) -> YuNet:
        """A copy with the averaged weights."""
        return self.average_in(YuNet())

    def advance(self, pictures: NDArray[np.float32], teacher: Teacher) -> dict[str, float]:
        """One step; the loss and its parts."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.rate(self.step)
        self.network.train()
        if self.config.frozen_norms:
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        images = torch.from_numpy(pictures).to(self._device, memory_format=torch.channels_last)
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self.config.bfloat16):
            features = self.network.features(images)
            maps = self.network.answers(features)
        wanted = {name: value.to(self._device) for name, value in teacher.maps(pictures).items()}
        far = distance(maps, wanted, self.config)
        far["hints"] = hint_distance(features, wanted)
        far["loss"] = far["loss"] + self.config.hints(self.step) * far["hints"]
        self.descend(far["loss"], seen=len(pictures))
        return {name: float(value.detach()) for name, value in far.items()}


def _batch(scenes: list[RGB]) -> NDArray[np.float32]:
    """Float32 (n, 3, h, w), BGR, 0-255."""
    return np.ascontiguousarray(np.stack(scenes)[..., ::-1].transpose(0, 3, 1, 2), dtype=np.float32)
