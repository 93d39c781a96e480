"""Who may import whom: services know services.common and their own package only, and what their extra installs."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("passive", "deeplearning", "faces", "orchestrator")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Provided by a distribution that does not declare it as its top-level package.
PROVIDED = {"google": "protobuf"}
OWN = {"services", "pentimento"}


def imported_modules(folder: Path) -> set[str]:
    modules = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module)
    return modules


def requirement_names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~ ;]", requirement)[0].lower().replace("_", "-") for requirement in requirements}


def distributions_of(module: str) -> set[str]:
    top = module.split(".")[0]
    known = packages_distributions().get(top, [top])
    return {PROVIDED.get(top, "")} | {name.lower().replace("_", "-") for name in known}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_imports_no_other_service(service):
    foreign = [name for name in SERVICES if name != service]
    offending = {
        module
        for module in imported_modules(ROOT / "services" / service)
        for name in foreign
        if module == f"services.{name}" or module.startswith(f"services.{name}.")
    }
    assert not offending


def test_common_imports_no_service():
    assert not [module for module in imported_modules(ROOT / "services" / "common") if re.match(
        rf"services\.({'|'.join(SERVICES)})\b", module)]  # fmt: skip


def test_analysers_do_not_know_the_orchestrators_contract():
    for service in ("passive", "deeplearning", "faces", "common"):
        modules = imported_modules(ROOT / "services" / service)
        assert not [module for module in modules if module.startswith("pentimento.orchestrator")]


@pytest.mark.parametrize("service", [*SERVICES, "common"])
def test_a_service_imports_only_what_its_extra_installs(service):
    allowed = requirement_names(PROJECT["dependencies"])
    allowed |= requirement_names(PROJECT["optional-dependencies"].get(service, []))
    for module in imported_modules(ROOT / "services" / service):
        top = module.split(".")[0]
        if top in OWN or top in sys.stdlib_module_names:
            continue
        if service == "common" and top == "tritonclient":
            continue  # services.common.triton is for the services whose extra has it
        assert distributions_of(module) & allowed, f"services/{service} imports {module}, which it does not list"
