"""Mask, class and model facts through the real service and the real Triton, with small networks of known answers."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path, PurePosixPath

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from pentimento.common.v1 import detection_pb2, model_pb2
from pentimento.deeplearning.v1 import deeplearning_service_pb2 as pb
from pentimento.deeplearning.v1 import deeplearning_service_pb2_grpc as pb_grpc
from PIL import Image
from small_networks import CLASSES, put, put_both
from triton_server import TritonServer
from tritonclient import grpc as triton

from services.common.images import encode_png
from services.common.server import running_server
from services.deeplearning.main import wire
from services.deeplearning.settings import DeepLearningSettings
from triton_models._lock import Entry, LockedFile, ModelsLock
from triton_models.fetch import fetch
from triton_models.layout import ModelsFolder

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
TRAINING_PYTHON = ROOT / "training" / ".venv" / "bin" / "python"
CARD = "# mine\n\n## Scores\n\n| score | value |\n|---|---|\n| pixel_f1 | 0.41 |\n"


@contextmanager
def deployment(home: Path) -> Iterator[DeepLearningSettings]:
    """A Triton that serves the own models of a data folder, and the settings of a service that asks it."""
    fetch(ModelsLock((), ()), ModelsFolder(home / "models"), report=lambda _: None)
    server = TritonServer(home)
    with server.running():
        yield settings_of(home, server.address)


def settings_of(home: Path, address: str) -> DeepLearningSettings:
    return DeepLearningSettings(
        listen="127.0.0.1:0", drain_seconds=0, grace_seconds=1, triton_address=address, home=home
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Iterator[DeepLearningSettings]:
    home = tmp_path_factory.mktemp("home")
    put_both(home / "models" / "own")
    (home / "models" / "own" / "deeplabv3plus" / "MODEL_CARD.md").write_text(CARD)
    with deployment(home) as settings:
        yield settings


@pytest.fixture
def nothing_installed(tmp_path) -> DeepLearningSettings:
    """A deployment whose models.lock names `generated` alone, which cannot be had, with a Triton that is away."""
    file = LockedFile(PurePosixPath("1/model.onnx"), "0" * 64, 1, url="https://127.0.0.1:1/model.onnx")
    lock = ModelsLock((), (Entry("model", "generated", "MIT", (file,)),))
    fetch(lock, ModelsFolder(tmp_path / "models"), report=lambda _: None)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return settings_of(tmp_path, f"127.0.0.1:{port}")


@asynccontextmanager
async def serving(settings: DeepLearningSettings):
    async with wire(settings) as register, running_server(settings, register) as (_, port):
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", -1)]
        ) as channel:
            yield pb_grpc.DeepLearningServiceStub(channel)


def picture(height: int = 120, width: int = 200) -> np.ndarray:
    """Black, with a bright place in its upper left quarter, mostly red."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[: height // 2, : width // 2] = (255, 200, 200)
    return rgb


def plain(colour: tuple[int, int, int]) -> bytes:
    return encode_png(np.full((90, 120, 3), colour, np.uint8))


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def runs(settings: DeepLearningSettings) -> dict[str, int]:
    """How often each network has run."""
    with triton.InferenceServerClient(settings.triton_address) as client:
        statistics = client.get_inference_statistics(as_json=True)["model_stats"]
    return {each["name"]: int(each.get("execution_count", 0)) for each in statistics}


async def refusal(awaitable) -> tuple[grpc.StatusCode, error_details_pb2.ErrorInfo]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    info = error_details_pb2.ErrorInfo()
    for detail in rpc_status.from_call(caught.value).details:
        detail.Unpack(info)
    return caught.value.code(), info


async def test_an_analysis_asks_one_network_once_for_mask_and_class(installed):
    before = runs(installed)
    async with serving(installed) as stub:
        request = pb.AnalyzeRequest(image=encode_png(picture()), detectors=["segment", "classify"], include_maps=True)
        report = (await stub.Analyze(request)).report
    now = runs(installed)
    assert (now["deeplabv3plus"] - before["deeplabv3plus"], now["resnet50"] - before["resnet50"]) == (1, 0)
    assert not report.missing
    findings = {finding.provenance.detector: finding for finding in report.findings}
    segment = findings["segment"]
    assert segment.score > 0.8
    assert segment.details["marked_share"] == pytest.approx(0.25, abs=1e-3)
    assert 0 < segment.likelihood_ratio.log10 <= 0.3
    assert not segment.likelihood_ratio.calibrated
    heat, trust = pixels(segment.heat_map.png), pixels(segment.reliability_map.png)
    assert heat.shape == trust.shape == (120, 200)
    assert heat[:60, :100].min() > 200 > heat[60:].max() == 0
    assert trust[:60, :100].max() < 160 < trust[60:].min()
    assert segment.provenance.model_digests["deeplabv3plus"]
    # No calibration of ours is one of these weights.
    assert segment.provenance.version == "2+own"
    assert findings["classify"].details["classes"]["pristine"] > 0.5
    assert findings["classify"].technique == detection_pb2.TECHNIQUE_UNSPECIFIED


