"""Calibration: planted ratios are recovered, nothing claims more than its data, and the traps are refused."""

from __future__ import annotations

import itertools
import json
import math
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from evaluation.calibration.artefact import SameSources, load, refuse_same_sources, save, source_digest
from evaluation.calibration.fit import fit_calibration
from evaluation.calibration.folds import assign_folds
from evaluation.calibration.fusion import FusionInput, fit_fusion
from evaluation.calibration.maps import MIN_SOURCES, apply_map, fit_map, fit_map_by, supported_bounds
from evaluation.calibration.misses import policy_ratio, with_misses
from evaluation.calibration.samples import DetectorSamples, InsufficientData, Samples
from evaluation.metrics.calibration import cllr, cllr_min
from evaluation.metrics.errors import InvalidData
from evaluation.subjects import Subject
from services.common.calibration import Fusion, InvalidCalibration, ScoreMap, parse_calibration, read_calibration
from services.common.detection import Question
from services.passive.detectors import registry

CREATED = datetime(2026, 1, 2, tzinfo=UTC)
METHODS = ("uninformative", "logistic", "logistic_of_logit", "isotonic")


def samples_of(labels, scores, groups=None):
    labels = np.asarray(labels, dtype=bool)
    sources = np.arange(labels.size) if groups is None else np.asarray(groups)
    return DetectorSamples(labels=labels, groups=sources.astype(str), scores=np.asarray(scores, dtype=float))


def normal_samples(seed, n, *, shift=2.0):
    """Log-odds N(-shift/2, 1) and N(shift/2, 1): the natural log LR at z is shift * z, and the score is its sigmoid."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 2 == 0
    z = random.normal(size=n) + np.where(labels, shift / 2, -shift / 2)
    return samples_of(labels, special.expit(shift * z))


def fused_samples(seed, n=300, **missing):
    """Two independent detectors, one copy of the first and one that says nothing."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 2 == 0
    first, second = (special.expit(2 * (random.normal(size=n) + np.where(labels, 0.8, -0.8))) for _ in range(2))
    scores = {"first": first, "second": second, "copy": first.copy(), "noise": random.random(n)}
    for name, share in missing.items():
        scores[name] = np.where(random.random(n) < share, np.nan, scores[name])
    return Samples.of(labels, [f"{seed}/{i}" for i in range(n)], scores)


@pytest.fixture(scope="module")
def calibration():
    samples = fused_samples(1, second=0.4)
    return fit_calibration({Question.EDITED: samples}, dict.fromkeys(samples.scores, "3"), created=CREATED)


# Maps


@pytest.mark.parametrize("method", ["logistic_of_logit", "isotonic"])
def test_planted_ratios_are_recovered(method):
    fitted = fit_map_by(method, normal_samples(1, 4000))
    # The score is the sigmoid of the natural log LR, so the log10 LR is its logit / ln 10.
    for score in (0.2, 0.5, 0.8):
        assert fitted(score) == pytest.approx(special.logit(score) / math.log(10), abs=0.15)


def test_the_map_generalises_to_sources_left_out():
    fitted = fit_map(normal_samples(2, 600))
    fresh = normal_samples(3, 2000)
    cost = cllr(fresh.labels, apply_map(fitted.score_map, fresh.scores))
    assert cost == pytest.approx(fitted.cross_validated_cllr[fitted.method], abs=0.06)
    assert cost <= cllr_min(fresh.labels, fresh.scores) + 0.05


def test_the_prior_of_the_calibration_set_is_not_in_the_ratio():
    samples = normal_samples(4, 4000)
    kept = ~samples.labels | (np.random.default_rng(0).random(4000) < 0.1)
    for method in ("logistic_of_logit", "isotonic"):
        rare = fit_map_by(method, samples[kept])
        assert rare(0.5) == pytest.approx(0.0, abs=0.15)


def test_a_source_counts_once():
    samples = normal_samples(5, 400)
    copies = np.where(samples.labels & (samples.scores > 0.9), 10, 1)
    repeated = samples_of(*(np.repeat(a, copies) for a in (samples.labels, samples.scores, samples.groups)))
    for method in METHODS:
        one, many = fit_map_by(method, samples), fit_map_by(method, repeated)
        assert many.bounds == pytest.approx(one.bounds)
        assert many(0.7) == pytest.approx(one(0.7), abs=1e-2)


