"""Runs a service's detectors over one picture: side by side, each on its own, none able to take the others down."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog
from pentimento.common.v1 import detection_pb2, evidence_pb2, report_pb2

from services.common.convert import (
    detector_to_proto,
    evidence_to_proto,
    finding_to_proto,
    image_info_to_proto,
    metric_to_proto,
    question_to_proto,
    signal_to_proto,
)
from services.common.detection import Applicability, DetectorSpec, Finding, Registry
from services.common.errors import InvalidInput, PentimentoError
from services.common.images import Picture
from services.common.telemetry import DETECTOR_RESULTS, DETECTOR_SCORES, DETECTOR_SECONDS

__all__ = ["Analyzer", "Result"]

log = structlog.get_logger()

SIDE_BY_SIDE: Final = max(2, os.cpu_count() or 1)
"""Detectors that run on one picture at a time: as many as there are cores. All of them at once would fill the queue of
`WorkLimiter` with a single picture, and the next one would be refused."""


OWN: Final = "+own"
"""Ends the version of a detector that asks a model of the deployment's own."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one detector: its finding, what it read and measured, and what is missing if it failed."""

    finding: detection_pb2.Finding
    evidence: Sequence[evidence_pb2.Evidence] = ()
    metrics: Sequence[evidence_pb2.MetricResult] = ()
    signals: Sequence[evidence_pb2.Signal] = ()
    missing: detection_pb2.Missing | None = None


class Analyzer:
    """The detectors of one service.

    Args:
        service: its name.
        registry: its detectors.
        invoke: how a detector of this service is run on a picture (in a thread, or awaited with a model client).
        digest_of: SHA-256 of a model's weights by the model's name; "" where it is not known.
        is_own: whether a model is the deployment's own and not ours, by name. What a detector says with such weights is
            of another version (`OWN`), so that no calibration of ours is taken for theirs.
    """

    def __init__(
        self,
        service: str,
        registry: Registry[Any],
        invoke: Callable[[Callable[..., Any], Picture], Awaitable[Finding]],
        *,
        digest_of: Callable[[str], str] = lambda _: "",
        is_own: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._service = service
        self._registry = registry
        self._invoke = invoke
        self._digest_of = digest_of
        self._is_own = is_own

    def detectors(self) -> list[detection_pb2.Detector]:
        """All detectors, by name."""
        specs = sorted((self._as_run(spec) for spec, _ in self._registry), key=lambda spec: spec.name)
        return [detector_to_proto(spec, self._service) for spec in specs]

    def _as_run(self, spec: DetectorSpec) -> DetectorSpec:
        """The detector with the version that it has with the models of this deployment."""
        if not any(self._is_own(model) for model in spec.models):
            return spec
        return replace(spec, version=f"{spec.version}{OWN}")

    def select(self, names: Sequence[str]) -> list[tuple[DetectorSpec, Callable[..., Any]]]:
        """The detectors of these names, or all if there are none.

        Raises:
            InvalidInput: a name that this service does not know.
        """
        if unknown := [name for name in names if name not in self._registry]:
            known = ", ".join(sorted(spec.name for spec, _ in self._registry))
            raise InvalidInput(
                f"Unknown detector {unknown[0]}. This service has: {known or 'none'}.",
                reason="UNKNOWN_DETECTOR",
                field="detectors",
            )
        return [self._registry[name] for name in names] if names else list(self._registry)

    async def results(self, picture: Picture, names: Sequence[str], *, include_maps: bool) -> AsyncGenerator[Result]:
        """Each detector's result as soon as it is ready; closing it (`contextlib.aclosing`) cancels the rest."""
        places = asyncio.Semaphore(SIDE_BY_SIDE)

        async def run(spec: DetectorSpec, function: Callable[..., Any]) -> Result:
            async with places:
                return await self._run(spec, function, picture, include_maps=include_maps)

        tasks = [asyncio.create_task(run(spec, function)) for spec, function in self.select(names)]
        try:
            for task in asyncio.as_completed(tasks):
                yield await task
        finally:
            for task in tasks:
                task.cancel()

    async def report(self, picture: Picture, names: Sequence[str], *, include_maps: bool) -> report_pb2.AnalyzerReport:
        """All results together, by detector name."""
        started = time.perf_counter()
        async with aclosing(self.results(picture, names, include_maps=include_maps)) as arriving:
            results = [result async for result in arriving]
        results.sort(key=lambda result: result.finding.provenance.detector)
        return report_pb2.AnalyzerReport(
            image=image_info_to_proto(picture.info),
            findings=[result.finding for result in results],
            evidence=[piece for result in results for piece in result.evidence],
            metrics=[metric for result in results for metric in result.metrics],
            signals=[signal for result in results for signal in result.signals],
            missing=[result.missing for result in results if result.missing],
            duration_seconds=time.perf_counter() - started,
        )

    async def _run(
        self, spec: DetectorSpec, function: Callable[..., Any], picture: Picture, *, include_maps: bool
    ) -> Result:
        started = time.perf_counter()
        reason = ""
        ours, spec = spec, self._as_run(spec)
        try:
            finding = await self._invoke(function, picture)
            if spec is not ours:
                finding = replace(finding, calibrated=False)
        except PentimentoError as error:
            reason = error.reason
            finding = Finding.failed(error.message)
        except Exception:
            reason = "INTERNAL"
            log.exception("detector_failed", detector=spec.name)
            finding = Finding.failed(f"{spec.title} failed on this picture.")
        seconds = time.perf_counter() - started
        DETECTOR_RESULTS.labels(spec.name, finding.applicability.value).inc()
        if finding.score is not None:
            DETECTOR_SECONDS.labels(spec.name).observe(seconds)
            DETECTOR_SCORES.labels(spec.name, spec.version).observe(finding.score)
        digests: Mapping[str, str] = {model: self._digest_of(model) for model in spec.models}
        # In a thread: the maps of a large picture take tens of milliseconds to encode.
        message = await asyncio.to_thread(
            finding_to_proto,
            spec,
            finding,
            seconds=seconds,
            model_digests={model: digest for model, digest in digests.items() if digest},
            include_maps=include_maps,
        )
        missing = None
        if finding.applicability is Applicability.FAILED:
            missing = detection_pb2.Missing(
                part=spec.name,
                reason=reason or "FAILED",
                message=finding.explanation,
                questions=[question_to_proto(spec.question)],
            )
        return Result(
            message,
            evidence=[evidence_to_proto(piece) for piece in finding.evidence],
            metrics=[metric_to_proto(metric) for metric in finding.metrics],
            signals=[signal_to_proto(signal) for signal in finding.signals],
            missing=missing,
        )
