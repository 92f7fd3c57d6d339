# SPDX-License-Identifier: Apache-2.0
"""Small series to encode, pack and store in tests of the pacs package."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pacs.description import Acquisition, EnergyBinLabel, Equipment, SeriesSpec, StudyContext
from pacs.provenance import parameters_sha256
from pacs.uids import RunKey
from reconstruction.geometry import VolumeGrid

if TYPE_CHECKING:
    from collections.abc import Mapping

BINS = (
    EnergyBinLabel(0, "difference", 25.0, 45.5),
    EnergyBinLabel(1, "difference", 45.5, 70.0),
    EnergyBinLabel(2, "counter", 70.0),
)
PARAMETERS: Mapping[str, Any] = {"backend": "numba", "filter": {"name": "hann", "cutoff": 0.9}, "subset": [0, 1, 2]}
ACQUISITION = Acquisition(
    kvp=120.0, tube_current_ma=0.35, exposure_time_ms=500.0, n_views=360, filter_material="Aluminium",
    filter_thickness_mm=1.5, sod_mm=200.0, sdd_mm=260.5,
    n_rows=256, pitch_v_mm=0.11, focal_spot_mm=0.03,
)  # fmt: skip
SPECIMEN = StudyContext(
    scan_id="stone-07", study_date="20260105", study_time="103000", accession_number="A1", study_id="7",
    study_description="Spectral CBCT", acquired_date="20260104", acquired_time="221500",
)  # fmt: skip
PATIENT = StudyContext(
    scan_id="wrist-1", study_date="20260105", study_time="103000", patient_id="P-17", patient_name="Müller^Jörg",
    birth_date="19700102", sex="M", is_specimen=False, body_part="WRIST",
)  # fmt: skip


def series_spec(**changes: Any) -> SeriesSpec:
    """Return an uncalibrated three-bin specimen series of 4 slices of 5 x 6 voxels, with the changes given."""
    parameters = changes.pop("parameters", PARAMETERS)
    spec = SeriesSpec(
        study=SPECIMEN,
        equipment=Equipment("Synthetic Imaging", "cbct-sim", "WS1", "ConePACS 0.1.0"),
        acquisition=ACQUISITION,
        bins=BINS,
        bin_index=0,
        product="volume",
        grid=VolumeGrid((4, 5, 6), (0.11, 0.09, 0.1), (1.25, -0.5, 3.1)),
        slope=2e-6,
        intercept=0.05,
        key=RunKey("a" * 64, parameters_sha256(parameters)),
        parameters=parameters,
        content_date="20260106",
        content_time="080000",
        window=(0.02, 0.06),
        convolution_kernel="hann 0.9",
        kernel_version="numba 1",
    )
    return replace(spec, **changes)
