"""CLIP's branch of facenet_realfake, on an encoder of its form with random weights."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from training.clip import INPUT as PIXELS
from training.clip import WIDTH, tapped
from training.faces.realfake.clip_branch import (
    BLOCKS,
    FEATURES,
    Head,
    clip_features,
    clip_graph,
    fit_head,
    with_fixed_scales,
)
from training.faces.realfake.export import INPUT, ODDS, answers
from training.faces.realfake.joining import BLENDED, GENERATED, REAL, Joint, fit_joint, join, learned_views
from training.faces.realfake.judging import Judged

_PLACES = "vision_model.embeddings.position_embedding.weight"
_NUMBERS = "/vision_model/embeddings/position_embedding/Constant_output_0"


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patches, a class token, places, and blocks of one product in 8 bits each, whose scales move with the batch."""
    rng = np.random.default_rng(6)
    values: list[TensorProto] = []

    def held(name: str, array: np.ndarray) -> str:
        values.append(numpy_helper.from_array(array, name))
        return name

    numbers = numpy_helper.from_array(np.arange(197, dtype=np.int64)[None])
    nodes = [
        helper.make_node("Constant", [], [_NUMBERS], value=numbers),
        helper.make_node(
            "Conv",
            [PIXELS, held("filters", rng.normal(0, 0.05, (WIDTH, 3, 16, 16)).astype(np.float32))],
            ["map"],
            strides=[16, 16],
        ),
        helper.make_node("Reshape", ["map", held("flat", np.array([0, WIDTH, -1], np.int64))], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["patches"], perm=[0, 2, 1]),
        helper.make_node("ReduceMean", ["patches"], ["class"], axes=[1], keepdims=1),
        helper.make_node("Concat", ["class", "patches"], ["tokens"], axis=1),
        helper.make_node(
            "Gather", [held(_PLACES, rng.normal(0, 0.1, (197, WIDTH)).astype(np.float32)), _NUMBERS], ["places"]
        ),
        helper.make_node("Add", ["tokens", "places"], ["stream"]),
    ]
    before = "stream"
    for block in BLOCKS:
        weights = held(f"weights_{block}", rng.integers(-9, 10, (WIDTH, WIDTH)).astype(np.int8))
        nodes += [
            helper.make_node("DynamicQuantizeLinear", [before], [f"q{block}", f"scale{block}", f"zero{block}"]),
            helper.make_node("MatMulInteger", [f"q{block}", weights, f"zero{block}"], [f"whole{block}"]),
            helper.make_node("Cast", [f"whole{block}"], [f"cast{block}"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"cast{block}", f"scale{block}"], [f"scaled{block}"]),
            helper.make_node("Mul", [f"scaled{block}", held(f"small{block}", np.float32(0.004))], [f"less{block}"]),
            helper.make_node("Add", [before, f"less{block}"], [tapped(block)]),
        ]
        before = tapped(block)
    nodes.append(helper.make_node("ReduceMean", [before], ["image_embeds"], axes=[1], keepdims=0))
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, ["n", 3, 224, 224])],
        [helper.make_tensor_value_info("image_embeds", TensorProto.FLOAT, ["n", WIDTH])],
        values,
    )
    path = tmp_path_factory.mktemp("clip") / "clip_encoder.int8.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8), str(path))
    return path


@pytest.fixture(scope="session")
def views() -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [rng.integers(0, top, (160, 160, 3)).astype(np.uint8) for top in (40, 90, 140, 190, 255)]


def test_weights_stay_in_the_package_s_file(encoder):
    model = clip_graph(encoder, INPUT)

    assert len(model.SerializeToString()) < 1_000_000
    places = {entry.key: entry.value for tensor in model.graph.initializer for entry in tensor.external_data}
    assert places["location"] == encoder.name
    assert [value.name for value in model.graph.input] == [INPUT]


