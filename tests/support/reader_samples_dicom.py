# SPDX-License-Identifier: Apache-2.0
"""Made DICOM projections: DICOM-CT-PD, enhanced XA, and files for a map of one's own."""

from __future__ import annotations

import math

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from tests.support.reader_samples import ReaderSample

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_XA = "1.2.840.10008.5.1.4.1.1.12.1.1"


def dicom_file(path, pixels, *, sop_class=CT, number=1):
    """A file with 16-bit pixels (row, col) or (frame, row, col); more elements are added by the caller, then saved."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality, ds.InstanceNumber = sop_class, generate_uid(), "CT", number
    ds.Rows, ds.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        ds.NumberOfFrames = len(pixels)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PixelData = pixels.astype("<u2").tobytes()
    return ds


def ct_pd_elements(view, *, rows, cols, shape="FLAT", central=None, shift=(0.0, 0.0, 0.0)):
    """Private elements (group, element) -> (VR, value) of one view; angles rise by 0.5 rad."""
    return {
        (0x7029, 0x1002): ("FL", 0.9), (0x7029, 0x1006): ("FL", 1.1), (0x7029, 0x100B): ("CS", shape),
        (0x7029, 0x1010): ("US", rows), (0x7029, 0x1011): ("US", cols), (0x7031, 0x1001): ("FL", 0.5 * view),
        (0x7031, 0x1002): ("FL", 2.0 * view), (0x7031, 0x1003): ("FL", 100.0), (0x7031, 0x1031): ("FL", 160.0),
        (0x7031, 0x1033): ("FL", list(central or ((cols + 1) / 2, (rows + 1) / 2))),
        (0x7033, 0x100B): ("FL", shift[0]), (0x7033, 0x100C): ("FL", shift[1]), (0x7033, 0x100D): ("FL", shift[2]),
    }  # fmt: skip


def add(ds, elements):
    """Add private elements and their owners' names."""
    for group in {group for group, _ in elements}:
        ds.add_new((group, 0x0010), "LO", "DICOM-CT-PD")
    for tag, (vr, value) in elements.items():
        ds.add_new(tag, vr, value)


def counts(*shape, seed=1):
    return np.random.default_rng(seed).integers(0, 60000, shape).astype(np.uint16)


def ct_pd(folder):
    """DICOM-CT-PD with a flat panel, stored by columns, rescaled; names sort against the numbers."""
    stored = counts(5, 6, 4)
    for view, pixels in enumerate(stored):
        path = folder / f"view{9 - view}.dcm"
        ds = dicom_file(path, pixels, number=view + 1)
        ds.RescaleSlope, ds.RescaleIntercept = 0.5, -3.0
        add(ds, ct_pd_elements(view, rows=4, cols=6))
        ds.save_as(path)
    frames = (stored * 0.5 - 3).astype(np.float32).transpose(0, 2, 1)[None, :, ::-1, ::-1]
    return ReaderSample(folder, "dicom", frames, truncate=folder / "view7.dcm")


def enhanced_xa(folder):
    """Enhanced XA: all frames in one file, angles per frame, distances shared."""
    stored = counts(5, 4, 6)
    path = folder / "run.dcm"
    ds = dicom_file(path, stored, sop_class=ENHANCED_XA)
    per_frame = []
    for view in range(5):
        item, isocenter = Dataset(), Dataset()
        isocenter.PositionerIsocenterPrimaryAngle, isocenter.PositionerIsocenterSecondaryAngle = -10.0 + 30 * view, 0.0
        item.IsocenterReferenceSystemSequence = Sequence([isocenter])
        per_frame.append(item)
    shared, geometry, pixels = Dataset(), Dataset(), Dataset()
    geometry.DistanceSourceToIsocenter, geometry.DistanceSourceToDetector = 750.0, 1200.0
    pixels.ImagerPixelSpacing = [0.3, 0.2]
    shared.XRayGeometrySequence = Sequence([geometry])
    shared.FramePixelDataPropertiesSequence = Sequence([pixels])
    ds.PerFrameFunctionalGroupsSequence = Sequence(per_frame)
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    ds.save_as(path)
    return ReaderSample(path, "dicom", stored[None, :, ::-1, ::-1], truncate=path)


OWN_MAP = """
[map]
name = "own"
model = "circular"
rows = "top-down"

[tags]
order = "0020,0013"
bin = "0018,0060"
low_kev = "0018,0060"
angle_deg = { tag = "0018,1530", scale = -1.0, offset = 20.0 }
sod_mm = "0018,1111"
sdd_mm = "0018,1110"
pitch_u_mm = { tag = "0018,1164", index = 1 }
pitch_v_mm = { tag = "0018,1164", index = 0 }
center_row = { value = 1.25 }
"""


def own_map(folder):
    """One file a view and bin, by a map that the settings name."""
    stored = counts(2, 5, 4, 6)
    (folder / "own.toml").write_text(OWN_MAP)
    (folder / "scan.toml").write_text('[settings]\nmap = "own.toml"\n')
    for kev in (30, 20):
        for view in range(5):
            path = folder / f"p{kev}_{view}"
            ds = dicom_file(path, stored[int(kev == 30), view], number=view + 1)
            ds.KVP, ds.DetectorPrimaryAngle = kev, 10.0 * view
            ds.DistanceSourceToPatient, ds.DistanceSourceToDetector = 100.0, 160.0
            ds.ImagerPixelSpacing = [1.1, 0.9]
            ds.save_as(path)
    return ReaderSample(folder, "dicom", stored[:, :, ::-1], truncate=folder / "p30_2")


SAMPLES = {"dicom_ct_pd": ct_pd, "dicom_xa": enhanced_xa, "dicom_own_map": own_map}


def beta_rad(phi_rad):
    """Our view angle of a DICOM-CT-PD one."""
    return phi_rad + math.pi / 2
