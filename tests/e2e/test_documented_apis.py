"""The requests of the five documents as they show them, through Envoy: keys, types, values and status of the answers.

The documents are those of the systems that Pentimento replaces (docs/compatibility.md lists them by number). A row of
`DOCUMENTED` names document and line. Placeholders are filled in: {base} is the edge, {image} and the like are pictures
in the folder that the commands run in, {url} serves one of them on loopback.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import skimage.data
from PIL import Image

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

HERE = Path(__file__).parent
JAVASCRIPT = HERE / "documented"


# --- What an answer has to look like ----------------------------------------------------------------------------------


class Mismatch(AssertionError):
    """An answer that is not the documented one; the text says where."""


def matches(value: Any, shape: Any, where: str = "answer") -> None:
    """Holds a JSON value against a shape: a type, a set of values, a predicate, a list of one shape, or keys.

    Keys beyond the documented ones are allowed: a client of the document does not look at them.
    """
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise Mismatch(f"{where} is no object: {value!r}")
        for key, inner in shape.items():
            if key not in value:
                raise Mismatch(f"{where} lacks {key!r}; it has {sorted(value)}")
            matches(value[key], inner, f"{where}.{key}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise Mismatch(f"{where} is no list: {value!r}")
        for index, item in enumerate(value):
            matches(item, shape[0], f"{where}[{index}]")
    elif isinstance(shape, frozenset):
        if value not in shape:
            raise Mismatch(f"{where} is {value!r}, not one of {sorted(map(str, shape))}")
    elif isinstance(shape, type):
        if not isinstance(value, shape) or (isinstance(value, bool) and shape is not bool):
            raise Mismatch(f"{where} is {value!r}, no {shape.__name__}")
    elif not shape(value):
        raise Mismatch(f"{where} is {value!r}, which is not {shape.__doc__ or shape.__name__}")


def one_of(*values: Any) -> frozenset[Any]:
    return frozenset(values)


def number(value: Any) -> bool:
    """a number"""
    return isinstance(value, int | float) and not isinstance(value, bool)


def unit(value: Any) -> bool:
    """a number from 0 to 1"""
    return number(value) and 0.0 <= value <= 1.0


def unit_or_null(value: Any) -> bool:
    """a number from 0 to 1, or null"""
    return value is None or unit(value)


def percentage(value: Any) -> bool:
    """a number from 0 to 100"""
    return number(value) and 0.0 <= value <= 100.0


def text_or_null(value: Any) -> bool:
    """a text, or null"""
    return value is None or isinstance(value, str)


def timestamp(value: Any) -> bool:
    """a time like 2024-12-19T14:32:15.123456"""
    return isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}", value) is not None


def png(value: Any) -> bool:
    """a base64 PNG"""
    return isinstance(value, str) and base64.b64decode(value).startswith(b"\x89PNG")


def size(value: Any) -> bool:
    """[width, height]"""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(side, int) and side > 0 for side in value)


METRIC_TYPES = one_of("gradient", "frequency", "noise", "texture", "color")
DECISIONS = ("CONFIRMED_AI_GENERATED", "SUSPICIOUS_AI_LIKELY", "AUTHENTIC_BUT_REVIEW", "MOSTLY_AUTHENTIC")

# Document 002, line 421; `source` grows by c2pa and metadata (docs/compatibility.md).
EVIDENCE = {
    "source": one_of("exif", "watermark", "c2pa", "metadata"),
    "finding": str,
    "direction": one_of("ai_generated", "authentic", "indeterminate"),
    "strength": one_of("weak", "moderate", "strong", "conclusive"),
    "confidence": unit_or_null,
    "details": dict,
    "analyzer": str,
    "timestamp": timestamp,
}


def metric_results(value: Any) -> bool:
    """document 002's MetricResult (line 444) by metric type"""
    shape = {"metric_type": METRIC_TYPES, "score": unit, "confidence": unit, "details": dict}
    for kind, metric in value.items():
        matches(metric, shape, f"metric_results.{kind}")
        if metric["metric_type"] != kind:
            return False
    return bool(value)


