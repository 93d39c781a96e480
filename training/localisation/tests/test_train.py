"""The loop: resumes where it stopped, with the same samples, and its average is what is loaded."""

import csv
import json

import pytest
import torch

from training.localisation.config import RunConfig, Stage
from training.localisation.samples import Sampler
from training.localisation.train import Batches, load_average, new_network, train

SETTINGS = {
    "seed": 4,
    "learned_filters": 2,
    "width": 16,
    "bfloat16": True,
    "handmade": True,
    "ema": 0.9,
    "weight_decay": 0.01,
    "report_every": 1,
    "checkpoint_every": 2,
    "weights": {"pristine": 1.0, "handmade": 1.0, "inpainting": 1.0},
    "stages": [
        {"steps": 2, "side": 64, "batch": 2, "learning_rate": 1e-3, "warmup": 0},
        {"side": 96, "batch": 2, "learning_rate": 1e-3, "warmup": 0},
    ],
}
CONFIG = RunConfig.model_validate(SETTINGS)


def test_stages_follow_each_other():
    assert CONFIG.at(1) == (CONFIG.stages[0], 1)
    assert CONFIG.at(2) == (CONFIG.stages[1], 0)
    assert CONFIG.at(10**6) == (CONFIG.stages[1], 10**6 - 2)
    ended = RunConfig.model_validate({**SETTINGS, "stages": [{**SETTINGS["stages"][0]}]})
    assert ended.at(2) is None


def test_only_the_last_stage_is_endless():
    with pytest.raises(ValueError, match="only the last stage"):
        RunConfig.model_validate({**SETTINGS, "stages": SETTINGS["stages"][::-1]})


def test_the_learning_rate_warms_up_and_comes_down():
    stage = Stage(steps=100, side=64, batch=2, learning_rate=1e-3, final_learning_rate=1e-4, warmup=4)
    assert stage.rate(0) == pytest.approx(2e-4, rel=0.01)
    assert stage.rate(50) == pytest.approx(5.5e-4)
    assert stage.rate(100) == pytest.approx(1e-4)
    assert Stage(side=64, batch=2, learning_rate=1e-3, warmup=0).rate(10**6) == 1e-3
    with pytest.raises(ValueError, match="without an end"):
        Stage(side=64, batch=2, learning_rate=1e-3, final_learning_rate=1e-4, warmup=0)


def test_without_hand_made_forgeries_none_is_drawn():
    assert "handmade" not in CONFIG.model_copy(update={"handmade": False}).sample_weights


def test_batches_go_on_where_they_stopped(store):
    sampler = Sampler(store, CONFIG.sample_weights, seed=1)
    whole = iter(Batches(sampler, CONFIG, 0))
    next(whole)
    second, third = next(whole), next(whole)
    resumed = iter(Batches(sampler, CONFIG, 1))
    assert torch.equal(next(resumed).images, second.images)
    later = next(resumed)
    assert torch.equal(later.images, third.images)
    assert later.images.shape == (2, 3, 96, 96)


def test_a_run_is_resumed(store, tmp_path):
    log = tmp_path / "log"
    log.mkdir()
    folders = {"checkpoints": tmp_path / "run", "log": log, "facts": {"data": "d1"}, "workers": 0}
    assert train(CONFIG, store, until=1, **folders) == 1
    assert train(CONFIG, store, until=3, **folders) == 3
    with (log / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert [row["side"] for row in rows] == ["64", "64", "96"]
    starts = [json.loads(line) for line in (log / "data.jsonl").read_text().splitlines()]
    assert [start["from_step"] for start in starts] == [0, 1]
    assert starts[0]["data"] == "d1"
    network, step = load_average(tmp_path / "run" / "latest.pt")
    assert step == 3
    state = torch.load(tmp_path / "run" / "latest.pt", weights_only=True)
    assert json.loads(state["config"])["seed"] == 4
    assert torch.equal(network.heads.weight, state["average"]["heads.weight"])
    assert not torch.equal(state["average"]["heads.weight"], state["network"]["heads.weight"])


def test_a_stage_that_is_not_deep_leaves_the_backbone_and_another_run_begins_with_its_weights(store, tmp_path):
    shallow = RunConfig.model_validate({**SETTINGS, "stages": [{**SETTINGS["stages"][0], "deep": False}]})
    folders = {"log": tmp_path, "facts": {}, "workers": 0}
    train(shallow, store, checkpoints=tmp_path / "one", **folders)
    one = torch.load(tmp_path / "one" / "latest.pt", weights_only=True)
    new = new_network(shallow).state_dict()
    assert torch.equal(one["network"]["backbone.conv1.weight"], new["backbone.conv1.weight"])
    assert not torch.equal(one["network"]["traces.mask.weight"], new["traces.mask.weight"])
    train(CONFIG, store, checkpoints=tmp_path / "two", weights=tmp_path / "one" / "latest.pt", until=0, **folders)
    two = torch.load(tmp_path / "two" / "latest.pt", weights_only=True)
    assert two["step"] == 0
    assert torch.equal(two["network"]["traces.mask.weight"], one["average"]["traces.mask.weight"])
