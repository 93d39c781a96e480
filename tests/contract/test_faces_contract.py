"""The faces service as a gRPC client meets it."""

from __future__ import annotations

import io
import json
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
import skimage.data
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from pentimento.common.v1 import detection_pb2, face_pb2, model_pb2
from pentimento.faces.v1 import faces_service_pb2 as pb
from pentimento.faces.v1 import faces_service_pb2_grpc as pb_grpc
from PIL import Image

from services.common.server import running_server
from services.faces.main import wire
from services.faces.settings import FacesSettings
from triton_models.layout import data_folder

CONSENSUS = face_pb2.FACE_DETECTOR_CONSENSUS
HAAR, MEDIAPIPE, YUNET = (face_pb2.FACE_DETECTOR_HAAR, face_pb2.FACE_DETECTOR_MEDIAPIPE, face_pb2.FACE_DETECTOR_YUNET)
MODELS = ["age", "clip_cartoon", "clip_face", "facenet", "facenet_realfake", "gender", "vgg16_cartoon", "yunet"]


def encoded(rgb: np.ndarray, file_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, file_format)
    return buffer.getvalue()


PORTRAIT = encoded(skimage.data.astronaut())
COFFEE = encoded(skimage.data.coffee())


@asynccontextmanager
async def serving(home: Path, **settings):
    """The service as it is wired, without a Triton (nothing listens on port 1)."""
    chosen = FacesSettings(
        listen="127.0.0.1:0", drain_seconds=0, grace_seconds=1, triton_address="127.0.0.1:1", home=home, **settings
    )
    async with wire(chosen) as register, running_server(chosen, register) as (_, port):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield pb_grpc.FacesServiceStub(channel)


