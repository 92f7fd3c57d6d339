# SPDX-License-Identifier: Apache-2.0
"""Geometry files of other programs, by name: which program a file is of, reading it, and writing one.

======  ====================================================  =============================================
name    read                                                  written
======  ====================================================  =============================================
rtk     XML of version 2 or 3                                 XML of version 3
astra   vectors (.npy, .txt, .csv), dictionary (.json)        .npy, .txt, .json
tigre   fields (.json, .npz)                                  .json, .npz
leap    parameter file (.cfg, .txt)                           parameter file
cil     values (.json)                                        .json
poses   our own 12 numbers a view (.npy, .txt)                .npy, .txt
======  ====================================================  =============================================

MATLAB's .mat and CIL's NeXus files need other libraries: `ingest` reads and writes them.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from reconstruction.errors import GeometryError
from reconstruction.exchange import astra, cil, leap, rtk, tigre

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from reconstruction.exchange.panels import Imported, Panel
    from reconstruction.exchange.tigre import Order
    from reconstruction.geometry import ConeBeamGeometry, VolumeGrid

#: Name -> what messages call it, and the suffixes that it is written with; the first is the usual one.
PROGRAMS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "rtk": ("RTK geometry", (".xml",)),
    "astra": ("ASTRA geometry", (".json", ".npy", ".txt")),
    "tigre": ("TIGRE geometry", (".json", ".npz")),
    "leap": ("LEAP parameters", (".cfg", ".txt")),
    "cil": ("CIL geometry", (".json",)),
    "poses": ("table of poses", (".npy", ".txt")),
}
_HEAD_CHARACTERS = 4096
_LEAP_KEY = re.compile(r"^\s*(proj_)?geometry\s*=", re.MULTILINE)


def program_of(path: Path) -> str | None:
    """Return the program that a geometry file is of by its content, or None; never raises.

    A table of numbers (.npy, .txt, .csv) says not whose it is: None.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                names = set(archive.namelist())
            return "tigre" if {"DSD.npy", "DSO.npy", "angles.npy"} <= names else None
        if suffix not in (".xml", ".json", ".cfg", ".txt"):
            return None
        with path.open(encoding="utf-8") as stream:
            head = stream.read(_HEAD_CHARACTERS)
            if suffix == ".xml":
                return "rtk" if f"<{rtk.ROOT}" in head else None
            if suffix == ".json":
                return _program_of_json(json.loads(head + stream.read())) if head.lstrip().startswith("{") else None
            return "leap" if _LEAP_KEY.search(head) else None
    except (OSError, ValueError, zipfile.BadZipFile, RecursionError):
        return None


def read_geometry(
    path: Path,
    *,
    program: str | None = None,
    panel: Panel | None = None,
    unit_mm: float = 1.0,
    order: Order = "python",
) -> Imported:
    """Read a geometry file of another program.

    Parameters
    ----------
    path : the file.
    program : a name of `PROGRAMS`; left out, the file's content says.
    panel : what the file leaves open: RTK's size, pitch and origin, the size for a table of vectors or poses.
    unit_mm : one length of ASTRA's file in mm.
    order : which way round TIGRE's axes are counted.

    Raises
    ------
    GeometryError
        If the file cannot be read, is not recognised, or says what we cannot hold.
    """
    known = program or program_of(path)
    if known is None:
        raise GeometryError(f"{path} is not recognised as a geometry file: say of which of {', '.join(PROGRAMS)} it is")
    _require_program(known)
    where = str(path)
    try:
        if known == "rtk":
            return rtk.import_xml(_read_text(path), where, _require_panel(panel, path, "XML has no panel size"))
        if known == "leap":
            return leap.read_text(_read_text(path), where)
        if path.suffix.lower() == ".json":
            values = json.loads(_read_text(path))
            if not isinstance(values, dict):
                raise GeometryError(f"{path} should hold one JSON object")
            return _from_json(values, known, where, unit_mm, order)
        if known == "tigre":
            with np.load(path, allow_pickle=False) as arrays:
                fields = {name: arrays[name] for name in arrays.files}
            return tigre.from_tigre(tigre.from_dict(_plain(fields), where, order))
        vectors = read_table(path)
        size = _require_panel(panel, path, "a table of vectors has no panel size")
        return astra.from_vectors(vectors, size, unit_mm=unit_mm if known == "astra" else 1.0, where=where)
    except OSError as error:
        raise GeometryError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, zipfile.BadZipFile, RecursionError) as error:
        if isinstance(error, GeometryError):
            raise
        raise GeometryError(f"{path} is not a readable {PROGRAMS[known][0]} file: {error}") from error


