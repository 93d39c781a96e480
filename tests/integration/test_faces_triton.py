"""Age, gender and kind of a known portrait and of a drawing, by the real networks in the real Triton."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager

import cv2
import grpc
import numpy as np
import pytest
from pentimento.common.v1 import face_pb2, model_pb2
from pentimento.faces.v1 import faces_service_pb2 as pb
from pentimento.faces.v1 import faces_service_pb2_grpc as pb_grpc
from skimage import data
from triton_server import TritonServer

from services.common.images import encode_png
from services.common.server import running_server
from services.faces.main import wire
from services.faces.settings import FacesSettings

pytestmark = pytest.mark.integration

PORTRAIT = encode_png(data.astronaut())
AGE_AND_GENDER = [face_pb2.FACE_ATTRIBUTE_AGE, face_pb2.FACE_ATTRIBUTE_GENDER]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory) -> Iterator[FacesSettings]:
    """The settings of a faces service with a Triton of its own."""
    home = tmp_path_factory.mktemp("home")
    server = TritonServer(home)
    server.fetch_models()
    with server.running():
        yield FacesSettings(
            listen="127.0.0.1:0", drain_seconds=0, grace_seconds=1, triton_address=server.address, home=home
        )


@asynccontextmanager
async def serving(settings: FacesSettings):
    async with wire(settings) as register, running_server(settings, register) as (_, port):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield pb_grpc.FacesServiceStub(channel)


@pytest.mark.parametrize(
    "finder", [face_pb2.FACE_DETECTOR_YUNET, face_pb2.FACE_DETECTOR_MEDIAPIPE, face_pb2.FACE_DETECTOR_HAAR]
)
async def test_the_astronaut_is_a_woman_in_mid_life(deployment, finder):
    async with serving(deployment) as stub:
        answer = await stub.Analyze(pb.AnalyzeRequest(image=PORTRAIT, face_detector=finder, attributes=AGE_AND_GENDER))
    assert not answer.report.missing
    (face,) = answer.faces
    age, gender = face.age, face.gender
    print(f"{age.years:.1f} years, {age.range} with {age.range_probability:.2f}; {gender}")  # noqa: T201 - for pytest -s
    assert 28 < age.years < 52
    assert len(age.distribution) == 81
    assert sum(age.distribution) == pytest.approx(1, abs=1e-6)
    assert sum(year * share for year, share in enumerate(age.distribution)) == pytest.approx(age.years)
    assert age.range in {"(25-32)", "(38-43)", "(48-53)"}
    assert gender.gender == face_pb2.GENDER_FEMALE
    assert gender.probability > 0.9


async def test_every_face_of_a_crowd_gets_the_answer_that_it_gets_alone(deployment):
    portrait = data.astronaut()[:, 60:420]
    crowd = np.concatenate([np.concatenate([portrait] * 6, axis=1)] * 6, axis=0)  # 36 faces: more than one batch takes
    async with serving(deployment) as stub:
        alone = await stub.Analyze(pb.AnalyzeRequest(image=encode_png(portrait), attributes=AGE_AND_GENDER))
        started = time.perf_counter()
        answer = await stub.Analyze(pb.AnalyzeRequest(image=encode_png(crowd), attributes=AGE_AND_GENDER))
        print(f"{len(answer.faces)} faces in {time.perf_counter() - started:.2f} s")  # noqa: T201 - for pytest -s
    assert len(answer.faces) >= 34
    assert not answer.report.missing
    # The finder places faces less exactly in a picture of 36 portraits: what is cut out is not quite the same.
    (years,) = (face.age.years for face in alone.faces)
    assert all(abs(face.age.years - years) < 8 for face in answer.faces), "8 years is what the model may be off by"
    assert 28 < np.median([face.age.years for face in answer.faces]) < 52
    assert all(face.gender.gender == face_pb2.GENDER_FEMALE for face in answer.faces)


async def test_many_clients_get_their_own_answers(deployment):
    pictures = [PORTRAIT, encode_png(data.coffee()), encode_png(np.fliplr(data.astronaut()))] * 4
    async with serving(deployment) as stub:
        requests = [pb.AnalyzeRequest(image=picture, attributes=AGE_AND_GENDER) for picture in pictures]
        answers = await asyncio.gather(*(stub.Analyze(request) for request in requests))
    assert [len(answer.faces) for answer in answers] == [1, 0, 1] * 4
    middles = [(a.faces[0].box.x_min + a.faces[0].box.x_max) / 2 for a in answers if a.faces]
    assert all(middle < 256 for middle in middles[::2])
    assert all(middle > 256 for middle in middles[1::2])
    years = [answer.faces[0].age.years for answer in answers if answer.faces]
    assert years[0] == pytest.approx(years[1], abs=5), "a mirrored face is as old"


def drawing() -> np.ndarray:
    """A face in flat colours and outlines, uint8 (320, 320, 3)."""
    rgb = np.full((320, 320, 3), (120, 200, 240), np.uint8)
    skin, hair, line = (255, 220, 180), (230, 80, 40), (20, 20, 20)
    cv2.ellipse(rgb, (160, 140), (105, 115), 0, 0, 360, hair, -1)
    cv2.ellipse(rgb, (160, 165), (80, 100), 0, 0, 360, skin, -1)
    cv2.ellipse(rgb, (160, 165), (80, 100), 0, 0, 360, line, 4)
    for x in (125, 195):
        cv2.ellipse(rgb, (x, 150), (20, 28), 0, 0, 360, (255, 255, 255), -1)
        cv2.ellipse(rgb, (x, 150), (20, 28), 0, 0, 360, line, 3)
        cv2.circle(rgb, (x, 155), 12, (40, 120, 60), -1)
        cv2.circle(rgb, (x + 4, 150), 4, (255, 255, 255), -1)
    cv2.ellipse(rgb, (160, 215), (30, 18), 0, 0, 180, (180, 40, 60), -1)
    cv2.line(rgb, (160, 175), (152, 195), line, 3)
    return rgb


async def test_the_astronaut_is_a_person_and_a_drawing_is_none(deployment):
    async with serving(deployment) as stub:
        person = await stub.ClassifyKind(pb.ClassifyKindRequest(image=PORTRAIT))
        drawn = await stub.ClassifyKind(pb.ClassifyKindRequest(image=encode_png(drawing())))
    print(person.kind, drawn.kind, len(drawn.faces))  # noqa: T201 - for pytest -s
    assert person.kind.kind == face_pb2.FACE_KIND_HUMAN
    assert person.kind.probability > 0.9
    assert person.kind == person.faces[0].kind
    assert drawn.kind.kind == face_pb2.FACE_KIND_CARTOON
    assert drawn.kind.probability > 0.9


async def test_without_a_face_the_whole_picture_is_classified(deployment):
    async with serving(deployment) as stub:
        answer = await stub.ClassifyKind(pb.ClassifyKindRequest(image=encode_png(data.coffee())))
    assert not answer.faces
    assert answer.kind.kind == face_pb2.FACE_KIND_HUMAN, "a photograph"


async def test_clients_get_the_kind_of_their_own_picture(deployment):
    pictures = [PORTRAIT, encode_png(drawing())] * 6
    async with serving(deployment) as stub:
        answers = await asyncio.gather(
            *(stub.ClassifyKind(pb.ClassifyKindRequest(image=picture)) for picture in pictures)
        )
    assert [answer.kind.kind for answer in answers] == [face_pb2.FACE_KIND_HUMAN, face_pb2.FACE_KIND_CARTOON] * 6


async def test_every_face_of_a_picture_has_its_kind(deployment):
    portrait = data.astronaut()[:, 60:420]
    crowd = np.concatenate([np.concatenate([portrait] * 3, axis=1)] * 2, axis=0)
    async with serving(deployment) as stub:
        answer = await stub.Analyze(
            pb.AnalyzeRequest(image=encode_png(crowd), attributes=[face_pb2.FACE_ATTRIBUTE_KIND])
        )
    assert len(answer.faces) == 6
    assert not answer.report.missing
    assert all(face.kind.kind == face_pb2.FACE_KIND_HUMAN for face in answer.faces)


async def test_the_models_are_listed_as_they_are(deployment):
    async with serving(deployment) as stub:
        models = {model.name: model for model in (await stub.ListModels(pb.ListModelsRequest())).models}
    for name, classes in (("age", 81), ("gender", 2)):
        assert models[name].state == model_pb2.MODEL_STATE_READY
        assert len(models[name].digest) == 64
        assert models[name].license == "MIT AND LicenseRef-Research-Only"
        assert list(models[name].inputs[0].shape)[1:] == list(models["clip_face"].outputs[0].shape)[1:]
        assert list(models[name].outputs[0].shape)[1:] == [classes]
    assert list(models["gender"].classes) == ["female", "male"]
    cartoon = models["vgg16_cartoon"]
    assert (cartoon.state, list(cartoon.classes)) == (model_pb2.MODEL_STATE_READY, ["human", "cartoon"])
    assert list(cartoon.inputs[0].shape)[1:] == [128, 128, 3]
    assert list(cartoon.outputs[0].shape)[1:] == [1]
    yunet = models["yunet"]
    assert yunet.state == model_pb2.MODEL_STATE_READY
    assert list(yunet.inputs[0].shape)[1:] == [3, -1, -1]
    assert {output.name: list(output.shape)[1:] for output in yunet.outputs} == {
        f"places_{stride}": [16, -1] for stride in (8, 16, 32)
    }


FACE = (177, 75, 274, 195)
"""Of the astronaut, in her picture: the forehead to the chin, and from ear to ear; about."""


def overlap(face, box) -> float:
    """Intersection over union of a face's box and left, top, right, bottom."""
    one = (face.box.x_min, face.box.y_min, face.box.x_max, face.box.y_max)
    sides = [max(0.0, min(one[end], box[end]) - max(one[end - 2], box[end - 2])) for end in (2, 3)]
    areas = [(each[2] - each[0]) * (each[3] - each[1]) for each in (one, box)]
    common = sides[0] * sides[1]
    return common / (sum(areas) - common)


