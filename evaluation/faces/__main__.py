"""How good the faces service is, by its own code; its networks are asked in a running Triton (`make run` has one).

python -m evaluation.faces scenes DATA --split dev --match real_ffhq [--without-people FOLDER] [--out FOLDER]
python -m evaluation.faces finders .pentimento/scenes
python -m evaluation.faces attributes DATA --split dev --match utkface
python -m evaluation.faces matching DATA --split dev --match utkface,real_ffhq
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.faces.asking import open_faces
from evaluation.faces.attributes import measure_attributes
from evaluation.faces.finding import measure_finders
from evaluation.faces.matching import measure_matching
from evaluation.metrics.errors import MetricError
from evaluation.samples import DataError, Label, Sample, load_samples
from evaluation.scenes import compose_scenes
from services.common.errors import PentimentoError

MEASURES = {"finders": measure_finders, "attributes": measure_attributes, "matching": measure_matching}
COVERED_SHARE = 0.25
CROWD_SHARE = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        samples = _chosen(options)
        if options.command == "scenes":
            nobody = load_samples(options.without_people).samples if options.without_people else ()
            manifest = compose_scenes(
                samples,
                options.out,
                count=options.count,
                seed=options.seed,
                without_people=nobody,
                covered_share=COVERED_SHARE,
                crowd_share=CROWD_SHARE,
            )
            print(manifest)
            return 0
        print(asyncio.run(_measure(options, samples)))
    except (DataError, MetricError, PentimentoError, ValueError, OSError) as error:
        print(f"evaluation.faces: {error}", file=sys.stderr)
        return 2
    return 0


async def _measure(options: argparse.Namespace, samples: Sequence[Sample]) -> str:
    async with open_faces(options.triton) as faces:
        return await MEASURES[options.command](faces, samples)


def _chosen(options: argparse.Namespace) -> list[Sample]:
    samples = load_samples(options.data, split=options.split, sets=[word for word in options.sets.split(",") if word])
    words = [word for word in options.match.split(",") if word]
    chosen = [
        sample
        for sample in samples.samples
        if sample.label is Label.HONEST and (not words or any(word in str(sample.path) for word in words))
    ]
    if not chosen:
        raise DataError("no pictures are left to measure on")
    return chosen[: options.most]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m evaluation.faces", description=__doc__)
    parser.add_argument("command", choices=["scenes", *MEASURES])
    parser.add_argument("data", type=Path, help="a manifest (CSV) or a folder")
    parser.add_argument("--split", help="only this split of a manifest")
    parser.add_argument("--sets", default="", help="only these sets of a manifest, with commas")
    parser.add_argument("--match", default="", help="only pictures with one of these in their path, with commas")
    parser.add_argument("--most", type=int, default=None, help="at most so many pictures")
    parser.add_argument("--triton", default=os.environ.get("PENTIMENTO_TRITON_ADDRESS", "127.0.0.1:8086"))
    parser.add_argument("--count", type=int, default=300, help="scenes with faces, and as many without")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes")
    parser.add_argument("--without-people", type=Path, help="photographs in which there is nobody (manifest or folder)")
    parser.add_argument("--out", type=Path, default=Path(".pentimento/scenes"), help="folder of the scenes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
