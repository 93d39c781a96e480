"""What a moderator makes of a profile picture: one summary with reasons, out of all that was found.

A total function of what the services said, written as a list of rules, each of which looks at one thing and gives no
reason, or one. The gravest reason is the assessment. Nothing here says who somebody is, and "nothing found" is no proof
that a picture shows the account's owner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pentimento.common.v1 import detection_pb2, face_pb2
from pentimento.orchestrator.v1 import analysis_pb2, gallery_service_pb2
from pentimento.orchestrator.v1 import face_service_pb2 as pb

__all__ = ["Seen", "profile_report"]

NOTHING: Final = pb.PROFILE_ASSESSMENT_NOTHING_FOUND
REVIEW: Final = pb.PROFILE_ASSESSMENT_REVIEW
SUSPICIOUS: Final = pb.PROFILE_ASSESSMENT_SUSPICIOUS

SURE_DRAWN: Final = 0.9
"""From this probability on, a drawing is no question any more."""
FAKE_FROM: Final = 0.5
"""The network's own threshold."""
STABLE: Final = 0.8
"""Share of the passes that agree, from which an answer is stable."""
FAKE_DETECTOR: Final = "facenet_realfake"
KIND_MODEL: Final = "vgg16_cartoon"
KIND_OF_FACE_MODEL: Final = "clip_cartoon"
"""Looks first; whatever it is not sure of, `KIND_MODEL` looks at, too."""
GENDERS: Final = {face_pb2.GENDER_FEMALE: "a woman's", face_pb2.GENDER_MALE: "a man's"}
SUMMARIES: Final = {
    NOTHING: "Nothing speaks against this picture. That is no proof that it shows the account's owner.",
    REVIEW: "Somebody should look at this picture.",
    SUSPICIOUS: "This is probably no photograph of the account's owner.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that was found out about a profile picture.

    Attributes:
        analysis: of the picture; its faces are described, most confident first.
        kind: a person's or drawn: of the whole picture, asked only where there is no face; None if not known.
        fakes: the faces with the answers of several passes; empty if they could not be asked.
        matches: enrolled people whom the most confident face resembles; empty without a gallery.
        missing: what else could not be asked.
    """

    analysis: analysis_pb2.Analysis
    kind: face_pb2.KindEstimate | None = None
    fakes: Sequence[face_pb2.Face] = ()
    matches: Sequence[gallery_service_pb2.PersonMatch] = ()
    missing: Sequence[detection_pb2.Missing] = ()

    @property
    def face(self) -> face_pb2.Face | None:
        """The most confident face."""
        return self.analysis.faces[0] if self.analysis.faces else None

    @property
    def kind_of_all(self) -> face_pb2.KindEstimate | None:
        """Of the most confident face, or of the whole picture without one."""
        if self.face is not None:
            return self.face.kind if self.face.HasField("kind") else None
        return self.kind


def profile_report(seen: Seen) -> pb.ProfileReport:
    """Sums up what was found; the analysis comes with it."""
    reasons = sorted(
        (reason for rule in RULES for reason in rule(seen)), key=lambda reason: reason.assessment, reverse=True
    )
    assessment = max((reason.assessment for reason in reasons), default=NOTHING)
    report = pb.ProfileReport(
        assessment=assessment,
        summary=_summary(assessment, reasons, seen),
        reasons=reasons,
        face=seen.face,
        face_count=len(seen.analysis.faces),
        kind=seen.kind_of_all,
        matches=seen.matches,
        analysis=seen.analysis,
    )
    report.analysis.missing.extend(seen.missing)
    return report


Reasons = Iterator[pb.ProfileReason]


def _faces(seen: Seen) -> Reasons:
    count = len(seen.analysis.faces)
    if count == 0 and not _could_not(seen, "faces"):
        yield _reason(pb.PROFILE_REASON_KIND_NO_FACE, REVIEW, "No face was found: it shows nobody, or not clearly.")
    elif count > 1:
        yield _reason(pb.PROFILE_REASON_KIND_SEVERAL_FACES, REVIEW, f"There are {count} faces: whose account is it?")


def _drawn(seen: Seen) -> Reasons:
    kind = seen.kind_of_all
    if kind is None or kind.kind != face_pb2.FACE_KIND_CARTOON:
        return
    sure = kind.probability >= SURE_DRAWN
    what = "The face" if seen.face is not None else "The picture"
    yield _reason(
        pb.PROFILE_REASON_KIND_DRAWN,
        SUSPICIOUS if sure else REVIEW,
        f"{what} is {'drawn' if sure else 'perhaps drawn'}, not photographed ({kind.probability:.0%}).",
        *((KIND_OF_FACE_MODEL, KIND_MODEL) if seen.face is not None else (KIND_MODEL,)),
    )


def _fake(seen: Seen) -> Reasons:
    scored = [face for face in seen.fakes or seen.analysis.faces if face.HasField("deepfake")]
    fakes = [face.deepfake for face in scored if face.deepfake.score >= FAKE_FROM]
    if not fakes:
        return
    worst = max(fakes, key=lambda estimate: estimate.score)
    which = "The face looks" if len(scored) == 1 else f"{len(fakes)} of {len(scored)} faces look"
    text = f"{which} generated or swapped (score {worst.score:.2f})"
    if worst.HasField("stability"):
        steady = worst.stability >= STABLE
        text += f", {'also' if steady else 'but not always'} when turned, blurred and compressed"
        grave = SUSPICIOUS if steady else REVIEW
    else:
        grave = REVIEW
    yield _reason(pb.PROFILE_REASON_KIND_FAKE_FACE, grave, f"{text}.", FAKE_DETECTOR)


def _generated(seen: Seen) -> Reasons:
    decision = seen.analysis.decision
    if decision >= analysis_pb2.DECISION_SUSPICIOUS_AI_LIKELY:
        yield _reason(
            pb.PROFILE_REASON_KIND_GENERATED,
            SUSPICIOUS,
            seen.analysis.decision_explanation,
            *_accusers(seen, detection_pb2.QUESTION_GENERATED),
        )


def _edited(seen: Seen) -> Reasons:
    decision = seen.analysis.edit_decision
    if decision >= analysis_pb2.EDIT_DECISION_POSSIBLY_EDITED:
        yield _reason(
            pb.PROFILE_REASON_KIND_EDITED,
            SUSPICIOUS if decision == analysis_pb2.EDIT_DECISION_EDITED else REVIEW,
            seen.analysis.edit_explanation,
            *_accusers(seen, detection_pb2.QUESTION_EDITED),
        )


def _resembles(seen: Seen) -> Reasons:
    for match in seen.matches:
        if match.above_threshold:
            yield _reason(
                pb.PROFILE_REASON_KIND_RESEMBLES_PERSON,
                REVIEW,
                f"The face resembles {match.person.display_name}, who is enrolled here (similarity "
                f"{match.similarity:.2f}). That is a hint, no identification.",
                "facenet",
            )


def _metadata(seen: Seen) -> Reasons:
    evidence = [*seen.analysis.evidence, *seen.analysis.edit_evidence]
    for finding in dict.fromkeys(piece.finding for piece in evidence):
        sources = sorted({piece.analyzer for piece in evidence if piece.finding == finding})
        yield _reason(pb.PROFILE_REASON_KIND_METADATA, NOTHING, finding, *sources)


def _incomplete(seen: Seen) -> Reasons:
    asked = [item for item in (*seen.analysis.missing, *seen.missing) if item.questions]
    parts = list(dict.fromkeys(item.part for item in asked))
    if parts:
        text = f"Not everything could be asked: {', '.join(parts)}."
        yield _reason(pb.PROFILE_REASON_KIND_INCOMPLETE, REVIEW, text, *parts)


RULES: Final[Sequence[Callable[[Seen], Reasons]]] = (
    _generated,
    _fake,
    _drawn,
    _edited,
    _resembles,
    _faces,
    _metadata,
    _incomplete,
)
"""In the order in which reasons of the same gravity are told."""


def _reason(
    kind: pb.ProfileReasonKind.ValueType, assessment: pb.ProfileAssessment.ValueType, text: str, *sources: str
) -> pb.ProfileReason:
    return pb.ProfileReason(kind=kind, assessment=assessment, text=text, sources=sources)


def _accusers(seen: Seen, question: detection_pb2.Question.ValueType) -> list[str]:
    verdict = seen.analysis.generated if question == detection_pb2.QUESTION_GENERATED else seen.analysis.edited
    return [item.detector for item in verdict.contributions if item.log10 * item.weight > 0]


def _could_not(seen: Seen, part: str) -> bool:
    return any(item.part == part for item in seen.analysis.missing)


def _summary(assessment: pb.ProfileAssessment.ValueType, reasons: Sequence[pb.ProfileReason], seen: Seen) -> str:
    gravest = [reason.text for reason in reasons if reason.assessment == assessment > NOTHING]
    return " ".join([SUMMARIES[assessment], *gravest[:2], *_shown(seen)])


def _shown(seen: Seen) -> Iterator[str]:
    """What the most confident face shows, as far as this deployment says so; a drawing has no age."""
    face = seen.face
    if face is None or not (face.HasField("age") or face.HasField("gender")):
        return
    if face.kind.kind == face_pb2.FACE_KIND_CARTOON and face.kind.probability >= SURE_DRAWN:
        return
    whose = GENDERS.get(face.gender.gender, "a") if face.HasField("gender") else "a"
    age = f", about {face.age.years:.0f} years old" if face.HasField("age") else ""
    yield f"It shows {whose} face{age} (estimates)."
