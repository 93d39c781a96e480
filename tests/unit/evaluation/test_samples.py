"""Labelled data: each form is read as it says, and what cannot be read is told in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.samples import DataError, Label, load_samples, without_sources_of
from services.common.detection import Technique


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def manifest(folder: Path, text: str, name: str = "manifest.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_manifest_with_labels(tmp_path):
    path = manifest(
        tmp_path,
        "path,label,technique,mask,source,group,split,boxes\n"
        "b.jpg,Tampered,copy_move,masks/b.png,one,,dev,\n"
        "a.jpg,authentic,,,,two,dev,\n"
        'c.jpg,ai,,,,,dev,"[[1, 2, 3, 4]]"\n'
        "d.jpg,honest,,,,,train,[]\n",
    )
    first, second, third = load_samples(path, split="dev").samples
    assert (first.name, first.label, first.source, first.mask, first.boxes) == (
        "a.jpg",
        Label.HONEST,
        "two",
        None,
        None,
    )
    assert (second.label, second.technique, second.source) == (Label.EDITED, Technique.COPY_MOVE, "one")
    assert second.mask == tmp_path / "masks" / "b.png"
    assert (third.label, third.source, third.boxes) == (Label.GENERATED, "c.jpg", ((1.0, 2.0, 3.0, 4.0),))
    assert load_samples(path, split="train").samples[0].boxes == ()


def test_a_manifest_that_only_names_the_set(tmp_path):
    path = manifest(
        tmp_path,
        "path,set,source,split\n"
        "dev/comofod50/forged/001.jpg,comofod50,s1,dev\n"
        "dev/comofod50/original/001.jpg,comofod50,s1,dev\n"
        "train/pristine/x.jpg,pristine,s2,dev\n"
        "other/y.jpg,nobody_knows,s3,dev\n",
    )
    loaded = load_samples(path)
    forged, original, pristine = loaded.samples
    assert (forged.label, forged.technique) == (Label.EDITED, Technique.COPY_MOVE)
    assert forged.mask == tmp_path / "dev" / "comofod50" / "mask" / "001.png"
    assert original.label is pristine.label is Label.HONEST
    assert loaded.left_out == {"no label for pictures of set nobody_knows": 1}
    assert "mark source and copy" in loaded.notes["comofod50"]
    assert {sample.set_name for sample in load_samples(path, sets=["pristine"]).samples} == {"pristine"}


def test_a_folder_with_one_manifest_is_that_manifest(tmp_path):
    manifest(tmp_path, "path,label\na.jpg,honest\n")
    manifest(tmp_path, "name,size\na,1\n", "not_ours.csv")
    assert [sample.name for sample in load_samples(tmp_path).samples] == ["a.jpg"]
    manifest(tmp_path, "path,label\nb.jpg,honest\n", "second.csv")
    with pytest.raises(DataError, match=r"several manifests: name one of manifest\.csv, second\.csv"):
        load_samples(tmp_path)


def test_a_manifest_as_a_spreadsheet_writes_it(tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_text("path,label\r\nä.jpg,honest\r\n", encoding="utf-8-sig")
    assert load_samples(path).samples[0].name == "ä.jpg"


def test_image_and_mask_pairs(tmp_path):
    touch(tmp_path / "images" / "a.jpg", tmp_path / "images" / "b.png", tmp_path / "images" / "notes.txt")
    touch(tmp_path / "masks" / "a.png", tmp_path / "masks" / "b_gt.png")
    touch(tmp_path / "authentic" / "c.jpg")
    authentic, first, second = load_samples(tmp_path).samples
    assert (authentic.label, authentic.mask) == (Label.HONEST, None)
    assert (first.label, first.mask) == (Label.EDITED, tmp_path / "masks" / "a.png")
    assert second.mask == tmp_path / "masks" / "b_gt.png"


def test_authentic_and_tampered_folders(tmp_path):
    touch(tmp_path / "Authentic" / "a.jpg", tmp_path / "tampered" / "deep" / "a.jpg", tmp_path / "fake" / "g.webp")
    touch(tmp_path / "elsewhere" / "x.jpg")
    found = {sample.name: (sample.label, sample.source) for sample in load_samples(tmp_path).samples}
    assert found == {
        "Authentic/a.jpg": (Label.HONEST, "a"),
        "tampered/deep/a.jpg": (Label.EDITED, "a"),
        "fake/g.webp": (Label.GENERATED, "g"),
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\na.jpg,perhaps\n", r"line 2 \(a\.jpg\): label 'perhaps' is none of honest, edited, generated"),
        ("path,label,technique\na.jpg,edited,magic\n", "technique 'magic' is none of copy_move, splicing"),
        ("path,label,boxes\na.jpg,honest,1 2 3\n", "boxes '1 2 3' are no JSON list of"),
        ("path,label,boxes\na.jpg,honest,7\n", "boxes '7' are no JSON list of"),
        ("path,label\n,honest\n", "no path"),
        ("path,label\na.jpg,honest\na.jpg,honest\n", r"line 3: a\.jpg is there twice"),
        ("file,label\na.jpg,honest\n", "has no column path; it has file, label"),
        ("", "has no column path; it has none"),
        ("path,label\n", "no labelled picture"),
        ("path,set\na.jpg,nobody_knows\n", "1 pictures: no label for pictures of set nobody_knows"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_said(tmp_path, text, said):
    with pytest.raises(DataError, match=said):
        load_samples(manifest(tmp_path, text))


def test_what_is_wrong_with_the_choice_is_said(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load_samples(tmp_path / "nothing")
    with pytest.raises(DataError, match="expected a CSV"):
        load_samples(tmp_path)
    path = manifest(tmp_path, "path,label,split\na.jpg,honest,train\n")
    with pytest.raises(DataError, match="no labelled picture of split dev of set a, b"):
        load_samples(path, split="dev", sets=["a", "b"])


def test_a_folder_without_manifest_has_no_splits(tmp_path):
    touch(tmp_path / "authentic" / "a.jpg")
    with pytest.raises(DataError, match="no splits and sets to choose from"):
        load_samples(tmp_path, split="dev")


def test_a_manifest_in_another_encoding_is_said_to_be_so(tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_bytes("path,label\nä.jpg,honest\n".encode("latin-1"))
    with pytest.raises(DataError, match="no text in UTF-8"):
        load_samples(path)


def test_pictures_that_share_a_source_with_those_named_are_left_out(tmp_path):
    rows = ("a.jpg,honest,one", "a_forged.jpg,edited,one", "b.jpg,honest,two", "c.jpg,edited,c")
    loaded = load_samples(manifest(tmp_path, "\n".join(("path,label,source", *rows))))
    listed = tmp_path / "used.txt"
    listed.write_text("a_forged.jpg\nelsewhere.jpg\n", encoding="utf-8")
    assert [sample.name for sample in without_sources_of(loaded, listed).samples] == ["b.jpg", "c.jpg"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"elsewhere.jpg\n", "no picture that .* names is in the data"),
        (b"", "no picture that .* names is in the data"),
        (b"a.jpg\r\nb.jpg", "shares its source"),
        (b"\xff\xfe", "used.txt"),
        (None, "No such file"),
    ],
)
def test_a_list_that_leaves_nothing_out_or_all_is_told(tmp_path, text, message):
    loaded = load_samples(manifest(tmp_path, "path,label\na.jpg,honest\nb.jpg,edited\n"))
    if text is not None:
        (tmp_path / "used.txt").write_bytes(text)
    with pytest.raises(DataError, match=message):
        without_sources_of(loaded, tmp_path / "used.txt")
