"""The list of pictures: what is read is what was written, and what is wrong is named."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from services.common.detection import Technique
from training.localisation.listing import ListingError, digest_of, list_shared, read_listing, write_listing


def test_a_list_comes_back(listed, tmp_path):
    listed = [dataclasses.replace(listed[0], crop=(0.0, 0.25, 0.5, 1.0)), *listed[1:]]
    write_listing(listed, tmp_path / "list.csv")
    assert read_listing(tmp_path / "list.csv") == sorted(listed, key=lambda row: str(row.picture))
    with pytest.raises(ListingError, match="no pictures of the split dev"):
        read_listing(tmp_path / "list.csv", split="dev")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a.png,,,painting,,g,train,o", "no such kind: 'painting'"),
        ("a.png,,,forged,splicing,g,train,o", "has a mask and a technique"),
        ("a.png,m.png,,photograph,,g,train,o", "has a mask and a technique"),
        ("a.png,m.png,,forged,magic,g,train,o", "magic"),
        ("a.png,,0 0 1,photograph,,g,train,o", "not enough values"),
    ],
)
def test_a_wrong_row_is_named(row, reason, tmp_path):
    (tmp_path / "list.csv").write_text(f"picture,mask,crop,kind,technique,group,split,origin\n{row}\n")
    with pytest.raises(ListingError, match=rf"line 2: .*{reason}"):
        read_listing(tmp_path / "list.csv")


def test_the_digest_tells_lists_apart_but_not_folders(listed, tmp_path):
    digest = digest_of(listed)
    assert digest == digest_of(listed[::-1])
    assert digest != digest_of(listed[1:])


def test_collected_data_is_listed_by_what_it_is(tmp_path):
    files = {
        "train/pristine/bsds500/1.jpg": ("photograph", None),
        "train/faces/real_ffhq/2.jpg": ("face", None),
        "train/faces/fake_stylegan2/3.jpg": None,
        "train/cg1050/tampered/Im1_cm2.jpg": ("forged", Technique.COPY_MOVE),
        "train/cg1050/tampered/Im1_cmfr2.jpg": ("forged", Technique.OTHER),
        "train/cg1050/tampered/Im1_col1.jpg": ("forged", Technique.OTHER),
        "train/cg1050/tampered/Im1_f1.jpg": ("forged", Technique.SPLICING),
        "train/forged/casia2_256/copymove/a.jpg": ("forged", Technique.COPY_MOVE),
        "train/forged/casia2_256/authentic/b.jpg": ("photograph", None),
    }
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
        mask = path.parent.parent / "mask" / f"{path.stem}.png"
        mask.parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(mask)
    lines = [f"{name},set,{name},train" for name in files]
    (tmp_path / "splits.csv").write_text("\n".join(["path,set,source,split", *lines]))
    found = {str(row.picture.relative_to(tmp_path)): (row.kind, row.technique) for row in list_shared(tmp_path)}
    assert found == {name: what for name, what in files.items() if what}
    (tmp_path / "train/cg1050/mask/Im1_f1.png").unlink()
    with pytest.raises(ListingError, match=r"lack their mask: .*Im1_f1"):
        list_shared(tmp_path)
