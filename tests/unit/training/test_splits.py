"""splits.toml: who may learn from what."""

import pytest

from training.data.settings import HERE
from training.data.splits import SplitError, read_shared_splits, read_splits


@pytest.fixture
def rules():
    return read_splits(HERE / "splits.toml")


@pytest.mark.parametrize(
    "maker", ["aura_flow", "hidream", "hunyuan_dit", "lcm", "omnigen", "sd3", "sd3_5", "stable_cascade", "unclip"]
)
def test_generators_of_the_dev_set_are_never_learned_from(rules, maker):
    for listed in (None, "train", "calibrate", "dev"):
        assert rules.split("generated", maker=maker, source="any", listed=listed) == "dev"


def test_the_collected_datas_dev_stays_dev(rules):
    assert rules.split("photograph", maker="x", source="shared/y", listed="dev") == "dev"
    assert rules.split("photograph", maker="x", source="shared/y", listed="train") == "train"


def test_chance_takes_whole_makers_and_sources_and_about_as_many_as_it_should(rules):
    makers = [f"swapper_{number}" for number in range(2000)]
    splits = [rules.split("fake_face", maker=maker, source="a") for maker in makers]
    assert splits == [rules.split("fake_face", maker=maker, source="b") for maker in makers]
    for split, share in (("dev", rules.dev), ("calibrate", rules.calibrate)):
        assert abs(splits.count(split) / 2000 - share) < 0.03
    assert len({rules.split("photograph", maker=maker, source="one_source") for maker in makers}) == 1


def test_what_is_wrong_is_refused(tmp_path):
    text = (HERE / "splits.toml").read_text()
    for before, after, complaint in (
        ("seed = 10", "", "lacks 'seed'"),
        ('[drawn]\nby = "source"', '[drawn]\nby = "colour"', "by is maker or source"),
        ("seed = 10", "seed = 10\ncolour = 1", "unknown key 'colour'"),
    ):
        assert before in text
        path = tmp_path / "splits.toml"
        path.write_text(text.replace(before, after))
        with pytest.raises(SplitError, match=complaint):
            read_splits(path)


def test_an_unknown_split_of_the_collected_data_is_refused(tmp_path):
    path = tmp_path / "splits.csv"
    path.write_text("path,set,source,split\na.png,a,a,test\n")
    with pytest.raises(SplitError, match="no split that is known"):
        read_shared_splits(path)
