# SPDX-License-Identifier: Apache-2.0
"""Make the sample scan: a seeded photon-counting cone-beam scan of a water specimen with bone, iodine and air.

``python -m data_samples.make_sample FOLDER`` writes it in the form of the ``array`` reader: ``projections.npy``,
``flats.npy``, ``darks.npy``, ``scan.toml``, and the truth it was made from as ``truth.json``.  The same numbers give
the same bytes; ``sample.sha256.json`` beside this file holds the digests of the default ones.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reconstruction.geometry import ConeBeamGeometry
from reconstruction.materials import WATER
from reconstruction.photon_counting import (
    MaterialPhantom,
    PhotonCountingSettings,
    make_panel,
    marker_specimen,
    simulate_fields,
    simulate_views,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

DEFAULT_SEED = 20260115
SCAN_ID = "sample-marker"
#: The specimen lies within this distance of the origin; the panel covers a field of this radius.
RADIUS_MM = 10.0
SOD_MM = 200.0
SDD_MM = 280.0
MANIFEST_PATH = Path(__file__).with_name("sample.sha256.json")
PIXEL_FILES = ("projections.npy", "flats.npy", "darks.npy")

_SCAN_TOML = """\
# The sample scan of ConePACS: simulated, no patient data.  Made by data_samples/make_sample.py.
[scan]
id = "{scan_id}"
format = "array"
acquired = "2026-01-15T10:30:00"
content = "counts"
manufacturer = "ConePACS"
model = "simulated photon-counting scanner"
station = "SIMULATOR"

[files]
projections = "projections.npy"
flats = "flats.npy"
darks = "darks.npy"

[geometry]
kind = "circular"
sod_mm = {sod_mm}
sdd_mm = {sdd_mm}
pitch_mm = {pitch_mm}
arc_deg = 360.0
sense = "counter-clockwise"

{bins}
[exposure]
kvp = {kvp}
tube_current_ma = 0.35
exposure_time_ms = 300.0
filter_material = "aluminium"
filter_thickness_mm = {filter_mm}

[subject]
kind = "specimen"
identifier = "SAMPLE-0001"
description = "Water cylinder with bone, iodine and air inserts"

[order]
accession_number = "SAMPLE-0001"
study_id = "1"
study_description = "Sample scan: asymmetric specimen"
"""


@dataclass(frozen=True)
class SampleTruth:
    """What the sample scan was made from.

    Attributes
    ----------
    folder : where it lies
    scan_id : str
    geometry : ConeBeamGeometry
    phantom : MaterialPhantom
    settings : PhotonCountingSettings
    bad_pixels : (row, col) bool
    mu_per_mm : material name -> (bin,) float64
        What each bin sees of a thin layer.
    mu_in_specimen_per_mm : material name -> (bin,) float64
        The same behind as much water as the specimen's centre lies behind: the beam is harder there.
    """

    folder: Path
    scan_id: str
    geometry: ConeBeamGeometry
    phantom: MaterialPhantom
    settings: PhotonCountingSettings
    bad_pixels: NDArray[np.bool_]
    mu_per_mm: Mapping[str, NDArray[np.float64]]
    mu_in_specimen_per_mm: Mapping[str, NDArray[np.float64]]


def make_sample(
    folder: Path | str,
    *,
    seed: int = DEFAULT_SEED,
    n_views: int = 180,
    n_rows: int = 96,
    n_cols: int = 128,
    scan_id: str = SCAN_ID,
) -> SampleTruth:
    """Write the sample scan into a folder (made if need be) and return what it was made from.

    ``scan.toml`` comes last: a folder without it is no scan.  Pixels become larger where there are fewer of them, so
    that the panel always covers the specimen.

    Parameters
    ----------
    folder : path
    seed : int
    n_views, n_rows, n_cols : int
        A full turn of views; the size of the panel.
    scan_id : str
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    (target / "scan.toml").unlink(missing_ok=True)
    truth = describe_sample(target, seed=seed, n_views=n_views, n_rows=n_rows, n_cols=n_cols, scan_id=scan_id)
    settings, geometry = truth.settings, truth.geometry
    # Written straight to the file, a view at a time: nothing holds the whole scan.
    projections = np.lib.format.open_memmap(
        target / "projections.npy", mode="w+", dtype="<u2", shape=(settings.n_bins, n_views, n_rows, n_cols)
    )
    for view, counts in simulate_views(truth.phantom, geometry, settings):
        projections[:, view] = counts
    projections.flush()
    del projections
    flats, darks = simulate_fields(settings, n_rows, n_cols)
    np.save(target / "flats.npy", flats.astype("<u2", copy=False))
    np.save(target / "darks.npy", darks.astype("<u2", copy=False))
    text = json.dumps(_truth_json(truth), indent=1, sort_keys=True)
    (target / "truth.json").write_text(text + "\n", encoding="utf-8", newline="\n")
    (target / "scan.toml").write_text(_scan_toml(truth), encoding="utf-8", newline="\n")
    return truth


