"""Fitting the head of the model `generated`.

    python -m training.generated compare [--leave-out makers|sources]     which inputs, which head, how regularised
    python -m training.generated curve                                    the learning curve
    python -m training.generated gains                                    what each source is worth to all others
    python -m training.generated fit --encoder FILE                    fit, calibrate, report on dev, export

All need `python -m training.features` first. `compare`, `curve` and `gains` use the train split only; what is chosen
there stands in `config.toml`. `fit` learns from train, calibrates on calibrate and reports on dev once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from services.common.settings import load_settings
from training.data.manifest import read_manifest
from training.data.settings import HERE as DATA
from training.data.settings import DataSettings
from training.features import AS_IT_IS, FeatureStore
from training.generated.curve import draw_curve, learning_curve
from training.generated.examples import INPUTS, Examples, Input, load_examples
from training.generated.export import write_fragment
from training.generated.final import fit_final
from training.generated.folds import Fit, held_out_margins, linear, measure, perceptron
from training.generated.gains import gains

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CONFIG = HERE / "config.toml"
RESULTS = HERE / "results"
MODEL = ROOT / "triton_models" / "generated"
CURVE_IMAGE = ROOT / "docs" / "images" / "generated-learning-curve.png"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.generated", description=__doc__)
    parser.add_argument("--recipe", help="folder of features below <data>/features; default: the only one")
    commands = parser.add_subparsers(dest="command", required=True)
    comparing = commands.add_parser("compare", help="inputs and heads, on generators and sources left out of train")
    comparing.add_argument("--leave-out", choices=("makers", "sources"), default="makers")
    comparing.add_argument("--perceptron", action="store_true", help="try the small network too")
    commands.add_parser("curve", help="AUC by number of generators and pictures")
    commands.add_parser("gains", help="AUC on all others with a source and without it")
    fitting = commands.add_parser("fit", help="fit, calibrate, report, export")
    fitting.add_argument(
        "--encoder", type=Path, required=True, help="the encoder's file, for the digest in models.lock"
    )
    options = parser.parse_args(arguments)
    config = tomllib.loads(CONFIG.read_text(encoding="utf-8"))
    settings = load_settings(DataSettings)
    folder = _features_folder(settings.data / "features", options.recipe)
    rows = read_manifest(DATA / "manifest", kinds=config["kinds"])
    RESULTS.mkdir(exist_ok=True)
    try:
        examples = load_examples(rows, FeatureStore(folder), variants=config["variants"])
    except KeyError as error:
        print(f"{error.args[0]}: run python -m training.features first", file=sys.stderr)
        return 1
    if options.command == "compare":
        text = _compare(examples.of_split("train"), options.leave_out, config, with_perceptron=options.perceptron)
        (RESULTS / f"compare-{options.leave_out}.md").write_text(text, encoding="utf-8")
    elif options.command == "curve":
        text = _curve(examples.of_split("train"), config)
        (RESULTS / "curve.md").write_text(text, encoding="utf-8")
    elif options.command == "gains":
        text = _gains(examples.of_split("train"), config)
        (RESULTS / "gains.md").write_text(text, encoding="utf-8")
    else:
        store = FeatureStore(folder)
        as_it_is = load_examples(rows, store, variants=[AS_IT_IS]) if config["as_it_is"] else None
        others = [row for row in read_manifest(DATA / "manifest", kinds=config["others"]) if row.split == "dev"]
        head, text = fit_final(examples, as_it_is, load_examples(others, store, variants=config["variants"]), config)
        fragment = MODEL / "1" / "head.onnx"
        write_fragment(head, config["inputs"], fragment)
        merged = options.encoder.read_bytes() + fragment.read_bytes()
        digest = hashlib.sha256(merged).hexdigest()
        text += f'\nFeatures {folder.name}. models.lock: sha256 = "{digest}", size = {len(merged)}\n'
        (RESULTS / "fit.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _features_folder(folder: Path, recipe: str | None) -> Path:
    found = [folder / recipe] if recipe else sorted(path for path in folder.glob("*") if path.is_dir())
    if len(found) != 1 or not found[0].is_dir():
        raise SystemExit(f"name one of the folders in {folder} by --recipe: {', '.join(path.name for path in found)}")
    return found[0]


def _compare(train: Examples, leave_out: Any, config: dict[str, Any], *, with_perceptron: bool) -> str:
    units, judged = train.units(leave_out), train.judged()
    counted = (
        f"{int(train.labels.sum())} generated pictures of {len(set(units[train.labels].tolist()))} {leave_out}, "
        f"{int((~train.labels).sum())} honest ones of {len(set(units[~train.labels].tolist()))} sources; "
        f"train split, {leave_out} left out by fold."
    )
    lines = [
        counted,
        "",
        "| inputs | head | AUC | found at 2 % accused | accused at 50 % found |",
        "|---|---|---|---|---|",
    ]
    chosen, strength = config["inputs"], config["strength"]
    tried: list[tuple[Input, str, Fit]] = [(which, f"linear, L2 {strength:g}", linear(strength)) for which in INPUTS]
    tried += [(chosen, f"linear, L2 {other:g}", linear(other)) for other in config["strengths"] if other != strength]
    if with_perceptron:
        tried.append((chosen, "perceptron, 32 hidden", perceptron(32, 1.0)))
    for which, name, fit in tried:
        margins = held_out_margins(train, which, fit, leave_out=leave_out, folds=config["folds"])
        line = f"| {which} | {name} | {measure(train.labels[judged], margins[judged], units[judged]).row()} |"
        print(line, file=sys.stderr, flush=True)
        lines.append(line)
    return "\n".join(lines) + "\n"


def _gains(train: Examples, config: dict[str, Any]) -> str:
    lines = ["| source | generated pictures | generators | AUC with it less AUC without it |", "|---|---|---|---|"]
    lines += [
        f"| {gain.source} | {gain.pictures} | {gain.makers} | {gain.gain:+.4f} |"
        for gain in gains(train, config["inputs"], linear(config["strength"]))
    ]
    return "\n".join(lines) + "\n"


def _curve(train: Examples, config: dict[str, Any]) -> str:
    points = learning_curve(
        train,
        config["inputs"],
        linear(config["strength"]),
        generators=config["curve"]["generators"],
        pictures=config["curve"]["pictures"],
    )
    draw_curve(points, CURVE_IMAGE)
    lines = ["| generators | pictures of each, at most | generated pictures | AUC |", "|---|---|---|---|"]
    lines += [
        f"| {point.generators} | {point.pictures} | {point.learned:.0f} | {point.auc:.3f} ± {point.spread:.3f} |"
        for point in points
    ]
    (RESULTS / "curve.json").write_text(
        json.dumps([[p.generators, p.pictures, round(p.learned), round(p.auc, 4), round(p.spread, 4)] for p in points])
        + "\n",
        encoding="utf-8",
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    raise SystemExit(main())
