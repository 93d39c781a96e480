"""The trained network and a head on CLIP's traces as one."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from training.faces.clip_face.heads import Head
from training.faces.realfake.export import INPUT, ODDS, answers
from training.faces.realfake.joining import (
    BLENDED,
    GENERATED,
    REAL,
    Joint,
    fit_joint,
    fit_kinds,
    join,
    learned_views,
)
from training.faces.realfake.judging import Judged


@pytest.fixture(scope="session")
def views() -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [rng.integers(0, top, (160, 160, 3)).astype(np.uint8) for top in (40, 90, 140, 190, 255)]


def test_kinds_are_told_by_the_traces_of_earlier_blocks():
    rng = np.random.default_rng(8)
    kinds = rng.integers(0, 3, 300)
    traces = rng.normal(7, 5, (300, 3072)).astype(np.float32)
    traces[np.arange(300), kinds] += 60
    head = fit_kinds(traces, kinds)
    assert not head.weights[-768:].any()
    assert (head(traces).argmax(axis=1) == kinds).mean() > 0.95


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


def test_the_joined_file_adds_the_odds(tmp_path, views):
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
    rng = np.random.default_rng(10)
    traces = rng.normal(0, 1, (len(views), 50)).astype(np.float32)
    head = Head(rng.normal(0, 0.1, (50, 3)).astype(np.float32), np.float32([0.1, -0.2, 0.3]))
    joint = Joint(facenet=0.02, clip=(0.7, 1.2), bias=(-1.0, -2.0))

    join(tmp_path / "a", head, joint, tmp_path / "both.onnx")

    clip = head(traces)
    first = 0.02 * np.array([view.mean() for view in views]) + 0.7 * (clip[:, GENERATED] - clip[:, REAL]) - 1.0
    second = 1.2 * (clip[:, BLENDED] - clip[:, REAL]) - 2.0
    assert answers(tmp_path / "both.onnx", views, traces) == pytest.approx(np.logaddexp(first, second), abs=1e-3)