def yunet_request(rgb: np.ndarray, **more) -> pb.DetectFacesRequest:
    return pb.DetectFacesRequest(image=encode_png(rgb), face_detector=face_pb2.FACE_DETECTOR_YUNET, **more)


@pytest.mark.parametrize("scale", [0.35, 0.81, 1.0, 2.63])
async def test_yunet_finds_a_face_where_it_is_in_pictures_of_any_size(deployment, scale):
    # Sides that are no multiples of 32, below and above the 640 pixels that the network looks at.
    rgb = cv2.resize(data.astronaut(), None, fx=scale, fy=scale * 0.97, interpolation=cv2.INTER_AREA)
    async with serving(deployment) as stub:
        (face,) = (await stub.DetectFaces(yunet_request(rgb))).faces
    assert face.detector == face_pb2.FACE_DETECTOR_YUNET
    left, top, right, bottom = FACE
    assert overlap(face, (left * scale, top * scale * 0.97, right * scale, bottom * scale * 0.97)) > 0.5
    marks = face.face_landmarks
    assert marks.right_eye.x < marks.nose.x < marks.left_eye.x
    assert marks.mouth_right.x < marks.mouth_left.x
    assert max(marks.right_eye.y, marks.left_eye.y) < marks.nose.y < min(marks.mouth_right.y, marks.mouth_left.y)
    for point in (marks.right_eye, marks.left_eye, marks.nose, marks.mouth_right, marks.mouth_left):
        assert face.box.x_min <= point.x <= face.box.x_max
        assert face.box.y_min <= point.y <= face.box.y_max


