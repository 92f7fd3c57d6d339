# SPDX-License-Identifier: Apache-2.0
"""Jobs on all kinds of orbits, their tasks run one after the other: what they take against what is planned."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from ingest.chunks import open_scan_chunks
from ingest.upload import upload
from reconstruction.fdk import FdkParameters
from spark_jobs.planning.plan import make_plan
from spark_jobs.planning.request import ReconstructionRequest
from spark_jobs.planning.series import RunRecord, fix_run
from spark_jobs.running.submit import run_folder
from spark_jobs.tasks.job_stages import job_stages
from spark_jobs.tasks.workers import RunPlace, measured
from storage.publish import publish_bytes
from tests.support.fake_reader import FakeReader, small_scan
from tests.support.orbits import circle, degrees, helix, stack, stepped, tilted, together

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconstruction.geometry import ConeBeamGeometry
    from spark_jobs.planning.plan import ReconstructionPlan
    from storage.filesystem import Store

TILTS = {"roll_deg": 2.0, "pitch_deg": 3.0, "yaw_deg": 1.0}
#: How each mode is asked for.
MODES: dict[str, dict[str, Any]] = {
    "fused": {"mode": "fused"}, "two stages": {"mode": "two_stage"}, "bricks": {"cut": "bricks"},
}  # fmt: skip


def orbit_cases(n_views: int, scale: float) -> dict[str, Callable[[], tuple[ConeBeamGeometry, dict[str, Any]]]]:
    """Scans by name, with the FDK parameters that they need; `scale` 1 is a panel of 64 x 128 pixels."""
    panel = {
        "n_rows": round(64 * scale), "n_cols": round(128 * scale), "pitch_u_mm": 0.6 / scale, "pitch_v_mm": 0.6 / scale,
    }  # fmt: skip
    narrow = panel | {"n_cols": round(80 * scale)}
    general = {"tilted": "general"}
    angles, sides = degrees(0, 360, 360 / n_views), (-13.0, 13.0)
    gap = ((round(30 * scale), round(32 * scale)),)

    def merged(**changes: Any) -> ConeBeamGeometry:
        return stepped(sides, (0.0, 0.0), n_views, **(narrow | changes))

    def positions(**changes: Any) -> ConeBeamGeometry:
        return stepped(sides, (0.0, 0.5), n_views, **(narrow | changes))

    return {
        "tilted": lambda: (tilted(circle(angles, **panel), **TILTS), {}),
        "tilted, general": lambda: (tilted(circle(angles, **panel), **TILTS), general),
        "gaps": lambda: (dataclasses.replace(circle(angles, **panel), column_gaps=gap), {}),
        "merged": lambda: (merged(), {}),
        "merged, gaps": lambda: (dataclasses.replace(merged(), column_gaps=gap), {}),
        "merged, tilted": lambda: (tilted(merged(), **TILTS), {}),
        "positions": lambda: (positions(), {}),
        "positions, general": lambda: (tilted(positions(), **TILTS), general),
        "stack": lambda: (stack((-12.0, 0.0, 12.0), angles, **panel), {}),
        "stack, merged": lambda: (together(merged(z_mm=-8.0), merged(z_mm=8.0)), {}),
        "stack, positions": lambda: (together(positions(z_mm=-8.0), positions(z_mm=8.0)), {}),
        "helix": lambda: (helix(3.3, n_views, 12.0, **panel), {}),
        "helix, tilted": lambda: (tilted(helix(3.3, n_views, 12.0, **panel), **TILTS), {}),
        "helix, general": lambda: (tilted(helix(3.3, n_views, 12.0, **panel), **TILTS), general),
    }


def store_scan(store: Store, geometry: ConeBeamGeometry, *, block_views: int, scan_id: str = "orbit") -> None:
    """Store raw counts on an orbit, in view blocks of so many frames."""
    rng = np.random.default_rng(2)
    panel = geometry.n_rows, geometry.n_cols
    few = rng.poisson(900, size=(1, 8, *panel)).astype("u2")
    frames = np.take(few, np.arange(geometry.n_views) % 8, axis=1)
    flats, darks = (rng.poisson(mean, size=(1, 4, *panel)).astype("u2") for mean in (4000, 20))
    scan = small_scan(
        scan_id=scan_id, n_bins=1, n_views=geometry.n_views, n_rows=panel[0], n_cols=panel[1], geometry=geometry
    )
    reader = FakeReader(scan, frames, flats=flats, darks=darks)
    upload(reader, store, memory_bytes=2 * block_views * panel[0] * panel[1])


@dataclasses.dataclass
class OrbitJob:
    """A plan in its place, and its tasks."""

    store: Store
    wanted: dict[str, Any]
    scan_id: str = "orbit"

    def __post_init__(self) -> None:
        stored = open_scan_chunks(self.store, self.scan_id)
        self.plan: ReconstructionPlan = make_plan(stored, ReconstructionRequest(self.scan_id, **self.wanted))
        folder = run_folder(self.plan)
        self.place = RunPlace(self.store.url, folder, 1)
        publish_bytes(self.store, f"{folder}/plan.json", self.plan.to_bytes(), kind="replace")
        fix_run(self.store, folder, RunRecord("20260101", "120000", {}, {}, "1.0"))

    def run(self, stage_name: str) -> list[dict[str, Any]]:
        """Run all tasks of a stage."""
        stage = next(stage for stage in job_stages(self.plan) if stage.name == stage_name)
        results = [measured(self.place, task, stage.work) for task in range(stage.n_tasks)]
        assert not [result["error"] for result in results if "error" in result], stage_name
        return results


def wanted_of(mode: str, fdk: dict[str, Any], side: int, slices: int, **others: Any) -> dict[str, Any]:
    """A request for a region of 24 mm across: 36 slices of `slices` and as many rows and columns as `side`."""
    pitch = (0.36, 24.0 / side, 24.0 / side)
    volume = {"shape": (36, side, side), "voxel_pitch_mm": pitch, "slab_slices": slices, "fdk": _parameters(fdk)}
    if mode == "bricks":
        volume["brick_voxels"] = (side // 2, side // 2)
    return volume | MODES[mode] | others


def _parameters(fdk: dict[str, Any]) -> FdkParameters:
    return FdkParameters(field_radius_mm=12.0, **fdk)