def signal(value: Any) -> bool:
    """document 002's DetectionSignal (line 434), its status by its score (lines 138-142)"""
    shape = {"name": str, "metric_type": METRIC_TYPES, "score": unit, "status": str, "explanation": str}
    matches(value, shape, "signal")
    status = "passed" if value["score"] < 0.40 else "warning" if value["score"] < 0.70 else "flagged"
    return bool(value["status"] == status)


# Document 002, line 401.
ANALYSIS_RESULT = {
    "filename": str,
    "status": one_of("LIKELY_AUTHENTIC", "REVIEW_REQUIRED"),
    "final_decision": one_of(*DECISIONS, None),
    "decision_explanation": text_or_null,
    "overall_score": unit,
    "confidence": percentage,
    "signals": [signal],
    "evidence": [EVIDENCE],
    "metric_results": metric_results,
    "processing_time": number,
    "image_size": size,
    "timestamp": timestamp,
}

# Document 002, line 453.
BATCH_RESULT = {
    "total_images": int,
    "processed": int,
    "failed": int,
    "results": [ANALYSIS_RESULT],
    "summary": {
        **dict.fromkeys(DECISIONS, int),
        "success_rate": percentage,
        "processed": int,
        "failed": int,
        "avg_score": unit,
        "avg_confidence": percentage,
        "avg_proc_time": number,
    },
    "total_processing_time": number,
    "timestamp": timestamp,
}


def succeeded(data: dict[str, Any], message: str) -> dict[str, Any]:
    """Document 002's APIResponse (line 391) of a success."""
    return {
        "success": one_of(True),
        "message": one_of(message),
        "data": data,
        "error": one_of(None),
        "timestamp": timestamp,
    }


def failed(message: str, error: Any = text_or_null) -> dict[str, Any]:
    """Document 002's error (line 315)."""
    return {"success": one_of(False), "message": one_of(message), "error": error, "timestamp": timestamp}


FACE = {"message": one_of("faces found"), **dict.fromkeys(("x1", "y1", "x2", "y2"), int), "confidence": unit}
NO_FACE = {"message": one_of("No faces found")}
NOT_FOUND = {"message": one_of("Image not found")}
AGES = one_of("(0-2)", "(4-6)", "(8-12)", "(15-20)", "(25-32)", "(38-43)", "(48-53)", "(60-100)")


# --- The table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Documented:
    """One documented request.

    Attributes:
        source: document and line.
        command: curl's arguments, placeholders in braces.
        shape: of the answer's JSON.
        status: the answer's.
        needs: name of the Triton model without which it answers 503 and names it.
        check: more about the answer, with the pictures' names in mind.
    """

    source: str
    command: str
    shape: Any
    status: int = 200
    needs: str = ""
    check: Callable[[Any], None] = field(default=lambda _: None)


def has_metrics_of_all_types(answer: Any) -> None:
    data = answer["data"]
    assert set(data["metric_results"]) == METRIC_TYPES
    assert {item["metric_type"] for item in data["signals"]} == METRIC_TYPES


def copied_and_not(answer: Any) -> None:
    assert answer["PAYLOAD"] == {
        "img_mountains.jpg": [["DBSCAN_CPY_MOVE", 1]],
        "Image_Spring_17_4.gif": [["DBSCAN_CPY_MOVE", 0]],
    }


JSON_URL = '-H "Content-Type: application/json" -d \'{{"url": "{served}/%s"}}\''

