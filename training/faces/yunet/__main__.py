"""Training the model `yunet`.

    python -m training.faces.yunet backgrounds [--limit N]     decode what faces are laid on
    python -m training.faces.yunet sheet [--out FILE]          scenes, with what the teacher finds
    python -m training.faces.yunet train [CONFIG] [--until N]  train, or go on
    python -m training.faces.yunet judge [CONFIG]              agreement with the teacher on 300 + 300 scenes of dev
    python -m training.faces.yunet export [CONFIG]             into triton_models/, if it agrees enough

`make data` and `python -m training.faces.realfake cut` come first: the latter's patches are the faces.
PENTIMENTO_FACE_DETECTOR names the published YuNet, the export with free sizes (2026may): the teacher.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from services.common.settings import load_settings
from training.data.build import picture_path
from training.data.manifest import Row, Split, read_manifest
from training.data.pictures import UnreadablePicture, cropped, read_pixels
from training.data.settings import HERE as DATA
from training.faces.realfake.patches import PatchStore
from training.faces.runs import MissingRun, add_run_commands, begin_log, begun_with
from training.faces.settings import FaceSettings
from training.faces.yunet.config import RunConfig, read_config
from training.faces.yunet.scenes import RGB, SceneMaker
from training.features import in_turns

if TYPE_CHECKING:
    from training.faces.yunet.judging import Agreement
    from training.faces.yunet.network import YuNet

HERE: Final = Path(__file__).resolve().parent
CONFIG: Final = HERE / "configs" / "core.toml"
MODEL: Final = HERE.parents[2] / "triton_models" / "yunet"

_BACKGROUND_SIDE: Final = 360
"""Of the shorter side of a kept background, in pixels, at most."""
_KINDS: Final = ("photograph", "drawn", "generated")
_MOST: Final = {"train": 400, "dev": 80, "calibrate": 80}
"""Backgrounds by split."""
_SCENES: Final = 300
_SIDES: Final = (320, 480, 640)
"""Of the scenes that are judged, in turns."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.faces.yunet", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("backgrounds", help="decode what faces are laid on")
    sheet = commands.add_parser("sheet", help="scenes with what the teacher finds")
    sheet.add_argument("--out", type=Path, default=Path("yunet-sheet.png"))
    add_run_commands(commands, ("train", "judge", "export"), CONFIG)
    options = parser.parse_args(arguments)
    settings = load_settings(FaceSettings)
    cv2.setNumThreads(1)
    if options.command == "backgrounds":
        return _backgrounds(settings.data)
    teacher = settings.face_detector
    if teacher is None:
        print("name the published YuNet, the export with free sizes, in PENTIMENTO_FACE_DETECTOR", file=sys.stderr)
        return 1
    if options.command == "sheet":
        _sheet(_scenes(settings.data, "train", seed=0), teacher, options.out)
        return 0
    config = read_config(options.config)
    name = f"yunet-{options.config.stem}"
    if options.command == "train":
        try:
            return _train(config, settings, teacher, name, options)
        except MissingRun as error:
            print(error, file=sys.stderr)
            return 1
    return _judge(settings, teacher, name, ship=options.command == "export")


def _train(config: RunConfig, settings: FaceSettings, teacher: Path, name: str, options: argparse.Namespace) -> int:
    from training.faces.yunet import judging, train  # noqa: PLC0415 - only these need PyTorch

    start = None
    if config.start is not None:
        before = train.load_average(settings.checkpoints / config.start)
        start = begun_with(config.start, before, HERE / "configs")[0]
    log = begin_log(settings.runs, name, options.config)
    judged = _scenes(settings.data, "train", seed=config.seed + 1)
    pictures = [judged.scene(number, 320) for number in range(80)]
    wanted = judging.faces_found(teacher, pictures)
    done = train.train(
        config,
        _scenes(settings.data, "train", seed=config.seed),
        train.Teacher(teacher, threads=options.threads),
        start=start,
        checkpoints=settings.checkpoints / name,
        log=log,
        judge=lambda network: judging.agreement(wanted, judging.faces_found(network, pictures)).shares,
        threads=options.threads,
        until=options.until,
    )
    print(f"{done} of {config.steps} steps")
    return 0


