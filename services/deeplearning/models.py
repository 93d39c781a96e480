"""The models that the deeplearning service asks, and what each answers."""

from __future__ import annotations

from services.common.detection import Question
from services.common.models import ModelPurpose

__all__ = ["GENERATED", "MANIPULATION_CLASS", "MANIPULATION_MASK", "MODELS"]

MANIPULATION_MASK = ModelPurpose(
    name="deeplabv3plus",
    description="DeepLabV3+ on ResNet50: marks the manipulated pixels.",
    question=Question.EDITED,
)
MANIPULATION_CLASS = ModelPurpose(
    name="resnet50",
    description="ResNet50: says which manipulation the picture shows, if any.",
    question=Question.EDITED,
    classes=("splicing", "copymove", "inpainting", "face", "pristine"),
)
GENERATED = ModelPurpose(
    name="generated",
    description="CLIP image encoder with a head of our own: says whether the picture was generated.",
    question=Question.GENERATED,
)

MODELS = (MANIPULATION_MASK, MANIPULATION_CLASS, GENERATED)
