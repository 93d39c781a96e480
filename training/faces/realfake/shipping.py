"""Judging a network, or the file that is to be served, and putting the file where Triton's models lie."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.detection import roc_auc
from training.faces.clip_face.heads import Head
from training.faces.clip_face.looking import ClipFace
from training.faces.realfake.config import RunConfig
from training.faces.realfake.export import answers, export_onnx, finish, quantise
from training.faces.realfake.joining import fit_joint, fit_kinds, join, learned_views
from training.faces.realfake.judging import CAMERA_SOURCES, THREE_SOURCES, Judged, Scale, fit_scale, report
from training.faces.realfake.network import RealFake
from training.faces.realfake.patches import Patch
from training.faces.realfake.samples import is_fake
from training.faces.realfake.views import judged_view

__all__ = ["CONFIGURATION", "Judgement", "Pictures", "described", "for_ranges", "install", "judge", "ship", "with_head"]

RGB = NDArray[np.uint8]
Doubles = NDArray[np.float64]
Answer = Callable[[Sequence[RGB]], Doubles]
"""Log odds of chips being fake."""

LEAST_AUC: Final = 0.9
"""On StyleGAN2's held-out faces against real ones of three sources: less is not shipped."""
MOST_ACCUSED: Final = 0.02
"""Of the camera portraits of `dev`: more is not shipped."""
_HISTORIES: Final = 3
"""That each face of `calibrate` is seen with."""
_SEEN_FOR_RANGES: Final = 60
_THREADS: Final = 2
_MOST_UNSEEN: Final = 200
"""Pictures of one maker of a source left out, at most."""
CONFIGURATION: Final = Path(__file__).with_name("serving") / "facenet_realfake.pbtxt"
"""What Triton is told of the model; of users' own classifiers too."""
MODEL: Final = Path(__file__).resolve().parents[3] / "triton_models" / "facenet_realfake"


