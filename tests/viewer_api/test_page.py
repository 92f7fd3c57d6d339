# SPDX-License-Identifier: Apache-2.0
"""The page in a real Chromium: it lists, opens and draws a series, unmirrored."""

from __future__ import annotations

import html
import re
import subprocess
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from pacs.index import Query
from reconstruction.geometry import VolumeGrid
from tests.support.http_archive import HttpArchive, http_archive, served
from tests.support.peers import require_program
from tests.support.series import SPECIMEN, series_spec
from tests.support.webdriver import browser

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.chromium

SIZE = (1000, 700)
#: A name that would run as a script if it were ever put into the page as markup.
HOSTILE = "<img src=x onerror=document.title='owned'>"
GRID = VolumeGrid((5, 60, 80), (0.5, 0.2, 0.2), (0.0, 0.0, 10.0))


def marker_volume() -> np.ndarray:
    """A disc with one bright block at +x, -y, in the upper slices only."""
    z, y, x = np.indices(GRID.shape, dtype=np.float32)
    volume = np.where((x - 39.5) ** 2 + (y - 29.5) ** 2 < 26.0**2, 0.03, 0.0).astype(np.float32)
    volume[(z >= 3) & (abs(x - 52) < 5) & (abs(y - 18) < 5)] = 0.058
    return volume


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpArchive]:
    with http_archive(tmp_path_factory.mktemp("page")) as archive:
        study = replace(SPECIMEN, study_description=HOSTILE)
        for bin_index in (0, 1):
            spec = series_spec(study=study, grid=GRID, bin_index=bin_index, window=(0.03, 0.06))
            archive.add_series(spec, marker_volume(), "marker")
        yield archive


@pytest.fixture(scope="module")
def url(archive: HttpArchive) -> Iterator[str]:
    with served(archive.app()) as url:
        yield url


@pytest.fixture(scope="module")
def series_hash(archive: HttpArchive) -> str:
    series = archive.index.find(Query("SERIES"), limit=1)[0]
    return f"#/studies/{series['StudyInstanceUID']}/series/{series['SeriesInstanceUID']}"


