# SPDX-License-Identifier: Apache-2.0
"""The plan of a reconstruction: everything decided before a pixel of the job is read.

A plan fixes slabs, view batches, back end (with its instruction set), stored range and dates, so that every task, retry
and rerun of it makes the same bytes.  It is kept at ``runs/<run>/plan.json`` and read by the tasks.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pacs.preview import preview_factor
from pacs.provenance import parameters_sha256
from reconstruction.backends import load_backend
from reconstruction.coverage import (
    check_full_turn,
    check_reconstructable,
    default_grid,
    field_radius_mm,
    uncovered_slices,
)
from reconstruction.errors import MemoryBudgetError
from reconstruction.fdk import KERNEL_VERSION, SlabSetup, prepare
from reconstruction.geometry import ConeBeamGeometry, Slab, VolumeGrid
from reconstruction.slabs import SLAB_ALIGNMENT, cut_slabs, slabs_of_height
from spark_jobs.cost import PlanCost, filter_task_bytes, plan_cost, prepare_task_bytes, slab_task_bytes
from spark_jobs.errors import PlanError
from spark_jobs.probe import probe_bands
from spark_jobs.request import MEBIBYTE, ReconstructionRequest, request_from_json

if TYPE_CHECKING:
    from ingest.chunks import StoredScan

PLAN_SCHEMA_VERSION = 1
#: Views that a task filters together, where memory allows.
BATCH_VIEWS = 128
#: Slabs are at least this high by default: thinner ones pay more set-up than they gain.
MIN_SLAB_SLICES = 64


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
    four_fold : the kernel for four views a quarter turn apart runs.
    slabs : cut of the volume.
    rows : first and end detector row that any slab needs.
    batches : view blocks that a slab task reads together, in its order.
    batch_views : views of all blocks of a batch that are filtered together.
    filter_rows : rows of one filter task (two stages).
    preview_factor : voxels of a side that a preview voxel averages.
    cost : what it costs.
    notes : plain sentences an operator should read.
    """

    request: ReconstructionRequest
    scan_sha256: str
    bins: tuple[int, ...]
    grid: VolumeGrid
    radius_mm: float
    backend: str
    two_stage: bool
    four_fold: bool
    slabs: tuple[Slab, ...]
    rows: tuple[int, int]
    batches: tuple[tuple[int, ...], ...]
    batch_views: int
    filter_rows: int
    preview_factor: int
    cost: PlanCost
    notes: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[tuple[int, int], ...]:
        """(bin, slab index) of each slab task, in the order of the task numbers."""
        return tuple((b, s) for b in self.bins for s in range(len(self.slabs)))

    @property
    def run_name(self) -> str:
        """Name of the run's folder: the scan, and a digest of everything that shapes the result."""
        return f"{self.request.scan_id}-{parameters_sha256(self.identity())[:16]}"

    def identity(self) -> dict[str, Any]:
        """Everything that shapes the bytes of the result, as JSON values."""
        request = self.request.to_json()
        # How much memory there was shapes nothing that is not named below.
        for name in ("task_memory_bytes", "mode", "backend", "n_slabs", "slab_slices", "bins", "four_fold"):
            request.pop(name)
        if not self.two_stage:
            request.pop("band_type")
        return {
            "request": request,
            "scan_sha256": self.scan_sha256,
            "backend": self.backend,
            "kernel_version": KERNEL_VERSION,
            "two_stage": self.two_stage,
            "four_fold": self.four_fold,
            "grid": _grid_json(self.grid),
            "radius_mm": self.radius_mm,
            "slab_starts": [slab.z_start for slab in self.slabs],
            "view_batches": [list(batch) for batch in self.batches],
            "preview_factor": self.preview_factor,
        }

    def setup(self, geometry: ConeBeamGeometry, slab_index: int) -> SlabSetup:
        """Return one slab's share of the reconstruction."""
        return _prepare(geometry, self.grid, self.request, self.slabs[slab_index], four_fold=self.four_fold)

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
            "four_fold": self.four_fold,
            "slabs": [[slab.z_start, slab.z_stop] for slab in self.slabs],
            "rows": list(self.rows),
            "batches": [list(batch) for batch in self.batches],
            "batch_views": self.batch_views,
            "filter_rows": self.filter_rows,
            "preview_factor": self.preview_factor,
            "cost": dataclasses.asdict(self.cost),
            "notes": list(self.notes),
        }
        return json.dumps(values, sort_keys=True, indent=1).encode()


