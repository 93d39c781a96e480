"""A mesh of the benchmarks' own, and what its processes weigh."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from mesh import COMMANDS, Mesh  # the same as the tests': started as `make run` starts it

__all__ = ["COMMANDS", "Mesh", "own_mesh", "resident_megabytes"]


@contextmanager
def own_mesh(**settings: str) -> Iterator[Mesh]:
    """A running mesh in a folder and on ports of its own, with rate limits lifted."""
    lifted = {f"PENTIMENTO_RATE_LIMIT_{kind}": "0" for kind in ("IMAGE", "ANALYSIS", "BATCH", "OTHER")}
    with tempfile.TemporaryDirectory(prefix="pentimento-benchmark-") as home:
        mesh = Mesh(Path(home), **lifted, **settings)
        try:
            mesh.start()
            yield mesh
        finally:
            mesh.stop()


def resident_megabytes(mesh: Mesh) -> dict[str, float]:
    """Resident memory by part, in megabytes; shared pages count for each process."""
    page = os.sysconf("SC_PAGE_SIZE")
    weights = {}
    for part in COMMANDS:
        total = 0
        for pid in mesh.pids(part):
            try:
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page
            except OSError:
                continue
        weights[part] = total / 1e6
    return weights
