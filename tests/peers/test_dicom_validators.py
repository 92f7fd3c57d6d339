# SPDX-License-Identifier: Apache-2.0
"""David Clunie's validators find no error in what is encoded; DCMTK and Python read packs' entries alike."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import numpy as np
import pytest

from pacs.encode import SeriesEncoder
from pacs.preview import block_average, preview_grid
from tests.support.peers import require_program
from tests.support.series import BINS, PATIENT, SPECIMEN, series_spec

HU = {"calibrated_hu": True, "slope": 1.0, "intercept": -1024.0, "window": (40.0, 400.0)}
SPECS = {
    "difference": series_spec(),
    "counter": series_spec(bin_index=2),
    "patient": series_spec(study=replace(PATIENT, laterality="L")),
    "chest": series_spec(study=replace(PATIENT, body_part="CHEST", patient_position="FFS")),
    "bare patient": series_spec(study=replace(PATIENT, body_part="", sex="", birth_date="", patient_name="")),
    "animal": series_spec(study=replace(SPECIMEN, species="Mus musculus")),
    "bare scan": series_spec(study=type(SPECIMEN)(scan_id="s"), acquisition=type(series_spec().acquisition)()),
    "hounsfield bin": series_spec(**HU),
    "hounsfield counter": series_spec(**HU, bin_index=2),
    "hounsfield preview": series_spec(**HU, product="preview", preview_factor=2),
    "one bin in HU": series_spec(**HU, bins=BINS[:1]),
}


def _write_series(spec, folder):
    folder.mkdir()
    encoder = SeriesEncoder(spec)
    values = np.random.default_rng(2).uniform(0, 0.1, spec.grid.shape).astype(np.float32)
    paths = []
    for z, plane in enumerate(values):
        path = folder / f"{spec.product}-{spec.bin_index}-{z}.dcm"
        path.write_bytes(encoder.encode_slice(z, plane).part10_bytes)
        paths.append(path)
    return paths


def _lines(program, *paths):
    result = subprocess.run([program, *paths], capture_output=True, text=True, check=False, timeout=60)
    return [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_dciodvfy_finds_no_error(spec, tmp_path):
    dciodvfy = require_program("dciodvfy", "dicom3tools")
    lines = _lines(dciodvfy, _write_series(spec, tmp_path / "a")[1])
    assert "CTImage" in lines
    assert [line for line in lines if line.startswith("Error")] == []


def test_dcentvfy_is_silent_over_a_study(tmp_path):
    """All bins and their previews, calibrated or not, agree about patient, study, frame of reference."""
    dcentvfy = require_program("dcentvfy", "dicom3tools")
    paths = []
    for bin_index in range(3):
        paths += _write_series(series_spec(bin_index=bin_index), tmp_path / f"volume{bin_index}")
        preview = series_spec(bin_index=bin_index, product="preview", preview_factor=2)
        grid = preview_grid(preview.grid, 2)
        assert block_average(np.zeros(preview.grid.shape, np.float32), 2).shape == grid.shape
        paths += _write_series(replace(preview, grid=grid), tmp_path / f"preview{bin_index}")
    assert len(paths) == 3 * (4 + 2)
    assert _lines(dcentvfy, *paths) == []


@pytest.mark.dcmtk
def test_dcmdump_reads_the_private_block_and_the_exact_position(tmp_path):
    dcmdump = require_program("dcmdump", "dcmtk")
    spec = series_spec()
    text = "\n".join(_lines(dcmdump, _write_series(spec, tmp_path / "a")[3]))
    assert "CONEPACS 1.0" in text
    assert r"[1\0\0\0\1\0]" in text
    assert r"[1\-0.68\3.265]" in text
    assert spec.key.scan_sha256 in text
