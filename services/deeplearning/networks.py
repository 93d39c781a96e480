"""What the detectors of one picture ask of the networks in Triton.

A network's folder in the model repository says what it is, so that a user's own takes the place of ours without a
change of code. Parameters of its config.pbtxt, all of which may be left out:

    classes        names of its classes, by index, with commas; "pristine" stands for honest pictures
    threshold      probability, 0-1, at which its mask is to be cut; 0.5
    longest_side   pixels; a larger picture is made smaller; 1024
    square_side    pixels; every picture is made so wide and high instead
    network        models of the same name are outputs of one network with the same weights: it is run once for both
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.common.errors import ModelUnavailable
from services.common.images import Picture
from services.common.models import CLASSES_PARAMETER
from services.common.triton import ModelDescription, TritonClient
from services.deeplearning.clip import input_tensor, squeezed_view
from services.deeplearning.localisation import STRIDE, WORKING_SIDE, Localisation, Prepared, centred, prepared, within
from services.deeplearning.models import MANIPULATION_CLASS, MANIPULATION_MASK

__all__ = ["Classification", "FactBook", "ModelFacts", "Networks"]

FACTS_SECONDS: Final = 5.0
"""How long what a model's folder says is trusted: Triton may have been started with another model since."""
FACTS_WAIT_SECONDS: Final = 10.0
"""Longest wait for them: without them the network cannot be asked, so a busy machine gets its time."""
LARGEST_SIDE: Final = 4096
VIEW: Final = "pixel_values"
"""Input of a model that has CLIP's encoder inside."""
NOT_INSTALLED: Final = "MODEL_NOT_INSTALLED"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a model's folder says; see this module's parameters.

    Attributes:
        inputs: names of what it is given.
        outputs: names of what it answers.
        classes: by index.
        threshold: 0-1, exclusive.
        longest_side: in pixels.
        square_side: in pixels, or None.
        network: "" if it shares its weights with no other model.
    """

    inputs: frozenset[str]
    outputs: frozenset[str]
    classes: tuple[str, ...]
    threshold: float = 0.5
    longest_side: int = WORKING_SIDE
    square_side: int | None = None
    network: str = ""

    @classmethod
    def of(cls, described: ModelDescription, *, classes: tuple[str, ...]) -> ModelFacts:
        """Reads them.

        Args:
            described: the model.
            classes: their names where its folder does not tell.

        Raises:
            ModelUnavailable: a parameter makes no sense; the text says which.
        """
        given = described.parameters
        try:
            named = given.get(CLASSES_PARAMETER)
            names = tuple(name.strip() for name in named.split(",")) if named else classes
            return cls(
                inputs=frozenset(tensor.name for tensor in described.inputs),
                outputs=frozenset(tensor.name for tensor in described.outputs),
                classes=_checked_classes(names, described),
                threshold=_number(given, "threshold", 0.5, 0.001, 0.999),
                longest_side=round(_number(given, "longest_side", WORKING_SIDE, STRIDE, LARGEST_SIDE)),
                square_side=round(_number(given, "square_side", 0, STRIDE, LARGEST_SIDE)) or None,
                network=given.get("network", ""),
            )
        except ValueError as error:
            raise ModelUnavailable(described.name, f"Model {described.name} cannot be asked: {error}.") from error


def _number(given: Mapping[str, str], name: str, default: float, low: float, high: float) -> float:
    if name not in given:
        return default
    try:
        value = float(given[name])
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise ValueError(f"its config.pbtxt has {name} {given[name]!r}, which is no number from {low:g} to {high:g}")
    return value


def _checked_classes(names: tuple[str, ...], described: ModelDescription) -> tuple[str, ...]:
    """The names, if the model's output of classes has as many."""
    outputs = [tensor for tensor in described.outputs if tensor.name == "classes"]
    if not outputs:
        return ()
    (count,) = outputs[0].shape[1:]
    if len(names) != count or len(set(names)) != count or not all(names):
        raise ValueError(f"it has {count} classes, and its config.pbtxt names {', '.join(names)}")
    return names


class FactBook:
    """What the models' folders say, asked of Triton every few seconds at most.

    Args:
        triton: where they are asked.
    """

    def __init__(self, triton: TritonClient) -> None:
        self._triton = triton
        self._known: dict[str, tuple[float, ModelFacts]] = {}

    async def of(self, model: str) -> ModelFacts:
        """What a model's folder says.

        Raises:
            ModelUnavailable: it is not installed, Triton is away, or its folder makes no sense.
            DeadlineExceeded: no answer in time.
        """
        asked_at, facts = self._known.get(model, (-FACTS_SECONDS, None))
        if facts is None or time.monotonic() - asked_at > FACTS_SECONDS:
            described = await self._triton.describe(model, limit_seconds=FACTS_WAIT_SECONDS)
            facts = ModelFacts.of(described, classes=MANIPULATION_CLASS.classes)
            self._known[model] = (time.monotonic(), facts)
        return facts


