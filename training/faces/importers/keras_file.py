"""A model folder of a user's own Keras classifier of faces (`.h5`, `.keras`): served in place of `facenet_realfake`.

    python -m training.faces.importers.keras_file FILE [--scaling unit] [--fake high] [--into FOLDER]

TensorFlow reads the file, in an environment of its own (`make import-realfake` sets it up) and another process, in
Keras' safe mode: code in the file is not run.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnx
import onnxruntime

from services.faces.attributes.traces import OUTPUT
from training.faces.clip_face.looking import TRACES
from training.faces.realfake.export import take_bytes
from triton_models.layout import data_folder

__all__ = ["INTERPRETER", "KerasFileError", "Scaling", "import_classifier", "main"]

Scaling = Literal["unit", "signed", "prewhitened", "none"]
"""What the classifier takes: 0 to 1, -1 to 1, FaceNet's prewhitening, or bytes as they are."""

INTERPRETER: Final = Path(__file__).resolve().parents[2] / ".venv" / "keras" / "bin" / "python"
"""Of the environment that has TensorFlow."""
_CONVERTER: Final = Path(__file__).with_name("keras") / "convert.py"
_MODEL: Final = "facenet_realfake"
_CONFIGURATION: Final = Path(__file__).resolve().parents[1] / "realfake" / "serving" / "facenet_realfake.pbtxt"
_TIMEOUT_SECONDS: Final = 600.0


class KerasFileError(ValueError):
    """The file cannot be imported; the text says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Imports a file; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.faces.importers.keras_file", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--scaling", choices=("unit", "signed", "prewhitened", "none"), default="unit")
    parser.add_argument("--fake", choices=("high", "low"), default="high", help="which end of its output means fake")
    parser.add_argument("--into", type=Path, default=data_folder() / "models" / "own", help="the folder of own models")
    options = parser.parse_args(arguments)
    try:
        place = import_classifier(options.file, options.into, scaling=options.scaling, fake=options.fake)
    except KerasFileError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{place} is made; `make models` puts it in place, and a new start serves it")
    return 0


def import_classifier(
    file: Path, folder: Path, *, scaling: Scaling = "unit", fake: Literal["high", "low"] = "high"
) -> Path:
    """Makes `<folder>/facenet_realfake` of a Keras classifier of one face at a time.

    Args:
        file: `.h5` or `.keras`, the whole model.
        folder: of the deployment's own models.
        scaling: what it takes.
        fake: whether its output is high or low for fakes.

    Returns:
        The model's folder: weights, configuration, card.

    Raises:
        KerasFileError: it cannot be read safely, or it is no such classifier; or TensorFlow is not there.
    """
    if not INTERPRETER.exists():
        raise KerasFileError("TensorFlow's environment is not there: make import-realfake FILE=... sets it up")
    place = folder / _MODEL
    weights = place / "1" / "model.onnx"
    weights.parent.mkdir(parents=True, exist_ok=True)
    command = [str(INTERPRETER), str(_CONVERTER), str(file), str(weights), "--scaling", scaling, "--fake", fake]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS)
    if done.returncode != 0:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        raise KerasFileError(last[0] if last else f"the converter ended with status {done.returncode}")
    _fit_in(weights)
    _check(weights)
    shutil.copyfile(_CONFIGURATION, place / "config.pbtxt")
    (place / "MODEL_CARD.md").write_text(
        f"# {_MODEL}, our own\n\nOf {file.name}, by `python -m training.faces.importers.keras_file`.\n\n"
        f"- scaling: {scaling}\n- fakes have {fake} outputs\n",
        encoding="utf-8",
    )
    return place


def _fit_in(weights: Path) -> None:
    """Lets the file take faces as bytes, as the service sends them, and traces beside them, which are not looked at."""
    model = onnx.load(str(weights))
    take_bytes(model)
    model.graph.input.append(onnx.helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ["n", TRACES]))
    onnx.save(model, str(weights))


def _check(weights: Path) -> None:
    """Asks the file once, as Triton will."""
    session = onnxruntime.InferenceSession(str(weights), providers=["CPUExecutionProvider"])
    inputs = {"faces": np.full((2, 160, 160, 3), 128, np.uint8), OUTPUT: np.zeros((2, TRACES), np.float32)}
    answer = session.run(["fake"], inputs)[0]
    if answer.shape != (2, 1) or not ((answer >= 0) & (answer <= 1)).all():
        raise KerasFileError(
            f"the classifier answers {answer.shape} from {answer.min():.2f} to {answer.max():.2f}: "
            "one probability a face is needed; end it in a sigmoid or a softmax of two"
        )


if __name__ == "__main__":
    raise SystemExit(main())
