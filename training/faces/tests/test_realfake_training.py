"""The loop, what is judged, and the file that is served."""

import csv

import numpy as np
import onnx
import pytest
import torch

from training.faces.realfake.config import RunConfig
from training.faces.realfake.export import INPUT, OUTPUT, answers, export_onnx, finish, quantise
from training.faces.realfake.judging import Judged, Scale, fit_scale, report
from training.faces.realfake.network import RealFake, load_facenet
from training.faces.realfake.samples import Sampler
from training.faces.realfake.shipping import Pictures, judge
from training.faces.realfake.train import load_average, log_odds, overfit, train
from training.faces.tests.test_realfake_samples import SETTINGS

CONFIG = RunConfig.model_validate(SETTINGS)


@pytest.fixture(scope="module")
def network(facenet_graph_file) -> RealFake:
    torch.manual_seed(1)
    network = RealFake(detail=4)
    load_facenet(network.trunk, facenet_graph_file)
    return network.eval()


def test_stages_and_rates_follow_each_other():
    assert [CONFIG.stage(step).side for step in range(3)] == [96, 96, 112]
    assert CONFIG.stage(CONFIG.steps) is None
    assert CONFIG.rate(0) == pytest.approx(1.0)
    assert CONFIG.rate(CONFIG.steps) == pytest.approx(0.02)
    slow = CONFIG.model_copy(update={"warmup": 9})
    assert slow.rate(0) == pytest.approx(0.1)