async def test_segment_gives_the_mask_at_the_pictures_size(installed):
    rgb = picture(700, 1900)
    async with serving(installed) as stub:
        answer = await stub.Segment(pb.SegmentRequest(image=encode_png(rgb)))
        nothing = await stub.Segment(pb.SegmentRequest(image=encode_png(rgb), threshold=1.0))
    mask = pixels(answer.mask_png)
    assert mask.shape == (700, 1900)
    assert ((mask == 255) == (rgb[..., 1] > 0)).mean() > 0.995
    assert answer.manipulated_share == pytest.approx(0.25, abs=0.005)
    assert pixels(answer.overlay_png).shape == pixels(answer.masked_image_png).shape == (700, 1900, 3)
    assert pixels(answer.masked_image_png)[400:].max() == 0
    assert (answer.reliability_map.width, answer.reliability_map.height) == (1024, 377)
    assert answer.finding.provenance.detector == "segment"
    assert nothing.manipulated_share == 0.0
    assert pixels(nothing.mask_png).max() == 0


@pytest.mark.parametrize(
    ("colour", "name"),
    [((255, 0, 0), "splicing"), ((0, 255, 0), "copymove"), ((0, 0, 255), "inpainting"), ((0, 0, 0), "pristine")],
)
async def test_classify_asks_the_classifier_alone(installed, colour, name):
    before = runs(installed)
    async with serving(installed) as stub:
        answer = await stub.Classify(pb.ClassifyRequest(image=plain(colour)))
    now = runs(installed)
    assert (now["deeplabv3plus"] - before["deeplabv3plus"], now["resnet50"] - before["resnet50"]) == (0, 1)
    assert answer.classes[0].class_name == name
    assert [item.class_id for item in answer.classes] == [CLASSES.index(item.class_name) for item in answer.classes]
    assert sum(item.probability for item in answer.classes) == pytest.approx(1.0, abs=1e-4)
    assert (answer.finding.score >= 0.5) == (name != "pristine")


async def test_detectors_tell_the_version_that_their_findings_have(installed, nothing_installed):
    for settings, version in ((installed, "2+own"), (nothing_installed, "2")):
        async with serving(settings) as stub:
            listed = (await stub.ListDetectors(pb.ListDetectorsRequest())).detectors
        assert {item.name: item.version for item in listed} == {
            "classify": version,
            "segment": version,
            "generated": "2",
        }


async def test_a_model_is_described(installed):
    async with serving(installed) as stub:
        model = (await stub.GetModelInfo(pb.GetModelInfoRequest(model="deeplabv3plus"))).model
    assert model.state == model_pb2.MODEL_STATE_READY
    assert (model.version, model.license, len(model.digest)) == ("1", "LicenseRef-Own", 64)
    assert [(each.name, list(each.shape)) for each in model.inputs] == [("images", [-1, 3, -1, -1])]
    assert {each.name: list(each.shape) for each in model.outputs}["mask"] == [-1, -1, -1]
    assert dict(model.scores) == {"pixel_f1": 0.41}


async def test_pictures_at_the_same_time_get_their_own_answers(installed):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)] * 3
    async with serving(installed) as stub:
        answers = await asyncio.gather(*(stub.Classify(pb.ClassifyRequest(image=plain(each))) for each in colours))
    expected = ["splicing", "copymove", "inpainting", "pristine"] * 3
    assert [answer.classes[0].class_name for answer in answers] == expected


@pytest.mark.parametrize("method", ["Segment", "Classify"])
async def test_what_is_too_small_is_refused(installed, method):
    async with serving(installed) as stub:
        request = {"Segment": pb.SegmentRequest, "Classify": pb.ClassifyRequest}[method]
        code, info = await refusal(getattr(stub, method)(request(image=encode_png(np.zeros((40, 300, 3), np.uint8)))))
    assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TOO_SMALL")


@pytest.mark.parametrize(("method", "model"), [("Segment", "deeplabv3plus"), ("Classify", "resnet50")])
async def test_without_the_model_the_call_names_it(nothing_installed, method, model):
    async with serving(nothing_installed) as stub:
        request = {"Segment": pb.SegmentRequest, "Classify": pb.ClassifyRequest}[method]
        code, info = await refusal(getattr(stub, method)(request(image=plain((9, 9, 9)))))
    assert code == grpc.StatusCode.UNAVAILABLE
    assert info.metadata["model"] == model


async def test_a_model_that_nobody_put_in_is_not_missing(nothing_installed):
    async with serving(nothing_installed) as stub:
        report = (await stub.Analyze(pb.AnalyzeRequest(image=plain((9, 9, 9))))).report
        asked = (await stub.Analyze(pb.AnalyzeRequest(image=plain((9, 9, 9)), detectors=["segment"]))).report
        listed = (await stub.ListModels(pb.ListModelsRequest())).models
    names = {item.part for item in report.missing} | {finding.provenance.detector for finding in report.findings}
    assert names == {"generated"}
    # Whoever asks for it by name is told.
    assert [item.part for item in asked.missing] == ["segment"]
    assert {model.name: model.state for model in listed}["deeplabv3plus"] == model_pb2.MODEL_STATE_NOT_INSTALLED


