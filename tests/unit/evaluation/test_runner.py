"""Runs: every peer's answer is taken for what it is, nothing is measured twice, and no file stops the rest."""

from __future__ import annotations

import base64
import io
import json
import multiprocessing
import os
import shlex
import sys
from dataclasses import replace

import httpx
import numpy as np
import pytest
from PIL import Image

from evaluation import runner, subjects
from evaluation.runner import Degrading, Record, run
from evaluation.samples import Label, Sample
from evaluation.subjects import PeerBackend, make_backend
from services.common.detection import Applicability, Question, Technique
from services.orchestrator.policy import PRESETS, Preset

PEER = """
import sys
from PIL import Image
picture, mask = sys.argv[1:]
marked = Image.open(picture).convert("L").point(lambda value: 255 if value > 200 else 0)
marked.save(mask)
print("a line of talk")
print(0.9 if marked.getextrema()[1] else 0.1)
"""


def picture(path, *, white=(), size=(64, 48)):
    """Dark noise, with a white rectangle (left, top, right, bottom); the white is what is forged."""
    rgb = np.random.default_rng(len(path.name)).integers(0, 90, (size[1], size[0], 3), dtype=np.uint8)
    mask = np.zeros((size[1], size[0]), np.uint8)
    if white:
        left, top, right, bottom = white
        rgb[top:bottom, left:right] = 255
        mask[top:bottom, left:right] = 255
    Image.fromarray(rgb).save(path)
    Image.fromarray(mask).save(path.with_name(f"{path.stem}_mask.png"))


@pytest.fixture
def samples(tmp_path):
    picture(tmp_path / "forged.png", white=(8, 8, 40, 40))
    picture(tmp_path / "honest.png")
    return [
        Sample(
            name="forged.png",
            path=tmp_path / "forged.png",
            label=Label.EDITED,
            mask=tmp_path / "forged_mask.png",
            source="a",
        ),
        Sample(name="honest.png", path=tmp_path / "honest.png", label=Label.HONEST, source="b"),
    ]


def by_name(results):
    return {record.sample: record for record in results.records}


def test_a_peer_in_worker_processes(tmp_path, samples):
    script = tmp_path / "white.py"
    script.write_text(PEER)
    out = tmp_path / "out" / "results.jsonl"
    results = by_name(run(samples, [f"peer:white={shlex.join([sys.executable, str(script)])}"], out, jobs=1))
    assert results["forged.png"].score == 0.9
    assert results["forged.png"].pixels.counts.f1 == 1.0
    assert results["forged.png"].alarm_area is None
    assert results["honest.png"].score == 0.1
    assert results["honest.png"].pixels is None
    assert results["honest.png"].alarm_area == 0.0
    records = [Record.from_json(json.loads(line)) for line in out.read_text().splitlines()]
    assert {record.sample: record.key for record in records} == {name: r.key for name, r in results.items()}


class Counting:
    """A backend in this process that counts what it is asked; run() gets it by the name `counting`."""

    asked: list = []  # noqa: RUF012 - emptied by the fixture
    versions = {"one": "1", "two": "1"}  # noqa: RUF012

    def __init__(self, _):
        pass

    def subjects(self):
        return [
            subjects.Subject(name=name, version=version, title=name, question=Question.EDITED, threshold=0.5)
            for name, version in self.versions.items()
        ]

    def measure(self, content, names):
        self.asked.append(tuple(names))
        if b"IHDR" not in content:
            raise ValueError("no picture")
        with Image.open(io.BytesIO(content)) as image:
            heat_map = (np.asarray(image.convert("L")) > 200).astype(np.float32)
        return {
            name: subjects.Measurement(
                applicability=Applicability.APPLIED, score=float(heat_map.max()), seconds=0.0, heat_map=heat_map
            )
            for name in names
        }


class InThisProcess:
    """Stands in for the pool of processes: what is measured here can be counted."""

    def __init__(self, _workers, _context, initializer, initargs):
        initializer(*initargs)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def submit(self, function, task):
        future = runner.Future()
        try:
            future.set_result(function(task))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture
def counting(monkeypatch):
    monkeypatch.setattr(Counting, "asked", [])
    monkeypatch.setattr(Counting, "versions", {"one": "1", "two": "1"})
    monkeypatch.setitem(subjects.BACKENDS, "counting", Counting)
    monkeypatch.setattr(runner, "ProcessPoolExecutor", InThisProcess)
    return Counting


