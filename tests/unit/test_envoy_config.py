"""The edge's configuration: what it is rendered from agrees with itself, and Envoy takes it."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

ROOT = Path(__file__).resolve().parents[2]


def load_render() -> ModuleType:
    # envoy/ is no package: its name is that of the package that carries the Envoy binary.
    spec = importlib.util.spec_from_file_location("edge_render", ROOT / "envoy" / "render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


edge = load_render()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {f"rate_limit_{name}": 0 for name in ("image", "batch", "report", "analysis", "other")},
        {"bind": "0.0.0.0", "cors_origins": "https://a.example, https://b.example", "trusted_hops": 2},
        {"orchestrator_address": "orchestrator.pentimento.svc.cluster.local:50051"},
    ],
)
def test_envoy_takes_it(tmp_path: Path, changes: dict[str, object]) -> None:
    config = tmp_path / "envoy.yaml"
    config.write_text(edge.render(edge.EdgeSettings(**changes)))
    binary = Path(sys.executable).parent / "envoy"
    result = subprocess.run(
        [str(binary), "--mode", "validate", "--log-level", "warning", "-c", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Deprecated" not in result.stderr


def test_every_placeholder_and_limit_is_explained() -> None:
    template = (ROOT / "envoy" / "edge.yaml").read_text()
    for name in set(re.findall(r"\$\{([A-Z_]+)\}", template)) - {"PLACEHOLDERS"}:
        assert name in (edge.__doc__ or ""), name
    assert set(re.findall(r"limit: ([a-z]+)", template)) == set(edge.EdgeSettings().rate_limits)


def test_every_setting_is_described() -> None:
    for name, field in edge.EdgeSettings.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize(
    ("name", "value"),
    [("cors_origins", "example.org"), ("port", 0), ("orchestrator_address", "nowhere"), ("rate_limit_image", -1)],
)
def test_wrong_settings_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        edge.EdgeSettings(**{name: value})


def test_settings_cannot_inject_configuration() -> None:
    hostile = edge.EdgeSettings(bind='x"\nadmin: {}')
    assert json.dumps(hostile.bind) in edge.render(hostile)


@pytest.mark.parametrize(
    ("template", "pattern"),
    [
        ("/health", "^/health$"),
        ("/batch/{batch_id}/progress", "^/batch/[^/:]+/progress$"),
        ("/v1/{name=analyses/*}", "^/v1/analyses/[^/:]+$"),
        ("/v1/{name=batches/*}:cancel", "^/v1/batches/[^/:]+%:cancel$"),
        ("/v1/images:analyze", "^/v1/images%:analyze$"),
    ],
)
def test_path_templates_as_lua_patterns(template: str, pattern: str) -> None:
    assert edge._lua_pattern(template) == pattern


def test_response_bodies_can_be_unwrapped() -> None:
    """answers.lua cuts off what surrounds the field: there must be nothing else."""
    files = FileDescriptorSet.FromString((ROOT / "build" / "descriptor.binpb").read_bytes())
    services = dict(edge._public_services(files)).values()
    messages = {f".{file.package}.{message.name}": message for file in files.file for message in file.message_type}
    seen = 0
    for service in services:
        for method in service.method:
            rule = method.options.Extensions[edge.annotations_pb2.http]
            if rule.response_body:
                seen += 1
                assert [field.name for field in messages[method.output_type].field] == [rule.response_body]
                assert not method.server_streaming
    assert seen


def test_services_are_told_apart_by_what_they_answer() -> None:
    files = FileDescriptorSet.FromString((ROOT / "build" / "descriptor.binpb").read_bytes())
    kinds = {name.rpartition(".")[2]: edge._is_documented(service) for name, service in edge._public_services(files)}
    assert {name for name, documented in kinds.items() if documented} == {
        "ImageInterfaceService",
        "ManipulationService",
        "ScreeningService",
        "ProfileService",
        "DeepfakeService",
        "DocumentationService",
    }
    assert {"AnalysisService", "BatchService", "FaceService", "GalleryService", "SystemService"} <= kinds.keys()
