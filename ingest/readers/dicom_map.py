# SPDX-License-Identifier: Apache-2.0
"""Tag maps: which element of a DICOM file holds an angle, a distance, a pitch.  TOML files under ``conf/dicom``.

A map has ``[map]`` (name, which files it is for, the model of the geometry, the layout of the pixels) and ``[tags]``,
a line for each quantity: a tag (``"0018,1111"``, or a path through sequences, ``"5200,9230/0018,9476/0018,9463"``,
whose items are those of the frame), a fixed ``value``, a ``scale`` and an ``index`` into an element of several
values.  ``docs/dicom-projections.md`` lists the models and what each needs.
"""

from __future__ import annotations

import math
import re
import struct
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from ingest.errors import FrameFormatError, ScanDescriptionError
from ingest.fields import describe, make_section, refuse_unknown_keys, require_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydicom.dataset import Dataset

Model = Literal["circular", "poses", "ct-pd"]

#: Quantities of each model; those in the second list may be missing.
MODELS: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "circular": (
        ("angle_deg", "sod_mm", "sdd_mm", "pitch_u_mm", "pitch_v_mm"),
        ("center_col", "center_row", "offset_u_mm", "offset_v_mm", "z_mm", "elevation_deg"),
    ),
    "poses": (("source_mm", "detector_center_mm", "u_step_mm", "v_step_mm"), ()),
    "ct-pd": (
        ("phi_rad", "z_mm", "rho_mm", "focal_to_detector_mm", "central_element", "pitch_u_mm", "pitch_v_mm", "shape"),
        ("phi_shift_rad", "z_shift_mm", "rho_shift_mm", "detector_rows", "detector_cols"),
    ),
}
#: Quantities that any map may have.
COMMON: Final = ("order", "bin", "low_kev", "high_kev", "kvp", "tube_current_ma", "exposure_time_ms")
#: Quantities of three numbers; and of two.
_SIZES: Final = {"source_mm": 3, "detector_center_mm": 3, "u_step_mm": 3, "v_step_mm": 3, "central_element": 2}
_TAG: Final = re.compile(r"[0-9A-Fa-f]{4},[0-9A-Fa-f]{4}")
#: Functional groups of each frame, and those that all frames share.
_PER_FRAME: Final = "5200,9230/"
_SHARED: Final = "5200,9229/"
#: How a private element is packed where the file does not say its VR.
_FORMATS: Final = {"FL": "f", "FD": "d", "US": "H", "SS": "h", "UL": "I", "SL": "i"}


@dataclass(frozen=True, slots=True)
class Quantity:
    """Where a number comes from.

    Attributes
    ----------
    tag : element, or path through sequences, ``gggg,eeee/gggg,eeee``; None for a fixed value.
    value : the fixed value, or what to take where the element is missing.
    scale, offset : the number is scale * element + offset.
    index : which of several values.
    vr : how a private element of unknown VR is packed.
    """

    tag: str | None = None
    value: float | str | None = None
    scale: float = 1.0
    offset: float = 0.0
    index: int | None = None
    vr: str | None = None


@dataclass(frozen=True, slots=True)
class MapSection:
    """``[map]``: what it is called, which files it is for, and how they are laid out."""

    name: str
    model: Model
    sop_classes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    modality: str | None = None
    rows: Literal["bottom-up", "top-down"] = "top-down"
    cols: Literal["left-to-right", "right-to-left"] = "left-to-right"
    content: Literal["counts", "normalized", "line_integrals"] = "counts"
    white_level: float | None = None
    transposed: bool | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class TagMap:
    """A tag map: `section` is its ``[map]``, `tags` its quantities."""

    path: Path
    section: MapSection
    tags: Mapping[str, Quantity] = field(default_factory=dict)

    def fits(self, dataset: Dataset) -> bool:
        """Whether a file is of the kind that the map is for."""
        section = self.section
        if section.sop_classes and str(dataset.get("SOPClassUID", "")) not in section.sop_classes:
            return False
        if section.modality is not None and str(dataset.get("Modality", "")) != section.modality:
            return False
        return all(_element(dataset, tag, 0) is not None for tag in section.needs)

    def number(self, name: str, dataset: Dataset, frame: int, where: object) -> float | None:
        """A quantity of one number for a frame; None if the map or the file does not have it."""
        values = self.numbers(name, dataset, frame, where)
        if values is None:
            return None
        if len(values) != 1:
            raise FrameFormatError(f"{where}: {name} should be one number, got {len(values)}: give an index in the map")
        return values[0]

    def numbers(self, name: str, dataset: Dataset, frame: int, where: object) -> tuple[float, ...] | None:
        """A quantity for a frame, scaled; None if the map or the file does not have it.

        Raises
        ------
        FrameFormatError
            If the element is no number, or not finite.
        """
        quantity = self.tags.get(name)
        if quantity is None:
            return None
        found = None if quantity.tag is None else _element(dataset, quantity.tag, frame)
        values = quantity.value if found is None else _unpack(found, quantity.vr, dataset)
        if values is None:
            return None
        try:
            numbers = [float(v) for v in (values if isinstance(values, list | tuple) else [values])]
        except (TypeError, ValueError) as error:
            raise FrameFormatError(f"{where}: {name} ({quantity.tag}) is not a number: {error}") from error
        if quantity.index is not None:
            if quantity.index >= len(numbers):
                raise FrameFormatError(
                    f"{where}: {name} has {len(numbers)} values, the map asks for {quantity.index} (the first is 0)"
                )
            numbers = [numbers[quantity.index]]
        scaled = tuple(quantity.scale * number + quantity.offset for number in numbers)
        if not all(map(math.isfinite, scaled)):
            raise FrameFormatError(f"{where}: {name} ({quantity.tag}) is not a finite number")
        return scaled

    def text(self, name: str, dataset: Dataset, frame: int) -> str:
        """A quantity that is a word, upper case; "" if there is none."""
        quantity = self.tags.get(name)
        if quantity is None:
            return ""
        found = None if quantity.tag is None else _element(dataset, quantity.tag, frame)
        value = quantity.value if found is None else found.value
        value = value.decode("ascii", "replace") if isinstance(value, bytes) else value
        return "" if value is None else str(value).strip("\0 ").upper()


