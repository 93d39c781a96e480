"""The models that the faces service asks, and what each answers."""

from __future__ import annotations

from typing import Final

from services.common.detection import Question
from services.common.models import ModelPurpose

__all__ = [
    "AGE",
    "CLIP_CARTOON",
    "CLIP_FACE",
    "FACENET",
    "FACENET_REALFAKE",
    "GENDER",
    "MODELS",
    "VGG16_CARTOON",
    "YUNET",
]

AGE: Final = ModelPurpose(
    name="age",
    description="A head on clip_face: apparent age of a face, as probabilities of the years 0 to 80.",
)
GENDER: Final = ModelPurpose(
    name="gender",
    description="A head on clip_face: apparent gender of a face.",
    classes=("female", "male"),
)
CLIP_FACE: Final = ModelPurpose(
    name="clip_face",
    description="CLIP's first blocks: what they see of a face, for age, gender, clip_cartoon and facenet_realfake.",
)
CLIP_CARTOON: Final = ModelPurpose(
    name="clip_cartoon",
    description="A head on clip_face: tells a drawn face from a person's at a glance.",
    classes=("human", "cartoon"),
)
YUNET: Final = ModelPurpose(name="yunet", description="YuNet: finds faces, with five landmarks each.")
FACENET: Final = ModelPurpose(
    name="facenet", description="InceptionResnetV1: embeds a face in 512 dimensions, to compare it with others."
)
FACENET_REALFAKE: Final = ModelPurpose(
    name="facenet_realfake",
    description="InceptionResnetV1, fine-tuned, and a head on CLIP: a face is real, or generated or put together.",
    question=Question.EDITED,
)
VGG16_CARTOON: Final = ModelPurpose(
    name="vgg16_cartoon",
    description="VGG16 with a head of our own: tells drawn from photographed, of faces where clip_cartoon is not sure.",
    classes=("human", "cartoon"),
)

MODELS: Final = (AGE, GENDER, CLIP_FACE, YUNET, FACENET, FACENET_REALFAKE, CLIP_CARTOON, VGG16_CARTOON)
