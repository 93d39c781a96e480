"""The documentation: what openapi.json says, and the page that shows it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.api import annotations_pb2, httpbody_pb2
from pentimento.orchestrator.v1 import (
    analysis_service_pb2,
    batch_service_pb2,
    documented_services_pb2,
    face_service_pb2,
    gallery_service_pb2,
    system_service_pb2,
)
from pentimento.orchestrator.v1 import documented_services_pb2 as pb
from pentimento.orchestrator.v1.documented_services_pb2_grpc import DocumentationServiceStub

from services.common.interceptor import CallInterceptor
from services.orchestrator.rest.documentation import INITIALIZE, PAGE, DocumentationServicer

pytestmark = pytest.mark.asyncio

FILES = (
    analysis_service_pb2,
    batch_service_pb2,
    documented_services_pb2,
    face_service_pb2,
    gallery_service_pb2,
    system_service_pb2,
)


@pytest_asyncio.fixture
async def stub() -> AsyncIterator[Any]:
    server = grpc.aio.server(interceptors=[CallInterceptor()])
    DocumentationServicer().register(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield DocumentationServiceStub(channel)
    await server.stop(None)


@pytest_asyncio.fixture
async def document(stub) -> dict[str, Any]:
    answer: httpbody_pb2.HttpBody = await stub.GetOpenApi(pb.DocumentationServiceGetOpenApiRequest())
    assert answer.content_type == "application/json"
    return json.loads(answer.data)


def bindings() -> set[tuple[str, str]]:
    found = set()
    for file in FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                rule = method.GetOptions().Extensions[annotations_pb2.http]
                for each in (rule, *rule.additional_bindings):
                    verb = each.WhichOneof("pattern")
                    # {name=analyses/*} is analyses/{…}
                    path = re.sub(r"\{[a-z_]+=([a-z]+)/\*\}", r"\1/{}", getattr(each, verb))
                    found.add((verb, re.sub(r"\{[^}]*\}", "{}", path)))
    return found


async def test_every_binding_of_the_contracts_is_described(document):
    described = {
        (verb, re.sub(r"\{[^}]*\}", "{}", path))
        for path, operations in document["paths"].items()
        for verb in operations
    }
    assert described == bindings()


async def test_every_reference_leads_somewhere_and_every_path_parameter_is_declared(document):
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references == set(document["components"]["schemas"])
    for path, operations in document["paths"].items():
        for operation in operations.values():
            declared = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"}
            assert declared == set(re.findall(r"\{([^}]*)\}", path)), path


async def test_names_and_rules_come_from_the_contracts(document):
    schemas = document["components"]["schemas"]
    options = schemas["orchestrator.v1.AnalysisOptions"]["properties"]
    assert options["prior_edited"]["exclusiveMinimum"] is True
    assert options["detectors"]["maxItems"] == 64
    assert options["detectors"]["items"]["pattern"]
    assert options["weights"]["additionalProperties"]["type"] == "number"
    assert "POLICY_PRESET_BALANCED" in schemas["orchestrator.v1.PolicyPreset"]["enum"]
    assert "2 of 100 honest pictures" in schemas["orchestrator.v1.PolicyPreset"]["description"]
    listed = document["paths"]["/v1/analyses"]["get"]
    assert {"page_size", "page_token", "decision", "create_time_from"} <= {
        each["name"] for each in listed["parameters"]
    }
    analyzed = document["paths"]["/v1/images:analyze"]["post"]
    answer = analyzed["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/orchestrator.v1.Analysis"}
    streamed = document["paths"]["/v1/images:streamAnalyze"]["post"]["responses"]["200"]["content"]
    assert list(streamed) == ["text/event-stream"]


async def test_all_operations_are_described_in_words(document):
    silent = [
        f"{verb} {path}"
        for path, operations in document["paths"].items()
        for verb, operation in operations.items()
        if not operation["summary"]
    ]
    assert not silent


async def test_the_page_loads_nothing_from_elsewhere(stub):
    assert not re.findall(rb"""(?:src|href)=["'](?!/)""", PAGE)
    assert b"http" not in PAGE + INITIALIZE
    for asset in re.findall(rb"/docs/([^\"']+)", PAGE):
        answer = await stub.GetAsset(pb.DocumentationServiceGetAssetRequest(asset=asset.decode()))
        assert answer.data
        assert answer.content_type in {"text/css", "text/javascript", "image/png"}


async def test_the_page_may_run_no_script_but_its_own(stub):
    call = stub.GetPage(pb.DocumentationServiceGetPageRequest())
    assert (await call).data == PAGE
    policy = dict(await call.initial_metadata())["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "default-src 'none'" in policy


@pytest.mark.parametrize("asset", ["", "..", "index.html", "../../settings.py"])
async def test_there_are_no_other_files(stub, asset):
    call = stub.GetAsset(pb.DocumentationServiceGetAssetRequest(asset=asset))
    await call
    assert dict(await call.initial_metadata())["x-http-status"] == "404"
