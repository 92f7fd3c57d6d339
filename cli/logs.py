# SPDX-License-Identifier: Apache-2.0
"""Where the log of a program goes and how it looks; the section ``[log]`` of the settings.

Only our own packages log below warnings: what libraries say of their work at finer levels may hold what they work on.
"""

from __future__ import annotations

import logging
import sys
import warnings
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, TextIO

from pydantic import Field

from cli.errors import SettingError
from cli.settings import StoreSettings
from storage.log_format import JsonLines, TextLines

if TYPE_CHECKING:
    from collections.abc import Iterable

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

_HANDLER = "conepacs"
#: What they say of a fault quotes what they read, a data set or a command; who calls them tells of it.
_QUOTING = ("pydicom", "pynetdicom", "py4j")


@dataclass(frozen=True, slots=True)
class LogConfig:
    """The log of a program.

    Attributes
    ----------
    level : of our own packages; libraries tell warnings and errors only.
    format : ``text``, or ``json``: one object a line.
    file : where to; empty: standard error.
    file_bytes, files : a file of that size is set aside, and so many of them are kept besides it.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    level: LogLevel = "warning"
    format: LogFormat = "text"
    file: str = ""
    file_bytes: int = 20_000_000
    files: int = 5

    def __post_init__(self) -> None:
        if self.file_bytes < 1000 or self.files < 1:
            raise ValueError(
                f"file_bytes and files are {self.file_bytes} and {self.files}, expected 1000 and 1 at the least"
            )


class LogSettings(StoreSettings):
    """The settings that hold for every verb."""

    log: LogConfig = Field(default_factory=LogConfig)


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at that moment."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """Standard error."""
        return sys.stderr


def set_up_logging(config: LogConfig, own_packages: Iterable[str]) -> None:
    """Send the log of this process where `config` says; called again, it takes the place of what was set up before.

    Raises
    ------
    SettingError
        If the log's file cannot be written.
    """
    handler = _file_handler(config) if config.file else _StandardError()
    handler.name = _HANDLER
    handler.setFormatter(JsonLines() if config.format == "json" else TextLines())
    root = logging.getLogger()
    for old in [each for each in root.handlers if each.name == _HANDLER]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    level = logging.getLevelNamesMapping()[config.level.upper()]
    root.setLevel(max(level, logging.WARNING))
    for package in own_packages:
        logging.getLogger(package).setLevel(level)
    for library in _QUOTING:
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)
    warnings.showwarning = _tell_warning


def _tell_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    file: TextIO | None = None, line: str | None = None,
) -> None:  # fmt: skip
    """Log where a library warned of something, without its words: they may quote a value of a data set."""
    del message, file, line
    place = "/".join(Path(filename).parts[-2:])
    logging.getLogger("py.warnings").warning("%s at %s:%d", category.__name__, place, lineno)


def _file_handler(config: LogConfig) -> logging.Handler:
    """The log's file, set aside when it is full."""
    path = Path(config.file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return RotatingFileHandler(path, maxBytes=config.file_bytes, backupCount=config.files, encoding="utf-8")
    except OSError as error:
        raise SettingError(f"the log {path} cannot be written: {error.strerror}") from error