def geometry_bytes(geometry: ConeBeamGeometry, program: str, suffix: str = "", grid: VolumeGrid | None = None) -> bytes:
    """Return the content of a geometry file.

    Parameters
    ----------
    geometry : ConeBeamGeometry
    program : a name of `PROGRAMS`.
    suffix : one of the suffixes of the program; left out, its usual one.
    grid : the volume that TIGRE's and LEAP's files name; left out, `default_grid`.

    Raises
    ------
    GeometryError
        If the program cannot hold the geometry, or has no such file.
    """
    _require_program(program)
    name, suffixes = PROGRAMS[program]
    chosen = suffix.lower() or suffixes[0]
    if chosen not in suffixes:
        raise GeometryError(f"a {name} is written as {' or '.join(suffixes)}, got '{suffix}'")
    if program == "rtk":
        return rtk.write_xml(rtk.to_rtk(geometry)).encode()
    if program == "leap":
        return leap.write_text(geometry, grid).encode()
    if program == "cil":
        return cil.write_json(cil.to_cil(geometry)).encode()
    if program == "tigre":
        fields = tigre.to_dict(tigre.to_tigre(geometry, grid))
        if chosen == ".json":
            return (json.dumps({"order": "python", **fields}) + "\n").encode()
        stream = io.BytesIO()
        arrays: dict[str, Any] = {key: np.asarray(value) for key, value in fields.items()}
        np.savez(stream, **arrays)
        return stream.getvalue()
    if chosen == ".json":
        return astra.write_json(geometry).encode()
    return _table_bytes(astra.to_vectors(geometry), chosen)


def read_table(path: Path) -> NDArray[np.float64]:
    """Read a table of numbers: a .npy, or text with a view a line.

    Raises
    ------
    GeometryError
        If it is none.
    """
    if path.suffix.lower() == ".npy":
        table = np.load(path, allow_pickle=False)
    else:
        lines = (
            line.partition("#")[0].replace(",", " ").replace(";", " ").split() for line in _read_text(path).splitlines()
        )
        rows = [[float(word) for word in line] for line in lines if line]
        if len({len(row) for row in rows}) > 1:
            raise GeometryError(f"{path}: the lines of a table of vectors need as many numbers each")
        table = np.array(rows)
    return np.asarray(table, dtype=np.float64)


def _program_of_json(values: object) -> str | None:
    """Whose dictionary it is."""
    if not isinstance(values, dict):
        return None
    if values.get("type") in ("cone", "cone_vec"):
        return "astra"
    if values.get("geometry") in ("Cone3D", "Cone3D_Flex"):
        return "cil"
    return "tigre" if {"DSD", "DSO", "angles"} <= set(values) else None


def _from_json(values: dict[str, Any], program: str, where: str, unit_mm: float, order: Order) -> Imported:
    """The dictionary of a program."""
    if program == "astra":
        return astra.from_dict(values, where, unit_mm=unit_mm)
    if program == "cil":
        return cil.from_dict(values, where)
    if program == "tigre":
        said = values.get("order", order)
        if said not in ("python", "matlab"):
            raise GeometryError(f"{where}: order should be 'python' or 'matlab', got '{said}'")
        return tigre.from_tigre(tigre.from_dict(values, where, "matlab" if said == "matlab" else "python"))
    raise GeometryError(f"{where}: a {PROGRAMS[program][0]} is not written as JSON")


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """Arrays of no axis as what they hold."""
    return {name: value.item() if value.ndim == 0 else value for name, value in fields.items()}


def _table_bytes(vectors: NDArray[np.float64], suffix: str) -> bytes:
    """A .npy, or text with all digits."""
    if suffix == ".npy":
        stream = io.BytesIO()
        np.save(stream, vectors)
        return stream.getvalue()
    return "".join(" ".join(repr(float(x)) for x in row) + "\n" for row in vectors).encode()


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _require_panel(panel: Panel | None, path: Path, reason: str) -> Panel:
    if panel is None:
        raise GeometryError(f"{path}: {reason}: give it, or name the projections")
    return panel


def _require_program(name: str) -> None:
    if name not in PROGRAMS:
        raise GeometryError(f"unknown geometry format '{name}': expected one of {', '.join(PROGRAMS)}")
