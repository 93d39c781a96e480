"""A peer for comparison: document 001's server as such projects have it, Flask and PyTorch in one process.

    training/.venv/bin/python -m pip install --target build/peers flask
    PYTHONPATH=.:build/peers training/.venv/bin/python benchmarks/peers/flask_manipulation.py PORT [--network LATEST.pt]

POST /segment and /classify with a file `image`. The networks are the document's, DeepLabV3+ and ResNet50 of full width
in float32, with the layers of segmentation-models-pytorch and torchvision (`training.localisation.importers`; the
weights are random, which costs the same). With `--network` /segment asks a checkpoint of ours instead, in PyTorch. The
picture keeps its size, up to 1,024 pixels on its longest side: the same as Pentimento's, so that the same work is
compared. What is tuned is what such projects tune: `eval()`, `inference_mode()`, and Flask's own server with a thread
for each request.
"""

from __future__ import annotations

import argparse
import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flask import Flask, jsonify, request
from PIL import Image

from training.localisation.importers import SmpDeepLabV3Plus
from training.localisation.resnet import ResNet50
from training.localisation.train import load_average

LONGEST_SIDE = 1024
CLASSES = ("splicing", "copymove", "inpainting", "face")
MEAN = torch.tensor((0.485, 0.456, 0.406))[:, None, None]
STD = torch.tensor((0.229, 0.224, 0.225))[:, None, None]


def opened() -> Image.Image:
    """The picture of the request, at its working size, both sides multiples of 16."""
    picture = Image.open(request.files["image"].stream).convert("RGB")
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BILINEAR)
    return picture.crop((0, 0, -(-picture.width // 16) * 16, -(-picture.height // 16) * 16))


def normalised(picture: Image.Image) -> torch.Tensor:
    """Float (1, 3, h, w), less ImageNet's mean, over its deviation."""
    tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255.0
    return ((tensor - MEAN) / STD)[None]


def encoded(pixels: np.ndarray) -> str:
    """A PNG as base64."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def make_app(checkpoint: Path | None) -> Flask:
    """The server with its networks in memory."""
    classifier = ResNet50(len(CLASSES)).eval()
    segmenter = SmpDeepLabV3Plus().eval()
    ours = load_average(checkpoint)[0].eval() if checkpoint else None
    app = Flask(__name__)

    @app.post("/segment")
    def segment() -> Any:
        picture = opened()
        with torch.inference_mode():
            if ours is not None:
                images = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()[None]
                logits = torch.nn.functional.interpolate(ours(images).mask[:, None], scale_factor=4.0, mode="bilinear")
            else:
                logits = segmenter(normalised(picture))
        rgb, marked = np.array(picture), (torch.sigmoid(logits)[0, 0] >= 0.5).numpy()
        overlay = rgb.copy()
        overlay[marked] = overlay[marked] // 2 + np.array([0, 127, 0], np.uint8)
        return jsonify(
            mask=encoded(marked.astype(np.uint8) * 255),
            overlay=encoded(overlay),
            masked_image=encoded(np.where(marked[..., None], rgb, np.uint8(0))),
        )

    @app.post("/classify")
    def classify() -> Any:
        with torch.inference_mode():
            said = torch.softmax(classifier(normalised(opened())), dim=1)[0]
        index = int(said.argmax())
        return jsonify(class_id=index, class_name=CLASSES[index], confidence=float(said[index]))

    return app


def main() -> None:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("--network", type=Path, help="a run's latest.pt, asked by /segment in place of the document's")
    arguments = parser.parse_args()
    make_app(arguments.network).run(port=arguments.port, threaded=True)


if __name__ == "__main__":
    main()
