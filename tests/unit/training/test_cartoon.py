"""Cartoon or human: what is cut of a picture, how styles are left out, and that the fragment is the network."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from services.faces.attributes import kind, traces
from services.faces.face import Box, DetectedFace, FaceDetector
from tests.unit.training.conftest import as_file, scene
from training.cartoon.columns import BLOCKS, WIDTHS, columns
from training.cartoon.fitting import Examples, compare, fit_final, load_examples, margins_left_out
from training.cartoon.glance import fit_glance
from training.cartoon.views import View, ViewStore, chosen_rows, on_another_background, views_of
from training.data.build import picture_path
from training.data.manifest import Row
from training.generated.head import LinearHead

ROW = Row(
    id="0" * 16, kind="drawn", maker="anime", source="one", path="a.png", mask="", mask_sha256="", crop="",
    sha256="ab" * 32, width=300, height=300, dhash="", group="g", split="train",
)  # fmt: skip


class Finder:
    """Sees a face in the middle, or none."""

    detector = FaceDetector.HAAR
    default_confidence = 0.5

    def __init__(self, *, finds: bool) -> None:
        self.finds = finds

    def find(self, picture, *, min_confidence):
        height, width = picture.rgb.shape[:2]
        box = Box(width / 2 - 20, height / 2 - 20, width / 2 + 20, height / 2 + 20)
        return [DetectedFace(box=box, confidence=0.9, detector=self.detector)] if self.finds else []


def placed(folder, row, rgb):
    path = picture_path(folder, row)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(as_file(rgb))


@pytest.mark.parametrize(
    ("finds", "number", "expected"),
    [(True, "1", ["haar"]), (True, "4", ["haar", "whole"]), (False, "1", ["whole"])],
)
def test_a_face_is_seen_alone_and_of_some_pictures_the_whole_too(tmp_path, finds, number, expected):
    row = dataclasses.replace(ROW, id=number + "a" * 15)
    placed(tmp_path, row, scene(1, 300))
    views = views_of(row, tmp_path, [Finder(finds=False), Finder(finds=finds)], [])
    assert [view.seen for view in views] == expected
    assert all(view.rgb.shape == (kind.SIDE, kind.SIDE, 3) for view in views)
    chips = [view.chip.shape for view in views if view.chip is not None]
    assert chips == [(traces.SIDE, traces.SIDE, 3)] * (expected[0] != "whole"), "CLIP sees faces only"
    assert {view.picture for view in views} == {row.id}


def test_views_are_kept(tmp_path):
    def chip(number):
        return np.full((6, 6, 3), number, np.uint8)

    views = [View(f"{n}/face", "haar", np.full((4, 4, 3), n, np.uint8), chip(n)) for n in range(3)]
    views.insert(1, View("0/whole", "whole", np.full((4, 4, 3), 9, np.uint8)))
    store = ViewStore(tmp_path / "views")
    assert store.done() == set()
    store.add(views[:3])
    store.add(views[3:])
    assert store.done() == {"0", "1", "2"}
    kept = {view.key: view for view in store.views()}
    assert {key: int(view.rgb[0, 0, 0]) for key, view in kept.items()} == {
        "0/face": 0, "0/whole": 9, "1/face": 1, "2/face": 2,
    }  # fmt: skip
    assert [int(kept[f"{n}/face"].chip[0, 0, 0]) for n in range(3)] == [0, 1, 2]
    assert kept["0/whole"].chip is None


def test_no_style_gives_more_than_its_share():
    rows = [dataclasses.replace(ROW, id=f"{number:016x}", maker="anime" if number else "oil") for number in range(300)]
    chosen = chosen_rows(rows)
    assert len(chosen) == 101
    assert "oil" in {row.maker for row in chosen[:2]}, "styles take turns"


def test_only_the_ground_behind_a_drawing_changes():
    drawing = np.full((200, 200, 3), 255, np.uint8)
    drawing[50:150, 50:150] = (200, 30, 30)
    drawing[90:110, 90:110] = 255  # white inside: an eye
    photograph = np.zeros((100, 100, 3), np.uint8)
    changed = 0
    for number in range(12):
        after = on_another_background(drawing, str(number), lambda _: photograph)
        assert (after[60:140, 60:140] == drawing[60:140, 60:140]).all()
        changed += (after[5, 5] != 255).any()
    assert 6 <= changed < 12, "most get another ground, some keep theirs"


def examples_of(styles, sources, *, trace):
    """50 views of each; drawings differ in columns 0 to 7, and each style by `trace` in a column of its own."""
    rng = np.random.default_rng(0)
    rows, matrix = [], []
    for number, name in enumerate([*styles, *sources]):
        drawn = number < len(styles)
        for index in range(50):
            features = rng.normal(size=2944)
            features[:8] += 2.0 * drawn
            features[10 + number] += trace * drawn
            split = ("train", "calibrate", "dev")[index % 3]
            rows.append(
                dataclasses.replace(
                    ROW, id=f"{number:08x}{index:08x}", kind="drawn" if drawn else "real_face", maker=name,
                    source=f"from {name}", group=f"{number}-{index}", split=split,
                )
            )  # fmt: skip
            matrix.append(features)
    return Examples(tuple(rows), np.array(["haar", "whole"] * (len(rows) // 2)), np.array(matrix, np.float32))


def test_a_style_that_was_left_out_is_judged_by_what_styles_have_in_common():
    examples = examples_of(["a", "b", "c"], ["p", "q", "r"], trace=8.0)
    learned: list[set[str]] = []

    def fitted(some):
        learned.append({row.maker for row in some.rows})
        # Takes for drawn only what has the trace of a style that it learned from.
        own = [10 + "abc".index(maker) for maker in learned[-1] & {"a", "b", "c"}]
        return lambda tested: tested.features[:, own].max(axis=1) - 4.0

    margins = margins_left_out(examples, "styles", fitted)
    assert (margins[examples.drawn] > 0).mean() < 0.05
    assert all(len(makers) == 5 or makers >= {"a", "b", "c"} for makers in learned)


def test_left_out_by_source_goes_every_style_of_the_source():
    examples = examples_of(["a", "b", "c"], ["p", "q", "r"], trace=0.0)
    rows = tuple(dataclasses.replace(row, source="both") if row.maker in "ab" else row for row in examples.rows)
    learned: list[set[str]] = []

    def fitted(some):
        learned.append({row.maker for row in some.rows if row.kind == "drawn"})
        return lambda tested: np.zeros(len(tested.rows))

    margins_left_out(dataclasses.replace(examples, rows=rows), "sources", fitted)
    assert {"c"} in learned
    assert {"a", "c"} not in learned


CONFIG = {"blocks": [1, 2], "strength": 1.0, "painted": ["d"], "compare": {"blocks": [[1], [2]], "strengths": [1.0]}}


def test_the_head_tells_drawings_and_its_threshold_is_zero():
    examples = examples_of(["a", "b", "c", "d"], ["p", "q", "r"], trace=0.0)
    head, report = fit_final(examples, CONFIG)
    dev = examples.without_styles("d").of_splits("dev")
    margins = head.margins(dev.features[:, columns([1, 2])])
    assert ((margins > 0) == dev.drawn).mean() > 0.85
    assert "| style left out | all | 34 | style a |" in report
    assert "| dev | face |" in report
    assert "| painted | all | 50 | style d |" in report
    assert "| style left out | all | 34 | style d |" not in report, "neither learned from nor counted"


def test_a_glance_tells_faces_drawn_and_is_judged_with_and_without_vgg16():
    examples = examples_of(["a", "b", "c", "d"], ["p", "q", "r"], trace=0.0)
    traces = np.random.default_rng(1).normal(size=(len(examples.rows), 12)).astype(np.float32)
    traces[:, 0] += 6.0 * examples.drawn
    head, report = fit_glance(examples, traces, CONFIG)
    faces = (examples.seen != "whole") & np.array([row.split == "dev" for row in examples.rows])
    assert ((head(traces)[faces, 0] > 0) == examples.drawn[faces]).mean() > 0.95
    assert "| style left out, a glance | all | 17 | style a |" in report, "of 34 views half are whole pictures"
    assert "| dev, as served |" in report
    assert "| d | 25 |" in report, "painted ones are told apart"
    assert "style d" not in report, "neither learned from nor counted"
    doubtful = next(line for line in report.splitlines() if line.startswith("| dev |")).split("|")
    assert float(doubtful[3].strip(" %")) < 20.0


def test_the_comparison_shows_where_the_difference_lies():
    table = compare(examples_of(["a", "b", "c"], ["p", "q", "r"], trace=0.0), CONFIG).splitlines()
    by_block = {
        line.split("|")[1].strip(): float(line.split("|")[3])
        for line in table
        if line.startswith("| ") and "AUC" not in line
    }
    assert by_block["1"] > 0.95
    assert by_block["2"] < 0.65


def test_without_features_it_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"training\.cartoon views"):
        load_examples([ROW], tmp_path)


def test_columns_of_blocks_follow_one_another():
    assert columns(BLOCKS).tolist() == list(range(2 * sum(WIDTHS.values())))
    assert columns([2])[[0, -1]].tolist() == [128, 383]


@pytest.fixture(scope="module")
def package():
    """A file like the package's: VGG16's weights by their names, and a network of its own that must cost nothing."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights, before = [], 3
    for block, count in {1: 2, 2: 2, 3: 3, 4: 3, 5: 3}.items():
        for number in range(1, count + 1):
            name = f"functional_1/block{block}_conv{number}_1"
            kernel = rng.normal(size=(WIDTHS[block], before, 3, 3)) * np.sqrt(2 / (9 * before))
            bias = rng.normal(size=WIDTHS[block])
            weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"{name}/convolution/ReadVariableOp:0"))
            weights.append(numpy_helper.from_array(bias.astype(np.float32), f"{name}/Squeeze:0"))
            before = WIDTHS[block]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["input"], ["own"])],
        "package",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 240, 240, 3])],
        [helper.make_tensor_value_info("own", TensorProto.FLOAT, ["n", 240, 240, 3])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    return bytes(model.SerializeToString()), {item.name: numpy_helper.to_array(item) for item in weights}, onnx


def session_of(content):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def test_the_fragment_behind_the_package_is_one_network(package):
    content, weights, onnx = package
    from training.cartoon.backbone import features_fragment, head_fragment

    onnx.checker.check_model(onnx.load_from_string(content + features_fragment()))
    batch = np.random.default_rng(1).normal(0, 50, (2, kind.SIDE, kind.SIDE, 3)).astype(np.float32)
    session = session_of(content + features_fragment())
    assert [one.name for one in session.get_inputs()] == [kind.INPUT]
    (features,) = session.run(["features"], {kind.INPUT: batch})
    assert features.shape == (2, 2944)
    expected = first_block(batch, weights)
    np.testing.assert_allclose(features[:, columns([1])], expected, rtol=2e-3, atol=2e-3)

    width = len(columns([1, 3]))
    head = LinearHead(np.full(width, 0.5), np.full(width, 2.0), np.linspace(-0.1, 0.1, width), 0.25)
    (cartoon,) = session_of(content + head_fragment([1, 3], head)).run([kind.OUTPUT], {kind.INPUT: batch})
    margins = head.margins(features[:, columns([1, 3])])
    np.testing.assert_allclose(cartoon[:, 0], 1 / (1 + np.exp(-margins)), atol=1e-3)
    with pytest.raises(ValueError, match="the blocks give"):
        head_fragment([1], head)


def test_in_eight_bits_it_is_nearly_the_same_network(package, tmp_path):
    content, _, onnx = package
    from training.cartoon.backbone import activation_ranges, features_fragment

    (tmp_path / "vgg.onnx").write_bytes(content)
    rng = np.random.default_rng(2)
    views = [
        View(
            f"{number}/whole", "whole", np.clip(rng.normal(100, 60, (kind.SIDE, kind.SIDE, 3)), 0, 255).astype(np.uint8)
        )
        for number in range(3)
    ]
    ranges = activation_ranges(tmp_path / "vgg.onnx", views, threads=1)
    assert len(ranges) == 13
    assert min(ranges) > 0
    batch = kind.prepared([view.rgb for view in views])
    exact, rounded = (
        session_of(content + features_fragment(each)).run(["features"], {kind.INPUT: batch})[0]
        for each in (None, ranges)
    )
    model = onnx.load_from_string(content + features_fragment(ranges))
    onnx.checker.check_model(model)
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 13
    assert 0 < np.abs(rounded - exact).mean() < 0.03 * np.abs(exact).mean()
    # With ranges that are too small it is another network: the bound above can be broken.
    (cut,) = session_of(content + features_fragment([each / 20 for each in ranges])).run(
        ["features"], {kind.INPUT: batch}
    )
    assert np.abs(cut - exact).mean() > 0.2 * np.abs(exact).mean()
    with pytest.raises(ValueError, match="12 ranges for 13 convolutions"):
        features_fragment(ranges[1:])


def first_block(batch, weights):
    """Means and deviations behind the first block, by the definition of a convolution."""
    current = batch.transpose(0, 3, 1, 2).astype(np.float64)
    for number in (1, 2):
        kernel = weights[f"functional_1/block1_conv{number}_1/convolution/ReadVariableOp:0"].astype(np.float64)
        padded = np.pad(current, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        current = np.einsum("nchwij,ocij->nohw", windows, kernel, optimize=True)
        current += weights[f"functional_1/block1_conv{number}_1/Squeeze:0"][None, :, None, None]
        current = np.maximum(current, 0)
    return np.concatenate([current.mean(axis=(2, 3)), current.std(axis=(2, 3))], axis=1)
