# SPDX-License-Identifier: Apache-2.0
"""Scans for tests: plain ones, and Hypothesis strategies for any."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from ingest.scan import EnergyBin, Exposure, FieldFrames, Order, ParallelBeam, Scan, Subject
from reconstruction.geometry import ConeBeamGeometry


def make_geometry(n_views: int = 6, n_rows: int = 4, n_cols: int = 8, **changes: Any) -> ConeBeamGeometry:
    """A small circular orbit over a full turn."""
    arguments: dict[str, Any] = {
        "sod_mm": 100.0,
        "sdd_mm": 200.0,
        "angles_rad": 2 * np.pi * np.arange(n_views) / n_views,
        "n_rows": n_rows,
        "n_cols": n_cols,
        "pitch_u_mm": 0.2,
        "pitch_v_mm": 0.3,
    }
    return ConeBeamGeometry.circular(**(arguments | changes))


def make_scan(**changes: Any) -> Scan:
    """A small valid scan."""
    arguments: dict[str, Any] = {
        "scan_id": "scan-1",
        "source_format": "array",
        "content": "counts",
        "bins": (EnergyBin(0),),
        "pixel_type": "uint16",
        "n_views": 6,
        "n_rows": 4,
        "n_cols": 8,
    }
    return Scan(**(arguments | changes))


_texts = st.text(st.characters(codec="utf-8"), max_size=20)
_positive = st.floats(min_value=1e-6, max_value=1e9, allow_nan=False)
_finite = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def energy_bins(draw: st.DrawFn) -> tuple[EnergyBin, ...]:
    """One to four bins or counters."""
    bins = []
    for index in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["counter", "difference", "integrating"]))
        low = draw(st.floats(1, 100))
        if kind == "difference":
            bins.append(EnergyBin(index, "difference", low, low + draw(st.floats(0.5, 100))))
        elif kind == "counter":
            bins.append(EnergyBin(index, "counter", draw(st.sampled_from([None, low]))))
        else:
            bins.append(EnergyBin(index))
    return tuple(bins)


@st.composite
def scans(draw: st.DrawFn) -> Scan:
    """Any valid scan."""
    n_views, n_rows, n_cols = draw(st.integers(1, 5)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    beam = draw(st.sampled_from(["none", "cone", "parallel"]))
    geometry, parallel = None, None
    if beam == "cone":
        geometry = ConeBeamGeometry.circular(
            sod_mm=draw(st.floats(1, 1e3)),
            sdd_mm=draw(st.floats(1001, 3e3)),
            angles_rad=draw(st.lists(st.floats(-7, 7), min_size=n_views, max_size=n_views)),
            n_rows=n_rows,
            n_cols=n_cols,
            pitch_u_mm=draw(st.floats(0.01, 1)),
            pitch_v_mm=draw(st.floats(0.01, 1)),
            offset_u_mm=draw(st.floats(-50, 50)),
        )
    elif beam == "parallel":
        angles = draw(st.lists(_finite, min_size=n_views, max_size=n_views))
        parallel = ParallelBeam(tuple(angles), draw(st.none() | _positive))
    content = draw(st.sampled_from(["counts", "normalized", "line_integrals"]))
    pixel_type = "float32" if content == "line_integrals" else draw(st.sampled_from(["uint8", "uint16", "uint32"]))
    n_positions = draw(st.integers(0, min(3, n_views)))
    at_each = draw(st.lists(st.integers(1, 4), min_size=n_positions, max_size=n_positions).map(tuple))
    by_position = {"darks": FieldFrames(sum(at_each), position_counts=at_each)} if n_positions else {}
    times = draw(st.none() | st.lists(_finite, min_size=1, max_size=3).map(tuple))
    one_set = {"darks": draw(st.none() | st.builds(FieldFrames, st.integers(1, 9), camera_position=st.integers(0, 9)))}
    return make_scan(
        **(by_position or one_set),
        scan_id=draw(st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", fullmatch=True)),
        content=content,
        bins=draw(energy_bins()),
        pixel_type=pixel_type,
        n_views=n_views,
        n_rows=n_rows,
        n_cols=n_cols,
        geometry=geometry,
        parallel=parallel,
        white_level=draw(_positive) if content == "normalized" else None,
        flats=draw(st.none() | st.builds(FieldFrames, st.just(1 if times is None else len(times)), st.just(times))),
        camera_positions=tuple(view % n_positions for view in range(n_views)) if n_positions else (),
        acquired=draw(st.just("") | st.datetimes().map(lambda moment: moment.isoformat())),
        manufacturer=draw(_texts),
        exposure=draw(st.builds(Exposure, st.none() | _positive, st.none() | _positive)),
        subject=draw(st.builds(Subject, identifier=_texts, name=_texts, sex=st.sampled_from(["", "M", "F", "O"]))),
        order=draw(st.builds(Order, study_uid=st.sampled_from(["", "1.2.840.10008.1"]), study_description=_texts)),
        notes=draw(st.lists(_texts, max_size=3).map(tuple)),
    )