def describe_sample(
    folder: Path | str,
    *,
    seed: int = DEFAULT_SEED,
    n_views: int = 180,
    n_rows: int = 96,
    n_cols: int = 128,
    scan_id: str = SCAN_ID,
) -> SampleTruth:
    """Return what `make_sample` with these numbers makes its scan from, without making it."""
    shadow = 2 * SDD_MM * math.tan(math.asin(RADIUS_MM / SOD_MM))
    pitch = max(shadow / (n_cols - 1), 0.75 * shadow / (n_rows - 1))
    geometry = ConeBeamGeometry.circular(
        sod_mm=SOD_MM,
        sdd_mm=SDD_MM,
        angles_rad=np.deg2rad(360.0 / n_views * np.arange(n_views)),
        n_rows=n_rows,
        n_cols=n_cols,
        pitch_u_mm=round(pitch, 4),
        pitch_v_mm=round(pitch, 4),
    )
    phantom = marker_specimen(RADIUS_MM)
    settings = PhotonCountingSettings(
        thresholds_kev=(30.0, 60.0), white_counts=30000.0, dead_share=0.001, hot_share=0.0004, n_flats=20, seed=seed
    )
    materials = [material for material, _ in phantom.parts]
    half_way = ((WATER, 0.8 * RADIUS_MM),)
    return SampleTruth(
        folder=Path(folder),
        scan_id=scan_id,
        geometry=geometry,
        phantom=phantom,
        settings=settings,
        bad_pixels=make_panel(settings, n_rows, n_cols).bad_pixels,
        mu_per_mm={m.name: settings.response.effective_mu_per_mm(m) for m in materials},
        mu_in_specimen_per_mm={m.name: settings.response.effective_mu_per_mm(m, behind=half_way) for m in materials},
    )


def file_digests(folder: Path | str) -> dict[str, dict[str, Any]]:
    """Return size and sha256 of each file of a sample scan."""
    digests = {}
    for name in (*PIXEL_FILES, "scan.toml", "truth.json"):
        content = (Path(folder) / name).read_bytes()
        digests[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return digests


def _scan_toml(truth: SampleTruth) -> str:
    """The scan description."""
    response, settings = truth.settings.response, truth.settings
    bins = "".join(
        f'[[bins]]\nkind = "difference"\nlow_kev = {low}\nhigh_kev = {high}\n\n'
        for low, high in zip(response.low_kev, response.high_kev, strict=True)
    )
    return _SCAN_TOML.format(
        scan_id=truth.scan_id,
        sod_mm=SOD_MM,
        sdd_mm=SDD_MM,
        pitch_mm=round(truth.geometry.pitch_mm[1], 4),
        bins=bins.rstrip() + "\n",
        kvp=settings.kvp,
        filter_mm=settings.filters[0][1],
    )


def _truth_json(truth: SampleTruth) -> dict[str, Any]:
    """The truth as plain JSON values; attenuation to nine digits, so that every processor writes the same."""
    response, settings = truth.settings.response, truth.settings
    shapes = [
        {
            "material": material.name,
            "kind": type(shape).__name__.lower(),
            "name": shape.name,
            "center_mm": list(shape.center_mm),
            "half_axes_mm": list(shape.half_axes_mm),
            "rotation": [list(row) for row in shape.rotation],
            "density": shape.density,
        }
        for material, part in truth.phantom.parts
        for shape in part.shapes
    ]
    return {
        "schema_version": 1,
        "scan_id": truth.scan_id,
        "seed": settings.seed,
        "field_radius_mm": RADIUS_MM,
        "bins_kev": [[low, high] for low, high in zip(response.low_kev, response.high_kev, strict=True)],
        "white_counts": settings.white_counts,
        "shapes": shapes,
        "mu_per_mm": _rounded(truth.mu_per_mm),
        "mu_in_specimen_per_mm": _rounded(truth.mu_in_specimen_per_mm),
        "bad_pixels_row_col": np.argwhere(truth.bad_pixels).tolist(),
    }


def _rounded(table: Mapping[str, NDArray[np.float64]]) -> dict[str, list[float]]:
    """Numbers to nine significant digits."""
    return {name: [float(f"{value:.9g}") for value in values] for name, values in table.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the sample scan from the command line; says where it is."""
    parser = argparse.ArgumentParser(prog="python -m data_samples.make_sample", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="folder to write the scan into")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--views", type=int, default=180)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--cols", type=int, default=128)
    parser.add_argument("--write-manifest", action="store_true", help="renew sample.sha256.json (default numbers only)")
    given = parser.parse_args(arguments)
    truth = make_sample(given.folder, seed=given.seed, n_views=given.views, n_rows=given.rows, n_cols=given.cols)
    if given.write_manifest:
        manifest = {
            "schema_version": 1,
            "name": truth.scan_id,
            "licence": "Apache-2.0",
            "origin": "simulated by data_samples/make_sample.py; no patient data",
            "parameters": {"seed": given.seed, "n_views": given.views, "n_rows": given.rows, "n_cols": given.cols},
            "files": file_digests(given.folder),
        }
        MANIFEST_PATH.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8", newline="\n")
    sys.stdout.write(f"{truth.scan_id}: {given.views} views in {given.folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
