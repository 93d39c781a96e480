"""The documentation of all APIs: OpenAPI made out of the contracts, and Swagger UI to read and try it.

Everything that the page loads comes from here: it works without any other network, and a visit tells nobody of it.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import grpc
from google.api import httpbody_pb2
from pentimento.orchestrator.v1 import documented_services_pb2 as pb
from pentimento.orchestrator.v1 import documented_services_pb2_grpc as pb_grpc

from services.common.errors import NotFound
from services.orchestrator.rest.http import Context, FileReply, respond

__all__ = ["DocumentationServicer"]

PAGE: Final = b"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Pentimento: API</title>
<link rel="icon" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<noscript>This page needs JavaScript; <a href="/openapi.json">openapi.json</a> says the same.</noscript>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/initialize.js"></script>
</body>
</html>
"""
INITIALIZE: Final = b"""SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  // Not asked of anybody else.
  validatorUrl: null,
});
"""
MEDIA_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".png": "image/png"}
VENDORED: Final = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {"content-security-policy": CONTENT_SECURITY_POLICY, "x-content-type-options": "nosniff"}
CACHED: Final = {**HEADERS, "cache-control": "public, max-age=3600"}


class DocumentationServicer(pb_grpc.DocumentationServiceServicer):
    """Answers with the page, what it needs, and openapi.json; all of it is read once, at start."""

    def __init__(self) -> None:
        vendor = _swagger_ui()
        self._assets = {name: (vendor / name).read_bytes() for name in VENDORED}
        self._assets["initialize.js"] = INITIALIZE
        self._openapi = (importlib.resources.files("pentimento") / "openapi.json").read_bytes()

    def register(self, server: grpc.aio.Server) -> Sequence[str]:
        """Adds this servicer to a server; returns the names of the services that it answers for."""
        pb_grpc.add_DocumentationServiceServicer_to_server(self, server)
        return [pb.DESCRIPTOR.services_by_name["DocumentationService"].full_name]

    async def GetPage(self, request: pb.DocumentationServiceGetPageRequest, context: Context) -> httpbody_pb2.HttpBody:
        async def call() -> FileReply:
            return FileReply(PAGE, "text/html; charset=utf-8", HEADERS)

        return await respond(context, call)

    async def GetAsset(
        self, request: pb.DocumentationServiceGetAssetRequest, context: Context
    ) -> httpbody_pb2.HttpBody:
        async def call() -> FileReply:
            content = self._assets.get(request.asset)
            if content is None:
                raise NotFound("There is no such file.")
            return FileReply(content, MEDIA_TYPES[Path(request.asset).suffix], CACHED)

        return await respond(context, call)

    async def GetOpenApi(
        self, request: pb.DocumentationServiceGetOpenApiRequest, context: Context
    ) -> httpbody_pb2.HttpBody:
        async def call() -> FileReply:
            return FileReply(self._openapi, "application/json", HEADERS)

        return await respond(context, call)


def _swagger_ui() -> Path:
    """Swagger UI's files, in the package that carries them; it is not imported, for it asks for a framework."""
    found = importlib.util.find_spec("drf_spectacular_sidecar")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "static" / "drf_spectacular_sidecar" / "swagger-ui-dist"