def plan_from_bytes(content: bytes, source: str) -> ReconstructionPlan:
    """Read a plan that `ReconstructionPlan.to_bytes` wrote; PlanError if it is of another schema version."""
    values = json.loads(content)
    if values.get("schema_version") != PLAN_SCHEMA_VERSION:
        raise PlanError(
            f"{source} has plan schema version {values.get('schema_version')}, expected {PLAN_SCHEMA_VERSION}"
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
        four_fold=values["four_fold"],
        slabs=tuple(Slab(a, b) for a, b in values["slabs"]),
        rows=tuple(values["rows"]),
        batches=tuple(tuple(batch) for batch in values["batches"]),
        batch_views=values["batch_views"],
        filter_rows=values["filter_rows"],
        preview_factor=values["preview_factor"],
        cost=PlanCost(**values["cost"]),
        notes=tuple(values["notes"]),
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
            f"distances of source and detector"
        )
    raise PlanError(
        f"scan {scan.scan_id} has no geometry: add a scan.toml with a [geometry] section to its source and upload again"
    )


def make_plan(stored: StoredScan, request: ReconstructionRequest) -> ReconstructionPlan:
    """Decide everything about a run from the manifest and the request; no pixel is read.

    Raises
    ------
    PlanError, GeometryError, BackendUnavailableError, MemoryBudgetError
        If it cannot be done: the message says what was got, and what is possible.
    """
    scan = stored.scan
    geometry = geometry_of(stored)
    if scan.content == "counts" and scan.flats is None:
        raise PlanError(f"scan {scan.scan_id} holds raw counts and needs flat fields, but has none")
    bins = request.bins or tuple(energy_bin.index for energy_bin in scan.bins)
    unknown = [b for b in bins if not 0 <= b < len(scan.bins)]
    if unknown:
        raise PlanError(f"scan {scan.scan_id} has the bins 0 to {len(scan.bins) - 1}, asked for bin {unknown[0]}")
    backend = load_backend(request.backend).name
    check_full_turn(geometry)  # before the grid: of too few views the arc is what matters
    grid = _grid(geometry, request)
    radius = field_radius_mm(grid, request.fdk.field_radius_mm)
    check_reconstructable(geometry, grid, radius)
    # The reference adds view by view, whatever the symmetry.
    four_fold = request.four_fold and backend != "numpy_reference"
    setup = _prepare(geometry, grid, request, Slab(0, grid.shape[0]), four_fold=four_fold)
    batches, aligned = _batches(stored, setup)
    if not aligned:
        setup = _prepare(geometry, grid, request, setup.slab, four_fold=False)
    sizing = _Sizing(stored, request, backend, len(batches[0]))
    setups = _cut(sizing, setup)
    batch_views = _batch_views(sizing, setups)
    two_stage, cost, filter_rows = _choose_stages(
        sizing, setups, bins=tuple(bins), batch_views=batch_views, radius_mm=radius
    )  # fmt: skip
    return ReconstructionPlan(
        request=request,
        scan_sha256=stored.manifest_sha256,
        bins=tuple(bins),
        grid=grid,
        radius_mm=radius,
        backend=backend,
        two_stage=two_stage,
        four_fold=setup.quarter is not None,
        slabs=tuple(part.slab for part in setups),
        rows=_rows(setups),
        batches=batches,
        batch_views=batch_views,
        filter_rows=filter_rows,
        preview_factor=preview_factor(grid.shape),
        cost=cost,
        notes=_notes(stored, geometry, grid, radius, setup, request),
    )


def _prepare(
    geometry: ConeBeamGeometry, grid: VolumeGrid, request: ReconstructionRequest, slab: Slab, *, four_fold: bool
) -> SlabSetup:
    return prepare(geometry, grid, request.fdk, slab, four_fold=four_fold)


def _grid(geometry: ConeBeamGeometry, request: ReconstructionRequest) -> VolumeGrid:
    """The volume as asked for, or the largest that the panel sees whole."""
    if request.shape is None:
        grid = default_grid(geometry, request.voxel_pitch_mm)
        return grid if request.center_mm is None else VolumeGrid(grid.shape, grid.voxel_pitch_mm, request.center_mm)
    pitch = request.voxel_pitch_mm or geometry.pitch_mm[1] * geometry.sod_mm / geometry.sdd_mm
    center = request.center_mm or (0.0, 0.0, float(geometry.poses[:, 2].mean()))
    return VolumeGrid(request.shape, (pitch, pitch, pitch), center)


