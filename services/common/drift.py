"""Drift as a number: how far the scores that a service sees lie from those that its calibration was fitted on.

Population stability index of the live `pentimento_detector_score` buckets (both have the bins of `SCORE_EDGES`)
against the artefact's histogram, computed whenever Prometheus asks. By custom below 0.1 is stable and above 0.25 has
shifted (Siddiqi, Credit Risk Scorecards, 2006).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from prometheus_client import Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common.calibration import Calibration, population_stability_index

__all__ = ["MIN_SCORES", "DriftCollector"]

MIN_SCORES: Final = 200
"""Scores before an index is given. Without any drift n scores against many give about (bins - 1) / n by chance: 0.045
here, well below what counts as stable."""


class DriftCollector(Collector):
    """Exports `pentimento_detector_psi` for every detector that the calibration knows in the version that is running.

    Nothing is said of a detector before it has given `MIN_SCORES` scores in this process.

    Args:
        calibration: whose histograms are the reference.
        scores: histogram with the labels detector and version and `SCORE_EDGES[1:]` as buckets.
    """

    def __init__(self, calibration: Calibration, scores: Histogram) -> None:
        self._calibration = calibration
        self._scores = scores

    def describe(self) -> Iterator[Metric]:
        """The gauge without values, so that it can be registered without being computed."""
        yield self._gauge()

    def collect(self) -> Iterator[Metric]:
        """The gauge with a value for each detector that has one."""
        gauge = self._gauge()
        for (detector, version), counts in self._counts().items():
            known = self._calibration.detectors.get(detector)
            if known is not None and known.version == version and sum(counts) >= MIN_SCORES:
                gauge.add_metric([detector], population_stability_index(known.histogram, counts))
        yield gauge

    @staticmethod
    def _gauge() -> GaugeMetricFamily:
        return GaugeMetricFamily(
            "pentimento_detector_psi",
            "Population stability index of a detector's scores against the calibration set; above 0.25 has shifted.",
            labels=["detector"],
        )

    def _counts(self) -> dict[tuple[str, str], list[int]]:
        """Scores by bin, by detector and version; the buckets of Prometheus count everything below as well."""
        cumulative: dict[tuple[str, str], dict[float, int]] = {}
        for metric in self._scores.collect():
            for sample in metric.samples:
                if sample.name.endswith("_bucket") and sample.labels["le"] != "+Inf":
                    subject = (sample.labels["detector"], sample.labels["version"])
                    cumulative.setdefault(subject, {})[float(sample.labels["le"])] = int(sample.value)
        return {
            subject: [high - low for low, high in itertools.pairwise([0, *(of[edge] for edge in sorted(of))])]
            for subject, of in cumulative.items()
        }
