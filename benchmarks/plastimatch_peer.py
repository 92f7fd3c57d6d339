# SPDX-License-Identifier: Apache-2.0
"""plastimatch (Debian package ``plastimatch``) as a second peer: its FDK on files of ours, in our frame.

Each view is a PFM image and a text file with its projection matrix.  Axes are ours; a matrix's columns and rows count
from the file's image centre, and its last line is the depth over the distance of source and detector.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reconstruction.projection import projection_matrices

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconstruction.geometry import ConeBeamGeometry, VolumeGrid

#: What to do where it is missing.
MISSING = (
    "the program 'plastimatch' is missing: install the package plastimatch (Debian, Ubuntu), or pass --no-plastimatch"
)


def available() -> bool:
    """Whether the program is here."""
    return shutil.which("plastimatch") is not None


def write_views(folder: Path, projections: NDArray[Any], geometry: ConeBeamGeometry) -> None:
    """Write views (view, row, col) and their matrices as plastimatch reads them; circular orbits."""
    orbit = geometry.circular_orbit
    assert orbit is not None
    for index, (matrix, pose) in enumerate(zip(projection_matrices(geometry), geometry.poses, strict=True)):
        header = f"Pf\n{geometry.n_cols} {geometry.n_rows}\n-1\n".encode()
        rows = np.ascontiguousarray(projections[index], dtype="<f4")
        (folder / f"view_{index:04d}.pfm").write_bytes(header + rows.tobytes())
        center = np.array([orbit.center_col, orbit.center_row])
        lines = np.vstack([matrix[:2] - center[:, None] * matrix[2], matrix[2]]) / orbit.sdd_mm
        normal = matrix[2, :3]
        across, up = pose[6:9] / orbit.pitch_u_mm, pose[9:12] / orbit.pitch_v_mm
        extrinsic = np.eye(4)
        extrinsic[:3, :3], extrinsic[2, 3] = (across, up, normal), orbit.sod_mm
        intrinsic = np.zeros((3, 4))
        intrinsic[[0, 1, 2], [0, 1, 2]] = 1 / orbit.pitch_u_mm, 1 / orbit.pitch_v_mm, 1 / orbit.sdd_mm
        parts = [
            _numbers(center[None]), _numbers(lines), f"{orbit.sod_mm:18.8e}", f"{orbit.sdd_mm:18.8e}",
            _numbers(normal[None]), "Extrinsic", _numbers(extrinsic), "Intrinsic", _numbers(intrinsic),
        ]  # fmt: skip
        (folder / f"view_{index:04d}.txt").write_text("\n".join(parts) + "\n")


def _numbers(rows: NDArray[Any]) -> str:
    """Lines of numbers in columns."""
    return "\n".join("".join(f"{value:18.8e}" for value in row) for row in rows)


class PlastimatchViews:
    """Views written once, to be reconstructed many times; remove them with `close`."""

    def __init__(self, projections: NDArray[Any], geometry: ConeBeamGeometry) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name)
        (self._path / "views").mkdir()
        write_views(self._path / "views", projections, geometry)

    def fdk(self, grid: VolumeGrid, *, threads: int) -> tuple[NDArray[Any], float, float]:
        """Return its volume (z, y, x), and the wall and CPU seconds of its FDK.

        The wall seconds are its own figures for filter and back-projection, without reading and writing; CPU seconds
        are the whole process's.
        """
        out = self._path / "volume.mha"
        sizes = " ".join(str(n) for n in grid.shape[::-1])
        lengths = " ".join(f"{n * p:.6f}" for n, p in zip(grid.shape[::-1], grid.voxel_pitch_mm[::-1], strict=True))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            ["plastimatch", "fdk", "-A", "cpu", "-f", "ramp", "-I", str(self._path / "views"), "-r", sizes,
             "-z", lengths, "-O", str(out)],
            check=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = re.findall(r"^(?:Filter|Backprojection) time = ([0-9.e+-]+)$", done.stdout, flags=re.MULTILINE)
        if len(found) != 2:
            raise ValueError(
                f"plastimatch said neither its filter's nor its back-projection's time: {done.stdout[-500:]}"
            )
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        n_bytes = 4 * grid.n_voxels
        volume = np.frombuffer(out.read_bytes()[-n_bytes:], dtype="<f4").reshape(grid.shape)
        return volume, sum(float(value) for value in found), cpu

    def close(self) -> None:
        """Remove the files."""
        self._folder.cleanup()
