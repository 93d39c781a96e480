"""An async client of NVIDIA Triton (KServe v2 over gRPC) in which every call has a deadline."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import aio as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from services.common.context import outbound_metadata, time_remaining
from services.common.errors import DeadlineExceeded, ModelUnavailable, Overloaded

__all__ = ["MOST_WAITING", "ModelDescription", "Tensor", "TritonClient"]

READY_SECONDS: Final = 1.0
DESCRIBE_SECONDS: Final = 2.0
"""Longest waits for an answer that needs no network to run."""
MOST_WAITING: Final = 64
"""Requests to one model that wait for their answers at a time; one more is refused at once. Triton's own queue policy
would do this too, but holds requests that overlap back for half a second now and then, and ever more often
(https://github.com/triton-inference-server/server/issues/8870), in the versions before its core's pull request 509."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of a model: name, KServe datatype and shape (-1 for a size that varies)."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What Triton knows of a model; `parameters` are those of its config.pbtxt, by name."""

    name: str
    version: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: Mapping[str, str] = field(default_factory=dict)


class TritonClient:
    """Asks models by name.

    Args:
        address: host:port of Triton's gRPC endpoint.
        timeout_seconds: longest wait for one answer; less where the inbound deadline is nearer.
    """

    def __init__(self, client: triton.InferenceServerClient, *, timeout_seconds: float) -> None:
        self._client = client
        self._timeout_seconds = timeout_seconds
        self._waiting: Counter[str] = Counter()

    @classmethod
    @asynccontextmanager
    async def connect(cls, address: str, *, timeout_seconds: float = 10.0) -> AsyncIterator[TritonClient]:
        """A client for the body of the `async with`; Triton need not be up yet."""
        client = triton.InferenceServerClient(
            url=address,
            channel_args=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1_000),
                ("grpc.keepalive_time_ms", 20_000),
            ],
        )
        try:
            yield cls(client, timeout_seconds=timeout_seconds)
        finally:
            await client.close()

    async def infer(
        self, model: str, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        """Runs one batch through a model.

        Args:
            model: name in the model repository.
            inputs: by the network's input names; the first dimension is the batch.
            outputs: names of the outputs wanted.

        Returns:
            The outputs by name.

        Raises:
            ModelUnavailable: the model is not installed, or Triton is away.
            Overloaded: `MOST_WAITING` requests wait for this model already.
            DeadlineExceeded: no answer in time.
        """
        tensors = []
        for name, array in inputs.items():
            tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(np.ascontiguousarray(array))
            tensors.append(tensor)
        seconds = time_remaining(self._timeout_seconds)
        if self._waiting[model] >= MOST_WAITING:
            raise Overloaded(f"Model {model} is busy. Try again in a moment.")
        self._waiting[model] += 1
        try:
            result = await self._client.infer(
                model,
                tensors,
                outputs=[triton.InferRequestedOutput(name) for name in outputs],
                client_timeout=seconds,
                headers=dict(outbound_metadata()),
            )
        except InferenceServerException as error:
            raise _translate(error, model, seconds) from error
        finally:
            self._waiting[model] -= 1
        return {name: result.as_numpy(name) for name in outputs}

    async def server_version(self) -> str:
        """Triton's own version, for example "2.51.0"; "" if it does not answer."""
        try:
            metadata = await self._client.get_server_metadata(client_timeout=time_remaining(READY_SECONDS))
        except InferenceServerException:
            return ""
        return str(metadata.version)

    async def is_ready(self) -> bool:
        """Whether Triton answers and says that it is ready."""
        try:
            return bool(await self._client.is_server_ready(client_timeout=time_remaining(READY_SECONDS)))
        except InferenceServerException:
            return False

    async def describe(self, model: str, *, limit_seconds: float = DESCRIBE_SECONDS) -> ModelDescription:
        """What Triton knows of a model.

        Args:
            model: name in the model repository.
            limit_seconds: longest wait.

        Raises:
            ModelUnavailable: the model is not installed, or Triton is away.
            DeadlineExceeded: no answer in time.
        """
        seconds = time_remaining(limit_seconds)
        try:
            metadata, answer = await asyncio.gather(
                self._client.get_model_metadata(model, client_timeout=seconds),
                self._client.get_model_config(model, client_timeout=seconds),
            )
        except InferenceServerException as error:
            raise _translate(error, model, seconds) from error

        def tensors(items: Any) -> tuple[Tensor, ...]:
            return tuple(Tensor(item.name, item.datatype, tuple(int(size) for size in item.shape)) for item in items)

        version = max(metadata.versions, key=int, default="")
        parameters = {name: value.string_value for name, value in answer.config.parameters.items()}
        return ModelDescription(metadata.name, version, tensors(metadata.inputs), tensors(metadata.outputs), parameters)


def _translate(error: Any, model: str, seconds: float) -> Exception:
    """What Triton's error means to a caller; one that is our own mistake (a wrong shape, say) stays what it is."""
    status = error.status() or ""
    text = (error.message() or "").lower()
    if "DEADLINE_EXCEEDED" in status:
        return DeadlineExceeded(f"Model {model} did not answer within {seconds:.0f} seconds.")
    if "RESOURCE_EXHAUSTED" in status or "maximum queue size" in text:
        return Overloaded(f"Model {model} is busy. Try again in a moment.")
    if "INVALID_ARGUMENT" in status:
        mistake: Exception = error
        return mistake
    # A model whose files are there but which did not load "has no available versions".
    unknown = "NOT_FOUND" in status and "no available versions" not in text
    return ModelUnavailable(model, installed=not unknown)
