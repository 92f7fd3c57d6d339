# SPDX-License-Identifier: Apache-2.0
"""Numbers and words from the small XML files that medical imagers write beside their projections."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.errors import ScanDescriptionError
from ingest.fields import number_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class XmlValues:
    """The elements of an XML file by their local names, letters' case and name spaces passed over."""

    path: Path
    root: ElementTree.Element

    @classmethod
    def read(cls, path: Path) -> XmlValues:
        """Read a file; ScanDescriptionError if it is not XML or declares entities."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ScanDescriptionError(f"{path} cannot be read: {error.strerror}") from error
        if b"<!ENTITY" in content:
            raise ScanDescriptionError(f"{path} declares XML entities, which no scanner does: it is not read")
        try:
            return cls(path, ElementTree.fromstring(content))
        except ElementTree.ParseError as error:
            raise ScanDescriptionError(f"{path} is not an XML file: {error}") from error

    def each(self, name: str) -> Iterator[XmlValues]:
        """All elements of a name, in the file's order."""
        for element in self.root.iter():
            if _local(element) == name.lower():
                yield XmlValues(self.path, element)

    def text(self, *names: str) -> str:
        """The text of the first element with one of the names, or ""."""
        for name in names:
            found = next(self.each(name), None)
            if found is not None and found.root.text is not None:
                return found.root.text.strip()
        return ""

    def optional(self, *names: str) -> float | None:
        """The number of the first element with one of the names, or None where there is none.

        Raises
        ------
        ScanDescriptionError
            If it is not a finite number.
        """
        text = self.text(*names)
        return number_in(text, f"{self.path}: {names[0]}", most_shown=40) if text else None

    def number(self, *names: str) -> float:
        """A number that must be there; ScanDescriptionError if it is not."""
        value = self.optional(*names)
        if value is None:
            raise ScanDescriptionError(
                f"{self.path} lacks {names[0]}, an element with a number: add it, or give the [geometry] in a scan.toml"
            )
        return value


def _local(element: ElementTree.Element) -> str:
    """An element's name without its name space, lower case."""
    return str(element.tag).rpartition("}")[2].lower()
