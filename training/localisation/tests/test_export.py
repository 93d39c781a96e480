"""What is served answers as the network does."""

import hashlib

import numpy as np
import onnx
import pytest
import torch

from training.localisation.export import EXTENSION, MODELS, card_of, export_onnx, halve, install, torch_predictor
from training.localisation.inference import localise, onnx_predictor
from training.localisation.network import Localiser


@pytest.fixture(scope="module")
def network() -> Localiser:
    torch.manual_seed(3)
    network = Localiser(learned=2, width=32)
    # Heads that say something about untrained features.
    torch.nn.init.normal_(network.heads.weight, std=0.5)
    return network.eval()


@pytest.fixture(scope="module")
def single(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "single.onnx"
    export_onnx(network, path, outputs=MODELS["deeplabv3plus"])
    return path


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (150, 205, 3)).astype(np.uint8)


def test_onnx_answers_as_the_network_for_any_size(network, single, rgb):
    with torch.inference_mode():
        expected = localise(rgb, torch_predictor(network))
    found = localise(rgb, onnx_predictor(single))
    assert found.mask.shape == found.reliability.shape == (150, 205)
    assert found.mask == pytest.approx(expected.mask, abs=1e-3)
    assert found.classes == pytest.approx(expected.classes, abs=1e-3)
    assert found.classes.sum() == pytest.approx(1.0, abs=1e-4)


def test_what_lies_at_the_threshold_comes_out_as_a_half(network, rgb):
    plain = localise(rgb, torch_predictor(network)).mask
    threshold = float(np.median(plain))
    moved = localise(rgb, torch_predictor(network, threshold=threshold)).mask
    assert abs(threshold - 0.5) > 0.01
    assert ((moved >= 0.5) == (plain >= threshold)).mean() > 0.999
    assert 0.4 < (moved >= 0.5).mean() < 0.6


def test_a_picture_larger_than_the_working_size_gets_a_map_of_its_own_size(single):
    rgb = np.random.default_rng(1).integers(0, 256, (40, 1500, 3)).astype(np.uint8)
    assert localise(rgb, onnx_predictor(single)).mask.shape == (40, 1500)


def test_halves_answer_alike_and_are_half_as_large(single, rgb, tmp_path):
    halve(single, tmp_path / "half.onnx")
    assert (tmp_path / "half.onnx").stat().st_size < 0.6 * single.stat().st_size
    expected, found = (localise(rgb, onnx_predictor(path)) for path in (single, tmp_path / "half.onnx"))
    assert found.mask == pytest.approx(expected.mask, abs=0.02)


def test_what_computes_traces_stays_exact_in_halves(single, tmp_path):
    halve(single, tmp_path / "half.onnx")
    nodes = onnx.load(tmp_path / "half.onnx").graph.node
    halved = {node.output[0] for node in nodes if node.op_type == "Cast" and node.input[0].endswith(".half")}
    fixed = {name for node in onnx.load(single).graph.node if "traces/fixed" in node.name for name in node.input}
    assert halved
    assert not halved & fixed


def test_what_is_installed_is_named_by_the_digest_of_what_is_served(tmp_path):
    fragment, encoder = tmp_path / "deeplabv3plus" / "1" / EXTENSION, tmp_path / "encoder.onnx"
    fragment.parent.mkdir(parents=True)
    fragment.write_bytes(b"behind it")
    encoder.write_bytes(b"the encoder, ")
    entry = install(fragment, "deeplabv3plus", tmp_path, encoder, card="It is new.")
    assert hashlib.sha256(b"the encoder, behind it").hexdigest() in entry
    assert "size = 22" in entry
    assert (tmp_path / "deeplabv3plus" / "MODEL_CARD.md").read_text() == "It is new."
    assert 'name: "deeplabv3plus"' in (tmp_path / "deeplabv3plus" / "config.pbtxt").read_text()


@pytest.mark.parametrize("model", sorted(MODELS))
def test_a_card_without_its_figures_is_refused(model):
    facts = dict.fromkeys(
        (
            "run",
            "step",
            "localiser",
            "examples",
            "size",
            "served",
            "beside",
            "scores",
            "class_scores",
        ),
        "7 ",
    )
    assert "{{" not in card_of(model, facts)
    del facts["served"]
    with pytest.raises(ValueError, match="asks for served"):
        card_of(model, facts)
