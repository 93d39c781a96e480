"""Which split a picture belongs to: whole makers and sources are left out."""

from __future__ import annotations

import csv
import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Literal

from training.data.manifest import Kind, Split
from training.data.sources import KINDS

__all__ = ["STRICTEST_FIRST", "SplitError", "SplitRules", "read_shared_splits", "read_splits"]

STRICTEST_FIRST: Final[tuple[Split, ...]] = ("dev", "calibrate", "train")
"""What belongs together follows the first of these that one of it has."""


class SplitError(ValueError):
    """splits.toml, or the list of the collected data, cannot be followed."""


@dataclass(frozen=True, slots=True)
class _Rule:
    by: Literal["maker", "source"]
    named: Mapping[Split, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class SplitRules:
    """The content of splits.toml.

    Attributes:
        seed: of what is drawn.
        dev, calibrate: shares of makers or sources that are drawn for these.
        rules: by kind.
    """

    seed: int
    dev: float
    calibrate: float
    rules: Mapping[str, _Rule]

    def unit(self, kind: Kind, *, maker: str, source: str) -> str:
        """What is left out as a whole: the maker or the source, as the kind has it."""
        return maker if self.rules[kind].by == "maker" else source

    def split(self, kind: Kind, *, maker: str, source: str, listed: Split | None = None) -> Split:
        """The split of a picture.

        Args:
            kind: of the picture.
            maker: of the picture.
            source: of the picture.
            listed: what the list of the collected data says, for a picture of it.
        """
        if listed == "dev":
            return "dev"
        unit = self.unit(kind, maker=maker, source=source)
        for split in STRICTEST_FIRST:
            if any(fnmatchcase(unit, pattern) for pattern in self.rules[kind].named[split]):
                return listed if split == "train" and listed else split
        if listed:
            return listed
        digest = hashlib.sha256(f"{self.seed} {kind} {unit}".encode()).digest()
        chance = int.from_bytes(digest[:8], "big") / 2.0**64
        return "dev" if chance < self.dev else "calibrate" if chance < self.dev + self.calibrate else "train"


def read_splits(path: Path) -> SplitRules:
    """Reads and checks splits.toml. Raises SplitError."""
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        chance = table.pop("drawn_by_chance")
        rules = SplitRules(
            seed=int(table.pop("seed")),
            dev=float(chance["dev"]),
            calibrate=float(chance["calibrate"]),
            rules={kind: _rule(table.pop(kind)) for kind in KINDS},
        )
    except KeyError as error:
        raise SplitError(f"{path.name}: lacks {error}") from error
    except (ValueError, TypeError) as error:
        raise SplitError(f"{path.name}: {error}") from error
    if table:
        raise SplitError(f"{path.name}: unknown key {next(iter(table))!r}")
    return rules


def _rule(table: Mapping[str, Any]) -> _Rule:
    if table["by"] not in ("maker", "source"):
        raise ValueError(f"by is maker or source, not {table['by']!r}")
    if unknown := set(table) - {"by", *STRICTEST_FIRST}:
        raise ValueError(f"unknown key {min(unknown)!r}")
    return _Rule(table["by"], {split: tuple(table[split]) for split in STRICTEST_FIRST})


def read_shared_splits(path: Path) -> dict[str, tuple[Split, str]]:
    """Split and source picture by path, of the collected data's own list. Raises SplitError."""
    result: dict[str, tuple[Split, str]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            if line["split"] not in STRICTEST_FIRST:
                raise SplitError(f"{path.name}: {line['path']} has no split that is known: {line['split']!r}")
            result[line["path"]] = (line["split"], line["source"])
    return result