@dataclass(frozen=True, slots=True)
class Classification:
    """What the classifier says: probabilities by class name, in its order, and the model that was asked."""

    classes: dict[str, float]
    model: str


class Networks:
    """The networks, as the detectors of one picture ask them; what several want to know is asked once.

    Args:
        picture: the picture.
        triton: where the networks are.
        facts: what their folders say.
        wants_mask: whether somebody asks for the mask of this picture: then the class is taken from the same pass,
            where one network gives both.
    """

    def __init__(self, picture: Picture, triton: TritonClient, facts: FactBook, *, wants_mask: bool) -> None:
        self._picture = picture
        self._triton = triton
        self._facts = facts
        self._wants_mask = wants_mask
        self._localising, self._classifying = asyncio.Lock(), asyncio.Lock()
        self._localisation: Localisation | None = None
        self._classification: Classification | None = None

    async def infer(
        self, model: str, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        """As `TritonClient.infer`."""
        return await self._triton.infer(model, inputs, outputs)

    async def localisation(self) -> Localisation:
        """Where the picture was edited.

        Raises:
            ModelUnavailable: deeplabv3plus cannot be asked.
            Overloaded: its queue is full.
            DeadlineExceeded: no answer in time.
        """
        # Whoever comes second waits for the first one's answer; if that failed, it asks again.
        async with self._localising:
            if self._localisation is None:
                self._localisation = await self._localise()
            return self._localisation

    async def _localise(self) -> Localisation:
        model = MANIPULATION_MASK.name
        facts = await self._facts.of(model)
        outputs = [name for name in ("mask", "reliability", "classes") if name in facts.outputs]
        given, inputs = await asyncio.to_thread(_inputs, self._picture.rgb, facts)
        answer = await self._triton.infer(model, inputs, outputs)
        return Localisation(
            mask=centred(within(answer["mask"], given), facts.threshold),
            reliability=within(answer["reliability"], given) if "reliability" in answer else None,
            classes=_by_name(facts, answer["classes"]) if "classes" in answer else {},
        )

    async def classification(self) -> Classification:
        """How the picture was edited, if it was.

        resnet50 says it, unless deeplabv3plus is asked anyway and is the same network, or resnet50 is not installed and
        deeplabv3plus knows classes.

        Raises:
            ModelUnavailable: resnet50 cannot be asked, nor deeplabv3plus in its place.
            Overloaded: the queue is full.
            DeadlineExceeded: no answer in time.
        """
        async with self._classifying:
            if self._classification is None:
                self._classification = await self._classify()
            return self._classification

    async def _classify(self) -> Classification:
        model = MANIPULATION_CLASS.name
        try:
            facts = await self._facts.of(model)
        except ModelUnavailable as error:
            if error.reason != NOT_INSTALLED or not await self._mask_has_classes():
                raise
            return await self._classes_of_the_mask()
        if self._wants_mask and facts.network and await self._mask_has_classes(facts.network):
            return await self._classes_of_the_mask()
        _, inputs = await asyncio.to_thread(_inputs, self._picture.rgb, facts)
        answer = await self._triton.infer(model, inputs, ["classes"])
        return Classification(_by_name(facts, answer["classes"]), model)

    async def _mask_has_classes(self, network: str | None = None) -> bool:
        """Whether deeplabv3plus can say the class, as an output of this network, or of any."""
        try:
            facts = await self._facts.of(MANIPULATION_MASK.name)
        except ModelUnavailable:
            return False
        return bool(facts.classes) and network in {None, facts.network}

    async def _classes_of_the_mask(self) -> Classification:
        return Classification((await self.localisation()).classes, MANIPULATION_MASK.name)


def _inputs(rgb: NDArray[np.uint8], facts: ModelFacts) -> tuple[Prepared, dict[str, NDArray[np.float32]]]:
    """What a model is given of a picture: the picture, and the view for CLIP if it looks through that too."""
    given = prepared(rgb, longest_side=facts.longest_side, square_side=facts.square_side)
    inputs = {"images": given.images}
    if VIEW in facts.inputs:
        inputs[VIEW] = input_tensor(squeezed_view(rgb))
    return given, inputs


def _by_name(facts: ModelFacts, probabilities: NDArray[np.float32]) -> dict[str, float]:
    values = probabilities.reshape(-1).tolist()
    return {name: min(1.0, max(0.0, value)) for name, value in zip(facts.classes, values, strict=True)}