DOCUMENTED = [
    Documented(
        "000:59",
        '-v -H "Content-Type: application/json" -X POST -d \'{{"urls": ["{served}/img_mountains.jpg", '
        '"{served}/Image_Spring_17_4.gif"]}}\' {base}/imginterface/',
        {"PAYLOAD": dict},
        check=copied_and_not,
    ),
    Documented(
        "001:55",
        "-X POST {base}/segment -F image=@image.jpg",
        {"mask": png, "overlay": png, "masked_image": png},
        needs="deeplabv3plus",
    ),
    Documented(
        "001:67",
        "-X POST {base}/classify -F image=@image.jpg",
        {"class_id": int, "class_name": one_of("splicing", "copymove", "inpainting", "face"), "confidence": unit},
        needs="resnet50",
    ),
    Documented("002:48", "-X GET {base}/health", {"status": one_of("ok"), "version": str}),
    Documented(
        "002:65",
        '-X POST {base}/analyze/image -F "file=@image.jpg"',
        succeeded(ANALYSIS_RESULT, "Image analysis completed"),
        check=has_metrics_of_all_types,
    ),
    Documented(
        "002:156",
        '-X POST {base}/analyze/batch -F "files=@image1.jpg" -F "files=@image2.png" -F "files=@image3.webp"',
        succeeded({"batch_id": str, "result": BATCH_RESULT}, "Batch analysis completed"),
    ),
    Documented(
        "002:343",
        '-X POST {base}/analyze/image -F "file=@large.jpg"',
        failed("Validation error", one_of("File size 12582912 bytes exceeds maximum 10485760 bytes")),
        status=413,
    ),
    Documented(
        "002:352",
        '-X POST {base}/analyze/image -F "file=@animation.gif"',
        failed("Validation error", one_of("File extension .gif not allowed. Allowed: .jpg, .jpeg, .png, .webp")),
        status=400,
    ),
    Documented("002:337", "-X POST {base}/analyze/image -F other=text", failed("Validation error", str), status=422),
    Documented(
        "002:361",
        "-X GET {base}/batch/550e8400-e29b-41d4-a716-446655440000/progress",
        failed("Batch not found", one_of(None)),
        status=404,
    ),
    Documented(
        "002:361",
        "-X GET {base}/report/csv/550e8400-e29b-41d4-a716-446655440000",
        failed("Batch not found", one_of(None)),
        status=404,
    ),
    Documented(
        "002:333", '-X POST {base}/analyze/image -F "file=@text.jpg"', failed("Validation error", str), status=400
    ),
    *(
        Documented(source, f"-X POST {{base}}{path} {JSON_URL % picture}", shape, status=status, needs=needs)
        for path, needs, rows in (
            ("/yunet", "yunet", (("003:53", "003:50", "003:48"))),
            ("/mp", "", (("003:88", "003:85", "003:83"))),
            ("/haar", "", (("003:121", "003:118", "003:116"))),
        )
        for source, picture, shape, status in zip(
            rows, ("portrait.jpg", "image.jpg", "missing.jpg"), (FACE, NO_FACE, NOT_FOUND), (200, 200, 404), strict=True
        )
    ),
    Documented(
        "003:160",
        f"-X POST {{base}}/gender {JSON_URL % 'portrait.jpg'}",
        {"message": one_of("faces found"), "gender": one_of("male", "female"), "age": AGES, "bounding boxes ": list},
        needs="age",
    ),
    Documented("003:157", f"-X POST {{base}}/gender {JSON_URL % 'image.jpg'}", NO_FACE, needs="age"),
    Documented("003:155", f"-X POST {{base}}/gender {JSON_URL % 'missing.jpg'}", NOT_FOUND, status=404),
    Documented(
        "003:192",
        f"-X POST {{base}}/fakedetector {JSON_URL % 'portrait.jpg'}",
        {"message": one_of("Cartoon Image", "Non-Cartoon Image")},
        needs="vgg16_cartoon",
    ),
    Documented("003:189", f"-X POST {{base}}/fakedetector {JSON_URL % 'missing.jpg'}", NOT_FOUND, status=404),
    *(
        Documented(
            source,
            f'-X POST -F "file=@portrait.jpg" {{base}}{path}',
            {
                "prediction": one_of("fake", "real"),
                "confidence": unit,
                "processing_time": number,
                "debug_info": {"input_shape": list, "raw_prediction": unit},
            },
            needs="facenet_realfake",
        )
        for source, path in (("004:99", "/api/v1/detect/"), ("004:118", "/api/v1/detect/augmented"))
    ),
    Documented("004:124", "{base}/api/v1/detect/health", {"status": one_of("healthy")}),
    Documented("004:25", "{base}/api/v1/model/info", dict),
]


