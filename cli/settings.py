# SPDX-License-Identifier: Apache-2.0
"""Settings of the programs: defaults beside their users, then conepacs.toml, then the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_STORE = "conepacs-store"
CONFIG_VARIABLE = "CONEPACS_CONFIG"
CONFIG_NAME = "conepacs.toml"


def config_file() -> Path | None:
    """Return the configuration file in use, if any."""
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        path = Path(named)
        if not path.is_file():
            raise typer.BadParameter(f"{CONFIG_VARIABLE} names {path}, which is no file")
        return path
    path = Path(CONFIG_NAME)
    return path if path.is_file() else None


class StoreSettings(BaseSettings):
    """What every program needs: the store.  Programs add their sections; sections of others are ignored."""

    model_config = SettingsConfigDict(
        env_prefix="CONEPACS_", env_nested_delimiter="__", extra="ignore", frozen=True, arbitrary_types_allowed=False
    )

    store: str = DEFAULT_STORE
    #: SQLAlchemy URL or file of the index; empty: index.sqlite in a store that is a local folder.
    index: str = ""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the TOML file below the environment."""
        del dotenv_settings, file_secret_settings
        found = config_file()
        toml = (TomlConfigSettingsSource(settings_cls, found),) if found is not None else ()
        return (init_settings, env_settings, *toml)


Settings = TypeVar("Settings", bound=StoreSettings)


def load(kind: Callable[..., Settings], **given: Any) -> Settings:
    """Compose settings; options that were given on the command line win.

    Raises
    ------
    typer.BadParameter
        One sentence for the first thing that is wrong.
    """
    try:
        return kind(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        source = config_file() or "the environment"
        raise typer.BadParameter(f"setting '{where}' of {source}: {first['msg']}") from error
