# SPDX-License-Identifier: Apache-2.0
"""Refusals of the readers of arrays and plain frames in files: what was got, and what to do instead."""

import io
import struct
import zipfile

import numpy as np
import pytest

from ingest.errors import FrameFormatError, IncompleteScanError, ScanDescriptionError
from ingest.readers import SourceOptions, open_source
from ingest.readers.array_frames import ArrayFrames
from ingest.readers.npy_files import NpyFile, NpzMember
from tests.support.reader_samples_plain import GEOMETRY_TOML, counts, write_toml

BINS = "[[bins]]\nlow_kev = 20\nhigh_kev = 40\n[[bins]]\nlow_kev = 40\n"


def opened(source, source_format=None, **settings):
    return open_source(source, source_format=source_format, options=SourceOptions(settings=settings))


def write_arrays(folder, **arrays):
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


@pytest.mark.parametrize(
    ("shapes", "toml", "said"),
    [
        (
            {"v_0": (5, 4, 6)},
            '[files]\nprojections = "v_{bin}.npy"\n',
            r"'v_\{bin\}\.npy' needs the energy bins: describe each in a \[\[bins\]\] of its own",
        ),
        (
            {"v_0": (5, 4, 6), "v_1": (5, 4, 6), "f_0": (1, 4, 6), "f_1": (1, 4, 6)},
            '[files]\nprojections = "v_{bin}.npy"\nflats = "f_*.npy"\n' + BINS,
            r"gives flat frames for 1 energy bins, but the views have 2: write \{bin\} where the number",
        ),
        (
            {"v_0": (5, 4, 6), "v_1": (5, 4, 6), "f_0": (1, 4, 6), "f_1": (3, 4, 6)},
            '[files]\nprojections = "v_{bin}.npy"\nflats = "f_{bin}.npy"\n' + BINS,
            "energy bins have different numbers of flat frames, 1, 3: give each as many",
        ),
        (
            {"v_0": (5, 4, 6)},
            '[files]\nprojections = "v_0.npy"\nmissing_views = [2]\n',
            r"missing_views is for numbered files, but .*v_0\.npy is one file: leave it out",
        ),
    ],
)
def test_descriptions_that_do_not_fit_the_files_are_refused(tmp_path, shapes, toml, said):
    write_arrays(tmp_path, **{name: counts(*shape) for name, shape in shapes.items()})
    write_toml(tmp_path, toml + GEOMETRY_TOML)
    with pytest.raises(ScanDescriptionError, match=said):
        opened(tmp_path)


def test_an_archive_keeps_its_fields_itself(tmp_path):
    np.savez(tmp_path / "scan.npz", projections=counts(5, 4, 6))
    write_arrays(tmp_path, flats=counts(1, 4, 6))
    write_toml(tmp_path, '[files]\nprojections = "scan.npz"\nflats = "flats.npy"\n' + GEOMETRY_TOML)
    with pytest.raises(ScanDescriptionError, match=r"must be an array in .*scan\.npz itself: save it there as 'flats'"):
        opened(tmp_path)


def test_numbers_of_views_that_do_not_fit_are_refused(tmp_path):
    write_arrays(tmp_path, v_1=counts(4, 6), v_2=counts(4, 6), v_3=counts(4, 6))
    write_toml(tmp_path, "[scan]\nn_views = 2\n" + GEOMETRY_TOML)
    with pytest.raises(FrameFormatError, match="holds 3 files of views, but n_views says 2: correct it, or name flats"):
        opened(tmp_path)
    write_toml(tmp_path, "[files]\nmissing_views = [2]\n" + GEOMETRY_TOML)
    with pytest.raises(IncompleteScanError, match=r"missing_views \[2\]: name only numbers that no file has"):
        opened(tmp_path)


