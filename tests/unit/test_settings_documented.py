"""docs/settings.md lists every setting with its default and meaning, and nothing that does not exist.

    python tests/unit/test_settings_documented.py

writes the page anew.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from local.settings import LocalSettings
from services.common.settings import ServiceSettings
from services.deeplearning.settings import DeepLearningSettings
from services.faces.settings import FacesSettings
from services.orchestrator.settings import OrchestratorSettings
from services.passive.settings import PassiveSettings

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "settings.md"


TRITON = """
## Triton and the models

| variable | default | meaning |
|---|---|---|
| `PENTIMENTO_MODEL_MIRROR` | (empty) | Folder to take models from, laid out as `.pentimento/models`. |
| `PENTIMENTO_TRITON_THREADS` | half the cores | Threads of a model on the CPU, unless its config.pbtxt says. |"""


def _render_module() -> ModuleType:
    # envoy/ is no package: its name is that of the package that carries the Envoy binary.
    spec = importlib.util.spec_from_file_location("envoy_render", ROOT / "envoy" / "render.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _default(field) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "number of cores" if field.default_factory else "(required)"
    if value is None:
        return "(none)"
    if isinstance(value, Path):
        value = (
            ".pentimento" if value.name == ".pentimento" else value.relative_to(ROOT) if value.is_absolute() else value
        )
    return f"`{value}`" if str(value) else "(empty)"


def _rows(settings: type[BaseSettings], documented: set[str]) -> list[str]:
    """A table row for each setting that no earlier table has."""
    prefix = settings.model_config.get("env_prefix", "")
    rows = []
    for name, field in settings.model_fields.items():
        variable = str(field.validation_alias or f"{prefix}{name}".upper())
        if variable not in documented:
            documented.add(variable)
            rows.append(f"| `{variable}` | {_default(field)} | {field.description} |")
    return rows


def page() -> str:
    sections = [
        ("On one machine (`make run`)", "Everything else that the parts need follows from these.", LocalSettings),
        ("The edge (Envoy)", "", _render_module().EdgeSettings),
        ("Every service", "Read by passive, deeplearning, faces and orchestrator.", ServiceSettings),
        ("orchestrator", "", OrchestratorSettings),
        ("passive", "", PassiveSettings),
        ("deeplearning", "", DeepLearningSettings),
        ("faces", "", FacesSettings),
    ]
    lines = [
        "# Settings",
        "",
        "All settings are environment variables, read and checked once at start: a wrong one ends the process with a",
        "sentence that names it. `make run` sets the addresses and ports of the parts itself, from `PENTIMENTO_PORT`.",
    ]
    documented: set[str] = set()
    for title, note, settings in sections:
        lines += ["", f"## {title}", ""]
        lines += [note, ""] if note else []
        lines += ["| variable | default | meaning |", "|---|---|---|", *_rows(settings, documented)]
    lines.append(TRITON)
    return "\n".join(lines) + "\n"


def test_every_setting_is_described():
    for settings in (
        LocalSettings,
        ServiceSettings,
        OrchestratorSettings,
        PassiveSettings,
        DeepLearningSettings,
        FacesSettings,
    ):
        for name, field in settings.model_fields.items():
            assert field.description, f"{settings.__name__}.{name} has no description"


def test_the_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python tests/unit/test_settings_documented.py"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