async def refusal(awaitable) -> tuple[grpc.aio.AioRpcError, dict[str, object]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    details = {}
    for detail in rpc_status.from_call(caught.value).details:
        for message in (error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()):
            if detail.Unpack(message):
                details[type(message).__name__] = message
    return caught.value, details


def missing(report) -> dict[str, str]:
    return {item.part: item.reason for item in report.missing}


async def test_without_networks_faces_are_found_and_what_is_missing_is_named(tmp_path):
    async with serving(tmp_path) as stub:
        answer = await stub.Analyze(pb.AnalyzeRequest(image=PORTRAIT))
    (face,) = answer.faces
    assert face.detector == HAAR
    assert 160 < face.box.x_min < 200
    assert 260 < face.box.x_max < 300
    assert not face.HasField("age")
    assert not face.HasField("gender")
    assert missing(answer.report) == {
        "yunet": "MODEL_UNAVAILABLE",
        "mediapipe_face_detector": "MODEL_NOT_INSTALLED",
        "age": "MODEL_UNAVAILABLE",
        "gender": "MODEL_UNAVAILABLE",
        "clip_cartoon": "MODEL_UNAVAILABLE",
        "vgg16_cartoon": "MODEL_UNAVAILABLE",
        "facenet_realfake": "MODEL_UNAVAILABLE",
    }
    (edited,) = [item for item in answer.report.missing if item.questions]
    assert (edited.part, list(edited.questions)) == ("facenet_realfake", [detection_pb2.QUESTION_EDITED])
    assert (answer.report.image.width, answer.report.image.height) == (512, 512)
    assert answer.report.duration_seconds > 0


async def test_a_network_that_nobody_put_in_is_lacked_only_by_who_asks_for_it(tmp_path):
    status = tmp_path / "models" / "status.json"
    status.parent.mkdir()
    entries = [{"kind": "model", "name": name, "ready": True, "files": [], "licence": "MIT"} for name in ("age",)]
    status.write_text(json.dumps({"schema_version": 1, "entries": entries, "files": {}}))
    async with serving(tmp_path) as stub:
        answer = await stub.Analyze(pb.AnalyzeRequest(image=PORTRAIT))
        asked = await stub.Analyze(pb.AnalyzeRequest(image=PORTRAIT, detectors=["facenet_realfake"]))
        found = await stub.DetectFaces(pb.DetectFacesRequest(image=PORTRAIT))
    assert len(answer.faces) == 1
    assert missing(answer.report) == {"mediapipe_face_detector": "MODEL_NOT_INSTALLED", "age": "MODEL_UNAVAILABLE"}
    assert not answer.report.findings
    assert "facenet_realfake" in missing(asked.report)
    assert [item.part for item in found.missing] == ["mediapipe_face_detector"]


async def test_mediapipe_looks_by_default():
    home = data_folder()
    if not (home / "models/assets/mediapipe/face_detection_short_range.tflite").is_file():
        pytest.skip("MediaPipe's network is not there: python -m triton_models.fetch brings it")
    async with serving(home) as stub:
        answer = await stub.DetectFaces(pb.DetectFacesRequest(image=PORTRAIT))
        by_haar = await stub.DetectFaces(pb.DetectFacesRequest(image=PORTRAIT, face_detector=HAAR))
    (face,) = answer.faces
    assert face.detector == MEDIAPIPE
    assert face.face_landmarks.right_eye.x < face.face_landmarks.nose.x < face.face_landmarks.left_eye.x
    assert not face.face_landmarks.HasField("mouth_right")
    assert answer.image.format == "PNG"
    assert by_haar.faces[0].detector == HAAR


async def test_a_picture_without_a_face_lacks_nothing_but_the_finder(tmp_path):
    async with serving(tmp_path) as stub:
        answer = await stub.Analyze(pb.AnalyzeRequest(image=COFFEE))
    assert not answer.faces
    assert missing(answer.report) == {
        "yunet": "MODEL_UNAVAILABLE",
        "mediapipe_face_detector": "MODEL_NOT_INSTALLED",
    }
    (finding,) = answer.report.findings
    assert finding.applicability == detection_pb2.APPLICABILITY_NOT_APPLICABLE


async def test_only_the_attributes_that_are_asked_for(tmp_path):
    async with serving(tmp_path) as stub:
        answer = await stub.Analyze(
            pb.AnalyzeRequest(image=PORTRAIT, face_detector=HAAR, attributes=[face_pb2.FACE_ATTRIBUTE_GENDER])
        )
    assert missing(answer.report) == {"gender": "MODEL_UNAVAILABLE", "facenet_realfake": "MODEL_UNAVAILABLE"}


async def test_a_finder_that_is_not_there_is_missing_in_a_report_and_unavailable_alone(tmp_path):
    async with serving(tmp_path) as stub:
        answer = await stub.Analyze(pb.AnalyzeRequest(image=PORTRAIT, face_detector=YUNET))
        error, details = await refusal(stub.DetectFaces(pb.DetectFacesRequest(image=PORTRAIT, face_detector=YUNET)))
    assert not answer.faces
    assert missing(answer.report) == {"yunet": "MODEL_UNAVAILABLE"}
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert details["ErrorInfo"].metadata["model"] == "yunet"


async def test_confidence_and_number_of_faces_can_be_bounded(tmp_path):
    two = np.concatenate([skimage.data.astronaut()[:, :400]] * 2, axis=1)
    async with serving(tmp_path) as stub:
        every = await stub.DetectFaces(pb.DetectFacesRequest(image=encoded(two), face_detector=HAAR))
        one = await stub.DetectFaces(pb.DetectFacesRequest(image=encoded(two), face_detector=HAAR, max_faces=1))
        none = await stub.DetectFaces(
            pb.DetectFacesRequest(image=encoded(two), face_detector=HAAR, min_confidence=0.9999)
        )
    assert (len(every.faces), len(one.faces), len(none.faces)) == (2, 1, 0)
    assert one.faces[0].confidence == max(face.confidence for face in every.faces)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF"])
async def test_every_format_of_the_mesh_is_read(tmp_path, file_format):
    async with serving(tmp_path) as stub:
        answer = await stub.DetectFaces(pb.DetectFacesRequest(image=encoded(skimage.data.astronaut(), file_format)))
    assert answer.image.format == file_format
    assert len(answer.faces) == 1


@pytest.mark.parametrize(
    ("request_message", "field"),
    [
        (pb.AnalyzeRequest(), "image"),
        (pb.AnalyzeRequest(image=b"x", detectors=["No Such Name"]), "detectors"),
        (pb.AnalyzeRequest(image=b"x", max_faces=-1), "max_faces"),
        (pb.AnalyzeRequest(image=b"x", attributes=[77]), "attributes"),
        (pb.AnalyzeRequest(image=b"x", face_detector=99), "face_detector"),
    ],
)
async def test_the_rules_of_the_contract_hold(tmp_path, request_message, field):
    async with serving(tmp_path) as stub:
        error, details = await refusal(stub.Analyze(request_message))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert details["BadRequest"].field_violations[0].field == field


@pytest.mark.parametrize(
    ("image", "reason"), [(b"I am no picture", "UNSUPPORTED_FORMAT"), (PORTRAIT[:5000], "DAMAGED_IMAGE")]
)
async def test_what_is_no_picture_is_refused(tmp_path, image, reason):
    async with serving(tmp_path) as stub:
        for call, request in ((stub.Analyze, pb.AnalyzeRequest), (stub.DetectFaces, pb.DetectFacesRequest)):
            error, details = await refusal(call(request(image=image)))
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert details["ErrorInfo"].reason == reason


async def test_an_unknown_detector_is_refused(tmp_path):
    async with serving(tmp_path) as stub:
        error, details = await refusal(stub.Analyze(pb.AnalyzeRequest(image=PORTRAIT, detectors=["nothing"])))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert details["ErrorInfo"].reason == "UNKNOWN_DETECTOR"


async def test_what_cannot_be_asked_names_its_model(tmp_path):
    async with serving(tmp_path) as stub:
        for call, model in (
            (stub.DetectDeepfake(pb.DetectDeepfakeRequest(image=PORTRAIT)), "clip_face"),
            (stub.DetectDeepfake(pb.DetectDeepfakeRequest(image=PORTRAIT, augmented=True)), "clip_face"),
            (
                stub.DetectDeepfake(pb.DetectDeepfakeRequest(image=COFFEE, whole_image_fallback=True)),
                "clip_face",
            ),
            (stub.EmbedFaces(pb.EmbedFacesRequest(image=PORTRAIT)), "facenet"),
            (stub.CompareFaces(pb.CompareFacesRequest(image_a=PORTRAIT, image_b=PORTRAIT)), "facenet"),
        ):
            error, details = await refusal(call)
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            assert details["ErrorInfo"].reason == "MODEL_UNAVAILABLE"
            assert details["ErrorInfo"].metadata["model"] == model


async def test_without_a_face_the_whole_picture_is_looked_at_only_if_asked(tmp_path):
    async with serving(tmp_path) as stub:
        answer = await stub.DetectDeepfake(pb.DetectDeepfakeRequest(image=COFFEE))
    assert not answer.faces
    assert not answer.HasField("whole_image")


async def test_pictures_without_a_face_cannot_be_compared(tmp_path):
    async with serving(tmp_path) as stub:
        error, details = await refusal(stub.CompareFaces(pb.CompareFacesRequest(image_a=COFFEE, image_b=COFFEE)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert details["ErrorInfo"].reason == "NO_FACE"
    assert details["BadRequest"].field_violations[0].field in {"image_a", "image_b"}


async def test_the_finders_that_are_there_agree(tmp_path):
    async with serving(tmp_path) as stub:
        answer = await stub.DetectFaces(pb.DetectFacesRequest(image=PORTRAIT, face_detector=CONSENSUS))
    (face,) = answer.faces
    assert face.detector == answer.face_detector == CONSENSUS
    assert face.agreement == 1.0, "Haar alone was asked, and saw it"
    assert {item.part for item in answer.missing} == {"yunet", "mediapipe_face_detector"}


async def test_a_face_is_described_no_further_than_is_asked(tmp_path):
    async with serving(tmp_path) as stub:
        plain = await stub.DetectFaces(pb.DetectFacesRequest(image=PORTRAIT, face_detector=HAAR))
        asked = await stub.DetectFaces(
            pb.DetectFacesRequest(image=PORTRAIT, face_detector=HAAR, attributes=[face_pb2.FACE_ATTRIBUTE_KIND])
        )
    assert not plain.missing
    assert [item.part for item in asked.missing] == ["clip_cartoon", "vgg16_cartoon"]


@pytest.mark.parametrize("image", [PORTRAIT, COFFEE], ids=["face", "no face"])
async def test_without_its_network_no_kind_is_told(tmp_path, image):
    async with serving(tmp_path) as stub:
        error, details = await refusal(stub.ClassifyKind(pb.ClassifyKindRequest(image=image)))
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert details["ErrorInfo"].reason == "MODEL_UNAVAILABLE"
    assert details["ErrorInfo"].metadata["model"] == "vgg16_cartoon"


async def test_biometrics_can_be_forbidden(tmp_path):
    async with serving(tmp_path, biometrics=False) as stub:
        answer = await stub.Analyze(
            pb.AnalyzeRequest(image=PORTRAIT, attributes=[face_pb2.FACE_ATTRIBUTE_AGE, face_pb2.FACE_ATTRIBUTE_GENDER])
        )
        error, details = await refusal(stub.EmbedFaces(pb.EmbedFacesRequest(image=PORTRAIT)))
    assert len(answer.faces) == 1
    assert missing(answer.report) == {
        "yunet": "MODEL_UNAVAILABLE",
        "mediapipe_face_detector": "MODEL_NOT_INSTALLED",
        "facenet_realfake": "MODEL_UNAVAILABLE",
        "age": "BIOMETRICS_DISABLED",
        "gender": "BIOMETRICS_DISABLED",
    }
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED
    assert details["ErrorInfo"].reason == "BIOMETRICS_DISABLED"


async def test_models_and_detectors_are_listed(tmp_path):
    async with serving(tmp_path) as stub:
        models = (await stub.ListModels(pb.ListModelsRequest())).models
        detectors = (await stub.ListDetectors(pb.ListDetectorsRequest())).detectors
    assert [model.name for model in models] == MODELS
    assert {model.state for model in models} == {model_pb2.MODEL_STATE_NOT_INSTALLED}
    assert all(model.description for model in models)
    (detector,) = detectors  # detectors answer a question about the picture; finders do not
    assert (detector.name, list(detector.models)) == ("facenet_realfake", ["clip_face", "facenet_realfake"])