# --- Running them -----------------------------------------------------------------------------------------------------


def gif(rgb: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "GIF")
    return buffer.getvalue()


def saved(content: bytes, image_format: str) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(content)).save(buffer, image_format)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory, photograph: bytes, forgery: bytes, portrait: bytes) -> Path:
    """The folder in which the documents' commands find their pictures."""
    folder = tmp_path_factory.mktemp("documented")
    files = {
        "image.jpg": photograph,
        "img1.jpg": photograph,
        "image1.jpg": forgery,
        "img2.png": saved(portrait, "PNG"),
        "image2.png": saved(portrait, "PNG"),
        "image3.webp": saved(photograph, "WEBP"),
        "portrait.jpg": portrait,
        "img_mountains.jpg": forgery,
        "Image_Spring_17_4.gif": gif(skimage.data.coffee()),
        "animation.gif": gif(skimage.data.coffee()),
        "large.jpg": photograph.ljust(12_582_912, b"\0"),
        "text.jpg": b"a letter\n" * 100,
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="session")
def served_pictures(pictures: Path) -> Iterator[str]:
    """The same folder over HTTP on loopback."""
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "0"],
        cwd=pictures,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    port = re.search(r"port (\d+)", server.stdout.readline())
    assert port
    yield f"http://127.0.0.1:{port[1]}"
    server.terminate()
    server.wait(10)
    server.stdout.close()


@pytest.fixture(scope="session")
def ready_models(mesh) -> frozenset[str]:
    """Names of the models that this mesh serves."""
    models = httpx.get(f"{mesh.url}/v1/models", timeout=30).json()["models"]
    return frozenset(model["name"] for model in models if model["state"] == "MODEL_STATE_READY")


def curl(arguments: str, folder: Path) -> tuple[int, str, str]:
    """Runs curl as a shell would; returns the status, the content type and the body."""
    written = "\n%{http_code} %{content_type}"
    done = subprocess.run(
        ["curl", "--silent", "--max-time", "120", "-w", written, *shlex.split(arguments)],
        cwd=folder,
        capture_output=True,
        check=True,
        text=True,
    )
    body, _, last = done.stdout.rpartition("\n")
    status, _, content_type = last.partition(" ")
    return int(status), content_type, body


@pytest.mark.parametrize("documented", DOCUMENTED, ids=lambda item: f"{item.source} {item.command[-48:]}")
def test_a_documented_request_gets_its_documented_answer(
    mesh, pictures, served_pictures, ready_models, documented: Documented
):
    arguments = documented.command.format(base=mesh.url, served=served_pictures)
    status, content_type, body = curl(arguments, pictures)
    assert content_type.startswith("application/json")
    answer = json.loads(body)
    if documented.needs and documented.needs not in ready_models and documented.status == 200:
        # Without the model there is no answer; the error has document 002's shape and names what is missing.
        assert status == 503, body
        matches(answer, failed("Service unavailable", str))
        assert documented.needs in answer["error"]
        return
    if documented.needs and documented.needs not in ready_models and status == 503:
        assert documented.needs in answer["error"]
        return
    assert status == documented.status, body
    matches(answer, documented.shape)
    documented.check(answer)


def test_no_answer_is_incomplete_for_want_of_a_network_that_nobody_put_in(mesh, photograph):
    """Of the mesh as it is shipped, whether deeplabv3plus and resnet50 are shipped or not (docs/own-models.md)."""
    answer = httpx.post(f"{mesh.url}/analyze/image", files={"file": ("a.jpg", photograph)}, timeout=60)
    data = answer.json()["data"]
    assert not {"deeplabv3plus", "resnet50", "segment", "classify"} & {item["part"] for item in data["missing"]}


