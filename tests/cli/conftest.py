# SPDX-License-Identifier: Apache-2.0
"""Every test of the command line works in a folder of its own, with no settings from outside."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from data_samples.make_sample import make_sample

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    for name in os.environ:
        if name.startswith("CONEPACS_"):
            monkeypatch.delenv(name)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def sample_scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sample scan: 24 views of 24 x 32 pixels in two energy bins."""
    return make_sample(tmp_path_factory.mktemp("sample") / "stone", n_views=24, n_rows=24, n_cols=32).folder