@pytest.mark.parametrize("size", [(1, 1), (7, 400), (31, 33), (200, 2000)])
async def test_yunet_looks_at_pictures_of_any_shape(deployment, size):
    rgb = np.full((*size, 3), 128, np.uint8)
    async with serving(deployment) as stub:
        answer = await stub.DetectFaces(yunet_request(rgb))
    assert not answer.faces
    assert (answer.image.height, answer.image.width) == size


async def test_yunet_keeps_boxes_inside_and_gives_the_surest_of_as_many_as_are_asked_for(deployment):
    # Her face at the left edge, cut off, and whole on the right.
    rgb = np.concatenate([data.astronaut()[:300, 215:400], data.astronaut()[:300, 60:400]], axis=1)
    async with serving(deployment) as stub:
        every = (await stub.DetectFaces(yunet_request(rgb, min_confidence=0.3))).faces
        one = (await stub.DetectFaces(yunet_request(rgb, min_confidence=0.3, max_faces=1))).faces
        none = (await stub.DetectFaces(yunet_request(rgb, min_confidence=0.9999))).faces
    assert len(every) == 2
    assert min(face.box.x_min for face in every) < 12
    for face in every:
        assert 0 <= face.box.x_min < face.box.x_max <= rgb.shape[1]
        assert 0 <= face.box.y_min < face.box.y_max <= rgb.shape[0]
    assert every[0].confidence >= every[1].confidence
    assert [face.box for face in one] == [every[0].box]
    assert not none


async def test_yunet_tells_the_faces_of_a_crowd_apart(deployment):
    portrait = data.astronaut()[:, 60:420]
    crowd = np.concatenate([np.concatenate([portrait] * 4, axis=1)] * 3, axis=0)
    async with serving(deployment) as stub:
        faces = (await stub.DetectFaces(yunet_request(crowd))).faces
    assert len(faces) == 12
    middles = {(int((f.box.x_min + f.box.x_max) / 720), int((f.box.y_min + f.box.y_max) / 1024)) for f in faces}
    assert len(middles) == 12, "one in each place"


async def test_pictures_of_equal_and_of_other_sizes_share_yunet_and_get_their_own_answers(deployment):
    portrait = data.astronaut()
    pictures = [portrait, np.fliplr(portrait), portrait[:320, 100:420], np.zeros((512, 512, 3), np.uint8)] * 3
    async with serving(deployment) as stub:
        answers = await asyncio.gather(*(stub.DetectFaces(yunet_request(picture)) for picture in pictures))
    for number, answer in enumerate(answers):
        assert [face.box for face in answer.faces] == [face.box for face in answers[number % 4].faces]
    left, top, right, bottom = FACE
    assert overlap(answers[0].faces[0], FACE) > 0.5
    assert overlap(answers[1].faces[0], (512 - right, top, 512 - left, bottom)) > 0.5
    assert overlap(answers[2].faces[0], (left - 100, top, right - 100, bottom)) > 0.5
    assert not answers[3].faces
