# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.support.driver_alone FOLDER``: what the driver does for a body-sized scan, without its tasks.

Plans, writes and reads the plan, takes the results of all tasks, registers the packs and writes the report.  Prints one
JSON line with sizes and the peak of resident memory [B].
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from pyspark.sql import SparkSession

from ingest.chunks import ChunkFile, PixelDigests, ScanManifest, StoredScan, frames_layout, projection_layout
from ingest.scan import EnergyBin, FieldFrames, Scan
from pacs.pack import PackWriter
from pacs.part10 import InstanceHeader
from pacs.register import register_packs
from reconstruction.geometry import ConeBeamGeometry
from spark_jobs.planning.plan import make_plan, plan_from_bytes
from spark_jobs.planning.request import ReconstructionRequest
from spark_jobs.planning.series import RunRecord
from spark_jobs.running.reconstruct_scan import reconstruct_scan
from spark_jobs.running.report import run_report, write_report
from spark_jobs.running.stages import StageResult
from storage.filesystem import open_store
from tests.support.index_engine import sqlite_index
from tests.support.records import make_record

N_VIEWS, N_ROWS, N_COLS, N_BINS = 720, 6000, 4000, 8
N_INSTANCES, PACK_INSTANCES = 20_000, 500


def body_scan(store) -> StoredScan:
    """A scan of 276 TB as its manifest tells of it."""
    angles = np.arange(N_VIEWS) * 2 * np.pi / N_VIEWS
    geometry = ConeBeamGeometry.circular(
        sod_mm=1000.0, sdd_mm=1500.0, angles_rad=angles, n_rows=N_ROWS, n_cols=N_COLS, pitch_u_mm=0.11, pitch_v_mm=0.11
    )
    scan = Scan(
        scan_id="body", source_format="array", content="counts", bins=tuple(EnergyBin(i) for i in range(N_BINS)),
        pixel_type="uint16", n_views=N_VIEWS, n_rows=N_ROWS, n_cols=N_COLS, geometry=geometry, flats=FieldFrames(20),
    )  # fmt: skip
    layout = projection_layout(scan)
    files = tuple(
        ChunkFile(layout.file_name(b, blocks), "projection", b, blocks, 256_000_000, "0" * 64)
        for b in range(N_BINS)
        for blocks in layout.file_blocks
    )
    digests = PixelDigests(tuple(hashlib.sha256(str(i).encode()).hexdigest() for i in range(N_VIEWS)))
    groups = tuple((4_000_000,) * len(layout.row_groups) for _ in range(N_BINS))
    layouts = {"projection": layout, "flat": frames_layout("flat", scan, 20)}
    return StoredScan(store, ScanManifest(scan, digests, layouts, files, groups))


def write_packs(store) -> list[str]:
    """Packs with manifests as large as real ones, around very small instances."""
    paths = []
    for first in range(0, N_INSTANCES, PACK_INSTANCES):
        paths.append(f"packs/body/{first:06d}.zip")
        with store.open_write(paths[-1]) as handle:
            writer = PackWriter(handle, source="driver memory")
            for number in range(first, first + PACK_INSTANCES):
                record = make_record(number=number, ImageComments="x" * 700)
                header = InstanceHeader(
                    record.sop_instance_uid, record.sop_class_uid, record.transfer_syntax_uid, record.study_uid,
                    record.series_uid, record.patient_id, record.attributes, -1, record.location.dataset_sha256,
                )  # fmt: skip
                writer.add(number.to_bytes(8, "little"), header)
            writer.finish()
    return paths


def main() -> None:
    folder = Path(sys.argv[1])
    store = open_store((folder / "store").as_uri())
    packs = write_packs(store)
    stored = body_scan(store)
    plan = make_plan(
        stored, ReconstructionRequest("body", slab_slices=16, mode="fused", task_memory_bytes=64 << 30)
    )  # fmt: skip
    assert plan_from_bytes(plan.to_bytes(), "plan").run_name == plan.run_name
    digest = "0" * 64
    results = [
        {
            "bin": b, "slab": s, "wall_s": 1.0, "cpu_s": 1.0, "peak_bytes": 1 << 30, "pack": packs[0], "pack_bytes": 1,
            "slice_sha256": [digest] * plan.slabs[s].n_slices, "n_clipped": 0, "updates": 1, "reconstruct_s": 1.0,
            "encode_s": 1.0, "read_bytes": 1, "floored": {"n_floored": 0, "n_values": 1},
        }
        for b, s in plan.tasks
    ]  # fmt: skip
    results = [json.loads(line) for line in [json.dumps(result) for result in results]]
    with sqlite_index(folder / "index.sqlite") as index:
        outcomes = register_packs(index, store, packs, source="driver memory")
    run = RunRecord("20260101", "120000", {b: (-1.0, 4.0) for b in plan.bins}, dict.fromkeys(plan.bins, ""), "1")
    report = run_report(
        stored, plan, run, [StageResult("reconstruct", 1.0, results)], outcomes=dict(outcomes), series=[], software="1",
        seconds={},
    )  # fmt: skip
    write_report(store, "runs/body", report)
    assert SparkSession is not None
    assert reconstruct_scan is not None
    # Not getrusage: its peak is inherited from the process that starts this one.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    sizes = {"tasks": len(plan.tasks), "files": len(stored.manifest.files), "view_blocks": stored.n_view_blocks}
    print(json.dumps({"peak_bytes": peak, "added": outcomes["added"], **sizes}))


if __name__ == "__main__":
    main()
