# SPDX-License-Identifier: Apache-2.0
"""The manual builds without a warning, fetches nothing when read, and its equations are those of the code."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reconstruction.geometry import ConeBeamGeometry

REPOSITORY = Path(__file__).resolve().parents[1]
REMOTE_RESOURCE = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>""")
LINK = re.compile(r"\]\(([^)#\s]+)")


def test_manual_builds_strictly_and_reads_offline(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = sorted(tmp_path.rglob("*.html"))
    assert len(pages) >= 5
    for page in pages:
        assert not REMOTE_RESOURCE.findall(page.read_text(encoding="utf-8")), page.name


def test_every_page_is_in_the_contents() -> None:
    contents = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [page.name for page in (REPOSITORY / "docs").glob("*.md")]
    assert [page for page in pages if f": {page}" not in contents] == []


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_links_of_the_top_pages_lead_somewhere(name: str) -> None:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    targets = [target for target in LINK.findall(text) if "://" not in target]
    assert [target for target in targets if not (REPOSITORY / target).exists()] == []


@pytest.mark.parametrize("beta_deg", [0.0, 35.0, 90.0, 200.0, -70.0])
def test_geometry_equations_are_those_of_the_poses(beta_deg: float) -> None:
    beta, sod, sdd, pitch_u, pitch_v, n_cols, n_rows = math.radians(beta_deg), 100.0, 160.0, 0.5, 0.4, 33, 21
    offset_u, offset_v = 1.3, -0.7
    geometry = ConeBeamGeometry.circular(
        sod_mm=sod, sdd_mm=sdd, angles_rad=[beta], n_rows=n_rows, n_cols=n_cols, pitch_u_mm=pitch_u,
        pitch_v_mm=pitch_v, offset_u_mm=offset_u, offset_v_mm=offset_v,
    )  # fmt: skip
    source, centre, u_step, v_step = geometry.poses[0].reshape(4, 3)
    x, y, z = point = np.array([3.0, -5.0, 2.0])

    # The circular orbit, as docs/geometry.md writes it.
    depth = sod - (x * math.cos(beta) + y * math.sin(beta))
    col = (n_cols - 1) / 2 - offset_u / pitch_u + sdd * (-x * math.sin(beta) + y * math.cos(beta)) / depth / pitch_u
    row = (n_rows - 1) / 2 - offset_v / pitch_v + sdd * z / depth / pitch_v

    # Any pose: the ray through the point meets the panel.
    normal = np.cross(u_step, v_step)
    hit = source + (point - source) * (normal @ (centre - source)) / (normal @ (point - source)) - centre
    assert (n_cols - 1) / 2 + hit @ u_step / (u_step @ u_step) == pytest.approx(col, abs=1e-9)
    assert (n_rows - 1) / 2 + hit @ v_step / (v_step @ v_step) == pytest.approx(row, abs=1e-9)


@pytest.mark.parametrize("beta_deg", [0.0, 35.0, 200.0])
def test_mappings_to_other_programs(beta_deg: float) -> None:
    beta = math.radians(beta_deg)
    geometry = ConeBeamGeometry.circular(
        sod_mm=100, sdd_mm=160, angles_rad=[beta], n_rows=2, n_cols=2, pitch_u_mm=1, pitch_v_mm=1
    )
    source, _, u_step, _ = geometry.poses[0].reshape(4, 3)
    rtk_source = [100 * math.sin(beta), 0, 100 * math.cos(beta)]
    np.testing.assert_allclose(source[[1, 2, 0]], rtk_source, atol=1e-12)
    theta = beta + math.pi / 2
    np.testing.assert_allclose(source, [100 * math.sin(theta), -100 * math.cos(theta), 0], atol=1e-12)
    np.testing.assert_allclose(u_step, [math.cos(theta), math.sin(theta), 0], atol=1e-12)
