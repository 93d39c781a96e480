"""`python -m training.localisation COMMAND`: list, look, overfit, train, evaluate, export, import."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import torch

from training.localisation.config import RunConfig, read_config
from training.localisation.contact_sheet import contact_sheet
from training.localisation.evaluate import (
    Case,
    beats_baselines,
    comparison,
    evaluate,
    fit_baselines,
    fit_threshold,
    handmade_cases,
    planted_cases,
    pristine_cases,
    table,
)
from training.localisation.export import EXTENSION, MODELS, Model, card_of, export_fragment, export_onnx, install
from training.localisation.fusing import fuse, has_fusion, load_fused, step_of
from training.localisation.fusion_config import read_fusion_config
from training.localisation.fusion_data import Examples, FeatureExtractor, examples_of, in_order, write_features
from training.localisation.inference import onnx_predictor
from training.localisation.listing import digest_of, list_manifest, list_shared, read_listing, thinned, write_listing
from training.localisation.losses import Truth, loss_of
from training.localisation.own import add_command as add_import
from training.localisation.samples import Sampler
from training.localisation.scores import class_scores, mask_scores
from training.localisation.settings import LocalisationSettings
from training.localisation.store import Store, open_store
from training.localisation.train import Batches, load_average, new_network, train


def main() -> None:
    """Runs one command."""
    arguments = _parser().parse_args()
    arguments.run(arguments, LocalisationSettings())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.localisation", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_training(commands)
    _add_fusion(commands)
    _add_weights(commands)
    return parser


def _add_training(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    listing = commands.add_parser("list", help="list the pictures: of the collected research data, or of the manifest")
    listing.add_argument("--manifest", type=Path, help="folder of the manifest whose pictures `make data` assembled")
    listing.add_argument("--most", type=int, help="so many photographs and faces of each source at most")
    listing.set_defaults(run=_list)

    look = commands.add_parser("look", help="draw samples as the network gets them onto one sheet")
    look.add_argument("config", type=Path)
    look.add_argument("sheet", type=Path)
    look.add_argument("--count", type=int, default=50)
    look.add_argument("--stage", type=int, default=0)
    look.set_defaults(run=_look)

    overfit = commands.add_parser("overfit", help="train on one batch only: the loss must vanish")
    overfit.add_argument("config", type=Path)
    overfit.add_argument("--steps", type=int, default=60)
    overfit.set_defaults(run=_overfit)

    training = commands.add_parser("train", help="train, or go on training; SIGTERM stops it after a checkpoint")
    training.add_argument("config", type=Path)
    training.add_argument("--name", help="of the run; the config's by default")
    training.add_argument("--workers", type=int, default=1)
    training.add_argument("--threads", type=int, default=2)
    training.add_argument("--until", type=int, help="stop after so many steps")
    training.add_argument("--weights", type=Path, help="another run's latest.pt to begin with")
    training.set_defaults(run=_train)


def _add_weights(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    judging = commands.add_parser("evaluate", help="how good a checkpoint or an exported network is, beside baselines")
    judging.add_argument("weights", type=Path, help="a run's latest.pt, or an ONNX file")
    judging.add_argument("--split", default="dev")
    judging.add_argument(
        "--limit",
        type=int,
        default=40,
        help="pictures a maker and a collection of forgeries; a quarter of it of photographs",
    )
    judging.add_argument("--report", type=Path, help="folder that gets evaluation.json and evaluation.md")
    judging.add_argument("--encoder", type=Path, help="CLIP's image encoder, if the checkpoint has last layers")
    judging.add_argument("--threads", type=int, default=2)
    judging.set_defaults(run=_evaluate)

    exporting = commands.add_parser("export", help="put a checkpoint with last layers where Triton's models lie")
    exporting.add_argument("weights", type=Path, help="latest.pt of a run of `fuse`")
    exporting.add_argument("--encoder", type=Path, required=True, help="CLIP's image encoder, as the package has it")
    exporting.add_argument("--into", type=Path, default=Path("triton_models"))
    exporting.add_argument("--threads", type=int, default=2)
    exporting.add_argument(
        "--beside", type=Path, nargs="*", default=[], help="other runs' evaluation.json, to stand beside it in the card"
    )
    exporting.add_argument("--anyway", action="store_true", help="even if it does not beat the baselines")
    exporting.set_defaults(run=_export)
    add_import(commands)


def _add_fusion(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    features = commands.add_parser("features", help="compute what the last layers learn from, or go on computing it")
    features.add_argument("config", type=Path)
    features.add_argument("weights", type=Path, help="latest.pt of the localiser that they are put on")
    features.add_argument("--encoder", type=Path, required=True, help="CLIP's image encoder, as the package has it")
    features.add_argument("--threads", type=int, default=1)
    features.set_defaults(run=_features)

    fusing = commands.add_parser("fuse", help="train the last layers on those features")
    fusing.add_argument("config", type=Path)
    fusing.add_argument("weights", type=Path, help="the same latest.pt")
    fusing.add_argument("--name", help="of the run; the config's by default")
    fusing.add_argument("--threads", type=int, default=2)
    fusing.set_defaults(run=_fuse)


def _features(arguments: argparse.Namespace, settings: LocalisationSettings) -> None:
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    config = read_fusion_config(arguments.config)
    network, _ = load_average(arguments.weights)
    compute = FeatureExtractor(network, arguments.encoder)
    for split in ("calibrate", "train"):
        store = [stored for stored in _store(settings, split) if stored.origin not in config.without]
        sampler = Sampler(store, config.sample_weights(store), seed=config.seed)
        examples = examples_of(store, sampler, made=config.made[split], honest=config.honest)
        new = write_features(in_order(examples), compute, settings.fusion / split)
        print(f"{new} new in {settings.fusion / split}")


def _log_of(arguments: argparse.Namespace, settings: LocalisationSettings) -> tuple[str, Path]:
    """A run's name, and the folder of its log, with a copy of its settings."""
    name = arguments.name or arguments.config.stem
    log = settings.runs / name
    log.mkdir(parents=True, exist_ok=True)
    if arguments.config.resolve() != (log / "config.toml").resolve():
        shutil.copyfile(arguments.config, log / "config.toml")
    return name, log


