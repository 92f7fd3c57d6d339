# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from ingest.errors import ScanDescriptionError
from ingest.scan import EnergyBin, Exposure, FieldFrames, Order, ParallelBeam, Subject, check_scan_id
from tests.support.scans import make_geometry, make_scan


def test_a_plain_scan_is_valid():
    scan = make_scan(geometry=make_geometry())
    assert scan.n_bins == 1
    assert scan.geometry is not None


@pytest.mark.parametrize("scan_id", ["a", "Scan_1.b-2", "x" * 64, "-"])
def test_scan_ids_that_can_name_a_folder(scan_id):
    assert check_scan_id(scan_id) == scan_id


@pytest.mark.parametrize("scan_id", ["", ".", "..", ".hidden", "a/b", "a b", "é", "x" * 65, "a\n"])
def test_scan_ids_that_cannot(scan_id):
    with pytest.raises(ScanDescriptionError, match="scan id"):
        check_scan_id(scan_id)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"scan_id": "a/b"}, "a scan id has"),
        ({"n_views": 0}, "n_views must be at least 1"),
        ({"n_rows": -1}, "n_rows must be at least 1"),
        ({"n_cols": 0}, "n_cols must be at least 1"),
        ({"bins": ()}, "energy bins must be numbered"),
        ({"bins": (EnergyBin(1),)}, "energy bins must be numbered"),
        ({"bins": (EnergyBin(0), EnergyBin(0))}, "energy bins must be numbered"),
        ({"content": "photons"}, "content must be one of"),
        ({"pixel_type": "int16"}, "pixel_type must be one of"),
        ({"content": "line_integrals"}, "need the pixel type float32, got uint16"),
        ({"content": "normalized"}, "need a white_level"),
        ({"content": "normalized", "white_level": 0.0}, "white_level must be a positive number"),
        ({"content": "normalized", "white_level": float("nan")}, "white_level must be a positive number"),
        ({"white_level": 60000.0}, "is for normalized frames, but these are counts"),
        ({"geometry": make_geometry(5)}, "5 poses for 6 views"),
        ({"geometry": make_geometry(n_cols=9)}, "4 rows x 9 columns, but the frames have 4 x 8"),
        ({"parallel": ParallelBeam((0.0,))}, "1 angles for 6 views"),
        ({"geometry": make_geometry(), "parallel": ParallelBeam((0.0,) * 6)}, "not both"),
        ({"acquired": "yesterday"}, "ISO 8601"),
    ],
)
def test_contradictions_are_refused_in_one_sentence(changes, sentence):
    with pytest.raises(ScanDescriptionError, match=sentence) as error:
        make_scan(**changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: EnergyBin(0, "window"), "kind"),
        (lambda: EnergyBin(-1), "must not be negative"),
        (lambda: EnergyBin(0, "difference", 20.0), "needs low_kev and high_kev"),
        (lambda: EnergyBin(0, "difference", 30.0, 20.0), "end above"),
        (lambda: EnergyBin(0, "counter", 20.0, 30.0), "open above"),
        (lambda: EnergyBin(0, "counter", float("inf")), "positive number"),
        (lambda: ParallelBeam((float("nan"),)), "finite"),
        (lambda: ParallelBeam((0.0,), pitch_u_mm=0.0), "pitch_u_mm"),
        (lambda: Exposure(kvp=-1.0), "kvp"),
        (lambda: Subject(birth_date="31.12.1999"), "YYYY-MM-DD"),
        (lambda: Subject(kind="ghost"), "kind"),
        (lambda: Order(study_uid="1.2.x"), "DICOM UID"),
        (lambda: Order(study_uid="1.02"), "DICOM UID"),
        (lambda: FieldFrames(0), "count of at least 1"),
        (lambda: FieldFrames(2, (0.0,)), "1 times for 2"),
        (lambda: FieldFrames(1, camera_position=-1), "camera position"),
    ],
)
def test_parts_check_themselves(make, sentence):
    with pytest.raises(ScanDescriptionError, match=sentence):
        make()


def test_a_birth_date_stays_out_of_the_message():
    with pytest.raises(ScanDescriptionError) as error:
        Subject(birth_date="1999-13-31")
    assert "1999" not in str(error.value)


def test_labels_of_energy_bins():
    assert EnergyBin(0).label == "all energies"
    assert EnergyBin(0, "counter", 30.0).label == ">30 keV"
    assert EnergyBin(0, "difference", 30.0, 45.5).label == "30-45.5 keV"


def test_a_scan_is_a_value():
    assert make_scan(geometry=make_geometry()) == make_scan(geometry=make_geometry())
    assert make_scan(geometry=make_geometry()) != make_scan(geometry=make_geometry(angles_rad=np.arange(6.0)))
