"""The decision policy: two total, monotone tables, written as data. docs/policy.md draws them.

Two questions, never mixed. *Was it generated?* is decided from discrete evidence first (what the file itself says,
signed or not) and from the detectors' likelihood ratios second. *Was it edited?* likewise; where the file says nothing,
the likelihood ratios alone.

What holds for every input, and is tested as such: more evidence for "generated" or "edited" never lowers a decision,
more evidence against never raises it, the order of evidence does not matter, whatever could not be asked keeps "was it
generated?" from going below AUTHENTIC_BUT_REVIEW, and a stricter preset never accuses where a milder one does not.

Likelihood ratios of different detectors are multiplied: as if they were independent given the truth where they come
from stated tables, with fitted weights and within fitted bounds where a calibration knows them
(`services.common.calibration`).

References: ENFSI Guideline for Evaluative Reporting in Forensic Science (2015) for the verbal scale; Aitken & Taroni,
Statistics and the Evaluation of Evidence for Forensic Scientists (2004), for likelihood ratio and prior.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Generic, TypeVar

from services.common.calibration import Fusion
from services.common.detection import Direction, Strength, Technique

__all__ = [
    "POLICY_VERSION",
    "PRESETS",
    "Contribution",
    "Decision",
    "EditDecision",
    "EditInput",
    "EvidenceItem",
    "GeneratedInput",
    "Grade",
    "InvalidPolicy",
    "Outcome",
    "Policy",
    "Preset",
    "ScoredFinding",
    "TechniqueSuspicion",
    "Thresholds",
    "decide_edited",
    "decide_generated",
    "even_odds_score",
    "grade_of",
    "posterior",
]

POLICY_VERSION: Final = "2026.2"
"""Raised whenever the same findings may be decided in another way."""


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


# ---- thresholds, presets, policies ----


class InvalidPolicy(ValueError):
    """A policy that cannot be: a threshold, prior or weight out of its range, or two thresholds in the wrong order."""

    def __init__(self, field_name: str, message: str) -> None:
        super().__init__(message)
        self.field = field_name


class Preset(enum.Enum):
    """How readily a deployment or a request accuses."""

    CONSERVATIVE = "conservative"
    BALANCED = "balanced"
    SENSITIVE = "sensitive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """From where on the tables decide.

    Attributes:
        generated_high: score (0.5-1) at or above which the detectors alone make a picture suspicious.
        generated_low: score (0-0.5) at or below which they alone clear it, if all of them answered.
        edited: log10 likelihood ratio from which a picture counts as edited.
        possibly_edited: from which it counts as possibly edited.
    """

    generated_high: float
    generated_low: float
    edited: float
    possibly_edited: float

    def __post_init__(self) -> None:
        if not 0.0 < self.generated_low < 0.5:
            raise InvalidPolicy("generated_low", "generated_low must lie between 0 and 0.5.")
        if not 0.5 < self.generated_high < 1.0:
            raise InvalidPolicy("generated_high", "generated_high must lie between 0.5 and 1.")
        if not 0.0 < self.possibly_edited < self.edited:
            raise InvalidPolicy("possibly_edited", "possibly_edited must lie between 0 and edited.")
        if not self.edited <= MAX_EDITED:
            raise InvalidPolicy("edited", f"edited must be at most {MAX_EDITED:g}.")


MAX_EDITED: Final = 6.0
"""A ratio of a million: nothing that is measured on thousands of pictures ever reaches more."""

PRESETS: Final[Mapping[Preset, Thresholds]] = {
    # Likelihood ratio 99 against a picture: for decisions that cost somebody something without a person looking first.
    Preset.CONSERVATIVE: Thresholds(generated_high=0.99, generated_low=0.35, edited=2.0, possibly_edited=1.0),
    # 9 and 20: at most 2 of 100 honest pictures are accused (docs/policy.md says how that was measured).
    Preset.BALANCED: Thresholds(generated_high=0.90, generated_low=0.35, edited=1.3, possibly_edited=0.5),
    # 3 and 5: for sorting what a person looks at anyway. Clears from 1/4 on only.
    Preset.SENSITIVE: Thresholds(generated_high=0.75, generated_low=0.20, edited=0.7, possibly_edited=0.3),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a deployment or a request may choose; the tables themselves are the same for all.

    Attributes:
        preset: where the thresholds come from, unless they were replaced.
        thresholds: as used.
        prior_generated, prior_edited: assumed share (0-1, exclusive) of such pictures among those that are sent. They
            move probabilities, never a decision.
        weights: by detector, 0 (not counted) to 1; 1 where none is given.
    """

    preset: Preset = Preset.BALANCED
    thresholds: Thresholds = PRESETS[Preset.BALANCED]
    prior_generated: float = 0.1
    prior_edited: float = 0.1
    weights: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        for name in ("prior_generated", "prior_edited"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise InvalidPolicy(name, f"{name} must lie between 0 and 1.")
        for detector, weight in self.weights.items():
            if not 0.0 <= weight <= 1.0:
                raise InvalidPolicy("weights", f"The weight of {detector} must lie in 0 to 1.")

    def with_preset(self, preset: Preset) -> Policy:
        """The same with another preset and its thresholds."""
        return dataclasses.replace(self, preset=preset, thresholds=PRESETS[preset])

    def weight_of(self, detector: str) -> float:
        """The weight that this detector is counted with."""
        return self.weights.get(detector, 1.0)


# ---- the tables ----


class _ByScore(enum.Enum):
    """Rows of the tables in which the likelihood ratio decides."""

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

EDIT_TABLE: Final[Mapping[tuple[Strength | None, bool], EditDecision | _ByScore]] = {
    # (strongest evidence for "edited", conclusive evidence against) -> decision
    (Strength.CONCLUSIVE, True): EditDecision.POSSIBLY_EDITED,  # they contradict
    (Strength.CONCLUSIVE, False): EditDecision.EDITED,
    # An editor's own trace says that a program saved the file; it does not say that it falsified anything.
    (Strength.STRONG, True): _ByScore.BY_SCORE_AGAINST_SIGNATURE_AT_LEAST_REVIEW,
    (Strength.STRONG, False): _ByScore.BY_SCORE_AT_LEAST_REVIEW,
    (Strength.MODERATE, True): _ByScore.BY_SCORE_AGAINST_SIGNATURE,
    (Strength.MODERATE, False): _ByScore.BY_SCORE,
    (Strength.WEAK, True): _ByScore.BY_SCORE_AGAINST_SIGNATURE,
    (Strength.WEAK, False): _ByScore.BY_SCORE,
    (None, True): _ByScore.BY_SCORE_AGAINST_SIGNATURE,
    (None, False): _ByScore.BY_SCORE,
}

STRENGTH_ORDER: Final = (Strength.WEAK, Strength.MODERATE, Strength.STRONG, Strength.CONCLUSIVE)

EVIDENCE_LOG10: Final[Mapping[tuple[Direction, Strength], float]] = {
    **{
        (direction, strength): log10
        for direction in (Direction.AI_GENERATED, Direction.EDITED)
        for strength, log10 in zip(STRENGTH_ORDER, (0.3, 1.0, 3.0, 6.0), strict=True)
    },
    # Metadata can be pasted into any file: what favours a picture weighs as "weak", whatever it is called,
    # unless a trusted signature vouches for it.
    (Direction.AUTHENTIC, Strength.WEAK): -0.3,
    (Direction.AUTHENTIC, Strength.MODERATE): -0.3,
    (Direction.AUTHENTIC, Strength.STRONG): -0.3,
    (Direction.AUTHENTIC, Strength.CONCLUSIVE): -3.0,
}
"""What a piece of evidence contributes to log10 of the likelihood ratio: the middle of its grade, by convention."""


# ---- what goes in, what comes out ----


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

    `log10_likelihood_ratio` is of "false" against "honest" under the question that the finding speaks to; `calibrated`
    says whether it comes from the calibration whose fusion is given beside it.
    """

    detector: str
    title: str
    log10_likelihood_ratio: float
    technique: Technique | None = None
    explanation: str = ""
    calibrated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    evidence: Sequence[EvidenceItem] = ()
    findings: Sequence[ScoredFinding] = ()
    missing: Sequence[str] = ()
    fusion: Fusion | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedInput(_Known):
    """All that is known on "was it generated?": evidence, findings, what could not be asked, and the fitted fusion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EditInput(_Known):
    """All that is known on "was it edited?"; the fields are those of `GeneratedInput`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What one detector, or one source of evidence, added.

    Attributes:
        name: of the detector, or where the evidence was read.
        title: what a person calls it.
        log10: as counted, after the weight.
        weight: 0-1.
        calibrated: whether the ratio comes from the calibration.
        technique: what it saw; None for evidence, and where it does not tell.
        decisive: whether the decision would be another one without it.
    """

    name: str
    title: str
    log10: float
    weight: float = 1.0
    calibrated: bool = False
    technique: Technique | None = None
    decisive: bool = False


@dataclass(frozen=True, slots=True)
class TechniqueSuspicion:
    """How much a technique is suspected: probability (0-1) under the prior, and who says so."""

    technique: Technique
    probability: float
    detectors: tuple[str, ...]


D = TypeVar("D", Decision, EditDecision)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[D]):
    """The answer to a question.

    Attributes:
        decision: of the table.
        log10_likelihood_ratio: of all evidence and findings together.
        calibrated: whether all of it that is not 0 comes from the calibration.
        score: the ratio as a number in 0-1, at even odds: LR / (1 + LR).
        probability: under the prior, 0-1.
        grade: the ratio in words.
        explanation: what decided, for a person, who can repeat it.
        contributions: what the ratio is made of, the largest in size first.
        miss_rate: share (0-1) of false pictures that pass the same tests, as measured; None if that is not known.
        techniques: what is suspected, likeliest first; of edits only.
    """

    decision: D
    log10_likelihood_ratio: float
    calibrated: bool
    score: float
    probability: float
    grade: Grade
    explanation: str
    contributions: tuple[Contribution, ...]
    miss_rate: float | None
    techniques: tuple[TechniqueSuspicion, ...] = ()

    @property
    def evidence_for(self) -> tuple[str, ...]:
        """Names of the detectors and sources that speak for yes."""
        return tuple(dict.fromkeys(item.name for item in self.contributions if item.log10 > 0))

    @property
    def evidence_against(self) -> tuple[str, ...]:
        """Names of the detectors and sources that speak against."""
        return tuple(dict.fromkeys(item.name for item in self.contributions if item.log10 < 0))


