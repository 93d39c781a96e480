"""FaceNet's weights: found in the frozen graph, and the same network in ONNX and in PyTorch."""

import shutil

import numpy as np
import onnxruntime
import pytest
import torch

from services.common.settings import load_settings
from training.faces.facenet import find_weights
from training.faces.facenet_graph import main
from training.faces.frozen_graph import FrozenGraphError, read_frozen_graph
from training.faces.inception_resnet import convolutions
from training.faces.realfake.network import InceptionResnet, load_facenet, prewhitened
from training.faces.settings import FaceSettings
from training.faces.tests.conftest import constant_node, field


def test_constants_are_found_with_their_place(tmp_path):
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    other = field(1, field(1, b"sum") + field(2, b"Add") + field(3, b"a") + field(3, b"b"))
    path = tmp_path / "graph.pb"
    path.write_bytes(constant_node("a", values) + other + constant_node("b", values[0] * 2))
    first, second, third = read_frozen_graph(path)
    assert (second.kind, second.inputs, second.constant) == ("Add", ("a", "b"), None)
    content = path.read_bytes()
    assert np.array_equal(first.constant.read(content), values)
    assert np.array_equal(third.constant.read(content), values[0] * 2)


@pytest.mark.parametrize("content", [b"", b"\x0a\xff", b"no graph at all", b"\x0a\x05\x0a\x09ab"])
def test_what_is_no_graph_is_refused(tmp_path, content):
    path = tmp_path / "graph.pb"
    path.write_bytes(content)
    with pytest.raises(FrozenGraphError, match="no frozen TensorFlow graph"):
        read_frozen_graph(path)


def test_another_graph_is_refused_by_name(tmp_path):
    path = tmp_path / "graph.pb"
    path.write_bytes(constant_node("InceptionResnetV1/Conv2d_1a_3x3/weights", np.zeros((3, 3, 3, 16))))
    with pytest.raises(FrozenGraphError, match=r"Conv2d_1a_3x3/weights has the shape"):
        find_weights(path)


def test_the_network_has_the_published_number_of_convolutions_and_weights():
    parts = list(convolutions())
    assert len(parts) == len({part.name for part in parts}) == 132
    # facenet's InceptionResnetV1 without bottleneck and logits, normalisation folded into an offset a filter.
    assert sum(part.outputs * (part.inputs * part.kernel[0] * part.kernel[1] + 1) for part in parts) == 22_549_808


def _asked(folder, faces):
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(["embedding"], {"faces": faces})[0]


def test_the_served_graph_reads_the_packages_own_file(tmp_path, facenet_graph_file, capsys):
    shutil.copy(facenet_graph_file, tmp_path)
    assert main([str(facenet_graph_file), "--target", str(tmp_path / "model.onnx")]) == 0
    assert (tmp_path / "model.onnx").stat().st_size < 200_000
    faces = np.random.default_rng(1).uniform(0, 255, (2, 160, 160, 3)).astype(np.float32)
    embeddings = _asked(tmp_path, faces)
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)

    # The same by PyTorch, whose layers got the weights another way.
    network = InceptionResnet()
    load_facenet(network, facenet_graph_file)
    weights, content = find_weights(facenet_graph_file), facenet_graph_file.read_bytes()
    with torch.inference_mode():
        _, last = network(prewhitened(torch.from_numpy(faces).permute(0, 3, 1, 2)))
    pooled = last.mean(dim=(2, 3)).numpy()
    mean, variance, beta = (getattr(weights, name).read(content) for name in ("mean", "variance", "beta"))
    expected = (pooled @ weights.bottleneck.read(content) - mean) / np.sqrt(variance + 0.001) + beta
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.abs(expected - embeddings).max() < 1e-3
    # Brightness and contrast are taken out.
    assert np.abs(_asked(tmp_path, faces * 0.5 + 30) - embeddings).max() < 1e-3


def test_the_committed_graph_is_the_packages(tmp_path):
    graph = load_settings(FaceSettings).facenet_graph
    if not graph.is_file():
        pytest.skip("FaceNet's weights are not here: make models")
    shutil.copy(graph, tmp_path / "graph_final.pb")
    assert main([str(tmp_path / "graph_final.pb"), "--target", str(tmp_path / "model.onnx")]) == 0
    committed = FaceSettings.model_fields["runs"].default.parents[1] / "triton_models" / "facenet" / "1" / "model.onnx"
    assert (tmp_path / "model.onnx").read_bytes() == committed.read_bytes()
