"""Settings of the passive service."""

from __future__ import annotations

import datetime as dt
from functools import cached_property
from pathlib import Path

from pydantic import Field, model_validator

from services.common.settings import ServiceSettings
from services.passive.detectors.provenance import TrustList

__all__ = ["PassiveSettings"]

CERTIFICATE = "-----BEGIN CERTIFICATE-----"


class PassiveSettings(ServiceSettings):
    """What the passive service needs beside the common settings."""

    c2pa_trust_list: Path | None = Field(
        None,
        description="PEM file with the certificates whose C2PA signatures are trusted, in place of the list that comes "
        "with this version.",
    )
    c2pa_time_trust_list: Path | None = Field(
        None, description="PEM file with the certificates of the time-stamping authorities that go with it."
    )
    c2pa_trust_list_date: dt.date | None = Field(
        None, description="Date of that list (YYYY-MM-DD), shown beside every verdict; needed with a list."
    )

    @model_validator(mode="after")
    def _list_can_be_read(self) -> PassiveSettings:
        if self.c2pa_trust_list is None:
            if self.c2pa_time_trust_list or self.c2pa_trust_list_date:
                raise ValueError("PENTIMENTO_C2PA_TRUST_LIST is not set, but its date or its time-stamping list is")
        elif self.c2pa_trust_list_date is None:
            raise ValueError("PENTIMENTO_C2PA_TRUST_LIST_DATE must say of which day the trust list is")
        self.trust_list  # noqa: B018 - raises ValueError
        return self

    @cached_property
    def trust_list(self) -> TrustList | None:
        """The deployment's own trust list; None for the one that comes with this version."""
        if self.c2pa_trust_list is None:
            return None
        return TrustList(
            name=self.c2pa_trust_list.name,
            date=str(self.c2pa_trust_list_date),
            anchors=_certificates(self.c2pa_trust_list),
            time_anchors=_certificates(self.c2pa_time_trust_list) if self.c2pa_time_trust_list else "",
        )


def _certificates(path: Path) -> str:
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if CERTIFICATE not in text:
        raise ValueError(f"{path} holds no certificate in PEM form")
    return text