# ---- ratios ----


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


def _ratio_of(score: float) -> float:
    """log10 likelihood ratio of a score at even odds."""
    return math.log10(score / (1.0 - score))


# ---- was it generated? ----


def decide_generated(known: GeneratedInput, policy: Policy) -> Outcome[Decision]:
    """Decides "was it generated?" by `TABLE`."""
    decision, ratio = _judge_generated(known, policy)
    contributions = _contributions(
        known, policy, Direction.AI_GENERATED, lambda less: _judge_generated(less, policy)[0]
    )
    miss_rate = _miss_rate(known, policy, _ratio_of(policy.thresholds.generated_high))
    return Outcome(
        decision=decision,
        log10_likelihood_ratio=ratio,
        calibrated=_is_calibrated(contributions),
        score=even_odds_score(ratio),
        probability=posterior(ratio, policy.prior_generated),
        grade=grade_of(ratio),
        explanation=_explain_generated(
            known, policy, decision=decision, ratio=ratio, contributions=contributions, miss_rate=miss_rate
        ),
        contributions=contributions,
        miss_rate=miss_rate,
    )


def _judge_generated(known: _Known, policy: Policy) -> tuple[Decision, float]:
    ratio = _sum(
        [
            *_evidence_terms(known.evidence, Direction.AI_GENERATED).values(),
            _combined(known.findings, known.fusion, policy),
        ]
    )
    rule = TABLE[_strongest(known.evidence, Direction.AI_GENERATED), _is_signed(known.evidence)]
    decision = rule if isinstance(rule, Decision) else _generated_by_score(rule, even_odds_score(ratio), policy)
    if known.missing:
        decision = max(decision, Decision.AUTHENTIC_BUT_REVIEW)
    return decision, ratio