PYTHON_EXAMPLE = """
import requests

# Single image analysis
with open('image.jpg', 'rb') as f:
    response = requests.post(
        'http://localhost:8005/analyze/image',
        files={'file': f}
    )
    result = response.json()
    print(f"Final Decision: {result['data']['final_decision']}")

# Batch analysis
files = [
    ('files', open('img1.jpg', 'rb')),
    ('files', open('img2.png', 'rb'))
]
response = requests.post(
    'http://localhost:8005/analyze/batch',
    files=files
)
batch_result = response.json()
batch_id = batch_result['data']['batch_id']

# Check progress
progress = requests.get(f'http://localhost:8005/batch/{batch_id}/progress').json()

# Download CSV report
csv_response = requests.get(f'http://localhost:8005/report/csv/{batch_id}')
with open('report.csv', 'wb') as f:
    f.write(csv_response.content)
"""


def test_the_python_example_runs(mesh, pictures):
    """Document 002, lines 505-534."""
    script = PYTHON_EXAMPLE.replace("http://localhost:8005", mesh.url) + "\nimport json; print(json.dumps(progress))\n"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=pictures, capture_output=True, check=True, text=True, timeout=240
    )
    first, progress = done.stdout.splitlines()
    assert first.removeprefix("Final Decision: ") in DECISIONS
    completed = json.loads(progress)
    matches(completed, PROGRESS_COMPLETED)
    assert completed["progress"]["current"] == completed["progress"]["total"] == 2
    check_csv((pictures / "report.csv").read_bytes(), {"img1.jpg", "img2.png"})


JAVASCRIPT_EXAMPLE = """
const FormData = require('form-data');
const fs = require('fs');
const axios = require('axios');

// Single image analysis
const form = new FormData();
form.append('file', fs.createReadStream('image.jpg'));

axios.post('http://localhost:8005/analyze/image', form, {
  headers: form.getHeaders()
})
.then(response => {
  console.log('Final Decision:', response.data.data.final_decision);
  console.log('Evidence found:', response.data.data.evidence.length);
});

// Batch progress tracking
async function trackProgress(batchId) {
  const response = await axios.get(`http://localhost:8005/batch/${batchId}/progress`);
  console.log(`Progress: ${response.data.progress.current}/${response.data.progress.total}`);

  if (response.data.status === 'processing') {
    setTimeout(() => trackProgress(batchId), 1000);
  } else if (response.data.status === 'completed') {
    console.log('Batch completed!');
  }
}
"""


