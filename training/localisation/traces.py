"""What the literature knows to look at, computed from the pixels in the graph: no network has to discover it.

Everything is told of blocks of 8 x 8 pixels, on the grid of a JPEG whose picture was not cropped since it was saved.

1. **JPEG ghosts** (Farid 2009, 10.1109/TIFS.2008.2012215): how far the coefficients of each block are from the
   multiples that saving at one of several qualities would leave, by frequency band. What was pasted has other minima
   than what surrounds it. The error is summed over coefficients, which is the sum over pixels (Parseval).
2. **Double quantisation** (Lin 2009, 10.1016/j.patcog.2009.03.019): saving twice leaves combs in the histogram of a
   coefficient. The step of the last quantisation is estimated for each frequency; then each block is told how much
   oftener its value occurs in this picture than that value's neighbours suggest.
3. **Noise** (Mahdian 2009, 10.1016/j.imavis.2009.02.001): energy of high-pass residuals of luma and colour.
4. **Grid** (Li 2009, 10.1016/j.sigpro.2009.03.025): how much stronger the steps between pixels are at each of the eight
   phases, down and across; a second grid betrays a paste or an earlier crop.
5. **Content** that all of them depend on: energy by band, brightness, colour, clipping.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["BLOCK", "TRACES", "BlockTraces", "quantisation_table"]

BLOCK: Final = 8
QUALITIES: Final = (50, 60, 65, 70, 75, 80, 85, 90, 95, 98)
COLOUR_QUALITIES: Final = (70, 90)
BANDS: Final = ((0, 2), (3, 5), (6, 8), (9, 14))
"""Frequencies down plus across, from and to."""
COMBED: Final = 14
"""Frequencies whose histograms are looked at: the first ones in zigzag order but for the mean."""
LARGEST_STEP: Final = 24
LARGEST_MULTIPLE: Final = 12
_FITS: Final = 0.2
"""Mean squared distance from the multiples of a step, each at most 1, below which the picture was quantised with it:
rounding and clipping leave 0.04 to 0.1, another step at least 0.33."""
_FLOOR: Final = 0.05
"""Added before logarithms of energies: what rounding to whole grey levels leaves."""
_PRIOR: Final = 4.0
"""Blocks added to each bin of a histogram, so that rare values say little."""
_LUMA: Final = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA: Final = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
_TO_YCBCR: Final = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_NOISE: Final = (
    ((1, -2, 1), (-2, 4, -2), (1, -2, 1)),
    ((0, 0, 0), (1, -2, 1), (0, 0, 0)),
    ((0, 1, 0), (0, -2, 0), (0, 1, 0)),
    ((1, 0, 0), (0, -2, 0), (0, 0, 1)),
    ((0, 0, 1), (0, -2, 0), (1, 0, 0)),
)
TRACES: Final = (
    len(BANDS) * (len(QUALITIES) + 1) + 2 * (len(COLOUR_QUALITIES) + 1) + COMBED + len(_NOISE) + 5 + 2 * BLOCK + 4
)
"""Channels of `BlockTraces`."""


def quantisation_table(quality: int, *, colour: bool = False) -> NDArray[np.float32]:
    """The IJG's table of a quality (1-100), float32 (8, 8)."""
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    base = np.array(_CHROMA if colour else _LUMA)
    return np.clip(np.floor((base * scale + 50) / 100), 1, 255).astype(np.float32)


