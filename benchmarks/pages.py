# SPDX-License-Identifier: Apache-2.0
"""Write what a benchmark found into a page of the manual, between its markers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write_blocks(page: Path, blocks: dict[str, str]) -> None:
    """Put each block between ``<!-- begin NAME -->`` and ``<!-- end NAME -->`` of the page, and keep the rest."""
    text = page.read_text(encoding="utf-8")
    for name, block in blocks.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        head, found, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if not (found and closed):
            raise SystemExit(f"{page} has no markers 'begin {name}' and 'end {name}' to write between")
        text = f"{head}{begin}{block}\n{end}{tail}"
    page.write_text(text, encoding="utf-8")
