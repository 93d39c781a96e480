"""C2PA Content Credentials: who signed the picture, whether it is intact, whether the signer is to be trusted.

Two questions that are often taken for one:

* **Integrity**: the signature fits the manifest, and the manifest's hashes fit the file. Anybody's certificate does.
* **Trust**: the signer's certificate chains to a trust list, and was valid when the picture was signed.

Only both together make a statement conclusive, in either direction. A valid manifest of an unknown signer that says
"generated" is strong evidence, like any other label; one that says "photographed" is weak, for anybody can make it.
A manifest that does not fit its file has been tampered with or was lost in a conversion; it speaks for neither side.

Verification is offline. Manifests that lie elsewhere, revocation (OCSP) and external assertions are not fetched: a
request would tell a stranger, named by the upload, that the picture is being examined here. What would have been
fetched is listed.

The trust list is a deployment's own (a setting, with its date) or the snapshot that the verifier carries (`TRUST_LIST`,
with its date): the official C2PA trust list and C2PA time-stamping list. The snapshot carries IPTC's list of verified
news publishers as well; signatures that are trusted by that list alone are named so, and count as those of an unknown
signer (`OTHER_LISTS_SERIALS`).

References: C2PA Technical Specification 2.4, chapters 15 (validation) and 18 (assertions); IPTC NewsCodes, Digital
    Source Type.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import encypher_c2pa

from services.common.detection import Applicability, Direction, Evidence, Finding, Question, Strength, Technique
from services.common.images import Picture
from services.passive._metadata import as_json, clean
from services.passive.detectors import registry

__all__ = ["PACKAGED", "Manifest", "Provenance", "TrustList", "detect_provenance", "explain_code", "judge", "verify"]

TRUST_LIST: Final = "C2PA trust list and C2PA TSA trust list, as carried by encypher-c2pa 1.7.1"
TRUST_LIST_DATE: Final = "2026-09-24"
"""Date of the snapshot, as its package states it."""

OTHER_LISTS_SERIALS: Final = frozenset(
    {
        0x481DF1E4883D37FF1F86132B,
        0x091A4B56C70FA3130AE7B7C5,
        0x5280B6638598D57A133C9D8B,
        0x5457025C53F6F04FA920825F1A8C411C9C294827,
        0x55F90564F04DC22363D2A4AFCF1760DF90A428F4,
        0x25F29DB1D088F09218DC655224BEC8970E6955C1,
        0x047BFAC8AA3A1153BEFE21A1A492B95F,
        0x4CA9142514A26B467615597BEB0D94BC5988A744,
        0x576B3EB767B2723EBBDB47F9,
        0x60AF39B3E8AAD30139B8FF06,
        0x2234F7D36F46BA8E6216EFD9,
        0x56FCEDE2E6B366302047EC94,
        0x4F3B4E5143C17CED154B6999,
        0x43283F3F05561E2EFAA6E557,
        0x7B5A4F3930C21BB93CA66127,
        0x768098F1AC5852E8E1764773,
        0x2EEA8BAFF63905790AFEEAEDC8BD9D6BB1D56856,
        0x7884AB242392BA1453E28305,
        0x60E19F17D62DEF4250A95814,
        0x7707F82FE89B47FAB638DAC9,
    }
)
"""Serial numbers of the signing certificates on IPTC's list of verified news publishers in that snapshot."""

MAX_SHOWN: Final = 40
"""Most manifests, actions, ingredients and codes that are listed."""
MAX_MANIFESTS: Final = 500
"""Most manifests of a store that are looked at; the verifier has limits of its own."""

GENERATED_TYPES: Final = frozenset({"trainedalgorithmicmedia"})
PARTLY_GENERATED_TYPES: Final = frozenset({"compositewithtrainedalgorithmicmedia", "compositesynthetic"})
"""IPTC's algorithmicMedia is drawn by a formula, its algorithmicallyEnhanced is photographed: neither counts."""
CAPTURED_TYPES: Final = frozenset({"digitalcapture", "computationalcapture"})
HARMLESS_ACTIONS: Final = frozenset(
    f"c2pa.{name}"
    for name in ("created", "published", "transcoded", "converted", "repackaged", "cropped", "resized", "orientation")
)
"""Actions that leave what was photographed as it was; a capture signature with any other one is not conclusive."""