def _generated_by_score(rule: _ByScore, score: float, policy: Policy) -> Decision:
    thresholds = policy.thresholds
    if rule in {_ByScore.BY_SCORE_AGAINST_SIGNATURE, _ByScore.BY_SCORE_AGAINST_SIGNATURE_AT_LEAST_REVIEW}:
        is_high = score >= thresholds.generated_high
        decision = Decision.AUTHENTIC_BUT_REVIEW if is_high else Decision.MOSTLY_AUTHENTIC
    elif score >= thresholds.generated_high:
        decision = Decision.SUSPICIOUS_AI_LIKELY
    elif score <= thresholds.generated_low:
        decision = Decision.MOSTLY_AUTHENTIC
    else:
        decision = Decision.AUTHENTIC_BUT_REVIEW
    if rule in {_ByScore.BY_SCORE_AT_LEAST_REVIEW, _ByScore.BY_SCORE_AGAINST_SIGNATURE_AT_LEAST_REVIEW}:
        decision = max(decision, Decision.AUTHENTIC_BUT_REVIEW)
    return decision


# ---- was it edited? ----


def decide_edited(known: EditInput, policy: Policy) -> Outcome[EditDecision]:
    """Decides "was it edited?" by `EDIT_TABLE`.

    Ratios are multiplied within a technique, and the most suspicious technique decides: that nobody saw a splice takes
    nothing away from a copy-move. Where no technique is suspected, the silence that says most counts, once: the
    silences of several detectors are not added up, for each of them looked for something else.
    """
    decision, ratio = _judge_edited(known, policy)
    contributions = _contributions(known, policy, Direction.EDITED, lambda less: _judge_edited(less, policy)[0])
    miss_rate = _miss_rate(known, policy, policy.thresholds.possibly_edited)
    return Outcome(
        decision=decision,
        log10_likelihood_ratio=ratio,
        calibrated=_is_calibrated(contributions),
        score=even_odds_score(ratio),
        probability=posterior(ratio, policy.prior_edited),
        grade=grade_of(ratio),
        explanation=_explain_edited(
            known, policy, decision=decision, ratio=ratio, contributions=contributions, miss_rate=miss_rate
        ),
        contributions=contributions,
        miss_rate=miss_rate,
        techniques=_techniques(known, policy),
    )


