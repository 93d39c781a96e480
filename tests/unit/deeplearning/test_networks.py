"""Which network is asked, how often, and what its folder says of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pytest

from services.common.errors import ModelUnavailable
from services.common.images import Picture
from services.common.triton import ModelDescription, Tensor, TritonClient
from services.deeplearning.clip import input_tensor, squeezed_view
from services.deeplearning.networks import FactBook, ModelFacts, Networks

FIVE = ("splicing", "copymove", "inpainting", "face", "pristine")
PICTURE = Picture.from_array(np.full((70, 100, 3), 90, np.uint8))


def described(
    name: str, *outputs: str, classes: int = 5, looks: tuple[str, ...] = ("images",), **parameters: str
) -> ModelDescription:
    shapes = {"mask": (-1, -1, -1), "reliability": (-1, -1, -1), "classes": (-1, classes)}
    tensors = tuple(Tensor(each, "FP32", shapes[each]) for each in outputs)
    inputs = tuple(Tensor(each, "FP32", (-1, 3, -1, -1)) for each in looks)
    return ModelDescription(name, "1", inputs, tensors, parameters)


class Triton:
    """Stands in for Triton: knows the models that it is given, answers with a constant mask and one class each."""

    def __init__(self, *models: ModelDescription, broken: Sequence[str] = ()) -> None:
        self.models = {model.name: model for model in models}
        self.broken = set(broken)
        self.inputs: Mapping[str, np.ndarray] = {}
        self.asked: list[tuple[str, tuple[str, ...], tuple[int, ...]]] = []

    async def describe(self, model: str, *, limit_seconds: float) -> ModelDescription:
        assert limit_seconds > 0
        if model in self.broken:
            raise ModelUnavailable(model)
        if model not in self.models:
            raise ModelUnavailable(model, installed=False)
        return self.models[model]

    async def infer(
        self, model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]
    ) -> dict[str, np.ndarray]:
        await asyncio.sleep(0.01)
        assert set(inputs) == {each.name for each in self.models[model].inputs}
        self.inputs = inputs
        images = inputs["images"]
        self.asked.append((model, tuple(outputs), images.shape))
        maps = np.full((1, *images.shape[2:]), 0.4, np.float32)
        count = next((each.shape[1] for each in self.models[model].outputs if each.name == "classes"), 5)
        classes = np.zeros((1, count), np.float32)
        classes[0, 0 if model == "resnet50" else 1] = 1.0
        answers = {"mask": maps, "reliability": maps, "classes": classes}
        return {name: answers[name] for name in outputs}


def networks(triton: Triton, *, wants_mask: bool = True) -> Networks:
    client = cast("TritonClient", triton)
    return Networks(PICTURE, client, FactBook(client), wants_mask=wants_mask)


def ours(**parameters: str) -> list[ModelDescription]:
    return [
        described("deeplabv3plus", "mask", "reliability", "classes", network="a", **parameters),
        described("resnet50", "classes", network="a"),
    ]


async def test_one_pass_answers_mask_and_class_where_one_network_gives_both() -> None:
    triton = Triton(*ours())
    both = networks(triton)
    said, found, again = await asyncio.gather(both.classification(), both.localisation(), both.localisation())
    assert [model for model, *_ in triton.asked] == ["deeplabv3plus"]
    assert found is again
    assert (said.model, said.classes["copymove"]) == ("deeplabv3plus", 1.0)
    assert found.mask.shape == (70, 100)
    assert list(found.classes) == list(FIVE)


async def test_where_only_the_class_is_wanted_only_resnet50_is_asked() -> None:
    triton = Triton(*ours())
    said = await networks(triton, wants_mask=False).classification()
    assert triton.asked == [("resnet50", ("classes",), (1, 3, 80, 112))]
    assert (said.model, said.classes["splicing"]) == ("resnet50", 1.0)


async def test_a_classifier_of_ones_own_is_asked_beside_our_mask() -> None:
    own = described("resnet50", "classes", classes=2, classes_="")
    own = ModelDescription(
        "resnet50", "1", own.inputs, own.outputs, {"classes": "pristine, retouched", "square_side": "224"}
    )
    triton = Triton(ours()[0], own)
    both = networks(triton)
    said, _ = await asyncio.gather(both.classification(), both.localisation())
    assert sorted(model for model, *_ in triton.asked) == ["deeplabv3plus", "resnet50"]
    assert said.classes == {"pristine": 1.0, "retouched": 0.0}
    assert ("resnet50", ("classes",), (1, 3, 224, 224)) in triton.asked


async def test_a_network_that_looks_through_clip_is_given_its_view() -> None:
    model = described("deeplabv3plus", "mask", looks=("images", "pixel_values"))
    triton = Triton(model)
    await networks(triton).localisation()
    assert np.array_equal(triton.inputs["pixel_values"], input_tensor(squeezed_view(PICTURE.rgb)))


async def test_a_mask_of_ones_own_without_classes_leaves_the_class_to_resnet50() -> None:
    triton = Triton(described("deeplabv3plus", "mask"), ours()[1])
    both = networks(triton)
    said, found = await asyncio.gather(both.classification(), both.localisation())
    assert said.model == "resnet50"
    assert found.reliability is None
    assert not found.classes


async def test_without_resnet50_the_masks_network_says_the_class_if_it_can() -> None:
    said = await networks(Triton(ours()[0]), wants_mask=False).classification()
    assert said.model == "deeplabv3plus"
    with pytest.raises(ModelUnavailable, match="resnet50 is not installed"):
        await networks(Triton(described("deeplabv3plus", "mask"))).classification()


async def test_a_classifier_that_failed_to_load_is_not_replaced_silently() -> None:
    with pytest.raises(ModelUnavailable, match="resnet50 is not available"):
        await networks(Triton(*ours(), broken=["resnet50"])).classification()


async def test_a_missing_model_is_named() -> None:
    with pytest.raises(ModelUnavailable) as caught:
        await networks(Triton()).localisation()
    assert caught.value.model == "deeplabv3plus"
    assert caught.value.reason == "MODEL_NOT_INSTALLED"


async def test_the_threshold_of_the_folder_comes_out_as_a_half() -> None:
    found = await networks(Triton(*ours(threshold="0.4"))).localisation()
    assert found.mask == pytest.approx(0.5)


async def test_the_size_of_the_folder_is_kept() -> None:
    triton = Triton(*ours(longest_side="50"))
    found = await networks(triton).localisation()
    assert triton.asked[0][2] == (1, 3, 48, 64)
    assert found.mask.shape == (35, 50)


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"threshold": "1.5"}, "threshold '1.5'"),
        ({"threshold": "half"}, "threshold 'half'"),
        ({"longest_side": "4"}, "longest_side '4'"),
        ({"square_side": "nan"}, "square_side 'nan'"),
        ({"classes": "splicing,pristine"}, "5 classes"),
        ({"classes": "a,b,c,d,a"}, "5 classes"),
        ({"classes": "a,b,c,,e"}, "5 classes"),
    ],
)
def test_a_folder_that_makes_no_sense_is_refused_by_name(parameters: dict[str, Any], complaint: str) -> None:
    model = ModelDescription("resnet50", "1", (), described("resnet50", "classes").outputs, parameters)
    with pytest.raises(ModelUnavailable, match=complaint) as caught:
        ModelFacts.of(model, classes=FIVE)
    assert caught.value.reason == "MODEL_UNAVAILABLE"
    assert "resnet50" in caught.value.message
