"""Fuzzes what reads files that strangers send: decoders, metadata readers, and every detector of the passive service.

python -m tests.fuzz [--minutes 30] [--seeds FOLDER]... [--seed 0] [--out .pentimento/fuzz]

Seeds are files that are made here, one of every variant that is read, and the pictures of the given folders. What
reached a step between two lines that nothing had reached before is kept and mutated further. An exception that is not
for the caller, an answer that must not be, more than 10 s of CPU time, 700 MB of memory for one file, or the death of
the process is a finding: its file is kept in the folder, and the command ends with status 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path

from tests.fuzz.seeds import files_of, made
from tests.fuzz.supervisor import fuzz

TARGETS = "tests.fuzz.targets:targets"


def main() -> int:
    """Runs, prints, and answers with the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seeds", type=Path, action="append", default=[], help="a folder with further pictures")
    parser.add_argument("--seed", type=int, default=0, help="of all chance")
    parser.add_argument("--out", type=Path, default=Path(".pentimento/fuzz"), help="where findings are kept")
    options = parser.parse_args()

    files = dict(made())
    for folder in options.seeds:
        files |= {f"{folder.name}/{name}": content for name, content in files_of(folder)}
    _show(f"{len(files)} seeds, {sum(map(len, files.values())) / 1024:.0f} KiB")

    def say(line: str) -> None:
        _show(f"{time.strftime('%H:%M:%S')} {line}")

    started = time.monotonic()
    report = fuzz(
        TARGETS, list(files.values()), seconds=60 * options.minutes, folder=options.out, seed=options.seed, say=say
    )
    minutes = (time.monotonic() - started) / 60
    _show(f"\n{'target':24s} {'calls':>9s} {'looked':>9s} {'slowest':>9s}")
    for name in sorted(report.calls):
        _show(f"{name:24s} {report.calls[name]:9d} {report.looked[name]:9d} {report.slowest[name]:7.2f} s")
    _show(
        f"{minutes:.1f} minutes, {sum(report.calls.values())} calls, {report.steps} steps between lines, "
        f"{len(report.findings)} findings"
    )
    facts = {
        "minutes": round(minutes, 1),
        "calls": dict(report.calls),
        "looked": dict(report.looked),
        "steps": report.steps,
        "findings": [
            {
                "kind": finding.kind,
                "target": finding.target,
                "file": hashlib.sha256(finding.content).hexdigest()[:12],
                "times": report.repeats[key],
                "text": finding.text[-2000:],
            }
            for key, finding in report.findings.items()
        ],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "report.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    for finding in report.findings.values():
        _show(f"{finding.kind} in {finding.target}: {finding.text.strip().splitlines()[-1][:300]}")
    return 1 if report.findings else 0


def _show(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
