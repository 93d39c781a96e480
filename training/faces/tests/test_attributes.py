"""Gender and age: who is learned from, the network, the loop, and the files that are served."""

import csv
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from services.common.detection import Point
from services.faces.face import Box, DetectedFace, FaceDetector, Landmarks
from training.data.hashing import dhash, mirrored
from training.data.manifest import Row
from training.faces.attributes.config import RunConfig
from training.faces.attributes.export import ask, export_onnx, join, join_ages
from training.faces.attributes.faces import CHIP, SIDE, FaceStore, LabelledFace, far_from, parts
from training.faces.attributes.judging import Judged, refusal, table
from training.faces.attributes.network import AGES, AttributeNetwork, load_age_network
from training.faces.attributes.train import Labelled, answers, load_average, losses, overfit, train
from training.faces.attributes.views import learned_view
from training.faces.attributes.wild import Teacher, wild_faces
from training.faces.realfake.patches import landmark_places
from training.faces.tests.conftest import drawn_face, patch

CONFIG = RunConfig(
    seed=2,
    steps=3,
    batch=4,
    learning_rate=1e-4,
    new_learning_rate=1e-3,
    warmup=0,
    weight_decay=0.0,
    ema=0.5,
    dropout=0.2,
    smoothing=0.05,
    age_weight=0.3,
    bfloat16=False,
    report_every=1,
    judge_every=2,
    checkpoint_every=1,
)


@pytest.fixture(scope="module")
def age_network(tmp_path_factory) -> Path:
    """A network of the served age network's form with random weights: scales and offsets behind each convolution."""
    rng = np.random.default_rng(4)
    nodes, values = [], []

    def held(name: str, array: np.ndarray) -> str:
        values.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def convolved(x: str, inputs: int, outputs: int, kernel: int, stride: int, pad: int) -> str:
        name = f"n{len(nodes)}"
        weights = held(f"{name}_w", rng.normal(0, (2 / (inputs * kernel**2)) ** 0.5, (outputs, inputs, kernel, kernel)))
        bias = held(f"{name}_b", rng.normal(0, 0.1, outputs))
        scale = held(f"{name}_s", rng.uniform(0.5, 1.5, (1, outputs, 1, 1)))
        offset = held(f"{name}_o", rng.normal(0, 0.1, (1, outputs, 1, 1)))
        nodes.append(helper.make_node("Conv", [x, weights, bias], [f"{name}c"], strides=[stride] * 2, pads=[pad] * 4))
        nodes.append(helper.make_node("Mul", [f"{name}c", scale], [f"{name}m"]))
        nodes.append(helper.make_node("Add", [f"{name}m", offset], [name]))
        return name

    def done(kind: str, inputs: list[str], **how: object) -> str:
        name = f"n{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [name], **how))
        return name

    x = done("Relu", [convolved("images", 3, 64, 7, 2, 0)])
    x = done("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2])
    for before, width in ((64, 64), (64, 128), (128, 128), (128, 256), (256, 256)):
        halves = before != width
        seen = done("Relu", [convolved(x, before, width, 3, 2 if halves else 1, 0 if halves else 1)])
        seen = convolved(seen, width, width, 3, 1, 1)
        if halves:
            # 14 pixels to 7 of the short cut and 6 of the convolutions; then 7 to 3 of both.
            x = done("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2])
            values.append(numpy_helper.from_array(np.array([0, 0, 0, 0, 0, before, 0, 0]), f"{x}_pads"))
            x = done("Pad", [x, f"{x}_pads"])
            one = int(width == 128)
            values.append(numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, one, one]), f"{seen}_pads"))
            seen = done("Pad", [seen, f"{seen}_pads"])
        x = done("Relu", [done("Add", [seen, x])])
    x = done("Flatten", [done("GlobalAveragePool", [x])])
    weights, bias = held("head_w", rng.normal(0, 0.05, (256, AGES))), held("head_b", rng.normal(0, 0.1, AGES))
    x = done("Gemm", [x, weights, bias])
    nodes.append(helper.make_node("Softmax", [x], ["probabilities"], axis=1))
    graph = helper.make_graph(
        nodes,
        "age",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, CHIP, CHIP])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", AGES])],
        values,
    )
    path = tmp_path_factory.mktemp("age") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def labelled() -> Labelled:
    """Eight drawn faces; male ones are brighter."""
    patches = np.stack([drawn_face(number)[64 : 64 + SIDE, 64 : 64 + SIDE] for number in range(8)])
    male = [number % 2 for number in range(8)]
    patches = np.stack([np.clip(p * (1.0 if m else 0.4), 0, 255) for p, m in zip(patches, male, strict=True)])
    return Labelled(patches.astype(np.uint8), male, [10 * number for number in range(8)], seed=3)