def _fuse(arguments: argparse.Namespace, settings: LocalisationSettings) -> None:
    config = read_fusion_config(arguments.config)
    name, log = _log_of(arguments, settings)
    network, step = load_average(arguments.weights)
    state = torch.load(arguments.weights, map_location="cpu", weights_only=True, mmap=True)
    judged = fuse(
        config,
        Examples(settings.fusion / "train", without=config.without),
        Examples(settings.fusion / "calibrate"),
        (RunConfig.model_validate_json(state["config"]), network),
        checkpoint=settings.checkpoints / name / "latest.pt",
        log=log,
        facts={"weights": arguments.weights.parent.name, "weights_step": step},
        threads=arguments.threads,
    )
    print(*(f"{name} {value:.3f}" for name, value in judged.items()))


def _list(arguments: argparse.Namespace, settings: LocalisationSettings) -> None:
    manifest = arguments.manifest
    rows = list_manifest(manifest, settings.data) if manifest else list_shared(settings.shared_data)
    if arguments.most is not None:
        rows = thinned(rows, arguments.most)
    write_listing(rows, settings.listing)
    print(f"{len(rows)} pictures in {settings.listing}")


def _store(settings: LocalisationSettings, split: str) -> Store:
    rows = read_listing(settings.listing, split=split)
    return open_store(rows, settings.decoded, faces=settings.face_detector)


def _look(arguments: argparse.Namespace, settings: LocalisationSettings) -> None:

    config = read_config(arguments.config)
    sampler = Sampler(_store(settings, "train"), config.sample_weights, seed=config.seed + 1)
    side = config.stages[arguments.stage].side
    gentle = config.stages[arguments.stage].gentle
    sheet = contact_sheet([sampler.sample(number, side, gentle=gentle) for number in range(arguments.count)])
    cv2.imwrite(str(arguments.sheet), sheet[..., ::-1])


def _overfit(arguments: argparse.Namespace, settings: LocalisationSettings) -> None:

    config = read_config(arguments.config)
    batch = next(iter(Batches(Sampler(_store(settings, "train"), config.sample_weights, seed=config.seed), config, 0)))
    network = new_network(config).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for step in range(arguments.steps):
        images = batch.images.float().to(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.bfloat16):
            output = network(images) if config.stages[0].deep else network.read_traces(images)
        losses = loss_of(output, Truth(batch.masks, batch.classes))
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        print(step, *(f"{name} {float(getattr(losses, name)):.3f}" for name in ("mask", "dice", "classes")), flush=True)


def _train(arguments: argparse.Namespace, settings: LocalisationSettings) -> None:
    config = read_config(arguments.config)
    name, log = _log_of(arguments, settings)
    rows = read_listing(settings.listing, split="train")
    kinds = [row.kind for row in rows]
    steps = train(
        config,
        open_store(rows, settings.decoded, faces=settings.face_detector),
        checkpoints=settings.checkpoints / name,
        log=log,
        facts={
            "data": digest_of(rows),
            "pictures": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
            "weights": arguments.weights.parent.name if arguments.weights else None,
        },
        workers=arguments.workers,
        threads=arguments.threads,
        until=arguments.until,
        weights=arguments.weights,
    )
    print(f"{steps} steps done", file=sys.stderr)