def visit(address: str, folder: Path, *, size: tuple[int, int] = SIZE) -> tuple[str, np.ndarray]:
    """The page's DOM and a screenshot (row, col, 3), after its requests are done."""
    shot = folder / "shot.png"
    command = [
        require_program("chromium", "chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-dev-shm-usage", "--hide-scrollbars", "--force-device-scale-factor=1", "--lang=en",
        f"--user-data-dir={folder / 'profile'}", f"--window-size={size[0]},{size[1]}", "--virtual-time-budget=15000",
        f"--screenshot={shot}", "--dump-dom", address,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert shot.exists(), done.stderr.decode()[-2000:]
    pixels = np.asarray(Image.open(BytesIO(shot.read_bytes())).convert("RGB"))
    return done.stdout.decode(), pixels


def attribute(dom: str, name: str) -> str:
    """An attribute of the stage."""
    tag = re.search(r'<div id="stage"[^>]*>', dom)
    assert tag, dom[:2000]
    found = re.search(rf'{name}="([^"]*)"', tag[0])
    return html.unescape(found[1]) if found else ""


def test_the_page_lists_studies_and_shows_hostile_text_as_text(url, tmp_path):
    dom, _ = visit(url + "/", tmp_path)
    body = re.search(r'<tbody id="studies">(.*?)</tbody>', dom, re.S)
    assert body
    assert "stone-07" in body[1]
    assert body[1].count("<tr") == 1
    assert "&lt;img src=x" in body[1]
    assert "owned" not in re.search(r"<title>(.*?)</title>", dom)[1]


def test_a_series_is_drawn_unmirrored(url, series_hash, tmp_path):
    dom, pixels = visit(f"{url}/{series_hash}/slice/4", tmp_path)
    letters = [attribute(dom, f"data-{edge}") for edge in ("left", "right", "top", "bottom")]
    # Columns run to the patient's left, rows to posterior (PS3.3 C.7.6.2.1.1).
    assert letters == ["R", "L", "A", "P"]
    assert attribute(dom, "data-slice") == "4"
    assert float(attribute(dom, "data-position-mm")) == pytest.approx(10.5)
    assert "Bin 1/3: 25-45.5 keV" in dom
    # The stage fills the window left of the panel; grey pixels of the disc and white ones of the marker.
    stage = pixels[60:, : SIZE[0] - 288].astype(int)
    is_grey = (np.ptp(stage, axis=-1) < 3) & (abs(stage[..., 0] - 128) < 12)
    is_white = stage.min(axis=-1) > 235
    rows, cols = np.nonzero(is_grey)
    center = np.array([np.median(rows), np.median(cols)])
    block = np.argwhere(is_white)
    assert len(block) > 2000
    radius = (np.percentile(cols, 99.9) - np.percentile(cols, 0.1)) / 2
    offset = (np.median(block, axis=0) - center) / radius
    # 12.5 voxels to +x (right) and 11.5 to -y (up), of a disc of 26.
    assert offset[1] == pytest.approx(12.5 / 26, abs=0.06)
    assert offset[0] == pytest.approx(-11.5 / 26, abs=0.06)


def test_a_study_shows_its_series_with_thumbnails(url, series_hash, tmp_path):
    dom, pixels = visit(f"{url}/{series_hash.partition('/series/')[0]}", tmp_path)
    cards = re.search(r'<ul id="series"[^>]*>(.*?)</ul>', dom, re.S)
    assert cards
    assert cards[1].count('class="card"') == 2
    assert "Bin 2/3: 45.5-70 keV" in cards[1]
    assert "5 images" in cards[1]
    assert (pixels.min(axis=-1) > 220).sum() > 500


def test_lower_slices_lack_the_marker_and_small_screens_work(url, series_hash, tmp_path):
    dom, pixels = visit(f"{url}/{series_hash}/slice/1", tmp_path, size=(500, 800))
    assert attribute(dom, "data-slice") == "1"
    upper_half = pixels[100:560].astype(int)
    assert (upper_half.min(axis=-1) > 235).sum() < 300
    assert ((np.ptp(upper_half, axis=-1) < 3) & (abs(upper_half[..., 0] - 128) < 12)).sum() > 2000


def test_hands_on_the_page(url, series_hash, tmp_path):
    """From the list to a slice by clicks, then wheel, keys and a drag; nothing on the console."""
    with browser(tmp_path) as page:
        page.open(url)
        page.wait("return document.querySelectorAll('#studies tr').length", 1)
        page.click("#search input[name=PatientID]")
        page.keys(*"nobody", "\ue007")
        page.wait("return document.getElementById('studies-note').textContent", "No study matches.")
        page.keys(*"\ue003" * 6, *"stone", "\ue007")
        page.wait("return document.querySelectorAll('#studies tr').length", 1)
        page.click("#studies a")
        page.wait("return document.querySelectorAll('#series .card').length", 2)
        page.click("#series .card")
        slice_number = "return document.getElementById('stage').dataset.slice"
        page.wait(slice_number, "3")
        page.wheel(300, 300, 120)
        page.wait(slice_number, "4")
        page.keys("\ue015", "\ue015")
        page.wait(slice_number, "5")
        page.keys("\ue011")
        page.wait(slice_number, "1")
        page.drag(300, 300, 100, -50)
        page.wait("return document.getElementById('picture').src.includes('window=0.02')", True)
        width = float(page.run("return document.getElementById('window-width').value"))
        assert width == pytest.approx(0.06 * np.exp(100 / 250), rel=0.05)
        page.click("#window-reset")
        page.wait("return document.getElementById('picture').src.includes('window=')", False)
        assert page.console() == []
