# ruff: noqa: INP001 - Triton imports this file by its place, not as part of a package
"""The `onnxruntime` backend of a Triton without container or GPU, as a Python-based Triton backend.

On a GPU host NVIDIA's Triton image brings a backend of this name, in C++. The wheel that `local.triton` runs has
only the Python backend, so this file is laid into its backend folder under the same name: a model's `config.pbtxt`
says `backend: "onnxruntime"` and is the same on a laptop and on a GPU.

Triton starts one process per model instance, imports this file there and calls, in this order:

1. `initialize` once: reads the model's configuration, loads `<version folder>/<default_model_filename>` and holds
   the graph's inputs and outputs against the configuration. What does not fit fails the load of this one model.
2. `execute` for each batch that the dynamic batcher collected. The requests whose tensors fit together become one
   run of the network. A request that is wrong, cancelled or makes the run fail gets an error of its own; its
   neighbours get their results.
3. `finalize` once.

Parameters in `config.pbtxt`, by the names that NVIDIA's backend knows too:

    intra_op_thread_count   threads inside one operator. Default: PENTIMENTO_TRITON_THREADS, else 1.
    inter_op_thread_count   operators side by side. Default: 1.

A few models on two cores must not start two threads each that wait for one another, hence the small defaults.

This file runs in the environment of `triton_models/runtime` (NumPy 1), not in Pentimento's own.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

Array = npt.NDArray[Any]

THREADS_VARIABLE = "PENTIMENTO_TRITON_THREADS"

# How long a thread with nothing to do spins before it sleeps. Enough for the next operator of a small network to come:
# YuNet, on two threads, takes a fifth less time than if they slept at once, for no more work of the cores. Spinning for
# longer would take them away from the other models.
SPIN_MICROSECONDS = "20"

# How onnxruntime spells the element types of Triton's configuration.
_ONNX_TYPES = {
    "TYPE_BOOL": "tensor(bool)",
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_UINT16": "tensor(uint16)",
    "TYPE_UINT32": "tensor(uint32)",
    "TYPE_UINT64": "tensor(uint64)",
    "TYPE_INT8": "tensor(int8)",
    "TYPE_INT16": "tensor(int16)",
    "TYPE_INT32": "tensor(int32)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
    "TYPE_STRING": "tensor(string)",
}


class RequestError(Exception):
    """One request cannot be served; the text goes to its sender."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output as `config.pbtxt` declares it.

    Attributes:
        name: the tensor's name, in the graph and in requests.
        data_type: Triton's name of the element type, such as `TYPE_FP32`.
        dims: the shape without the batch axis; -1 stands for any size.
        optional: whether a request may leave it out.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]
    optional: bool = False

    @classmethod
    def from_config(cls, entry: dict[str, Any]) -> TensorSpec:
        """Reads one entry of the configuration's `input` or `output` list."""
        return cls(
            name=str(entry["name"]),
            data_type=str(entry["data_type"]),
            dims=tuple(int(size) for size in entry["dims"]),
            optional=bool(entry.get("optional", False)),
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy element type of this tensor in requests and responses."""
        return np.dtype(pb_utils.triton_string_to_numpy(self.data_type))


@dataclass
class Job:
    """A request that passed the checks.

    Attributes:
        index: its place in the list that Triton handed over, and in the list of responses.
        inputs: the tensors by name, the batch axis first if the model has one.
        outputs: the names of the outputs that the sender wants.
        rows: the size of the batch axis; 1 for a model without one.
    """

    index: int
    inputs: dict[str, Array]
    outputs: frozenset[str]
    rows: int

    @property
    def signature(self) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
        """What must be equal for two requests to share a run: names, element types and shapes behind the batch axis."""
        return tuple((name, array.dtype.str, array.shape[1:]) for name, array in sorted(self.inputs.items()))


def check_shape(tensor: TensorSpec, shape: tuple[int, ...], *, batched: bool) -> None:
    """Raises RequestError unless `shape` is one that the configuration allows for `tensor`."""
    wanted = ((-1, *tensor.dims)) if batched else tensor.dims
    if len(shape) != len(wanted) or any(w not in (-1, size) for w, size in zip(wanted, shape, strict=True)):
        described = ", ".join("any" if size == -1 else str(size) for size in wanted)
        raise RequestError(f"input {tensor.name!r} has shape {list(shape)}, expected [{described}]")


def thread_count(config: dict[str, Any], parameter: str, default: str) -> int:
    """The number of threads that the model's configuration, or else `default`, asks for.

    Raises:
        ValueError: it is no positive number.
    """
    value = config.get("parameters", {}).get(parameter, {}).get("string_value", default)
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"{parameter} must be a positive number, not {value!r}")
    return int(value)


def graph_mismatch(declared: list[TensorSpec], found: list[Any], *, kind: str, batched: bool) -> str | None:
    """What is wrong with the configuration's inputs or outputs, given those of the graph; None if nothing is.

    Args:
        declared: the configuration's tensors.
        found: the graph's tensors, as `InferenceSession.get_inputs` or `get_outputs` returns them.
        kind: "input" or "output", for the text.
        batched: whether the graph's first axis is the batch.
    """
    by_name = {node.name: node for node in found}
    names = ", ".join(sorted(by_name))
    for tensor in declared:
        node = by_name.get(tensor.name)
        if node is None:
            return f"config.pbtxt declares the {kind} {tensor.name!r}, the graph has: {names}"
        if node.type != _ONNX_TYPES.get(tensor.data_type):
            return f"{kind} {tensor.name!r} is {tensor.data_type} in config.pbtxt and {node.type} in the graph"
        dims = (-1, *tensor.dims) if batched else tensor.dims
        # A symbolic size of the graph is a string or None there: it fits any declared size.
        same = len(dims) == len(node.shape) and all(
            not isinstance(there, int) or here == there for here, there in zip(dims, node.shape, strict=True)
        )
        if not same:
            return f"{kind} {tensor.name!r} has dims {list(dims)} by config.pbtxt and {node.shape} in the graph"
    return None


class TritonPythonModel:
    """One instance of one ONNX model, in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the network.

        Args:
            args: Triton's description of the instance: `model_config` (JSON), `model_repository` (the folder of
                this model), `model_version`, `model_name`.

        Raises:
            TritonModelException: the model cannot be served; Triton marks it unavailable and logs the text.
        """
        config: dict[str, Any] = json.loads(args["model_config"])
        self._batched = int(config.get("max_batch_size", 0)) > 0
        self._inputs = [TensorSpec.from_config(entry) for entry in config["input"]]
        self._outputs = [TensorSpec.from_config(entry) for entry in config["output"]]
        path = (
            Path(args["model_repository"])
            / args["model_version"]
            / (config.get("default_model_filename") or "model.onnx")
        )

        options = ort.SessionOptions()
        try:
            options.intra_op_num_threads = thread_count(
                config, "intra_op_thread_count", os.environ.get(THREADS_VARIABLE) or "1"
            )
            options.inter_op_num_threads = thread_count(config, "inter_op_thread_count", "1")
            options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_MICROSECONDS)
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # whatever onnxruntime says about a file: it belongs to this model alone
            raise pb_utils.TritonModelException(f"cannot load {path.name}: {error}") from error

        required = [node for node in self._session.get_inputs() if node.name not in {t.name for t in self._inputs}]
        problem = (
            graph_mismatch(self._inputs, self._session.get_inputs(), kind="input", batched=self._batched)
            or graph_mismatch(self._outputs, self._session.get_outputs(), kind="output", batched=self._batched)
            or (f"config.pbtxt lacks the graph's input {required[0].name!r}" if required else None)
        )
        if problem:
            raise pb_utils.TritonModelException(problem)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers the requests of one dynamic batch, in their order, each with a result or an error of its own."""
        responses: list[Any] = [None] * len(requests)
        groups: dict[Any, list[Job]] = {}
        for index, request in enumerate(requests):
            if request.is_cancelled():
                responses[index] = _error("the request was cancelled", pb_utils.TritonError.CANCELLED)
                continue
            try:
                job = self._read(index, request)
            except RequestError as error:
                responses[index] = _error(str(error), pb_utils.TritonError.INVALID_ARG)
                continue
            # Without a batch axis nothing can be concatenated: each request is a group of its own.
            groups.setdefault(job.signature if self._batched else index, []).append(job)
        for jobs in groups.values():
            self._answer(jobs, responses)
        return responses

    def finalize(self) -> None:
        """Releases the network."""
        del self._session

    def _read(self, index: int, request: Any) -> Job:
        """Takes a request's tensors out and checks them; raises RequestError."""
        inputs: dict[str, Array] = {}
        for spec in self._inputs:
            tensor = pb_utils.get_input_tensor_by_name(request, spec.name)
            if tensor is None:
                if spec.optional:
                    continue
                raise RequestError(f"input {spec.name!r} is missing")
            array = tensor.as_numpy()
            if spec.data_type != "TYPE_STRING" and array.dtype != spec.dtype:
                raise RequestError(f"input {spec.name!r} is of type {array.dtype}, expected {spec.dtype}")
            check_shape(spec, array.shape, batched=self._batched)
            inputs[spec.name] = array
        rows = {array.shape[0] for array in inputs.values()} if self._batched else {1}
        if len(rows) != 1:
            raise RequestError(f"the inputs have different batch sizes: {sorted(rows)}")
        known = frozenset(spec.name for spec in self._outputs)
        wanted = frozenset(request.requested_output_names()) or known
        if unknown := wanted - known:
            raise RequestError(f"unknown output {min(unknown)!r}, the model has: {', '.join(sorted(known))}")
        return Job(index=index, inputs=inputs, outputs=wanted, rows=rows.pop())

    def _answer(self, jobs: list[Job], responses: list[Any]) -> None:
        """Runs requests that fit together as one batch and puts each its response.

        If the common run fails, each runs alone: the one to blame gets the error, the others their results.
        """
        names = sorted(frozenset[str]().union(*(job.outputs for job in jobs)))
        try:
            if len(jobs) == 1:
                feed = jobs[0].inputs
            else:
                feed = {name: np.concatenate([job.inputs[name] for job in jobs]) for name in jobs[0].inputs}
            results = dict(zip(names, self._run(names, feed, sum(job.rows for job in jobs)), strict=True))
        except Exception as error:  # onnxruntime has no base class for what a run may raise
            if len(jobs) == 1:
                responses[jobs[0].index] = _error(f"inference failed: {error}", pb_utils.TritonError.INTERNAL)
            else:
                for job in jobs:
                    self._answer([job], responses)
            return
        start = 0
        for job in jobs:
            stop = start + job.rows
            tensors = [
                pb_utils.Tensor(
                    name, np.ascontiguousarray(results[name][start:stop] if self._batched else results[name])
                )
                for name in names
                if name in job.outputs
            ]
            responses[job.index] = pb_utils.InferenceResponse(output_tensors=tensors)
            start = stop

    def _run(self, names: list[str], feed: dict[str, Array], rows: int) -> list[Array]:
        """One run of the network; raises ValueError if an output cannot be divided among the requests."""
        arrays: list[Array] = self._session.run(names, feed)
        for name, array in zip(names, arrays, strict=True):
            if self._batched and (array.ndim == 0 or array.shape[0] != rows):
                raise ValueError(f"output {name!r} has shape {list(array.shape)} for a batch of {rows}")
        return arrays


def _error(message: str, code: int) -> Any:
    """A response that carries nothing but an error."""
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(message, code))
