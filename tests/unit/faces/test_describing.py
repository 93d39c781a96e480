"""What becomes of a face when networks answer, refuse or are away. The client here only fails or gives fixed rows."""

from __future__ import annotations

import numpy as np
import pytest

from services.common.errors import DeadlineExceeded, Forbidden, ModelUnavailable
from services.faces.attributes import deepfake
from services.faces.describing import MAX_BATCH, Describer
from services.faces.face import Attribute, Box, DeepfakeEstimate, DetectedFace, FaceDetector, FaceKind, KindEstimate

FACE = DetectedFace(box=Box(177, 82, 272, 177), confidence=0.9, detector=FaceDetector.HAAR)
AGE_AND_GENDER = frozenset({Attribute.AGE, Attribute.GENDER})
VIEWS = 2
"""Of each face, for its embedding: as it is, and mirrored."""
TRACES = 6


DRAWN, PERSON, EVEN = 0.98, 0.02, 0.5
"""Probabilities of being drawn that a glance may give."""


class Client:
    """Tenths, but what a glance tells of each face; and the failures that it is told to have."""

    def __init__(self, *glances: float, **failures: Exception) -> None:
        self.glances = glances
        self.failures = failures
        self.batches: list[tuple[str, int]] = []
        self.inputs: dict[str, set[str]] = {}

    async def infer(self, model, inputs, outputs):
        (size,) = {len(tensor) for tensor in inputs.values()}
        self.batches.append((model, size))
        self.inputs[model] = set(inputs)
        if model in self.failures:
            raise self.failures[model]
        if model == "clip_cartoon":
            drawn = np.resize(np.array(self.glances or (PERSON,)), size)
            return {outputs[0]: np.stack([1 - drawn, drawn], axis=1)}
        widths = {"age": 81, "gender": 2, "vgg16_cartoon": 1, "facenet_realfake": 1, "facenet": 512}
        return {outputs[0]: np.full((size, TRACES if model == "clip_face" else widths[model]), 0.1)}


async def test_all_faces_go_in_one_batch_a_network(astronaut, limiter):
    client = Client()
    description = await Describer(client, limiter, biometrics=True).describe(astronaut, [FACE] * 5, AGE_AND_GENDER)
    assert sorted(client.batches) == [("age", 5), ("clip_face", 5), ("gender", 5)]
    assert not description.unanswered
    assert all(face.age and face.gender for face in description.faces)


async def test_more_faces_than_a_batch_takes_are_split(astronaut, limiter):
    client = Client()
    faces = [FACE] * (MAX_BATCH + 3)
    description = await Describer(client, limiter, biometrics=True).describe(astronaut, faces, {Attribute.AGE})
    assert sorted(client.batches) == [("age", 3), ("age", MAX_BATCH), ("clip_face", 3), ("clip_face", MAX_BATCH)]
    assert len(description.faces) == len(faces)


async def test_clip_looks_once_for_all_who_read_what_it_sees(astronaut, limiter):
    client = Client()
    await Describer(client, limiter, biometrics=True).describe(astronaut, [FACE] * 3, ())
    assert sorted(client.batches) == [
        (model, 3) for model in ("age", "clip_cartoon", "clip_face", "facenet_realfake", "gender")
    ]
    assert client.inputs["age"] == client.inputs["gender"] == {"traces"}
    assert client.inputs["facenet_realfake"] == {"faces", "traces"}


async def test_without_clip_its_readers_are_missing_and_say_what_they_lack(astronaut, limiter):
    client = Client(clip_face=ModelUnavailable("clip_face"))
    describer = Describer(client, limiter, biometrics=True)
    description = await describer.describe(astronaut, [FACE], ())
    assert set(description.unanswered) == {"age", "gender", "facenet_realfake", "clip_cartoon"}
    assert all("clip_face" in str(error) for error in description.unanswered.values())
    (face,) = description.faces
    assert (face.age, face.gender, face.deepfake) == (None, None, None)
    assert face.kind == KindEstimate(FaceKind.HUMAN, 0.9), "VGG16 needs no CLIP"
    with pytest.raises(ModelUnavailable, match="clip_face"):
        await describer.real_or_fake(astronaut, [FACE], augmented=False)


@pytest.mark.parametrize("error", [ModelUnavailable("age"), DeadlineExceeded("too late")])
async def test_a_network_that_fails_costs_no_other_its_answer(astronaut, limiter, error):
    describer = Describer(Client(age=error), limiter, biometrics=True)
    description = await describer.describe(astronaut, [FACE], AGE_AND_GENDER)
    (face,) = description.faces
    assert face.age is None
    assert face.gender is not None
    assert description.unanswered == {"age": error}


async def test_without_triton_the_faces_remain(astronaut, limiter):
    client = Client(age=ModelUnavailable("age"), gender=ModelUnavailable("gender"))
    description = await Describer(client, limiter, biometrics=True).describe(astronaut, [FACE], AGE_AND_GENDER)
    assert [face.face for face in description.faces] == [FACE]
    assert set(description.unanswered) == {"age", "gender"}


async def test_a_network_that_is_not_installed_is_missing_by_name(astronaut, limiter):
    client = Client(facenet_realfake=ModelUnavailable("facenet_realfake", installed=False))
    description = await Describer(client, limiter, biometrics=True).describe(astronaut, [FACE], ())
    assert {model: error.reason for model, error in description.unanswered.items()} == {
        "facenet_realfake": "MODEL_NOT_INSTALLED",
    }
    assert description.faces[0].age is not None