CODES: Final[Mapping[str, str]] = {
    "algorithm.deprecated": "A hash or signature algorithm is used that is no longer recommended.",
    "algorithm.unsupported": "A hash or signature algorithm is used that is not known.",
    "assertion.accessible": "A statement of the manifest that lies elsewhere could be read.",
    "assertion.action.ingredientMismatch": "An action names an ingredient that does not fit.",
    "assertion.action.malformed": "An action is not recorded as the standard demands.",
    "assertion.action.redacted": "An action was removed from a manifest, which is forbidden.",
    "assertion.action.redactionMismatch": "An action tells of a removal that does not fit.",
    "assertion.alternativeContentRepresentation.malformed": "The record of another version of the picture is broken.",
    "assertion.bmffHash.malformed": "The record of the file's hash is broken.",
    "assertion.bmffHash.match": "The file's content is the one that was signed.",
    "assertion.bmffHash.mismatch": "The file was changed after it was signed.",
    "assertion.boxesHash.malformed": "The record of the file's hash is broken.",
    "assertion.boxesHash.match": "The file's content is the one that was signed.",
    "assertion.boxesHash.mismatch": "The file was changed after it was signed.",
    "assertion.boxesHash.unknownBox": "The file holds parts that the signature does not know.",
    "assertion.cbor.invalid": "A statement of the manifest cannot be read.",
    "assertion.cloud-data.actions": "An update of the manifest keeps its actions elsewhere, which is forbidden.",
    "assertion.cloud-data.hardBinding": "What ties the manifest to the file lies elsewhere, which is forbidden.",
    "assertion.cloud-data.labelMismatch": "A statement that lies elsewhere is not the one that is named.",
    "assertion.cloud-data.malformed": "The reference to a statement that lies elsewhere is broken.",
    "assertion.collectionHash.incorrectFileCount": "The files that were signed together are more or fewer than signed.",
    "assertion.collectionHash.invalidURI": "The list of files that were signed together names one that cannot be.",
    "assertion.collectionHash.malformed": "The record of the files that were signed together is broken.",
    "assertion.collectionHash.match": "The files that were signed together are the ones that were signed.",
    "assertion.collectionHash.mismatch": "One of the files that were signed together was changed.",
    "assertion.dataHash.additionalExclusionsPresent": "Parts of the file are left out of the hash.",
    "assertion.dataHash.malformed": "The record of the file's hash is broken.",
    "assertion.dataHash.match": "The file's content is the one that was signed.",
    "assertion.dataHash.mismatch": "The file was changed after it was signed.",
    "assertion.dataHash.redacted": "What ties the manifest to the file was removed.",
    "assertion.duplicate": "The manifest holds a statement twice that may be there once.",
    "assertion.externalReference.malformed": "The reference to something outside the file is broken.",
    "assertion.externalReference.notRetrieved": "Something outside the file is named, and was not fetched.",
    "assertion.hashedURI.match": "A statement of the manifest is the one that was signed.",
    "assertion.hashedURI.mismatch": "A statement of the manifest was changed after it was signed.",
    "assertion.inaccessible": "A statement of the manifest lies elsewhere and was not fetched.",
    "assertion.ingredient.malformed": "The record of an ingredient is broken.",
    "assertion.invalid": "A statement of the manifest is not formed as the standard demands.",
    "assertion.json.invalid": "A statement of the manifest cannot be read.",
    "assertion.metadata.disallowed": "The manifest states metadata of a kind that it may not state.",
    "assertion.missing": "A statement that the manifest names is missing.",
    "assertion.multiAssetHash.malformed": "The record of the file's parts is broken.",
    "assertion.multiAssetHash.match": "The file's parts are the ones that were signed.",
    "assertion.multiAssetHash.mismatch": "A part of the file was changed after it was signed.",
    "assertion.multiAssetHash.missingPart": "A part of the file that was signed is missing.",
    "assertion.multipleHardBindings": "The manifest ties itself to the file more than once.",
    "assertion.notRedacted": "A statement that should have been removed is still there.",
    "assertion.outsideManifest": "A statement lies outside the manifest.",
    "assertion.selfRedacted": "The manifest removes a statement of its own.",
    "assertion.timestamp.malformed": "The record of a time stamp is broken.",
    "assertion.undeclared": "The manifest holds a statement that it does not declare.",
    "claim.cbor.invalid": "The manifest's claim cannot be read.",
    "claim.generatorInfoMissing": "The manifest does not say which program wrote it.",
    "claim.hardBindings.missing": "Nothing ties the manifest to this file.",
    "claim.malformed": "The manifest's claim is not formed as the standard demands.",
    "claim.missing": "The manifest has no claim.",
    "claim.multiple": "The manifest has more than one claim.",
    "claim.specVersionNotSemver": "The manifest states the standard's version in a form that it does not have.",
    "claimSignature.insideValidity": "The certificate was valid when the manifest was signed.",
    "claimSignature.mismatch": "The signature does not fit the manifest: one of them was changed.",
    "claimSignature.missing": "The manifest is not signed.",
    "claimSignature.outsideValidity": "The certificate was not valid at the time that counts for the signature.",
    "claimSignature.validated": "The signature fits the manifest.",
    "general.error": "The verifier could not finish.",
    "hashedURI.mismatch": "A part of the manifest was changed after it was signed.",
    "hashedURI.missing": "A part that the manifest names is missing.",
    "ingredient.claimSignature.mismatch": "The signature of an ingredient does not fit its manifest.",
    "ingredient.claimSignature.missing": "The manifest of an ingredient is not signed.",
    "ingredient.claimSignature.validated": "The signature of an ingredient fits its manifest.",
    "ingredient.graphLimitExceeded": "The ingredients are more, or nested deeper, than is looked at.",
    "ingredient.hashedURI.mismatch": "The record of an ingredient was changed after it was signed.",
    "ingredient.legacyClaimHash": "An ingredient is tied to its manifest in an older way.",
    "ingredient.malformed": "The record of an ingredient is broken.",
    "ingredient.manifest.mismatch": "The manifest of an ingredient was changed.",
    "ingredient.manifest.missing": "The manifest of an ingredient is missing.",
    "ingredient.manifest.validated": "The manifest of an ingredient is the one that was signed.",
    "ingredient.unknownProvenance": "An ingredient has no manifest: where it comes from is not known.",
    "manifest.compressed.invalid": "A compressed manifest cannot be unpacked.",
    "manifest.inaccessible": "The manifest lies elsewhere and was not fetched.",
    "manifest.invalid": "The manifest is not formed as the standard demands.",
    "manifest.multipleParents": "The manifest names more than one picture that it was made from.",
    "manifest.timestamp.invalid": "A manifest for a time stamp holds what it may not hold.",
    "manifest.timestamp.wrongParents": "A manifest for a time stamp does not name what it stamps.",
    "manifest.unknownProvenance": "The manifest does not say where the picture comes from.",
    "manifest.update.invalid": "An update of the manifest holds what an update may not hold.",
    "manifest.update.wrongParents": "An update of the manifest does not name what it updates.",
    "signingCredential.expired": "The certificate had expired at the time that counts for the signature.",
    "signingCredential.invalid": "The certificate is not one for signing manifests.",
    "signingCredential.ocsp.inaccessible": "Whether the certificate was revoked could not be asked.",
    "signingCredential.ocsp.notRevoked": "The certificate was not revoked when the manifest was signed.",
    "signingCredential.ocsp.revoked": "The certificate was revoked.",
    "signingCredential.ocsp.skipped": "Whether the certificate was revoked was not asked: nothing is fetched.",
    "signingCredential.ocsp.unknown": "The authority does not know whether the certificate was revoked.",
    "signingCredential.revoked": "The certificate was revoked.",
    "signingCredential.trusted": "The certificate chains to the trust list.",
    "signingCredential.untrusted": "The certificate does not chain to the trust list: anybody can make such a one.",
    "timeOfSigning.insideValidity": "The certificate was valid at the time of signing.",
    "timeOfSigning.outsideValidity": "The certificate was not valid at the time of signing.",
    "timeStamp.credentialInvalid": "The certificate of the time stamp is not one for time stamps.",
    "timeStamp.malformed": "The time stamp is broken.",
    "timeStamp.mismatch": "The time stamp belongs to another signature.",
    "timeStamp.outsideValidity": "The certificate of the time stamp was not valid at that time.",
    "timeStamp.trusted": "The authority of the time stamp chains to the trust list.",
    "timeStamp.untrusted": "The authority of the time stamp does not chain to the trust list.",
    "timeStamp.validated": "The time stamp belongs to this signature.",
}
"""What C2PA's validation codes (specification 2.4, 15.2) mean, in words."""

