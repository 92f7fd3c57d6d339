# SPDX-License-Identifier: Apache-2.0
"""The wheel of this checkout, and the files that belong into it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.peers import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = (
    "storage", "reconstruction", "local_cluster", "jobs", "ingest", "pacs", "spark_jobs", "viewer_api", "cli",
    "data_samples", "conf",
)  # fmt: skip


def package_files() -> list[str]:
    """All files of all packages as paths from the root of the checkout."""
    return [
        str(file.relative_to(REPOSITORY))
        for package in PACKAGES
        for file in sorted((REPOSITORY / package).rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    ]


def build_wheel(folder: Path) -> Path:
    """Build the wheel into a folder, from a copy: no left-over of an older build can get in, or stay behind."""
    source = folder / "source"
    for name in (*package_files(), "pyproject.toml", "README.md", "LICENSE"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("conepacs-*.whl")
    return wheel
