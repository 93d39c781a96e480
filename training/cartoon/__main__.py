"""Fitting the heads of the models `vgg16_cartoon` and `clip_cartoon`.

    python -m training.cartoon views [--limit N]      what the network sees of the pictures     (the main environment)
    python -m training.cartoon ranges --vgg FILE      ranges of VGG16's activations, for config.toml
    python -m training.cartoon features --vgg FILE    means and deviations of VGG16's blocks    (training's environment)
    python -m training.cartoon compare                which blocks, how regularised, on styles and sources left out
    python -m training.cartoon fit                    fit, pick the threshold, report on dev, export vgg16_cartoon
    python -m training.cartoon glance                 the same for clip_cartoon             (training's environment)

`make data` comes first. Views and features are kept in `<data>/cartoon/`; a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from tqdm import tqdm

from services.common.settings import load_settings
from services.faces.finders import FaceFinder
from training.cartoon.views import KINDS, View, ViewStore, chosen_rows, views_of
from training.data.manifest import Row, Split, read_manifest
from training.data.pictures import UnreadablePicture
from training.data.settings import HERE as DATA
from training.data.settings import DataSettings

if TYPE_CHECKING:
    from training.cartoon.fitting import Examples

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CONFIG = HERE / "config.toml"
RESULTS = HERE / "results"
MODEL = ROOT / "triton_models" / "vgg16_cartoon"
GLANCE = ROOT / "triton_models" / "clip_cartoon"
_SHARD = 50
_RANGED = 200
"""Views that show the ranges, about."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.cartoon", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    viewing = commands.add_parser("views", help="cut what the network sees")
    viewing.add_argument("--limit", type=int, help="stop after so many new pictures")
    computing = commands.add_parser("features", help="run VGG16")
    ranging = commands.add_parser("ranges", help="how far its activations reach, on views of train")
    for command in (computing, ranging):
        command.add_argument("--vgg", type=Path, required=True, help="the package's ONNX file")
        command.add_argument("--threads", type=int, default=2)
    for command in (viewing, computing):
        command.add_argument("--splits", default="train,calibrate,dev", help="splits, with commas")
    commands.add_parser("compare", help="blocks and strengths, on what was left out of train")
    commands.add_parser("fit", help="fit, pick the threshold, report, export")
    glancing = commands.add_parser("glance", help="likewise, of what CLIP's first blocks see of faces")
    glancing.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    settings = load_settings(DataSettings)
    folder = settings.data / "cartoon"
    rows = read_manifest(DATA / "manifest", kinds=KINDS)
    if options.command in {"views", "features"}:
        wanted = [row for row in chosen_rows(rows) if row.split in options.splits.split(",")]
    if options.command == "views":
        backgrounds = [row for row in rows if row.kind == "photograph"]
        return _views(wanted, backgrounds, settings.data, ViewStore(folder / "views"), limit=options.limit)
    config = tomllib.loads(CONFIG.read_text(encoding="utf-8"))
    if options.command == "ranges":
        from training.cartoon.backbone import activation_ranges  # noqa: PLC0415 - only training's environment has ONNX

        learned = {row.id for row in rows if row.split == "train"}
        seen = [view for view in ViewStore(folder / "views").views() if view.picture in learned]
        print(f"ranges = {activation_ranges(options.vgg, seen[:: len(seen) // _RANGED], threads=options.threads)}")
        return 0
    if options.command == "features":
        from training.cartoon.backbone import compute_features  # noqa: PLC0415 - as above

        order = {row.id: number for number, row in enumerate(wanted)}
        views = [view for view in ViewStore(folder / "views").views() if view.picture in order]
        views.sort(key=lambda view: order[view.picture])
        count = compute_features(options.vgg, views, folder / "features", config["ranges"], threads=options.threads)
        print(f"{count} new views")
        return 0
    from training.cartoon import fitting  # noqa: PLC0415 - likewise scikit-learn's cost

    RESULTS.mkdir(exist_ok=True)
    try:
        examples = fitting.load_examples(rows, folder / "features")
        if options.command == "compare":
            text = fitting.compare(examples, config)
        elif options.command == "glance":
            text = _glance(examples, ViewStore(folder / "views"), config, threads=options.threads)
        else:
            text = _fit(examples, config)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    (RESULTS / f"{options.command}.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _fit(examples: Examples, config: dict[str, Any]) -> str:
    from training.cartoon.backbone import write_fragment  # noqa: PLC0415 - as above
    from training.cartoon.fitting import fit_final  # noqa: PLC0415

    head, text = fit_final(examples, config)
    path = MODEL / "1" / "extension.onnx"
    size = write_fragment(path, config["blocks"], head, config["ranges"])
    return f"{text}\nExtension: {size} bytes, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}.\n"


def _glance(examples: Examples, store: ViewStore, config: dict[str, Any], *, threads: int) -> str:
    from training.cartoon.glance import fit_glance  # noqa: PLC0415 - as above
    from training.faces.clip_face.export import export_head  # noqa: PLC0415
    from training.faces.clip_face.looking import TRACES, ClipFace  # noqa: PLC0415
    from training.faces.settings import FaceSettings  # noqa: PLC0415

    look = ClipFace(load_settings(FaceSettings).clip_face, threads=threads)
    faces = [(view.picture, view.chip) for view in store.views() if view.chip is not None]
    seen = dict(zip((picture for picture, _ in faces), look([chip for _, chip in faces]), strict=True))
    traces = np.zeros((len(examples.rows), TRACES), np.float32)
    for index in np.flatnonzero(examples.seen != "whole"):
        traces[index] = seen[examples.rows[index].id]
    head, text = fit_glance(examples, traces, config)
    path = GLANCE / "1" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    export_head(head, path, {"input": "traces: (n, 3072), what clip_face says of faces"})
    return f"{text}\nModel: {path.stat().st_size} bytes, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}.\n"


def _views(rows: Sequence[Row], photographs: Sequence[Row], data: Path, store: ViewStore, *, limit: int | None) -> int:
    from services.faces.finders.haar import HaarFinder  # noqa: PLC0415 - MediaPipe is in the main environment only
    from services.faces.finders.mediapipe import MediaPipeFinder  # noqa: PLC0415
    from triton_models.layout import ModelsFolder, data_folder  # noqa: PLC0415

    asset = ModelsFolder(data_folder() / "models").assets / "mediapipe" / "face_detection_short_range.tflite"
    finders: list[FaceFinder] = [MediaPipeFinder(asset), HaarFinder()]
    done = store.done()
    new = [row for row in rows if row.id not in done][:limit]
    backgrounds = {split: [row for row in photographs if row.split == split] for split in get_args(Split)}
    kept: list[View] = []
    failed = 0
    for number, row in enumerate(tqdm(new, desc="views", unit="", disable=None), start=1):
        try:
            kept += views_of(row, data, finders, backgrounds[row.split])
        except (UnreadablePicture, OSError) as error:
            failed += 1
            print(f"{row.source} {row.path}: {error}", file=sys.stderr)
        if kept and (number % _SHARD == 0 or number == len(new)):
            store.add(kept)
            kept = []
    print(f"{len(new) - failed} new pictures, {failed} failed, in {store.folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
