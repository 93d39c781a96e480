"""The fuzzer finds planted defects of every kind, and leaves alone what is sound."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from services.common.errors import InvalidInput
from services.common.images import decode_image
from tests.fuzz.mutations import LARGEST, mutate
from tests.fuzz.seeds import files_of, made
from tests.fuzz.supervisor import fuzz
from tests.fuzz.targets import LIMITS, targets

SEEDS = dict(made())
FIXTURES = Path(__file__).resolve().parents[3] / "shared" / "fixtures"


@pytest.mark.timeout(300)
def test_every_kind_of_planted_defect_is_found_and_kept(tmp_path: Path):
    report = fuzz(
        "tests.fuzz.planted:targets",
        [SEEDS["iptc.jpg"]],
        seconds=240,
        folder=tmp_path,
        nice=0,
        hang_seconds=8.0,
        enough=5,
    )
    found = {(finding.kind, finding.target) for finding in report.findings.values()}
    assert found == {
        ("crash", "raises"),
        ("wrong", "answers wrong"),
        ("hang", "hangs"),
        ("memory", "grows"),
        ("death", "dies"),
    }
    for finding in report.findings.values():
        (kept,) = tmp_path.glob(f"{finding.kind}-*.bin")
        assert kept.read_bytes() == finding.content


def test_calls_are_counted_and_nothing_is_found_where_nothing_is_wrong(tmp_path: Path):
    report = fuzz("tests.fuzz.planted:sound", list(SEEDS.values())[:3], seconds=20, folder=tmp_path, nice=0)
    assert not report.findings
    assert report.calls["sound"] > 100
    assert report.looked["sound"] > 100
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SEEDS)
def test_every_seed_is_a_picture_and_no_target_finds_fault_with_it(name: str):
    for target, check in targets().items():
        looked = check(SEEDS[name])
        assert looked or target not in {"decoder", "intake"}, target


def test_the_seeds_have_something_for_every_reader():
    looked = {target for target, check in targets().items() if any(check(seed) for seed in SEEDS.values())}
    without_fixtures = {"manifest", "provenance"}
    assert looked >= set(targets()) - without_fixtures


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the fixtures of other projects are not here")
def test_no_target_finds_fault_with_a_fixture():
    seeds = dict(files_of(FIXTURES))
    assert len(seeds) >= 15
    for content in seeds.values():
        for check in targets().values():
            check(content)


def test_mutated_files_differ_are_bounded_and_are_the_same_for_the_same_chance():
    others = list(SEEDS.values())
    for number, content in enumerate(others):
        mutated = [mutate(content, others, random.Random(number)) for _ in range(2)]
        assert mutated[0] == mutated[1]
        assert all(len(mutate(content, others, random.Random(seed))) <= LARGEST for seed in range(30))
    assert sum(mutate(others[0], others, random.Random(seed)) != others[0] for seed in range(50)) > 40


def test_parts_are_changed_with_their_lengths_and_checksums_put_right():
    """Files that are damaged and can be decoded all the same: blind changes break nearly every PNG's checksums."""
    for name in ("palette.png", "lossy.webp", "exif.jpg"):
        decoded = 0
        for seed in range(60):
            mutated = mutate(SEEDS[name], list(SEEDS.values()), random.Random(seed))
            with contextlib.suppress(InvalidInput):
                decode_image(mutated, LIMITS)
                decoded += mutated != SEEDS[name]
        assert 10 <= decoded < 60, name
