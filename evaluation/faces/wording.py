"""Numbers with their intervals, as tables show them."""

from __future__ import annotations

from evaluation.metrics.intervals import Estimate

__all__ = ["said"]


def said(estimate: Estimate | None, digits: int = 3) -> str:
    """For example "0.820 (0.768-0.872)"; "-" where there is none."""
    if estimate is None:
        return "-"
    text = f"{estimate.value:.{digits}f}"
    if estimate.interval is None:
        return text
    return f"{text} ({estimate.interval.low:.{digits}f}-{estimate.interval.high:.{digits}f})"
