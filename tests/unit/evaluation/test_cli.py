"""The commands as typed: reports, pages, exit codes and words."""

from __future__ import annotations

import csv
import json
import shlex
import sys

import numpy as np
import pytest
from PIL import Image

from evaluation import __main__ as cli
from evaluation.__main__ import main
from evaluation.gate import GateResult
from evaluation.subjects import PassiveBackend, Subject
from services.common.calibration import load_calibration
from services.common.detection import Question

PEER = """
import sys
content = open(sys.argv[1], "rb").read()
sys.exit("broken on purpose") if content[-1:] == b"!" else print(int(content[-2:]) / 100)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """80 tiny pictures of 40 sources in two splits; the last two bytes are the score that the peer will give."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "source", "split"])
        for index in range(80):
            split = "calibrate" if index < 60 else "dev"
            forged = index % 2 == 1
            name = f"{split}{index}.png"
            Image.new("RGB", (4, 4), (index, 0, 0)).save(folder / name)
            score = int(np.clip(random.normal(65 if forged else 35, 15), 0, 99))
            with (folder / name).open("ab") as picture:
                picture.write(f"{score:02}".encode())
            writer.writerow([name, "edited" if forged else "honest", f"{split}-source{index}", split])
    return folder


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    script = tmp_path_factory.mktemp("peer") / "last_bytes.py"
    script.write_text(PEER)
    return f"peer:bytes={shlex.join([sys.executable, '-S', '-E', str(script)])}"


@pytest.fixture(scope="module")
def artefact(data, peer, tmp_path_factory):
    """What `calibrate` writes."""
    folder = tmp_path_factory.mktemp("calibration")
    command = ["calibrate", str(data), "--with", peer, "--jobs", "1"]
    assert main([*command, "--out", str(folder / "c.json"), "--results", str(folder)]) == 0
    return folder / "c.json"


def run(data, peer, out, *more):
    return main(["run", str(data), "--with", peer, "--jobs", "1", "--out", str(out), *more])


def test_calibrate_on_more_pictures_and_without_those_that_were_learnt_from(data, peer, tmp_path):
    more = [
        "path,label,source",
        *(f"{data / f'dev{index}.png'},honest,dev-source{index}" for index in range(60, 80, 2)),
    ]
    (tmp_path / "more.csv").write_text("\n".join(more))
    (tmp_path / "used.txt").write_text("calibrate1.png\ncalibrate3.png\n")
    command = ["calibrate", str(data), "--with", peer, "--jobs", "1", "--also", str(tmp_path / "more.csv")]
    command += ["--without", str(tmp_path / "used.txt"), "--out", str(tmp_path / "c.json"), "--results", str(tmp_path)]
    assert main(command) == 0
    calibration = load_calibration(tmp_path / "c.json")
    assert calibration.detectors["bytes"].positives == 30 - 2
    assert calibration.detectors["bytes"].negatives == 30 + 10


def test_calibrate_and_report_on_other_sources(data, peer, artefact, tmp_path, capsys):
    calibration = load_calibration(artefact)
    assert (calibration.detectors["bytes"].positives, len(calibration.sources)) == (30, 60)
    assert "calibrate-source" not in artefact.read_text(), "neither pictures nor sources are named"

    page = tmp_path / "page.md"
    page.write_text("Before.\n<!-- begin mine -->\nold\n<!-- end mine -->\nAfter.\n")
    chosen = ["--split", "dev", "--calibration", str(artefact), "--page", str(page), "--section", "mine"]
    (data / "dev61.png").rename(data / "away.png")
    try:
        assert run(data, peer, tmp_path / "out", *chosen) == 0
    finally:
        (data / "away.png").rename(data / "dev61.png")
    said = capsys.readouterr().out
    assert "bad file: dev61.png: " in said
    facts = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(facts["bad_files"]) == {"dev61.png"}
    (figures,) = facts["subjects"]
    assert (figures["detection"]["positives"], figures["detection"]["negatives"]) == (9, 10)
    assert figures["cllr"] < 1
    report = (tmp_path / "out" / "report.md").read_text()
    assert "Cllr" in report
    assert "dev61.png" in report
    text = page.read_text()
    assert text.startswith("Before.\n<!-- begin mine -->\n\n### bytes")
    assert text.endswith("\n\n<!-- end mine -->\nAfter.\n")
    assert "old" not in text
    assert "dev61.png" not in text, "a page names no pictures"
    plots = {path.name for path in (tmp_path / "out" / "plots").iterdir()}
    assert plots >= {"bytes-detection.png", "bytes-reliability.png"}


def test_reporting_on_the_sources_of_the_calibration_is_refused(data, peer, artefact, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(data, peer, out, "--split", "calibrate", "--calibration", str(artefact)) == 2
    said = capsys.readouterr().err
    assert "60 of 60 sources were used to fit this calibration and cannot be reported on" in said
    assert not (out / "results.jsonl").exists(), "refused before anything is measured"


def test_a_section_that_is_not_there_is_said_before_anything_is_measured(data, peer, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("<!-- begin other -->\n<!-- end other -->\n")
    assert run(data, peer, tmp_path / "out", "--page", str(page), "--section", "mine") == 2
    assert "has no section mine" in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--split", "nothing"], "no labelled picture of split nothing"),
        (["--degrade", "magic"], "unknown degradation magic; there are jpeg"),
        (["--with", "magic"], "unknown backend magic; there are passive"),
        (["--only", "magic"], "unknown subject magic; there are bytes"),
        (["--calibration", "nowhere.json"], "nowhere.json"),
        (["--page", "nowhere.md"], "nowhere.md"),
        (["--camera-file", "nowhere.jpg"], "nowhere.jpg"),
    ],
)
def test_what_cannot_be_done_is_said_with_status_2(data, peer, tmp_path, capsys, arguments, said):
    assert run(data, peer, tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("evaluation: ")
    assert said in error


def test_nothing_measured_is_no_report(peer, tmp_path, capsys):
    (tmp_path / "manifest.csv").write_text("path,label\ngone.png,honest\n")
    assert run(tmp_path, peer, tmp_path / "out") == 2
    said = capsys.readouterr()
    assert "bad file: gone.png" in said.out
    assert "nothing could be measured" in said.err


def test_too_little_is_not_calibrated(data, peer, tmp_path, capsys):
    command = ["calibrate", str(data), "--split", "dev", "--with", peer, "--jobs", "1"]
    out = tmp_path / "c.json"
    (tmp_path / "few.csv").write_text(f"path,label\n{data}/dev60.png,honest\n{data}/dev61.png,edited\n")
    command[1:4] = [str(tmp_path / "few.csv"), "--split", ""]
    assert main([*command, "--out", str(out), "--results", str(tmp_path)]) == 2
    assert "nothing could be calibrated: bytes: " in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(("failures", "status", "word"), [((), 0, "passed"), (("finds nothing",), 1, "FAILED")])
def test_the_gates_exit_status(monkeypatch, capsys, failures, status, word):
    subject = Subject(name="x", version="1", title="X", question=Question.EDITED)
    result = GateResult(subject=subject, accused=(), honest=3, found=1, planted=2, failures=failures)
    monkeypatch.setattr(cli, "run_gate", lambda: [result])
    assert main(["gate"]) == status
    assert word in capsys.readouterr().out


def test_the_installed_detectors_are_subjects():
    subjects = {subject.name: subject for subject in PassiveBackend("").subjects()}
    assert subjects["copy_move"].threshold == 0.5
