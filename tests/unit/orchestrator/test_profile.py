"""A profile picture's report: each fact gives its reason, the gravest decides, what could not be asked clears none."""

from __future__ import annotations

import itertools

import pytest
from pentimento.common.v1 import detection_pb2, evidence_pb2, face_pb2, verdict_pb2
from pentimento.orchestrator.v1 import analysis_pb2, gallery_service_pb2
from pentimento.orchestrator.v1 import face_service_pb2 as pb

from services.orchestrator.profile import NOTHING, REVIEW, SUSPICIOUS, Seen, profile_report

HUMAN = face_pb2.KindEstimate(kind=face_pb2.FACE_KIND_HUMAN, probability=0.98)
DRAWN = face_pb2.KindEstimate(kind=face_pb2.FACE_KIND_CARTOON, probability=0.97)
PERHAPS_DRAWN = face_pb2.KindEstimate(kind=face_pb2.FACE_KIND_CARTOON, probability=0.6)
REAL = face_pb2.DeepfakeEstimate(score=0.02)
FAKE = face_pb2.DeepfakeEstimate(score=0.97, stability=1.0)
SHAKY = face_pb2.DeepfakeEstimate(score=0.6, stability=4 / 7)


def face(kind=HUMAN, deepfake=REAL, **more) -> face_pb2.Face:
    return face_pb2.Face(confidence=0.9, kind=kind, deepfake=deepfake, **more)


def analysis(*faces, decision=analysis_pb2.DECISION_AUTHENTIC_BUT_REVIEW, **more) -> analysis_pb2.Analysis:
    edit = more.pop("edit_decision", analysis_pb2.EDIT_DECISION_NO_EDIT_FOUND)
    return analysis_pb2.Analysis(faces=faces, decision=decision, edit_decision=edit, **more)


ORDINARY = Seen(analysis=analysis(face()))


def kinds(report: pb.ProfileReport) -> list[str]:
    return [pb.ProfileReasonKind.Name(reason.kind).removeprefix("PROFILE_REASON_KIND_") for reason in report.reasons]


def test_an_ordinary_portrait_has_nothing_against_it_and_the_summary_claims_no_more():
    report = profile_report(ORDINARY)
    assert (report.assessment, kinds(report)) == (NOTHING, [])
    assert "no proof" in report.summary
    assert report.face_count == 1
    assert report.kind == HUMAN


@pytest.mark.parametrize(
    ("seen", "kind", "assessment"),
    [
        (Seen(analysis=analysis(), kind=HUMAN), "NO_FACE", REVIEW),
        (Seen(analysis=analysis(face(), face())), "SEVERAL_FACES", REVIEW),
        (Seen(analysis=analysis(face(kind=DRAWN))), "DRAWN", SUSPICIOUS),
        (Seen(analysis=analysis(face(kind=PERHAPS_DRAWN))), "DRAWN", REVIEW),
        (Seen(analysis=analysis(face(deepfake=face_pb2.DeepfakeEstimate(score=0.9)))), "FAKE_FACE", REVIEW),
        (Seen(analysis=analysis(face()), fakes=[face(deepfake=FAKE)]), "FAKE_FACE", SUSPICIOUS),
        (Seen(analysis=analysis(face()), fakes=[face(deepfake=SHAKY)]), "FAKE_FACE", REVIEW),
        (
            Seen(analysis=analysis(face(), decision=analysis_pb2.DECISION_SUSPICIOUS_AI_LIKELY)),
            "GENERATED",
            SUSPICIOUS,
        ),
        (
            Seen(analysis=analysis(face(), edit_decision=analysis_pb2.EDIT_DECISION_POSSIBLY_EDITED)),
            "EDITED",
            REVIEW,
        ),
        (Seen(analysis=analysis(face(), edit_decision=analysis_pb2.EDIT_DECISION_EDITED)), "EDITED", SUSPICIOUS),
        (
            Seen(
                analysis=analysis(face()),
                matches=[
                    gallery_service_pb2.PersonMatch(
                        person=gallery_service_pb2.Person(display_name="A. Person"),
                        similarity=0.8,
                        above_threshold=True,
                    )
                ],
            ),
            "RESEMBLES_PERSON",
            REVIEW,
        ),
        (
            Seen(
                analysis=analysis(
                    face(),
                    missing=[detection_pb2.Missing(part="passive", questions=[detection_pb2.QUESTION_EDITED])],
                )
            ),
            "INCOMPLETE",
            REVIEW,
        ),
    ],
)
def test_each_fact_gives_its_reason(seen, kind, assessment):
    report = profile_report(seen)
    assert kinds(report) == [kind]
    assert report.assessment == report.reasons[0].assessment == assessment
    assert report.reasons[0].text in report.summary


