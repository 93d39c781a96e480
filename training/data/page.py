"""docs/training-data.md: what the manifest holds, with counts and a contact sheet of what may be shown."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from training.data.manifest import Row
from training.data.sheet import contact_sheet
from training.data.sources import KINDS, Source
from training.data.summary import kinds_table

__all__ = ["write_page"]

_MAX_IMAGE_BYTES: Final = 300_000
_OF_EACH: Final = 3
_NAME: Final = "training-data.webp"

_INTRODUCTION: Final = """# Training data

What the networks of this repository are fitted on. The pictures are not in the repository: `training/data/sources/`
names public repositories and the commits, `training/data/manifest/` lists each picture with its digest, and `make data`
assembles them in `.data/` (`PENTIMENTO_DATA`) out of the collected research data (`PENTIMENTO_SHARED_DATA`), a folder
of repositories (`PENTIMENTO_DATA_MIRROR`) or git clones. What can't be had is listed; training goes on without it.

This page is made by `python -m training.data page`.

- Pictures of a *maker* (a generator, a face swapper) or of a *source* (photographs) are left out as a whole: `dev` to
  report, `calibrate` for thresholds, the rest to train; `training/data/splits.toml` says which. The collected research
  data has splits of its own (by picture), so a maker that it shares with a repository occurs in several; where figures
  are said to be of makers left out, such makers are taken out of them.
- Of a file that shows several whole pictures side by side, each is a row with its crop.
- Near-duplicates (256-bit difference hash) are dropped within a kind and across splits; so is everything that looks
  like a reserved picture or one of the benchmarks that results are reported on. An edited picture follows its original.
- Before anything is fitted, all classes get one encoding (`training/data/encoding.py`): crop, scale, then JPEG, WebP or
  none.
"""

_SHORTCUTS: Final = """What tells the classes apart after the common encoding though it should not (AUC, cross-
validated over sources; `python -m training.data shortcuts`). Encoder facts are to stay at
0.55 or below. Nothing is enlarged, so where a class is known at one small size only (CASIA 2
at 256 px among the forgeries, aligned faces, small drawings) the size still tells: who trains
on these takes crops of one size."""


def write_page(rows: Sequence[Row], sources: Sequence[Source], data: Path, docs: Path, *, shortcuts: str = "") -> None:
    """Writes the page and its picture.

    Args:
        rows: the manifest.
        sources: the source files.
        data: the training folder, for the contact sheet.
        docs: the folder of the page.
        shortcuts: the shortcut test's table, in Markdown.
    """
    named = {source.name: source for source in sources}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    makers: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        counts[row.source][row.kind] += 1
        makers[row.kind].add(row.maker)
    lines = [_INTRODUCTION, "## Counts", "", kinds_table(rows), ""]
    lines += ["## Makers", ""]
    for kind in KINDS:
        if makers[kind]:
            lines.append(f"- **{kind}** ({len(makers[kind])}): {', '.join(sorted(makers[kind]))}")
    lines += ["", "## Sources", "", "| source | repository | licence | pictures |", "|---|---|---|---|"]
    for name in sorted(counts):
        source = named.get(name)
        told = ", ".join(f"{kind} {number}" for kind, number in sorted(counts[name].items()))
        if source is None:
            lines.append(f"| {name} | collected research data | see its SOURCES.md | {told} |")
        else:
            link = f"[{source.repository}](https://github.com/{source.repository}/tree/{source.commit})"
            lines.append(f"| {name} | {link} | {source.licence.replace('|', '/')} | {told} |")
    if shortcuts:
        lines += ["", "## Shortcuts", "", _SHORTCUTS, "", shortcuts.strip()]
    shown = [row for row in rows if row.source in named and named[row.source].publishable]
    if shown:
        image = _small_enough(shown, data)
        (docs / "images").mkdir(parents=True, exist_ok=True)
        (docs / "images" / _NAME).write_bytes(image)
        credited = ", ".join(sorted({named[row.source].repository for row in shown}))
        lines += ["", "## A look", "", f"![Contact sheet](images/{_NAME})", "", f"Pictures of {credited}."]
    (docs / "training-data.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _small_enough(rows: Sequence[Row], data: Path) -> bytes:
    # A few of each maker and source, that none fills the sheet.
    taken: Counter[tuple[str, str]] = Counter()
    ordered = []
    for row in sorted(rows, key=lambda row: (KINDS.index(row.kind), row.source, row.id)):
        taken[row.maker, row.source] += 1
        if taken[row.maker, row.source] <= _OF_EACH:
            ordered.append(row)
    sheet = contact_sheet(ordered, data, most=60, columns=12, side=96)
    for quality in range(80, 10, -10):
        buffer = io.BytesIO()
        sheet.save(buffer, "WEBP", quality=quality, method=6)
        if buffer.tell() <= _MAX_IMAGE_BYTES:
            break
    return buffer.getvalue()
