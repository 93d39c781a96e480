"""Where models lie in Pentimento's data folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SOURCE_FOLDER", "ModelsFolder", "data_folder"]

SOURCE_FOLDER = Path(__file__).resolve().parent
"""`triton_models/` of this checkout: configurations, model cards and committed weights."""


def data_folder() -> Path:
    """The data folder: PENTIMENTO_HOME, or `.pentimento` beside the source."""
    named = os.environ.get("PENTIMENTO_HOME")
    return Path(named).expanduser().resolve() if named else SOURCE_FOLDER.parent / ".pentimento"


@dataclass(frozen=True, slots=True)
class ModelsFolder:
    """The parts of `<data folder>/models`.

    Attributes:
        root: the folder itself.
    """

    root: Path

    @property
    def repository(self) -> Path:
        """Triton's model repository: `<model>/config.pbtxt` and `<model>/<version>/model.onnx`."""
        return self.root / "repository"

    @property
    def assets(self) -> Path:
        """Networks that other runtimes read, such as MediaPipe's."""
        return self.root / "assets"

    @property
    def own(self) -> Path:
        """Models of the deployment's own, in the repository's layout; they take the place of ours of the same name."""
        return self.root / "own"

    @property
    def staging(self) -> Path:
        """Where files are made before they are put in place; on the same file system, so that this is atomic."""
        return self.root / ".staging"

    @property
    def lock(self) -> Path:
        """Held by the one process that changes the folder."""
        return self.root / ".lock"

    @property
    def status(self) -> Path:
        """What is there, what is missing and why, as JSON."""
        return self.root / "status.json"
