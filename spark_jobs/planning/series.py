# SPDX-License-Identifier: Apache-2.0
"""From a scan and its run to the DICOM series that come of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pacs.decimal_strings import rescale_for_range
from pacs.description import Acquisition, EnergyBinLabel, Equipment, SeriesSpec, StudyContext
from pacs.preview import preview_grid
from pacs.provenance import parameters_sha256
from pacs.uids import RunKey
from reconstruction.fdk import KERNEL_VERSION
from spark_jobs.errors import PlanError
from storage.errors import FileExistsInStoreError, MissingFileError
from storage.publish import publish_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ingest.scan import Scan
    from pacs.description import Product
    from spark_jobs.planning.plan_record import ReconstructionPlan
    from storage.filesystem import Store

RUN_SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a run fixes once, at its first submit, and every rerun reads again.

    ``run.json`` holds dates and version, and a file for each bin what was found of it: each is written once, so that of
    submits at the same moment one decides, and no bin gets lost.

    Attributes
    ----------
    content_date, content_time : YYYYMMDD and HHMMSS of the first submit.
    mu_ranges : for each bin reconstructed so far, what is stored without clipping [1/mm].
    bad_pixels : for each of them, what was found, in words.
    software_version : of the first submit.
    """

    content_date: str
    content_time: str
    mu_ranges: dict[int, tuple[float, float]]
    bad_pixels: dict[int, str]
    software_version: str

    def to_bytes(self) -> bytes:
        """Write the record as JSON."""
        values = {
            "schema_version": RUN_SCHEMA_VERSION,
            "content_date": self.content_date,
            "content_time": self.content_time,
            "mu_ranges": {str(index): list(pair) for index, pair in self.mu_ranges.items()},
            "bad_pixels": {str(index): words for index, words in self.bad_pixels.items()},
            "software_version": self.software_version,
        }
        return json.dumps(values, sort_keys=True, indent=1).encode()


def run_from_bytes(content: bytes, source: str) -> RunRecord:
    """Read a record; PlanError if it is of another schema version."""
    values = json.loads(content)
    if values.get("schema_version") != RUN_SCHEMA_VERSION:
        raise PlanError(
            f"{source} has run schema version {values.get('schema_version')}, expected {RUN_SCHEMA_VERSION}: another "
            "release began this run, submit the job with a run id of its own"
        )
    return RunRecord(
        content_date=values["content_date"],
        content_time=values["content_time"],
        mu_ranges={int(index): (low, high) for index, (low, high) in values["mu_ranges"].items()},
        bad_pixels={int(index): words for index, words in values["bad_pixels"].items()},
        software_version=values["software_version"],
    )


def run_path(folder: str) -> str:
    """Where the dates of a run lie."""
    return f"{folder}/run.json"


def bin_path(folder: str, bin_index: int) -> str:
    """Where it lies what a run found of a bin."""
    return f"{folder}/run-bin{bin_index:02d}.json"


def read_run(store: Store, folder: str, bins: Iterable[int]) -> RunRecord | None:
    """Read what a run fixed, with these bins at least; None unless all of it is there.

    Raises
    ------
    PlanError
        If a file is of another schema version.
    """
    try:
        run = run_from_bytes(store.read_bytes(run_path(folder)), run_path(folder))
        ranges, words = dict(run.mu_ranges), dict(run.bad_pixels)
        for bin_index in bins:
            if bin_index not in ranges:
                ranges[bin_index], words[bin_index] = _bin_from_bytes(store, bin_path(folder, bin_index))
    except MissingFileError:
        return None
    return replace(run, mu_ranges=ranges, bad_pixels=words)


def fix_run(store: Store, folder: str, run: RunRecord) -> None:
    """Fix the dates of a run, unless an earlier submit did."""
    with contextlib.suppress(FileExistsInStoreError):
        publish_bytes(store, run_path(folder), run.to_bytes(), kind="write_once")


def fix_bin(
    store: Store, folder: str, bin_index: int, mu_range: tuple[float, float], words: str
) -> tuple[tuple[float, float], str]:
    """Fix the stored range [1/mm] and the bad pixels of a bin; return those of the submit that came first."""
    path = bin_path(folder, bin_index)
    values = {"schema_version": RUN_SCHEMA_VERSION, "mu_range": list(mu_range), "bad_pixels": words}
    try:
        publish_bytes(store, path, json.dumps(values, sort_keys=True, indent=1).encode(), kind="write_once")
    except FileExistsInStoreError:
        return _bin_from_bytes(store, path)
    return mu_range, words


