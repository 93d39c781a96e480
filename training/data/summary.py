"""Counts of a manifest, as tables."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from training.data.manifest import Row
from training.data.sources import KINDS
from training.data.splits import STRICTEST_FIRST

__all__ = ["kinds_table", "sources_table"]


def kinds_table(rows: Sequence[Row]) -> str:
    """Pictures, makers and sources by kind and split."""
    lines = ["| kind | pictures | makers | sources | train | calibrate | dev |", "|---|---|---|---|---|---|---|"]
    for kind in KINDS:
        of_kind = [row for row in rows if row.kind == kind]
        if of_kind:
            splits = Counter(row.split for row in of_kind)
            makers = {row.maker for row in of_kind}
            sources = {row.source for row in of_kind}
            lines.append(
                f"| {kind} | {len(of_kind)} | {len(makers)} | {len(sources)} | {splits['train']} | "
                f"{splits['calibrate']} | {splits['dev']} |"
            )
    return "\n".join(lines)


def sources_table(rows: Sequence[Row]) -> str:
    """Pictures by kind, maker and source, with the splits."""
    counts: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts[row.kind, row.maker, row.source][row.split] += 1
    lines = ["| kind | maker | source | pictures | split |", "|---|---|---|---|---|"]
    for (kind, maker, source), splits in sorted(counts.items()):
        told = ", ".join(f"{split} {splits[split]}" for split in reversed(STRICTEST_FIRST) if splits[split])
        lines.append(f"| {kind} | {maker} | {source} | {splits.total()} | {told} |")
    return "\n".join(lines)