def _cosines() -> NDArray[np.float32]:
    """The orthonormal 8 x 8 DCT as filters, float32 (64, 1, 8, 8)."""
    places, frequencies = np.arange(BLOCK), np.arange(BLOCK)[:, None]
    basis = np.cos((2 * places + 1) * frequencies * math.pi / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    return np.einsum("uy,vx->uvyx", basis, basis).reshape(BLOCK**2, 1, BLOCK, BLOCK).astype(np.float32)


def _zigzag() -> list[int]:
    """Indices of the 64 coefficients in the order of a JPEG file."""

    def key(index: int) -> tuple[int, int]:
        down, across = divmod(index, BLOCK)
        return down + across, across if (down + across) % 2 == 0 else down

    return sorted(range(BLOCK**2), key=key)


class BlockTraces(nn.Module):
    """The traces of each block; nothing here is learned."""

    def __init__(self) -> None:
        super().__init__()
        total = np.add.outer(np.arange(BLOCK), np.arange(BLOCK)).ravel()
        bands = np.stack([(total >= first) & (total <= last) for first, last in BANDS]).astype(np.float32)
        bands[0, 0] = 0.0
        down = np.zeros((BLOCK, 1, BLOCK, BLOCK), np.float32)
        down[np.arange(BLOCK), 0, np.arange(BLOCK)] = 1 / BLOCK
        noise = np.array(_NOISE, np.float32)
        noise /= np.sqrt(np.square(noise).sum(axis=(1, 2), keepdims=True))
        constants = {
            "ycbcr": np.array(_TO_YCBCR, np.float32)[..., None, None],
            "dct": _cosines(),
            "bands": (bands / bands.sum(axis=1, keepdims=True))[..., None, None],
            "luma_tables": np.stack([quantisation_table(q).reshape(-1, 1, 1) for q in QUALITIES]),
            "colour_tables": np.stack(
                [quantisation_table(q, colour=True).reshape(-1, 1, 1)[1:] for q in COLOUR_QUALITIES]
            ),
            "noise": noise[:, None],
            "colour_noise": np.stack([noise[:1], noise[:1]]),
            "across": np.swapaxes(down, 2, 3).copy(),
            "down": down,
            "steps": np.arange(1, LARGEST_STEP + 1, dtype=np.float32).reshape(-1, 1, 1),
            "multiples": np.arange(LARGEST_MULTIPLE + 1, dtype=np.float32).reshape(-1, 1, 1),
        }
        for name, value in constants.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(value)), persistent=False)
        self.combed = _zigzag()[1 : COMBED + 1]

    @torch.no_grad()
    def forward(self, rgb: Tensor) -> Tensor:
        """Float (n, 3, h, w) in 0-255, sides multiples of 8, to float32 (n, TRACES, h / 8, w / 8)."""
        with torch.autocast(rgb.device.type, enabled=False):
            ycbcr = functional.conv2d(rgb.float(), self.get_buffer("ycbcr"))
            luma = ycbcr[:, :1] - 128.0
            coefficients = functional.conv2d(luma, self.get_buffer("dct"), stride=BLOCK)
            return torch.cat(
                [
                    *self._ghosts(coefficients),
                    *self._colour_ghosts(ycbcr[:, 1:]),
                    self._combs(coefficients[:, self.combed]),
                    self._noise(luma, ycbcr[:, 1:]),
                    *self._grid(luma),
                    *_content(rgb.float(), ycbcr, coefficients),
                ],
                dim=1,
            )

    def _tables(self, name: str, count: int) -> list[Tensor]:
        # Not by iteration, of which the exporter warns.
        return [self.get_buffer(name)[index] for index in range(count)]

    def _energy(self, coefficients: Tensor) -> Tensor:
        return torch.log(functional.conv2d(coefficients.square(), self.get_buffer("bands")) + _FLOOR)

    def _ghosts(self, coefficients: Tensor) -> list[Tensor]:
        """Energy by band, and energy of the requantisation error by quality and band, relative to it."""
        energy = self._energy(coefficients)
        errors = [
            self._energy(coefficients - table * torch.round(coefficients / table)) - energy
            for table in self._tables("luma_tables", len(QUALITIES))
        ]
        return [energy, *errors]

    def _colour_ghosts(self, colours: Tensor) -> list[Tensor]:
        parts = []
        energies = []
        for index in range(2):
            coefficients = functional.conv2d(colours[:, index : index + 1], self.get_buffer("dct"), stride=BLOCK)
            coefficients = coefficients[:, 1:]
            energies.append(coefficients.square().mean(dim=1, keepdim=True))
            for table in self._tables("colour_tables", len(COLOUR_QUALITIES)):
                error = coefficients - table * torch.round(coefficients / table)
                parts.append(torch.log(error.square().mean(dim=1, keepdim=True) + _FLOOR))
        return [*parts, *(torch.log(energy + _FLOOR) for energy in energies)]

    def _combs(self, coefficients: Tensor) -> Tensor:
        """How much oftener a block's multiple occurs than its neighbours suggest, in logarithms, by frequency."""
        values = coefficients[:, :, None]
        steps = self.get_buffer("steps")
        distance = (values - steps * torch.round(values / steps)).square().clamp(max=1.0)
        fits = (distance.mean(dim=(3, 4), keepdim=True) <= _FITS).to(values.dtype)
        step = (fits * steps).amax(dim=2, keepdim=True).clamp(min=1.0)
        multiple = torch.round(values / step).abs().clamp(max=float(LARGEST_MULTIPLE))
        same = (multiple == self.get_buffer("multiples")).to(values.dtype)
        # A value of 0 has no sign, all others have two.
        counts = torch.log(same.sum(dim=(3, 4), keepdim=True) + _PRIOR)
        inner = counts[:, :, 1:-1] - 0.5 * (counts[:, :, :-2] + counts[:, :, 2:])
        first = inner[:, :, :1] - 0.5 * math.log(2.0)
        nothing = torch.zeros_like(first)
        combs = torch.cat([nothing, first, inner[:, :, 1:], nothing], dim=2).clamp(-2.0, 2.0)
        return (same * combs).sum(dim=2)

    def _noise(self, luma: Tensor, colours: Tensor) -> Tensor:
        kernels = self.get_buffer("noise")
        residuals = functional.conv2d(luma, kernels, padding=1).square()
        plain = functional.conv2d(colours, self.get_buffer("colour_noise"), padding=1, groups=2).square()
        # The smoothest quarter of a block is free of edges oftenest.
        both = torch.cat([residuals[:, :1], plain], dim=1)
        smoothest = -functional.max_pool2d(-functional.avg_pool2d(both, 4), 2)
        return torch.log(
            torch.cat([functional.avg_pool2d(torch.cat([residuals, plain], dim=1), 8), smoothest], 1) + _FLOOR
        )

    def _grid(self, luma: Tensor) -> list[Tensor]:
        across = functional.pad(luma, (1, 2, 0, 0), mode="replicate")
        down = functional.pad(luma, (0, 0, 1, 2), mode="replicate")
        # Steps between a pixel and the next, before, at and after each.
        across = (across[..., 1:] - across[..., :-1]).abs()
        down = (down[:, :, 1:] - down[:, :, :-1]).abs()
        across = across[..., 1:-1] - 0.5 * (across[..., :-2] + across[..., 2:])
        down = down[:, :, 1:-1] - 0.5 * (down[:, :, :-2] + down[:, :, 2:])
        return [
            functional.conv2d(torch.tanh(steps / 4.0), self.get_buffer(name), stride=BLOCK)
            for steps, name in ((across, "across"), (down, "down"))
        ]


def _content(rgb: Tensor, ycbcr: Tensor, coefficients: Tensor) -> list[Tensor]:
    clipped = ((rgb <= 2.0) | (rgb >= 253.0)).to(rgb.dtype).mean(dim=1, keepdim=True)
    return [
        coefficients[:, :1] / 1024.0,
        functional.avg_pool2d(ycbcr[:, 1:], BLOCK) / 64.0,
        functional.avg_pool2d(clipped, BLOCK),
    ]
