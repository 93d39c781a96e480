"""What an export puts beside the weights: configurations that Triton can read, and cards."""

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

import training.localisation
from services.common.triton import ModelDescription, Tensor
from services.deeplearning.clip import SIDE
from services.deeplearning.localisation import WORKING_SIDE
from services.deeplearning.models import MANIPULATION_CLASS
from services.deeplearning.networks import VIEW, ModelFacts

SERVING = Path(training.localisation.__file__).parent / "serving"
OUTPUTS = {"deeplabv3plus": ["mask", "reliability", "classes"], "resnet50": ["classes"]}


@pytest.fixture(params=sorted(OUTPUTS))
def model(request):
    return request.param


@pytest.fixture
def config(model):
    return text_format.Parse((SERVING / f"{model}.pbtxt").read_text(), model_config_pb2.ModelConfig())


def test_it_answers_what_it_is_exported_with(model, config):
    assert config.name == model
    assert [output.name for output in config.output] == OUTPUTS[model]
    assert {output.name: list(output.dims) for output in config.output}["classes"] == [5]


def test_pictures_of_any_size_go_in_with_clips_view_of_them(config):
    dims = {each.name: list(each.dims) for each in config.input}
    assert dims == {"images": [3, -1, -1], VIEW: [3, SIDE, SIDE]}
    (warmup,) = config.model_warmup
    assert set(warmup.inputs) == set(dims)
    assert all(side % 16 == 0 for side in list(warmup.inputs["images"].dims)[1:])


def test_pictures_are_not_put_into_one_batch(config):
    # CLIP's encoder scales its activations over the whole batch: a neighbour would change a picture's answer.
    assert config.max_batch_size == 1


def test_one_version_is_served_by_our_backend(config):
    assert config.version_policy.latest.num_versions == 1
    assert config.backend == "onnxruntime"


def test_it_says_what_the_service_has_to_know(model, config):
    told = {name: value.string_value for name, value in config.parameters.items()}
    outputs = tuple(Tensor(each.name, "FP32", (-1, *each.dims)) for each in config.output)
    facts = ModelFacts.of(ModelDescription(model, "1", (), outputs, told), classes=())
    assert facts.classes == MANIPULATION_CLASS.classes
    # One run of deeplabv3plus answers for resnet50 too.
    assert facts.network == "pentimento_localiser"
    assert (facts.threshold, facts.longest_side, facts.square_side) == (0.5, WORKING_SIDE, None)


def test_every_model_has_a_card_that_asks_for_its_figures(model):
    text = (SERVING / f"{model}.md").read_text()
    assert "{{served}}" in text
    scores = {"deeplabv3plus": "{{scores}}", "resnet50": "{{class_scores}}"}
    assert scores[model] in text
    assert "Must not be used for" in text