async def test_a_model_that_is_put_in_and_does_not_answer_is_missing(installed, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with serving(settings_of(installed.home, f"127.0.0.1:{port}")) as stub:
        report = (await stub.Analyze(pb.AnalyzeRequest(image=plain((9, 9, 9))))).report
    missing = {item.part: item.reason for item in report.missing}
    assert missing["segment"] == missing["classify"] == "MODEL_UNAVAILABLE"
    assert not {"deeplabv3plus", "resnet50"} & set(missing)  # said once, by those who ask them


async def test_a_mask_network_without_classes_is_served_beside_no_classifier(tmp_path):
    put(tmp_path / "models" / "own", "deeplabv3plus", "mask", threshold="0.8")
    with deployment(tmp_path) as settings:
        async with serving(settings) as stub:
            report = (await stub.Analyze(pb.AnalyzeRequest(image=encode_png(picture())))).report
            code, info = await refusal(stub.Classify(pb.ClassifyRequest(image=plain((9, 9, 9)))))
    findings = {finding.provenance.detector: finding for finding in report.findings}
    assert findings["segment"].applicability == detection_pb2.APPLICABILITY_APPLIED, findings["segment"].explanation
    # (255, 200, 200) has the mask 0.856: above its threshold, and told as such.
    assert findings["segment"].score == pytest.approx(0.598, abs=0.01)
    assert "classify" not in findings
    assert "segment" not in {item.part for item in report.missing}
    assert (code, info.metadata["model"]) == (grpc.StatusCode.UNAVAILABLE, "resnet50")


# ---- users' own checkpoints, of the two forms that document 001's project saved ----

MAKE_AND_IMPORT = """
import json
import sys
from pathlib import Path
import cv2
import numpy as np
import torch
from training.localisation.__main__ import main
from training.localisation.importers import SmpDeepLabV3Plus
from training.localisation.resnet import ResNet50
from torch import nn

def alive(network):
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return network.eval()

torch.set_num_threads(1)
torch.manual_seed(1)
folder = Path(sys.argv[1])
segmenter, classifier = alive(SmpDeepLabV3Plus()), alive(ResNet50(3))
torch.save({"model_state_dict": segmenter.state_dict()}, folder / "segmenter.pth")
torch.save(classifier.state_dict(), folder / "classifier.pth")
rgb = np.load(folder / "rgb.npy")
mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
square = torch.from_numpy(cv2.resize(rgb, (96, 96), interpolation=cv2.INTER_AREA)).permute(2, 0, 1) / 255
with torch.inference_mode():
    given = ((square - mean) / std)[None]
    np.save(folder / "mask.npy", torch.sigmoid(segmenter(given))[0, 0].numpy())
    np.save(folder / "classes.npy", torch.softmax(classifier(given), dim=1)[0].numpy())
for command in json.loads(sys.argv[2]):
    sys.argv = ["training.localisation", *command]
    main()
"""


def make_and_import(folder: Path, classes: list[str]) -> None:
    """Saves both checkpoints, imports them among the folder's own models, and saves what PyTorch says of `rgb.npy`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "PENTIMENTO_HOME": str(folder)}
    commands = [
        ["import", "deeplabv3plus", str(folder / "segmenter.pth"), "--side", "96"],
        ["import", "resnet50", str(folder / "classifier.pth"), "--side", "96", "--classes", *classes],
    ]
    made = [TRAINING_PYTHON, "-c", MAKE_AND_IMPORT, str(folder), json.dumps(commands)]
    subprocess.run(made, cwd=ROOT, env=environment, check=True)


@pytest.mark.timeout(400)
async def test_imported_checkpoints_are_served(tmp_path):
    if not TRAINING_PYTHON.exists():
        pytest.skip("the environment of training is not set up (make train-env)")
    rgb = np.random.default_rng(2).integers(0, 256, (300, 420, 3), dtype=np.uint8)
    np.save(tmp_path / "rgb.npy", rgb)
    names = ["pristine", "retouched", "splicing"]
    make_and_import(tmp_path, names)
    with deployment(tmp_path) as settings:
        async with serving(settings) as stub:
            request = pb.AnalyzeRequest(image=encode_png(rgb), detectors=["segment"], include_maps=True)
            (segment,) = (await stub.Analyze(request)).report.findings
            said = await stub.Classify(pb.ClassifyRequest(image=encode_png(rgb)))
    assert pixels(segment.heat_map.png) / 255 == pytest.approx(np.load(tmp_path / "mask.npy"), abs=0.005)
    found = {item.class_name: item.probability for item in said.classes}
    expected = dict(zip(names, np.load(tmp_path / "classes.npy").tolist(), strict=True))
    assert found == pytest.approx(expected, abs=1e-4)
    assert np.ptp(list(expected.values())) > 1e-3
