"""Generates what the contracts are needed for: Python stubs with types, and the descriptor that Envoy transcodes by.

    python protos/generate.py

writes (all of it ignored by git; nothing is done if the contracts and generators are unchanged):

    build/googleapis/       google/api/*.proto, copied out of googleapis-common-protos, for buf and protoc
    build/stubs/            pentimento.*.v1 and buf.validate, with .pyi files
    build/descriptor.binpb  FileDescriptorSet of everything, with imports
    build/stubs/pentimento/openapi.json   the description of the public APIs, beside the stubs so that it is shipped
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.resources
import json
import shutil
import sys
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
BUILD = ROOT / "build"
STUBS = BUILD / "stubs"
GOOGLEAPIS = BUILD / "googleapis"
DESCRIPTOR = BUILD / "descriptor.binpb"
STAMP = BUILD / "protos.sha256"

GOOGLE_API = ("annotations.proto", "http.proto", "httpbody.proto")
# Messages that travel inside google.rpc.Status.details: Envoy prints them as JSON only if its descriptor has them.
GOOGLE_RPC = ("error_details.proto", "status.proto")
GENERATORS = ("grpcio-tools", "mypy-protobuf", "googleapis-common-protos")


def _digest(sources: list[Path]) -> str:
    """SHA-256 over the contracts and the versions of what reads them."""
    digest = hashlib.sha256()
    for package in GENERATORS:
        digest.update(f"{package}=={importlib.metadata.version(package)}\n".encode())
    for path in [Path(__file__), Path(__file__).with_name("openapi.py"), *sources]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _copy_googleapis() -> None:
    google = importlib.resources.files("google")
    for folder, names in (("api", GOOGLE_API), ("rpc", GOOGLE_RPC)):
        target = GOOGLEAPIS / "google" / folder
        target.mkdir(parents=True, exist_ok=True)
        for name in names:
            (target / name).write_bytes((google / folder / name).read_bytes())


def _run_protoc(arguments: list[str]) -> None:
    well_known = str(importlib.resources.files("grpc_tools") / "_proto")
    include = [f"-I{PROTOS / 'third_party'}", f"-I{PROTOS}", f"-I{GOOGLEAPIS}", f"-I{well_known}"]
    bin_folder = Path(sys.executable).parent
    plugins = [f"--plugin={name}={bin_folder / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    if protoc.main(["protoc", *include, *plugins, *arguments]) != 0:
        sys.exit("protoc failed: see above")


def main() -> None:
    """Generates everything, unless nothing changed."""
    contracts = sorted((PROTOS / "pentimento").rglob("*.proto"))
    third_party = sorted((PROTOS / "third_party").rglob("*.proto"))
    digest = _digest([*contracts, *third_party])
    if STAMP.exists() and STAMP.read_text() == digest and DESCRIPTOR.exists():
        return

    shutil.rmtree(STUBS, ignore_errors=True)
    STUBS.mkdir(parents=True)
    _copy_googleapis()

    ours = [str(path) for path in contracts]
    _run_protoc(
        [
            f"--python_out={STUBS}",
            f"--mypy_out=quiet:{STUBS}",
            f"--grpc_python_out={STUBS}",
            f"--mypy_grpc_out=quiet:{STUBS}",
            *ours,
        ]
    )
    _run_protoc([f"--python_out={STUBS}", f"--mypy_out=quiet:{STUBS}", *(str(path) for path in third_party)])
    details = [str(GOOGLEAPIS / "google" / "rpc" / name) for name in GOOGLE_RPC]
    _run_protoc(["--include_imports", f"--descriptor_set_out={DESCRIPTOR}", *ours, *details])
    for package in {parent for path in STUBS.rglob("*_pb2.py") for parent in path.parents if STUBS in parent.parents}:
        (package / "__init__.py").touch()
    _write_openapi([*ours, *details])
    STAMP.write_text(digest)


def _write_openapi(contracts: list[str]) -> None:
    """OpenAPI, from a descriptor with comments (Envoy's has none: they would triple its configuration)."""
    commented = BUILD / "commented.binpb"
    _run_protoc(["--include_imports", "--include_source_info", f"--descriptor_set_out={commented}", *contracts])
    sys.path.insert(0, str(STUBS))
    # Both need what was just generated.
    openapi = importlib.import_module("openapi").openapi
    files = descriptor_pb2.FileDescriptorSet.FromString(commented.read_bytes())
    document = openapi(files, version=importlib.metadata.version("pentimento"))
    (STUBS / "pentimento" / "openapi.json").write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")
    commented.unlink()


if __name__ == "__main__":
    main()