_TRUSTED: Final = "valid_for_supplied_material"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustList:
    """Whose signatures are trusted.

    Attributes:
        name, date: shown beside every verdict.
        anchors, time_anchors: PEM certificates of signers and of time-stamping authorities; empty for none.
        packaged: whether the verifier's own snapshot counts too.
    """

    name: str
    date: str
    anchors: str = ""
    time_anchors: str = ""
    packaged: bool = False


PACKAGED: Final = TrustList(name=TRUST_LIST, date=TRUST_LIST_DATE, packaged=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest: who made it, what was done, what it was made from. All text is cleaned.

    Attributes:
        label: its identifier in the store.
        generator: the program that wrote it.
        signer, issuer: names in its certificate; serial: that certificate's number.
        title: of the picture.
        actions: {"action", "source_type" (last part of the URI, lower case), "agent", "description"} each.
        ingredients: {"title", "relationship", "manifest" (label, or ""), "opened" ("yes" or "")} each.
    """

    label: str
    generator: str = ""
    signer: str = ""
    issuer: str = ""
    serial: int = 0
    title: str = ""
    actions: tuple[Mapping[str, str], ...] = ()
    ingredients: tuple[Mapping[str, str], ...] = ()

    def source_types(self) -> set[str]:
        """The digital source types of its actions."""
        return {action["source_type"] for action in self.actions if action["source_type"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What the verifier found, in our words.

    Attributes:
        intact: the signature fits the manifest, and the manifest fits the file.
        trusted: intact, no complaint of any kind, and the signer chains to the trust list.
        other_list: the signer is trusted by another list than the official one.
        active: the manifest that speaks for the file; None if the store names none.
        manifests: all, by label; the active one included.
        codes: (success, informational or failure; code; the verifier's own words).
        not_fetched: what lies elsewhere: {"kind", "uri"}.
        trust: the list that was applied.
    """

    intact: bool
    trusted: bool
    other_list: bool = False
    active: Manifest | None = None
    manifests: Mapping[str, Manifest] = field(default_factory=dict)
    codes: tuple[tuple[str, str, str], ...] = ()
    not_fetched: tuple[Mapping[str, str], ...] = ()
    trust: TrustList = PACKAGED

    def origins(self) -> Iterator[Manifest]:
        """The active manifest, and those of the pictures that its picture was made from as a whole."""
        todo, seen = [self.active], set[str]()
        while todo:
            manifest = todo.pop(0)
            if manifest is None or manifest.label in seen:
                continue
            seen.add(manifest.label)
            yield manifest
            todo += [
                self.manifests.get(item["manifest"])
                for item in manifest.ingredients
                if item["relationship"] == "parentOf" or item["opened"]
            ]


def explain_code(code: str, otherwise: str = "") -> str:
    """A validation code in words; one that is not known, in the verifier's own."""
    return CODES.get(code) or clean(otherwise or code)


def verify(content: bytes, media_type: str, *, trust: TrustList = PACKAGED, at: str | None = None) -> Provenance | None:
    """Verifies a file's manifest offline; None if it has none, nor names one elsewhere.

    Args:
        content: the file.
        media_type: "image/jpeg", "image/png", "image/webp" or "image/gif".
        trust: whose signatures count as trusted.
        at: the time (RFC 3339) to judge certificates by that carry no trusted time stamp; now by default.

    Raises:
        ValueError: the verifier does not read such a file, or gave up.
    """
    options = {
        "trust_pem": trust.anchors or None,
        "tsa_trust_pem": trust.time_anchors or None,
        "no_default_trust": not trust.packaged,
        "validation_time": at,
        # Said out loud, so that no variable of the environment can say otherwise.
        "online": False,
        "telemetry": {"enabled": False, "endpoint": None, "sdk_name": "python"},
    }
    try:
        # Not `encypher_c2pa.verify`: that one writes the answer on telemetry to the home directory, every time.
        answer: str = encypher_c2pa.verify_bytes(content, media_type, json.dumps(options))  # type: ignore[attr-defined]
        report = json.loads(answer)
    except (ValueError, RecursionError, RuntimeError, TypeError, OSError) as error:
        raise ValueError("the manifest cannot be verified") from error
    except BaseException as error:
        # A defect of the native code arrives as PyO3's PanicException, which is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError("the manifest cannot be verified") from error
    return _read_report(report, trust)


def judge(found: Provenance) -> Evidence:
    """What a manifest says on "was it generated?", weighed by its integrity and trust; see the module's docstring."""
    origins = list(found.origins())
    types = set().union(*(manifest.source_types() for manifest in origins)) if origins else set()
    anywhere = set().union(*(manifest.source_types() for manifest in found.manifests.values()), types)
    signer = (found.active.signer or found.active.issuer or "an unnamed signer") if found.active else "nobody"
    direction, strength, says = Direction.INDETERMINATE, Strength.WEAK, "says nothing on how the picture came about"
    if types & GENERATED_TYPES:
        direction = Direction.AI_GENERATED
        says = "says that the picture was generated by a trained model"
        itself = found.active is not None and bool(found.active.source_types() & GENERATED_TYPES)
        if found.trusted:
            # The trust list vouches for the signer of the active manifest, not for those of its ingredients.
            strength = Strength.CONCLUSIVE if itself else Strength.STRONG
        else:
            strength = Strength.STRONG if found.intact else Strength.MODERATE
    elif anywhere & (GENERATED_TYPES | PARTLY_GENERATED_TYPES):
        direction, strength = Direction.AI_GENERATED, Strength.MODERATE if found.intact else Strength.WEAK
        says = "says that parts of the picture were generated"
    elif found.intact and types & CAPTURED_TYPES:
        direction = Direction.AUTHENTIC
        says = "says that the picture was taken by a camera"
        strength = Strength.CONCLUSIVE if found.trusted and _only_captured(found) else Strength.WEAK
    if found.trusted:
        state = f"Intact C2PA manifest, signed by {signer}, who is on the trust list of {found.trust.date}"
    elif found.intact:
        listed = "is on another list than C2PA's" if found.other_list else "is not on the trust list"
        state = f"Valid C2PA manifest, signer not trusted ({signer} {listed})"
    else:
        state = f"Broken C2PA manifest ({_first_failure(found)})"
    return Evidence(
        source="c2pa",
        finding=f"{state}; it {says}.",
        direction=direction,
        strength=strength,
        analyzer="provenance",
        confidence=0.99 if found.trusted else 0.9 if found.intact else 0.6,
        details={
            "integrity": "intact" if found.intact else "broken",
            "trust": _trust_word(found),
            "trust_list": found.trust.name,
            "trust_list_date": found.trust.date,
            "signer": signer,
            "source_types": sorted(types),
        },
    )


@registry.detector(
    name="provenance",
    version="1",
    title="Content Credentials (C2PA)",
    question=Question.GENERATED,
    techniques=(Technique.GENERATED,),
    papers=("C2PA Technical Specification 2.4",),
    parameters={"trust_list": TRUST_LIST, "trust_list_date": TRUST_LIST_DATE, "online": False},
)
def detect_provenance(picture: Picture, *, trust: TrustList = PACKAGED) -> Finding:
    """Verifies the picture's C2PA manifest offline: integrity and trust apart, each validation code in words.

    Conclusive only where the signature is intact and chains to the trust list. Does not apply to files without a
    manifest: most have none, and most ways of sending a picture remove it.
    """
    try:
        found = verify(picture.file, picture.info.media_type, trust=trust)
    except ValueError:
        return Finding.failed("The verifier gave up on the file's C2PA manifest.")
    if found is None:
        return Finding.not_applicable("The file has no C2PA manifest. That proves nothing: most files have none.")
    if found.active is None:
        return Finding(
            applicability=Applicability.APPLIED,
            score=0.0,
            explanation="The file names a C2PA manifest that lies elsewhere, or one that cannot be read. Nothing was "
            "fetched: no request leaves this machine because a file says so.",
            details=_details(found),
        )
    evidence = judge(found)
    towards = evidence.direction is Direction.AI_GENERATED
    score = {Strength.CONCLUSIVE: 1.0, Strength.STRONG: 1.0, Strength.MODERATE: 0.5}.get(evidence.strength, 0.2)
    return Finding(
        applicability=Applicability.APPLIED,
        score=score if towards else 0.0,
        explanation=evidence.finding,
        technique=Technique.GENERATED if towards else None,
        details=_details(found),
        evidence=(evidence,),
    )


# --- Reading the verifier's report ---


def _read_report(report: Mapping[str, Any], trust: TrustList) -> Provenance | None:
    network = _mapping(report.get("network"))
    needed = [_mapping(item) for item in _sequence(network.get("needed"))]
    not_fetched = tuple(
        {
            "kind": clean(str(item.get("kind", ""))),
            "uri": clean(str(item.get("uri") or item.get("responder_url") or "")),
        }
        for item in needed[:MAX_SHOWN]
    )
    results = _mapping(report.get("validation_results"))
    codes = tuple(
        (kind, clean(str(_mapping(item).get("code", ""))), clean(str(_mapping(item).get("explanation", ""))))
        for kind in ("failure", "informational", "success")
        for item in _sequence(results.get(kind))
    )
    store = _mapping(report.get("manifest_report"))
    manifests = {
        label: _manifest(label, _mapping(raw))
        for label, raw in list(_mapping(store.get("manifests")).items())[:MAX_MANIFESTS]
    }
    active = manifests.get(str(store.get("active_manifest")))
    if not report.get("present") and not not_fetched and not any(kind == "failure" for kind, _, _ in codes):
        return None
    intact = active is not None and report.get("integrity") == "valid" and report.get("signature") == "valid"
    listed = _mapping(report.get("trust")).get("status") == _TRUSTED
    other = listed and active is not None and active.serial in OTHER_LISTS_SERIALS
    return Provenance(
        intact=intact,
        trusted=intact and listed and not other and not any(kind == "failure" for kind, _, _ in codes),
        other_list=other,
        active=active,
        manifests=manifests,
        codes=codes,
        not_fetched=not_fetched,
        trust=trust,
    )


def _manifest(label: str, raw: Mapping[str, Any]) -> Manifest:
    signature = _mapping(raw.get("signature_info"))
    serial = str(signature.get("cert_serial_number", ""))
    actions: list[Mapping[str, str]] = []
    ingredients: list[Mapping[str, str]] = []
    for assertion in map(_mapping, _sequence(raw.get("assertions"))):
        name, data = str(assertion.get("label", "")), _mapping(assertion.get("data"))
        if name.startswith("c2pa.actions"):
            actions += [_action(_mapping(item)) for item in _sequence(data.get("actions"))]
        elif name.startswith("c2pa.ingredient"):
            ingredients.append(_ingredient(data))
    generators = [_mapping(item) for item in _sequence(raw.get("claim_generator_info"))]
    names = [f"{item.get('name', '')} {item.get('version', '')}".strip() for item in generators]
    # "Opened" alone tells that the one ingredient is what the picture was made from, whatever it is called.
    if len(ingredients) == 1 and any(action["action"] == "c2pa.opened" for action in actions):
        ingredients = [{**ingredients[0], "opened": "yes"}]
    return Manifest(
        label=label,
        generator=clean(", ".join(names) or str(raw.get("claim_generator") or "")),
        signer=clean(str(signature.get("common_name") or "")),
        issuer=clean(str(signature.get("issuer") or "")),
        serial=int(serial) if serial.isdecimal() and len(serial) < 80 else 0,
        title=clean(str(raw.get("title") or "")),
        actions=tuple(actions),
        ingredients=tuple(ingredients),
    )


def _action(raw: Mapping[str, Any]) -> Mapping[str, str]:
    agent = raw.get("softwareAgent")
    agent = agent.get("name", "") if isinstance(agent, Mapping) else agent
    source_type = str(raw.get("digitalSourceType") or "").rstrip("/").rpartition("/")[2]
    description = raw.get("description") or _mapping(raw.get("parameters")).get("description")
    return {
        "action": clean(str(raw.get("action", "")), 80),
        "source_type": clean(source_type, 80).lower(),
        "agent": clean(str(agent or ""), 80),
        "description": clean(str(description or ""), 160),
    }


def _ingredient(data: Mapping[str, Any]) -> Mapping[str, str]:
    reference = _mapping(data.get("activeManifest") or data.get("c2pa_manifest"))
    _, _, label = str(reference.get("url", "")).partition("/c2pa/")
    return {
        "title": clean(str(data.get("dc:title") or data.get("title") or "")),
        "relationship": clean(str(data.get("relationship", "")), 40),
        "manifest": label.partition("/")[0],
        "opened": "",
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


# --- Words ---


def _only_captured(found: Provenance) -> bool:
    """Whether the active manifest itself is a capture, with nothing else in the store and no action that alters it."""
    active = found.active
    return (
        active is not None
        and not active.ingredients
        and len(found.manifests) == 1
        and active.source_types() <= CAPTURED_TYPES
        and {action["action"] for action in active.actions} <= HARMLESS_ACTIONS
        and any(action["action"] == "c2pa.created" and action["source_type"] for action in active.actions)
    )


def _trust_word(found: Provenance) -> str:
    if found.trusted:
        return "trusted"
    return "not evaluated, for the manifest is broken" if not found.intact else "signer not trusted"


def _first_failure(found: Provenance) -> str:
    codes = [(code, words) for kind, code, words in found.codes if kind == "failure"]
    first = next(((c, w) for c, w in codes if not c.startswith("signingCredential")), codes[0] if codes else ("", ""))
    return explain_code(*first).rstrip(".").lower() if first[0] else "for a reason that is not given"


def _details(found: Provenance) -> dict[str, Any]:
    codes: dict[tuple[str, str], str] = {}
    for kind, code, words in found.codes:
        codes.setdefault((kind, code), explain_code(code, words))
    details = {
        "integrity": "intact" if found.intact else "broken",
        "trust": _trust_word(found),
        "trust_list": found.trust.name,
        "trust_list_date": found.trust.date,
        "codes": [
            {"kind": kind, "code": code, "meaning": meaning}
            for (kind, code), meaning in list(codes.items())[:MAX_SHOWN]
        ],
        "not_fetched": list(found.not_fetched),
        "manifests": [
            {
                "active": manifest is found.active,
                "title": manifest.title,
                "generator": manifest.generator,
                "signer": manifest.signer,
                "issuer": manifest.issuer,
                "actions": [dict(action) for action in manifest.actions[:MAX_SHOWN]],
                "ingredients": [
                    {"title": item["title"], "relationship": item["relationship"], "signed": bool(item["manifest"])}
                    for item in manifest.ingredients[:MAX_SHOWN]
                ],
            }
            for manifest in list(found.manifests.values())[:MAX_SHOWN]
        ],
    }
    # `as_json` bounds depth and length once more: a manifest is as hostile as any other part of the file.
    bounded: dict[str, Any] = as_json(details)
    return bounded
