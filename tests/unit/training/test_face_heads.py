"""The yardstick for real or fake faces: a maker that was left out is judged by what makers have in common."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.unit.training.test_features import row
from training.faces.heads import table
from training.features import Features
from training.generated.examples import BLOCKS_USED, Examples


def test_a_trace_that_all_makers_share_is_found_on_those_left_out():
    rng = np.random.default_rng(0)
    rows, embedding = [], []
    for number in range(240):
        fake = number % 2 == 0
        unit = f"{'fake' if fake else 'real'}{number // 2 % 6}"
        rows.append(replace(row(number, unit, "fake_face" if fake else "real_face"), source=unit))
        embedding.append(rng.normal(size=512) + 2.0 * fake * (np.arange(512) < 8))
    features = Features(
        tuple(f"{one.id}/0" for one in rows),
        np.array(embedding, np.float32),
        rng.normal(size=(240, len(BLOCKS_USED), 2, 768)).astype(np.float16),
        rng.normal(size=(240, 243)).astype(np.float32),
    )
    labels = np.array([one.kind == "fake_face" for one in rows])
    lines = table(Examples(tuple(rows), features, labels)).splitlines()
    assert lines[0] == "120 fake faces of 6 makers, 120 real ones of 6 sources."
    cells = {tuple(cell.strip() for cell in line.split("|")[1:3]): line.split("|")[3] for line in lines[4:14]}
    for leave_out in ("makers", "sources"):
        assert float(cells[leave_out, "clip"].split()[0]) > 0.9
        assert float(cells[leave_out, "residual"].split()[0]) < 0.65
    assert sum(line.startswith("| fake3 | makers |") for line in lines) == 5
