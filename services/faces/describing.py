"""Asks the networks about faces: all faces of a picture in one batch a network, the networks side by side.

CLIP's first blocks look at each face once; the networks that read what they see are asked after them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from services.common.errors import Forbidden, PentimentoError
from services.common.images import Picture
from services.common.limiter import WorkLimiter
from services.faces.asking import ModelClient
from services.faces.attributes import age, deepfake, embedding, gender, kind, traces
from services.faces.attributes._network import OUTPUT, FaceNetwork, TracesNetwork
from services.faces.face import (
    AgeEstimate,
    Attribute,
    DeepfakeEstimate,
    DescribedFace,
    DetectedFace,
    Embedding,
    GenderEstimate,
    KindEstimate,
)

__all__ = ["BIOMETRIC", "Describer", "Description", "biometrics_disabled"]

Floats = NDArray[np.float32]
Chips = NDArray[np.uint8]
E = TypeVar("E")

BIOMETRIC: Final = frozenset({Attribute.AGE, Attribute.GENDER})
"""What a deployment may forbid to estimate."""

_MODEL_OF: Final = {
    Attribute.AGE: age.NETWORK.model,
    Attribute.GENDER: gender.NETWORK.model,
    Attribute.KIND: kind.NETWORK.model,
    Attribute.DEEPFAKE: deepfake.MODEL,
}

MAX_BATCH: Final = 32
"""Most views in one request to Triton: `max_batch_size` in the networks' config.pbtxt."""


@dataclass(frozen=True, slots=True)
class Description:
    """The faces, in the order they came in, and what could not be asked: by model or attribute, why."""

    faces: tuple[DescribedFace, ...]
    unanswered: dict[str, PentimentoError]


@dataclass(frozen=True, slots=True)
class _Question:
    """What of which faces is wanted, and where it is told what could not be asked."""

    picture: Picture
    faces: Sequence[DetectedFace]
    wanted: AbstractSet[Attribute]
    unanswered: dict[str, PentimentoError]


@dataclass(frozen=True, slots=True)
class _Look:
    """What CLIP's first blocks were shown of n faces, and what they see.

    Attributes:
        chips: uint8 (n, 160, 160, 3).
        traces: float32 (n, 3072).
    """

    chips: Chips
    traces: Floats


