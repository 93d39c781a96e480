"""How well a plain head on frozen CLIP features tells fake faces from real ones; nothing is served from here.

    python -m training.features --encoder FILE --kinds real_face,fake_face --most 60
    python -m training.faces.heads [--recipe FOLDER]

Real and fake faces come through the same encoding (`training.data.encoding`), which crops, scales and compresses all of
them alike; no finder frames the face, which most of these collections show closely already. Every picture is scored by
a head that saw neither its generator nor its source; the table is what the network for real or fake has to beat.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.detection import roc_auc
from services.common.settings import load_settings
from training.data.manifest import read_manifest
from training.data.settings import HERE as DATA
from training.data.settings import DataSettings
from training.features import FeatureStore
from training.generated.examples import INPUTS, Examples, LeaveOut, load_examples
from training.generated.folds import held_out_margins, linear, measure

__all__ = ["main", "table"]

KINDS = ("real_face", "fake_face")
STRENGTH = 30.0
FOLDS = 4
"""Few generators of faces are public: more folds would leave some without any."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.faces.heads", description=__doc__)
    parser.add_argument("--recipe", help="folder of features below <data>/features; default: the only one")
    options = parser.parse_args(arguments)
    folder = load_settings(DataSettings).data / "features"
    found = [folder / options.recipe] if options.recipe else sorted(path for path in folder.glob("*") if path.is_dir())
    if len(found) != 1 or not found[0].is_dir():
        print(f"name one of the folders in {folder} by --recipe", file=sys.stderr)
        return 1
    try:
        examples = load_examples(read_manifest(DATA / "manifest", kinds=KINDS), FeatureStore(found[0]), variants=[0])
    except KeyError as error:
        print(f"{error.args[0]}: run python -m training.features first", file=sys.stderr)
        return 1
    print(table(examples))
    return 0


def table(examples: Examples) -> str:
    """AUC by what was left out and by inputs, and by each fake's maker, in Markdown; all splits."""
    counted = (
        f"{int(examples.labels.sum())} fake faces of {_count(examples, fake=True)} makers, "
        f"{int((~examples.labels).sum())} real ones of {_count(examples, fake=False)} sources."
    )
    lines = [
        counted,
        "",
        "| left out | inputs | AUC | found at 2 % accused | accused at 50 % found |",
        "|---|---|---|---|---|",
    ]
    by_maker: list[str] = []
    choices: tuple[LeaveOut, ...] = ("makers", "sources")
    for leave_out in choices:
        for which in INPUTS:
            margins = held_out_margins(examples, which, linear(STRENGTH), leave_out=leave_out, folds=FOLDS)
            row = measure(examples.labels, margins, examples.units(leave_out)).row()
            lines.append(f"| {leave_out} | {which} | {row} |")
            by_maker += _by_maker(examples, leave_out, which, margins)
    header = ["", "| maker | left out | inputs | pictures | AUC |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *header, *sorted(by_maker)])


def _count(examples: Examples, *, fake: bool) -> int:
    units = examples.units("makers")
    return len(set(units[examples.labels == fake].tolist()))


def _by_maker(examples: Examples, leave_out: LeaveOut, which: str, margins: NDArray[np.float64]) -> list[str]:
    makers, labels = np.array([row.maker for row in examples.rows]), examples.labels
    lines = []
    for maker in sorted(set(makers[labels].tolist())):
        fakes = labels & (makers == maker)
        auc = roc_auc(labels[~labels | fakes], margins[~labels | fakes])
        lines.append(f"| {maker} | {leave_out} | {which} | {int(fakes.sum())} | {auc:.3f} |")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
