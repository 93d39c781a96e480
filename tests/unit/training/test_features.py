"""The feature cache, the residual's statistics, and the order in which pictures are taken."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from services.deeplearning.clip import SIDE, input_tensor, whole_view
from tests.unit.training.conftest import scene
from training.data.manifest import Row, picture_id
from training.features import Features, FeatureStore, in_turns, recipe
from training.residual import FEATURES, residual_features


def row(number, maker="sdxl", kind="generated", crop=""):
    sha256 = f"{number:064x}"
    return Row(
        id=picture_id(sha256, crop), kind=kind, maker=maker, source="some", path=f"{number}.png", mask="",
        mask_sha256="", crop=crop, sha256=sha256, width=300, height=300, dhash="0" * 64, group=str(number),
        split="train",
    )  # fmt: skip


def features(keys, value=0.0):
    n = len(keys)
    return Features(
        keys=tuple(keys),
        embedding=np.full((n, 512), value, np.float32) + np.arange(n, dtype=np.float32)[:, None],
        tokens=np.zeros((n, 12, 2, 768), np.float16) + np.arange(12, dtype=np.float16)[None, :, None, None],
        residual=np.full((n, FEATURES), value, np.float32),
    )


def test_what_was_kept_is_found_in_the_order_wanted(tmp_path):
    store = FeatureStore(tmp_path / "features")
    assert store.keys() == set()
    store.add(features(["a/0", "b/0"]))
    store.add(features(["c/0"], value=7.0))
    assert store.keys() == {"a/0", "b/0", "c/0"}
    found = FeatureStore(tmp_path / "features").load(["c/0", "missing/0", "b/0"], blocks=(9, 3))
    assert found.keys == ("c/0", "b/0")
    assert found.embedding[:, 0].tolist() == [7.0, 1.0]
    assert found.tokens.shape == (2, 2, 2, 768)
    assert found.tokens[0, :, 0, 0].tolist() == [9.0, 3.0]
    with pytest.raises(KeyError, match="none of 1 pictures"):
        store.load(["missing/0"])


def test_a_run_that_was_killed_leaves_nothing_half_written(tmp_path):
    store = FeatureStore(tmp_path)
    (tmp_path / "0123.part").write_bytes(b"half")
    store.add(features(["a/0"]))
    assert store.keys() == {"a/0"}


def test_keys_tell_pictures_crops_and_encoders_apart():
    assert row(1).id != row(1, crop="0 0 1 0.5").id
    assert row(1).id != row(2).id
    assert row(1).id == row(1, maker="other").id
    assert recipe("a" * 64) != recipe("b" * 64)


def test_any_beginning_is_balanced():
    rows = [row(number, maker="many") for number in range(50)] + [row(100 + number, maker="few") for number in range(5)]
    ordered = list(in_turns(rows))
    assert Counter(one.maker for one in ordered[:10]) == {"many": 5, "few": 5}
    assert sorted(one.id for one in ordered) == sorted(one.id for one in rows)
    assert list(in_turns(list(reversed(rows)))) == ordered or Counter(ordered) == Counter(rows)


def test_views_are_the_middle_square_whatever_the_shape():
    wide = np.zeros((300, 900, 3), np.uint8)
    wide[:, 450:] = 255
    for rgb in (wide, np.ascontiguousarray(wide[:100, 300:600]), np.ascontiguousarray(wide.transpose(1, 0, 2))):
        view = whole_view(rgb)
        assert view.shape == (SIDE, SIDE, 3)
        assert 0.4 < view.mean() / 255 < 0.6
    tensor = input_tensor(whole_view(wide))
    assert tensor.shape == (1, 3, SIDE, SIDE)
    assert tensor.dtype == np.float32
    assert tensor[0, 0, 0, 0] == pytest.approx(-0.48145466 / 0.26862954, rel=1e-5)


def test_residual_statistics_are_finite_and_see_a_periodic_trace():
    rgb = scene(1, 256)
    plain = residual_features(rgb)
    assert plain.shape == (FEATURES,)
    assert np.isfinite(plain).all()
    traced = rgb.astype(int)
    traced[::4, ::4] += 12
    seen = residual_features(np.clip(traced, 0, 255).astype(np.uint8))
    assert seen[40] > plain[40] + 0.5  # the sharpest peak of the spectrum
    for odd in (np.zeros((64, 64, 3), np.uint8), np.full((9, 300, 3), 255, np.uint8)):
        assert np.isfinite(residual_features(odd)).all()
    with pytest.raises(ValueError, match="too few"):
        residual_features(np.zeros((4, 100, 3), np.uint8))


def test_a_changed_row_keeps_its_features():
    assert replace(row(1), split="dev").id == row(1).id
