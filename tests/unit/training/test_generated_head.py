"""The head of `generated`: weights, folds, calibration, the learning curve and the exported fragment."""

import numpy as np
import pytest

from tests.unit.training.test_features import row
from training.features import Features
from training.generated.curve import learning_curve
from training.generated.examples import Examples, unit_weights
from training.generated.folds import fold_of, held_out_margins, linear, measure
from training.generated.gains import gains
from training.generated.head import LIMIT, LinearHead, calibrated, fit_linear

GENERATORS = 12
SOURCES = 6


@pytest.fixture
def examples():
    """Generators that share a trace (input 0) and have one of their own (inputs 1 to 12); photographs have neither."""
    from dataclasses import replace

    rng = np.random.default_rng(0)
    rows, embeddings, labels = [], [], []
    for number in range(40 * (GENERATORS + SOURCES)):
        unit = number % (GENERATORS + SOURCES)
        generated = unit < GENERATORS
        maker = f"generator_{unit}" if generated else "camera"
        source = "collection" if generated else f"album_{unit}"
        embedding = rng.normal(size=512)
        if generated:
            embedding[0] += 2.0
            embedding[1 + unit] += 8.0
        rows.append(replace(row(number, maker=maker, kind="generated" if generated else "photograph"), source=source))
        embeddings.append(embedding)
        labels.append(generated)
    n = len(rows)
    features = Features(
        tuple(f"{one.id}/0" for one in rows),
        np.array(embeddings, np.float32),
        np.zeros((n, 3, 2, 768), np.float16),
        np.zeros((n, 243), np.float32),
    )
    return Examples(tuple(rows), features, np.array(labels))


def test_a_source_is_worth_what_it_teaches_about_the_others(examples):
    """One source shows the trace that all generators share; the other's pictures look like photographs."""
    from dataclasses import replace

    rng = np.random.default_rng(1)
    embedding = examples.features.embedding.copy()
    makers = np.array([row.maker for row in examples.rows])
    empty = np.isin(makers, [f"generator_{number}" for number in range(6, GENERATORS)])
    embedding[empty] = rng.normal(size=(int(empty.sum()), embedding.shape[1]))
    rows = tuple(
        replace(row, source="empty" if nothing else row.source)
        for row, nothing in zip(examples.rows, empty, strict=True)
    )
    features = replace(examples.features, embedding=embedding)
    found = {gain.source: gain for gain in gains(Examples(rows, features, examples.labels), "clip", linear(30.0))}
    assert set(found) == {"collection", "empty"}
    assert (found["collection"].pictures, found["collection"].makers) == (240, 6)
    # What is judged without a source is the other's pictures.
    assert found["empty"].gain < 0.0


def test_classes_count_alike_and_large_units_less_than_their_pictures():
    units = np.array(["generator a"] * 100 + ["generator b"] * 4 + ["source c"] * 10)
    labels = np.array([True] * 104 + [False] * 10)
    weights = unit_weights(units, labels)
    assert weights[labels].sum() == pytest.approx(weights[~labels].sum())
    assert weights[:100].sum() / weights[100:104].sum() == pytest.approx(5.0)


def test_folds_keep_units_together_and_hold_both_classes(examples):
    for leave_out in ("makers", "sources"):
        units = examples.units(leave_out)
        fold = fold_of(units, 4)
        assert all(len(set(fold[units == unit].tolist())) == 1 for unit in set(units.tolist()))
    fold = fold_of(examples.units("makers"), 4)
    assert all(len(set(examples.labels[fold == number].tolist())) == 2 for number in range(4))


def test_held_out_scores_do_not_know_the_generator(examples):
    """A generator's own trace helps only who has seen the generator."""
    matrix, labels = examples.matrix("clip"), examples.labels
    seen = fit_linear(matrix, labels, np.ones(len(labels)), strength=1.0).margins(matrix)
    left_out = held_out_margins(examples, "clip", linear(1.0), leave_out="makers", folds=4)
    units = examples.units("makers")
    known, honest = (measure(labels, margins, units, resamples=50) for margins in (seen, left_out))
    assert known.auc.value > 0.99
    assert 0.7 < honest.auc.value < 0.97
    assert honest.auc.interval.low < honest.auc.value < honest.auc.interval.high
    assert "|" in honest.row()


