"""A Keras classifier of faces as ONNX. Runs in an environment of its own, with TensorFlow: see `keras_file`.

    python convert.py FILE.keras|FILE.h5 TARGET.onnx --scaling unit --fake high

Files are read in Keras' safe mode, with nothing of our own registered: layers whose code would come out of the file
(Lambda), or from another library, are refused.
"""

# ruff: noqa: INP001 - run by its place: its environment has nothing of this repository

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SIDE = 160
"""Of the chips that the service cuts."""
_OWN_CODE = {"Lambda", "TFOpLambda", "SlicingOpLambda"}
"""Layers that carry Python code, or name TensorFlow's functions: what they do cannot be known before it is done."""
_REFUSED = 3
"""Exit status for a file that is not what is expected; the text says why."""


class Refused(Exception):
    """The file is not read; the text says why, and what to do."""


def main() -> int:
    """Converts; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--scaling", choices=("unit", "signed", "prewhitened", "none"), required=True)
    parser.add_argument("--fake", choices=("high", "low"), required=True)
    options = parser.parse_args()
    try:
        check_layers(options.file)
        convert(options.file, options.target, scaling=options.scaling, fake=options.fake)
    except Refused as error:
        print(error, file=sys.stderr)
        return _REFUSED
    return 0


def check_layers(file: Path) -> None:
    """Looks at the file's description of its layers, before anything of it is built. Raises Refused."""
    for layer in _layers(_description(file)):
        if layer in _OWN_CODE:
            raise Refused(
                f"{file.name} has a {layer} layer, whose code is in the file: it is not run. "
                "Build the model with a Rescaling layer, or another of Keras' own, in its place, and save it again."
            )


def _description(file: Path) -> Any:
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                return json.loads(archive.read("config.json"))
        import h5py  # noqa: PLC0415 - not needed for the newer form

        with h5py.File(file) as content:
            text = content.attrs.get("model_config")
            if text is None:
                raise Refused(f"{file.name} has weights only: save the whole model by model.save(...)")
            return json.loads(text)
    except (OSError, KeyError, ValueError) as error:
        raise Refused(f"{file.name} is no Keras model (.keras or .h5): {error}") from error


def _layers(description: Any) -> Iterator[str]:
    """The class names in a description, at any depth."""
    if isinstance(description, dict):
        if isinstance(description.get("class_name"), str):
            yield description["class_name"]
        for value in description.values():
            yield from _layers(value)
    elif isinstance(description, list):
        for value in description:
            yield from _layers(value)


def convert(file: Path, target: Path, *, scaling: str, fake: str) -> None:
    """Writes `faces` (n, 160, 160, 3), RGB, 0-255, to `fake` (n, 1), 0-1. Raises Refused."""
    import keras  # noqa: PLC0415 - TensorFlow takes seconds to load
    import tensorflow as tf  # noqa: PLC0415
    import tf2onnx  # noqa: PLC0415

    try:
        model = keras.saving.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # whatever Keras says about a file
        raise Refused(f"{file.name} cannot be read in safe mode: {str(error).splitlines()[0]}") from error
    shape, outputs = model.input_shape, model.output_shape
    if isinstance(shape, list) or len(shape) != 4 or shape[3] != 3:
        raise Refused(f"{file.name} takes {shape}; one picture of three channels, (height, width, 3), is needed")
    if isinstance(outputs, list) or len(outputs) != 2 or outputs[1] not in {1, 2}:
        raise Refused(f"{file.name} answers {outputs}; one probability, or two, is needed")
    size = [SIDE if side is None else side for side in shape[1:3]]

    def answer(faces: Any) -> Any:
        x = tf.image.resize(faces, size) if size != [SIDE, SIDE] else faces
        result = model(_scaled(tf, x, scaling), training=False)
        # Of two classes the second is the positive one, as with one output.
        probability = result[:, 1:] if outputs[1] == 2 else result
        return tf.identity(probability if fake == "high" else 1.0 - probability, name="fake")

    signature = (tf.TensorSpec((None, SIDE, SIDE, 3), tf.float32, name="faces"),)
    graph, _ = tf2onnx.convert.from_function(tf.function(answer, input_signature=signature), signature, opset=15)
    renamed = graph.graph.output[0].name
    for node in graph.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == renamed:
                    names[index] = "fake"
    graph.graph.output[0].name = "fake"
    target.write_bytes(graph.SerializeToString())


def _scaled(tf: Any, faces: Any, scaling: str) -> Any:
    if scaling == "unit":
        return faces / 255.0
    if scaling == "signed":
        return faces / 127.5 - 1.0
    if scaling == "prewhitened":
        centred = faces - tf.reduce_mean(faces, axis=[1, 2, 3], keepdims=True)
        deviation = tf.sqrt(tf.reduce_mean(tf.square(centred), axis=[1, 2, 3], keepdims=True))
        return centred / tf.maximum(deviation, tf.math.rsqrt(tf.cast(tf.size(faces[0]), tf.float32)))
    return faces


if __name__ == "__main__":
    raise SystemExit(main())
