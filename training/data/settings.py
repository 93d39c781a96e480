"""Where the data lies, from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["HERE", "DataSettings"]

HERE: Final = Path(__file__).resolve().parent
"""`training/data/`: sources, splits and manifest."""
_CHECKOUT: Final = HERE.parents[1]


class DataSettings(BaseSettings):
    """Folders of the training data."""

    model_config = SettingsConfigDict(env_prefix="PENTIMENTO_", frozen=True, extra="ignore")

    data: Path = Field(_CHECKOUT / ".data", description="Folder that the training data is assembled in.")
    data_mirror: Path | None = Field(
        None,
        description="Folder with copies of public repositories: git directories below `<owner>+<name>/`; what it lacks "
        "is cloned.",
    )
    shared_data: Path = Field(
        _CHECKOUT.parent / "shared" / "data", description="Folder of the collected research data, with its splits.csv."
    )
    reserved: Path | None = Field(
        None, description="Hashes of pictures that must not be trained on; default: reserved.txt of the collected data."
    )

    @property
    def reserved_hashes(self) -> Path:
        """The file of reserved hashes."""
        return self.reserved or self.shared_data / "reserved.txt"

    @property
    def pictures(self) -> Path:
        """Where assembled pictures lie."""
        return self.data / "pictures"

    @property
    def facts(self) -> Path:
        """What is known about files that were looked at: nothing is decoded twice."""
        return self.data / "cache" / "facts.jsonl"

    @property
    def clones(self) -> Path:
        """Where repositories are cloned to."""
        return self.data / "clones"