def _judged(settings: LocalisationSettings, split: str, limit: int) -> list[Case]:
    store = _store(settings, split)
    return [
        *planted_cases(store, limit=limit),
        *handmade_cases(store, limit=limit),
        *pristine_cases(store, limit=max(1, limit // 4)),
    ]


def _fitted_on(settings: LocalisationSettings, limit: int) -> tuple[list[Case], list[Case]]:
    """What thresholds are fitted on: planted forgeries and their twins, and hand-made ones and photographs."""
    store = _store(settings, "calibrate")
    planted = list(planted_cases(store, limit=max(1, limit // 2)))
    return planted, [*handmade_cases(store, limit=2 * limit), *pristine_cases(store, limit=limit)]


def _exported(weights: Path, encoder: Path | None, *, model: Model = "deeplabv3plus", threshold: float = 0.5) -> bytes:
    """A checkpoint as it is served, as one ONNX file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        if not has_fusion(weights):
            export_onnx(load_average(weights)[0], path, outputs=MODELS[model], threshold=threshold)
            return path.read_bytes()
        if encoder is None:
            sys.exit(f"{weights} has last layers, which look through CLIP: name its encoder with --encoder.")
        localiser, fusion, config = load_fused(weights)
        export_fragment(localiser, fusion, path, outputs=MODELS[model], threshold=threshold, evidence=config.evidence)
        return encoder.read_bytes() + path.read_bytes()


def _evaluate(arguments: argparse.Namespace, settings: LocalisationSettings) -> None:
    planted, others = _fitted_on(settings, arguments.limit)
    weights: Path = arguments.weights
    facts: dict[str, float | str] = {"weights": weights.name, "split": arguments.split, "limit": arguments.limit}
    if weights.suffix == ".onnx":
        content = weights.read_bytes()
    else:
        plain = _exported(weights, arguments.encoder)
        threshold = fit_threshold(onnx_predictor(plain, threads=arguments.threads), [*planted, *others])
        content = _exported(weights, arguments.encoder, threshold=threshold)
        facts |= {"step": step_of(weights), "threshold": threshold}
    cases = _judged(settings, arguments.split, arguments.limit)
    predict = onnx_predictor(content, threads=arguments.threads)
    result = {**facts, **evaluate(predict, cases, fit_baselines(planted))}
    text = table(result)
    if arguments.report:
        arguments.report.mkdir(parents=True, exist_ok=True)
        (arguments.report / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
        (arguments.report / "evaluation.md").write_text(text + "\n")
    print(text)


def _export(arguments: argparse.Namespace, settings: LocalisationSettings) -> None:
    weights: Path = arguments.weights
    name = weights.parent.name
    log = settings.runs / name
    report = log / "evaluation.json"
    result: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {}
    if result.get("step") != step_of(weights) or result.get("split") != "dev":
        sys.exit(f"{report} does not tell of these weights: make train-evaluate RUN={name} first.")
    if not beats_baselines(result) and not arguments.anyway:
        sys.exit("The network does not beat the baselines; nothing was put in place (--anyway does it all the same).")
    localiser, fusion, config = load_fused(weights)
    facts = json.loads((log / "data.jsonl").read_text().splitlines()[-1])
    runs = {name: result} | {path.parent.name: json.loads(path.read_text()) for path in arguments.beside}
    for model, outputs in MODELS.items():
        fragment = arguments.into / model / "1" / EXTENSION
        fragment.parent.mkdir(parents=True, exist_ok=True)
        export_fragment(
            localiser,
            fusion,
            fragment,
            outputs=outputs,
            threshold=result["threshold"],
            evidence=config.evidence,
        )
        told = {
            "served": table(result),
            "beside": comparison(runs),
            "scores": mask_scores(result),
            "class_scores": class_scores(result),
            "run": name,
            "step": str(result["step"]),
            "localiser": f"`{facts['weights']}`, {facts['weights_step']} steps",
            "examples": ", ".join(f"{count} {origin}" for origin, count in facts["examples"].items()),
            "size": f"{fragment.stat().st_size / 1e6:.1f} MB",
        }
        print(install(fragment, model, arguments.into, arguments.encoder, card=card_of(model, told)))


if __name__ == "__main__":
    main()
