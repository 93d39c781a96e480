"""What the front door needs from the rest of the mesh, as the REST layer sees it.

The engine and the clients in `analyzers.py` implement these; tests put fakes in their place. Every call takes its
deadline from the call being served (`services.common.context`) and raises nothing but `PentimentoError`s: what an
analyser answers as a `google.rpc.Status` arrives as the exception of the same code and reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pentimento.common.v1 import face_pb2
from pentimento.deeplearning.v1 import deeplearning_service_pb2
from pentimento.faces.v1 import faces_service_pb2
from pentimento.orchestrator.v1 import analysis_pb2
from pentimento.passive.v1 import passive_service_pb2

from services.orchestrator.intake import Upload

__all__ = ["AnalysisEngine", "DeepLearningClient", "FacesClient", "PassiveClient"]


class AnalysisEngine(Protocol):
    """Asks every analyser about one picture and decides."""

    async def analyze(
        self, upload: Upload, options: analysis_pb2.AnalysisOptions, *, formats: frozenset[str]
    ) -> analysis_pb2.Analysis:
        """Checks and analyses a picture.

        Args:
            upload: the picture.
            options: how to analyse it.
            formats: the formats that the caller's API takes, for example {"JPEG", "PNG", "WEBP"}.

        Raises:
            PentimentoError: `InvalidInput` if it is no picture of `formats` (see `Intake.check`), `Unavailable` if no
                analyser could be asked, `Overloaded` if there is no capacity.
        """
        ...


class PassiveClient(Protocol):
    """The passive service."""

    async def analyze(
        self, content: bytes, *, detectors: Sequence[str] = (), include_maps: bool = False
    ) -> passive_service_pb2.AnalyzeResponse:
        """PassiveService.Analyze."""
        ...


class DeepLearningClient(Protocol):
    """The deeplearning service."""

    async def segment(self, content: bytes) -> deeplearning_service_pb2.SegmentResponse:
        """DeepLearningService.Segment; raises `ModelUnavailable` naming the model where it cannot be asked."""
        ...

    async def classify(self, content: bytes) -> deeplearning_service_pb2.ClassifyResponse:
        """DeepLearningService.Classify; raises `ModelUnavailable` naming the model where it cannot be asked."""
        ...


class FacesClient(Protocol):
    """The faces service."""

    async def detect_faces(
        self, content: bytes, detector: face_pb2.FaceDetector.ValueType
    ) -> faces_service_pb2.DetectFacesResponse:
        """FacesService.DetectFaces."""
        ...

    async def analyze(
        self,
        content: bytes,
        *,
        detectors: Sequence[str] = (),
        attributes: Sequence[face_pb2.FaceAttribute.ValueType] = (),
        include_maps: bool = False,
    ) -> faces_service_pb2.AnalyzeResponse:
        """FacesService.Analyze; what cannot be asked is in the report's `missing`."""
        ...

    async def classify_kind(self, content: bytes) -> faces_service_pb2.ClassifyKindResponse:
        """FacesService.ClassifyKind."""
        ...

    async def detect_deepfake(
        self, content: bytes, *, augmented: bool, whole_image_fallback: bool
    ) -> faces_service_pb2.DetectDeepfakeResponse:
        """FacesService.DetectDeepfake."""
        ...

    async def list_models(self) -> faces_service_pb2.ListModelsResponse:
        """FacesService.ListModels."""
        ...
