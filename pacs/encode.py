# SPDX-License-Identifier: Apache-2.0
"""Volume slices to CT Image Storage instances, the same bytes whenever and wherever they are made.

One slice an instance, one series for each bin and product (PS3.3 A.3), Explicit VR Little Endian, native signed 16-bit
pixels.  What all slices of a series share is encoded once by pydicom; a slice adds its own five elements and its
pixels between.  `docs/conformance.md`, section Encoding, says what stands where.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from pacs import provenance
from pacs.decimal_strings import STORED_MAX, STORED_MIN, ds_text
from pacs.errors import EncodingError
from pacs.image_header import CHARACTER_SET, patient_position, static_dataset
from pacs.part10 import InstanceHeader, describe_dataset, file_meta_bytes
from pacs.patient_axes import axes_of, image_position_mm
from pacs.uids import sop_instance_uid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pacs.description import SeriesSpec

_SOP_INSTANCE_UID, _INSTANCE_NUMBER = 0x00080018, 0x00200013
_IMAGE_POSITION, _SLICE_LOCATION = 0x00200032, 0x00201041
_CLIPPED = provenance.PRIVATE_GROUP << 16 | 0x1000 + provenance.CLIPPED_VOXELS
_PIXEL_DATA = 0x7FE00010
#: What differs from slice to slice, in the order of the data set.
_SLICE_TAGS = (_SOP_INSTANCE_UID, _INSTANCE_NUMBER, _IMAGE_POSITION, _SLICE_LOCATION, _CLIPPED)


@dataclass(frozen=True, slots=True)
class EncodedSlice:
    """One instance: its Part 10 bytes, what the index keeps of it, and how many voxels were clipped."""

    part10_bytes: bytes = field(repr=False)
    header: InstanceHeader
    n_clipped: int

    @property
    def sop_instance_uid(self) -> str:
        """SOP Instance UID."""
        return self.header.sop_instance_uid

    @property
    def attributes(self) -> Mapping[str, str]:
        """Query attributes by keyword."""
        return self.header.attributes

    @property
    def pixel_offset(self) -> int:
        """From the start of the Part 10 bytes to the value of Pixel Data."""
        return self.header.pixel_offset

    @property
    def dataset_sha256(self) -> str:
        """Digest of the data set without group 0002."""
        return self.header.dataset_sha256


class SeriesEncoder:
    """Encodes the slices of one series, in any order and on any machine.

    Parameters
    ----------
    spec : SeriesSpec

    Raises
    ------
    EncodingError
        If the description cannot be written as valid DICOM.
    """

    def __init__(self, spec: SeriesSpec) -> None:
        self._spec = spec
        self._axes = axes_of(patient_position(spec))
        static = static_dataset(spec)
        self._segments = _static_segments(static)
        self._header = describe_dataset(
            self._assemble(0, 0, b""), ExplicitVRLittleEndian, name=f"template of scan '{spec.study.scan_id}'"
        )

    @property
    def series_uid(self) -> str:
        """Series Instance UID of all the slices."""
        return self._header.series_uid

    @property
    def study_uid(self) -> str:
        """Study Instance UID of all the slices."""
        return self._header.study_uid

    def encode_slice(self, z_index: int, values: NDArray[np.float32]) -> EncodedSlice:
        """Encode one slice.

        Parameters
        ----------
        z_index : int
            Index of the slice in the whole volume, from 0.
        values : (y, x) float32
            mu [1/mm], or HU for a calibrated series.  Not modified.

        Raises
        ------
        EncodingError
            If the slice lies outside the grid, has another shape, or values that are not finite.
        """
        spec = self._spec
        if not 0 <= z_index < spec.grid.shape[0]:
            raise EncodingError(f"{self._name}: slice {z_index} is not one of the {spec.grid.shape[0]} of the volume")
        if values.shape != spec.grid.shape[1:]:
            raise EncodingError(
                f"{self._name}: slice {z_index} has the shape {values.shape}, expected {spec.grid.shape[1:]} (y, x)"
            )
        stored, n_clipped = self._quantize(z_index, values)
        dataset = self._assemble(z_index, n_clipped, _pixel_bytes(stored))
        uid = sop_instance_uid(spec.key, spec.product, spec.bin_index, z_index)
        meta = file_meta_bytes(CTImageStorage, uid, ExplicitVRLittleEndian)
        attributes = dict(self._header.attributes)
        attributes["SOPInstanceUID"] = uid
        attributes.update(self._slice_texts(z_index))
        header = InstanceHeader(
            sop_instance_uid=uid,
            sop_class_uid=CTImageStorage,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            study_uid=self._header.study_uid,
            series_uid=self._header.series_uid,
            patient_id=self._header.patient_id,
            attributes=attributes,
            pixel_offset=len(meta) + len(dataset) - stored.nbytes - stored.nbytes % 2,
            dataset_sha256=hashlib.sha256(dataset).hexdigest(),
        )
        return EncodedSlice(meta + dataset, header, n_clipped)

    @property
    def _name(self) -> str:
        return f"scan '{self._spec.study.scan_id}', bin {self._spec.bin_index}, {self._spec.product}"

    def _quantize(self, z_index: int, values: NDArray[np.float32]) -> tuple[NDArray[np.int16], int]:
        """Stored values (y, x) int16, and how many had to be clipped."""
        # Divided in double precision: float32 would round stored values above 2^14 to the wrong side now and then.
        stored = np.subtract(values, self._spec.intercept, dtype=np.float64)
        stored /= self._spec.slope
        np.rint(stored, out=stored)
        low, high = float(stored.min()), float(stored.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            n_bad = int(np.count_nonzero(~np.isfinite(values)))
            raise EncodingError(f"{self._name}: slice {z_index} has {n_bad} voxels that are not finite numbers")
        n_clipped = 0
        if low < STORED_MIN or high > STORED_MAX:
            n_clipped = int(np.count_nonzero((stored < STORED_MIN) | (stored > STORED_MAX)))
            np.clip(stored, STORED_MIN, STORED_MAX, out=stored)
        return stored.astype("<i2"), n_clipped

    def _slice_texts(self, z_index: int) -> dict[str, str]:
        """Instance number, position and location of a slice as text."""
        position = image_position_mm(self._axes, self._spec.grid, z_index)
        # Slice Location: along the volume's +z, whatever the patient's position (PS3.3 C.7.6.2.1.2: in mm).
        location = self._spec.grid.origin_mm[2] + z_index * self._spec.grid.voxel_pitch_mm[0]
        return {
            "InstanceNumber": str(z_index + 1),
            "ImagePositionPatient": "\\".join(ds_text(coordinate) for coordinate in position),
            "SliceLocation": ds_text(location),
        }

    def _assemble(self, z_index: int, n_clipped: int, pixel_element: bytes) -> bytes:
        """The data set without group 0002: static segments with the slice's elements between them."""
        texts = self._slice_texts(z_index)
        uid = sop_instance_uid(self._spec.key, self._spec.product, self._spec.bin_index, z_index)
        own = (
            _text_element(_SOP_INSTANCE_UID, b"UI", uid, b"\0"),
            _text_element(_INSTANCE_NUMBER, b"IS", texts["InstanceNumber"], b" "),
            _text_element(_IMAGE_POSITION, b"DS", texts["ImagePositionPatient"], b" "),
            _text_element(_SLICE_LOCATION, b"DS", texts["SliceLocation"], b" "),
            struct.pack("<HH2sHI", _CLIPPED >> 16, _CLIPPED & 0xFFFF, b"UL", 4, n_clipped),
        )
        parts = [self._segments[0]]
        for element, segment in zip(own, self._segments[1:], strict=True):
            parts += (element, segment)
        parts.append(pixel_element)
        return b"".join(parts)


def _static_segments(static: Dataset) -> list[bytes]:
    """The encoded static elements, cut where the slice's own elements stand."""
    segments = []
    lower = 0
    for upper in (*_SLICE_TAGS, _PIXEL_DATA):
        part = Dataset()
        for tag in static.keys():
            if lower < tag < upper:
                part[tag] = static[tag]
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_dataset(buffer, part, parent_encoding=CHARACTER_SET)
        segments.append(buffer.getvalue())
        lower = upper
    return segments


def _text_element(tag: int, vr: bytes, text: str, pad: bytes) -> bytes:
    """One short text element, explicit VR little endian."""
    value = text.encode("ascii")
    value += pad * (len(value) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def _pixel_bytes(stored: NDArray[np.int16]) -> bytes:
    """Pixel Data as an element; 16-bit pixels always have an even length."""
    return struct.pack("<HH2sHI", _PIXEL_DATA >> 16, _PIXEL_DATA & 0xFFFF, b"OW", 0, stored.nbytes) + stored.tobytes()
