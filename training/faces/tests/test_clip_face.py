"""What CLIP's first blocks see of a face, with an encoder of CLIP's form, two blocks deep, with random weights."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from services.faces.attributes.traces import INPUT, OUTPUT
from training.clip import WIDTH
from training.faces.clip_face import graph, looking
from training.faces.clip_face.graph import clip_graph, fixed_scales
from training.faces.clip_face.heads import fit_head

_MODEL = "vision_model"
_LINEAR = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (WIDTH, WIDTH),
    "self_attn.v_proj": (WIDTH, WIDTH),
    "self_attn.out_proj": (WIDTH, WIDTH),
    "mlp.fc1": (WIDTH, 4 * WIDTH),
    "mlp.fc2": (4 * WIDTH, WIDTH),
}


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    """By the encoder's names; linear layers in bytes, with a step for each column."""
    rng = np.random.default_rng(6)
    found = {
        "embeddings.patch_embedding.weight": rng.normal(0, 0.03, (WIDTH, 3, 16, 16)),
        "embeddings.class_embedding": rng.normal(0, 0.3, WIDTH),
        "embeddings.position_embedding.weight": rng.normal(0, 0.3, (197, WIDTH)),
    }
    for name in ("pre_layrnorm", *(f"encoder.layers.{i}.layer_norm{n}" for i in (0, 1) for n in (1, 2))):
        found[f"{name}.weight"], found[f"{name}.bias"] = rng.uniform(0.5, 1.5, WIDTH), rng.normal(0, 0.1, WIDTH)
    found = {f"{_MODEL}.{name}": value.astype(np.float32) for name, value in found.items()}
    for block in (0, 1):
        for layer, shape in _LINEAR.items():
            name = f"{_MODEL}.encoder.layers.{block}.{layer}"
            found[name] = rng.integers(-127, 128, shape).astype(np.int8)
            found[f"{name}_scale"] = rng.uniform(2e-4, 6e-4, shape[1]).astype(np.float32)
            found[f"{name}.bias"] = rng.normal(0, 0.05, shape[1]).astype(np.float32)
    return found


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, weights) -> Path:
    """The weights as the package's file has them: what multiplies what can be told by the nodes' names."""
    values, nodes = [], []
    for name, value in weights.items():
        if value.dtype != np.int8:
            if not name.endswith("_scale"):
                values.append(numpy_helper.from_array(value, name))
            continue
        number = f"onnx::MatMul_{len(nodes)}"
        path = name.replace("layers.", "layers|").replace(".", "/").replace("|", ".")
        values += [
            numpy_helper.from_array(value, f"{number}_quantized"),
            numpy_helper.from_array(weights[f"{name}_scale"], f"{number}_scale"),
            numpy_helper.from_array(np.zeros(value.shape[1], np.int8), f"{number}_zero_point"),
        ]
        inputs = [f"x{len(nodes)}", f"{number}_quantized", f"z{len(nodes)}", f"{number}_zero_point"]
        nodes.append(helper.make_node("MatMulInteger", inputs, [f"/{path}/MatMul_output_0_output_quantized"]))
    file = tmp_path_factory.mktemp("clip") / "clip_encoder.int8.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "encoder", [], [], values)), str(file))
    return file


@pytest.fixture(scope="module")
def views() -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [rng.integers(0, top, (160, 160, 3)).astype(np.uint8) for top in (40, 90, 140, 190, 255)]


@pytest.fixture(autouse=True)
def two_blocks(monkeypatch):
    monkeypatch.setattr(graph, "BLOCKS", (0, 1))
    monkeypatch.setattr(graph, "MERGED", 0)


def saved(model: onnx.ModelProto, encoder: Path, name: str) -> looking.ClipFace:
    onnx.save(model, str(encoder.with_name(name)))
    return looking.ClipFace(encoder.with_name(name))