def _judge_edited(known: _Known, policy: Policy) -> tuple[EditDecision, float]:
    silent = [finding for finding in known.findings if _is_silent(finding)]
    totals = [_combined(found, known.fusion, policy) for found in _by_technique(known.findings).values()]
    totals += [_combined([finding], known.fusion, policy) for finding in silent]
    worst = max(totals, default=0.0)
    ratio = worst if worst > 0 else min(totals, default=0.0)
    ratio = _sum([ratio, *_evidence_terms(known.evidence, Direction.EDITED).values()])
    rule = EDIT_TABLE[_strongest(known.evidence, Direction.EDITED), _is_signed(known.evidence)]
    if isinstance(rule, EditDecision):
        return rule, ratio
    if ratio >= policy.thresholds.edited:
        decision = EditDecision.EDITED
    elif ratio >= policy.thresholds.possibly_edited:
        decision = EditDecision.POSSIBLY_EDITED
    else:
        decision = EditDecision.NO_EDIT_FOUND
    if rule in {_ByScore.BY_SCORE_AGAINST_SIGNATURE, _ByScore.BY_SCORE_AGAINST_SIGNATURE_AT_LEAST_REVIEW}:
        decision = EditDecision.POSSIBLY_EDITED if decision is EditDecision.EDITED else EditDecision.NO_EDIT_FOUND
    if rule in {_ByScore.BY_SCORE_AT_LEAST_REVIEW, _ByScore.BY_SCORE_AGAINST_SIGNATURE_AT_LEAST_REVIEW}:
        decision = max(decision, EditDecision.POSSIBLY_EDITED)
    return decision, ratio


def _is_silent(finding: ScoredFinding) -> bool:
    """Whether a detector saw nothing, and so names no technique: that speaks against none but its own."""
    return finding.technique is None and finding.log10_likelihood_ratio <= 0


def _by_technique(findings: Sequence[ScoredFinding]) -> dict[Technique, list[ScoredFinding]]:
    grouped: dict[Technique, list[ScoredFinding]] = {}
    for finding in findings:
        if _is_silent(finding):
            continue
        grouped.setdefault(finding.technique or Technique.OTHER, []).append(finding)
    return grouped


def _techniques(known: _Known, policy: Policy) -> tuple[TechniqueSuspicion, ...]:
    """The techniques that more speaks for than against, likeliest first."""
    suspicions = []
    for technique, findings in _by_technique(known.findings).items():
        ratio = _combined(findings, known.fusion, policy)
        accusing = tuple(sorted(finding.detector for finding in findings if finding.log10_likelihood_ratio > 0))
        if ratio > 0:
            suspicions.append(TechniqueSuspicion(technique, posterior(ratio, policy.prior_edited), accusing))
    return tuple(sorted(suspicions, key=lambda suspicion: (-suspicion.probability, suspicion.technique.value)))


