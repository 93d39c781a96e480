"""What a service knows of the models that it asks: purpose, state, digest, shapes."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pentimento.common.v1 import detection_pb2, model_pb2

from services.common.convert import question_to_proto
from services.common.detection import Question
from services.common.errors import ModelUnavailable, NotFound, PentimentoError
from services.common.triton import Tensor, TritonClient

__all__ = ["ModelCatalogue", "ModelPurpose"]

READY = model_pb2.MODEL_STATE_READY

STATE_SECONDS: Final = 5.0
"""How old an answer to "which models are missing?" may be."""

CLASSES_PARAMETER: Final = "classes"
"""In a config.pbtxt: the names of the network's classes, by index, with commas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPurpose:
    """What a service asks a model for.

    Attributes:
        name: in the model repository.
        description: one sentence.
        question: the question that lacks its answer without this model; None where it concerns neither.
        classes: names of the network's classes, by index, where it classifies.
    """

    name: str
    description: str
    question: Question | None = None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the fetcher wrote down of a model; `ready` if its files are there, `own` if it is the deployment's own."""

    ready: bool
    own: bool = False
    sha256: str = ""
    licence: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)


class ModelCatalogue:
    """The models of one service.

    A model that Triton does not know is *missing* if this deployment should have it: models.lock, or a folder among the
    deployment's own models, names it. One that nobody put in is merely *absent*: no answer lacks it.

    Args:
        purposes: what the service asks for.
        triton: where they are asked.
        home: data folder; `models/status.json` in it, written when models are fetched, tells digests, licences and
            scores.
    """

    def __init__(self, purposes: Sequence[ModelPurpose], triton: TritonClient, home: Path) -> None:
        self._purposes = {purpose.name: purpose for purpose in purposes}
        self._triton = triton
        self._status_file = home / "models" / "status.json"
        self._lock = asyncio.Lock()
        self._known: list[model_pb2.ModelInfo] = []
        self._known_at = -math.inf

    def digest_of(self, model: str) -> str:
        """SHA-256 of the model's weights; "" if it is not known."""
        return self._facts(model).sha256

    def is_own(self, model: str) -> bool:
        """Whether the model is the deployment's own."""
        return self._facts(model).own

    async def info(self, model: str) -> model_pb2.ModelInfo:
        """One model, installed or not.

        Raises:
            NotFound: this service asks no such model.
        """
        purpose = self._purposes.get(model)
        if purpose is None:
            raise NotFound(f"There is no model {model} here. There are: {', '.join(sorted(self._purposes))}.")
        facts = self._facts(model)
        info = model_pb2.ModelInfo(
            name=model,
            description=purpose.description,
            digest=facts.sha256,
            license=facts.licence,
            classes=purpose.classes,
            scores=facts.scores,
            state=READY,
        )
        try:
            described = await self._triton.describe(model)
        except PentimentoError as error:  # not installed, or Triton is away or does not answer in time
            missing = error.reason == "MODEL_NOT_INSTALLED" or not facts.ready
            info.state = model_pb2.MODEL_STATE_NOT_INSTALLED if missing else model_pb2.MODEL_STATE_UNAVAILABLE
            return info
        info.version = described.version
        info.inputs.extend(_tensor_to_proto(tensor) for tensor in described.inputs)
        info.outputs.extend(_tensor_to_proto(tensor) for tensor in described.outputs)
        if classes := described.parameters.get(CLASSES_PARAMETER):
            info.classes[:] = [name.strip() for name in classes.split(",")]
        return info

    async def all(self) -> list[model_pb2.ModelInfo]:
        """All models of this service, by name."""
        return list(await asyncio.gather(*(self.info(name) for name in sorted(self._purposes))))

    async def missing(self) -> list[detection_pb2.Missing]:
        """The models that this deployment should have and that cannot be asked, and why."""
        absent = await self.absent()
        unready = [info for info in await self._states() if info.state != READY]
        return [self._as_missing(info) for info in unready if info.name not in absent]

    async def absent(self) -> frozenset[str]:
        """The models that are not here and that nobody put in; none where it is not known what was put in."""
        written = self._written()
        if written is None:
            return frozenset()
        named = {entry.get("name") for entry in written}
        gone = [info.name for info in await self._states() if info.state == model_pb2.MODEL_STATE_NOT_INSTALLED]
        return frozenset(name for name in gone if name not in named)

    async def _states(self) -> list[model_pb2.ModelInfo]:
        """All models as of a few seconds ago, since every analysis wants to know."""
        async with self._lock:
            if time.monotonic() - self._known_at > STATE_SECONDS:
                self._known = await self.all()
                self._known_at = time.monotonic()
            return self._known

    def _as_missing(self, info: model_pb2.ModelInfo) -> detection_pb2.Missing:
        error = ModelUnavailable(info.name, installed=info.state == model_pb2.MODEL_STATE_UNAVAILABLE)
        question = self._purposes[info.name].question
        return detection_pb2.Missing(
            part=info.name,
            reason=error.reason,
            message=error.message,
            questions=[question_to_proto(question)] if question else [],
        )

    def _facts(self, model: str) -> _Facts:
        """What the fetcher wrote down of a model; nothing if it did not."""
        try:
            entry = next(entry for entry in self._written() or () if entry["name"] == model and entry["ready"])
            weights = next(file for file in entry["files"] if file["path"].endswith(".onnx"))
            return _Facts(True, entry.get("own", False), weights["sha256"], entry["licence"], entry.get("scores", {}))
        except (KeyError, StopIteration):
            return _Facts(ready=False)

    def _written(self) -> list[dict[str, Any]] | None:
        """The models that the fetcher wrote down; None if it did not run, or for another data folder."""
        try:
            entries = json.loads(self._status_file.read_text(encoding="utf-8"))["entries"]
            return [entry for entry in entries if entry["kind"] == "model"]
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _tensor_to_proto(tensor: Tensor) -> model_pb2.TensorSpec:
    return model_pb2.TensorSpec(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
