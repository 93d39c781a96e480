"""Asks the networks about faces: all faces of a picture in one batch a network, the networks side by side.

CLIP's first blocks look at each face once; the networks that read what they see are asked after them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
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
E = TypeVar("E")

BIOMETRIC: Final = frozenset({Attribute.AGE, Attribute.GENDER})
"""What a deployment may forbid to estimate."""

_MODEL_OF: Final = {
    Attribute.AGE: age.NETWORK.model,
    Attribute.GENDER: gender.NETWORK.model,
    Attribute.KIND: kind.NETWORK.model,
    Attribute.DEEPFAKE: deepfake.NETWORK.model,
}
_NEED_TRACES: Final = frozenset({Attribute.AGE, Attribute.GENDER, Attribute.DEEPFAKE})
"""What needs what CLIP's first blocks see."""

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
        if not faces:
            return Description((), unanswered)
        question = _Question(picture, faces, wanted, unanswered)
        kinds, (ages, genders, fakes) = await asyncio.gather(
            self._ask(question, Attribute.KIND, lambda: self._show(kind.NETWORK, picture, faces)),
            self._of_traces(question),
        )
        described = (
            DescribedFace(face=face, age=face_age, gender=face_gender, kind=face_kind, deepfake=face_fake)
            for face, face_age, face_gender, face_kind, face_fake in zip(
                faces, ages, genders, kinds, fakes, strict=True
            )
        )
        return Description(tuple(described), unanswered)

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
            return await self._show(deepfake.NETWORK, picture, faces, await self._traces(picture, faces))
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
        def prepare() -> NDArray[np.float32]:
            return network.prepare([view for face in faces for view in deepfake.several_passes(picture.rgb, face)])

        network = deepfake.NETWORK
        tensor = await self._limiter.run(prepare)
        inputs = {network.input: tensor, traces.OUTPUT: await self._traces_of(tensor)}
        answer = await self._client.infer(network.model, inputs, [network.output])
        return deepfake.read_passes(answer[network.output], len(deepfake.PASSES))

    async def _of_traces(
        self, question: _Question
    ) -> tuple[Sequence[AgeEstimate | None], Sequence[GenderEstimate | None], Sequence[DeepfakeEstimate | None]]:
        """What needs what CLIP's first blocks see: age, gender, real or fake."""
        picture, faces, seen = question.picture, question.faces, np.zeros(0, np.float32)
        if wanted := question.wanted & _NEED_TRACES:
            try:
                seen = await self._traces(picture, faces)
            except PentimentoError as error:
                question.unanswered.update({_MODEL_OF[each]: error for each in wanted})
                question = replace(question, wanted=frozenset())
        return await asyncio.gather(
            self._ask(question, Attribute.AGE, lambda: self._read(age.NETWORK, seen)),
            self._ask(question, Attribute.GENDER, lambda: self._read(gender.NETWORK, seen)),
            self._ask(question, Attribute.DEEPFAKE, lambda: self._show(deepfake.NETWORK, picture, faces, seen)),
        )

    async def _ask(
        self, question: _Question, attribute: Attribute, ask: Callable[[], Awaitable[list[E]]]
    ) -> Sequence[E | None]:
        """One estimate a face; all None if none is wanted, or, with the reason told, if the network does not answer."""
        if attribute not in question.wanted:
            return [None] * len(question.faces)
        try:
            return await ask()
        except PentimentoError as error:
            question.unanswered[_MODEL_OF[attribute]] = error
            return [None] * len(question.faces)

    async def _traces(self, picture: Picture, faces: Sequence[DetectedFace]) -> Floats:
        """What CLIP's first blocks see of each face, float32 (faces, 3072)."""

        async def of_part(part: slice) -> Floats:
            views = await self._limiter.run(lambda: [traces.cut(picture.rgb, face) for face in faces[part]])
            return await self._traces_of(embedding.prepared(views))

        return np.concatenate(await asyncio.gather(*map(of_part, _parts(len(faces), MAX_BATCH))))

    async def _traces_of(self, views: Floats) -> Floats:
        answer = await self._client.infer(traces.MODEL, {traces.INPUT: views}, [traces.OUTPUT])
        return np.asarray(answer[traces.OUTPUT], np.float32)

    async def _read(self, network: TracesNetwork[E], seen: Floats) -> list[E]:
        """One estimate a face, of what CLIP's first blocks see."""

        async def of_part(part: slice) -> NDArray[Any]:
            answer = await self._client.infer(network.model, {traces.OUTPUT: seen[part]}, [OUTPUT])
            return answer[OUTPUT]

        return network.read(np.concatenate(await asyncio.gather(*map(of_part, _parts(len(seen), MAX_BATCH)))))

    async def _show(
        self, network: FaceNetwork[E], picture: Picture, faces: Sequence[DetectedFace], seen: Floats | None = None
    ) -> list[E]:
        """One estimate a face, in batches that Triton takes.

        Args:
            network: what is asked.
            picture: where the faces were found.
            faces: what it is asked about.
            seen: what CLIP's first blocks see of them, if the network is given that, too.
        """

        async def of_part(part: slice) -> list[E]:
            shown = faces[part]
            inputs = {network.input: await self._limiter.run(_prepare, network, picture, shown)}
            if seen is not None:
                inputs[traces.OUTPUT] = np.repeat(seen[part], network.views, axis=0)
            answer = await self._client.infer(network.model, inputs, [network.output])
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