def row(name: str, split: str, source: str = "shared/utkface") -> Row:
    return Row(
        id="0" * 16, kind="real_face", maker="utkface", source=source, path=f"train/faces/{name}", mask="",
        mask_sha256="", crop="", sha256="", width=200, height=200, dhash="", group="", split=split,
    )  # fmt: skip


def face(name: str, part: str, rgb: np.ndarray) -> LabelledFace:
    return LabelledFace(name=name, part=part, years=30, male=1, race="white", dhash=dhash(rgb))


def test_faces_that_are_judged_by_are_not_learned_from_nor_any_of_their_date():
    names = [
        "30_0_1_20170110183726390.jpg.chip.jpg",
        "31_1_0_20170110183726391.jpg.chip.jpg",
        "32_1_0_20170110183726392.jpg.chip.jpg",
        "33_1_0_20170110183726390.jpg.chip.jpg",
        "34_1_0_20170110183726394.jpg.chip.jpg",
        "39_1_20170116174525125.jpg.chip.jpg",
    ]
    manifest = [
        row(names[0], "dev"), row(names[1], "train"), row(names[2], "calibrate"), row(names[4], "dev", "elsewhere")
    ]  # fmt: skip
    assert parts(names, manifest) == {
        names[0]: "report", names[1]: "choose", names[2]: "choose", names[4]: "learn"
    }  # fmt: skip


def test_what_looks_like_a_judged_or_a_reserved_picture_is_not_learned_from():
    pictures = [drawn_face(number) for number in range(4)]
    faces = [
        face("a", "report", pictures[0]),
        face("same", "learn", np.clip(pictures[0] * 0.9, 0, 255).astype(np.uint8)),
        face("mirrored", "learn", pictures[0][:, ::-1]),
        face("b", "choose", pictures[1]),
        face("other", "learn", pictures[2]),
        face("reserved", "learn", pictures[3]),
    ]
    assert far_from(faces, []).tolist() == [False, False, False, False, True, True]
    assert far_from(faces, [mirrored(mirrored(dhash(pictures[3])))]).tolist() == [False] * 4 + [True, False]


def test_what_was_cut_is_kept_and_not_cut_again(tmp_path):
    store = FaceStore(tmp_path / "faces")
    patch, chip = np.full((SIDE, SIDE, 3), 7, np.uint8), np.full((CHIP, CHIP, 3), 8, np.uint8)
    with pytest.raises(FileNotFoundError, match="cut"):
        store.read()
    store.add([(face("a", "learn", drawn_face(1)), patch, chip)], ["nobody"])
    store.add([(face("b", "choose", drawn_face(2)), patch + 1, chip)], [])
    faces, patches, chips = store.read()
    assert [each.name for each in faces] == ["a", "b"]
    assert faces[0].years == 30
    assert patches[:, 0, 0, 0].tolist() == [7, 8]
    assert chips.shape == (2, CHIP, CHIP, 3)
    assert store.done() == {"a", "b", "nobody"}


def test_views_are_drawn_and_show_the_face():
    patch = drawn_face(3)[64 : 64 + SIDE, 64 : 64 + SIDE]
    views = [learned_view(patch, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert views[0].shape == (CHIP, CHIP, 3)
    assert np.array_equal(views[0], views[1])
    assert not np.array_equal(views[0], views[2])


def test_the_age_network_is_taken_over_as_it_is(age_network):
    network = AttributeNetwork().eval()
    load_age_network(network, age_network)
    chips = np.random.default_rng(1).normal(0, 0.3, (3, 3, CHIP, CHIP)).astype(np.float32)
    session = onnxruntime.InferenceSession(age_network, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"images": chips})
    with torch.inference_mode():
        _, odds = network(torch.from_numpy(chips))
    assert np.abs(odds.softmax(dim=1).numpy() - expected).max() < 1e-5


def test_another_network_is_refused(tmp_path, age_network):
    model = onnx.load(age_network)
    del model.graph.node[0]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="not the age network"):
        load_age_network(AttributeNetwork(), tmp_path / "other.onnx")


def test_losses_fall_towards_the_labels():
    male, years = torch.tensor([0, 1]), torch.tensor([5, 70])
    right = torch.tensor([[4.0, -4.0], [-4.0, 4.0]])
    near, far = torch.full((2, AGES), -5.0), torch.full((2, AGES), -5.0)
    near[0, 5] = near[1, 70] = far[0, 70] = far[1, 5] = 5.0
    good, bad = losses(right, near, male, years, CONFIG), losses(-right, far, male, years, CONFIG)
    assert good[0] < bad[0]
    assert good[1] < bad[1]