# ---- what both have in common ----


def _sum(terms: Iterable[float]) -> float:
    # Exact, so that not even rounding depends on the order of evidence.
    return math.fsum(terms)


def _counted(finding: ScoredFinding, fusion: Fusion | None, policy: Policy) -> tuple[float, float]:
    """What a finding adds, and with which weight: the policy's, times the fitted one where it is calibrated."""
    weight = policy.weight_of(finding.detector)
    if finding.calibrated and fusion is not None:
        weight *= fusion.weights.get(finding.detector, 1.0)
    return weight * finding.log10_likelihood_ratio, weight


def _combined(findings: Sequence[ScoredFinding], fusion: Fusion | None, policy: Policy) -> float:
    """log10 ratio of several findings together: what is calibrated within its fitted bounds, plus what is stated."""
    calibrated = _sum(_counted(finding, fusion, policy)[0] for finding in findings if finding.calibrated)
    stated = _sum(_counted(finding, fusion, policy)[0] for finding in findings if not finding.calibrated)
    if fusion is not None:
        low, high = fusion.bounds
        calibrated = min(high, max(low, calibrated))
    return calibrated + stated


def _evidence_terms(evidence: Sequence[EvidenceItem], accusing: Direction) -> dict[tuple[Direction, str], float]:
    """What the evidence contributes: of each source the strongest piece only, in either direction.

    Evidence that accuses of something else than `accusing` contributes nothing.

    Pieces of one source are one observation told several times: four hints in the metadata are no four witnesses, and
    whoever pastes one tag into a file can paste twenty. What speaks for a picture without a trusted signature counts
    once in all, whatever the source, so that no number of tags outweighs a detector.
    """
    strongest: dict[tuple[Direction, str], float] = {}
    for item in evidence:
        if item.direction not in {accusing, Direction.AUTHENTIC}:
            continue
        key = _evidence_key(item)
        term = EVIDENCE_LOG10.get((item.direction, item.strength), 0.0)
        strongest[key] = max(strongest.get(key, 0.0), term, key=abs)
    return strongest


FORGEABLE: Final = "unsigned metadata"
"""What the one source is called that all evidence in favour of a picture without a trusted signature counts as."""


def _evidence_key(item: EvidenceItem) -> tuple[Direction, str]:
    is_forgeable = item.direction is Direction.AUTHENTIC and item.strength is not Strength.CONCLUSIVE
    return item.direction, FORGEABLE if is_forgeable else item.source


def _strongest(evidence: Sequence[EvidenceItem], direction: Direction) -> Strength | None:
    strengths = {item.strength for item in evidence if item.direction is direction}
    return max(strengths, key=STRENGTH_ORDER.index, default=None)


def _is_signed(evidence: Sequence[EvidenceItem]) -> bool:
    return _strongest(evidence, Direction.AUTHENTIC) is Strength.CONCLUSIVE


K = TypeVar("K", bound=_Known)


def _contributions(
    known: K, policy: Policy, accusing: Direction, judge: Callable[[K], enum.IntEnum]
) -> tuple[Contribution, ...]:
    """What each finding and each source of evidence added, and whether the decision rests on it."""
    decision = judge(known)
    found: list[Contribution] = []
    for index, finding in enumerate(known.findings):
        log10, weight = _counted(finding, known.fusion, policy)
        others = [*known.findings[:index], *known.findings[index + 1 :]]
        found.append(
            Contribution(
                name=finding.detector,
                title=finding.title,
                log10=log10,
                weight=weight,
                calibrated=finding.calibrated,
                technique=finding.technique,
                decisive=bool(log10) and judge(dataclasses.replace(known, findings=others)) is not decision,
            )
        )
    for key, term in _evidence_terms(known.evidence, accusing).items():
        pieces = [item for item in known.evidence if _evidence_key(item) == key]
        others_of = [item for item in known.evidence if _evidence_key(item) != key]
        strongest = max(pieces, key=lambda item: (STRENGTH_ORDER.index(item.strength), item.finding))
        if term:
            found.append(
                Contribution(
                    name=key[1] or "evidence",
                    title=strongest.finding or key[1],
                    log10=term,
                    decisive=judge(dataclasses.replace(known, evidence=others_of)) is not decision,
                )
            )
    return tuple(sorted(found, key=lambda item: (-abs(item.log10), item.name, item.title)))


