# SPDX-License-Identifier: Apache-2.0
"""The scan manifest as JSON: the same scan always gives the same bytes, so that its sha256 names it.

Canonical form: UTF-8, keys sorted, no spaces, one newline at the end, every quantity that is a float
written as one.  Python writes the shortest decimal that reads back to the same float64, so poses and
times survive to the bit.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.errors import ScanDescriptionError
from ingest.fields import convert, make_section, refuse_unknown_keys, require_table
from ingest.scan import (
    SCHEMA_VERSION,
    Content,
    EnergyBin,
    Exposure,
    FieldFrames,
    Order,
    ParallelBeam,
    PixelType,
    Scan,
    Subject,
)
from reconstruction.errors import GeometryError
from reconstruction.geometry import ConeBeamGeometry

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLAIN_KEYS: dict[str, Any] = {
    "scan_id": str,
    "source_format": str,
    "content": Content,
    "pixel_type": PixelType,
    "n_views": int,
    "n_rows": int,
    "n_cols": int,
    "white_level": float | None,
    "acquired": str,
    "manufacturer": str,
    "model": str,
    "station": str,
    "notes": tuple[str, ...],
}
_SECTIONS: dict[str, type] = {"exposure": Exposure, "subject": Subject, "order": Order}
_OPTIONAL_SECTIONS: dict[str, type] = {"parallel": ParallelBeam, "flats": FieldFrames, "darks": FieldFrames}
_KEYS = ("schema_version", "geometry", "bins", *_PLAIN_KEYS, *_SECTIONS, *_OPTIONAL_SECTIONS)
#: Keys that are written only where there is something to say: other manifests keep their bytes, and UIDs with them.
_SPARE_KEYS: dict[str, Any] = {"camera_positions": tuple[int, ...]}
_SPARE_SECTION_KEYS = ("position_counts",)


def scan_to_json(scan: Scan) -> dict[str, Any]:
    """Return a scan as plain JSON values (dict, list, str, int, float, None)."""
    values: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
    values |= {key: _plain(convert(getattr(scan, key), hint, key)) for key, hint in _PLAIN_KEYS.items()}
    values["bins"] = [_section_to_json(energy_bin) for energy_bin in scan.bins]
    values |= {key: _section_to_json(getattr(scan, key)) for key in _SECTIONS}
    for key in _OPTIONAL_SECTIONS:
        section = getattr(scan, key)
        values[key] = None if section is None else _section_to_json(section)
    values |= {
        key: _plain(convert(getattr(scan, key), hint, key)) for key, hint in _SPARE_KEYS.items() if getattr(scan, key)
    }
    geometry = scan.geometry
    values["geometry"] = None if geometry is None else {
        "n_rows": int(geometry.n_rows),
        "n_cols": int(geometry.n_cols),
        "poses": geometry.poses.tolist(),
        # Only where there are any: other manifests keep their bytes.
        **({"column_gaps": [list(gap) for gap in geometry.column_gaps]} if geometry.column_gaps else {}),
    }  # fmt: skip
    return values


def scan_from_json(values: Mapping[str, Any], source: str = "manifest") -> Scan:
    """Return the scan that `scan_to_json` wrote.

    Parameters
    ----------
    values : the parsed JSON object.
    source : what to call it in a message, for example its URL.

    Raises
    ------
    ScanDescriptionError
        If the schema version is not known here, a key is unknown or missing, or a value is malformed.
    """
    table = require_table(values, source)
    version = table.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise ScanDescriptionError(f"{source}: schema version {version!r} is not read here, expected {SCHEMA_VERSION}")
    refuse_unknown_keys(table, (*_KEYS, *_SPARE_KEYS), source)
    missing = [key for key in _KEYS if key not in table]
    if missing:
        raise ScanDescriptionError(f"{source} lacks the key '{missing[0]}'")
    arguments: dict[str, Any] = {
        key: convert(table[key], hint, f"{source}: {key}")
        for key, hint in (_PLAIN_KEYS | _SPARE_KEYS).items()
        if key in table
    }
    if not isinstance(table["bins"], list):
        raise ScanDescriptionError(f"{source}: bins must be a list")
    arguments["bins"] = tuple(
        make_section(EnergyBin, energy_bin, f"{source}: bins[{i}]") for i, energy_bin in enumerate(table["bins"])
    )
    for key, section in _SECTIONS.items():
        arguments[key] = make_section(section, table[key], f"{source}: {key}")
    for key, section in _OPTIONAL_SECTIONS.items():
        arguments[key] = None if table[key] is None else make_section(section, table[key], f"{source}: {key}")
    arguments["geometry"] = _geometry_from_json(table["geometry"], f"{source}: geometry")
    return Scan(**arguments)


def canonical_json(values: Mapping[str, Any]) -> bytes:
    """Return JSON bytes that depend on the values only: keys sorted, no spaces, UTF-8, a newline last."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def manifest_bytes(scan: Scan) -> bytes:
    """Return a scan as canonical JSON."""
    return canonical_json(scan_to_json(scan))


def manifest_sha256(scan: Scan) -> str:
    """Return the sha256 of `manifest_bytes` in hexadecimal: the scan's identity in every UID derived from it."""
    return hashlib.sha256(manifest_bytes(scan)).hexdigest()


def scan_from_bytes(content: bytes, source: str = "manifest") -> Scan:
    """Return the scan that `manifest_bytes` wrote; ScanDescriptionError if it is none."""
    try:
        values = json.loads(content)
    except ValueError as error:
        raise ScanDescriptionError(f"{source} is not JSON: {error}") from error
    return scan_from_json(values, source)


def _section_to_json(section: Any) -> dict[str, Any]:
    """A dataclass of plain values as JSON values, numbers typed as their annotation says."""
    checked = make_section(type(section), asdict(section), type(section).__name__)
    values = {key: _plain(value) for key, value in asdict(checked).items()}
    return {key: value for key, value in values.items() if value or key not in _SPARE_SECTION_KEYS}


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON would have them."""
    return list(value) if isinstance(value, tuple) else value


def _geometry_from_json(table: object, where: str) -> ConeBeamGeometry | None:
    """The cone-beam poses, or None."""
    if table is None:
        return None
    values = require_table(table, where)
    refuse_unknown_keys(values, ("n_rows", "n_cols", "poses", "column_gaps"), where)
    try:
        poses = np.array(values["poses"], dtype=np.float64)
        n_rows, n_cols = (convert(values[key], int, f"{where} {key}") for key in ("n_rows", "n_cols"))
        gaps = tuple((int(start), int(stop)) for start, stop in values.get("column_gaps", ()))
        return ConeBeamGeometry(poses, n_rows, n_cols, gaps)
    except KeyError as error:
        raise ScanDescriptionError(f"{where} lacks the key {error}") from error
    except (GeometryError, TypeError, ValueError) as error:
        raise ScanDescriptionError(f"{where}: {error}") from error
