"""The policy of a deployment, from its environment."""

from __future__ import annotations

import pytest

from services.common.settings import load_settings
from services.orchestrator.policy import PRESETS, Preset
from services.orchestrator.settings import OrchestratorSettings


def test_the_default_is_balanced(monkeypatch):
    chosen = OrchestratorSettings().policy
    assert (chosen.preset, chosen.thresholds) == (Preset.BALANCED, PRESETS[Preset.BALANCED])
    assert (chosen.prior_generated, chosen.prior_edited, dict(chosen.weights)) == (0.1, 0.1, {})


def test_a_deployment_chooses(monkeypatch):
    monkeypatch.setenv("PENTIMENTO_POLICY_PRESET", "conservative")
    monkeypatch.setenv("PENTIMENTO_POLICY_THRESHOLDS", '{"edited": 2.5}')
    monkeypatch.setenv("PENTIMENTO_POLICY_WEIGHTS", '{"jpeg_grid": 0.5}')
    monkeypatch.setenv("PENTIMENTO_PRIOR_EDITED", "0.01")
    chosen = OrchestratorSettings().policy
    assert chosen.preset is Preset.CONSERVATIVE
    assert chosen.thresholds.edited == 2.5
    assert chosen.thresholds.generated_high == PRESETS[Preset.CONSERVATIVE].generated_high
    assert chosen.weight_of("jpeg_grid") == 0.5
    assert chosen.weight_of("copy_move") == 1.0
    assert chosen.prior_edited == 0.01


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("POLICY_PRESET", "harsh", "conservative"),
        ("POLICY_THRESHOLDS", '{"edited": 0.2}', "possibly_edited must lie between"),
        ("POLICY_THRESHOLDS", '{"generated_hihg": 0.9}', "no threshold generated_hihg"),
        ("POLICY_WEIGHTS", '{"copy_move": 2}', "weight of copy_move must lie in 0 to 1"),
    ],
)
def test_a_policy_that_cannot_be_ends_the_process_with_a_sentence(monkeypatch, capsys, name, value, words):
    monkeypatch.setenv(f"PENTIMENTO_{name}", value)
    with pytest.raises(SystemExit):
        load_settings(OrchestratorSettings)
    assert words in capsys.readouterr().err