def test_what_shares_a_group_is_not_learned_from(examples):
    from dataclasses import replace

    rng = np.random.default_rng(1)
    same = np.array(rng.normal(size=(len(examples.rows), 512)), np.float32)
    pairs = examples.labels.copy()
    pairs[:] = np.arange(len(pairs)) % 2 == 0
    # Each picture is in a group with one of the same label that looks the same, made by another generator.
    same[2::4], same[3::4] = same[0::4], same[1::4]
    groups = [f"{number // 4}-{number % 2}" for number in range(len(pairs))]
    rows = tuple(replace(one, group=group) for one, group in zip(examples.rows, groups, strict=True))
    twins = Examples(rows, replace(examples.features, embedding=same), pairs)
    margins = held_out_margins(twins, "clip", linear(1.0), leave_out="makers", folds=4)
    assert measure(pairs, margins, np.array(groups), resamples=20).auc.value < 0.6


def test_a_calibrated_margin_is_a_log_likelihood_ratio():
    rng = np.random.default_rng(0)
    labels = np.arange(8000) % 4 == 0  # priors do not matter
    margins = rng.normal(np.where(labels, 1.0, -1.0), 1.0)
    head = LinearHead(np.zeros(1), np.ones(1), np.array([5.0]), 3.0)
    weights = unit_weights(np.array(["generator a" if label else "source b" for label in labels]), labels)
    fitted = calibrated(head, 5.0 * margins + 3.0, labels, weights)
    # Two normal distributions at distance 2 with variance 1: the log likelihood ratio is 2 x.
    values = np.array([[-1.0], [0.0], [1.5]], np.float32)
    assert fitted.margins(values) == pytest.approx([-2.0, 0.0, 3.0], abs=0.25)


def test_one_odd_input_does_not_decide():
    head = LinearHead(np.zeros(2), np.ones(2), np.array([1.0, 1.0]), 0.0)
    assert head.margins(np.array([[1e6, -1.0]], np.float32))[0] == pytest.approx(LIMIT - 1.0)


def test_more_generators_help_where_each_has_a_trace_of_its_own(examples):
    points = learning_curve(examples, "clip", linear(1.0), generators=(1, 9), pictures=(20,), folds=4)
    assert [point.generators for point in points] == [1, 9]
    assert points[0].learned < points[1].learned
    assert points[1].auc > points[0].auc + 0.05


def test_the_exported_fragment_completes_the_encoders_graph():
    onnx = pytest.importorskip("onnx", reason="in the training environment only")
    onnxruntime = pytest.importorskip("onnxruntime")
    from training.clip import INPUT, OUTPUT, tapped
    from training.generated.examples import CLASS_TOKEN, TOKENS
    from training.generated.export import SCORE, head_fragment

    rng = np.random.default_rng(0)
    width = 512 + 768 * len(TOKENS)
    head = LinearHead(rng.normal(size=width), rng.uniform(0.5, 2, width), rng.normal(size=width) / 50, 0.3)
    # A stand-in encoder: its "input" is the residual stream itself.
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    streams = {block: rng.normal(size=(1, 197, 768)).astype(np.float32) for block, _ in TOKENS}
    embedding = rng.normal(size=(1, 512)).astype(np.float32)
    nodes, constants = [], [numpy_helper.from_array(embedding, "e")]
    nodes.append(helper.make_node("Add", ["e", INPUT], [OUTPUT]))
    for block, stream in streams.items():
        constants.append(numpy_helper.from_array(stream, f"s{block}"))
        nodes.append(helper.make_node("Identity", [f"s{block}"], [tapped(block)]))
    graph = helper.make_graph(
        nodes, "encoder", [helper.make_tensor_value_info(INPUT, 1, ["batch", 512])],
        [helper.make_tensor_value_info(OUTPUT, 1, ["batch", 512])], constants,
    )  # fmt: skip
    encoder = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8).SerializeToString()
    session = onnxruntime.InferenceSession(encoder + head_fragment(head, "blocks"))
    shift = rng.normal(size=(1, 512)).astype(np.float32)
    (score,) = session.run([SCORE], {INPUT: shift})
    taken = [
        streams[block][:, 0] if token == CLASS_TOKEN else streams[block][:, 1:].mean(axis=1) for block, token in TOKENS
    ]
    margin = head.margins(np.concatenate([embedding + shift, *taken], axis=1))
    assert score[0, 0] == pytest.approx(1 / (1 + np.exp(-margin[0])), abs=1e-4)
    with pytest.raises(ValueError, match="no 'residual'"):
        head_fragment(head, "residual")
    with pytest.raises(ValueError, match="inputs"):
        head_fragment(head, "clip")