class Describer:
    """Says what the networks make of faces.

    Args:
        client: where the networks are asked.
        limiter: where pixels are worked on.
        biometrics: whether this deployment allows age and gender.
    """

    def __init__(self, client: ModelClient, limiter: WorkLimiter, *, biometrics: bool) -> None:
        self._client = client
        self._limiter = limiter
        self._biometrics = biometrics

    async def describe(
        self, picture: Picture, faces: Sequence[DetectedFace], attributes: Collection[Attribute]
    ) -> Description:
        """Asks about every face. A network that does not answer is named and costs no other its answer.

        Args:
            picture: where the faces were found.
            faces: what to describe; if there is none, no network is asked and none is missing.
            attributes: what to say; nothing stands for all that is allowed. What is not allowed is a missing answer
                only if it was asked for by name.
        """
        unanswered: dict[str, PentimentoError] = {}
        wanted = set(attributes) or set(Attribute)
        if not self._biometrics:
            if attributes:
                unanswered |= {
                    attribute.value: biometrics_disabled() for attribute in sorted_by_name(wanted & BIOMETRIC)
                }
            wanted -= BIOMETRIC
        if not faces or not wanted:
            return Description(tuple(DescribedFace(face=face) for face in faces), unanswered)
        return Description(await self._described(_Question(picture, faces, wanted, unanswered)), unanswered)

    async def kind_of_picture(self, picture: Picture) -> KindEstimate:
        """Whether the whole picture was drawn: for pictures in which no face was found.

        Raises:
            ModelUnavailable: the network is not there.
        """
        network = kind.NETWORK
        tensor = await self._limiter.run(lambda: network.prepare([kind.whole_view(picture.rgb)]))
        answer = await self._client.infer(network.model, {network.input: tensor}, [network.output])
        (estimate,) = network.read(answer[network.output])
        return estimate

    async def real_or_fake(
        self, picture: Picture, faces: Sequence[DetectedFace], *, augmented: bool
    ) -> list[DeepfakeEstimate]:
        """Whether each face is real or fake, by one pass or by several (`deepfake.PASSES`).

        Raises:
            ModelUnavailable: the network is not there.
        """
        if not augmented:
            return await self._fakes(await self._look(picture, faces))
        most = MAX_BATCH // len(deepfake.PASSES)
        answers = await asyncio.gather(*(self._ask_passes(picture, faces[part]) for part in _parts(len(faces), most)))
        return [estimate for answer in answers for estimate in answer]

    async def picture_real_or_fake(self, picture: Picture, *, augmented: bool) -> DeepfakeEstimate:
        """The same of the middle square of a picture without a face.

        Raises:
            ModelUnavailable: the network is not there.
        """
        square = deepfake.middle_square(picture.rgb)
        (estimate,) = await self.real_or_fake(picture, [square], augmented=augmented)
        return estimate

    async def embed(self, picture: Picture, faces: Sequence[DetectedFace]) -> list[Embedding]:
        """Where each face lies in the embedding space.

        Raises:
            Forbidden: this deployment gives no biometric answers.
            ModelUnavailable: the network is not there.
        """
        if not self._biometrics:
            raise biometrics_disabled()
        return await self._show(embedding.NETWORK, picture, faces)

    async def _ask_passes(self, picture: Picture, faces: Sequence[DetectedFace]) -> list[DeepfakeEstimate]:
        def prepare() -> Chips:
            return traces.stacked([view for face in faces for view in deepfake.several_passes(picture.rgb, face)])

        chips = await self._limiter.run(prepare)
        scores = await self._scores(chips, await self._traces(chips))
        return deepfake.read_passes(scores, len(deepfake.PASSES))

    async def _described(self, question: _Question) -> tuple[DescribedFace, ...]:
        """One look of CLIP's first blocks, and what is read off it."""
        picture, faces = question.picture, question.faces
        looked = asyncio.ensure_future(self._look(picture, faces))

        async def ages() -> list[AgeEstimate]:
            return await self._read(age.NETWORK, await looked)

        async def genders() -> list[GenderEstimate]:
            return await self._read(gender.NETWORK, await looked)

        async def fakes() -> list[DeepfakeEstimate]:
            return await self._fakes(await looked)

        columns = await asyncio.gather(
            self._ask(question, Attribute.AGE, ages),
            self._ask(question, Attribute.GENDER, genders),
            self._ask(question, Attribute.KIND, lambda: self._kinds(question, looked)),
            self._ask(question, Attribute.DEEPFAKE, fakes),
        )
        return tuple(
            DescribedFace(face=face, age=face_age, gender=face_gender, kind=face_kind, deepfake=face_fake)
            for face, face_age, face_gender, face_kind, face_fake in zip(faces, *columns, strict=True)
        )

    async def _kinds(self, question: _Question, looked: Awaitable[_Look]) -> list[KindEstimate]:
        """A glance at all faces, and a closer look at those of which that is not sure; either alone will do."""
        picture, faces = question.picture, question.faces
        try:
            kinds = await self._read(kind.GLANCE, await looked)
        except PentimentoError as error:
            question.unanswered[kind.GLANCE.model] = error
            return await self._show(kind.NETWORK, picture, faces)
        doubtful = [index for index, glance in enumerate(kinds) if kind.in_doubt(glance)]
        try:
            closer = await self._show(kind.NETWORK, picture, [faces[index] for index in doubtful])
        except PentimentoError as error:
            question.unanswered[kind.NETWORK.model] = error
            return kinds
        for index, look in zip(doubtful, closer, strict=True):
            kinds[index] = kind.together(kinds[index], look)
        return kinds

    async def _ask(
        self, question: _Question, attribute: Attribute, ask: Callable[[], Awaitable[Sequence[E]]]
    ) -> Sequence[E | None]:
        """One estimate a face; all None if none is wanted, or, with the reason told, if the network does not answer."""
        if attribute not in question.wanted:
            return [None] * len(question.faces)
        try:
            return await ask()
        except PentimentoError as error:
            question.unanswered[_MODEL_OF[attribute]] = error
            return [None] * len(question.faces)

    async def _look(self, picture: Picture, faces: Sequence[DetectedFace]) -> _Look:
        """Cuts the faces, and has CLIP's first blocks look at them."""
        chips = await self._limiter.run(lambda: traces.stacked([traces.cut(picture.rgb, face) for face in faces]))
        return _Look(chips, await self._traces(chips))

    async def _traces(self, chips: Chips) -> Floats:
        """What CLIP's first blocks see of chips, in batches that Triton takes."""

        async def of_part(part: slice) -> NDArray[Any]:
            answer = await self._client.infer(traces.MODEL, {traces.INPUT: chips[part]}, [traces.OUTPUT])
            return answer[traces.OUTPUT]

        seen = await asyncio.gather(*map(of_part, _parts(len(chips), MAX_BATCH)))
        return np.concatenate(seen).astype(np.float32, copy=False)

    async def _fakes(self, look: _Look) -> list[DeepfakeEstimate]:
        """One estimate a face, of one pass."""
        parts = _parts(len(look.chips), MAX_BATCH)
        scores = await asyncio.gather(*(self._scores(look.chips[part], look.traces[part]) for part in parts))
        return deepfake.read(np.concatenate(scores))

    async def _scores(self, chips: Chips, seen: Floats) -> NDArray[Any]:
        """How fake chips look, (n, 1), in one batch."""
        inputs: dict[str, NDArray[Any]] = {deepfake.INPUT: chips, traces.OUTPUT: seen}
        answer = await self._client.infer(deepfake.MODEL, inputs, [deepfake.OUTPUT])
        return answer[deepfake.OUTPUT]

    async def _read(self, network: TracesNetwork[E], look: _Look) -> list[E]:
        """One estimate a face, of what CLIP's first blocks see."""

        async def of_part(part: slice) -> NDArray[Any]:
            answer = await self._client.infer(network.model, {traces.OUTPUT: look.traces[part]}, [OUTPUT])
            return answer[OUTPUT]

        parts = _parts(len(look.traces), MAX_BATCH)
        return network.read(np.concatenate(await asyncio.gather(*map(of_part, parts))))

    async def _show(self, network: FaceNetwork[E], picture: Picture, faces: Sequence[DetectedFace]) -> list[E]:
        """One estimate a face, in batches that Triton takes."""

        async def of_part(part: slice) -> list[E]:
            shown = faces[part]
            tensor = await self._limiter.run(_prepare, network, picture, shown)
            answer = await self._client.infer(network.model, {network.input: tensor}, [network.output])
            return network.read(answer[network.output].reshape(len(shown), network.views, -1).mean(axis=1))

        answers = await asyncio.gather(*map(of_part, _parts(len(faces), MAX_BATCH // network.views)))
        return [estimate for answer in answers for estimate in answer]


def biometrics_disabled() -> Forbidden:
    """What a caller is told who asks for a biometric answer that this deployment does not give."""
    return Forbidden("This deployment gives no biometric answers.", reason="BIOMETRICS_DISABLED")


def sorted_by_name(attributes: Collection[Attribute]) -> list[Attribute]:
    """In a stable order."""
    return sorted(attributes, key=lambda attribute: attribute.value)


def _parts(count: int, most: int) -> list[slice]:
    """So many faces, in parts of at most so many."""
    return [slice(start, start + most) for start in range(0, count, most)]


def _prepare(network: FaceNetwork[E], picture: Picture, faces: Sequence[DetectedFace]) -> NDArray[np.float32]:
    cut = (network.cut(picture.rgb, face) for face in faces)
    return network.prepare([view for face in cut for view in (face, face[:, ::-1])[: network.views]])