async def test_one_pass_or_several_tell_real_from_fake(astronaut, limiter):
    client = Client()
    describer = Describer(client, limiter, biometrics=False)
    once = await describer.real_or_fake(astronaut, [FACE] * 3, augmented=False)
    often = await describer.real_or_fake(astronaut, [FACE] * 5, augmented=True)
    assert once == [DeepfakeEstimate(0.1)] * 3
    assert [estimate.stability for estimate in often] == [1.0] * 5
    passes = len(deepfake.PASSES)
    most = MAX_BATCH // passes
    sizes = [3, most * passes, (5 - most) * passes]
    for model in ("clip_face", "facenet_realfake"):
        assert [size for name, size in client.batches if name == model] == sizes
    assert await describer.picture_real_or_fake(astronaut, augmented=True) == DeepfakeEstimate(
        pytest.approx(0.1), stability=1.0
    )


async def test_embeddings_are_of_length_one_and_forbidden_where_biometrics_are(astronaut, limiter):
    client = Client()
    (embedding,) = await Describer(client, limiter, biometrics=True).embed(astronaut, [FACE])
    assert client.batches == [("facenet", VIEWS)]
    assert np.linalg.norm(embedding.values) == pytest.approx(1.0, abs=1e-6)
    assert embedding.similarity(embedding) == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(Forbidden, match="biometric"):
        await Describer(client, limiter, biometrics=False).embed(astronaut, [FACE])


async def test_a_face_whose_kind_a_glance_tells_is_not_looked_at_twice(astronaut, limiter):
    client = Client(PERSON, DRAWN, DRAWN)
    description = await Describer(client, limiter, biometrics=False).describe(astronaut, [FACE] * 3, {Attribute.KIND})
    assert client.batches == [("clip_face", 3), ("clip_cartoon", 3)]
    assert [face.kind.kind for face in description.faces] == [FaceKind.HUMAN, FaceKind.CARTOON, FaceKind.CARTOON]
    assert [face.kind.probability for face in description.faces] == pytest.approx([0.98] * 3)
    assert not description.unanswered, "what a face is says nothing about a person"


async def test_a_face_in_doubt_is_looked_at_twice_and_both_looks_count(astronaut, limiter):
    client = Client(PERSON, EVEN, DRAWN)
    description = await Describer(client, limiter, biometrics=False).describe(astronaut, [FACE] * 3, {Attribute.KIND})
    assert client.batches == [("clip_face", 3), ("clip_cartoon", 3), ("vgg16_cartoon", 1)]
    # One in ten, and even odds: the root of one to nine.
    assert [face.kind.probability for face in description.faces] == pytest.approx([0.98, 0.75, 0.98])
    assert description.faces[1].kind.kind is FaceKind.HUMAN


async def test_either_look_alone_tells_the_kind_and_the_other_is_missing(astronaut, limiter):
    for client, probability in (
        (Client(clip_cartoon=ModelUnavailable("clip_cartoon")), 0.9),
        (Client(0.4, vgg16_cartoon=ModelUnavailable("vgg16_cartoon")), 0.6),
    ):
        (missing,) = client.failures
        describer = Describer(client, limiter, biometrics=False)
        description = await describer.describe(astronaut, [FACE], {Attribute.KIND})
        assert description.faces[0].kind == KindEstimate(FaceKind.HUMAN, pytest.approx(probability))
        assert set(description.unanswered) == {missing}


async def test_without_both_looks_the_kind_is_not_known(astronaut, limiter):
    client = Client(clip_face=ModelUnavailable("clip_face"), vgg16_cartoon=ModelUnavailable("vgg16_cartoon"))
    description = await Describer(client, limiter, biometrics=False).describe(astronaut, [FACE], {Attribute.KIND})
    assert description.faces[0].kind is None
    assert set(description.unanswered) == {"clip_cartoon", "vgg16_cartoon"}


async def test_the_kind_of_a_whole_picture(astronaut, limiter):
    client = Client()
    assert await Describer(client, limiter, biometrics=False).kind_of_picture(astronaut) == KindEstimate(
        FaceKind.HUMAN, 0.9
    )
    assert client.batches == [("vgg16_cartoon", 1)]


async def test_without_its_network_the_kind_of_a_picture_is_unavailable(astronaut, limiter):
    client = Client(vgg16_cartoon=ModelUnavailable("vgg16_cartoon", installed=False))
    with pytest.raises(ModelUnavailable, match="vgg16_cartoon"):
        await Describer(client, limiter, biometrics=True).kind_of_picture(astronaut)


async def test_without_a_face_nothing_is_asked_and_nothing_missing(astronaut, limiter):
    client = Client()
    description = await Describer(client, limiter, biometrics=True).describe(astronaut, [], ())
    assert (description.faces, description.unanswered, client.batches) == ((), {}, [])


async def test_forbidden_attributes_are_not_asked_and_named_if_wanted(astronaut, limiter):
    client = Client()
    describer = Describer(client, limiter, biometrics=False)
    asked = await describer.describe(astronaut, [FACE], {Attribute.AGE})
    assert {name: error.reason for name, error in asked.unanswered.items()} == {"age": "BIOMETRICS_DISABLED"}
    everything = await describer.describe(astronaut, [FACE], ())
    assert not {"age", "gender"} & set(everything.unanswered)
    assert everything.faces[0].age is None
    assert sorted(client.batches) == [("clip_cartoon", 1), ("clip_face", 1), ("facenet_realfake", 1)], (
        "what a face is says nothing about a person"
    )
