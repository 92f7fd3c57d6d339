# SPDX-License-Identifier: Apache-2.0
"""The conformance statement says what the code does."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from pacs import provenance
from pacs.description import EnergyBinLabel
from pacs.image_header import PLAIN_RAMP, series_description, static_dataset
from pacs.patient_axes import AXES
from tests.support.series import series_spec

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")
DIRECTIONS = {
    "left": (1, 0, 0), "right": (-1, 0, 0), "posterior": (0, 1, 0), "anterior": (0, -1, 0), "head": (0, 0, 1),
    "feet": (0, 0, -1),
}  # fmt: skip


def test_the_table_of_axes_is_the_codes():
    rows = re.findall(r"^\| ([HF]F\w+)[^|]*\| (\w+) \| (\w+) \| (\w+) \|$", PAGE, re.MULTILINE)
    assert {name for name, *_ in rows} == set(AXES) - {""}
    for name, x, y, z in rows:
        assert (AXES[name].x, AXES[name].y, AXES[name].z) == (DIRECTIONS[x], DIRECTIONS[y], DIRECTIONS[z])


def test_the_private_block_is_listed_whole():
    listed = {int(offset, 16): vr for offset, vr in re.findall(r"\(0021,xx([0-9A-F]{2})\) \| (\w\w)", PAGE)}
    ds = static_dataset(series_spec())
    written = {
        element.tag.element & 0xFF: element.VR for element in ds.group_dataset(0x0021) if element.tag.element > 0xFF
    }
    written[provenance.CLIPPED_VOXELS] = "UL"
    assert written == listed
    assert f"`{provenance.PRIVATE_CREATOR}`" in PAGE


def test_the_example_of_a_description_is_the_codes():
    edges = (20.0, 30.0, 45.0, 60.0, 75.0, 90.0)
    bins = tuple(EnergyBinLabel(i, "difference", *pair) for i, pair in enumerate(pairwise(edges)))
    assert f"`{series_description(series_spec(bins=bins, bin_index=1, convolution_kernel=PLAIN_RAMP))}`" in PAGE
