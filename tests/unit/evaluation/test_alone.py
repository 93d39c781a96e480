"""Strong findings: what accuses by itself is counted, what does not is not."""

from __future__ import annotations

import pytest
import skimage.data
from PIL import Image, PngImagePlugin

from evaluation.alone import is_strong, measure_alone, table
from evaluation.samples import Label, Sample
from services.common.calibration import SHIPPED, load_calibration
from services.common.detection import (
    Applicability,
    DetectorSpec,
    Direction,
    Evidence,
    Finding,
    Question,
    Strength,
    Technique,
)

CALIBRATION = load_calibration(SHIPPED)


def spec(question: Question, name: str = "x") -> DetectorSpec:
    return DetectorSpec(name=name, version="1", title="X", question=question, techniques=(Technique.OTHER,))


def finding(ratio: float | None = None, *pieces: Evidence) -> Finding:
    return Finding(
        applicability=Applicability.APPLIED,
        score=0.9,
        explanation="x",
        log10_likelihood_ratio=ratio,
        technique=Technique.SPLICING,
        evidence=pieces,
    )


def piece(direction: Direction, strength: Strength) -> Evidence:
    return Evidence(source="x", finding="x", direction=direction, strength=strength, analyzer="x")


@pytest.mark.parametrize("question", Question)
@pytest.mark.parametrize(("ratio", "strong"), [(None, False), (-2.0, False), (0.9, False), (1.5, True), (4.0, True)])
def test_a_ratio_is_strong_where_the_policy_accuses_for_it_alone(question: Question, ratio: float | None, strong: bool):
    assert is_strong(spec(question), finding(ratio), CALIBRATION) is strong


@pytest.mark.parametrize(
    ("direction", "strength", "strong"),
    [
        (Direction.AI_GENERATED, Strength.STRONG, True),
        (Direction.EDITED, Strength.CONCLUSIVE, True),
        # By the policy's table: a ratio of 10 is a score of 0.91.
        (Direction.AI_GENERATED, Strength.MODERATE, True),
        (Direction.AI_GENERATED, Strength.WEAK, False),
        (Direction.AUTHENTIC, Strength.CONCLUSIVE, False),
        (Direction.INDETERMINATE, Strength.WEAK, False),
    ],
)
def test_evidence_is_strong_where_it_accuses_alone_and_only_against_a_picture(
    direction: Direction, strength: Strength, strong: bool
):
    assert is_strong(spec(Question.GENERATED), finding(None, piece(direction, strength)), CALIBRATION) is strong


def test_the_calibrations_ratio_counts_before_the_detectors_own():
    known = CALIBRATION.detectors["copy_move"]
    calibrated = DetectorSpec(
        name="copy_move", version=known.version, title="X", question=Question.EDITED, techniques=(Technique.COPY_MOVE,)
    )
    silent = Finding(
        applicability=Applicability.APPLIED, score=0.0, explanation="x", log10_likelihood_ratio=4.0, technique=None
    )
    assert is_strong(calibrated, silent, None)
    assert not is_strong(calibrated, silent, CALIBRATION)


def test_a_planted_trace_is_counted_and_an_honest_photograph_is_not(tmp_path):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("parameters", "a\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512")
    samples = []
    for name, info in (("honest", None), ("pasted", texts)):
        path = tmp_path / f"{name}.png"
        Image.fromarray(skimage.data.coffee()).resize((300, 200)).save(path, pnginfo=info)
        samples.append(Sample(name=name, path=path, label=Label.HONEST, source=name))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"x")
    samples.append(Sample(name="broken", path=broken, label=Label.HONEST, source="broken"))
    samples.append(Sample(name="false", path=path, label=Label.GENERATED, source="false"))
    counts, unread = measure_alone(samples, jobs=1)
    assert unread == ["broken"]
    by_name = {count.spec.name: count for count in counts}
    assert {count.pictures for count in counts} == {2}
    assert by_name["generator_traces"].strong == ["pasted"]
    assert not any(count.strong for name, count in by_name.items() if name != "generator_traces")
    assert "| generator_traces | 2 of 2 | 1 | - | 1 = 50.0% |" in table(counts)