def test_a_second_run_measures_nothing_anew(tmp_path, samples, counting):
    out = tmp_path / "results.jsonl"
    first = run(samples, ["counting"], out, jobs=1)
    assert len(counting.asked) == 2
    second = run(samples, ["counting"], out, jobs=1)
    assert len(counting.asked) == 2
    assert [record.key for record in second.records] == [record.key for record in first.records]
    assert second.records[0].pixels.counts.f1 == first.records[0].pixels.counts.f1 == 1.0


def test_a_changed_file_is_measured_again(tmp_path, samples, counting):
    out = tmp_path / "results.jsonl"
    run(samples, ["counting"], out, jobs=1)
    picture(tmp_path / "honest.png", white=(0, 0, 4, 4))
    results = run(samples, ["counting"], out, jobs=1)
    assert len(counting.asked) == 3
    assert by_name(results)["honest.png"].score == 1.0
    assert len(results.records) == 4


def test_a_changed_mask_or_label_is_measured_again(tmp_path, samples, counting):
    out = tmp_path / "results.jsonl"
    run(samples, ["counting"], out, jobs=1)
    picture(tmp_path / "x.png", white=(0, 0, 4, 4))
    (tmp_path / "forged_mask.png").write_bytes((tmp_path / "x_mask.png").read_bytes())
    results = run([samples[0], replace(samples[1], label=Label.EDITED)], ["counting"], out, jobs=1)
    assert len(counting.asked) == 4
    assert by_name(results)["forged.png"].pixels.counts.f1 == 0.0
    assert by_name(results)["honest.png"].alarm_area is None


def test_only_a_new_version_is_measured_again(tmp_path, samples, counting, monkeypatch):
    out = tmp_path / "results.jsonl"
    run(samples, ["counting"], out, jobs=1)
    monkeypatch.setattr(Counting, "versions", {"one": "1", "two": "2"})
    results = run(samples, ["counting"], out, jobs=1)
    assert counting.asked[2:] == [("two",), ("two",)]
    assert {(record.subject, record.version) for record in results.records} == {("one", "1"), ("two", "2")}


def test_only_what_is_chosen_is_asked(tmp_path, samples, counting):
    results = run(samples, ["counting"], tmp_path / "results.jsonl", only=["two"], jobs=1)
    assert set(counting.asked) == {("two",)}
    assert [subject.name for subject in results.subjects] == ["two"]


def test_a_torn_last_line_is_survived(tmp_path, samples, counting):
    out = tmp_path / "results.jsonl"
    run(samples, ["counting"], out, jobs=1)
    whole = out.read_text()
    out.write_text(whole[:-40])
    run(samples, ["counting"], out, jobs=1)
    assert len(counting.asked) == 3
    run(samples, ["counting"], out, jobs=1)
    assert len(counting.asked) == 3, "the line after a torn one is whole"


def test_a_bad_file_is_listed_and_not_fatal(tmp_path, samples, counting):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    bad = [
        Sample(name="broken.png", path=tmp_path / "broken.png", label=Label.HONEST, source="c"),
        Sample(name="gone.png", path=tmp_path / "gone.png", label=Label.HONEST, source="d"),
        replace(samples[0], name="unmasked.png", mask=tmp_path / "gone_mask.png"),
    ]
    results = run([*samples, *bad], ["counting"], tmp_path / "results.jsonl", jobs=1)
    assert set(by_name(results)) == {"forged.png", "honest.png"}
    reasons = dict(results.bad_files)
    assert set(reasons) == {"broken.png", "gone.png", "unmasked.png"}
    assert reasons["broken.png"] == "ValueError: no picture"
    assert "gone_mask.png" in reasons["unmasked.png"]


def test_masks_follow_the_degradation(tmp_path, samples, counting):
    degradings = [Degrading(), Degrading("resize", 0.5), Degrading("crop", 0.5), Degrading("metadata_stripped")]
    results = run(samples, ["counting"], tmp_path / "results.jsonl", degradings=degradings, only=["one"], jobs=1)
    forged = {r.degradation: r.pixels for r in results.records if r.sample == "forged.png"}
    assert set(forged) == {"unchanged", "resize", "crop", "metadata_stripped"}
    sizes = {name: sum(getattr(pixels.counts, k) for k in COUNTS) for name, pixels in forged.items()}
    assert sizes["unchanged"] == sizes["metadata_stripped"] == 64 * 48
    assert sizes["resize"] == 32 * 24
    assert sizes["crop"] < 64 * 48
    assert all(pixels.counts.f1 > 0.9 for pixels in forged.values())


COUNTS = ("true_positive", "false_positive", "false_negative", "true_negative")


