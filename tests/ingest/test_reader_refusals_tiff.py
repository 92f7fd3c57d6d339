# SPDX-License-Identifier: Apache-2.0
"""Refusals of TIFF pages: what was got, and what to do instead."""

import struct

import numpy as np
import pytest
import tifffile

from ingest.errors import FrameFormatError
from ingest.readers.tiff_pages import TiffPages
from tests.support.reader_samples_plain import counts


def one_directory(path, frames):
    """An ImageJ stack whose directories are left out but the first."""
    tifffile.imwrite(path, frames, imagej=True, byteorder="<")
    content = bytearray(path.read_bytes())
    count = struct.unpack("<H", content[8:10])[0]
    content[10 + 12 * count : 14 + 12 * count] = bytes(4)
    path.write_bytes(content)
    with tifffile.TiffFile(path) as tiff:
        return content, int(tiff.pages.first.dataoffsets[0])


def test_a_stack_with_one_directory_is_read_whole_or_refused(tmp_path):
    frames, path = counts(4, 5, 6), tmp_path / "s.tif"
    content, offset = one_directory(path, frames)
    pages = TiffPages(path)
    np.testing.assert_array_equal([pages.read(index) for index in range(4)], frames)
    pages.close()
    del pages
    path.write_bytes(content[: offset + frames.nbytes - 7])
    said = (
        f"is truncated: the stack of 4 pages lies at bytes {offset} to {offset + 240}, but the file has {offset + 233}"
    )
    with pytest.raises(FrameFormatError, match=said):
        TiffPages(path)
    fields = range(10, 10 + 12 * struct.unpack("<H", content[8:10])[0], 12)
    compression = next(at for at in fields if struct.unpack("<H", content[at : at + 2]) == (259,))
    content[compression + 8 : compression + 10] = struct.pack("<H", 8)
    path.write_bytes(content)
    with pytest.raises(
        FrameFormatError, match="a stack of 4 pages with one directory must be uncompressed: save it so"
    ):
        TiffPages(path)


def other_size(path):
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(counts(4, 6))
        tiff.write(counts(2, 3))


def unreadable_page(path):
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(counts(4, 6), metadata=None)
        tiff.write(counts(4, 6), metadata=None)
    content = bytearray(path.read_bytes())
    count = struct.unpack("<H", content[8:10])[0]
    content[10 + 12 * count : 14 + 12 * count] = struct.pack("<I", len(content))
    path.write_bytes(content + struct.pack("<H", 5000) + bytes(5000 * 12 + 4))


def odd_offsets(path):
    tifffile.imwrite(path, counts(4, 6), bigtiff=True, byteorder="<")
    content = bytearray(path.read_bytes())
    content[4:6] = struct.pack("<H", 4)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda path: tifffile.imwrite(path, counts(4, 6) > 9),
            "page 0 has pixels of bool, expected whole or floating",
        ),
        (lambda path: tifffile.imwrite(path, counts(4, 6).astype(np.complex64)), "page 0 has pixels of complex64"),
        (other_size, r"page 1 is \(2, 3\) uint16, expected \(4, 6\) uint16 as page 0: leave previews"),
        (unreadable_page, "is malformed: it has 2 pages, of which 1 are readable"),
        (odd_offsets, "is not a readable TIFF: invalid BigTIFF offset size"),
    ],
)
def test_pages_that_are_no_views_are_refused(tmp_path, make, said):
    make(tmp_path / "s.tif")
    with pytest.raises(FrameFormatError, match=said):
        TiffPages(tmp_path / "s.tif")
