"""The last layers: what they are given, that they learn, and that what is served answers as they do."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from services.deeplearning.clip import input_tensor, squeezed_view
from training.clip import INPUT, tapped
from training.localisation.classes import PRISTINE
from training.localisation.config import RunConfig
from training.localisation.export import MODELS, ServedFusion, export_fragment
from training.localisation.fusing import fuse, load_fused
from training.localisation.fusion import BLOCKS, TOKEN, Fusion, averaged, edited
from training.localisation.fusion_config import FusionConfig
from training.localisation.fusion_data import Examples, FeatureExtractor, examples_of, in_order, write_features
from training.localisation.inference import localise, onnx_predictor, prepared
from training.localisation.samples import Sampler
from training.localisation.train import new_network

NETWORK = RunConfig.model_validate(
    {
        "seed": 5,
        "learned_filters": 2,
        "backbone": 8,
        "width": 16,
        "traces": 8,
        "bfloat16": False,
        "handmade": True,
        "ema": 0.9,
        "weight_decay": 0.0,
        "report_every": 1,
        "checkpoint_every": 1,
        "weights": {"pristine": 1.0},
        "stages": [{"side": 64, "batch": 2, "learning_rate": 1e-3, "warmup": 0}],
    }
)
CONFIG = FusionConfig.model_validate(
    {
        "seed": 7,
        "made": {"train": 4, "calibrate": 2},
        "honest": 25,
        "without": [],
        "width": 32,
        "depth": 1,
        "dropout": 0.0,
        "steps": 40,
        "batch": 4,
        "learning_rate": 3e-3,
        "warmup": 2,
        "weight_decay": 0.0,
        "ema": 0.5,
        "evidence": 0.25,
        "evenness": 0.5,
        "report_every": 1,
        "judge_every": 20,
        "weights": {"pristine": 0.5, "splicing": 0.5, "face": 0.5},
    }
)


@pytest.fixture(scope="module")
def network():
    network = new_network(NETWORK).eval()
    torch.nn.init.normal_(network.heads.weight, std=0.5)
    return network


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """An encoder with the taps of CLIP's, whose tokens are averages of patches times random weights."""
    helper, rng = onnx.helper, np.random.default_rng(2)
    nodes = [
        helper.make_node("AveragePool", [INPUT], ["pooled"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Reshape", ["pooled", "flat"], ["patches"]),
        helper.make_node("Transpose", ["patches"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("Concat", ["first", "rows"], ["all"], axis=1),
    ]
    weights = [
        onnx.numpy_helper.from_array(np.array([1, 3, 196]), "flat"),
        onnx.numpy_helper.from_array(np.zeros((1, 1, 3), np.float32), "first"),
    ]
    for block in range(12):
        weights.append(onnx.numpy_helper.from_array(rng.normal(0, 1, (3, TOKEN)).astype(np.float32), f"w{block}"))
        nodes.append(helper.make_node("MatMul", ["all", f"w{block}"], [tapped(block)], name=f"node{block}"))
    shape = [1, 3, 224, 224]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(tapped(11), onnx.TensorProto.FLOAT, [1, 197, TOKEN])],
        weights,
    )
    path = tmp_path_factory.mktemp("encoder") / "encoder.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=7), str(path))
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory, store, network, encoder):
    folder = tmp_path_factory.mktemp("features")
    sampler = Sampler(store, CONFIG.sample_weights(store), seed=1)
    examples = in_order(examples_of(store, sampler, made=4, honest=25))
    compute = FeatureExtractor(network, encoder)
    assert write_features(examples, compute, folder) == len(examples)
    assert write_features(examples, compute, folder) == 0
    return folder, examples


def test_cells_are_means_of_what_they_cover():
    maps = torch.rand(2, 3, 45, 70)
    cells = averaged(maps, 5)
    assert cells.shape == (2, 3, 5, 5)
    assert torch.allclose(cells[..., 0, 0], maps[..., :9, :14].mean(dim=(2, 3)), atol=1e-5)
    assert torch.allclose(averaged(maps).mean(dim=(2, 3)), maps.mean(dim=(2, 3)), atol=1e-5)
    # Enlarged, cells repeat what they lie in.
    assert torch.allclose(averaged(maps[..., :2, :2], 4)[..., 0, 0], maps[..., 0, 0], atol=1e-5)


def test_all_of_a_picture_is_squeezed_into_the_view():
    rgb = np.zeros((300, 900, 3), np.uint8)
    rgb[:, :300, 0] = rgb[:, 600:, 2] = 200
    view = squeezed_view(rgb)
    assert view.shape == (224, 224, 3)
    assert (view[:, 10, 0] == 200).all()
    assert (view[:, 213, 2] == 200).all()
    assert squeezed_view(rgb[:100, :150]).shape == (224, 224, 3)


def test_examples_are_hand_made_honest_and_made_ones(written):
    folder, examples = written
    names = {example.name for example in examples}
    assert len(names) == len(examples)
    assert {example.origin for example in examples} == {"hand", "honest", "made"}
    forged = [example for example in examples if example.origin == "hand"]
    assert len(forged) == 2
    (plain, _, label), (mirrored, mask, _) = (
        example.make() for example in sorted(forged, key=lambda one: len(one.name))
    )
    assert np.array_equal(plain[:, ::-1], mirrored)
    assert label != PRISTINE
    read = Examples(folder)
    batch = read.batch([read.origins.index("hand"), read.origins.index("honest")])
    assert batch["tokens"].shape == (2, len(BLOCKS), 196, TOKEN)
    assert batch["cells"].shape[2:] == (28, 28)
    assert float(batch["masks"][0].mean()) == pytest.approx(float(mask.mean()), abs=0.01)
    assert float(batch["masks"][1].max()) == 0.0
    assert "hand" not in Examples(folder, without=["hand"]).origins


def test_honest_pictures_without_colour_are_among_them(store):
    sampler = Sampler(store, CONFIG.sample_weights(store), seed=1)
    grey = [one for one in examples_of(store, sampler, made=0, honest=25) if one.name.endswith("-grey")]
    for example in grey:
        rgb, mask, label = example.make()
        assert (rgb == rgb[..., :1]).all()
        assert mask is None
        assert label == PRISTINE


def test_edited_is_what_speaks_against_pristine():
    chances = torch.tensor([[0.1, 0.1, 0.1, 0.1, 0.6], [0.5, 0.2, 0.1, 0.1, 0.1]])
    assert edited(chances.log() + 3.0) == pytest.approx(np.log([0.4 / 0.6, 0.9 / 0.1]), abs=1e-4)
    assert float(edited(torch.tensor([[40.0, 0.0, 0.0, 0.0, 0.0]]))[0]) == pytest.approx(6.0)


def test_the_layers_learn_what_a_few_examples_show(tmp_path, written, network):
    folder, _ = written
    examples = Examples(folder)
    checkpoint = tmp_path / "run" / "latest.pt"
    settings = CONFIG.model_copy(update={"steps": 120})
    traces, decoded = NETWORK.traces, NETWORK.width
    judged = fuse(
        settings,
        examples,
        examples,
        (NETWORK, network),
        checkpoint=checkpoint,
        log=tmp_path / "log",
        facts={"a": 1},
    )
    assert judged["hand"] > 0.6
    assert judged["right"] > 0.5
    facts = json.loads((tmp_path / "log" / "data.jsonl").read_text())
    assert facts["a"] == 1
    assert facts["examples"]["hand"] == 2
    lines = (tmp_path / "log" / "curve.csv").read_text().splitlines()
    assert float(lines[-1].split(",")[2]) < float(lines[1].split(",")[2])
    localiser, fusion, config = load_fused(checkpoint)
    assert config == settings
    assert fusion.settings["traces"] == traces
    assert fusion.settings["decoded"] == decoded
    state = network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in localiser.state_dict().items())


