# SPDX-License-Identifier: Apache-2.0
"""Settings of the ``conepacs pacs`` verbs."""

from __future__ import annotations

from pydantic import Field

from cli.settings import StoreSettings
from pacs.journal import JournalConfig
from pacs.scp import ScpConfig


class PacsSettings(StoreSettings):
    """The archive: where received objects go, and how the DICOM server runs."""

    journal: JournalConfig = Field(default_factory=JournalConfig)
    scp: ScpConfig = Field(default_factory=ScpConfig)
