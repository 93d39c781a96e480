"""How far a network agrees with its teacher, both read and suppressed by the same code (OpenCV's FaceDetectorYN)."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from evaluation.metrics.intervals import Interval, bootstrap
from services.faces.face import DetectedFace
from services.faces.finders import looks
from training.faces.finding import PublishedYuNet
from training.faces.yunet.network import OUTPUTS, SIZES, STRIDES, Published, Served, YuNet

__all__ = ["AIM", "Agreement", "agreement", "export_onnx", "faces_found", "published_form", "refusal", "serve_onnx"]

RGB = NDArray[np.uint8]

CONFIDENCE: Final = 0.6
"""From which both count something as a face."""
_BAND: Final = 0.1
"""What one of them sees a little less sure than `CONFIDENCE`, by at most this, the other may find."""
_OVERLAP: Final = 0.5
OPSET: Final = 15


AIM: Final = (0.95, 0.02)
"""Share of the teacher's faces to be found at least, and of extra ones at most."""
USEFUL: Final = (0.85, 0.05)
"""The same, below which a network is not served: MediaPipe's finder, which needs none, then finds more."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Counts over n scenes.

    Attributes:
        scenes: int64 (n, 4): in each scene the faces of the teacher; of these, what the network finds too (overlap of
            at least 0.5); the faces of the network; of these, what the teacher does not see.
        landmarks_off: mean distance of landmarks of the faces found, as a share of the face's width.
    """

    scenes: NDArray[np.int64]
    landmarks_off: float

    @property
    def faces(self) -> int:
        """Faces of the teacher."""
        return int(self.scenes[:, 0].sum())

    @property
    def found(self) -> int:
        """Of these, what the network finds too."""
        return int(self.scenes[:, 1].sum())

    @property
    def seen(self) -> int:
        """Faces of the network."""
        return int(self.scenes[:, 2].sum())

    @property
    def extra(self) -> int:
        """Of these, what the teacher does not see."""
        return int(self.scenes[:, 3].sum())

    @property
    def alarmed(self) -> int:
        """Scenes in which the network sees something that the teacher does not."""
        return int((self.scenes[:, 3] > 0).sum())

    @property
    def shares(self) -> dict[str, float]:
        """`found` of the teacher's faces, and `extra` of the teacher's number of faces."""
        return {"found": self.found / max(1, self.faces), "extra": self.extra / max(1, self.faces)}

    def intervals(self) -> dict[str, Interval | None]:
        """95 % intervals of `shares`, by scene."""

        def share(column: int) -> Interval | None:
            def of(chosen: NDArray[np.int64]) -> float:
                drawn = self.scenes[chosen].sum(axis=0)
                return float(drawn[column]) / max(1, int(drawn[0]))

            return bootstrap(of, None, length=len(self.scenes)).interval

        return {"found": share(1), "extra": share(3)}


def refusal(new: Agreement, there: Agreement | None) -> str | None:
    """Why a network is not to take its place in triton_models/; None if it is.

    It has to be useful, and no worse than what is there: no more faces missed and seen in excess, together.

    Args:
        new: on scenes with faces.
        there: of the network that is served, on the same scenes; None if there is none.
    """
    found, extra = new.shares["found"], new.shares["extra"]
    if found < USEFUL[0] or extra > USEFUL[1]:
        return f"not useful: {found:.3f} found of at least {USEFUL[0]}, {extra:.3f} extra of at most {USEFUL[1]}"
    if there is not None and there.found - there.extra > new.found - new.extra:
        return f"worse than what is there: {there.found} found and {there.extra} extra, now {new.found} and {new.extra}"
    return None


def export_onnx(network: YuNet, target: Path) -> None:
    """Writes the network with the inputs and outputs of the published export; batch, height and width are free."""
    _export(Published(network), {name: (1, int(name.split("_")[1])) for name in OUTPUTS}, target)


def serve_onnx(network: YuNet, target: Path) -> None:
    """Writes the network as Triton serves it: three maps (`Served`) of bytes, a quarter of what there is to send."""
    names = dict(zip(looks.OUTPUTS, STRIDES, strict=True))
    _export(Served(network), {name: (2, stride) for name, stride in names.items()}, target)
    model = onnx.load(str(target))
    (taken,) = model.graph.input
    taken.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == taken.name:
                node.input[index] = "pixels"
    model.graph.node.insert(0, onnx.helper.make_node("Cast", [taken.name], ["pixels"], to=onnx.TensorProto.FLOAT))
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def published_form(served: Path, target: Path) -> None:
    """Writes a served file with the outputs of the published export, which OpenCV reads."""
    model = onnx.load(str(served))
    graph = model.graph
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([2], np.int64), "row_axis"))
    ends = np.cumsum([0, *SIZES.values()])
    for place, end in enumerate(ends):
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([end], np.int64), f"row_{place}"))
    for name, stride in zip(looks.OUTPUTS, STRIDES, strict=True):
        graph.node.append(onnx.helper.make_node("Transpose", [name], [f"{name}_rows_last"], perm=[0, 2, 1]))
        for place, part in enumerate(SIZES):
            inputs = [f"{name}_rows_last", f"row_{place}", f"row_{place + 1}", "row_axis"]
            graph.node.append(onnx.helper.make_node("Slice", inputs, [f"{part}_{stride}"]))
    del graph.output[:]
    for name in OUTPUTS:
        part, stride_name = name.split("_")
        shape = ["n", f"places_{stride_name}", SIZES[part]]
        graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def _export(module: torch.nn.Module, outputs: Mapping[str, tuple[int, int]], target: Path) -> None:
    """Writes a form of the network; of each output by its name: the axis of the places, and their stride."""
    torch.onnx.export(
        module.eval(),
        (torch.rand(1, 3, 192, 256) * 255,),
        str(target),
        input_names=["input"],
        output_names=list(outputs),
        # A name for each stride: what has one name has one size, and may share memory.
        dynamic_axes={
            "input": {2: "height", 3: "width"},
            **{name: {axis: f"places_{stride}"} for name, (axis, stride) in outputs.items()},
        },
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
    """What a network, or an ONNX file, finds in pictures at their own size; also what it is a little less sure of.

    Args:
        network: a file may have the published outputs or the served ones.
        pictures: uint8 (h, w, 3) each.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        if isinstance(network, YuNet):
            export_onnx(network, path)
        elif {each.name for each in onnx.load(str(network)).graph.output} == set(looks.OUTPUTS):
            published_form(network, path)
        else:
            path = network
        finder = PublishedYuNet(path, max_side=4096, min_confidence=CONFIDENCE - _BAND)
        return [finder.find(picture) for picture in pictures]


def agreement(teacher: Sequence[Sequence[DetectedFace]], student: Sequence[Sequence[DetectedFace]]) -> Agreement:
    """Compares what two found in the same pictures (`faces_found`)."""
    scenes: list[tuple[int, int, int, int]] = []
    off: list[float] = []
    for wanted, given in zip(teacher, student, strict=True):
        faces = [face for face in wanted if face.confidence >= CONFIDENCE]
        seen = [face for face in given if face.confidence >= CONFIDENCE]
        matches = [(face, match) for face in faces if (match := _match(face, given)) is not None]
        off += [_landmarks_off(face, match) for face, match in matches]
        extra = sum(_match(face, wanted) is None for face in seen)
        scenes.append((len(faces), len(matches), len(seen), extra))
    return Agreement(np.array(scenes, np.int64).reshape(-1, 4), float(np.mean(off)) if off else float("nan"))


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
