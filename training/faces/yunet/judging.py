"""How far a network agrees with its teacher, both read and suppressed by the same code (OpenCV's FaceDetectorYN)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from services.faces.face import DetectedFace
from training.faces.finding import PublishedYuNet
from training.faces.yunet.network import OUTPUTS, Served, YuNet

__all__ = ["Agreement", "agreement", "export_onnx", "faces_found"]

RGB = NDArray[np.uint8]

CONFIDENCE: Final = 0.6
"""From which both count something as a face."""
_BAND: Final = 0.1
"""What one of them sees a little less sure than `CONFIDENCE`, by at most this, the other may find."""
_OVERLAP: Final = 0.5
OPSET: Final = 15


@dataclass(frozen=True, slots=True)
class Agreement:
    """Counts over pictures.

    Attributes:
        faces: of the teacher.
        found: of these, what the network finds too (overlap of at least 0.5).
        seen: faces of the network.
        extra: of these, what the teacher does not see.
        landmarks_off: mean distance of landmarks of the faces found, as a share of the face's width.
    """

    faces: int
    found: int
    seen: int
    extra: int
    landmarks_off: float

    @property
    def shares(self) -> dict[str, float]:
        """`found` of the teacher's faces, and `extra` of the teacher's number of faces."""
        return {"found": self.found / max(1, self.faces), "extra": self.extra / max(1, self.faces)}


def export_onnx(network: YuNet, target: Path) -> None:
    """Writes the network with the inputs and outputs of the published export; batch, height and width are free."""
    places = {1: "places"}
    torch.onnx.export(
        Served(network).eval(),
        (torch.rand(1, 3, 192, 256) * 255,),
        str(target),
        input_names=["input"],
        output_names=list(OUTPUTS),
        dynamic_axes={"input": {2: "height", 3: "width"}, **dict.fromkeys(OUTPUTS, places)},
        opset_version=OPSET,
        dynamo=False,
    )
    model = onnx.load(str(target))
    _free_batch(model)
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def _free_batch(model: onnx.ModelProto) -> None:
    """Makes one picture a batch of any number: in a Reshape, 0 stands for what the size was before."""
    shapes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    held = [(node.output[0], node.attribute[0].t) for node in model.graph.node if node.op_type == "Constant"]
    held += [(tensor.name, tensor) for tensor in model.graph.initializer]
    for name, tensor in held:
        if name in shapes:
            sizes = onnx.numpy_helper.to_array(tensor).copy()
            sizes[0] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(sizes, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"


def faces_found(network: YuNet | Path, pictures: Sequence[RGB]) -> list[list[DetectedFace]]:
    """What a network, or an ONNX file, finds in pictures at their own size; also what it is a little less sure of."""
    if isinstance(network, Path):
        finder = PublishedYuNet(network, max_side=4096, min_confidence=CONFIDENCE - _BAND)
        return [finder.find(picture) for picture in pictures]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(network, path)
        return faces_found(path, pictures)


def agreement(teacher: Sequence[Sequence[DetectedFace]], student: Sequence[Sequence[DetectedFace]]) -> Agreement:
    """Compares what two found in the same pictures (`faces_found`)."""
    faces = found = seen = extra = 0
    off: list[float] = []
    for wanted, given in zip(teacher, student, strict=True):
        for face in wanted:
            if face.confidence >= CONFIDENCE:
                faces += 1
                match = _match(face, given)
                found += match is not None
                if match is not None:
                    off.append(_landmarks_off(face, match))
        for face in given:
            if face.confidence >= CONFIDENCE:
                seen += 1
                extra += _match(face, wanted) is None
    return Agreement(faces, found, seen, extra, float(np.mean(off)) if off else float("nan"))


def _match(face: DetectedFace, others: Sequence[DetectedFace]) -> DetectedFace | None:
    best = max(others, key=lambda other: other.box.overlap(face.box), default=None)
    return best if best is not None and best.box.overlap(face.box) >= _OVERLAP else None


def _landmarks_off(face: DetectedFace, other: DetectedFace) -> float:
    first, second = face.landmarks, other.landmarks
    if first is None or second is None:
        return float("nan")
    pairs = [
        (first.right_eye, second.right_eye),
        (first.left_eye, second.left_eye),
        (first.nose, second.nose),
        (first.mouth, second.mouth),
    ]
    return float(np.mean([np.hypot(a.x - b.x, a.y - b.y) for a, b in pairs])) / max(1.0, face.box.width)
