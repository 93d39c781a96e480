"""Makes a model folder of a user's own checkpoint: weights, config.pbtxt and a card.

The folder's config.pbtxt says what the checkpoint answers, and what services/deeplearning has to know of it
(`services.deeplearning.networks`): its classes, and the size of its pictures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from training.localisation.classes import CLASSES
from training.localisation.export import SERVING
from training.localisation.importers import CheckpointError, import_classifier, import_segmenter
from triton_models.layout import data_folder

__all__ = ["add_command", "put_classifier", "put_segmenter"]

Name = Literal["deeplabv3plus", "resnet50"]
CLASSIFIER_SIDE = 224
"""What most training of classifiers takes."""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command `import` to a command line."""
    command = commands.add_parser("import", help="make a model of a .pth of your own, which is served in place of ours")
    command.add_argument("model", choices=("deeplabv3plus", "resnet50"))
    command.add_argument("checkpoint", type=Path)
    command.add_argument("--into", type=Path, default=data_folder() / "models" / "own", help="the folder of own models")
    command.add_argument(
        "--side", type=int, help="pixels square that it was trained at; 0 for whole pictures; of a classifier 224"
    )
    command.add_argument("--threshold", type=float, default=0.5, help="where a segmenter's mask is cut")
    command.add_argument("--classes", nargs="+", default=list(CLASSES[:4]), help="what a classifier's outputs mean")
    command.set_defaults(run=_import)


def _import(arguments: argparse.Namespace, _: Any) -> None:
    try:
        if arguments.model == "deeplabv3plus":
            side = arguments.side or None
            place = put_segmenter(arguments.checkpoint, arguments.into, side=side, threshold=arguments.threshold)
        else:
            side = CLASSIFIER_SIDE if arguments.side is None else arguments.side or None
            place = put_classifier(arguments.checkpoint, arguments.into, classes=arguments.classes, side=side)
    except CheckpointError as error:
        sys.exit(str(error))
    print(f"{place} is made; `make models` puts it in place, and a new start serves it")


def put_segmenter(checkpoint: Path, folder: Path, *, side: int | None = None, threshold: float = 0.5) -> Path:
    """Makes `<folder>/deeplabv3plus` of a checkpoint of segmentation-models-pytorch's DeepLabV3+ on ResNet50.

    Args:
        checkpoint: the `.pth` file.
        folder: of the deployment's own models.
        side: the pixels square that it was trained at; without it pictures keep their shape, at most 1,024 pixels long.
        threshold: probability at which its mask is to be cut.

    Returns:
        The model's folder.

    Raises:
        CheckpointError: it is no such checkpoint.
    """
    place = _begun(folder, "deeplabv3plus")
    import_segmenter(checkpoint, place / "1" / "model.onnx")
    parameters = {**_size(side), **({"threshold": f"{threshold:g}"} if threshold != 0.5 else {})}
    _describe(place, "deeplabv3plus", {"mask": (-1, -1), "reliability": (-1, -1)}, parameters, checkpoint)
    return place


def put_classifier(
    checkpoint: Path, folder: Path, *, classes: Sequence[str], side: int | None = CLASSIFIER_SIDE
) -> Path:
    """Makes `<folder>/resnet50` of a checkpoint of torchvision's ResNet50.

    Args:
        checkpoint: the `.pth` file.
        folder: of the deployment's own models.
        classes: what the checkpoint's outputs mean, in order; "pristine" for pictures that were not edited.
        side: as of `put_segmenter`.

    Returns:
        The model's folder.

    Raises:
        CheckpointError: it is no such checkpoint, or its outputs are not as many as the classes.
    """
    place = _begun(folder, "resnet50")
    import_classifier(checkpoint, place / "1" / "model.onnx", classes=classes)
    parameters = {"classes": ",".join(classes), **_size(side)}
    _describe(place, "resnet50", {"classes": (len(classes),)}, parameters, checkpoint)
    return place


def _begun(folder: Path, name: Name) -> Path:
    place = folder / name
    (place / "1").mkdir(parents=True, exist_ok=True)
    return place


def _size(side: int | None) -> dict[str, str]:
    return {} if side is None else {"square_side": str(side)}


def _describe(
    place: Path, name: Name, outputs: Mapping[str, Sequence[int]], parameters: Mapping[str, str], checkpoint: Path
) -> None:
    (place / "config.pbtxt").write_text(_config(name, outputs, parameters), encoding="utf-8")
    facts = "".join(f"- {key}: {value}\n" for key, value in parameters.items())
    (place / "MODEL_CARD.md").write_text(
        f"# {name}, our own\n\nOf {checkpoint.name}, by `python -m training.localisation import`.\n\n{facts}",
        encoding="utf-8",
    )


def _config(name: Name, outputs: Mapping[str, Sequence[int]], parameters: Mapping[str, str]) -> str:
    blocks = ",\n".join(
        f'  {{\n    name: "{output}"\n    data_type: TYPE_FP32\n    dims: [ {", ".join(map(str, dims))} ]\n  }}'
        for output, dims in outputs.items()
    )
    told = "".join(f'parameters {{ key: "{key}" value {{ string_value: "{v}" }} }}\n' for key, v in parameters.items())
    text = (SERVING / "own.pbtxt").read_text(encoding="utf-8")
    for key, value in {"name": name, "outputs": blocks, "parameters": told}.items():
        text = text.replace("{{" + key + "}}", value)
    return text