@pytest.mark.parametrize("shape", [(150, 205), (320, 96)])
def test_the_fragment_behind_the_encoder_answers_as_the_network(tmp_path, network, encoder, shape):
    torch.manual_seed(1)
    fusion = Fusion(traces=NETWORK.traces, decoded=NETWORK.width, width=32, depth=1).eval()
    torch.nn.init.normal_(fusion.heads.weight, std=0.5)
    fragment = tmp_path / "fragment.onnx"
    export_fragment(network, fusion, fragment, outputs=MODELS["deeplabv3plus"], threshold=0.4, evidence=0.3)
    content = encoder.read_bytes() + fragment.read_bytes()
    onnx.checker.check_model(onnx.load_from_string(content))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert {given.name for given in session.get_inputs()} == {INPUT, "images"}
    rgb = np.random.default_rng(1).integers(0, 256, (*shape, 3)).astype(np.uint8)
    tokens = FeatureExtractor(network, encoder)(rgb).tokens
    streams = [torch.from_numpy(np.pad(one, ((1, 0), (0, 0)))[None]) for one in tokens]
    with torch.inference_mode():
        mask, reliability, classes = ServedFusion(network, fusion, threshold=0.4, evidence=0.3)(
            torch.from_numpy(prepared(rgb)[0]), *streams
        )
    found = localise(rgb, onnx_predictor(content, threads=1))
    height, width = shape
    assert found.mask == pytest.approx(mask[0, :height, :width].numpy(), abs=2e-3)
    assert found.reliability == pytest.approx(reliability[0, :height, :width].numpy(), abs=2e-3)
    assert found.classes == pytest.approx(classes[0].numpy(), abs=2e-3)
    assert input_tensor(squeezed_view(rgb)).shape == (1, 3, 224, 224)
