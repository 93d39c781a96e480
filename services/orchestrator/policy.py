"""The decision policy: a total, monotone table, written as data.

Two questions, never mixed. *Was it generated?* is decided from discrete evidence first (what the file itself says,
signed or not) and from the detectors' likelihood ratios second. *Was it edited?* is decided from likelihood ratios.

What holds for every input, and is tested as such: more evidence for "generated" never lowers the decision, more
evidence for "authentic" never raises it, the order of evidence does not matter, and whatever could not be asked keeps
the decision from going below AUTHENTIC_BUT_REVIEW.

Likelihood ratios of different detectors are multiplied as if the detectors were independent given the truth. They are
not quite; until a fitted fusion replaces the product, results say "uncalibrated".

References: ENFSI Guideline for Evaluative Reporting in Forensic Science (2015) for the verbal scale; Aitken & Taroni,
Statistics and the Evaluation of Evidence for Forensic Scientists (2004), for likelihood ratio and prior.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from services.common.detection import Direction, Strength, Technique

__all__ = [
    "POLICY_VERSION",
    "UNCALIBRATED",
    "Decision",
    "EditDecision",
    "EditInput",
    "EditOutcome",
    "EvidenceItem",
    "GeneratedInput",
    "GeneratedOutcome",
    "Grade",
    "ScoredFinding",
    "TechniqueSuspicion",
    "decide_edited",
    "decide_generated",
    "even_odds_score",
    "grade_of",
    "posterior",
]

POLICY_VERSION: Final = "2026.1"
UNCALIBRATED: Final = "uncalibrated"


class Decision(enum.IntEnum):
    """Decisions on "was it generated?", in order of suspicion."""

    MOSTLY_AUTHENTIC = 1
    AUTHENTIC_BUT_REVIEW = 2
    SUSPICIOUS_AI_LIKELY = 3
    CONFIRMED_AI_GENERATED = 4


class EditDecision(enum.IntEnum):
    """Decisions on "was it edited?", in order of suspicion."""

    NO_EDIT_FOUND = 1
    POSSIBLY_EDITED = 2
    EDITED = 3


class Grade(enum.Enum):
    """ENFSI's verbal equivalents of a likelihood ratio, by its size in either direction."""

    NO_SUPPORT = "no support"
    WEAK = "weak support"
    MODERATE = "moderate support"
    MODERATELY_STRONG = "moderately strong support"
    STRONG = "strong support"
    VERY_STRONG = "very strong support"
    EXTREMELY_STRONG = "extremely strong support"


GRADES: Final[tuple[tuple[float, Grade], ...]] = (
    (6.0, Grade.EXTREMELY_STRONG),
    (4.0, Grade.VERY_STRONG),
    (3.0, Grade.STRONG),
    (2.0, Grade.MODERATELY_STRONG),
    (1.0, Grade.MODERATE),
    (0.30103, Grade.WEAK),
)
"""Lower bound of |log10 likelihood ratio| for each grade."""

EVIDENCE_LOG10: Final[Mapping[tuple[Direction, Strength], float]] = {
    (Direction.AI_GENERATED, Strength.WEAK): 0.3,
    (Direction.AI_GENERATED, Strength.MODERATE): 1.0,
    (Direction.AI_GENERATED, Strength.STRONG): 3.0,
    (Direction.AI_GENERATED, Strength.CONCLUSIVE): 6.0,
    (Direction.AUTHENTIC, Strength.WEAK): -0.3,
    # Metadata can be pasted into any file: what favours a picture weighs as "weak", whatever it is called,
    # unless a trusted signature vouches for it.
    (Direction.AUTHENTIC, Strength.MODERATE): -0.3,
    (Direction.AUTHENTIC, Strength.STRONG): -0.3,
    (Direction.AUTHENTIC, Strength.CONCLUSIVE): -3.0,
}
"""What a piece of evidence contributes to log10 of the likelihood ratio: the middle of its grade, by convention."""

SCORE_HIGH: Final = 0.90
"""At or above this score (likelihood ratio 9) the detectors alone make a picture suspicious."""

SCORE_LOW: Final = 0.35
"""At or below this score (likelihood ratio about 1/2) the detectors alone clear a picture, if all of them answered."""

