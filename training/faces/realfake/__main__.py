"""Training the model `facenet_realfake`.

    python -m training.faces.realfake cut [--limit N]              cut faces to learn from out of the manifest
    python -m training.faces.realfake cut --served                 cut those that networks are judged on, as users' are
    python -m training.faces.realfake sheet [--out FILE]           fifty faces as the network gets them, to look at
    python -m training.faces.realfake overfit                      one batch: does the loop learn at all
    python -m training.faces.realfake train [CONFIG] [--until N]   train, or go on
    python -m training.faces.realfake judge [CONFIG]               threshold from calibrate, report on dev
    python -m training.faces.realfake export [CONFIG]              with CLIP's head into triton_models/, if it is good

`make data` and `make models` come first (the pictures, and FaceNet's weights); PENTIMENTO_FACE_DETECTOR names the
published YuNet. What is served was trained by `configs/core.toml`, `seams.toml` and `more.toml`, one after the other.
Patches are kept in `<data>/realfake/`, and in `<data>/realfake-<digest>/` those that are judged: the digest is that of
the YuNet that is served, which places them. What was stopped goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from services.common.settings import load_settings
from training.data.manifest import read_manifest
from training.data.pictures import UnreadablePicture
from training.data.settings import HERE as DATA
from training.faces.clip_face.looking import ClipFace
from training.faces.finding import SERVED_YUNET, PublishedYuNet, ServedYuNet
from training.faces.realfake.config import RunConfig, read_config
from training.faces.realfake.patches import MOST, RGB, Patch, PatchStore, chosen_rows, cut_patch
from training.faces.realfake.samples import Sampler
from training.faces.runs import MissingRun, add_run_commands, begin_log, begun_with
from training.faces.settings import FaceSettings

HERE: Final = Path(__file__).resolve().parent
CONFIG: Final = HERE / "configs" / "more.toml"
_SHARD: Final = 128
_FINDER_SIDE: Final = 400
"""Longer side of the pictures that faces are looked for in: they are large in these."""
_FINDER_CONFIDENCE: Final = 0.75


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.faces.realfake", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    cutting = commands.add_parser("cut", help="cut faces out of the manifest's pictures")
    cutting.add_argument("--limit", type=int, help="stop after so many new pictures")
    cutting.add_argument("--served", action="store_true", help="by our YuNet, what networks are judged on")
    cutting.add_argument("--kinds", default=",".join(MOST), help="kinds of the manifest, with commas")
    sheet = commands.add_parser("sheet", help="faces as the network gets them")
    sheet.add_argument("--out", type=Path, default=Path("realfake-sheet.png"))
    add_run_commands(commands, ("overfit", "train", "judge", "export"), CONFIG)
    options = parser.parse_args(arguments)
    settings = load_settings(FaceSettings)
    store = PatchStore(settings.data / "realfake")
    cv2.setNumThreads(1)
    if options.command == "cut":
        return _cut(options, settings, _judged_store(settings) if options.served else store)
    patches, pixels = store.read()
    if not patches:
        print("there are no patches: python -m training.faces.realfake cut", file=sys.stderr)
        return 1
    if options.command == "sheet":
        _sheet(Sampler(patches, pixels, read_config(CONFIG)), read_config(CONFIG), options.out)
        return 0
    name = f"realfake-{options.config.stem}"
    if options.command in {"overfit", "train"}:
        try:
            return _train(options, settings, name, patches, pixels)
        except MissingRun as error:
            print(error, file=sys.stderr)
            return 1
    return _judge(options, settings, name, patches, pixels)


def _train(
    options: argparse.Namespace, settings: FaceSettings, name: str, patches: list[Patch], pixels: list[RGB]
) -> int:
    from training.faces.realfake import judging, train  # noqa: PLC0415 - only these need PyTorch
    from training.faces.realfake.network import RealFake  # noqa: PLC0415 - as above

    config = read_config(options.config)
    sampler = Sampler(patches, pixels, config)
    start: Path | RealFake = settings.facenet_graph
    if config.start is not None:
        before = train.load_average(settings.checkpoints / config.start)
        start = begun_with(config.start, before, HERE / "configs")[0]
    if options.command == "overfit":
        losses = train.overfit(config, sampler, start, steps=60, threads=options.threads)
        print("loss: " + " ".join(f"{loss:.3f}" for loss in losses[::5]))
        return 0 if losses[-1] < 0.1 else 1
    log = begin_log(settings.runs, name, options.config)
    small = judging.Judged.of(patches, pixels, splits=("calibrate",), variants=1, most=20)
    done = train.train(
        config,
        sampler,
        start=start,
        checkpoints=settings.checkpoints / name,
        log=log,
        judge=lambda network: small.auc(train.log_odds(network, small.views, bfloat16=config.bfloat16)),
        threads=options.threads,
        until=options.until,
    )
    print(f"{done} of {config.steps} steps")
    return 0


def _judge(
    options: argparse.Namespace, settings: FaceSettings, name: str, patches: list[Patch], pixels: list[RGB]
) -> int:
    from training.faces.realfake import shipping, train  # noqa: PLC0415 - as above

    train.use_threads(options.threads)
    loaded = train.load_average(settings.checkpoints / name)
    if loaded is None:
        print(f"{settings.checkpoints / name} has no checkpoint: train first", file=sys.stderr)
        return 1
    network, config, step = loaded
    judged = _judged_store(settings).read()
    if not judged[0]:
        print("what is judged was not cut yet: python -m training.faces.realfake cut --served", file=sys.stderr)
        return 1
    pictures = shipping.Pictures.of(*judged, config)
    entry = None
    if options.command == "judge":
        judgement = shipping.judge(lambda views: train.log_odds(network, views), pictures)
    else:
        try:
            look = ClipFace(settings.clip_face, threads=options.threads)
        except FileNotFoundError as error:
            print(error, file=sys.stderr)
            return 1
        facts = {"run": name, "steps": str(step)}
        judgement, entry = shipping.ship(network, pictures, (patches, pixels, config), look, facts)
    what = "the network alone, float32" if options.command == "judge" else "the served file, 8 bits"
    text = f"`{name}`, {step} steps; {what}.\n\n{judgement.text}"
    log = settings.runs / name
    log.mkdir(parents=True, exist_ok=True)
    (log / f"{options.command}.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"StyleGAN held out: AUC {judgement.auc:.3f}; camera portraits called fake: {judgement.accused:.3f}")
    if options.command == "judge":
        return 0
    print(entry or "not good enough to be shipped")
    return 0 if entry else 1


def _judged_store(settings: FaceSettings) -> PatchStore:
    digest = hashlib.sha256(SERVED_YUNET.read_bytes()).hexdigest()
    return PatchStore(settings.data / f"realfake-{digest[:12]}")


def _cut(options: argparse.Namespace, settings: FaceSettings, store: PatchStore) -> int:
    rows = chosen_rows(read_manifest(DATA / "manifest", kinds=options.kinds.split(",")))
    finder: PublishedYuNet | ServedYuNet
    if options.served:
        left_out = read_config(CONFIG).left_out
        rows = [row for row in rows if row.split != "train" or row.source in left_out]
        finder = ServedYuNet()
    elif settings.face_detector is None:
        print("name the published YuNet's ONNX file in PENTIMENTO_FACE_DETECTOR", file=sys.stderr)
        return 1
    else:
        finder = PublishedYuNet(settings.face_detector, max_side=_FINDER_SIDE, min_confidence=_FINDER_CONFIDENCE)
    done = store.done()
    new = [row for row in rows if row.id not in done][: options.limit]
    began, count = time.monotonic(), 0
    for start in range(0, len(new), _SHARD):
        found, without = [], []
        for row in new[start : start + _SHARD]:
            try:
                cut = cut_patch(row, settings.data, finder)
            except (UnreadablePicture, OSError) as error:
                print(f"{row.source} {row.path}: {error}", file=sys.stderr)
                cut = None
            if cut is None:
                without.append(row.id)
            else:
                found.append(cut)
        store.add(found, without)
        count += len(found)
        print(f"{start + _SHARD} of {len(new)}: {count} faces, {time.monotonic() - began:.0f} s", flush=True)
    return 0


def _sheet(sampler: Sampler, config: RunConfig, out: Path) -> None:
    """Two batches, real ones framed green, fake ones red."""
    stage = config.stages[-1].model_copy(update={"batch": 25})
    tiles = []
    for step in range(2):
        batch = sampler.batch(step, stage)
        for face, fake in zip(batch.faces, batch.fake, strict=True):
            framed = cv2.copyMakeBorder(
                face, 3, 3, 3, 3, cv2.BORDER_CONSTANT, value=(200, 0, 0) if fake else (0, 160, 0)
            )
            tiles.append(framed)
    rows = [np.concatenate(tiles[start : start + 10], axis=1) for start in range(0, len(tiles), 10)]
    cv2.imwrite(str(out), np.concatenate(rows)[..., ::-1])


if __name__ == "__main__":
    raise SystemExit(main())
