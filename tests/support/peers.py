# SPDX-License-Identifier: Apache-2.0
"""Peers and real data that tests need: skip with a reason on a desk, fail in CI."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def in_ci() -> bool:
    """Whether a missing peer is a failure."""
    return os.environ.get("CI", "").lower() == "true"


def require_peer(name: str, available: bool, reason: str) -> None:
    """Go on if the peer is there; otherwise skip on a desk, fail in CI."""
    if available:
        return
    message = f"{name} is missing: {reason}"
    if in_ci():
        pytest.fail(message)
    pytest.skip(message)


def require_program(program: str, package: str) -> str:
    """Path of a program, or skip/fail naming the package that brings it."""
    path = shutil.which(program)
    require_peer(program, path is not None, f"install {package}")
    assert path is not None
    return path


def real_data_path(name: str) -> Path:
    """Folder of one set of real data (``shared/data`` beside the checkout, or CONEPACS_REAL_DATA)."""
    root = _real_data_root()
    require_peer(f"real data '{name}'", (root / name).is_dir(), f"no folder {name} in shared/data beside the checkout")
    return root / name


def further_data_path(name: str, origin: str) -> Path:
    """Folder of real data that no set-up brings: skip, in CI too, and say where the files can be had."""
    root = _real_data_root()
    if not (root / name).is_dir():
        pytest.skip(f"no folder {name} in {root.name} (CONEPACS_REAL_DATA names another root); its files: {origin}")
    return root / name


def _real_data_root() -> Path:
    """Where the folders of real data lie."""
    return Path(os.environ.get("CONEPACS_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
