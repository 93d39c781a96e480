"""Users' checkpoints, of the forms in which they are saved, and what is no such checkpoint."""

import pickle

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from training.localisation.classes import CLASSES
from training.localisation.importers import (
    CheckpointError,
    SmpDeepLabV3Plus,
    import_classifier,
    import_segmenter,
    read_weights,
)
from training.localisation.resnet import ResNet50

MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
STD = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]


@pytest.fixture(scope="module")
def segmenter() -> SmpDeepLabV3Plus:
    torch.manual_seed(1)
    return _alive(SmpDeepLabV3Plus())


@pytest.fixture(scope="module")
def classifier() -> ResNet50:
    torch.manual_seed(2)
    return _alive(ResNet50(4))


def _alive(network: nn.Module) -> nn.Module:
    """With statistics of normalisation that a mistake in names would not reproduce."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return network.eval()


def _asked(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(
        zip([output.name for output in session.get_outputs()], session.run(None, {"images": images}), strict=True)
    )


def test_names_are_those_of_segmentation_models_pytorch(segmenter):
    # A handful that a checkpoint of smp 0.3 to 0.6 has.
    names = segmenter.state_dict()
    for name, shape in {
        "encoder.conv1.weight": (64, 3, 7, 7),
        "encoder.layer4.2.bn3.running_var": (2048,),
        "encoder.layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "decoder.aspp.0.convs.0.0.weight": (256, 2048, 1, 1),
        "decoder.aspp.0.convs.1.0.0.weight": (2048, 1, 3, 3),
        "decoder.aspp.0.convs.3.0.1.weight": (256, 2048, 1, 1),
        "decoder.aspp.0.convs.4.1.weight": (256, 2048, 1, 1),
        "decoder.aspp.0.project.0.weight": (256, 1280, 1, 1),
        "decoder.aspp.1.0.weight": (256, 1, 3, 3),
        "decoder.aspp.1.1.weight": (256, 256, 1, 1),
        "decoder.aspp.2.weight": (256,),
        "decoder.block1.0.weight": (48, 256, 1, 1),
        "decoder.block2.0.0.weight": (304, 1, 3, 3),
        "decoder.block2.0.1.weight": (256, 304, 1, 1),
        "segmentation_head.0.weight": (1, 256, 1, 1),
    }.items():
        assert tuple(names[name].shape) == shape


@pytest.mark.parametrize("wrapped", ["plain", "nested", "parallel"])
def test_a_segmenter_comes_over_unchanged(segmenter, wrapped, tmp_path):
    state = segmenter.state_dict()
    if wrapped == "nested":
        state = {"epoch": 3, "model_state_dict": state}
    elif wrapped == "parallel":
        state = {f"module.{name}": value for name, value in state.items()}
    torch.save(state, tmp_path / "best.pth")
    import_segmenter(tmp_path / "best.pth", tmp_path / "model.onnx")
    images = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 96)).astype(np.float32)
    found = _asked(tmp_path / "model.onnx", images)
    with torch.inference_mode():
        expected = torch.sigmoid(segmenter(torch.from_numpy((images / 255 - MEAN) / STD)))[:, 0].numpy()
    assert found["mask"] == pytest.approx(expected, abs=1e-4)
    assert expected.std() > 1e-4
    assert found["reliability"] == pytest.approx(np.maximum(expected, 1 - expected), abs=1e-4)


def test_a_classifier_comes_over_with_its_classes_in_its_own_order(classifier, tmp_path):
    torch.save(classifier.state_dict(), tmp_path / "best.pth")
    names = ("face", "splicing", "inpainting", "copymove")
    import_classifier(tmp_path / "best.pth", tmp_path / "model.onnx", classes=names)
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64)).astype(np.float32)
    (found,) = _asked(tmp_path / "model.onnx", images).values()
    with torch.inference_mode():
        own = torch.softmax(classifier(torch.from_numpy((images / 255 - MEAN) / STD)), dim=1).numpy()
    assert found == pytest.approx(own, abs=1e-4)
    assert own.std() > 1e-4


def test_a_last_layer_in_a_sequential_is_found(classifier, tmp_path):
    state = {name.replace("fc.", "fc.1."): value for name, value in classifier.state_dict().items()}
    torch.save(state, tmp_path / "best.pth")
    import_classifier(tmp_path / "best.pth", tmp_path / "model.onnx", classes=CLASSES[:4])
    images = np.zeros((1, 3, 100, 80), np.float32)
    assert _asked(tmp_path / "model.onnx", images)["classes"].shape == (1, 4)


def test_what_is_no_such_checkpoint_is_refused_with_a_reason(classifier, tmp_path):
    torch.save(classifier.state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match="no weights of DeepLabV3"):
        import_segmenter(tmp_path / "resnet.pth", tmp_path / "model.onnx")
    with pytest.raises(CheckpointError, match="of another shape"):
        import_classifier(tmp_path / "resnet.pth", tmp_path / "model.onnx", classes=("face", "splicing"))
    with pytest.raises(CheckpointError, match="named once each"):
        import_classifier(tmp_path / "resnet.pth", tmp_path / "model.onnx", classes=("face", "a dog"))
    with pytest.raises(CheckpointError, match="named once each"):
        import_classifier(tmp_path / "resnet.pth", tmp_path / "model.onnx", classes=("face", "face"))
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(CheckpointError, match="no state_dict"):
        read_weights(tmp_path / "empty.pth")


class _Hostile:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of the file ran')",))


def test_code_in_a_file_does_not_run(tmp_path):
    (tmp_path / "hostile.pth").write_bytes(pickle.dumps({"state_dict": _Hostile()}))
    with pytest.raises(CheckpointError, match="cannot be read as weights alone"):
        read_weights(tmp_path / "hostile.pth")