EDITED_FROM: Final = 1.3
"""log10 likelihood ratio (20) from which a picture counts as edited."""

POSSIBLY_EDITED_FROM: Final = 0.5
"""log10 likelihood ratio (about 3) from which an edit counts as possible."""


class _ByScore(enum.Enum):
    """Rows of the table in which the score decides."""

    BY_SCORE = "by score"
    BY_SCORE_AT_LEAST_REVIEW = "by score, at least review"
    BY_SCORE_AGAINST_SIGNATURE = "by score, against a trusted signature"
    BY_SCORE_AGAINST_SIGNATURE_AT_LEAST_REVIEW = "by score, against a trusted signature, at least review"


TABLE: Final[Mapping[tuple[Strength | None, bool], Decision | _ByScore]] = {
    # (strongest evidence for "generated", conclusive evidence for "authentic") -> decision
    (Strength.CONCLUSIVE, True): Decision.AUTHENTIC_BUT_REVIEW,  # they contradict
    (Strength.CONCLUSIVE, False): Decision.CONFIRMED_AI_GENERATED,
    (Strength.STRONG, True): Decision.AUTHENTIC_BUT_REVIEW,
    (Strength.STRONG, False): Decision.SUSPICIOUS_AI_LIKELY,
    (Strength.MODERATE, True): _ByScore.BY_SCORE_AGAINST_SIGNATURE_AT_LEAST_REVIEW,
    (Strength.MODERATE, False): _ByScore.BY_SCORE_AT_LEAST_REVIEW,
    (Strength.WEAK, True): _ByScore.BY_SCORE_AGAINST_SIGNATURE,
    (Strength.WEAK, False): _ByScore.BY_SCORE,
    (None, True): _ByScore.BY_SCORE_AGAINST_SIGNATURE,
    (None, False): _ByScore.BY_SCORE,
}

STRENGTH_ORDER: Final = (Strength.WEAK, Strength.MODERATE, Strength.STRONG, Strength.CONCLUSIVE)


@dataclass(frozen=True, slots=True)
class EvidenceItem:
    """A piece of discrete evidence, as the policy weighs it; `source` says where it was read."""

    direction: Direction
    strength: Strength
    finding: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class ScoredFinding:
    """A detector's finding, as the policy weighs it; `technique` is what it saw, None (OTHER) if it does not tell.

    `log10_likelihood_ratio` is of "false" against "honest" under the question that the finding speaks to.
    """

    detector: str
    title: str
    log10_likelihood_ratio: float
    technique: Technique | None = None
    explanation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedInput:
    """All that is known on "was it generated?"; `missing` names what could not be asked."""

    evidence: Sequence[EvidenceItem] = ()
    findings: Sequence[ScoredFinding] = ()
    missing: Sequence[str] = ()
    prior: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedOutcome:
    """The answer to "was it generated?".

    Attributes:
        decision: of the table.
        log10_likelihood_ratio: of all evidence and findings together.
        score: the ratio as a number in 0-1, at even odds: LR / (1 + LR).
        probability: under the prior, 0-1.
        grade: the ratio in words.
        explanation: what decided, for a person.
        evidence_for: detectors that speak for "generated".
        evidence_against: detectors that speak against it.
    """

    decision: Decision
    log10_likelihood_ratio: float
    score: float
    probability: float
    grade: Grade
    explanation: str
    evidence_for: tuple[str, ...]
    evidence_against: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TechniqueSuspicion:
    """How much a technique is suspected: probability (0-1) under the prior, and who says so."""

    technique: Technique
    probability: float
    detectors: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EditInput:
    """All that is known on "was it edited?"; `missing` names what could not be asked."""

    findings: Sequence[ScoredFinding] = ()
    missing: Sequence[str] = ()
    prior: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EditOutcome:
    """The answer to "was it edited?"; the attributes are those of `GeneratedOutcome`."""

    decision: EditDecision
    log10_likelihood_ratio: float
    probability: float
    grade: Grade
    explanation: str
    techniques: tuple[TechniqueSuspicion, ...]
    evidence_for: tuple[str, ...]
    evidence_against: tuple[str, ...]