def test_a_run_goes_on_where_it_stopped(tmp_path, faces, facenet_graph_file):
    sampler = Sampler(*faces, CONFIG)

    def run(name: str, until: int | None) -> int:
        return train(
            CONFIG,
            sampler,
            start=facenet_graph_file,
            checkpoints=tmp_path / name,
            log=tmp_path / f"log-{name}",
            judge=lambda network: 0.25,
            until=until,
        )

    assert run("whole", None) == 3
    assert run("parts", 1) == 1
    assert run("parts", None) == 3
    whole, parts = (load_average(tmp_path / name)[0].state_dict() for name in ("whole", "parts"))
    assert all(torch.allclose(whole[name], parts[name], atol=1e-4) for name in whole)
    with (tmp_path / "log-parts" / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert [row["calibrate_auc"] for row in rows] == ["", "0.2500", ""]
    assert load_average(tmp_path / "none") is None


def test_one_batch_is_learned_by_heart(faces, facenet_graph_file):
    config = CONFIG.model_copy(update={"stages": (CONFIG.stages[0].model_copy(update={"steps": 200}),)})
    losses = overfit(config, Sampler(*faces, config), facenet_graph_file, steps=15)
    assert losses[-1] < losses[0] / 3


def test_a_run_may_begin_with_another_run_s_network_and_look_for_seams_too(network, faces):
    looking = RealFake(detail=4, seams=True).eval()
    looking.begin_with(network)
    views = Judged.of(*faces, splits=("dev",), variants=1).views
    assert np.allclose(log_odds(looking, views), log_odds(network, views), atol=1e-4)
    with torch.inference_mode():
        odds, seams = looking.look(torch.rand(2, 3, 112, 112) * 255)
    assert odds.shape == (2,)
    assert seams.shape == (2, 11, 11)
    with pytest.raises(ValueError, match="of another network"):
        RealFake(detail=8, seams=True).begin_with(RealFake(detail=0))


def test_places_of_the_fine_map_lie_eight_pixels_apart_from_the_thirteenth_on(network):
    picture = torch.rand(1, 3, 160, 160, requires_grad=True)
    fine, _ = network.trunk(picture)
    assert fine.shape[2:] == (17, 17)
    fine[0, :, 6, 9].sum().backward()
    # Zeros beside the picture cut off what is seen of it far away, so the middle of what is seen most.
    seen = picture.grad.abs().sum(dim=(0, 1))
    down, across = (seen.sum(dim=axis) / seen.sum() for axis in (1, 0))
    pixels = torch.arange(160.0)
    assert float(down @ pixels) == pytest.approx(13 + 8 * 6, abs=3)
    assert float(across @ pixels) == pytest.approx(13 + 8 * 9, abs=3)


def test_seams_are_learned(faces, facenet_graph_file):
    shares = {"real_face": 0.5, "blended": 0.5}
    config = CONFIG.model_copy(update={"shares": shares, "seams": True, "seam_weight": 1.0, "learning_rate": 2e-4})
    stage = config.stages[0].model_copy(update={"steps": 200})
    losses = overfit(
        config.model_copy(update={"stages": (stage,)}), Sampler(*faces, config), facenet_graph_file, steps=15
    )
    assert losses[-1] < losses[0]


def test_the_threshold_lets_one_real_face_in_two_hundred_pass_and_comes_out_as_a_half():
    patches, pixels = _many(900)
    judged = Judged.of(patches, pixels, splits=("calibrate",), variants=1)
    odds = np.where(judged.fake, 4.0, -4.0) + np.linspace(-3, 3, len(judged.views))
    scale = fit_scale(judged, odds)
    alarms = odds[~judged.fake] >= scale.threshold
    assert 0 < alarms.mean() <= 0.005
    called = scale.scores(odds) >= 0.5
    assert np.array_equal(called, odds >= scale.threshold)


def _many(count: int):
    from training.faces.tests.conftest import drawn_face, patch

    face = drawn_face(0)
    kinds = [("real_face", "camera", "shared/ffhq"), ("fake_face", "stylegan2_ffhq", "shared/stylegan2_faces")]
    patches = [
        patch(number, kinds[number % 2][0], maker=kinds[number % 2][1], source=kinds[number % 2][2], split="calibrate")
        for number in range(count)
    ]
    return patches, [face] * count


def test_a_report_tells_what_was_left_out_apart(faces):
    patches, pixels = faces
    dev = Judged.of(patches, pixels, splits=("dev",), with_blended=True)
    assert dev.blended.any()
    assert dev.fake[dev.blended].all()
    unseen = Judged.of(patches, pixels, sources=("shared/unsplash_faces",), variants=1)
    text = report(dev, np.where(dev.fake, 1.0, -1.0), unseen, np.zeros(len(unseen.views)), Scale(0.0, 1.0))
    row = next(line for line in text.splitlines() if "StyleGAN2" in line and "FFHQ, Unsplash" in line)
    assert [row.split("|")[column].strip() for column in (5, 7)] == ["1.000", "1.000"]
    alarms = next(line for line in text.splitlines() if line.startswith("| camera portraits"))
    assert alarms.split("|")[3].strip() == "0.000"


def test_what_fails_is_not_shipped(faces):
    patches, pixels = faces
    pictures = Pictures.of(patches, pixels, CONFIG)
    right = judge(lambda views: np.array([1.0 if _has_board(view) else -1.0 for view in views]), pictures)
    blind = judge(lambda views: np.linspace(-1, 1, len(views)), pictures)
    assert right.auc > blind.auc
    assert not blind.is_good_enough


def _has_board(view: np.ndarray) -> bool:
    grey = view.astype(float).mean(axis=2)
    return bool(np.abs(grey[1:, 1:] - grey[:-1, 1:] - grey[1:, :-1] + grey[:-1, :-1]).mean() > 12)


def test_the_file_answers_as_the_network_does(tmp_path, network, faces):
    views = Judged.of(*faces, splits=("dev",), variants=1).views
    odds = log_odds(network, views)
    scale = Scale(float(np.median(odds)), 2.0)
    export_onnx(network, tmp_path / "whole.onnx")
    assert np.abs(answers(tmp_path / "whole.onnx", views) - odds).max() < 1e-2

    quantise(tmp_path / "whole.onnx", tmp_path / "quantised.onnx", views)
    finish(tmp_path / "quantised.onnx", tmp_path / "small.onnx", scale, {"run": "test"})
    assert (tmp_path / "small.onnx").stat().st_size < 25_000_000
    model = onnx.load(tmp_path / "small.onnx")
    assert {prop.key: prop.value for prop in model.metadata_props}["run"] == "test"
    assert [value.name for value in model.graph.input] == [INPUT]
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8, "a quarter as much to send"
    assert [value.name for value in model.graph.output] == [OUTPUT]
    small = answers(tmp_path / "small.onnx", views)
    assert np.corrcoef(small, scale.scores(odds))[0, 1] > 0.9