def test_a_perfect_detector_is_bounded_by_its_sources():
    # At 0 of n the one-sided 95% limit of the FPR is 1 - 0.05^(1/n), about 3/n, and of the TPR its complement.
    for n in (20, 100, 1000):
        samples = samples_of(np.arange(2 * n) < n, np.where(np.arange(2 * n) < n, 0.9, 0.1))
        limit = 1 - 0.05 ** (1 / n)
        low, high = supported_bounds(samples)
        assert high == pytest.approx(math.log10((1 - limit) / limit))
        assert low == pytest.approx(-high)
        for method in METHODS:
            fitted = fit_map_by(method, samples)
            assert -high - 1e-9 <= fitted(0.0) <= 0.0 <= fitted(1.0) <= high + 1e-9


def test_many_pictures_of_few_sources_support_no_more_than_the_sources():
    labels = np.arange(400) < 200
    scores = np.where(labels, 0.9, 0.1)
    few = supported_bounds(samples_of(labels, scores, np.arange(400) % 20))
    assert few == pytest.approx(
        supported_bounds(samples_of(np.arange(40) < 20, np.where(np.arange(40) < 20, 0.9, 0.1)))
    )


def test_nothing_found_clears_no_more_than_the_misses_allow():
    # Finds 1 in 10, never alarms: at score 0 the LR is 0.9, and the data cannot tell that from 1.
    labels = np.arange(200) < 100
    scores = np.where((np.arange(200) < 10), 1.0, 0.0)
    fitted = fit_map(samples_of(labels, scores)).score_map
    assert -0.05 < fitted(0.0) <= 0.0
    assert fitted(1.0) > 0.0


def test_noise_is_worth_nothing():
    random = np.random.default_rng(6)
    worth = [
        max(map(abs, fit_map(samples_of(random.random(60) < 0.5, random.random(60))).score_map.log10_likelihood_ratios))
        for _ in range(10)
    ]
    assert np.median(worth) == 0.0
    assert max(worth) < 0.5


def test_a_detector_that_is_wrong_way_round_is_worth_nothing():
    samples = normal_samples(7, 300)
    turned = DetectorSamples(labels=~samples.labels, groups=samples.groups, scores=samples.scores)
    fitted = fit_map(turned)
    assert fitted.score_map(0.0) == fitted.score_map(1.0) == 0.0


def test_a_falling_trend_is_not_followed():
    # Most false pictures score below the honest ones and a few above: a straight line would fall, so it stays level.
    labels = np.arange(200) < 100
    scores = np.where(labels, np.where(np.arange(200) < 30, 1.0, 0.1), 0.6)
    fitted = fit_map_by("logistic", samples_of(labels, scores))
    assert fitted.bounds[1] > 0.5
    assert fitted(0.0) == pytest.approx(0.0, abs=1e-6)
    assert fitted(1.0) == pytest.approx(0.0, abs=1e-6)


def test_the_method_fits_the_shape_of_the_scores():
    # Half of the false pictures at exactly 1, all others anywhere below 0.5: a step, which no sigmoid follows.
    random = np.random.default_rng(8)
    labels = np.arange(600) % 2 == 0
    step = np.where(labels & (random.random(600) < 0.5), 1.0, 0.5 * random.random(600))
    fitted = fit_map(samples_of(labels, step))
    assert fitted.cross_validated_cllr[fitted.method] == min(fitted.cross_validated_cllr.values())
    assert fitted.cross_validated_cllr["isotonic"] < fitted.cross_validated_cllr["uninformative"]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 10), st.integers(0, 12)), min_size=0, max_size=40),
    st.sampled_from(METHODS),
)
def test_every_map_is_monotone_and_within_its_bounds(rows, method):
    rows = [(True, 5, 98), (False, 5, 99), *rows]
    labels, scores, groups = zip(*rows, strict=True)
    fitted = fit_map_by(method, samples_of(labels, np.array(scores) / 10, groups))
    values = [fitted(score) for score in np.linspace(0, 1, 201).tolist()]
    assert all(a <= b for a, b in itertools.pairwise(values))
    assert fitted.bounds[0] - 1e-9 <= values[0]
    assert values[-1] <= fitted.bounds[1] + 1e-9
    np.testing.assert_allclose(apply_map(fitted, np.linspace(0, 1, 201)), values, atol=1e-9)


