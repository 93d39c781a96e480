"""The decision table: every row, and the properties that hold for every input."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.detection import Direction, Strength, Technique
from services.orchestrator.policy import (
    SCORE_HIGH,
    SCORE_LOW,
    TABLE,
    Decision,
    EditDecision,
    EditInput,
    EvidenceItem,
    GeneratedInput,
    Grade,
    ScoredFinding,
    decide_edited,
    decide_generated,
    even_odds_score,
    grade_of,
    posterior,
)

AI, AUTHENTIC = Direction.AI_GENERATED, Direction.AUTHENTIC
ratios = st.floats(-8, 8, allow_nan=False)
evidence_items = st.builds(
    EvidenceItem, st.sampled_from(list(Direction)), st.sampled_from(list(Strength)), st.just("something")
)
findings = st.builds(
    ScoredFinding,
    st.sampled_from(["a", "b", "c"]),
    st.just("Title"),
    ratios,
    st.sampled_from([None, *Technique]),
)
inputs = st.builds(
    GeneratedInput,
    evidence=st.lists(evidence_items, max_size=4),
    findings=st.lists(findings, max_size=4),
    missing=st.lists(st.sampled_from(["x", "y"]), max_size=2),
    prior=st.floats(0.01, 0.99),
)
edit_inputs = st.builds(EditInput, findings=st.lists(findings, max_size=4), prior=st.floats(0.01, 0.99))


def finding(ratio: float) -> ScoredFinding:
    return ScoredFinding("detector", "Detector", ratio)


def decide(*evidence: EvidenceItem, ratio: float | None = None, missing: tuple[str, ...] = ()) -> Decision:
    found = () if ratio is None else (finding(ratio),)
    return decide_generated(GeneratedInput(evidence=evidence, findings=found, missing=missing, prior=0.1)).decision


def replace(known: GeneratedInput, **changes) -> GeneratedInput:
    fields = {name: getattr(known, name) for name in ("evidence", "findings", "missing", "prior")}
    return GeneratedInput(**{**fields, **changes})


def test_the_table_is_total():
    assert set(TABLE) == set(itertools.product([None, *Strength], [True, False]))


@pytest.mark.parametrize(
    ("evidence", "ratio", "missing", "expected"),
    [
        # AI conclusive: confirmed, unless a trusted signature contradicts.
        ([(AI, Strength.CONCLUSIVE)], None, (), Decision.CONFIRMED_AI_GENERATED),
        ([(AI, Strength.CONCLUSIVE), (AUTHENTIC, Strength.CONCLUSIVE)], None, (), Decision.AUTHENTIC_BUT_REVIEW),
        ([(AI, Strength.CONCLUSIVE), (AUTHENTIC, Strength.STRONG)], -5, (), Decision.CONFIRMED_AI_GENERATED),
        # AI strong: suspicious, whatever the detectors say.
        ([(AI, Strength.STRONG)], -5, (), Decision.SUSPICIOUS_AI_LIKELY),
        ([(AI, Strength.STRONG), (AUTHENTIC, Strength.CONCLUSIVE)], 5, (), Decision.AUTHENTIC_BUT_REVIEW),
        # Moderate AI evidence is at least review.
        ([(AI, Strength.MODERATE)], -5, (), Decision.AUTHENTIC_BUT_REVIEW),
        ([(AI, Strength.MODERATE)], 3, (), Decision.SUSPICIOUS_AI_LIKELY),
        ([(AI, Strength.MODERATE), (AUTHENTIC, Strength.CONCLUSIVE)], -5, (), Decision.AUTHENTIC_BUT_REVIEW),
        # Otherwise the score decides.
        ([], 3, (), Decision.SUSPICIOUS_AI_LIKELY),
        ([], 0, (), Decision.AUTHENTIC_BUT_REVIEW),
        ([], -1, (), Decision.MOSTLY_AUTHENTIC),
        ([], -1, ("generated",), Decision.AUTHENTIC_BUT_REVIEW),
        ([], None, (), Decision.AUTHENTIC_BUT_REVIEW),
        ([(AI, Strength.WEAK)], -2, (), Decision.MOSTLY_AUTHENTIC),
        ([(AUTHENTIC, Strength.CONCLUSIVE)], 0, (), Decision.MOSTLY_AUTHENTIC),
        ([(AUTHENTIC, Strength.CONCLUSIVE)], 6, (), Decision.AUTHENTIC_BUT_REVIEW),
        # Metadata can be pasted: it does not outweigh a detector.
        ([(AUTHENTIC, Strength.STRONG)], 3, (), Decision.SUSPICIOUS_AI_LIKELY),
    ],
)
def test_rows_of_the_table(evidence, ratio, missing, expected):
    items = [EvidenceItem(direction, strength, "a finding") for direction, strength in evidence]
    assert decide(*items, ratio=ratio, missing=missing) is expected


def test_the_score_thresholds_are_inclusive():
    assert even_odds_score(0.954243) == pytest.approx(SCORE_HIGH, abs=1e-6)
    assert SCORE_LOW < 0.5 < SCORE_HIGH


@given(inputs, evidence_items)
def test_more_evidence_for_generated_never_lowers(known, item):
    more = replace(known, evidence=[*known.evidence, EvidenceItem(AI, item.strength, item.finding)])
    assert decide_generated(more).decision >= decide_generated(known).decision


@given(inputs, evidence_items)
def test_more_evidence_for_authentic_never_raises(known, item):
    more = replace(known, evidence=[*known.evidence, EvidenceItem(AUTHENTIC, item.strength, item.finding)])
    assert decide_generated(more).decision <= decide_generated(known).decision


@given(inputs, st.floats(0, 8))
def test_a_higher_ratio_never_lowers(known, extra):
    more = replace(known, findings=[*known.findings, finding(extra)])
    less = replace(known, findings=[*known.findings, finding(-extra)])
    assert decide_generated(more).decision >= decide_generated(known).decision >= decide_generated(less).decision


@given(inputs, st.randoms())
def test_the_order_does_not_matter(known, random):
    evidence, found = list(known.evidence), list(known.findings)
    random.shuffle(evidence)
    random.shuffle(found)
    shuffled = decide_generated(replace(known, evidence=evidence, findings=found))
    original = decide_generated(known)
    assert shuffled.decision is original.decision
    assert shuffled.probability == original.probability


@given(inputs)
def test_what_could_not_be_asked_never_clears(known):
    asked, unasked = replace(known, missing=()), replace(known, missing=("generated",))
    assert decide_generated(unasked).decision >= Decision.AUTHENTIC_BUT_REVIEW
    assert decide_generated(unasked).decision >= decide_generated(asked).decision


@given(inputs)
def test_every_decision_is_explained_and_never_called_proof(known):
    outcome = decide_generated(known)
    assert outcome.explanation
    if outcome.decision is Decision.MOSTLY_AUTHENTIC:
        assert "not a proof of authenticity" in outcome.explanation


@given(edit_inputs, st.floats(0, 8))
def test_edit_decision_is_monotone(known, extra):
    more = EditInput(findings=[*known.findings, finding(extra)], prior=known.prior)
    assert decide_edited(more).decision >= decide_edited(known).decision
    assert decide_edited(more).probability >= decide_edited(known).probability


def test_edit_names_the_technique_and_who_says_so():
    copied = ScoredFinding("copy_move", "Copy-move", 2.0, Technique.COPY_MOVE, "A region appears twice.")
    outcome = decide_edited(EditInput(findings=[copied], prior=0.1))
    assert outcome.decision is EditDecision.EDITED
    assert "A region appears twice." in outcome.explanation
    (technique,) = outcome.techniques
    assert (technique.technique, technique.detectors) == (Technique.COPY_MOVE, ("copy_move",))
    assert technique.probability == pytest.approx(0.1 / 0.9 * 100 / (1 + 0.1 / 0.9 * 100))


def test_nothing_found_is_not_called_authentic():
    outcome = decide_edited(EditInput(findings=[finding(-0.2)], prior=0.1))
    assert outcome.decision is EditDecision.NO_EDIT_FOUND
    assert "not a proof of authenticity" in outcome.explanation
    assert decide_edited(EditInput(prior=0.1)).explanation == "No detector of edits could look at this picture."


@pytest.mark.parametrize(
    ("log10", "grade"),
    [(0.0, Grade.NO_SUPPORT), (0.31, Grade.WEAK), (-1.0, Grade.MODERATE), (2.5, Grade.MODERATELY_STRONG),
     (-3.2, Grade.STRONG), (4.0, Grade.VERY_STRONG), (9.0, Grade.EXTREMELY_STRONG)],
)  # fmt: skip
def test_grades_are_those_of_the_guideline(log10, grade):
    assert grade_of(log10) is grade


@pytest.mark.parametrize(
    ("log10", "prior", "probability"), [(0, 0.3, 0.3), (1, 0.5, 10 / 11), (-1, 0.5, 1 / 11), (2, 0.01, 100 / 199)]
)
def test_posterior_by_hand(log10, prior, probability):
    assert posterior(log10, prior) == pytest.approx(probability)


@given(st.floats(-1e6, 1e6), st.floats(1e-9, 1 - 1e-9))
def test_posterior_never_overflows(log10, prior):
    assert 0.0 <= posterior(log10, prior) <= 1.0


def test_pasted_tags_do_not_add_up():
    finding = ScoredFinding("generated", "Generated or not", 1.5)
    one = EvidenceItem(Direction.AUTHENTIC, Strength.WEAK)
    once = decide_generated(GeneratedInput(evidence=[one], findings=[finding], prior=0.1))
    often = decide_generated(GeneratedInput(evidence=[one] * 20, findings=[finding], prior=0.1))
    assert often == once
    assert often.decision is Decision.SUSPICIOUS_AI_LIKELY


def test_hints_of_one_source_count_once():
    hint = EvidenceItem(AI, Strength.WEAK, "a hint", "metadata")
    once = decide_generated(GeneratedInput(evidence=[hint], prior=0.1))
    often = decide_generated(GeneratedInput(evidence=[hint] * 9, prior=0.1))
    assert often.log10_likelihood_ratio == once.log10_likelihood_ratio
    elsewhere = EvidenceItem(AI, Strength.WEAK, "another hint", "watermark")
    both = decide_generated(GeneratedInput(evidence=[hint, elsewhere], prior=0.1))
    assert both.log10_likelihood_ratio == pytest.approx(2 * once.log10_likelihood_ratio)


def test_detectors_that_saw_nothing_take_nothing_away_from_one_that_did():
    copied = ScoredFinding("copy_move", "Copy-move", 1.4, Technique.COPY_MOVE, "A region appears twice.")
    silent = [ScoredFinding(f"other_{index}", "Other", -0.2) for index in range(10)]
    alone, among = (decide_edited(EditInput(findings=found, prior=0.1)) for found in ([copied], [copied, *silent]))
    assert among.decision is alone.decision is EditDecision.EDITED
    assert among.probability == alone.probability == among.techniques[0].probability
