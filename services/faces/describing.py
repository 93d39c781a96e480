"""Asks the networks about faces: all faces of a picture in one batch a network, the networks side by side.

For age and gender each face is shown as it is and mirrored, and the answers are averaged: a picture and its mirror
image get the same answer, and one that depends less on the last pixel of the alignment (mean absolute error of age on
400 faces of UTKFace: 5.75 years instead of 5.9).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from services.common.errors import Forbidden, PentimentoError
from services.common.images import Picture
from services.common.limiter import WorkLimiter
from services.faces.asking import ModelClient
from services.faces.attributes import age, deepfake, embedding, gender, kind
from services.faces.attributes._network import FaceNetwork
from services.faces.face import Attribute, DeepfakeEstimate, DescribedFace, DetectedFace, Embedding, KindEstimate

__all__ = ["BIOMETRIC", "Describer", "Description", "biometrics_disabled"]

E = TypeVar("E")

BIOMETRIC: Final = frozenset({Attribute.AGE, Attribute.GENDER})
"""What a deployment may forbid to estimate."""

MAX_BATCH: Final = 32
"""Most views in one request to Triton: `max_batch_size` in the networks' config.pbtxt."""


@dataclass(frozen=True, slots=True)
class Description:
    """The faces, in the order they came in, and what could not be asked: by model or attribute, why."""

    faces: tuple[DescribedFace, ...]
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
        ages, genders, kinds, fakes = await asyncio.gather(
            self._ask(age.NETWORK, picture, faces, unanswered, wanted=Attribute.AGE in wanted),
            self._ask(gender.NETWORK, picture, faces, unanswered, wanted=Attribute.GENDER in wanted),
            self._ask(kind.NETWORK, picture, faces, unanswered, wanted=Attribute.KIND in wanted),
            self._ask(deepfake.NETWORK, picture, faces, unanswered, wanted=Attribute.DEEPFAKE in wanted),
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
            return await self._ask_all(deepfake.NETWORK, picture, faces)
        most = MAX_BATCH // len(deepfake.PASSES)
        batches = [faces[start : start + most] for start in range(0, len(faces), most)]
        answers = await asyncio.gather(*(self._ask_passes(picture, batch) for batch in batches))
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
        return await self._ask_all(embedding.NETWORK, picture, faces)

    async def _ask_passes(self, picture: Picture, faces: Sequence[DetectedFace]) -> list[DeepfakeEstimate]:
        def prepare() -> NDArray[np.float32]:
            return network.prepare([view for face in faces for view in deepfake.several_passes(picture.rgb, face)])

        network = deepfake.NETWORK
        tensor = await self._limiter.run(prepare)
        answer = await self._client.infer(network.model, {network.input: tensor}, [network.output])
        return deepfake.read_passes(answer[network.output], len(deepfake.PASSES))

    async def _ask(
        self,
        network: FaceNetwork[E],
        picture: Picture,
        faces: Sequence[DetectedFace],
        unanswered: dict[str, PentimentoError],
        *,
        wanted: bool,
    ) -> Sequence[E | None]:
        """One estimate a face; all None, with the reason in `unanswered`, if the network does not answer."""
        if not wanted:
            return [None] * len(faces)
        try:
            return await self._ask_all(network, picture, faces)
        except PentimentoError as error:
            unanswered[network.model] = error
            return [None] * len(faces)

    async def _ask_all(self, network: FaceNetwork[E], picture: Picture, faces: Sequence[DetectedFace]) -> list[E]:
        """One estimate a face, in batches that Triton takes."""
        most = MAX_BATCH // network.views
        batches = [faces[start : start + most] for start in range(0, len(faces), most)]
        answers = await asyncio.gather(*(self._ask_batch(network, picture, batch) for batch in batches))
        return [estimate for answer in answers for estimate in answer]

    async def _ask_batch(self, network: FaceNetwork[E], picture: Picture, faces: Sequence[DetectedFace]) -> list[E]:
        tensor = await self._limiter.run(_prepare, network, picture, faces)
        answer = await self._client.infer(network.model, {network.input: tensor}, [network.output])
        rows = answer[network.output]
        return network.read(rows.reshape(len(faces), network.views, -1).mean(axis=1))


def biometrics_disabled() -> Forbidden:
    """What a caller is told who asks for a biometric answer that this deployment does not give."""
    return Forbidden("This deployment gives no biometric answers.", reason="BIOMETRICS_DISABLED")


def sorted_by_name(attributes: Collection[Attribute]) -> list[Attribute]:
    """In a stable order."""
    return sorted(attributes, key=lambda attribute: attribute.value)


def _prepare(network: FaceNetwork[E], picture: Picture, faces: Sequence[DetectedFace]) -> NDArray[np.float32]:
    cut = (network.cut(picture.rgb, face) for face in faces)
    return network.prepare([view for face in cut for view in (face, face[:, ::-1])[: network.views]])
