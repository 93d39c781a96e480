"""Source files are read, and what is wrong in one is refused with its place."""

import re

import pytest

from training.data.settings import HERE
from training.data.sources import SourceError, read_shared, read_source, read_sources

HEAD = """
repository = "someone/pictures"
commit = "0123456789abcdef0123456789abcdef01234567"
licence = "CC0-1.0"
publishable = true
about = "Made for this test."
"""
PICTURES = """
[[pictures]]
kind = "generated"
maker = "sdxl"
files = ["out/**/*.png"]
"""


def parse(folder, text, name="some_source"):
    path = folder / f"{name}.toml"
    path.write_text(text)
    return read_source(path)


def test_a_source_says_what_it_holds(tmp_path):
    source = parse(tmp_path, HEAD + PICTURES + "crop = [0, 0, 1, 0.9]\nyear = 2023\n")
    (pictures,) = source.sets
    assert (source.name, source.repository, source.publishable) == ("some_source", "someone/pictures", True)
    assert (pictures.source, pictures.kind, pictures.crop) == ("some_source", "generated", (0.0, 0.0, 1.0, 0.9))


def test_patterns_choose_pictures_only(tmp_path):
    (pictures,) = parse(tmp_path, HEAD + PICTURES + 'exclude = ["*/grid*"]').sets
    paths = ["out/a/1.png", "out/a/grid_1.png", "out/a/1.txt", "in/a/1.png", "out/b/2.PNG", "out/b/c/3.png"]
    assert pictures.choose(paths) == ["out/a/1.png", "out/b/c/3.png"]


def test_a_limit_takes_pictures_from_all_over(tmp_path):
    (pictures,) = parse(tmp_path, HEAD + PICTURES + "limit = 4").sets
    assert pictures.choose([f"out/x/{number:02}.png" for number in range(16)]) == [
        f"out/x/{number:02}.png" for number in (0, 4, 8, 12)
    ]


def test_makers_masks_and_groups_come_from_paths(tmp_path):
    text = (
        HEAD
        + """
[[pictures]]
kind = "forged"
maker = "{parent}"
files = ["*.jpg"]
mask = "masks/{parent}/{stem}_gt.png"
group = "^([0-9]+)_"
"""
    )
    (pictures,) = parse(tmp_path, text).sets
    assert pictures.maker_of("set/Copy-Move/12_a.jpg") == "copy_move"
    assert pictures.mask_of("set/Copy-Move/12_a.jpg") == "masks/set/Copy-Move/12_a_gt.png"
    assert pictures.group_of("set/Copy-Move/12_a.jpg") == pictures.group_of("set/Splice/12_b.jpg") == "12"
    assert pictures.group_of("set/a.jpg") == "set/a.jpg"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (HEAD, "has no [[pictures]]"),
        (HEAD.replace("someone/pictures", "someone") + PICTURES, "not owner/name"),
        (HEAD.replace("0123456789abcdef0", "x") + PICTURES, "40 hexadecimal digits"),
        (HEAD.replace("true", '"yes"') + PICTURES, "publishable must be true or false"),
        (HEAD.replace("about", "note") + PICTURES, "about must be a text"),
        (HEAD + PICTURES.replace("generated", "painting"), "kind 'painting' is none of"),
        (HEAD + PICTURES.replace("sdxl", "SD XL"), "not lower_snake_case"),
        (HEAD + PICTURES.replace('["out/**/*.png"]', '"*.png"'), "files must be a list"),
        (HEAD + PICTURES + "crop = [0, 0, 1]", "not four numbers"),
        (HEAD + PICTURES + "crop = [0.5, 0, 0.5, 1]", "not left < right"),
        (HEAD + PICTURES + 'mask = "{stem}.png"', "have masks"),
        (HEAD + PICTURES.replace("generated", "forged") + 'mask = "{x}.png"', "{stem}, {name} and {parent} only"),
        (HEAD + PICTURES + 'group = "("', "no regular expression"),
        (HEAD + PICTURES + "limit = 0", "limit must be a positive number"),
        (HEAD + PICTURES + "colour = 1", "pictures 1: unknown key 'colour'"),
        ("colour = 1\n" + HEAD + PICTURES, "unknown key 'colour'"),
        ("[[", "some_source.toml"),
    ],
)
def test_what_is_wrong_is_refused(tmp_path, text, complaint):
    with pytest.raises(SourceError, match=re.escape(complaint)):
        parse(tmp_path, text)


def test_a_source_is_named_like_its_file(tmp_path):
    with pytest.raises(SourceError, match="lower case"):
        parse(tmp_path, HEAD + PICTURES, name="Some-Source")


def test_all_committed_sources_can_be_read():
    assert len(read_sources(HERE / "sources")) > 10
    assert read_shared(HERE / "shared.toml").sets
