"""What is judged here is what the service serves: the same input, the same maps, the same scores on the card."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import triton_models
from services.deeplearning import localisation as service
from services.deeplearning.clip import input_tensor, squeezed_view
from training.localisation.classes import CLASSES
from training.localisation.export import EXTENSION, MODELS, SERVING, card_of, export_onnx, install
from training.localisation.inference import STRIDE, WORKING_SIDE, localise, onnx_predictor, prepared
from training.localisation.network import Localiser
from training.localisation.scores import class_scores, mask_scores
from triton_models._card import scores_of
from triton_models._lock import read_lock
from triton_models.fetch import fetch
from triton_models.layout import ModelsFolder

REPOSITORY = Path(triton_models.__file__).parent


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(3)
    network = Localiser(learned=2, backbone=16, width=32)
    torch.nn.init.normal_(network.heads.weight, std=0.5)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(network.eval(), path, outputs=MODELS["deeplabv3plus"])
    return path


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_numbers_are_the_same():
    assert (service.WORKING_SIDE, service.STRIDE) == (WORKING_SIDE, STRIDE)


@pytest.mark.parametrize("shape", [(64, 64), (100, 333), (700, 1100), (1080, 1920), (3000, 170)])
def test_the_service_shows_the_network_what_it_is_judged_on(shape):
    rgb = picture(*shape)
    images, size = prepared(rgb)
    given = service.prepared(rgb)
    assert (given.height, given.width) == size
    assert np.array_equal(given.images, images)


@pytest.mark.parametrize("shape", [(150, 205), (300, 1500)])
def test_the_service_says_of_a_picture_what_is_judged_here(exported, shape):
    rgb = picture(*shape)
    predict = onnx_predictor(exported, threads=1)
    expected = localise(rgb, predict)
    given = service.prepared(rgb)
    mask, reliability, classes = predict(given.images, input_tensor(squeezed_view(rgb)))
    assert np.array_equal(service.restored(service.within(mask, given), shape), expected.mask)
    assert np.array_equal(service.restored(service.within(reliability, given), shape), expected.reliability)
    assert np.array_equal(classes[0], expected.classes)


RESULT = {
    "sets": {
        "planted copy-move": {"measure": "f1", "network": {"value": 0.41}},
        "pristine": {"measure": "area", "network": {"value": 0.004}, "accused": {"network": {"value": 0.05}}},
    },
    "classes": {"balanced_accuracy": {"value": 0.66}},
}


@pytest.mark.parametrize(
    ("model", "scores"),
    [
        (
            "deeplabv3plus",
            {"pixel_f1_planted_copy_move": 0.41, "marked_area_pristine": 0.004, "accused_pristine": 0.05},
        ),
        ("resnet50", {"balanced_accuracy": 0.66}),
    ],
)
def test_the_card_tells_its_scores_to_the_service(model, scores, tmp_path):
    (tmp_path / "MODEL_CARD.md").write_text(card(model))
    assert scores_of(tmp_path / "MODEL_CARD.md") == scores


def card(model) -> str:
    facts = dict.fromkeys(("run", "step", "localiser", "examples", "size", "served"), "-")
    facts |= {"beside": "-", "scores": mask_scores(RESULT), "class_scores": class_scores(RESULT)}
    return card_of(model, facts)


def test_what_is_put_in_place_is_fetched_as_the_printed_entry_says(tmp_path):
    """Fragment, configuration, card and the entry for models.lock fit together, as tests hold of those in place."""
    source, mirror, encoder = tmp_path / "triton_models", tmp_path / "mirror", tmp_path / "encoder.onnx"
    encoder.write_bytes(b"the encoder, ")
    printed = []
    for model in MODELS:
        fragment = source / model / "1" / EXTENSION
        fragment.parent.mkdir(parents=True)
        fragment.write_bytes(f"behind it {model}".encode())
        printed.append(install(fragment, model, source, encoder, card=card(model)))
        mirrored = mirror / "repository" / model / "1" / "model.onnx"
        mirrored.parent.mkdir(parents=True)
        mirrored.write_bytes(encoder.read_bytes() + fragment.read_bytes())
    packages = (REPOSITORY / "models.lock").read_text().split("\n[[model]]\n", maxsplit=1)[0]
    (tmp_path / "models.lock").write_text("\n".join([packages, *printed]))
    lock = read_lock(tmp_path / "models.lock")
    folder = ModelsFolder(tmp_path / "home" / "models")
    statuses = fetch(lock, folder, source=source, mirror=mirror, report=lambda _: None)
    assert {status.entry.name: status.reason for status in statuses} == dict.fromkeys(MODELS)
    for entry in lock.entries:
        assert (folder.repository / entry.name / "1" / "model.onnx").read_bytes().startswith(encoder.read_bytes())
        text = (source / entry.name / "MODEL_CARD.md").read_text()
        assert entry.licence in text
        for heading in ("## Input", "## Output", "## Scores", "## Limits", "## Must not be used for"):
            assert f"\n{heading}\n" in text
    told = {entry["name"]: entry["scores"] for entry in json.loads(folder.status.read_text())["entries"]}
    assert told["resnet50"] == {"balanced_accuracy": 0.66}


def test_the_classes_of_the_configuration_are_those_of_the_network():
    for model in MODELS:
        assert f'"{",".join(CLASSES)}"' in (SERVING / f"{model}.pbtxt").read_text()
