# SPDX-License-Identifier: Apache-2.0
"""The value of a plan: what all tasks of a run go by, and its form in ``runs/<run>/plan.json``."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pacs.provenance import parameters_sha256
from reconstruction.binning import binned_geometry
from reconstruction.fdk import KERNEL_VERSION, SlabSetup, prepare
from reconstruction.geometry import ConeBeamGeometry, Slab, VolumeGrid
from reconstruction.iterative.parameters import ITERATIVE_VERSION
from spark_jobs.errors import PlanError
from spark_jobs.planning.brick_cut import BrickCut, brick_cut_from_json
from spark_jobs.planning.cost import PlanCost, cost_from_json
from spark_jobs.planning.request import ReconstructionRequest, request_from_json
from spark_jobs.planning.task_memory import ENCODE_SLICES
from spark_jobs.planning.view_groups import ViewGroup

if TYPE_CHECKING:
    from ingest.chunks import StoredScan

PLAN_SCHEMA_VERSION = 3


@dataclass(frozen=True, slots=True)
class ReconstructionPlan:
    """What all tasks of a run go by.

    Attributes
    ----------
    request : as asked.
    scan_sha256 : identity of the stored scan.
    bins : energy bins to make.
    grid, radius_mm : the volume and its field.
    backend : with its instruction set.
    two_stage : rows are filtered once, before the slab tasks.
    kernel : back-projection kernel: ``four_fold``, ``upright`` or ``any_pose``.
    path : how frames become views, how rays are weighted and which kernel runs, in plain sentences.
    slabs : cut of the volume.
    rows : first and end detector row that any slab needs.
    groups : views that are filtered and stored together, and the view blocks that hold their frames.
    batches : places of the groups that a slab task reads together, in its order.
    batch_views : views of all groups of a batch that are filtered together.
    filter_rows : rows of one filter task (two stages).
    preview_factor : voxels of a side that a preview voxel averages.
    cost : what it costs.
    bricks : how slabs are cut in y and x; None where they are made whole.
    detector_binning : pixels of a side that are averaged after the logarithm.
    encode_slices : slices on their way into a pack at a time.
    notes : plain sentences an operator should read.
    """

    request: ReconstructionRequest
    scan_sha256: str
    bins: tuple[int, ...]
    grid: VolumeGrid
    radius_mm: float
    backend: str
    two_stage: bool
    kernel: str
    slabs: tuple[Slab, ...]
    rows: tuple[int, int]
    groups: tuple[ViewGroup, ...]
    batches: tuple[tuple[int, ...], ...]
    batch_views: int
    filter_rows: int
    preview_factor: int
    cost: PlanCost
    notes: tuple[str, ...] = ()
    bricks: BrickCut | None = None
    detector_binning: int = 1
    encode_slices: int = ENCODE_SLICES
    path: tuple[str, ...] = ()

    @property
    def four_fold(self) -> bool:
        """Whether the kernel for four views a quarter turn apart runs."""
        return self.kernel == "four_fold"

    @property
    def tasks(self) -> tuple[tuple[int, int], ...]:
        """(bin, slab index) of each slab task, in the order of the task numbers."""
        return tuple((b, s) for b in self.bins for s in range(len(self.slabs)))

    @property
    def brick_tasks(self) -> tuple[tuple[int, int], ...]:
        """(bin, brick) of each brick task, in the order of the task numbers; none without bricks."""
        n_bricks = 0 if self.bricks is None else len(self.slabs) * len(self.bricks.areas)
        return tuple((b, brick) for b in self.bins for brick in range(n_bricks))

    @property
    def run_name(self) -> str:
        """Name of the run's folder: the scan, and a digest of everything that shapes the result."""
        return f"{self.request.scan_id}-{parameters_sha256(self.identity())[:16]}"

    def identity(self) -> dict[str, Any]:
        """Everything that shapes the bytes of the result, as JSON values."""
        request = self.request.to_json()
        # How much memory there was shapes nothing that is not named below.
        for name in (
            "task_memory_bytes", "mode", "backend", "n_slabs", "slab_slices", "bins", "four_fold", "cut",
            "brick_voxels", "detector_binning", "tuning", "gpu_memory_bytes",
        ):  # fmt: skip
            request.pop(name)
        if not self.two_stage:
            request.pop("band_type")
        if self.request.iterative is None:
            request.pop("iterative")
        # Only where they are in use: a run without them keeps its name.
        extra: dict[str, Any] = {}
        if self.bricks is not None:
            extra["bricks"] = self.bricks.to_json()
        if self.detector_binning != 1:
            extra["detector_binning"] = self.detector_binning
        if self.request.iterative is not None:
            extra["iterative_version"] = ITERATIVE_VERSION
        return extra | {
            "request": request,
            "scan_sha256": self.scan_sha256,
            "backend": self.backend,
            "kernel_version": KERNEL_VERSION,
            "two_stage": self.two_stage,
            "kernel": self.kernel,
            "grid": _grid_json(self.grid),
            "radius_mm": self.radius_mm,
            "slab_starts": [slab.z_start for slab in self.slabs],
            "view_groups": [[group.start, group.stop] for group in self.groups],
            "view_batches": [list(batch) for batch in self.batches],
            "preview_factor": self.preview_factor,
        }

    def setup(self, geometry: ConeBeamGeometry, slab_index: int) -> SlabSetup:
        """Return one slab's share of the reconstruction."""
        slab = self.slabs[slab_index]
        return prepare(geometry, self.grid, self.request.fdk, slab, four_fold=self.four_fold)

    def brick_setup(self, geometry: ConeBeamGeometry, brick_index: int) -> SlabSetup:
        """Return one brick's share of the reconstruction."""
        assert self.bricks is not None
        brick = self.bricks.brick(brick_index)
        slab = self.slabs[brick.slab_index]
        return prepare(geometry, self.grid, self.request.fdk, slab, four_fold=False, area=brick.area)

    def to_bytes(self) -> bytes:
        """Write the plan as JSON."""
        values = {
            "schema_version": PLAN_SCHEMA_VERSION,
            "request": self.request.to_json(),
            "scan_sha256": self.scan_sha256,
            "bins": list(self.bins),
            "grid": _grid_json(self.grid),
            "radius_mm": self.radius_mm,
            "backend": self.backend,
            "two_stage": self.two_stage,
            "kernel": self.kernel,
            "path": list(self.path),
            "slabs": [[slab.z_start, slab.z_stop] for slab in self.slabs],
            "rows": list(self.rows),
            "groups": [[group.start, group.stop, list(group.blocks)] for group in self.groups],
            "batches": [list(batch) for batch in self.batches],
            "batch_views": self.batch_views,
            "filter_rows": self.filter_rows,
            "preview_factor": self.preview_factor,
            "cost": dataclasses.asdict(self.cost),
            "notes": list(self.notes),
            "bricks": None if self.bricks is None else self.bricks.to_json(),
            "detector_binning": self.detector_binning,
            "encode_slices": self.encode_slices,
        }
        return json.dumps(values, sort_keys=True, indent=1).encode()


