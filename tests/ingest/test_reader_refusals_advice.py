# SPDX-License-Identifier: Apache-2.0
"""What a refusal of a reader advises is done here, and the scan is read."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.errors import FrameFormatError, IncompleteScanError, ScanDescriptionError
from ingest.readers import SourceOptions, open_source
from reconstruction.exchange.files import geometry_bytes
from tests.support.imager_maker import obi_bytes, xim_bytes
from tests.support.ole_maker import write_txrm
from tests.support.reader_samples_dicom import OWN_MAP, own_map
from tests.support.reader_samples_exchange import rtk_counts, small_geometry
from tests.support.reader_samples_imagers import counts, skyscan, varian_hnc, varian_xim
from tests.support.reader_samples_plain import nikon


def views_of(source, source_format, **settings):
    """How many views of a source can be read."""
    reader = open_source(source, source_format=source_format, options=SourceOptions(settings=settings))
    try:
        return reader.read_views(0, reader.scan.n_views).shape[1]
    finally:
        reader.close()


def says(folder, text):
    (folder / "scan.toml").write_text(text)


def an_empty_file_between(folder):
    path = varian_xim(folder).truncate.with_name("Proj_00002.xim")
    path.write_bytes(xim_bytes(None))
    return folder, lambda: says(folder, "[files]\nmissing_views = [2]\n"), {}


def files_of_two_kinds(folder):
    place = varian_xim(folder).truncate.parent
    (place / "Proj_00009.hnc").write_bytes(obi_bytes(counts(6, 8), angle_deg=0.0, compressed=False))
    return place, lambda: says(place, '[files]\nprojections = "Proj*.xim"\n'), {}


def a_centre_without_poses(folder):
    varian_hnc(folder)
    (folder / "ProjectionInfo.xml").unlink()
    says(folder, "[geometry]\ncenter_col = 3\n")
    whole = 'kind = "circular"\nsod_mm = 1000\nsdd_mm = 1500\npitch_mm = 0.388\narc_deg = 360\ncenter_col = 3\n'
    return folder, lambda: says(folder, f"[geometry]\n{whole}"), {}


def many_pictures_for_one_view(folder):
    nikon(folder)
    return folder, lambda: says(folder, '[files]\nprojections = "bar_0002.tif"\n'), {"repeat_views": 4}


def pictures_of_another_name(folder):
    skyscan(folder, **{"Filename Prefix": "other"})
    return folder, lambda: says(folder, '[files]\nprojections = "stone~00????????.tif"\n'), {}


def a_scan_of_a_zeiss_broken_off(folder):
    source = write_txrm(folder / "a.txrm", counts(3, 40, 60), np.zeros(3), ImageInfo__NoOfImages=9)
    return source, lambda: says(folder, "[scan]\nn_views = 3\n"), {}


def two_geometry_files(folder):
    source = rtk_counts(folder).source
    text = (source / "scan.toml").read_text()
    (source / "b.xml").write_bytes(geometry_bytes(small_geometry(), "rtk"))
    says(source, "\n".join(line for line in text.splitlines() if not line.startswith("geometry")))
    return source, {"geometry": "b.xml"}, {}


def two_stacks(folder):
    place = folder / "set"
    place.mkdir()
    (place / "g.xml").write_bytes(geometry_bytes(small_geometry(), "rtk"))
    for name in ("a.npy", "b.npy"):
        np.save(place / name, np.ones((5, 4, 6), np.float32))
    pitches = {"pitch_u_mm": 0.9, "pitch_v_mm": 1.1}
    return place, lambda: says(place, '[files]\nprojections = "a.npy"\n'), pitches


def an_element_that_is_not_there(folder):
    own_map(folder)
    path = folder / "own.toml"
    path.write_text(OWN_MAP.replace('sod_mm = "0018,1111"', 'sod_mm = "0018,9402"'))
    return folder, lambda: path.write_text(OWN_MAP.replace('sod_mm = "0018,1111"', "sod_mm = { value = 90 }")), {}


CASES = {
    "varian": (an_empty_file_between, FrameFormatError, r"give its number in \[files\] missing_views", 3),
    "varian, kinds": (files_of_two_kinds, FrameFormatError, r"of several kinds: name one in \[files\] projections", 4),
    "varian, centre": (
        a_centre_without_poses,
        ScanDescriptionError,
        "no kind, .*: give it a kind and all that this",
        3,
    ),
    "nikon": (many_pictures_for_one_view, ScanDescriptionError, r"got 5 in .*: name one in \[files\] projections", 4),
    "skyscan": (pictures_of_another_name, IncompleteScanError, r"name the pictures in \[files\] projections of a", 6),
    "zeiss": (a_scan_of_a_zeiss_broken_off, IncompleteScanError, r"\[scan\] n_views = 3 takes those", 3),
    "exchange": (two_geometry_files, FrameFormatError, r"b\.xml, .*: name it by --set geometry=FILE", 5),
    "exchange, stacks": (
        two_stacks,
        FrameFormatError,
        r"got a\.npy, b\.npy: name it in \[files\] projections of a s",
        5,
    ),
    "dicom": (
        an_element_that_is_not_there,
        FrameFormatError,
        r"lacks sod_mm, .*: name another, or a value, in a map",
        5,
    ),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_advice_of_a_refusal_is_right(name, tmp_path):
    make, error, said, n_views = CASES[name]
    source_format = name.partition(",")[0]
    source, advice, settings = make(tmp_path)
    with pytest.raises(error, match=said) as caught:
        views_of(source, source_format, **settings)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    if callable(advice):
        advice()
    else:
        settings = settings | advice
    assert views_of(source, source_format, **settings) == n_views
