"""What the README says happens: its command is run, and its answer is the one that comes back."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_example_is_real(mesh):
    (command,) = [block for block in blocks("bash") if "curl" in block]
    (shown,) = blocks("json")
    done = subprocess.run(
        ["bash", "-c", "set -o pipefail; " + command.replace("http://localhost:8080", mesh.url)],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=True,
    )
    answer = json.loads(done.stdout)["data"]["manipulation"]
    answer.pop("verdict")
    assert json.loads(shown) == answer


def test_its_targets_and_links_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"(?:^|`)make ([a-z-]+)", README, flags=re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