def test_a_mask_lies_in_the_upright_picture(tmp_path, samples, counting):
    stored = Image.open(tmp_path / "forged.png").rotate(90, expand=True)
    exif = stored.getexif()
    exif[0x0112] = 6  # to be shown turned clockwise, which is how the mask lies
    stored.save(tmp_path / "forged.png", exif=exif)
    results = run(samples[:1], ["counting"], tmp_path / "results.jsonl", jobs=1)
    assert not results.bad_files
    assert sum(getattr(results.records[0].pixels.counts, k) for k in COUNTS) == 64 * 48


def test_what_cannot_be_run_is_said(tmp_path, samples, counting):
    out = tmp_path / "results.jsonl"
    for arguments, said in [
        ((["nothing:x"], {}), "unknown backend nothing"),
        ((["counting"], {"only": ["three"]}), "unknown subject three; there are one, two"),
        ((["counting", "counting"], {}), "two subjects are called one"),
        ((["counting"], {"degradings": [Degrading("magic")]}), "there is no degradation magic"),
        ((["peer:x"], {}), "NAME=COMMAND"),
        ((["peer:x="], {}), "NAME=COMMAND"),
        ((["peer:x=no-such-command-here"], {}), "there is no command no-such-command-here"),
        ((["peer:x/magic=true"], {}), "technique magic is none of copy_move"),
        ((["mesh:http://127.0.0.1:9"], {}), "the mesh at http://127.0.0.1:9 does not answer"),
    ]:
        with pytest.raises(ValueError, match=said):
            run(samples, arguments[0], out, jobs=1, **arguments[1])


def crash(task):
    """Stands in for a library that crashes on one picture: takes the worker process down."""
    if task.sample.name == "crash.png":
        os._exit(1)
    return [task.sample.name]


def test_a_crash_is_blamed_on_its_picture_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_measure", crash)
    monkeypatch.setattr(runner, "_initialise", print)
    # Functions of this file have no name that a fresh process could import them by, so the workers are forked.
    monkeypatch.setattr(runner, "get_context", lambda _: multiprocessing.get_context("fork"))
    names = ["a.png", "b.png", "crash.png", "c.png", "d.png", "e.png"]
    tasks = [
        runner._Task(Sample(name=name, path=tmp_path / name, label=Label.HONEST, source=name), Degrading(), ())
        for name in names
    ]
    outcomes = {task.sample.name: outcome for task, outcome in runner._outcomes(tasks, [], None, 2)}
    assert set(outcomes) == set(names)
    assert isinstance(outcomes.pop("crash.png"), runner.BrokenProcessPool)
    assert outcomes == {name: [name] for name in names if name != "crash.png"}


def answer(tmp_path, body, content=b"x", label="x"):
    script = tmp_path / "answer.py"
    script.write_text(f"import sys\npicture, mask = sys.argv[1:]\n{body}\n")
    backend = PeerBackend(f"{label}={shlex.join([sys.executable, '-S', str(script)])}")
    return backend.measure(content, {"x"})["x"]


@pytest.mark.parametrize(
    ("body", "explanation"),
    [
        ("sys.exit('memory used up')", "ended with status 1: memory used up"),
        ("pass", "its last line is no score: ''"),
        ("print('0.5 or so')", "its last line is no score: '0.5 or so'"),
        ("print(1.5)", r"score 1.5 is outside 0-1"),
        ("print('nan')", "score nan is outside 0-1"),
        ("open(mask, 'w').write('no png'); print(0.5)", "its mask cannot be read"),
    ],
)
def test_a_peer_that_fails_is_counted_as_failed(tmp_path, body, explanation):
    measurement = answer(tmp_path, body)
    assert measurement.applicability is Applicability.FAILED
    assert measurement.score is None
    assert explanation in measurement.explanation


def test_a_peer_that_is_too_slow_has_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(subjects, "PEER_SECONDS", 0.2)
    measurement = answer(tmp_path, "import time; time.sleep(20)")
    assert measurement.applicability is Applicability.FAILED
    assert measurement.explanation == "no answer in 0.2 s"


def test_a_peer_may_not_apply_and_may_mark_nothing(tmp_path):
    assert answer(tmp_path, "print('NA')").applicability is Applicability.NOT_APPLICABLE
    measurement = answer(tmp_path, "print('0.25')")
    assert (measurement.applicability, measurement.score, measurement.heat_map) == (Applicability.APPLIED, 0.25, None)


def test_a_peer_sees_the_format_in_the_name(tmp_path):
    picture(tmp_path / "a.png")
    named = answer(tmp_path, "print(1.0 if picture.endswith('.png') else 0.0)", (tmp_path / "a.png").read_bytes())
    assert named.score == 1.0


def test_a_peer_may_be_made_for_one_technique(tmp_path):
    (subject,) = make_backend("peer:x/copy_move=true").subjects()
    assert (subject.name, subject.techniques, subject.threshold) == ("x", (Technique.COPY_MOVE,), 0.5)