def test_a_source_that_is_none_is_refused_with_what_to_give(tmp_path):
    with pytest.raises(FrameFormatError, match="gone does not exist: give the file or the folder of a scan"):
        opened(tmp_path / "gone")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(
        FrameFormatError, match=r"not recognised as any of .*: name its format \(--format, or format in"
    ):
        opened(tmp_path / "notes.txt")


def test_sums_of_binned_pixels_that_no_stored_type_holds_are_refused(tmp_path):
    np.save(tmp_path / "v.npy", np.full((2, 4, 4), 3_000_000_000, np.uint32))
    write_toml(tmp_path, GEOMETRY_TOML)
    reader = opened(tmp_path / "v.npy", bin_pixels=2)
    with pytest.raises(FrameFormatError, match=r"view 0 reach 12000000000 counts, .* uint32 holds: take smaller bin_p"):
        reader.read_views(0, 1)
    reader.close()
    with pytest.raises(ScanDescriptionError, match="panel of 4 rows x 4 columns holds: take 4 at most"):
        opened(tmp_path / "v.npy", bin_pixels=5)


def test_a_number_that_the_stored_type_does_not_hold_is_refused(tmp_path):
    frames = np.ones((2, 3, 4))
    frames[1, 2, 0] = -1e300
    np.save(tmp_path / "v.npy", frames)
    write_toml(tmp_path, '[scan]\ncontent = "line_integrals"\n' + GEOMETRY_TOML)
    reader = opened(tmp_path / "v.npy")
    with pytest.raises(FrameFormatError, match=r"view 1, .* is -1e\+300, beyond what float32 holds"):
        reader.read_views(0, 2)
    reader.close()


def corrupt(content, at, new):
    return content[:at] + new + content[at + len(new) :]


def test_headers_of_arrays_with_damaged_bytes_are_refused(tmp_path):
    path = tmp_path / "v.npy"
    np.save(path, np.zeros((2, 3, 4), np.uint16))
    whole = path.read_bytes()
    path.write_bytes(corrupt(whole, whole.index(b"}"), b" "))
    with pytest.raises(FrameFormatError, match=r"v\.npy is not a NumPy array"):
        NpyFile(path)
    np.savez_compressed(tmp_path / "v.npz", frames=np.zeros((2, 3, 4), np.uint16))
    packed = (tmp_path / "v.npz").read_bytes()
    start = 30 + sum(struct.unpack("<HH", packed[26:30]))
    (tmp_path / "v.npz").write_bytes(corrupt(packed, start, b"\xff" * 4))
    with pytest.raises(FrameFormatError, match=r"v\.npz: array 'frames' cannot be read: Error -3 while decompressing"):
        NpzMember(tmp_path / "v.npz", "frames")
    flags = packed.index(b"PK\1\2") + 8
    (tmp_path / "v.npz").write_bytes(corrupt(packed, flags, b"\1"))
    with pytest.raises(FrameFormatError, match=r"array 'frames' cannot be read: .* is encrypted"):
        NpzMember(tmp_path / "v.npz", "frames")


def test_compressed_frames_that_end_early_are_refused(tmp_path):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.zeros((2, 3, 4), np.uint16))
    path = tmp_path / "scan.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("frames.npy", stream.getvalue()[:-6])
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\1\2")
    content[entry + 24 : entry + 28] = struct.pack("<I", len(stream.getvalue()))
    path.write_bytes(content)
    member = NpzMember(path, "frames")
    with pytest.raises(FrameFormatError, match="'frames' is truncated in frame 1: 18 bytes, expected 24"):
        member.read(1)
    member.close()


def test_an_array_whose_bytes_cannot_be_had_is_refused(tmp_path):
    class Damaged:
        shape, dtype = (2, 3, 4), np.dtype(np.uint16)

        def __getitem__(self, cut):
            raise OSError("inflate() failed")

    frames = ArrayFrames(tmp_path / "a.h5", Damaged(), ("view", "row", "col"))
    with pytest.raises(FrameFormatError, match=r"a\.h5: frame 1 cannot be read, the file is damaged \(inflate"):
        frames.read(1)
