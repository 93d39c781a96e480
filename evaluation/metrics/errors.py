"""What a metric refuses, as one tree.

MetricError
├── InvalidData      the arrays do not fit together, or hold what is no label, score or box
├── Undefined        the metric has no value on these data (one class only, no boxes to find)
└── RefusedTrap      a number that could be computed and would mislead
"""

from __future__ import annotations

__all__ = ["InvalidData", "MetricError", "RefusedTrap", "Undefined"]


class MetricError(ValueError):
    """A metric that was not computed."""


class InvalidData(MetricError):
    """The arrays do not fit together, or hold what is no label, score or box."""


class Undefined(MetricError):
    """The metric has no value on these data; a bootstrap counts such resamples instead of failing."""


class RefusedTrap(MetricError):
    """A number that could be computed and would mislead its reader."""