def _is_calibrated(contributions: Sequence[Contribution]) -> bool:
    counted = [item for item in contributions if item.log10]
    return bool(counted) and all(item.calibrated for item in counted)


def _miss_rate(known: _Known, policy: Policy, threshold: float) -> float | None:
    """Share of false pictures below the threshold in the same tests; None where other tests were made than measured.

    The measured tests are those of all calibrated detectors with the fitted weights. A detector that had nothing to
    look at is part of that measurement; one that could not be asked is not.
    """
    if known.fusion is None:
        return None
    measured = known.fusion.weights
    if any(name in known.missing or policy.weight_of(name) != 1.0 for name in measured):
        return None
    if not any(finding.calibrated for finding in known.findings):
        return None
    return known.fusion.miss_rate(threshold)


# ---- explanations ----


def _explain_generated(
    known: GeneratedInput,
    policy: Policy,
    *,
    decision: Decision,
    ratio: float,
    contributions: Sequence[Contribution],
    miss_rate: float | None,
) -> str:
    sentences = []
    rule = TABLE[_strongest(known.evidence, Direction.AI_GENERATED), _is_signed(known.evidence)]
    pieces = sorted(
        (item for item in known.evidence if item.direction is Direction.AI_GENERATED),
        key=lambda item: (-STRENGTH_ORDER.index(item.strength), item.finding),
    )
    if isinstance(rule, Decision) and pieces:
        sentences.append(f"{pieces[0].strength.value.capitalize()} evidence decided: {pieces[0].finding.rstrip('.')}.")
        if decision is Decision.AUTHENTIC_BUT_REVIEW:
            sentences.append("It is contradicted by a trusted capture signature.")
    elif known.findings or any(item.log10 for item in contributions):
        score = even_odds_score(ratio)
        sentences.append(f"Together the score is {score:.2f} (0.5 says nothing either way): {_listed(contributions)}.")
        sentences.append(_generated_rule(rule, decision, score, policy, pieces))
    else:
        sentences.append("No detector of generated pictures has looked at this picture.")
    if known.missing:
        sentences.append(f"Could not be asked: {', '.join(sorted(set(known.missing)))}; that never clears a picture.")
    if decision <= Decision.AUTHENTIC_BUT_REVIEW and miss_rate is not None and known.fusion is not None:
        sentences.append(_passing(miss_rate, known.fusion, "generated"))
    if decision is Decision.MOSTLY_AUTHENTIC:
        sentences.append("Finding nothing is not a proof of authenticity.")
    return " ".join(sentence for sentence in sentences if sentence)


def _generated_rule(
    rule: Decision | _ByScore, decision: Decision, score: float, policy: Policy, pieces: Sequence[EvidenceItem]
) -> str:
    """The row of the table that decided, with its threshold."""
    high, low = policy.thresholds.generated_high, policy.thresholds.generated_low
    chosen = f"({policy.preset.value})"
    if rule in {_ByScore.BY_SCORE_AGAINST_SIGNATURE, _ByScore.BY_SCORE_AGAINST_SIGNATURE_AT_LEAST_REVIEW}:
        return "A trusted capture signature vouches for the picture: no score alone makes it suspicious."
    if score >= high:
        return f"From {high:g} on {chosen} a picture is suspicious."
    if score > low:
        return f"Between {low:g} and {high:g} {chosen} a person should look."
    if decision is Decision.AUTHENTIC_BUT_REVIEW and pieces and pieces[0].strength is Strength.MODERATE:
        return f"{pieces[0].finding.rstrip('.')}: moderate evidence, at which a person should look whatever the score."
    return f"Up to {low:g} {chosen} nothing speaks against the picture."