def posterior(log10_likelihood_ratio: float, prior: float) -> float:
    """Probability (0-1) after evidence of this weight, from a prior probability (0-1, exclusive)."""
    log10_odds = math.log10(prior / (1.0 - prior)) + log10_likelihood_ratio
    return 1.0 / (1.0 + math.pow(10.0, min(300.0, max(-300.0, -log10_odds))))


def even_odds_score(log10_likelihood_ratio: float) -> float:
    """The likelihood ratio as a number in 0-1 that no prior moves: 0.5 says nothing either way."""
    return posterior(log10_likelihood_ratio, 0.5)


def grade_of(log10_likelihood_ratio: float) -> Grade:
    """The verbal equivalent of a likelihood ratio, by its size in either direction."""
    size = abs(log10_likelihood_ratio)
    return next((grade for bound, grade in GRADES if size >= bound), Grade.NO_SUPPORT)


def decide_generated(known: GeneratedInput) -> GeneratedOutcome:
    """Decides "was it generated?" by `TABLE`."""
    ratio = _total(_evidence_terms(known.evidence) + [finding.log10_likelihood_ratio for finding in known.findings])
    score = even_odds_score(ratio)
    strongest = _strongest(known.evidence, Direction.AI_GENERATED)
    signed = _strongest(known.evidence, Direction.AUTHENTIC) is Strength.CONCLUSIVE
    rule = TABLE[strongest, signed]
    decision = rule if isinstance(rule, Decision) else _by_score(rule, score)
    if known.missing:
        decision = max(decision, Decision.AUTHENTIC_BUT_REVIEW)
    return GeneratedOutcome(
        decision=decision,
        log10_likelihood_ratio=ratio,
        score=score,
        probability=posterior(ratio, known.prior),
        grade=grade_of(ratio),
        explanation=_explain_generated(known, rule, decision, score),
        evidence_for=tuple(finding.detector for finding in known.findings if finding.log10_likelihood_ratio > 0),
        evidence_against=tuple(finding.detector for finding in known.findings if finding.log10_likelihood_ratio < 0),
    )


def decide_edited(known: EditInput) -> EditOutcome:
    """Decides "was it edited?" by `EDITED_FROM` and `POSSIBLY_EDITED_FROM`.

    Ratios are multiplied within a technique, and the most suspicious technique decides: that nobody saw a splice takes
    nothing away from a copy-move.
    """
    by_technique = _by_technique(known.findings)
    totals = [_total([finding.log10_likelihood_ratio for finding in findings]) for findings in by_technique.values()]
    ratio = max(totals, default=0.0)
    suspicious = [finding for finding in known.findings if finding.log10_likelihood_ratio > 0]
    if ratio >= EDITED_FROM:
        decision = EditDecision.EDITED
    elif ratio >= POSSIBLY_EDITED_FROM:
        decision = EditDecision.POSSIBLY_EDITED
    else:
        decision = EditDecision.NO_EDIT_FOUND
    return EditOutcome(
        decision=decision,
        log10_likelihood_ratio=ratio,
        probability=posterior(ratio, known.prior),
        grade=grade_of(ratio),
        explanation=_explain_edited(known, decision, suspicious),
        techniques=_techniques(by_technique, known.prior),
        evidence_for=tuple(finding.detector for finding in suspicious),
        evidence_against=tuple(finding.detector for finding in known.findings if finding.log10_likelihood_ratio < 0),
    )


def _total(terms: Sequence[float]) -> float:
    # Sorted, so that not even rounding depends on the order of evidence.
    return sum(sorted(terms))


def _evidence_terms(evidence: Sequence[EvidenceItem]) -> list[float]:
    """What the evidence contributes: of each source the strongest piece only, in either direction.

    Pieces of one source are one observation told several times: four hints in the metadata are no four witnesses, and
    whoever pastes one tag into a file can paste twenty. What speaks for a picture without a trusted signature counts
    once in all, whatever the source, so that no number of tags outweighs a detector.
    """
    strongest: dict[tuple[Direction, str], float] = {}
    for item in evidence:
        is_forgeable = item.direction is Direction.AUTHENTIC and item.strength is not Strength.CONCLUSIVE
        key = (item.direction, "forgeable" if is_forgeable else item.source)
        term = EVIDENCE_LOG10.get((item.direction, item.strength), 0.0)
        strongest[key] = max(strongest.get(key, 0.0), term, key=abs)
    return list(strongest.values())


