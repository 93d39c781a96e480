"""Manifests of others are judged: intact or broken, trusted or not; and nothing is ever fetched."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import skimage.data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from services.common.convert import struct as to_struct
from services.common.detection import Applicability, Direction, Finding, Strength
from services.common.images import Picture, decode_image
from services.passive.detectors import registry
from services.passive.detectors.provenance import (
    CODES,
    OTHER_LISTS_SERIALS,
    PACKAGED,
    TRUST_LIST_DATE,
    Manifest,
    Provenance,
    TrustList,
    detect_provenance,
    explain_code,
    judge,
    verify,
)
from services.passive.settings import PassiveSettings

FIXTURES = Path(__file__).resolve().parents[4] / "shared" / "fixtures" / "c2pa"
CAMERAS = Path(__file__).resolve().parents[4] / "shared" / "data" / "dev" / "camera_jpeg"
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="the fixtures of other projects are not here")


def jpeg(**options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(skimage.data.coffee()).resize((300, 200)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def examine(file: bytes) -> Finding:
    finding = detect_provenance(decode_image(file))
    to_struct(finding.details)
    return finding


def test_no_manifest_is_no_evidence():
    for file in (jpeg(), Picture.from_array(skimage.data.chelsea()).file):
        finding = examine(file)
        assert finding.applicability is Applicability.NOT_APPLICABLE
        assert not finding.evidence


@needs_fixtures
@pytest.mark.parametrize("name", ["C.jpg", "CA.jpg", "CACA.jpg", "ocsp.jpg"])
def test_a_test_certificate_is_valid_and_its_signer_not_trusted(name: str):
    finding = examine((FIXTURES / name).read_bytes())
    assert finding.details["integrity"] == "intact"
    assert finding.details["trust"] == "signer not trusted"
    assert finding.details["trust_list_date"] == TRUST_LIST_DATE
    assert "Valid C2PA manifest, signer not trusted" in finding.explanation
    assert finding.evidence[0].strength is not Strength.CONCLUSIVE
    assert any(code["code"] == "signingCredential.untrusted" for code in finding.details["codes"])


@needs_fixtures
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("E-sig-CA.jpg", "signature does not fit"),
        ("XCA.jpg", "changed after it was signed"),
        ("update_manifest.jpg", "not formed as the standard demands"),
    ],
)
def test_a_broken_manifest_is_told_with_its_reason_and_speaks_for_neither_side(name: str, reason: str):
    finding = examine((FIXTURES / name).read_bytes())
    assert finding.details["integrity"] == "broken"
    assert reason in finding.explanation
    assert [(item.direction, item.strength) for item in finding.evidence] == [(Direction.INDETERMINATE, Strength.WEAK)]
    assert finding.score == 0.0


@needs_fixtures
@pytest.mark.parametrize("name", ["no_manifest.jpg", "mars.webp"])
def test_files_without_a_manifest(name: str):
    assert examine((FIXTURES / name).read_bytes()).applicability is Applicability.NOT_APPLICABLE


@needs_fixtures
def test_a_picture_made_from_a_generated_one_is_strong_evidence():
    finding = examine((FIXTURES / "ocsp.jpg").read_bytes())
    (piece,) = finding.evidence
    assert (piece.source, piece.direction, piece.strength) == ("c2pa", Direction.AI_GENERATED, Strength.STRONG)
    assert finding.score == 1.0
    active, ingredient = finding.details["manifests"]
    assert active["ingredients"][0]["signed"]
    assert ingredient["actions"][0]["source_type"] == "trainedalgorithmicmedia"
    assert ingredient["actions"][0]["agent"] == "Adobe Firefly"
    assert [item["kind"] for item in finding.details["not_fetched"]] == ["ocsp"]


@needs_fixtures
def test_a_trust_list_that_names_the_signer_makes_it_trusted_and_only_what_is_intact():
    content = (FIXTURES / "CA.jpg").read_bytes()
    (first,) = [match for match in [re.search(rb"\x30\x82(..)\x30\x82", content, re.DOTALL)] if match]
    der = content[first.start() : first.start() + int.from_bytes(first[1], "big") + 4]
    trust = TrustList(name="a test list", date="2026-01-01", anchors=ssl.DER_cert_to_PEM_cert(der))
    known = verify(content, "image/jpeg", trust=trust, at="2026-01-01T00:00:00Z")
    assert known is not None
    assert known.trusted
    assert judge(known).details["trust_list"] == "a test list"
    assert "on the trust list of 2026-01-01" in judge(known).finding
    for name in ("XCA.jpg", "E-sig-CA.jpg", "ocsp.jpg"):
        other = verify((FIXTURES / name).read_bytes(), "image/jpeg", trust=trust, at="2026-01-01T00:00:00Z")
        assert other is not None
        assert not other.trusted
    expired = verify(content, "image/jpeg", trust=trust, at="2035-01-01T00:00:00Z")
    assert expired is not None
    assert not expired.trusted


# --- A deployment's own trust list ---


@pytest.fixture
def settings_of(monkeypatch: pytest.MonkeyPatch):
    def load(**variables: object) -> PassiveSettings:
        for name, value in variables.items():
            monkeypatch.setenv(f"PENTIMENTO_{name.upper()}", str(value))
        return PassiveSettings()

    return load


@needs_fixtures
def test_a_deployments_own_trust_list_is_used_and_named(settings_of, tmp_path: Path):
    assert settings_of().trust_list is None
    anchors = tmp_path / "newsroom.pem"
    shutil.copy(FIXTURES / "trust" / "C2PA-TRUST-LIST.pem", anchors)
    trust = settings_of(c2pa_trust_list=anchors, c2pa_trust_list_date="2026-05-04").trust_list
    assert trust is not None
    assert (trust.name, trust.date, trust.packaged) == ("newsroom.pem", "2026-05-04", False)
    shown = {"trust_list": trust.name, "trust_list_date": trust.date}
    spec, examine_with = registry.configured("provenance", shown, trust=trust)["provenance"]
    assert spec.parameters == {**shown, "online": False}
    finding = examine_with(decode_image((FIXTURES / "CA.jpg").read_bytes()))
    assert finding.details["trust_list"] == "newsroom.pem"
    assert finding.details["trust"] == "signer not trusted"
    # The registry itself stays as it was.
    assert registry["provenance"][0].parameters["trust_list_date"] == TRUST_LIST_DATE


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"c2pa_trust_list": "anchors.pem"}, "TRUST_LIST_DATE must say"),
        ({"c2pa_trust_list_date": "2026-01-01"}, "TRUST_LIST is not set"),
        ({"c2pa_trust_list": "missing.pem", "c2pa_trust_list_date": "2026-01-01"}, "cannot be read"),
        ({"c2pa_trust_list": "text.pem", "c2pa_trust_list_date": "2026-01-01"}, "no certificate in PEM form"),
        ({"c2pa_trust_list": "anchors.pem", "c2pa_trust_list_date": "yesterday"}, "date"),
    ],
)
def test_a_trust_list_that_cannot_be_is_refused_at_start(settings_of, tmp_path, monkeypatch, variables, complaint):
    monkeypatch.chdir(tmp_path)
    Path("anchors.pem").write_text("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n")
    Path("text.pem").write_text("a letter")
    with pytest.raises(ValueError, match=complaint):
        settings_of(**variables)


# --- Judging ---


def made(kind: str, action: str = "c2pa.created", label: str = "a", **facts) -> Manifest:
    step = {"action": action, "source_type": kind, "agent": "", "description": ""}
    return Manifest(label=label, signer="Camera & Co", actions=(step,), **facts)


def known(active: Manifest, *others: Manifest, intact: bool = True, trusted: bool = True) -> Provenance:
    manifests = {manifest.label: manifest for manifest in (active, *others)}
    return Provenance(intact=intact, trusted=trusted, active=active, manifests=manifests)


def ingredient(relationship: str, opened: str = "") -> dict[str, str]:
    return {"title": "x", "relationship": relationship, "manifest": "b", "opened": opened}


GENERATED, CAPTURED, PARTLY = "trainedalgorithmicmedia", "digitalcapture", "compositewithtrainedalgorithmicmedia"
PARENT, PART = (ingredient("parentOf"),), (ingredient("componentOf"),)
AI, REAL, NEITHER = Direction.AI_GENERATED, Direction.AUTHENTIC, Direction.INDETERMINATE


@pytest.mark.parametrize(
    ("found", "direction", "strength"),
    [
        (known(made(GENERATED)), AI, Strength.CONCLUSIVE),
        (known(made(GENERATED), trusted=False), AI, Strength.STRONG),
        (known(made(GENERATED), trusted=False, intact=False), AI, Strength.MODERATE),
        (known(made("", ingredients=PARENT), made(GENERATED, label="b")), AI, Strength.STRONG),
        (known(made("", ingredients=PART), made(GENERATED, label="b")), AI, Strength.MODERATE),
        (known(made(PARTLY, "c2pa.edited")), AI, Strength.MODERATE),
        (known(made(CAPTURED)), REAL, Strength.CONCLUSIVE),
        (known(made(CAPTURED), trusted=False), REAL, Strength.WEAK),
        (known(made(CAPTURED), trusted=False, intact=False), NEITHER, Strength.WEAK),
        (known(made(CAPTURED, "c2pa.edited")), REAL, Strength.WEAK),
        (known(made("", ingredients=PARENT), made(CAPTURED, label="b")), REAL, Strength.WEAK),
        (known(made(CAPTURED, ingredients=PART), made(GENERATED, label="b")), AI, Strength.MODERATE),
        (known(made("")), NEITHER, Strength.WEAK),
        (known(made("algorithmicmedia")), NEITHER, Strength.WEAK),
    ],
)
def test_only_intact_and_trusted_is_conclusive(found: Provenance, direction: Direction, strength: Strength):
    piece = judge(found)
    assert (piece.direction, piece.strength) == (direction, strength)


def test_ingredients_that_name_each_other_end():
    one = made("", ingredients=(ingredient("parentOf"),))
    other = made("", label="b", ingredients=({**ingredient("parentOf"), "manifest": "a"},))
    assert [manifest.label for manifest in known(one, other).origins()] == ["a", "b"]


def report(serial: int, *, failure: str = "") -> str:
    return json.dumps({
        "present": True,
        "integrity": "valid",
        "signature": "valid",
        "trust": {"status": "valid_for_supplied_material"},
        "validation_results": {"failure": [{"code": failure, "explanation": "x"}] if failure else []},
        "manifest_report": {
            "active_manifest": "a",
            "manifests": {"a": {"signature_info": {"cert_serial_number": str(serial)}, "assertions": "nonsense"}},
        },
    })  # fmt: skip


def test_other_lists_and_any_complaint_are_not_trust(monkeypatch: pytest.MonkeyPatch):
    answers = iter([report(1), report(min(OTHER_LISTS_SERIALS)), report(1, failure="claimSignature.outsideValidity")])
    monkeypatch.setattr("encypher_c2pa.verify_bytes", lambda *_: next(answers))
    results = [verify(b"", "image/jpeg") for _ in range(3)]
    assert [found is not None and found.trusted for found in results] == [True, False, False]
    assert results[1] is not None
    assert results[1].other_list
    assert "another list" in judge(results[1]).finding


def test_a_verifier_that_breaks_down_is_told(monkeypatch: pytest.MonkeyPatch):
    class PanicException(BaseException):
        pass

    for error in (PanicException(), ValueError("x"), RecursionError()):

        def fail(*_: object, error: BaseException = error) -> str:
            raise error

        monkeypatch.setattr("encypher_c2pa.verify_bytes", fail)
        assert examine(jpeg()).applicability is Applicability.FAILED


VERDICTS = {
    "C.jpg": ("intact", "signer not trusted"),
    "CA.jpg": ("intact", "signer not trusted"),
    "CACA.jpg": ("intact", "signer not trusted"),
    "ocsp.jpg": ("intact", "signer not trusted"),
    "E-sig-CA.jpg": ("broken", "not evaluated, for the manifest is broken"),
    "XCA.jpg": ("broken", "not evaluated, for the manifest is broken"),
    "update_manifest.jpg": ("broken", "not evaluated, for the manifest is broken"),
    "no_manifest.jpg": None,
    "mars.webp": None,
}
"""Integrity and trust; None for a file without a manifest. All signers have test certificates."""


@needs_fixtures
def test_every_fixture_has_its_verdict_and_every_code_its_words():
    files = {path.name: path for path in FIXTURES.iterdir() if path.is_file()}
    assert set(files) == set(VERDICTS)
    for name, verdict in VERDICTS.items():
        finding = examine(files[name].read_bytes())
        if verdict is None:
            assert finding.applicability is Applicability.NOT_APPLICABLE, name
            continue
        assert (finding.details["integrity"], finding.details["trust"]) == verdict, name
        assert finding.details["codes"], name
        for item in finding.details["codes"]:
            assert item["code"] in CODES, name
            assert item["meaning"] == CODES[item["code"]], name
        assert all(manifest["signer"] for manifest in finding.details["manifests"]), name
        assert all(piece.strength is not Strength.CONCLUSIVE for piece in finding.evidence), name


def test_codes_are_explained_in_words():
    for code, meaning in CODES.items():
        assert re.fullmatch(r"[a-z][A-Za-z]+(\.[A-Za-z-]+)+", code)
        assert re.fullmatch(r"[A-Z].*\.", meaning)
    assert "anybody" in explain_code("signingCredential.untrusted")
    assert explain_code("no.such.code", "the verifier's words") == "the verifier's words"


def test_the_trust_list_has_a_date():
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", PACKAGED.date)
    assert replace(PACKAGED, packaged=False).anchors == ""


# --- Nothing leaves the machine ---


@pytest.fixture
def listener() -> Iterator[tuple[int, list[str]]]:
    """A port that notes whoever comes."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.05)
    came: list[str] = []
    done = threading.Event()

    def listen() -> None:
        while not done.is_set():
            try:
                connection, address = server.accept()
            except TimeoutError:
                continue
            came.append(str(address))
            connection.close()

    thread = threading.Thread(target=listen)
    thread.start()
    yield server.getsockname()[1], came
    done.wait(0.3)
    done.set()
    thread.join()
    server.close()
    assert came == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_manifest_that_lies_elsewhere_is_not_fetched(listener, scheme, monkeypatch: pytest.MonkeyPatch):
    port, _ = listener
    # Not even where the environment asks for it.
    monkeypatch.setenv("ENCYPHER_C2PA_ONLINE", "on")
    monkeypatch.setenv("ENCYPHER_C2PA_TELEMETRY", "on")
    url = f"{scheme}://127.0.0.1:{port}/manifest.c2pa"
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:dcterms="http://purl.org/dc/terms/" dcterms:provenance="{url}"/></rdf:RDF></x:xmpmeta>'
    ).encode()
    finding = examine(jpeg(xmp=packet))
    assert finding.applicability is Applicability.APPLIED
    assert not finding.evidence
    assert finding.details["not_fetched"] == [{"kind": "remote_manifest", "uri": url}]


