"""The evaluation: a perfect oracle scores 1, a silent network 0, and accusing honest pictures shows."""

import dataclasses

import numpy as np
import pytest

from training.localisation.classes import CLASSES, PRISTINE
from training.localisation.evaluate import (
    beats_baselines,
    comparison,
    evaluate,
    fit_baselines,
    fit_threshold,
    handmade_cases,
    planted_cases,
    pristine_cases,
    table,
)
from training.localisation.inference import prepared

THRESHOLDS = {"error levels": 0.5, "noise map": 0.5, "all ones": 0.5}


@pytest.fixture(scope="module")
def cases(store):
    return [*planted_cases(store, limit=2), *handmade_cases(store), *pristine_cases(store, limit=3)]


def _oracle(cases):
    """Answers by looking the picture up."""
    known = {prepared(case.rgb)[0].tobytes(): case for case in cases}

    def predict(images, view):
        case = known[images.tobytes()]
        truth = np.zeros(images.shape[2:], np.float32)
        if case.mask is not None:
            truth[: case.mask.shape[0], : case.mask.shape[1]] = case.mask
        classes = np.zeros((1, len(CLASSES)), np.float32)
        classes[0, PRISTINE if case.label is None else case.label] = 1.0
        return truth[None], np.ones_like(truth)[None], classes

    return predict


def _constant(value):
    def predict(images, view):
        plane = np.full((1, *images.shape[2:]), value, np.float32)
        return plane, plane, np.full((1, len(CLASSES)), 0.2, np.float32)

    return predict


def test_cases_are_made_of_every_kind(cases):
    names = {case.name for case in cases}
    assert {"planted copy_move", "planted inpainting", "planted splicing", "hand-made hand", "pristine"} <= names
    for case in cases:
        assert (case.mask is None) == ("pristine" in case.name)


def test_planting_again_gives_the_same(store):
    one, other = ([case.rgb for case in planted_cases(store, limit=1)] for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_an_oracle_is_perfect(cases):
    result = evaluate(_oracle(cases), cases, THRESHOLDS)
    for row in result["sets"].values():
        assert row["network"]["value"] == (1.0 if row["measure"] == "f1" else 0.0)
    assert result["classes"]["balanced_accuracy"]["value"] == 1.0
    assert beats_baselines(result)
    assert "is better" not in table(result)
    assert all(row["right"] == 1.0 for row in result["reliability"])


def test_silence_finds_nothing_and_accuses_nobody(cases):
    sets = evaluate(_constant(0.0), cases, THRESHOLDS)["sets"]
    assert sets["planted, all"]["network"]["value"] == 0.0
    assert sets["pristine"]["accused"]["network"]["value"] == 0.0
    assert "**A baseline is better than the network on**: hand-made hand, planted copy_move" in table({"sets": sets})


def test_marking_everything_is_all_ones(cases):
    result = evaluate(_constant(1.0), cases, THRESHOLDS)
    for row in result["sets"].values():
        assert row["network"] == row["all ones"]
    assert not beats_baselines(result)
    assert result["sets"]["pristine"]["accused"]["network"]["value"] == 1.0
    text = table(result)
    assert "| planted, all: pixel F1 |" in text
    assert "Balanced accuracy over five classes" in text


def test_runs_stand_beside_each_other(cases):
    found, silent = (evaluate(predict, cases, THRESHOLDS) for predict in (_oracle(cases), _constant(0.0)))
    text = comparison({"found": found, "silent": silent})
    assert text.startswith("| set | pictures | found | silent |")
    row = next(line for line in text.splitlines() if line.startswith("| planted, all: pixel F1 |"))
    assert "1.000" in row.split("|")[3]
    assert "0.000" in row.split("|")[4]


def test_a_baseline_gets_the_threshold_that_suits_it(cases):
    forged = [dataclasses.replace(case) for case in cases if case.mask is not None]
    best = fit_baselines(forged)
    fitted, fixed = (evaluate(None, forged, t)["sets"]["planted, all"] for t in (best, THRESHOLDS))
    assert fitted["error levels"]["value"] >= fixed["error levels"]["value"] - 0.05


def test_the_threshold_finds_what_it_may(cases):
    oracle = _oracle(cases)

    def weak(images, view):
        mask, reliability, classes = oracle(images, view)
        return 0.32 * mask + 0.12, reliability, classes

    def noisy(images, view):
        mask, reliability, classes = oracle(images, view)
        marked = np.zeros_like(mask)
        marked[:, :40, :40] = 0.82
        return np.maximum(0.32 * mask, marked), reliability, classes

    assert 0.12 < fit_threshold(weak, cases) <= 0.44
    # What it marks falsely forbids every threshold below.
    assert fit_threshold(noisy, cases) > 0.82


def test_the_threshold_accuses_few_however_little_it_marks(cases):
    oracle = _oracle(cases)
    pristine = [case for case in cases if case.mask is None]
    assert 3 <= len(pristine) < 10
    accused = prepared(pristine[0].rgb)[0].tobytes()

    def seldom(images, view):
        mask, reliability, classes = oracle(images, view)
        heat = 0.9 * mask
        if images.tobytes() == accused:
            heat[:, : images.shape[2] // 8, : images.shape[3] // 8] = 0.8
        return heat, reliability, classes

    assert 0.8 < fit_threshold(seldom, cases) <= 0.9