def test_a_peers_version_follows_its_script(tmp_path):
    script = tmp_path / "tool.py"
    versions = set()
    for text in ("print(0)", "print(1)", "print(0)"):
        script.write_text(text)
        versions.add(make_backend(f"peer:x={sys.executable} {script}").subjects()[0].version)
    assert len(versions) == 2


def mesh(answers):
    """A mesh backend whose edge gives these answers, one a request."""
    backend = subjects.MeshBackend("http://mesh/")
    left = iter(answers)
    backend._client = httpx.Client(transport=httpx.MockTransport(lambda _: next(left)))
    return backend


def analysis(*, decision, edit_decision, ratios):
    heat_map = io.BytesIO()
    Image.fromarray(np.full((3, 4), 255, np.uint8)).save(heat_map, "PNG")
    finding = {
        "applicability": "APPLICABILITY_APPLIED",
        "score": 0.7,
        "explanation": "Seen.",
        "provenance": {"detector": "copy_move", "duration_seconds": 0.5},
        "heat_map": {"png": base64.b64encode(heat_map.getvalue()).decode()},
    }
    silent = {
        **finding,
        "applicability": "APPLICABILITY_NOT_APPLICABLE",
        "score": 0,
        "heat_map": None,
        "provenance": {"detector": "jpeg", "duration_seconds": 0.1},
    }
    outcomes = {
        question: {"likelihood_ratio": {"log10": ratio}, "explanation": "So."} for question, ratio in ratios.items()
    }
    return {"findings": [finding, silent], "decision": decision, "edit_decision": edit_decision, **outcomes}


HIGH = PRESETS[Preset.BALANCED].generated_high


def test_a_mesh_gives_findings_and_decisions():
    body = analysis(
        decision="DECISION_CONFIRMED_AI_GENERATED",
        edit_decision="EDIT_DECISION_POSSIBLY_EDITED",
        ratios={"edited": 0.6, "generated": 0.0},
    )
    backend = mesh([httpx.Response(429, headers={"retry-after": "0"}), httpx.Response(200, json=body)])
    answers = backend.measure(b"x", {"copy_move", "jpeg", "decision_edited", "decision_generated"})
    assert answers["copy_move"].score == 0.7
    assert answers["copy_move"].heat_map.shape == (3, 4)
    assert (answers["jpeg"].applicability, answers["jpeg"].score) == (Applicability.NOT_APPLICABLE, None)
    assert answers["decision_edited"].score == pytest.approx(1 / (1 + 10**-0.6))
    assert answers["decision_generated"].score == HIGH, "evidence decided, whatever the ratio says"


def test_a_decision_without_alarm_stays_below_the_threshold():
    body = analysis(
        decision="DECISION_AUTHENTIC_BUT_REVIEW",
        edit_decision="EDIT_DECISION_EDITED",
        ratios={"edited": 1.3, "generated": 3.0},
    )
    answers = mesh([httpx.Response(200, json=body)]).measure(b"x", {"decision_edited", "decision_generated"})
    assert set(answers) == {"decision_edited", "decision_generated"}
    assert answers["decision_edited"].score >= subjects.EDITED_SCORE
    assert HIGH - 1e-6 < answers["decision_generated"].score < HIGH


def test_a_meshs_subjects_and_refusals():
    listing = {
        "detectors": [
            {
                "name": "copy_move",
                "version": "3",
                "title": "Copies",
                "question": "QUESTION_EDITED",
                "techniques": ["TECHNIQUE_COPY_MOVE"],
                "parameters": {"decision_score": 0.5},
            }
        ]
    }
    detector, edited, generated = mesh([httpx.Response(200, json=listing)]).subjects()
    assert (detector.version, detector.threshold, detector.techniques) == ("3", 0.5, (Technique.COPY_MOVE,))
    assert not edited.localizes
    assert not generated.localizes
    listing["detectors"][0]["version"] = "4"
    assert mesh([httpx.Response(200, json=listing)]).subjects()[1].version != edited.version
    with pytest.raises(ValueError, match="the mesh answers 400: no image"):
        mesh([httpx.Response(400, text="no image")]).measure(b"x", {"copy_move"})


def test_no_mask_is_held_against_what_marks_nothing(tmp_path, samples, counting, monkeypatch):
    plain = Counting.subjects
    monkeypatch.setattr(Counting, "subjects", lambda self: [replace(each, localizes=False) for each in plain(self)])
    results = run(samples, ["counting"], tmp_path / "results.jsonl", jobs=1)
    assert {(record.pixels, record.alarm_area) for record in results.records} == {(None, None)}
