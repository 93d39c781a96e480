"""The commands behind `make evaluate`, `make calibrate` and `make evaluate-gate`.

python -m evaluation run DATA [--split dev] [--with passive] [--only copy_move] [--degrade jpeg] [--out FOLDER]
python -m evaluation calibrate DATA [--split calibrate,train] [--plant FOLDER] [--out services/common/calibration.json]
python -m evaluation alone DATA [--split dev] [--sets camera_jpeg,pristine] [--page docs/quality.md]
python -m evaluation planted DATA [--split dev] [--kinds splice,noise] [--pictures 60] [--figure FILE] [--page FILE]
python -m evaluation gate
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from evaluation.alone import measure_alone, table
from evaluation.calibration.artefact import load, refuse_same_sources, save
from evaluation.calibration.fit import fit_calibration
from evaluation.calibration.misses import with_misses
from evaluation.calibration.samples import Samples as CalibrationSamples
from evaluation.degradation import curves, laundering
from evaluation.gate import run_gate
from evaluation.metrics.errors import MetricError
from evaluation.pairs import KINDS
from evaluation.planted_curves import curves_of, draw_curves, measure_pairs, tables
from evaluation.planting import PLANTED, plant
from evaluation.plots import draw
from evaluation.report import figures_of, is_positive, markdown, robustness_markdown, robustness_of, to_json
from evaluation.runner import Degrading, Results, by_subject, run
from evaluation.samples import DataError, Label, Samples, load_samples, without_sources_of
from evaluation.scenes import compose_scenes
from evaluation.subjects import Subject
from services.common.calibration import SHIPPED, Calibration
from services.common.detection import Question

BAD_FILES_SHOWN = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except (DataError, MetricError, ValueError, OSError) as error:
        print(f"evaluation: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m evaluation", description="How good is every detector?")
    commands = parser.add_subparsers(required=True)

    measure = commands.add_parser("run", help="measure subjects on labelled pictures")
    _data_options(measure)
    measure.add_argument("--split", help="only this split of a manifest")
    measure.add_argument("--degrade", default="", help="curves (with commas), `laundering`, or `all`")
    measure.add_argument("--camera-file", type=Path, help="a camera's JPEG whose metadata is planted by laundering")
    measure.add_argument(
        "--calibration", type=Path, help="artefact to report on; refused on the sources it was fitted on"
    )
    measure.add_argument("--out", type=Path, default=Path(".pentimento/evaluation"), help="folder of the results")
    measure.add_argument("--page", type=Path, help="page whose section is to be written anew, such as docs/quality.md")
    measure.add_argument("--section", default="detectors", help="name of that section")
    measure.set_defaults(command=_run)

    calibrate = commands.add_parser("calibrate", help="fit what scores are worth")
    _data_options(calibrate)
    calibrate.add_argument("--split", default="calibrate", help="splits to fit on, with commas")
    calibrate.add_argument("--also", type=Path, help="one more manifest, all of it")
    calibrate.add_argument(
        "--without", type=Path, help="a text file of pictures, a path a line, whose sources detectors were fitted on"
    )
    calibrate.add_argument("--plant", type=Path, help="plant forgeries into the honest photographs, in this folder")
    calibrate.add_argument(
        "--off", action="append", default=[], help="NAME=REASON: leave this detector uncalibrated; several times"
    )
    calibrate.add_argument("--out", type=Path, default=SHIPPED, help="the artefact")
    calibrate.add_argument(
        "--results", type=Path, default=Path(".pentimento/calibration"), help="folder of the results"
    )
    calibrate.set_defaults(command=_calibrate)

    scenes = commands.add_parser("scenes", help="compose scenes with faces at known places out of aligned portraits")
    scenes.add_argument("data", type=Path, help="a manifest (CSV) or a folder with portraits")
    scenes.add_argument("--split", help="only this split of a manifest")
    scenes.add_argument("--sets", default="", help="only these sets of a manifest, with commas")
    scenes.add_argument("--match", default="", help="only pictures with this in their path")
    scenes.add_argument("--count", type=int, default=300, help="scenes with faces, and as many without")
    scenes.add_argument("--out", type=Path, default=Path(".pentimento/scenes"), help="folder of the scenes")
    scenes.set_defaults(command=_scenes)

    alone = commands.add_parser("alone", help="what each passive detector alone makes of honest pictures")
    _picture_options(alone)
    alone.add_argument("--only", default="", help="only these detectors, with commas")
    alone.add_argument("--section", default="alone", help="name of the page's section")
    alone.set_defaults(command=_alone)

    planted = commands.add_parser("planted", help="passive detectors on what is made for them, over the last quality")
    _picture_options(planted)
    planted.add_argument("--kinds", default=",".join(KINDS), help="only these, with commas")
    planted.add_argument("--pictures", type=int, default=60, help="most photographs a kind")
    planted.add_argument("--figure", type=Path, help="file of the figure, such as docs/images/passive-planted.png")
    planted.add_argument("--section", default="planted", help="name of the page's section")
    planted.set_defaults(command=_planted)

    gate = commands.add_parser("gate", help="detectors on a set that the repository makes for itself")
    gate.set_defaults(command=_gate)
    return parser


def _picture_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, help="a manifest (CSV) or a folder")
    parser.add_argument("--split", help="only this split of a manifest")
    parser.add_argument("--sets", default="", help="only these sets of a manifest, with commas")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="worker processes")
    parser.add_argument("--out", type=Path, default=Path(".pentimento/evaluation"), help="folder of the results")
    parser.add_argument("--page", type=Path, help="page whose section is to be written anew")


def _data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, help="a manifest (CSV) or a folder")
    parser.add_argument("--sets", default="", help="only these sets of a manifest, with commas")
    parser.add_argument(
        "--with",
        dest="arrangements",
        action="append",
        help="passive (default), faces, mesh:URL or peer:NAME[/TECHNIQUE]=COMMAND; may be given several times",
    )
    parser.add_argument("--only", default="", help="only these subjects, with commas")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="worker processes")


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _load(options: argparse.Namespace) -> Samples:
    loaded = load_samples(options.data, split=options.split, sets=_words(options.sets))
    for reason, count in loaded.left_out.items():
        print(f"left out: {count} pictures ({reason})")
    return loaded


def _measure(
    options: argparse.Namespace, samples: Samples, folder: Path, degradings: Sequence[Degrading] = (Degrading(),)
) -> Results:
    results = run(
        samples.samples,
        options.arrangements or ["passive"],
        folder / "results.jsonl",
        degradings=degradings,
        camera_file=getattr(options, "camera_file", None),
        only=_words(options.only),
        jobs=options.jobs,
    )
    for line in _bad_files(results):
        print(line)
    if not results.records:
        raise DataError("nothing could be measured")
    return results


def _bad_files(results: Results) -> list[str]:
    lines = [f"bad file: {name}: {reason}" for name, reason in results.bad_files[:BAD_FILES_SHOWN]]
    more = len(results.bad_files) - BAD_FILES_SHOWN
    return [*lines, f"and {more} more bad files"] if more > 0 else lines


def _degradings(options: argparse.Namespace) -> list[Degrading]:
    chosen = [Degrading()]
    words = _words(options.degrade)
    cases = [case.name for case in laundering(options.camera_file.read_bytes() if options.camera_file else None)]
    for word in [*curves(), "laundering"] if words == ["all"] else words:
        if word == "laundering":
            chosen += [Degrading(name, 0.0) for name in cases if name not in curves()]
        elif word in curves():
            chosen += [Degrading(word, level) for level in curves()[word].levels]
        else:
            raise ValueError(f"unknown degradation {word}; there are {', '.join(curves())}, laundering and all")
    return chosen


def _run(options: argparse.Namespace) -> int:
    calibration: Calibration | None = load(options.calibration) if options.calibration else None
    degradings = _degradings(options)
    loaded = _load(options)
    samples = loaded.samples
    if calibration is not None:  # before anything is measured: it may take hours
        refuse_same_sources(calibration, {sample.source for sample in samples})
    if options.page:
        _parts_of(options.page, options.section)
    results = _measure(options, loaded, options.out, degradings)
    figures = figures_of(results, samples, calibration=calibration)
    robustness = robustness_of(results, samples) if len(degradings) > 1 else []
    pictures = draw(results, samples, options.out / "plots", calibration=calibration)
    text = markdown(figures)
    if robustness:
        text += "\n" + robustness_markdown(robustness, results.subjects)
    if loaded.notes:
        text += "\n" + "\n".join(f"- {name}: {note}" for name, note in loaded.notes.items()) + "\n"
    facts = {
        "subjects": to_json(figures),
        "robustness": to_json(robustness),
        "bad_files": dict(results.bad_files),
        "left_out": dict(loaded.left_out),
    }
    listed = "".join(f"\n- {line}" for line in _bad_files(results))
    (options.out / "report.md").write_text(text + (f"{listed}\n" if listed else ""), encoding="utf-8")
    (options.out / "report.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    if options.page:
        _write_section(options.page, options.section, text)
    print(text)
    print(f"{len(results.records)} results; report.md, report.json and {len(pictures)} plots are in {options.out}")
    return 0


def _parts_of(page: Path, section: str) -> tuple[str, str]:
    """What stands before and after a section, its marks included."""
    begin, end = f"<!-- begin {section} -->", f"<!-- end {section} -->"
    before, mark, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closing, after = rest.partition(end)
    if not mark or not closing:
        raise ValueError(f"{page} has no section {section} (marked by {begin} and {end})")
    return before + begin, end + after


def _write_section(page: Path, section: str, text: str) -> None:
    """Replaces what stands between the marks of a section; the prose around it is a person's."""
    before, after = _parts_of(page, section)
    page.write_text(f"{before}\n\n{text.strip()}\n\n{after}", encoding="utf-8")