def slab_alignment(grid: VolumeGrid) -> int:
    """Return what slab borders are multiples of: the SIMD step, and the blocks of the preview."""
    return max(SLAB_ALIGNMENT, preview_factor(grid.shape))


def _batches(stored: StoredScan, setup: SlabSetup) -> tuple[tuple[tuple[int, ...], ...], bool]:
    """View blocks to read together; whether they line up with the quarter turns (true without four-fold symmetry)."""
    n_blocks, size, n_views = stored.n_view_blocks, stored.layout.view_block, setup.geometry.n_views
    single = tuple((index,) for index in range(n_blocks))
    if setup.quarter is None:
        return single, True
    if (n_views // 4) % size:
        return single, False
    per_quarter = n_blocks // 4
    return tuple(
        tuple((block * size + j * setup.quarter) % n_views // size for j in range(4)) for block in range(per_quarter)
    ), True


@dataclass(frozen=True, slots=True)
class _Sizing:
    """What the memory of a task follows from, besides its slab."""

    stored: StoredScan
    request: ReconstructionRequest
    backend: str
    blocks: int

    def slab_bytes(self, setup: SlabSetup, batch_views: int) -> int:
        """Peak memory of a slab task, in whichever of the wanted modes needs more [B]."""
        item_bytes = _band_item_bytes(self.request)
        kinds = {"fused": (None,), "two_stage": (item_bytes,), "auto": (None, item_bytes)}[self.request.mode]
        return max(
            slab_task_bytes(
                self.stored, setup, backend=self.backend, blocks=self.blocks, batch_views=batch_views,
                band_item_bytes=kind,
            )
            for kind in kinds
        )  # fmt: skip

    def setup(self, whole: SlabSetup, slab: Slab) -> SlabSetup:
        """One slab's share of the reconstruction."""
        return _prepare(whole.geometry, whole.grid, self.request, slab, four_fold=whole.quarter is not None)

    def require(self, needed: int, what: str) -> None:
        """Refuse a task that needs more memory than it may use."""
        if needed > self.request.task_memory_bytes:
            raise MemoryBudgetError(
                f"{what} of scan {self.stored.scan.scan_id} needs {math.ceil(needed / MEBIBYTE)} MiB in one task, but "
                f"{self.request.task_memory_bytes / MEBIBYTE:.0f} MiB are allowed: take thinner slabs, a smaller "
                f"volume or more memory"
            )


def _band_item_bytes(request: ReconstructionRequest) -> int:
    return 4 if request.band_type == "float32" else 2


def _cut(sizing: _Sizing, whole: SlabSetup) -> tuple[SlabSetup, ...]:
    """Cut the volume as asked, or into the highest slabs that fit the memory and still keep several tasks busy."""
    request, n_slices = sizing.request, whole.grid.shape[0]
    if request.n_slabs is not None:
        slabs = cut_slabs(n_slices, request.n_slabs, slab_alignment(whole.grid))
    elif request.slab_slices is not None:
        slabs = slabs_of_height(n_slices, request.slab_slices, slab_alignment(whole.grid))
    else:
        slabs = _cut_by_memory(sizing, whole)
    setups = tuple(sizing.setup(whole, slab) for slab in slabs)
    for setup in setups:
        sizing.require(sizing.slab_bytes(setup, 4), f"slab {setup.slab.z_start}:{setup.slab.z_stop}")
    return setups


def _cut_by_memory(sizing: _Sizing, whole: SlabSetup) -> tuple[Slab, ...]:
    """Equal slabs of about `MIN_SLAB_SLICES`, thinner where the memory asks for it."""
    n_slices = whole.grid.shape[0]
    batch_views = min(BATCH_VIEWS, whole.geometry.n_views)
    alignment = slab_alignment(whole.grid)
    height = max(alignment, min(n_slices, MIN_SLAB_SLICES))
    while height > alignment:
        parts = cut_slabs(n_slices, math.ceil(n_slices / height), alignment)
        some = (parts[0], parts[len(parts) // 2], parts[-1])
        worst = max(sizing.slab_bytes(sizing.setup(whole, slab), batch_views) for slab in some)
        if worst <= sizing.request.task_memory_bytes:
            return parts
        height -= alignment
    return slabs_of_height(n_slices, alignment, alignment)


def _batch_views(sizing: _Sizing, setups: tuple[SlabSetup, ...]) -> int:
    """Views filtered together: as many as fit, a multiple of four for each block, at most `BATCH_VIEWS` in all."""
    most = min(BATCH_VIEWS, sizing.blocks * sizing.stored.layout.view_block)
    for views in range(most - most % 4 or 4, 3, -4):
        if max(sizing.slab_bytes(setup, views) for setup in setups) <= sizing.request.task_memory_bytes:
            return views
    return 4


def _choose_stages(
    sizing: _Sizing, setups: tuple[SlabSetup, ...], *, bins: tuple[int, ...], batch_views: int, radius_mm: float
) -> tuple[bool, PlanCost, int]:
    """Fused or two stages: as asked, or whichever is expected to take less time; its cost; rows of a filter task."""
    stored, request, whole = sizing.stored, sizing.request, setups[0]
    low, high = _rows(setups)

    def cost_of(two_stage: bool, task_bytes: int, filter_rows: int) -> PlanCost:
        return plan_cost(
            stored, setups, bins=bins, two_stage=two_stage, band_item_bytes=_band_item_bytes(request),
            backend=sizing.backend, task_bytes=task_bytes, filter_rows=filter_rows,
        )  # fmt: skip

    two_stage = request.mode == "two_stage"
    if request.mode == "auto":
        # Not by how many rows a filter task can hold: the choice shapes the result, the memory must not.
        two_stage = cost_of(True, 0, high - low).core_seconds < cost_of(False, 0, high - low).core_seconds
    probed = 0 if request.mu_range is not None else max(
        band.n_rows for band in probe_bands(whole.geometry, whole.grid, radius_mm)
    )  # fmt: skip
    prepare_bytes = prepare_task_bytes(stored, probed)
    sizing.require(prepare_bytes, "the search for bad pixels")
    needed = [prepare_bytes]
    kind = _band_item_bytes(request) if two_stage else None
    needed += [
        slab_task_bytes(
            stored, setup, backend=sizing.backend, blocks=sizing.blocks, batch_views=batch_views, band_item_bytes=kind
        )
        for setup in setups
    ]
    rows = high - low
    if two_stage:
        while rows > 1 and filter_task_bytes(stored, whole, n_rows=rows) > request.task_memory_bytes:
            rows = math.ceil(rows / 2)
        needed.append(filter_task_bytes(stored, whole, n_rows=rows))
        sizing.require(needed[-1], "the filtering of a detector row")
    return two_stage, cost_of(two_stage, max(needed), rows), rows


def _rows(setups: tuple[SlabSetup, ...]) -> tuple[int, int]:
    """The detector rows that any slab needs."""
    return min(s.band.row_start for s in setups), max(s.band.row_stop for s in setups)


def _notes(
    stored: StoredScan,
    geometry: ConeBeamGeometry,
    grid: VolumeGrid,
    radius_mm: float,
    setup: SlabSetup,
    request: ReconstructionRequest,
) -> tuple[str, ...]:
    """What an operator should know before the job runs."""
    notes = list(stored.scan.notes)
    cut_off = uncovered_slices(geometry, grid, radius_mm)
    if cut_off:
        notes.append(
            f"{cut_off} of {grid.shape[0]} slices have voxels that some views do not see (cone angle): "
            f"mu is too low there"
        )
    wanted_views = math.pi * radius_mm / grid.voxel_pitch_mm[1]
    if geometry.n_views < 0.5 * wanted_views:
        notes.append(
            f"{geometry.n_views} views are few for a field of {2 * radius_mm / grid.voxel_pitch_mm[1]:.0f} voxels: "
            f"expect streaks; take coarser voxels or a softer filter (about {wanted_views:.0f} views would do)"
        )
    if geometry.circular_orbit is None:
        notes.append(
            "the poses are not one circle with an upright panel: the kernel for any pose runs, and it is slower"
        )
    elif request.four_fold and setup.quarter is None:
        notes.append("no four-fold symmetry (views, grid or stored blocks): the kernel for any circular orbit runs")
    return tuple(notes)
