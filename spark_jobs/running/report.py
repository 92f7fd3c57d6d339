# SPDX-License-Identifier: Apache-2.0
"""The run report: what was done, with what, how long it took, and what it needed (JSON, and a page to read)."""

from __future__ import annotations

import dataclasses
import html
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from spark_jobs.running.spark_metrics import SparkMetrics
from storage.counted_store import StoreCounts
from storage.publish import publish_bytes

if TYPE_CHECKING:
    from ingest.chunks import StoredScan
    from spark_jobs.planning.plan import ReconstructionPlan
    from spark_jobs.planning.series import RunRecord
    from spark_jobs.running.stages import StageResult
    from storage.filesystem import Store

REPORT_SCHEMA_VERSION = 1
_PACKAGES = ("numpy", "scipy", "numba", "pyarrow", "pyspark", "pydicom")
_MIB = 1 << 20
#: Figures of a stage's plan that its tasks are held against.
_PLANNED = ("read_bytes", "reads", "written_bytes")


def run_report(
    stored: StoredScan,
    plan: ReconstructionPlan,
    run: RunRecord,
    stages: list[StageResult],
    *,
    outcomes: dict[str, int],
    series: list[dict[str, Any]],
    software: str,
    seconds: dict[str, float],
    ui_url: str = "",
) -> dict[str, Any]:
    """Collect the report of a finished run as JSON values."""
    slabs = stages[-1]
    computed = [r for stage in stages for r in stage.computed]
    # Slabs that are put together of bricks have none of their own.
    added = next((stage for stage in stages if stage.name == "bricks"), slabs)
    updates = sum(r["updates"] for r in added.computed)
    compute_s = sum(r["reconstruct_s"] for r in added.computed)
    filtered = [r for r in computed if "floored" in r]
    spark = sum((stage.spark for stage in stages), SparkMetrics())
    return {
        "schema_version": REPORT_SCHEMA_VERSION,
        "scan_id": plan.request.scan_id,
        "run": plan.run_name,
        "parameters": plan.identity(),
        "mu_ranges": {str(b): list(run.mu_ranges[b]) for b in plan.bins},
        "bad_pixels": {str(b): run.bad_pixels[b] for b in plan.bins},
        "path": list(plan.path),
        "notes": list(plan.notes),
        "versions": _versions(software),
        "series": series,
        "outcomes": outcomes,
        "seconds": {
            **{f"stage {stage.name}": round(stage.wall_s, 3) for stage in stages},
            **{name: round(value, 3) for name, value in seconds.items()},
        },
        "cpu_seconds": {stage.name: round(stage.cpu_s, 3) for stage in stages},
        "gups": {
            # Updates of the whole grid, over the seconds that tasks spent from the first row read to the last added.
            "per_task": round(updates / compute_s / 1e9, 4) if compute_s else None,
            "stage": round(updates / added.wall_s / 1e9, 4),
        },
        # Of all submits of a run: what this one found finished, and did not do again.
        "reused_tasks": {stage.name: len(stage.reused) for stage in stages},
        "spark": {**dataclasses.asdict(spark), "executor_run_s": round(spark.executor_run_s, 3), "ui_url": ui_url},
        "shuffle_bytes": spark.shuffle_bytes,
        "stages": [_stage_figures(plan, stage) for stage in stages],
        "over_memory": over_memory(plan, stages),
        "bytes": {
            "scan_stored": stored.manifest.stored_bytes,
            "read_by_tasks": sum(r.get("read_bytes", 0) for r in computed),
            "bands_written": sum(r.get("written_bytes", 0) for r in computed),
            "packs_written": sum(r["pack_bytes"] for r in slabs.computed),
        },
        "floored_values": {
            "count": sum(r["floored"]["n_floored"] for r in filtered),
            "of": sum(r["floored"]["n_values"] for r in filtered),
        },
        "peak_memory_mib": {
            **{stage.name: round(stage.peak_bytes / _MIB, 1) for stage in stages},
            "planned": round(plan.cost.task_bytes / _MIB, 1),
        },
        "tasks": [
            {
                "bin": r["bin"], "slab": r["slab"], "wall_s": round(r["wall_s"], 3), "cpu_s": round(r["cpu_s"], 3),
                "reconstruct_s": round(r["reconstruct_s"], 3), "encode_s": round(r["encode_s"], 3),
                "peak_mib": round(r["peak_bytes"] / _MIB, 1), "pack": r["pack"], "clipped": r["n_clipped"],
                "reused": place in slabs.reused,
            }
            for place, r in enumerate(slabs.results)
        ],
    }  # fmt: skip


