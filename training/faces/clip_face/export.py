"""From heads on traces to what Triton serves: one answer a file, probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from services.faces.attributes._network import OUTPUT
from services.faces.attributes.traces import OUTPUT as TRACES
from training.faces.clip_face.heads import Head

__all__ = ["ask", "export_head"]

_OPSET: Final = 17


def export_head(head: Head, target: Path, facts: Mapping[str, str]) -> None:
    """Writes a head as ONNX: `traces` (n, 3072) to `probabilities` (n, classes).

    Args:
        head: one column a class; of two classes the second's log odds in one column will do.
        target: the file.
        facts: metadata by name.
    """
    if head.weights.shape[1] == 1:
        second = np.array([0, 1], np.float32)
        head = Head(head.weights * second, head.bias * second)
    width, classes = head.weights.shape
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Gemm", [TRACES, "weights", "bias"], ["odds"]),
                helper.make_node("Softmax", ["odds"], [OUTPUT], axis=1),
            ],
            "head",
            [helper.make_tensor_value_info(TRACES, TensorProto.FLOAT, ["n", width])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", classes])],
            [numpy_helper.from_array(head.weights, "weights"), numpy_helper.from_array(head.bias, "bias")],
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=8,
    )
    helper.set_model_props(model, dict(facts))
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def ask(file: Path, traces: NDArray[np.float32]) -> NDArray[np.float64]:
    """What a file answers: float64 (n, classes) of traces (n, 3072)."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.asarray(session.run([OUTPUT], {TRACES: traces})[0], np.float64)