def _calibrate(options: argparse.Namespace) -> int:
    loaded = _load_splits(options)
    if options.also:
        more = _load_splits(argparse.Namespace(**{**vars(options), "data": options.also, "split": "", "sets": ""}))
        loaded = dataclasses.replace(loaded, samples=(*loaded.samples, *more.samples))
    if options.without:
        loaded = without_sources_of(loaded, options.without)
    if options.plant:
        planted = plant(loaded.samples, options.plant)
        print(f"planted: {len(planted)} pictures, forgeries and their twins, in {options.plant}")
        loaded = dataclasses.replace(loaded, samples=(*loaded.samples, *planted))
    results = _measure(options, loaded, options.results)
    named = {sample.name: sample for sample in loaded.samples}
    by_name = {
        subject.name: {record.sample: record for record in by_subject(results.records).get(subject.name, [])}
        for subject in results.subjects
    }
    switched_off = dict(word.partition("=")[::2] for word in options.off)
    fitted_on = {}
    for question in Question:
        subjects = _of_question(results, question, switched_off)
        relevant = [
            name
            for name, sample in named.items()
            if any(is_positive(subject, sample) is not None and name in by_name[subject.name] for subject in subjects)
        ]
        if not relevant:
            continue
        labels = [any(is_positive(subject, named[name]) for subject in subjects) for name in relevant]
        scores = {
            subject.name: [
                by_name[subject.name][name].score
                if name in by_name[subject.name] and is_positive(subject, named[name]) is not None
                else None
                for name in relevant
            ]
            for subject in subjects
        }
        fitted_on[question] = CalibrationSamples.of(labels, [named[name].source for name in relevant], scores)
    calibration = fit_calibration(fitted_on, {subject.name: subject.version for subject in results.subjects})
    calibration = calibration.model_copy(update={"uncalibrated": {**calibration.uncalibrated, **switched_off}})
    if not calibration.detectors:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in calibration.uncalibrated.items())
        raise DataError(f"nothing could be calibrated: {reasons or 'no pictures that any detector is meant for'}")
    for question in calibration.fusions:
        subjects = _of_question(results, question, switched_off)
        false = [
            (
                sample.source,
                {s.name: by_name[s.name][name].score for s in subjects if name in by_name[s.name]},
            )
            for name, sample in named.items()
            # Planted pictures exist for detectors; those of detectors that are off would only be counted as missed.
            if sample.label is LABEL_OF[question]
            and (sample.set_name != PLANTED or any(is_positive(subject, sample) for subject in subjects))
        ]
        calibration = with_misses(calibration, question, subjects, false)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save(calibration, options.out)
    for name, detector in calibration.detectors.items():
        cllr = detector.cross_validated_cllr[detector.method]
        low, high = detector.score_map.bounds
        print(
            f"{name}: {detector.positives} false and {detector.negatives} honest pictures, {detector.method}, "
            f"Cllr {cllr:.3f} bits on sources left out, log10 ratio within {low:.2f} to {high:.2f}"
        )
    for name, reason in calibration.uncalibrated.items():
        print(f"{name}: not calibrated: {reason}")
    print(f"written: {options.out}")
    return 0


