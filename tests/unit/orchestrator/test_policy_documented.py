"""docs/policy.md says what policy.py does: version, thresholds, and every row of both tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.common.detection import Direction, Strength
from services.orchestrator.policy import EDIT_TABLE, EVIDENCE_LOG10, POLICY_VERSION, PRESETS, TABLE, Decision, Preset

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "policy.md").read_text(encoding="utf-8")


def rows(heading: str) -> dict[str, list[str]]:
    """The table below a heading, by the first word of each row."""
    section = PAGE.partition(f"## {heading}")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")][2:]
    return {re.split(r"\W", line[0].strip())[0]: [cell.strip() for cell in line[1:]] for line in lines}


def test_the_version_is_that_of_the_policy():
    assert f"version `{POLICY_VERSION}`" in PAGE


@pytest.mark.parametrize("preset", Preset)
def test_thresholds(preset):
    shown = [float(cell) for cell in rows("Thresholds, weights, priors")[preset.value]]
    chosen = PRESETS[preset]
    assert shown == [chosen.generated_high, chosen.generated_low, chosen.edited, chosen.possibly_edited]


@pytest.mark.parametrize(("heading", "table"), [("Was it generated?", TABLE), ("Was it edited?", EDIT_TABLE)])
def test_rows(heading, table):
    shown = rows(heading)
    for (strength, is_signed), rule in table.items():
        name = strength.value if strength else "weak"
        cells = next(cells for words, cells in shown.items() if words == name) if name in shown else shown["moderate"]
        cell = cells[0 if is_signed else 1]
        if isinstance(rule, Decision) or (hasattr(rule, "name") and rule.name in {"POSSIBLY_EDITED", "EDITED"}):
            assert cell.startswith(rule.name), (strength, is_signed)
        elif "at least" in rule.value and not (table is EDIT_TABLE and is_signed):
            assert "at least" in cell, (strength, is_signed)
        else:
            assert cell.startswith(("by score", "by ratio", "POSSIBLY_EDITED")), (strength, is_signed)


def test_what_evidence_is_worth():
    for strength in Strength:
        accusing, favouring = rows("What evidence is worth")[strength.value]
        log10 = EVIDENCE_LOG10[Direction.AI_GENERATED, strength]
        assert float(accusing.replace(",", "")) == pytest.approx(10**log10, rel=0.01)
        assert EVIDENCE_LOG10[Direction.EDITED, strength] == log10
        numerator, _, denominator = favouring.partition("/")
        share = float(numerator) / float(denominator.replace(",", ""))
        assert share == pytest.approx(10 ** EVIDENCE_LOG10[Direction.AUTHENTIC, strength], rel=0.01)