def in_float(weights: dict[str, np.ndarray], view: np.ndarray) -> np.ndarray:
    """The same by NumPy, nothing rounded to bytes: the means behind both blocks, patches merged behind the first."""

    def of(name: str) -> np.ndarray:
        return weights[f"{_MODEL}.{name}"].astype(np.float64)

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ (of(name) * of(f"{name}_scale")) + of(f"{name}.bias")

    def normalised(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(axis=1, keepdims=True)
        return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5) * of(f"{name}.weight") + of(f"{name}.bias")

    pixels = (view / 255 - graph.MEAN) / graph.DEVIATION
    patches = pixels.reshape(10, 16, 10, 16, 3).transpose(0, 2, 4, 1, 3).reshape(100, -1)
    patches = patches @ of("embeddings.patch_embedding.weight").reshape(WIDTH, -1).T
    places = graph._interpolated(weights[f"{_MODEL}.embeddings.position_embedding.weight"], 10)
    x = normalised(np.concatenate([of("embeddings.class_embedding")[None], patches]) + places, "pre_layrnorm")
    means = []
    for block in (0, 1):
        name = f"encoder.layers.{block}"
        seen = normalised(x, f"{name}.layer_norm1")
        q, k, v = (linear(seen, f"{name}.self_attn.{part}_proj").reshape(len(x), 12, 64) for part in "qkv")
        odds = np.exp(np.einsum("qhd,khd->hqk", q, k) / 8)
        attended = np.einsum("hqk,khd->qhd", odds / odds.sum(axis=2, keepdims=True), v).reshape(len(x), WIDTH)
        x = x + linear(attended, f"{name}.self_attn.out_proj")
        wide = linear(normalised(x, f"{name}.layer_norm2"), f"{name}.mlp.fc1")
        x = x + linear(wide / (1 + np.exp(-1.702 * wide)), f"{name}.mlp.fc2")
        means.append(x[1:].mean(axis=0))
        if block == 0:
            x = np.concatenate([x[:1], x[1:].reshape(5, 2, 5, 2, WIDTH).mean(axis=(1, 3)).reshape(25, WIDTH)])
    return np.concatenate(means)


def test_it_computes_what_the_encoder_s_first_blocks_do(encoder, weights, views):
    seen = saved(clip_graph(encoder), encoder, "moving.onnx")(views[:1])
    expected = in_float(weights, views[0])
    assert np.corrcoef(seen[0], expected)[0, 1] > 0.999
    assert np.abs(seen[0] - expected).max() < 0.1 * np.abs(expected).max()


def test_a_face_s_neighbours_do_not_change_what_is_seen_of_it(encoder, views):
    moving = clip_graph(encoder)
    fixed = clip_graph(encoder, fixed_scales(moving, encoder.parent, views))

    def difference(look: looking.ClipFace) -> float:
        alone = np.concatenate([look([view]) for view in views])
        return float(np.abs(look(views) - alone).max())

    assert difference(saved(moving, encoder, "moving.onnx")) > 1e-3
    assert difference(saved(fixed, encoder, "fixed.onnx")) < 1e-4


def test_weights_stay_in_the_package_s_file(encoder):
    model = clip_graph(encoder)
    assert len(model.SerializeToString()) < 1_000_000
    stored = [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    assert sum(tensor.data_type == TensorProto.INT8 for tensor in stored) >= 12
    assert {entry.value for tensor in stored for entry in tensor.external_data if entry.key == "location"} == {
        encoder.name
    }
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == [INPUT, OUTPUT]


def test_another_network_is_refused(tmp_path):
    onnx.save(helper.make_model(helper.make_graph([], "empty", [], [])), str(tmp_path / "other.onnx"))
    with pytest.raises(ValueError, match="not the image encoder"):
        clip_graph(tmp_path / "other.onnx")


def test_without_the_model_it_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="make models"):
        looking.ClipFace(tmp_path / "model.onnx")


def test_a_head_tells_what_it_was_fitted_on():
    rng = np.random.default_rng(8)
    kinds = rng.integers(0, 3, 300)
    traces = (rng.normal(0, 1, (300, 40)) * 5 + 7).astype(np.float32)
    traces[np.arange(300), kinds] += 30
    head = fit_head(traces, kinds, strength=1e-3)
    assert (head(traces).argmax(axis=1) == kinds).mean() > 0.95
    wider = head.reading(slice(10, 50), 60)
    assert wider(np.pad(traces, ((0, 0), (10, 10)))) == pytest.approx(head(traces), abs=1e-3)