def test_a_run_goes_on_where_it_stopped(tmp_path, age_network, labelled):
    config = CONFIG.model_copy(update={"dropout": 0.0})

    def run(name: str, until: int | None) -> int:
        return train(
            config,
            labelled.batch,
            start=age_network,
            checkpoints=tmp_path / name,
            log=tmp_path / f"log-{name}",
            judge=lambda network: {"chosen_gender": 0.5, "chosen_age": 7.0},
            until=until,
        )

    assert run("whole", None) == 3
    assert run("parts", 1) == 1
    assert run("parts", None) == 3
    whole, partly = (load_average(tmp_path / name)[0].state_dict() for name in ("whole", "parts"))
    assert all(torch.allclose(whole[name], partly[name], atol=1e-5) for name in whole)
    with (tmp_path / "log-parts" / "curve.csv").open() as file:
        assert [row["chosen_age"] for row in csv.DictReader(file)] == ["", "7.0000", ""]
    assert load_average(tmp_path / "none") is None


def test_every_face_is_seen_before_any_is_seen_again(labelled):
    seen = [labelled.batch(step, 4)[2].tolist() for step in range(4)]
    assert sorted(seen[0] + seen[1]) == sorted(seen[2] + seen[3]) == [10 * number for number in range(8)]


def test_one_batch_is_learned_by_heart(age_network, labelled):
    found = overfit(CONFIG, labelled.batch, age_network, steps=25)
    assert found[-1] < found[0] / 4


@pytest.mark.parametrize(("answer", "classes"), [("gender", 2), ("age", AGES)])
def test_a_file_gives_one_answer_with_weights_in_half_the_space(tmp_path, age_network, answer, classes):
    torch.manual_seed(3)
    network = AttributeNetwork().eval()
    load_age_network(network, age_network)
    export_onnx(network, answer, tmp_path / "model.onnx", {"run": "a test"})
    assert (tmp_path / "model.onnx").stat().st_size < 2.2 * sum(value.numel() for value in network.parameters())
    chips = np.random.default_rng(1).integers(0, 256, (3, CHIP, CHIP, 3)).astype(np.uint8)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["run"] == "a test"
    male, years = answers(network, chips)
    mean = ask(tmp_path / "model.onnx", chips, batch=2)
    assert mean.shape == (3, classes)
    assert mean.sum(axis=1) == pytest.approx(1, abs=1e-5)
    if answer == "gender":
        assert mean[:, 1] == pytest.approx(male, abs=5e-3)
    else:
        assert mean @ np.arange(AGES) == pytest.approx(years, abs=0.2)


def test_a_network_that_is_worse_is_refused():
    judged = Judged(
        np.zeros((4, CHIP, CHIP, 3), np.uint8), np.array([True, False, True, False]), np.array([1, 5, 30, 70])
    )
    right, wrong = np.array([0.9, 0.1, 0.8, 0.2]), np.array([0.1, 0.1, 0.8, 0.2])
    assert "not good enough" in (refusal(judged, (wrong, judged.years + 1.0)) or "")
    assert refusal(judged, (right, judged.years + 1.0)) is None
    assert refusal(judged, (right, judged.years + 1.0), (wrong, judged.years + 1.0)) is None
    assert "worse" in (refusal(judged, (right, judged.years + 2.0), (wrong, judged.years + 1.0)) or "")


def test_joined_networks_add_their_logarithms(tmp_path, age_network):
    """The other network here: the mean brightness of the small chip decides."""
    torch.manual_seed(3)
    network = AttributeNetwork().eval()
    load_age_network(network, age_network)
    export_onnx(network, "gender", tmp_path / "ours.onnx", {"run": "a test"})
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        "other",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 2])],
        [
            numpy_helper.from_array(np.array([[0, 4], [0, 4], [0, 4]], np.float32), "w"),
            numpy_helper.from_array(np.array([0, 1], np.float32), "b"),
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "other.onnx"
    )
    join(tmp_path / "ours.onnx", tmp_path / "other.onnx", tmp_path / "joined.onnx")
    sessions = {
        name: onnxruntime.InferenceSession(tmp_path / f"{name}.onnx", providers=["CPUExecutionProvider"])
        for name in ("ours", "other", "joined")
    }
    chips = np.random.default_rng(1).normal(0, 0.3, (3, 3, CHIP, CHIP)).astype(np.float32)
    small = chips.reshape(3, 3, 32, 2, 32, 2).mean(axis=(3, 5))
    ours, other = sessions["ours"].run(None, {"images": chips})[0], sessions["other"].run(None, {"images": small})[0]
    expected = ours * other**0.5
    expected /= expected.sum(axis=1, keepdims=True)
    assert sessions["joined"].run(None, {"images": chips})[0] == pytest.approx(expected, abs=1e-4)
    assert sessions["joined"].get_modelmeta().custom_metadata_map["run"] == "a test"


