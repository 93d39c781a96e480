"""Each config.pbtxt is one that Triton can read, and follows the rules that all of our models share."""

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from triton_models._lock import read_lock
from triton_models.fetch import served_config
from triton_models.layout import SOURCE_FOLDER

CONFIGURATIONS = sorted(SOURCE_FOLDER.glob("*/config.pbtxt"))
LOCKED = {entry.name: entry for entry in read_lock().entries if entry.kind == "model"}


@pytest.fixture(params=CONFIGURATIONS, ids=lambda path: path.parent.name)
def path(request):
    return request.param


@pytest.fixture
def config(path):
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def test_there_are_models():
    assert {path.parent.name for path in CONFIGURATIONS} >= {"age", "gender"}


def test_it_names_itself_and_the_one_backend(path, config):
    assert config.name == path.parent.name
    assert config.backend == "onnxruntime"
    assert config.default_model_filename == "model.onnx"
    assert config.version_policy.latest.num_versions == 1


def test_it_is_complete(config):
    # Triton runs with auto-completion off.
    assert config.input
    assert config.output
    for tensor in (*config.input, *config.output):
        assert tensor.name
        assert tensor.dims
        assert tensor.data_type != model_config_pb2.TYPE_INVALID


def test_it_serves_a_gpu_and_a_laptop_alike(config):
    (group,) = config.instance_group
    assert group.count == 1
    assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_AUTO


def test_nothing_holds_requests_back(config):
    assert config.max_batch_size >= 1
    # With any limit on its queue Triton lets requests that overlap wait for half a second, ever more often
    # (triton-inference-server/server#8870): services.common.triton refuses what is too much instead.
    assert not config.dynamic_batching.HasField("default_queue_policy")
    assert config.dynamic_batching.max_queue_delay_microseconds <= 5000


def test_no_response_cache(config):
    # It takes equal 64-bit hashes for equal requests: not good enough for evidence.
    assert not config.response_cache.enable


def test_it_is_warmed_up_with_inputs_of_its_own_shape(config):
    assert config.model_warmup
    declared = {tensor.name: (tensor.data_type, len(tensor.dims)) for tensor in config.input}
    for warmup in config.model_warmup:
        assert {name: (tensor.data_type, len(tensor.dims)) for name, tensor in warmup.inputs.items()} == declared


def test_thread_counts_are_numbers(config):
    for name in ("intra_op_thread_count", "inter_op_thread_count"):
        if name in config.parameters:
            assert int(config.parameters[name].string_value) >= 1


def test_the_served_one_says_which_weights_these_are(path, config):
    entry = LOCKED[path.parent.name]
    served = text_format.Parse(served_config(path.read_text(), entry), model_config_pb2.ModelConfig())
    assert served.parameters["sha256.1"].string_value == entry.files[0].sha256
    del served.parameters["sha256.1"]
    assert served == config