def _judge(settings: FaceSettings, teacher: Path, name: str, *, ship: bool) -> int:
    from training.faces.yunet import judging, train  # noqa: PLC0415 - as above

    loaded = train.load_average(settings.checkpoints / name)
    if loaded is None:
        print(f"{settings.checkpoints / name} has no checkpoint: train first", file=sys.stderr)
        return 1
    network, step = loaded
    target = MODEL / "1" / "model.onnx"
    # By digest, as the file is about to be replaced, and the record stays.
    served = (f"served, {_digest(target)[:12]}", target) if target.is_file() else None
    judged: list[tuple[str, YuNet | Path]] = [(f"`{name}`, {step} steps", network), *([served] if served else [])]
    scenes = _scenes(settings.data, "dev", seed=99)
    lines = [
        f"Beside the teacher {teacher.name}; aim: {judging.AIM[0]:.2f} found, {judging.AIM[1]:.2f} extra, with faces.",
        "",
        "| network | scenes | teacher's faces | found | extra | scenes with an extra one | landmarks off |",
        "|---|---|---|---|---|---|---|",
    ]
    results: dict[bool, list[judging.Agreement]] = {}
    for with_faces in (True, False):
        pictures = [
            scenes.scene(number, _SIDES[number % len(_SIDES)], with_faces=with_faces) for number in range(_SCENES)
        ]
        wanted = judging.faces_found(teacher, pictures)
        results[with_faces] = [judging.agreement(wanted, judging.faces_found(each, pictures)) for _, each in judged]
        lines += [
            _row(who, f"{_SCENES} {'with faces' if with_faces else 'without'}", result)
            for (who, _), result in zip(judged, results[with_faces], strict=True)
        ]
    text = "\n".join([*lines, "", "Landmarks: mean distance, as a share of the face's width.", ""])
    print(text)
    log = settings.runs / name
    log.mkdir(parents=True, exist_ok=True)
    (log / "judge.md").write_text(text, encoding="utf-8")
    if not ship:
        return 0
    new, *there = results[True]
    if why := judging.refusal(new, there[0] if there else None):
        print(why, file=sys.stderr)
        return 1
    target.parent.mkdir(parents=True, exist_ok=True)
    judging.serve_onnx(network, target)
    print(
        '[[model]]\nname = "yunet"\nlicence = "LicenseRef-Research-Only"\n\n[[model.file]]\n'
        f'path = "1/model.onnx"\ncommitted = true\nsha256 = "{_digest(target)}"\nsize = {target.stat().st_size}'
    )
    return 0


def _row(who: str, scenes: str, result: Agreement) -> str:
    shares, intervals = result.shares, result.intervals()

    def said(what: str, count: int) -> str:
        interval = intervals[what]
        between = f", {interval.low:.3f}-{interval.high:.3f}" if interval else ""
        return f"{count} ({shares[what]:.3f}{between})"

    return (
        f"| {who} | {scenes} | {result.faces} | {said('found', result.found)} | {said('extra', result.extra)} "
        f"| {result.alarmed} | {result.landmarks_off:.3f} |"
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _backgrounds(data: Path) -> int:
    rows = read_manifest(DATA / "manifest", kinds=_KINDS)
    for split, most in _MOST.items():
        kept: dict[str, Any] = {}
        for row in in_turns([row for row in rows if row.split == split]):
            if len(kept) == most:
                break
            picture = _background(row, data)
            if picture is not None:
                kept[row.id] = picture
        path = _file(data, split)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, **kept)
        partial.replace(path)
        print(f"{len(kept)} backgrounds in {path}")
    return 0


def _background(row: Row, data: Path) -> RGB | None:
    try:
        rgb = cropped(read_pixels(picture_path(data, row).read_bytes()), row.box)
    except (UnreadablePicture, OSError):
        return None
    scale = min(1.0, _BACKGROUND_SIDE / min(rgb.shape[:2]))
    size = round(rgb.shape[1] * scale), round(rgb.shape[0] * scale)
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _file(data: Path, split: Split | str) -> Path:
    return data / "yunet" / f"backgrounds-{split}.npz"


def _scenes(data: Path, split: Split, *, seed: int) -> SceneMaker:
    patches, pixels = PatchStore(data / "realfake").read()
    faces = [rgb for patch, rgb in zip(patches, pixels, strict=True) if patch.split == split]
    path = _file(data, split)
    if not path.is_file():
        raise SystemExit(f"there is no {path}: python -m training.faces.yunet backgrounds")
    with np.load(path) as stored:
        backgrounds = [stored[name] for name in stored.files]
    return SceneMaker(faces, backgrounds, seed=seed)


def _sheet(scenes: SceneMaker, teacher: Path, out: Path) -> None:
    from training.faces.yunet.judging import faces_found  # noqa: PLC0415 - needs PyTorch

    pictures = [scenes.scene(number, 320) for number in range(12)]
    for picture, faces in zip(pictures, faces_found(teacher, pictures), strict=True):
        for face in faces:
            corners = (round(face.box.x_min), round(face.box.y_min)), (round(face.box.x_max), round(face.box.y_max))
            cv2.rectangle(picture, *corners, (0, 255, 0), 2)
    rows = [np.concatenate(pictures[start : start + 4], axis=1) for start in range(0, 12, 4)]
    cv2.imwrite(str(out), np.concatenate(rows)[..., ::-1])


if __name__ == "__main__":
    raise SystemExit(main())
