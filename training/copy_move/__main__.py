"""Fits the trees that tell a copy from honest repetition (after `make data`).

    python -m training.copy_move collect --split train --out train.npz
    python -m training.copy_move collect --split calibrate --out calibrate.npz
    python -m training.copy_move fit train.npz --calibrate calibrate.npz
    python -m training.copy_move used > used.txt
    python -m training.copy_move photographs

`collect` takes about a second a picture. `--first` and `--limit` collect a part of the mixed pictures; `fit` takes any
number of such parts. It prints what is found and accused by threshold, on folds of photographs and on the split that
nothing was fitted on, and writes what the detector reads. What a score is worth has to be measured on other pictures:
`used` names those of the collected research data that were learnt from (for `evaluation calibrate --without`), and
`photographs` writes a manifest of the honest ones of the calibrate split that are not of that data (for its `--also`).
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from tqdm import tqdm

from services.common.settings import load_settings
from services.passive.detectors._copy_move.repetition import MODEL
from training.copy_move.fitting import DECISION, fit, held_out, report, write_model
from training.copy_move.pairs import Pairs
from training.copy_move.pictures import Made, Task, make_picture, tasks
from training.data.build import picture_path
from training.data.manifest import Split, read_manifest
from training.data.pictures import UnreadablePicture
from training.data.settings import HERE, DataSettings

PHOTOGRAPHS: Final = "photographs.csv"
SPLITS: Final = ("train", "calibrate")
"""The dev split is for reporting: nothing is fitted or chosen on it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.copy_move", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    collecting = commands.add_parser("collect", help="find, measure and label pairs of regions")
    collecting.add_argument("--split", choices=SPLITS, default="train")
    collecting.add_argument("--first", type=int, default=0, help="leave out so many pictures")
    collecting.add_argument("--limit", type=int, help="at most so many pictures")
    collecting.add_argument("--out", type=Path, required=True, help="the .npz file to write")
    naming = commands.add_parser("used", help="name the research pictures that `fit` learns from, a path a line")
    naming.add_argument("--split", choices=SPLITS, default="train")
    commands.add_parser("photographs", help=f"write {PHOTOGRAPHS} into the training folder")
    fitting = commands.add_parser("fit", help="fit the trees, report, write them")
    fitting.add_argument("pairs", type=Path, nargs="+", help="what `collect` wrote of the train split")
    fitting.add_argument(
        "--calibrate", type=Path, nargs="+", required=True, help="what it wrote of the calibrate split"
    )
    fitting.add_argument("--decision", type=float, default=DECISION, help="probability that becomes the score 0.5")
    fitting.add_argument("--out", type=Path, default=MODEL)
    options = parser.parse_args(arguments)
    if options.command != "fit":
        data = load_settings(DataSettings).data
        split: Split = "calibrate" if options.command == "photographs" else options.split
        chosen = tasks(read_manifest(HERE / "manifest", kinds=["photograph", "forged"]), data, split)
        if not any(task.rows for task in chosen):
            print(f"no pictures in {data}: run `make data` first", file=sys.stderr)
            return 1
        if options.command == "used":
            print(*sorted({row.path for task in chosen for row in task.rows if row.is_shared}), sep="\n")
            return 0
        if options.command == "photographs":
            print(_write_photographs(chosen, data))
            return 0
        last = None if options.limit is None else options.first + options.limit
        pairs = Pairs.collect(_made(chosen[options.first : last], data))
        pairs.save(options.out)
        print(f"{len(pairs.copied)} pairs of {len(pairs.names)} pictures, {pairs.copied.sum()} of them copies")
        return 0
    try:
        train, calibrate = (Pairs.joined(map(Pairs.load, paths)) for paths in (options.pairs, options.calibrate))
        trees = fit(train)
        print(f"folds of photographs\n{report(train, held_out(train))}\n")
        print(f"calibrate\n{report(calibrate, trees.predict_proba(calibrate.features)[:, 1])}")
        write_model(trees, options.out, decision=options.decision)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _write_photographs(chosen: Iterable[Task], data: Path) -> Path:
    """Writes a manifest of the honest photographs that are whole files, but for those of the research data."""
    path = data / PHOTOGRAPHS
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["path", "label", "source"])
        for task in chosen:
            row = task.rows[0] if task.kind == "honest" else None
            if row is not None and not row.is_shared and not row.crop:
                lines.writerow([picture_path(data, row).relative_to(data), "honest", row.group])
    return path


def _made(chosen: Iterable[Task], data: Path) -> Iterator[tuple[Task, Made]]:
    for task in tqdm(chosen, desc="copy-move", unit="", disable=None):
        try:
            picture = make_picture(task, data)
        except UnreadablePicture as error:
            print(f"{task.name}: {error}", file=sys.stderr)
            continue
        if picture is not None:
            yield task, picture


if __name__ == "__main__":
    raise SystemExit(main())
