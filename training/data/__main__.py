"""The training data, from sources to a folder of pictures.

python -m training.data expand       sources -> manifest: look at every picture, drop what must not be there
python -m training.data build        manifest -> folder (make data)
python -m training.data summary      what the manifest holds
python -m training.data shortcuts    what tells the classes apart though it should not (after build)
python -m training.data sheet        a contact sheet of a kind, maker or source (after build)
python -m training.data page         docs/training-data.md
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from services.common.settings import load_settings
from training.data.build import build
from training.data.expand import Expansion, expand
from training.data.manifest import ManifestError, Row, read_manifest, write_manifest
from training.data.page import write_page
from training.data.settings import HERE, DataSettings
from training.data.sheet import contact_sheet
from training.data.shortcuts import MAX_ENCODER_AUC, TASKS, find_shortcuts
from training.data.sources import SourceError, read_shared, read_sources
from training.data.splits import SplitError, read_splits
from training.data.summary import kinds_table, sources_table

MANIFEST = HERE / "manifest"
SHORTCUTS = HERE / "shortcuts.md"
DOCS = HERE.parents[1] / "docs"
MAX_BYTES = 15_000_000
"""Largest manifest: it is to be read in a review."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("expand", help="make the manifest from the sources")
    building = commands.add_parser("build", help="assemble the folder that the manifest describes")
    building.add_argument("--verify", action="store_true", help="read again what is in place")
    commands.add_parser("summary", help="count what the manifest holds")
    commands.add_parser("shortcuts", help="what tells the classes apart though it should not")
    looking = commands.add_parser("sheet", help="a contact sheet")
    looking.add_argument("file", type=Path, help="picture file to write")
    for name in ("kind", "maker", "source", "split"):
        looking.add_argument(f"--{name}", help=f"only pictures of this {name}")
    looking.add_argument("--encoded", action="store_true", help="after the common encoding")
    commands.add_parser("page", help="write docs/training-data.md")
    options = parser.parse_args(arguments)
    settings = load_settings(DataSettings)
    try:
        if options.command == "expand":
            return _expand(settings)
        return _of_manifest(options, settings)
    except (SourceError, SplitError, ManifestError) as error:
        print(error, file=sys.stderr)
        return 1


def _of_manifest(options: argparse.Namespace, settings: DataSettings) -> int:
    rows = read_manifest(MANIFEST)
    if options.command == "build":
        print(build(rows, read_sources(HERE / "sources"), settings, verify=options.verify).table())
    elif options.command == "summary":
        print(f"{kinds_table(rows)}\n\n{sources_table(rows)}")
    elif options.command == "shortcuts":
        return _shortcuts(rows, settings)
    elif options.command == "sheet":
        wanted = {name: getattr(options, name) for name in ("kind", "maker", "source", "split")}
        chosen = [row for row in rows if all(v in (None, getattr(row, name)) for name, v in wanted.items())]
        contact_sheet(chosen, settings.data, encoded=options.encoded).save(options.file)
    else:
        shortcuts = SHORTCUTS.read_text(encoding="utf-8") if SHORTCUTS.is_file() else ""
        write_page(rows, read_sources(HERE / "sources"), settings.data, DOCS, shortcuts=shortcuts)
    return 0


def _expand(settings: DataSettings) -> int:
    sources = read_sources(HERE / "sources")
    rules = read_splits(HERE / "splits.toml")
    shared = None
    if (settings.shared_data / "splits.csv").is_file():
        shared = read_shared(HERE / "shared.toml")
    else:
        print(f"no collected data in {settings.shared_data} (PENTIMENTO_SHARED_DATA): left out", file=sys.stderr)
    if not settings.reserved_hashes.is_file():
        print(f"{settings.reserved_hashes} is not there (PENTIMENTO_RESERVED): without it reserved pictures could "
              "become training data", file=sys.stderr)  # fmt: skip
        return 1
    expansion = expand(sources, shared, rules, settings)
    size = write_manifest(expansion.rows, MANIFEST)
    print(_dropped_table(expansion))
    print()
    print(kinds_table(expansion.rows))
    print(f"\n{len(expansion.rows)} pictures, {size / 1e6:.1f} MB of manifest")
    if size > MAX_BYTES:
        print(f"more than {MAX_BYTES / 1e6:.0f} MB: set limits in the sources", file=sys.stderr)
        return 1
    return 0


def _shortcuts(rows: Sequence[Row], settings: DataSettings) -> int:
    """Prints the table and keeps it for the page; the exit status says whether the encoder gives a class away."""
    lines = ["| task | facts | pictures | AUC |", "|---|---|---|---|"]
    given_away = []
    subjects = {
        (source.name, pictures.maker): pictures.subject
        for source in read_sources(HERE / "sources")
        for pictures in source.sets
    }
    for task in TASKS:
        for found in find_shortcuts(rows, settings.data, task, subjects=subjects):
            auc = "too few sources" if math.isnan(found.auc) else f"{found.auc:.3f}"
            lines.append(f"| {found.task} | {found.fact} | {found.pictures} | {auc} |")
            if found.fact == "encoder" and found.auc > MAX_ENCODER_AUC:
                given_away.append(f"{found.task}: the encoder alone reaches AUC {found.auc:.3f}")
    SHORTCUTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    for problem in given_away:
        print(problem, file=sys.stderr)
    return 1 if given_away else 0


def _dropped_table(expansion: Expansion) -> str:
    lines = [f"{name}: not to be had: {reason}" for name, reason in sorted(expansion.unavailable.items())]
    for source, reasons in sorted(expansion.dropped.items()):
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        lines.append(f"{source}: {told}")
    return "dropped\n" + "\n".join(lines or ["nothing"])


if __name__ == "__main__":
    raise SystemExit(main())
