"""The decision tables: every row, and the properties that hold for every input."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.calibration import Fusion
from services.common.detection import Direction, Strength, Technique
from services.orchestrator import policy as rules
from services.orchestrator.policy import (
    EDIT_TABLE,
    PRESETS,
    TABLE,
    Decision,
    EditDecision,
    EditInput,
    EvidenceItem,
    GeneratedInput,
    Grade,
    InvalidPolicy,
    Policy,
    Preset,
    ScoredFinding,
    Thresholds,
    even_odds_score,
    grade_of,
    posterior,
)

AI, AUTHENTIC, EDITED = Direction.AI_GENERATED, Direction.AUTHENTIC, Direction.EDITED
DETECTORS = ("a", "b", "c")
BALANCED = Policy()

ratios = st.floats(-8, 8, allow_nan=False)
evidence_items = st.builds(
    EvidenceItem,
    st.sampled_from(list(Direction)),
    st.sampled_from(list(Strength)),
    st.just("something"),
    st.sampled_from(["", "c2pa", "exif"]),
)
findings = st.builds(
    ScoredFinding,
    st.sampled_from(DETECTORS),
    st.just("Title"),
    ratios,
    st.sampled_from([None, *Technique]),
    calibrated=st.booleans(),
)
fusions = st.none() | st.builds(
    Fusion,
    weights=st.dictionaries(st.sampled_from(DETECTORS), st.floats(0, 1)),
    bounds=st.tuples(st.floats(-3, 0), st.floats(0, 3)),
    positives=st.just(10),
    negatives=st.just(10),
    positive_sources=st.just(10),
    negative_sources=st.just(10),
    cross_validated_cllr=st.just(0.5),
    missed=st.just(((0.0, 0.4), (1.0, 0.9), (2.0, 1.0))),
    false_pictures=st.just(50),
)
known_facts = {
    "evidence": st.lists(evidence_items, max_size=4),
    "findings": st.lists(findings, max_size=4),
    "missing": st.lists(st.sampled_from(["x", "y"]), max_size=2),
    "fusion": fusions,
}
inputs = st.builds(GeneratedInput, **known_facts)
edit_inputs = st.builds(EditInput, **known_facts)


@st.composite
def policies(draw) -> Policy:
    possibly = draw(st.floats(0.1, 2))
    return Policy(
        preset=draw(st.sampled_from(list(Preset))),
        thresholds=Thresholds(
            generated_high=draw(st.floats(0.51, 0.999)),
            generated_low=draw(st.floats(0.001, 0.49)),
            possibly_edited=possibly,
            edited=possibly + draw(st.floats(0.01, 3)),
        ),
        prior_generated=draw(st.floats(0.01, 0.99)),
        prior_edited=draw(st.floats(0.01, 0.99)),
        weights=draw(st.dictionaries(st.sampled_from(DETECTORS), st.floats(0, 1))),
    )


def decide_generated(known, policy=BALANCED):
    return rules.decide_generated(known, policy)


def decide_edited(known, policy=BALANCED):
    return rules.decide_edited(known, policy)


def finding(ratio: float, **facts) -> ScoredFinding:
    return ScoredFinding("detector", "Detector", ratio, **facts)


def decide(*evidence: EvidenceItem, ratio: float | None = None, missing: tuple[str, ...] = ()) -> Decision:
    found = () if ratio is None else (finding(ratio),)
    return decide_generated(GeneratedInput(evidence=evidence, findings=found, missing=missing)).decision


def decide_on_edit(*evidence: EvidenceItem, ratio: float | None = None) -> EditDecision:
    found = () if ratio is None else (finding(ratio),)
    return decide_edited(EditInput(evidence=evidence, findings=found)).decision


replace = dataclasses.replace


# ---- the tables ----


@pytest.mark.parametrize("table", [TABLE, EDIT_TABLE])
def test_the_tables_are_total(table):
    assert set(table) == set(itertools.product([None, *Strength], [True, False]))


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
        # That a picture was edited says nothing on whether it was generated.
        ([(EDITED, Strength.CONCLUSIVE)], -1, (), Decision.MOSTLY_AUTHENTIC),
    ],
)
def test_rows_of_the_table(evidence, ratio, missing, expected):
    items = [EvidenceItem(direction, strength, "a finding") for direction, strength in evidence]
    assert decide(*items, ratio=ratio, missing=missing) is expected


@pytest.mark.parametrize(
    ("evidence", "ratio", "expected"),
    [
        ([(EDITED, Strength.CONCLUSIVE)], None, EditDecision.EDITED),
        ([(EDITED, Strength.CONCLUSIVE), (AUTHENTIC, Strength.CONCLUSIVE)], 5, EditDecision.POSSIBLY_EDITED),
        # A program that saved the file is no forger.
        ([(EDITED, Strength.STRONG)], -5, EditDecision.POSSIBLY_EDITED),
        ([(EDITED, Strength.STRONG)], 3, EditDecision.EDITED),
        ([(EDITED, Strength.STRONG), (AUTHENTIC, Strength.CONCLUSIVE)], 5, EditDecision.POSSIBLY_EDITED),
        ([(EDITED, Strength.WEAK)], None, EditDecision.NO_EDIT_FOUND),
        ([], 1.3, EditDecision.EDITED),
        ([], 0.5, EditDecision.POSSIBLY_EDITED),
        ([], 0.49, EditDecision.NO_EDIT_FOUND),
        ([], None, EditDecision.NO_EDIT_FOUND),
        ([(AUTHENTIC, Strength.CONCLUSIVE)], 5, EditDecision.POSSIBLY_EDITED),
        # That a picture was generated says nothing on whether it was edited.
        ([(AI, Strength.CONCLUSIVE)], 0, EditDecision.NO_EDIT_FOUND),
    ],
)
def test_rows_of_the_table_of_edits(evidence, ratio, expected):
    items = [EvidenceItem(direction, strength, "a finding") for direction, strength in evidence]
    assert decide_on_edit(*items, ratio=ratio) is expected


def test_the_score_thresholds_are_inclusive():
    assert even_odds_score(0.954243) == pytest.approx(PRESETS[Preset.BALANCED].generated_high, abs=1e-6)
    assert decide(ratio=math.log10(0.9 / 0.1) + 1e-9) is Decision.SUSPICIOUS_AI_LIKELY
    assert decide(ratio=math.log10(0.9 / 0.1) - 1e-9) is Decision.AUTHENTIC_BUT_REVIEW


# ---- properties ----


@given(inputs, evidence_items, policies())
def test_more_evidence_for_generated_never_lowers(known, item, policy):
    more = replace(known, evidence=[*known.evidence, replace(item, direction=AI)])
    assert decide_generated(more, policy).decision >= decide_generated(known, policy).decision


@given(inputs, evidence_items, policies())
def test_more_evidence_for_authentic_never_raises(known, item, policy):
    more = replace(known, evidence=[*known.evidence, replace(item, direction=AUTHENTIC)])
    assert decide_generated(more, policy).decision <= decide_generated(known, policy).decision


@given(inputs, st.floats(0, 8), st.booleans(), policies())
def test_a_higher_ratio_never_lowers(known, extra, calibrated, policy):
    more = replace(known, findings=[*known.findings, finding(extra, calibrated=calibrated)])
    less = replace(known, findings=[*known.findings, finding(-extra, calibrated=calibrated)])
    lower, middle, higher = (decide_generated(each, policy) for each in (less, known, more))
    assert lower.decision <= middle.decision <= higher.decision
    assert lower.probability <= middle.probability + 1e-12
    assert middle.probability <= higher.probability + 1e-12


@pytest.mark.parametrize("decided", [decide_generated, decide_edited])
@given(known=inputs, random=st.randoms(), policy=policies())
def test_the_order_does_not_matter(decided, known, random, policy):
    known = known if decided is decide_generated else EditInput(**{f: getattr(known, f) for f in known_facts})
    evidence, found = list(known.evidence), list(known.findings)
    random.shuffle(evidence)
    random.shuffle(found)
    shuffled = decided(replace(known, evidence=evidence, findings=found), policy)
    original = decided(known, policy)
    assert shuffled.decision is original.decision
    assert shuffled.probability == original.probability
    assert shuffled.techniques == original.techniques


@given(inputs, policies())
def test_what_could_not_be_asked_never_clears(known, policy):
    asked, unasked = replace(known, missing=()), replace(known, missing=("generated",))
    assert decide_generated(unasked, policy).decision >= Decision.AUTHENTIC_BUT_REVIEW
    assert decide_generated(unasked, policy).decision >= decide_generated(asked, policy).decision


@given(edit_inputs, policies())
def test_what_could_not_be_asked_changes_no_ratio_of_edits(known, policy):
    asked = decide_edited(replace(known, missing=()), policy)
    unasked = decide_edited(replace(known, missing=("copy_move",)), policy)
    assert (unasked.decision, unasked.probability) == (asked.decision, asked.probability)
    assert "copy_move" in unasked.explanation


@given(inputs, edit_inputs, policies())
def test_a_stricter_preset_never_accuses_where_a_milder_one_does_not(known, known_edit, policy):
    ordered = [policy.with_preset(preset) for preset in (Preset.CONSERVATIVE, Preset.BALANCED, Preset.SENSITIVE)]
    for strict, mild in itertools.pairwise(ordered):
        assert decide_generated(known, strict).decision <= decide_generated(known, mild).decision
        assert decide_edited(known_edit, strict).decision <= decide_edited(known_edit, mild).decision


@given(inputs, policies())
def test_every_decision_is_explained_and_never_called_proof(known, policy):
    outcome = decide_generated(known, policy)
    assert outcome.explanation
    if outcome.decision is Decision.MOSTLY_AUTHENTIC:
        assert "not a proof of authenticity" in outcome.explanation


@given(edit_inputs, policies())
def test_every_edit_decision_is_explained(known, policy):
    outcome = decide_edited(known, policy)
    assert outcome.explanation
    if outcome.decision is EditDecision.NO_EDIT_FOUND and known.findings:
        assert "not a proof of authenticity" in outcome.explanation


@given(edit_inputs, st.floats(0, 8), st.sampled_from([None, *Technique]), policies())
def test_edit_decision_is_monotone(known, extra, technique, policy):
    more = replace(known, findings=[*known.findings, finding(extra, technique=technique)])
    less = replace(known, findings=[*known.findings, finding(-extra, technique=technique)])
    lower, middle, higher = (decide_edited(each, policy) for each in (less, known, more))
    assert lower.decision <= middle.decision <= higher.decision
    assert lower.probability <= middle.probability + 1e-12
    assert middle.probability <= higher.probability + 1e-12


@given(edit_inputs, evidence_items, policies())
def test_evidence_on_edits_is_monotone(known, item, policy):
    more = replace(known, evidence=[*known.evidence, replace(item, direction=EDITED)])
    less = replace(known, evidence=[*known.evidence, replace(item, direction=AUTHENTIC)])
    lower, middle, higher = (decide_edited(each, policy).decision for each in (less, known, more))
    assert lower <= middle <= higher


@given(inputs, edit_inputs, policies())
def test_what_is_called_decisive_decides(known, known_edit, policy):
    for decided, each in ((decide_generated, known), (decide_edited, known_edit)):
        outcome = decided(each, policy)
        names = {item.name for item in outcome.contributions if item.decisive}
        for index, item in enumerate(each.findings):
            others = replace(each, findings=[*each.findings[:index], *each.findings[index + 1 :]])
            if decided(others, policy).decision is not outcome.decision:
                assert item.detector in names


@given(inputs, policies())
def test_priors_move_probabilities_and_no_decision(known, policy):
    low, high = replace(policy, prior_generated=0.01), replace(policy, prior_generated=0.5)
    assert decide_generated(known, low).decision is decide_generated(known, high).decision
    assert decide_generated(known, low).probability <= decide_generated(known, high).probability


# ---- policies ----


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"generated_high": 0.5}, "generated_high"),
        ({"generated_high": 1.0}, "generated_high"),
        ({"generated_low": 0.5}, "generated_low"),
        ({"possibly_edited": 1.3}, "possibly_edited"),
        ({"possibly_edited": 0.0}, "possibly_edited"),
        ({"edited": 7.0}, "edited"),
        ({"edited": math.nan}, "possibly_edited"),
    ],
)
def test_thresholds_are_validated(changes, field):
    with pytest.raises(InvalidPolicy) as refused:
        replace(PRESETS[Preset.BALANCED], **changes)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prior_generated": 0.0}, "prior_generated"),
        ({"prior_edited": 1.0}, "prior_edited"),
        ({"weights": {"a": 1.1}}, "weights"),
        ({"weights": {"a": math.nan}}, "weights"),
    ],
)
def test_policies_are_validated(changes, field):
    with pytest.raises(InvalidPolicy) as refused:
        Policy(**changes)
    assert refused.value.field == field


def test_a_weight_of_zero_silences_a_detector():
    loud = GeneratedInput(findings=[finding(5.0)])
    assert decide_generated(loud).decision is Decision.SUSPICIOUS_AI_LIKELY
    silenced = decide_generated(loud, Policy(weights={"detector": 0.0}))
    assert (silenced.decision, silenced.log10_likelihood_ratio) == (Decision.AUTHENTIC_BUT_REVIEW, 0.0)


def test_half_a_weight_is_half_the_evidence():
    outcome = decide_generated(GeneratedInput(findings=[finding(3.0)]), Policy(weights={"detector": 0.5}))
    assert outcome.log10_likelihood_ratio == pytest.approx(1.5)
    assert outcome.contributions[0].weight == 0.5


# ---- what is said ----


def test_edit_names_the_technique_and_who_says_so():
    copied = ScoredFinding("copy_move", "Copy-move", 2.0, Technique.COPY_MOVE, "A region appears twice.")
    outcome = decide_edited(EditInput(findings=[copied]))
    assert outcome.decision is EditDecision.EDITED
    assert "A region appears twice." in outcome.explanation
    assert "likelihood ratio is 100, stated; from 20 on (balanced)" in outcome.explanation
    (technique,) = outcome.techniques
    assert (technique.technique, technique.detectors) == (Technique.COPY_MOVE, ("copy_move",))
    assert technique.probability == pytest.approx(0.1 / 0.9 * 100 / (1 + 0.1 / 0.9 * 100))
    (contribution,) = outcome.contributions
    assert contribution.decisive


def test_what_two_detectors_say_together_rests_on_neither_or_both():
    both = [ScoredFinding(name, name, 0.8, Technique.COPY_MOVE) for name in ("one", "two")]
    outcome = decide_edited(EditInput(findings=both))
    assert outcome.decision is EditDecision.EDITED
    assert [item.decisive for item in outcome.contributions] == [True, True]
    three = [*both, ScoredFinding("three", "three", 0.8, Technique.COPY_MOVE)]
    assert not any(item.decisive for item in decide_edited(EditInput(findings=three)).contributions)


def test_the_threshold_that_decided_is_named():
    outcome = decide_generated(GeneratedInput(findings=[finding(1.0)]))
    assert "0.91" in outcome.explanation
    assert "From 0.9 on (balanced)" in outcome.explanation
    milder = decide_generated(GeneratedInput(findings=[finding(1.0)]), BALANCED.with_preset(Preset.CONSERVATIVE))
    assert "Between 0.35 and 0.99 (conservative)" in milder.explanation


def test_nothing_found_is_not_called_authentic():
    outcome = decide_edited(EditInput(findings=[finding(-0.2)]))
    assert outcome.decision is EditDecision.NO_EDIT_FOUND
    assert "not a proof of authenticity" in outcome.explanation
    assert decide_edited(EditInput()).explanation == "No detector of edits could look at this picture."


def fusion(**facts) -> Fusion:
    return Fusion(
        **{
            "weights": {"detector": 1.0},
            "bounds": (-0.5, 1.5),
            "positives": 200,
            "negatives": 300,
            "positive_sources": 200,
            "negative_sources": 300,
            "cross_validated_cllr": 0.8,
            "missed": ((-0.3, 0.38), (0.6, 0.45), (1.5, 1.0)),
            "false_pictures": 240,
            **facts,
        }
    )


def test_it_is_said_how_many_false_pictures_would_pass():
    quiet = EditInput(findings=[finding(-0.3, calibrated=True)], fusion=fusion())
    outcome = decide_edited(quiet)
    assert outcome.miss_rate == 0.38
    assert "Of the 240 edited pictures that these tests were measured on, 38 in 100 pass them as well." in (
        outcome.explanation
    )
    assert decide_edited(quiet, BALANCED.with_preset(Preset.CONSERVATIVE)).miss_rate == 0.45


@pytest.mark.parametrize(
    ("changes", "policy"),
    [
        ({"missing": ("detector",)}, BALANCED),  # another test was made than was measured
        ({"fusion": None}, BALANCED),
        ({"fusion": fusion(missed=())}, BALANCED),
        ({}, Policy(weights={"detector": 0.5})),
        ({"findings": [finding(-0.3)]}, BALANCED),  # in a version that is not calibrated
    ],
)
def test_a_rate_that_nobody_measured_is_not_told(changes, policy):
    quiet = replace(EditInput(findings=[finding(-0.3, calibrated=True)], fusion=fusion()), **changes)
    outcome = decide_edited(quiet, policy)
    assert outcome.miss_rate is None
    assert "in 100" not in outcome.explanation


def test_calibrated_ratios_stay_within_their_bounds_and_stated_ones_are_added():
    loud = [finding(1.4, calibrated=True), finding(1.4, calibrated=True)]
    assert decide_edited(EditInput(findings=loud, fusion=fusion())).log10_likelihood_ratio == pytest.approx(1.5)
    with_stated = [*loud, finding(0.5)]
    outcome = decide_edited(EditInput(findings=with_stated, fusion=fusion()))
    assert outcome.log10_likelihood_ratio == pytest.approx(2.0)
    assert not outcome.calibrated
    assert decide_edited(EditInput(findings=loud, fusion=fusion())).calibrated


# ---- ratios ----


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
    once = decide_generated(GeneratedInput(evidence=[one], findings=[finding]))
    often = decide_generated(GeneratedInput(evidence=[one] * 20, findings=[finding]))
    assert often == once
    assert often.decision is Decision.SUSPICIOUS_AI_LIKELY


def test_hints_of_one_source_count_once():
    hint = EvidenceItem(AI, Strength.WEAK, "a hint", "metadata")
    once = decide_generated(GeneratedInput(evidence=[hint]))
    often = decide_generated(GeneratedInput(evidence=[hint] * 9))
    assert often.log10_likelihood_ratio == once.log10_likelihood_ratio
    elsewhere = EvidenceItem(AI, Strength.WEAK, "another hint", "watermark")
    both = decide_generated(GeneratedInput(evidence=[hint, elsewhere]))
    assert both.log10_likelihood_ratio == pytest.approx(2 * once.log10_likelihood_ratio)


def test_detectors_that_saw_nothing_take_nothing_away_from_one_that_did():
    copied = ScoredFinding("copy_move", "Copy-move", 1.4, Technique.COPY_MOVE, "A region appears twice.")
    silent = [ScoredFinding(f"other_{index}", "Other", -0.2) for index in range(10)]
    alone, among = (decide_edited(EditInput(findings=found)) for found in ([copied], [copied, *silent]))
    assert among.decision is alone.decision is EditDecision.EDITED
    assert among.probability == alone.probability == among.techniques[0].probability


@pytest.mark.parametrize("techniques", [(Technique.COPY_MOVE, Technique.SPLICING, Technique.FACE), (None, None, None)])
def test_the_silence_of_several_detectors_counts_once(techniques):
    silent = [ScoredFinding(f"detector_{index}", "Other", -0.2, of) for index, of in enumerate(techniques)]
    assert decide_edited(EditInput(findings=silent)).log10_likelihood_ratio == -0.2
