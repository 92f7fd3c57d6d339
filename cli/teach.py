# SPDX-License-Identifier: Apache-2.0
"""Help texts of the verbs, made from their docstrings."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from rich.markup import escape

if TYPE_CHECKING:
    from collections.abc import Callable

_EXAMPLE = "conepacs "
#: An indentation that survives typer, which takes leading spaces away: markup of no style around it.
_INDENT = "[none]  [/none]"


def help_of(function: Callable[..., None]) -> str:
    """Return the help text of a verb as Rich markup.

    Paragraphs of the docstring are joined to one line each, for the terminal's width to break them; a paragraph of
    command lines becomes a list of examples, each on a line of its own.
    """
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    return "\n\n".join(_examples(text) if text.lstrip().startswith(_EXAMPLE) else _joined(text) for text in paragraphs)


def _joined(paragraph: str) -> str:
    """One line, in which brackets are brackets."""
    return escape(" ".join(paragraph.split()))


def _examples(paragraph: str) -> str:
    """Command lines under a heading."""
    lines = [line.strip() for line in paragraph.splitlines()]
    return "\n".join(["[bold]Examples[/bold]", *(_INDENT + escape(line) for line in lines)])