def _explain_edited(
    known: EditInput,
    policy: Policy,
    *,
    decision: EditDecision,
    ratio: float,
    contributions: Sequence[Contribution],
    miss_rate: float | None,
) -> str:
    sentences = []
    if decision is EditDecision.NO_EDIT_FOUND:
        speaking = [item for item in contributions if item.log10 > 0]
        if speaking:
            bound = _times(policy.thresholds.possibly_edited)
            sentences.append(
                f"Too little to count as an edit: {_listed(speaking)}; from {bound} on ({policy.preset.value}) a "
                "picture counts as possibly edited. That is not a proof of authenticity."
            )
        elif known.findings:
            names = ", ".join(sorted(finding.title for finding in known.findings))
            sentences.append(f"No edit was found by: {names}. That is not a proof of authenticity.")
        else:
            sentences.append("No detector of edits could look at this picture.")
    else:
        sentences.append(_accusation(known, policy, decision, ratio, contributions))
    if known.missing:
        sentences.append(f"Could not be asked: {', '.join(sorted(set(known.missing)))}.")
    if decision is EditDecision.NO_EDIT_FOUND and miss_rate is not None and known.fusion is not None:
        sentences.append(_passing(miss_rate, known.fusion, "edited"))
    return " ".join(sentences)


def _accusation(
    known: EditInput, policy: Policy, decision: EditDecision, ratio: float, contributions: Sequence[Contribution]
) -> str:
    pieces = [item for item in known.evidence if item.direction is Direction.EDITED]
    accusing = [finding for finding in known.findings if _counted(finding, known.fusion, policy)[0] > 0]
    rule = EDIT_TABLE[_strongest(known.evidence, Direction.EDITED), _is_signed(known.evidence)]
    if pieces and (isinstance(rule, EditDecision) or not accusing):
        first = max(pieces, key=lambda item: (STRENGTH_ORDER.index(item.strength), item.finding))
        contradicted = " It is contradicted by a trusted capture signature." if _is_signed(known.evidence) else ""
        return f"{first.strength.value.capitalize()} evidence: {first.finding.rstrip('.')}.{contradicted}"
    strongest = max(
        accusing, key=lambda finding: (_counted(finding, known.fusion, policy)[0], finding.detector), default=None
    )
    if strongest is None:  # evidence in favour alone never accuses, so some finding or piece does
        return f"Together: {_listed(contributions)}."
    bound = policy.thresholds.edited if decision is EditDecision.EDITED else policy.thresholds.possibly_edited
    name = "edited" if decision is EditDecision.EDITED else "possibly edited"
    speaking = [item for item in contributions if item.log10 > 0]
    # The whole ratio, which bounds may have made smaller than what one detector claims.
    if len(speaking) == 1:
        worth = f"The likelihood ratio is {_times(ratio)}, {'calibrated' if speaking[0].calibrated else 'stated'}"
    else:
        worth = f"{_listed(speaking)}; the likelihood ratio of the most suspicious technique is {_times(ratio)}"
    return (
        f"{strongest.title}: {strongest.explanation} {worth}; "
        f"from {_times(bound)} on ({policy.preset.value}) a picture counts as {name}."
    )


def _listed(contributions: Sequence[Contribution]) -> str:
    """Who says how much: "Copy-move (likelihood ratio 25, stated); nothing said by JPEG grid"."""
    counted = [item for item in contributions if item.log10]
    silent = [item.title for item in contributions if not item.log10]
    words = [f"{item.title.rstrip('.')} (likelihood ratio {_worth(item)})" for item in counted]
    if silent:
        words.append(f"nothing said by {', '.join(sorted(silent))}")
    return "; ".join(words)


def _worth(item: Contribution) -> str:
    """For example `25, stated` or `40, calibrated, weight 0.8`."""
    weight = f", weight {item.weight:.2g}" if item.weight != 1.0 else ""
    return f"{_times(item.log10)}, {'calibrated' if item.calibrated else 'stated'}{weight}"


def _times(log10: float) -> str:
    """A likelihood ratio as people write it: 25, 0.5, 1/8."""
    ratio = math.pow(10.0, min(15.0, abs(log10)))
    text = f"{ratio:,.0f}" if ratio >= 9.5 else f"{ratio:.1f}".removesuffix(".0")
    return text if log10 >= 0 else f"1/{text}"


def _passing(miss_rate: float, fusion: Fusion, what: str) -> str:
    """How many false pictures would pass the same tests."""
    return (
        f"Of the {fusion.false_pictures:,} {what} pictures that these tests were measured on, "
        f"{round(100 * miss_rate)} in 100 pass them as well."
    )
