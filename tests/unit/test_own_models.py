"""A deployment's own models take the place of ours, and give it back."""

import json
from pathlib import Path

import pytest

from triton_models._card import CardError, scores_of
from triton_models.layout import ModelsFolder

from .test_fetch import GOOD, OTHER, digest, folder, model, run, served, source

__all__ = ["folder", "source"]  # fixtures


def own(folder: ModelsFolder, name: str, content: bytes = OTHER, **more: str) -> Path:
    place = folder.own / name
    (place / "1").mkdir(parents=True)
    (place / "1" / "model.onnx").write_bytes(content)
    (place / "config.pbtxt").write_text(f'name: "{name}"\n# my own\n')
    for path, text in more.items():
        (place / path.replace("_", ".")).write_text(text)
    return place


def entries(folder: ModelsFolder) -> dict[str, dict]:
    return {entry["name"]: entry for entry in json.loads(folder.status.read_text())["entries"]}


def test_it_takes_the_place_of_ours_with_its_own_configuration_and_digest(folder, source):
    own(folder, "net")
    reasons, _ = run([model("net"), model("other", content=GOOD)], folder, source)
    assert reasons["net"] is None
    assert served(folder) == OTHER
    config = (folder.repository / "net" / "config.pbtxt").read_text()
    assert "# my own" in config
    assert digest(OTHER) in config
    entry = entries(folder)["net"]
    assert (entry["own"], entry["licence"], entry["files"][0]["sha256"]) == (True, "LicenseRef-Own", digest(OTHER))


def test_a_mirror_of_ours_does_not_replace_it(folder, source, tmp_path):
    run([model("net")], ModelsFolder(tmp_path / "mirror"), source)
    own(folder, "net")
    reasons, _ = run([model("net")], folder, source, mirror=tmp_path / "mirror")
    assert reasons == {"net": None}
    assert served(folder) == OTHER


def test_external_data_comes_along(folder, source):
    place = own(folder, "net")
    (place / "1" / "weights.bin").write_bytes(b"many")
    run([], folder, source)
    assert (folder.repository / "net" / "1" / "weights.bin").read_bytes() == b"many"


def test_ours_comes_back_when_it_goes(folder, source):
    place = own(folder, "net")
    run([model("net")], folder, source)
    for path in sorted(place.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    place.rmdir()
    run([model("net")], folder, source)
    assert served(folder) == GOOD
    assert "# my own" not in (folder.repository / "net" / "config.pbtxt").read_text()


def test_one_that_we_do_not_have_is_served_until_it_goes(folder, source):
    place = own(folder, "theirs")
    assert run([model("net")], folder, source)[0] == {"net": None, "theirs": None}
    assert served(folder, "theirs") == OTHER
    place.rename(folder.root / "put away")
    assert run([model("net")], folder, source)[0] == {"net": None}
    assert not (folder.repository / "theirs").exists()
    assert served(folder) == GOOD


def test_changed_weights_are_taken_over(folder, source):
    place = own(folder, "net")
    run([], folder, source)
    (place / "1" / "model.onnx").write_bytes(GOOD + OTHER)
    run([], folder, source)
    assert served(folder) == GOOD + OTHER
    assert entries(folder)["net"]["files"][0]["sha256"] == digest(GOOD + OTHER)


@pytest.mark.parametrize(("name", "lacks"), [("Net!", ""), ("net", "config.pbtxt"), ("net", "1/model.onnx")])
def test_a_folder_that_is_no_model_is_named_and_ours_stays(folder, source, name, lacks):
    place = own(folder, name)
    if lacks:
        (place / lacks).unlink()
    reasons, lines = run([model("net")], folder, source)
    assert reasons == {"net": None}
    assert served(folder) == GOOD
    assert any(name in line and (lacks or "a-z") in line for line in lines)


@pytest.mark.parametrize(("name", "before"), [("facenet_realfake", "faces"), ("age", "images"), ("gender", "images")])
def test_a_model_of_faces_that_takes_no_traces_is_to_be_imported_again(folder, source, name, before):
    place = own(folder, name)
    given = f'input [ {{ name: "{before}" data_type: TYPE_UINT8 }} ]'
    (place / "config.pbtxt").write_text(given, encoding="utf-8")
    _, lines = run([model("net")], folder, source)
    assert any(name in line and "no input traces (TYPE_FP32): import it again" in line for line in lines)
    assert not (folder.repository / name).exists()
    given = 'input [ { name: "faces" data_type: TYPE_UINT8 }, { name: "traces"\n data_type: TYPE_FP32 } ]'
    (place / "config.pbtxt").write_text(given, encoding="utf-8")
    run([model("net")], folder, source)
    assert served(folder, name) == OTHER


def test_a_classifier_of_faces_that_takes_no_bytes_is_to_be_imported_again(folder, source):
    place = own(folder, "facenet_realfake")
    given = 'input [ { name: "faces" data_type: TYPE_FP32 }, { name: "traces" data_type: TYPE_FP32 } ]'
    (place / "config.pbtxt").write_text(given, encoding="utf-8")
    _, lines = run([model("net")], folder, source)
    assert any("no input faces (TYPE_UINT8): import it again" in line for line in lines)


CARD = """# net

## Scores

| score | value |
|---|---|
| pixel_f1 | 0.41 |
| marked_area | 1e-3 |

## Limits

| not | 3 |
"""


def test_the_scores_of_a_card_are_told(folder, source):
    (source / "net" / "MODEL_CARD.md").write_text(CARD)
    run([model("net")], folder, source)
    assert entries(folder)["net"]["scores"] == {"pixel_f1": 0.41, "marked_area": 0.001}


def test_a_card_that_cannot_be_read_is_named_and_stops_nothing(folder, source):
    (source / "net" / "MODEL_CARD.md").write_text(CARD.replace("0.41", "good"))
    reasons, lines = run([model("net")], folder, source)
    assert reasons == {"net": None}
    assert entries(folder)["net"]["scores"] == {}
    assert any("pixel_f1 | good" in line for line in lines)


@pytest.mark.parametrize("row", ["| Pixel F1 | 0.4 |", "| f1 |", "| f1 | nan |"])
def test_what_is_no_score_is_refused(tmp_path, row):
    (tmp_path / "MODEL_CARD.md").write_text(CARD.replace("| pixel_f1 | 0.41 |", row))
    with pytest.raises(CardError, match="no score"):
        scores_of(tmp_path / "MODEL_CARD.md")


def test_there_need_be_none(tmp_path):
    assert scores_of(tmp_path / "MODEL_CARD.md") == {}
