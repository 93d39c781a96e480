"""What a service knows of the models that it asks: purpose, state, digest, shapes."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pentimento.common.v1 import detection_pb2, model_pb2

from services.common.convert import question_to_proto
from services.common.detection import Question
from services.common.errors import ModelUnavailable, NotFound, PentimentoError
from services.common.triton import Tensor, TritonClient

__all__ = ["ModelCatalogue", "ModelPurpose"]

READY = model_pb2.MODEL_STATE_READY

STATE_SECONDS = 5.0
"""How old an answer to "which models are missing?" may be."""


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


class ModelCatalogue:
    """The models of one service.

    Args:
        purposes: what the service asks for.
        triton: where they are asked.
        home: data folder; `models/status.json` in it, written when models are fetched, tells digests and licences.
    """

    def __init__(self, purposes: Sequence[ModelPurpose], triton: TritonClient, home: Path) -> None:
        self._purposes = {purpose.name: purpose for purpose in purposes}
        self._triton = triton
        self._status_file = home / "models" / "status.json"
        self._lock = asyncio.Lock()
        self._missing: list[detection_pb2.Missing] = []
        self._missing_at = -math.inf

    def digest_of(self, model: str) -> str:
        """SHA-256 of the model's weights; "" if it is not known."""
        return self._facts(model).get("sha256", "")

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
            digest=facts.get("sha256", ""),
            license=facts.get("licence", ""),
            classes=purpose.classes,
            state=READY,
        )
        try:
            described = await self._triton.describe(model)
        except PentimentoError as error:  # not installed, or Triton is away or does not answer in time
            missing = error.reason == "MODEL_NOT_INSTALLED" or not facts
            info.state = model_pb2.MODEL_STATE_NOT_INSTALLED if missing else model_pb2.MODEL_STATE_UNAVAILABLE
            return info
        info.version = described.version
        info.inputs.extend(_tensor_to_proto(tensor) for tensor in described.inputs)
        info.outputs.extend(_tensor_to_proto(tensor) for tensor in described.outputs)
        return info

    async def all(self) -> list[model_pb2.ModelInfo]:
        """All models of this service, by name."""
        return list(await asyncio.gather(*(self.info(name) for name in sorted(self._purposes))))

    async def missing(self) -> list[detection_pb2.Missing]:
        """The models that cannot be asked, and why; as of a few seconds ago, since every analysis wants to know."""
        async with self._lock:
            if time.monotonic() - self._missing_at > STATE_SECONDS:
                self._missing = [self._as_missing(info) for info in await self.all() if info.state != READY]
                self._missing_at = time.monotonic()
            return self._missing

    def _as_missing(self, info: model_pb2.ModelInfo) -> detection_pb2.Missing:
        error = ModelUnavailable(info.name, installed=info.state == model_pb2.MODEL_STATE_UNAVAILABLE)
        question = self._purposes[info.name].question
        return detection_pb2.Missing(
            part=info.name,
            reason=error.reason,
            message=error.message,
            questions=[question_to_proto(question)] if question else [],
        )

    def _facts(self, model: str) -> dict[str, str]:
        """Digest and licence of a model, as the fetcher wrote them down; empty if it did not."""
        try:
            entries = json.loads(self._status_file.read_text(encoding="utf-8"))["entries"]
            entry = next(entry for entry in entries if entry["kind"] == "model" and entry["name"] == model)
            weights = next(file for file in entry["files"] if file["path"].endswith(".onnx"))
            return {"sha256": weights["sha256"], "licence": entry["licence"]} if entry["ready"] else {}
        except (OSError, ValueError, KeyError, StopIteration):
            return {}


def _tensor_to_proto(tensor: Tensor) -> model_pb2.TensorSpec:
    return model_pb2.TensorSpec(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