LABEL_OF = {Question.EDITED: Label.EDITED, Question.GENERATED: Label.GENERATED}
"""What false pictures are called, by question."""


def _of_question(results: Results, question: Question, without: Collection[str]) -> list[Subject]:
    return [subject for subject in results.subjects if subject.question is question and subject.name not in without]


def _load_splits(options: argparse.Namespace) -> Samples:
    """The pictures of all splits that are named together."""
    parts = [_load(argparse.Namespace(**{**vars(options), "split": split})) for split in _words(options.split) or [""]]
    return Samples(
        tuple(sample for part in parts for sample in part.samples),
        notes={name: note for part in parts for name, note in part.notes.items()},
    )


def _scenes(options: argparse.Namespace) -> int:
    loaded = _load(options)
    portraits = [sample for sample in loaded.samples if options.match in sample.name]
    manifest = compose_scenes(portraits, options.out, count=options.count)
    print(f"{2 * options.count} scenes out of {len(portraits)} portraits: {manifest}")
    return 0


def _alone(options: argparse.Namespace) -> int:
    counts, unread = measure_alone(_load(options).samples, jobs=options.jobs, only=_words(options.only))
    if unread:
        print(f"could not be decoded: {len(unread)} pictures: {', '.join(unread[:BAD_FILES_SHOWN])}")
    text = table(counts)
    names = {count.spec.name: {"alarms": count.alarms, "strong": count.strong} for count in counts}
    _keep(options, "alone", text, names)
    return 0