def test_too_few_sources_are_refused():
    n = MIN_SOURCES - 1
    with pytest.raises(InsufficientData, match=f"{n} sources of honest"):
        fit_map(samples_of(np.arange(100) >= n, np.linspace(0, 1, 100)))
    with pytest.raises(InsufficientData, match="1 sources of false"):
        fit_map(
            samples_of(np.arange(100) < 50, np.linspace(0, 1, 100), np.where(np.arange(100) < 50, 0, np.arange(100)))
        )


def test_folds_keep_sources_together_and_share_out_the_classes():
    groups = np.arange(200) // 4
    labels = groups % 2 == 0
    fold = assign_folds(labels, groups)
    assert all(np.unique(fold[groups == source]).size == 1 for source in range(50))
    assert np.bincount(fold[labels]).tolist() == [20] * 5
    assert np.bincount(fold[~labels]).tolist() == [20] * 5


# Fusion


def test_fusion_beats_its_parts_and_does_not_count_copies_twice(calibration):
    fusion = calibration.fusions[Question.EDITED]
    parts = [min(known.cross_validated_cllr.values()) for known in calibration.detectors.values()]
    assert fusion.cross_validated_cllr < min(parts)
    assert fusion.weights["first"] + fusion.weights["copy"] < 1.4
    assert fusion.weights["second"] > 0.6
    assert all(0.0 <= weight <= 1.0 for weight in fusion.weights.values())


def test_what_is_missing_is_fitted_as_nothing():
    samples = fused_samples(4, second=0.5)
    ratios = {name: special.logit(samples.scores[name]) / math.log(10) for name in ("first", "second")}
    zeros = {name: np.nan_to_num(values, nan=0.0) for name, values in ratios.items()}
    missing, zero = (
        fit_fusion(FusionInput(labels=samples.labels, groups=samples.groups, ratios=of)) for of in (ratios, zeros)
    )
    assert missing == zero


def test_fused_ratios_are_calibrated_on_fresh_pictures(calibration):
    fresh = fused_samples(2, n=2000, second=0.4)
    ratios = []
    for i in range(fresh.labels.size):
        known = {
            name: calibration.log10_likelihood_ratio(
                name, None if math.isnan(values[i]) else float(values[i]), version="3"
            )
            for name, values in fresh.scores.items()
        }
        fused = calibration.fuse(Question.EDITED, known)
        assert fused is not None
        ratios.append(fused.log10_likelihood_ratio)
    cost = cllr(fresh.labels, ratios)
    assert cost < cllr_min(fresh.labels, ratios) + 0.06
    assert cost == pytest.approx(calibration.fusions[Question.EDITED].cross_validated_cllr, abs=0.08)


def test_what_is_missing_contributes_exactly_nothing(calibration):
    nothing = calibration.fuse(Question.EDITED, {})
    assert nothing.log10_likelihood_ratio == 0.0
    assert set(nothing.contributions.values()) == {0.0}
    one = calibration.fuse(Question.EDITED, {"first": 0.5})
    assert one == calibration.fuse(Question.EDITED, {"first": 0.5, "second": None, "unheard_of": 9.0})
    assert one.log10_likelihood_ratio == calibration.fusions[Question.EDITED].weights["first"] * 0.5


@given(st.dictionaries(st.sampled_from(["first", "second", "copy", "noise"]), st.floats(-3, 3)), st.floats(0, 2))
def test_more_suspicion_never_lowers_the_sum(calibration, ratios, more):
    before = calibration.fuse(Question.EDITED, ratios).log10_likelihood_ratio
    low, high = calibration.fusions[Question.EDITED].bounds
    assert low <= before <= high
    for name in ("first", "second", "copy", "noise"):
        raised = {**ratios, name: ratios.get(name, 0.0) + more}
        assert calibration.fuse(Question.EDITED, raised).log10_likelihood_ratio >= before
    assert calibration.fuse(Question.EDITED, dict(reversed(ratios.items()))).log10_likelihood_ratio == before


