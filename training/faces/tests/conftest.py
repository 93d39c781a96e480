"""A frozen graph and faces, made here."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from training.faces.inception_resnet import CHANNELS, convolutions
from training.faces.realfake.patches import SIDE, Patch, landmark_places


def varint(number: int) -> bytes:
    parts = []
    while True:
        number, low = number >> 7, number & 0x7F
        parts.append(low | (0x80 if number else 0))
        if not number:
            return bytes(parts)


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def constant_node(name: str, values: np.ndarray) -> bytes:
    """A `Const` node of a GraphDef, as TensorFlow writes it."""
    shape = b"".join(field(2, field(1, size)) for size in values.shape)
    tensor = field(1, 1) + field(2, shape) + field(4, values.astype("<f4").tobytes())
    attribute = field(1, b"value") + field(2, field(8, tensor))
    return field(1, field(1, name.encode()) + field(2, b"Const") + field(5, attribute))


@pytest.fixture(scope="session")
def facenet_graph_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of FaceNet's weights by their names, but random ones, scaled so that activations keep their size."""
    rng = np.random.default_rng(5)
    parts = []
    for part in convolutions():
        fan = part.inputs * part.kernel[0] * part.kernel[1]
        filters = rng.normal(0, (2 / fan) ** 0.5, (*part.kernel, part.inputs, part.outputs))
        parts.append(constant_node(f"{part.name}/weights", filters))
        last = part.name.endswith("Conv2d_1x1") and "Branch" not in part.name
        name = f"{part.name}/biases" if last else f"{part.name}/Conv2D_bn_offset"
        parts.append(constant_node(name, rng.normal(0, 0.1, part.outputs)))
    bottleneck = "InceptionResnetV1/Bottleneck"
    parts.append(constant_node(f"{bottleneck}/weights", rng.normal(0, 0.05, (CHANNELS, 512))))
    parts.append(constant_node(f"{bottleneck}/BatchNorm/beta", rng.normal(0, 0.1, 512)))
    parts.append(constant_node(f"{bottleneck}/BatchNorm/moving_mean", rng.normal(0, 0.5, 512)))
    parts.append(constant_node(f"{bottleneck}/BatchNorm/moving_variance", rng.uniform(0.5, 2, 512)))
    path = tmp_path_factory.mktemp("facenet") / "graph_final.pb"
    path.write_bytes(b"".join(parts))
    return path


def drawn_face(seed: int) -> np.ndarray:
    """A patch with something like a face where faces lie in patches, uint8 (256, 256, 3)."""
    rng = np.random.default_rng(seed)
    rgb = cv2.resize(rng.uniform(40, 200, (8, 8, 3)).astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    skin = tuple(int(value) for value in rng.integers(120, 230, 3))
    cv2.ellipse(rgb, (128, 132), (62, 82), 0, 0, 360, skin, -1)
    for name, (x, y) in landmark_places().items():
        size = (14, 5) if name == "mouth" else (6, 4)
        cv2.ellipse(rgb, (round(x), round(y)), size, 0, 0, 360, tuple(int(v) for v in rng.integers(0, 90, 3)), -1)
    return np.clip(rgb + rng.normal(0, 3, rgb.shape), 0, 255).astype(np.uint8)


def patch(number: int, kind: str, *, maker: str = "m", source: str = "s", split: str = "train") -> Patch:
    return Patch(
        id=f"{number:016x}",
        kind=kind,
        maker=maker,
        source=source,
        group=f"g{number}",
        split=split,
        chip=170.0,
        confidence=0.9,
    )


@pytest.fixture(scope="session")
def faces() -> tuple[list[Patch], list[np.ndarray]]:
    """Real and fake patches of three splits; the fake ones carry a fine checkerboard."""
    patches, pixels = [], []
    board = np.indices((SIDE, SIDE)).sum(axis=0)[..., None] % 2 * 24 - 12
    for number in range(48):
        fake = number % 2 == 1
        split = ("train", "train", "calibrate", "dev")[number // 2 % 4]
        kind, maker = ("fake_face", "stylegan2_ffhq") if fake else ("real_face", "camera")
        source = "shared/stylegan2_faces" if fake else ("shared/ffhq", "shared/unsplash_faces")[number // 8 % 2]
        patches.append(patch(number, kind, maker=maker, source=source, split=split))
        rgb = drawn_face(number)
        pixels.append(np.clip(rgb + board, 0, 255).astype(np.uint8) if fake else rgb)
    return patches, pixels
