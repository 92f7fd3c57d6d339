# SPDX-License-Identifier: Apache-2.0
"""Settings of the programs: defaults beside their users, then conepacs.toml, then the environment."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from cli.errors import SettingError
from spark_jobs.errors import SparkJobError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEFAULT_STORE = "conepacs-store"
CONFIG_VARIABLE = "CONEPACS_CONFIG"
CONFIG_NAME = "conepacs.toml"
_ENV_PREFIX = "CONEPACS_"
_ENV_DELIMITER = "__"

#: Every section and value that conepacs.toml may have; each program reads its own.
SECTIONS = ("store", "index", "spark", "journal", "scp", "http", "log", "runner")


def config_file() -> Path | None:
    """Return the configuration file in use, if any.

    Raises
    ------
    SettingError
        If the environment names one that is not there.
    """
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        path = Path(named)
        if not path.is_file():
            raise SettingError(f"{CONFIG_VARIABLE} names {path}, which is no file")
        return path
    path = Path(CONFIG_NAME)
    return path if path.is_file() else None


def read_config() -> dict[str, Any]:
    """Read the configuration file in use; nothing if there is none.

    Raises
    ------
    SettingError
        If it cannot be read, is no TOML, or has a section or value that no program knows.
    """
    path = config_file()
    if path is None:
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} is no TOML: {error}") from error
    except OSError as error:
        raise SettingError(f"{path} cannot be read: {error.strerror}") from error
    for name in values:
        if name not in SECTIONS:
            raise SettingError(f"{path} has an unknown setting '{name}': expected one of {', '.join(SECTIONS)}")
    return values


class StoreSettings(BaseSettings):
    """What every program needs: the store.  Programs add their sections; sections of others are ignored."""

    model_config = SettingsConfigDict(
        env_prefix=_ENV_PREFIX, env_nested_delimiter=_ENV_DELIMITER, extra="ignore", frozen=True
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
        return (init_settings, env_settings, InitSettingsSource(settings_cls, read_config()))


Settings = TypeVar("Settings", bound=StoreSettings)


def load(kind: Callable[..., Settings], **given: Any) -> Settings:
    """Compose settings; options that were given on the command line win.

    Raises
    ------
    SettingError
        One sentence for the first thing that is wrong: the setting, and the file or variable that it stands in.
    """
    try:
        return kind(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        where = [str(part) for part in first["loc"]]
        raise SettingError(f"{_origin(where)}: setting '{'.'.join(where)}' {_reason(first)}") from error
    except SparkJobError as error:
        raise SettingError(f"{_origin(['spark'])}: {error}") from error


def _reason(fault: Any) -> str:
    """What is wrong with a value, in words that follow its name."""
    if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return "is unknown"
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"is wrong: {message[:1].lower()}{message[1:]}"


def _origin(where: Sequence[str]) -> str:
    """Where a setting comes from: a variable of the environment, which wins, or the configuration file."""
    name = (_ENV_PREFIX + _ENV_DELIMITER.join(where)).upper()
    for variable in os.environ:
        if variable.upper() == name or variable.upper().startswith(name + _ENV_DELIMITER):
            return f"environment variable {variable}"
    return str(config_file() or "command line")