def test_other_versions_and_questions_are_not_calibrated(calibration):
    assert calibration.log10_likelihood_ratio("first", 0.9, version="4") is None
    assert calibration.log10_likelihood_ratio("unheard_of", 0.9, version="3") is None
    assert calibration.log10_likelihood_ratio("first", None, version="3") is None
    assert calibration.log10_likelihood_ratio("first", 0.9, version="3") > 0
    assert calibration.fuse(Question.GENERATED, {"first": 1.0}) is None


# The artefact


def test_saved_is_loaded_and_deterministic(calibration, tmp_path):
    path = tmp_path / "calibration.json"
    save(calibration, path)
    assert load(path) == calibration
    samples = fused_samples(1, second=0.4)
    again = fit_calibration({Question.EDITED: samples}, dict.fromkeys(samples.scores, "3"), created=CREATED)
    assert again.model_dump_json() == calibration.model_dump_json()
    assert again.created == "2026-01-02T00:00:00+00:00"


def test_it_says_what_it_was_fitted_on(calibration):
    known = calibration.detectors["second"]
    assert 150 < known.positives + known.negatives < 210
    assert sum(known.histogram) == known.positives + known.negatives
    assert known.positive_sources == known.positives
    assert len(calibration.sources) == 300
    other = fused_samples(2)
    digests = {
        fit_calibration({Question.EDITED: s}, dict.fromkeys(s.scores, "3"), created=CREATED).data_digest
        for s in (other, fused_samples(2, first=0.1))
    }
    assert len(digests | {calibration.data_digest}) == 3


def test_detectors_with_too_few_sources_are_listed():
    samples = fused_samples(3, n=100, noise=0.95)
    fitted = fit_calibration({Question.EDITED: samples}, dict.fromkeys(samples.scores, "1"), created=CREATED)
    assert "noise" not in fitted.detectors
    assert "at least 10" in fitted.uncalibrated["noise"]
    assert "noise" not in fitted.fusions[Question.EDITED].weights


def test_without_calibrated_detectors_there_is_no_fusion():
    samples = fused_samples(3, n=10)
    fitted = fit_calibration({Question.EDITED: samples}, dict.fromkeys(samples.scores, "1"))
    assert not fitted.detectors
    assert not fitted.fusions
    assert fitted.fuse(Question.EDITED, {}) is None


def test_reporting_on_the_same_sources_is_refused(calibration):
    refuse_same_sources(calibration, ["2/0", "2/1"])
    with pytest.raises(SameSources, match=r"1 of 2 sources .* 1/7"):
        refuse_same_sources(calibration, ["2/0", "1/7"])
    with pytest.raises(SameSources, match="and 295 more"):
        refuse_same_sources(calibration, [f"1/{i}" for i in range(300)])
    # The same name in another Unicode normal form is the same source.
    assert source_digest("caf\u00e9") == source_digest("cafe\u0301")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema_version",), 2),
        (("data_digest",), "md5:1"),
        (("sources",), ["b" * 16, "a" * 16]),
        (("more",), 1),
        (("detectors", "first", "score_map", "scores", 0), 0.1),
        (("detectors", "first", "score_map", "log10_likelihood_ratios", 0), 0.9),
        (("detectors", "first", "score_map", "log10_likelihood_ratios", 0), "NaN"),
        (("detectors", "first", "score_map", "bounds"), [0.1, 2.0]),
        (("detectors", "first", "score_map", "bounds"), [-0.1, 0.1]),
        (("detectors", "first", "histogram"), [1] * 10),
        (("detectors", "first", "question"), "generated"),
        (("fusions", "edited", "weights", "first"), -0.1),
        (("fusions", "edited", "weights", "first"), 1.1),
        (("fusions", "edited", "weights", "unheard_of"), 0.5),
        (("fusions", "edited", "bounds"), [-2.0, -1.0]),
        (("fusions", "edited", "missed"), [[0.0, 0.5], [0.0, 0.6]]),
        (("fusions", "edited", "missed"), [[0.0, 0.5], [1.0, 0.4]]),
        (("fusions", "edited", "missed"), [[0.0, 1.5]]),
    ],
)
def test_a_damaged_artefact_is_refused(calibration, path, value):
    document = json.loads(calibration.model_dump_json())
    place = document
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    with pytest.raises(InvalidCalibration):
        parse_calibration(json.dumps(document))


