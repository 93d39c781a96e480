"""YuNet: its form, the scenes, what is learned of the teacher, and how agreement is counted."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from pydantic import ValidationError
from skimage import data

from services.common.detection import Point
from services.faces.face import Box, DetectedFace, FaceDetector, Landmarks
from services.faces.finders.looks import ROWS
from training.faces.finding import ServedYuNet
from training.faces.tests.conftest import drawn_face
from training.faces.yunet.config import RunConfig
from training.faces.yunet.judging import (
    Agreement,
    agreement,
    export_onnx,
    faces_found,
    published_form,
    refusal,
    serve_onnx,
)
from training.faces.yunet.network import OUTPUTS, Published, YuNet
from training.faces.yunet.scenes import SceneMaker
from training.faces.yunet.train import Teacher, distance, load_average, train

SETTINGS = {
    "seed": 2,
    "steps": 6,
    "batch": 2,
    "sides": [64, 96],
    "learning_rate": 1e-3,
    "warmup": 0,
    "weight_decay": 0.0,
    "ema": 0.9,
    "positive": 0.3,
    "box_weight": 1.0,
    "landmark_weight": 1.0,
    "hint_weight": 0.1,
    "bfloat16": False,
    "report_every": 1,
    "judge_every": 3,
    "checkpoint_every": 1,
}
CONFIG = RunConfig.model_validate(SETTINGS)


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory):
    """A network that has learned nothing, as a teacher: sure of faces here and there."""
    torch.manual_seed(8)
    network = YuNet()
    for name, head in network.heads.items():
        if name[:3] in {"cls", "obj"}:
            torch.nn.init.constant_(head[-1].bias, 0.5)
    path = tmp_path_factory.mktemp("teacher") / "model.onnx"
    export_onnx(network, path)
    return path


@pytest.fixture(scope="module")
def scenes():
    return SceneMaker([drawn_face(number) for number in range(4)], [drawn_face(90), drawn_face(91)], seed=5)


def test_it_is_as_small_as_the_published_one():
    # The published yunet_n has 75,856: 1,008 of them are offsets that a normalisation takes away again.
    assert sum(value.numel() for value in YuNet().parameters()) == 75_856 - 1_008


def test_outputs_are_those_of_the_published_export_at_any_size(tmp_path):
    network = YuNet().eval()
    export_onnx(network, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_outputs()] == list(OUTPUTS)
    pictures = np.random.default_rng(1).uniform(0, 255, (2, 3, 96, 160)).astype(np.float32)
    answers = session.run(None, {"input": pictures})
    with torch.inference_mode():
        expected = Published(network)(torch.from_numpy(pictures))
    for name, answer, wanted in zip(OUTPUTS, answers, expected, strict=True):
        stride = int(name.split("_")[1])
        assert answer.shape[:2] == (2, (96 // stride) * (160 // stride))
        assert np.abs(answer - wanted.numpy()).max() < 1e-3
    scores = dict(zip(OUTPUTS, answers, strict=True))["cls_8"]
    assert ((scores >= 0) & (scores <= 1)).all()


def test_what_is_served_takes_bytes_and_finds_the_same(tmp_path, scenes):
    torch.manual_seed(8)
    network = YuNet().eval()
    for name, head in network.heads.items():
        # No two places alike, and about half of them faces.
        part, stride = name.split("_")
        torch.nn.init.normal_(head[0].weight, std=3e3 if part in {"bbox", "kps"} else 3e3 * (int(stride) / 8) ** 3)
        torch.nn.init.uniform_(head[-1].bias, -0.5, 0.5)
    plain, served, again = (tmp_path / f"{name}.onnx" for name in ("plain", "served", "again"))
    export_onnx(network, plain)
    serve_onnx(network, served)
    published_form(served, again)
    # Two pictures at once, of another size than the export saw.
    pictures = np.random.default_rng(1).integers(0, 256, (2, 3, 64, 96)).astype(np.uint8)
    exact, said, same = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"input": values})
        for path, values in ((plain, pictures.astype(np.float32)), (served, pictures), (again, pictures))
    )
    assert [answer.shape for answer in said] == [(2, ROWS, 96), (2, ROWS, 24), (2, ROWS, 6)]
    for name, one, other in zip(OUTPUTS, exact, same, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-4), name
    # And OpenCV, by which it is judged, finds the same in it.
    shown = [scenes.scene(number, 96, with_faces=True) for number in range(2)]
    for first, second in zip(faces_found(plain, shown), faces_found(served, shown), strict=True):
        assert len(first) > 0
        for one, other in zip(first, second, strict=True):
            assert one.box.overlap(other.box) > 0.999
            assert one.confidence == pytest.approx(other.confidence, abs=1e-4)


def test_a_teacher_of_one_size_is_refused(tmp_path):
    torch.onnx.export(
        Published(YuNet()).eval(),
        (torch.rand(1, 3, 64, 64),),
        str(tmp_path / "fixed.onnx"),
        input_names=["input"],
        output_names=list(OUTPUTS),
        dynamo=False,
    )
    with pytest.raises(ValueError, match="free sizes"):
        Teacher(tmp_path / "fixed.onnx")


def test_agreement_costs_nothing_and_each_difference_something():
    torch.manual_seed(3)
    student = YuNet().eval()
    pictures = torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        maps = student(pictures)
        maps["cls_16"][0, 3], maps["obj_16"][0, 3] = 3.0, 3.0
        wanted = {name: torch.sigmoid(value) if name[:3] in {"cls", "obj"} else value for name, value in maps.items()}
        assert float(distance(maps, wanted, CONFIG)["loss"]) == pytest.approx(0, abs=1e-3)
        for name, part in (("cls_16", "scores"), ("bbox_16", "boxes"), ("kps_16", "landmarks")):
            other = {**maps, name: maps[name].clone()}
            other[name][0, 3] += 1.0
            parts = distance(other, wanted, CONFIG)
            assert float(parts[part]) > 0.01, name
        # Where the teacher sees no face, boxes mean nothing.
        other = {**maps, "bbox_16": maps["bbox_16"].clone()}
        other["bbox_16"][0, 5] += 100.0
        assert float(distance(other, wanted, CONFIG)["boxes"]) == pytest.approx(0, abs=1e-6)


def test_a_run_learns_and_goes_on_where_it_stopped(tmp_path, teacher_file, scenes):
    def run(name: str, until: int | None) -> int:
        return train(
            CONFIG,
            scenes,
            Teacher(teacher_file),
            checkpoints=tmp_path / name,
            log=tmp_path / name,
            judge=lambda network: {"found": 0.5, "extra": 0.1},
            until=until,
        )

    assert run("whole", None) == 6
    assert run("parts", 2) == 2
    assert run("parts", None) == 6
    whole, parts = (load_average(tmp_path / name)[0].state_dict() for name in ("whole", "parts"))
    assert all(torch.allclose(whole[name], parts[name], atol=1e-4) for name in whole)
    lines = (tmp_path / "parts" / "curve.csv").read_text().splitlines()
    assert len(lines) == 7
    assert lines[3].endswith("0.5000,0.1000")
    first, last = (float(line.split(",")[3]) for line in (lines[1], lines[-1]))
    assert last < first


def test_confidences_that_are_more_wrong_count_more():
    torch.manual_seed(3)
    with torch.no_grad():
        maps = YuNet().eval()(torch.rand(1, 3, 64, 64) * 255)
        wanted = {name: torch.sigmoid(value) if name[:3] in {"cls", "obj"} else value for name, value in maps.items()}
        focused = CONFIG.model_copy(update={"focus": 3.0})
        more = []
        for off in (0.0, 1.0, 8.0):
            other = {name: value + off if name == "cls_16" else value for name, value in maps.items()}
            once, counted = (float(distance(other, wanted, config)["scores"]) for config in (CONFIG, focused))
            more.append(counted / once if off else counted - once)
    assert more[0] == pytest.approx(0, abs=1e-4)
    assert 1 < more[1] < more[2] <= 4


def test_a_run_may_begin_with_another_s_network_and_keep_its_statistics(tmp_path, teacher_file, scenes):
    torch.manual_seed(6)
    before = YuNet()
    for module in before.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -1, 1)
    found = {}
    for frozen in (True, False):
        train(
            CONFIG.model_copy(update={"frozen_norms": frozen, "ema": 0.01}),
            scenes,
            Teacher(teacher_file),
            start=before,
            checkpoints=tmp_path / str(frozen),
            log=tmp_path / str(frozen),
            judge=lambda network: {"found": 0.5, "extra": 0.1},
            until=2,
        )
        found[frozen] = load_average(tmp_path / str(frozen))[0].state_dict()
    first = before.state_dict()
    statistics = [name for name in first if name.endswith("running_mean")]
    assert all(torch.equal(found[True][name], first[name]) for name in statistics)
    assert not any(torch.allclose(found[False][name], first[name]) for name in statistics)
    weights = "stem.0.weight"
    assert torch.allclose(found[True][weights], first[weights], atol=0.02), "it began where the other ended"
    assert not torch.equal(found[True][weights], first[weights])


def test_ours_finds_a_face_as_the_service_does():
    picture = np.ascontiguousarray(data.astronaut())
    (face,) = ServedYuNet().find(picture)
    assert face.confidence > 0.8
    assert face.box.overlap(Box(175, 65, 280, 200)) > 0.5
    assert face.landmarks is not None
    assert face.landmarks.right_eye.x < face.landmarks.left_eye.x, "the person's own right"
    assert ServedYuNet().find(np.zeros((64, 48, 3), np.uint8)) == []


def test_scenes_are_the_same_for_the_same_number_and_differ_by_their_faces(scenes):
    assert np.array_equal(scenes.scene(4, 96), scenes.scene(4, 96))
    assert not np.array_equal(scenes.scene(4, 96), scenes.scene(5, 96))
    faces = SceneMaker([np.full((256, 256, 3), 250, np.uint8)], [np.full((300, 300, 3), 5, np.uint8)], seed=1)
    bright = [float((faces.scene(number, 128, with_faces=True) > 200).mean()) for number in range(20)]
    dark = [float((faces.scene(number, 128, with_faces=False) > 200).mean()) for number in range(20)]
    assert np.mean(bright) > np.mean(dark) + 0.1


def test_scenes_need_something_to_be_made_of():
    with pytest.raises(ValueError, match="faces and backgrounds"):
        SceneMaker([], [drawn_face(1)], seed=0)


def test_sides_fit_the_strides():
    with pytest.raises(ValidationError, match="multiples of 32"):
        RunConfig.model_validate({**SETTINGS, "sides": [100]})


def _face(x: float, confidence: float = 0.9) -> DetectedFace:
    middle = Point(x + 20, 20)
    marks = Landmarks(right_eye=middle, left_eye=middle, nose=middle, mouth=middle)
    return DetectedFace(box=Box(x, 0, x + 40, 40), confidence=confidence, detector=FaceDetector.YUNET, landmarks=marks)


def test_agreement_counts_faces_found_missed_and_extra():
    result = agreement([[_face(0), _face(100)], []], [[_face(4), _face(200)], [_face(0)]])
    assert (result.faces, result.found, result.seen, result.extra) == (2, 1, 3, 2)
    assert result.landmarks_off == pytest.approx(0.1)
    assert result.shares == {"found": 0.5, "extra": 1.0}
    # On the verge of the threshold neither is wrong.
    close = agreement([[_face(0, 0.61)]], [[_face(0, 0.55)]])
    assert (close.found, close.extra) == (1, 0)


def _agreed(*scenes: tuple[int, int, int, int]) -> Agreement:
    return Agreement(np.array(scenes, np.int64), 0.02)


def test_shares_have_intervals_by_scene():
    same = _agreed(*[(10, 9, 9, 0)] * 30)
    interval = same.intervals()["found"]
    assert (interval.low, interval.high) == pytest.approx((0.9, 0.9)), "no scene differs from another"
    apart = _agreed(*[(10, 10, 10, 0)] * 27, *[(10, 0, 9, 9)] * 3)
    assert (apart.shares, apart.alarmed) == ({"found": 0.9, "extra": 0.09}, 3)
    found, extra = apart.intervals()["found"], apart.intervals()["extra"]
    assert 0.7 < found.low < 0.85
    assert 0.95 < found.high <= 1
    assert 0 <= extra.low < 0.05
    assert 0.15 < extra.high < 0.3


def test_only_what_is_useful_and_no_worse_takes_the_place_of_what_is_there():
    good, better = _agreed((100, 90, 92, 2)), _agreed((100, 96, 97, 1))
    assert refusal(good, None) is None
    assert refusal(better, good) is None
    assert refusal(good, good) is None
    assert "worse than what is there" in refusal(good, better)
    assert "not useful: 0.840 found" in refusal(_agreed((100, 84, 84, 0)), None)
    assert "0.060 extra" in refusal(_agreed((100, 99, 99, 6)), None)


def test_outputs_of_one_size_and_no_others_have_one_name(tmp_path):
    export_onnx(YuNet().eval(), tmp_path / "model.onnx")
    outputs = onnx.load(tmp_path / "model.onnx").graph.output
    names = {node.name: node.type.tensor_type.shape.dim[1].dim_param for node in outputs}
    assert names == {name: f"places_{name.split('_')[1]}" for name in OUTPUTS}


def test_a_network_agrees_with_itself(teacher_file, scenes):
    pictures = [scenes.scene(number, 96, with_faces=True) for number in range(3)]
    found = faces_found(teacher_file, pictures)
    result = agreement(found, found)
    assert (result.found, result.extra) == (result.faces, 0)