def test_joined_ages_are_a_weighted_mean(tmp_path, age_network):
    torch.manual_seed(3)
    export_onnx(AttributeNetwork().eval(), "age", tmp_path / "ours.onnx", {})
    join_ages(tmp_path / "ours.onnx", age_network, tmp_path / "joined.onnx")
    chips = np.random.default_rng(1).integers(0, 256, (3, CHIP, CHIP, 3)).astype(np.uint8)
    ours, other = ask(tmp_path / "ours.onnx", chips), ask(age_network, chips)
    assert np.abs(ours - other).max() > 0.01
    assert ask(tmp_path / "joined.onnx", chips) == pytest.approx(0.7 * ours + 0.3 * other, abs=2e-3)


class Stub(Teacher):
    """Tells by the brightness of the chip: dark is unsure, bright is male."""

    def __init__(self):
        pass

    def genders(self, small, chips):
        assert small.shape[1:] == (32, 32, 3)
        bright = chips.mean(axis=(1, 2, 3))
        return np.where(bright < 20, -1, bright > 100)


class Everywhere:
    """Sees a face where faces lie in patches, unless the picture is black."""

    def find(self, rgb):
        if not rgb.any():
            return []
        points = {name: Point(*place) for name, place in landmark_places().items()}
        box = Box(60, 60, 200, 200)
        return [DetectedFace(box=box, confidence=0.9, detector=FaceDetector.YUNET, landmarks=Landmarks(**points))]


def test_faces_without_labels_are_labelled_where_the_teacher_is_sure():
    bright, dim = np.full((256, 256, 3), 200, np.uint8), np.full((256, 256, 3), 60, np.uint8)
    patches = [
        patch(0, "real_face"), patch(1, "fake_face", split="calibrate"), patch(2, "real_face", split="dev"),
        patch(3, "real_face", source="shared/utkface"), patch(4, "real_face"), patch(5, "real_face"),
    ]  # fmt: skip
    pixels = [bright, dim, bright, bright, np.full((256, 256, 3), 9, np.uint8), np.zeros((256, 256, 3), np.uint8)]
    found = wild_faces(patches, pixels, Everywhere(), Stub())
    assert [(face.name, face.part, face.male, face.years) for face, _, _ in found] == [
        (patches[0].id, "learn", 1, -1), (patches[1].id, "choose", 0, -1)
    ]  # fmt: skip
    assert [cut.shape for cut in found[0][1:]] == [(SIDE, SIDE, 3), (CHIP, CHIP, 3)]


def test_a_share_of_each_batch_is_of_others_and_ages_nobody_knows_cost_nothing(labelled):
    others = Labelled(np.zeros((3, SIDE, SIDE, 3), np.uint8), [1, 1, 1], [-1, -1, -1], seed=1)
    chips, male, years = labelled.mixed(others, 0.25)(0, 8)
    assert len(chips) == 8
    assert years[6:].tolist() == [-1, -1]
    assert (years[:6] >= 0).all()
    assert male[6:].tolist() == [1, 1]
    odds = torch.randn(2, AGES, requires_grad=True)
    _, unknown = losses(torch.zeros(2, 2), odds, torch.tensor([0, 1]), torch.tensor([-1, -1]), CONFIG)
    _, half = losses(torch.zeros(2, 2), odds, torch.tensor([0, 1]), torch.tensor([-1, 30]), CONFIG)
    assert float(unknown.detach()) == 0.0
    half.backward()
    assert not odds.grad[0].any()
    assert odds.grad[1].any()


def test_networks_are_compared_by_age_and_gender():
    judged = Judged(
        np.zeros((4, CHIP, CHIP, 3), np.uint8), np.array([True, False, True, False]), np.array([1, 5, 30, 70])
    )
    right, wrong = np.array([0.9, 0.1, 0.8, 0.2]), np.array([0.1, 0.1, 0.8, 0.2])
    text = table(judged, {"a": (right, judged.years + 2.0), "b": (wrong, None)})
    lines = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")] for line in text.splitlines()}
    assert lines["all"][3].startswith("100.0%")
    assert lines["all"][4].startswith("2.0")
    assert lines["all"][5].startswith("75.0%")
    assert lines["0-2 years"][2] == "1"
    assert lines["0-2 years"][5].startswith("0.0%")
