# SPDX-License-Identifier: Apache-2.0
"""What runs the kinds of `spark_jobs.looks.kinds`: loaded by the runner, and by the command line."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ingest.chunks import open_scan_chunks
from pacs.provenance import parameters_sha256
from spark_jobs.looks.preview import preview
from spark_jobs.looks.sheet import contact_sheet, drawn_range, preview_png
from spark_jobs.looks.sweep import sweep
from storage.log_context import log_context
from storage.publish import publish_bytes

if TYPE_CHECKING:
    from spark_jobs.looks.parameters import PreviewParameters, SweepParameters
    from spark_jobs.looks.preview import Preview
    from spark_jobs.looks.sweep import Sweep
    from spark_jobs.running.job_context import JobContext


def run_preview(context: JobContext, parameters: PreviewParameters) -> dict[str, Any]:
    """Look at a scan, and put the picture into the store.

    Returns
    -------
    dict
        `preview_figures`, and where the picture (PNG) is in the store.
    """
    with log_context(scan_id=parameters.scan_id):
        look = preview(open_scan_chunks(context.store, parameters.scan_id), parameters)
        path = look_path(parameters)
        publish_bytes(context.store, path, preview_png(look), kind="replace")
    return preview_figures(look) | {"picture": path}


def run_sweep(context: JobContext, parameters: SweepParameters) -> dict[str, Any]:
    """Sweep a parameter, and put the contact sheet into the store.

    Returns
    -------
    dict
        `sweep_figures`, and where the contact sheet (PNG) is in the store.
    """
    with log_context(scan_id=parameters.scan_id):
        found = sweep(open_scan_chunks(context.store, parameters.scan_id), parameters)
        path = look_path(parameters)
        publish_bytes(context.store, path, contact_sheet(found, parameters.parameter), kind="replace")
    return sweep_figures(found, parameters) | {"picture": path}


def look_path(parameters: PreviewParameters) -> str:
    """Where the picture of a look lies in the store: the same for the same parameters."""
    digest = parameters_sha256(asdict(parameters) | {"kind": type(parameters).__name__})
    return f"looks/{parameters.scan_id}/{digest[:16]}.png"


def preview_figures(look: Preview) -> dict[str, Any]:
    """What a look is, as JSON values."""
    black, white = drawn_range(look)
    return {
        "shape": list(look.grid.shape),
        "voxel_pitch_mm": list(look.grid.voxel_pitch_mm),
        "center_mm": [round(middle, 9) + 0.0 for middle in look.grid.center_mm],
        "black_per_mm": black,
        "white_per_mm": white,
        "views": look.n_views,
        "averaged_pixels": look.binning,
        "read_bytes": look.read_bytes,
        "seconds": round(look.seconds, 3),
        "notes": list(look.notes),
    }


def sweep_figures(found: Sweep, parameters: SweepParameters) -> dict[str, Any]:
    """What a sweep found, as JSON values."""
    return {
        "parameter": parameters.parameter,
        "score": parameters.score,
        "values": list(found.values),
        "scores": [round(score, 6) for score in found.scores],
        "best": found.values[found.best],
        "refined": None if found.refined is None else round(found.refined, 4),
        "z_mm": found.grid.center_mm[2],
        "views": found.n_views,
        "seconds": round(found.seconds, 3),
    }