def _planted(options: argparse.Namespace) -> int:
    kinds = _words(options.kinds)
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise ValueError(f"unknown kind {unknown[0]}; there are {', '.join(KINDS)}")
    answers = measure_pairs(_load(options).samples, kinds, pictures=options.pictures, jobs=options.jobs)
    if not answers:
        raise DataError("no pairs could be made of these pictures")
    curves = curves_of(answers)
    if options.figure:
        draw_curves(curves, options.figure)
    facts = [
        {"kind": curve.kind.name, "subject": curve.subject.name, "step": step, **to_json([point])[0]}
        for curve in curves
        for step, point in curve.points.items()
    ]
    _keep(options, "planted", tables(curves), facts)
    return 0


def _keep(options: argparse.Namespace, name: str, text: str, facts: object) -> None:
    """Writes tables and facts to the folder of the results, and the tables into the page."""
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{name}.md").write_text(text, encoding="utf-8")
    (options.out / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    if options.page:
        _write_section(options.page, options.section, text)
    print(text)


def _gate(_: argparse.Namespace) -> int:
    started = time.monotonic()
    results = run_gate()
    for result in results:
        accused = f" ({', '.join(result.accused)})" if result.accused else ""
        print(
            f"{result.subject.name}: accuses {len(result.accused)} of {result.honest} honest pictures{accused}, "
            f"finds {result.found} of {result.planted} planted forgeries"
        )
        for failure in result.failures:
            print(f"  FAILED: {failure}")
    failed = [result for result in results if result.failures]
    print(f"the gate took {time.monotonic() - started:.0f} s: {'FAILED' if failed else 'passed'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