def test_a_picture_that_is_drawn_is_so_without_a_face_too():
    report = profile_report(Seen(analysis=analysis(), kind=DRAWN))
    assert report.assessment == SUSPICIOUS
    assert kinds(report) == ["DRAWN", "NO_FACE"]
    assert report.kind == DRAWN


def test_who_resembles_nobody_enrolled_is_not_named():
    match = gallery_service_pb2.PersonMatch(person=gallery_service_pb2.Person(display_name="A. Person"), similarity=0.2)
    report = profile_report(Seen(analysis=analysis(face()), matches=[match]))
    assert report.assessment == NOTHING
    assert "A. Person" not in report.summary


def test_what_the_file_says_is_told_and_weighs_nothing_by_itself():
    piece = evidence_pb2.Evidence(finding="Edited with an editor.", analyzer="metadata")
    report = profile_report(Seen(analysis=analysis(face(), evidence=[piece])))
    assert (report.assessment, kinds(report)) == (NOTHING, ["METADATA"])
    assert list(report.reasons[0].sources) == ["metadata"]


def test_if_faces_could_not_be_looked_for_none_is_said_to_be_absent():
    away = detection_pb2.Missing(part="faces", questions=[detection_pb2.QUESTION_EDITED])
    assert kinds(profile_report(Seen(analysis=analysis(missing=[away])))) == ["INCOMPLETE"]


def test_who_accuses_is_named():
    verdict = verdict_pb2.Verdict(
        contributions=[
            verdict_pb2.Contribution(detector="generated", log10=1.5, weight=1),
            verdict_pb2.Contribution(detector="metadata", log10=-0.3, weight=1),
        ]
    )
    decision = analysis_pb2.DECISION_SUSPICIOUS_AI_LIKELY
    report = profile_report(Seen(analysis=analysis(face(), decision=decision, generated=verdict)))
    assert list(report.reasons[0].sources) == ["generated"]


def test_age_and_gender_are_told_only_where_the_deployment_gave_them():
    estimates = {
        "age": face_pb2.AgeEstimate(years=31.4),
        "gender": face_pb2.GenderEstimate(gender=face_pb2.GENDER_FEMALE, probability=0.99),
    }
    assert "a woman's face, about 31 years old" in profile_report(Seen(analysis=analysis(face(**estimates)))).summary
    assert "face" not in profile_report(ORDINARY).summary


def test_a_drawing_has_no_age():
    estimates = {"age": face_pb2.AgeEstimate(years=14.0)}
    assert "years old" not in profile_report(Seen(analysis=analysis(face(kind=DRAWN, **estimates)))).summary
    assert "years old" in profile_report(Seen(analysis=analysis(face(kind=PERHAPS_DRAWN, **estimates)))).summary


def test_who_tells_that_a_face_is_drawn_and_who_that_a_picture_is():
    of_face = profile_report(Seen(analysis=analysis(face(kind=DRAWN)))).reasons[0]
    of_picture = profile_report(Seen(analysis=analysis(), kind=DRAWN)).reasons[0]
    assert list(of_face.sources) == ["clip_cartoon", "vgg16_cartoon"]
    assert list(of_picture.sources) == ["vgg16_cartoon"]


@pytest.mark.parametrize(("stability", "words"), [(1.0, ", also when turned"), (0.5, ", but not always when turned")])
def test_a_fake_face_is_told_with_what_changes_do_to_it(stability, words):
    fake = face_pb2.DeepfakeEstimate(score=0.9, stability=stability)
    assert words in profile_report(Seen(analysis=analysis(face(deepfake=fake)))).reasons[0].text


def test_one_more_reason_never_makes_it_milder():
    facts = [
        {"kind": DRAWN},
        {"deepfake": face_pb2.DeepfakeEstimate(score=0.9)},
    ]
    decisions = [analysis_pb2.DECISION_MOSTLY_AUTHENTIC, analysis_pb2.DECISION_CONFIRMED_AI_GENERATED]
    edits = [analysis_pb2.EDIT_DECISION_NO_EDIT_FOUND, analysis_pb2.EDIT_DECISION_EDITED]
    for chosen in itertools.product((False, True), repeat=2):
        merged = {key: value for use, fact in zip(chosen, facts, strict=True) if use for key, value in fact.items()}
        for decision, edit in itertools.product(decisions, edits):
            less = profile_report(
                Seen(analysis=analysis(face(**merged), decision=decisions[0], edit_decision=edits[0]))
            )
            more = profile_report(Seen(analysis=analysis(face(**merged), decision=decision, edit_decision=edit)))
            assert more.assessment >= less.assessment
            assert set(kinds(less)) <= set(kinds(more))