def _bin_from_bytes(store: Store, path: str) -> tuple[tuple[float, float], str]:
    values = json.loads(store.read_bytes(path))
    if values.get("schema_version") != RUN_SCHEMA_VERSION:
        raise PlanError(
            f"{path} has run schema version {values.get('schema_version')}, expected {RUN_SCHEMA_VERSION}: another "
            "release began this run, submit the job with a run id of its own"
        )
    low, high = values["mu_range"]
    return (low, high), values["bad_pixels"]


def series_spec(scan: Scan, plan: ReconstructionPlan, run: RunRecord, bin_index: int, product: Product) -> SeriesSpec:
    """Describe the series of one bin: the volume, or its preview."""
    low, high = run.mu_ranges[bin_index]
    slope, intercept = rescale_for_range(low, high)
    parameters = _parameters(plan, run, bin_index)
    window, cutoff = plan.request.fdk.filter_window, plan.request.fdk.cutoff
    return SeriesSpec(
        study=_study(scan),
        equipment=Equipment(scan.manufacturer, scan.model, scan.station, f"ConePACS {run.software_version}"),
        acquisition=_acquisition(scan),
        bins=tuple(EnergyBinLabel(b.index, b.kind, b.low_kev, b.high_kev) for b in scan.bins),
        bin_index=bin_index,
        product=product,
        grid=plan.grid if product == "volume" else preview_grid(plan.grid, plan.preview_factor),
        slope=slope,
        intercept=intercept,
        key=RunKey(plan.scan_sha256, parameters_sha256(parameters), plan.request.run_id),
        parameters=parameters,
        content_date=run.content_date,
        content_time=run.content_time,
        # The probe stores -1 to 4 times what it saw: show 0 to 1 of it.
        window=((high - low) * 0.1, (high - low) * 0.24),
        convolution_kernel="" if plan.request.iterative is not None else f"{window} {cutoff:g}"[:16],
        kernel_version=str(KERNEL_VERSION),
        preview_factor=plan.preview_factor if product == "preview" else 1,
    )


def _parameters(plan: ReconstructionPlan, run: RunRecord, bin_index: int) -> dict[str, Any]:
    """Every parameter of one bin's series as JSON values: kept in the header of each instance."""
    parameters = plan.identity()
    # The request may leave the range open; what was taken is what counts.
    parameters["mu_range"] = list(run.mu_ranges[bin_index])
    parameters["software_version"] = run.software_version
    return parameters


def _study(scan: Scan) -> StudyContext:
    """Subject and order of the scan, in DICOM's words."""
    subject, order = scan.subject, scan.order
    date, time = _date_time(scan.acquired)
    return StudyContext(
        scan_id=scan.scan_id,
        study_uid=order.study_uid,
        study_date=date,
        study_time=time,
        accession_number=order.accession_number,
        study_id=order.study_id,
        study_description=order.study_description,
        referring_physician=order.referring_physician,
        patient_id=subject.identifier,
        patient_name=subject.name,
        birth_date=subject.birth_date.replace("-", ""),
        sex=subject.sex,
        is_specimen=subject.kind == "specimen",
        species=subject.species,
        specimen_description=subject.description,
        acquired_date=date,
        acquired_time=time,
    )


def _date_time(acquired: str) -> tuple[str, str]:
    """ISO 8601 local time as DICOM's DA and TM."""
    if not acquired:
        return "", ""
    date, _, time = acquired.partition("T")
    time = time.split("+")[0].rstrip("Z")
    return date.replace("-", ""), time.replace(":", "")


def _acquisition(scan: Scan) -> Acquisition:
    """How the projections were taken."""
    geometry, exposure = scan.geometry, scan.exposure
    assert geometry is not None
    # Views of a stepped camera may stand at the same angle one after the other.
    turns = np.mod(np.diff(geometry.source_angles_rad) + math.pi, 2 * math.pi) - math.pi
    counter_clockwise = float(np.sign(np.round(turns, 9)).sum()) >= 0
    return Acquisition(
        kvp=exposure.kvp,
        tube_current_ma=exposure.tube_current_ma,
        exposure_time_ms=exposure.exposure_time_ms,
        n_views=scan.n_views,
        filter_material=exposure.filter_material or "",
        filter_thickness_mm=exposure.filter_thickness_mm,
        sod_mm=geometry.sod_mm,
        sdd_mm=geometry.sdd_mm,
        n_rows=scan.n_rows,
        pitch_v_mm=geometry.pitch_mm[0],
        rotation_direction="CC" if counter_clockwise else "CW",
    )


def volume_digest(slice_digests: list[str]) -> str:
    """Return the sha256 of a volume: over the digests of its float32 slices, so that slabs do not matter."""
    return hashlib.sha256("".join(slice_digests).encode("ascii")).hexdigest()