def test_the_javascript_example_runs(mesh, pictures, tmp_path):
    """Document 002, lines 538-563."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(JAVASCRIPT / name, tmp_path)
    installed = subprocess.run(
        ["npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=tmp_path, check=False, timeout=120
    )
    if installed.returncode:
        pytest.skip("the package registry does not answer npm")
    batch_id = start_batch(mesh, pictures, ["image1.jpg", "image2.png"])
    (tmp_path / "image.jpg").write_bytes((pictures / "image.jpg").read_bytes())
    script = JAVASCRIPT_EXAMPLE.replace("http://localhost:8005", mesh.url) + f"\ntrackProgress('{batch_id}');\n"
    (tmp_path / "example.js").write_text(script)
    done = subprocess.run(["node", "example.js"], cwd=tmp_path, capture_output=True, check=True, text=True, timeout=240)
    assert any(f"Final Decision: {decision}" in done.stdout for decision in DECISIONS)
    assert re.search(r"Evidence found: \d+", done.stdout)
    assert "Progress: 2/2\nBatch completed!" in done.stdout


# Document 002, lines 228-258.
PROGRESS = {"status": str, "progress": {"current": int, "total": int, "filename": text_or_null}}
PROGRESS_COMPLETED = {**PROGRESS, "status": one_of("completed"), "result": BATCH_RESULT}


def start_batch(mesh, pictures: Path, names: list[str]) -> str:
    """A batch that is accepted and worked on later; returns its id."""
    answer = httpx.post(
        f"{mesh.url}/analyze/batch",
        files=[("files", (name, (pictures / name).read_bytes())) for name in names],
        headers={"prefer": "respond-async"},
        timeout=60,
    )
    assert answer.status_code == 202, answer.text
    batch_id: str = answer.json()["data"]["batch_id"]
    uuid.UUID(batch_id)
    return batch_id


def test_progress_is_told_from_the_first_to_the_last(mesh, pictures):
    """Document 002, lines 228-258: processing, then completed with the result."""
    batch_id = start_batch(mesh, pictures, ["image1.jpg", "image2.png", "image3.webp"])
    seen = []
    while not seen or seen[-1]["status"] == "processing":
        status, _, body = curl(f"-X GET {mesh.url}/batch/{batch_id}/progress", pictures)
        assert status == 200
        seen.append(json.loads(body))
        matches(seen[-1], PROGRESS)
        time.sleep(0.05)
    matches(seen[-1], PROGRESS_COMPLETED)
    currents = [item["progress"]["current"] for item in seen]
    assert currents == sorted(currents)
    assert currents[-1] == seen[-1]["progress"]["total"] == 3
    summary = seen[-1]["result"]["summary"]
    assert sum(summary[decision] for decision in DECISIONS) == summary["processed"] == 3
    assert summary["success_rate"] == 100
    assert {item["filename"] for item in seen[-1]["result"]["results"]} == {"image1.jpg", "image2.png", "image3.webp"}


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_csv_report_has_the_documented_sections(mesh, pictures, method):
    """Document 002, lines 283-310."""
    batch_id = start_batch(mesh, pictures, ["image1.jpg", "image2.png"])
    for _ in range(600):
        _, _, body = curl(f"-X GET {mesh.url}/batch/{batch_id}/progress", pictures)
        if json.loads(body)["status"] == "completed":
            break
        time.sleep(0.1)
    answer = httpx.request(method, f"{mesh.url}/report/csv/{batch_id}", timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/csv")
    assert "attachment" in answer.headers["content-disposition"]
    check_csv(answer.content, {"image1.jpg", "image2.png"})


def check_csv(content: bytes, names: set[str]) -> None:
    rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"))))
    titles = [row[0] for row in rows if len(row) == 1]
    # Line 295 on.
    wanted = ["BATCH DECISION STATISTICS", "ANALYSIS RESULTS", "IMAGE 1 DETAILED ANALYSIS", "FINAL DECISION"]
    assert [title for title in titles if title in wanted][:4] == wanted
    assert "EVIDENCE SUMMARY" in titles
    statistics = {row[0]: row[1] for row in rows if len(row) == 2}
    assert statistics["Total Images"] == statistics["Processed"] == str(len(names))
    assert statistics["Failed"] == "0"
    assert sum(int(statistics[decision]) for decision in DECISIONS) == len(names)
    header = [
        "Filename", "Final Decision", "Decision Confidence (%)", "Overall Score", "Decision Explanation",
        "Processing Time (s)",
    ]  # fmt: skip
    start = rows.index(header) + 1
    assert {row[0] for row in rows[start : start + len(names)]} == names
    assert all(row[1] in DECISIONS for row in rows[start : start + len(names)])
    assert {"Decision", "Confidence", "Explanation"} <= {row[0] for row in rows if row}
    assert ["Source", "Direction", "Strength", "Confidence", "Finding"] in rows


def test_swagger_ui_is_where_document_004_says(mesh):
    """Document 004, line 29."""
    answer = httpx.get(f"{mesh.url}/api/v1/docs", follow_redirects=True, timeout=30)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "swagger-ui" in answer.text


def test_a_mismatch_is_noticed():
    """The comparison itself can fail."""
    matches({"a": [1, 2], "b": 0.5}, {"a": [int], "b": unit})
    for value, shape in (
        ({}, {"a": int}),
        ({"a": "1"}, {"a": int}),
        ({"a": [1, "2"]}, {"a": [int]}),
        ({"a": 2}, {"a": unit}),
    ):
        with pytest.raises(Mismatch):
            matches(value, shape)
