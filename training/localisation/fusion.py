"""What CLIP sees, joined to what the traces tell: the last layers of the localiser.

Traces fade: a forgery that was saved again, reduced or retouched by hand leaves few. But hands also leave things that
do not belong, edges that were cut, places that repeat, and CLIP's patch tokens tell of those. The tokens of three
blocks of its image encoder and the localiser's own features, averaged over the cells of a grid of 28 x 28, go through a
small transformer. For each cell it says how far it trusts the localiser's mask there, and what it adds itself; so fine
outlines come from the traces, where there are any.

Both are frozen: what is learned here is learned from features that were computed once (`fusion_data`).

References:
    D. Cozzolino et al., "Raising the Bar of AI-generated Image Detection with CLIP", 2024. arXiv:2312.00195
    F. Guillaro et al., "TruFor: Leveraging all-round clues for trustworthy image forgery detection and localization",
        2023. arXiv:2212.10957
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.localisation.classes import CLASSES, PRISTINE

__all__ = ["BLOCKS", "CELLS", "PATCHES", "TOKEN", "Fused", "Fusion", "averaged", "averages", "edited"]

BLOCKS: Final = (5, 8, 11)
"""Blocks of the encoder whose patch tokens are read, of 0 to 11."""
TOKEN: Final = 768
"""Numbers of a token."""
PATCHES: Final = 14
"""Patches across and down; the picture is squeezed into the encoder's square, whatever its shape."""
CELLS: Final = 28
"""Cells across and down."""
FINE: Final = 4
"""Across and down, parts of a cell for which it adds something."""


class Fused(NamedTuple):
    """What the last layers say, by cell; float.

    Attributes:
        added: (n, 112, 112), log odds that the part of a cell was edited, beside the traces'.
        trust: (n, 28, 28), what the traces' log odds are multiplied with, 0 or more.
        reliability: (n, 28, 28), log odds that the cut mask is right there.
        classes: (n, 5), log odds, see `CLASSES`.
    """

    added: Tensor
    trust: Tensor
    reliability: Tensor
    classes: Tensor


class Fusion(nn.Module):
    """The last layers.

    Args:
        traces: channels of the trace reader's features.
        decoded: channels of the decoder's.
        width: of the transformer.
        depth: its layers.
        dropout: share of the tokens' channels that is left out in training.
    """

    def __init__(
        self, *, traces: int = 64, decoded: int = 96, width: int = 128, depth: int = 2, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "traces": traces,
            "decoded": decoded,
            "width": width,
            "depth": depth,
            "dropout": dropout,
        }
        self.token_norm = nn.ModuleList([nn.LayerNorm(TOKEN) for _ in BLOCKS])
        # Whole channels of a picture are left out: single numbers would be known from their neighbours.
        self.left_out = nn.Dropout1d(dropout)
        self.tokens = nn.Linear(len(BLOCKS) * TOKEN, width)
        self.told = nn.Sequential(nn.BatchNorm2d(traces + decoded + 2), nn.Dropout2d(dropout / 2))
        self.tell = nn.Conv2d(traces + decoded + 2, width, 2, 2)
        self.position = nn.Parameter(torch.zeros(PATCHES * PATCHES, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True, activation="gelu"
        )
        self.mix = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.spread = nn.ConvTranspose2d(width, width // 2, 2, 2)
        self.keep = nn.Conv2d(traces + decoded + 2, width // 2, 1)
        self.near = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(width // 2, width // 2, 3, padding=1))
        self.heads = nn.Conv2d(width // 2, FINE * FINE + 2, 1)
        self.classify = nn.Sequential(nn.LayerNorm(2 * width), nn.Dropout(dropout), nn.Linear(2 * width, len(CLASSES)))
        nn.init.normal_(self.position, std=0.02)
        nn.init.normal_(self.heads.weight, std=0.01)
        with torch.no_grad():
            self.heads.bias.zero_()
            self.heads.bias[: FINE * FINE] = -1.0
            self.heads.bias[-1] = 1.5

    def forward(self, tokens: Tensor, features: Tensor) -> Fused:
        """Joins them.

        Args:
            tokens: float (n, 3, 196, 768), patch by patch, row by row.
            features: float (n, traces + decoded + 2, 28, 28): both features, the log odds of the mask, and those of the
                traces alone, averaged over cells.
        """
        normed = [norm(tokens[:, index]) for index, norm in enumerate(self.token_norm)]
        streams = self.left_out(torch.cat(normed, dim=2).transpose(1, 2)).transpose(1, 2)
        seen = self.tokens(streams) + self.position
        told = self.told(features)
        seen = self.mix(seen + self.tell(told).flatten(2).transpose(1, 2))
        map_ = seen.transpose(1, 2).unflatten(2, (PATCHES, PATCHES))
        fine = self.near(self.spread(map_) + self.keep(told))
        heads = self.heads(torch.relu(fine))
        added, trust, reliability = heads.split([FINE * FINE, 1, 1], dim=1)
        return Fused(
            added=functional.pixel_shuffle(added, FINE)[:, 0],
            trust=functional.softplus(trust[:, 0]),
            reliability=reliability[:, 0],
            classes=self.classify(torch.cat([seen.mean(dim=1), seen.amax(dim=1)], dim=1)),
        )


def edited(classes: Tensor) -> Tensor:
    """Log odds that a picture was edited at all, (n,), within -6 to 6, from log odds of the classes, (n, 5)."""
    pristine = torch.softmax(classes, dim=1)[:, PRISTINE].clamp(1e-5, 1.0 - 1e-5)
    return torch.log((1.0 - pristine) / pristine).clamp(-6.0, 6.0)


def averages(length: Tensor, cells: int) -> Tensor:
    """How much of each cell each of `length` places makes up: float (cells, length), rows sum to 1.

    Made of a tensor's length, so that an exported graph takes any.
    """
    size = length.to(torch.float32)
    place = torch.arange(length, device=length.device, dtype=torch.float32)
    cell = torch.arange(cells, device=length.device, dtype=torch.float32)[:, None]
    first, last = cell * (size / cells), (cell + 1.0) * (size / cells)
    share = (torch.minimum(last, place + 1.0) - torch.maximum(first, place)).clamp(min=0.0)
    return share / (size / cells)


def averaged(maps: Tensor, cells: int = CELLS) -> Tensor:
    """Maps, float (n, c, h, w), as means over the cells of a grid: (n, c, cells, cells)."""
    # The sizes of a traced tensor are tensors, of others numbers.
    height, width = (size if isinstance(size, Tensor) else torch.tensor(size) for size in maps.shape[2:])
    return averages(height, cells) @ maps @ averages(width, cells).T
