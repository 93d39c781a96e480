"""Analyses in numbers: the score and the confidence of one, the summary of many (document 002's words for both)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from pentimento.common.v1 import verdict_pb2
from pentimento.orchestrator.v1 import analysis_pb2, batch_service_pb2

from services.orchestrator.policy import even_odds_score

__all__ = ["confidence_in", "score_of", "summarize"]

_SUSPICIOUS: Final = frozenset(
    {analysis_pb2.DECISION_SUSPICIOUS_AI_LIKELY, analysis_pb2.DECISION_CONFIRMED_AI_GENERATED}
)


def score_of(verdict: verdict_pb2.Verdict) -> float:
    """The likelihood ratio at even odds, LR / (1 + LR), 0-1; 0.5 where nothing is known."""
    return even_odds_score(verdict.likelihood_ratio.log10) if verdict.HasField("likelihood_ratio") else 0.5


def confidence_in(decision: analysis_pb2.Decision.ValueType, score: float) -> int:
    """How sure we are of the decision, 0-100: the share of the score that lies on the decision's side.

    Against a picture it is the score itself (document 002's example: score 0.73, confidence 73), in its favour what
    is left of it. A decision to have it reviewed takes no side: there it says how far the score leans to either, 50
    being not at all.
    """
    if decision in _SUSPICIOUS:
        share = score
    elif decision == analysis_pb2.DECISION_MOSTLY_AUTHENTIC:
        share = 1.0 - score
    else:
        share = max(score, 1.0 - score)
    return round(100 * share)


def summarize(analyses: Sequence[analysis_pb2.Analysis], *, total: int) -> batch_service_pb2.BatchSummary:
    """The summary of a batch of `total` pictures, of which these have an analysis. Means over nothing are 0."""
    decisions = [analysis.decision for analysis in analyses]
    edits = [analysis.edit_decision for analysis in analyses]
    scores = [score_of(analysis.generated) for analysis in analyses]
    confidences = [confidence_in(decision, score) for decision, score in zip(decisions, scores, strict=True)]
    return batch_service_pb2.BatchSummary(
        confirmed_ai_generated_count=decisions.count(analysis_pb2.DECISION_CONFIRMED_AI_GENERATED),
        suspicious_ai_likely_count=decisions.count(analysis_pb2.DECISION_SUSPICIOUS_AI_LIKELY),
        authentic_but_review_count=decisions.count(analysis_pb2.DECISION_AUTHENTIC_BUT_REVIEW),
        mostly_authentic_count=decisions.count(analysis_pb2.DECISION_MOSTLY_AUTHENTIC),
        edited_count=edits.count(analysis_pb2.EDIT_DECISION_EDITED),
        possibly_edited_count=edits.count(analysis_pb2.EDIT_DECISION_POSSIBLY_EDITED),
        no_edit_found_count=edits.count(analysis_pb2.EDIT_DECISION_NO_EDIT_FOUND),
        success_rate=100.0 * len(analyses) / total if total else 0.0,
        average_score=_mean(scores),
        average_confidence=_mean(confidences),
        average_duration_seconds=_mean([analysis.duration_seconds for analysis in analyses]),
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
