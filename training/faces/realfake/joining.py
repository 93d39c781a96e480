"""The trained network and a head on CLIP's traces as one file: a face is fake if it was generated, or put together.

Of what CLIP's first blocks see of a face (`training.faces.clip_face`) a linear head tells whether it is real, blended
or generated. That a face was generated is told by our network and this head together, that it was put together by the
head; odds are added, not averaged, for a generated face is of one piece, and a blended one no generator's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression

from services.faces.attributes.traces import OUTPUT as TRACES
from training.faces.clip_face.heads import Head, fit_head
from training.faces.realfake.blending import blended
from training.faces.realfake.export import ODDS
from training.faces.realfake.judging import Judged
from training.faces.realfake.patches import Patch
from training.faces.realfake.samples import is_fake
from training.faces.realfake.views import judged_view

__all__ = ["BLENDED", "GENERATED", "KINDS", "REAL", "Joint", "fit_joint", "fit_kinds", "join", "learned_views"]

RGB = NDArray[np.uint8]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

KINDS: Final = ("real", "blended", "generated")
"""What the head tells apart, in the order of its answers."""
REAL, BLENDED, GENERATED = range(len(KINDS))
_STRENGTH: Final = 1e-3
"""Of the head's logistic regression (scikit-learn's C), on traces of deviation 1."""
_READ: Final = slice(0, 3 * 768)
"""The traces of blocks 5 to 7. With those of block 9, which knows more of what is shown, AUC on blended faces of the
calibrate split is 0.870 instead of 0.875, on generated ones 0.955 instead of 0.946."""
_BLENDED_LESS: Final = 1.0
"""Log odds by which being put together counts less than being generated: of blended faces there are more kinds, and
what is said of them is less sure. On calibrate, 0, 1 and 2 give an AUC of 0.97, 0.98 and 0.99 on StyleGAN2 and of 0.85,
0.83 and 0.80 on blended faces."""
_FACENET: Final = "facenet_"
"""Begins the name of the trained network's own log odds."""


@dataclass(frozen=True, slots=True)
class Joint:
    """Weights of log odds: a face's of being generated, and of being blended.

    Attributes:
        facenet: of the trained network's, in being generated.
        clip: of CLIP's, in being generated and in being blended.
        bias: what is added to the one and to the other.
    """

    facenet: float
    clip: tuple[float, float]
    bias: tuple[float, float]


def learned_views(
    patches: Sequence[Patch], pixels: Sequence[RGB], left_out: Sequence[str]
) -> tuple[list[RGB], NDArray[np.int64]]:
    """What the head learns from: the train split's chips, and their places in `KINDS`.

    Each real face is seen with two histories, and blended twice: with the one before it, and with itself.

    Args:
        patches: of a `PatchStore`.
        pixels: likewise.
        left_out: sources that are not learned from.
    """
    views: list[RGB] = []
    kinds: list[int] = []
    before: RGB | None = None
    for index in np.random.default_rng(3).permutation(len(patches)).tolist():
        patch = patches[index]
        if patch.split != "train" or patch.source in left_out:
            continue
        rgb = np.ascontiguousarray(pixels[index])
        if is_fake(patch.kind):
            views.append(judged_view(rgb, patch.id, 0))
            kinds.append(GENERATED)
        elif patch.kind == "real_face":
            rng = np.random.default_rng(int(patch.id, 16))
            for variant, donor in enumerate((before, None)):
                views.append(judged_view(rgb, patch.id, variant))
                kinds.append(REAL)
                if (made := blended(rgb, donor, rng)) is not None:
                    views.append(judged_view(made.rgb, patch.id, variant))
                    kinds.append(BLENDED)
            before = rgb
    return views, np.array(kinds, np.int64)


def fit_kinds(traces: Floats, kinds: NDArray[np.int64]) -> Head:
    """Log odds of `KINDS`, of traces, (n, 3072), and places in `KINDS`, (n,)."""
    return fit_head(traces[:, _READ], kinds, strength=_STRENGTH).reading(_READ, traces.shape[1])


def fit_joint(judged: Judged, facenet: Doubles, clip: Floats) -> Joint:
    """How the two are weighed, by faces that neither has learned from.

    Args:
        judged: views, with blended ones.
        facenet: the trained network's log odds of them, (n,).
        clip: CLIP's log odds of `KINDS`, (n, 3).
    """
    generated, put_together = clip[:, GENERATED] - clip[:, REAL], clip[:, BLENDED] - clip[:, REAL]
    whole = ~judged.blended
    first = LogisticRegression(C=1e3, class_weight="balanced")
    first.fit(np.stack([facenet, generated], axis=1)[whole], judged.fake[whole])
    either = judged.blended | ~judged.fake
    second = LogisticRegression(C=1e3, class_weight="balanced").fit(put_together[either, None], judged.fake[either])
    return Joint(
        facenet=float(first.coef_[0, 0]),
        clip=(float(first.coef_[0, 1]), float(second.coef_[0, 0])),
        bias=(float(first.intercept_[0]), float(second.intercept_[0]) - _BLENDED_LESS),
    )


def join(network: Path, head: Head, joint: Joint, target: Path) -> None:
    """Writes one file of both, up to the log odds of being fake; it takes traces beside the face.

    Args:
        network: the trained one, of `export_onnx` or `quantise`.
        head: of the traces.
        joint: how the two are weighed.
        target: the file.
    """
    model = onnx.load(str(network))
    graph = model.graph
    for node in graph.node:
        for index, name in enumerate(node.output):
            node.output[index] = _FACENET + ODDS if name == ODDS else name
    kinds = [GENERATED, BLENDED]
    weights = (head.weights[:, kinds] - head.weights[:, [REAL]]) * np.array(joint.clip, np.float32)
    bias = (head.bias[kinds] - head.bias[REAL]) * np.array(joint.clip, np.float32) + np.array(joint.bias, np.float32)
    constants = {"clip_weights": weights, "clip_bias": bias, "facenet_weights": np.array([joint.facenet, 0.0])}
    graph.input.append(helper.make_tensor_value_info(TRACES, TensorProto.FLOAT, ["n", len(weights)]))
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()
    )
    graph.node.extend(
        [
            helper.make_node("Gemm", [TRACES, "clip_weights", "clip_bias"], ["clip_odds"]),
            helper.make_node("Mul", [_FACENET + ODDS, "facenet_weights"], ["facenet_part"]),
            helper.make_node("Add", ["clip_odds", "facenet_part"], ["generated_and_blended"]),
            helper.make_node("ReduceLogSumExp", ["generated_and_blended"], [ODDS], axes=[1], keepdims=1),
        ]
    )
    onnx.save(model, str(target))
