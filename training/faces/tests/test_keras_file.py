"""Keras classifiers of faces, made here in TensorFlow's own environment, become models; what is unsafe is refused."""

import subprocess

import numpy as np
import onnxruntime
import pytest

from training.faces.importers.keras_file import INTERPRETER, KerasFileError, import_classifier, main

pytestmark = pytest.mark.timeout(900)
"""TensorFlow is started anew for every file, which takes minutes on a busy machine."""

needs_tensorflow = pytest.mark.skipif(
    not INTERPRETER.exists(), reason="TensorFlow's environment is not there: make keras-env"
)

BUILD = """
import sys
import keras, numpy as np
from keras import layers
keras.utils.set_random_seed(4)
folder = sys.argv[1]
faces = np.load(folder + "/faces.npy")
for kind in ("one", "two", "many", "bare", "small", "lambda"):
    inputs = keras.Input((96, 96, 3) if kind == "small" else (160, 160, 3))
    x = layers.Lambda(lambda v: v * 2)(inputs) if kind == "lambda" else inputs
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, strides=4, activation="relu")(x))
    x = layers.GlobalAveragePooling2D()(x)
    end = {"two": (2, "softmax"), "many": (5, "softmax"), "bare": (1, None)}.get(kind, (1, "sigmoid"))
    model = keras.Model(inputs, layers.Dense(end[0], activation=end[1], bias_initializer="random_normal")(x))
    model.save(f"{folder}/{kind}.keras")
    model.save(f"{folder}/{kind}.h5")
    if kind != "small":
        np.save(f"{folder}/{kind}.npy", model.predict(faces / 255.0, verbose=0))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of the forms in which such classifiers are saved, three faces, and what Keras answers for them."""
    folder = tmp_path_factory.mktemp("keras")
    np.save(folder / "faces.npy", np.random.default_rng(1).integers(0, 256, (3, 160, 160, 3), np.uint8))
    command = [str(INTERPRETER), "-c", BUILD, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=800)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def _served(place, faces):
    session = onnxruntime.InferenceSession(place / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(["fake"], {"faces": faces, "traces": np.zeros((len(faces), 3072), np.float32)})[0]


@needs_tensorflow
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_a_classifier_answers_as_in_keras(files, tmp_path, suffix):
    place = import_classifier(files / f"one{suffix}", tmp_path)
    answers = _served(place, np.load(files / "faces.npy"))
    assert np.abs(answers - np.load(files / "one.npy")).max() < 1e-4
    assert 'name: "fake"' in (place / "config.pbtxt").read_text()
    assert f"one{suffix}" in (place / "MODEL_CARD.md").read_text()


@needs_tensorflow
def test_of_two_classes_the_second_is_fake_unless_it_is_said_to_be_the_first(files, tmp_path):
    faces, expected = np.load(files / "faces.npy"), np.load(files / "two.npy")
    high = import_classifier(files / "two.keras", tmp_path / "high")
    assert np.abs(_served(high, faces) - expected[:, 1:]).max() < 1e-4
    low = import_classifier(files / "two.keras", tmp_path / "low", fake="low")
    assert np.abs(_served(low, faces) - expected[:, :1]).max() < 1e-4


@needs_tensorflow
def test_another_size_is_scaled_in_the_graph(files, tmp_path):
    answers = _served(import_classifier(files / "small.h5", tmp_path), np.load(files / "faces.npy"))
    assert answers.shape == (3, 1)


@needs_tensorflow
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lambda.h5", "Lambda layer, whose code is in the file"),
        ("lambda.keras", "Lambda layer, whose code is in the file"),
        ("many.keras", "one probability, or two, is needed"),
        ("bare.keras", "one probability a face is needed"),
    ],
)
def test_what_is_unsafe_or_something_else_is_refused(files, tmp_path, name, told):
    with pytest.raises(KerasFileError, match=told):
        import_classifier(files / name, tmp_path)


@needs_tensorflow
def test_what_is_no_keras_file_is_refused(tmp_path, capsys):
    file = tmp_path / "model.h5"
    file.write_bytes(b"nothing of the kind")
    assert main([str(file), "--into", str(tmp_path)]) == 1
    assert "is no Keras model" in capsys.readouterr().err


def test_without_tensorflow_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("training.faces.importers.keras_file.INTERPRETER", tmp_path / "none")
    with pytest.raises(KerasFileError, match="make import-realfake"):
        import_classifier(tmp_path / "model.h5", tmp_path)