@dataclass(frozen=True, slots=True)
class Pictures:
    """What networks are judged on: `calibrate` for the threshold, `dev` and sources left out to report.

    `weighed` are faces of calibrate, blended ones too, by which the two halves of what is served are weighed.
    """

    calibrate: Judged
    dev: Judged
    unseen: Judged
    weighed: Judged

    @classmethod
    def of(cls, patches: Sequence[Patch], pixels: Sequence[RGB], config: RunConfig) -> Pictures:
        """The patches of the two splits and of the sources that the run leaves out."""
        kept = [index for index, patch in enumerate(patches) if patch.source not in config.left_out]
        known = [patches[index] for index in kept], [pixels[index] for index in kept]
        return cls(
            # A threshold that one face in a hundred decides hangs on few: each is seen with several histories.
            calibrate=Judged.of(*known, splits=("calibrate",), variants=_HISTORIES),
            dev=Judged.of(*known, splits=("dev",), with_blended=True),
            unseen=Judged.of(patches, pixels, sources=config.left_out, most=_MOST_UNSEEN),
            weighed=Judged.of(*known, splits=("calibrate",), with_blended=True),
        )


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found: the scale that `calibrate` gives, a report in Markdown, and the two figures that decide."""

    scale: Scale
    text: str
    auc: float
    accused: float

    @property
    def is_good_enough(self) -> bool:
        """Whether it may be shipped."""
        return self.auc >= LEAST_AUC and self.accused <= MOST_ACCUSED


def judge(answer: Answer, pictures: Pictures) -> Judgement:
    """Threshold from `calibrate`; all figures of `dev` and of what was left out."""
    scale = fit_scale(pictures.calibrate, answer(pictures.calibrate.views))
    odds = answer(pictures.dev.views)
    dev = pictures.dev
    stylegan = dev.where(lambda patch: patch.maker == "stylegan2_ffhq")
    compared = stylegan | dev.where(lambda patch: patch.source in THREE_SOURCES)
    camera = dev.where(lambda patch: patch.source in CAMERA_SOURCES and patch.kind == "real_face")
    return Judgement(
        scale=scale,
        text=report(dev, odds, pictures.unseen, answer(pictures.unseen.views), scale),
        auc=roc_auc(stylegan[compared], odds[compared]),
        accused=float((odds[camera] >= scale.threshold).mean()),
    )


def ship(
    network: RealFake,
    pictures: Pictures,
    learned: tuple[Sequence[Patch], Sequence[RGB], RunConfig],
    look: ClipFace,
    facts: Mapping[str, str],
) -> tuple[Judgement, str | None]:
    """Quantises the network, joins it with a head on CLIP's traces, judges the file, and ships it if it is good enough.

    Args:
        network: the trained one.
        pictures: what it is judged on.
        learned: patches, their pixels, and the settings of the run that learned from them.
        look: what sees the traces.
        facts: metadata by name.

    Returns:
        The judgement of the file, and the entry that models.lock needs; None if it was not good enough.
    """
    patches, pixels, config = learned
    with tempfile.TemporaryDirectory() as name:
        whole, small = Path(name) / "whole.onnx", Path(name) / "small.onnx"
        export_onnx(network, whole)
        quantise(whole, small, for_ranges(patches, pixels))
        views, kinds = learned_views(patches, pixels, config.left_out)
        print(f"CLIP looks at {len(views)} chips to learn from", flush=True)
        return with_head(small, fit_kinds(look(views), kinds), pictures, look, facts)


def with_head(
    small: Path, head: Head, pictures: Pictures, look: ClipFace, facts: Mapping[str, str]
) -> tuple[Judgement, str | None]:
    """Joins a quantised network with a head; the rest as `ship`."""
    known = pictures.weighed
    joint = fit_joint(known, answers(small, known.views), head(look(known.views)))
    both = small.with_name("both.onnx")
    join(small, head, joint, both)
    judgement = judge(lambda views: answers(both, views, look(views), threads=_THREADS), pictures)
    return judgement, install(both, judgement, facts) if judgement.is_good_enough else None


def install(both: Path, judgement: Judgement, facts: Mapping[str, str]) -> str:
    """Puts a joined file into triton_models/, with the scale of its judgement; returns models.lock's entry."""
    (MODEL / "1").mkdir(parents=True, exist_ok=True)
    told = {
        **facts,
        "input": "faces: uint8 (n, 160, 160, 3), RGB, services.faces.alignment.face_chip at 160 pixels; "
        "traces: (n, 3072), what clip_face says of them",
        "output": "fake: (n, 1), 0 to 1; from 0.5 on called fake",
        "threshold": f"{judgement.scale.threshold:.4f} (log odds)",
        "slope": f"{judgement.scale.slope:.4f}",
    }
    finish(both, MODEL / "1" / "model.onnx", judgement.scale, told)
    shutil.copyfile(CONFIGURATION, MODEL / "config.pbtxt")
    return (
        '[[model]]\nname = "facenet_realfake"\nlicence = "MIT AND LicenseRef-Research-Only"\n\n'
        f'[[model.file]]\npath = "1/model.onnx"\ncommitted = true\n{described(MODEL / "1" / "model.onnx")}'
    )


def described(file: Path) -> str:
    """Digest and size of a file, as models.lock has them."""
    content = file.read_bytes()
    return f'sha256 = "{hashlib.sha256(content).hexdigest()}"\nsize = {len(content)}\n'


def for_ranges(patches: Sequence[Patch], pixels: Sequence[RGB]) -> list[RGB]:
    """Chips of the train split, as many fake as real ones, to see the ranges of the activations on."""
    found: dict[bool, list[RGB]] = {False: [], True: []}
    order = np.random.default_rng(0).permutation(len(patches))
    for index in order.tolist():
        patch = patches[index]
        chosen = found[is_fake(patch.kind)]
        if patch.split == "train" and len(chosen) < _SEEN_FOR_RANGES // 2:
            chosen.append(judged_view(np.ascontiguousarray(pixels[index]), patch.id, 0))
    return found[False] + found[True]
