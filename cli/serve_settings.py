# SPDX-License-Identifier: Apache-2.0
"""Settings of ``conepacs serve``."""

from __future__ import annotations

from pydantic import Field

from cli.pacs_settings import PacsSettings
from viewer_api.settings import HttpSettings


class ServeSettings(PacsSettings):
    """The archive and its HTTP service."""

    http: HttpSettings = Field(default_factory=HttpSettings)