def plan_from_bytes(content: bytes, source: str) -> ReconstructionPlan:
    """Read a plan that `ReconstructionPlan.to_bytes` wrote; PlanError if it is of another schema version."""
    values = json.loads(content)
    if values.get("schema_version") != PLAN_SCHEMA_VERSION:
        raise PlanError(
            f"{source} has plan schema version {values.get('schema_version')}, expected {PLAN_SCHEMA_VERSION}: it was "
            "planned by another release, submit the job again"
        )
    grid = values["grid"]
    return ReconstructionPlan(
        request=request_from_json(values["request"]),
        scan_sha256=values["scan_sha256"],
        bins=tuple(values["bins"]),
        grid=VolumeGrid(tuple(grid["shape"]), tuple(grid["voxel_pitch_mm"]), tuple(grid["center_mm"])),
        radius_mm=values["radius_mm"],
        backend=values["backend"],
        two_stage=values["two_stage"],
        kernel=values["kernel"],
        path=tuple(values["path"]),
        slabs=tuple(Slab(a, b) for a, b in values["slabs"]),
        rows=tuple(values["rows"]),
        groups=tuple(ViewGroup(start, stop, tuple(blocks)) for start, stop, blocks in values["groups"]),
        batches=tuple(tuple(batch) for batch in values["batches"]),
        batch_views=values["batch_views"],
        filter_rows=values["filter_rows"],
        preview_factor=values["preview_factor"],
        cost=cost_from_json(values["cost"]),
        notes=tuple(values["notes"]),
        bricks=brick_cut_from_json(values["bricks"]),
        detector_binning=values["detector_binning"],
        encode_slices=values["encode_slices"],
    )


def _grid_json(grid: VolumeGrid) -> dict[str, Any]:
    return {
        "shape": list(grid.shape),
        "voxel_pitch_mm": list(grid.voxel_pitch_mm),
        "center_mm": list(grid.center_mm),
    }


def geometry_of(stored: StoredScan) -> ConeBeamGeometry:
    """Return the scan's cone-beam geometry.

    Raises
    ------
    PlanError
        If it has none: parallel beam, or no description.
    """
    scan = stored.scan
    if scan.geometry is not None:
        return scan.geometry
    if scan.parallel is not None:
        raise PlanError(
            f"scan {scan.scan_id} is a parallel-beam scan; only cone-beam scans are reconstructed, since FDK needs the "
            "distances of source and detector: if it was a cone beam, give them in [geometry] of its scan.toml and "
            "upload it again"
        )
    raise PlanError(
        f"scan {scan.scan_id} has no geometry: add a scan.toml with a [geometry] section to its source and upload again"
    )


def working_geometry(stored: StoredScan, plan: ReconstructionPlan) -> ConeBeamGeometry:
    """Return the geometry of the rows that the plan filters: the scan's, with pixels averaged as the plan says."""
    return binned_geometry(geometry_of(stored), plan.detector_binning)