def test_a_face_s_neighbours_do_not_change_its_features(encoder, views):
    moving = clip_graph(encoder, INPUT)
    fixed = with_fixed_scales(moving, encoder.parent, views)

    def together(model):
        options = onnx_session(model, encoder.parent)
        return options.run([FEATURES], {INPUT: np.stack(views).astype(np.float32)})[0]

    assert np.abs(together(moving) - clip_features(moving, encoder.parent, views)).max() > 1e-2
    assert np.abs(together(fixed) - clip_features(fixed, encoder.parent, views)).max() < 1e-4


def onnx_session(model, folder):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_another_network_is_refused(tmp_path):
    graph = helper.make_graph([], "empty", [], [])
    onnx.save(helper.make_model(graph), str(tmp_path / "other.onnx"))

    with pytest.raises(ValueError, match="not the image encoder"):
        clip_graph(tmp_path / "other.onnx", INPUT)


def test_a_head_tells_what_it_was_fitted_on():
    rng = np.random.default_rng(8)
    kinds = rng.integers(0, 3, 300)
    features = (rng.normal(0, 1, (300, 40)) * 5 + 7).astype(np.float32)
    features[np.arange(300), kinds] += 30

    head = fit_head(features, kinds)

    assert ((features @ head.weights + head.bias).argmax(axis=1) == kinds).mean() > 0.95


def test_learned_from_are_faces_of_the_train_split_and_their_blends(faces):
    patches, pixels = faces
    left_out = ["shared/unsplash_faces"]
    views, kinds = learned_views(patches, pixels, left_out)

    train = [patch for patch in patches if patch.split == "train" and patch.source not in left_out]
    real = sum(patch.kind == "real_face" for patch in train)
    assert (kinds == GENERATED).sum() == len(train) - real
    assert (kinds == REAL).sum() == 2 * real
    assert real <= (kinds == BLENDED).sum() <= 2 * real
    assert len(views) == len(kinds)


def test_generated_and_blended_are_weighed_apart(faces):
    judged = Judged.of(*faces, splits=("calibrate",), with_blended=True)
    rng = np.random.default_rng(9)
    generated = judged.fake & ~judged.blended
    clip = rng.normal(0, 0.3, (len(judged.views), 3))
    clip[generated, GENERATED] += 3
    clip[judged.blended, BLENDED] += 3
    facenet = np.where(generated, 2.0, -2.0) + rng.normal(0, 1, len(generated))

    joint = fit_joint(judged, facenet, clip.astype(np.float32))

    assert joint.facenet > 0
    assert min(joint.clip) > 0


def test_the_joined_file_adds_the_odds(tmp_path, encoder, views):
    mean = helper.make_node("ReduceMean", [INPUT], ["mean"], axes=[1, 2, 3], keepdims=0)
    column = helper.make_node("Unsqueeze", ["mean", "one"], [ODDS])
    graph = helper.make_graph(
        [mean, column],
        "trained",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", 160, 160, 3])],
        [helper.make_tensor_value_info(ODDS, TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.array([1], np.int64), "one")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(tmp_path / "a"))
    branch = with_fixed_scales(clip_graph(encoder, INPUT), encoder.parent, views)
    features = clip_features(branch, encoder.parent, views)
    rng = np.random.default_rng(10)
    head = Head(rng.normal(0, 0.01, (features.shape[1], 3)).astype(np.float32), np.float32([0.1, -0.2, 0.3]))
    joint = Joint(facenet=0.02, clip=(0.7, 1.2), bias=(-1.0, -2.0))

    join(tmp_path / "a", branch, head, joint, encoder.parent / "both.onnx")

    clip = features @ head.weights + head.bias
    first = 0.02 * np.array([view.mean() for view in views]) + 0.7 * (clip[:, GENERATED] - clip[:, REAL]) - 1.0
    second = 1.2 * (clip[:, BLENDED] - clip[:, REAL]) - 2.0
    assert answers(encoder.parent / "both.onnx", views) == pytest.approx(np.logaddexp(first, second), abs=1e-3)