def read_map(path: Path) -> TagMap:
    """Read a tag map.

    Raises
    ------
    ScanDescriptionError
        If it is not TOML, has an unknown key, or lacks a quantity that its model needs.
    """
    try:
        tables = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise ScanDescriptionError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ScanDescriptionError(f"{path} is not a TOML file: {error}") from error
    refuse_unknown_keys(tables, ("map", "tags"), str(path))
    section = make_section(MapSection, tables.get("map", {}), f"{path}: [map]")
    needed, optional = MODELS[section.model]
    tags = require_table(tables.get("tags", {}), f"{path}: [tags]")
    refuse_unknown_keys(tags, (*needed, *optional, *COMMON), f"{path}: [tags]")
    missing = [name for name in needed if name not in tags]
    if missing:
        raise ScanDescriptionError(f"{path}: a map of the model '{section.model}' needs the quantity '{missing[0]}'")
    quantities = {name: _quantity(table, f"{path}: [tags] {name}") for name, table in tags.items()}
    return TagMap(path, section, quantities)


def shipped_maps() -> tuple[TagMap, ...]:
    """The maps that come with the program, in the order in which they are tried."""
    folder = Path(__file__).resolve().parents[2] / "conf" / "dicom"
    return tuple(read_map(path) for path in sorted(folder.glob("*.toml")))


def values_expected(name: str) -> int:
    """How many numbers a quantity has."""
    return _SIZES.get(name, 1)


def _quantity(table: object, where: str) -> Quantity:
    """A tag alone, or a table; a ``value`` may also be a word."""
    values = {"tag": table} if isinstance(table, str) else dict(require_table(table, where))
    value = values.pop("value", None)
    if value is not None and not isinstance(value, int | float | str):
        raise ScanDescriptionError(f"{where}: value must be a number or a word, got {describe(value)}")
    made = make_section(_Plain, values, where)
    if made.tag is None and value is None:
        raise ScanDescriptionError(f"{where} needs a tag or a value")
    if made.tag is not None and not all(_TAG.fullmatch(part) for part in made.tag.split("/")):
        raise ScanDescriptionError(
            f"{where}: a tag is written as gggg,eeee, in sequences as gggg,eeee/gggg,eeee; got '{made.tag}'"
        )
    if made.vr is not None and made.vr not in _FORMATS:
        raise ScanDescriptionError(f"{where}: vr must be one of {', '.join(_FORMATS)}, got '{made.vr}'")
    return Quantity(made.tag, value, made.scale, made.offset, made.index, made.vr)


@dataclass(frozen=True, slots=True)
class _Plain:
    """A `Quantity` without its value, which may be of two kinds."""

    tag: str | None = None
    scale: float = 1.0
    offset: float = 0.0
    index: int | None = None
    vr: str | None = None


def _element(dataset: Dataset, path: str, frame: int) -> Any | None:
    """The element of a path, of the frame or else of what all frames share; None if there is none, or it is empty."""
    found = _follow(dataset, path, frame)
    if found is None and path.startswith(_PER_FRAME):
        return _follow(dataset, _SHARED + path.removeprefix(_PER_FRAME), frame)
    return found


def _follow(dataset: Dataset, path: str, frame: int) -> Any | None:
    """The element of a path; of a sequence the frame's item, or the only one."""
    node: Any = dataset
    parts = path.split("/")
    for depth, part in enumerate(parts):
        group, number = part.split(",")
        element = node.get((int(group, 16), int(number, 16)))
        if element is None or element.value is None or element.value == "" or element.value == b"":
            return None
        if depth == len(parts) - 1:
            return element
        items = element.value
        if element.VR != "SQ" or not len(items):
            return None
        node = items[frame] if frame < len(items) and len(items) > 1 else items[0]
    return None


def _unpack(element: Any, vr: str | None, dataset: Dataset) -> Any:
    """The value, unpacked where it came as bytes."""
    value = element.value
    if isinstance(value, bytes):
        code = _FORMATS.get(vr or "")
        if code is None:
            return value.decode("ascii", "replace").strip("\0 ").split("\\")
        order = "<" if dataset.original_encoding[1] is not False else ">"
        size = struct.calcsize(code)
        return list(struct.unpack(f"{order}{len(value) // size}{code}", value[: len(value) // size * size]))
    return list(value) if not isinstance(value, str | int | float) and hasattr(value, "__iter__") else value
