"""Pentimento's own API through Envoy: policies, streams, identical content, lists, the audit, and its documentation."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import time

import httpx
import psycopg
import pytest
from PIL import Image

from local.postgres import database_url
from local.settings import LocalSettings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def source(content: bytes, name: str = "picture.jpg") -> dict:
    return {"content": base64.b64encode(content).decode(), "filename": name}


def analyze(mesh, content: bytes, name: str = "picture.jpg", **options) -> httpx.Response:
    body = {"image": source(content, name), "options": options}
    return httpx.post(f"{mesh.url}/v1/images:analyze", json=body, timeout=60)


def analysis_of(mesh, content: bytes, name: str = "picture.jpg", **options) -> dict:
    answer = analyze(mesh, content, name, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()


def unseen(content: bytes) -> bytes:
    """The same picture in a file that nobody has sent before."""
    return content + os.urandom(8)


@pytest.fixture(scope="module", autouse=True)
def _versions_are_known(mesh, photograph):
    """The mesh has just started: until all services have told their versions, nothing is repeated."""
    deadline = time.monotonic() + 30
    while not analysis_of(mesh, unseen(photograph))["fingerprint"]:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def events(mesh, body: dict) -> list[dict]:
    with httpx.stream("POST", f"{mesh.url}/v1/images:streamAnalyze", json=body, timeout=120) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


# ---- policies ----


def test_the_request_chooses_how_readily_it_accuses(mesh, forgery):
    balanced = analysis_of(mesh, forgery)
    assert balanced["edit_decision"] == "EDIT_DECISION_EDITED"
    assert balanced["policy"]["preset"] == "POLICY_PRESET_BALANCED"
    (decisive,) = [each for each in balanced["edited"]["contributions"] if each["decisive"]]
    assert decisive["detector"] == "copy_move"
    assert decisive["calibrated"] is True
    strict = analysis_of(mesh, forgery, thresholds={"edited": 5.0})
    assert strict["edit_decision"] == "EDIT_DECISION_POSSIBLY_EDITED"
    assert strict["policy"]["thresholds"]["edited"] == 5.0
    silenced = analysis_of(mesh, forgery, weights={"copy_move": 0.0})
    assert silenced["edit_decision"] == "EDIT_DECISION_NO_EDIT_FOUND"
    likelier = analysis_of(mesh, forgery, prior_edited=0.9)
    assert likelier["edited"]["probability"] > balanced["edited"]["probability"]
    assert likelier["edit_decision"] == balanced["edit_decision"]


def test_the_calibration_is_named_and_nothing_found_is_put_in_numbers(mesh, photograph):
    analysis = analysis_of(mesh, photograph)
    assert analysis["calibration_version"] != "uncalibrated"
    edited = analysis["edited"]
    assert analysis["edit_decision"] == "EDIT_DECISION_NO_EDIT_FOUND"
    assert 0 < edited["miss_rate"] < 1
    assert f"{round(100 * edited['miss_rate'])} in 100 pass" in edited["explanation"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"thresholds": {"edited": 0.1}}, "possibly_edited"),  # below the preset's
        ({"thresholds": {"generated_high": 0.2}}, "generated_high"),
        ({"thresholds": {"generated_high": 0.8, "generated_low": 0.9}}, "generated_low"),
        ({"thresholds": {"edited": 1.0, "possibly_edited": 2.0}}, "possibly_edited"),
        ({"weights": {"copy_move": 1.5}}, "weights"),
        ({"weights": {"No Detector": 1.0}}, "weights"),
        ({"prior_edited": 1.0}, "prior_edited"),
        ({"preset": 17}, "preset"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(mesh, photograph, options, field):
    answer = analyze(mesh, photograph, **options)
    assert answer.status_code == 400, answer.text
    assert field in answer.text


# ---- streams ----


def test_each_finding_comes_before_the_analysis_that_holds_it(mesh, photograph, forgery):
    pictures = [unseen(photograph), b"no picture", unseen(forgery)]
    body = {"images": [source(content, f"{index}.jpg") for index, content in enumerate(pictures)]}
    sent = events(mesh, body)
    assert sent[-1]["done"] == {"analyzed_count": 2, "failed_count": 1}
    (error,) = [event for event in sent if "error" in event]
    assert error["image_index"] == 1
    for index in (0, 2):
        of_picture = [event for event in sent if event["image_index"] == index and "done" not in event]
        assert list(of_picture[-1]) == ["image_index", "analysis"]
        analysis = of_picture[-1]["analysis"]
        streamed = [event["finding"] for event in of_picture if "finding" in event]
        assert sorted(each["provenance"]["detector"] for each in streamed) == [
            each["provenance"]["detector"] for each in analysis["findings"]
        ]
        assert len([event for event in of_picture if "missing" in event]) == len(analysis["missing"])
        by_name = {each["provenance"]["detector"]: each for each in streamed}
        assert by_name["copy_move"]["likelihood_ratio"]["calibrated"] is True
    decisions = {event["image_index"]: event["analysis"]["edit_decision"] for event in sent if "analysis" in event}
    assert decisions == {0: "EDIT_DECISION_NO_EDIT_FOUND", 2: "EDIT_DECISION_EDITED"}


# ---- identical content ----


def test_identical_content_is_answered_from_what_is_stored(mesh, photograph):
    content = unseen(photograph)
    first = analysis_of(mesh, content, "first.jpg")
    second = analysis_of(mesh, content, "second.jpg")
    assert second["reused_from"] == first["name"]
    assert second["name"] != first["name"]
    assert second["filename"] == "second.jpg"
    assert second["fingerprint"] == first["fingerprint"] != ""
    same = ("decision", "edit_decision", "findings", "evidence", "missing", "edited", "generated", "policy", "image")
    assert {key: second[key] for key in same} == {key: first[key] for key in same}
    # Each can be deleted by itself, and what repeats an analysis is not repeated itself.
    assert httpx.delete(f"{mesh.url}/v1/{first['name']}").status_code == 200
    assert httpx.get(f"{mesh.url}/v1/{second['name']}").json()["filename"] == "second.jpg"
    assert analysis_of(mesh, content)["reused_from"] == ""


def test_what_is_different_is_looked_at_anew(mesh, photograph):
    content = unseen(photograph)
    first = analysis_of(mesh, content)
    assert first["reused_from"] == ""
    assert analysis_of(mesh, content, recompute=True)["reused_from"] == ""
    assert analysis_of(mesh, content, preset="POLICY_PRESET_SENSITIVE")["reused_from"] == ""
    assert analysis_of(mesh, content, detectors=["copy_move"])["reused_from"] == ""
    assert analysis_of(mesh, content, include_maps=True)["reused_from"] == ""
    assert analysis_of(mesh, unseen(photograph))["reused_from"] == ""
    assert analysis_of(mesh, content)["reused_from"]


def test_a_stream_repeats_the_findings_too(mesh, photograph):
    content = unseen(photograph)
    first = analysis_of(mesh, content)
    sent = events(mesh, {"images": [source(content)]})
    assert len([event for event in sent if "finding" in event]) == len(first["findings"])
    (analysis,) = [event["analysis"] for event in sent if "analysis" in event]
    assert analysis["reused_from"] == first["name"]


def test_our_networks_for_edited_places_are_asked_by_name_only(mesh, photograph):
    content = unseen(photograph)
    usual = analysis_of(mesh, content)
    asked = analysis_of(mesh, content, detectors=["segment", "classify"])
    names = {finding["provenance"]["detector"] for finding in usual["findings"]}
    assert "generated" in names
    assert not names & {"segment", "classify"}
    assert not {gap["part"] for gap in usual["missing"]} & {"deeplabv3plus", "resnet50"}
    said = {finding["provenance"]["detector"]: finding["applicability"] for finding in asked["findings"]}
    assert said == dict.fromkeys(("segment", "classify"), "APPLICABILITY_APPLIED")


def test_an_animation_is_not_cleared_by_its_first_frame(mesh, photograph):
    frames = [Image.open(io.BytesIO(photograph)), Image.new("RGB", (600, 400))]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", quality=92, save_all=True, append_images=frames[1:], duration=100)
    analysis = analysis_of(mesh, buffer.getvalue(), "animation.webp", recompute=True)
    assert analysis["image"]["frame_count"] == 2
    (gap,) = [gap for gap in analysis["missing"] if gap["reason"] == "NOT_LOOKED_AT"]
    assert gap["message"] == "The picture is an animation of 2 frames, and only the first was looked at."
    assert not analysis["generated"]["coverage_complete"]
    assert not analysis["edited"]["coverage_complete"]
    assert analysis["decision"] != "DECISION_MOSTLY_AUTHENTIC"


# ---- lists and the audit ----


def listed(mesh, **query: str) -> list[str]:
    names, token = [], ""
    while True:
        answer = httpx.get(f"{mesh.url}/v1/analyses", params={"page_size": "2", "page_token": token, **query})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert len(page["analyses"]) <= 2
        names += [item["name"] for item in page["analyses"]]
        token = page["next_page_token"]
        if not token:
            return names


def test_lists_are_filtered_and_paged(mesh, photograph, forgery):
    prefix = f"list-{os.urandom(4).hex()}"
    made = [
        analysis_of(mesh, unseen(content), f"{prefix}-{index}.jpg")
        for index, content in enumerate((photograph, forgery, photograph))
    ]
    names = [each["name"] for each in made]
    assert listed(mesh, filename_prefix=prefix) == names[::-1]
    assert listed(mesh, filename_prefix=prefix, edit_decision="EDIT_DECISION_EDITED") == [names[1]]
    assert listed(mesh, filename_prefix=prefix, decision="DECISION_CONFIRMED_AI_GENERATED") == []
    assert listed(mesh, sha256=made[0]["image"]["sha256"]) == [names[0]]
    times = [each["create_time"] for each in made]
    assert listed(mesh, filename_prefix=prefix, create_time_from=times[1]) == [names[2], names[1]]
    assert listed(mesh, filename_prefix=prefix, create_time_before=times[1]) == [names[0]]
    assert httpx.get(f"{mesh.url}/v1/analyses", params={"decision": "NONE"}).status_code == 400


def test_a_look_by_an_older_api_leaves_a_row_in_the_audit(mesh, photograph, monkeypatch):
    headers = {"x-request-id": "audited-look"}
    answer = httpx.post(
        f"{mesh.url}/imginterface/", files={"files": ("a.jpg", photograph)}, headers=headers, timeout=60
    )
    assert answer.status_code == 200
    rows = []
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("PENTIMENTO_HOME", str(mesh.home))
    monkeypatch.setenv("PENTIMENTO_PORT", str(mesh.port))
    with psycopg.connect(database_url(LocalSettings.from_environment()), autocommit=True) as connection:
        for _ in range(50):  # it is written after the answer
            query = "SELECT action, caller, sha256, versions FROM audit WHERE request_id = 'audited-look'"
            if rows := connection.execute(query).fetchall():
                break
            time.sleep(0.1)
    ((action, caller, sha256, versions),) = rows
    assert (action, caller, sha256) == ("call", "anonymous", hashlib.sha256(photograph).hexdigest())
    assert versions["pentimento"]


def test_every_analysis_leaves_a_row_in_the_audit(mesh, photograph, monkeypatch):
    content = unseen(photograph)
    first, second = (analysis_of(mesh, content, "private-name.jpg") for _ in range(2))
    httpx.delete(f"{mesh.url}/v1/{first['name']}")
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("PENTIMENTO_HOME", str(mesh.home))
    monkeypatch.setenv("PENTIMENTO_PORT", str(mesh.port))
    with psycopg.connect(database_url(LocalSettings.from_environment())) as connection:
        rows = connection.execute(
            "SELECT action, analysis_id::text, caller, request_id, versions, audit::text FROM audit"
            " WHERE sha256 = %s ORDER BY id",
            (hashlib.sha256(content).hexdigest(),),
        ).fetchall()
    ids = [each["name"].partition("/")[2] for each in (first, second)]
    assert [(row[0], row[1]) for row in rows] == [("analyze", ids[0]), ("repeat", ids[1]), ("delete", ids[0])]
    assert all(row[2] and row[3] for row in rows)
    assert rows[0][4]["detectors"]["copy_move"]
    assert rows[0][4]["policy"] == first["policy_version"]
    assert rows[0][4]["calibration"] == first["calibration_version"]
    assert "private-name" not in "".join(row[5] for row in rows)


def test_nothing_personal_is_logged(mesh, photograph):
    analysis_of(mesh, unseen(photograph), "somebody-private.jpg")
    for log in (mesh.home / "logs").glob("*.log"):
        assert "somebody-private" not in log.read_text(errors="replace"), log.name


# ---- what it is made of ----


def test_health_names_the_version_of_every_part(mesh):
    parts = httpx.get(f"{mesh.url}/v1/health").json()["parts"]
    assert {part["part"] for part in parts} >= {
        "orchestrator",
        "passive",
        "deeplearning",
        "faces",
        "triton",
        "database",
    }
    # Workers tell the database that they live, and no more.
    assert {part["part"] for part in parts if not part["version"]} <= {"worker"}


def test_detectors_and_models_are_listed(mesh):
    detectors = httpx.get(f"{mesh.url}/v1/detectors").json()["detectors"]
    assert {each["name"] for each in detectors} >= {"copy_move", "metadata", "provenance"}
    models = {each["name"]: each["state"] for each in httpx.get(f"{mesh.url}/v1/models").json()["models"]}
    assert models["age"] == "MODEL_STATE_READY"


# ---- the documentation ----


def examples(document: dict) -> list[tuple[str, str, dict]]:
    return [
        (verb, path, operation["requestBody"]["content"]["application/json"]["example"])
        for path, operations in document["paths"].items()
        for verb, operation in operations.items()
        if "example" in operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    ]


def test_every_example_of_the_documentation_works(mesh):
    document = httpx.get(f"{mesh.url}/openapi.json").json()
    tried = {}
    batch = None
    for verb, path, example in examples(document):
        if "{batch_id}" in path:
            assert batch, "no batch was made before"
        url = f"{mesh.url}{path.replace('{batch_id}', str(batch))}"
        answer = httpx.request(verb, url, json=example, timeout=120)
        tried[path] = answer.status_code
        if path == "/v1/batches":
            batch = answer.json()["name"].partition("/")[2]
        if answer.status_code == 503:  # a model that is not installed is named, and nothing else is missing
            assert "not installed" in answer.json()["error"], path
        else:
            assert answer.status_code == 200, f"{path}: {answer.text}"
    assert {"/v1/images:analyze", "/v1/images:streamAnalyze", "/v1/batches", "/analyze/image", "/imginterface"} <= {
        path for path, status in tried.items() if status == 200
    }
    gets = [
        path
        for path, operations in document["paths"].items()
        if "get" in operations and "{" not in path and not path.startswith("/v1/people")
    ]
    for path in gets:
        assert httpx.get(f"{mesh.url}{path}").status_code == 200, path


@pytest.mark.parametrize("path", ["/", "/docs", "/docs/", "/api/v1/docs", "/api/v1/docs/"])
def test_the_documentation_is_there(mesh, path):
    answer = httpx.get(f"{mesh.url}{path}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    script = httpx.get(f"{mesh.url}/docs/swagger-ui-bundle.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert b"SwaggerUIBundle" in script.content