def _stage_figures(plan: ReconstructionPlan, stage: StageResult) -> dict[str, Any]:
    """What the tasks of a stage that ran in this submit did at the store, as counted there, beside the plan's figures.

    The plan's are of all tasks: compare them where none was reused.
    """
    counts = StoreCounts()
    for result in stage.computed:
        counts += StoreCounts(**result.get("store", {}))
    planned = {cost.name: cost for cost in plan.cost.stages}.get(stage.name)
    return {
        "name": stage.name,
        "tasks": len(stage.results),
        "reused": len(stage.reused),
        "executors": len({result.get("executor") for result in stage.computed}),
        "retried": sum(1 for result in stage.computed if result.get("attempt", 0) > 0),
        **dataclasses.asdict(counts),
        **({f"planned_{name}": getattr(planned, name) for name in _PLANNED} if planned is not None else {}),
    }


def over_memory(plan: ReconstructionPlan, stages: list[StageResult]) -> list[dict[str, Any]]:
    """Tasks whose worker took more memory than is planned for any task, with both figures [MiB]."""
    planned = plan.cost.task_bytes
    return [
        {
            "stage": stage.name, "task": task, "planned_mib": round(planned / _MIB, 1),
            "measured_mib": round(result["peak_bytes"] / _MIB, 1),
        }
        for stage in stages
        for task, result in enumerate(stage.results)
        if result["peak_bytes"] > planned
    ]  # fmt: skip


def _versions(software: str) -> dict[str, str]:
    found = {"conepacs": software, "python": platform.python_version(), "system": platform.system()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_report(store: Store, folder: str, report: dict[str, Any]) -> str:
    """Publish ``report.json`` and ``report.html`` in the run's folder; return the path of the first."""
    publish_bytes(store, f"{folder}/report.json", json.dumps(report, indent=1).encode(), kind="replace")
    publish_bytes(store, f"{folder}/report.html", report_page(report).encode(), kind="replace")
    return f"{folder}/report.json"


def report_page(report: dict[str, Any]) -> str:
    """Lay the report out as one page of HTML without scripts or other files."""
    sections = []
    for title, value in report.items():
        if title == "schema_version":
            continue
        sections.append(f"<h2>{html.escape(title.replace('_', ' '))}</h2>{_as_html(value)}")
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        f"<title>{html.escape(str(report['run']))}</title>"
        "<style>body{font:15px/1.45 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2rem .6rem;text-align:left;"
        "vertical-align:top}h2{font-size:1.05rem;margin:1.4rem 0 .3rem;text-transform:capitalize}</style>"
        f"<h1>Reconstruction of {html.escape(str(report['scan_id']))}</h1>{''.join(sections)}</html>"
    )


def _as_html(value: Any) -> str:
    """Nested tables of mappings and lists."""
    if isinstance(value, dict):
        rows = "".join(f"<tr><th>{html.escape(str(k))}</th><td>{_as_html(v)}</td></tr>" for k, v in value.items())
        return f"<table>{rows}</table>" if rows else "none"
    if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        heads = list(value[0])
        head = "".join(f"<th>{html.escape(str(h))}</th>" for h in heads)
        body = "".join("<tr>" + "".join(f"<td>{_as_html(v.get(h))}</td>" for h in heads) + "</tr>" for v in value)
        return f"<table><tr>{head}</tr>{body}</table>"
    if isinstance(value, list):
        return html.escape(", ".join(str(v) for v in value)) or "none"
    return html.escape(str(value))
