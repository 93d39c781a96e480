"""What this service needs of a client of Triton."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

__all__ = ["ModelClient"]


class ModelClient(Protocol):
    """Asks models by name; `services.common.triton.TritonClient` does."""

    async def infer(
        self, model: str, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        """Runs one batch through a model; see `services.common.triton.TritonClient.infer`."""
        ...