def test_unreadable_artefacts_are_refused(tmp_path):
    (tmp_path / "calibration.json").write_text("{", encoding="utf-8")
    with pytest.raises(InvalidCalibration):
        load(tmp_path / "calibration.json")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.json")


def test_maps_interpolate():
    score_map = ScoreMap(scores=(0.0, 0.5, 1.0), log10_likelihood_ratios=(-0.5, 0.0, 2.0), bounds=(-0.5, 2.0))
    assert [score_map(score) for score in (0.0, 0.25, 0.5, 0.75, 1.0)] == [-0.5, -0.25, 0.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="outside"):
        score_map(1.01)


def test_fusion_bounds_hold():
    with pytest.raises(ValueError, match="between the bounds"):
        Fusion(weights={}, bounds=(0.5, 1.0), positives=0, negatives=0, positive_sources=0, negative_sources=0,
               cross_validated_cllr=1.0)  # fmt: skip


def test_malformed_samples_are_refused():
    with pytest.raises(InvalidData, match="outside"):
        Samples.of([1, 0], ["a", "b"], {"x": [0.5, 1.5]})
    with pytest.raises(InvalidData, match="of x"):
        Samples.of([1, 0], ["a", "b"], {"x": [0.5]})
    with pytest.raises(InvalidData, match="groups"):
        Samples.of([1, 0], ["a"], {})
    samples = Samples.of([1, 0], ["a", "b"], {"x": [0.5, None]})
    with pytest.raises(InvalidData, match="no version of x"):
        fit_calibration({Question.EDITED: samples}, {})
    with pytest.raises(InvalidData, match="two questions"):
        fit_calibration({Question.EDITED: samples, Question.GENERATED: samples}, {"x": "1"})


# Misses


def subjects(*names):
    return [Subject(name=name, version="3", title=name, question=Question.EDITED) for name in names]


def test_the_share_of_missed_pictures_is_counted_by_source(calibration):
    false = [("one", {"first": 0.0}), ("one", {"first": 0.0}), ("two", {"first": 1.0}), ("three", {"first": None})]
    known = with_misses(calibration, Question.EDITED, subjects("first"), false).fusions[Question.EDITED]
    assert known.false_pictures == 4
    # One source is missed for certain, one found, and of the third nothing is known: log10 ratio 0.
    assert known.miss_rate(-10.0) == 0.0
    assert known.miss_rate(0.0) == pytest.approx(1 / 3, abs=1e-6)
    assert known.miss_rate(0.02) == pytest.approx(2 / 3, abs=1e-6)
    assert known.miss_rate(10.0) == 1.0
    assert calibration.fusions[Question.EDITED].miss_rate(0.0) is None, "nobody measured"


def test_misses_are_decided_as_the_policy_decides(calibration):
    scores = {"first": 0.9, "second": None}
    ratio = policy_ratio(calibration, Question.EDITED, subjects("first", "second"), scores)
    weight = calibration.fusions[Question.EDITED].weights["first"]
    expected = weight * calibration.log10_likelihood_ratio("first", 0.9, version="3")
    assert ratio == pytest.approx(min(expected, calibration.fusions[Question.EDITED].bounds[1]))


def test_the_curve_survives_the_file(calibration, tmp_path):
    known = with_misses(calibration, Question.EDITED, subjects("first"), [("one", {"first": 0.9})])
    save(known, tmp_path / "calibration.json")
    assert load(tmp_path / "calibration.json") == known
    assert known.version != calibration.version


# What is shipped


def test_the_shipped_calibration_knows_the_detectors_as_they_are():
    """A detector that changed its version is not calibrated any more: `make calibrate` again (docs/policy.md)."""
    shipped = read_calibration("shipped")
    versions = {spec.name: spec.version for spec, _ in registry.load("services.passive.detectors")}
    assert shipped is not None
    assert {name: known.version for name, known in shipped.detectors.items() if name in versions} == {
        name: versions[name] for name in shipped.detectors if name in versions
    }
    assert all(fusion.missed for fusion in shipped.fusions.values())


def test_a_setting_names_an_artefact_or_none(calibration, tmp_path):
    save(calibration, tmp_path / "own.json")
    assert read_calibration(str(tmp_path / "own.json")) == calibration
    assert read_calibration("") is None
    with pytest.raises(FileNotFoundError):
        read_calibration(str(tmp_path / "none.json"))
