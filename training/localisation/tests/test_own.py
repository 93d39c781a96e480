"""A checkpoint of a user's own becomes a folder that says what it is."""

import re

import pytest
import torch

from training.localisation.importers import SmpDeepLabV3Plus
from training.localisation.own import put_classifier, put_segmenter
from training.localisation.resnet import ResNet50
from triton_models._own import read_own


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.save(SmpDeepLabV3Plus().state_dict(), folder / "segmenter.pth")
    torch.save(ResNet50(3).state_dict(), folder / "classifier.pth")
    return folder


def parameters(folder):
    text = (folder / "config.pbtxt").read_text()
    return dict(re.findall(r'^parameters \{ key: "(\w+)" value \{ string_value: "(.*)" \} \}$', text, re.MULTILINE))


def outputs(folder):
    listed = (folder / "config.pbtxt").read_text().split("output [")[1].split("\n]\n")[0]
    return re.findall(r'name: "(\w+)"\s+data_type: TYPE_FP32\s+dims: \[ (.*) \]', listed)


def test_a_segmenter(checkpoints, tmp_path):
    folder = put_segmenter(checkpoints / "segmenter.pth", tmp_path, side=256, threshold=0.4)
    assert outputs(folder) == [("mask", "-1, -1"), ("reliability", "-1, -1")]
    told = parameters(folder)
    assert (told["square_side"], told["threshold"]) == ("256", "0.4")
    # It is no output of our network.
    assert "network" not in told
    assert "classes" not in told
    assert "segmenter.pth" in (folder / "MODEL_CARD.md").read_text()


def test_a_segmenter_of_whole_pictures(checkpoints, tmp_path):
    told = parameters(put_segmenter(checkpoints / "segmenter.pth", tmp_path))
    assert not {"square_side", "threshold"} & set(told)


def test_a_classifier(checkpoints, tmp_path):
    folder = put_classifier(checkpoints / "classifier.pth", tmp_path, classes=("pristine", "retouched", "face"))
    assert outputs(folder) == [("classes", "3")]
    told = parameters(folder)
    assert (told["classes"], told["square_side"]) == ("pristine,retouched,face", "224")
    assert "network" not in told


def test_both_are_found_where_own_models_lie(checkpoints, tmp_path):
    put_segmenter(checkpoints / "segmenter.pth", tmp_path)
    put_classifier(checkpoints / "classifier.pth", tmp_path, classes=("a", "b", "c"))
    found = read_own(tmp_path)
    assert [entry.name for entry in found.entries] == ["deeplabv3plus", "resnet50"]
    assert not found.problems