@needs_fixtures
def test_revocation_is_not_asked(listener, monkeypatch: pytest.MonkeyPatch):
    port, came = listener
    monkeypatch.setenv("ENCYPHER_C2PA_ONLINE", "on")
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    # The address in the certificate is as long as one of ours: the certificate breaks, the address stays readable.
    content = (FIXTURES / "ocsp.jpg").read_bytes()
    examine(content)
    ours = f"http://127.0.0.1:{port}".encode().ljust(len(b"http://pki-ocsp.symauth.com"), b"/")
    examine(content.replace(b"http://pki-ocsp.symauth.com", ours))
    assert came == []


# --- Hostile files ---


@needs_fixtures
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["CA.jpg", "CACA.jpg", "ocsp.jpg"]),
    st.lists(st.tuples(st.integers(0, 110_000), st.binary(min_size=1, max_size=8)), min_size=1, max_size=10),
    st.integers(1, 130_000),
)
def test_damaged_manifests_never_crash_it(name: str, changes: list[tuple[int, bytes]], length: int):
    damaged = bytearray((FIXTURES / name).read_bytes())
    for place, value in changes:
        damaged[place : place + len(value)] = value
    for content in (bytes(damaged), bytes(damaged[:length])):
        try:
            found = verify(content, "image/jpeg")
        except ValueError:
            continue
        if found is not None and found.active is not None:
            assert judge(found).strength is not Strength.CONCLUSIVE


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.sampled_from(["image/jpeg", "image/png", "image/webp", "image/gif"]))
def test_no_bytes_crash_it(content: bytes, media_type: str):
    with contextlib.suppress(ValueError):
        verify(content, media_type)


@pytest.mark.skipif(not CAMERAS.is_dir(), reason="the evaluation data is not here")
def test_camera_files_have_no_manifest():
    for path in CAMERAS.iterdir():
        assert examine(path.read_bytes()).applicability is Applicability.NOT_APPLICABLE, path.name
