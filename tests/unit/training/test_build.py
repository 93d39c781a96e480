"""Assembly: original bytes, checked; resumed; what can't be had is told by source."""

import hashlib
from dataclasses import replace

import pytest

from tests.unit.training.conftest import as_file, scene
from tests.unit.training.test_expand import GENERATED, rules, source
from training.data.build import build, mask_path, picture_path
from training.data.expand import expand


@pytest.fixture
def made(settings, make_repository):
    files = {f"sdxl/{seed}.png": as_file(scene(seed)) for seed in range(3)}
    described = source(make_repository("someone/pictures", files), GENERATED)
    return expand([described], None, rules(), settings).rows, described, files


def test_the_folder_holds_the_original_bytes(settings, made):
    rows, described, files = made
    built = build(rows, [described], settings)
    assert built.fetched == {"pictures": 3}
    assert not built.missing
    for row in rows:
        assert picture_path(settings.data, row).read_bytes() == files[row.path]
        assert mask_path(settings.data, row) is None


def test_a_second_run_goes_on_where_the_first_was_stopped(settings, made):
    rows, described, _ = made
    build(rows[:1], [described], settings)
    part = picture_path(settings.data, rows[1])
    part.parent.mkdir(parents=True, exist_ok=True)
    part.with_name(f"{part.name}.1.part").write_bytes(b"half of i")
    built = build(rows, [described], settings)
    assert (built.there["pictures"], built.fetched["pictures"]) == (1, 2)
    assert hashlib.sha256(part.read_bytes()).hexdigest() == rows[1].sha256


def test_verify_replaces_what_was_changed(settings, made):
    rows, described, files = made
    build(rows, [described], settings)
    changed = picture_path(settings.data, rows[0])
    changed.write_bytes(b"changed")
    assert build(rows, [described], settings).fetched["pictures"] == 0
    assert build(rows, [described], settings, verify=True).fetched["pictures"] == 1
    assert changed.read_bytes() == files[rows[0].path]


def test_what_is_not_what_the_manifest_says_is_not_taken(settings, made):
    rows, described, _ = made
    other = replace(rows[0], sha256="0" * 64)
    built = build([other, *rows[1:]], [described], settings)
    assert built.missing == {"pictures": {"another file than the manifest's (sha256 differs)": 1}}
    assert not picture_path(settings.data, other).exists()
    assert "2 files in place (2 new), 1 missing" in built.table()


def test_what_cannot_be_had_is_told_by_source(settings, made):
    rows, described, _ = made
    gone = replace(rows[0], path="sdxl/gone.png")
    shared = replace(rows[0], source="shared/photos")
    built = build([gone, shared, *rows[1:]], [described], settings)
    assert built.missing == {
        "pictures": {"not in the repository's copy": 1}, "shared/photos": {"not in the collected data": 1}}  # fmt: skip
    assert built.fetched["pictures"] == 2
    assert "shared/photos: 1 files: not in the collected data" in built.table()