def _strongest(evidence: Sequence[EvidenceItem], direction: Direction) -> Strength | None:
    strengths = {item.strength for item in evidence if item.direction is direction}
    return max(strengths, key=STRENGTH_ORDER.index, default=None)


def _by_score(rule: _ByScore, score: float) -> Decision:
    if rule in {_ByScore.BY_SCORE_AGAINST_SIGNATURE, _ByScore.BY_SCORE_AGAINST_SIGNATURE_AT_LEAST_REVIEW}:
        decision = Decision.AUTHENTIC_BUT_REVIEW if score >= SCORE_HIGH else Decision.MOSTLY_AUTHENTIC
    elif score >= SCORE_HIGH:
        decision = Decision.SUSPICIOUS_AI_LIKELY
    elif score <= SCORE_LOW:
        decision = Decision.MOSTLY_AUTHENTIC
    else:
        decision = Decision.AUTHENTIC_BUT_REVIEW
    if rule in {_ByScore.BY_SCORE_AT_LEAST_REVIEW, _ByScore.BY_SCORE_AGAINST_SIGNATURE_AT_LEAST_REVIEW}:
        decision = max(decision, Decision.AUTHENTIC_BUT_REVIEW)
    return decision


def _by_technique(findings: Sequence[ScoredFinding]) -> dict[Technique, list[ScoredFinding]]:
    grouped: dict[Technique, list[ScoredFinding]] = {}
    for finding in findings:
        grouped.setdefault(finding.technique or Technique.OTHER, []).append(finding)
    return grouped


def _techniques(
    by_technique: Mapping[Technique, Sequence[ScoredFinding]], prior: float
) -> tuple[TechniqueSuspicion, ...]:
    """The techniques that more speaks for than against, likeliest first."""
    suspicions = []
    for technique, findings in by_technique.items():
        ratio = _total([finding.log10_likelihood_ratio for finding in findings])
        accusing = tuple(sorted(finding.detector for finding in findings if finding.log10_likelihood_ratio > 0))
        if ratio > 0:
            suspicions.append(TechniqueSuspicion(technique, posterior(ratio, prior), accusing))
    return tuple(sorted(suspicions, key=lambda suspicion: (-suspicion.probability, suspicion.technique.value)))


def _explain_generated(known: GeneratedInput, rule: Decision | _ByScore, decision: Decision, score: float) -> str:
    sentences = []
    pieces = sorted(
        (item for item in known.evidence if item.direction is not Direction.INDETERMINATE),
        key=lambda item: (-STRENGTH_ORDER.index(item.strength), item.finding),
    )
    if isinstance(rule, Decision) and pieces:
        sentences.append(f"{pieces[0].strength.value.capitalize()} evidence decided: {pieces[0].finding.rstrip('.')}.")
        if decision is Decision.AUTHENTIC_BUT_REVIEW:
            sentences.append("It is contradicted by a trusted capture signature.")
    elif known.findings:
        names = ", ".join(sorted(finding.title for finding in known.findings))
        sentences.append(f"The detectors together score {score:.2f} (0.5 says nothing either way): {names}.")
    else:
        sentences.append("No detector of generated pictures has looked at this picture.")
    if known.missing:
        sentences.append(f"Could not be asked: {', '.join(sorted(set(known.missing)))}; that never clears a picture.")
    if decision is Decision.MOSTLY_AUTHENTIC:
        sentences.append("Finding nothing is not a proof of authenticity.")
    return " ".join(sentences)


def _explain_edited(known: EditInput, decision: EditDecision, suspicious: Sequence[ScoredFinding]) -> str:
    sentences = []
    if decision is EditDecision.NO_EDIT_FOUND:
        if known.findings:
            names = ", ".join(sorted(finding.title for finding in known.findings))
            sentences.append(f"No edit was found by: {names}. That is not a proof of authenticity.")
        else:
            sentences.append("No detector of edits could look at this picture.")
    else:
        strongest = max(suspicious, key=lambda finding: (finding.log10_likelihood_ratio, finding.detector))
        sentences.append(f"{strongest.title}: {strongest.explanation}")
    if known.missing:
        sentences.append(f"Could not be asked: {', '.join(sorted(set(known.missing)))}.")
    return " ".join(sentences)
